//! Counts of events in the life of a shard's session with Discord.

use super::loss::Reason;

/// Counts for metrics. Each count only grows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Connections opened.
    pub connects: u64,
    /// IDENTIFYs sent.
    pub identifies: u64,
    /// RESUMEs sent.
    pub resumes: u64,
    /// Connections given up because a heartbeat was not acknowledged.
    pub zombies: u64,
    /// Events of a replay that the RESUME had named as received; they are dropped.
    pub duplicates: u64,
    /// Events outside of a replay whose sequence was not above the last one; they are passed on.
    pub out_of_sequence: u64,
    /// Sessions given up because RESUMEs failed for too long.
    pub given_up: u64,
    /// Sequences that Discord skipped.
    pub gaps: u64,
    /// Payloads that could not be read, or were no valid Gateway payloads.
    pub malformed: u64,
    /// Connections that were lost, or could not be made, by [`Reason`].
    pub losses: [u64; Reason::ALL.len()],
}
