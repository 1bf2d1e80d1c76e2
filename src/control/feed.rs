//! What has happened of late: changes of shards' states, and what operators did. The live page shows it.
//!
//! Bounded: of more than [`MAX_ENTRIES`] the oldest goes. Never holds a token, a session id or anything that users wrote.

use crate::{
    data_core::Changed,
    protocol::Time,
    upstream::{loss::Reason, session::Status},
};
use std::collections::VecDeque;

/// Entries that are kept.
pub const MAX_ENTRIES: usize = 200;

/// One thing that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Numbers entries from 1 on, without a gap.
    pub number: u64,
    /// When it happened.
    pub at: Time,
    /// What it was.
    pub what: What,
}

/// See [`Entry::what`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A shard has got another state.
    State {
        /// Which shard.
        shard: u32,
        /// Its state before.
        from: Status,
        /// Its state now.
        to: Status,
        /// Why the connection was lost, and Discord's close code, when that was the change.
        loss: Option<(Reason, Option<u16>)>,
    },
    /// Something that an operator did, as a sentence.
    Note {
        /// Which shard it was done to, if it was one.
        shard: Option<u32>,
        /// The sentence.
        text: String,
    },
}

/// See the module's description.
#[derive(Default)]
pub struct Feed {
    entries: VecDeque<Entry>,
    count: u64,
}

impl Feed {
    /// A shard has got another state.
    pub fn changed(&mut self, changed: Changed) {
        let Changed { shard, at, from, to, loss } = changed;
        self.add(at, What::State { shard, from, to, loss });
    }

    /// An operator has done something.
    pub fn note(&mut self, at: Time, shard: Option<u32>, text: impl Into<String>) {
        self.add(at, What::Note { shard, text: text.into() });
    }

    fn add(&mut self, at: Time, what: What) {
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.pop_front();
        }
        self.count += 1;
        self.entries.push_back(Entry { number: self.count, at, what });
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_entries_go_and_numbers_go_on() {
        let mut feed = Feed::default();
        for number in 0..MAX_ENTRIES as u64 + 5 {
            feed.note(Time::from_secs(number), None, "reloaded");
        }
        let numbers: Vec<u64> = feed.entries().map(|entry| entry.number).collect();
        assert_eq!((numbers.len(), numbers[0], numbers[MAX_ENTRIES - 1]), (MAX_ENTRIES, 6, MAX_ENTRIES as u64 + 5));
    }
}
