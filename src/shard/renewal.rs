//! Discord has given the shard a new session, because the one before was lost.
//!
//! What happened in between nobody has told, and libraries do not take a second GUILD_CREATE for a correction of what they
//! know: some ignore it, others merge it. So every session of a client that knows the old one ends, as it would at
//! Discord: with Invalid Session (op 9, `false`; docs: Gateway, Resuming). Clients then identify anew, which costs
//! nothing here, and get READY and the guilds as they are now.
//!
//! Promises: no event of the new session reaches a session of the old one; a client without a connection is told when it
//! comes to resume; a client that still waits for its READY gets the new one and notices nothing; the connected ones are
//! told one after the other, each [`STEP`] after the one before, the last one within [`WINDOW`].

use super::{Progress, Shard, deliver};
use crate::{
    downstream::{outbox::Outbox, session::Phase},
    protocol::{Time, close, payload},
};
use std::time::Duration;

/// All clients of a shard are told within this time, however many they are.
pub const WINDOW: Duration = Duration::from_secs(5);
/// So long after one client the next one is told, or less, where otherwise [`WINDOW`] would not suffice. A client that
/// identifies gets all guilds of the shard, which is most of what it costs.
pub const STEP: Duration = Duration::from_millis(20);

/// Guilds that were there in the session before and are not in READY of the new one.
///
/// A library that has lost its session keeps every guild that the next READY does not name: none compares the two. So for a
/// while each client that identifies is told of these guilds by a GUILD_DELETE each (docs: Gateway Events, Guild Delete; without
/// `unavailable` it means that the bot has left). To a client that never knew them it says nothing. Bounded by the guilds of
/// the shard.
#[derive(Default)]
pub(super) struct Left {
    guilds: Vec<u64>,
    until: Time,
}

impl Left {
    /// These guilds, to be told of until a time at which no client can have missed that its session is over.
    pub fn new(guilds: Vec<u64>, until: Time) -> Self {
        Self { guilds, until }
    }

    /// The guilds to tell a client of that identifies now.
    pub fn guilds(&self, now: Time) -> &[u64] {
        if now < self.until { &self.guilds } else { &[] }
    }
}

impl Shard {
    /// Ends all sessions of clients that know the session that the shard had before; returns how many.
    pub(super) fn invalidate_sessions(&mut self, now: Time) -> usize {
        let knows = |phase: Phase| !matches!(phase, Phase::Waiting | Phase::Invalid { .. });
        let mut known: Vec<(u32, bool)> = self
            .clients
            .values()
            .filter(|client| knows(client.session.phase))
            .map(|client| (client.session.number, client.session.connection.is_some()))
            .collect();
        known.sort_unstable();
        let connected = known.iter().filter(|(_, connected)| *connected).count() as u32;
        let step = STEP.min(WINDOW / connected.max(1));
        let mut at = now;
        for &(number, connected) in &known {
            if connected {
                self.invalidate(number, at);
                at += step;
            } else {
                self.remove(now, number, false);
            }
        }
        self.invalidated += known.len() as u64;
        known.len()
    }

    fn invalidate(&mut self, number: u32, at: Time) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        self.syncing -= usize::from(deliver::is_syncing(client));
        client.snapshot = None;
        client.answers.clear();
        client.session.phase = Phase::Invalid { at };
        self.limiter.forget(number);
        self.in_flight.forget(number);
        self.due.end(number, at);
    }

    /// Tells a client that its session is over; once, however often it is called.
    pub(super) fn dismiss(&mut self, number: u32, outbox: &mut Outbox) -> Progress {
        let Some(client) = self.clients.get_mut(&number) else { return Progress::Return };
        if std::mem::replace(&mut client.dismissed, true) {
            return Progress::Return;
        }
        // Half of a large guild may be in the compressed stream already; nothing can follow it, so the connection has to go.
        // The client then comes to resume, and is told.
        if !outbox.abandon() {
            let close = (close::UNKNOWN_ERROR, "the session is no longer valid");
            client.doomed = Some(close);
            return Progress::Close { close, reconnect: false };
        }
        // The door acknowledges what comes from now on.
        for _ in 0..client.acks.take_all() {
            outbox.message(&[payload::HEARTBEAT_ACK]);
        }
        Self::tell_voice_lost(&mut client.voice_lost, &mut client.session, outbox);
        outbox.message(&[payload::INVALID_SESSION]);
        Progress::Return
    }
}
