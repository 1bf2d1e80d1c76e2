//! Strings that come again and again, kept once: `online`, names of games, of roles, of people.
//!
//! A string is admitted when it has been seen a few times while its place in a small table of candidates was not taken
//! by another. Words never leave, because records refer to them by number.

use crate::cache::scan;
use hashbrown::HashTable;

/// Words that are kept at most.
pub const MAX_WORDS: usize = 8_192;
/// Their bytes at most.
pub const MAX_WORD_BYTES: usize = 128 << 10;
/// Lengths in bytes that are worth it.
pub const LENGTHS: std::ops::RangeInclusive<usize> = 2..=48;
/// Sightings until a string is admitted.
const SIGHTINGS: u16 = 3;
const CANDIDATES: usize = 8_192;

/// See the module's description.
pub struct Words {
    /// All words, one after another.
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<u32>,
    /// Part of the hash, and the number.
    index: HashTable<(u16, u16)>,
    /// Part of a hash, and how often it was seen.
    candidates: Box<[(u16, u16)]>,
}

impl Default for Words {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            index: HashTable::new(),
            candidates: vec![(0, 0); CANDIDATES].into_boxed_slice(),
        }
    }
}

impl Words {
    /// The word of this number.
    #[inline(always)]
    pub fn get(&self, number: u64) -> Option<&[u8]> {
        let number = usize::try_from(number).ok()?;
        let end = *self.ends.get(number)? as usize;
        let start = if number == 0 { 0 } else { self.ends[number - 1] as usize };
        self.bytes.get(start..end)
    }

    /// The number of a string, if it is a word. Counts it otherwise.
    pub fn find(&mut self, text: &[u8], hash: u64) -> Option<u64> {
        if let Some(number) = self.number(text, hash) {
            return Some(number);
        }
        let tag = (hash >> 40) as u16;
        let candidate = &mut self.candidates[hash as usize % CANDIDATES];
        if candidate.0 != tag {
            *candidate = (tag, 1);
            return None;
        }
        candidate.1 += 1;
        if candidate.1 < SIGHTINGS {
            return None;
        }
        *candidate = (0, 0);
        self.admit(text, hash)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All words, by their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len() as u64).filter_map(|number| self.get(number))
    }

    /// Takes a string that comes from outside, as the next word. `None`: it can not be one, is one already, or there is
    /// no room.
    pub fn add(&mut self, text: &[u8]) -> Option<()> {
        let hash = super::hash(text);
        if !LENGTHS.contains(&text.len()) || !scan::is_content(text) || self.number(text, hash).is_some() {
            return None;
        }
        self.admit(text, hash).map(drop)
    }

    fn number(&self, text: &[u8], hash: u64) -> Option<u64> {
        let tag = (hash >> 40) as u16;
        let found = self.index.find(hash, |(other, number)| {
            *other == tag && self.get(u64::from(*number)).is_some_and(|word| word == text)
        });
        found.map(|(_, number)| u64::from(*number))
    }

    fn admit(&mut self, text: &[u8], hash: u64) -> Option<u64> {
        if self.ends.len() >= MAX_WORDS || self.bytes.len() + text.len() > MAX_WORD_BYTES {
            return None;
        }
        if self.index.len() == self.index.capacity() {
            self.grow();
        }
        let number = self.ends.len();
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len() as u32);
        self.index.insert_unique(hash, ((hash >> 40) as u16, number as u16), |_| 0);
        Some(number as u64)
    }

    /// A larger index, made anew, because it does not keep whole hashes.
    fn grow(&mut self) {
        let mut index = HashTable::with_capacity((self.ends.len() * 2).max(64));
        for number in 0..self.ends.len() {
            let hash = super::hash(self.get(number as u64).unwrap_or_default());
            index.insert_unique(hash, ((hash >> 40) as u16, number as u16), |_| 0);
        }
        self.index = index;
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.index.allocation_size()
            + size_of_val(&*self.candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::codec::hash;

    #[test]
    fn only_what_comes_again_is_kept() {
        let mut words = Words::default();
        let online = |words: &mut Words| words.find(b"online", hash(b"online"));
        assert_eq!([online(&mut words), online(&mut words)], [None, None]);
        let number = online(&mut words).expect("seen often enough");
        assert_eq!(online(&mut words), Some(number));
        assert_eq!(words.get(number), Some(&b"online"[..]));
        assert_eq!(words.get(number + 1), None);
        assert_eq!(words.get(u64::MAX), None);
    }

    #[test]
    fn the_table_is_bounded_and_stays_right() {
        let mut words = Words::default();
        let mut known = Vec::new();
        for number in 0..20_000u32 {
            let text = format!("{number:>20}");
            for _ in 0..SIGHTINGS {
                known.extend(words.find(text.as_bytes(), hash(text.as_bytes())).map(|word| (word, text.clone())));
            }
        }
        assert!(known.len() <= MAX_WORDS && words.bytes.len() <= MAX_WORD_BYTES);
        assert!(known.len() > 6_000, "{}", known.len());
        for (number, text) in known {
            assert_eq!(words.get(number), Some(text.as_bytes()));
            assert_eq!(words.find(text.as_bytes(), hash(text.as_bytes())), Some(number));
        }
    }
}
