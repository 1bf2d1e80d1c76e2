//! [`Io`] on an io_uring, for the thread that makes it.
//!
//! One `io_uring_enter` for each turn starts all operations, waits, and brings the completions. The oldest kernel
//! that works is Linux 6.1, because of buffer rings (5.19), receives that go on (6.0), and completions that the
//! kernel processes only when the owner asks (`DEFER_TASKRUN`, 6.1).
//!
//! A send is decided within the call that starts it. It does not wait (`MSG_DONTWAIT`), it takes as many bytes as the
//! socket has room for (`MSG_WAITALL`), and when it takes all bytes there is no completion
//! (`IOSQE_CQE_SKIP_SUCCESS`). So a client that reads costs no completion. The ring keeps the memory of a send until
//! then and returns it with the result.

use super::{Buffer, Completion, Io, Outcome, Token, Wait, buffers, buffers::BufferRing, wake::Waker};
use crate::protocol::Time;
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue, types};
use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, OwnedFd},
    time::Instant,
};

/// Most operations that one turn can start without entering the kernel in between.
const SUBMISSIONS: u32 = 512;
/// Most completions that fit into the ring. The kernel keeps further ones until there is room (`IORING_FEAT_NODROP`).
const COMPLETIONS: u32 = 4096;
/// Most bytes that one send takes. The kernel's own limit is a little below 2 GiB.
const MOST_SENT: usize = 1 << 30;
/// The token of the poll on the [`Waker`].
const WAKE: u64 = u64::MAX;
/// The token of cancellations, whose completions are ignored.
const SILENT: u64 = u64::MAX - 1;

/// A send whose memory the kernel may still read.
struct Sending {
    token: Token,
    bytes: Vec<u8>,
    from: usize,
    /// Number of operations that were started before this send. The send is decided once the kernel has taken more
    /// operations than that.
    serial: u64,
    /// The result in its completion, if there was one.
    result: Option<i32>,
}

/// An io_uring with its buffers. See the module's description.
pub struct Uring {
    ring: IoUring,
    /// Fields are dropped in order, so the buffers are freed after the ring.
    buffers: BufferRing,
    waker: Waker,
    watching: bool,
    epoch: Instant,
    /// Number of operations put into the submission queue so far.
    started: u64,
    /// Number of calls of `io_uring_enter` so far.
    enters: u64,
    /// Sends whose memory has not been returned, in the order in which they were started.
    sending: VecDeque<Sending>,
    /// Completions that were taken out of the ring between two waits, to make the kernel accept further operations.
    early: Vec<Completion>,
    /// Whether completions were taken out of the ring between two waits, so that the next wait has something to report.
    has_early: bool,
    /// Whether one of these completions was a wake-up.
    woken_early: bool,
    /// Whether the kernel can wait without counting as waiting for a disk (Linux 6.15).
    no_iowait: bool,
}

impl Uring {
    /// Makes a ring for the calling thread, the only one that may use it. `epoch` is the zero of [`Time`]. Fails when
    /// the kernel is too old or does not allow io_uring.
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
            enters: 0,
            sending: VecDeque::new(),
            early: Vec::new(),
            has_early: false,
            woken_early: false,
            no_iowait,
        })
    }

    /// Puts an operation into the submission queue. When the queue is full, it is submitted first.
    fn start(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entries of this file point to stays valid until the operation has ended: buffers of receives belong
        // to `self.buffers`, which outlives the ring; bytes of sends are in `self.sending` until they are decided; polls and
        // cancellations point to nothing. Descriptors are kept open by the owner of the connection (rule of the seam).
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            self.enter(0, None);
            if self.ring.submission().is_full() {
                // The kernel accepts no operations while it keeps completions that do not fit into the ring (EBUSY).
                let mut early = std::mem::take(&mut self.early);
                self.woken_early |= self.reap_all(&mut early);
                self.early = early;
                self.has_early = true;
            }
        }
        self.started += 1;
    }

    /// Takes every completion out of the ring, including those that the kernel kept because they did not fit. Returns
    /// whether one of them is a wake-up. Afterwards there is a result for every operation that the kernel has
    /// accepted and decided at once, which [`Uring::decided`] relies on.
    fn reap_all(&mut self, completions: &mut Vec<Completion>) -> bool {
        let mut woken = false;
        loop {
            while let Some(entry) = self.next_completion() {
                woken |= self.reap(&entry, completions);
            }
            if !self.ring.submission().cq_overflow() {
                return woken;
            }
            self.enter(0, None);
        }
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.ring.completion().next()
    }

    /// Submits the queue and waits for `want` completions.
    fn enter(&mut self, want: usize, until: Option<Time>) {
        let timeout = until.map(|until| {
            let wait = until.saturating_sub(self.now());
            types::Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos())
        });
        let mut arguments = types::SubmitArgs::new();
        if let Some(timeout) = &timeout {
            arguments = arguments.timespec(timeout);
        }
        self.enters += 1;
        let flags = if self.no_iowait && want > 0 { EnterFlags::NO_IOWAIT } else { EnterFlags::empty() };
        match self.ring.submitter().submit_with_args_and_flags(want, &arguments, flags) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // The wait timed out; a signal came; the completion queue has to be emptied first; there is no memory
                // right now.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
                _ => panic!("io_uring_enter failed, and without it a data core can do nothing: {error}"),
            },
        }
    }

    /// Starts the poll on the waker if it is not active.
    fn watch(&mut self) {
        if !self.watching {
            self.watching = true;
            let descriptor = types::Fd(self.waker.descriptor().as_raw_fd());
            let poll = opcode::PollAdd::new(descriptor, libc::POLLIN as u32).multi(true);
            self.start(&poll.build().user_data(WAKE));
        }
    }

    /// Processes one completion. Returns whether it is a wake-up.
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
        let buffer = cqueue::buffer_select(flags).map(|id| Buffer::new(id, result.max(0) as u32));
        let outcome = match (buffer, result) {
            (Some(buffer), 1..) => Outcome::Received { result: Ok(Some(buffer)), more },
            (Some(buffer), _) => {
                self.buffers.give_back(buffer);
                Outcome::Received { result: ended(result), more }
            }
            // The result of a poll is a mask of ready events, which is never 0.
            (None, 1..) => Outcome::Writable,
            (None, _) => Outcome::Received { result: ended(result), more },
        };
        completions.push(Completion { token, outcome });
        false
    }

    /// Reports the sends that the kernel has decided.
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

/// The result of a receive that brought no bytes.
fn ended(result: i32) -> io::Result<Option<Buffer>> {
    if result == 0 { Ok(None) } else { Err(io::Error::from_raw_os_error(-result)) }
}

impl Io for Uring {
    type Socket = OwnedFd;

    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    fn enters(&self) -> u64 {
        self.enters
    }

    fn unsent(&self, socket: &OwnedFd) -> Option<usize> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `socket` lives, and TIOCOUTQ writes one int to the valid address
        // that it is given.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        usize::try_from(bytes).ok().filter(|_| result == 0)
    }

    fn receive(&mut self, token: Token, socket: &OwnedFd) {
        let receive = opcode::Recv::new(types::Fd(socket.as_raw_fd()), std::ptr::null_mut(), buffers::SIZE as u32)
            .buf_group(buffers::GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(token.0);
        self.start(&receive);
    }

    fn receive_many(&mut self, token: Token, socket: &OwnedFd) {
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
        // Moving the vector does not move its bytes, and nobody changes it while it is in the queue.
        self.sending.push_back(Sending { token, bytes, from, serial: self.started, result: None });
        self.start(&send);
    }

    fn poll_writable(&mut self, token: Token, socket: &OwnedFd) {
        let poll = opcode::PollAdd::new(types::Fd(socket.as_raw_fd()), libc::POLLOUT as u32);
        self.start(&poll.build().user_data(token.0));
    }

    fn cancel(&mut self, token: Token) {
        let cancel = opcode::AsyncCancel::new(token.0).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.start(&cancel.user_data(SILENT));
    }

    fn shutdown(&mut self, socket: &OwnedFd) {
        // An error means that the connection is already broken.
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Write);
    }

    fn wait(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> bool {
        self.watch();
        let mut woken = std::mem::take(&mut self.woken_early);
        // The result of a send that was taken out early is in `sending` and not in `early`.
        let has_early = std::mem::take(&mut self.has_early);
        completions.append(&mut self.early);
        match wait {
            Wait::Until(until) if !has_early => self.enter(1, until),
            _ => self.enter(0, None),
        }
        woken |= self.reap_all(completions);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
        thread,
        time::Duration,
    };

    const LONG: Duration = Duration::from_secs(30);

    fn uring() -> (Uring, Waker) {
        let waker = Waker::new().unwrap();
        (Uring::new(waker.clone(), Instant::now()).unwrap(), waker)
    }

    fn pair() -> (OwnedFd, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_read_timeout(Some(LONG)).unwrap();
        (near.into(), far)
    }

    /// Waits for completions until there are this many. A send that succeeds ends no wait, so each one is short.
    fn completions(uring: &mut Uring, count: usize) -> Vec<Completion> {
        let (mut all, end) = (Vec::new(), uring.now() + LONG);
        while all.len() < count {
            assert!(uring.now() < end, "{all:?} within {LONG:?}");
            uring.wait(Wait::Until(Some(uring.now() + Duration::from_millis(1))), &mut all);
        }
        all
    }

    #[test]
    fn what_is_sent_arrives_and_its_memory_comes_back() {
        let (mut uring, _) = uring();
        let (near, mut far) = pair();
        uring.send(Token(1), &near, b"..hello".to_vec(), 2);
        let mut all = Vec::new();
        uring.wait(Wait::Poll, &mut all);
        let Some(Completion { token: Token(1), outcome: Outcome::Sent { bytes, result } }) = all.pop() else {
            panic!("{all:?}")
        };
        assert_eq!((bytes.as_slice(), result.unwrap()), (&b"..hello"[..], 5));
        let mut got = [0; 5];
        far.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"hello");
    }

    #[test]
    fn a_full_socket_takes_a_part_and_says_when_it_takes_more() {
        let (mut uring, _) = uring();
        let (near, mut far) = pair();
        uring.send(Token(1), &near, vec![7; 4 << 20], 0);
        let sent = |completion| match completion {
            Completion { outcome: Outcome::Sent { bytes, result: Ok(sent) }, .. } => (bytes, sent),
            other => panic!("{other:?}"),
        };
        let (bytes, first) = sent(completions(&mut uring, 1).remove(0));
        assert!((1..bytes.len()).contains(&first), "{first} bytes of a socket that nobody reads");
        uring.send(Token(1), &near, bytes, first);
        let (_, second) = sent(completions(&mut uring, 1).remove(0));
        assert_eq!(second, 0, "there is no room for more");
        uring.poll_writable(Token(2), &near);
        let mut got = vec![0; first];
        far.read_exact(&mut got).unwrap();
        assert!(matches!(completions(&mut uring, 1)[..], [Completion { token: Token(2), outcome: Outcome::Writable }]));
        drop(far);
        uring.send(Token(1), &near, vec![7], 0);
        let broken = completions(&mut uring, 1).remove(0);
        assert!(matches!(broken.outcome, Outcome::Sent { result: Err(_), .. }), "{broken:?}");
    }

    #[test]
    fn a_receive_goes_on_until_no_buffer_is_free_and_again_afterwards() {
        let (mut uring, _) = uring();
        let (near, mut far) = pair();
        let sender = thread::spawn(move || {
            // Twice as many bytes as all buffers hold.
            far.write_all(&vec![9; 2 * usize::from(buffers::COUNT) * buffers::SIZE]).unwrap();
        });
        let (mut held, mut received, mut starved, mut ended) = (Vec::new(), 0, false, false);
        uring.receive_many(Token(1), &near);
        while !ended {
            for completion in completions(&mut uring, 1) {
                let Outcome::Received { result, more } = completion.outcome else {
                    panic!("only receives were started")
                };
                match result {
                    Ok(Some(buffer)) => {
                        assert!(uring.bytes(&buffer).iter().all(|byte| *byte == 9));
                        received += buffer.len();
                        held.push(buffer);
                    }
                    Ok(None) => ended = true,
                    Err(error) => {
                        assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
                        starved = true;
                        held.drain(..).for_each(|buffer| uring.give_back(buffer));
                    }
                }
                if !more && !ended {
                    uring.receive_many(Token(1), &near);
                }
            }
        }
        sender.join().unwrap();
        assert!(starved);
        assert_eq!(received, 2 * usize::from(buffers::COUNT) * buffers::SIZE);
    }

    #[test]
    fn a_cancelled_operation_ends() {
        let (mut uring, _) = uring();
        let (near, _far) = pair();
        uring.receive(Token(1), &near);
        uring.receive_many(Token(2), &near);
        uring.wait(Wait::Poll, &mut Vec::new());
        uring.cancel(Token(1));
        uring.cancel(Token(2));
        for completion in completions(&mut uring, 2) {
            let Outcome::Received { result: Err(error), more: false } = completion.outcome else { panic!() };
            assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
        }
    }

    #[test]
    fn the_kernel_says_how_many_bytes_the_peer_has_not_acknowledged() {
        let (uring, _) = uring();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _far = listener.accept().unwrap();
        assert_eq!(uring.unsent(&near.try_clone().unwrap().into()), Some(0));
        // The peer reads nothing, so its buffer and then that of this side get full.
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = near.write(&[1; 1 << 16]) {
            written += n;
        }
        let waiting = uring.unsent(&near.into()).expect("a number");
        assert!((1..=written).contains(&waiting), "{waiting} of {written}");
        assert_eq!(uring.unsent(&std::fs::File::open("/dev/null").unwrap().into()), None, "it is no socket");
    }

    #[test]
    fn a_wait_ends_at_its_time_or_when_somebody_wakes_it() {
        let (mut uring, waker) = uring();
        let mut all = Vec::new();
        let deadline = uring.now() + Duration::from_millis(20);
        while uring.now() < deadline {
            assert!(!uring.wait(Wait::Until(Some(deadline)), &mut all));
        }
        for _ in 0..3 {
            let waker = waker.clone();
            let thread = thread::spawn(move || waker.wake());
            while !uring.wait(Wait::Until(None), &mut all) {}
            thread.join().unwrap();
        }
        assert!(all.is_empty());
    }

    #[test]
    fn more_failures_than_the_ring_holds_are_all_reported() {
        let (mut uring, _) = uring();
        let (near, far) = pair();
        drop(far);
        let count = 2 * COMPLETIONS as usize + 2 * SUBMISSIONS as usize;
        for index in 0..count {
            uring.send(Token(index as u64), &near, vec![1], 0);
        }
        let all = completions(&mut uring, count);
        assert!(all.iter().all(|completion| matches!(completion.outcome, Outcome::Sent { result: Err(_), .. })));
        assert_eq!(all.len(), count);
    }

    #[test]
    fn more_operations_than_fit_into_the_queue_are_all_carried_out() {
        let (mut uring, _) = uring();
        let pairs: Vec<_> = (0..SUBMISSIONS as usize / 8).map(|_| pair()).collect();
        for round in 0..16 {
            for (index, (near, _)) in pairs.iter().enumerate() {
                uring.send(Token((round * pairs.len() + index) as u64), near, vec![round as u8], 0);
            }
        }
        let all = completions(&mut uring, 16 * pairs.len());
        assert!(all.iter().all(|completion| matches!(completion.outcome, Outcome::Sent { result: Ok(1), .. })));
        for (_, mut far) in pairs {
            let mut got = [0; 16];
            far.read_exact(&mut got).unwrap();
            assert!(got.iter().enumerate().all(|(round, byte)| round == usize::from(*byte)));
        }
    }
}
