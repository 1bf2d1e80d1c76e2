//! Ids that a guild's entities name again and again: its roles, its categories.
//!
//! Numbers are never given twice, so records and snapshots may refer to them for as long as the table lives.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// More ids than this are written out in full where they are used.
pub const MAX_IDS: usize = 16_384;
/// Up to here a search through all is fast enough.
const WITHOUT_INDEX: usize = 48;

/// See the module's description.
#[derive(Default)]
pub struct Ids {
    ids: Vec<u64>,
    index: Option<Box<HashTable<u16>>>,
    hasher: DefaultHashBuilder,
}

impl Ids {
    /// The id of this number.
    #[inline(always)]
    pub fn get(&self, number: u64) -> Option<u64> {
        self.ids.get(usize::try_from(number).ok()?).copied()
    }

    /// The number of an id that is in the table.
    #[inline]
    pub fn find(&self, id: u64) -> Option<u64> {
        let found = match &self.index {
            None => self.ids.iter().position(|other| *other == id),
            Some(index) => index
                .find(self.hasher.hash_one(id), |number| self.ids[usize::from(*number)] == id)
                .map(|number| usize::from(*number)),
        };
        found.map(|number| number as u64)
    }

    /// The number of an id, which may be new; `None` when the table is full.
    pub fn find_or_add(&mut self, id: u64) -> Option<u64> {
        if let Some(number) = self.find(id) {
            return Some(number);
        }
        let number = u16::try_from(self.ids.len()).ok().filter(|number| usize::from(*number) < MAX_IDS)?;
        if self.ids.len() == self.ids.capacity() {
            self.ids.reserve_exact(self.ids.len() / 4 + 8);
        }
        self.ids.push(id);
        let hash = |number: &u16| self.hasher.hash_one(self.ids[usize::from(*number)]);
        if let Some(index) = &mut self.index {
            index.insert_unique(hash(&number), number, hash);
        } else if self.ids.len() > WITHOUT_INDEX {
            let mut index = HashTable::with_capacity(2 * WITHOUT_INDEX);
            for number in 0..=number {
                index.insert_unique(hash(&number), number, hash);
            }
            self.index = Some(Box::new(index));
        }
        Some(u64::from(number))
    }

    /// Gives back memory that was reserved for more.
    pub fn shrink_to_fit(&mut self) {
        self.ids.shrink_to_fit();
    }

    /// All of them, by their numbers.
    pub fn all(&self) -> &[u64] {
        &self.ids
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.ids.capacity() * size_of::<u64>()
            + self.index.as_ref().map_or(0, |index| size_of::<HashTable<u16>>() + index.allocation_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_stable_and_bounded() {
        let mut ids = Ids::default();
        for round in 0..2 {
            for id in 0..MAX_IDS as u64 {
                assert_eq!(ids.find_or_add(id * 7), Some(id), "round {round}");
            }
            assert_eq!(ids.find_or_add(3), None);
        }
        assert_eq!(ids.get(5), Some(35));
        assert_eq!(ids.get(MAX_IDS as u64), None);
        assert_eq!(ids.get(u64::MAX), None);
        assert_eq!(ids.find(3), None);
        assert!(ids.heap() > MAX_IDS * 8);
    }
}
