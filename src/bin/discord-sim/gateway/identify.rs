//! The session start limit (Gateway: "Session Start Limit Object"): buckets in time, and a budget a day. Pure.

use std::time::{Duration, Instant};

/// How long a budget lasts.
const PERIOD: Duration = Duration::from_secs(86_400);

/// How much too early an IDENTIFY may come: a network does not keep distances exactly.
const TOLERANCE: Duration = Duration::from_millis(50);

/// What is left.
pub struct Budget {
    interval: Duration,
    /// When each bucket was used last.
    buckets: Vec<Option<Instant>>,
    remaining: u64,
    started: Instant,
}

impl Budget {
    /// A fresh budget.
    pub fn new(buckets: usize, interval: Duration, remaining: u64, now: Instant) -> Self {
        Self { interval, buckets: vec![None; buckets.max(1)], remaining, started: now }
    }

    /// IDENTIFYs left, and ms until they are given anew.
    pub fn remaining(&self, now: Instant) -> (u64, u64) {
        let left = PERIOD.saturating_sub(now.duration_since(self.started));
        (self.remaining, u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    /// For tests of a bot that runs out.
    pub fn set_remaining(&mut self, remaining: u64) {
        self.remaining = remaining;
    }

    /// Whether the budget is used up.
    pub fn exhausted(&self) -> bool {
        self.remaining == 0
    }

    /// Spends one start of a shard. False, and nothing spent, if its bucket was used less than an interval ago.
    pub fn spend(&mut self, shard: usize, now: Instant) -> bool {
        let count = self.buckets.len();
        let bucket = &mut self.buckets[shard % count];
        if bucket.is_some_and(|last| now.duration_since(last) + TOLERANCE < self.interval) {
            return false;
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
        assert!(!budget.spend(2, at(4_000)), "the bucket of shard 0");
        assert!(budget.spend(2, at(4_990)), "a little early is fine");
        assert!(!budget.spend(0, at(9_000)), "counted from the one before");
        assert!(budget.spend(0, at(10_000)));
        assert!(budget.exhausted());
        assert_eq!(budget.remaining(at(400_000)), (0, 86_000_000));
    }
}
