//! Tests the proxy with real client libraries. Each library's bot (tests/clients/) logs in through the proxy, sees
//! exactly the existing guilds, receives each event once and in order, requests members, sets its presence, loses its
//! connection and resumes, keeps its session over a restart of the proxy, is killed and starts again. Discord sees no
//! IDENTIFY from it.
//!
//! `CLIENTS` chooses the libraries: `all`, or a list of names. Without it only the libraries that stand for the others
//! run. `CLIENTS_DIRECT=1` leaves the proxy out: the bots connect to the simulator. That tests the bots and the
//! simulator.

use std::{collections::BTreeMap, env, fs, net::TcpListener, path::Path, thread, time::Duration};

use serde_json::json;
use support::{Bot, Proxy, Settings, Simulator, chosen_to_speak, scratch, wait_for_sequence, wait_until};

/// Number of shards in each test.
const SHARDS: u32 = 2;

/// In place of a compression: the bot gets only the base URL of the REST API, and asks it for the gateway.
const REST_ONLY: &str = "rest-only";

#[test]
fn twilight() {
    exercise("twilight", "");
}

#[test]
fn twilight_with_zlib() {
    exercise("twilight", "zlib-stream");
}

#[test]
fn discord_js() {
    exercise("discord.js", "");
}

/// The package zlib-sync makes the library ask for compression.
#[test]
fn discord_js_with_zlib() {
    exercise("discord.js", "zlib-stream");
}

#[test]
fn discord_js_with_a_rest_base_alone() {
    exercise("discord.js", REST_ONLY);
}

#[test]
fn discord_py() {
    exercise("discord.py", "zlib-stream");
}

#[test]
fn discord_py_with_zstandard() {
    exercise("discord.py", "zstd-stream");
}

#[test]
fn arikawa() {
    exercise("arikawa", "");
}

#[test]
fn discord4j() {
    exercise("discord4j", "");
}

#[test]
fn discordgo() {
    exercise("discordgo", "");
}

#[test]
fn discordgo_without_compression() {
    exercise("discordgo", "none");
}

#[test]
fn disgo() {
    exercise("disgo", "");
}

#[test]
fn discordjs_ws() {
    exercise("discordjs-ws", "zlib-stream");
}

/// The library decompresses with zlib-sync instead of Node.js's own zlib.
#[test]
fn discordjs_ws_with_zlib_sync() {
    exercise("discordjs-ws", "zlib-sync");
}

#[test]
fn detritus() {
    exercise("detritus", "zlib-stream");
}

#[test]
fn detritus_without_compression() {
    exercise("detritus", "none");
}

#[test]
fn discordeno() {
    exercise("discordeno", "none");
}

#[test]
fn disnake() {
    exercise("disnake", "");
}

#[test]
fn eris() {
    exercise("eris", "");
}

#[test]
fn eris_with_zlib() {
    exercise("eris", "zlib-stream");
}

/// With the package erlpack eris speaks ETF in both directions.
#[test]
fn eris_etf() {
    exercise("eris-etf", "none");
}

#[test]
fn eris_etf_with_zlib() {
    exercise("eris-etf", "zlib-stream");
}

#[test]
fn hikari() {
    exercise("hikari", "zlib-stream");
}

#[test]
fn hikari_with_zstd() {
    exercise("hikari", "zstd-stream");
}

#[test]
fn interactions_py() {
    exercise("interactions.py", "");
}

#[test]
fn jda() {
    exercise("jda", "");
}

#[test]
fn jda_with_a_rest_base_alone() {
    exercise("jda", REST_ONLY);
}

#[test]
fn jda_etf() {
    exercise("jda", "etf-none");
}

#[test]
fn jda_etf_with_zlib() {
    exercise("jda", "etf-zlib-stream");
}

#[test]
fn kord() {
    exercise("kord", "");
}

#[test]
fn nextcord() {
    exercise("nextcord", "");
}

#[test]
fn oceanic_js() {
    exercise("oceanic.js", "");
}

/// The library decompresses with pako.
#[test]
fn oceanic_js_with_zlib() {
    exercise("oceanic.js", "zlib-stream");
}

/// The library decompresses with zstd-napi.
#[test]
fn oceanic_js_with_zstd() {
    exercise("oceanic.js", "zstd-stream");
}

#[test]
fn py_cord() {
    exercise("py-cord", "");
}

#[test]
fn serenity() {
    exercise("serenity", "");
}

#[test]
fn seyfert() {
    exercise("seyfert", "");
}

/// Runs all steps with one bot. `compress` is the compression that the bot has to use; empty is the library's default.
fn exercise(library: &str, compress: &str) {
    if !chosen_to_speak(library, compress) {
        return;
    }
    let directory = scratch(&format!("{library}-{compress}"));
    let _ = fs::remove_file(support::root().join(format!("target/clients-results/{library}-{compress}.json")));
    let world = "--shards 2 --max-concurrency 2 --identify-interval-ms 200 --guilds 20 --members 150 --seed 1 --rate 0";
    let simulator = Simulator::start(&directory, world);
    let direct = env::var_os("CLIENTS_DIRECT").is_some();
    // The test holds the port while the proxy restarts, as systemd does.
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = json!({
        "shards": SHARDS,
        "state_dir": directory.join("state"),
        "rest_proxy": simulator.address.to_string(),
    });
    let proxy = (!direct).then(|| Proxy::start_on(&socket, &directory, &simulator, &config));
    let address = proxy.as_ref().map_or(simulator.address, |proxy| proxy.address);
    let (gateway, api) = (format!("ws://{address}"), format!("http://{address}/api"));
    let rest_only = compress == REST_ONLY;
    let (label, compress) = (compress, if rest_only { "" } else { compress });
    let gateway = if rest_only { "unknown" } else { &gateway };
    let settings = Settings { gateway, api: &api, rest_only, compress, ..Settings::default() };

    let identifies = simulator.identifies();
    let mut story = Story::begin(&simulator, Bot::start(&directory, "bot-1", library, SHARDS, &settings));
    story.sees_the_guilds();
    story.receives_bursts();
    story.requests_members();
    story.sets_its_presence();
    story.loses_its_connection(direct);
    story.upstream_loses_its_connection(direct);
    story.guilds_come_and_go();
    let restarted = proxy.map(|proxy| {
        story.the_proxy_restarts(|| {
            proxy.stop();
            simulator.emit(0, 20); // the proxy is down and gets these with its RESUME
            Proxy::start_on(&socket, &directory, &simulator, &config)
        })
    });
    story.bot.kill();

    for shard in 0..SHARDS {
        simulator.emit(shard, 10); // no bot is connected for these
    }
    let down = simulator.guilds(0).pop_first().expect("a guild").0;
    simulator.set_available(&down, false);
    if let Some(proxy) = &restarted {
        // Some bots connect within milliseconds. They must not get these events as live ones.
        (0..SHARDS).for_each(|shard| wait_for_sequence(proxy, &simulator, shard));
    }
    let mut story = Story::begin(&simulator, Bot::start(&directory, "bot-2", library, SHARDS, &settings));
    story.sees_the_guilds();
    story.ends_outage(0, &down);
    story.receives_bursts();
    story.requests_members();
    if !direct {
        assert_eq!(simulator.identifies(), identifies, "Discord has seen an IDENTIFY that the bot caused");
    }
    let violations = &simulator.stats()["violations"];
    assert_eq!(*violations, json!([]), "what Discord would have closed a connection for");
    if !direct {
        note_success(library, label, &directory);
    }
}

/// Writes a result for the table of libraries in docs/clients.md: all steps have passed, and which encoding and
/// compression the library used, by the log of the proxy.
fn note_success(library: &str, label: &str, directory: &Path) {
    let log = fs::read_to_string(directory.join("gateway-proxy.log")).expect("the log of the proxy");
    let connects = log.lines().find(|line| line.contains("a client connects")).expect("a connection");
    let identifies = log.lines().find(|line| line.contains("a client identifies")).expect("an IDENTIFY");
    let encoding = if connects.contains("encoding=Etf") { "ETF" } else { "JSON" };
    let transport = match connects.split("transport=").nth(1) {
        Some("Zlib") => ", `zlib-stream`",
        Some("Zstd") => ", `zstd-stream`",
        Some("None") if identifies.contains("compress=true") && encoding == "JSON" => ", compressed payloads",
        Some("None") => "",
        other => panic!("an unknown transport: {other:?}"),
    };
    let (is_etf, asked) = label.strip_prefix("etf-").map_or((false, label), |asked| (true, asked));
    let as_asked = match asked {
        "" | REST_ONLY => true,
        "none" => transport.is_empty(),
        "zlib-sync" => transport.contains("zlib-stream"),
        name => transport.contains(name),
    };
    assert!(as_asked && (encoding == "ETF" || !is_etf), "the bot was told `{label}` and spoke {encoding}{transport}");
    let login = if label == REST_ONLY { ", given a REST base only" } else { "" };
    let results = support::root().join("target/clients-results");
    fs::create_dir_all(&results).expect("a directory for results");
    let result = json!({ "library": library, "transport": format!("{encoding}{transport}{login}") });
    fs::write(results.join(format!("{library}-{label}.json")), result.to_string()).expect("writing a result");
}

/// One process of a bot.
struct Story<'a> {
    simulator: &'a Simulator,
    bot: Bot,
    /// Number of the newest message of each shard before the bot started.
    before: BTreeMap<u32, u64>,
}

impl<'a> Story<'a> {
    fn begin(simulator: &'a Simulator, bot: Bot) -> Self {
        let before = (0..SHARDS).map(|shard| (shard, simulator.last_number(shard))).collect();
        Self { simulator, bot, before }
    }

    /// Waits for READY with the guilds of the shard, and then for each guild. None of them may be reported as joined.
    fn sees_the_guilds(&mut self) {
        for shard in 0..SHARDS {
            let truth = self.simulator.guilds(shard);
            assert!(!truth.is_empty(), "shard {shard} should have guilds");
            self.bot.wait(&format!("shard {shard} to be ready"), |bot| {
                if bot.shard(shard).ready.is_empty() { Err("no ready".to_owned()) } else { Ok(()) }
            });
            self.bot.wait(&format!("the guilds of shard {shard}"), |bot| {
                let missing = |(id, _): &(&String, _)| !bot.shard(shard).guilds.contains_key(*id);
                match truth.iter().filter(|(_, guild)| !guild.unavailable).find(missing) {
                    Some((id, _)) => Err(format!("guild {id} has not come")),
                    None => Ok(()),
                }
            });
            let seen = self.bot.shard(shard);
            assert_eq!(seen.ready.len(), 1, "shard {shard}: READY once");
            assert!(seen.ready[0].iter().eq(truth.keys()), "shard {shard}: {:?} in READY of {truth:?}", seen.ready[0]);
            assert_eq!(seen.joined, [""; 0], "shard {shard}: guilds that the bot was in before");
            for (id, guild) in &seen.guilds {
                let truth = &truth[id];
                assert_eq!(guild.unavailable, truth.unavailable, "shard {shard}: guild {id}");
                // For an unavailable guild a library shows its older state, or nothing.
                if !guild.unavailable {
                    assert_eq!(guild.members, truth.members, "shard {shard}: members of guild {id}");
                }
            }
        }
    }

    /// Sends numbered messages on every shard.
    fn emit(&self, count: u64) {
        for shard in 0..SHARDS {
            self.simulator.emit(shard, count);
        }
    }

    /// Waits until each message so far has arrived once, in order, without a gap.
    fn catches_up(&mut self) {
        for (&shard, &before) in &self.before {
            self.bot.wait_for_numbers(shard, before, self.simulator.last_number(shard));
        }
    }

    /// Several bursts, with and without other traffic, arrive completely and in order.
    fn receives_bursts(&mut self) {
        for count in [1, 50, 300] {
            self.emit(count);
            self.catches_up();
        }
        self.simulator.traffic(200);
        for _ in 0..3 {
            self.emit(100);
            self.catches_up();
        }
        self.simulator.traffic(0);
        self.catches_up();
    }

    /// Op 8 for the largest guild of each shard returns all members. One of these guilds needs more than one chunk.
    fn requests_members(&mut self) {
        for shard in 0..SHARDS {
            let guilds = self.simulator.guilds(shard);
            let up = guilds.iter().filter(|(_, guild)| !guild.unavailable);
            let (id, guild) = up.max_by_key(|(_, guild)| guild.members).expect("a guild that is up");
            assert_eq!(Some(self.bot.request_members(id)), guild.members, "members of guild {id}");
        }
    }

    /// Op 3 reaches Discord on every shard.
    fn sets_its_presence(&mut self) {
        let name = "the tests";
        self.bot.set_presence("dnd", name);
        for shard in 0..SHARDS {
            wait_until(&format!("the presence of shard {shard}"), || {
                let presence = self.simulator.shard_stats(shard)["last_presence"].clone();
                // hikari still uses the field's name from an older version of the API.
                let activity = if presence["game"].is_null() { &presence["activities"][0] } else { &presence["game"] };
                let found = presence["status"] == "dnd" && activity["name"] == name;
                if found { Ok(()) } else { Err(presence.to_string()) }
            });
        }
    }

    /// The bot loses its connection while events are sent. It resumes and gets all events.
    fn loses_its_connection(&mut self, direct: bool) {
        let resumes = self.simulator.resumes();
        for shard in 0..SHARDS {
            let before = self.bot.shard(shard).resumed;
            self.emit(20);
            self.bot.reconnect(shard);
            for _ in 0..20 {
                self.emit(10);
                thread::sleep(Duration::from_millis(5)); // some messages are sent while the bot is disconnected
            }
            self.bot.wait(&format!("shard {shard} to resume"), |bot| {
                let resumed = bot.shard(shard).resumed;
                if resumed == before + 1 { Ok(()) } else { Err(format!("RESUMED {resumed} times, {before} before")) }
            });
            self.catches_up();
        }
        if !direct {
            assert_eq!(self.simulator.resumes(), resumes, "Discord noticed");
        }
        self.keeps_its_session();
    }

    /// Discord cuts one shard's connection, and asks the other shard to reconnect. Behind the proxy the bot's
    /// connections stay.
    fn upstream_loses_its_connection(&mut self, direct: bool) {
        let reconnecting = |bot: &Bot| (0..SHARDS).map(|shard| bot.shard(shard).reconnecting).sum::<usize>();
        let resumes = self.simulator.resumes();
        let before = reconnecting(&self.bot);
        self.emit(20);
        self.simulator.drop_connection(0);
        self.simulator.reconnect(1);
        self.emit(20);
        wait_until("two shards to resume", || {
            let now = self.simulator.resumes();
            if now >= resumes + 2 { Ok(()) } else { Err(format!("{now} times resumed, {resumes} before")) }
        });
        self.emit(20);
        self.catches_up();
        if !direct {
            assert_eq!(reconnecting(&self.bot), before, "the bot noticed");
        }
        self.keeps_its_session();
    }

    /// The proxy restarts while events are sent. The bot resumes and gets all events.
    fn the_proxy_restarts(&mut self, restart: impl FnOnce() -> Proxy) -> Proxy {
        let before: Vec<usize> = (0..SHARDS).map(|shard| self.bot.shard(shard).resumed).collect();
        self.simulator.traffic(200);
        self.emit(20);
        let proxy = restart();
        self.emit(20);
        self.simulator.traffic(0);
        for shard in 0..SHARDS {
            let before = before[shard as usize];
            self.bot.wait(&format!("shard {shard} to resume"), |bot| {
                let resumed = bot.shard(shard).resumed;
                if resumed > before { Ok(()) } else { Err(format!("RESUMED {resumed} times, {before} before")) }
            });
        }
        self.catches_up();
        self.keeps_its_session();
        proxy
    }

    /// A new guild is reported as joined. A guild that comes back after an outage is not.
    fn guilds_come_and_go(&mut self) {
        for shard in 0..SHARDS {
            let down = self.simulator.guilds(shard).pop_first().expect("a guild").0;
            self.simulator.set_available(&down, false);
            self.ends_outage(shard, &down);
            let joined = self.simulator.join_guild(shard);
            self.bot.wait(&format!("guild {joined} to be joined"), |bot| {
                let all = &bot.shard(shard).joined;
                if all.contains(&joined) { Ok(()) } else { Err(format!("joined are {all:?}")) }
            });
            self.emit(1);
            self.catches_up();
        }
    }

    /// Ends the outage of a guild: the guild arrives with its current state, and is not reported as joined.
    fn ends_outage(&mut self, shard: u32, id: &str) {
        let arrivals = |bot: &Bot| bot.shard(shard).arrivals.iter().filter(|arrived| *arrived == id).count();
        let (before, joined) = (arrivals(&self.bot), self.bot.shard(shard).joined.len());
        self.simulator.set_available(id, true);
        let truth = self.simulator.guilds(shard)[id].clone();
        self.bot.wait(&format!("guild {id} to come up"), |bot| match bot.shard(shard).guilds.get(id) {
            Some(guild) if *guild == truth && arrivals(bot) > before => Ok(()),
            other => Err(format!("it is {other:?}")),
        });
        assert_eq!(self.bot.shard(shard).joined.len(), joined, "guild {id} is no new one");
    }

    /// Checks that each shard has had one READY only.
    fn keeps_its_session(&self) {
        for shard in 0..SHARDS {
            assert_eq!(self.bot.shard(shard).ready.len(), 1, "shard {shard}: still the first session");
        }
    }
}
