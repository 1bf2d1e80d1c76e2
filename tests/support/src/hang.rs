//! Makes threads of a child process hang, each within a system call, for as long as a test wants.
//!
//! A filter of the child hands each of its calls of io_uring_enter to this process (seccomp_unotify(2)). A thread of this
//! process lets the calls go on, except those of threads that the test holds. Unlike a debugger, this takes no privilege and
//! works with a child that hides its memory, and the child notices nothing.

use std::{
    fs, io, mem,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    process::Command,
    ptr,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

/// Holds threads of a child process.
pub struct Hang(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// The descriptor through which the kernel hands over calls; `None`: the child has not been started.
    listener: Option<OwnedFd>,
    /// Threads whose names begin so are held.
    held: Option<String>,
    /// The calls of held threads, by the kernel's number.
    waiting: Vec<u64>,
}

impl Hang {
    /// Prepares the command of the child. Starting the child fails when the kernel refuses the filter.
    pub fn prepare(command: &mut Command) -> Self {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
        unsafe { command.pre_exec(move || give(far.as_raw_fd(), filter()?)) };
        let state = Arc::<Mutex<State>>::default();
        let answering = state.clone();
        // The thread ends with the child, or with this process.
        thread::spawn(move || answer(&near, &answering));
        Self(state)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with it")
    }

    /// From now on, threads whose names begin with `name` hang when they next call io_uring_enter.
    pub fn hold(&self, name: &str) {
        self.state().held = Some(name.to_owned());
    }

    /// Number of calls that hang.
    pub fn hanging(&self) -> usize {
        self.state().waiting.len()
    }

    /// Lets all threads go on.
    pub fn release(&self) {
        let mut state = self.state();
        state.held = None;
        for call in mem::take(&mut state.waiting) {
            state.go_on(call);
        }
    }
}

impl State {
    /// Lets a call go on. Does nothing when the thread has ended, or a signal has interrupted the call.
    fn go_on(&self, call: u64) {
        let Some(listener) = &self.listener else { return };
        let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        let mut response = libc::seccomp_notif_resp { id: call, val: 0, error: 0, flags };
        // SAFETY: the kernel reads the response, which lives until the call returns.
        unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    }
}

/// Installs the filter in the calling process. Returns the descriptor through which the kernel hands over the calls.
fn filter() -> io::Result<RawFd> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let statement = |code, jf, k| libc::sock_filter { code, jt: 0, jf, k };
    let program = [
        // The number of the call is at the start of struct seccomp_data.
        statement(LOAD, 0, 0),
        statement(EQUAL, 1, libc::SYS_io_uring_enter as u32),
        statement(RETURN, 0, libc::SECCOMP_RET_USER_NOTIF),
        statement(RETURN, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: both calls only set attributes of this process, and the kernel copies the program.
    let listener = unsafe {
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
    };
    if listener < 0 { Err(io::Error::last_os_error()) } else { Ok(listener as RawFd) }
}

/// Room for the control message that carries one descriptor, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 32]);

/// Calls `act` with a message of one byte that has room for a control message.
fn with_message(act: impl FnOnce(&mut libc::msghdr) -> libc::ssize_t) -> io::Result<()> {
    let (mut byte, mut control) = ([0u8], Control([0; 32]));
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    // SAFETY: all fields of the header may be zero.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: the function only computes a number.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as _;
    match act(&mut message) {
        1 => Ok(()),
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a descriptor through a socket (unix(7), SCM_RIGHTS). Allocates nothing.
fn give(socket: RawFd, descriptor: RawFd) -> io::Result<()> {
    with_message(|message| {
        // SAFETY: the message has room for a control message with one descriptor, and all its parts live until the call
        // returns.
        unsafe {
            let control = libc::CMSG_FIRSTHDR(message);
            (*control).cmsg_level = libc::SOL_SOCKET;
            (*control).cmsg_type = libc::SCM_RIGHTS;
            (*control).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as _;
            ptr::write_unaligned(libc::CMSG_DATA(control).cast::<RawFd>(), descriptor);
            libc::sendmsg(socket, message, 0)
        }
    })
}

/// Receives the descriptor that [`give`] has sent.
fn take(socket: RawFd) -> io::Result<OwnedFd> {
    let mut descriptor = None;
    with_message(|message| {
        // SAFETY: as in `give`. A descriptor in the control message belongs to this process alone.
        unsafe {
            let received = libc::recvmsg(socket, message, libc::MSG_CMSG_CLOEXEC);
            let control = libc::CMSG_FIRSTHDR(message);
            if received == 1 && !control.is_null() && (*control).cmsg_type == libc::SCM_RIGHTS {
                let number = ptr::read_unaligned(libc::CMSG_DATA(control).cast::<RawFd>());
                descriptor = Some(OwnedFd::from_raw_fd(number));
            }
            received
        }
    })?;
    descriptor.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Waits for the child's descriptor, and answers its calls until it ends.
fn answer(socket: &UnixStream, state: &Mutex<State>) {
    let lock = || state.lock().expect("nobody panics with it");
    // An error means that the child was not started.
    let Ok(listener) = take(socket.as_raw_fd()) else { return };
    let number = listener.as_raw_fd();
    lock().listener = Some(listener);
    while let Some(call) = next(number) {
        let name = fs::read_to_string(format!("/proc/{}/comm", call.pid)).unwrap_or_default();
        let mut state = lock();
        if state.held.as_ref().is_some_and(|held| name.starts_with(&**held)) {
            state.waiting.push(call.id);
        } else {
            state.go_on(call.id);
        }
    }
}

/// The next call that the kernel hands over; `None`: the child has ended.
fn next(listener: RawFd) -> Option<libc::seccomp_notif> {
    loop {
        let mut poll = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
        // SAFETY: the kernel writes to `poll`, which lives until the call returns.
        let ready = unsafe { libc::poll(&raw mut poll, 1, -1) };
        match poll.revents {
            // A signal has interrupted the wait.
            _ if ready < 1 => continue,
            events if events & libc::POLLIN == 0 => return None,
            _ => {}
        }
        // SAFETY: all fields may be zero, and the kernel wants them to be. The kernel writes to `call`, which lives until
        // the function returns.
        let (received, call) = unsafe {
            let mut call: libc::seccomp_notif = mem::zeroed();
            (libc::ioctl(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call), call)
        };
        // An error means that a signal has interrupted this call, or the one that was handed over.
        if received == 0 {
            return Some(call);
        }
    }
}
