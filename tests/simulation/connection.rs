//! A client's connection as the host sees it, and what the host needs to check the client: how many events the shard
//! had received when it wrote READY, and when it had written all snapshots.
//!
//! Both follow from marks that the host makes after each turn of the core, and from the offset in the stream at which
//! the client reads READY.

use crate::net::Socket;
use gateway_proxy::data_core::ConnectionParts;
use std::collections::VecDeque;

/// The state after one turn of the core.
#[derive(Clone, Copy)]
pub struct Mark {
    /// Number of bytes that the core had written for the client.
    pub made: u64,
    /// Length of [`Host::fed`](crate::host::Host::fed).
    pub fed: usize,
    /// Number of upstream sessions.
    pub renewals: u64,
    /// No session was being sent its snapshots.
    pub synced: bool,
}

/// A client's connection.
pub struct Connection {
    pub socket: u64,
    /// The connection while it is at the door, where the client may identify.
    pub door: Option<Box<ConnectionParts<Socket>>>,
    /// The marks since the client entered; `None`: the host needs no more of them.
    pub marks: Option<Vec<Mark>>,
    /// Index in `fed` of the first event that the client has to receive after its guilds, once that is known.
    pub synced_at: Option<usize>,
    /// The end offsets of commands that the core has not read.
    pub commands: VecDeque<u64>,
}

impl Connection {
    /// Adds a mark after a turn of the core.
    pub fn mark(&mut self, mark: Mark) {
        if let Some(marks) = &mut self.marks
            && marks.last().is_none_or(|last| mark.made > last.made || mark.synced && !last.synced)
        {
            marks.push(mark);
        }
    }

    /// The client has read READY, which ends at this offset of the stream. Returns the length of `fed` and the number
    /// of upstream sessions when READY was written.
    pub fn began(&mut self, offset: u64) -> (usize, u64) {
        let marks = self.marks.as_mut().expect("a session that has just begun");
        let index = marks.iter().position(|mark| mark.made >= offset).expect("READY was made in some turn");
        marks.drain(..index);
        (marks[0].fed, marks[0].renewals)
    }

    /// Looks for a mark with complete snapshots. Returns true at most once.
    pub fn is_complete(&mut self) -> bool {
        let mark = self.marks.iter().flatten().find(|mark| mark.synced).copied();
        if let Some(mark) = mark {
            self.synced_at = Some(mark.fed);
            self.marks = None;
        }
        mark.is_some()
    }
}
