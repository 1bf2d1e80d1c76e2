//! The connections of a core: who owns which descriptor, and which operations are under way on it.
//!
//! A connection lives in a slot. Every operation carries the slot's number and generation in its [`Token`], so a completion
//! finds its connection, and one that comes for an earlier tenant of the slot would be noticed. A slot is let to somebody else
//! only when all operations of the last connection have ended.
//!
//! Promises: at most one send is in flight a connection, so its bytes stay in order; a buffer is given back as soon as its
//! bytes have been handed out; a receive that ended by itself, for want of buffers or because the kernel ends it now and then, is
//! started again as long as its owner wants to receive; a descriptor is closed, or handed on, only after the last completion of
//! its connection.

use super::{Buffer, Completion, Io, Outcome, Token, Wait};
use crate::protocol::Time;
use std::{io, mem};

/// A connection of this core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    index: u32,
    generation: u32,
}

impl ConnectionId {
    /// The same as a number, unique for as long as the core lives.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

/// Generations that a token has room for.
const GENERATIONS: u32 = 1 << 24;

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    Receive,
    Send,
    Poll,
}

fn token(id: ConnectionId, operation: Operation) -> Token {
    Token(u64::from(id.index) << 32 | u64::from(id.generation) << 8 | operation as u64)
}

fn parse(token: Token) -> (ConnectionId, Operation) {
    let operation = match token.0 as u8 {
        0 => Operation::Receive,
        1 => Operation::Send,
        2 => Operation::Poll,
        other => unreachable!("no operation {other} is ever started"),
    };
    (ConnectionId { index: (token.0 >> 32) as u32, generation: token.0 as u32 >> 8 }, operation)
}

/// How a connection receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiving {
    /// Not at all: what comes stays with the kernel.
    Off,
    /// One piece at a time, for peers who say little and may have to wait.
    Single,
    /// On and on, for peers who say much.
    Many,
}

/// What has happened to a connection.
#[derive(Debug)]
pub enum Event<'a, S> {
    /// The peer has sent this.
    Received(&'a [u8]),
    /// The peer has ended its side (`None`), or the connection is broken. Nothing is received any more.
    Ended(Option<io::Error>),
    /// What was to be sent comes back. `Ok`: how much of it was sent; the socket is full if that is not all.
    Sent(Vec<u8>, io::Result<usize>),
    /// The socket, which was full, takes bytes again.
    Writable,
    /// The socket, which was asked for by [`Sockets::release`].
    Released(S),
}

/// What becomes of a connection when its operations have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    Closes,
    IsReleased,
}

struct Slot<S, O> {
    generation: u32,
    socket: Option<S>,
    owner: Option<O>,
    wanted: Receiving,
    receiving: bool,
    sending: bool,
    /// Somebody waits for the outcome of the send.
    hurried: bool,
    polling: bool,
    fate: Fate,
}

impl<S, O> Slot<S, O> {
    fn is_at_rest(&self) -> bool {
        !self.receiving && !self.sending && !self.polling
    }
}

/// See the module's description. `O` says whose a connection is.
pub struct Sockets<I: Io, O> {
    io: I,
    slots: Vec<Slot<I::Socket, O>>,
    free: Vec<u32>,
    open: usize,
    completions: Vec<Completion>,
    /// Connections to look at after the completions of a turn: to receive again, or to end.
    settle: Vec<ConnectionId>,
    /// Sends in flight whose outcome somebody waits for; see [`Sockets::hurry`].
    hurried: usize,
}

impl<I: Io, O: Copy> Sockets<I, O> {
    /// No connections yet.
    pub fn new(io: I) -> Self {
        Self {
            io,
            slots: Vec::new(),
            free: Vec::new(),
            open: 0,
            completions: Vec::new(),
            settle: Vec::new(),
            hurried: 0,
        }
    }

    /// What carries out the operations, for a test that is the other side.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }

    /// The time now.
    pub fn now(&self) -> Time {
        self.io.now()
    }

    /// System calls so far, see [`Io::enters`].
    pub fn enters(&self) -> u64 {
        self.io.enters()
    }

    /// Connections that are not closed, those counted that will be when their operations have ended.
    pub fn open(&self) -> usize {
        self.open
    }

    /// The connection with a socket that `is` this one, and whose it is; for a test that is the other side.
    pub fn find(&self, is: impl Fn(&I::Socket) -> bool) -> Option<(ConnectionId, O)> {
        let index = self.slots.iter().position(|slot| slot.socket.as_ref().is_some_and(&is))?;
        let slot = &self.slots[index];
        Some((ConnectionId { index: index as u32, generation: slot.generation }, slot.owner?))
    }

    /// Takes a connection over.
    pub fn adopt(&mut self, socket: I::Socket, owner: O) -> ConnectionId {
        self.open += 1;
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                socket: None,
                owner: None,
                wanted: Receiving::Off,
                receiving: false,
                sending: false,
                hurried: false,
                polling: false,
                fate: Fate::Stays,
            });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.socket.is_none() && slot.is_at_rest(), "a free slot has neither socket nor operations");
        (slot.socket, slot.owner, slot.wanted, slot.fate) = (Some(socket), Some(owner), Receiving::Off, Fate::Stays);
        ConnectionId { index, generation: slot.generation }
    }

    /// The slot of a connection that is still its owner's.
    fn slot(&mut self, id: ConnectionId) -> Option<&mut Slot<I::Socket, O>> {
        let slot = self.slots.get_mut(id.index as usize)?;
        (slot.generation == id.generation && slot.fate == Fate::Stays).then_some(slot)
    }

    /// Says how to receive from now on. With [`Receiving::Off`] a receive that is under way may still bring something.
    pub fn receive(&mut self, id: ConnectionId, how: Receiving) {
        if let Some(slot) = self.slot(id)
            && slot.wanted != how
        {
            slot.wanted = how;
            self.arm(id);
        }
    }

    /// Starts a receive if one is wanted and none is under way.
    fn arm(&mut self, id: ConnectionId) {
        let slot = &mut self.slots[id.index as usize];
        let (Some(socket), false) = (&slot.socket, slot.receiving) else { return };
        let token = token(id, Operation::Receive);
        match slot.wanted {
            Receiving::Off => return,
            Receiving::Single => self.io.receive(token, socket),
            Receiving::Many => self.io.receive_many(token, socket),
        }
        slot.receiving = true;
    }

    /// Is a send in flight? There must not be another one.
    pub fn is_sending(&self, id: ConnectionId) -> bool {
        self.slots.get(id.index as usize).is_some_and(|slot| slot.generation == id.generation && slot.sending)
    }

    /// Sends `bytes[from..]`; they come back with [`Event::Sent`].
    pub fn send(&mut self, id: ConnectionId, bytes: Vec<u8>, from: usize) {
        assert!(from < bytes.len(), "there is something to send");
        let Some(slot) = self.slot(id) else { return };
        assert!(!slot.sending, "one send at a time, or bytes could come out of order");
        slot.sending = true;
        let slot = &self.slots[id.index as usize];
        let socket = slot.socket.as_ref().expect("a connection that stays has its socket");
        self.io.send(token(id, Operation::Send), socket, bytes, from);
    }

    /// Somebody waits for the outcome of the send in flight: more bytes have to follow it, or the connection is to end. A send
    /// that takes everything ends no wait (see [`Io::send`]), so the core does not sleep before it has come. Of other sends the
    /// core hears whenever it wakes up.
    pub fn hurry(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slots.get_mut(id.index as usize)
            && slot.generation == id.generation
            && slot.sending
            && !mem::replace(&mut slot.hurried, true)
        {
            self.hurried += 1;
        }
    }

    /// Reports with [`Event::Writable`] when the socket, which was full, takes bytes again.
    pub fn poll_writable(&mut self, id: ConnectionId) {
        let Some(slot) = self.slot(id) else { return };
        if !slot.polling {
            slot.polling = true;
            let slot = &self.slots[id.index as usize];
            let socket = slot.socket.as_ref().expect("a connection that stays has its socket");
            self.io.poll_writable(token(id, Operation::Poll), socket);
        }
    }

    /// Ends our side of the stream, after what was sent.
    pub fn shutdown(&mut self, id: ConnectionId) {
        if self.slot(id).is_some() {
            let slot = &self.slots[id.index as usize];
            self.io.shutdown(slot.socket.as_ref().expect("a connection that stays has its socket"));
        }
    }

    /// Closes a connection. Nothing more is heard of it.
    pub fn close(&mut self, id: ConnectionId) {
        self.end(id, Fate::Closes);
    }

    /// Gives the socket back by [`Event::Released`], when all operations have ended. What has been received by then comes first.
    pub fn release(&mut self, id: ConnectionId) {
        self.end(id, Fate::IsReleased);
    }

    fn end(&mut self, id: ConnectionId, fate: Fate) {
        let Some(slot) = self.slot(id) else { return };
        slot.fate = fate;
        slot.wanted = Receiving::Off;
        let (receiving, polling) = (slot.receiving, slot.polling);
        self.hurry(id);
        if receiving {
            self.io.cancel(token(id, Operation::Receive));
        }
        if polling {
            self.io.cancel(token(id, Operation::Poll));
        }
        self.settle.push(id);
    }

    /// Starts everything that was asked for, waits, and reports what has happened. Returns whether somebody woke the core.
    pub fn wait(&mut self, wait: Wait, mut report: impl FnMut(ConnectionId, O, Event<'_, I::Socket>)) -> bool {
        // Connections that have ended without an operation under way wait for no completion. What is reported now the owner has
        // to look at before it sleeps.
        let wait = if self.finish(&mut report) || self.hurried > 0 { Wait::Poll } else { wait };
        let mut completions = mem::take(&mut self.completions);
        let woken = self.io.wait(wait, &mut completions);
        for Completion { token, outcome } in completions.drain(..) {
            self.complete(token, outcome, &mut report);
        }
        self.completions = completions;
        self.finish(&mut report);
        woken
    }

    fn complete(
        &mut self,
        token: Token,
        outcome: Outcome,
        report: &mut impl FnMut(ConnectionId, O, Event<'_, I::Socket>),
    ) {
        let (id, operation) = parse(token);
        let slot = &mut self.slots[id.index as usize];
        assert_eq!(slot.generation, id.generation, "a slot is let again only when its operations have ended");
        let owner = slot.owner.expect("a connection with an operation under way has its owner");
        // What an owner has closed it does not want to hear of any more.
        let heard = slot.fate != Fate::Closes;
        match (operation, outcome) {
            (Operation::Receive, Outcome::Received { result, more }) => {
                slot.receiving = more;
                if !more {
                    self.settle.push(id);
                }
                self.received(id, owner, result, heard, report);
            }
            (Operation::Send, Outcome::Sent { bytes, result }) => {
                slot.sending = false;
                self.hurried -= usize::from(mem::take(&mut slot.hurried));
                self.settle_if_ending(id);
                if heard {
                    report(id, owner, Event::Sent(bytes, result));
                }
            }
            (Operation::Poll, _) => {
                slot.polling = false;
                let stays = slot.fate == Fate::Stays;
                self.settle_if_ending(id);
                if stays {
                    report(id, owner, Event::Writable);
                }
            }
            (operation, outcome) => unreachable!("{operation:?} does not end with {outcome:?}"),
        }
    }

    fn received(
        &mut self,
        id: ConnectionId,
        owner: O,
        result: io::Result<Option<Buffer>>,
        heard: bool,
        report: &mut impl FnMut(ConnectionId, O, Event<'_, I::Socket>),
    ) {
        let end = match result {
            Ok(Some(buffer)) => {
                if heard {
                    report(id, owner, Event::Received(self.io.bytes(&buffer)));
                }
                self.io.give_back(buffer);
                return;
            }
            Ok(None) => None,
            // There was no buffer free, or the operation was cancelled: neither says anything of the connection.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ECANCELED | libc::EINTR)) => return,
            Err(error) => Some(error),
        };
        self.slots[id.index as usize].wanted = Receiving::Off;
        if heard {
            report(id, owner, Event::Ended(end));
        }
    }

    fn settle_if_ending(&mut self, id: ConnectionId) {
        if self.slots[id.index as usize].fate != Fate::Stays {
            self.settle.push(id);
        }
    }

    /// After the buffers of a turn were given back: receives are started again, and connections without operations end.
    /// Returns whether something was reported.
    fn finish(&mut self, report: &mut impl FnMut(ConnectionId, O, Event<'_, I::Socket>)) -> bool {
        let mut reported = false;
        while let Some(id) = self.settle.pop() {
            let slot = &mut self.slots[id.index as usize];
            if slot.generation != id.generation {
                // It was noted twice, and has ended the first time.
                continue;
            }
            if slot.fate == Fate::Stays {
                self.arm(id);
                continue;
            }
            if !slot.is_at_rest() {
                continue;
            }
            let fate = mem::replace(&mut slot.fate, Fate::Stays);
            slot.generation = (slot.generation + 1) % GENERATIONS;
            let (socket, owner) = (slot.socket.take(), slot.owner.take());
            self.free.push(id.index);
            self.open -= 1;
            if let (Fate::IsReleased, Some(socket), Some(owner)) = (fate, socket, owner) {
                reported = true;
                report(id, owner, Event::Released(socket));
            }
        }
        reported
    }
}
