//! The core's [`Io`]: operations on virtual sockets with a virtual clock, and the random faults that a kernel may
//! cause.
//!
//! It checks the rules of the seam: one operation of each kind on a socket, no token twice, every buffer returned
//! once and before the next wait, no operation on a socket that is closed or whose side of the stream has ended.

use crate::{
    net::{Net, Payload, Pipe, Poll, Receive, Send, Shared, Socket},
    trace::{Coverage, Event},
};
use fastrand::Rng;
use gateway_proxy::{
    io::{Buffer, Completion, Io, Outcome, Token, Wait, wake::Waker},
    protocol::Time,
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

/// The content of a buffer that the core has returned.
const POISON: u8 = 0xAA;

/// How often each fault happens, of 256.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// An operation completes later than it could.
    late: u8,
    /// A send takes fewer bytes than there is room for.
    short: u8,
    /// A receive brings fewer bytes than there are.
    split: u8,
    /// A receive that should go on ends by itself.
    ends: u8,
    /// A poll reports a full socket as writable.
    spurious: u8,
    /// Number of buffers.
    buffers: u16,
    /// Size of a buffer in bytes.
    size: usize,
}

impl Weather {
    pub fn choose(rng: &mut Rng) -> Self {
        let mut some = |most: u8| if rng.u8(0..2) == 0 { rng.u8(1..=most) } else { 0 };
        let (late, short, split, ends, spurious) = (some(100), some(80), some(60), some(60), some(60));
        let size = [1 << 10, 4 << 10, 16 << 10][rng.usize(0..3)];
        Self { late, short, split, ends, spurious, buffers: rng.u16(1..8), size }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Receive,
    Send,
    Poll,
}

/// The simulated [`Io`]. See the module's description.
pub struct SimIo {
    net: Shared,
    waker: Waker,
    rng: Rng,
    weather: Weather,
    /// The operations in flight: the socket and kind of each token.
    armed: BTreeMap<u64, (u64, Kind)>,
    buffers: Buffers,
    /// Completions that have not been reported: a send that took all bytes does not end a wait, so it is reported
    /// with the next wait that ends for another reason.
    silent: Vec<Completion>,
    /// `Some`: the core sleeps until this time, or without a limit. `None`: the core has work.
    pub sleeps: Option<Option<Time>>,
    /// Number of completions and wake-ups so far.
    pub events: u64,
}

/// The memory that receives write to.
struct Buffers {
    memory: Vec<Vec<u8>>,
    /// Whether the core has each buffer.
    out: Vec<bool>,
}

impl Buffers {
    fn take(&mut self, rng: &mut Rng) -> Option<usize> {
        let count = self.out.len();
        let first = rng.usize(0..count);
        let id = (0..count).map(|n| (first + n) % count).find(|&id| !self.out[id])?;
        self.out[id] = true;
        Some(id)
    }
}

/// What one wait collects.
struct Harvest<'a> {
    rng: &'a mut Rng,
    weather: Weather,
    buffers: &'a mut Buffers,
    armed: &'a mut BTreeMap<u64, (u64, Kind)>,
    coverage: &'a mut Coverage,
    arrived: &'a mut Vec<Payload>,
    /// The completions of each operation, in order.
    found: Vec<VecDeque<Completion>>,
    /// Completions of sends that took all bytes, which do not end a wait.
    silent: Vec<Completion>,
    /// An operation could have completed and was deferred.
    deferred: bool,
}

impl SimIo {
    pub fn new(net: Shared, waker: Waker, weather: Weather, seed: u64) -> Self {
        let buffers = Buffers {
            memory: (0..weather.buffers).map(|_| vec![POISON; weather.size]).collect(),
            out: vec![false; usize::from(weather.buffers)],
        };
        let rng = Rng::with_seed(seed);
        Self { net, waker, rng, weather, armed: BTreeMap::new(), buffers, silent: Vec::new(), sleeps: None, events: 0 }
    }

    /// Records an operation, and checks that the core may start it.
    fn arm(&mut self, token: Token, socket: &Socket, kind: Kind, put: impl FnOnce(&mut Pipe)) {
        let before = self.armed.insert(token.0, (socket.id, kind));
        assert!(
            before.is_none(),
            "seam: {kind:?} on socket {} has the token of an operation that is under way",
            socket.id
        );
        let mut net = self.net.borrow_mut();
        let pipe = net.pipe(socket.id);
        let busy = match kind {
            Kind::Receive => pipe.receive.is_some(),
            Kind::Send => pipe.send.is_some(),
            Kind::Poll => pipe.poll.is_some(),
        };
        assert!(!busy, "seam: a second {kind:?} on socket {}", socket.id);
        assert!(!pipe.core_closed, "seam: {kind:?} on a closed socket");
        put(pipe);
    }
}

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Harvest<'_> {
    fn chance(&mut self, of: u8) -> bool {
        of > 0 && self.rng.u8(..) < of
    }

    fn is_late(&mut self) -> bool {
        let late = self.chance(self.weather.late);
        self.deferred |= late;
        late
    }

    fn found(&mut self, token: Token, outcome: Outcome) -> Completion {
        self.armed.remove(&token.0).expect("an operation that is under way");
        Completion { token, outcome }
    }

    /// Completes a send.
    fn send(&mut self, pipe: &mut Pipe) {
        let Some(Send { token, bytes, from }) = pipe.send.take() else { return };
        if self.is_late() {
            self.coverage.count(Event::LateSends);
            pipe.send = Some(Send { token, bytes, from });
            return;
        }
        let all = bytes.len() - from;
        let result = if pipe.reset {
            Err(error([libc::ECONNRESET, libc::EPIPE][self.rng.usize(0..2)]))
        } else if pipe.gone {
            // The other end is closed, and answers with a reset.
            pipe.reset = true;
            Ok(all)
        } else {
            let mut n = pipe.room().min(all);
            if n > 0 && self.chance(self.weather.short) {
                self.coverage.count(Event::ShortSends);
                n = self.rng.usize(0..n);
            }
            if n == 0 {
                self.coverage.count(Event::FullSockets);
            }
            pipe.from_core.extend(&bytes[from..from + n]);
            pipe.taken += n as u64;
            Ok(n)
        };
        let took_all = matches!(result, Ok(n) if n == all);
        let completion = self.found(token, Outcome::Sent { bytes, result });
        match took_all {
            true => self.silent.push(completion),
            false => self.found.push(VecDeque::from([completion])),
        }
    }

    fn poll(&mut self, pipe: &mut Pipe) {
        let Some(Poll { token, cancelled }) = pipe.poll else { return };
        let ready = pipe.is_writable();
        let outcome = if cancelled {
            if self.is_late() {
                return;
            }
            match ready && self.rng.bool() {
                true => Outcome::Writable,
                false => Outcome::Received { result: Err(error(libc::ECANCELED)), more: false },
            }
        } else if ready {
            if self.is_late() {
                return;
            }
            Outcome::Writable
        } else if !pipe.fooled && self.chance(self.weather.spurious) {
            pipe.fooled = true;
            self.coverage.count(Event::Spurious);
            Outcome::Writable
        } else {
            return;
        };
        pipe.poll = None;
        let completion = self.found(token, outcome);
        self.found.push(VecDeque::from([completion]));
    }

    fn receive(&mut self, pipe: &mut Pipe) {
        let Some(Receive { token, many, cancelled }) = pipe.receive else { return };
        let mut completions = VecDeque::new();
        loop {
            let something = pipe.reset || !pipe.to_core.is_empty() || pipe.ended;
            if !something && !cancelled || self.is_late() {
                break;
            }
            let result = if cancelled && (pipe.to_core.is_empty() || self.rng.bool()) {
                Err(error(libc::ECANCELED))
            } else if pipe.reset {
                Err(error(libc::ECONNRESET))
            } else if pipe.to_core.is_empty() {
                Ok(None)
            } else {
                self.fill(pipe).map(Some).ok_or_else(|| error(libc::ENOBUFS))
            };
            let goes_on = many && !cancelled && matches!(result, Ok(Some(_)));
            let ends = goes_on && self.chance(self.weather.ends);
            match &result {
                Ok(Some(_)) if cancelled => self.coverage.count(Event::CancelledWithData),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => self.coverage.count(Event::NoBuffers),
                Err(_) if cancelled => self.coverage.count(Event::Cancelled),
                _ if ends => self.coverage.count(Event::EndedReceives),
                _ => {}
            }
            let more = goes_on && !ends;
            completions.push_back(Completion { token, outcome: Outcome::Received { result, more } });
            if !more {
                pipe.receive = None;
                self.armed.remove(&token.0).expect("an operation that is under way");
                break;
            }
        }
        if !completions.is_empty() {
            self.found.push(completions);
        }
    }

    /// Receives into a buffer; `None`: no buffer is free.
    fn fill(&mut self, pipe: &mut Pipe) -> Option<Buffer> {
        let id = self.buffers.take(self.rng)?;
        let mut n = pipe.to_core.len().min(self.weather.size);
        if n > 1 && self.chance(self.weather.split) {
            self.coverage.count(Event::SplitReceives);
            n = self.rng.usize(1..n);
        }
        for (byte, from) in self.buffers.memory[id].iter_mut().zip(pipe.to_core.drain(..n)) {
            *byte = from;
        }
        Net::received(pipe, n, self.arrived);
        Some(Buffer::new(id as u16, n as u32))
    }
}

impl Io for SimIo {
    type Socket = Socket;

    fn now(&self) -> Time {
        self.net.borrow().clock
    }

    fn receive(&mut self, token: Token, socket: &Socket) {
        let receive = Receive { token, many: false, cancelled: false };
        self.arm(token, socket, Kind::Receive, |pipe| pipe.receive = Some(receive));
    }

    fn receive_many(&mut self, token: Token, socket: &Socket) {
        let receive = Receive { token, many: true, cancelled: false };
        self.arm(token, socket, Kind::Receive, |pipe| pipe.receive = Some(receive));
    }

    fn send(&mut self, token: Token, socket: &Socket, bytes: Vec<u8>, from: usize) {
        self.arm(token, socket, Kind::Send, |pipe| {
            assert!(!pipe.core_ended, "seam: a send after the end of the core's side");
            pipe.send = Some(Send { token, bytes, from });
        });
    }

    fn poll_writable(&mut self, token: Token, socket: &Socket) {
        self.arm(token, socket, Kind::Poll, |pipe| pipe.poll = Some(Poll { token, cancelled: false }));
    }

    fn cancel(&mut self, token: Token) {
        let Some(&(id, kind)) = self.armed.get(&token.0) else { return };
        let mut net = self.net.borrow_mut();
        let pipe = net.pipe(id);
        match kind {
            Kind::Receive => {
                pipe.receive.as_mut().expect("it is under way").cancelled = true;
                net.cancelled.push(id);
            }
            Kind::Poll => pipe.poll.as_mut().expect("it is under way").cancelled = true,
            Kind::Send => panic!("seam: a send is never cancelled, it does not wait"),
        }
    }

    fn shutdown(&mut self, socket: &Socket) {
        let mut net = self.net.borrow_mut();
        let pipe = net.pipe(socket.id);
        assert!(pipe.send.is_none(), "seam: the stream ends before a send that is not decided");
        pipe.core_ended = true;
    }

    fn wait(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> bool {
        assert!(completions.is_empty(), "seam: completions of an earlier wait");
        assert!(!self.buffers.out.contains(&true), "seam: a buffer was not given back");
        let net = self.net.clone();
        let mut net = net.borrow_mut();
        net.touched = false;
        let Net { pipes, arrived, coverage, .. } = &mut *net;
        let Self { rng, weather, buffers, armed, .. } = self;
        let (weather, found) = (*weather, Vec::new());
        let silent = std::mem::take(&mut self.silent);
        let mut harvest = Harvest { rng, weather, buffers, armed, coverage, arrived, found, silent, deferred: false };
        for pipe in pipes.values_mut() {
            harvest.send(pipe);
            harvest.poll(pipe);
            harvest.receive(pipe);
        }
        let Harvest { mut found, silent, deferred, .. } = harvest;
        let woken = self.waker.take();
        if matches!(wait, Wait::Until(_)) && found.is_empty() && !woken && !deferred {
            self.silent = silent;
        } else {
            found.extend(silent.into_iter().map(|completion| VecDeque::from([completion])));
        }
        if woken && !found.is_empty() {
            coverage.count(Event::WokenAmongOthers);
        }
        // Completions of one operation are reported in order, those of different operations in random order.
        while !found.is_empty() {
            let chosen = self.rng.usize(0..found.len());
            completions.extend(found[chosen].pop_front());
            if found[chosen].is_empty() {
                found.swap_remove(chosen);
            }
        }
        self.events += completions.len() as u64 + u64::from(woken);
        self.sleeps = match wait {
            Wait::Until(until) if completions.is_empty() && !woken && !deferred => Some(until),
            _ => None,
        };
        woken
    }

    fn bytes(&self, buffer: &Buffer) -> &[u8] {
        let id = usize::from(buffer.id());
        assert!(self.buffers.out[id], "seam: a buffer is read that was given back");
        &self.buffers.memory[id][..buffer.len()]
    }

    fn give_back(&mut self, buffer: Buffer) {
        let id = usize::from(buffer.id());
        assert!(self.buffers.out[id], "seam: a buffer was given back twice");
        self.buffers.out[id] = false;
        self.buffers.memory[id].fill(POISON);
    }
}
