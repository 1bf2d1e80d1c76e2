//! The chunk map: which chunks may hold an id. A hash table with four bytes for each entry.
//!
//! An entry is a *tag*, which is 16 bits of the id's hash, and the index of a chunk. The entries are sorted by tag,
//! with gaps, and each stands near its *home*: the slot where it would be if tags were spread evenly over the table.
//! The map can therefore grow without the ids: the tag alone says where an entry belongs. Several ids can have the same
//! tag and chunk; their entries are equal, and it does not matter which of them is removed.
//!
//! The map never answers wrongly that an id is in no chunk. It can name chunks that do not have the id.

use crate::cache::work;

/// The table grows when more than 17 of 20 slots would be used.
const FULL: (usize, usize) = (17, 20);
/// Minimum number of slots.
const MIN_SLOTS: usize = 64;

/// See the module's description.
pub(crate) struct ChunkMap {
    /// 0 is a gap. Otherwise the upper 16 bits are the tag, and the lower ones the chunk's index plus one.
    entries: Box<[u32]>,
    /// Number of entries that are no gaps.
    len: usize,
    /// Number of slots that homes are spread over. The slots behind them take entries that were pushed over the end.
    spread: usize,
}

/// The entry for a tag and a chunk.
fn entry(tag: u16, chunk: u16) -> u32 {
    u32::from(tag) << 16 | (u32::from(chunk) + 1)
}

fn tag_of(entry: u32) -> u16 {
    (entry >> 16) as u16
}

fn chunk_of(entry: u32) -> u16 {
    (entry as u16).wrapping_sub(1)
}

impl ChunkMap {
    /// An empty map with room for `len` entries.
    pub(crate) fn with_capacity(len: usize) -> Self {
        let spread = (len * FULL.1).div_ceil(FULL.0).max(MIN_SLOTS);
        // When this overflows, the table grows. More slots here would cost memory in every table.
        let rest = 16 + spread / 64;
        Self { entries: vec![0; spread + rest].into_boxed_slice(), len: 0, spread }
    }

    /// The slot where an entry with this tag would be if there were no others.
    fn home(&self, tag: u16) -> usize {
        (usize::from(tag) * self.spread) >> 16
    }

    /// The chunks that may hold ids with this tag.
    #[inline]
    pub(crate) fn get(&self, tag: u16) -> impl Iterator<Item = u16> + '_ {
        self.entries[self.home(tag)..]
            .iter()
            .take_while(move |entry| **entry != 0 && tag_of(**entry) <= tag)
            .filter(move |entry| tag_of(**entry) == tag)
            .map(|entry| chunk_of(*entry))
    }

    /// Adds an entry.
    pub(crate) fn insert(&mut self, tag: u16, chunk: u16) {
        if (self.len + 1) * FULL.1 > self.spread * FULL.0 {
            self.resize(self.len + self.len / 4 + 16);
        }
        while !self.try_insert(entry(tag, chunk)) {
            self.resize(self.spread * FULL.0 / FULL.1 + self.spread / 4 + 16);
        }
    }

    /// Adds an entry behind those with lower or equal tags. False, and nothing added, when no gap is left behind it.
    fn try_insert(&mut self, new: u32) -> bool {
        let mut at = self.home(tag_of(new));
        while self.entries.get(at).is_some_and(|entry| *entry != 0 && tag_of(*entry) <= tag_of(new)) {
            at += 1;
        }
        let Some(gap) = self.entries.get(at..).and_then(|rest| rest.iter().position(|entry| *entry == 0)) else {
            return false;
        };
        self.entries.copy_within(at..at + gap, at + 1);
        self.entries[at] = new;
        self.len += 1;
        true
    }

    /// Replaces the table by one with room for `len` entries, or more if they do not fit.
    fn resize(&mut self, len: usize) {
        work::add(self.entries.len() + self.entries.len() / 2);
        let mut larger = Self::with_capacity(len);
        for entry in self.entries.iter().filter(|entry| **entry != 0) {
            if !larger.try_insert(*entry) {
                return self.resize(len + len / 4 + 16);
            }
        }
        *self = larger;
    }

    /// The slot of an entry.
    fn find(&self, wanted: u32) -> Option<usize> {
        let home = self.home(tag_of(wanted));
        let near = self.entries[home..].iter().take_while(|entry| **entry != 0 && tag_of(**entry) <= tag_of(wanted));
        near.enumerate().find(|(_, entry)| **entry == wanted).map(|(at, _)| home + at)
    }

    /// Removes one entry with this tag and chunk.
    pub(crate) fn remove(&mut self, tag: u16, chunk: u16) {
        let Some(at) = self.find(entry(tag, chunk)) else { return };
        // The entries behind it that are not at their home move one slot forward.
        let mut end = at + 1;
        while self.entries.get(end).is_some_and(|entry| *entry != 0 && self.home(tag_of(*entry)) < end) {
            end += 1;
        }
        self.entries.copy_within(at + 1..end, at);
        self.entries[end - 1] = 0;
        self.len -= 1;
    }

    /// Changes the chunk of one entry with this tag.
    pub(crate) fn change(&mut self, tag: u16, from: u16, to: u16) {
        if let Some(at) = self.find(entry(tag, from)) {
            self.entries[at] = entry(tag, to);
        }
    }

    /// Replaces the chunk index of every entry by what `new_index` says.
    pub(crate) fn renumber(&mut self, new_index: impl Fn(u16) -> u16) {
        work::add(self.entries.len() / 2);
        for noted in self.entries.iter_mut().filter(|entry| **entry != 0) {
            *noted = entry(tag_of(*noted), new_index(chunk_of(*noted)));
        }
    }

    /// Moves to a smaller table when less than three quarters of the allowed entries are used.
    pub(crate) fn shrink(&mut self) {
        if self.spread > MIN_SLOTS && self.len * FULL.1 < self.spread * FULL.0 * 3 / 4 {
            self.resize(self.len + self.len / 64);
        }
    }

    /// Gives back the memory that is reserved for more entries, except for a few.
    pub(crate) fn shrink_to_fit(&mut self) {
        let len = self.len + self.len / 64;
        if (len * FULL.1).div_ceil(FULL.0).max(MIN_SLOTS) < self.spread {
            self.resize(len);
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap(&self) -> usize {
        size_of_val(&*self.entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u16, u16),
        Remove(usize),
        Change(usize, u16),
        Renumber,
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        // Few different tags, and those at the ends, so that entries are pushed over the end of the table.
        let tag = prop_oneof![0u16..4, 0xfffc..=0xffffu16, any::<u16>()];
        let step = prop_oneof![
            8 => (tag, 0u16..5).prop_map(|(tag, chunk)| Step::Insert(tag, chunk)),
            4 => any::<usize>().prop_map(Step::Remove),
            1 => (any::<usize>(), 0u16..5).prop_map(|(at, chunk)| Step::Change(at, chunk)),
            1 => Just(Step::Renumber),
            1 => Just(Step::Shrink),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn the_map_is_a_multiset(steps in steps()) {
            let mut map = ChunkMap::with_capacity(0);
            let mut model: Vec<(u16, u16)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(tag, chunk) => {
                        map.insert(tag, chunk);
                        model.push((tag, chunk));
                    }
                    Step::Remove(at) if !model.is_empty() => {
                        let (tag, chunk) = model.swap_remove(at % model.len());
                        map.remove(tag, chunk);
                    }
                    Step::Change(at, chunk) if !model.is_empty() => {
                        let at = at % model.len();
                        map.change(model[at].0, model[at].1, chunk);
                        model[at].1 = chunk;
                    }
                    Step::Renumber => {
                        map.renumber(|chunk| chunk ^ 1);
                        model.iter_mut().for_each(|(_, chunk)| *chunk ^= 1);
                    }
                    Step::Shrink if map.len.is_multiple_of(2) => map.shrink_to_fit(),
                    Step::Shrink => map.shrink(),
                    _ => {}
                }
                prop_assert_eq!(map.len, model.len());
            }
            for tag in model.iter().map(|(tag, _)| *tag).chain([0, 7, 0xffff]) {
                let mut found: Vec<u16> = map.get(tag).collect();
                let mut expected: Vec<u16> = model.iter().filter(|(t, _)| *t == tag).map(|(_, chunk)| *chunk).collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn four_bytes_an_entry_and_little_more() {
        let mut map = ChunkMap::with_capacity(0);
        for number in 0..100_000u32 {
            map.insert((number.wrapping_mul(2_654_435_761) >> 16) as u16, 1);
        }
        assert!(map.heap() < 700_000, "{}", map.heap());
        for number in 0..90_000u32 {
            map.remove((number.wrapping_mul(2_654_435_761) >> 16) as u16, 1);
        }
        map.shrink();
        assert!(map.heap() < 60_000, "{}", map.heap());
    }
}
