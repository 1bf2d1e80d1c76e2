//! What clients send: parsed, checked, and made safe to pass on to Discord (docs: Gateway Events, Send Events).

use super::{library::Library, opcode, token::bare};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value, value::RawValue};

/// Longest payload that a client may send, in bytes (docs: Gateway, Sending Events).
pub const MAX_COMMAND: usize = 4096;

/// A payload from a client, read as far as its opcode. Further keys at the top level are tolerated.
#[derive(Debug, Deserialize)]
pub struct Command<'a> {
    /// The opcode.
    pub op: u64,
    /// The data; `None` when missing or null.
    #[serde(borrow, default)]
    pub d: Option<&'a RawValue>,
}

impl<'a> Command<'a> {
    /// Reads a payload. An error is answered with close code 4002.
    pub fn parse(payload: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(payload)
    }

    fn data<T: Deserialize<'a>>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.d.map_or("null", RawValue::get))
    }

    /// The sequence in a heartbeat: absent, null and 0 all mean none yet.
    pub fn heartbeat(&self) -> Option<u64> {
        self.data::<Option<u64>>().ok().flatten()
    }

    /// The data of an IDENTIFY.
    pub fn identify(&self) -> Result<Identify, serde_json::Error> {
        self.data()
    }

    /// The data of a RESUME.
    pub fn resume(&self) -> Result<Resume, serde_json::Error> {
        self.data()
    }
}

/// The data of a client's IDENTIFY, as far as the proxy needs it.
#[derive(Clone, Deserialize)]
pub struct Identify {
    /// With or without `Bot `.
    pub token: String,
    /// Missing means the only shard of one.
    #[serde(default = "only_shard")]
    pub shard: (u32, u32),
    /// Missing (possible before v8 of the API) means all. A number, or its digits as text, as Kord sends them.
    #[serde(default, deserialize_with = "number_or_digits")]
    pub intents: Option<u64>,
    /// Payload compression; a `compress` in the URL wins.
    #[serde(default)]
    pub compress: Option<bool>,
    /// What the library says of itself. What is no object says nothing.
    #[serde(default, deserialize_with = "lenient")]
    properties: Option<Map<String, Value>>,
}

fn only_shard() -> (u32, u32) {
    (0, 1)
}

/// The data of a client's RESUME.
#[derive(Clone, Deserialize)]
pub struct Resume {
    /// With or without `Bot `.
    pub token: String,
    /// From the READY that the proxy sent. What is no string is no session of anybody.
    #[serde(default, deserialize_with = "lenient")]
    pub session_id: Option<String>,
    /// The last sequence that the client has seen. What is no sequence can not be resumed from.
    #[serde(default, deserialize_with = "lenient")]
    pub seq: Option<u64>,
}

/// A number, or a number as text; `None` for null.
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

/// `None` for a value of another type.
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

// No token may reach a log, so Debug leaves it out.
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

/// What of a command of an identified client goes to Discord, as a payload; `None`: nothing, which is no reason to close.
///
/// Heartbeats, IDENTIFY and RESUME never do; unknown opcodes do, because the proxy may be older than the client's library.
/// Discord closes the connection, which is everybody's, for what it can not read. So the payload is put together anew from
/// what has been read here, and data that is no object stays here.
pub fn forward(command: &Command<'_>) -> Option<Vec<u8>> {
    match command.op {
        opcode::DISPATCH
        | opcode::HEARTBEAT
        | opcode::IDENTIFY
        | opcode::RESUME
        | opcode::RECONNECT
        | opcode::INVALID_SESSION
        | opcode::HELLO
        | opcode::HEARTBEAT_ACK => None,
        opcode::PRESENCE_UPDATE => presence(command),
        op => {
            let data = command.d.map(RawValue::get).filter(|data| data.starts_with('{'))?;
            Some(format!(r#"{{"op":{op},"d":{data}}}"#).into_bytes())
        }
    }
}

/// An Update Presence that Discord accepts: `activities: null` closes the connection there, and the shard is shared.
fn presence(command: &Command<'_>) -> Option<Vec<u8>> {
    let mut data: serde_json::Map<String, Value> = serde_json::from_str(command.d?.get()).ok()?;
    let game = data.remove("game").filter(Value::is_object);
    let activities = match data.remove("activities") {
        Some(Value::Array(activities)) => activities,
        // Before v8 a single `game` stood in its place, and some libraries still send that.
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
    fn identify_in_many_dresses() {
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
        let bytes = forward(&Command::parse(payload.as_bytes()).unwrap())?;
        Some(serde_json::from_slice(&bytes).unwrap())
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
        for op in [4, 8, 31, 43, 99] {
            let payload = format!(r#"{{"op":{op},"d":{{"guild_id":123456789012345678}}}}"#);
            assert_eq!(forwarded(&payload), Some(serde_json::from_str(&payload).unwrap()));
        }
        for op in [0, 1, 2, 6, 7, 9, 10, 11] {
            assert_eq!(forwarded(&format!(r#"{{"op":{op},"d":{{}}}}"#)), None);
        }
        for bad in ["null", "7", "\"x\"", "[{}]"] {
            assert_eq!(forwarded(&format!(r#"{{"op":8,"d":{bad}}}"#)), None);
        }
        // What came in a binary message need not be UTF-8 everywhere, what goes to Discord has to be.
        let binary = b"{\"op\":31, \"x\":\"\xff\", \"d\": {\"a\": 1} }";
        assert_eq!(forward(&Command::parse(binary).unwrap()).unwrap(), br#"{"op":31,"d":{"a": 1}}"#);
        assert!(Command::parse(b"{\"op\":31,\"d\":{\"a\":\"\xff\"}}").is_err());
    }
}
