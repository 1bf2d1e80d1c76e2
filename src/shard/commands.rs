//! Handles the payloads of an identified client: heartbeats, commands for Discord, and invalid payloads.

use super::{Shard, due::ACK_DELAY, requests};
use crate::{
    downstream::{outbox::Outbox, session::Phase},
    protocol::{
        ConnectionId, SessionKey, Time,
        close::Close,
        command::{Command, Forwarded, MAX_COMMAND, forward},
        opcode, payload,
    },
};
use std::time::Duration;

/// Commands that a client may send in [`COMMAND_WINDOW`] (docs: Gateway, Rate Limiting).
pub const MAX_COMMANDS: u32 = 120;
/// The time window of [`MAX_COMMANDS`].
pub const COMMAND_WINDOW: Duration = Duration::from_secs(60);

impl Shard {
    /// Handles one payload that session `key` has sent on this `connection`. With an error the caller closes the
    /// connection.
    pub fn command(
        &mut self,
        now: Time,
        key: SessionKey,
        connection: ConnectionId,
        text: &[u8],
        outbox: &mut Outbox,
    ) -> Result<(), Close> {
        let Ok(command) = Command::parse(text) else {
            return Err(Close::NoOpcode);
        };
        let ack_at = now + self.round_trip.unwrap_or_default().clamp(ACK_DELAY.0, ACK_DELAY.1);
        let Some(client) = self.clients.get_mut(&key) else {
            return Err(Close::SessionEnded);
        };
        let session = &mut client.session;
        // The new connection of the session may not have received what the old one acknowledges.
        if session.connection != Some(connection) {
            return Err(Close::Superseded);
        }
        match command.op {
            opcode::HEARTBEAT => {
                session.last_heartbeat = now;
                if let Some(sequence) = command.heartbeat() {
                    session.acknowledge(sequence);
                    client.answers.acknowledge(sequence.min(session.sequence()));
                }
                if !self.due.schedule_ack(&mut client.acks, key, ack_at) {
                    outbox.message(&[payload::HEARTBEAT_ACK]);
                }
                return Ok(());
            }
            opcode::IDENTIFY | opcode::RESUME => {
                return Err(Close::AlreadyIdentified);
            }
            _ => {}
        }
        let (count, since) = &mut session.commands;
        if now.saturating_sub(*since) > COMMAND_WINDOW {
            (*count, *since) = (0, now);
        }
        *count += 1;
        if *count > MAX_COMMANDS {
            // The client's waiting commands must not use up the commands that Discord allows the shard.
            self.limiter.remove_session(key);
            return Err(Close::TooManyCommands);
        }
        // The session is over, and its client does not know yet: an answer could not reach it. The presence belongs to
        // the bot, so it is set in any case.
        if matches!(session.phase, Phase::Invalid { .. }) && command.op != opcode::PRESENCE_UPDATE {
            return Ok(());
        }
        if !self.permits(key, &command) {
            return Ok(());
        }
        let Some(mut payload) = self.checked(key, &command)? else { return Ok(()) };
        let mut room = 0;
        if command.op == opcode::REQUEST_GUILD_MEMBERS {
            let data = command.d.map_or("null", |data| data.get()).as_bytes();
            match self.request_members(now, key, data)? {
                Some(request) => payload = request,
                None => return Ok(()),
            }
            room = requests::NONCE_BYTES;
        }
        // The keys that the proxy adds can make a command too long. Discord would then close the shard's connection.
        if payload.len() + room > MAX_COMMAND {
            return Err(Close::TooLong);
        }
        if command.op == opcode::PRESENCE_UPDATE {
            self.culprit.register_presence(key);
            self.presence = Some(payload.clone());
            self.limiter.push_presence(payload);
        } else if self.limiter.push(key, payload).is_err() {
            return Err(Close::CommandsWaiting);
        }
        self.wake.upstream = true;
        Ok(())
    }

    /// Makes the payload that the shard sends to Discord for a command. `Ok(None)`: the shard does not forward the
    /// command. If its opcode is unknown, this call also counts the command. With an error the caller closes the
    /// client.
    fn checked(&mut self, key: SessionKey, command: &Command<'_>) -> Result<Option<Vec<u8>>, Close> {
        match forward(command, &self.settings.forward_opcodes) {
            Ok(Forwarded::Payload(payload)) => Ok(Some(payload)),
            Ok(Forwarded::Nothing) => Ok(None),
            Ok(Forwarded::Unknown) => {
                self.note_unknown(key, command.op);
                Ok(None)
            }
            Err(error) => Err(Close::Command(error)),
        }
    }

    /// Counts a command with an unknown opcode. The log names the first such command, the second, the fourth and so on.
    fn note_unknown(&mut self, key: SessionKey, op: u64) {
        self.unknown_commands += 1;
        if self.unknown_commands.is_power_of_two() {
            tracing::warn!(
                shard = self.id.id,
                client = key.0,
                op,
                so_far = self.unknown_commands,
                "a client's command was dropped: the proxy does not know its opcode; if Discord does, list it in `forward_opcodes`"
            );
        }
    }
}
