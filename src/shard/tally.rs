//! Figures of a shard that only operators ask for, and the changes that operators make while it runs.
//!
//! Nothing here costs an event more than an addition. What can be told from the sessions when somebody asks is not counted
//! at all: each session numbers what it was sent, so the sum of the numbers is what was sent.

use super::{Settings, Shard};
use crate::{
    protocol::{Time, library::Library},
    upstream::loss::Reason,
};
use std::rc::Rc;

/// See the module's description. All counts only grow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// When the last event came from Discord.
    pub last_event: Option<Time>,
    /// When the session with Discord began; `None` also when a former process began it.
    pub session_since: Option<Time>,
    /// Bytes of payloads from Discord, decompressed.
    pub payload_bytes: u64,
    /// Events that no client got, because of `events.deny`.
    pub denied: u64,
    /// RESUMEs of clients that were served.
    pub resumed: u64,
    /// Events that those clients were sent again.
    pub replayed: u64,
    /// The last numbers of sessions that are gone.
    pub sent_by_gone: u64,
    /// The numbers that sessions had when they came from a former process.
    pub sent_before: u64,
}

/// What the shard knows of one connected client.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// The library, as its IDENTIFY names it.
    pub library: Library,
    /// Events in the log that it has still to be sent or to be spared.
    pub lag: u64,
    /// The number of the last event that it was sent.
    pub sequence: u64,
}

/// What an operator changes while the shard runs.
#[derive(Clone)]
pub struct Change {
    /// The settings of all shards.
    pub settings: Settings,
    /// A new IDENTIFY, and the presence (as the payload of op 3) that is sent at once; `None`: both stay as they are.
    pub presence: Option<(Vec<u8>, Vec<u8>)>,
}

impl Shard {
    /// Dispatches that clients were sent, by all sessions of this process.
    pub(super) fn sent(&self) -> u64 {
        let now: u64 = self.clients.values().map(|client| client.session.sequence()).sum();
        (now + self.tally.sent_by_gone + self.tally.replayed).saturating_sub(self.tally.sent_before)
    }

    /// What the shard knows of the client of session `number`.
    pub fn describe(&self, number: u32) -> Option<Described> {
        let session = &self.clients.get(&number)?.session;
        Some(Described {
            library: session.options.library,
            lag: if session.is_resumable() { self.log.next().saturating_sub(session.cursor()) } else { 0 },
            sequence: session.sequence(),
        })
    }

    /// Goes on with other settings. What clients were promised at their IDENTIFY stays: `honor_client_intents` holds for those
    /// that identify from now on.
    pub fn change(&mut self, change: Change) {
        self.log.set_limits(change.settings.log);
        self.cached.now(&self.log);
        self.cached.set_kept(change.settings.log.entries);
        self.voice.set_grace(change.settings.voice_grace);
        self.settings = Rc::new(change.settings);
        if let Some((identify, presence)) = change.presence {
            self.upstream.set_identify(identify);
            self.presence = Some(presence.clone());
            self.limiter.push_presence(presence);
            self.wake.upstream = true;
        }
    }

    /// Why the last connection to Discord was lost, and the close code if Discord gave one.
    pub fn last_loss(&self) -> Option<(Reason, Option<u16>)> {
        self.upstream.last_loss()
    }

    /// The settings, for a change of them.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Gives the connection to Discord up and resumes on a new one, because an operator wants that.
    pub fn reconnect_by_hand(&mut self, now: Time) {
        self.upstream.reconnect(now, Reason::ByHand);
        self.wake.upstream = true;
    }

    /// Gives the session with Discord up and begins a new one with the next permit, because an operator wants that.
    pub fn identify_by_hand(&mut self, now: Time) {
        self.upstream.renew(now);
        self.wake.upstream = true;
    }
}
