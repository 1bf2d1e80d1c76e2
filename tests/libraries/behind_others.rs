//! The proxy together with other servers: behind nginx and HAProxy that terminate TLS, set up as in the examples in
//! config/, and as the gateway of a second proxy. The client loses connections there, too, and misses no event.
//!
//! nginx and HAProxy come from the system. Where one is not installed, its test prints that and passes. With the
//! variable `BEHIND` set, it fails.

use std::{env, fs, net::TcpStream, path::Path, process::Command};

use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use support::{Bot, Process, Proxy, Settings, Simulator, free_port, root, scratch, wait_until};

const SHARDS: u32 = 2;

/// Library of the client.
const LIBRARY: &str = "discord.js";

const WORLD: &str = "--shards 2 --max-concurrency 2 --identify-interval-ms 0 --guilds 10 --members 30 --rate 0";

#[test]
fn nginx_ends_tls_for_clients() {
    behind("nginx", |directory, port, backend| {
        let server = example(
            "nginx.example.conf",
            &[
                ("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl")),
                ("127.0.0.1:7878", backend),
                ("/etc/gateway-proxy", &directory.display().to_string()),
            ],
        );
        let here = directory.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {here}/{kind};"))
            .concat();
        let whole = format!(
            "daemon off; master_process off; pid {here}/nginx.pid; error_log stderr;\n\
             events {{}}\nhttp {{ access_log off; {temporary}\n{server}\n}}\n"
        );
        let path = directory.join("nginx.conf");
        fs::write(&path, whole).expect("writing nginx.conf");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(directory).arg("-e").arg("stderr").arg("-c").arg(path);
        command
    });
}

#[test]
fn haproxy_ends_tls_for_clients() {
    behind("haproxy", |directory, port, backend| {
        let whole = example(
            "haproxy.example.cfg",
            &[
                ("bind :443", &format!("bind 127.0.0.1:{port}")),
                ("127.0.0.1:7878", backend),
                ("/etc/gateway-proxy", &directory.display().to_string()),
            ],
        );
        let path = directory.join("haproxy.cfg");
        fs::write(&path, whole).expect("writing haproxy.cfg");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(path);
        command
    });
}

/// A chain: the simulator, a proxy, a second proxy that uses the first one as Discord, and a client of the second one.
#[test]
fn another_proxy_of_its_kind_is_discord_enough() {
    let directory = scratch("chained");
    let simulator = Simulator::start(&directory, WORLD);
    let (first, second) = (directory.join("first"), directory.join("second"));
    fs::create_dir_all(&first).expect("a directory");
    fs::create_dir_all(&second).expect("a directory");
    let inner = Proxy::start(&first, &simulator, &json!({}));
    let outer = Proxy::spawn_before(&second, inner.address, &json!({}), &[]).wait_until_ready();
    let (gateway, api) = (format!("ws://{}", outer.address), format!("http://{}/api", simulator.address));
    let settings = Settings { gateway: &gateway, api: &api, ..Settings::default() };
    let mut bot = Bot::start(&directory, "bot", LIBRARY, SHARDS, &settings);
    sees_its_guilds(&mut bot, &simulator);
    emit(&simulator);
    simulator.drop_connection(0);
    emit(&simulator);
    catches_up(&mut bot, &simulator);
    for shard in 0..SHARDS {
        bot.reconnect(shard);
    }
    emit(&simulator);
    catches_up(&mut bot, &simulator);
    keeps_its_session(&mut bot);
    assert_eq!((simulator.identifies(), simulator.resumes()), (2, 1), "what Discord has seen");
}

/// Tests the proxy behind a program that terminates TLS. The program is killed and started again while events are sent.
fn behind(program: &str, command: impl Fn(&Path, u16, &str) -> Command) {
    if Command::new(program).arg("-v").output().is_err() {
        assert!(env::var_os("BEHIND").is_none(), "{program} is not installed");
        eprintln!("skipped: {program} is not installed");
        return;
    }
    let directory = scratch(&format!("behind-{program}"));
    certificate(&directory);
    let simulator = Simulator::start(&directory, WORLD);
    let port = free_port();
    let url = format!("wss://localhost:{port}");
    let proxy = Proxy::start(&directory, &simulator, &json!({ "externally_accessible_url": url }));
    let start = || Process::start(program, command(&directory, port, &proxy.address.to_string()), &directory);
    let terminator = start();
    // The library reports a port that nobody listens on as an error.
    wait_until(&format!("{program} to listen"), || {
        TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
    });
    let (api, ca) = (format!("http://{}/api", simulator.address), directory.join("certificate.pem"));
    let settings = Settings { gateway: &url, api: &api, ca: Some(&ca), ..Settings::default() };
    let mut bot = Bot::start(&directory, "bot", LIBRARY, SHARDS, &settings);
    sees_its_guilds(&mut bot, &simulator);
    emit(&simulator);
    catches_up(&mut bot, &simulator);
    bot.tolerate_errors(); // the library reports that the port is closed for a moment
    drop(terminator);
    emit(&simulator);
    let _terminator = start();
    catches_up(&mut bot, &simulator);
    keeps_its_session(&mut bot);
    assert_eq!(simulator.identifies(), 2, "what Discord has seen");
}

/// The text of an example in config/, with its addresses and paths replaced by those of the test.
fn example(name: &str, changes: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(root().join("config").join(name)).expect("an example in config/");
    for (place, here) in changes {
        assert!(text.contains(place), "{name} does not name {place}");
        text = text.replace(place, here);
    }
    text
}

/// Writes a certificate for localhost and its key, in the forms that nginx and HAProxy need.
fn certificate(directory: &Path) {
    let key = KeyPair::generate().expect("a key");
    let parameters = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let certificate = parameters.self_signed(&key).expect("a certificate").pem();
    let key = key.serialize_pem();
    fs::write(directory.join("both.pem"), format!("{certificate}{key}")).expect("writing both.pem");
    fs::write(directory.join("certificate.pem"), certificate).expect("writing certificate.pem");
    fs::write(directory.join("key.pem"), key).expect("writing key.pem");
}

/// Waits until the bot is ready on each shard and has all its guilds.
fn sees_its_guilds(bot: &mut Bot, simulator: &Simulator) {
    for shard in 0..SHARDS {
        let guilds = simulator.guilds(shard);
        bot.wait(&format!("shard {shard} and its guilds"), |bot| {
            let seen = bot.shard(shard);
            let missing = guilds.keys().find(|id| !seen.guilds.contains_key(*id));
            match missing {
                None if !seen.ready.is_empty() => Ok(()),
                missing => Err(format!("ready {} times, {missing:?} has not come", seen.ready.len())),
            }
        });
    }
}

fn emit(simulator: &Simulator) {
    for shard in 0..SHARDS {
        simulator.emit(shard, 200);
    }
}

/// Waits until each message so far has arrived once, in order, without a gap.
fn catches_up(bot: &mut Bot, simulator: &Simulator) {
    for shard in 0..SHARDS {
        bot.wait_for_numbers(shard, 0, simulator.last_number(shard));
    }
}

/// Waits until each shard has resumed, and checks that each has had only one READY.
fn keeps_its_session(bot: &mut Bot) {
    for shard in 0..SHARDS {
        bot.wait(&format!("shard {shard} to resume"), |bot| {
            if bot.shard(shard).resumed > 0 { Ok(()) } else { Err("it has not".to_owned()) }
        });
        assert_eq!(bot.shard(shard).ready.len(), 1, "shard {shard}: still the first session");
    }
}
