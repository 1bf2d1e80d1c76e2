//! The payloads that clients send: parsed, checked, and rebuilt so that they can be forwarded to Discord (docs:
//! Gateway Events, Send Events).
//!
//! Promises: [`forward`] only returns payloads that do not make Discord close the shard's connection for bad JSON or
//! for a malformed presence. `Debug` of [`Identify`] and [`Resume`] never shows a token. Never decides whether a
//! token, shard or session is the right one: the callers do.

pub use super::command_check::CommandError;
use super::{command_check::check, library::Library, opcode, token::bare};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};

/// Longest payload that a client may send, in bytes (docs: Gateway, Sending Events).
pub const MAX_COMMAND: usize = 4096;

/// A payload from a client, parsed down to its opcode. Other keys at the top level are ignored.
#[derive(Debug, Deserialize)]
pub struct Command<'a> {
    /// The opcode.
    pub op: u64,
    /// The data; `None` when missing or null.
    #[serde(borrow, default)]
    pub d: Option<&'a RawValue>,
}

/// A payload of a client has not the documented form. The error says no more, because the text of the JSON parser's
/// error quotes the payload, and so perhaps its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a payload of the documented form")]
pub struct Undocumented;

impl<'a> Command<'a> {
    /// Parses a payload. The connection of a client whose payload does not parse is closed with code 4002.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Undocumented> {
        serde_json::from_slice(payload).map_err(|_| Undocumented)
    }

    fn data<T: Deserialize<'a>>(&self) -> Result<T, Undocumented> {
        serde_json::from_str(self.d.map_or("null", RawValue::get)).map_err(|_| Undocumented)
    }

    /// The sequence that a heartbeat acknowledges. `None`: the client has not received a dispatch yet (`d` is missing
    /// or null) or `d` is not a sequence.
    pub fn heartbeat(&self) -> Option<u64> {
        self.data::<Option<u64>>().ok().flatten()
    }

    /// Parses the data of an IDENTIFY.
    pub fn identify(&self) -> Result<Identify, Undocumented> {
        self.data()
    }

    /// Parses the data of a RESUME.
    pub fn resume(&self) -> Result<Resume, Undocumented> {
        self.data()
    }
}

/// The data of a client's IDENTIFY: only the fields that the proxy uses (docs: Gateway Events, Identify).
#[derive(Clone, Deserialize)]
pub struct Identify {
    /// With or without `Bot `.
    pub token: String,
    /// Index and number of shards. A missing field or null means shard 0 of 1.
    #[serde(default = "only_shard", deserialize_with = "shard_or_null")]
    pub shard: (u32, u32),
    /// The requested intents. `None` (the field is missing, as API versions before 8 allow) means all events. Kord
    /// sends the number as a string of digits, so a string is accepted too.
    #[serde(default, deserialize_with = "number_or_digits")]
    pub intents: Option<u64>,
    /// Whether the client wants payload compression. The proxy ignores it when the URL asks for transport
    /// compression. A value that is no boolean asks for none: oceanic.js sends the name of its transport compression.
    #[serde(default, deserialize_with = "lenient")]
    pub compress: Option<bool>,
    /// What the library says of itself. What is no object says nothing.
    #[serde(default, deserialize_with = "lenient")]
    properties: Option<Map<String, Value>>,
}

fn only_shard() -> (u32, u32) {
    (0, 1)
}

/// Reads a shard, where null means the same as a missing field.
fn shard_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(u32, u32), D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(only_shard))
}

/// The data of a client's RESUME (docs: Gateway Events, Resume).
#[derive(Clone, Deserialize)]
pub struct Resume {
    /// With or without `Bot `.
    pub token: String,
    /// The session id from the READY that the proxy sent. `None`: the field is missing or not a string, so it names
    /// no session.
    #[serde(default, deserialize_with = "lenient")]
    pub session_id: Option<String>,
    /// The last sequence that the client has received. `None`: the field is missing or not a sequence, so the session
    /// can not be resumed.
    #[serde(default, deserialize_with = "lenient")]
    pub seq: Option<u64>,
}

/// Deserializes a number, or a string of digits. Null becomes `None`.
fn number_or_digits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Digits(String),
    }
    match Option::deserialize(deserializer)? {
        None => Ok(None),
        Some(Either::Number(number)) => Ok(Some(number)),
        Some(Either::Digits(digits)) => digits.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// Deserializes a `T`. A value of any other type becomes `None` instead of an error.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(deserializer)?).ok())
}

impl Identify {
    /// The library that the client is written with.
    pub fn library(&self) -> Library {
        self.properties.as_ref().map_or(Library::UNKNOWN, Library::from_properties)
    }

    /// The token without prefix.
    pub fn bare_token(&self) -> &str {
        bare(&self.token)
    }
}

impl Resume {
    /// The token without prefix.
    pub fn bare_token(&self) -> &str {
        bare(&self.token)
    }
}

// A token must not reach a log, so Debug leaves it out.
impl std::fmt::Debug for Identify {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identify").field("shard", &self.shard).field("intents", &self.intents).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Resume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resume").field("seq", &self.seq).finish_non_exhaustive()
    }
}

/// What the proxy does with a command of an identified client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forwarded {
    /// The proxy sends this payload to Discord.
    Payload(Vec<u8>),
    /// The proxy sends nothing: it answers this opcode itself, or only a server sends it.
    Nothing,
    /// The proxy sends nothing, because it does not know the opcode.
    Unknown,
}

/// Decides what the proxy does with a command of an identified client. A command for Discord is rebuilt as a new
/// payload ([`Forwarded::Payload`]). With an error the caller has to close the client with 4002.
///
/// Discord closes the shard's connection, which all clients share, for an opcode that Discord does not know (4001) and
/// for a payload that Discord can not parse (4002). So the proxy forwards only the documented commands of clients,
/// after a check of their data, and the opcodes in `further` (config key `forward_opcodes`), whose data only has to be
/// readable.
/// Each payload is written anew from the parsed parts. HEARTBEAT, IDENTIFY, RESUME and the opcodes that only a server
/// sends give [`Forwarded::Nothing`]. All other opcodes give [`Forwarded::Unknown`]. Discord would close the client
/// with 4001 for an unknown opcode. The proxy does not, because the client library hikari never reconnects after 4001,
/// and the opcode may be newer than this proxy.
pub fn forward(command: &Command<'_>, further: &[u64]) -> Result<Forwarded, CommandError> {
    let data = || command.d.map_or("null", RawValue::get);
    Ok(match command.op {
        opcode::DISPATCH
        | opcode::HEARTBEAT
        | opcode::IDENTIFY
        | opcode::RESUME
        | opcode::RECONNECT
        | opcode::INVALID_SESSION
        | opcode::HELLO
        | opcode::HEARTBEAT_ACK => Forwarded::Nothing,
        opcode::PRESENCE_UPDATE => {
            check(command.op, data())?;
            Forwarded::Payload(presence(command).ok_or(CommandError::NoPresence)?)
        }
        op @ (opcode::VOICE_STATE_UPDATE
        | opcode::REQUEST_GUILD_MEMBERS
        | opcode::REQUEST_SOUNDBOARD_SOUNDS
        | opcode::REQUEST_CHANNEL_INFO) => {
            check(op, data())?;
            Forwarded::Payload(format!(r#"{{"op":{op},"d":{}}}"#, data()).into_bytes())
        }
        op if further.contains(&op) => {
            check(op, data())?;
            Forwarded::Payload(format!(r#"{{"op":{op},"d":{}}}"#, data()).into_bytes())
        }
        _ => Forwarded::Unknown,
    })
}

/// Rebuilds an Update Presence with fields of the types that Discord requires. Discord closes the shard's connection,
/// which all clients share, when for example `activities` is null.
fn presence(command: &Command<'_>) -> Option<Vec<u8>> {
    let mut data: Map<String, Value> = serde_json::from_str(command.d?.get()).ok()?;
    let game = data.remove("game").filter(Value::is_object);
    let activities = match data.remove("activities") {
        Some(Value::Array(activities)) => activities,
        // API versions before 8 had a single `game` instead of `activities`, and some libraries still send it.
        _ => game.into_iter().collect(),
    };
    data.insert("activities".into(), Value::Array(activities));
    if !data.get("status").is_some_and(Value::is_string) {
        data.insert("status".into(), "online".into());
    }
    if !data.get("afk").is_some_and(Value::is_boolean) {
        data.insert("afk".into(), false.into());
    }
    if !data.get("since").is_some_and(Value::is_number) {
        data.insert("since".into(), Value::Null);
    }
    serde_json::to_vec(&serde_json::json!({"op": opcode::PRESENCE_UPDATE, "d": data})).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn identify_is_parsed_in_every_form_that_libraries_send() {
        let payload = br#"{"op":2,"compress":true,"d":{"token":"Bot x.y","v":10,"$os":1,"capabilities":3,"shard":[1,4],"intents":513,"compress":true}}"#;
        let identify = Command::parse(payload).unwrap().identify().unwrap();
        assert_eq!(
            (identify.bare_token(), identify.shard, identify.intents, identify.compress),
            ("x.y", (1, 4), Some(513), Some(true))
        );
        let identify = Command::parse(br#"{"op":2,"d":{"token":"x"}}"#).unwrap().identify().unwrap();
        assert_eq!((identify.shard, identify.intents), ((0, 1), None));
        for (intents, read) in [(r#""3276799""#, Some(3_276_799)), ("null", None), ("0", Some(0))] {
            let payload = format!(r#"{{"op":2,"d":{{"token":"x","intents":{intents}}}}}"#);
            assert_eq!(Command::parse(payload.as_bytes()).unwrap().identify().unwrap().intents, read, "{intents}");
        }
        for (compress, read) in [
            ("true", Some(true)),
            ("false", Some(false)),
            ("null", None),
            (r#""zlib-stream""#, None),
            ("1", None),
            ("[true]", None),
        ] {
            let payload = format!(r#"{{"op":2,"d":{{"token":"x","shard":null,"compress":{compress}}}}}"#);
            let identify = Command::parse(payload.as_bytes()).unwrap().identify().unwrap();
            assert_eq!((identify.compress, identify.shard), (read, (0, 1)), "{compress}");
        }
        for bad in [
            r#"{"op":2}"#,
            r#"{"op":2,"d":{}}"#,
            r#"{"op":2,"d":{"token":"x","shard":[1]}}"#,
            r#"{"op":2,"d":{"token":"x","shard":[-1,2]}}"#,
            r#"{"op":2,"d":{"token":"x","intents":"all"}}"#,
            r#"{"op":2,"d":{"token":"x","intents":-1}}"#,
            r#"{"op":2,"d":{"token":"x","intents":[1]}}"#,
        ] {
            assert!(Command::parse(bad.as_bytes()).unwrap().identify().is_err(), "{bad}");
        }
        assert!(!format!("{identify:?}").contains('x'));
    }

    #[test]
    fn a_resume_that_makes_no_sense_is_still_one() {
        let resume = |rest: &str| {
            let payload = format!(r#"{{"op":6,"d":{{"token":"x"{rest}}}}}"#);
            let resume = Command::parse(payload.as_bytes()).unwrap().resume().unwrap();
            (resume.session_id, resume.seq)
        };
        assert_eq!(resume(r#","session_id":"a","seq":5"#), (Some("a".into()), Some(5)));
        for odd in
            ["", r#","session_id":null,"seq":null"#, r#","session_id":7,"seq":"5""#, r#","seq":-1"#, r#","seq":1.5"#]
        {
            assert_eq!(resume(odd), (None, None), "{odd}");
        }
        assert!(Command::parse(br#"{"op":6,"d":{"session_id":"a"}}"#).unwrap().resume().is_err());
    }

    #[test]
    fn heartbeats_with_and_without_a_sequence() {
        let beat = |text: &str| Command::parse(text.as_bytes()).unwrap().heartbeat();
        assert_eq!(beat(r#"{"op":1,"d":17}"#), Some(17));
        assert_eq!(beat(r#"{"op":1,"d":null}"#), None);
        assert_eq!(beat(r#"{"op":1}"#), None);
        assert_eq!(beat(r#"{"op":1,"d":"x"}"#), None);
    }

    #[test]
    fn garbage_is_an_error() {
        for bad in ["", "null", "[]", "{", "{}", r#"{"op":"2"}"#, r#"{"op":-1}"#] {
            assert!(Command::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    fn forwarded(payload: &str) -> Option<Value> {
        match forward(&Command::parse(payload.as_bytes()).unwrap(), &[44]) {
            Ok(Forwarded::Payload(bytes)) => Some(serde_json::from_slice(&bytes).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn presence_is_sanitised() {
        assert_eq!(
            forwarded(r#"{"op":3,"d":{"activities":null,"status":"dnd"}}"#),
            Some(json!({"op":3,"d":{"activities":[],"status":"dnd","afk":false,"since":null}}))
        );
        assert_eq!(
            forwarded(r#"{"op":3,"d":{"game":{"name":"x","type":0},"since":5,"afk":true}}"#),
            Some(json!({"op":3,"d":{"activities":[{"name":"x","type":0}],"status":"online","afk":true,"since":5}}))
        );
        assert_eq!(forwarded(r#"{"op":3,"d":null}"#), None);
        assert_eq!(forwarded(r#"{"op":3,"d":7}"#), None);
    }

    #[test]
    fn what_is_passed_on() {
        for (op, rest) in [
            (4, r#","channel_id":null"#),
            (8, r#","query":"""#),
            (31, r#","guild_ids":[1]"#),
            (43, r#","fields":[]"#),
            (44, ""),
        ] {
            let payload = format!(r#"{{"op":{op},"d":{{"guild_id":123456789012345678{rest}}}}}"#);
            assert_eq!(forwarded(&payload), Some(serde_json::from_str(&payload).unwrap()));
        }
        let what = |payload: &str| forward(&Command::parse(payload.as_bytes()).unwrap(), &[44]);
        assert_eq!(what(r#"{"op":99,"d":{}}"#), Ok(Forwarded::Unknown));
        assert_eq!(what(r#"{"op":5,"d":{}}"#), Ok(Forwarded::Unknown));
        assert!(what(r#"{"op":8,"d":{"guild_id":[]}}"#).unwrap_err().text().contains("query or user_ids"));
        for op in [0, 1, 2, 6, 7, 9, 10, 11] {
            assert_eq!(forwarded(&format!(r#"{{"op":{op},"d":{{}}}}"#)), None);
        }
        for bad in ["null", "7", "\"x\"", "[{}]"] {
            assert_eq!(forwarded(&format!(r#"{{"op":8,"d":{bad}}}"#)), None);
        }
        // A binary message need not be UTF-8 outside of `d`. The payload for Discord has to be UTF-8.
        let binary = b"{\"op\":31, \"x\":\"\xff\", \"d\": {\"guild_ids\": [1]} }";
        let plain = br#"{"op":31,"d":{"guild_ids": [1]}}"#.to_vec();
        assert_eq!(forward(&Command::parse(binary).unwrap(), &[]), Ok(Forwarded::Payload(plain)));
        assert!(Command::parse(b"{\"op\":31,\"d\":{\"a\":\"\xff\"}}").is_err());
    }
}
