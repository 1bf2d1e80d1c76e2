//! The id table of a guild: ids that its entities name again and again, mostly those of roles and categories.
//!
//! Records hold the index of such an id (one or two bytes) instead of the id (eight bytes). The table only grows and an
//! id keeps its index, so records and snapshots can refer to it for as long as the table lives.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// Maximum number of ids of a guild. Records hold further ids in full.
const MAX_IDS: usize = 16_384;
/// A table with at most this many ids is searched from end to end and has no lookup table.
const WITHOUT_LOOKUP: usize = 48;

/// See the module's description.
#[derive(Default)]
pub struct IdTable {
    ids: Vec<u64>,
    lookup: Option<Box<HashTable<u16>>>,
    hasher: DefaultHashBuilder,
}

impl IdTable {
    /// The id with this index.
    #[inline(always)]
    pub(crate) fn get(&self, index: u64) -> Option<u64> {
        self.ids.get(usize::try_from(index).ok()?).copied()
    }

    /// The index of an id; `None` when the table does not have it.
    #[inline]
    pub(crate) fn find(&self, id: u64) -> Option<u64> {
        let found = match &self.lookup {
            None => self.ids.iter().position(|other| *other == id),
            Some(lookup) => lookup
                .find(self.hasher.hash_one(id), |index| self.ids[usize::from(*index)] == id)
                .map(|index| usize::from(*index)),
        };
        found.map(|index| index as u64)
    }

    /// The index of an id, which is added if it is new; `None` when it is new and the table is full.
    pub(crate) fn find_or_add(&mut self, id: u64) -> Option<u64> {
        if let Some(index) = self.find(id) {
            return Some(index);
        }
        let index = u16::try_from(self.ids.len()).ok().filter(|index| usize::from(*index) < MAX_IDS)?;
        if self.ids.len() == self.ids.capacity() {
            self.ids.reserve_exact(self.ids.len() / 4 + 8);
        }
        self.ids.push(id);
        let hash = |index: &u16| self.hasher.hash_one(self.ids[usize::from(*index)]);
        if let Some(lookup) = &mut self.lookup {
            lookup.insert_unique(hash(&index), index, hash);
        } else if self.ids.len() > WITHOUT_LOOKUP {
            let mut lookup = HashTable::with_capacity(2 * WITHOUT_LOOKUP);
            for index in 0..=index {
                lookup.insert_unique(hash(&index), index, hash);
            }
            self.lookup = Some(Box::new(lookup));
        }
        Some(u64::from(index))
    }

    /// Gives back the memory that is reserved for more ids.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.ids.shrink_to_fit();
    }

    /// All ids in the order of their indexes.
    pub(crate) fn all(&self) -> &[u64] {
        &self.ids
    }

    /// Bytes on the heap.
    pub(crate) fn heap(&self) -> usize {
        self.ids.capacity() * size_of::<u64>()
            + self.lookup.as_ref().map_or(0, |lookup| size_of::<HashTable<u16>>() + lookup.allocation_size())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_stable_and_bounded() {
        let mut ids = IdTable::default();
        for round in 0..2 {
            for index in 0..MAX_IDS as u64 {
                assert_eq!(ids.find_or_add(index * 7), Some(index), "round {round}");
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
