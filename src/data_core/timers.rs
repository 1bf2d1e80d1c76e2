//! Timers: when the core has to look at a connection although nothing happens on it.

use super::Owner;
use crate::{io::sockets::SocketId, protocol::Time};
use std::{cmp::Reverse, collections::BinaryHeap};

/// One timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// When the timer is due.
    pub at: Time,
    /// The owner of the connection.
    pub owner: Owner,
    /// The socket that the timer is for. The timer is void when the owner has another socket by then.
    pub socket: SocketId,
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

/// All timers of a core. A client adds a timer only when it is earlier than the client's earliest one, so there are few
/// more timers than connections that wait for something.
#[derive(Default)]
pub struct Timers(BinaryHeap<Reverse<Timer>>);

impl Timers {
    /// Adds a timer.
    pub fn add(&mut self, timer: Timer) {
        self.0.push(Reverse(timer));
    }

    /// When the earliest timer is due.
    pub fn next(&self) -> Option<Time> {
        self.0.peek().map(|timer| timer.0.at)
    }

    /// Removes a timer that is due at `now`, the earliest first.
    pub fn pop(&mut self, now: Time) -> Option<Timer> {
        self.next().filter(|&at| at <= now)?;
        self.0.pop().map(|timer| timer.0)
    }
}
