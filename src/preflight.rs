//! What the machine has to offer, checked before anything starts, because the errors that come later mislead.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

/// Locked memory that an executor's rings take, in bytes.
const MEMLOCK_PER_EXECUTOR: u64 = 512 << 10;
/// File descriptors below which only a few clients fit.
const FEW_FILES: u64 = 4096;

/// Can io_uring be used? The error says what to do.
pub fn io_uring() -> Result<(), String> {
    let mut params = [0u8; 120];
    // SAFETY: io_uring_setup reads and writes a `struct io_uring_params`, which is 120 bytes long, and nothing else.
    let descriptor = unsafe { libc::syscall(libc::SYS_io_uring_setup, 4, params.as_mut_ptr()) };
    if descriptor >= 0 {
        // SAFETY: the descriptor was made just now and belongs to nobody else.
        unsafe { libc::close(descriptor as i32) };
        return Ok(());
    }
    let error = io::Error::last_os_error();
    let advice = match error.raw_os_error() {
        Some(libc::ENOSYS) => "the kernel has no io_uring: Linux 5.8 or newer is needed",
        Some(libc::EPERM) => {
            "it is switched off: set kernel.io_uring_disabled=0 (sysctl), and in a container allow the io_uring system calls in its seccomp profile"
        }
        Some(libc::ENOMEM) => "too little memory may be locked: raise LimitMEMLOCK= of the unit or `ulimit -l`",
        _ => "Linux 5.8 or newer with io_uring is needed",
    };
    Err(format!("io_uring can not be used ({error}): {advice}"))
}

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

/// How long a port may still be held by a process that has just died: the kernel takes its time to clear up a ring.
const LISTEN_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two attempts.
const LISTEN_PAUSE: Duration = Duration::from_millis(50);

/// Binds the port. A port that stays taken is an error, even by another instance of this program.
pub fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let start = Instant::now();
    let bound = loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < LISTEN_LIMIT => {
                thread::sleep(LISTEN_PAUSE);
            }
            bound => break bound,
        }
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use: stop what listens there, or change `port` or `host` in the configuration")
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "{address} may not be used: choose a `port` from 1024 on, or give the CAP_NET_BIND_SERVICE capability"
            )
        }
        io::ErrorKind::AddrNotAvailable => format!("{address} is no address of this machine: change `host`"),
        _ => format!("can not listen on {address}: {error}"),
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
    fn a_busy_port_is_named() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = listen(address).unwrap_err();
        assert!(error.starts_with(&format!("{address} is in use")), "{error}");
        let error = listen("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(error.contains("is no address of this machine"), "{error}");
    }
}
