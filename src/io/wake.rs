//! Waking a core that waits for completions, from any thread: an eventfd that its ring watches.
//!
//! A wake-up costs a system call only when the core may be asleep.

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
    /// The core has been woken and has not noticed yet.
    pending: AtomicBool,
}

/// Wakes one core; any thread may have a copy.
#[derive(Clone)]
pub struct Waker(Arc<Shared>);

impl Waker {
    /// Makes one. Fails when the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { descriptor, pending: AtomicBool::new(false) })))
    }

    /// Wakes the core. What was written before this call is seen by whoever calls [`Waker::clear`] afterwards.
    pub fn wake(&self) {
        if !self.0.pending.swap(true, Ordering::AcqRel) {
            // Nothing but a full counter could fail, and a full counter wakes as well.
            let _ = rustix::io::write(&self.0.descriptor, &1u64.to_ne_bytes());
        }
    }

    /// The core has noticed. It has to look at what it was woken for after this call, not before.
    pub fn clear(&self) {
        let mut count = [0; 8];
        // Nothing to read: somebody is between the two steps of `wake`, and its write wakes the core once more.
        let _ = rustix::io::read(&self.0.descriptor, &mut count);
        // Not a store: what a thread wrote before it found `true` here has to be seen.
        self.0.pending.swap(false, Ordering::AcqRel);
    }

    /// Notices a wake-up, if there was one since the last time. For an implementation of [`super::Io`] that does not watch the
    /// descriptor.
    pub fn take(&self) -> bool {
        let woken = self.0.pending.load(Ordering::Acquire);
        if woken {
            self.clear();
        }
        woken
    }

    /// What becomes readable when the core is woken.
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
