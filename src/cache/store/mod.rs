//! Records in the order in which they came, found by id: one array of a guild.
//!
//! Records stand one behind the other without gaps (id, length, bytes) in one chunk or, where that would be large, in
//! many of some 1 KiB. A record that grows or goes moves what is behind it in its chunk, never more. Chunks are shared
//! with snapshots and copied when they are changed meanwhile. A few chunks are searched from end to end; for more of them
//! there is an [index] from ids to chunks.
//!
//! Knows nothing of what is in a record. No operation but [`Store::retain`] and the growth of the index touches more
//! than a few chunks.

mod chunk;
mod index;

use super::{
    codec::values::{Reader, varint, write_varint},
    work,
};
pub use chunk::Chunk;
use hashbrown::DefaultHashBuilder;
use index::Index;
use smallvec::SmallVec;
use std::{hash::BuildHasher, sync::LazyLock};

/// Bytes up to which a store is one chunk.
const SMALL: usize = 4 << 10;
/// Bytes of a chunk of a larger one, unless there are so many records that chunk numbers would run out. The fewer there
/// are, the less has to be fetched from memory to find a record and to make room for it.
const CHUNK: usize = 1 << 10;
/// Bytes of all records beyond which chunks grow with them: by this power of two there are few enough chunks.
const MANY_SHIFT: u32 = 14;
/// Up to here all chunks are searched.
const WITHOUT_INDEX: usize = 4;
/// Bytes of a line of the CPU's cache.
const LINE: usize = 64;
/// How far ahead of the record that it looks at a search has memory fetched, in bytes.
const AHEAD: usize = 8 * LINE;
/// Room that a record which outgrows its chunk's memory gets for the next ones.
const SLACK: usize = 48;

/// Where a record is, until the store changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    chunk: usize,
    /// Of its id.
    start: usize,
    /// Of its bytes.
    record: usize,
    end: usize,
}

/// See the module's description.
#[derive(Default)]
pub struct Store {
    /// In order; what has been emptied is `None`. Most stores have one.
    chunks: SmallVec<[Option<Chunk>; 1]>,
    index: Option<Box<Index>>,
    len: u32,
    holes: u32,
    /// Bytes of all records.
    bytes: usize,
    /// Capacity of all chunks.
    allocated: usize,
}

fn tag(key: u64) -> u16 {
    static STATE: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);
    spread(STATE.hash_one(key))
}

/// Of ids that follow one another some bits of the hash do so too, with some seeds.
fn spread(hash: u64) -> u16 {
    ((hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16
}

/// The records of a chunk.
#[derive(Clone, Copy)]
pub struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// From this offset on, which must be one that [`position`](Self::position) gave.
    pub fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Offset of the next record.
    pub fn position(&self) -> usize {
        self.at
    }

    #[inline(always)]
    fn next_place(&mut self) -> Option<(u64, usize, usize)> {
        work::add(1);
        let (key, after) = self.bytes.get(self.at..)?.split_first_chunk::<8>()?;
        let (start, length) = match *after.first()? {
            length @ 0..0x80 => (self.at + 9, usize::from(length)),
            _ => {
                let mut reader = Reader { bytes: after };
                let length = reader.length()?;
                (self.bytes.len() - reader.bytes.len(), length)
            }
        };
        if length > self.bytes.len() - start {
            return None;
        }
        self.at = start + length;
        Some((u64::from_le_bytes(*key), start, self.at))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (u64, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (key, start, end) = self.next_place()?;
        Some((key, &self.bytes[start..end]))
    }
}

/// Appends a record as it stands in a chunk.
pub fn write_record(out: &mut Vec<u8>, key: u64, record: &[u8]) {
    out.extend_from_slice(&key.to_le_bytes());
    write_varint(out, record.len() as u64);
    out.extend_from_slice(record);
}

/// Has the CPU fetch the cache line of a byte that will be wanted soon.
#[inline(always)]
fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing that a program can see, and the byte is there.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) };
    }
}

/// Where one record ends is known only when its head is there, so a search would wait for memory at each one, were it not
/// asked for before.
fn find_in(bytes: &[u8], key: u64) -> Option<(usize, usize, usize)> {
    let mut records = Records::new(bytes, 0);
    let mut fetched = 0;
    loop {
        let start = records.at;
        while fetched < start + AHEAD {
            prefetch(bytes, fetched);
            fetched += LINE;
        }
        let (other, record, end) = records.next_place()?;
        if other == key {
            return Some((start, record, end));
        }
    }
}

impl Store {
    /// A store of records that come from outside, one behind the other as in a chunk. `None`: they are not, or two have the
    /// same id.
    pub fn from_records(bytes: &[u8]) -> Option<Self> {
        let mut store = Self { bytes: bytes.len(), ..Self::default() };
        let limit = store.limit();
        let (mut keys, mut start) = (Vec::new(), 0);
        let mut records = Records::new(bytes, 0);
        loop {
            let before = records.position();
            let next = records.next_place();
            if before > start && (next.is_none() || records.position() - start > limit) {
                store.chunks.push(Some(Chunk::new(&bytes[start..before], 0)));
                start = before;
            }
            let Some((key, ..)) = next else { break };
            store.len = store.len.checked_add(1)?;
            if key != 0 {
                keys.push(key);
            }
        }
        keys.sort_unstable();
        if start != bytes.len() || keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return None;
        }
        // Two neighbours are longer than the limit together, so there are few enough chunks for their numbers.
        store.chunks.shrink_to_fit();
        store.allocated = store.bytes;
        if store.chunks.len() > WITHOUT_INDEX {
            store.make_index();
        }
        Some(store)
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn limit(&self) -> usize {
        if self.bytes <= SMALL { SMALL } else { CHUNK.max(self.bytes >> MANY_SHIFT) }
    }

    /// Where the record of this id is. Records with the id 0 are not found.
    #[inline]
    pub fn find(&self, key: u64) -> Option<Place> {
        if key == 0 {
            return None;
        }
        let place = |number: usize| {
            let (start, record, end) = find_in(self.chunks.get(number)?.as_ref()?, key)?;
            Some(Place { chunk: number, start, record, end })
        };
        match &self.index {
            None => (0..self.chunks.len()).find_map(place),
            Some(index) => index.get(tag(key)).find_map(|chunk| place(usize::from(chunk))),
        }
    }

    /// As [`find`](Self::find), when the record is probably the one behind `last`.
    pub fn find_behind(&self, last: Option<Place>, key: u64) -> Option<Place> {
        let next = last.and_then(|last| {
            let mut records = Records::new(self.chunks.get(last.chunk)?.as_ref()?, last.end);
            let (other, record, end) = records.next_place()?;
            (other == key && key != 0).then_some(Place { chunk: last.chunk, start: last.end, record, end })
        });
        next.or_else(|| self.find(key))
    }

    /// The bytes of a record.
    pub fn record(&self, place: Place) -> &[u8] {
        self.chunks[place.chunk].as_ref().map_or(&[], |chunk| &chunk[place.record..place.end])
    }

    /// Runs `change` on a chunk, and counts its memory and bytes anew. Returns its bytes.
    fn change(&mut self, number: usize, change: impl FnOnce(&mut Chunk)) -> usize {
        let Some(chunk) = &mut self.chunks[number] else { return 0 };
        // A shared one is copied, any is moved in part.
        work::add(40 + chunk.len() / 32);
        let before = (chunk.capacity(), chunk.len());
        change(chunk);
        let after = (chunk.capacity(), chunk.len());
        self.allocated = self.allocated - before.0 + after.0;
        self.bytes = self.bytes - before.1 + after.1;
        after.1
    }

    /// Adds a record at the end. Its id must not be there yet, or 0.
    pub fn push(&mut self, key: u64, record: &[u8]) {
        let (length, digits) = varint(record.len() as u64);
        let needed = 8 + digits + record.len();
        let limit = self.limit();
        while self.chunks.last().is_some_and(Option::is_none) {
            self.chunks.pop();
            self.holes -= 1;
        }
        let room = self.chunks.last().and_then(Option::as_ref).is_some_and(|chunk| chunk.len() + needed <= limit);
        if !room && self.chunks.len() < usize::from(u16::MAX) {
            self.trim_last();
            self.chunks.push(Some(Chunk::new(&[], 0)));
        }
        let number = self.chunks.len() - 1;
        self.change(number, |chunk| {
            let end = chunk.len();
            let total = end + needed;
            let room = (2 * end).min(limit.saturating_sub(total));
            chunk.splice(end, end, &[&key.to_le_bytes(), &length[..digits], record], room);
        });
        self.len += 1;
        if let Some(index) = &mut self.index {
            if key != 0 {
                index.insert(tag(key), number as u16);
            }
        } else if self.chunks.len() > WITHOUT_INDEX {
            self.make_index();
        }
    }

    fn make_index(&mut self) {
        let mut index = Index::with_capacity(self.len());
        for (number, chunk) in self.chunks.iter().enumerate() {
            for (key, _) in chunk.iter().flat_map(|chunk| Records::new(chunk, 0)) {
                if key != 0 {
                    index.insert(tag(key), number as u16);
                }
            }
        }
        self.index = Some(Box::new(index));
    }

    /// Replaces the bytes of a record.
    pub fn replace(&mut self, place: Place, record: &[u8]) {
        let (length, digits) = varint(record.len() as u64);
        let size = self.change(place.chunk, |chunk| {
            chunk.splice(place.start + 8, place.end, &[&length[..digits], record], SLACK);
        });
        if size > 2 * self.limit() {
            self.split(place.chunk);
        }
    }

    /// Writes over some bytes of a record, from `at` on.
    pub fn overwrite(&mut self, place: Place, at: usize, bytes: &[u8]) {
        if place.record + at + bytes.len() <= place.end {
            self.change(place.chunk, |chunk| chunk.overwrite(place.record + at, bytes));
        }
    }

    /// Moves the later half of a chunk into one of its own.
    fn split(&mut self, number: usize) {
        let Some(chunk) = &self.chunks[number] else { return };
        let mut records = Records::new(chunk, 0);
        while records.position() < chunk.len() / 2 && records.next_place().is_some() {}
        let middle = records.position();
        if middle == chunk.len() || self.chunks.len() >= usize::from(u16::MAX) {
            return;
        }
        let rest = Chunk::new(&chunk[middle..], 0);
        let next = number + 1;
        match self.chunks.get_mut(next) {
            Some(hole @ None) => {
                *hole = Some(rest.clone());
                self.holes -= 1;
            }
            _ => {
                self.chunks.insert(next, Some(rest.clone()));
                if let Some(index) = &mut self.index {
                    index.renumber(|chunk| if usize::from(chunk) >= next { chunk + 1 } else { chunk });
                }
            }
        }
        self.allocated += rest.capacity();
        self.bytes += rest.len();
        self.change(number, |chunk| *chunk = Chunk::new(&chunk[..middle], 0));
        if self.index.is_some() {
            self.moved(&rest, number, next);
        } else if self.chunks.len() > WITHOUT_INDEX {
            self.make_index();
        }
    }

    /// These records are in another chunk now.
    fn moved(&mut self, records: &[u8], from: usize, to: usize) {
        if let Some(index) = &mut self.index {
            for (key, _) in Records::new(records, 0).filter(|(key, _)| *key != 0) {
                index.change(tag(key), from as u16, to as u16);
            }
        }
    }

    /// Removes a record.
    pub fn remove(&mut self, place: Place) {
        let key = self.chunks[place.chunk].as_ref().and_then(|chunk| Records::new(chunk, place.start).next());
        if let (Some(index), Some((key, _))) = (&mut self.index, key)
            && key != 0
        {
            index.remove(tag(key), place.chunk as u16);
        }
        self.len -= 1;
        let size = self.change(place.chunk, |chunk| chunk.splice(place.start, place.end, &[], 0));
        if size == 0 {
            self.empty(place.chunk);
        } else if size < self.limit() / 4 {
            self.join(place.chunk);
        } else {
            self.shrink(place.chunk);
        }
        self.close_holes();
    }

    /// Gives memory back when much of it is unused.
    fn shrink(&mut self, number: usize) {
        let wasteful = |chunk: &Chunk| chunk.capacity() > chunk.len() + chunk.len() / 4 + 256;
        if self.chunks[number].as_ref().is_some_and(wasteful) {
            self.change(number, |chunk| *chunk = Chunk::new(chunk, SLACK));
        }
    }

    fn empty(&mut self, number: usize) {
        if let Some(chunk) = self.chunks[number].take() {
            self.allocated -= chunk.capacity();
            self.bytes -= chunk.len();
            self.holes += 1;
        }
    }

    /// Joins a small chunk with one beside it, if both together are not large.
    fn join(&mut self, number: usize) {
        let most = self.limit() / 4 * 3;
        let length = |number: usize| self.chunks[number].as_ref().map(|chunk| chunk.len());
        let Some(own) = length(number) else { return };
        let fits = |other: &usize| length(*other).is_some_and(|other| other + own <= most);
        // Beyond holes, but not far: they are closed before there are many.
        let later = (number + 1..self.chunks.len()).find(|other| length(*other).is_some()).filter(fits);
        let earlier = (0..number).rev().find(|other| length(*other).is_some()).filter(fits);
        let Some((into, from)) = later.map(|other| (number, other)).or(earlier.map(|other| (other, number))) else {
            return self.shrink(number);
        };
        let Some(taken) = self.chunks[from].clone() else { return };
        self.empty(from);
        self.change(into, |chunk| chunk.splice(chunk.len(), chunk.len(), &[&taken], SLACK));
        self.moved(&taken, from, into);
    }

    /// Renumbers the chunks when most of them are empty.
    fn close_holes(&mut self) {
        let holes = self.holes as usize;
        if holes < 4 || holes * 2 < self.chunks.len() {
            return;
        }
        let mut next = 0;
        let numbers: Vec<u16> = self
            .chunks
            .iter()
            .map(|chunk| {
                let number = next;
                next += u16::from(chunk.is_some());
                number
            })
            .collect();
        self.chunks.retain(|chunk| chunk.is_some());
        self.chunks.shrink_to_fit();
        self.holes = 0;
        if self.chunks.len() <= WITHOUT_INDEX {
            self.index = None;
        }
        if let Some(index) = &mut self.index {
            index.renumber(|chunk| numbers[usize::from(chunk)]);
            index.shrink();
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Gives the memory back that the last chunk had reserved for more records.
    fn trim_last(&mut self) {
        let last = self.chunks.len().wrapping_sub(1);
        let has_room = |chunk: &Chunk| chunk.capacity() > chunk.len();
        if self.chunks.get(last).and_then(Option::as_ref).is_some_and(has_room) {
            self.change(last, |chunk| *chunk = Chunk::new(chunk, 0));
        }
    }

    /// Gives back memory that was reserved for more records.
    pub fn shrink_to_fit(&mut self) {
        self.trim_last();
        self.chunks.shrink_to_fit();
        if let Some(index) = &mut self.index {
            index.shrink_to_fit();
        }
    }

    /// All records in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.chunks.iter().flatten().flat_map(|chunk| Records::new(chunk, 0))
    }

    /// The chunks in order, as they are now.
    pub fn share(&self) -> Vec<Chunk> {
        work::add(2 * self.chunks.len());
        self.chunks.iter().flatten().cloned().collect()
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        let list = if self.chunks.spilled() { self.chunks.capacity() * size_of::<Option<Chunk>>() } else { 0 };
        self.allocated
            + (self.chunks.len() - self.holes as usize) * Chunk::OVERHEAD
            + list
            + self.index.as_ref().map_or(0, |index| size_of::<Index>() + index.heap())
    }
}

#[cfg(test)]
mod tests;
