//! The memory that receives are written to: one ring of buffers that the kernel takes from and the core gives back to
//! (`IORING_REGISTER_PBUF_RING`).
//!
//! All connections of a core share it, so nobody may keep a buffer: whoever gets one copies out what it needs and gives it
//! back within the same turn. It is small on purpose, because the kernel goes through the buffers in turn, and memory that was
//! used a moment ago is still in the CPU's cache.

use super::Buffer;
use io_uring::{Submitter, types::BufRingEntry};
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    io,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

/// Buffers of a ring; a power of two.
pub const COUNT: u16 = 32;
/// Bytes of a buffer.
pub const SIZE: usize = 16 << 10;
/// The kernel's name for the group; a ring has only one.
pub const GROUP: u16 = 0;
/// What the kernel wants the ring of entries to be aligned to.
const PAGE: usize = 4096;

/// Zeroed memory with an alignment, owned.
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

/// See the module's description. Has to outlive the ring that it is registered with.
pub struct BufferRing {
    /// `COUNT` entries, which the kernel reads.
    entries: Pages,
    /// `COUNT` times `SIZE` bytes, which the kernel writes.
    memory: Pages,
    /// Entries added so far; the kernel has its own count of those it took.
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

    /// The bytes of a buffer that the kernel has handed out.
    pub fn bytes(&self, buffer: &Buffer) -> &[u8] {
        assert!(buffer.id < COUNT && buffer.len() <= SIZE, "a buffer of this ring");
        // SAFETY: the range is within `memory` (see above), which is initialised from the start. The kernel has handed the
        // buffer out and writes to it again only after `give_back`, which consumes the `Buffer` that this borrows.
        unsafe {
            let start = self.memory.start.as_ptr().add(usize::from(buffer.id) * SIZE);
            std::slice::from_raw_parts(start, buffer.len())
        }
    }

    /// Hands a buffer to the kernel.
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
