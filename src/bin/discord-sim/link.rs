//! A byte stream: TCP on this executor, with or without TLS, with one output buffer.
//!
//! Promises: bytes that are appended to [`Link::out`] are sent in order, in as few writes as the kernel allows.
//! TCP_NODELAY is set. The task that owns the link polls it, and only that task is woken. TCP and TLS have the same
//! interface.

use futures_lite::{AsyncRead, AsyncWrite};
use gateway_proxy::websocket::{FrameDecoder, Role};
use glommio::net::TcpStream;
use rustls::Connection;
use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::mem::size_of;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Maximum number of bytes of ciphertext in one read.
const TLS_CHUNK: usize = 16 << 10;

struct Tls {
    connection: Connection,
    /// Ciphertext that was read. `received[taken..]` has not been decrypted.
    received: Vec<u8>,
    taken: usize,
    /// Ciphertext that waits to be sent.
    wire: Vec<u8>,
}

/// One connection.
pub struct Link {
    tcp: TcpStream,
    tls: Option<Tls>,
    /// Plain text that waits to be sent; the owner appends to it.
    pub out: Vec<u8>,
    /// Number of bytes at the start of the outgoing buffer that have been sent.
    sent: usize,
}

impl Link {
    /// A link over an established TCP connection, with TLS if `tls` is given.
    ///
    /// # Errors
    /// When TCP_NODELAY cannot be set, because the connection has ended.
    pub fn new(tcp: TcpStream, tls: Option<Connection>) -> io::Result<Self> {
        tcp.set_nodelay(true).map_err(|error| io::Error::other(error.to_string()))?;
        let tls = tls.map(|mut connection| {
            // The owner limits the buffer: it checks `backlog`.
            connection.set_buffer_limit(None);
            Tls { connection, received: Vec::new(), taken: 0, wire: Vec::new() }
        });
        Ok(Self { tcp, tls, out: Vec::new(), sent: 0 })
    }

    /// Bytes that wait to be sent.
    pub fn backlog(&self) -> usize {
        self.out.len() + self.tls.as_ref().map_or(0, |tls| tls.wire.len()) - self.sent
    }

    /// Reads into `space`. Returns 0 at the end of the stream.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, space: &mut [u8]) -> Poll<io::Result<usize>> {
        let Some(tls) = &mut self.tls else {
            return Pin::new(&mut self.tcp).poll_read(cx, space);
        };
        loop {
            match tls.connection.reader().read(space) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                other => return Poll::Ready(other),
            }
            if tls.taken < tls.received.len() {
                let mut rest = &tls.received[tls.taken..];
                let before = rest.len();
                tls.connection.read_tls(&mut rest)?;
                tls.taken += before - rest.len();
                tls.connection.process_new_packets().map_err(io::Error::other)?;
                continue;
            }
            tls.received.resize(TLS_CHUNK, 0);
            let read = Pin::new(&mut self.tcp).poll_read(cx, &mut tls.received);
            tls.taken = 0;
            tls.received.truncate(if let Poll::Ready(Ok(n)) = read { n } else { 0 });
            if ready!(read)? == 0 {
                return Poll::Ready(Ok(0));
            }
        }
    }

    /// Sends as much as the socket takes. Ready when everything is sent.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = match &mut self.tls {
            None => &mut self.out,
            Some(tls) => {
                if !self.out.is_empty() {
                    tls.connection.writer().write_all(&self.out)?;
                    self.out.clear();
                }
                while tls.connection.wants_write() {
                    tls.connection.write_tls(&mut tls.wire)?;
                }
                &mut tls.wire
            }
        };
        while self.sent < out.len() {
            match Pin::new(&mut self.tcp).poll_write(cx, &out[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.sent += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    out.drain(..self.sent);
                    self.sent = 0;
                    return Poll::Pending;
                }
            }
        }
        self.sent = 0;
        out.clear();
        if out.capacity() > 1 << 20 {
            *out = Vec::new();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads the bytes that have come and appends them to `buffer`. Returns 0 at the end of the stream.
    pub async fn read_more(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let mut chunk = [0; 8 << 10];
        let read = poll_fn(|cx| {
            // A TLS handshake may have to send before it can read.
            let _ = self.poll_flush(cx)?;
            let read = self.poll_read(cx, &mut chunk);
            let _ = self.poll_flush(cx)?;
            read
        })
        .await?;
        buffer.extend_from_slice(&chunk[..read]);
        Ok(read)
    }

    /// Sends everything that waits.
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends everything that waits, then the end of the stream.
    pub async fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.connection.send_close_notify();
        }
        let _ = self.flush().await;
        let _ = poll_fn(|cx| Pin::new(&mut self.tcp).poll_close(cx)).await;
    }

    /// Makes the close of the socket send a TCP reset.
    pub fn reset(self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: the descriptor is open as long as `self` lives, and the option is a `linger` of that size.
        unsafe {
            libc::setsockopt(
                self.tcp.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            );
        }
    }
}

/// A frame decoder that already holds the bytes that came together with the handshake.
pub fn inbound(role: Role, most_message: usize, mut bytes: &[u8]) -> FrameDecoder {
    let mut inbound = FrameDecoder::new(role, most_message);
    while !bytes.is_empty() {
        let space = inbound.space();
        let count = space.len().min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        inbound.filled(count);
        bytes = &bytes[count..];
    }
    inbound
}
