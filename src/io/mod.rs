//! The seam between a data core's loop and the kernel: the trait [`Io`], which starts operations on sockets and
//! reports later how each of them ended.
//!
//! In production an [`Io`] is an io_uring ([`uring::Uring`]). The simulation has an implementation of its own, in
//! which time, faults and the order of completions follow from a seed. [`sockets::Sockets`] is built on top and is
//! the same in both: it owns every connection of a core and decides when an operation starts, when a buffer is
//! returned, and when a descriptor may be closed.
//!
//! The caller names each operation with a [`Token`]. Rules of the seam:
//!
//! - Every receive, send and poll that was started ends with exactly one completion whose `more` is false. A
//!   cancelled operation ends too: with the result that it had by then, or with `ECANCELED`.
//! - A socket is closed only after all of its operations have ended.
//! - Completions of different operations arrive in any order.

mod buffers;
pub(crate) mod sockets;
pub(crate) mod uring;
pub mod wake;

use crate::protocol::Time;
use std::{fmt, io};

/// The name of one operation. Implementations reserve `u64::MAX` and the value below it for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// Received bytes, in memory that belongs to the [`Io`]. The receiver has to return it with [`Io::give_back`].
#[derive(Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Number of the buffer.
    pub(crate) id: u16,
    /// Number of bytes received into the buffer.
    pub(crate) length: u32,
}

impl Buffer {
    /// For implementations of [`Io`]: the first `length` bytes of the buffer with this number.
    pub fn new(id: u16, length: u32) -> Self {
        Self { id, length }
    }

    /// Number of the buffer.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// Number of bytes received.
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Says whether no byte was received.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// The result of an operation.
#[derive(Debug)]
pub enum Outcome {
    /// A receive has a result. `Ok(None)`: the peer has ended its side of the stream.
    Received {
        /// The received bytes.
        result: io::Result<Option<Buffer>>,
        /// Whether the operation goes on and will have more completions.
        more: bool,
    },
    /// A send has ended. The socket took this many bytes; if these are not all, it is full. The memory comes back.
    Sent {
        /// The buffer that was passed to [`Io::send`].
        bytes: Vec<u8>,
        /// Number of bytes sent, from the offset that was passed to [`Io::send`].
        result: io::Result<usize>,
    },
    /// A poll has ended. The socket may take bytes again, or is broken, which the next send reports.
    Writable,
}

/// An operation has ended, or has a result and goes on.
#[derive(Debug)]
pub struct Completion {
    /// The operation.
    pub token: Token,
    /// Its result.
    pub outcome: Outcome,
}

/// How long to wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Do not wait, because there is other work.
    Poll,
    /// Wait until this time; `None`: without a limit.
    Until(Option<Time>),
}

/// Starts operations on sockets and reports their results. See the module's description.
pub trait Io {
    /// A connected stream socket; dropping it closes it.
    type Socket: fmt::Debug;

    /// The time now.
    fn now(&self) -> Time;

    /// Starts one receive. The buffer is chosen when bytes arrive.
    fn receive(&mut self, token: Token, socket: &Self::Socket);

    /// Starts a receive that goes on until it fails, the peer ends the stream, or no buffer is free (`ENOBUFS`).
    fn receive_many(&mut self, token: Token, socket: &Self::Socket);

    /// Sends as many of `bytes[from..]` as the socket takes at once. A send that takes all bytes does not end a wait:
    /// its completion is reported with the next wait that ends for another reason. So a core that waits for the next
    /// event is not woken only to learn that a send succeeded.
    fn send(&mut self, token: Token, socket: &Self::Socket, bytes: Vec<u8>, from: usize);

    /// Starts a poll, which ends when the socket takes bytes.
    fn poll_writable(&mut self, token: Token, socket: &Self::Socket);

    /// Cancels an operation, which then completes as every operation does. Nothing happens when the operation has
    /// already completed.
    fn cancel(&mut self, token: Token);

    /// Ends this side of the stream. The peer reads everything that was sent, then the end.
    fn shutdown(&mut self, socket: &Self::Socket);

    /// System calls of all waits and starts so far; 0 where there are none.
    fn enters(&self) -> u64 {
        0
    }

    /// Bytes that were sent on a socket and that its peer has not acknowledged; `None`: not known.
    fn unsent(&self, _socket: &Self::Socket) -> Option<usize> {
        None
    }

    /// Starts all operations that were asked for, waits, and appends the completions. Returns whether a
    /// [`wake::Waker`] woke the core since the last call.
    fn wait(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> bool;

    /// The bytes of a buffer.
    fn bytes(&self, buffer: &Buffer) -> &[u8];

    /// Returns a buffer, so that other receives can use it.
    fn give_back(&mut self, buffer: Buffer);
}
