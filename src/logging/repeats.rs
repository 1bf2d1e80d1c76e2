//! Decides which lines of the log are held back because lines like them were written a moment ago. Pure.
//!
//! Bounded: [`MOST_KEYS`] kinds of lines. Further kinds share one entry until older ones have ended.

use std::{collections::HashMap, time::Duration};

/// The time for which lines that are alike are counted together.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Lines that are alike and are written within [`WINDOW`].
pub const FREE: u32 = 5;
/// The most kinds of lines that are counted at a time.
pub const MOST_KEYS: usize = 4096;
/// The longest line that is kept, in bytes. Only the end of the message of a longer one is lost.
pub const LONGEST: usize = 4096;
/// The key of lines for which there is no room. No line has this key by itself, except by chance.
const SHARED: u64 = 0;

/// What happens to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The line is written, and stands for so many lines, itself included.
    Write(u64),
    /// The line is held back. The caller passes its text to [`Repeats::keep`].
    HoldBack,
}

/// Lines that are alike.
struct Entry {
    since: Duration,
    written: u32,
    held: u64,
    /// The last line that was held back.
    last: String,
}

/// See the module's description.
#[derive(Default)]
pub struct Repeats {
    entries: HashMap<u64, Entry>,
    /// No entry with held lines is due before this time.
    next_due: Duration,
}

impl Repeats {
    /// Decides about a line at the time `now`.
    pub fn next(&mut self, key: u64, now: Duration) -> Next {
        if !self.entries.contains_key(&key) && self.entries.len() >= MOST_KEYS {
            self.entries.retain(|_, entry| now < entry.since + WINDOW || entry.held > 0);
        }
        let room = self.entries.len() < MOST_KEYS || self.entries.contains_key(&key);
        let key = if room { key } else { SHARED };
        let new = || Entry { since: now, written: 0, held: 0, last: String::new() };
        let entry = self.entries.entry(key).or_insert_with(new);
        if now >= entry.since + WINDOW {
            let held = entry.held;
            *entry = Entry { written: 1, ..new() };
            return Next::Write(held + 1);
        }
        if entry.written < FREE {
            entry.written += 1;
            return Next::Write(1);
        }
        entry.held += 1;
        self.next_due = self.next_due.min(entry.since + WINDOW);
        Next::HoldBack
    }

    /// Keeps the text of a line that is held back, in place of the one before.
    pub fn keep(&mut self, key: u64, line: String) {
        let key = if self.entries.contains_key(&key) { key } else { SHARED };
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.last = line;
            if entry.last.len() > LONGEST {
                let end = (0..=LONGEST).rev().find(|end| entry.last.is_char_boundary(*end));
                entry.last.truncate(end.unwrap_or(0));
            }
        }
    }

    /// Takes the lines out that stand for held ones whose window is over, each with the number of lines for which it
    /// stands.
    pub fn take_due(&mut self, now: Duration) -> Vec<(String, u64)> {
        if now < self.next_due {
            return Vec::new();
        }
        let mut due = Vec::new();
        self.next_due = Duration::MAX;
        self.entries.retain(|_, entry| {
            let over = now >= entry.since + WINDOW;
            if over && entry.held > 0 {
                due.push((std::mem::take(&mut entry.last), entry.held));
            } else if entry.held > 0 {
                self.next_due = self.next_due.min(entry.since + WINDOW);
            }
            !over
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn some_lines_are_free_and_the_rest_is_one_line() {
        let mut repeats = Repeats::default();
        let written = (0..100).filter(|_| repeats.next(7, SECOND) == Next::Write(1)).count();
        assert_eq!(written, FREE as usize);
        repeats.keep(7, "last\n".into());
        assert_eq!(repeats.next(8, SECOND), Next::Write(1), "another kind");
        assert_eq!(repeats.take_due(SECOND * 10), []);
        assert_eq!(repeats.take_due(SECOND * 11), [("last\n".to_owned(), 95)]);
        assert_eq!(repeats.take_due(SECOND * 12), []);
        assert!(repeats.entries.is_empty());
    }

    #[test]
    fn the_next_line_stands_for_those_before_it_when_nobody_took_them() {
        let mut repeats = Repeats::default();
        (0..8).for_each(|_| assert_ne!(repeats.next(7, SECOND), Next::Write(4)));
        assert_eq!(repeats.next(7, SECOND * 11), Next::Write(4));
        assert_eq!(repeats.next(7, SECOND * 11), Next::Write(1));
        assert_eq!(repeats.take_due(SECOND * 99), []);
    }

    #[test]
    fn the_table_is_bounded_and_no_count_is_lost() {
        let mut repeats = Repeats::default();
        let mut all = 0;
        let mut stood_for = 0;
        for round in 0..20u64 {
            let now = SECOND * round as u32;
            for key in 1..=1000 {
                all += 1;
                match repeats.next(round * 1000 + key, now) {
                    Next::Write(count) => stood_for += count,
                    Next::HoldBack => repeats.keep(round * 1000 + key, "x".repeat(9000)),
                }
                assert!(repeats.entries.len() <= MOST_KEYS + 1);
            }
            assert!(repeats.entries.values().all(|entry| entry.last.len() <= LONGEST));
        }
        stood_for += repeats.take_due(SECOND * 99).iter().map(|(_, count)| count).sum::<u64>();
        assert_eq!(stood_for, all);
    }
}
