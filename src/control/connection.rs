//! The connection of a client on a glommio executor: a socket, its frame decoder and its outbox. The connection can
//! move between executors.
//!
//! Promises: pings are answered; a client that the proxy closes receives everything that was queued for it, then the
//! close frame, then the end of the stream, unless it does not read for [`LINGER`]. Never knows a session or a shard.

use crate::{
    data_core::ConnectionParts,
    downstream::outbox::Outbox,
    net::{ReadBudget, within},
    websocket::{FrameDecoder, Message, Violation},
};
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use std::{
    future::poll_fn,
    io,
    net::Shutdown,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

/// Longest time for sending the last bytes and waiting for the client's end of the stream.
const LINGER: Duration = Duration::from_secs(2);

/// A message from a client.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// A text message, in UTF-8.
    Text(&'a [u8]),
    /// A binary message.
    Binary(&'a [u8]),
}

/// Why a client's connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionEnd {
    /// The connection broke, or the client ended the stream without a close frame.
    Lost,
    /// The client sent a close frame with this code.
    Closed(Option<u16>),
    /// The client broke a rule of RFC 6455.
    Violated(Violation),
}

/// A client's connection. It belongs to the executor on which it was made.
pub struct ClientConnection {
    stream: TcpStream,
    /// Decodes the bytes that the client sends.
    pub inbound: FrameDecoder,
    /// Queues the bytes for the client.
    pub outbox: Outbox,
    budget: ReadBudget,
    /// The client's address, when a proxy in front of us has made the connection and named the client.
    made_for: Option<std::net::SocketAddr>,
}

impl ClientConnection {
    /// Wraps a connection that the calling executor has accepted.
    pub fn new(stream: TcpStream, inbound: FrameDecoder, outbox: Outbox) -> Self {
        Self { stream, inbound, outbox, budget: ReadBudget::default(), made_for: None }
    }

    /// The client's address. `None`: the client has disconnected.
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        self.made_for.or_else(|| self.stream.peer_addr().ok())
    }

    /// Sets the client's address: a proxy has made the connection and named the client.
    pub fn set_peer(&mut self, peer: std::net::SocketAddr) {
        self.made_for = Some(peer);
    }

    /// The file descriptor of the socket.
    pub fn descriptor(&self) -> std::os::fd::RawFd {
        self.stream.as_raw_fd()
    }

    /// Makes a connection of the calling executor from the parts that another thread has sent.
    pub fn from_parts(parts: ConnectionParts) -> Self {
        // SAFETY: the descriptor is a connected TCP socket that `parts` owned. Its ownership moves to the stream.
        let stream = unsafe { TcpStream::from_raw_fd(parts.socket.into_raw_fd()) };
        Self::new(stream, parts.inbound, parts.outbox)
    }

    /// Takes the connection apart into plain data, which another thread can use. No byte is lost: glommio reads only
    /// when asked, so every byte is either in the decoder or still in the kernel.
    pub fn into_parts(self) -> io::Result<ConnectionParts> {
        // SAFETY: the stream keeps the descriptor open until it is dropped at the end of this function.
        let socket = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }.try_clone_to_owned()?;
        Ok(ConnectionParts { socket, inbound: self.inbound, outbox: self.outbox })
    }

    /// Reads once, within the task's [`ReadBudget`]. `Ok(0)`: the client has ended its side of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n = ready!(poll_read(&mut self.stream, &mut self.budget, cx, self.inbound.space()))?;
        self.inbound.filled(n);
        Poll::Ready(Ok(n))
    }

    /// Writes the outbox to the socket. `Pending`: the socket is full until the client reads. The first result is the
    /// number of bytes written.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> (usize, Poll<io::Result<()>>) {
        let mut total = 0;
        while !self.outbox.pending().is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, self.outbox.pending()) {
                Poll::Ready(Ok(0)) => return (total, Poll::Ready(Err(io::ErrorKind::WriteZero.into()))),
                Poll::Ready(Ok(n)) => {
                    self.outbox.wrote(n);
                    total += n;
                }
                Poll::Ready(Err(error)) => return (total, Poll::Ready(Err(error))),
                Poll::Pending => return (total, Poll::Pending),
            }
        }
        (total, Poll::Ready(Ok(())))
    }

    /// Calls `handle` with each complete message until `handle` returns a value. Answers pings.
    pub fn messages<T: From<ConnectionEnd>>(
        &mut self,
        mut handle: impl FnMut(Payload<'_>, &mut Outbox) -> Option<T>,
    ) -> Option<T> {
        let Self { inbound, outbox, .. } = self;
        loop {
            let payload = match inbound.next() {
                Ok(None) => return None,
                Ok(Some(Message::Text(bytes))) => Payload::Text(bytes),
                Ok(Some(Message::Binary(bytes))) => Payload::Binary(bytes),
                Ok(Some(Message::Ping(payload))) => {
                    outbox.pong(payload);
                    continue;
                }
                Ok(Some(Message::Pong(_))) => continue,
                Ok(Some(Message::Close(close))) => {
                    return Some(ConnectionEnd::Closed(close.map(|(code, _)| code)).into());
                }
                Err(violation) => return Some(ConnectionEnd::Violated(violation).into()),
            };
            if let Some(done) = handle(payload, outbox) {
                return Some(done);
            }
        }
    }

    /// Reads and writes, and calls `handle` with each message, until `handle` returns a value or the connection ends.
    pub async fn read_until<T: From<ConnectionEnd>>(
        &mut self,
        mut handle: impl FnMut(Payload<'_>, &mut Outbox) -> Option<T>,
    ) -> T {
        poll_fn(|cx| {
            loop {
                if let Some(done) = self.messages(&mut handle) {
                    return Poll::Ready(done);
                }
                if let (_, Poll::Ready(Err(_))) = self.poll_write(cx) {
                    return Poll::Ready(ConnectionEnd::Lost.into());
                }
                if self.outbox.is_full() {
                    // The client sends without reading. Its next bytes stay in the kernel until it reads.
                    return Poll::Pending;
                }
                match self.poll_read(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(ConnectionEnd::Lost.into()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Closes the connection: sends a close frame, then lingers. Without a reason the close frame answers the client's
    /// own.
    pub async fn close(&mut self, code: Option<u16>, reason: &str) {
        if !reason.is_empty() {
            let address = self.peer();
            tracing::debug!(?address, code, reason, "the proxy closes the connection of a client that has no session");
        }
        self.outbox.close(code, reason);
        self.linger().await;
    }

    /// Writes the rest of the outbox, ends the proxy's side of the stream, and waits for the client to end its side;
    /// [`LINGER`] at most.
    pub async fn linger(&mut self) {
        let _ = within(LINGER, async {
            let _ = poll_fn(|cx| self.poll_write(cx).1).await;
            self.finish();
            poll_fn(|cx| self.poll_drain(cx)).await;
        })
        .await;
    }

    /// Ends the proxy's side of the stream. The client reads everything that was written, then the end.
    fn finish(&mut self) {
        // An error means that the connection is already broken.
        let _ = shutdown_write(&self.stream);
    }

    /// Reads and drops bytes until the client ends its side of the stream.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut sink = [0; 2048];
        loop {
            match ready!(poll_read(&mut self.stream, &mut self.budget, cx, &mut sink)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }
}

/// Reads once, if the budget allows it.
pub fn poll_read(
    stream: &mut TcpStream,
    budget: &mut ReadBudget,
    cx: &mut Context<'_>,
    space: &mut [u8],
) -> Poll<io::Result<usize>> {
    ready!(budget.poll_take(cx));
    let read = Pin::new(stream).poll_read(cx, space);
    if read.is_pending() {
        budget.renew();
    }
    read
}

fn shutdown_write(stream: &TcpStream) -> io::Result<()> {
    // SAFETY: the stream keeps the descriptor open for the length of this call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
    std::net::TcpStream::from(descriptor.try_clone_to_owned()?).shutdown(Shutdown::Write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compression::Transport,
        protocol::Encoding,
        websocket::{Message, Opcode, Role, write_frame},
    };
    use std::{future::poll_fn, io::Write, os::fd::OwnedFd};

    /// Number of bytes that have arrived at a socket and have not been read.
    fn unread(socket: &OwnedFd) -> u64 {
        rustix::io::ioctl_fionread(socket).unwrap()
    }

    /// A peer that sends without a pause does not keep the other tasks from running, whether its bytes are decoded or
    /// dropped.
    #[test]
    fn a_peer_that_sends_on_and_on_does_not_keep_the_core_to_itself() {
        const SENT: u64 = 60_000;
        for drain in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut far = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let near = OwnedFd::from(listener.accept().unwrap().0);
            far.write_all(&[0; SENT as usize]).unwrap();
            while unread(&near) < SENT {
                std::thread::yield_now();
            }
            let executor = glommio::LocalExecutorBuilder::default().io_memory(65_536).spawn(move || async move {
                let watched = near.try_clone().unwrap();
                let parts = ConnectionParts {
                    socket: near,
                    inbound: FrameDecoder::new(Role::Server, 1 << 20),
                    outbox: Outbox::new(Transport::None, Encoding::Json),
                };
                let mut connection = ClientConnection::from_parts(parts);
                let task = glommio::spawn_local(async move {
                    if drain {
                        return poll_fn(|cx| connection.poll_drain(cx)).await;
                    }
                    while poll_fn(|cx| connection.poll_read(cx)).await.unwrap() > 0 {
                        let n = connection.inbound.pending();
                        connection.inbound.consume(n);
                    }
                });
                // The unread bytes after the first turn of the task.
                let mut seen = SENT;
                while seen == SENT {
                    futures_lite::future::yield_now().await;
                    seen = unread(&watched);
                }
                drop(far);
                task.await;
                seen
            });
            let seen = executor.unwrap().join().unwrap();
            assert!(seen > 0, "all of it was read in one turn");
        }
    }

    /// Moves a connection to another executor after every few messages, while the peer writes without a pause.
    #[test]
    fn nothing_is_lost_between_cores() {
        const MESSAGES: u32 = 2_000;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let writer = std::thread::spawn(move || {
            let mut socket = std::net::TcpStream::connect(address).unwrap();
            for number in 0..MESSAGES {
                let mut frame = Vec::new();
                let payload = number.to_string().repeat(1 + number as usize % 200);
                write_frame(&mut frame, Opcode::Text, payload.as_bytes(), Some([9, 8, 7, 6]));
                let (a, b) = frame.split_at(number as usize % frame.len());
                socket.write_all(a).unwrap();
                socket.write_all(b).unwrap();
            }
            socket
        });
        let socket = OwnedFd::from(listener.accept().unwrap().0);
        let parts = ConnectionParts {
            socket,
            inbound: FrameDecoder::new(Role::Server, 4096),
            outbox: Outbox::new(Transport::None, Encoding::Json),
        };
        let mut parts = Some(parts);
        let mut next = 0;
        while next < MESSAGES {
            let taken = parts.take().unwrap();
            let (moved, read) = glommio::LocalExecutorBuilder::default()
                .io_memory(65_536)
                .spawn(move || async move {
                    let mut connection = ClientConnection::from_parts(taken);
                    let mut read = 0;
                    // Each executor reads a different number of messages, so the connection moves at different
                    // offsets of a frame.
                    while read < 1 + next % 97 && next + read < MESSAGES {
                        if let Some(Message::Text(text)) = connection.inbound.next().unwrap() {
                            let number = next + read;
                            assert_eq!(text, number.to_string().repeat(1 + number as usize % 200).as_bytes());
                            read += 1;
                        } else {
                            assert_ne!(poll_fn(|cx| connection.poll_read(cx)).await.unwrap(), 0);
                        }
                    }
                    (connection.into_parts().unwrap(), read)
                })
                .unwrap()
                .join()
                .unwrap();
            parts = Some(moved);
            next += read;
        }
        drop(writer.join().unwrap());
    }
}
