//! The memory that receives write to: one ring of buffers, from which the kernel takes a buffer for each receive and
//! to which the core returns it (`IORING_REGISTER_PBUF_RING`).
//!
//! All connections of a core share the buffers, so nobody may keep one: the core copies out what it needs and returns
//! the buffer within the same turn. The ring is small on purpose. The kernel uses the buffers in order, so memory
//! that was used a moment ago is still in the CPU's cache.

use super::Buffer;
use io_uring::{Submitter, types::BufRingEntry};
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

/// Number of buffers in a ring; a power of two.
pub const COUNT: u16 = 32;
/// Size of a buffer in bytes.
pub const SIZE: usize = 16 << 10;
/// The id of the buffer group. A ring has only one group.
pub const GROUP: u16 = 0;
/// Alignment that the kernel requires of the ring of entries.
const PAGE: usize = 4096;

/// Owned, zeroed, page-aligned memory.
struct Pages {
    start: NonNull<u8>,
    layout: Layout,
}

impl Pages {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE).expect("a small constant size");
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        Self { start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// A ring of buffers. It has to outlive the io_uring that it is registered with. See the module's description.
pub struct BufferRing {
    /// `COUNT` entries, which the kernel reads.
    entries: Pages,
    /// `COUNT` times `SIZE` bytes, which the kernel writes.
    memory: Pages,
    /// Number of entries added so far, modulo 2¹⁶. The kernel counts the entries that it has taken.
    tail: u16,
}

impl BufferRing {
    /// Allocates the buffers and registers them. Fails where the kernel does not know buffer rings (Linux 5.19).
    pub fn register(submitter: &Submitter<'_>) -> io::Result<Self> {
        let entries = Pages::new(usize::from(COUNT) * size_of::<BufRingEntry>());
        let memory = Pages::new(usize::from(COUNT) * SIZE);
        // SAFETY: `entries` is page-aligned memory for `COUNT` entries, and the owner of this value drops it after the ring.
        unsafe { submitter.register_buf_ring_with_flags(entries.start.as_ptr() as u64, COUNT, GROUP, 0)? };
        let mut ring = Self { entries, memory, tail: 0 };
        for id in 0..COUNT {
            ring.give_back(Buffer::new(id, 0));
        }
        Ok(ring)
    }

    /// The bytes of a buffer that the kernel has filled.
    pub fn bytes(&self, buffer: &Buffer) -> &[u8] {
        assert!(buffer.id < COUNT && buffer.len() <= SIZE, "a buffer of this ring");
        // SAFETY: the range is within `memory` (see above), which is initialised from the start. The kernel has handed the
        // buffer out and writes to it again only after `give_back`, which consumes the `Buffer` that this borrows.
        unsafe {
            let start = self.memory.start.as_ptr().add(usize::from(buffer.id) * SIZE);
            std::slice::from_raw_parts(start, buffer.len())
        }
    }

    /// Returns a buffer to the kernel.
    pub fn give_back(&mut self, buffer: Buffer) {
        assert!(buffer.id < COUNT, "a buffer of this ring");
        let index = usize::from(self.tail % COUNT);
        let entries = self.entries.start.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the index is below `COUNT`, so the entry is within `entries`. The kernel reads an entry only when the tail
        // says that it is there, and this one is beyond the tail. The tail shares memory with an unused field of entry 0,
        // which `set_addr` and its like leave alone.
        unsafe {
            let entry = &mut *entries.add(index);
            entry.set_addr(self.memory.start.as_ptr().add(usize::from(buffer.id) * SIZE) as u64);
            entry.set_len(SIZE as u32);
            entry.set_bid(buffer.id);
            self.tail = self.tail.wrapping_add(1);
            let tail = &*BufRingEntry::tail(entries).cast::<AtomicU16>();
            tail.store(self.tail, Ordering::Release);
        }
    }
}
