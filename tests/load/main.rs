//! The proxy with many clients. These tests run one after the other: each one alone keeps all CPUs busy or fills the
//! kernel's buffers, and expects that its own clients keep up.

mod fan_out;
mod stuck_clients;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Waits until no other test of this program runs, and keeps others waiting until the guard is dropped.
fn alone() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    // A test that failed has left nothing behind that would disturb the next one.
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}
