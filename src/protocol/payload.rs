//! The payloads that the proxy writes itself.
//!
//! Payloads for clients always have all four keys, `null` where empty, in the order `t`, `s`, `op`, `d`. Some client
//! libraries lose their sequence or crash when a key is missing, and one library searches the text for the keys and
//! must not find them inside `d`.

use super::{ShardId, json::write_string};
use serde_json::value::RawValue;

/// Heartbeat interval in HELLO, in milliseconds, as Discord's. Some libraries drop a connection after 60 s of silence.
pub const HEARTBEAT_INTERVAL: u64 = 41_250;

/// HELLO for a client (docs: Gateway, Hello Event). `interval` is the heartbeat interval in milliseconds.
pub fn hello(interval: u64) -> Vec<u8> {
    format!(r#"{{"t":null,"s":null,"op":10,"d":{{"heartbeat_interval":{interval},"_trace":["gateway-proxy"]}}}}"#)
        .into_bytes()
}

/// Heartbeat ACK for a client.
pub const HEARTBEAT_ACK: &[u8] = br#"{"t":null,"s":null,"op":11,"d":null}"#;
/// Reconnect for a client.
pub const RECONNECT: &[u8] = br#"{"t":null,"s":null,"op":7,"d":null}"#;
/// Invalid Session for a client whose session can not be resumed. Libraries require `d` to be a boolean.
pub const INVALID_SESSION: &[u8] = br#"{"t":null,"s":null,"op":9,"d":false}"#;
/// The data of RESUMED. Libraries require an object.
pub const RESUMED_DATA: &[u8] = br#"{"_trace":["gateway-proxy"]}"#;

/// The proxy's heartbeat to Discord, with the last sequence that the proxy has received.
pub fn heartbeat(sequence: Option<u64>) -> Vec<u8> {
    match sequence {
        Some(sequence) => format!(r#"{{"op":1,"d":{sequence}}}"#).into_bytes(),
        None => br#"{"op":1,"d":null}"#.to_vec(),
    }
}

/// The number of members above which Discord calls a guild `large` and sends only a part of its members. 250 is the
/// highest value that an IDENTIFY may contain (docs: Gateway Events, Identify). It belongs to the shard's session, so
/// it is the same for every client: a client whose IDENTIFY asks for a lower threshold receives more members than it
/// asked for, never fewer.
pub const LARGE_THRESHOLD: u64 = 250;

/// The proxy's IDENTIFY to Discord (docs: Gateway Events, Identify).
pub fn identify(token: &str, shard: ShardId, intents: u64, presence: Option<&RawValue>) -> Vec<u8> {
    let mut out = br#"{"op":2,"d":{"token":"#.to_vec();
    write_string(&mut out, token);
    out.extend_from_slice(
        format!(
            r#","properties":{{"os":"linux","browser":"gateway-proxy","device":"gateway-proxy"}},"large_threshold":{LARGE_THRESHOLD},"shard":[{},{}],"intents":{intents}"#,
            shard.id, shard.count
        )
        .as_bytes(),
    );
    if let Some(presence) = presence {
        out.extend_from_slice(br#","presence":"#);
        out.extend_from_slice(presence.get().as_bytes());
    }
    out.extend_from_slice(b"}}");
    out
}

/// Update Presence, with the presence as it stands in IDENTIFY (docs: Gateway Events, Update Presence).
pub fn presence_update(presence: &RawValue) -> Vec<u8> {
    format!(r#"{{"op":{},"d":{}}}"#, super::opcode::PRESENCE_UPDATE, presence.get()).into_bytes()
}

/// The proxy's RESUME to Discord (docs: Gateway Events, Resume).
pub fn resume(token: &str, session_id: &str, sequence: u64) -> Vec<u8> {
    let mut out = br#"{"op":6,"d":{"token":"#.to_vec();
    write_string(&mut out, token);
    out.extend_from_slice(br#","session_id":"#);
    write_string(&mut out, session_id);
    out.extend_from_slice(format!(r#","seq":{sequence}}}}}"#).as_bytes());
    out
}

/// Appends the start of a dispatch up to its sequence: `{"t":"X","s":`. The digits of the sequence,
/// [`DISPATCH_MIDDLE`], the data and `}` have to follow.
pub fn write_dispatch_prefix(out: &mut Vec<u8>, name: &[u8]) {
    out.extend_from_slice(br#"{"t":""#);
    out.extend_from_slice(name);
    out.extend_from_slice(br#"","s":"#);
}

/// The event type in a prefix that [`write_dispatch_prefix`] wrote.
pub fn name_in_prefix(prefix: &[u8]) -> &[u8] {
    prefix.strip_prefix(br#"{"t":""#).and_then(|rest| rest.strip_suffix(br#"","s":"#)).unwrap_or_default()
}

/// The text between the sequence of a dispatch and its data.
pub const DISPATCH_MIDDLE: &[u8] = br#","op":0,"d":"#;

/// The data of a GUILD_DELETE. `unavailable`: the guild has an outage; otherwise the bot is no longer in the guild.
pub fn guild_delete(guild: u64, unavailable: bool) -> Vec<u8> {
    if unavailable {
        format!(r#"{{"id":"{guild}","unavailable":true}}"#).into_bytes()
    } else {
        format!(r#"{{"id":"{guild}"}}"#).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(payload: &[u8]) -> Value {
        serde_json::from_slice(payload).unwrap()
    }

    #[test]
    fn frames_to_clients_have_all_keys_in_order() {
        for payload in [&hello(41_250)[..], HEARTBEAT_ACK, RECONNECT, INVALID_SESSION] {
            let text = std::str::from_utf8(payload).unwrap();
            let at = |key: &str| text.find(&format!("\"{key}\":")).unwrap();
            assert!(at("t") < at("s") && at("s") < at("op") && at("op") < at("d"), "{text}");
            parse(payload);
        }
        assert!(parse(INVALID_SESSION)["d"].is_boolean());
        assert!(parse(RESUMED_DATA).is_object());
        assert_eq!(parse(&hello(41_250))["d"]["heartbeat_interval"], 41_250);
    }

    #[test]
    fn frames_to_discord() {
        let presence: Box<RawValue> = serde_json::from_str(r#"{"status":"dnd"}"#).unwrap();
        let shard = ShardId { id: 3, count: 9 };
        let identify = parse(&identify("a\"b", shard, 513, Some(&presence)));
        assert_eq!(identify["d"]["token"], "a\"b");
        assert_eq!(identify["d"]["shard"], json!([3, 9]));
        assert_eq!(identify["d"]["intents"], 513);
        assert_eq!(identify["d"]["presence"]["status"], "dnd");
        assert_eq!(parse(&resume("t", "s", 7)), json!({"op": 6, "d": {"token": "t", "session_id": "s", "seq": 7}}));
        assert_eq!(parse(&heartbeat(Some(5))), json!({"op": 1, "d": 5}));
        assert_eq!(parse(&heartbeat(None)), json!({"op": 1, "d": null}));
        assert_eq!(parse(&guild_delete(5, true)), json!({"id": "5", "unavailable": true}));
        assert_eq!(parse(&guild_delete(5, false)), json!({"id": "5"}));
    }
}
