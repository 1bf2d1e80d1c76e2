//! Checks that the machine can run the proxy, before anything starts. Without these checks a later error would name
//! the wrong cause.
//!
//! Promises: every error says what the operator has to change. Never leaves anything behind, except raised limits and
//! the directory for state files.

mod ring;

pub use ring::check as io_uring;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path};

/// Locked memory that the rings of an executor need, in bytes.
const MEMLOCK_PER_EXECUTOR: u64 = 512 << 10;
/// Number of files that the process opens for itself: rings, state files, connections to Discord's REST API.
const OWN_FILES: u64 = 64;
/// Number of shards to assume when Discord decides the number.
const UNKNOWN_SHARDS: u32 = 64;
/// Number of open files below which the proxy warns, because every client needs one.
const FEW_FILES: u64 = 4096;

/// Raises the limits of locked memory and of open files to the hard limits. `Err`: `executors` executors can not
/// start. The text in `Ok` is a warning.
pub fn limits(executors: usize) -> Result<Option<String>, String> {
    let memlock = raise(Resource::Memlock).map_err(|error| format!("the limit of locked memory: {error}"))?;
    if memlock < MEMLOCK_PER_EXECUTOR {
        return Err(format!(
            "only {} KiB of memory may be locked, {} KiB are needed for {executors} executors: set LimitMEMLOCK= of the unit, `ulimit -l` or --ulimit memlock of the container",
            memlock >> 10,
            MEMLOCK_PER_EXECUTOR >> 10,
        ));
    }
    let files = raise(Resource::Nofile).map_err(|error| format!("the limit of open files: {error}"))?;
    Ok((files < FEW_FILES).then(|| {
        format!(
            "only {files} files may be open, and every client is one: raise LimitNOFILE= of the unit or `ulimit -n`"
        )
    }))
}

/// The number of files that the process may open.
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

/// Makes the directory for state files if it is missing, and writes a file in it as a test. Otherwise the proxy would
/// notice only when it stops, and lose its state. The error says what to do.
pub fn state_dir(directory: &Path) -> Result<(), String> {
    let probe = directory.join("probe.new");
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder
        .create(directory)
        .and_then(|()| fs::write(&probe, "this file can be deleted\n"))
        .and_then(|()| fs::remove_file(&probe))
        .map_err(|error| {
            format!(
                "`state_dir` is {directory:?}, where no file can be written ({error}): choose another directory, or let the user that runs the proxy write there"
            )
        })
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
    fn a_state_dir_is_made_and_tried() {
        let base = std::env::temp_dir().join(format!("gateway-proxy-state-dir-{}", std::process::id()));
        let directory = base.join("a/b");
        assert_eq!(state_dir(&directory), Ok(()));
        assert_eq!(state_dir(&directory), Ok(()));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
        let file = base.join("file");
        fs::write(&file, "").unwrap();
        let error = state_dir(&file).unwrap_err();
        assert!(error.contains("`state_dir` is") && error.contains("choose another directory"), "{error}");
        fs::remove_dir_all(&base).unwrap();
    }
}
