//! Masks of the frames that go to Discord (RFC 6455 section 5.3: not to be predicted, from a strong source of entropy).
//!
//! Random bytes of the system, taken some kilobytes at a time: one system call for a thousand frames.

use ring::rand::{SecureRandom, SystemRandom};
use std::cell::RefCell;

/// Bytes that are taken at a time.
const TAKEN: usize = 4 << 10;

/// Random bytes, and how many of them have been used.
struct Pool {
    bytes: [u8; TAKEN],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; TAKEN], used: TAKEN }) };
}

/// The next mask.
///
/// # Panics
/// When the system has no random numbers. Linux always has them once it has started.
pub fn mask() -> [u8; 4] {
    POOL.with_borrow_mut(|pool| {
        if pool.used == TAKEN {
            SystemRandom::new().fill(&mut pool.bytes).expect("the system has random numbers");
            pool.used = 0;
        }
        let (mask, _) = pool.bytes[pool.used..].split_first_chunk().expect("a multiple of four bytes");
        pool.used += mask.len();
        *mask
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn masks_do_not_repeat() {
        // Across two fillings. That more than a few of them are equal by chance is less likely than a broken machine.
        let masks: HashSet<[u8; 4]> = (0..2 * TAKEN / 4).map(|_| mask()).collect();
        assert!(masks.len() > 2 * TAKEN / 4 - 8, "{}", masks.len());
    }
}
