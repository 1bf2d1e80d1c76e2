//! Commands that were written to Discord and may not have arrived. When the connection breaks, Discord and the proxy
//! lose what was on its way, without an error.
//!
//! Guaranteed: one of the commands below that was lost with its connection is sent again, once, after the RESUME, if
//! its client is still there.
//!
//! * Presence (op 3): the newest one of the shard.
//! * Voice (op 4): the newest one of each guild, with the leave before it where there was one (see
//!   [`Table`](super::voice::Table)). An op 4 for the channel that the bot is in already changes nothing.
//! * Soundboard sounds and channel info (op 31 and 43): these are questions, which may be asked twice.
//! * Members (op 8): see [`Requests`](super::requests); those whose answer has not begun by the end of the replay.
//!
//! Not guaranteed: that the first copy did not arrive, too; that commands with an opcode that the proxy does not know
//! are sent again; that any command is sent again when Discord's session is lost, because then the clients start over.
//!
//! Discord reads a connection in order, so the acknowledgement of a heartbeat proves that everything that was written
//! before that heartbeat has arrived. Commands without such a proof are kept here, at most [`MAX_IN_FLIGHT`].

use crate::protocol::{SessionKey, Time, json};
use serde::{Deserialize, Serialize};

/// The most commands that are kept; for one more the oldest is dropped. Fewer are usually sent between two acknowledged
/// heartbeats (see [`COMMANDS_PER_WINDOW`](crate::upstream::limiter::COMMANDS_PER_WINDOW)).
pub const MAX_IN_FLIGHT: usize = 256;

/// The subject of a command. Of two commands with the same subject, only the newer one is sent again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject<'a> {
    Voice(u64),
    Question(&'a [u8]),
}

/// The subject of a command; `None` if it must not be sent twice.
fn subject(command: &[u8]) -> Option<Subject<'_>> {
    if let Some(voice) = command.strip_prefix(br#"{"op":4,"d":"#) {
        return json::get(voice, "guild_id").and_then(json::parse_id).map(Subject::Voice);
    }
    let question = [&br#"{"op":31,"#[..], br#"{"op":43,"#].iter().any(|start| command.starts_with(start));
    question.then_some(Subject::Question(command))
}

struct Sent {
    client: SessionKey,
    command: Vec<u8>,
    at: Time,
    /// The connection of the command is gone, so no heartbeat can prove any more that the command arrived.
    stale: bool,
}

/// A command in the state that one process hands to the next.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    client: SessionKey,
    command: String,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct InFlight {
    commands: Vec<Sent>,
    /// When the newest presence update was sent, and whether its connection is gone.
    presence: Option<(Time, bool)>,
}

impl InFlight {
    /// A client's command was sent. A command that was sent again (`is_resend`) is not kept for a third time, because
    /// it may be the reason why connections end.
    pub fn register_sent(&mut self, now: Time, client: SessionKey, command: &[u8], is_resend: bool) {
        let Some(subject) = subject(command) else { return };
        self.commands.retain(|sent| self::subject(&sent.command) != Some(subject));
        if is_resend {
            return;
        }
        if self.commands.len() >= MAX_IN_FLIGHT {
            self.commands.remove(0);
        }
        self.commands.push(Sent { client, command: command.to_vec(), at: now, stale: false });
    }

    /// The newest presence update was sent.
    pub fn register_presence_sent(&mut self, now: Time) {
        self.presence = Some((now, false));
    }

    /// Drops the commands that were sent before this time on the current connection, because they have arrived.
    pub fn acknowledge_sent_before(&mut self, before: Time) {
        let missing = |at: Time, stale: bool| stale || at >= before;
        self.commands.retain(|sent| missing(sent.at, sent.stale));
        self.presence = self.presence.filter(|(at, stale)| missing(*at, *stale));
    }

    /// Discord has answered every op 4 about this guild.
    pub fn voice_answered(&mut self, guild: u64) {
        self.commands.retain(|sent| subject(&sent.command) != Some(Subject::Voice(guild)));
    }

    /// The connection is lost. The commands that were sent on it may be lost, too.
    pub fn connection_lost(&mut self) {
        self.commands.iter_mut().for_each(|sent| sent.stale = true);
        self.presence = self.presence.map(|(at, _)| (at, true));
    }

    /// Drops the commands of a client that is gone.
    pub fn remove_session(&mut self, client: SessionKey) {
        self.commands.retain(|sent| sent.client != client);
    }

    /// The commands to send again, each with its client. A command is left out when a newer one with the same subject
    /// is `waiting`.
    pub fn commands_to_resend<'a>(&'a self, waiting: &'a [&[u8]]) -> impl Iterator<Item = (SessionKey, &'a [u8])> {
        let newer = |sent: &&Sent| waiting.iter().any(|command| subject(command) == subject(&sent.command));
        self.commands.iter().filter(move |sent| !newer(sent)).map(|sent| (sent.client, &*sent.command))
    }

    /// Returns whether the newest presence update has to be sent again, and resets this.
    pub fn take_lost_presence(&mut self) -> bool {
        self.presence.take_if(|(_, stale)| *stale).is_some()
    }

    /// The newest presence update must not be sent again.
    pub fn forget_presence(&mut self) {
        self.presence = None;
    }

    /// Returns whether the newest presence update may not have arrived.
    pub fn has_presence(&self) -> bool {
        self.presence.is_some()
    }

    /// The commands, for the next process.
    pub fn save(&self) -> impl Iterator<Item = Saved> {
        let text = |sent: &Sent| String::from_utf8(sent.command.clone()).ok();
        self.commands.iter().filter_map(move |sent| Some(Saved { client: sent.client, command: text(sent)? }))
    }

    /// Adds a command of a former process.
    pub fn restore(&mut self, now: Time, saved: Saved) {
        self.register_sent(now, saved.client, saved.command.as_bytes(), false);
        self.connection_lost();
    }

    /// Notes that the presence update of a former process may not have arrived.
    pub fn restore_presence(&mut self, now: Time) {
        self.presence = Some((now, true));
    }
}
