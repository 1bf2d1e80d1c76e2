//! Clients that have to be served at a certain time, though no event comes for them: the acknowledgement of a heartbeat is
//! due, or the end of a session that has become invalid.
//!
//! One heap for the shard takes the place of a timer for each client. Bounded: it holds at most two entries for each
//! client, one for its heartbeats and one for its end. Pure; the times are given by the caller.

use crate::protocol::Time;
use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

/// Shortest and longest delay of a heartbeat's acknowledgement. Within these bounds it is the last round trip of the
/// shard's own heartbeat to Discord, so that the latency that a library measures is that of the way to Discord.
///
/// The shortest one is also used when no round trip is known. discord.py needs it: it notes when it has sent a heartbeat
/// in another thread, after the sending, and an acknowledgement that overtakes that thread is measured from the heartbeat
/// before, which makes the library warn that the connection is 41 s behind. The longest one is far below the interval of
/// heartbeats, at whose end libraries without an acknowledgement reconnect.
pub const ACK_DELAY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));
/// Heartbeats of one client that can wait for their acknowledgement; those beyond are acknowledged at once.
pub const MAX_OWED_ACKS: u32 = 16;

/// Acknowledgements that one client is owed.
#[derive(Default)]
pub(super) struct Acks {
    owed: u32,
    /// When they are due.
    at: Time,
    /// The heap has an entry for them.
    queued: bool,
}

impl Acks {
    /// How many are due now; they are no longer owed after this call.
    pub fn take_due(&mut self, now: Time) -> u32 {
        if now >= self.at { self.take_all() } else { 0 }
    }

    /// How many it is owed, due or not; they are no longer owed after this call.
    pub fn take_all(&mut self) -> u32 {
        std::mem::take(&mut self.owed)
    }
}

/// Why a client has to be served.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Its heartbeats.
    Acks,
    /// The end of its session.
    End,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Due(BinaryHeap<Reverse<(Time, u32, Reason)>>);

impl Due {
    /// The session `number` ends at this time.
    pub fn end(&mut self, number: u32, at: Time) {
        self.0.push(Reverse((at, number, Reason::End)));
    }

    /// A heartbeat of the client of session `number` will be acknowledged at this time, or with those that it is owed
    /// already. False: it is owed too many, and this one has to be acknowledged at once.
    pub fn owe(&mut self, acks: &mut Acks, number: u32, at: Time) -> bool {
        if acks.owed >= MAX_OWED_ACKS {
            return false;
        }
        if acks.owed == 0 {
            acks.at = at;
        }
        acks.owed += 1;
        if !acks.queued {
            acks.queued = true;
            self.0.push(Reverse((acks.at, number, Reason::Acks)));
        }
        true
    }

    /// When the next client has to be served.
    pub fn next(&self) -> Option<Time> {
        self.0.peek().map(|Reverse((at, ..))| *at)
    }

    /// The number of a session whose client has to be served now, and why.
    pub fn pop(&mut self, now: Time) -> Option<(u32, Reason)> {
        self.next().filter(|at| now >= *at)?;
        self.0.pop().map(|Reverse((_, number, reason))| (number, reason))
    }

    /// The entry of a client's heartbeats was taken out of the heap. False: what it is owed now is due later, and it has
    /// been put back.
    pub fn is_due(&mut self, acks: &mut Acks, number: u32, now: Time) -> bool {
        acks.queued = acks.owed > 0 && now < acks.at;
        if acks.queued {
            self.0.push(Reverse((acks.at, number, Reason::Acks)));
        }
        acks.owed > 0 && !acks.queued
    }

    /// Gives memory back that is not needed any more.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}
