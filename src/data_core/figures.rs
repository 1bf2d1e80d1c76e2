//! What a core counts about its loop: the number of turns, and the longest turn of the last minutes.

use crate::protocol::Time;
use std::time::Duration;

/// The longest turn covers the current minute and the one before. So a long turn is forgotten after two minutes at
/// most, independent of who reads the figure and how often.
const MINUTE: Duration = Duration::from_secs(60);

/// Counts about the loop of a core. See the module's description.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Number of turns so far.
    pub turns: u64,
    /// When the current minute began.
    since: Time,
    /// The longest turn of the current minute, and that of the one before.
    longest: [Duration; 2],
}

impl Figures {
    /// Counts a turn that began at `begun` and ended at `now`.
    pub fn turn(&mut self, begun: Time, now: Time) {
        self.turns += 1;
        self.roll_minute(now);
        self.longest[0] = self.longest[0].max(now.saturating_sub(begun));
    }

    /// Returns the longest turn of the current minute and the one before.
    pub fn longest(&mut self, now: Time) -> Duration {
        self.roll_minute(now);
        self.longest[0].max(self.longest[1])
    }

    fn roll_minute(&mut self, now: Time) {
        let passed = now.saturating_sub(self.since);
        if passed >= MINUTE {
            let before = if passed < 2 * MINUTE { self.longest[0] } else { Duration::ZERO };
            (self.longest, self.since) = ([Duration::ZERO, before], now);
        }
    }
}

/// Returns the CPU time of the calling thread.
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_turn_is_forgotten_after_two_minutes() {
        let (at, ms) = (Time::from_secs, Duration::from_millis);
        let mut figures = Figures::default();
        figures.turn(at(10), at(10) + ms(7));
        figures.turn(at(20), at(20) + ms(3));
        assert_eq!((figures.turns, figures.longest(at(21))), (2, ms(7)));
        figures.turn(at(70), at(70) + ms(2));
        assert_eq!(figures.longest(at(71)), ms(7));
        assert_eq!(figures.longest(at(140)), ms(2));
        figures.turn(at(141), at(141) + ms(1));
        assert_eq!(figures.longest(at(300)), Duration::ZERO);
    }

    #[test]
    fn a_thread_that_works_has_cpu_time() {
        let before = thread_cpu_time();
        let mut sum = 0u64;
        while thread_cpu_time() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(thread_cpu_time() > before);
    }
}
