//! Handles SIGINT and SIGTERM. Without a handler the first process of a container would ignore these signals.

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{io, thread};

/// Calls `then` on a thread of its own when one of the signals arrives.
///
/// # Errors
/// When the handlers cannot be installed or the thread cannot be started.
pub fn on_end(then: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if signals.forever().next().is_some() {
            then();
        }
    })?;
    Ok(())
}
