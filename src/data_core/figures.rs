//! What a core counts about its loop: the number of turns, the longest turn of the last minutes, and the latency that
//! the proxy adds to events.

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

/// Upper bounds of the histogram of [`Added`], in seconds.
pub const ADDED_BUCKETS: [f64; 14] =
    [0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];

/// The latency that the proxy adds to events, as a histogram: from the end of the wait that brought bytes from Discord to
/// the system call that gives the events to a client's socket.
///
/// All operations of a turn start with the system call at its end, and a send is decided within that call. So a send of
/// events that came in the same turn took as long as the turn, and one clock a turn is enough, which the core reads in
/// any case. A send of events that came earlier, because the socket was full or another send was under way, is counted
/// with its own time. If a socket takes a part of a send, the send is counted then, and again when it takes the rest.
/// Events that a client gets from the log after its socket was full are not counted; they are in the lag.
#[derive(Clone, Debug, Default)]
pub struct Added {
    /// Sends by bucket, not cumulative. The last one is for those above all bounds.
    pub buckets: [u64; ADDED_BUCKETS.len() + 1],
    /// Sum of all latencies, in seconds.
    pub sum: f64,
    /// Sends of this turn whose events came in this turn.
    sends: u64,
    /// When the events came of the other sends of this turn.
    late: Vec<Time>,
}

impl Added {
    /// A send starts at the end of the turn that began at `now`. Its first event came at `came`.
    pub fn send(&mut self, now: Time, came: Time) {
        if came == now {
            self.sends += 1;
        } else {
            self.late.push(came);
        }
    }

    /// The turn that began at `begun` ends at `now`.
    pub fn end_turn(&mut self, begun: Time, now: Time) {
        if self.sends > 0 {
            let sends = std::mem::take(&mut self.sends);
            self.observe(now.saturating_sub(begun), sends);
        }
        while let Some(came) = self.late.pop() {
            self.observe(now.saturating_sub(came), 1);
        }
    }

    fn observe(&mut self, latency: Duration, count: u64) {
        let latency = latency.as_secs_f64();
        self.buckets[ADDED_BUCKETS.partition_point(|bound| *bound < latency)] += count;
        self.sum += latency * count as f64;
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
    fn sends_of_a_turn_take_as_long_as_the_turn_and_late_ones_longer() {
        let (at, us) = (Time::from_secs(100), Duration::from_micros);
        let mut added = Added::default();
        added.end_turn(at, at + us(70));
        assert_eq!(added.sum, 0.0, "a turn without sends counts nothing");
        (0..3).for_each(|_| added.send(at, at));
        added.send(at, at - us(30_000));
        added.end_turn(at, at + us(70));
        let counts: Vec<_> = ADDED_BUCKETS.iter().zip(added.buckets).filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [(&0.000_1, 3), (&0.05, 1)]);
        assert!((added.sum - 0.030_28).abs() < 1e-9, "{}", added.sum);
        added.send(at, at - Duration::from_secs(60));
        added.end_turn(at, at);
        assert_eq!(added.buckets[ADDED_BUCKETS.len()], 1);
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
