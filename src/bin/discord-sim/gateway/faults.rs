//! Faults on request: what `/sim/drop`, `/sim/lose`, `/sim/refuse-resume`, `/sim/reconnect`, `/sim/invalid`,
//! `/sim/raw` and `/sim/wire` do.

use super::{Ending, Gateway, payload};
use std::time::Instant;

/// How `/sim/drop` cuts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// With a close frame.
    Close(u16),
    /// With a TCP reset.
    Reset,
    /// The socket stays open, but is neither read nor written any more.
    Freeze,
}

impl Gateway {
    /// Sends a payload that is no dispatch, or any bytes, to the connections of a shard. Says to how many.
    pub fn say(&mut self, shard: usize, payload: &[u8]) -> usize {
        let connections = self.connections_of(shard);
        for key in &connections {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.say(payload);
            }
        }
        connections.len()
    }

    /// Puts bytes on the wire of the connections of a shard that are no frame of ours.
    pub fn put_on_wire(&mut self, shard: usize, bytes: &[u8]) -> usize {
        let connections = self.connections_of(shard);
        for key in &connections {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.put_on_wire(bytes);
            }
        }
        connections.len()
    }

    /// Sends op 7.
    pub fn ask_to_reconnect(&mut self, shard: usize) -> usize {
        self.say(shard, &payload(7, "null"))
    }

    /// Sends op 1.
    pub fn ask_for_heartbeat(&mut self, shard: usize) -> usize {
        self.say(shard, &payload(1, "null"))
    }

    /// Sends op 9. The connection has to RESUME or IDENTIFY anew; if not resumable, the session is forgotten.
    pub fn invalidate(&mut self, shard: usize, resumable: bool, now: Instant) -> usize {
        let count = self.say(shard, &payload(9, if resumable { "true" } else { "false" }));
        for key in self.shards.get(shard).map(|record| record.sessions.clone()).unwrap_or_default() {
            let connection = self.sessions.get(&key).and_then(|session| session.connection);
            if let Some(peer) = connection.and_then(|key| self.peers.get_mut(&key)) {
                peer.session = None;
            }
            if resumable {
                self.detach(key, now);
            } else {
                self.end_session(key);
            }
        }
        count
    }

    /// Answers the next RESUMEs of a shard with this close code, though the session stays.
    pub fn refuse_resumes(&mut self, shard: usize, count: usize, code: u16) -> usize {
        if let Some(record) = self.shards.get_mut(shard) {
            record.refusals = std::iter::repeat_n(code, count).collect();
        }
        self.connections_of(shard).len()
    }

    /// Cuts the connections of a shard.
    pub fn cut(&mut self, shard: usize, how: Cut, end_session: bool, now: Instant) -> usize {
        let connections = self.connections_of(shard);
        for key in &connections {
            let Some(peer) = self.peers.get_mut(key) else { continue };
            match how {
                Cut::Close(code) => peer.end(Ending::Close(code, ""), now),
                Cut::Reset => peer.end(Ending::Reset, now),
                Cut::Freeze => {
                    peer.frozen = Some(now);
                    peer.wake();
                }
            }
            if let Some(session) = peer.session.take() {
                self.detach(session, now);
            }
        }
        if end_session {
            for key in self.shards.get(shard).map(|record| record.sessions.clone()).unwrap_or_default() {
                self.end_session(key);
            }
        }
        connections.len()
    }
}
