//! The state of a shard as plain numbers, for metrics and the live page. A report is made on request and shares nothing
//! with the shard.

use super::{Shard, deliver};
use crate::{
    cache::{Counts, TableSizes},
    protocol::{
        Encoding, Time,
        close::{Close, FatalClose},
        event::EventKind,
        library::Library,
    },
    upstream::{counters::Counters, loss::Reason, session::Status},
    watchdog::Seen,
};
use std::time::Duration;

pub use super::credentials::Usage;

/// Upper bounds of the latency histogram, in seconds.
pub const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A histogram of durations.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Observations in each bucket, not cumulative. The last bucket is for those above all bounds.
    pub buckets: [u64; LATENCY_BUCKETS.len() + 1],
    /// Sum of all observations in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Adds one observation.
    pub fn observe(&mut self, value: Duration) {
        let value = value.as_secs_f64();
        self.buckets[LATENCY_BUCKETS.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// The most clients of a shard that a report lists one by one. Further clients only count in the sums.
pub const MAX_NAMED: usize = 32;

/// The library and the connection of a client. All values come from fixed lists, so few different ones exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKind {
    /// The library, as its IDENTIFY names it.
    pub library: Library,
    /// `json` or `etf`.
    pub encoding: &'static str,
    /// `none`, `payload`, `zlib-stream` or `zstd-stream`.
    pub compression: &'static str,
}

impl ClientKind {
    /// The values for one connection.
    pub fn new(library: Library, encoding: Encoding, compression: &'static str) -> Self {
        Self { library, encoding: encoding.name(), compression }
    }
}

/// One connected client.
#[derive(Clone, Copy, Debug)]
pub struct ClientReport {
    /// The library and the connection.
    pub kind: ClientKind,
    /// Since when the client is connected.
    pub since: Time,
    /// Log entries after the session's cursor: events that the client has still to be sent, or that do not concern it.
    pub lag: u64,
    /// How long the next event for the client has been in the log.
    pub lag_time: Duration,
    /// The sequence of the last dispatch that the client was sent.
    pub sequence: u64,
    /// Bytes for the client that its socket has not taken yet.
    pub waiting: usize,
    /// Bytes that the kernel holds for the client and that the client has not acknowledged; `None`: not sampled.
    pub kernel: Option<usize>,
}

/// Why the proxy closed the connection of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client fell off the log.
    Lagged,
    /// The client has sent no heartbeats.
    Silent,
    /// The client's socket took no bytes for a minute.
    Stalled,
    /// The client's session was resumed on another connection.
    Superseded,
    /// Discord gave the shard a new session, so the client's session is over (op 9).
    Invalidated,
    /// The client broke a rule of the protocol or a limit.
    Misbehaved,
    /// The shard had no room for one more client, or the memory for clients was used up.
    NoRoom,
    /// The proxy stops.
    Restarting,
    /// Discord has closed the shard for good.
    Fatal,
    /// The operator has revoked the client's credential.
    Revoked,
    /// Anything else.
    Other,
}

impl CloseReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Lagged,
        Self::Silent,
        Self::Stalled,
        Self::Superseded,
        Self::Invalidated,
        Self::Misbehaved,
        Self::NoRoom,
        Self::Restarting,
        Self::Fatal,
        Self::Revoked,
        Self::Other,
    ];

    /// The value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lagged => "lagged",
            Self::Silent => "no_heartbeat",
            Self::Stalled => "stalled",
            Self::Superseded => "superseded",
            Self::Invalidated => "session_invalidated",
            Self::Misbehaved => "misbehaved",
            Self::NoRoom => "no_room",
            Self::Restarting => "restarting",
            Self::Fatal => "shard_fatal",
            Self::Revoked => "revoked",
            Self::Other => "other",
        }
    }

    /// The reason for a close that a shard wants for a client.
    pub fn of(close: Close) -> Self {
        match close {
            Close::Lagged => Self::Lagged,
            Close::Silent => Self::Silent,
            Close::Superseded => Self::Superseded,
            Close::Stopping | Close::Restarting => Self::Restarting,
            Close::Revoked => Self::Revoked,
            Close::ShardFull | Close::MemoryUsedUp | Close::AddressMemoryUsedUp => Self::NoRoom,
            Close::Fatal(_) => Self::Fatal,
            _ => Self::Other,
        }
    }
}

/// Counts of the sockets of a shard. The data core owns the sockets and fills this in.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Bytes received from Discord, still compressed and encrypted.
    pub received_bytes: u64,
    /// Bytes that the sockets of clients took.
    pub sent_bytes: u64,
    /// Connections of clients that the proxy closed, by [`CloseReason`].
    pub closes: [u64; CloseReason::ALL.len()],
    /// The number of connected clients for each [`ClientKind`].
    pub client_kinds: Vec<(ClientKind, u32)>,
    /// The first [`MAX_NAMED`] connected clients.
    pub clients: Vec<ClientReport>,
    /// The largest lag of a connected client, in log entries.
    pub lag: u64,
    /// The largest lag of a connected client in time.
    pub lag_time: Duration,
    /// Bytes in the kernel's buffers for the clients that were sampled.
    pub kernel_bytes: u64,
}

impl Traffic {
    /// Adds a connected client.
    pub fn add(&mut self, client: ClientReport) {
        self.lag = self.lag.max(client.lag);
        self.lag_time = self.lag_time.max(client.lag_time);
        self.kernel_bytes += client.kernel.unwrap_or(0) as u64;
        match self.client_kinds.iter_mut().find(|(kind, _)| *kind == client.kind) {
            Some((_, count)) => *count += 1,
            None => self.client_kinds.push((client.kind, 1)),
        }
        if self.clients.len() < MAX_NAMED {
            self.clients.push(client);
        }
    }
}

/// The state of a shard in numbers.
#[derive(Clone, Debug)]
pub struct Report {
    /// Id of the shard.
    pub shard: u32,
    /// State of the upstream session.
    pub status: Status,
    /// Close code and advice, if the shard has been given up.
    pub fatal: Option<FatalClose>,
    /// Round trip of the last acknowledged heartbeat to Discord; `None` without one on this connection.
    pub latency: Option<Duration>,
    /// Histogram of all round trips.
    pub latencies: Histogram,
    /// Events by [`EventKind`].
    pub events: [u64; EventKind::ALL.len()],
    /// Counts of the cache.
    pub cache: Counts,
    /// Bytes of heap of the cache, without the tables that the shards of a core share.
    pub cache_bytes: usize,
    /// Sizes of the tables that the shards of a core share.
    pub cache_tables: TableSizes,
    /// Counts of the upstream session.
    pub upstream: Counters,
    /// Clients with a connection.
    pub clients: usize,
    /// Sessions that wait for a RESUME.
    pub detached: usize,
    /// Events in the log.
    pub log_events: usize,
    /// Bytes of the log.
    pub log_bytes: usize,
    /// Commands that wait for Discord's rate limit.
    pub queued_commands: usize,
    /// Times that a client was closed because it fell off the log.
    pub fell_off: u64,
    /// Snapshots being sent.
    pub syncing: usize,
    /// Sessions of clients that ended because Discord gave the shard a new session.
    pub invalidated: u64,
    /// The last sequence of the session with Discord; 0 without one.
    pub sequence: u64,
    /// When the session with Discord began; `None`: there is none, or a former process began it.
    pub session_since: Option<Time>,
    /// When the last event came from Discord.
    pub last_event: Option<Time>,
    /// Bytes of payloads from Discord, decompressed.
    pub payload_bytes: u64,
    /// Dispatches that clients were sent.
    pub sent: u64,
    /// RESUMEs of clients that succeeded.
    pub resumed: u64,
    /// Dispatches that clients were sent again after a RESUME.
    pub replayed: u64,
    /// Events that no client got because `events.deny` covers them.
    pub denied: u64,
    /// Why the last connection to Discord was lost, and the close code if Discord gave one.
    pub last_loss: Option<(Reason, Option<u16>)>,
    /// Guilds whose members the shard wants to ask Discord for, or is asking for.
    pub prefetch_waiting: usize,
    /// Guilds whose members the shard has asked for and got.
    pub prefetched: u64,
    /// Counts of the sockets.
    pub traffic: Traffic,
    /// Guilds in whose voice channels the bot is.
    pub voice_connections: usize,
    /// Voice connections that passed from one session of a client to another.
    pub voice_takeovers: u64,
    /// Op 4s that the proxy did not send to Discord.
    pub voice_refused: u64,
    /// Commands of clients that the proxy did not send to Discord because it does not know their opcode.
    pub unknown_commands: u64,
    /// Commands of clients for which Discord has closed the connection.
    pub refused_commands: u64,
    /// How the clients of each credential use the shard.
    pub credentials: Vec<Usage>,
}

impl Shard {
    /// Events that Discord has sent and that were not ignored.
    pub fn events(&self) -> u64 {
        self.events.iter().sum()
    }

    /// Snapshots being sent.
    pub fn syncing(&self) -> usize {
        self.syncing
    }

    /// What the watchdog looks at.
    pub fn seen(&self) -> Seen<'_> {
        Seen {
            events: &self.events,
            active: self.status() == Status::Active,
            connects: self.upstream.counters().connects,
            guilds: self.cache.guild_count(),
        }
    }

    /// The report of this shard. The caller fills in [`Report::traffic`].
    pub fn report(&mut self) -> Report {
        let attached = self.clients.values().filter(|client| client.session.connection.is_some()).count();
        let cache = self.cache.up_to_date(&self.log);
        let (counts, cache_bytes, cache_tables) = (cache.counts(), cache.heap(), cache.tables());
        Report {
            shard: self.id.id,
            status: self.status(),
            fatal: self.fatal(),
            latency: self.upstream.latency(),
            latencies: self.latency.clone(),
            events: self.events,
            cache: counts,
            cache_bytes,
            cache_tables,
            upstream: self.upstream.counters(),
            clients: attached,
            detached: self.clients.len() - attached,
            log_events: self.log.len(),
            log_bytes: self.log.bytes(),
            queued_commands: self.limiter.queued(),
            fell_off: self.fell_off,
            invalidated: self.invalidated,
            voice_connections: self.voice.connections(),
            voice_takeovers: self.voice.takeovers(),
            voice_refused: self.voice.refused(),
            unknown_commands: self.unknown_commands,
            refused_commands: self.culprit.count,
            credentials: self.usage(),
            syncing: self.clients.values().filter(|client| deliver::is_syncing(client)).count(),
            sequence: self.upstream.resumption().map_or(0, |resumption| resumption.sequence),
            session_since: self.tally.session_since.filter(|_| self.upstream.resumption().is_some()),
            last_event: self.tally.last_event,
            payload_bytes: self.tally.payload_bytes,
            sent: self.sent(),
            resumed: self.tally.resumed,
            replayed: self.tally.replayed,
            denied: self.tally.denied,
            last_loss: self.upstream.last_loss(),
            prefetch_waiting: self.prefetch.waiting(),
            prefetched: self.prefetch.fetched(),
            traffic: Traffic::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_is_counted_by_its_reason_and_not_by_its_code() {
        let fatal = FatalClose { code: Close::ShardNotCovered.code(), advice: "check `shards`" };
        for (close, reason) in [
            (Close::Fatal(fatal), CloseReason::Fatal),
            (Close::ShardNotCovered, CloseReason::Other),
            (Close::Revoked, CloseReason::Revoked),
            (Close::Lagged, CloseReason::Lagged),
            (Close::Superseded, CloseReason::Superseded),
            (Close::Stopping, CloseReason::Restarting),
            (Close::Restarting, CloseReason::Restarting),
            (Close::ShardFull, CloseReason::NoRoom),
            (Close::SessionInvalid, CloseReason::Other),
        ] {
            assert_eq!(CloseReason::of(close), reason, "{close:?}");
        }
    }
}
