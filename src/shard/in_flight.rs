//! Commands that have been written to Discord and may not have arrived: what is written in the moment in which the
//! connection breaks is lost without a trace.
//!
//! Guaranteed: of the commands named below, one that was lost with its connection is sent again, once, after the RESUME, if
//! its client is still there.
//!
//! * Presence (op 3): the newest one of the shard.
//! * Voice (op 4): the newest one of each guild, with the leave before it where there was one (see [`Table`](super::voice::Table)).
//!   To say again which channel the bot is in changes nothing.
//! * Soundboard sounds and channel info (op 31 and 43): questions, which may be asked twice.
//! * Members (op 8): see [`Requests`](super::requests); those whose answer has not begun by the end of the replay.
//!
//! Not guaranteed: that the first one did not arrive too; anything for opcodes that the proxy does not know; and anything
//! when Discord's session is lost, because then clients start over.
//!
//! Discord reads a connection in order, so the acknowledgement of a heartbeat proves that everything arrived that was
//! written before that heartbeat. What is not proven so is kept here, at most [`MOST`] commands.

use crate::protocol::{Time, json};
use serde::{Deserialize, Serialize};

/// Commands that are remembered; of more the oldest are forgotten. Between two acknowledged heartbeats there is rarely
/// room for as many (see [`COMMANDS_PER_WINDOW`](crate::upstream::limiter::COMMANDS_PER_WINDOW)).
pub const MOST: usize = 256;

/// What makes two commands the same, so that only the newer one counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Subject<'a> {
    Voice(u64),
    Question(&'a [u8]),
}

/// `None`: a command that must not be sent twice.
fn subject(command: &[u8]) -> Option<Subject<'_>> {
    if let Some(voice) = command.strip_prefix(br#"{"op":4,"d":"#) {
        return json::get(voice, "guild_id").and_then(json::parse_id).map(Subject::Voice);
    }
    let question = [&br#"{"op":31,"#[..], br#"{"op":43,"#].iter().any(|start| command.starts_with(start));
    question.then_some(Subject::Question(command))
}

struct Sent {
    client: u32,
    command: Vec<u8>,
    at: Time,
    /// On a connection that is gone: no heartbeat can prove any more that it arrived.
    stale: bool,
}

/// A command between two processes.
#[derive(Serialize, Deserialize)]
pub(super) struct Saved {
    client: u32,
    command: String,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct InFlight {
    commands: Vec<Sent>,
    /// When the newest presence was sent, and whether on a connection that is gone.
    presence: Option<(Time, bool)>,
}

impl InFlight {
    /// A client's command was sent. One that was sent again is not remembered a second time: it may be the reason why
    /// connections end.
    pub fn sent(&mut self, now: Time, client: u32, command: &[u8], again: bool) {
        let Some(subject) = subject(command) else { return };
        self.commands.retain(|sent| self::subject(&sent.command) != Some(subject));
        if again {
            return;
        }
        if self.commands.len() >= MOST {
            self.commands.remove(0);
        }
        self.commands.push(Sent { client, command: command.to_vec(), at: now, stale: false });
    }

    /// The newest presence was sent.
    pub fn presence_sent(&mut self, now: Time) {
        self.presence = Some((now, false));
    }

    /// Everything that was sent before this time has arrived.
    pub fn arrived(&mut self, before: Time) {
        let missing = |at: Time, stale: bool| stale || at >= before;
        self.commands.retain(|sent| missing(sent.at, sent.stale));
        self.presence = self.presence.filter(|(at, stale)| missing(*at, *stale));
    }

    /// Discord has answered everything about the bot's voice state in a guild.
    pub fn voice_answered(&mut self, guild: u64) {
        self.commands.retain(|sent| subject(&sent.command) != Some(Subject::Voice(guild)));
    }

    /// There is another connection.
    pub fn connection_lost(&mut self) {
        self.commands.iter_mut().for_each(|sent| sent.stale = true);
        self.presence = self.presence.map(|(at, _)| (at, true));
    }

    /// A client is gone.
    pub fn forget(&mut self, client: u32) {
        self.commands.retain(|sent| sent.client != client);
    }

    /// The commands that have to be sent again, with whose they are, but for those about which something newer waits.
    pub fn lost<'a>(&'a self, waiting: &'a [&[u8]]) -> impl Iterator<Item = (u32, &'a [u8])> {
        let newer = |sent: &&Sent| waiting.iter().any(|command| subject(command) == subject(&sent.command));
        self.commands.iter().filter(move |sent| !newer(sent)).map(|sent| (sent.client, &*sent.command))
    }

    /// Has the newest presence to be sent again? Says so once.
    pub fn take_lost_presence(&mut self) -> bool {
        self.presence.take_if(|(_, stale)| *stale).is_some()
    }

    /// The newest presence is not to be sent again.
    pub fn forget_presence(&mut self) {
        self.presence = None;
    }

    /// Has the newest presence perhaps not arrived?
    pub fn has_presence(&self) -> bool {
        self.presence.is_some()
    }

    /// For another process.
    pub fn save(&self) -> impl Iterator<Item = Saved> {
        let text = |sent: &Sent| String::from_utf8(sent.command.clone()).ok();
        self.commands.iter().filter_map(move |sent| Some(Saved { client: sent.client, command: text(sent)? }))
    }

    /// Takes over one of another process.
    pub fn restore(&mut self, now: Time, saved: Saved) {
        self.sent(now, saved.client, saved.command.as_bytes(), false);
        self.connection_lost();
    }

    /// The same for the presence.
    pub fn restore_presence(&mut self, now: Time) {
        self.presence = Some((now, true));
    }
}
