//! What the machine has to offer, checked before anything starts, because the errors that come later mislead.

mod memory;
mod ring;

pub use memory::{default_client_memory, memory};
pub use ring::check as io_uring;
use std::io;

/// Locked memory that an executor's rings take, in bytes.
const MEMLOCK_PER_EXECUTOR: u64 = 512 << 10;
/// Files that the process opens for itself: rings, state files, requests to Discord's API.
const OWN_FILES: u64 = 64;
/// So many shards are reckoned with when Discord says how many there are.
const UNKNOWN_SHARDS: u32 = 64;
/// File descriptors below which only a few clients fit.
const FEW_FILES: u64 = 4096;

/// Raises the limits of locked memory and of open files as far as allowed. An error means that `executors` can not
/// start; the text in `Ok` is a warning.
pub fn limits(executors: usize) -> Result<Option<String>, String> {
    let memlock = raise(libc::RLIMIT_MEMLOCK).map_err(|error| format!("the limit of locked memory: {error}"))?;
    if memlock < MEMLOCK_PER_EXECUTOR {
        return Err(format!(
            "only {} KiB of memory may be locked, {} KiB are needed for {executors} executors: set LimitMEMLOCK= of the unit, `ulimit -l` or --ulimit memlock of the container",
            memlock >> 10,
            MEMLOCK_PER_EXECUTOR >> 10,
        ));
    }
    let files = raise(libc::RLIMIT_NOFILE).map_err(|error| format!("the limit of open files: {error}"))?;
    Ok((files < FEW_FILES).then(|| {
        format!(
            "only {files} files may be open, and every client is one: raise LimitNOFILE= of the unit or `ulimit -n`"
        )
    }))
}

/// Keeps the memory of this process, which has the token in it, from others of the same user: no debugger attaches, `/proc` does
/// not show it, and no core file is written.
pub fn hide_memory() -> io::Result<()> {
    // SAFETY: prctl with this option only sets an attribute of this process.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// How many files the process may open.
pub fn open_files() -> io::Result<u64> {
    raise(libc::RLIMIT_NOFILE)
}

/// How many of `files` are kept free of clients: for each shard a connection and the one that takes its place, and for what
/// the process opens itself; at most half of all. `shards`: as configured.
pub fn reserved_files(shards: Option<u32>, files: u64) -> u64 {
    (OWN_FILES + 2 * u64::from(shards.unwrap_or(UNKNOWN_SHARDS))).min(files / 2)
}

/// Raises a soft limit to the hard one; returns it.
fn raise(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to an initialised `rlimit` of this frame.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the value was read from the system.
    if unsafe { libc::setrlimit(resource, &limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_run_the_tests() {
        assert_eq!(io_uring(), Ok(()));
        assert!(limits(3).is_ok());
    }

    #[test]
    fn memory_is_hidden() {
        hide_memory().unwrap();
        // SAFETY: prctl with this option only returns an attribute of this process.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 0);
    }
}
