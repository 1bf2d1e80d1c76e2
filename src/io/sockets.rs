//! The connections of a core: who owns which descriptor, and which operations are in flight on it.
//!
//! A connection lives in a slot. The [`Token`] of each operation contains the slot's index and generation. So a
//! completion finds its connection, and a completion for an earlier connection of the slot would be noticed. A slot
//! is reused only after all operations of its last connection have ended.
//!
//! Promises: at most one send is in flight for each connection, so bytes stay in order; a buffer is returned as soon
//! as its bytes have been reported; a receive that ends by itself (no buffer was free, or the kernel ended it) is
//! started again while its owner wants to receive; a descriptor is closed, or handed on, only after the last
//! completion of its connection. Never looks at the bytes.

use super::{Buffer, Completion, Io, Outcome, Token, Wait};
use crate::protocol::Time;
use std::{io, mem};

/// The id of a connection in [`Sockets`]. Ids are not reused, except after 2²⁴ connections in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SocketId {
    index: u32,
    generation: u32,
}

#[cfg(test)]
impl SocketId {
    /// The id of the first connection, for tests without [`Sockets`].
    pub const FIRST: Self = Self { index: 0, generation: 0 };
}

/// Number of generations that fit into a token.
const GENERATIONS: u32 = 1 << 24;

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    Receive,
    Send,
    Poll,
}

fn token(id: SocketId, operation: Operation) -> Token {
    Token(u64::from(id.index) << 32 | u64::from(id.generation) << 8 | operation as u64)
}

fn parse(token: Token) -> (SocketId, Operation) {
    let operation = match token.0 as u8 {
        0 => Operation::Receive,
        1 => Operation::Send,
        2 => Operation::Poll,
        other => unreachable!("no operation {other} is ever started"),
    };
    (SocketId { index: (token.0 >> 32) as u32, generation: token.0 as u32 >> 8 }, operation)
}

/// How a connection receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiving {
    /// It does not receive. The bytes stay in the kernel.
    Off,
    /// One receive at a time, for peers that send little.
    Single,
    /// One receive that goes on, for peers that send much.
    Many,
}

/// What has happened to a connection.
#[derive(Debug)]
pub enum Event<'a, S> {
    /// The peer has sent these bytes.
    Received(&'a [u8]),
    /// The peer has ended its side of the stream (`None`), or the connection is broken. Nothing more is received.
    Ended(Option<io::Error>),
    /// A send has ended. Its buffer comes back with the number of bytes sent; if these are not all, the socket is
    /// full.
    Sent(Vec<u8>, io::Result<usize>),
    /// A full socket takes bytes again.
    Writable,
    /// The socket that [`Sockets::release`] asked for.
    Released(S),
}

/// What happens to a connection when its operations have ended.
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
    /// [`Sockets::hurry`] was called for the send in flight.
    hurried: bool,
    polling: bool,
    fate: Fate,
}

impl<S, O> Slot<S, O> {
    fn is_at_rest(&self) -> bool {
        !self.receiving && !self.sending && !self.polling
    }
}

/// The connections of a core. `O` identifies the owner of a connection. See the module's description.
pub struct Sockets<I: Io, O> {
    io: I,
    slots: Vec<Slot<I::Socket, O>>,
    free: Vec<u32>,
    completions: Vec<Completion>,
    /// Connections to look at after the completions of a turn: a receive has to start again, or the connection has to
    /// end.
    revisit: Vec<SocketId>,
    /// Number of sends in flight that [`Sockets::hurry`] was called for.
    hurried: usize,
}

impl<I: Io, O: Copy> Sockets<I, O> {
    /// Starts without connections.
    pub fn new(io: I) -> Self {
        Self { io, slots: Vec::new(), free: Vec::new(), completions: Vec::new(), revisit: Vec::new(), hurried: 0 }
    }

    /// The implementation of [`Io`], for a test that plays the other end of the connections.
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

    /// Bytes of a connection that the kernel holds, see [`Io::unsent`].
    pub fn unsent(&self, id: SocketId) -> Option<usize> {
        let slot = self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        self.io.unsent(slot.socket.as_ref()?)
    }

    /// Finds a connection by its socket, for a test that plays the other end of the connections.
    pub fn find(&self, is: impl Fn(&I::Socket) -> bool) -> Option<(SocketId, O)> {
        let index = self.slots.iter().position(|slot| slot.socket.as_ref().is_some_and(&is))?;
        let slot = &self.slots[index];
        Some((SocketId { index: index as u32, generation: slot.generation }, slot.owner?))
    }

    /// Takes a connection over. It does not receive before [`Sockets::receive`] is called.
    pub fn adopt(&mut self, socket: I::Socket, owner: O) -> SocketId {
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
        SocketId { index, generation: slot.generation }
    }

    /// The slot of a connection that its owner has neither closed nor released.
    fn slot(&mut self, id: SocketId) -> Option<&mut Slot<I::Socket, O>> {
        let slot = self.slots.get_mut(id.index as usize)?;
        (slot.generation == id.generation && slot.fate == Fate::Stays).then_some(slot)
    }

    /// Sets how a connection receives from now on. A receive in flight may still report bytes after
    /// [`Receiving::Off`].
    pub fn receive(&mut self, id: SocketId, how: Receiving) {
        if let Some(slot) = self.slot(id)
            && slot.wanted != how
        {
            slot.wanted = how;
            self.arm(id);
        }
    }

    /// Starts a receive if one is wanted and none is in flight.
    fn arm(&mut self, id: SocketId) {
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

    /// Sends `bytes[from..]`. The buffer comes back with [`Event::Sent`].
    pub fn send(&mut self, id: SocketId, bytes: Vec<u8>, from: usize) {
        assert!(from < bytes.len(), "a send needs at least one byte");
        let Some(slot) = self.slot(id) else { return };
        assert!(!slot.sending, "one send at a time, or bytes could come out of order");
        slot.sending = true;
        let slot = &self.slots[id.index as usize];
        let socket = slot.socket.as_ref().expect("a connection that stays has its socket");
        self.io.send(token(id, Operation::Send), socket, bytes, from);
    }

    /// Makes the core wait for the result of the send in flight, because more bytes have to follow it or the
    /// connection is to end. A send that takes all bytes does not end a wait (see [`Io::send`]), so until its
    /// completion the core polls instead of sleeping. The results of other sends are reported whenever the core wakes
    /// up.
    pub fn hurry(&mut self, id: SocketId) {
        if let Some(slot) = self.slots.get_mut(id.index as usize)
            && slot.generation == id.generation
            && slot.sending
            && !mem::replace(&mut slot.hurried, true)
        {
            self.hurried += 1;
        }
    }

    /// Starts a poll. [`Event::Writable`] reports that the full socket takes bytes again.
    pub fn poll_writable(&mut self, id: SocketId) {
        let Some(slot) = self.slot(id) else { return };
        if !slot.polling {
            slot.polling = true;
            let slot = &self.slots[id.index as usize];
            let socket = slot.socket.as_ref().expect("a connection that stays has its socket");
            self.io.poll_writable(token(id, Operation::Poll), socket);
        }
    }

    /// Ends the core's side of the stream at once. The peer first reads the bytes of all sends that have completed. The
    /// caller waits until no send is in flight, because the rest of such a send would be lost.
    pub fn shutdown(&mut self, id: SocketId) {
        if self.slot(id).is_some() {
            let slot = &self.slots[id.index as usize];
            self.io.shutdown(slot.socket.as_ref().expect("a connection that stays has its socket"));
        }
    }

    /// Closes a connection. Nothing more is reported for it.
    pub fn close(&mut self, id: SocketId) {
        self.end(id, Fate::Closes);
    }

    /// Gives a connection up. [`Event::Released`] returns its socket when all operations have ended. The bytes
    /// received until then are reported first.
    pub fn release(&mut self, id: SocketId) {
        self.end(id, Fate::IsReleased);
    }

    fn end(&mut self, id: SocketId, fate: Fate) {
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
        self.revisit.push(id);
    }

    /// Starts all operations that were asked for, waits, and reports what has happened. Returns whether a waker woke
    /// the core.
    pub fn wait(&mut self, wait: Wait, mut report: impl FnMut(SocketId, O, Event<'_, I::Socket>)) -> bool {
        // A connection that ends without an operation in flight has no completion to wait for. When something is
        // reported now, its owner has to react before the core sleeps.
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

    fn complete(&mut self, token: Token, outcome: Outcome, report: &mut impl FnMut(SocketId, O, Event<'_, I::Socket>)) {
        let (id, operation) = parse(token);
        let slot = &mut self.slots[id.index as usize];
        assert_eq!(slot.generation, id.generation, "a slot is let again only when its operations have ended");
        let owner = slot.owner.expect("a connection with an operation under way has its owner");
        // Nothing is reported for a connection that its owner has closed.
        let heard = slot.fate != Fate::Closes;
        match (operation, outcome) {
            (Operation::Receive, Outcome::Received { result, more }) => {
                slot.receiving = more;
                if !more {
                    self.revisit.push(id);
                }
                self.received(id, owner, result, heard, report);
            }
            (Operation::Send, Outcome::Sent { bytes, result }) => {
                slot.sending = false;
                self.hurried -= usize::from(mem::take(&mut slot.hurried));
                self.revisit_if_ending(id);
                if heard {
                    report(id, owner, Event::Sent(bytes, result));
                }
            }
            (Operation::Poll, _) => {
                slot.polling = false;
                let stays = slot.fate == Fate::Stays;
                self.revisit_if_ending(id);
                if stays {
                    report(id, owner, Event::Writable);
                }
            }
            (operation, outcome) => unreachable!("{operation:?} does not end with {outcome:?}"),
        }
    }

    fn received(
        &mut self,
        id: SocketId,
        owner: O,
        result: io::Result<Option<Buffer>>,
        heard: bool,
        report: &mut impl FnMut(SocketId, O, Event<'_, I::Socket>),
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
            // No buffer was free, or the operation was cancelled or interrupted. None of these says anything about
            // the connection.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ECANCELED | libc::EINTR)) => return,
            Err(error) => Some(error),
        };
        self.slots[id.index as usize].wanted = Receiving::Off;
        if heard {
            report(id, owner, Event::Ended(end));
        }
    }

    fn revisit_if_ending(&mut self, id: SocketId) {
        if self.slots[id.index as usize].fate != Fate::Stays {
            self.revisit.push(id);
        }
    }

    /// Runs after the buffers of a turn were returned: starts receives again, and ends connections without
    /// operations. Returns whether something was reported.
    fn finish(&mut self, report: &mut impl FnMut(SocketId, O, Event<'_, I::Socket>)) -> bool {
        let mut reported = false;
        while let Some(id) = self.revisit.pop() {
            let slot = &mut self.slots[id.index as usize];
            if slot.generation != id.generation {
                // The connection was noted twice and has already ended.
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
            if let (Fate::IsReleased, Some(socket), Some(owner)) = (fate, socket, owner) {
                reported = true;
                report(id, owner, Event::Released(socket));
            }
        }
        reported
    }
}
