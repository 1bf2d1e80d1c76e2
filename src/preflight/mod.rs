//! What the machine has to offer, checked before anything starts, because the errors that come later mislead.

mod ring;

pub use ring::check as io_uring;
use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path};

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

/// Makes the directory for state files if it is missing, and tries whether a file can be written there: when the proxy
/// stops it is too late to find out. An error says what to do.
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
