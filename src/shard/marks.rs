//! When the events of the log came, roughly: for how many seconds a client lags behind. Pure.
//!
//! The log has no times, because a time for each event would cost a clock and eight bytes. Instead the shard notes now
//! and then, while its log has events, how far the log has come. A client's lag is the age of the first mark beyond the
//! event that the client gets next, so it is at most the distance of two marks too short, and never too long.

use crate::protocol::Time;
use std::{collections::VecDeque, time::Duration};

/// The most marks. With more, every other one is dropped, so that the distance between old marks doubles.
const MOST: usize = 256;

/// See the module's description.
#[derive(Default)]
pub(super) struct Marks(VecDeque<(Time, u64)>);

impl Marks {
    /// Notes that at `now` the next event will get position `next`, and that the log's oldest event has the position
    /// `oldest`.
    pub fn note(&mut self, now: Time, oldest: u64, next: u64) {
        while self.0.front().is_some_and(|(_, position)| *position <= oldest) {
            self.0.pop_front();
        }
        if oldest == next || self.0.back().is_some_and(|(_, position)| *position >= next) {
            return;
        }
        if self.0.len() >= MOST {
            let mut keep = false;
            self.0.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.0.push_back((now, next));
    }

    /// For how long the event at `position` has been in the log at least. Zero if the event has not come, or has come
    /// since the last mark.
    pub fn age(&self, now: Time, position: u64) -> Duration {
        let index = self.0.partition_point(|(_, next)| *next <= position);
        self.0.get(index).map_or(Duration::ZERO, |(at, _)| now.saturating_sub(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_age_is_that_of_the_first_mark_behind_the_event() {
        let mut marks = Marks::default();
        marks.note(SECOND, 5, 5);
        assert!(marks.0.is_empty(), "an empty log has no marks");
        for second in 1..10 {
            marks.note(SECOND * second as u32, 1, 10 * second);
        }
        for (position, age) in [(1, 9), (9, 9), (10, 8), (79, 2), (89, 1), (90, 0), (500, 0)] {
            assert_eq!(marks.age(SECOND * 10, position), SECOND * age, "{position}");
        }
        marks.note(SECOND * 10, 50, 90);
        assert_eq!((marks.0.len(), marks.age(SECOND * 10, 51)), (4, SECOND * 4));
        marks.note(SECOND * 11, 90, 90);
        assert!(marks.0.is_empty());
    }

    proptest! {
        /// The age is never longer than the event is in the log, and there are never too many marks.
        #[test]
        fn the_age_is_never_too_long(steps in prop::collection::vec((0u64..5, 1u32..400), 1..2000), at in any::<prop::sample::Index>()) {
            let (mut marks, mut now, mut next) = (Marks::default(), SECOND, 1);
            let mut came = Vec::new();
            for (events, ms) in steps {
                now += Duration::from_millis(u64::from(ms));
                came.extend(std::iter::repeat_n(now, events as usize));
                next += events;
                marks.note(now, 1, next);
                prop_assert!(marks.0.len() <= MOST);
            }
            if !came.is_empty() {
                let index = at.index(came.len());
                prop_assert!(marks.age(now, index as u64 + 1) <= now - came[index]);
            }
        }
    }
}
