//! When the core has to look at a connection although nothing happens there.

use super::Owner;
use crate::{io::sockets::ConnectionId, protocol::Time};
use std::{cmp::Reverse, collections::BinaryHeap};

/// One appointment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// When.
    pub at: Time,
    /// With whom.
    pub owner: Owner,
    /// On which connection: when the owner has another one by then, the appointment is void.
    pub connection: ConnectionId,
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.owner).cmp(&(other.at, other.owner))
    }
}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// All appointments of a core. Each connection makes a new one only when it is earlier than the one that it has, so there are
/// few more than connections that wait for something.
#[derive(Default)]
pub struct Timers(BinaryHeap<Reverse<Timer>>);

impl Timers {
    /// Adds one.
    pub fn add(&mut self, timer: Timer) {
        self.0.push(Reverse(timer));
    }

    /// When the next one is.
    pub fn next(&self) -> Option<Time> {
        self.0.peek().map(|timer| timer.0.at)
    }

    /// Takes one that is due.
    pub fn pop(&mut self, now: Time) -> Option<Timer> {
        self.next().filter(|&at| at <= now)?;
        self.0.pop().map(|timer| timer.0)
    }
}
