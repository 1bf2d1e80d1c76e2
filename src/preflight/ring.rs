//! Checks that the kernel supports the io_uring operations that the proxy uses, by using each of them once on a small
//! ring.
//!
//! It does not compare versions, because distributions backport parts of newer kernels, and seccomp profiles deny
//! single system calls. Promises: the error names the system call or operation, the kernel's answer, and what to do;
//! no wait is longer than [`WAIT`]; nothing is left behind but one page of memory.

use io_uring::{
    IoUring, cqueue, opcode,
    types::{BufRingEntry, Fd, SubmitArgs, Timespec},
};
use std::{
    io::{self, Write},
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

/// Longest wait for an operation whose bytes have already arrived.
const WAIT: Duration = Duration::from_secs(5);
/// Number of entries of the ring and of the buffer ring.
const ENTRIES: u16 = 2;
/// Size of one provided buffer in bytes.
const BUFFER: u32 = 64;
/// The id of the buffer group.
const GROUP: u16 = 0;
/// The user data of the receive.
const RECEIVE: u64 = 1;

/// The memory of a buffer ring: the entries at the start of a page, the buffers in its second half.
#[repr(C, align(4096))]
struct Page([u8; 4096]);
/// Offset of the buffers in the page.
const BUFFERS_AT: usize = 2048;

/// The step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// io_uring_setup, without flags.
    Setup,
    /// io_uring_setup with the flags that the data cores use.
    Flags,
    /// io_uring_register, with an operation that every kernel with this call supports.
    Register,
    /// io_uring_register, for a ring of provided buffers.
    Buffers,
    /// io_uring_enter.
    Enter,
    /// A receive that goes on after its first bytes.
    Multishot,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Setup => "io_uring_setup",
            Self::Flags => "io_uring_setup with SINGLE_ISSUER, DEFER_TASKRUN and COOP_TASKRUN",
            Self::Register => "io_uring_register",
            Self::Buffers => "io_uring_register of a ring of provided buffers",
            Self::Enter => "io_uring_enter",
            Self::Multishot => "a multishot receive",
        }
    }

    /// The error for the kernel's answer to this step.
    fn failed(self, source: io::Error) -> RingError {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        RingError { step: self, release: release.trim().to_owned(), source }
    }
}

/// The kernel does not do a step of io_uring that the proxy needs. The text names the step, the kernel's answer, and
/// what to do.
#[derive(Debug, thiserror::Error)]
#[error("io_uring can not be used: {} failed ({source}): {}", step.name(), self.advice())]
pub struct RingError {
    step: Step,
    /// The release of the running kernel.
    release: String,
    /// The kernel's answer.
    source: io::Error,
}

impl RingError {
    fn advice(&self) -> String {
        let denied = "it is switched off or denied: set kernel.io_uring_disabled=0 (sysctl), and allow the system calls io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile of the container or unit";
        let too_old = format!("Linux 6.1 or newer is needed, and this is {}", self.release);
        match (self.step, self.source.raw_os_error()) {
            (Step::Setup, Some(libc::ENOSYS)) => format!("{too_old}; if that is new enough, {denied}"),
            (_, Some(libc::EPERM | libc::EACCES | libc::ENOSYS)) => denied.into(),
            (_, Some(libc::ENOMEM)) => {
                "too little memory may be locked: raise LimitMEMLOCK= of the unit or `ulimit -l`".into()
            }
            _ => too_old,
        }
    }
}

/// Runs all steps.
pub fn check() -> Result<(), RingError> {
    drop(IoUring::new(ENTRIES.into()).map_err(|error| Step::Setup.failed(error))?);
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .build(ENTRIES.into())
        .map_err(|error| Step::Flags.failed(error))?;
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(|error| Step::Register.failed(error))?;
    provide_buffers(&ring).map_err(|error| Step::Buffers.failed(error))?;
    receive(&mut ring)
}

/// Registers buffers to receive into.
fn provide_buffers(ring: &IoUring) -> io::Result<()> {
    // The page is never freed, because the kernel may use it for some time after the ring is closed, and offers no
    // way to wait for that.
    let page: &'static mut Page = Box::leak(Box::new(Page([0; 4096])));
    let base = page.0.as_mut_ptr();
    let entries: *mut BufRingEntry = base.cast();
    for index in 0..ENTRIES {
        // SAFETY: the page is aligned for entries, has room for `ENTRIES` of them before the buffers, and is zeroed, which is
        // a valid entry. Nobody else knows of it yet.
        let entry = unsafe { &mut *entries.add(index.into()) };
        entry.set_addr(base as u64 + BUFFERS_AT as u64 + u64::from(index) * u64::from(BUFFER));
        entry.set_len(BUFFER);
        entry.set_bid(index);
    }
    // SAFETY: the memory is as large as the entries need, page-aligned, and lives for ever.
    unsafe { ring.submitter().register_buf_ring_with_flags(base as u64, ENTRIES, GROUP, 0) }?;
    // SAFETY: the pointer is to the first of the entries, which were written above. The tail lies in bytes of it that are
    // otherwise unused, is aligned, and is shared with the kernel, hence atomic.
    unsafe { AtomicU16::from_ptr(BufRingEntry::tail(entries).cast_mut()).store(ENTRIES, Ordering::Release) };
    Ok(())
}

/// Receives one byte into a provided buffer, then the end of the stream, with one operation.
fn receive(ring: &mut IoUring) -> Result<(), RingError> {
    let fault = |error| Step::Multishot.failed(error);
    let (near, mut far) = UnixStream::pair().map_err(fault)?;
    far.write_all(b"x").map_err(fault)?;
    let operation = opcode::RecvMulti::new(Fd(near.as_raw_fd()), GROUP).build().user_data(RECEIVE);
    // SAFETY: the socket stays open until the operation is over, or the ring with it; the buffers are never freed.
    unsafe { ring.submission().push(&operation) }.expect("a new ring has room");
    let first = complete(ring)?;
    if first.result() < 0 {
        return Err(fault(io::Error::from_raw_os_error(-first.result())));
    }
    if first.result() != 1 || cqueue::buffer_select(first.flags()).is_none() || !cqueue::more(first.flags()) {
        return Err(fault(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    drop(far);
    let last = complete(ring)?;
    if last.result() != 0 || cqueue::more(last.flags()) {
        return Err(fault(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    Ok(())
}

/// Waits for the next completion.
fn complete(ring: &mut IoUring) -> Result<cqueue::Entry, RingError> {
    let limit = Timespec::from(WAIT);
    let arguments = SubmitArgs::new().timespec(&limit);
    ring.submitter().submit_with_args(1, &arguments).map_err(|error| Step::Enter.failed(error))?;
    let late = || Step::Enter.failed(io::Error::from_raw_os_error(libc::ETIME));
    ring.completion().next().ok_or_else(late)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_can_do_everything() {
        for _ in 0..3 {
            check().unwrap();
        }
    }

    #[test]
    fn advice_tells_what_is_denied_from_what_is_too_old() {
        let advice = |step: Step, code| step.failed(io::Error::from_raw_os_error(code)).advice();
        for step in [Step::Setup, Step::Flags, Step::Register, Step::Buffers, Step::Enter] {
            for code in [libc::EPERM, libc::EACCES, libc::ENOSYS] {
                assert!(advice(step, code).contains("seccomp profile"), "{step:?} {code}");
            }
        }
        assert!(advice(Step::Setup, libc::ENOSYS).starts_with("Linux 6.1 or newer is needed"));
        for step in [Step::Flags, Step::Buffers, Step::Multishot] {
            let text = advice(step, libc::EINVAL);
            assert!(text.starts_with("Linux 6.1 or newer is needed") && !text.contains("seccomp"), "{step:?}: {text}");
        }
        assert!(advice(Step::Setup, libc::ENOMEM).contains("LimitMEMLOCK"));
        let text = Step::Enter.failed(io::Error::from_raw_os_error(libc::EPERM)).to_string();
        assert!(text.starts_with("io_uring can not be used: io_uring_enter failed (Operation not permitted"), "{text}");
    }
}
