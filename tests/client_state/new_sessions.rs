//! Discord loses a session, or the proxy is killed and has no state files: the shard has to IDENTIFY, and nobody will ever tell
//! what happened in between. The bots run on, so their libraries hold guilds as they were. What the proxy sends has to lead to
//! the truth in the library's own cache: channels, roles, names, members, voice states, threads, and which guilds there are.
//!
//! `CLIENTS_DIRECT=1` leaves the proxy out, and shows what a library makes of a lost session at Discord.

use std::{
    env,
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::support::{Bot, PATIENCE, Proxy, Settings, Simulator, View, chosen, scratch};

const SHARDS: u32 = 2;

/// Changes of every kind on each shard while a session is lost.
const CHANGES: u32 = 6;

/// Members above which a guild may be sent with only those who are online: the least `large_threshold` that there is.
const LARGE: usize = 50;

#[test]
fn discord_js() {
    sees_the_truth_after_new_sessions("discord.js");
}

#[test]
fn discord_py() {
    sees_the_truth_after_new_sessions("discord.py");
}

#[test]
fn disnake() {
    sees_the_truth_after_new_sessions("disnake");
}

#[test]
fn eris() {
    sees_the_truth_after_new_sessions("eris");
}

#[test]
fn hikari() {
    sees_the_truth_after_new_sessions("hikari");
}

#[test]
fn nextcord() {
    sees_the_truth_after_new_sessions("nextcord");
}

#[test]
fn oceanic_js() {
    sees_the_truth_after_new_sessions("oceanic.js");
}

#[test]
fn py_cord() {
    sees_the_truth_after_new_sessions("py-cord");
}

/// With twilight-cache-inmemory.
#[test]
fn twilight() {
    sees_the_truth_after_new_sessions("twilight");
}

fn sees_the_truth_after_new_sessions(library: &str) {
    if !chosen(library) {
        return;
    }
    let directory = scratch(&format!("new-sessions-{library}"));
    let world = "--shards 2 --max-concurrency 2 --identify-interval-ms 200 --guilds 12 --members 60 --seed 5 --rate 0";
    let simulator = Simulator::start(&directory, world);
    let direct = env::var_os("CLIENTS_DIRECT").is_some();
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = json!({ "shards": SHARDS, "rest_proxy": simulator.address.to_string() });
    let start = || Proxy::start_on(&socket, &directory, &simulator, &config);
    let proxy = (!direct).then(start);
    let address = proxy.as_ref().map_or(simulator.address, |proxy| proxy.address);
    let (gateway, api) = (format!("ws://{address}"), format!("http://{address}/api"));
    let settings = Settings { gateway: &gateway, api: &api, ..Settings::default() };

    let bot = Bot::start(&directory, "bot", library, SHARDS, &settings);
    let mut story = Story { library, simulator: &simulator, bot };
    story.is_ready();
    story.holds_the_truth("at the start", &[]);
    let left = story.loses_its_sessions();
    story.holds_the_truth("after its session was lost", &left);
    if let Some(proxy) = proxy {
        proxy.kill();
        story.loses_its_sessions();
        let _proxy = start();
        // Of the guilds that were left meanwhile nobody knows any more that they were there: READY lacks them, as it would at
        // Discord, and libraries do not compare.
        story.holds_the_truth("after the proxy was killed", &[]);
        story.bot.kill();
    }
}

struct Story<'a> {
    library: &'a str,
    simulator: &'a Simulator,
    bot: Bot,
}

impl Story<'_> {
    /// The library takes every shard for ready.
    fn is_ready(&mut self) {
        for shard in 0..SHARDS {
            self.bot.wait(&format!("shard {shard} to be ready"), |bot| {
                if bot.shard(shard).ready.is_empty() { Err("no ready".to_owned()) } else { Ok(()) }
            });
        }
    }

    /// The sessions of all shards are lost, and the world goes on; which guilds the bot has left.
    fn loses_its_sessions(&mut self) -> Vec<String> {
        (0..SHARDS)
            .map(|shard| {
                let left = self.simulator.guilds(shard).pop_last().expect("a guild").0;
                self.simulator.lose_session(shard, CHANGES, &left);
                left
            })
            .collect()
    }

    /// Soon the library holds what is true of every guild, and nothing of those that the bot has left. It tells its user of no
    /// guild that the bot has joined just now: what was joined while a session was lost is in READY.
    fn holds_the_truth(&mut self, when: &str, left: &[String]) {
        let start = Instant::now();
        while let Err(difference) = self.compare(left) {
            assert!(start.elapsed() < PATIENCE, "{when}: {difference}");
            thread::sleep(Duration::from_millis(200));
        }
        for shard in 0..SHARDS {
            assert_eq!(self.bot.shard(shard).joined, [""; 0], "shard {shard} {when}: joined");
        }
    }

    fn compare(&mut self, left: &[String]) -> Result<(), String> {
        for (id, _) in (0..SHARDS).flat_map(|shard| self.simulator.guilds(shard)) {
            let truth = View::of_guild(&self.simulator.guild(&id));
            let mut held = self.bot.cache(&id).ok_or_else(|| format!("guild {id} is unknown to the library"))?;
            if self.library == "hikari" && truth.voice.is_empty() {
                // hikari 2.7.0 forgets voice states only when a GUILD_CREATE has others (impl/event_manager.py:376).
                held.voice.clear();
            }
            let partial = truth.members.len() > LARGE;
            held.compare(&truth, partial).map_err(|difference| format!("guild {id}: {difference}"))?;
        }
        match left.iter().find(|id| self.bot.cache(id).is_some()) {
            Some(id) => Err(format!("the library holds guild {id}, which the bot has left")),
            None => Ok(()),
        }
    }
}
