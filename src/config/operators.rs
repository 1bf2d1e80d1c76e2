//! The keys for operators, and the effect of a changed file while the proxy runs.
//!
//! A changed key either takes effect when the file is read again ([`Config::adopt`]) or needs a restart.
//! [`Config::differences`] has every key in one of the two lists. docs/operations.md names both lists.

use super::{AdminAddress, Config, ConfigError, reader::Reader, token::Token};
use crate::{
    cache::Flags,
    protocol::{
        denied::{Denied, NEEDED},
        event::EventKind,
        intents::Intents,
    },
};
use serde_json::Value;

/// Shortest and longest `http_token`, in characters.
const HTTP_TOKEN: (usize, usize) = (16, 256);

/// The keys whose values in a new file differ from those of the running proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Keys that take effect without a restart.
    pub live: Vec<&'static str>,
    /// Keys that need a restart.
    pub restart: Vec<&'static str>,
}

impl Config {
    /// Compares the running configuration with a new one.
    pub fn differences(&self, new: &Self) -> Differences {
        let same_http_token = match (&self.http_token, &new.http_token) {
            (Some(old), Some(new)) => old.matches(new.bare()),
            (old, new) => old.is_none() && new.is_none(),
        };
        let live = [
            ("log_level", self.log_level == new.log_level),
            ("activity", self.presence.activity == new.presence.activity),
            ("status", self.presence.status == new.presence.status),
            ("backpressure", self.backpressure == new.backpressure),
            ("resume_buffer", self.resume_buffer == new.resume_buffer),
            ("resume_window", self.resume_window == new.resume_window),
            ("voice_grace", self.voice_grace == new.voice_grace),
            ("honor_client_intents", self.honor_client_intents == new.honor_client_intents),
            ("events", self.denied == new.denied),
            ("client_compression", self.client_compression == new.client_compression),
            ("http_token", same_http_token),
            ("clients", self.clients == new.clients),
            ("watchdog", self.watchdog == new.watchdog),
            ("reload_on_change", self.reload_on_change == new.reload_on_change),
        ];
        let restart = [
            ("token", self.token.matches(new.token.bare())),
            ("intents", self.intents == new.intents),
            ("host", self.listen.ip() == new.listen.ip()),
            ("port", self.listen.port() == new.listen.port()),
            ("log_format", self.log_format == new.log_format),
            ("shard_group", self.shard_group == new.shard_group),
            ("identify_queue", self.identify_queue == new.identify_queue),
            ("shards", self.shards == new.shards),
            ("shard_start", self.shard_start == new.shard_start),
            ("shard_end", self.shard_end == new.shard_end),
            ("validate_token", self.validate_token == new.validate_token),
            ("twilight_http_proxy", self.twilight_http_proxy == new.twilight_http_proxy),
            ("rest_proxy", self.rest_proxy == new.rest_proxy),
            ("rest_proxy_without_token", self.rest_proxy_without_token == new.rest_proxy_without_token),
            ("trust_network", self.trust_network == new.trust_network),
            ("allowed_origins", self.allowed_origins == new.allowed_origins),
            ("allowed_hosts", self.allowed_hosts == new.allowed_hosts),
            ("externally_accessible_url", self.externally_accessible_url == new.externally_accessible_url),
            ("cache", self.cache == new.cache),
            ("prefetch_members", self.prefetch_members == new.prefetch_members),
            ("cores", self.cores == new.cores),
            ("control_core", self.control_core == new.control_core),
            ("upstream_compression", self.upstream_compression == new.upstream_compression),
            ("state_dir", self.state_dir == new.state_dir),
            ("trust_state_dir", self.trust_state_dir == new.trust_state_dir),
            ("voice_after_loss", self.voice_rejoin == new.voice_rejoin),
            ("gateway_hosts", self.gateway_hosts == new.gateway_hosts),
            ("forward_opcodes", self.forward_opcodes == new.forward_opcodes),
            ("client_memory", self.client_memory == new.client_memory),
            ("client_memory_per_address", self.client_memory_per_address == new.client_memory_per_address),
            ("admin_listen", self.admin_listen == new.admin_listen),
            ("proxy_protocol_from", self.proxy_protocol_from == new.proxy_protocol_from),
            ("forwarded_for_from", self.forwarded_for_from == new.forwarded_for_from),
        ];
        let changed = |keys: &[(&'static str, bool)]| {
            keys.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect::<Vec<_>>()
        };
        Differences { live: changed(&live), restart: changed(&restart) }
    }

    /// Takes over the keys of a new configuration that need no restart.
    pub fn adopt(&mut self, new: &Self) {
        self.log_level.clone_from(&new.log_level);
        self.presence = new.presence.clone();
        self.backpressure = new.backpressure;
        self.resume_buffer = new.resume_buffer;
        self.resume_window = new.resume_window;
        self.voice_grace = new.voice_grace;
        self.honor_client_intents = new.honor_client_intents;
        self.denied = new.denied.clone();
        self.client_compression = new.client_compression;
        self.http_token = new.http_token.clone();
        self.clients = new.clients.clone();
        self.watchdog = new.watchdog;
        self.reload_on_change = new.reload_on_change;
    }
}

/// Format of the log's lines (`log_format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// What happens to a shard that the watchdog finds sick (`watchdog`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watchdog {
    /// Shards are not watched.
    Off,
    /// Log, metrics and `/status.json` name the shard.
    Warn,
    /// The shard is also repaired, by a RESUME and then by an IDENTIFY.
    Reconnect,
}

/// Reads `watchdog`.
pub(super) fn read_watchdog(reader: &mut Reader) -> Result<Watchdog, ConfigError> {
    const EXPECTED: &str = "\"warn\", \"reconnect\" or \"off\": what happens to a shard that gets no events any more";
    match reader.string("watchdog", EXPECTED)?.as_deref() {
        None | Some("warn") => Ok(Watchdog::Warn),
        Some("reconnect") => Ok(Watchdog::Reconnect),
        Some("off") => Ok(Watchdog::Off),
        Some(other) => Err(reader.error("watchdog", &other.into(), EXPECTED)),
    }
}

/// Reads `log_format`.
pub(super) fn read_log_format(reader: &mut Reader) -> Result<LogFormat, ConfigError> {
    const EXPECTED: &str = "\"text\" or \"json\"";
    match reader.string("log_format", EXPECTED)?.as_deref() {
        None | Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(reader.error("log_format", &other.into(), EXPECTED)),
    }
}

/// Reads `prefetch_members`.
pub(super) fn read_prefetch(reader: &mut Reader, cache: Flags, intents: u64) -> Result<bool, ConfigError> {
    const KEY: &str = "prefetch_members";
    if !reader.bool(KEY, false)? {
        return Ok(false);
    }
    let missing = if !cache.members {
        "`cache.members` to be true, because members that are not cached are of no use"
    } else if !Intents(intents).intersects(Intents::GUILD_MEMBERS) {
        "`intents` with GUILD_MEMBERS (2), without which Discord does not send all members of a guild"
    } else {
        return Ok(true);
    };
    Err(reader.error(KEY, &true.into(), missing))
}

/// Reads `events`. The second value is the list of warnings.
pub(super) fn read_events(reader: &mut Reader, name: &str) -> Result<(Denied, Vec<String>), ConfigError> {
    const EVENTS: &str = "an object such as {\"deny\": [\"TYPING_START\"]}";
    const DENY: &str = "a list of event types such as [\"TYPING_START\", \"PRESENCE_UPDATE\"]";
    let object = match reader.take("events") {
        None => return Ok((Denied::default(), Vec::new())),
        Some(Value::Object(object)) => object,
        Some(value) => return Err(reader.error("events", &value, EVENTS)),
    };
    let mut inner = Reader::new(name, "events.", object);
    let mut denied = Denied::default();
    let mut warnings = Vec::new();
    for event in inner.strings("deny", DENY)? {
        let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        if event.is_empty() || event.len() > 64 || !event.bytes().all(plain) {
            return Err(inner.error("deny", &event.into(), DENY));
        }
        if !denied.add(&event) {
            let needed = NEEDED.map(EventKind::name).join(", ");
            let expected = format!("event types that clients can do without, which {needed} are not");
            return Err(inner.error("deny", &event.into(), &expected));
        }
        if EventKind::from_name(event.as_bytes()) == EventKind::Other {
            warnings.push(format!(
                "{name}: `events.deny` names {event}, an event type that this version does not know: it is kept from clients if \
                 Discord sends it; check the spelling"
            ));
        }
    }
    warnings.extend(inner.unknown());
    Ok((denied, warnings))
}

/// Reads `http_token`.
pub(super) fn read_http_token(reader: &mut Reader) -> Result<Option<Token>, ConfigError> {
    const EXPECTED: &str = "16 to 256 letters, digits, `-`, `_`, `.` or `~` that nobody can guess, such as the output of `openssl rand -hex 32`";
    let Some(token) = reader.string("http_token", EXPECTED)? else { return Ok(None) };
    // The token is put into URLs and headers without escaping.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    if !(HTTP_TOKEN.0..=HTTP_TOKEN.1).contains(&token.len()) || !token.bytes().all(plain) {
        return Err(reader.error("http_token", &token.into(), EXPECTED));
    }
    Ok(Some(Token::new(&token)))
}

/// Warns when other machines can see the live page and the metrics without a token, or when `host` is not in the file.
pub(super) fn warn_of_open_port(config: &Config, name: &str, names_host: bool) -> Option<String> {
    if !names_host {
        return Some(format!(
            "{name}: `host` is missing, so the port is open on all addresses of this machine: set it to \"127.0.0.1\", or to \
             \"0.0.0.0\" when others shall reach it, and then `http_token`, too"
        ));
    }
    let (key, ip) = match &config.admin_listen {
        None => ("host", config.listen.ip()),
        Some(AdminAddress::Tcp(address)) => ("admin_listen", address.ip()),
        Some(AdminAddress::Unix(_)) => return None,
    };
    (config.http_token.is_none() && !ip.is_loopback()).then(|| {
        format!(
            "{name}: `{key}` is {ip} and `http_token` is missing, so whoever reaches the port sees /metrics, the live page and \
             /status.json: set `http_token`, or `{key}` to an address of this machine only"
        )
    })
}
