//! A chunk: bytes in one block of memory, which snapshots can share.
//!
//! A change happens in place if nobody shares the block and the block is large enough. Otherwise the chunk moves to a
//! new block, and those who share the old one keep the old bytes.

use std::{iter::repeat_n, ops::Deref, rc::Rc};

/// Size of the header of a block: the number of bytes in use, a `u32`. It is in the same block as the bytes, so that
/// reading a record touches few cache lines.
const HEADER: usize = size_of::<u32>();

/// See the module's description.
#[derive(Clone)]
pub(crate) struct Chunk(Rc<[u8]>);

/// A new block with room for `capacity` bytes.
fn new_block(capacity: usize) -> Rc<[u8]> {
    repeat_n(0, HEADER + capacity).collect()
}

/// Copies the parts one after the other into `block`, from offset `at` on. Returns the offset behind them.
fn fill(block: &mut [u8], parts: &[&[u8]], mut at: usize) -> usize {
    for part in parts {
        block[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    at
}

impl Chunk {
    /// Bytes on the heap that a block takes besides its capacity: the two counts of the `Rc`, and the header.
    pub(crate) const OVERHEAD: usize = 2 * size_of::<usize>() + HEADER;

    /// A chunk with these bytes, and room for `room` more.
    pub(crate) fn new(bytes: &[u8], room: usize) -> Self {
        let mut chunk = Self(new_block(bytes.len() + room));
        chunk.splice(0, 0, &[bytes], 0);
        chunk
    }

    /// How many bytes the chunk can hold without a new block.
    pub(crate) fn capacity(&self) -> usize {
        self.0.len() - HEADER
    }

    /// Replaces the bytes from offset `start` to `end` by `parts`, one after the other. If that takes a new block, the
    /// block gets room for `room` more bytes.
    pub(crate) fn splice(&mut self, start: usize, end: usize, parts: &[&[u8]], room: usize) {
        let used = self.len();
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let total = used - (end - start) + length;
        let capacity = self.capacity();
        let block = match Rc::get_mut(&mut self.0) {
            Some(own) if total <= capacity => {
                if start + length != end {
                    own.copy_within(HEADER + end..HEADER + used, HEADER + start + length);
                }
                fill(own, parts, HEADER + start);
                own
            }
            _ => {
                let mut new = new_block(total + room);
                let own = Rc::get_mut(&mut new).expect("a new block has one owner");
                let middle = fill(own, &[&self[..start]], HEADER);
                let behind = fill(own, parts, middle);
                fill(own, &[&self[end..]], behind);
                self.0 = new;
                Rc::get_mut(&mut self.0).expect("a new block has one owner")
            }
        };
        let total = u32::try_from(total).expect("a record is shorter than a payload of Discord");
        block[..HEADER].copy_from_slice(&total.to_le_bytes());
    }

    /// Overwrites the bytes from offset `at` on. Does nothing when they would go beyond the end.
    pub(crate) fn overwrite(&mut self, at: usize, bytes: &[u8]) {
        if at + bytes.len() <= self.len() {
            self.splice(at, at + bytes.len(), &[bytes], self.capacity() - self.len());
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        let (header, bytes) = self.0.split_first_chunk().expect("every block has a header");
        &bytes[..u32::from_le_bytes(*header) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_chunk_is_a_vector_that_can_be_shared(
            steps in prop::collection::vec((any::<(usize, usize)>(), ".{0,9}", ".{0,9}", 0usize..20, 0u8..4), 0..40),
        ) {
            let (mut chunk, mut model) = (Chunk::new(b"abc", 2), b"abc".to_vec());
            let mut shared = Vec::new();
            for ((a, b), one, two, room, what) in steps {
                let (a, b) = (a % (model.len() + 1), b % (model.len() + 1));
                let (start, end) = (a.min(b), a.max(b));
                match what {
                    0 => shared.push((chunk.clone(), model.clone())),
                    1 => {
                        let bytes = vec![b'x'; end - start];
                        chunk.overwrite(start, &bytes);
                        model[start..end].copy_from_slice(&bytes);
                    }
                    _ => {
                        chunk.splice(start, end, &[one.as_bytes(), two.as_bytes()], room);
                        model.splice(start..end, one.bytes().chain(two.bytes()));
                    }
                }
                prop_assert_eq!(&*chunk, &*model);
                prop_assert!(chunk.capacity() >= chunk.len());
            }
            for (chunk, model) in shared {
                prop_assert_eq!(&*chunk, &*model);
            }
        }
    }

    #[test]
    fn a_block_is_reused_while_it_is_large_enough_and_not_shared() {
        let mut chunk = Chunk::new(b"abc", 4);
        let block = |chunk: &Chunk| chunk.0.as_ptr();
        let first = block(&chunk);
        chunk.splice(1, 1, &[b"1234"], 0);
        chunk.splice(0, 3, &[], 0);
        assert_eq!((&*chunk, block(&chunk)), (&b"34bc"[..], first));
        let shared = chunk.clone();
        chunk.overwrite(0, b"5");
        assert_eq!((&*shared, &*chunk, block(&shared)), (&b"34bc"[..], &b"54bc"[..], first));
        assert_ne!(block(&chunk), first);
        chunk.overwrite(3, b"beyond");
        assert_eq!(&*chunk, b"54bc");
    }
}
