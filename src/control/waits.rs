//! A histogram of how long shards wait for their permits to identify. Bounded by the number of shards. Pure.

use crate::protocol::Time;
use std::collections::BTreeMap;

/// Upper bounds of the histogram's buckets, in seconds: from a shard that need not wait to one that waits for the next
/// day's budget.
pub const BUCKETS: [f64; 9] = [0.2, 1.0, 6.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 86_400.0];

/// The histogram, and the shards that wait.
#[derive(Default)]
pub struct PermitWaits {
    /// The shards that wait, and when each asked.
    since: BTreeMap<u32, Time>,
    /// Number of waits that have ended, by bucket and not cumulative. The last count is of waits beyond all bounds.
    pub counts: [u64; BUCKETS.len() + 1],
    /// Sum of the waits that have ended, in seconds.
    pub sum: f64,
}

impl PermitWaits {
    /// Notes that a shard asks for a permit at `now`. Does nothing when the shard waits already.
    pub fn asked(&mut self, shard: u32, now: Time) {
        self.since.entry(shard).or_insert(now);
    }

    /// Notes that a shard has got its permit at `now`. Does nothing when the shard did not wait.
    pub fn granted(&mut self, shard: u32, now: Time) {
        let Some(since) = self.since.remove(&shard) else { return };
        let wait = now.saturating_sub(since).as_secs_f64();
        self.counts[BUCKETS.partition_point(|bound| *bound < wait)] += 1;
        self.sum += wait;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_goes_from_the_first_question_to_the_permit() {
        let mut waits = PermitWaits::default();
        waits.asked(7, Time::from_secs(1));
        waits.asked(7, Time::from_secs(5));
        waits.asked(8, Time::from_secs(5));
        waits.granted(7, Time::from_secs(11));
        waits.granted(8, Time::from_secs(5));
        waits.granted(9, Time::from_secs(99));
        assert_eq!((waits.counts[2], waits.counts[0], waits.counts.iter().sum::<u64>()), (0, 1, 2));
        assert_eq!((waits.counts[3], waits.sum), (1, 10.0));
        assert!(waits.since.is_empty());
    }
}
