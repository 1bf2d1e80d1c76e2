//! SIGINT and SIGTERM end the process at once, also when it is the first process of a container, which ignores them
//! unless it handles them.

use std::{io, mem, ptr, thread};

/// Calls `then` once one of the two arrives. Has to come before any other thread starts, because they inherit the mask.
///
/// # Errors
/// When there can be no thread.
pub fn on_end(then: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // SAFETY: a zeroed sigset_t is initialised by sigemptyset before it is used; it lives through the calls.
    let set = unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        set
    };
    thread::Builder::new().name("signals".into()).spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of the right types.
        while unsafe { libc::sigwait(&set, &mut signal) } != 0 {}
        then();
    })?;
    Ok(())
}
