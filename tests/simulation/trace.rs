//! What happened, for whoever has to understand a failing seed, and how often, so that no part of the simulation falls
//! asleep unnoticed.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

thread_local! {
    static LINES: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// What is noted from now on has happened at this time.
pub fn set_time(now: Duration) {
    NOW.set(now);
}

/// Begins to keep what is noted.
pub fn begin() {
    LINES.with(|lines| lines.replace(Some(Vec::new())));
}

/// Everything since.
pub fn end() -> Vec<String> {
    LINES.with(RefCell::take).unwrap_or_default()
}

/// Notes something, if anybody wants to know.
pub fn note(line: impl FnOnce() -> String) {
    LINES.with(|lines| {
        if let Some(lines) = &mut *lines.borrow_mut() {
            lines.push(format!("{:10.3} {}", NOW.get().as_secs_f64(), line()));
        }
    });
}

macro_rules! events {
    ($($name:ident: $what:literal,)*) => {
        /// What can happen.
        #[derive(Clone, Copy, Debug)]
        pub enum Event { $(#[doc = $what] $name,)* }

        /// How often each has happened.
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
    SessionsGivenUp: "sessions that the proxy gave up for that",
    UpstreamCuts: "connections to Discord that were cut",
    UpstreamFrozen: "connections to Discord that fell silent",
    UpstreamCodes: "close codes from Discord",
    UpstreamUnreachable: "connections to Discord that could not be made",
    Reconnects: "op 7 from Discord",
    Invalidated: "op 9 from Discord",
    Outages: "guilds that went down or came back",
    LongOutages: "times when Discord was away for long",
    Asked: "requests of clients for the members of a guild",
    Answered: "of these answered",
    AnsweredByDiscord: "of these answered by Discord",
    VoiceAsked: "op 4 of clients",
    VoiceHeard: "op 4 that Discord has heard",
    VoiceServers: "voice servers that a client was given",
    VoiceDisturbed: "moves of the bot or its voice server by others",
    BareResumes: "RESUMEs by Discord's id alone",
    Snapshots: "clients that got all their guilds",
    SnapshotsCut: "connections that ended within a snapshot",
    Resumes: "RESUMEs of clients that were served",
    ResumesOverLiving: "RESUMEs while the old connection was still open",
    Dismissed: "clients told that their session is invalid",
    IdentifiedAgain: "of these that identified on the same connection",
    Replayed: "events between a RESUME and its RESUMED",
    Refused: "RESUMEs of clients that were refused",
    Expired: "RESUMEs that came too late",
    FellOff: "clients that were too slow for the ring",
    Stalled: "clients that took nothing for a minute",
    Silent: "clients closed for want of heartbeats",
    GivenUp: "sessions that a client ended with 1000",
    Restarts: "restarts with state",
    RestartResumes: "RESUMEs of clients in the next process",
    Kills: "kills of the proxy",
    ShortSends: "sends that took less than there was room for",
    FullSockets: "sends that took nothing",
    LateSends: "sends that were decided late",
    SplitReceives: "receives that brought a part",
    EndedReceives: "receives that ended by themselves",
    NoBuffers: "receives without a free buffer",
    Spurious: "full sockets that were said to take bytes",
    Cancelled: "operations that were cancelled",
    CancelledWithData: "cancelled receives that brought something",
    Resets: "connections that were reset",
    WokenAmongOthers: "wake-ups together with completions",
}

impl Coverage {
    /// Counts one more.
    pub fn count(&mut self, event: Event) {
        self.0[event as usize] += 1;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// Names and counts.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::NAMES.into_iter().zip(self.0)
    }
}
