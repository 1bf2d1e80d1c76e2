//! Recent events of the proxy for the live page: changes of shards' states, and actions of operators.
//!
//! Bounded: with more than [`MAX_ENTRIES`] entries, the oldest one is dropped. Never holds a token, a session id or
//! text that users wrote.

use crate::{
    data_core::StatusChange,
    protocol::Time,
    upstream::{loss::Reason, session::Status},
};
use std::collections::VecDeque;

/// Most entries that are kept.
pub const MAX_ENTRIES: usize = 200;

/// One event of the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEntry {
    /// Number of the entry. The entries are numbered from 1, without gaps.
    pub number: u64,
    /// When the event happened, as time since the start.
    pub at: Time,
    /// The event.
    pub event: FeedEvent,
}

/// The event of an [`FeedEntry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// A shard's state has changed.
    State {
        /// Id of the shard.
        shard: u32,
        /// State of the shard before the change.
        from: Status,
        /// State of the shard after the change.
        to: Status,
        /// The reason and Discord's close code, if the shard has lost its connection.
        loss: Option<(Reason, Option<u16>)>,
    },
    /// An action of an operator, as a sentence.
    Note {
        /// The shard that the action concerns; `None`: it concerns the whole proxy.
        shard: Option<u32>,
        /// The sentence.
        text: String,
    },
}

/// The newest events of the proxy.
#[derive(Default)]
pub struct Feed {
    entries: VecDeque<FeedEntry>,
    count: u64,
}

impl Feed {
    /// Adds the change of a shard's state.
    pub fn add_status_change(&mut self, change: StatusChange) {
        let StatusChange { shard, at, from, to, loss } = change;
        self.add(at, FeedEvent::State { shard, from, to, loss });
    }

    /// Adds an action of an operator. `shard` is the shard that it concerns.
    pub fn note(&mut self, at: Time, shard: Option<u32>, text: impl Into<String>) {
        self.add(at, FeedEvent::Note { shard, text: text.into() });
    }

    fn add(&mut self, at: Time, event: FeedEvent) {
        if self.entries.len() >= MAX_ENTRIES {
            self.entries.pop_front();
        }
        self.count += 1;
        self.entries.push_back(FeedEntry { number: self.count, at, event });
    }

    /// The entries, oldest first.
    pub fn entries(&self) -> impl Iterator<Item = &FeedEntry> {
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
