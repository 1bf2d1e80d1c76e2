//! A blocking WebSocket client.
//!
//! Its frames are async-tungstenite's, which shares no code with the proxy's own frame codec, so that the two check each
//! other.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use async_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        error::ProtocolError,
        protocol::{Role, WebSocketConfig},
    },
};
use futures_lite::{
    AsyncRead, AsyncWrite, StreamExt,
    future::{block_on, poll_once},
};

use super::{Gone, PATIENCE};

/// Largest message that a test accepts, in bytes.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// The key and its answer that RFC 6455 section 1.3 has as an example.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A blocking socket in the form that async-tungstenite needs. A read is pending when it has timed out.
struct Blocking(TcpStream);

impl AsyncRead for Blocking {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.0.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

impl AsyncWrite for Blocking {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.write(bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.flush())
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shutdown(Shutdown::Write))
    }
}

/// A connection after the upgrade.
pub struct WebSocket(WebSocketStream<Blocking>);

impl WebSocket {
    /// Connects and upgrades to WebSocket. The bytes of `early` are sent together with the request for the upgrade.
    ///
    /// # Errors The error of the network or of the handshake.
    pub fn open(address: SocketAddr, target: &str, early: &[u8]) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
        );
        stream.write_all(&[request.as_bytes(), early].concat())?;
        let (mut received, mut bytes) = (Vec::new(), [0; 4096]);
        let size = loop {
            if let Some(size) = answer(&received)? {
                break size;
            }
            match stream.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => received.extend_from_slice(&bytes[..n]),
            }
        };
        let limits = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
        // What follows the response are frames already.
        let frames = received.split_off(size);
        let socket = WebSocketStream::from_partially_read(Blocking(stream), frames, Role::Client, Some(limits));
        Ok(Self(block_on(socket)))
    }

    /// Sets how long [`Self::receive`] waits instead of [`PATIENCE`].
    pub fn set_patience(&mut self, patience: Duration) {
        self.0.get_ref().0.set_read_timeout(Some(patience)).expect("a timeout");
    }

    /// Receives the next message or control frame.
    ///
    /// # Errors The connection has ended, or nothing came in time.
    ///
    /// # Panics When the server breaks RFC 6455.
    pub fn receive(&mut self) -> Result<Message, Gone> {
        match block_on(poll_once(self.0.next())) {
            None => Err(Gone::Silent),
            Some(Some(Ok(message))) => Ok(message),
            Some(
                None
                | Some(Err(
                    Error::Io(_)
                    | Error::ConnectionClosed
                    | Error::AlreadyClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                )),
            ) => Err(Gone::Ended),
            Some(Some(Err(error))) => panic!("the server breaks RFC 6455: {error}"),
        }
    }

    /// Sends a message or control frame.
    ///
    /// # Errors The error of the network.
    pub fn send(&mut self, message: Message) -> io::Result<()> {
        block_on(self.0.send(message)).map_err(|error| match error {
            Error::Io(error) => error,
            other => io::Error::other(other),
        })
    }

    /// Sends raw bytes, for frames that no library would send.
    ///
    /// # Errors The error of the network.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().0.write_all(bytes)
    }
}

/// The size of the response to the request for an upgrade; `None`: it is not complete.
///
/// # Errors It is not HTTP, or refuses the upgrade.
fn answer(received: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let size = match response.parse(received).map_err(io::Error::other)? {
        httparse::Status::Complete(size) => size,
        httparse::Status::Partial => return Ok(None),
    };
    if response.code != Some(101) {
        return Err(io::Error::other(format!("the server answered {:?} instead of 101", response.code)));
    }
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value)
    };
    let says = |name, expected: &[u8]| value(name).is_some_and(|value| value.eq_ignore_ascii_case(expected));
    if !says("Upgrade", b"websocket")
        || !says("Connection", b"upgrade")
        || value("Sec-WebSocket-Accept") != Some(ACCEPT)
    {
        return Err(io::Error::other("a header of the upgrade is missing or wrong"));
    }
    if value("Sec-WebSocket-Extensions").is_some() {
        return Err(io::Error::other("the server agreed to an extension that nobody asked for"));
    }
    Ok(Some(size))
}
