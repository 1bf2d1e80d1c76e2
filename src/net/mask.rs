//! Masks of the frames that the proxy sends to Discord (RFC 6455 section 5.3: unpredictable, from a strong source of
//! entropy).
//!
//! Owns a pool of random bytes of the operating system for each thread. Promises: one system call for a thousand masks.
//! Never: repeats a mask on purpose, unless a simulation has asked for that.

use ring::rand::{SecureRandom, SystemRandom};
use std::cell::RefCell;

/// Bytes that one system call fetches.
const POOL_BYTES: usize = 4 << 10;

/// Random bytes, and how many of them have been used.
struct Pool {
    bytes: [u8; POOL_BYTES],
    used: usize,
    /// The source of the bytes in a simulation. `None`: the operating system.
    repeatable: Option<fastrand::Rng>,
}

thread_local! {
    static POOL: RefCell<Pool> =
        const { RefCell::new(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES, repeatable: None }) };
}

/// Returns the next mask.
///
/// # Panics
/// When the operating system has no random numbers. Linux always has them once it has started.
pub fn mask() -> [u8; 4] {
    POOL.with_borrow_mut(|pool| {
        if pool.used == POOL_BYTES {
            match &mut pool.repeatable {
                Some(generator) => generator.fill(&mut pool.bytes),
                None => SystemRandom::new().fill(&mut pool.bytes).expect("the system has random numbers"),
            }
            pool.used = 0;
        }
        let (mask, _) = pool.bytes[pool.used..].split_first_chunk().expect("a multiple of four bytes");
        pool.used += mask.len();
        *mask
    })
}

/// Makes the masks of this thread follow from a seed, so that a simulation can run twice in the same way.
pub fn repeat_from(seed: u64) {
    let repeatable = Some(fastrand::Rng::with_seed(seed));
    POOL.set(Pool { bytes: [0; POOL_BYTES], used: POOL_BYTES, repeatable });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const TWO_POOLS: usize = 2 * POOL_BYTES / 4;

    fn masks() -> Vec<[u8; 4]> {
        (0..TWO_POOLS).map(|_| mask()).collect()
    }

    #[test]
    fn masks_do_not_repeat() {
        // A few equal masks in 2,048 would be chance. More of them would be a broken source.
        let different: HashSet<[u8; 4]> = masks().into_iter().collect();
        assert!(different.len() > TWO_POOLS - 8, "{}", different.len());
    }

    #[test]
    fn a_simulation_can_repeat_them() {
        repeat_from(7);
        let first = masks();
        assert_ne!(masks(), first);
        repeat_from(7);
        assert_eq!(masks(), first);
    }
}
