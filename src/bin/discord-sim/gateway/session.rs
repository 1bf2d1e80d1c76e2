//! A session: an IDENTIFY starts it, RESUME continues it. It holds the events that it was sent.
//!
//! Owns the sequence and the replay buffer. The buffer is also the send queue: a connection has a cursor into it. So a
//! slow client costs no memory beyond the buffer's limit, and is disconnected when its next event has been dropped from
//! the buffer. Pure.

use super::intents;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Instant;
use world::View;

/// Maximum number of events in a replay buffer.
pub const MAX_EVENTS: usize = 100_000;

/// Above this many bytes a replay buffer drops the events that the client has acknowledged with a heartbeat.
const KEPT_BYTES: usize = 8 << 20;

/// The event with one sequence number.
struct Stored {
    name: Rc<str>,
    data: Rc<str>,
}

/// A REQUEST_GUILD_MEMBERS whose answer is not complete.
pub struct Chunks {
    /// The guild of the request.
    pub guild: u64,
    /// Members that match the request and have not been sent.
    pub users: VecDeque<u64>,
    /// The JSON array of those `user_ids` that are not members.
    pub not_found: Option<String>,
    /// Whether the client asked for presences.
    pub presences: bool,
    /// The nonce as a JSON string.
    pub nonce: Option<String>,
    /// Index of the next chunk.
    pub index: usize,
    /// Number of chunks of the whole answer.
    pub count: usize,
}

/// The events that Discord does not send to a session any more, although the session lives.
pub struct Mute {
    /// The only event type that is not sent; `None`: no event is sent.
    pub only: Option<Rc<str>>,
    /// Whether a RESUME makes Discord send events again.
    pub until_resume: bool,
}

/// A session of one shard.
pub struct Session {
    /// The session id, which a RESUME names.
    pub id: String,
    /// Id of its shard.
    pub shard: usize,
    /// The intents of its IDENTIFY.
    pub intents: u64,
    /// Which part of a guild its GUILD_CREATE shows.
    pub view: View,
    /// Key of the connection that it is attached to.
    pub connection: Option<u64>,
    /// Time since when no connection has been attached.
    pub detached: Option<Instant>,
    /// Guilds of READY whose GUILD_CREATE has not been made. The session gets no event of such a guild.
    pub pending: BTreeSet<u64>,
    /// Member requests whose chunks have not all been sent, oldest first.
    pub chunks: VecDeque<Chunks>,
    /// The events that the session is not sent; `None`: the session gets everything.
    pub mute: Option<Mute>,
    sequence: u64,
    stored: VecDeque<Stored>,
    bytes: usize,
    most_bytes: usize,
    acknowledged: u64,
}

impl Session {
    /// A session without events. Its replay buffer holds at most `most_bytes` of payloads, or one larger payload.
    pub fn new(id: String, shard: usize, intents: u64, large_threshold: u64, most_bytes: usize) -> Self {
        let view = View { presences: intents & intents::GUILD_PRESENCES != 0, large_threshold };
        Self {
            id,
            shard,
            intents,
            view,
            connection: None,
            detached: None,
            pending: BTreeSet::new(),
            chunks: VecDeque::new(),
            mute: None,
            sequence: 0,
            stored: VecDeque::new(),
            bytes: 0,
            most_bytes,
            acknowledged: 0,
        }
    }

    /// The newest sequence number; 0 before READY.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether the session's intents cover an event.
    pub fn wants(&self, event: &str) -> bool {
        let needed = intents::of(event);
        needed == 0 || self.intents & needed != 0
    }

    /// Whether the session is not sent events of this type. RESUMED is always sent.
    fn is_mute(&self, name: &str) -> bool {
        let covers = |mute: &Mute| mute.only.as_deref().is_none_or(|only| only == name);
        name != "RESUMED" && self.mute.as_ref().is_some_and(covers)
    }

    /// Gives an event the next sequence number and appends it to the replay buffer. Drops the oldest events when the
    /// buffer is over its limits, but keeps the newest one. An event that [`Session::mute`] excludes gets no number and is
    /// dropped. The caller has checked the intents.
    pub fn push(&mut self, name: impl Into<Rc<str>>, data: impl Into<Rc<str>>) {
        let (name, data) = (name.into(), data.into());
        if self.is_mute(&name) {
            return;
        }
        self.sequence += 1;
        self.bytes += data.len();
        self.stored.push_back(Stored { name, data });
        while self.stored.len() > MAX_EVENTS || (self.bytes > self.most_bytes && self.stored.len() > 1) {
            self.forget_oldest();
        }
    }

    /// Notes that the client has all events up to this sequence number. Drops acknowledged events while the buffer
    /// holds more than [`KEPT_BYTES`].
    pub fn acknowledge(&mut self, sequence: u64) {
        self.acknowledged = self.acknowledged.max(sequence.min(self.sequence));
        while self.bytes > KEPT_BYTES && self.oldest() <= self.acknowledged && !self.stored.is_empty() {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some(stored) = self.stored.pop_front() {
            self.bytes -= stored.data.len();
        }
    }

    /// The lowest sequence number in the buffer; one past the newest if the buffer is empty.
    fn oldest(&self) -> u64 {
        self.sequence + 1 - self.stored.len() as u64
    }

    /// Whether the buffer still holds all events after `sequence`.
    pub fn can_replay(&self, sequence: u64) -> bool {
        sequence + 1 >= self.oldest()
    }

    /// Appends the payload with this sequence number to `out`. False if the buffer does not hold it.
    pub fn write(&self, sequence: u64, out: &mut Vec<u8>) -> bool {
        let Some(at) = sequence.checked_sub(self.oldest()) else { return false };
        let Some(stored) = usize::try_from(at).ok().and_then(|at| self.stored.get(at)) else { return false };
        out.extend_from_slice(b"{\"t\":\"");
        out.extend_from_slice(stored.name.as_bytes());
        out.extend_from_slice(b"\",\"s\":");
        out.extend_from_slice(itoa::Buffer::new().format(sequence).as_bytes());
        out.extend_from_slice(b",\"op\":0,\"d\":");
        out.extend_from_slice(stored.data.as_bytes());
        out.push(b'}');
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(most_bytes: usize) -> Session {
        Session::new("id".into(), 0, intents::GUILDS, 250, most_bytes)
    }

    #[test]
    fn payloads_are_written_in_discords_key_order() {
        let mut session = session(1000);
        session.push("READY", r#"{"v":10}"#);
        session.push("RESUMED", "{}");
        let mut out = Vec::new();
        assert!(session.write(2, &mut out));
        assert_eq!(out, br#"{"t":"RESUMED","s":2,"op":0,"d":{}}"#);
        assert!(!session.write(3, &mut out));
        assert!(!session.write(0, &mut out));
    }

    #[test]
    fn the_buffer_is_bounded_and_says_what_it_lost() {
        let mut session = session(100);
        for _ in 0..30 {
            session.push("X", "0123456789");
        }
        assert_eq!(session.sequence(), 30);
        assert!(session.can_replay(20) && session.can_replay(30));
        assert!(!session.can_replay(19));
        let mut out = Vec::new();
        assert!(!session.write(20, &mut out));
        assert!(session.write(21, &mut out));
    }

    #[test]
    fn acknowledged_events_go_when_there_is_much() {
        let mut session = session(64 << 20);
        let big: Rc<str> = "x".repeat(1 << 20).into();
        for _ in 0..20 {
            session.push("X", Rc::clone(&big));
        }
        session.acknowledge(5);
        assert!(session.can_replay(5) && !session.can_replay(4));
        session.acknowledge(20);
        assert!(session.can_replay(12), "some are kept");
        session.acknowledge(1_000);
        assert!(session.can_replay(20));
    }

    #[test]
    fn intents_decide() {
        let session = session(100);
        assert!(session.wants("GUILD_CREATE") && session.wants("INTERACTION_CREATE"));
        assert!(!session.wants("MESSAGE_CREATE"));
    }
}
