//! The trace of a seed, which explains a failure, and counters of what happened, which show that every part of the
//! simulation is exercised.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Sets the time of the lines that follow.
pub fn set_time(now: Duration) {
    NOW.set(now);
}

/// Starts to keep the lines of this thread.
pub fn begin() {
    LINES.with(|lines| lines.replace(Some(Vec::new())));
}

/// Stops, and returns all lines since [`begin`].
pub fn end() -> Vec<String> {
    LINES.with(RefCell::take).unwrap_or_default()
}

/// Adds a line if lines are kept.
pub fn note(line: impl FnOnce() -> String) {
    LINES.with(|lines| {
        if let Some(lines) = &mut *lines.borrow_mut() {
            lines.push(format!("{:10.3} {}", NOW.get().as_secs_f64(), line()));
        }
    });
}

macro_rules! events {
    ($($name:ident: $what:literal,)*) => {
        /// The events that are counted.
        #[derive(Clone, Copy, Debug)]
        pub enum Event { $(#[doc = $what] $name,)* }

        /// The number of times that each event has happened.
        #[derive(Clone, Debug)]
        pub struct Coverage([u64; [$($what),*].len()]);

        impl Default for Coverage {
            fn default() -> Self {
                Self([0; [$($what),*].len()])
            }
        }

        impl Coverage {
            const NAMES: [&'static str; [$($what),*].len()] = [$($what),*];
        }
    };
}

events! {
    Messages: "messages that a client received",
    Identifies: "IDENTIFYs of the proxy",
    UpstreamResumes: "RESUMEs of the proxy that Discord served",
    UpstreamRefused: "RESUMEs of the proxy that Discord refused",
    UpstreamStubborn: "RESUMEs of the proxy that Discord did not serve though it could",
    SessionsGivenUp: "sessions that the proxy gave up because of these",
    UpstreamCuts: "connections to Discord that were cut",
    UpstreamFrozen: "connections to Discord that froze",
    UpstreamCodes: "close codes from Discord",
    UpstreamUnreachable: "connections to Discord that could not be opened",
    Reconnects: "op 7 from Discord",
    Invalidated: "op 9 from Discord",
    Outages: "guilds that became unavailable",
    LongOutages: "long outages of Discord",
    Asked: "requests of clients for the members of a guild",
    VoiceAsked: "op 4 of clients",
    VoiceHeard: "op 4 that Discord has heard",
    VoiceServers: "voice servers that a client was given",
    VoiceDisturbed: "moves of the bot or its voice server by others",
    BareResumes: "RESUMEs by Discord's id alone",
    Answered: "requests that were answered",
    AnsweredByDiscord: "requests that Discord answered",
    Snapshots: "clients that received all their guilds",
    SnapshotsCut: "connections that ended during their snapshots",
    Resumes: "RESUMEs of clients that were served",
    ResumesOverLiving: "RESUMEs while the old connection was still open",
    Dismissed: "clients that received Invalid Session",
    IdentifiedAgain: "clients that then identified on the same connection",
    Replayed: "events that were replayed before a RESUMED",
    Refused: "RESUMEs of clients that were refused",
    Expired: "RESUMEs that came too late",
    FellOff: "clients that fell off the log",
    Stalled: "clients that did not read for a minute",
    Silent: "clients that were closed because they sent no heartbeats",
    GivenUp: "sessions that a client ended with 1000",
    Restarts: "restarts with state",
    RestartResumes: "RESUMEs of clients in the next process",
    Kills: "kills of the proxy",
    ShortSends: "sends that took fewer bytes than there was room for",
    FullSockets: "sends that took no bytes",
    LateSends: "sends that completed late",
    SplitReceives: "receives that brought a part of the bytes",
    EndedReceives: "receives that ended by themselves",
    NoBuffers: "receives without a free buffer",
    Spurious: "polls that reported a full socket as writable",
    Cancelled: "operations that were cancelled",
    CancelledWithData: "cancelled receives that brought bytes",
    Resets: "connections that were reset",
    WokenAmongOthers: "wake-ups together with completions",
}

impl Coverage {
    /// Counts one event.
    pub fn count(&mut self, event: Event) {
        self.0[event as usize] += 1;
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// The description and count of each event.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::NAMES.into_iter().zip(self.0)
    }
}
