//! The connection of a bot: a socket, its decoder and its outbox, which can move between cores.
//!
//! What every connection does, whoever owns it, is here once: pings are answered, and the end is one that the client hears.

use super::{Budget, within};
use crate::{
    data_core::Parcel,
    downstream::outbox::Outbox,
    websocket::{Inbound, Message, Violation},
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

/// How long the last bytes and the end of the connection may take.
const LINGER: Duration = Duration::from_secs(2);

/// What a client says: one message.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// UTF-8.
    Text(&'a [u8]),
    /// Arbitrary bytes.
    Binary(&'a [u8]),
}

/// Why a client says nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The network ended the connection, or the client without a word.
    Lost,
    /// The client closed, with this code.
    Closed(Option<u16>),
    /// The client broke the protocol.
    Violated(Violation),
}

/// A connection on the executor that it was made on.
pub struct ClientConnection {
    stream: TcpStream,
    /// What the client sent.
    pub inbound: Inbound,
    /// What goes to the client.
    pub outbox: Outbox,
    budget: Budget,
    /// For whom somebody has made it.
    made_for: Option<std::net::SocketAddr>,
}

impl ClientConnection {
    /// A connection that was accepted on the calling executor.
    pub fn new(stream: TcpStream, inbound: Inbound, outbox: Outbox) -> Self {
        Self { stream, inbound, outbox, budget: Budget::default(), made_for: None }
    }

    /// The address of the client; `None`: it is gone.
    pub fn peer(&self) -> Option<std::net::SocketAddr> {
        self.made_for.or_else(|| self.stream.peer_addr().ok())
    }

    /// The client is somebody else than who has made the connection.
    pub fn set_peer(&mut self, peer: std::net::SocketAddr) {
        self.made_for = Some(peer);
    }

    /// The number of its descriptor.
    pub fn descriptor(&self) -> std::os::fd::RawFd {
        self.stream.as_raw_fd()
    }

    /// Takes a connection over, on the calling executor.
    pub fn unpack(parcel: Parcel) -> Self {
        // SAFETY: the descriptor is a connected TCP socket that `parcel` owned, and ownership goes to the stream.
        let stream = unsafe { TcpStream::from_raw_fd(parcel.socket.into_raw_fd()) };
        Self::new(stream, parcel.inbound, parcel.outbox)
    }

    /// Makes it ready to move. glommio reads only when asked, with a non-blocking call, so the kernel holds everything
    /// that is not in `inbound`, and nothing is lost on the way.
    pub fn pack(self) -> io::Result<Parcel> {
        // SAFETY: the stream keeps the descriptor open until it is dropped at the end of this function.
        let socket = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }.try_clone_to_owned()?;
        Ok(Parcel { socket, inbound: self.inbound, outbox: self.outbox })
    }

    /// Reads once, within the task's [`Budget`]. `Ok(0)`: the client has ended its side.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let n = ready!(poll_read(&mut self.stream, &mut self.budget, cx, self.inbound.space()))?;
        self.inbound.filled(n);
        Poll::Ready(Ok(n))
    }

    /// Writes everything that is in the outbox. `Pending`: the client has to read first. Returns how much was written.
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

    /// Gives each message that is complete to `handle`, until that returns something, and answers pings.
    pub fn messages<T: From<Ended>>(
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
                Ok(Some(Message::Close(close))) => return Some(Ended::Closed(close.map(|(code, _)| code)).into()),
                Err(violation) => return Some(Ended::Violated(violation).into()),
            };
            if let Some(done) = handle(payload, outbox) {
                return Some(done);
            }
        }
    }

    /// Reads and writes, and gives each message to `handle`, until that returns something or the client has ended.
    pub async fn converse<T: From<Ended>>(
        &mut self,
        mut handle: impl FnMut(Payload<'_>, &mut Outbox) -> Option<T>,
    ) -> T {
        poll_fn(|cx| {
            loop {
                if let Some(done) = self.messages(&mut handle) {
                    return Poll::Ready(done);
                }
                if let (_, Poll::Ready(Err(_))) = self.poll_write(cx) {
                    return Poll::Ready(Ended::Lost.into());
                }
                if self.outbox.is_full() {
                    // It sends and does not read: no more of it until it does.
                    return Poll::Pending;
                }
                match self.poll_read(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Ended::Lost.into()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Says goodbye so that the client hears it: the close frame, our end of the stream, then its end.
    pub async fn goodbye(&mut self, code: Option<u16>, reason: &str) {
        self.outbox.close(code, reason);
        self.linger().await;
    }

    /// Writes what is left, ends our side and waits for the other.
    pub async fn linger(&mut self) {
        let _ = within(LINGER, async {
            let _ = poll_fn(|cx| self.poll_write(cx).1).await;
            self.finish();
            poll_fn(|cx| self.poll_drain(cx)).await;
        })
        .await;
    }

    /// Ends our side of the stream; the client sees everything that was written first.
    fn finish(&mut self) {
        // The socket may be dead already, which is as good.
        let _ = shutdown_write(&self.stream);
    }

    /// Reads and drops bytes until the client ends its side.
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

/// Reads once, if the budget allows.
pub fn poll_read(
    stream: &mut TcpStream,
    budget: &mut Budget,
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

    /// Bytes that have arrived at a socket and have not been read.
    fn unread(socket: &OwnedFd) -> i32 {
        let mut bytes = 0;
        // SAFETY: FIONREAD writes an int to where the pointer is to.
        assert_eq!(unsafe { libc::ioctl(socket.as_raw_fd(), libc::FIONREAD, &mut bytes) }, 0);
        bytes
    }

    /// However much a peer sends, others have their turn, whatever is done with what comes.
    #[test]
    fn a_peer_that_sends_on_and_on_does_not_keep_the_core_to_itself() {
        const SENT: i32 = 60_000;
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
                let parcel = Parcel {
                    socket: near,
                    inbound: Inbound::new(Role::Server, 1 << 20),
                    outbox: Outbox::new(Transport::None, Encoding::Json),
                };
                let mut connection = ClientConnection::unpack(parcel);
                let task = glommio::spawn_local(async move {
                    if drain {
                        return poll_fn(|cx| connection.poll_drain(cx)).await;
                    }
                    while poll_fn(|cx| connection.poll_read(cx)).await.unwrap() > 0 {
                        let n = connection.inbound.pending();
                        connection.inbound.consume(n);
                    }
                });
                // What is left after its first turn.
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

    /// A connection moves between two executors after every message, while the peer writes on and on.
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
        let parcel = Parcel {
            socket,
            inbound: Inbound::new(Role::Server, 4096),
            outbox: Outbox::new(Transport::None, Encoding::Json),
        };
        let mut parcel = Some(parcel);
        let mut next = 0;
        while next < MESSAGES {
            let taken = parcel.take().unwrap();
            let (moved, read) = glommio::LocalExecutorBuilder::default()
                .io_memory(65_536)
                .spawn(move || async move {
                    let mut connection = ClientConnection::unpack(taken);
                    let mut read = 0;
                    // A different number of messages on each core, so that the move happens at odd places.
                    while read < 1 + next % 97 && next + read < MESSAGES {
                        if let Some(Message::Text(text)) = connection.inbound.next().unwrap() {
                            let number = next + read;
                            assert_eq!(text, number.to_string().repeat(1 + number as usize % 200).as_bytes());
                            read += 1;
                        } else {
                            assert_ne!(poll_fn(|cx| connection.poll_read(cx)).await.unwrap(), 0);
                        }
                    }
                    (connection.pack().unwrap(), read)
                })
                .unwrap()
                .join()
                .unwrap();
            parcel = Some(moved);
            next += read;
        }
        drop(writer.join().unwrap());
    }
}
