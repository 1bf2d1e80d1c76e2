//! Fills a client's outbox: READY and the guilds as fast as the client reads them, then the log from the session's
//! cursor on.
//!
//! Events go on while the guilds are written one by one, so the shard notes for each guild the log position at which
//! its snapshot was taken. After the last guild the cursor starts at the position of READY, and the session skips the
//! events that a snapshot already contains (see [`Session`]).

use super::{
    Client, HEARTBEAT_TIMEOUT, Shard, answers,
    credentials::narrowed_guild,
    outgoing::{begin_synthetic, write_dispatch, write_synthetic},
    voice,
};
use crate::{
    cache::{GuildSnapshot, View},
    downstream::{
        outbox::Outbox,
        session::{Phase, Session, Shown},
    },
    protocol::{
        ConnectionId, SessionKey, Time,
        close::{self, Close},
        event::{Delivery, EventKind},
        intents::Intents,
        payload,
    },
};

/// Bytes of a snapshot that one call writes. Between two calls the core serves other clients; these wait some 20 us for
/// the writing, and as long again for the socket to take the bytes.
const SLICE: usize = 32 << 10;

/// The result of filling an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is nothing left to send now.
    Idle,
    /// There is more to send. The caller calls again when the outbox has room.
    More,
    /// There is more to send, and the client is in the middle of its snapshot.
    Snapshot {
        /// The bytes of the snapshot that this call has written. Many of them may not be in the outbox yet, because
        /// most guilds go there as a whole.
        bytes: usize,
    },
    /// The caller has to close the connection.
    Close {
        /// Code and reason.
        close: Close,
        /// The client is sent Reconnect (op 7) before the close frame.
        reconnect: bool,
    },
    /// The session is over, and Invalid Session (op 9, `false`) is in the outbox. The connection goes back to the door,
    /// because the client may identify again on it, as at Discord. [`Shard::detach`] removes the session.
    Return,
}

/// A snapshot that a client is being sent.
pub(super) struct Snapshot {
    /// The guilds that READY listed.
    guilds: Vec<u64>,
    /// The index in `guilds` of the next guild.
    next: usize,
    current: Option<GuildSnapshot>,
    /// The current guild goes into the outbox in pieces, because it is longer than [`SLICE`].
    in_pieces: bool,
    /// The text of the current guild that is written and not in the outbox yet.
    text: Vec<u8>,
    /// Guilds that are down. The client gets their GUILD_DELETEs after the other guilds.
    unavailable: Vec<u64>,
    /// Guilds that the bot left between two upstream sessions. The client gets their GUILD_DELETEs last.
    left: Vec<u64>,
}

impl Snapshot {
    /// Says whether the client's outbox has the beginning of a guild, under a sequence number, and waits for the rest.
    pub(super) fn is_writing_in_pieces(&self) -> bool {
        self.in_pieces
    }

    fn is_complete(&self) -> bool {
        let told = self.unavailable.is_empty() && self.left.is_empty();
        self.current.is_none() && self.next == self.guilds.len() && told
    }
}

pub(super) fn is_syncing(client: &Client) -> bool {
    client.snapshot.is_some()
}

impl Shard {
    /// Writes what session `key` has to get into the `outbox` of its `connection`, until the outbox is full.
    pub fn produce(&mut self, now: Time, key: SessionKey, connection: ConnectionId, outbox: &mut Outbox) -> Progress {
        #[cfg(test)]
        assert_ne!(self.panics.take_if(|place| *place == "client"), Some("client"), "a panic that a test wants");
        let Some(client) = self.clients.get_mut(&key) else {
            return Progress::Close { close: Close::SessionEnded, reconnect: false };
        };
        if client.session.connection != Some(connection) {
            return Progress::Close { close: Close::Superseded, reconnect: false };
        }
        if let Some(close) = client.pending_close {
            return Progress::Close { close, reconnect: close.code() == close::UNKNOWN_ERROR };
        }
        if let Phase::Invalid { at } = client.session.phase
            && now >= at
        {
            return self.send_invalid_session(key, outbox);
        }
        for _ in 0..client.acks.take_due(now) {
            outbox.message(&[payload::HEARTBEAT_ACK]);
        }
        if outbox.is_full() {
            return Progress::More;
        }
        match client.session.phase {
            // Once Discord has ended the shard's session, the cache is outdated. A new client waits for the READY of
            // the next session.
            Phase::Waiting if self.ready.is_none() || self.upstream.resumption().is_none() => Progress::Idle,
            Phase::Waiting => {
                self.begin_snapshot(now, key, outbox);
                Progress::More
            }
            Phase::Syncing => Progress::Snapshot { bytes: self.continue_snapshot(key, outbox) },
            Phase::Replaying { .. } | Phase::Live => self.relay(key, outbox),
            Phase::Invalid { .. } => Progress::Idle,
        }
    }

    fn begin_snapshot(&mut self, now: Time, key: SessionKey, outbox: &mut Outbox) {
        let guilds: Vec<u64> = self.cache.up_to_date(&self.log).guilds().map(|(guild, _)| guild).collect();
        let position = self.log.next();
        let user = self.own_user();
        self.choose_session_id(key);
        self.schedule_maintenance(now + HEARTBEAT_TIMEOUT);
        let Some(client) = self.clients.get_mut(&key) else { return };
        client.session.begin_sync(position, now, user);
        let sequence = client.session.next_snapshot_sequence();
        let ready = match self.clients.get(&key) {
            Some(client) => self.ready_for(&client.session, &guilds),
            None => return,
        };
        write_synthetic(outbox, EventKind::Ready, sequence, &ready);
        let Some(client) = self.clients.get_mut(&key) else { return };
        // Without the intent GUILDS, Discord lists the guilds in READY and sends no GUILD_CREATE or GUILD_DELETE.
        let never = EventKind::GuildCreate.audience().delivery(client.session.options.intents) == Delivery::Never;
        let next = if never { guilds.len() } else { 0 };
        let left = if never { &[] } else { self.departed.guilds(now) };
        let left = left.iter().copied().filter(|guild| !guilds.contains(guild)).collect();
        let snapshot =
            Snapshot { guilds, next, current: None, in_pieces: false, text: Vec::new(), unavailable: Vec::new(), left };
        client.snapshot = Some(Box::new(snapshot));
        self.syncing += 1;
    }

    /// Writes the next part of a client's snapshot. Returns about how many bytes were written, at most [`SLICE`].
    fn continue_snapshot(&mut self, key: SessionKey, outbox: &mut Outbox) -> usize {
        let Some(client) = self.clients.get_mut(&key) else { return 0 };
        let session = &mut client.session;
        let Some(snapshot) = &mut client.snapshot else { return 0 };
        let mut budget = SLICE;
        while budget > 0 && !outbox.is_full() {
            if let Some(current) = &mut snapshot.current {
                let before = snapshot.text.len();
                let complete = current.write(&mut snapshot.text, budget);
                budget = budget.saturating_sub((snapshot.text.len() - before).max(1));
                if snapshot.in_pieces {
                    outbox.piece(&snapshot.text);
                    snapshot.text.clear();
                }
                if complete {
                    end_guild(snapshot, session, outbox);
                }
            } else if let Some(&guild) = snapshot.guilds.get(snapshot.next) {
                snapshot.next += 1;
                let view = view_of(session);
                match self.cache.up_to_date(&self.log).snapshot(guild, view) {
                    Some(taken) if !taken.unavailable() => {
                        // Most guilds fit into one message; a longer one is written in pieces.
                        snapshot.in_pieces = taken.len() > SLICE && outbox.begin();
                        if snapshot.in_pieces {
                            begin_synthetic(outbox, EventKind::GuildCreate, session.next_snapshot_sequence());
                        }
                        snapshot.current = Some(taken);
                        session.set_snapshot_position(guild, self.log.next(), Shown::Whole);
                    }
                    // When Discord sends the GUILD_CREATE of a guild that is not there yet, the client gets it from the
                    // log.
                    Some(taken) => {
                        session.set_snapshot_position(guild, self.log.next(), Shown::Unavailable);
                        if taken.is_down() {
                            snapshot.unavailable.push(guild);
                        }
                    }
                    None => session.set_snapshot_position(guild, self.log.next(), Shown::Left),
                }
                budget = budget.saturating_sub(64);
            } else if let Some(guild) = snapshot.unavailable.pop() {
                // Libraries wait for every guild of READY, and count this GUILD_DELETE as an answer. When the guild has
                // come up meanwhile, its GUILD_CREATE follows from the log.
                write_synthetic(
                    outbox,
                    EventKind::GuildDelete,
                    session.next_snapshot_sequence(),
                    &payload::guild_delete(guild, true),
                );
            } else if let Some(guild) = snapshot.left.pop() {
                let deleted = payload::guild_delete(guild, false);
                write_synthetic(outbox, EventKind::GuildDelete, session.next_snapshot_sequence(), &deleted);
            } else {
                break;
            }
        }
        // This also holds when the last guild has filled the outbox, because a client that has read all of the snapshot
        // can resume.
        if snapshot.is_complete() {
            session.finish_sync();
            client.snapshot = None;
            self.syncing -= 1;
        }
        SLICE - budget
    }

    fn relay(&mut self, key: SessionKey, outbox: &mut Outbox) -> Progress {
        let Some(client) = self.clients.get_mut(&key) else { return Progress::Idle };
        let session = &mut client.session;
        let Some(entries) = self.log.read(session.cursor()) else {
            self.fell_off += 1;
            client.pending_close = Some(Close::Lagged);
            return Progress::Close { close: Close::Lagged, reconnect: true };
        };
        let until = match session.phase {
            Phase::Replaying { until } => until,
            _ => u64::MAX,
        };
        for entry in entries {
            if outbox.is_full() {
                return Progress::More;
            }
            if entry.position >= until && matches!(session.phase, Phase::Replaying { .. }) {
                resumed(session, outbox);
            }
            if !voice::is_fresh(&self.voice, entry.meta.kind, entry.position, key, entry.data()) {
                session.skip(entry.position);
                continue;
            }
            let Some(sequence) = session.advance(entry.position, entry.meta, entry.data()) else { continue };
            let is_guild = entry.meta.kind == EventKind::GuildCreate;
            match is_guild.then(|| narrowed_guild(session, view_of(session), entry.data())).flatten() {
                Some(narrowed) => write_synthetic(outbox, entry.meta.kind, sequence, &narrowed),
                None => write_dispatch(outbox, entry.prefix, sequence, &[entry.suffix]),
            }
        }
        if matches!(session.phase, Phase::Replaying { .. }) {
            resumed(session, outbox);
        }
        if client.answers.is_empty() {
            return if outbox.is_full() { Progress::More } else { Progress::Idle };
        }
        let cache = self.cache.up_to_date(&self.log);
        // Each call writes one chunk, so that between two chunks the client gets its new events and the other clients
        // are served.
        if !outbox.is_full() && answers::send_chunk(cache, &mut client.answers, session, outbox) {
            return Progress::More;
        }
        self.wake.upstream |= answers::resend_lost(cache, &mut client.answers, key, &mut self.limiter);
        if outbox.is_full() { Progress::More } else { Progress::Idle }
    }
}

/// Ends the replay to a client with RESUMED.
fn resumed(session: &mut Session, outbox: &mut Outbox) {
    write_synthetic(outbox, EventKind::Resumed, session.next_sequence(), payload::RESUMED_DATA);
    session.phase = Phase::Live;
}

/// The parts of a guild that the client's intents let it see.
fn view_of(session: &Session) -> View {
    let intents = session.options.intents;
    View {
        presences: intents.intersects(Intents::GUILD_PRESENCES),
        // By the documentation the member list depends on GUILD_PRESENCES. The proxy also writes it for GUILD_MEMBERS,
        // because a client with this intent may request all members anyway.
        members: intents.intersects(Intents::GUILD_MEMBERS.union(Intents::GUILD_PRESENCES)),
        voice_states: intents.intersects(Intents::GUILD_VOICE_STATES),
        scheduled_events: intents.intersects(Intents::GUILD_SCHEDULED_EVENTS),
    }
}

/// Ends the GUILD_CREATE of a snapshot whose data has all been written.
fn end_guild(snapshot: &mut Snapshot, session: &mut Session, outbox: &mut Outbox) {
    snapshot.current = None;
    if std::mem::take(&mut snapshot.in_pieces) {
        outbox.piece(b"}");
        outbox.end();
    } else {
        write_synthetic(outbox, EventKind::GuildCreate, session.next_snapshot_sequence(), &snapshot.text);
    }
    // The buffer of a large guild must not stay allocated for the rest of the snapshot.
    if snapshot.text.capacity() > 4 * SLICE {
        snapshot.text = Vec::new();
    } else {
        snapshot.text.clear();
    }
}
