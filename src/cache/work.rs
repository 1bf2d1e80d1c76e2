//! Counts how much work an operation of the cache does, so that tests can bound it without a clock. Outside of tests it
//! does nothing.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static DONE: Cell<usize> = const { Cell::new(0) };
}

/// Counts work. One unit takes about 2.5 ns on a current CPU.
#[inline(always)]
pub(super) fn add(_amount: usize) {
    #[cfg(test)]
    DONE.set(DONE.get() + _amount);
}

/// The units counted on this thread since the last call.
#[cfg(test)]
pub(super) fn take() -> usize {
    DONE.take()
}
