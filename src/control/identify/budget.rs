//! How many IDENTIFYs Discord still allows (docs: Gateway, Session Start Limit), as the proxy counts them.
//!
//! Discord tells how many IDENTIFYs are left and when the used ones are available again, but not how it divides the time
//! after that: a day may begin with the first IDENTIFY or at a fixed hour. And Discord can be asked only by a request,
//! which may fail when many shards lose their sessions. So between two answers the proxy counts by itself: what Discord
//! has called used counts until the time that it told, and each permit counts for a whole day. Whatever days Discord
//! counts in, none of them has more IDENTIFYs than it allows.
//!
//! Promises: no more permits than Discord allows, whenever its answers come. Bounded: one time for each permit of the
//! last day, at most `total`. Pure.

use super::SessionStartLimit;
use crate::protocol::Time;
use std::{collections::VecDeque, time::Duration};

/// How long a permit counts: the longest time in which Discord counts IDENTIFYs together.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
/// An answer of Discord may not include the permits that were given this long before it came: the request took up to
/// 30 s, and an IDENTIFY takes some time, too.
const UNDER_WAY: Duration = Duration::from_secs(60);
/// Age of Discord's figures when they are asked for again because no permit is left. It doubles with each request up to
/// the second time, until a permit is given.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// See the module's description.
pub(super) struct Budget {
    total: u32,
    /// The IDENTIFYs that Discord has called used. They count until `renewed_at`.
    used_before: u32,
    /// When they are available again; [`Time::MAX`]: Discord has told no figures yet.
    renewed_at: Time,
    /// The permits of the last [`DAY`] that `used_before` may not include, the oldest first.
    given: VecDeque<Time>,
    /// When Discord's figures came or were asked for last.
    asked_at: Time,
    /// When they are asked for again; see [`ASK_AGAIN`].
    ask_again: Duration,
}

impl Budget {
    /// A budget without permits, until Discord has told its figures.
    pub fn unknown() -> Self {
        Self {
            total: 0,
            used_before: 0,
            renewed_at: Time::MAX,
            given: VecDeque::new(),
            asked_at: Time::ZERO,
            ask_again: ASK_AGAIN.0,
        }
    }

    /// Takes over Discord's figures. `waiting`: permits that were given and whose IDENTIFYs have not been sent.
    pub fn renew(&mut self, limit: &SessionStartLimit, waiting: usize, now: Time) {
        self.given.retain(|at| now.saturating_sub(*at) < UNDER_WAY);
        self.total = limit.total;
        self.used_before = limit.total.saturating_sub(limit.remaining).saturating_add(waiting as u32);
        (self.renewed_at, self.asked_at) = (now + limit.reset_after, now);
    }

    /// Stops counting what is available again at `now`.
    pub fn expire(&mut self, now: Time) {
        if now >= self.renewed_at {
            self.used_before = 0;
        }
        while self.given.front().is_some_and(|at| now.saturating_sub(*at) >= DAY) {
            self.given.pop_front();
        }
    }

    /// A permit is given.
    pub fn give(&mut self, now: Time) {
        self.given.push_back(now);
        self.ask_again = ASK_AGAIN.0;
    }

    /// The permits that are left, as of the last [`Budget::expire`].
    pub fn remaining(&self) -> u32 {
        self.total.saturating_sub(self.used_before).saturating_sub(self.given.len() as u32)
    }

    /// The most permits that Discord allows in a day; 0 while its figures are not known.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// How long until used permits are available again; zero if none is used. `None`: Discord's figures are not known.
    pub fn renewed_in(&self, now: Time) -> Option<Duration> {
        let at = match self.renewed_at {
            Time::MAX => return None,
            at if now < at => at,
            _ => self.given.front().map_or(now, |at| *at + DAY),
        };
        Some(at.saturating_sub(now))
    }

    /// No permit is left. Returns whether Discord's figures are to be asked for; after true only when [`ASK_AGAIN`] has
    /// passed.
    pub fn take_question(&mut self, now: Time) -> bool {
        let due = self.renewed_at < Time::MAX && now.saturating_sub(self.asked_at) >= self.ask_again;
        if due {
            (self.asked_at, self.ask_again) = (now, (self.ask_again * 2).min(ASK_AGAIN.1));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn limit(total: u32, remaining: u32, reset_after: Duration) -> SessionStartLimit {
        SessionStartLimit { total, remaining, reset_after, max_concurrency: 1 }
    }

    /// Takes as many permits as there are, at most `most`.
    fn take(budget: &mut Budget, now: Time, most: u32) -> u32 {
        budget.expire(now);
        let taken = budget.remaining().min(most);
        (0..taken).for_each(|_| budget.give(now));
        taken
    }

    #[test]
    fn used_permits_come_back_when_discord_said_and_given_ones_after_a_day() {
        let mut budget = Budget::unknown();
        assert_eq!((take(&mut budget, HOUR, 9), budget.renewed_in(HOUR)), (0, None));
        budget.renew(&limit(20, 15, HOUR), 0, HOUR);
        assert_eq!((take(&mut budget, HOUR, 10), budget.renewed_in(HOUR)), (10, Some(HOUR)));
        assert_eq!(take(&mut budget, HOUR * 2, 99), 10, "five used ones have come back");
        assert_eq!((take(&mut budget, HOUR * 3, 99), budget.renewed_in(HOUR * 3)), (0, Some(HOUR * 22)));
        assert_eq!(take(&mut budget, HOUR * 25, 99), 10, "those of the first hour");
        assert_eq!(take(&mut budget, HOUR * 26, 99), 10);
    }

    #[test]
    fn figures_do_not_include_what_is_under_way() {
        let mut budget = Budget::unknown();
        budget.renew(&limit(20, 20, Duration::ZERO), 0, HOUR);
        assert_eq!(take(&mut budget, HOUR, 4), 4);
        // The request for these figures was sent before the four IDENTIFYs, and three more shards have a permit already.
        budget.renew(&limit(20, 20, HOUR * 24), 3, HOUR + UNDER_WAY / 2);
        assert_eq!(budget.remaining(), 13);
        budget.renew(&limit(20, 16, HOUR * 24), 0, HOUR + UNDER_WAY);
        assert_eq!(budget.remaining(), 16);
    }

    #[test]
    fn discord_is_asked_now_and_then() {
        let mut budget = Budget::unknown();
        assert!(!budget.take_question(HOUR), "the first answer is under way");
        budget.renew(&limit(20, 0, HOUR * 9), 0, HOUR);
        let questions = |budget: &mut Budget, from: u32| -> Vec<u32> {
            let asked = |second: &u32| budget.take_question(HOUR + Duration::from_secs((from + second).into()));
            (0..1_000).filter(asked).collect()
        };
        assert_eq!(questions(&mut budget, 0), [15, 45, 105, 225, 465, 765]);
        // The answer says that nothing is left, and later that something is.
        budget.renew(&limit(20, 0, HOUR * 9), 0, HOUR + Duration::from_secs(1_000));
        assert_eq!(questions(&mut budget, 1_000), [300, 600, 900]);
        budget.renew(&limit(20, 1, HOUR * 9), 0, HOUR + Duration::from_secs(2_000));
        budget.give(HOUR + Duration::from_secs(2_000));
        assert_eq!(questions(&mut budget, 2_000)[0], 15);
    }

    proptest! {
        /// Discord never gets more IDENTIFYs in one of its days than it allows, whether these days begin at fixed times or
        /// with the first IDENTIFY, and whenever it tells its figures.
        #[test]
        fn discord_gets_no_more_than_it_allows(
            fixed in any::<bool>(), total in 1u32..30, used in 0u32..30, left in 1u64..86_400,
            steps in prop::collection::vec((1u64..40_000, 0u32..12, prop::bool::weighted(0.3)), 1..80),
        ) {
            let mut now = HOUR;
            // The end of Discord's day, and the IDENTIFYs in it.
            let (mut end, mut in_day) = (now + Duration::from_secs(left), used.min(total));
            let mut budget = Budget::unknown();
            budget.renew(&limit(total, total - in_day, end - now), 0, now);
            for (seconds, wanted, told) in steps {
                now += Duration::from_secs(seconds);
                if now >= end {
                    in_day = 0;
                    while fixed && now >= end {
                        end += DAY;
                    }
                }
                if told {
                    let reset_after = if now < end { end - now } else { Duration::ZERO };
                    budget.renew(&limit(total, total - in_day, reset_after), 0, now);
                }
                let taken = take(&mut budget, now, wanted);
                if taken > 0 && now >= end {
                    end = now + DAY;
                }
                in_day += taken;
                prop_assert!(in_day <= total, "{in_day} of {total}");
            }
        }
    }
}
