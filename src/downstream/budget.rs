//! The memory that the connections of all clients of the process may take together (config key `client_memory`).
//!
//! Counted are compressors, bytes that wait to be sent, and a fixed amount for each client. Not counted are the events
//! that wait in the logs of the shards, which have their own bounds, and the buffers of the kernel.
//!
//! Promises: a client that would exceed the budget is refused. When the clients that are connected grow beyond the
//! budget, those whose sockets are full and that have more than [`STEP`] bytes waiting are dropped; their sessions stay
//! and can be resumed. The count of a client is never below its need and less than two [`STEP`]s above it. Only a
//! change of the count touches memory that the cores share.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// The count of a client in bytes is a multiple of this, so that most buffers come and go without a change of the
/// count.
pub const STEP: usize = 32 << 10;

/// The budget of the process. See the module's description.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    refused: AtomicU64,
    dropped: AtomicU64,
}

impl Default for MemoryBudget {
    /// Makes a budget without a limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl MemoryBudget {
    /// Makes a budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), refused: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }

    /// The most bytes that all clients may take together.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that the clients are counted for now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Number of clients that were refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Number of clients that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Says whether the connected clients take more than the limit.
    pub fn is_exceeded(&self) -> bool {
        self.used() > self.limit
    }

    /// Counts a new client that needs `bytes` bytes. `None`: the budget has no room for the client, which counts as
    /// refused.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let bytes = steps(bytes);
        let before = self.used.fetch_add(bytes, Relaxed);
        let charge = Charge { budget: self.clone(), bytes };
        if before.saturating_add(bytes) > self.limit {
            // Dropping the charge takes the bytes off again.
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        Some(charge)
    }
}

fn steps(bytes: usize) -> usize {
    bytes.div_ceil(STEP) * STEP
}

/// The bytes that one client is counted for. Dropping the charge takes them off the budget.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Charge {
    /// Reports that the client needs `bytes` bytes now.
    pub fn set(&mut self, bytes: usize) {
        let bytes = steps(bytes);
        if bytes > self.bytes {
            self.budget.used.fetch_add(bytes - self.bytes, Relaxed);
        } else if bytes + STEP < self.bytes {
            self.budget.used.fetch_sub(self.bytes - bytes, Relaxed);
        } else {
            return;
        }
        self.bytes = bytes;
    }

    /// Says whether a client whose socket is full has to be dropped, which is then counted: the budget is exceeded, and
    /// more than [`STEP`] bytes are `waiting` for the client.
    pub fn must_go(&self, waiting: usize) -> bool {
        let must = waiting > STEP && self.budget.is_exceeded();
        if must {
            self.budget.dropped.fetch_add(1, Relaxed);
        }
        must
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_would_lead_beyond_it_is_not_let_in() {
        let budget = Arc::new(MemoryBudget::new(10 * STEP));
        let mut first = budget.admit(6 * STEP - 1).unwrap();
        let second = budget.admit(4 * STEP).unwrap();
        assert!(budget.admit(1).is_none() && !budget.is_exceeded());
        assert_eq!((budget.used(), budget.refused()), (10 * STEP, 1));
        drop(second);
        let third = budget.admit(2 * STEP).unwrap();
        first.set(9 * STEP);
        assert!(budget.is_exceeded());
        assert!(third.must_go(STEP + 1) && !third.must_go(STEP), "who has much waiting goes");
        assert_eq!(budget.dropped(), 1);
        // The count does not fall for a difference of one step.
        first.set(8 * STEP);
        assert_eq!(budget.used(), 11 * STEP);
        first.set(STEP);
        assert_eq!(budget.used(), 3 * STEP);
        drop((first, third));
        assert_eq!(budget.used(), 0);
    }
}
