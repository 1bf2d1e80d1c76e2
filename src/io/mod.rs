//! Where the data core's completions come from: the seam between its loop and the kernel.
//!
//! [`Io`] starts operations on sockets and later says how each of them ended. In production it is a ring of io_uring
//! ([`uring::Uring`]); the simulation has one of its own, in which time, faults and the order of completions follow from a
//! seed. [`sockets::Sockets`] is built on it and is the same in both: it owns every connection of a core and decides when an
//! operation is started, when a buffer is given back and when a descriptor may be closed.
//!
//! An operation is named by a [`Token`] that whoever starts it chooses. Rules of the seam:
//!
//! - Every receive, send and poll that was started ends with exactly one completion whose `more` is false. A cancelled one
//!   ends, too: with what it had got until then, or with `ECANCELED`.
//! - A socket is closed only after all of its operations have ended.
//! - Completions of different operations come in any order.

mod buffers;
pub mod sockets;
pub mod uring;
pub mod wake;

use crate::protocol::Time;
use std::{fmt, io};

/// Names one operation. `u64::MAX` and the value below it are taken by implementations for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Received bytes, in memory that belongs to the [`Io`]. It has to be given back, by [`Io::give_back`].
#[derive(Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Number of the piece of memory.
    pub(crate) id: u16,
    /// How many bytes of it were filled.
    pub(crate) length: u32,
}

impl Buffer {
    /// For implementations of [`Io`]: the first `length` bytes of the piece of memory with this number.
    pub fn new(id: u16, length: u32) -> Self {
        Self { id, length }
    }

    /// Number of the piece of memory.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// How many bytes were received.
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Was nothing received?
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// What came of an operation.
#[derive(Debug)]
pub enum Outcome {
    /// Of a receive. `Ok(None)`: the peer has ended its side of the stream. `more`: the operation goes on.
    Received {
        /// What was received.
        result: io::Result<Option<Buffer>>,
        /// The operation is still armed.
        more: bool,
    },
    /// Of a send. The socket took this many bytes, and takes no more now if that is not all; the memory comes back.
    Sent {
        /// What was to be sent.
        bytes: Vec<u8>,
        /// How much of it was sent, from where it was to begin.
        result: io::Result<usize>,
    },
    /// The socket may take bytes again, or is broken, which the next send will say.
    Writable,
}

/// An operation has ended, or has a result and goes on.
#[derive(Debug)]
pub struct Completion {
    /// Which.
    pub token: Token,
    /// How.
    pub outcome: Outcome,
}

/// How long to wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: there is other work to do.
    Poll,
    /// Until this time, or for ever.
    Until(Option<Time>),
}

/// See the module's description.
pub trait Io {
    /// A connected stream socket; dropping it closes it.
    type Socket: fmt::Debug;

    /// The time now.
    fn now(&self) -> Time;

    /// Starts one receive, into a buffer that is chosen when bytes arrive.
    fn receive(&mut self, token: Token, socket: &Self::Socket);

    /// Starts a receive that goes on until it fails, the peer ends the stream, or no buffer is free (`ENOBUFS`).
    fn receive_many(&mut self, token: Token, socket: &Self::Socket);

    /// Sends `bytes[from..]`, as far as the socket takes them at once. When it takes everything, its completion comes with the
    /// next wait that ends, and ends none: a core that waits for the next event is not woken to hear that all is well.
    fn send(&mut self, token: Token, socket: &Self::Socket, bytes: Vec<u8>, from: usize);

    /// Waits until the socket takes bytes.
    fn poll_writable(&mut self, token: Token, socket: &Self::Socket);

    /// Ends an operation early. It completes as every operation does; when it has done so already nothing happens.
    fn cancel(&mut self, token: Token);

    /// Ends our side of the stream: the peer reads everything that was sent, then the end.
    fn shutdown(&mut self, socket: &Self::Socket);

    /// System calls of all waits and starts so far; 0 where there are none.
    fn enters(&self) -> u64 {
        0
    }

    /// Starts everything that was asked for, waits, and adds what has come. Returns whether [`wake::Waker`] was used since the
    /// last time.
    fn wait(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> bool;

    /// The bytes of a buffer.
    fn bytes(&self, buffer: &Buffer) -> &[u8];

    /// Gives a buffer back for other receives.
    fn give_back(&mut self, buffer: Buffer);
}
