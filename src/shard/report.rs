//! What a shard tells the outside about itself: plain numbers, collected on request, never shared.

use super::{Close, LAGGED, RESTARTING, SILENT, SUPERSEDED, Shard, deliver};
use crate::{
    cache::{Counts, TableSizes},
    protocol::{
        Encoding, Time,
        close::{self, Remedy},
        event::EventKind,
        library::Library,
    },
    upstream::{counters::Counters, loss::Reason, session::Status},
};
use std::time::Duration;

/// Upper bounds of the latency histogram, in seconds.
pub const LATENCY_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Counts of observations by size.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// Observations in each bucket, not cumulative; the last one is beyond all bounds.
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

/// Clients of a shard that a report names one by one; of more only the sums are reported.
pub const MAX_NAMED: usize = 32;

/// How a client is written and connected. Both are names of fixed lists, so there are few different ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dress {
    /// The library, as its IDENTIFY names it.
    pub library: Library,
    /// `json` or `etf`.
    pub encoding: &'static str,
    /// `none`, `payload`, `zlib-stream` or `zstd-stream`.
    pub compression: &'static str,
}

impl Dress {
    /// Of a connection.
    pub fn new(library: Library, encoding: Encoding, compression: &'static str) -> Self {
        Self { library, encoding: encoding.name(), compression }
    }
}

/// One connected client.
#[derive(Clone, Copy, Debug)]
pub struct ClientReport {
    /// How it is written and connected.
    pub dress: Dress,
    /// Since when it is connected.
    pub since: Time,
    /// Events in the log that it has still to be sent or to be spared.
    pub lag: u64,
    /// The number of the last event that it was sent.
    pub sequence: u64,
    /// Bytes for it that its socket has not taken yet.
    pub waiting: usize,
}

/// Why the proxy closed the connection of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It was too slow for the log.
    Lagged,
    /// It has sent no heartbeats.
    Silent,
    /// It took nothing for a minute.
    Stalled,
    /// Its session was resumed on another connection.
    Superseded,
    /// Discord gave the shard a new session, so its session is over (op 9).
    Invalidated,
    /// It broke a rule of the protocol or a limit.
    Misbehaved,
    /// The proxy stops.
    Restarting,
    /// Discord has closed the shard for good.
    Fatal,
    /// Anything else.
    Other,
}

impl Closing {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::Lagged,
        Self::Silent,
        Self::Stalled,
        Self::Superseded,
        Self::Invalidated,
        Self::Misbehaved,
        Self::Restarting,
        Self::Fatal,
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
            Self::Restarting => "restarting",
            Self::Fatal => "shard_fatal",
            Self::Other => "other",
        }
    }

    /// From the close that a shard wants for a client.
    pub fn of(close: Close) -> Self {
        match close {
            LAGGED => Self::Lagged,
            SILENT => Self::Silent,
            SUPERSEDED => Self::Superseded,
            RESTARTING => Self::Restarting,
            (code, _) if matches!(close::remedy(Some(code)), Remedy::Fatal(_)) => Self::Fatal,
            _ => Self::Other,
        }
    }
}

/// What the sockets of a shard know: counted by the data core, which owns them.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// Bytes received from Discord, compressed and encrypted as they came.
    pub received_bytes: u64,
    /// Bytes that the sockets of clients took.
    pub sent_bytes: u64,
    /// Connections of clients that the proxy closed, by [`Closing`].
    pub closings: [u64; Closing::ALL.len()],
    /// Connected clients by how they are written and connected.
    pub dresses: Vec<(Dress, u32)>,
    /// The first [`MAX_NAMED`] connected clients.
    pub clients: Vec<ClientReport>,
    /// The most events that a connected client is behind.
    pub lag: u64,
}

impl Traffic {
    /// Adds a connected client.
    pub fn add(&mut self, client: ClientReport) {
        self.lag = self.lag.max(client.lag);
        match self.dresses.iter_mut().find(|(dress, _)| *dress == client.dress) {
            Some((_, count)) => *count += 1,
            None => self.dresses.push((client.dress, 1)),
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
    /// Close code and advice, when it has been given up.
    pub fatal: Option<(u16, &'static str)>,
    /// Time of the last heartbeat's round trip.
    pub latency: Option<Duration>,
    /// All round trips.
    pub latencies: Histogram,
    /// Events by [`EventKind`].
    pub events: [u64; EventKind::ALL.len()],
    /// What the cache holds.
    pub cache: Counts,
    /// Bytes of heap of the cache, without what the shards of a core share.
    pub cache_bytes: usize,
    /// How full the tables are that the shards of a core share.
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
    /// Clients that fell off the log and had to start over.
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
    /// RESUMEs of clients that were served.
    pub resumed: u64,
    /// Events that those clients were sent again.
    pub replayed: u64,
    /// Events that no client got, because of `events.deny`.
    pub denied: u64,
    /// Why the last connection to Discord was lost, and the close code if Discord gave one.
    pub last_loss: Option<(Reason, Option<u16>)>,
    /// What the sockets know.
    pub traffic: Traffic,
    /// Guilds in whose voice channels the bot is.
    pub voice_connections: usize,
    /// Voice connections that passed from one session of a client to another.
    pub voice_takeovers: u64,
    /// Op 4s that were not passed to Discord.
    pub voice_refused: u64,
    /// Commands of clients that were not passed on because nobody here knows their opcode.
    pub unknown_commands: u64,
    /// Commands of clients for which Discord has closed the connection.
    pub refused_commands: u64,
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

    /// The state in numbers.
    pub fn report(&mut self) -> Report {
        let attached = self.clients.values().filter(|client| client.session.connection.is_some()).count();
        let cache = self.cached.now(&self.log);
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
            traffic: Traffic::default(),
        }
    }
}
