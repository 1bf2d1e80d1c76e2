//! The store: the records of one array of a guild, in the order in which they came, found by id.
//!
//! A record stands in a *chunk* behind its id (8 bytes, little endian) and its length (a varint). The records of a
//! chunk follow one another without gaps. A store of up to [`SINGLE_CHUNK`] bytes is one chunk; a larger one has many
//! chunks of about [`CHUNK_SIZE`] bytes. When a record grows, shrinks or goes, only the records behind it in its chunk
//! move.
//!
//! Snapshots share the chunks ([`SharedRecords`]). A chunk that is shared is copied before it changes.
//!
//! To find an id, a store of up to [`WITHOUT_MAP`] chunks searches all of them; a larger store has a [`ChunkMap`],
//! which says which chunks may have the id.
//!
//! Promises: no operation touches more than a few chunks, except that the map is sometimes rebuilt, renumbered or
//! grown; each of these takes time proportional to the number of records, but a few nanoseconds for each. The store
//! never looks into a record.

mod chunk;
mod chunk_map;
mod shared;

use super::{
    codec::{Reader, varint, write_varint},
    work,
};
pub(crate) use chunk::Chunk;
use chunk_map::ChunkMap;
use hashbrown::DefaultHashBuilder;
pub(crate) use shared::{Position, SharedRecords};
use smallvec::SmallVec;
use std::{hash::BuildHasher, sync::LazyLock};

/// Up to this size in bytes a store is one chunk.
const SINGLE_CHUNK: usize = 4 << 10;
/// Size in bytes of a chunk of a larger store. Small chunks mean less memory to fetch when a record is searched, and
/// less to move when it changes. Very large stores have larger chunks (see [`MANY_SHIFT`]).
const CHUNK_SIZE: usize = 1 << 10;
/// The size of a chunk is at least the size of the store shifted right by this. Chunks are smaller by at most a factor
/// of four, so there are at most 2^16, and their indexes fit into 16 bits.
const MANY_SHIFT: u32 = 14;
/// A store of at most this many chunks has no map.
const WITHOUT_MAP: usize = 4;
/// Size in bytes of a cache line of the CPU.
const LINE: usize = 64;
/// How many bytes ahead of the current record a search prefetches memory.
const AHEAD: usize = 8 * LINE;
/// Spare bytes of the new block that a chunk gets when a record grew, when the old block wasted memory, or when two chunks
/// were joined.
const SLACK: usize = 48;

/// Where a record is. Valid until the store changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    /// Index of the chunk.
    chunk: usize,
    bounds: Bounds,
}

/// Where a record is in its chunk: offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    /// Where the record's id begins.
    start: usize,
    /// Where the record itself begins.
    record: usize,
    /// Behind the record.
    end: usize,
}

/// See the module's description.
#[derive(Default)]
pub(crate) struct Store {
    /// The chunks in order. A chunk that became empty is `None` until the chunks are compacted. Most stores have one
    /// chunk.
    chunks: SmallVec<[Option<Chunk>; 1]>,
    map: Option<Box<ChunkMap>>,
    /// Number of records.
    len: u32,
    /// How many entries of `chunks` are `None`.
    holes: u32,
    /// Bytes that all records take, with their ids and lengths.
    bytes: usize,
    /// Capacity of all chunks together, in bytes.
    allocated: usize,
}

/// The 16 bits by which the map knows an id: a hash with a random seed.
fn tag(id: u64) -> u16 {
    static STATE: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);
    spread(STATE.hash_one(id))
}

/// Reduces a hash to 16 bits. With some seeds, some bits of the hashes of consecutive ids are consecutive too; the
/// multiplication spreads them.
fn spread(hash: u64) -> u16 {
    ((hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16
}

/// Reads the records of a chunk one after the other. Stops at the first one that is broken.
#[derive(Clone, Copy)]
struct Records<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Records<'a> {
    /// Starts at offset `at`, which must be 0 or come from [`position`](Self::position).
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    /// Offset of the next record's id.
    fn position(&self) -> usize {
        self.at
    }

    /// The id of the next record, and where the record is.
    #[inline(always)]
    fn next_bounds(&mut self) -> Option<(u64, Bounds)> {
        work::add(1);
        let (id, after) = self.bytes.get(self.at..)?.split_first_chunk::<8>()?;
        let start = self.at;
        let (record, length) = match *after.first()? {
            length @ 0..0x80 => (start + 9, usize::from(length)),
            _ => {
                let mut reader = Reader { bytes: after };
                let length = reader.length()?;
                (self.bytes.len() - reader.bytes.len(), length)
            }
        };
        if length > self.bytes.len() - record {
            return None;
        }
        self.at = record + length;
        Some((u64::from_le_bytes(*id), Bounds { start, record, end: self.at }))
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = (u64, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (id, bounds) = self.next_bounds()?;
        Some((id, &self.bytes[bounds.record..bounds.end]))
    }
}

/// Appends a record as a chunk holds it: id, length, record.
pub(crate) fn write_record(out: &mut Vec<u8>, id: u64, record: &[u8]) {
    out.extend_from_slice(&id.to_le_bytes());
    write_varint(out, record.len() as u64);
    out.extend_from_slice(record);
}

/// Tells the CPU to fetch the cache line with the byte at offset `at`, if there is one.
#[inline(always)]
fn prefetch(bytes: &[u8], at: usize) {
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, at);
    #[cfg(target_arch = "x86_64")]
    if let Some(byte) = bytes.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the pointer comes from a reference, so it is valid; a prefetch changes nothing that a program can
        // observe.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(byte).cast()) };
    }
}

/// Searches a chunk for an id.
///
/// The offset of the next record is known only when the current record's length has been read. Without prefetching, the
/// search would therefore wait for memory again and again.
fn find_in(bytes: &[u8], id: u64) -> Option<Bounds> {
    let mut records = Records::new(bytes, 0);
    let mut fetched = 0;
    loop {
        let start = records.at;
        while fetched < start + AHEAD {
            prefetch(bytes, fetched);
            fetched += LINE;
        }
        let (other, bounds) = records.next_bounds()?;
        if other == id {
            return Some(bounds);
        }
    }
}

impl Store {
    /// Makes a store of records from outside, which follow one another as in a chunk. `None` when the bytes are broken,
    /// or when two records have the same id other than 0.
    pub(crate) fn from_records(bytes: &[u8]) -> Option<Self> {
        let mut store = Self { bytes: bytes.len(), ..Self::default() };
        let limit = store.limit();
        let (mut ids, mut start) = (Vec::new(), 0);
        let mut records = Records::new(bytes, 0);
        loop {
            let before = records.position();
            let next = records.next_bounds();
            if before > start && (next.is_none() || records.position() - start > limit) {
                store.chunks.push(Some(Chunk::new(&bytes[start..before], 0)));
                start = before;
            }
            let Some((id, ..)) = next else { break };
            store.len = store.len.checked_add(1)?;
            if id != 0 {
                ids.push(id);
            }
        }
        ids.sort_unstable();
        if start != bytes.len() || ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return None;
        }
        // Any two neighbouring chunks together exceed the limit, so the indexes of the chunks fit into 16 bits.
        store.chunks.shrink_to_fit();
        store.allocated = store.bytes;
        if store.chunks.len() > WITHOUT_MAP {
            store.make_map();
        }
        Some(store)
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether there is no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Size in bytes up to which records are added to a chunk. A chunk that grows to more than twice this size is
    /// split.
    fn limit(&self) -> usize {
        if self.bytes <= SINGLE_CHUNK { SINGLE_CHUNK } else { CHUNK_SIZE.max(self.bytes >> MANY_SHIFT) }
    }

    /// Finds the record with this id. The id 0 stands for "no id": such records are stored, but never found.
    #[inline]
    pub(crate) fn find(&self, id: u64) -> Option<Location> {
        if id == 0 {
            return None;
        }
        let location = |chunk_index: usize| {
            let bounds = find_in(self.chunks.get(chunk_index)?.as_ref()?, id)?;
            Some(Location { chunk: chunk_index, bounds })
        };
        match &self.map {
            None => (0..self.chunks.len()).find_map(location),
            Some(map) => map.get(tag(id)).find_map(|chunk| location(usize::from(chunk))),
        }
    }

    /// As [`find`](Self::find), but looks first at the record behind `last`. Fast when ids are looked up in the order
    /// of the store.
    pub(crate) fn find_after(&self, last: Option<Location>, id: u64) -> Option<Location> {
        let next = last.and_then(|last| {
            let mut records = Records::new(self.chunks.get(last.chunk)?.as_ref()?, last.bounds.end);
            let (other, bounds) = records.next_bounds()?;
            (other == id && id != 0).then_some(Location { chunk: last.chunk, bounds })
        });
        next.or_else(|| self.find(id))
    }

    /// The record at a location.
    pub(crate) fn record(&self, location: Location) -> &[u8] {
        self.chunks[location.chunk].as_ref().map_or(&[], |chunk| &chunk[location.bounds.record..location.bounds.end])
    }

    /// Runs `change` on a chunk, and updates the totals of memory and bytes. Returns the chunk's new length in bytes.
    fn change(&mut self, chunk_index: usize, change: impl FnOnce(&mut Chunk)) -> usize {
        let Some(chunk) = &mut self.chunks[chunk_index] else { return 0 };
        // A shared chunk is copied; in any chunk a part of the bytes moves.
        work::add(40 + chunk.len() / 32);
        let before = (chunk.capacity(), chunk.len());
        change(chunk);
        let after = (chunk.capacity(), chunk.len());
        self.allocated = self.allocated - before.0 + after.0;
        self.bytes = self.bytes - before.1 + after.1;
        after.1
    }

    /// Appends a record. The store must not have a record with this id yet, unless the id is 0.
    pub(crate) fn push(&mut self, id: u64, record: &[u8]) {
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
        let chunk_index = self.chunks.len() - 1;
        self.change(chunk_index, |chunk| {
            let end = chunk.len();
            let total = end + needed;
            let room = (2 * end).min(limit.saturating_sub(total));
            chunk.splice(end, end, &[&id.to_le_bytes(), &length[..digits], record], room);
        });
        self.len += 1;
        if let Some(map) = &mut self.map {
            if id != 0 {
                map.insert(tag(id), chunk_index as u16);
            }
        } else if self.chunks.len() > WITHOUT_MAP {
            self.make_map();
        }
    }

    /// Makes the map from all chunks.
    fn make_map(&mut self) {
        let mut map = ChunkMap::with_capacity(self.len());
        for (chunk_index, chunk) in self.chunks.iter().enumerate() {
            for (id, _) in chunk.iter().flat_map(|chunk| Records::new(chunk, 0)) {
                if id != 0 {
                    map.insert(tag(id), chunk_index as u16);
                }
            }
        }
        self.map = Some(Box::new(map));
    }

    /// Replaces a record by another one with the same id.
    pub(crate) fn replace(&mut self, location: Location, record: &[u8]) {
        let (length, digits) = varint(record.len() as u64);
        let size = self.change(location.chunk, |chunk| {
            chunk.splice(location.bounds.start + 8, location.bounds.end, &[&length[..digits], record], SLACK);
        });
        if size > 2 * self.limit() {
            self.split(location.chunk);
        }
    }

    /// Overwrites some bytes of a record, from offset `at` of the record on. Does nothing when they would go beyond its
    /// end.
    pub(crate) fn overwrite(&mut self, location: Location, at: usize, bytes: &[u8]) {
        if location.bounds.record + at + bytes.len() <= location.bounds.end {
            self.change(location.chunk, |chunk| chunk.overwrite(location.bounds.record + at, bytes));
        }
    }

    /// Moves the second half of a chunk into a new chunk behind it.
    fn split(&mut self, chunk_index: usize) {
        let Some(chunk) = &self.chunks[chunk_index] else { return };
        let mut records = Records::new(chunk, 0);
        while records.position() < chunk.len() / 2 && records.next_bounds().is_some() {}
        let middle = records.position();
        if middle == chunk.len() || self.chunks.len() >= usize::from(u16::MAX) {
            return;
        }
        let rest = Chunk::new(&chunk[middle..], 0);
        let next = chunk_index + 1;
        match self.chunks.get_mut(next) {
            Some(hole @ None) => {
                *hole = Some(rest.clone());
                self.holes -= 1;
            }
            _ => {
                self.chunks.insert(next, Some(rest.clone()));
                if let Some(map) = &mut self.map {
                    map.renumber(|chunk| if usize::from(chunk) >= next { chunk + 1 } else { chunk });
                }
            }
        }
        self.allocated += rest.capacity();
        self.bytes += rest.len();
        self.change(chunk_index, |chunk| *chunk = Chunk::new(&chunk[..middle], 0));
        if self.map.is_some() {
            self.note_moved(&rest, chunk_index, next);
        } else if self.chunks.len() > WITHOUT_MAP {
            self.make_map();
        }
    }

    /// Tells the map that these records are in another chunk now.
    fn note_moved(&mut self, records: &[u8], from: usize, to: usize) {
        if let Some(map) = &mut self.map {
            for (id, _) in Records::new(records, 0).filter(|(id, _)| *id != 0) {
                map.change(tag(id), from as u16, to as u16);
            }
        }
    }

    /// Removes a record.
    pub(crate) fn remove(&mut self, location: Location) {
        let id =
            self.chunks[location.chunk].as_ref().and_then(|chunk| Records::new(chunk, location.bounds.start).next());
        if let (Some(map), Some((id, _))) = (&mut self.map, id)
            && id != 0
        {
            map.remove(tag(id), location.chunk as u16);
        }
        self.len -= 1;
        let size =
            self.change(location.chunk, |chunk| chunk.splice(location.bounds.start, location.bounds.end, &[], 0));
        if size == 0 {
            self.empty_chunk(location.chunk);
        } else if size < self.limit() / 4 {
            self.join_neighbour(location.chunk);
        } else {
            self.shrink(location.chunk);
        }
        self.compact();
    }

    /// Moves a chunk to a smaller block of memory when much of its block is unused.
    fn shrink(&mut self, chunk_index: usize) {
        let wasteful = |chunk: &Chunk| chunk.capacity() > chunk.len() + chunk.len() / 4 + 256;
        if self.chunks[chunk_index].as_ref().is_some_and(wasteful) {
            self.change(chunk_index, |chunk| *chunk = Chunk::new(chunk, SLACK));
        }
    }

    /// Drops a chunk, and leaves a hole at its index.
    fn empty_chunk(&mut self, chunk_index: usize) {
        if let Some(chunk) = self.chunks[chunk_index].take() {
            self.allocated -= chunk.capacity();
            self.bytes -= chunk.len();
            self.holes += 1;
        }
    }

    /// Joins a small chunk with the nearest chunk behind or before it, if both together are not large.
    fn join_neighbour(&mut self, chunk_index: usize) {
        let most = self.limit() / 4 * 3;
        let length = |index: usize| self.chunks[index].as_ref().map(|chunk| chunk.len());
        let Some(own) = length(chunk_index) else { return };
        let fits = |other: &usize| length(*other).is_some_and(|other| other + own <= most);
        // Holes between them are skipped. There are never many: at half of the entries the chunks are compacted.
        let later = (chunk_index + 1..self.chunks.len()).find(|other| length(*other).is_some()).filter(fits);
        let earlier = (0..chunk_index).rev().find(|other| length(*other).is_some()).filter(fits);
        let Some((into, from)) = later.map(|other| (chunk_index, other)).or(earlier.map(|other| (other, chunk_index)))
        else {
            return self.shrink(chunk_index);
        };
        let Some(taken) = self.chunks[from].clone() else { return };
        self.empty_chunk(from);
        self.change(into, |chunk| chunk.splice(chunk.len(), chunk.len(), &[&taken], SLACK));
        self.note_moved(&taken, from, into);
    }

    /// Removes the holes when there are at least four and they are at least half of all entries. The chunks get new
    /// indexes.
    fn compact(&mut self) {
        let holes = self.holes as usize;
        if holes < 4 || holes * 2 < self.chunks.len() {
            return;
        }
        let mut next = 0;
        let new_indexes: Vec<u16> = self
            .chunks
            .iter()
            .map(|chunk| {
                let new_index = next;
                next += u16::from(chunk.is_some());
                new_index
            })
            .collect();
        self.chunks.retain(|chunk| chunk.is_some());
        self.chunks.shrink_to_fit();
        self.holes = 0;
        if self.chunks.len() <= WITHOUT_MAP {
            self.map = None;
        }
        if let Some(map) = &mut self.map {
            map.renumber(|chunk| new_indexes[usize::from(chunk)]);
            map.shrink();
        }
    }

    /// Gives back the memory that the last chunk reserves for more records.
    fn trim_last(&mut self) {
        let last = self.chunks.len().wrapping_sub(1);
        let has_room = |chunk: &Chunk| chunk.capacity() > chunk.len();
        if self.chunks.get(last).and_then(Option::as_ref).is_some_and(has_room) {
            self.change(last, |chunk| *chunk = Chunk::new(chunk, 0));
        }
    }

    /// Gives back all memory that is reserved for more records.
    pub(crate) fn shrink_to_fit(&mut self) {
        self.trim_last();
        self.chunks.shrink_to_fit();
        if let Some(map) = &mut self.map {
            map.shrink_to_fit();
        }
    }

    /// All records in order, with their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.chunks.iter().flatten().flat_map(|chunk| Records::new(chunk, 0))
    }

    /// All chunks in order. Later changes of the store do not show in them.
    pub(crate) fn share_chunks(&self) -> Vec<Chunk> {
        work::add(2 * self.chunks.len());
        self.chunks.iter().flatten().cloned().collect()
    }

    /// Bytes on the heap.
    pub(crate) fn heap(&self) -> usize {
        let list = if self.chunks.spilled() { self.chunks.capacity() * size_of::<Option<Chunk>>() } else { 0 };
        self.allocated
            + (self.chunks.len() - self.holes as usize) * Chunk::OVERHEAD
            + list
            + self.map.as_ref().map_or(0, |map| size_of::<ChunkMap>() + map.heap())
    }
}

#[cfg(test)]
mod tests;
