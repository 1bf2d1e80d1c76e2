//! A client's connection as its surroundings see it, and what has to be known to check what the client gets: how much the shard
//! had been given when READY was made, and when all snapshots were complete.
//!
//! Both follow from what is noted after each turn of the core, and from the byte of the stream at which the client reads READY.

use crate::net::Socket;
use gateway_proxy::data_core::Parcel;
use std::collections::VecDeque;

/// How far things were after a turn of the core.
#[derive(Clone, Copy)]
pub struct Mark {
    /// Bytes that had been made for the client.
    pub made: u64,
    /// What the shard had been given.
    pub fed: usize,
    /// Upstream sessions.
    pub renewals: u64,
    /// No snapshot was on its way to anybody.
    pub synced: bool,
}

/// A client's connection.
pub struct Connection {
    pub socket: u64,
    /// It is at the door, where the client may identify.
    pub door: Option<Box<Parcel<Socket>>>,
    /// From where READY is looked for; `None`: everything about it is known.
    pub marks: Option<Vec<Mark>>,
    /// The first event that the client has to see after its guilds, once that is known.
    pub synced_at: Option<usize>,
    /// Where commands end that the core has not heard.
    pub commands: VecDeque<u64>,
}

impl Connection {
    /// Notes how far things are after a turn.
    pub fn mark(&mut self, mark: Mark) {
        if let Some(marks) = &mut self.marks
            && marks.last().is_none_or(|last| mark.made > last.made || mark.synced && !last.synced)
        {
            marks.push(mark);
        }
    }

    /// The client has read READY up to this byte: what the shard had been given when it was made, and the upstream sessions
    /// then.
    pub fn began(&mut self, offset: u64) -> (usize, u64) {
        let marks = self.marks.as_mut().expect("a session that has just begun");
        let index = marks.iter().position(|mark| mark.made >= offset).expect("READY was made in some turn");
        marks.drain(..index);
        (marks[0].fed, marks[0].renewals)
    }

    /// Has the snapshot been completed since READY was read, as is found out now?
    pub fn is_complete(&mut self) -> bool {
        let mark = self.marks.iter().flatten().find(|mark| mark.synced).copied();
        if let Some(mark) = mark {
            self.synced_at = Some(mark.fed);
            self.marks = None;
        }
        mark.is_some()
    }
}
