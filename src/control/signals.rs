//! Receives SIGTERM, SIGINT and SIGHUP. The signal handlers are those of signal-hook and only write to a pipe, so no
//! code of the proxy runs in a signal handler.

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::io;

/// The signal that asks for the configuration to be read again.
pub const RELOAD: i32 = SIGHUP;

/// Installs the handlers. From now on the signals do not end the process; the returned iterator yields their numbers.
pub fn register() -> io::Result<Signals> {
    Signals::new([SIGTERM, SIGINT, RELOAD])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_received_instead_of_ending_the_process() {
        let mut signals = register().unwrap();
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::raise(signal).unwrap();
            assert_eq!(signals.forever().next(), Some(signal));
        }
    }
}
