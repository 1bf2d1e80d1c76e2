//! The events that a shard must get: sequence numbers without gaps, message numbers without gaps, each guild of READY.
//! Pure.

use memchr::memmem;
use serde::Deserialize;
use std::collections::HashSet;

/// The data that a RESUME needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `session_id`
    pub id: String,
    /// `resume_gateway_url`
    pub resume_url: String,
}

/// The state of one shard over all its connections.
#[derive(Default)]
pub struct Shard {
    /// The session, while it can be resumed.
    pub session: Option<Session>,
    /// Newest sequence number.
    pub sequence: u64,
    /// True from READY or RESUMED until the connection ends.
    pub ready: bool,
    /// The shard has got READY at least once.
    pub was_ready: bool,
    /// Guilds that the bot is in.
    pub guilds: HashSet<u64>,
    /// Guilds of READY without a GUILD_CREATE or GUILD_DELETE so far.
    pub waiting: HashSet<u64>,
    /// Number of missing events.
    pub gaps: u64,
    /// Number of events that came twice, or late.
    pub duplicates: u64,
    /// Number of numbered messages.
    pub messages: u64,
    number: Option<u64>,
}

#[derive(Deserialize)]
struct Ready {
    session_id: String,
    resume_gateway_url: String,
    guilds: Vec<ReadyGuild>,
}

#[derive(Deserialize)]
struct ReadyGuild {
    id: String,
}

/// The number of values missing between `before` and `got`. `None`: `got` is not higher than `before`.
fn step(before: u64, got: u64) -> Option<u64> {
    got.checked_sub(before + 1)
}

/// The integer after the last occurrence of `key`, which includes the key's quotes and colon.
fn last_integer(data: &[u8], key: &str) -> Option<u64> {
    let at = memmem::rfind(data, key.as_bytes())? + key.len();
    let digits = &data[at..];
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    std::str::from_utf8(&digits[..end]).ok()?.parse().ok()
}

/// The id of the guild in a GUILD_CREATE or GUILD_DELETE.
fn guild_id(data: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Guild {
        id: String,
    }
    // The id is usually the first key. In that case the rest of a large guild is not parsed.
    let head = &data[..data.len().min(64)];
    if let Some(rest) = head.strip_prefix(b"{\"id\":\"") {
        let end = rest.iter().position(|byte| *byte == b'"')?;
        return std::str::from_utf8(&rest[..end]).ok()?.parse().ok();
    }
    serde_json::from_slice::<Guild>(data).ok()?.id.parse().ok()
}

impl Shard {
    /// Checks a dispatch. For a numbered message the result is the time at which the simulator made it, in ns of
    /// CLOCK_MONOTONIC.
    pub fn dispatch(&mut self, name: &[u8], sequence: u64, data: &[u8], intents: u64) -> Option<u64> {
        if name == b"READY" {
            self.begin(data, intents);
        }
        match step(self.sequence, sequence) {
            Some(missing) => {
                self.gaps += missing;
                self.sequence = sequence;
            }
            None => self.duplicates += 1,
        }
        match name {
            b"RESUMED" => self.ready = true,
            b"GUILD_CREATE" => {
                let guild = guild_id(data)?;
                self.waiting.remove(&guild);
                self.guilds.insert(guild);
            }
            b"GUILD_DELETE" => {
                let guild = guild_id(data)?;
                self.waiting.remove(&guild);
                self.guilds.remove(&guild);
            }
            b"MESSAGE_CREATE" => {
                let number = last_integer(data, "\"sim_number\":")?;
                self.messages += 1;
                match self.number.map_or(Some(0), |before| step(before, number)) {
                    Some(missing) => {
                        self.gaps += missing;
                        self.number = Some(number);
                    }
                    None => self.duplicates += 1,
                }
                return last_integer(data, "\"sim_sent_ns\":");
            }
            _ => {}
        }
        None
    }

    /// Starts a new session: the sequence and the guilds of the old one are dropped.
    fn begin(&mut self, data: &[u8], intents: u64) {
        self.sequence = 0;
        self.number = None;
        self.guilds.clear();
        self.waiting.clear();
        self.ready = true;
        self.was_ready = true;
        let Ok(ready) = serde_json::from_slice::<Ready>(data) else { return };
        self.session = Some(Session { id: ready.session_id, resume_url: ready.resume_gateway_url });
        // Without the GUILDS intent the gateway sends no GUILD_CREATE.
        if intents & 1 != 0 {
            self.waiting = ready.guilds.iter().filter_map(|guild| guild.id.parse().ok()).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &[u8] = br#"{"v":10,"session_id":"a","resume_gateway_url":"ws://b","guilds":[{"id":"5","unavailable":true},{"id":"6","unavailable":true}]}"#;

    fn message(number: u64) -> Vec<u8> {
        format!(r#"{{"content":"n:{number} \"sim_number\":7","sim_number":{number},"sim_sent_ns":{}}}"#, number * 10)
            .into()
    }

    #[test]
    fn a_clean_session_has_no_gaps() {
        let mut shard = Shard::default();
        shard.dispatch(b"READY", 1, READY, 1);
        assert_eq!(shard.waiting.len(), 2);
        shard.dispatch(b"GUILD_CREATE", 2, br#"{"id":"5","x":1}"#, 1);
        shard.dispatch(b"GUILD_DELETE", 3, br#"{"unavailable":true,"id":"6"}"#, 1);
        assert!(shard.waiting.is_empty() && shard.guilds.len() == 1);
        assert_eq!(shard.dispatch(b"MESSAGE_CREATE", 4, &message(31), 1), Some(310));
        assert_eq!(shard.dispatch(b"MESSAGE_CREATE", 5, &message(32), 1), Some(320));
        assert_eq!((shard.gaps, shard.duplicates, shard.messages), (0, 0, 2));
    }

    #[test]
    fn losses_and_doubles_are_seen_by_sequence_and_by_number() {
        let mut shard = Shard::default();
        shard.dispatch(b"READY", 1, READY, 1);
        shard.dispatch(b"TYPING_START", 4, b"{}", 1);
        assert_eq!(shard.gaps, 2);
        shard.dispatch(b"TYPING_START", 4, b"{}", 1);
        assert_eq!(shard.duplicates, 1);
        shard.dispatch(b"MESSAGE_CREATE", 5, &message(3), 1);
        shard.dispatch(b"MESSAGE_CREATE", 6, &message(5), 1);
        assert_eq!(shard.gaps, 3, "a lost number without a gap in the sequence");
        shard.dispatch(b"MESSAGE_CREATE", 7, &message(5), 1);
        assert_eq!(shard.duplicates, 2);
        shard.dispatch(b"READY", 1, READY, 1);
        shard.dispatch(b"MESSAGE_CREATE", 2, &message(90), 1);
        assert_eq!((shard.gaps, shard.duplicates), (3, 2), "a new session starts anew");
    }
}
