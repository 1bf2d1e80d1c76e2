//! The connection to Discord: TCP, TLS where the URL says so, the WebSocket upgrade, frames in both directions.

use super::{tls::Tls, within};
use crate::websocket::{Inbound, Opcode, Role, client_request, parse_response, write_close, write_frame};
use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use rustls::ClientConfig;
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    net::{SocketAddr, ToSocketAddrs},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tungstenite::http::Uri;

/// How long one address of several may take.
pub const ADDRESS_LIMIT: Duration = Duration::from_secs(5);
/// Largest message that Discord may send us, compressed or not, in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;
/// Longest HTTP head of a server's response to the upgrade.
const MAX_RESPONSE: usize = 16 << 10;
/// Bytes of TLS records read at a time.
const WIRE_CHUNK: usize = 32 << 10;

thread_local! {
    /// TLS records on their way from a socket to rustls.
    static WIRE: RefCell<Vec<u8>> = RefCell::default();
}

/// A gateway URL, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Through TLS?
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path, with a slash in front.
    pub path: String,
}

impl Endpoint {
    /// Reads a `ws://` or `wss://` URL; a query is dropped, because we have our own.
    pub fn parse(url: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{url:?} is no gateway URL: {what}");
        let uri: Uri = url.parse().map_err(|error| wrong(&format!("{error}")))?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(wrong("it has to begin with ws:// or wss://")),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| wrong("it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let names_port =
            uri.authority().is_some_and(|all| all.as_str().rsplit(['@', ']']).next().unwrap_or("").contains(':'));
        if names_port && uri.port_u16().is_none() {
            return Err(wrong("its port is no number up to 65535"));
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = if uri.path().is_empty() { "/".to_owned() } else { uri.path().to_owned() };
        Ok(Self { tls, host, port, path })
    }

    /// Value of the `Host` header.
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// Connects to the first of these addresses that answers in time: one that swallows everything, as IPv6 does in some
/// networks, must not keep us from the others.
pub async fn connect_any(addresses: &[SocketAddr], limit: Duration) -> io::Result<TcpStream> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match within(limit, TcpStream::connect(address)).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => failure = error.into(),
            None => failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
        }
    }
    Err(failure)
}

/// One connection, after its upgrade.
pub struct UpstreamConnection {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    /// What Discord sent.
    pub inbound: Inbound,
    /// Frames to send that are not encrypted yet.
    frames: Vec<u8>,
    /// Bytes for the socket.
    wire: Vec<u8>,
    written: usize,
}

impl UpstreamConnection {
    /// Connects to an endpoint with this query. Tries the addresses of the host in turn. Names are looked up on the
    /// executor's helper thread, so that nothing else waits. Has no time limit of its own.
    pub async fn connect(endpoint: &Endpoint, query: &str, config: Arc<ClientConfig>) -> io::Result<Self> {
        let (host, port) = (endpoint.host.clone(), endpoint.port);
        let addresses: Vec<SocketAddr> = glommio::executor()
            .spawn_blocking(move || (host.as_str(), port).to_socket_addrs().map(Iterator::collect))
            .await?;
        let stream = connect_any(&addresses, ADDRESS_LIMIT).await?;
        Self::upgrade(stream, endpoint, query, config).await
    }

    async fn upgrade(
        stream: TcpStream,
        endpoint: &Endpoint,
        query: &str,
        config: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let tls = if endpoint.tls { Some(Box::new(Tls::new(config, &endpoint.host)?)) } else { None };
        let inbound = Inbound::new(Role::Client, MAX_MESSAGE);
        let mut connection = Self { stream, tls, inbound, frames: Vec::new(), wire: Vec::new(), written: 0 };
        let (request, key) = client_request(&endpoint.authority(), &format!("{}?{query}", endpoint.path));
        connection.frames.extend_from_slice(request.as_bytes());
        loop {
            let parsed = parse_response(connection.inbound.unconsumed(), &key)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let Some(size) = parsed {
                connection.inbound.consume(size);
                return Ok(connection);
            }
            if connection.inbound.pending() > MAX_RESPONSE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "endless response to the upgrade"));
            }
            let read = poll_fn(|cx| {
                if let Poll::Ready(Err(error)) = connection.poll_write(cx) {
                    return Poll::Ready(Err(error));
                }
                connection.poll_read(cx)
            });
            if !read.await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Adds a text message.
    pub fn send(&mut self, payload: &[u8]) {
        write_frame(&mut self.frames, Opcode::Text, payload, Some(mask()));
    }

    /// Adds a pong.
    pub fn pong(&mut self, payload: &[u8]) {
        write_frame(&mut self.frames, Opcode::Pong, payload, Some(mask()));
    }

    /// Adds a close frame.
    pub fn close(&mut self, code: Option<u16>) {
        write_close(&mut self.frames, code, "", Some(mask()));
    }

    /// Reads once; `false`: the peer ended the stream. What came is in `inbound`, which may still have no whole message.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Some(tls) = &mut self.tls else {
            let n = ready!(Pin::new(&mut self.stream).poll_read(cx, self.inbound.space()))?;
            self.inbound.filled(n);
            return Poll::Ready(Ok(n > 0));
        };
        WIRE.with_borrow_mut(|wire| {
            wire.resize(WIRE_CHUNK, 0);
            let n = ready!(Pin::new(&mut self.stream).poll_read(cx, wire))?;
            if n == 0 {
                return Poll::Ready(Ok(false));
            }
            Poll::Ready(Ok(tls.decrypt(&wire[..n], &mut self.inbound)?.is_some()))
        })
    }

    /// Writes everything that was added. `Pending`: the peer has to read first.
    pub fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.tls {
            None => self.wire.append(&mut self.frames),
            Some(tls) => {
                if !self.frames.is_empty() {
                    tls.encrypt(&self.frames)?;
                    self.frames.clear();
                }
                tls.take_wire(&mut self.wire)?;
            }
        }
        while self.written < self.wire.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.wire[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        self.wire.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

fn mask() -> [u8; 4] {
    fastrand::u32(..).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_does_not_answer_does_not_keep_us_from_the_next() {
        use std::{net::TcpListener, os::fd::AsRawFd};
        let (silent, good) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [&silent, &good].map(|listener| listener.local_addr().unwrap());
        // SAFETY: the descriptor is a listening socket, which may be told to listen with another backlog.
        assert_eq!(unsafe { libc::listen(silent.as_raw_fd(), 0) }, 0);
        // Its queue is full when the kernel lets nobody in any more.
        let crowd: Vec<_> =
            std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&addresses[0], Duration::from_millis(300)).ok())
                .take(100)
                .collect();
        assert!(crowd.len() < 100);
        let connected = glommio::LocalExecutorBuilder::default()
            .io_memory(65_536)
            .spawn(move || async move {
                let stream = connect_any(&addresses, Duration::from_millis(300)).await.unwrap();
                stream.peer_addr().unwrap() == addresses[1]
            })
            .unwrap();
        assert!(connected.join().unwrap());
    }

    #[test]
    fn urls_are_taken_apart() {
        let endpoint = |tls, host: &str, port, path: &str| Endpoint { tls, host: host.into(), port, path: path.into() };
        for (url, expected, authority) in [
            ("wss://gateway.discord.gg", endpoint(true, "gateway.discord.gg", 443, "/"), "gateway.discord.gg"),
            ("wss://a.gg/?v=9", endpoint(true, "a.gg", 443, "/"), "a.gg"),
            ("ws://127.0.0.1:7979/r/x", endpoint(false, "127.0.0.1", 7979, "/r/x"), "127.0.0.1:7979"),
            ("ws://[::1]:80", endpoint(false, "::1", 80, "/"), "[::1]"),
        ] {
            let parsed = Endpoint::parse(url).unwrap();
            assert_eq!(parsed, expected);
            assert_eq!(parsed.authority(), authority);
        }
        for bad in ["", "http://a.gg", "wss://", "gateway.discord.gg", "ws://a:99999", "wss:///x"] {
            assert!(Endpoint::parse(bad).unwrap_err().contains("no gateway URL"), "{bad}");
        }
    }
}
