//! The session of one client: which events the client gets, under which sequence numbers, and from where it can resume.
//!
//! A session holds numbers and no payloads. The events are in the [log](crate::log::Log) of the shard, and the session
//! has a cursor: the log position that it reads next. It numbers its own dispatches: READY is 1, and every dispatch
//! that is sent to the client adds 1. For RESUME the session remembers its cursor after each number that the client has
//! not acknowledged yet. To resume is to move the cursor back.
//!
//! Promises: the client gets every event that it is meant to get once and in order. The numbers have no gap. The memory
//! for cursors is bounded by the events that the log still holds, and by the answers to member requests that the client has
//! not acknowledged.

mod saved;
mod snapshot_marks;

use super::credential::Credential;
pub use super::session_id::{Claim, ID_LENGTH, RESUME_PATH, SessionId, session_in};
use crate::protocol::{
    ConnectionId, SessionKey, Time,
    event::{Delivery, EventKind, Meta},
    intents::Intents,
    json,
    library::Library,
};
pub use saved::Saved;
pub use snapshot_marks::Shown;
use snapshot_marks::SnapshotMarks;
use std::{collections::VecDeque, sync::Arc};

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The client has identified, but the shard has received no READY from Discord yet.
    Waiting,
    /// The shard sends READY and the guilds. The session can not be resumed yet.
    Syncing,
    /// The shard sends the events that a resuming client has missed, up to a log position, and then RESUMED.
    Replaying {
        /// Log position at which the replay ends.
        until: u64,
    },
    /// The client gets the events of the log as they come.
    Live,
    /// The shard has a new session with Discord, so the client may know a state that is out of date. The client gets no
    /// more events, only Invalid Session (op 9) at time `at`.
    Invalid {
        /// Time at which the shard sends Invalid Session.
        at: Time,
    },
}

/// What a client asked for in its IDENTIFY and in the URL of its connection.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The intents of the client.
    pub intents: Intents,
    /// The API version in the client's URL. READY repeats it.
    pub version: u8,
    /// Whether payloads are compressed (docs: Gateway, Payload Compression) on connections without transport
    /// compression. RESUME has no such field, so the choice belongs to the session. Libraries tell from the type of
    /// each message whether it is compressed.
    pub compress: bool,
    /// The library that the client is written with.
    pub library: Library,
}

/// The session of one client. See the module's description.
pub struct Session {
    /// The key of the session on its shard.
    pub key: SessionKey,
    /// The id that READY tells the client.
    pub id: SessionId,
    /// What the client asked for.
    pub options: Options,
    /// Whether the client knows the session by the id of Discord's session with the shard instead of [`Session::id`].
    pub has_upstream_id: bool,
    /// The credential of the client; `None`: the client has the bot's token.
    pub credential: Option<Arc<Credential>>,
    /// The state of the session.
    pub phase: Phase,
    /// The connection that the session is attached to; `None`: the session is detached.
    pub connection: Option<ConnectionId>,
    /// When the session was detached; `None`: it is attached.
    pub detached_at: Option<Time>,
    /// When the client last sent a heartbeat, resumed, or was sent READY, whichever was last.
    pub last_heartbeat: Time,
    /// The number of commands in the current window of the rate limit, and when that window began.
    pub commands: (u32, Time),
    delivery: [Delivery; EventKind::ALL.len()],
    /// The user id of the bot.
    user: Option<u64>,
    /// Sequence number of the last dispatch that was sent.
    sequence: u64,
    /// Log position that the session reads next.
    cursor: u64,
    /// The lowest sequence number that the client can resume from, and the cursor after it.
    base: (u64, u64),
    /// The cursor after each sequence number above the base.
    sent: VecDeque<u64>,
    /// Which events the snapshot covers.
    snapshot_marks: SnapshotMarks,
}

impl Session {
    /// Makes a session whose client has received nothing yet.
    pub fn new(key: SessionKey, id: SessionId, options: Options, now: Time) -> Self {
        let mut delivery = [Delivery::Always; EventKind::ALL.len()];
        for &kind in EventKind::ALL {
            delivery[kind as usize] = kind.audience().delivery(options.intents);
        }
        Self {
            key,
            id,
            options,
            has_upstream_id: false,
            credential: None,
            phase: Phase::Waiting,
            connection: None,
            detached_at: None,
            last_heartbeat: now,
            commands: (0, now),
            delivery,
            user: None,
            sequence: 0,
            cursor: 0,
            base: (0, 0),
            sent: VecDeque::new(),
            snapshot_marks: SnapshotMarks::default(),
        }
    }

    /// Narrows the session to what a credential permits: the session keeps the intents that the credential has, too, and
    /// gets no events that the credential excludes ([`Credential::gets`]).
    pub fn bind(&mut self, credential: Arc<Credential>) {
        self.options.intents = self.options.intents.intersection(credential.intents);
        for &kind in EventKind::ALL {
            let delivery = kind.audience().delivery(self.options.intents);
            self.delivery[kind as usize] = if credential.gets(kind) { delivery } else { Delivery::Never };
        }
        self.credential = Some(credential);
    }

    /// The sequence number of the last dispatch that was sent.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The user id of the bot; `None` before READY.
    pub fn user(&self) -> Option<u64> {
        self.user
    }

    /// The log position that the session reads next.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The oldest log position that this session still needs; `u64::MAX`: it needs no event of the log.
    pub fn oldest_needed(&self) -> u64 {
        match self.phase {
            Phase::Waiting | Phase::Invalid { .. } => u64::MAX,
            Phase::Syncing => self.cursor,
            Phase::Replaying { .. } | Phase::Live => self.base.1.min(self.cursor),
        }
    }

    /// Says whether the client can resume this session after its connection was lost.
    pub fn is_resumable(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Replaying { .. })
    }

    /// Begins the snapshot; READY is sent next. After the snapshot the client gets the events from log position
    /// `position` on, without those that the snapshot has. `user` is the id of the bot.
    pub fn begin_sync(&mut self, position: u64, now: Time, user: Option<u64>) {
        self.phase = Phase::Syncing;
        self.user = user;
        self.cursor = position;
        self.last_heartbeat = now;
    }

    /// Returns the sequence number for a dispatch that is part of the snapshot.
    pub fn next_snapshot_sequence(&mut self) -> u64 {
        debug_assert_eq!(self.phase, Phase::Syncing);
        self.sequence += 1;
        self.sequence
    }

    /// The dispatch with the last number of the snapshot is not sent after all. The next dispatch gets its number.
    pub fn return_snapshot_sequence(&mut self) {
        debug_assert!(self.phase == Phase::Syncing && self.sequence > 0);
        self.sequence -= 1;
    }

    /// Notes what the client was sent of `guild`: its state before the event at log position `position`.
    pub fn set_snapshot_position(&mut self, guild: u64, position: u64, shown: Shown) {
        self.snapshot_marks.set(guild, position, shown);
    }

    /// Ends the snapshot: the client gets events now and can resume.
    pub fn finish_sync(&mut self) {
        self.phase = Phase::Live;
        self.base = (self.sequence, self.cursor);
    }

    /// Moves the cursor past the event at `position`, which must be the event at the cursor. `data` is the text of the
    /// event's data. Returns the sequence number for the client; `None`: the event is not for this session.
    pub fn advance(&mut self, position: u64, meta: Meta, data: &[u8]) -> Option<u64> {
        debug_assert_eq!(position, self.cursor);
        self.cursor = position + 1;
        self.wants(position, meta, data).then(|| self.next_sequence())
    }

    /// Moves the cursor past the event at `position`, which must be the event at the cursor. The client does not get
    /// the event.
    pub fn skip(&mut self, position: u64) {
        debug_assert_eq!(position, self.cursor);
        self.cursor = position + 1;
    }

    /// Returns the sequence number for the next dispatch, and remembers the cursor for it. The caller uses it for
    /// dispatches that are not in the log, such as RESUMED.
    pub fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sent.push_back(self.cursor);
        self.sequence
    }

    fn wants(&self, position: u64, meta: Meta, data: &[u8]) -> bool {
        if meta.recipient.is_some_and(|recipient| recipient != self.key) {
            return false;
        }
        let in_guild = || json::get(data, "guild_id").is_some_and(|id| id != b"null");
        let asked_for = match self.delivery[meta.kind as usize] {
            Delivery::Always => true,
            // A bot always gets changes to its own member, whatever its intents.
            Delivery::Never => {
                meta.kind == EventKind::GuildMemberUpdate && self.user.is_some() && self.user == user_of(data)
            }
            Delivery::InGuild => in_guild(),
            Delivery::Direct => !in_guild(),
        };
        asked_for && !self.snapshot_marks.cover(position, meta, data)
    }

    /// The client has received every dispatch up to `sequence`: forgets the cursors that only an earlier RESUME needs.
    pub fn acknowledge(&mut self, sequence: u64) {
        if !self.is_resumable() || sequence > self.sequence {
            return;
        }
        while self.base.0 < sequence {
            let cursor = self.sent.pop_front().expect("every number above the base is remembered");
            self.base = (self.base.0 + 1, cursor);
        }
        if self.base.0 == self.sequence {
            // The events between the last dispatch and the cursor were not for this session.
            self.base.1 = self.cursor;
        }
        self.snapshot_marks.release(self.base.1);
        if self.sent.capacity() > 1024 && self.sent.len() < self.sent.capacity() / 8 {
            self.sent.shrink_to(2 * self.sent.len());
        }
    }

    /// The log has dropped the events before position `oldest`: forgets the cursors that point to them.
    pub fn forget_before(&mut self, oldest: u64) {
        while self.base.1 < oldest {
            let Some(cursor) = self.sent.pop_front() else { return };
            self.base = (self.base.0 + 1, cursor);
        }
    }

    /// Moves the cursor back to where it was after `sequence`, the last number that the client has received, and begins
    /// the replay. Returns false when the session can not be resumed from there, and then changes nothing. `oldest` is
    /// the oldest position in the log, and `next` the position that the next event will get.
    pub fn rewind(&mut self, sequence: u64, oldest: u64, next: u64) -> bool {
        if !self.is_resumable() || !(self.base.0..=self.sequence).contains(&sequence) {
            return false;
        }
        let index = (sequence - self.base.0) as usize;
        let cursor = if index == 0 { self.base.1 } else { self.sent[index - 1] };
        if cursor < oldest {
            return false;
        }
        self.sent.truncate(index);
        self.sequence = sequence;
        self.cursor = cursor;
        self.phase = Phase::Replaying { until: next };
        true
    }
}

/// The id in the `user` object of an event's data.
fn user_of(data: &[u8]) -> Option<u64> {
    json::get(data, "user").and_then(|user| json::get(user, "id")).and_then(json::parse_id)
}

#[cfg(test)]
mod tests;
