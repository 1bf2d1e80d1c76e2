//! Wakes a core that waits for completions, from any thread, through an eventfd that the core's ring polls.
//!
//! Promises: a wake-up is never lost. It costs a system call only when the core may be asleep.

use rustix::event::{EventfdFlags, eventfd};
use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

struct Shared {
    descriptor: OwnedFd,
    /// The core has been woken and has not called [`Waker::clear`] yet.
    pending: AtomicBool,
}

/// Wakes one core. Clones can be moved to any thread.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Makes a waker. Fails when the process has no free descriptor.
    pub fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { descriptor, pending: AtomicBool::new(false) })))
    }

    /// Wakes the core. Whatever this thread wrote before the call is visible to the core after its next
    /// [`Waker::clear`].
    pub fn wake(&self) {
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            // The write can only fail because the counter is full, and a full counter wakes the core too.
            let _ = rustix::io::write(&self.0.descriptor, &1u64.to_ne_bytes());
        }
    }

    /// The core acknowledges the wake-up. It has to look for new work after this call, not before.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // When there is nothing to read, another thread is between the two steps of `wake`, and its write wakes the
        // core once more.
        let _ = rustix::io::read(&self.0.descriptor, &mut count);
        // A swap instead of a store, to see what a thread wrote before its `wake` found `true` here.
        self.0.pending.swap(false, Ordering::AcqRel);
    }

    /// Returns whether the core was woken since the last call, and acknowledges the wake-up. For implementations of
    /// [`super::Io`] that do not poll the descriptor.
    pub fn take(&self) -> bool {
        let woken = self.0.pending.load(Ordering::Acquire);
        if woken {
            self.clear();
        }
        woken
    }

    /// The descriptor that becomes readable when the core is woken.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.0.descriptor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_write_for_many_wakes_and_none_is_lost() {
        let waker = Waker::new().unwrap();
        let count = || {
            let mut bytes = [0; 8];
            rustix::io::read(waker.descriptor(), &mut bytes).map(|_| u64::from_ne_bytes(bytes))
        };
        waker.wake();
        waker.clone().wake();
        assert_eq!(count(), Ok(1));
        waker.clear();
        assert!(count().is_err());
        waker.wake();
        assert_eq!(count(), Ok(1));
        assert!(waker.take());
        assert!(!waker.take());
    }
}
