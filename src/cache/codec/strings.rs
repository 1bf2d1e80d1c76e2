//! The string table: strings that occur again and again, stored once. Examples are `online`, and the names of games,
//! roles and people.
//!
//! A string is admitted at its third sighting. Sightings are counted in a small table of candidates, in which a string
//! can push out another one, so a rare string may be forgotten between two sightings. Admitted strings never leave,
//! because records refer to them by their index.
//!
//! Bounds: [`MAX_STRINGS`] and [`MAX_STRING_BYTES`]. Beyond them no string is admitted, and records hold new strings
//! themselves.

use crate::protocol::json::strict;
use hashbrown::HashTable;

/// Maximum number of strings.
const MAX_STRINGS: usize = 8_192;
/// Maximum size in bytes of all strings together.
const MAX_STRING_BYTES: usize = 128 << 10;
/// Lengths in bytes of the strings that can be admitted.
pub(super) const LENGTHS: std::ops::RangeInclusive<usize> = 2..=48;
/// At this sighting a string is admitted.
const SIGHTINGS: u16 = 3;
/// Number of candidates whose sightings are counted.
const CANDIDATES: usize = 8_192;

/// See the module's description.
pub(crate) struct StringTable {
    /// All strings, one after the other.
    bytes: Vec<u8>,
    /// Where each string ends in `bytes`.
    ends: Vec<u32>,
    /// Finds strings: 16 bits of the hash, and the index.
    lookup: HashTable<(u16, u16)>,
    /// For each hash modulo [`CANDIDATES`]: 16 other bits of the hash of the last string that was seen there, and how
    /// often it was seen.
    candidates: Box<[(u16, u16)]>,
}

impl Default for StringTable {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            lookup: HashTable::new(),
            candidates: vec![(0, 0); CANDIDATES].into_boxed_slice(),
        }
    }
}

impl StringTable {
    /// The string with this index.
    #[inline(always)]
    pub fn get(&self, index: u64) -> Option<&[u8]> {
        let index = usize::try_from(index).ok()?;
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.bytes.get(start..end)
    }

    /// The index of a string, if the table has it or admits it now. Otherwise counts a sighting. `hash` is the string's
    /// [`hash`](super::hash).
    pub fn find_or_count(&mut self, text: &[u8], hash: u64) -> Option<u64> {
        if let Some(index) = self.find(text, hash) {
            return Some(index);
        }
        let tag = tag(hash);
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

    /// Number of strings, at most [`MAX_STRINGS`].
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// All strings in the order of their indexes.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len() as u64).filter_map(|index| self.get(index))
    }

    /// Appends a string from a state file, which gets the next index. `None`, and nothing appended, when its length is
    /// not one of [`LENGTHS`], when it is not the content of a JSON string, when the table has it already, or when
    /// there is no room.
    pub fn append(&mut self, text: &[u8]) -> Option<()> {
        let hash = super::hash(text);
        if !LENGTHS.contains(&text.len()) || !strict::is_content(text) || self.find(text, hash).is_some() {
            return None;
        }
        self.admit(text, hash).map(drop)
    }

    fn find(&self, text: &[u8], hash: u64) -> Option<u64> {
        let tag = tag(hash);
        let found = self.lookup.find(hash, |(other, index)| {
            *other == tag && self.get(u64::from(*index)).is_some_and(|known| known == text)
        });
        found.map(|(_, index)| u64::from(*index))
    }

    fn admit(&mut self, text: &[u8], hash: u64) -> Option<u64> {
        if self.ends.len() >= MAX_STRINGS || self.bytes.len() + text.len() > MAX_STRING_BYTES {
            return None;
        }
        if self.lookup.len() == self.lookup.capacity() {
            self.grow_lookup();
        }
        let index = self.ends.len();
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len() as u32);
        self.lookup.insert_unique(hash, (tag(hash), index as u16), |_| 0);
        Some(index as u64)
    }

    /// Replaces the lookup table by a larger one. The table does not keep whole hashes, so they are computed again.
    fn grow_lookup(&mut self) {
        let mut lookup = HashTable::with_capacity((self.ends.len() * 2).max(64));
        for index in 0..self.ends.len() {
            let hash = super::hash(self.get(index as u64).unwrap_or_default());
            lookup.insert_unique(hash, (tag(hash), index as u16), |_| 0);
        }
        self.lookup = lookup;
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.bytes.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.lookup.allocation_size()
            + size_of_val(&*self.candidates)
    }
}

/// The bits of a hash that the lookup table and the candidates keep.
fn tag(hash: u64) -> u16 {
    (hash >> 40) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::codec::hash;

    #[test]
    fn a_string_is_admitted_at_its_third_sighting() {
        let mut strings = StringTable::default();
        let online = |strings: &mut StringTable| strings.find_or_count(b"online", hash(b"online"));
        assert_eq!([online(&mut strings), online(&mut strings)], [None, None]);
        let index = online(&mut strings).expect("the third sighting");
        assert_eq!(online(&mut strings), Some(index));
        assert_eq!(strings.get(index), Some(&b"online"[..]));
        assert_eq!(strings.get(index + 1), None);
        assert_eq!(strings.get(u64::MAX), None);
    }

    #[test]
    fn a_full_table_admits_nothing_and_keeps_what_it_has() {
        let mut strings = StringTable::default();
        let mut known = Vec::new();
        for number in 0..20_000u32 {
            let text = format!("{number:>20}");
            for _ in 0..SIGHTINGS {
                let index = strings.find_or_count(text.as_bytes(), hash(text.as_bytes()));
                known.extend(index.map(|index| (index, text.clone())));
            }
        }
        assert!(known.len() <= MAX_STRINGS && strings.bytes.len() <= MAX_STRING_BYTES);
        assert!(known.len() > 6_000, "{}", known.len());
        for (index, text) in known {
            assert_eq!(strings.get(index), Some(text.as_bytes()));
            assert_eq!(strings.find_or_count(text.as_bytes(), hash(text.as_bytes())), Some(index));
        }
    }
}
