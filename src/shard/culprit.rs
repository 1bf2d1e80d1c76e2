//! Whose command it was for which Discord has closed the connection: with 4001 (unknown opcode) or 4002 (unreadable payload).
//!
//! Discord reads a connection in order and ends it at the first payload that it does not take, so the command that was sent last
//! is the one that is suspected. One that was sent before a heartbeat that has been acknowledged is not: it was taken.
//!
//! Promises: the client whose command it was is closed with that code, and nobody else is; nothing of it is sent again; the
//! shard is back at once, because the loss says nothing about Discord.

use super::{Close, Shard};
use crate::protocol::{Time, close};

/// See the module's description.
#[derive(Default)]
pub(super) struct Culprit {
    /// Whose command was sent last on this connection, when, and whether it was a presence.
    last: Option<(u32, Time, bool)>,
    /// Who has set the presence of the bot.
    presence_of: Option<u32>,
    /// Of whom nothing is sent again after the RESUME.
    guilty: Option<u32>,
    /// How many commands it were so far.
    pub count: u64,
}

impl Culprit {
    /// A client has set the presence.
    pub fn presence_set(&mut self, client: u32) {
        self.presence_of = Some(client);
    }

    /// A command goes to Discord; `None`: the presence.
    pub fn sent(&mut self, now: Time, client: Option<u32>) {
        self.last = client.or(self.presence_of).map(|whose| (whose, now, client.is_none()));
    }

    /// Everything that was sent before this time was taken.
    pub fn arrived(&mut self, before: Time) {
        self.last = self.last.filter(|(_, at, _)| *at >= before);
    }

    /// There is another connection.
    pub fn connected(&mut self) {
        self.last = None;
    }

    /// The replay is complete: may this client's commands be sent again?
    pub fn is_guilty(&self, client: u32) -> bool {
        self.guilty == Some(client)
    }

    /// What had to be left out has been.
    pub fn forgive(&mut self) {
        self.guilty = None;
    }
}

impl Shard {
    /// Discord has closed the connection with this code. If it was for a command of a client, that client is closed.
    pub(super) fn blame(&mut self, code: Option<u16>) {
        let reason: Close = match code {
            Some(close::UNKNOWN_OPCODE) => {
                (close::UNKNOWN_OPCODE, "Discord does not know the opcode of the last command")
            }
            Some(close::DECODE_ERROR) => (close::DECODE_ERROR, "Discord could not read the last command"),
            _ => return,
        };
        let Some((number, _, was_presence)) = self.culprit.last.take() else { return };
        self.culprit.count += 1;
        self.culprit.guilty = Some(number);
        self.limiter.forget(number);
        self.in_flight.forget(number);
        if was_presence {
            self.presence = None;
            self.in_flight.forget_presence();
        }
        self.upstream.excuse_loss();
        tracing::warn!(
            shard = %self.id,
            code = reason.0,
            session = number,
            "Discord closed the shard's connection for a command of a client, which is closed in turn"
        );
        if let Some(client) = self.clients.get_mut(&number) {
            client.doomed = Some(reason);
            self.wake.clients = true;
        }
    }
}
