//! Faults on request: `/sim/drop`, `/sim/lose`, `/sim/refuse-resume`, `/sim/reconnect`, `/sim/invalid`, `/sim/raw`,
//! `/sim/wire` and `/sim/mute`.

use super::{Ending, Gateway, payload, session::Mute};
use std::rc::Rc;
use std::time::Instant;

/// How `/sim/drop` cuts connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// With a close frame that has this code.
    Close(u16),
    /// With a TCP reset.
    Reset,
    /// The socket stays open, but the simulator neither reads from it nor writes to it.
    Freeze,
}

impl Gateway {
    /// Sends a payload that is not a dispatch to all connections of a shard. Returns the number of connections.
    pub fn say(&mut self, shard: usize, payload: &[u8]) -> usize {
        let connections = self.connections_of(shard);
        for key in &connections {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.say(payload);
            }
        }
        connections.len()
    }

    /// Sends bytes to all connections of a shard without a WebSocket frame around them. Returns the number of
    /// connections.
    pub fn put_on_wire(&mut self, shard: usize, bytes: &[u8]) -> usize {
        let connections = self.connections_of(shard);
        for key in &connections {
            if let Some(peer) = self.peers.get_mut(key) {
                peer.put_on_wire(bytes);
            }
        }
        connections.len()
    }

    /// Sends op 7 (Reconnect) to all connections of a shard.
    pub fn ask_to_reconnect(&mut self, shard: usize) -> usize {
        self.say(shard, &payload(7, "null"))
    }

    /// Sends op 1 (Heartbeat), which asks the client for a heartbeat.
    pub fn ask_for_heartbeat(&mut self, shard: usize) -> usize {
        self.say(shard, &payload(1, "null"))
    }

    /// Sends op 9 (Invalid Session). The client has to RESUME or IDENTIFY again. If the session is not resumable, it
    /// ends.
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

    /// Answers the next `count` RESUMEs of a shard with this close code. The sessions stay.
    pub fn refuse_resumes(&mut self, shard: usize, count: usize, code: u16) -> usize {
        if let Some(record) = self.shards.get_mut(shard) {
            record.refusals = std::iter::repeat_n(code, count).collect();
        }
        self.connections_of(shard).len()
    }

    /// Sends the sessions of a shard no more events, or with `only` none of one type. Heartbeats are acknowledged as
    /// before. A new session gets everything, and with `until_resume` so does a session that is resumed.
    pub fn mute(&mut self, shard: usize, only: Option<&str>, until_resume: bool) -> usize {
        let keys = self.shards.get(shard).map(|record| record.sessions.clone()).unwrap_or_default();
        for key in keys {
            if let Some(session) = self.sessions.get_mut(&key) {
                session.mute = Some(Mute { only: only.map(Rc::from), until_resume });
            }
        }
        self.connections_of(shard).len()
    }

    /// Cuts all connections of a shard. With `end_session` the shard's sessions end, otherwise they can be resumed.
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
