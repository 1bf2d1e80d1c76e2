//! The identify queue (docs: Gateway, Rate Limiting / Session Start Limit). Pure.
//!
//! Promises: two permits within a bucket (shard id modulo `max_concurrency`) are at least [`INTERVAL`] apart. There are
//! no more permits than Discord allows ([`budget`]). When the permits that are left do not cover all shards that still
//! have to start, all shards wait until more are available: Discord resets the token of a bot that exceeds the limit. A
//! shard whose sessions do not last waits longer for each permit, for whatever reason they end, so that it can not use
//! up the budget of the other shards.

mod budget;

use crate::protocol::Time;
use budget::Budget;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// Least time between two permits of a bucket: Discord's five seconds, and a margin for the time that an IDENTIFY takes
/// to reach Discord.
pub const INTERVAL: Duration = Duration::from_millis(5_200);

/// After more permits in a row than this, a shard waits longer for the next one, and the wait doubles each time. A few
/// permits in a row are normal, because sessions do get lost.
const UNHURRIED: u32 = 5;
/// Longest wait between two permits of a shard.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// When the permit before a new one is at least this old, its session counts as one that lasted, and the shard's count
/// of permits in a row starts anew.
const LASTING: Duration = Duration::from_secs(2 * 3600);

/// `session_start_limit` of `/gateway/bot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStartLimit {
    /// IDENTIFYs per day.
    pub total: u32,
    /// IDENTIFYs left until the renewal.
    pub remaining: u32,
    /// Time until the renewal.
    pub reset_after: Duration,
    /// Number of buckets.
    pub max_concurrency: u32,
}

/// The permits that a shard has been given.
struct Permits {
    last: Time,
    /// Permits in a row up to the last one, each less than [`LASTING`] after the one before.
    in_a_row: u32,
}

impl Permits {
    /// When the shard may have its next permit.
    fn next(&self) -> Time {
        let doublings = self.in_a_row.saturating_sub(UNHURRIED).min(16);
        let wait = if doublings == 0 { Duration::ZERO } else { INTERVAL * (1 << doublings) };
        self.last + wait.min(LONGEST_WAIT)
    }
}

/// The queue of the shards that wait for a permit to identify; see the module's description.
pub struct IdentifyQueue {
    budget: Budget,
    /// Number of buckets.
    max_concurrency: u32,
    /// Shards of the first start that have not identified yet.
    starting: BTreeSet<u32>,
    waiting: BTreeMap<u32, VecDeque<u32>>,
    /// When the next permit of a bucket may be given.
    free_at: BTreeMap<u32, Time>,
    /// When the next permit of any bucket may be given.
    all_free_at: Time,
    /// The permits given so far, by shard.
    permits: BTreeMap<u32, Permits>,
    granted: u64,
}

impl IdentifyQueue {
    /// A queue for a process that will start these shards, with the budget that Discord has told at `now`.
    pub fn new(budget: SessionStartLimit, now: Time, starting: impl IntoIterator<Item = u32>) -> Self {
        let mut queue = Self::without_budget(starting);
        queue.renew(budget, 0, now);
        queue
    }

    /// A queue that gives no permit until [`renew`](Self::renew) has told Discord's figures.
    pub fn without_budget(starting: impl IntoIterator<Item = u32>) -> Self {
        Self {
            budget: Budget::unknown(),
            max_concurrency: 1,
            starting: starting.into_iter().collect(),
            waiting: BTreeMap::new(),
            free_at: BTreeMap::new(),
            all_free_at: Time::ZERO,
            permits: BTreeMap::new(),
            granted: 0,
        }
    }

    /// Takes over new figures from Discord. `waiting`: shards that have their permit of this queue and do not identify
    /// yet, because they wait for another queue.
    pub fn renew(&mut self, limit: SessionStartLimit, waiting: usize, now: Time) {
        self.budget.renew(&limit, waiting, now);
        let max_concurrency = limit.max_concurrency.max(1);
        if std::mem::replace(&mut self.max_concurrency, max_concurrency) != max_concurrency {
            // Which of the new buckets have just been used is not known, so no new bucket is free before all old ones
            // were.
            let latest = self.free_at.values().copied().max().unwrap_or_default();
            self.all_free_at = self.all_free_at.max(latest);
            self.free_at.clear();
            for shard in std::mem::take(&mut self.waiting).into_values().flatten() {
                self.request(shard);
            }
        }
    }

    fn bucket(&self, shard: u32) -> u32 {
        shard % self.max_concurrency
    }

    /// Queues a shard that wants to identify. A shard that waits already keeps its place.
    pub fn request(&mut self, shard: u32) {
        let queue = self.waiting.entry(self.bucket(shard)).or_default();
        if !queue.contains(&shard) {
            queue.push_back(shard);
        }
    }

    /// Notes that a shard has a session already, so that it needs no IDENTIFY for the start.
    pub fn started(&mut self, shard: u32) {
        self.starting.remove(&shard);
    }

    /// Brings [`remaining`](Self::remaining) up to date.
    pub fn expire(&mut self, now: Time) {
        self.budget.expire(now);
    }

    /// Returns whether Discord's figures have to be fetched and be passed to [`renew`](Self::renew): shards wait, and by
    /// the queue's own count no permit is left for them. True now and then.
    pub fn take_question(&mut self, now: Time) -> bool {
        self.waiting() > 0 && self.is_exhausted() && self.budget.take_question(now)
    }

    /// Takes the next shard that may identify at `now` out of the queue; `None`: no shard may.
    pub fn poll(&mut self, now: Time) -> Option<u32> {
        self.budget.expire(now);
        if now < self.all_free_at || self.is_exhausted() {
            return None;
        }
        let (free_at, permits) = (&self.free_at, &self.permits);
        let is_free = |bucket: &u32| free_at.get(bucket).is_none_or(|at| now >= *at);
        let is_due = |shard: &u32| permits.get(shard).is_none_or(|permits| now >= permits.next());
        let (bucket, place) = self
            .waiting
            .iter()
            .filter(|(bucket, _)| is_free(bucket))
            .find_map(|(bucket, queue)| Some((*bucket, queue.iter().position(is_due)?)))?;
        let shard = self.waiting.get_mut(&bucket)?.remove(place)?;
        self.free_at.insert(bucket, now + INTERVAL);
        let permits = self.permits.entry(shard).or_insert(Permits { last: now, in_a_row: 0 });
        let lasted = now.saturating_sub(permits.last) >= LASTING;
        *permits = Permits { last: now, in_a_row: if lasted { 1 } else { permits.in_a_row + 1 } };
        self.budget.give(now);
        self.starting.remove(&shard);
        self.granted += 1;
        Some(shard)
    }

    /// Says whether all shards wait for used permits to be available again: no permit is left, or fewer than the start
    /// needs.
    pub fn is_exhausted(&self) -> bool {
        let start = self.starting.len().min(self.budget.total() as usize);
        self.remaining() == 0 || (self.remaining() as usize) < start
    }

    /// How long until used permits are available again, if a shard waits for that. `None`: no shard waits, the budget is
    /// not used up, or Discord's figures are not known.
    pub fn blocked_for(&self, now: Time) -> Option<Duration> {
        self.renewed_in(now).filter(|_| self.is_exhausted() && self.waiting() > 0)
    }

    /// How many shards wait for a permit.
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    /// Permits that are left, as of the last [`expire`](Self::expire) or [`poll`](Self::poll).
    pub fn remaining(&self) -> u32 {
        self.budget.remaining()
    }

    /// Most permits that Discord allows in a day, also those that are used already. 0 while Discord's figures are not
    /// known.
    pub fn total(&self) -> u32 {
        self.budget.total()
    }

    /// Number of buckets.
    pub fn max_concurrency(&self) -> u32 {
        self.max_concurrency
    }

    /// How long until used permits are available again; `None`: that is not known yet.
    pub fn renewed_in(&self, now: Time) -> Option<Duration> {
        self.budget.renewed_in(now)
    }

    /// How long until the last shard that waits, or that has yet to start, has its permit, if no other shard asks.
    /// `None`: no such shard, or the budget is not known yet.
    pub fn last_permit_in(&self, now: Time) -> Option<Duration> {
        let mut buckets: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for shard in self.waiting.values().flatten().chain(&self.starting) {
            buckets.entry(self.bucket(*shard)).or_default().insert(*shard);
        }
        let renewed = self.renewed_in(now)?;
        let earliest = if self.is_exhausted() { now + renewed } else { now }.max(self.all_free_at);
        let last = |(bucket, shards): (&u32, &BTreeSet<u32>)| {
            let first = self.free_at.get(bucket).map_or(earliest, |free| earliest.max(*free));
            first + INTERVAL * (shards.len() as u32 - 1)
        };
        buckets.iter().map(last).max().map(|at| at.saturating_sub(now))
    }

    /// Permits given since the queue was made.
    pub fn granted(&self) -> u64 {
        self.granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn budget(remaining: u32, max_concurrency: u32) -> SessionStartLimit {
        SessionStartLimit { total: 1000, remaining, reset_after: SECOND * 3600, max_concurrency }
    }

    fn drain(queue: &mut IdentifyQueue, now: Time) -> Vec<u32> {
        std::iter::from_fn(|| queue.poll(now)).collect()
    }

    #[test]
    fn one_a_bucket_and_interval() {
        let mut queue = IdentifyQueue::new(budget(1000, 2), SECOND, 0..5);
        (0..5).for_each(|shard| queue.request(shard));
        queue.request(0);
        assert_eq!(drain(&mut queue, SECOND), [0, 1]);
        assert!(drain(&mut queue, SECOND * 2).is_empty());
        assert_eq!(drain(&mut queue, SECOND + INTERVAL), [2, 3]);
        assert_eq!(drain(&mut queue, SECOND + INTERVAL * 2), [4]);
        assert_eq!((queue.waiting(), queue.remaining(), queue.granted()), (0, 995, 5));
    }

    #[test]
    fn it_is_known_when_the_last_shard_will_be_up() {
        let mut queue = IdentifyQueue::new(budget(1000, 2), SECOND, 0..5);
        // Three shards are in one bucket and two in the other, whether they have asked yet or not.
        assert_eq!(queue.last_permit_in(SECOND), Some(INTERVAL * 2));
        (0..5).for_each(|shard| queue.request(shard));
        assert_eq!(drain(&mut queue, SECOND), [0, 1]);
        assert_eq!(queue.last_permit_in(SECOND), Some(INTERVAL * 2));
        assert_eq!(queue.last_permit_in(SECOND * 2), Some(INTERVAL * 2 - SECOND));
        (1..3).for_each(|turn| drop(drain(&mut queue, SECOND + INTERVAL * turn)));
        assert_eq!(queue.last_permit_in(SECOND * 60), None);
        let mut exhausted = IdentifyQueue::new(budget(0, 1), SECOND, []);
        exhausted.request(7);
        assert_eq!(exhausted.last_permit_in(SECOND), Some(SECOND * 3600));
        assert_eq!(IdentifyQueue::without_budget(0..4).last_permit_in(SECOND), None);
    }

    #[test]
    fn a_start_that_is_not_covered_waits() {
        let mut queue = IdentifyQueue::new(budget(3, 16), SECOND, 0..5);
        (0..5).for_each(|shard| queue.request(shard));
        assert!(drain(&mut queue, SECOND).is_empty());
        assert_eq!(queue.blocked_for(SECOND * 2), Some(SECOND * 3599));
        assert_eq!(drain(&mut queue, SECOND * 3601), [0, 1, 2, 3, 4]);
        assert_eq!(queue.blocked_for(SECOND * 3601), None);
    }

    #[test]
    fn discord_is_asked_only_while_shards_wait_and_none_may_identify() {
        let mut queue = IdentifyQueue::new(budget(1, 1), SECOND, []);
        let later = SECOND * 1800;
        queue.request(0);
        assert!(!queue.take_question(later), "a permit is left");
        assert_eq!(drain(&mut queue, later), [0]);
        assert!(!queue.take_question(later), "nobody waits");
        queue.request(1);
        assert!(queue.take_question(later) && !queue.take_question(later));
    }

    #[test]
    fn shards_that_resume_need_no_budget() {
        let mut queue = IdentifyQueue::new(budget(3, 16), SECOND, 0..5);
        assert!(queue.is_exhausted());
        (0..3).for_each(|shard| queue.started(shard));
        queue.request(4);
        assert_eq!(drain(&mut queue, SECOND), [4]);
    }

    #[test]
    fn a_shard_that_loses_every_session_uses_little_and_delays_nobody() {
        let mut queue = IdentifyQueue::new(budget(1000, 1), Time::ZERO, []);
        let mut given = Vec::new();
        // For a day, the shard asks for a permit every second.
        for second in 0..24 * 3600 {
            let now = SECOND * second;
            queue.renew(budget(1000 - given.len() as u32, 1), 0, now);
            queue.request(0);
            given.extend(queue.poll(now).map(|_| second));
        }
        assert!(given.len() < 50, "{}", given.len());
        assert!(given[UNHURRIED as usize - 1] < 30, "a few losses are nothing special: {given:?}");
        let now = SECOND * 24 * 3600;
        queue.request(1);
        assert_eq!(drain(&mut queue, now), [1]);
        // A session that lasted starts the count of permits in a row anew.
        let later = now + LASTING + LONGEST_WAIT;
        for number in 0..UNHURRIED {
            queue.request(0);
            assert_eq!(drain(&mut queue, later + INTERVAL * number), [0]);
        }
    }

    #[test]
    fn fresh_figures_release_it() {
        let mut queue = IdentifyQueue::new(budget(0, 1), SECOND, [7]);
        queue.request(7);
        assert!(drain(&mut queue, SECOND).is_empty());
        queue.renew(budget(10, 1), 0, SECOND * 5);
        assert_eq!(drain(&mut queue, SECOND * 5), [7]);
    }

    #[test]
    fn without_figures_nothing_goes() {
        let mut queue = IdentifyQueue::without_budget(0..4);
        (0..4).for_each(|shard| queue.request(shard));
        assert!(drain(&mut queue, SECOND * 1_000_000).is_empty());
        assert_eq!(queue.blocked_for(SECOND), None);
        queue.started(3);
        let now = SECOND * 1_000_000;
        queue.renew(budget(1000, 2), 0, now);
        assert_eq!(drain(&mut queue, now), [0, 1], "in the buckets that there are");
        assert_eq!(drain(&mut queue, now + INTERVAL), [2, 3]);
    }

    #[test]
    fn other_buckets_wait_for_the_old_ones() {
        let mut queue = IdentifyQueue::new(budget(1000, 1), SECOND, []);
        (0..3).for_each(|shard| queue.request(shard));
        assert_eq!(drain(&mut queue, SECOND), [0]);
        queue.renew(budget(1000, 16), 0, SECOND * 2);
        assert!(drain(&mut queue, SECOND * 2).is_empty(), "shard 1 could be in the bucket that was used");
        assert_eq!(drain(&mut queue, SECOND + INTERVAL), [1, 2]);
    }

    #[test]
    fn odd_figures_do_no_harm() {
        let zero = SessionStartLimit { total: 0, remaining: 0, reset_after: Duration::ZERO, max_concurrency: 0 };
        let mut queue = IdentifyQueue::new(zero, SECOND, [0]);
        queue.request(0);
        assert!(drain(&mut queue, SECOND * 100_000).is_empty());
    }

    proptest! {
        #[test]
        fn never_too_fast_never_too_many(
            steps in prop::collection::vec((0u32..40, 0u64..9_000), 1..300), remaining in 0u32..60, buckets in 1u32..20,
        ) {
            let mut queue = IdentifyQueue::new(budget(remaining, buckets), Time::ZERO, []);
            let mut now = Time::ZERO;
            let mut last: BTreeMap<u32, Time> = BTreeMap::new();
            let mut granted = 0;
            for (shard, step) in steps {
                now += Duration::from_millis(step);
                queue.request(shard);
                while let Some(shard) = queue.poll(now) {
                    if now < SECOND * 3600 { granted += 1; }
                    if let Some(before) = last.insert(shard % buckets, now) {
                        prop_assert!(now - before >= INTERVAL);
                    }
                }
                prop_assert!(granted <= remaining);
            }
        }
    }
}
