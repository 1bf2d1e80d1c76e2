//! Voice of real client libraries through the proxy. Each library's bot joins a voice channel and reports that it is
//! connected, keeps the connection over a restart of the proxy and of the connection to Discord, is moved, is killed,
//! and gets its voice back in the same channel. The voice server is the simulator's, which refuses what Discord
//! refuses.
//!
//! `CLIENTS` chooses the libraries as in `real_clients`. `CLIENTS_DIRECT=1` leaves the proxy out, and the
//! steps that need it.

use std::{env, net::TcpListener, path::Path};

use serde_json::{Value, json};
use support::{Bot, Proxy, Settings, Simulator, chosen, free_port, scratch, wait_until};

#[test]
fn discord_js() {
    exercise("discord.js");
}

#[test]
fn discord_py() {
    exercise("discord.py");
}

/// The library resumes with Discord's session id, at another URL than the one that READY names.
#[test]
fn py_cord() {
    exercise("py-cord");
}

/// Voice is songbird's. The library resumes with Discord's session id, at another URL than the one that READY names.
#[test]
fn serenity() {
    exercise("serenity");
}

/// eris sends the session id of READY to the voice server.
#[test]
fn eris() {
    exercise("eris");
}

/// A guild and two of its voice channels.
fn place(simulator: &Simulator) -> (String, [String; 2]) {
    let found = simulator.guilds(0).into_keys().find_map(|guild| {
        let truth = simulator.guild(&guild);
        let channels = truth["channels"].as_array()?.iter().filter(|channel| channel["type"] == 2);
        let mut ids = channels.map(|channel| channel["id"].as_str().expect("an id").to_owned());
        Some((guild, [ids.next()?, ids.next()?]))
    });
    found.expect("a guild with two voice channels")
}

/// Waits until a library has completed its voice connection. Returns the guild's grant in `/sim/stats`.
fn connected(simulator: &Simulator, guild: &str) -> Value {
    wait_until("the voice server to have a connection", || {
        let stats = simulator.stats();
        let guilds = stats["voice"]["guilds"].as_array().expect("a list");
        let grant = guilds.iter().find(|grant| grant["guild"] == *guild && grant["connected"] == true);
        grant.cloned().ok_or_else(|| stats["voice"].to_string())
    })
}

/// Starts a bot, and waits until it knows `guilds` guilds.
fn start(library: &str, directory: &Path, name: &str, gateway: &str, api: &str, ca: &Path, guilds: usize) -> Bot {
    let settings = Settings { gateway, api, ca: Some(ca), ..Settings::default() };
    let mut bot = Bot::start(directory, name, library, 1, &settings);
    bot.wait("the bot to be ready", |bot| {
        let known = bot.shard(0).guilds.len();
        if !bot.shard(0).ready.is_empty() && known >= guilds {
            Ok(())
        } else {
            Err(format!("{known} of {guilds} guilds"))
        }
    });
    bot
}

/// Runs all steps with one library.
fn exercise(library: &str) {
    if !chosen(library) {
        return;
    }
    let directory = scratch(&format!("voice-{library}"));
    let (port, tls) = (free_port(), directory.join("tls"));
    // Libraries connect to voice servers with TLS only.
    let world = format!(
        "--shards 1 --identify-interval-ms 100 --guilds 6 --members 20 --seed 4 --rate 0 --old-voice-modes --tls-dir {} \
         --public-url ws://127.0.0.1:{port}",
        tls.display()
    );
    let simulator = Simulator::start_at(&directory, port, &world);
    let (guild, channels) = place(&simulator);
    let ca = tls.join("ca.pem");
    let direct = env::var_os("CLIENTS_DIRECT").is_some();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config =
        json!({"shards": 1, "state_dir": directory.join("state"), "rest_proxy": simulator.address.to_string()});
    let proxy = (!direct).then(|| Proxy::start_on(&socket, &directory, &simulator, &config));
    let address = proxy.as_ref().map_or(simulator.address, |proxy| proxy.address);
    let (gateway, api) = (format!("ws://{address}"), format!("http://{address}/api"));
    let guilds = simulator.guilds(0).len();
    let mut bot = start(library, &directory, "bot-1", &gateway, &api, &ca, guilds);
    bot.join_voice(&guild, &channels[0]);
    let first = connected(&simulator, &guild);
    let Some(proxy) = proxy else { return };

    // Discord cuts the shard's connection, then the proxy restarts. The voice connection stays.
    let (resumes, resumed) = (simulator.resumes(), bot.shard(0).resumed);
    simulator.drop_connection(0);
    wait_until("the shard to resume", || (simulator.resumes() > resumes).then_some(()).ok_or_else(String::new));
    proxy.stop();
    let proxy = Proxy::start_on(&socket, &directory, &simulator, &config);
    bot.wait("the bot to resume", |bot| {
        if bot.shard(0).resumed > resumed { Ok(()) } else { Err(format!("{resumed} times before")) }
    });
    assert_eq!(connected(&simulator, &guild), first, "the same connection");
    assert_eq!(bot.voice(&guild), Some("connected"));

    // Discord moves the voice server, and the library connects to the new one. eris 0.18.0 does not, with the simulator
    // alone either: the end of its old UDP socket ends its new connection (VoiceConnection.js:267).
    let second = if library == "eris" {
        first
    } else {
        simulator.fault(&format!("voice-server?guild={guild}"));
        let second = connected(&simulator, &guild);
        assert!(second["number"].as_u64() > first["number"].as_u64());
        second
    };

    // The bot is killed. The next process joins the channel in which the bot still is.
    bot.kill();
    let mut bot = start(library, &directory, "bot-2", &gateway, &api, &ca, guilds);
    bot.join_voice(&guild, &channels[0]);
    let third = connected(&simulator, &guild);
    assert!(third["number"].as_u64() > second["number"].as_u64(), "a new voice server");
    assert_eq!(third["session_id"], simulator.shard_stats(0)["session_id"]);

    // The bot leaves the channel.
    bot.leave_voice(&guild);
    wait_until("the bot to leave", || {
        let stats = simulator.stats();
        let all = stats["voice"]["guilds"].as_array().expect("a list");
        if all.is_empty() { Ok(()) } else { Err(stats["voice"].to_string()) }
    });
    bot.catch_up();
    drop(proxy);
}
