//! Starts a program under a filter of system calls (seccomp(2)).

use std::{io, os::unix::process::CommandExt, process::Command};

/// Makes the program of `command` run under this filter.
pub fn confine(command: &mut Command, program: Vec<libc::sock_filter>) {
    let install = move || {
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: both calls only set attributes of this process; the filter lives as long as the call that copies it.
        let set = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
                && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0
        };
        if set { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe, and nothing is allocated.
    unsafe { command.pre_exec(install) };
}
