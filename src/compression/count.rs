//! How much the thread has compressed for clients: bytes of payloads before the compression, and bytes after it.

use std::cell::Cell;

thread_local! {
    static BYTES: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Counts that `input` bytes of payloads became `output` bytes.
pub fn add(input: usize, output: usize) {
    BYTES.with(|bytes| {
        let (before, after) = bytes.get();
        bytes.set((before + input as u64, after + output as u64));
    });
}

/// Bytes before and after the compression, since the thread began.
pub fn total() -> (u64, u64) {
    BYTES.with(Cell::get)
}
