//! Counts of a shard for its operators, and the changes that operators make while the shard runs.
//!
//! A count costs an addition for each event at most. Numbers that follow from the sessions are computed when an
//! operator asks: each session numbers what it was sent, so the sum of these numbers is the number of dispatches sent.

use super::{Settings, Shard};
use crate::{
    protocol::{SessionKey, Time, library::Library},
    upstream::loss::Reason,
};
use std::{rc::Rc, time::Duration};

/// See the module's description. All counts only grow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// When the last event came from Discord.
    pub last_event: Option<Time>,
    /// When the session with Discord began; `None` also if a former process began it.
    pub session_since: Option<Time>,
    /// Bytes of payloads from Discord, decompressed.
    pub payload_bytes: u64,
    /// Events that no client got because `events.deny` covers them.
    pub denied: u64,
    /// RESUMEs of clients that succeeded.
    pub resumed: u64,
    /// Dispatches that clients were sent again after a RESUME.
    pub replayed: u64,
    /// The sum of the last sequences of sessions that are gone.
    pub sent_by_gone: u64,
    /// The sum of the sequences that sessions had when this process took them over.
    pub sent_before: u64,
}

/// What the shard knows about one connected client.
#[derive(Clone, Copy, Debug)]
pub struct ClientStats {
    /// The library, as its IDENTIFY names it.
    pub library: Library,
    /// Log entries after the session's cursor: events that the client has still to be sent, or that do not concern it.
    pub lag: u64,
    /// How long the next event for the client has been in the log.
    pub lag_time: Duration,
    /// The sequence of the last dispatch that the client was sent.
    pub sequence: u64,
}

/// A change of the settings while the shard runs.
#[derive(Clone)]
pub struct SettingsChange {
    /// The settings of all shards.
    pub settings: Settings,
    /// A new IDENTIFY, and a presence update (op 3) to send at once; `None`: both stay as they are.
    pub presence: Option<(Vec<u8>, Vec<u8>)>,
}

impl Shard {
    /// Dispatches that this process has sent to clients.
    pub(super) fn sent(&self) -> u64 {
        let now: u64 = self.clients.values().map(|client| client.session.sequence()).sum();
        (now + self.tally.sent_by_gone + self.tally.replayed).saturating_sub(self.tally.sent_before)
    }

    /// Describes the client of session `key`, at the time `now`.
    pub fn client_stats(&self, now: Time, key: SessionKey) -> Option<ClientStats> {
        let session = &self.clients.get(&key)?.session;
        let lag = if session.is_resumable() { self.log.next().saturating_sub(session.cursor()) } else { 0 };
        Some(ClientStats {
            library: session.options.library,
            lag,
            lag_time: if lag == 0 { Duration::ZERO } else { self.marks.age(now, session.cursor()) },
            sequence: session.sequence(),
        })
    }

    /// Changes the settings. Sessions keep what they got at their IDENTIFY: `honor_client_intents` holds for clients
    /// that identify later.
    pub fn change_settings(&mut self, change: SettingsChange) {
        self.log.set_limits(change.settings.log);
        self.cache.up_to_date(&self.log);
        self.cache.set_kept(change.settings.log.entries);
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

    /// The settings, from which a caller makes a [`SettingsChange`].
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Closes the connection to Discord and resumes on a new one, because an operator or the watchdog wants that.
    pub fn reconnect(&mut self, now: Time, reason: Reason) {
        self.upstream.reconnect(now, reason);
        self.wake.upstream = true;
    }

    /// Ends the session with Discord and begins a new one with the next permit, because an operator or the watchdog
    /// wants that.
    pub fn identify_anew(&mut self, now: Time, reason: Reason) {
        self.upstream.begin_new_session(now, reason);
        self.wake.upstream = true;
    }
}
