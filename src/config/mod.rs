//! Reads `config.json` and the environment into a checked [`Config`].
//!
//! Promises: an error names the file, the key, the value and what is expected. An unknown key causes a warning with the
//! nearest known key. The token is in no error and no debug output.

mod clients;
mod error;
mod group;
mod network;
mod operators;
mod presence;
mod reader;
mod token;

#[cfg(test)]
mod tests;

use crate::{cache::Flags, compression::Transport, downstream::credential::Credentials, protocol::denied::Denied};
pub use error::{ConfigError, ShardRangeError};
pub use group::{INDEX_VARIABLE, ShardGroup};
pub use network::{AdminAddress, Network};
pub use operators::{Differences, LogFormat, Watchdog};
use presence::Presence;
use reader::Reader;
use serde_json::{Map, Value, value::RawValue};
use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::{Path, PathBuf},
    string::FromUtf8Error,
    time::Duration,
};
pub use token::{Token, from_environment as token_from_environment};

/// The variable whose value takes precedence over `token` of the file.
pub const TOKEN_VARIABLE: &str = "TOKEN";
/// Most shards of a bot; no real bot has as many.
pub const MAX_SHARDS: u64 = 1 << 16;
/// Largest value of `intents`: JSON numbers are exact up to here.
const MAX_INTENTS: u64 = (1 << 53) - 1;
/// Bounds of `resume_buffer`, in bytes.
const RESUME_BUFFER: (u64, u64) = (64 << 10, 4 << 30);

/// Bounds of `client_memory`, in bytes.
const CLIENT_MEMORY: (u64, u64) = (16 << 20, 1 << 40);
/// Bounds of `client_memory_per_address`, in bytes.
const CLIENT_MEMORY_PER_ADDRESS: (u64, u64) = (1 << 20, 1 << 40);
/// Bounds of `backpressure`, in events.
const BACKPRESSURE: (u64, u64) = (1, 1 << 16);

/// The byte order mark, with which some editors begin a UTF-8 file.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// How many data cores there are, and on which CPUs they run (`cores`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cores {
    /// As many data cores as the shards need, on CPUs of the process's affinity mask. The control core's CPU comes
    /// last.
    Default,
    /// This number of data cores.
    Count(usize),
    /// A data core on each of these CPUs, by CPU id.
    Cpus(Vec<usize>),
}

/// The checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Filter of the log: a level, or directives of `tracing`.
    pub log_level: String,
    /// Format of the log's lines.
    pub log_format: LogFormat,
    /// The bot's token.
    pub token: Token,
    /// Intents that shards identify with (docs: Gateway, Gateway Intents).
    pub intents: u64,
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Number of shards of the bot; `None`: the number that Discord recommends.
    pub shards: Option<u32>,
    /// First shard of this proxy; `None`: shard 0.
    pub shard_start: Option<u32>,
    /// First shard behind those of this proxy; `None`: the number of shards of the bot.
    pub shard_end: Option<u32>,
    /// The part of the shards that this proxy serves, when several proxies share them. `shard_start` and `shard_end`
    /// are `None` then.
    pub shard_group: Option<ShardGroup>,
    /// URL, without a slash at its end, of a queue from which each shard needs a permit to identify, besides the permit
    /// of the proxy's own queue.
    pub identify_queue: Option<String>,
    presence: Presence,
    /// How many of a shard's newest events are kept for lagging clients, even when they are larger than
    /// `resume_buffer`.
    pub backpressure: usize,
    /// Clients have to show the bot's token.
    pub validate_token: bool,
    /// `host:port` of a plain HTTP proxy through which GET `/gateway/bot` goes; `None`: it goes to Discord.
    pub twilight_http_proxy: Option<String>,
    /// `host:port` of a plain HTTP proxy to which clients' requests for Discord's API are forwarded; `None`: they are
    /// refused.
    pub rest_proxy: Option<String>,
    /// Requests without the bot's token are forwarded to `rest_proxy`, if their path carries a token, as those of
    /// interactions do.
    pub rest_proxy_without_token: bool,
    /// Everyone who can reach the port may use the bot. Only required when `validate_token` is false and `host` is not
    /// a loopback address.
    pub trust_network: bool,
    /// Values of `Origin` with which web pages may send requests. Bots send no `Origin`.
    pub allowed_origins: Vec<String>,
    /// Values of `Host` that HTTP requests may have, besides addresses and names of private networks.
    pub allowed_hosts: Vec<String>,
    /// The gateway URL that is given to clients, without a slash at its end.
    pub externally_accessible_url: String,
    /// The parts of guilds that are cached.
    pub cache: Flags,
    /// Shards ask Discord for the members of guilds that the cache does not know. `cache` then has members, and `intents`
    /// the intent GUILD_MEMBERS.
    pub prefetch_members: bool,
    /// The CPUs that the data cores run on.
    pub cores: Cores,
    /// CPU id of the control core; `None`: the proxy chooses one.
    pub control_core: Option<usize>,
    /// Transport compression of the shards' connections to Discord.
    pub upstream_compression: Transport,
    /// How long a client can resume its session after its connection has ended.
    pub resume_window: Duration,
    /// Bytes of events that each shard keeps for clients that lag or resume.
    pub resume_buffer: usize,
    /// Directory for the state that one process leaves for the next one; `None`: no state is kept.
    pub state_dir: Option<PathBuf>,
    /// Accepts a `state_dir` that other users can write to, or in whose place they can put another directory.
    pub trust_state_dir: bool,
    /// Each client gets only the events that its intents select.
    pub honor_client_intents: bool,
    /// Events that no client gets (`events.deny`).
    pub denied: Denied,
    /// Clients may have their payloads compressed. When false, payloads are never compressed, whatever a client asks
    /// for.
    pub client_compression: bool,
    /// The token that requests to operators' routes have to show. `None`: the routes that only show something need no
    /// token, and those that change something are restricted.
    pub http_token: Option<Token>,
    /// The file is read again when it changes.
    pub reload_on_change: bool,
    /// What happens to a shard that gets no events any more.
    pub watchdog: Watchdog,
    /// See [`Config::voice_grace`]; `None`: the key is missing.
    voice_grace: Option<Duration>,
    /// Shards join their voice channels again after Discord's session was lost (`voice_after_loss`).
    pub voice_rejoin: bool,
    /// Host names that shards may connect to, each with its subdomains; empty: any host.
    pub gateway_hosts: Vec<String>,
    /// Opcodes of commands that are passed on to Discord, besides those of
    /// [`command::forward`](crate::protocol::command::forward).
    pub forward_opcodes: Vec<u64>,
    /// Bytes that the connections of all clients may take; `None`: a part of the memory that the process may use.
    pub client_memory: Option<u64>,
    /// Bytes that the connections of the clients of one address may take; `None`: three quarters of `client_memory`,
    /// and all of it for the machine of the proxy.
    pub client_memory_per_address: Option<u64>,
    /// What clients without the bot's token may see and do (`clients`).
    pub clients: Credentials,
    /// Address of the operators' routes; `None`: they are served at `listen`.
    pub admin_listen: Option<AdminAddress>,
    /// Networks whose connections have to begin with a header of the PROXY protocol.
    pub proxy_protocol_from: Vec<Network>,
    /// Networks whose `X-Forwarded-For` is believed.
    pub forwarded_for_from: Vec<Network>,
    /// The token is in the configuration file.
    holds_token: bool,
}

impl Config {
    /// How long the bot stays in a voice channel after the connection of the client that joined it has ended:
    /// `voice_grace`, or without that key as long as the client can resume.
    pub fn voice_grace(&self) -> Duration {
        self.voice_grace.unwrap_or(self.resume_window)
    }

    /// Reads a configuration file. `token` is the one that the process was given ([`token_from_environment`]). The
    /// second value is the list of warnings.
    pub fn load(path: &Path, token: Option<String>) -> Result<(Self, Vec<String>), ConfigError> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Unreadable { file: name.clone(), source })?;
        let (config, mut warnings) = Self::parse(&name, &decode(&name, bytes)?, token)?;
        if config.holds_token {
            warnings.extend(token::warn_of_readers(&name, path));
        }
        Ok((config, warnings))
    }

    /// Reads the text of a configuration file called `name`, with or without a byte order mark. `token` is the one that
    /// the process was given ([`token_from_environment`]). The second value is the list of warnings.
    pub fn parse(name: &str, text: &str, token: Option<String>) -> Result<(Self, Vec<String>), ConfigError> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let object: Map<String, Value> = match serde_json::from_str(text) {
            Ok(Value::Object(object)) => object,
            Ok(_) => return Err(ConfigError::NotObject { file: name.into() }),
            Err(source) => return Err(ConfigError::NotJson { file: name.into(), source }),
        };
        let mut reader = Reader::new(name, "", object);
        let holds_token = reader.has("token");
        let (token, token_warning) = token::read(&mut reader, name, token)?;
        let expected = "the sum of the gateway intents of the bot, such as 513";
        let missing = || ConfigError::Missing { file: name.into(), key: "intents", expected };
        let intents = reader.number("intents", (0, MAX_INTENTS))?.ok_or_else(missing)?;
        let port = reader.number("port", (1, 65_535))?.unwrap_or(7878) as u16;
        let (names_host, host) = (reader.has("host"), read_host(&mut reader)?);
        // `shard_group` is read first, because it must not be set beside `shard_start` and `shard_end`.
        let environment = group::Environment::of_process();
        let shard_group = group::read_shard_group(&mut reader, name, &environment)?;
        let (shards, shard_start, shard_end) = read_shards(&mut reader, name)?;
        let (cache, mut warnings) = read_cache(&mut reader, name)?;
        let (denied, unknown_events) = operators::read_events(&mut reader, name)?;
        let (clients, unknown_keys) = clients::read(&mut reader, name)?;
        warnings.extend(unknown_events.into_iter().chain(unknown_keys).chain(token_warning));
        let config = Self {
            log_level: reader.string("log_level", "a level such as \"info\"")?.unwrap_or_else(|| "info".into()),
            log_format: operators::read_log_format(&mut reader)?,
            token,
            intents,
            listen: SocketAddr::new(host, port),
            shards,
            shard_start,
            shard_end,
            shard_group,
            identify_queue: group::read_identify_queue(&mut reader)?,
            presence: read_presence(&mut reader)?,
            backpressure: reader.number("backpressure", BACKPRESSURE)?.unwrap_or(100) as usize,
            validate_token: reader.bool("validate_token", true)?,
            twilight_http_proxy: read_proxy(&mut reader, "twilight_http_proxy")?,
            rest_proxy: read_proxy(&mut reader, "rest_proxy")?,
            rest_proxy_without_token: reader.bool("rest_proxy_without_token", false)?,
            trust_network: reader.bool("trust_network", false)?,
            allowed_origins: reader
                .strings("allowed_origins", "a list of origins such as [\"https://example.com\"]")?,
            allowed_hosts: reader.strings("allowed_hosts", "a list of host names such as [\"proxy.example.com\"]")?,
            externally_accessible_url: read_url(&mut reader, port, shard_group, &environment)?,
            cache,
            prefetch_members: operators::read_prefetch(&mut reader, cache, intents)?,
            cores: read_cores(&mut reader)?,
            control_core: reader.number("control_core", (0, 1 << 16))?.map(|cpu| cpu as usize),
            upstream_compression: read_compression(&mut reader)?,
            resume_window: Duration::from_secs(reader.number("resume_window", (0, 3600))?.unwrap_or(120)),
            resume_buffer: reader.number("resume_buffer", RESUME_BUFFER)?.unwrap_or(16 << 20) as usize,
            state_dir: read_state_dir(&mut reader)?,
            trust_state_dir: reader.bool("trust_state_dir", false)?,
            honor_client_intents: reader.bool("honor_client_intents", true)?,
            denied,
            client_compression: reader.bool("client_compression", true)?,
            http_token: operators::read_http_token(&mut reader)?,
            reload_on_change: reader.bool("reload_on_change", true)?,
            watchdog: operators::read_watchdog(&mut reader)?,
            voice_grace: reader.number("voice_grace", (0, 3600))?.map(Duration::from_secs),
            voice_rejoin: read_after_loss(&mut reader)?,
            gateway_hosts: reader.strings("gateway_hosts", "a list of host names such as [\"discord.gg\"]")?,
            forward_opcodes: read_opcodes(&mut reader)?,
            client_memory: reader.number("client_memory", CLIENT_MEMORY)?,
            client_memory_per_address: reader.number("client_memory_per_address", CLIENT_MEMORY_PER_ADDRESS)?,
            clients,
            admin_listen: network::read_admin_listen(&mut reader)?,
            proxy_protocol_from: network::read_networks(&mut reader, "proxy_protocol_from")?,
            forwarded_for_from: network::read_networks(&mut reader, "forwarded_for_from")?,
            holds_token,
        };
        warnings.extend(reader.unknown());
        warnings.extend(clients::check(&config, name)?);
        warnings.extend(operators::warn_of_open_port(&config, name, names_host));
        Ok((config, warnings))
    }

    /// The shards of this proxy, if Discord recommends `recommended` shards for the bot. The error says why there are
    /// none.
    pub fn shard_range(&self, recommended: u32) -> Result<Range<u32>, ShardRangeError> {
        let count = self.shards.unwrap_or(recommended);
        if let Some(group) = self.shard_group {
            let range = group.range(count);
            return if range.is_empty() {
                Err(ShardRangeError::EmptyPart { of: group.of, count, index: group.index })
            } else {
                Ok(range)
            };
        }
        let range = self.shard_start.unwrap_or(0)..self.shard_end.unwrap_or(count);
        if range.is_empty() || range.end > count {
            return Err(ShardRangeError::NoRange { start: range.start, end: range.end, count });
        }
        Ok(range)
    }

    /// The presence that a shard identifies with.
    pub fn presence_for(&self, shard: u32) -> Box<RawValue> {
        self.presence.for_shard(shard)
    }
}

/// Decodes the bytes of a file called `name`. If they are not UTF-8, the error says what they are.
fn decode(name: &str, bytes: Vec<u8>) -> Result<String, ConfigError> {
    // A JSON text begins with an ASCII character. A zero byte beside it means that each character has two bytes.
    let is_utf16 = matches!(bytes[..], [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, ..] | [_, 0, ..]);
    if is_utf16 {
        return Err(ConfigError::Utf16 { file: name.into() });
    }
    let byte = |error: &FromUtf8Error| error.utf8_error().valid_up_to() + 1;
    String::from_utf8(bytes).map_err(|error| ConfigError::NotUtf8 { file: name.into(), byte: byte(&error) })
}

fn read_host(reader: &mut Reader) -> Result<IpAddr, ConfigError> {
    const EXPECTED: &str = "an IP address to listen on, such as \"0.0.0.0\" or \"127.0.0.1\"";
    let host = reader.string("host", EXPECTED)?.unwrap_or_else(|| "0.0.0.0".into());
    host.parse().map_err(|_| reader.error("host", &host.into(), EXPECTED))
}

type Shards = (Option<u32>, Option<u32>, Option<u32>);

fn read_shards(reader: &mut Reader, name: &str) -> Result<Shards, ConfigError> {
    let mut number = |key, least| reader.number(key, (least, MAX_SHARDS)).map(|value| value.map(|value| value as u32));
    let (shards, start, end) = (number("shards", 1)?, number("shard_start", 0)?, number("shard_end", 1)?);
    if let (Some(from), Some(to)) = (start.or(Some(0)), end.or(shards))
        && (from >= to || shards.is_some_and(|count| to > count))
    {
        return Err(ConfigError::ShardRange { file: name.into(), start: from, end: to, shards });
    }
    Ok((shards, start, end))
}

fn read_presence(reader: &mut Reader) -> Result<Presence, ConfigError> {
    const STATUS: &str = "one of \"online\", \"idle\", \"dnd\", \"invisible\", \"offline\"";
    let status = reader.string("status", STATUS)?.unwrap_or_else(|| "online".into());
    if !matches!(status.as_str(), "online" | "idle" | "dnd" | "invisible" | "offline") {
        return Err(reader.error("status", &status.into(), STATUS));
    }
    let activity = match reader.take("activity") {
        None => None,
        Some(value) => Some(serde_json::from_value(value.clone()).map_err(|error| {
            reader.error(
                "activity",
                &value,
                &format!("an activity such as {{\"name\": \"chess\", \"type\": 0}} ({error})"),
            )
        })?),
    };
    Ok(Presence { activity, status })
}

fn read_proxy(reader: &mut Reader, key: &'static str) -> Result<Option<String>, ConfigError> {
    const EXPECTED: &str = "host:port of a plain HTTP proxy for Discord's API, such as \"127.0.0.1:3000\"";
    let Some(proxy) = reader.string(key, EXPECTED)? else { return Ok(None) };
    let good = proxy.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        !host.is_empty() && host.bytes().all(plain) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good { Ok(Some(proxy)) } else { Err(reader.error(key, &proxy.into(), EXPECTED)) }
}

fn read_url(
    reader: &mut Reader,
    port: u16,
    group: Option<ShardGroup>,
    environment: &group::Environment,
) -> Result<String, ConfigError> {
    const KEY: &str = "externally_accessible_url";
    const EXPECTED: &str = "a ws:// or wss:// URL without query, which is how clients reach this proxy";
    const NO_INDEX: &str = "a URL without {{index}}, because there is no `shard_group`";
    let Some(url) = reader.string(KEY, EXPECTED)? else { return Ok(format!("ws://localhost:{port}")) };
    let url = environment.fill_in(&url, group).ok_or_else(|| reader.error(KEY, &url.into(), NO_INDEX))?;
    let good = !url.contains(['?', '#', '"', '\\']) && crate::websocket::Endpoint::parse(&url).is_ok();
    // No slash at the end: some libraries append `/?v=10` to the URL.
    if good { Ok(url.trim_end_matches('/').to_owned()) } else { Err(reader.error(KEY, &url.into(), EXPECTED)) }
}

fn read_state_dir(reader: &mut Reader) -> Result<Option<PathBuf>, ConfigError> {
    const EXPECTED: &str = "a directory for state files, which is made when it is missing";
    match reader.string("state_dir", EXPECTED)? {
        Some(path) if path.is_empty() => Err(reader.error("state_dir", &path.into(), EXPECTED)),
        path => Ok(path.map(PathBuf::from)),
    }
}

fn read_after_loss(reader: &mut Reader) -> Result<bool, ConfigError> {
    const EXPECTED: &str = "\"leave\" or \"rejoin\": what becomes of voice channels when Discord's session was lost";
    match reader.string("voice_after_loss", EXPECTED)?.as_deref() {
        None | Some("leave") => Ok(false),
        Some("rejoin") => Ok(true),
        Some(other) => Err(reader.error("voice_after_loss", &other.into(), EXPECTED)),
    }
}

fn read_opcodes(reader: &mut Reader) -> Result<Vec<u64>, ConfigError> {
    const KEY: &str = "forward_opcodes";
    const EXPECTED: &str = "a list of opcodes of commands that this version does not know, such as [44]";
    let Some(value) = reader.take(KEY) else { return Ok(Vec::new()) };
    let opcodes: Option<Vec<u64>> = serde_json::from_value(value.clone()).ok();
    // Opcodes 0 to 11 belong to the protocol.
    opcodes
        .filter(|opcodes| opcodes.iter().all(|opcode| (12..=255).contains(opcode)))
        .ok_or_else(|| reader.error(KEY, &value, EXPECTED))
}

fn read_compression(reader: &mut Reader) -> Result<Transport, ConfigError> {
    const EXPECTED: &str = "\"zstd-stream\", \"zlib-stream\" or \"none\"";
    match reader.string("upstream_compression", EXPECTED)? {
        None => Ok(Transport::Zstd),
        Some(name) if name == "none" => Ok(Transport::None),
        Some(name) => {
            Transport::from_name(&name).ok_or_else(|| reader.error("upstream_compression", &name.into(), EXPECTED))
        }
    }
}

fn read_cores(reader: &mut Reader) -> Result<Cores, ConfigError> {
    const EXPECTED: &str = "a number of cores from 1 to 1024, or a list of CPU ids such as [1, 2, 3]";
    let Some(value) = reader.take("cores") else { return Ok(Cores::Default) };
    let cores = match &value {
        Value::Number(count) => {
            count.as_u64().filter(|count| (1..=1024).contains(count)).map(|n| Cores::Count(n as usize))
        }
        Value::Array(cpus) if !cpus.is_empty() && cpus.len() <= 1024 => {
            let cpus: Option<Vec<usize>> = cpus.iter().map(|cpu| cpu.as_u64().map(|cpu| cpu as usize)).collect();
            cpus.map(Cores::Cpus)
        }
        _ => None,
    };
    cores.ok_or_else(|| reader.error("cores", &value, EXPECTED))
}

fn read_cache(reader: &mut Reader, name: &str) -> Result<(Flags, Vec<String>), ConfigError> {
    let object = match reader.take("cache") {
        None => {
            let flags = Flags { channels: true, roles: true, current_member: true, ..Flags::default() };
            return Ok((flags, Vec::new()));
        }
        Some(Value::Object(object)) => object,
        Some(value) => {
            return Err(reader.error("cache", &value, "an object of flags such as {\"channels\": true}"));
        }
    };
    let mut inner = Reader::new(name, "cache.", object);
    let mut flags = Flags {
        channels: inner.bool("channels", false)?,
        presences: inner.bool("presences", false)?,
        emojis: inner.bool("emojis", false)?,
        current_member: inner.bool("current_member", false)?,
        members: inner.bool("members", false)?,
        roles: inner.bool("roles", false)?,
        scheduled_events: inner.bool("scheduled_events", false)?,
        stage_instances: inner.bool("stage_instances", false)?,
        stickers: inner.bool("stickers", false)?,
        voice_states: inner.bool("voice_states", false)?,
        ..Flags::default()
    };
    flags.users = inner.bool("users", flags.members)?;
    let mut warnings = Vec::new();
    if flags.members && !flags.users {
        flags.users = true;
        warnings.push(format!(
            "{name}: `cache.users` is false, but `cache.members` is true and no library can read a member without its user: \
             users are kept; leave `cache.users` out, or set `cache.members` to false to save their memory"
        ));
    } else if flags.users && !flags.members && !flags.presences {
        warnings.push(format!(
            "{name}: `cache.users` is true without effect: users are kept with `cache.members`, and the bot's own always is"
        ));
    }
    warnings.extend(inner.unknown());
    Ok((flags, warnings))
}
