//! What a shard tells the outside about itself: plain numbers, collected on request, never shared.

use super::{Shard, deliver};
use crate::{
    cache::{Counts, TableSizes},
    protocol::event::EventKind,
    upstream::session::{Counters, Status},
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
        }
    }
}
