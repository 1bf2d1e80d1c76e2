//! A bot of tests/clients/ as a child process: installs it, starts it, sends it commands, and collects its reports.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{PATIENCE, Process, TOKEN, View, packages, root};

/// All intents that the proxy of the tests has.
const ALL_INTENTS: u64 = 53_608_447;

/// The default intents of many libraries: everything but the privileged ones. GUILD_MEMBERS and GUILD_PRESENCES are
/// removed here; MESSAGE_CONTENT stays, because the content of the tests' messages has their number.
pub const DEFAULT_INTENTS: u64 = ALL_INTENTS & !(1 << 1 | 1 << 8);

/// A guild as a library shows it to its user, or as the simulator knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guild {
    /// The `member_count`. An unavailable guild has none.
    pub members: Option<u64>,
    /// Whether the guild is down.
    pub unavailable: bool,
}

/// Everything that a bot has reported about one shard.
#[derive(Debug, Default)]
pub struct Shard {
    /// The guilds of each READY.
    pub ready: Vec<BTreeSet<String>>,
    /// The last report about each guild.
    pub guilds: BTreeMap<String, Guild>,
    /// The guild ids of all these reports, in the order of arrival.
    pub arrivals: Vec<String>,
    /// The guilds that the library reported as newly joined.
    pub joined: Vec<String>,
    /// The numbers of all messages, in the order of arrival.
    pub numbers: Vec<u64>,
    /// How often the library has reported that it lost its connection.
    pub reconnecting: usize,
    /// How often the library has reported RESUMED.
    pub resumed: usize,
}

/// A running bot. The test fails when the bot reports an error.
pub struct Bot {
    process: Process,
    shards: BTreeMap<u32, Shard>,
    /// The answers to member requests: the guild and the number of members.
    members: Vec<(String, u64)>,
    /// The answers to requests for the library's cache: the guild and its content.
    caches: Vec<(String, Option<View>)>,
    /// For each acknowledged heartbeat that the bot has reported: whether the acknowledgement came before the library
    /// had recorded that it sent the heartbeat, and the milliseconds since it was sent.
    acknowledged: Vec<(bool, f64)>,
    /// States of voice connections that it has reported, with their guilds.
    voice: Vec<(String, String)>,
    /// Whether the library may report errors.
    tolerant: bool,
}

impl Bot {
    /// Installs the bot of `library` with `scripts/clients-setup`, which is quick when it is already installed, and
    /// starts it. The bot's log is `<name>.log` in `directory`.
    ///
    /// # Panics When the library can not be installed: a missing library is a failure, never a reason to skip the
    /// test.
    pub fn start(directory: &Path, name: &str, library: &str, shards: u32, settings: &Settings<'_>) -> Self {
        let packages = packages(library, settings.compress);
        install(&packages);
        let mut command = program(library, &packages);
        command
            .current_dir(directory)
            .env("GATEWAY_URL", settings.gateway)
            .env("API_URL", settings.api)
            .env("LOGIN", if settings.rest_only { "rest" } else { "" })
            .env("TOKEN", TOKEN)
            .env("SHARDS", shards.to_string())
            .env("COMPRESS", settings.compress)
            .env("INTENTS", settings.intents.unwrap_or(ALL_INTENTS).to_string())
            .env("HEARTBEAT_MS", settings.heartbeat_ms.to_string());
        if let Some(ca) = settings.ca {
            command.env("NODE_EXTRA_CA_CERTS", ca).env("SSL_CERT_FILE", ca);
        }
        let process = Process::start(name, command, directory);
        Self {
            process,
            shards: (0..shards).map(|shard| (shard, Shard::default())).collect(),
            members: Vec::new(),
            caches: Vec::new(),
            acknowledged: Vec::new(),
            voice: Vec::new(),
            tolerant: false,
        }
    }

    /// Accepts errors that the library reports from now on.
    pub fn tolerate_errors(&mut self) {
        self.tolerant = true;
    }

    /// Everything that the bot has reported about a shard.
    pub fn shard(&self, shard: u32) -> &Shard {
        &self.shards[&shard]
    }

    /// Reads reports until `enough` returns `Ok`.
    ///
    /// # Panics After [`super::PATIENCE`], with `what` and the last `Err` of `enough`; when the bot reports an error
    /// or ends.
    pub fn wait<T>(&mut self, what: &str, mut enough: impl FnMut(&Self) -> Result<T, String>) -> T {
        let start = Instant::now();
        loop {
            let missing = match enough(self) {
                Ok(found) => return found,
                Err(missing) => missing,
            };
            let left = PATIENCE.saturating_sub(start.elapsed());
            match self.process.read_line(left) {
                Ok(line) => self.report(&line),
                Err(reason) => panic!("waited for {what}: {missing}: {reason}"),
            }
        }
    }

    /// Reads all reports that the bot has written by now.
    ///
    /// # Panics When the bot has reported an error or has ended.
    pub fn catch_up(&mut self) {
        while let Some(line) = self.process.try_read_line() {
            self.report(&line);
        }
    }

    /// Waits until a shard has received message `last`, and checks that all messages since the bot started are the
    /// numbers after `before`: complete, in order, none twice.
    pub fn wait_for_numbers(&mut self, shard: u32, before: u64, last: u64) {
        let what = format!("messages {} to {last} on shard {shard}", before + 1);
        self.wait(&what, |bot| match bot.shard(shard).numbers.last() {
            Some(&number) if number >= last => Ok(()),
            None if last == before => Ok(()),
            newest => Err(format!("the newest is {newest:?}")),
        });
        let numbers = &self.shard(shard).numbers;
        if let Some((at, expected)) = (0..numbers.len()).zip(before + 1..).find(|&(at, number)| numbers[at] != number) {
            let around = &numbers[at.saturating_sub(3)..numbers.len().min(at + 4)];
            panic!("shard {shard}: message {at} of the bot's life should be number {expected}; around it: {around:?}");
        }
    }

    /// Requests all members of a guild (op 8). Returns the number of members in the answer.
    pub fn request_members(&mut self, guild: &str) -> u64 {
        let before = self.members.len();
        self.command(&json!({"cmd": "members", "guild": guild}));
        self.wait(&format!("the members of guild {guild}"), |bot| {
            let answer = bot.members[before..].iter().find(|(id, _)| id == guild);
            answer.map(|&(_, count)| count).ok_or_else(|| "no answer".to_owned())
        })
    }

    /// Returns what the library's own cache has about a guild; `None`: the library does not know the guild.
    pub fn cache(&mut self, guild: &str) -> Option<View> {
        let before = self.caches.len();
        self.command(&json!({"cmd": "cache", "guild": guild}));
        self.wait(&format!("what the library holds of guild {guild}"), |bot| {
            let answer = bot.caches[before..].iter().find(|(id, _)| id == guild);
            answer.map(|(_, view)| view.clone()).ok_or_else(|| "no answer".to_owned())
        })
    }

    /// For each acknowledged heartbeat that the bot has reported: whether the acknowledgement came before the library
    /// had recorded that it sent the heartbeat, and the milliseconds since it was sent.
    pub fn acknowledged(&self) -> &[(bool, f64)] {
        &self.acknowledged
    }

    /// Sets the presence of all shards (op 3).
    pub fn set_presence(&mut self, status: &str, name: &str) {
        self.command(&json!({"cmd": "presence", "status": status, "name": name}));
    }

    /// Lets the library join a voice channel, and waits until it takes itself for connected.
    pub fn join_voice(&mut self, guild: &str, channel: &str) {
        let before = self.voice.len();
        self.command(&json!({"cmd": "voice", "guild": guild, "channel": channel}));
        self.wait(&format!("the voice connection of guild {guild}"), |bot| {
            let connected = bot.voice[before..].iter().any(|(of, state)| of == guild && state == "connected");
            if connected { Ok(()) } else { Err(format!("{:?}", &bot.voice[before..])) }
        });
    }

    /// Lets the library leave the voice channel of a guild.
    pub fn leave_voice(&mut self, guild: &str) {
        self.command(&json!({"cmd": "voice", "guild": guild, "channel": null}));
    }

    /// The newest state of a guild's voice connection that it has reported.
    pub fn voice(&self, guild: &str) -> Option<&str> {
        self.voice.iter().rfind(|(of, _)| of == guild).map(|(_, state)| &**state)
    }

    /// Makes the library drop the connection of a shard and RESUME.
    pub fn reconnect(&mut self, shard: u32) {
        self.command(&json!({"cmd": "reconnect", "shard": shard}));
    }

    /// Kills the bot. Its connections end without a close frame.
    pub fn kill(mut self) {
        self.process.kill();
    }

    fn command(&mut self, command: &Value) {
        self.process.write_line(&command.to_string());
    }

    /// Processes one line of the bot's output.
    fn report(&mut self, line: &str) {
        let report = serde_json::from_str(line);
        let report = report.unwrap_or_else(|error| panic!("the bot printed what is not a report: {line}: {error}"));
        match report {
            Report::Error { .. } if self.tolerant => {}
            Report::Error { .. } => panic!("the bot reported an error: {line}"),
            Report::Acknowledged { early, ms } => self.acknowledged.push((early, ms)),
            Report::Cache { guild, view } => self.caches.push((guild, view)),
            Report::Voice { guild, state } => self.voice.push((guild, state)),
            Report::Members { guild, count } => self.members.push((guild, count)),
            Report::Ready { shard, guilds } => self.known(shard).ready.push(guilds),
            Report::Guild { shard, id, members, unavailable, join } => {
                let shard = self.known(shard);
                if join {
                    shard.joined.push(id.clone());
                }
                shard.arrivals.push(id.clone());
                shard.guilds.insert(id, Guild { members, unavailable });
            }
            Report::Message { shard, n } => self.known(shard).numbers.push(n),
            Report::Reconnecting { shard } => self.known(shard).reconnecting += 1,
            Report::Resumed { shard } => self.known(shard).resumed += 1,
        }
    }

    fn known(&mut self, shard: u32) -> &mut Shard {
        self.shards.get_mut(&shard).unwrap_or_else(|| panic!("the bot has a shard {shard} that it was not told to run"))
    }
}

/// A line of a bot's output, as tests/clients/README.md describes it.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Report {
    Ready { shard: u32, guilds: BTreeSet<String> },
    Guild { shard: u32, id: String, members: Option<u64>, unavailable: bool, join: bool },
    Message { shard: u32, n: u64 },
    Members { guild: String, count: u64 },
    Cache { guild: String, view: Option<View> },
    Acknowledged { early: bool, ms: f64 },
    Voice { guild: String, state: String },
    Reconnecting { shard: u32 },
    Resumed { shard: u32 },
    Error {},
}

/// Where and how a bot connects.
#[derive(Clone, Copy, Default)]
pub struct Settings<'a> {
    /// The gateway, `ws://…`, without a slash at its end.
    pub gateway: &'a str,
    /// The base of the REST API, `http://…/api`.
    pub api: &'a str,
    /// Whether the bot has to find the gateway through the REST API.
    pub rest_only: bool,
    /// `none`, `zlib-stream`, `zstd-stream`, or empty for the library's default.
    pub compress: &'a str,
    /// The intents that the library is given; `None`: all that the proxy of the tests has. What a library caches by
    /// default follows from its intents.
    pub intents: Option<u64>,
    /// Milliseconds between two heartbeats, for libraries that let the bot choose (discord.py); 0: the interval in
    /// HELLO.
    pub heartbeat_ms: u64,
    /// A certificate for Node.js and Python to trust, for `wss://`.
    pub ca: Option<&'a Path>,
}

/// Runs `scripts/clients-setup` for one library, or for a name of [`packages`].
///
/// # Panics When it can not be installed.
pub fn install(packages: &str) {
    let script = root().join("scripts/clients-setup");
    let output = Command::new(&script).arg(packages).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", script.display()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{packages} cannot be installed: {}\n{said}", output.status);
}

/// The command that runs the bot of a library with installed packages.
fn program(library: &str, packages: &str) -> Command {
    let source = root().join("tests/clients").join(library);
    let installed: PathBuf = root().join("target/clients").join(packages.replace('/', "-"));
    if source.join("bot.js").exists() {
        let mut command = Command::new("node");
        command.env("NODE_PATH", installed.join("node_modules")).arg(source.join("bot.js"));
        command
    } else if source.join("bot.py").exists() {
        let mut command = Command::new(installed.join("venv/bin/python"));
        // Otherwise Python would write its caches among the sources.
        command.env("PYTHONDONTWRITEBYTECODE", "1").arg(source.join("bot.py"));
        command
    } else if source.join("maven.sha256").exists() {
        let mut command = Command::new("java");
        // These options make Java start quickly and use little memory, because several bots run at the same time.
        command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx512m", "-cp"]);
        command.arg(format!("{0}/classes:{0}/lib/*", installed.display()));
        command.arg(if source.join("Bot.kt").exists() { "BotKt" } else { "Bot" });
        command
    } else if source.join("go.sum").exists() {
        Command::new(installed.join("bot"))
    } else {
        Command::new(installed.join("debug").join(format!("test-client-{library}")))
    }
}
