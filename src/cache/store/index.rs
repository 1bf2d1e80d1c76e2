//! Which chunk may hold an id: a hash table of 4 bytes an entry.
//!
//! An entry is 16 bits of the id's hash and the number of the chunk. Entries stand sorted by those bits, with gaps, near
//! where they would stand if they were spread evenly. So the table needs nothing but itself to grow, and two entries
//! with equal bits for the same chunk may stand in for each other.

use crate::cache::work;

/// Entries in all of this many places; then the table grows.
const FULL: (usize, usize) = (17, 20);
const FEWEST: usize = 64;

/// See the module's description.
pub struct Index {
    /// 0 is a gap; else the bits of the hash, and the chunk's number plus one.
    entries: Box<[u32]>,
    len: usize,
    /// Places that entries are spread over; what does not fit runs over into the rest.
    spread: usize,
}

fn entry(tag: u16, chunk: u16) -> u32 {
    u32::from(tag) << 16 | (u32::from(chunk) + 1)
}

fn tag_of(entry: u32) -> u16 {
    (entry >> 16) as u16
}

fn chunk_of(entry: u32) -> u16 {
    (entry as u16).wrapping_sub(1)
}

impl Index {
    /// An empty one for so many entries.
    pub fn with_capacity(len: usize) -> Self {
        let spread = (len * FULL.1).div_ceil(FULL.0).max(FEWEST);
        // Overflow beyond this makes the table grow, so it is a matter of economy.
        let rest = 16 + spread / 64;
        Self { entries: vec![0; spread + rest].into_boxed_slice(), len: 0, spread }
    }

    fn home(&self, tag: u16) -> usize {
        (usize::from(tag) * self.spread) >> 16
    }

    /// The chunks noted for these bits.
    #[inline]
    pub fn get(&self, tag: u16) -> impl Iterator<Item = u16> + '_ {
        self.entries[self.home(tag)..]
            .iter()
            .take_while(move |entry| **entry != 0 && tag_of(**entry) <= tag)
            .filter(move |entry| tag_of(**entry) == tag)
            .map(|entry| chunk_of(*entry))
    }

    /// Notes a chunk.
    pub fn insert(&mut self, tag: u16, chunk: u16) {
        if (self.len + 1) * FULL.1 > self.spread * FULL.0 {
            self.resize(self.len + self.len / 4 + 16);
        }
        while !self.try_insert(entry(tag, chunk)) {
            self.resize(self.spread * FULL.0 / FULL.1 + self.spread / 4 + 16);
        }
    }

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

    fn place(&self, wanted: u32) -> Option<usize> {
        let home = self.home(tag_of(wanted));
        let near = self.entries[home..].iter().take_while(|entry| **entry != 0 && tag_of(**entry) <= tag_of(wanted));
        near.enumerate().find(|(_, entry)| **entry == wanted).map(|(at, _)| home + at)
    }

    /// Forgets one note.
    pub fn remove(&mut self, tag: u16, chunk: u16) {
        let Some(at) = self.place(entry(tag, chunk)) else { return };
        // Those behind it that stand too far back move up.
        let mut end = at + 1;
        while self.entries.get(end).is_some_and(|entry| *entry != 0 && self.home(tag_of(*entry)) < end) {
            end += 1;
        }
        self.entries.copy_within(at + 1..end, at);
        self.entries[end - 1] = 0;
        self.len -= 1;
    }

    /// Changes one note.
    pub fn change(&mut self, tag: u16, from: u16, to: u16) {
        if let Some(at) = self.place(entry(tag, from)) {
            self.entries[at] = entry(tag, to);
        }
    }

    /// Changes all numbers of chunks.
    pub fn renumber(&mut self, number: impl Fn(u16) -> u16) {
        work::add(self.entries.len() / 2);
        for noted in self.entries.iter_mut().filter(|entry| **entry != 0) {
            *noted = entry(tag_of(*noted), number(chunk_of(*noted)));
        }
    }

    /// Gives memory back when it is much too large.
    pub fn shrink(&mut self) {
        if self.spread > FEWEST && self.len * FULL.1 < self.spread * FULL.0 * 3 / 4 {
            self.resize(self.len + self.len / 64);
        }
    }

    /// Gives back what is reserved for more entries, but for a few.
    pub fn shrink_to_fit(&mut self) {
        let len = self.len + self.len / 64;
        if (len * FULL.1).div_ceil(FULL.0).max(FEWEST) < self.spread {
            self.resize(len);
        }
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
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
        // Few different bits, and those at the ends, so that clusters run over.
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
        fn is_a_multiset(steps in steps()) {
            let mut index = Index::with_capacity(0);
            let mut model: Vec<(u16, u16)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(tag, chunk) => {
                        index.insert(tag, chunk);
                        model.push((tag, chunk));
                    }
                    Step::Remove(at) if !model.is_empty() => {
                        let (tag, chunk) = model.swap_remove(at % model.len());
                        index.remove(tag, chunk);
                    }
                    Step::Change(at, chunk) if !model.is_empty() => {
                        let at = at % model.len();
                        index.change(model[at].0, model[at].1, chunk);
                        model[at].1 = chunk;
                    }
                    Step::Renumber => {
                        index.renumber(|chunk| chunk ^ 1);
                        model.iter_mut().for_each(|(_, chunk)| *chunk ^= 1);
                    }
                    Step::Shrink if index.len.is_multiple_of(2) => index.shrink_to_fit(),
                    Step::Shrink => index.shrink(),
                    _ => {}
                }
                prop_assert_eq!(index.len, model.len());
            }
            for tag in model.iter().map(|(tag, _)| *tag).chain([0, 7, 0xffff]) {
                let mut found: Vec<u16> = index.get(tag).collect();
                let mut expected: Vec<u16> = model.iter().filter(|(t, _)| *t == tag).map(|(_, chunk)| *chunk).collect();
                found.sort_unstable();
                expected.sort_unstable();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn four_bytes_an_entry_and_little_more() {
        let mut index = Index::with_capacity(0);
        for number in 0..100_000u32 {
            index.insert((number.wrapping_mul(2_654_435_761) >> 16) as u16, 1);
        }
        assert!(index.heap() < 700_000, "{}", index.heap());
        for number in 0..90_000u32 {
            index.remove((number.wrapping_mul(2_654_435_761) >> 16) as u16, 1);
        }
        index.shrink();
        assert!(index.heap() < 60_000, "{}", index.heap());
    }
}
