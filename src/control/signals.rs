//! SIGTERM, SIGINT and SIGHUP as messages. The signals are blocked in every thread and fetched by one that does nothing else,
//! so no code ever runs in a signal handler.

use std::io;

/// The signal that asks for the configuration to be read again.
pub const RELOAD: i32 = libc::SIGHUP;

/// Blocks the signals in the calling thread and in all that it starts later. To be called first of all.
pub fn block() -> io::Result<()> {
    let set = set();
    // SAFETY: `set` is an initialised signal set, and the old mask is not asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Waits for the next of the signals.
pub fn wait() -> io::Result<i32> {
    let set = set();
    let mut signal = 0;
    // SAFETY: both pointers are to initialised memory of this frame.
    let result = unsafe { libc::sigwait(&set, &mut signal) };
    if result == 0 { Ok(signal) } else { Err(io::Error::from_raw_os_error(result)) }
}

fn set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; the signal numbers are valid, so sigaddset can not fail.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        libc::sigaddset(set.as_mut_ptr(), RELOAD);
        set.assume_init()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_fetched() {
        std::thread::spawn(|| {
            block().unwrap();
            // SAFETY: the signal goes to this thread, which has it blocked.
            unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
            assert_eq!(wait().unwrap(), libc::SIGTERM);
        })
        .join()
        .unwrap();
    }
}
