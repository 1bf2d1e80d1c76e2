//! Finds the client whose command made Discord close the connection with 4001 (unknown opcode) or 4002 (unreadable
//! payload).
//!
//! Discord reads a connection in order and closes it at the first payload that it does not accept, so the shard
//! suspects the command that it sent last. A command that was sent before an acknowledged heartbeat is not suspected,
//! because Discord has accepted it.
//!
//! Promises: the client that sent the command is closed with Discord's code, and no other client is. The shard sends
//! none of its commands again. The shard connects again at once, because the loss says nothing about Discord.

use super::Shard;
use crate::protocol::{
    SessionKey, Time,
    close::{self, Close},
};

/// See the module's description.
#[derive(Default)]
pub(super) struct Culprit {
    /// The last command on this connection: its client, when it was sent, and whether it was a presence update.
    last: Option<(SessionKey, Time, bool)>,
    /// The client that has set the newest presence.
    presence_of: Option<SessionKey>,
    /// The client whose commands are not sent again after the RESUME.
    excluded: Option<SessionKey>,
    /// The number of commands for which Discord closed the connection.
    pub count: u64,
}

impl Culprit {
    /// The client of this session has set the presence.
    pub fn register_presence(&mut self, client: SessionKey) {
        self.presence_of = Some(client);
    }

    /// The shard sends a command of this client to Discord; `None`: the presence update.
    pub fn register_sent(&mut self, now: Time, client: Option<SessionKey>) {
        self.last = client.or(self.presence_of).map(|whose| (whose, now, client.is_none()));
    }

    /// Discord has accepted everything that was sent before this time.
    pub fn acknowledge_sent_before(&mut self, before: Time) {
        self.last = self.last.filter(|(_, at, _)| *at >= before);
    }

    /// The shard has another connection, on which it has sent no command yet.
    pub fn connected(&mut self) {
        self.last = None;
    }

    /// Returns whether this client's commands must not be sent again after the replay.
    pub fn is_excluded(&self, client: SessionKey) -> bool {
        self.excluded == Some(client)
    }

    /// The shard has left the commands of the excluded client out, and ends the exclusion.
    pub fn end_exclusion(&mut self) {
        self.excluded = None;
    }
}

impl Shard {
    /// Discord has closed the connection with this code. If the code is about a command of a client, the shard closes
    /// that client.
    pub(super) fn close_culprit(&mut self, code: Option<u16>) {
        let reason = match code {
            Some(close::UNKNOWN_OPCODE) => Close::OpcodeRefused,
            Some(close::DECODE_ERROR) => Close::CommandRefused,
            _ => return,
        };
        let Some((key, _, was_presence)) = self.culprit.last.take() else { return };
        self.culprit.count += 1;
        self.culprit.excluded = Some(key);
        self.limiter.remove_session(key);
        self.in_flight.remove_session(key);
        if was_presence {
            self.presence = None;
            self.in_flight.forget_presence();
        }
        self.upstream.excuse_loss();
        tracing::warn!(
            shard = self.id.id,
            code = reason.code(),
            client = key.0,
            "Discord closed the shard's connection because of a client's command: that client is closed with the same code"
        );
        if let Some(client) = self.clients.get_mut(&key) {
            client.pending_close = Some(reason);
            self.wake.clients = true;
        }
    }
}
