//! The two connections of a forwarded request as hyper reads and writes them.
//!
//! Promises: a read takes part in the task's [`ReadBudget`], each byte that moves is noted in the [`Exchange`], and the
//! bytes that the door has already read of the client come first.

use super::{
    super::connection::{ClientConnection, poll_read},
    bodies::Exchange,
};
use crate::net::ReadBudget;
use futures_lite::io::AsyncWrite;
use glommio::net::TcpStream;
use hyper::rt::{Read, ReadBufCursor, Write};
use std::{
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

/// Bytes of `rest_proxy` that are read at a time.
const CHUNK: usize = 16 << 10;

/// The client's connection.
pub struct ClientStream<'a> {
    connection: &'a mut ClientConnection,
    exchange: Rc<Exchange>,
}

impl<'a> ClientStream<'a> {
    /// `connection` has the head of the request in its buffer.
    pub fn new(connection: &'a mut ClientConnection, exchange: Rc<Exchange>) -> Self {
        Self { connection, exchange }
    }

    /// Writes the outbox to the socket.
    fn poll_outbox(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (n, progress) = self.connection.poll_write(cx);
        if n > 0 {
            self.exchange.moved.set(true);
        }
        progress
    }
}

impl Read for ClientStream<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut space: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Self { connection, exchange } = self.get_mut();
        if connection.inbound.pending() == 0 {
            let read = ready!(connection.poll_read(cx));
            match &read {
                Ok(n) if *n > 0 => {
                    exchange.received.set(exchange.received.get() + *n as u64);
                    exchange.moved.set(true);
                }
                _ => exchange.client_gone.set(true),
            }
            read?;
        }
        let bytes = connection.inbound.unconsumed();
        let n = bytes.len().min(space.remaining());
        space.put_slice(&bytes[..n]);
        connection.inbound.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl Write for ClientStream<'_> {
    /// The outbox holds the bytes of one write at most.
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_outbox(cx))?;
        self.connection.outbox.raw(bytes);
        self.exchange.flushed.set(false);
        if let Poll::Ready(Err(error)) = self.poll_outbox(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// hyper calls this when its own buffer is empty.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_outbox(cx))?;
        self.exchange.flushed.set(true);
        Poll::Ready(Ok(()))
    }

    /// The caller ends the connection, so that it can wait for the client to have read everything.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The connection of `rest_proxy`.
pub struct UpstreamStream {
    stream: TcpStream,
    budget: ReadBudget,
    /// The bytes of one read, which hyper's buffer takes at once.
    chunk: Box<[u8]>,
    exchange: Rc<Exchange>,
}

impl UpstreamStream {
    /// Takes a connection on which nothing has been sent yet.
    pub fn new(stream: TcpStream, exchange: Rc<Exchange>) -> Self {
        Self { stream, budget: ReadBudget::default(), chunk: vec![0; CHUNK].into(), exchange }
    }
}

impl Read for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut space: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let Self { stream, budget, chunk, exchange } = self.get_mut();
        let most = space.remaining().min(chunk.len());
        let n = ready!(poll_read(stream, budget, cx, &mut chunk[..most]))?;
        space.put_slice(&chunk[..n]);
        exchange.moved.set(true);
        Poll::Ready(Ok(()))
    }
}

impl Write for UpstreamStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let n = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.exchange.moved.set(true);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The connection is closed when it is dropped.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
