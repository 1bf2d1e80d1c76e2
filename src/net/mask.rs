//! The masks of the frames that go to Discord: unpredictable, from a strong source of entropy, as RFC 6455 section
//! 5.3 demands.
//!
//! The random bytes are the system's. One system call fetches the bytes for a thousand frames.

use ring::rand::{SecureRandom, SystemRandom};
use std::cell::RefCell;

/// Number of random bytes that one system call fetches.
const TAKEN: usize = 4 << 10;

/// Random bytes, and how many of these have been used.
struct Pool {
    bytes: [u8; TAKEN],
    used: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { bytes: [0; TAKEN], used: TAKEN }) };
}

/// Returns the next mask.
///
/// # Panics When the system has no random numbers. Linux always has random numbers once it has started.
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
        // These masks use two fetches. More than a few equal masks by chance are less likely than a broken machine.
        let masks: HashSet<[u8; 4]> = (0..2 * TAKEN / 4).map(|_| mask()).collect();
        assert!(masks.len() > 2 * TAKEN / 4 - 8, "{}", masks.len());
    }
}
