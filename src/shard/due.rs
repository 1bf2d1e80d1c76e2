//! Clients that have to be served at a certain time although no event comes for them: a heartbeat has to be
//! acknowledged, or the session of the client has to end.
//!
//! One heap for the shard replaces a timer for each client. The heap holds at most two entries for each client: one for
//! its heartbeats, one for its end. Pure: the caller gives the times.

use crate::protocol::{SessionKey, Time};
use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// Shortest and longest delay of a heartbeat's acknowledgement. Within these bounds the delay is the last round trip of
/// the shard's own heartbeat to Discord, so that a library measures the latency to Discord.
///
/// The shortest delay also applies when no round trip is known. discord.py needs it: a thread of discord.py notes the
/// time of a heartbeat after it has sent it. If the acknowledgement comes before that, the library measures from the
/// heartbeat before, and warns that the connection is 41 s behind. The longest delay is far below the heartbeat
/// interval, at whose end a library without an acknowledgement reconnects.
pub const ACK_DELAY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));
/// The most heartbeats of one client that can wait for their acknowledgement. Further ones are acknowledged at once.
pub const MAX_OWED_ACKS: u32 = 16;

/// Heartbeats of one client that wait for their acknowledgement.
#[derive(Default)]
pub(super) struct PendingAcks {
    owed: u32,
    /// When the acknowledgements are due.
    at: Time,
    /// The heap has an entry for these acknowledgements.
    queued: bool,
}

impl PendingAcks {
    /// The number of acknowledgements that are due now. The caller sends them; this call removes them.
    pub fn take_due(&mut self, now: Time) -> u32 {
        if now >= self.at { self.take_all() } else { 0 }
    }

    /// The number of acknowledgements, due or not. The caller sends them; this call removes them.
    pub fn take_all(&mut self) -> u32 {
        std::mem::take(&mut self.owed)
    }
}

/// Why a client has to be served.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// A heartbeat has to be acknowledged.
    Acks,
    /// The session ends.
    End,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct DueClients(BinaryHeap<Reverse<(Time, SessionKey, Reason)>>);

impl DueClients {
    /// The session `key` ends at this time.
    pub fn schedule_end(&mut self, key: SessionKey, at: Time) {
        self.0.push(Reverse((at, key, Reason::End)));
    }

    /// Schedules the acknowledgement of a heartbeat of session `key` for this time, or with those that wait already.
    /// Returns false when [`MAX_OWED_ACKS`] wait; the caller then acknowledges the heartbeat at once.
    pub fn schedule_ack(&mut self, acks: &mut PendingAcks, key: SessionKey, at: Time) -> bool {
        if acks.owed >= MAX_OWED_ACKS {
            return false;
        }
        if acks.owed == 0 {
            acks.at = at;
        }
        acks.owed += 1;
        if !acks.queued {
            acks.queued = true;
            self.0.push(Reverse((acks.at, key, Reason::Acks)));
        }
        true
    }

    /// When the next client has to be served.
    pub fn next(&self) -> Option<Time> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the earliest entry that is due out of the heap: the key of a session, and why its client has to be served.
    /// `None` when no entry is due. The entry may be out of date: the session may have ended, and for [`Reason::Acks`]
    /// the caller asks [`DueClients::is_due`].
    pub fn pop(&mut self, now: Time) -> Option<(SessionKey, Reason)> {
        self.next().filter(|at| now >= *at)?;
        self.0.pop().map(|Reverse((_, key, reason))| (key, reason))
    }

    /// The entry of a client's heartbeats was taken out of the heap. Returns whether acknowledgements are due now. If
    /// they are due later, the entry is put back.
    pub fn is_due(&mut self, acks: &mut PendingAcks, key: SessionKey, now: Time) -> bool {
        acks.queued = acks.owed > 0 && now < acks.at;
        if acks.queued {
            self.0.push(Reverse((acks.at, key, Reason::Acks)));
        }
        acks.owed > 0 && !acks.queued
    }

    /// Frees memory that the heap does not need.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}
