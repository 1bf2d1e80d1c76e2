//! discord-sim as a child process, and its control interface.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    path::Path,
    process::Command,
};

use serde_json::Value;

use super::{Guild, PATIENCE, Process, get_json, post, program};

/// The token that the simulator accepts. Some libraries read the user id from its first part.
pub const TOKEN: &str = "MTAwMDAwMDAwMDAwMDAwMDAx.simula.tor";

/// A running simulator.
pub struct Simulator {
    process: Process,
    /// The address that it listens on, for gateway, REST and control.
    pub address: SocketAddr,
}

impl Simulator {
    /// Starts the simulator on a free port with the token [`TOKEN`] and further `options`, such as `--shards 2`.
    ///
    /// # Panics When the simulator does not start.
    pub fn start(directory: &Path, options: &str) -> Self {
        Self::start_at(directory, 0, options)
    }

    /// As [`Self::start`], on the given port.
    pub fn start_at(directory: &Path, port: u16, options: &str) -> Self {
        let mut command = Command::new(program("discord-sim"));
        let listen = format!("127.0.0.1:{port}");
        command.args(["serve", "--listen", &listen, "--token", TOKEN]).args(options.split_whitespace());
        let mut process = Process::start("discord-sim", command, directory);
        let address = loop {
            let line = process.read_line(PATIENCE).unwrap_or_else(|reason| panic!("{reason}"));
            if let Some(address) = line.strip_prefix("listening on ") {
                break address.trim().parse().expect("the address that the simulator listens on");
            }
        };
        Self { process, address }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn get(&self, path: &str) -> Value {
        get_json(self.address, path).unwrap_or_else(|reason| panic!("the simulator: {reason}"))
    }

    fn post(&self, path: &str) -> Value {
        post(self.address, path).unwrap_or_else(|reason| panic!("the simulator: {reason}"))
    }

    /// GET /sim/stats.
    pub fn stats(&self) -> Value {
        self.get("/sim/stats")
    }

    /// The part of [`Self::stats`] about one shard.
    pub fn shard_stats(&self, shard: u32) -> Value {
        let stats = self.stats();
        let found = stats["shards"].as_array().and_then(|shards| shards.iter().find(|it| it["shard"] == shard));
        found.cloned().unwrap_or_else(|| panic!("no shard {shard} in {stats}"))
    }

    /// Number of IDENTIFYs that the simulator has accepted.
    pub fn identifies(&self) -> u64 {
        let stats = self.stats();
        stats["identifies"].as_u64().unwrap_or_else(|| panic!("no identifies in {stats}"))
    }

    /// Number of RESUMEs that the simulator has accepted.
    pub fn resumes(&self) -> u64 {
        let stats = self.stats();
        stats["resumes"].as_u64().unwrap_or_else(|| panic!("no resumes in {stats}"))
    }

    /// The current guilds of one shard, by id.
    pub fn guilds(&self, shard: u32) -> BTreeMap<String, Guild> {
        let guilds = self.get(&format!("/sim/guilds?shard={shard}"));
        let guilds = guilds.as_array().unwrap_or_else(|| panic!("not a list: {guilds}"));
        guilds
            .iter()
            .map(|guild| {
                let id = guild["id"].as_str().expect("an id").to_owned();
                let unavailable = guild["unavailable"].as_bool().expect("a flag");
                (id, Guild { members: guild["members"].as_u64(), unavailable })
            })
            .collect()
    }

    /// The number of the newest numbered message of a shard. Random traffic contains numbered messages too.
    pub fn last_number(&self, shard: u32) -> u64 {
        let stats = self.shard_stats(shard);
        stats["last_number"].as_u64().unwrap_or_else(|| panic!("no last_number in {stats}"))
    }

    /// Sends `count` numbered messages on one shard, as fast as possible. Returns the first and last number; other
    /// traffic in between makes the range longer.
    pub fn emit(&self, shard: u32, count: u64) -> (u64, u64) {
        let range = self.post(&format!("/sim/emit?shard={shard}&count={count}"));
        match (range["first"].as_u64(), range["last"].as_u64()) {
            (Some(first), Some(last)) if last + 1 >= first + count => (first, last),
            _ => panic!("not a range of {count} numbers: {range}"),
        }
    }

    /// POST /sim/mutate: makes `count` random changes of state at once, each with its event.
    pub fn mutate(&self, shard: u32, count: u64) {
        self.post(&format!("/sim/mutate?shard={shard}&count={count}"));
    }

    /// Sets the rate of random events, in events per second on all shards together.
    pub fn traffic(&self, rate: u32) {
        self.post(&format!("/sim/traffic?rate={rate}"));
    }

    /// As [`Self::traffic`], but no guild is joined or left. A client is never told of a guild that comes and goes
    /// before its GUILD_CREATE was sent, nor of its messages.
    pub fn steady_traffic(&self, rate: u32) {
        self.post(&format!("/sim/traffic?rate={rate}&steady=1"));
    }

    /// Makes the bot join a new guild on a shard. Returns the guild's id.
    pub fn join_guild(&self, shard: u32) -> String {
        let joined = self.post(&format!("/sim/guild-join?shard={shard}"));
        // The id may be a string or a number.
        let id = joined["id"].as_str().map_or_else(|| joined["id"].to_string(), ToOwned::to_owned);
        assert_eq!(joined["changed"], true, "a guild to join: {joined}");
        id
    }

    /// Makes a guild unavailable, or available again.
    pub fn set_available(&self, guild: &str, available: bool) {
        let state = if available { "available" } else { "unavailable" };
        let answer = self.post(&format!("/sim/guild-{state}?id={guild}"));
        assert_eq!(answer["changed"], true, "guild {guild} should become {state}: {answer}");
    }

    /// Makes the bot leave a guild.
    pub fn leave_guild(&self, guild: &str) {
        self.post(&format!("/sim/guild-leave?id={guild}"));
    }

    /// POST /sim/dispatch: sends an event of any type and data on one shard.
    pub fn dispatch(&self, shard: u32, name: &str, data: &str) {
        let answer =
            super::post_body(self.address, &format!("/sim/dispatch?shard={shard}&type={name}"), data.as_bytes());
        answer.unwrap_or_else(|error| panic!("{error}"));
    }

    /// POST /sim/wire: writes raw bytes between two frames of a shard's connection.
    pub fn put_on_wire(&self, shard: u32, bytes: &[u8]) {
        let answer = super::post_body(self.address, &format!("/sim/wire?shard={shard}"), bytes);
        assert_eq!(answer.expect("an answer")["connections"], 1);
    }

    /// Sends any other POST of the control interface, such as `drop?shard=0&code=4000`.
    pub fn fault(&self, what: &str) {
        self.post(&format!("/sim/{what}"));
    }

    /// POST /sim/lose: ends the session of a shard. Until the next IDENTIFY, `changes` changes of every kind happen
    /// that the shard is not told of, the bot leaves guild `leave`, and it joins another one.
    pub fn lose_session(&self, shard: u32, changes: u32, leave: &str) {
        let answer = self.post(&format!("/sim/lose?shard={shard}&changes={changes}&leave={leave}&join=1"));
        assert!(answer["events"].as_u64() > Some(0), "changes while the session is lost: {answer}");
    }

    /// GET /sim/guild: the true state of a guild, as the `d` of a GUILD_CREATE.
    pub fn guild(&self, id: &str) -> Value {
        self.get(&format!("/sim/guild?id={id}"))
    }

    /// Checks messages that a client was not sent. It gets none of a guild that it has never seen: the bot may have left
    /// the guild, or the guild may have gone down, before the client's snapshot came to it. `address` is that of the
    /// simulator, `missing` the numbers of the messages, and `not_shown` the guilds of READY that the client has not seen.
    ///
    /// # Panics
    /// When a message is of another guild, so that it is lost.
    pub fn check_missing(address: SocketAddr, shard: u32, missing: Range<u64>, not_shown: &BTreeSet<String>) {
        for number in missing {
            let answer = get_json(address, &format!("/sim/message?shard={shard}&number={number}"));
            let answer = answer.unwrap_or_else(|reason| panic!("the simulator: {reason}"));
            let guild = answer["guild"].as_str().expect("a guild");
            assert!(not_shown.contains(guild), "message {number} of guild {guild} on shard {shard} is lost");
        }
    }

    /// Ends the connection of a shard without a close frame.
    pub fn drop_connection(&self, shard: u32) {
        self.post(&format!("/sim/drop?shard={shard}"));
    }

    /// Tells a shard to reconnect (op 7).
    pub fn reconnect(&self, shard: u32) {
        self.post(&format!("/sim/reconnect?shard={shard}"));
    }
}
