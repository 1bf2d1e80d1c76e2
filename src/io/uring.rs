//! [`Io`] on a ring of io_uring, for the thread that makes it.
//!
//! One `io_uring_enter` a turn starts everything, waits and brings what has come. Linux 6.1 is the floor: buffer rings (5.19),
//! receives that go on (6.0), and completions that are worked off only when the owner asks (`DEFER_TASKRUN`, 6.1).
//!
//! A send is decided within the call that starts it: it does not wait (`MSG_DONTWAIT`), it takes as much as the socket has
//! room for (`MSG_WAITALL`), and when that is everything the kernel says nothing (`IOSQE_CQE_SKIP_SUCCESS`), so a client that
//! reads costs no completion. The ring keeps the memory until then and hands it back with the outcome.

use super::{Buffer, Completion, Io, Outcome, Token, Wait, buffers, buffers::BufferRing, wake::Waker};
use crate::protocol::Time;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Instant,
};

/// Operations that can be started in one turn without entering the kernel in between.
const SUBMISSIONS: u32 = 512;
/// Completions that fit into the ring; more are kept by the kernel until there is room (`IORING_FEAT_NODROP`).
const COMPLETIONS: u32 = 4096;
/// Bytes that one send takes at most; the kernel's own limit is a little below 2 GiB.
const MOST_SENT: usize = 1 << 30;
/// The watch on the [`Waker`].
const WAKE: u64 = u64::MAX;
/// Completions that say nothing: of cancellations.
const SILENT: u64 = u64::MAX - 1;

/// A send whose memory the kernel may still look at.
struct Sending {
    token: Token,
    bytes: Vec<u8>,
    from: usize,
    /// How many operations were started before it: it is decided when the kernel has taken more than that.
    serial: u64,
    /// What its completion said, if there was one.
    result: Option<i32>,
}

/// See the module's description.
pub struct Uring {
    ring: IoUring,
    /// After `ring`, so that it is freed later: fields are dropped in order.
    buffers: BufferRing,
    waker: Waker,
    watching: bool,
    epoch: Instant,
    /// Operations put into the submission queue so far.
    started: u64,
    /// Sends that are not handed back, in the order of their starts.
    sending: VecDeque<Sending>,
    /// Receives and polls that have not ended.
    armed: usize,
    /// The wait is not to count as waiting for a disk; the kernel knows how to (6.15).
    no_iowait: bool,
    /// Times that the kernel was entered, for metrics.
    enters: u64,
}

impl Uring {
    /// A ring for the calling thread, which has to be the one that uses it. `epoch` is the process's zero of time. Fails where
    /// the kernel is too old or does not allow it.
    pub fn new(waker: Waker, epoch: Instant) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag();
        let ring: IoUring = builder.build(SUBMISSIONS)?;
        let buffers = BufferRing::register(&ring.submitter())?;
        let no_iowait = ring.params().is_feature_no_iowait();
        Ok(Self {
            ring,
            buffers,
            waker,
            watching: false,
            epoch,
            started: 0,
            sending: VecDeque::new(),
            armed: 0,
            no_iowait,
            enters: 0,
        })
    }

    /// Times that the kernel was entered.
    pub fn enters(&self) -> u64 {
        self.enters
    }

    /// Puts an operation into the submission queue, which is given to the kernel first when it is full.
    fn start(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entries of this file point to stays valid until the operation has ended: buffers of receives belong
        // to `self.buffers`, which outlives the ring; bytes of sends are in `self.sending` until they are decided; polls and
        // cancellations point to nothing. Descriptors are kept open by the owner of the connection (rule of the seam).
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.enter(0, None);
        }
        self.started += 1;
    }

    /// Gives the kernel what is in the submission queue and waits for `want` completions.
    fn enter(&mut self, want: usize, until: Option<Time>) {
        let timeout = until.map(|until| {
            let wait = until.saturating_sub(self.now());
            types::Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos())
        });
        let mut arguments = types::SubmitArgs::new();
        if let Some(timeout) = &timeout {
            arguments = arguments.timespec(timeout);
        }
        let flags = if self.no_iowait && want > 0 { EnterFlags::NO_IOWAIT } else { EnterFlags::empty() };
        self.enters += 1;
        match self.ring.submitter().submit_with_args_and_flags(want, &arguments, flags) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // Time is over; a signal came; the completion queue has to be emptied first; there is no memory right now.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("io_uring_enter failed, and without it a data core can do nothing: {error}"),
            },
        }
    }

    fn watch(&mut self) {
        if !self.watching {
            self.watching = true;
            let descriptor = types::Fd(self.waker.descriptor().as_raw_fd());
            let poll = opcode::PollAdd::new(descriptor, libc::POLLIN as u32).multi(true);
            self.start(&poll.build().user_data(WAKE));
        }
    }

    /// Notes what one completion says; returns whether it is a wake-up.
    fn reap(&mut self, entry: &cqueue::Entry, completions: &mut Vec<Completion>) -> bool {
        let (token, result, flags) = (entry.user_data(), entry.result(), entry.flags());
        match token {
            SILENT => return false,
            WAKE => {
                self.watching = cqueue::more(flags);
                return true;
            }
            _ => {}
        }
        let token = Token(token);
        if let Some(sending) = self.sending.iter_mut().find(|sending| sending.token == token) {
            sending.result = Some(result);
            return false;
        }
        let more = cqueue::more(flags);
        self.armed -= usize::from(!more);
        let buffer = cqueue::buffer_select(flags).map(|id| Buffer::new(id, result.max(0) as u32));
        let outcome = match (buffer, result) {
            (Some(buffer), 1..) => Outcome::Received { result: Ok(Some(buffer)), more },
            (Some(buffer), _) => {
                self.buffers.give_back(buffer);
                Outcome::Received { result: ended(result), more }
            }
            // A poll tells what is ready, which is never nothing.
            (None, 1..) => Outcome::Writable,
            (None, _) => Outcome::Received { result: ended(result), more },
        };
        completions.push(Completion { token, outcome });
        false
    }

    /// Hands back the sends that the kernel has decided.
    fn decided(&mut self, completions: &mut Vec<Completion>) {
        let taken = self.started - self.ring.submission().len() as u64;
        while let Some(first) = self.sending.front()
            && first.serial < taken
        {
            let Sending { token, bytes, from, result, .. } = self.sending.pop_front().expect("there is a first one");
            let result = match result {
                None => Ok((bytes.len() - from).min(MOST_SENT)),
                Some(n @ 0..) => Ok(n as usize),
                Some(error) if matches!(-error, libc::EAGAIN | libc::EINTR) => Ok(0),
                Some(error) => Err(io::Error::from_raw_os_error(-error)),
            };
            completions.push(Completion { token, outcome: Outcome::Sent { bytes, result } });
        }
    }
}

/// A receive that brought nothing.
fn ended(result: i32) -> io::Result<Option<Buffer>> {
    if result == 0 { Ok(None) } else { Err(io::Error::from_raw_os_error(-result)) }
}

impl Io for Uring {
    type Socket = OwnedFd;

    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    fn receive(&mut self, token: Token, socket: &OwnedFd) {
        self.armed += 1;
        let receive = opcode::Recv::new(types::Fd(socket.as_raw_fd()), std::ptr::null_mut(), buffers::SIZE as u32)
            .buf_group(buffers::GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(token.0);
        self.start(&receive);
    }

    fn receive_many(&mut self, token: Token, socket: &OwnedFd) {
        self.armed += 1;
        let receive = opcode::RecvMulti::new(types::Fd(socket.as_raw_fd()), buffers::GROUP);
        self.start(&receive.build().user_data(token.0));
    }

    fn send(&mut self, token: Token, socket: &OwnedFd, bytes: Vec<u8>, from: usize) {
        let rest = &bytes[from..];
        let length = rest.len().min(MOST_SENT) as u32;
        let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), rest.as_ptr(), length)
            .flags(libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build()
            .flags(squeue::Flags::SKIP_SUCCESS)
            .user_data(token.0);
        // Moving the vector does not move its bytes, and nobody changes it while it is here.
        self.sending.push_back(Sending { token, bytes, from, serial: self.started, result: None });
        self.start(&send);
    }

    fn poll_writable(&mut self, token: Token, socket: &OwnedFd) {
        self.armed += 1;
        let poll = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), libc::POLLOUT as u32);
        self.start(&poll.build().user_data(token.0));
    }

    fn cancel(&mut self, token: Token) {
        let cancel = opcode::AsyncCancel::new(token.0).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.start(&cancel.user_data(SILENT));
    }

    fn shutdown(&mut self, socket: &OwnedFd) {
        // The peer may be gone already, which is as good.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
    }

    fn wait(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> bool {
        self.watch();
        match wait {
            Wait::Poll => self.enter(0, None),
            Wait::Until(until) => self.enter(1, until),
        }
        let mut woken = false;
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else { break };
            woken |= self.reap(&entry, completions);
        }
        self.decided(completions);
        if woken {
            self.waker.clear();
        }
        woken
    }

    fn bytes(&self, buffer: &Buffer) -> &[u8] {
        self.buffers.bytes(buffer)
    }

    fn give_back(&mut self, buffer: Buffer) {
        self.buffers.give_back(buffer);
    }
}
