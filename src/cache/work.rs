//! How much one operation does, counted in tests, which must not depend on the clock. Otherwise this is nothing.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static DONE: Cell<usize> = const { Cell::new(0) };
}

/// What takes some 2.5 ns on a CPU of today, so many times.
#[inline(always)]
pub fn add(_amount: usize) {
    #[cfg(test)]
    DONE.set(DONE.get() + _amount);
}

/// What has been done since the last call.
#[cfg(test)]
pub fn take() -> usize {
    DONE.take()
}
