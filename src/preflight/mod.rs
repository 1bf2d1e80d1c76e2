//! Checks that the machine can run the proxy, before anything starts. Without these checks a later error would name
//! the wrong cause.
//!
//! Promises: every error says what the operator has to change. Never leaves anything behind, except raised limits and
//! the directory for state files.

mod memory;
pub mod numa;
mod ring;

pub use memory::{default_client_memory, memory, unknown_limit};
pub use ring::{RingError, check as io_uring};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// Locked memory that the rings of an executor need, in bytes.
const MEMLOCK_PER_EXECUTOR: u64 = 512 << 10;
/// Number of files that the process opens for itself: rings, state files, connections to Discord's REST API.
const OWN_FILES: u64 = 64;
/// Number of shards to assume when Discord decides the number.
const UNKNOWN_SHARDS: u32 = 64;
/// Number of open files below which the proxy warns, because every client needs one.
const FEW_FILES: u64 = 4096;

/// Why the limits of the process do not let the proxy start.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The limit of locked memory can not be read or raised.
    #[error("the limit of locked memory: {0}")]
    LockedMemory(#[source] io::Error),
    /// The process may lock less memory than the rings of its executors need.
    #[error(
        "only {} KiB of memory may be locked, {} KiB are needed for {executors} executors: set LimitMEMLOCK= of the unit, `ulimit -l` or --ulimit memlock of the container",
        bytes >> 10,
        MEMLOCK_PER_EXECUTOR >> 10
    )]
    TooLittleLockedMemory {
        /// Bytes that the process may lock.
        bytes: u64,
        /// Number of executors to start.
        executors: usize,
    },
    /// The limit of open files can not be read or raised.
    #[error("the limit of open files: {0}")]
    OpenFiles(#[source] io::Error),
}

/// Raises the limits of locked memory and of open files to the hard limits. `Err`: `executors` executors can not
/// start. The text in `Ok` is a warning.
pub fn limits(executors: usize) -> Result<Option<String>, LimitError> {
    let bytes = raise(Resource::Memlock).map_err(LimitError::LockedMemory)?;
    if bytes < MEMLOCK_PER_EXECUTOR {
        return Err(LimitError::TooLittleLockedMemory { bytes, executors });
    }
    let files = raise(Resource::Nofile).map_err(LimitError::OpenFiles)?;
    Ok((files < FEW_FILES).then(|| {
        format!(
            "only {files} files may be open, and every client is one: raise LimitNOFILE= of the unit or `ulimit -n`"
        )
    }))
}

/// Hides the memory of this process, which contains the token, from other processes of the same user: no debugger can
/// attach, `/proc` does not show the memory, and no core file is written.
pub fn hide_memory() -> io::Result<()> {
    // SAFETY: prctl with this option only sets an attribute of this process.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The memory in bytes that the process may lock; `u64::MAX`: there is no limit.
pub fn locked_memory() -> io::Result<u64> {
    raise(Resource::Memlock)
}

/// The number of files that the process may open; `u64::MAX`: there is no limit.
pub fn open_files() -> io::Result<u64> {
    raise(Resource::Nofile)
}

/// The number of files, of `files` in all, that are reserved for connections to Discord and for the process itself:
/// two for each shard (a connection and its replacement) and [`OWN_FILES`], but at most half of all. `shards` is the
/// configured number.
pub fn reserved_files(shards: Option<u32>, files: u64) -> u64 {
    (OWN_FILES + 2 * u64::from(shards.unwrap_or(UNKNOWN_SHARDS))).min(files / 2)
}

/// Raises a soft limit to the hard limit and returns it; `u64::MAX`: there is no limit.
fn raise(resource: Resource) -> io::Result<u64> {
    let maximum = getrlimit(resource).maximum;
    setrlimit(resource, Rlimit { current: maximum, maximum })?;
    Ok(maximum.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_run_the_tests() {
        io_uring().unwrap();
        limits(3).unwrap();
    }

    #[test]
    fn memory_is_hidden() {
        hide_memory().unwrap();
        // SAFETY: prctl with this option only returns an attribute of this process.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) }, 0);
    }
}
