//! The memory that the connections of all clients of the process may take together (config key `client_memory`).
//!
//! Counted are encoders, bytes that wait to be sent, and a fixed amount for each client; not the events that wait in the logs of
//! the shards, which have bounds of their own, nor what the kernel holds.
//!
//! Promises: a client that would lead beyond the budget is not let in. When those that are in grow beyond it, whoever takes
//! nothing and has much waiting is dropped; its session stays and can be resumed. The count is exact to [`STEP`] bytes for
//! each client, and touches memory that the cores share only when a client's need changes by more.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// What a client is counted for is a multiple of this. Its buffers come and go within one step.
pub const STEP: usize = 32 << 10;

/// See the module's description. One for the process.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    refused: AtomicU64,
    dropped: AtomicU64,
}

impl Default for MemoryBudget {
    /// Without a limit.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl MemoryBudget {
    /// Of so many bytes.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), refused: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }

    /// The most bytes.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that clients take now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Clients that were not let in so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Clients that were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    /// Do those that are in take more than all may?
    pub fn is_exceeded(&self) -> bool {
        self.used() > self.limit
    }

    /// Lets a client in that will need so many bytes; `None`: there is no room for it.
    pub fn admit(self: &Arc<Self>, bytes: usize) -> Option<Charge> {
        let bytes = steps(bytes);
        let before = self.used.fetch_add(bytes, Relaxed);
        let charge = Charge { budget: self.clone(), bytes };
        if before.saturating_add(bytes) > self.limit {
            // What was counted goes with the charge.
            self.refused.fetch_add(1, Relaxed);
            return None;
        }
        Some(charge)
    }
}

fn steps(bytes: usize) -> usize {
    bytes.div_ceil(STEP) * STEP
}

/// What one client is counted for. Dropping it gives the bytes back.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl Charge {
    /// The client needs so many bytes now.
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

    /// Has the client to be dropped, with so many bytes waiting that it does not take?
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
        // Within a step nothing is counted anew.
        first.set(8 * STEP);
        assert_eq!(budget.used(), 11 * STEP);
        first.set(STEP);
        assert_eq!(budget.used(), 3 * STEP);
        drop((first, third));
        assert_eq!(budget.used(), 0);
    }
}
