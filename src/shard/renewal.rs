//! What happens to clients when Discord gives the shard a new session, because the one before was lost.
//!
//! Discord never sends what happened between the two sessions, and libraries do not use a second GUILD_CREATE to
//! correct what they know: some ignore it, others merge it. So every client session that knows the old upstream session
//! ends, as it would at Discord: with Invalid Session (op 9, `false`; docs: Gateway, Resuming). The clients then
//! identify again, which uses no IDENTIFY at Discord, and get READY and the guilds as they are now.
//!
//! Promises: no event of the new upstream session reaches a client session of the old one. The proxy refuses the RESUME
//! of a client that had no connection. A client that still waits for its READY gets the new READY and no Invalid
//! Session. Connected clients get Invalid Session one after the other, [`STEP`] apart, the last one within [`WINDOW`].

use super::{Progress, Shard, deliver};
use crate::{
    downstream::{outbox::Outbox, session::Phase},
    protocol::{SessionKey, Time, close::Close, payload},
};
use std::time::Duration;

/// All connected clients of a shard get Invalid Session within this time, however many they are.
pub const WINDOW: Duration = Duration::from_secs(5);
/// Time between the Invalid Sessions of two clients; shorter if all clients would otherwise take longer than
/// [`WINDOW`]. It spreads the load: a client that identifies gets all guilds of the shard, which is most of what it
/// costs.
pub const STEP: Duration = Duration::from_millis(20);

/// Guilds of former upstream sessions that READY of the next one did not list.
///
/// A library whose session has ended keeps every guild that the next READY does not list: no library compares the two.
/// So, until a given time, each client that identifies gets a GUILD_DELETE for each of these guilds (docs: Gateway
/// Events, Guild Delete; without `unavailable` it means that the bot has left). A client that never knew the guild
/// ignores it. Bounded by the guilds of the shard.
#[derive(Default)]
pub(super) struct DepartedGuilds {
    guilds: Vec<u64>,
    until: Time,
}

impl DepartedGuilds {
    /// Keeps these guilds too, and all of them until a time at which every client has learned that its session is over.
    pub fn add(&mut self, guilds: Vec<u64>, now: Time, until: Time) {
        self.expire(now);
        self.guilds.extend(guilds);
        self.guilds.sort_unstable();
        self.guilds.dedup();
        self.until = until;
    }

    /// Forgets the guilds if their time has passed.
    pub fn expire(&mut self, now: Time) {
        if now >= self.until {
            self.guilds = Vec::new();
        }
    }

    /// When [`DepartedGuilds::expire`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        (!self.guilds.is_empty()).then_some(self.until)
    }

    /// The guilds for the next process.
    pub fn save(&self) -> Vec<u64> {
        self.guilds.clone()
    }

    /// The guilds for which a client that identifies now gets a GUILD_DELETE.
    pub fn guilds(&self, now: Time) -> &[u64] {
        if now < self.until { &self.guilds } else { &[] }
    }
}

impl Shard {
    /// Ends all client sessions that know the former upstream session. Returns how many they were.
    pub(super) fn invalidate_sessions(&mut self, now: Time) -> usize {
        let knows = |phase: Phase| !matches!(phase, Phase::Waiting | Phase::Invalid { .. });
        let mut known: Vec<(SessionKey, bool)> = self
            .clients
            .values()
            .filter(|client| knows(client.session.phase))
            .map(|client| (client.session.key, client.session.connection.is_some()))
            .collect();
        known.sort_unstable();
        let connected = known.iter().filter(|(_, connected)| *connected).count() as u32;
        let step = STEP.min(WINDOW / connected.max(1));
        let mut at = now;
        for &(key, connected) in &known {
            if connected {
                self.invalidate(key, at);
                at += step;
            } else {
                self.remove(now, key, false);
            }
        }
        self.invalidated += known.len() as u64;
        known.len()
    }

    /// Ends the session of a connected client, which gets Invalid Session at time `at`.
    pub(super) fn invalidate(&mut self, key: SessionKey, at: Time) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        self.syncing -= usize::from(deliver::is_syncing(client));
        // A guild that is being written in pieces is discarded before Invalid Session, and voice states may go there.
        if client.snapshot.take().is_some_and(|snapshot| snapshot.is_writing_in_pieces()) {
            client.session.return_snapshot_sequence();
        }
        client.answers.clear();
        client.session.phase = Phase::Invalid { at };
        self.limiter.remove_session(key);
        self.in_flight.remove_session(key);
        self.due.schedule_end(key, at);
    }

    /// Sends Invalid Session to a client. Further calls for the same client send nothing.
    pub(super) fn send_invalid_session(&mut self, key: SessionKey, outbox: &mut Outbox) -> Progress {
        let Some(client) = self.clients.get_mut(&key) else { return Progress::Return };
        if std::mem::replace(&mut client.invalid_session_sent, true) {
            return Progress::Return;
        }
        // Half of a large guild may be in the compressed stream already, and no other message can follow it, so the
        // connection has to be closed. The client then tries to resume, and gets Invalid Session.
        if !outbox.abandon() {
            let close = Close::SessionInvalid;
            client.pending_close = Some(close);
            return Progress::Close { close, reconnect: false };
        }
        // The door acknowledges the heartbeats that come from now on.
        for _ in 0..client.acks.take_all() {
            outbox.message(&[payload::HEARTBEAT_ACK]);
        }
        Self::tell_voice_lost(&mut client.voice_lost, &mut client.session, outbox);
        outbox.message(&[payload::INVALID_SESSION]);
        Progress::Return
    }
}
