//! The records of a store as they were at one moment, read one after the other.
//!
//! A [`SharedRecords`] shares the chunks of the store, so making one copies no record. Reading can stop after any
//! record, go on later, and go back.

use super::{Chunk, Records, Store, write_record};

/// A position between two records of a [`SharedRecords`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position {
    /// Index of the chunk.
    chunk: usize,
    /// Offset in the chunk.
    at: usize,
}

impl Position {
    /// Before the first record of a chunk.
    pub fn at_chunk(chunk: usize) -> Self {
        Self { chunk, at: 0 }
    }
}

/// See the module's description.
#[derive(Clone)]
pub(crate) struct SharedRecords {
    chunks: Vec<Chunk>,
    next: Position,
}

impl SharedRecords {
    /// The records of a store as they are now.
    pub fn of(store: &Store) -> Self {
        Self { chunks: store.share_chunks(), next: Position::default() }
    }

    /// The records of one chunk.
    pub fn of_chunk(chunk: Chunk) -> Self {
        Self { chunks: vec![chunk], next: Position::default() }
    }

    /// Empty records with these ids, `step` of them in each chunk. Serves as a list of ids.
    pub fn of_ids(ids: &[u64], step: usize) -> Self {
        let records = |ids: &[u64]| {
            let mut chunk = Vec::with_capacity(ids.len() * 9);
            ids.iter().for_each(|id| write_record(&mut chunk, *id, &[]));
            Chunk::new(&chunk, 0)
        };
        Self { chunks: ids.chunks(step).map(records).collect(), next: Position::default() }
    }

    /// Whether there are no records at all.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// The position before the next record.
    pub fn position(&self) -> Position {
        self.next
    }

    /// Goes on at a position of these records.
    pub fn seek(&mut self, position: Position) {
        self.next = position;
    }

    /// Calls `each` with the id and the record of one after the other, until it returns false. Returns true when there
    /// are no more records.
    pub fn each(&mut self, mut each: impl FnMut(u64, &[u8]) -> bool) -> bool {
        while let Some(chunk) = self.chunks.get(self.next.chunk) {
            let mut records = Records::new(chunk, self.next.at);
            while let Some((id, record)) = records.next() {
                self.next.at = records.position();
                if !each(id, record) {
                    return false;
                }
            }
            self.next = Position::at_chunk(self.next.chunk + 1);
        }
        true
    }
}
