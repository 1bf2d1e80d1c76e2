//! The session start limit (Gateway: "Session Start Limit Object"): a minimum time between IDENTIFYs of one bucket, and
//! a budget for each day. Pure.

use std::time::{Duration, Instant};

/// The period that a budget covers.
const PERIOD: Duration = Duration::from_secs(86_400);

/// How much too early an IDENTIFY may come, because network delays vary.
const TOLERANCE: Duration = Duration::from_millis(50);

/// The budget, and the times of the newest IDENTIFYs.
pub struct Budget {
    interval: Duration,
    /// Time of the newest IDENTIFY of each bucket.
    buckets: Vec<Option<Instant>>,
    remaining: u64,
    started: Instant,
    /// Shortest time between two IDENTIFYs of one bucket, also if the second one was refused.
    closest: Option<Duration>,
}

impl Budget {
    /// A new budget in which no bucket has been used.
    pub fn new(buckets: usize, interval: Duration, remaining: u64, now: Instant) -> Self {
        Self { interval, buckets: vec![None; buckets.max(1)], remaining, started: now, closest: None }
    }

    /// Number of IDENTIFYs left, and milliseconds until the period of the budget ends.
    pub fn remaining(&self, now: Instant) -> (u64, u64) {
        let left = PERIOD.saturating_sub(now.duration_since(self.started));
        (self.remaining, u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// Sets the number of IDENTIFYs left. Tests use it to exhaust the budget.
    pub fn set_remaining(&mut self, remaining: u64) {
        self.remaining = remaining;
    }

    /// Shortest time between two IDENTIFYs of one bucket so far, also if the second one was refused.
    pub fn closest(&self) -> Option<Duration> {
        self.closest
    }

    /// Whether no IDENTIFY is left.
    pub fn exhausted(&self) -> bool {
        self.remaining == 0
    }

    /// Takes one IDENTIFY of a shard from the budget. False, and the budget is unchanged, if the shard's bucket was
    /// used less than an interval ago.
    pub fn spend(&mut self, shard: usize, now: Instant) -> bool {
        let count = self.buckets.len();
        let bucket = &mut self.buckets[shard % count];
        if let Some(last) = *bucket {
            let gap = now.duration_since(last);
            self.closest = Some(self.closest.map_or(gap, |closest| closest.min(gap)));
            if gap + TOLERANCE < self.interval {
                return false;
            }
        }
        *bucket = Some(now);
        self.remaining = self.remaining.saturating_sub(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_start_for_each_bucket_and_interval() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut budget = Budget::new(2, Duration::from_secs(5), 4, start);
        assert!(budget.spend(0, at(0)));
        assert!(budget.spend(1, at(0)), "another bucket");
        assert_eq!(budget.closest(), None);
        assert!(!budget.spend(2, at(4_000)), "the bucket of shard 0");
        assert!(budget.spend(2, at(4_990)), "a little early is fine");
        assert_eq!(budget.closest(), Some(Duration::from_millis(4_000)), "the one that was refused");
        assert!(!budget.spend(0, at(9_000)), "counted from the one before");
        assert!(budget.spend(0, at(10_000)));
        assert!(budget.exhausted());
        assert_eq!(budget.remaining(at(400_000)), (0, 86_000_000));
    }
}
