//! The session of one client: which events the client gets, under which sequence numbers, and from where it can resume.
//!
//! A session holds numbers and no payloads. The events are in the [log](crate::log::Log) of the shard, and the session
//! has a cursor: the log position that it reads next. It numbers its own dispatches: READY is 1, and every dispatch
//! that is sent to the client adds 1. For RESUME the session remembers its cursor after each number that the client has
//! not acknowledged yet. To resume is to move the cursor back.
//!
//! Promises: the client gets every event that it is meant to get once and in order. The numbers have no gap. The memory
//! for cursors is bounded by the events that the log still holds.

pub use super::session_id::{Claim, ID_LENGTH, SessionId};
use crate::protocol::{
    ConnectionId, SessionKey, Time,
    event::{Delivery, EventKind, Meta},
    intents::Intents,
    json,
    library::Library,
};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

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

/// A session in a state file: all that the next process needs to serve a RESUME.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// See [`Session::key`].
    #[serde(rename = "number")]
    pub key: SessionKey,
    id: String,
    intents: u64,
    version: u8,
    #[serde(default)]
    compress: bool,
    #[serde(default)]
    library: String,
    #[serde(default, rename = "named")]
    has_upstream_id: bool,
    user: Option<u64>,
    sequence: u64,
    cursor: u64,
    /// The lowest sequence number that the client can resume from, and the cursor after it.
    pub base: (u64, u64),
    sent: Vec<u64>,
    /// For each guild of the snapshot: its id, the log position of [`Session::set_snapshot_position`], and what the
    /// client was sent of it.
    contained: Vec<(u64, u64, Shown)>,
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
    /// For each guild that READY named: which events the snapshot covers, and what the client was sent of the guild.
    snapshot_marks: HashMap<u64, SnapshotMark>,
    /// The highest [`SnapshotMark::before`]. From this position on every event is new to the client.
    snapshots_until: u64,
}

/// What the snapshot for a client told about a guild that READY names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// The whole guild, in a GUILD_CREATE.
    Whole,
    /// Nothing, because the guild is unavailable or Discord has not sent it yet. Its GUILD_CREATE will follow. The
    /// events of the guild before that are about a state that the client has never seen.
    Unavailable,
    /// Nothing, because the bot has left the guild meanwhile. The GUILD_DELETE that says so follows.
    Left,
}

#[derive(Clone, Copy)]
struct SnapshotMark {
    /// The snapshot covers the events of the guild before this log position.
    before: u64,
    shown: Shown,
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
            snapshot_marks: HashMap::new(),
            snapshots_until: 0,
        }
    }

    /// The sequence number of the last dispatch that was sent.
    pub fn sequence(&self) -> u64 {
        self.sequence
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

    /// Notes what the client was sent of `guild`: its state before the event at log position `position`.
    pub fn set_snapshot_position(&mut self, guild: u64, position: u64, shown: Shown) {
        self.snapshot_marks.insert(guild, SnapshotMark { before: position, shown });
        self.snapshots_until = self.snapshots_until.max(position);
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
        asked_for && (position >= self.snapshots_until || !self.is_in_snapshot(position, meta, data))
    }

    /// Says whether the client must not get the event because of its snapshot: the snapshot has the change already, or
    /// the event is about a guild that the snapshot did not show.
    fn is_in_snapshot(&self, position: u64, meta: Meta, data: &[u8]) -> bool {
        let before = |guild: u64| self.snapshot_marks.get(&guild).filter(|mark| position < mark.before);
        match meta.changed_guild {
            Some(guild) => match before(guild) {
                // READY named the guild, so the client needs the GUILD_DELETE.
                Some(mark) if mark.shown == Shown::Left => meta.kind != EventKind::GuildDelete,
                mark => mark.is_some(),
            },
            // A snapshot does not have events that change no state, such as messages. The client does not get those of
            // a guild that it was not shown.
            None => json::get(data, "guild_id")
                .and_then(json::parse_id)
                .and_then(before)
                .is_some_and(|mark| mark.shown != Shown::Whole),
        }
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
        if self.base.1 >= self.snapshots_until && !self.snapshot_marks.is_empty() {
            self.snapshot_marks = HashMap::new();
        }
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

    /// Returns the session for a state file; `None`: the client can not resume it.
    pub fn save(&self) -> Option<Saved> {
        if !self.is_resumable() {
            return None;
        }
        Some(Saved {
            key: self.key,
            id: self.id.as_str().to_owned(),
            intents: self.options.intents.0,
            version: self.options.version,
            compress: self.options.compress,
            library: self.options.library.name().to_owned(),
            has_upstream_id: self.has_upstream_id,
            user: self.user,
            sequence: self.sequence,
            cursor: self.cursor,
            base: self.base,
            sent: self.sent.iter().copied().collect(),
            contained: self.snapshot_marks.iter().map(|(guild, mark)| (*guild, mark.before, mark.shown)).collect(),
        })
    }

    /// Makes a detached session from a state file; `None`: the numbers of `saved` contradict each other, or its id is
    /// malformed.
    pub fn restore(saved: Saved, now: Time) -> Option<Self> {
        let id = SessionId::parse(&saved.id)?;
        let cursors = std::iter::once(&saved.base.1).chain(&saved.sent).chain([&saved.cursor]);
        let numbered = saved.base.0.checked_add(saved.sent.len() as u64) == Some(saved.sequence);
        if !numbered || !cursors.is_sorted() {
            return None;
        }
        let options = Options {
            intents: Intents(saved.intents),
            version: saved.version,
            compress: saved.compress,
            library: Library::from_name(&saved.library),
        };
        let mut session = Self::new(saved.key, id, options, now);
        session.phase = Phase::Live;
        session.detached_at = Some(now);
        (session.has_upstream_id, session.user) = (saved.has_upstream_id, saved.user);
        (session.sequence, session.cursor, session.base) = (saved.sequence, saved.cursor, saved.base);
        session.sent = saved.sent.into();
        for (guild, position, shown) in saved.contained {
            session.set_snapshot_position(guild, position, shown);
        }
        Some(session)
    }

    /// The number of cursors that are remembered for a RESUME.
    pub fn remembered_cursors(&self) -> usize {
        self.sent.len()
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
mod tests {
    use super::*;
    use crate::log::{Limits, Log};
    use proptest::prelude::*;

    fn session(intents: Intents) -> Session {
        let id = SessionId::new(7, [0xab; 12]);
        Session::new(
            SessionKey(1),
            id,
            Options { intents, version: 10, compress: false, library: Library::default() },
            Time::ZERO,
        )
    }

    fn log() -> Log {
        Log::new(Limits { bytes: 1 << 20, entries: 100 })
    }

    fn append(log: &mut Log, kind: EventKind, guild: u64, state: bool) -> u64 {
        let data = format!(r#"{{"guild_id":"{guild}"}}"#);
        log.append(
            kind.name().as_bytes(),
            data.as_bytes(),
            Meta { kind, changed_guild: state.then_some(guild), recipient: None },
        )
    }

    /// Passes every event that is in the log. Returns the sequence number and the position of each event that was sent.
    fn deliver(session: &mut Session, log: &Log) -> Vec<(u64, u64)> {
        let mut got = Vec::new();
        for entry in log.read(session.cursor()).unwrap() {
            if let Some(number) = session.advance(entry.position, entry.meta, entry.data()) {
                got.push((number, entry.position));
            }
        }
        got
    }

    #[test]
    fn ids_carry_their_shard_and_are_not_printed_whole() {
        let id = SessionId::new(0x01ff, [0xab; 12]);
        assert_eq!((id.shard(), id.as_str().len()), (0x01ff, ID_LENGTH));
        assert_eq!(SessionId::parse(id.as_str()), Some(id));
        for bad in ["", "zz", &id.as_str()[1..], &id.as_str().to_uppercase(), &"é".repeat(16)] {
            assert_eq!(SessionId::parse(bad), None);
        }
        assert!(!format!("{id:?}").contains(id.as_str()));
    }

    #[test]
    fn a_snapshot_is_not_told_twice() {
        let mut log = log();
        let mut session = session(Intents::ALL);
        let ready = log.next();
        session.begin_sync(ready, Time::ZERO, None);
        assert_eq!(session.next_snapshot_sequence(), 1);
        append(&mut log, EventKind::GuildMemberAdd, 10, true); // in the snapshot of 10
        append(&mut log, EventKind::MessageCreate, 10, false); // not state: delivered
        session.set_snapshot_position(10, log.next(), Shown::Whole);
        session.next_snapshot_sequence();
        let after = append(&mut log, EventKind::GuildMemberAdd, 10, true); // after the snapshot of 10
        append(&mut log, EventKind::GuildMemberAdd, 20, true); // in the snapshot of 20
        append(&mut log, EventKind::MessageCreate, 30, false); // 30 was never shown
        let delete = append(&mut log, EventKind::GuildDelete, 30, true);
        session.set_snapshot_position(20, log.next(), Shown::Whole);
        session.set_snapshot_position(30, log.next(), Shown::Left);
        let rejoin = append(&mut log, EventKind::GuildCreate, 30, true);
        session.finish_sync();
        let got = deliver(&mut session, &log);
        assert_eq!(got, [(3, ready + 1), (4, after), (5, delete), (6, rejoin)]);
    }

    #[test]
    fn a_session_that_is_not_complete_can_not_be_resumed() {
        let mut session = session(Intents::ALL);
        assert!(!session.rewind(0, 1, 1));
        session.begin_sync(1, Time::ZERO, None);
        session.next_snapshot_sequence();
        assert!(!session.rewind(1, 1, 1));
        session.next_snapshot_sequence();
        session.finish_sync();
        assert!(!session.rewind(1, 1, 1), "a part of the snapshot can not be sent again");
        assert!(!session.rewind(3, 1, 1), "the future");
        assert!(session.rewind(2, 1, 1));
    }

    #[test]
    fn another_process_knows_what_was_asked_for() {
        for compress in [false, true] {
            let options = Options { intents: Intents(5), version: 9, compress, library: Library::from_name("eris") };
            let mut session = Session::new(SessionKey(1), SessionId::new(7, [1; 12]), options, Time::ZERO);
            session.begin_sync(1, Time::ZERO, None);
            session.finish_sync();
            let mut text = serde_json::to_value(session.save().unwrap()).unwrap();
            let restore = |text: &serde_json::Value| {
                let saved = serde_json::from_value(text.clone()).unwrap();
                Session::restore(saved, Time::ZERO).unwrap().options
            };
            let restored = restore(&text);
            let library = restored.library.name();
            assert_eq!((restored.intents.0, restored.version, restored.compress, library), (5, 9, compress, "eris"));
            // State files of earlier versions have no library and no payload compression.
            text.as_object_mut().unwrap().remove("library");
            assert_eq!(restore(&text).library, Library::UNKNOWN);
            text.as_object_mut().unwrap().remove("compress");
            assert!(!restore(&text).compress);
        }
    }

    #[test]
    fn private_entries_reach_only_their_session() {
        let mut log = log();
        let mut session = session(Intents::ALL);
        session.begin_sync(1, Time::ZERO, None);
        session.finish_sync();
        for recipient in [Some(SessionKey(1)), Some(SessionKey(2)), None] {
            log.append(b"X", b"{}", Meta { kind: EventKind::Other, changed_guild: None, recipient });
        }
        assert_eq!(deliver(&mut session, &log), [(1, 1), (2, 3)]);
    }

    #[test]
    fn a_bot_hears_of_itself_without_the_intent() {
        let mut log = log();
        let mut session = session(Intents::GUILDS);
        session.begin_sync(1, Time::ZERO, Some(5));
        session.finish_sync();
        for user in [4, 5] {
            let data = format!(r#"{{"guild_id":"1","user":{{"id":"{user}"}}}}"#);
            let meta = Meta { kind: EventKind::GuildMemberUpdate, changed_guild: None, recipient: None };
            log.append(b"GUILD_MEMBER_UPDATE", data.as_bytes(), meta);
        }
        assert_eq!(deliver(&mut session, &log), [(1, 2)]);
    }

    proptest! {
        /// Compares the session with a model that keeps every event it was sent. Any mix of deliveries,
        /// acknowledgements and resumes gives the wanted events, in order, with numbers that have no gap.
        #[test]
        fn exactly_once_in_order(steps in prop::collection::vec((0u8..12, 0u64..40), 1..200), intents in prop_oneof![Just(Intents::ALL), Just(Intents::GUILD_MESSAGES)]) {
            let mut log = Log::new(Limits { bytes: 0, entries: 30 });
            let mut session = session(intents);
            session.begin_sync(log.next(), Time::ZERO, None);
            session.next_snapshot_sequence();
            session.finish_sync();
            // The log positions of the dispatches that the client has received. The first one has number 2.
            let mut seen: Vec<u64> = Vec::new();
            let mut wanted: Vec<u64> = Vec::new();
            for (what, amount) in steps {
                match what {
                    0..=5 => {
                        let kind = if amount % 2 == 0 { EventKind::MessageCreate } else { EventKind::TypingStart };
                        let position = append(&mut log, kind, 10, false);
                        if intents == Intents::ALL || amount % 2 == 0 { wanted.push(position); }
                    }
                    6..=8 => {
                        if session.cursor() < log.oldest() { return Ok(()); } // fell off: the session ends
                        for (number, position) in deliver(&mut session, &log) {
                            seen.push(position);
                            prop_assert_eq!(number, seen.len() as u64 + 1);
                        }
                    }
                    9 => {
                        let back = amount.min(seen.len() as u64);
                        session.acknowledge(seen.len() as u64 + 1 - back);
                        log.trim(session.oldest_needed());
                        session.forget_before(log.oldest());
                    }
                    _ => {
                        let back = amount.min(seen.len() as u64);
                        let number = seen.len() as u64 + 1 - back;
                        if session.rewind(number, log.oldest(), log.next()) {
                            seen.truncate(seen.len() - back as usize);
                            session.phase = Phase::Live;
                        }
                    }
                }
                prop_assert_eq!(&seen[..], &wanted[..seen.len()]);
                prop_assert!(session.remembered_cursors() <= seen.len());
            }
        }
    }
}
