//! Opens a connection to Discord: name lookup, TCP, TLS where the URL says so, and the WebSocket upgrade. The result
//! is plain data, which a data core continues with.
//!
//! Promises: bytes that follow the response to the upgrade are kept. Never sends a Gateway payload.

use super::{
    hosts::HostError,
    tls::{Tls, TlsError},
    within,
};
use crate::websocket::{Endpoint, EndpointError, FrameDecoder, HandshakeError, Role, client_request, parse_response};
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::TcpStream;
use rustls::ClientConfig;
use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::{Arc, Weak},
    time::Duration,
};

/// Longest time for connecting to one of several addresses.
pub const ADDRESS_LIMIT: Duration = Duration::from_secs(5);
/// Largest message that Discord may send, compressed or not, in bytes.
pub const MAX_MESSAGE: usize = 64 << 20;
/// Longest HTTP head of the response to the upgrade, in bytes.
const MAX_RESPONSE: usize = 16 << 10;
/// Bytes of TLS records that one read takes at most.
const WIRE_CHUNK: usize = 32 << 10;

/// A connection to Discord after its upgrade.
pub struct Dialled<S = OwnedFd> {
    /// The socket.
    pub socket: S,
    /// The state of TLS; `None`: the URL was a `ws` one.
    pub tls: Option<Box<Tls>>,
    /// Bytes that were received after the response to the upgrade.
    pub inbound: FrameDecoder,
}

/// Why a connection to Discord could not be made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name of the host has no address.
    #[error("the host name has no address")]
    NoAddress,
    /// The last address that was tried does not answer.
    #[error("{0} does not answer")]
    Silent(SocketAddr),
    /// The name lookup, the socket or the TLS handshake has failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// TLS can not be set up for the host of the URL.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The response does not accept the upgrade.
    #[error(transparent)]
    Upgrade(#[from] HandshakeError),
    /// The head of the response is longer than [`MAX_RESPONSE`].
    #[error("the response to the upgrade is too long")]
    ResponseTooLong,
    /// The peer has ended the stream within the response.
    #[error("the connection ended before the upgrade was complete")]
    Ended,
}

/// Why a shard gets no connection to Discord.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The shard wants to connect to something that is no gateway URL.
    #[error(transparent)]
    Url(#[from] EndpointError),
    /// The shard may not connect to the host of the URL.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The shard may not connect to the URL that `/gateway/bot` named either.
    #[error("{url}: {source}")]
    General {
        /// The URL of `/gateway/bot`.
        url: String,
        /// Why the shard may not connect to it.
        source: Box<ConnectError>,
    },
    /// The connection could not be made.
    #[error("{url}: {source}")]
    Dial {
        /// The URL that the shard connects to.
        url: String,
        /// Why there is no connection.
        source: DialError,
    },
    /// The connection was not made in time.
    #[error("{url} does not answer within {} s", limit.as_secs())]
    Timeout {
        /// The URL that the shard connects to.
        url: String,
        /// The longest wait.
        limit: Duration,
    },
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        let kind = match error {
            DialError::Io(error) => return error,
            DialError::NoAddress => io::ErrorKind::NotFound,
            DialError::Tls(_) => io::ErrorKind::InvalidInput,
            DialError::Silent(_) => io::ErrorKind::TimedOut,
            DialError::Upgrade(_) | DialError::ResponseTooLong => io::ErrorKind::InvalidData,
            DialError::Ended => io::ErrorKind::UnexpectedEof,
        };
        Self::new(kind, error)
    }
}

/// Connects to the first of these addresses that answers within `limit`. Some networks drop all packets to some
/// addresses, IPv6 ones for instance; such an address must not block the others.
pub async fn connect_any(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, DialError> {
    let mut failure = DialError::NoAddress;
    for address in addresses {
        match within(limit, TcpStream::connect(address)).await {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => failure = io::Error::from(error).into(),
            None => failure = DialError::Silent(*address),
        }
    }
    Err(failure)
}

/// The addresses of a host, which is a name or an address. A name is looked up on the executor's helper thread, so
/// nothing else on the executor waits, but lookups wait for each other. A lookup that nobody waits for any more is
/// skipped. There is no time limit.
pub async fn addresses_of(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let caller = Arc::new(());
    let (host, waits) = (host.to_owned(), Arc::downgrade(&caller));
    let addresses = glommio::executor().spawn_blocking(move || look_up(&host, port, &waits)).await;
    drop(caller);
    addresses
}

/// The addresses of a name; none if the caller that owns `waits` is gone.
fn look_up(host: &str, port: u16, waits: &Weak<()>) -> io::Result<Vec<SocketAddr>> {
    match waits.upgrade() {
        Some(_) => (host, port).to_socket_addrs().map(Iterator::collect),
        None => Ok(Vec::new()),
    }
}

/// Opens a connection to `endpoint` with this query. Tries the addresses of the host in order. There is no time limit
/// for the whole.
pub async fn dial(endpoint: &Endpoint, query: &str, config: Arc<ClientConfig>) -> Result<Dialled, DialError> {
    let addresses = addresses_of(&endpoint.host, endpoint.port).await?;
    let stream = connect_any(&addresses, ADDRESS_LIMIT).await?;
    stream.set_nodelay(true).map_err(io::Error::from)?;
    let tls = if endpoint.tls { Some(Box::new(Tls::new(config, &endpoint.host)?)) } else { None };
    let (request, key) = client_request(&endpoint.authority(), &format!("{}?{query}", endpoint.path));
    let mut handshake =
        Handshake { stream, tls, inbound: FrameDecoder::new(Role::Client, MAX_MESSAGE), wire: Vec::new() };
    match &mut handshake.tls {
        None => handshake.wire.extend_from_slice(request.as_bytes()),
        Some(tls) => tls.encrypt(request.as_bytes())?,
    }
    handshake.finish(&key).await
}

/// A connection during its upgrade.
struct Handshake {
    stream: TcpStream,
    tls: Option<Box<Tls>>,
    inbound: FrameDecoder,
    /// Bytes to write to the socket.
    wire: Vec<u8>,
}

impl Handshake {
    /// Reads the response to the upgrade. The bytes after it stay in the decoder.
    async fn finish(mut self, key: &str) -> Result<Dialled, DialError> {
        let mut ended = false;
        loop {
            if !ended {
                self.write().await?;
            }
            if let Some(size) = parse_response(self.inbound.unconsumed(), key)? {
                self.inbound.consume(size);
                // SAFETY: the stream keeps the descriptor open until the end of this function, which drops the
                // stream. The stream reads only when asked, so the kernel has every byte that is not in the decoder.
                let socket = unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }.try_clone_to_owned()?;
                return Ok(Dialled { socket, tls: self.tls, inbound: self.inbound });
            }
            if self.inbound.pending() > MAX_RESPONSE {
                return Err(DialError::ResponseTooLong);
            }
            if ended {
                return Err(DialError::Ended);
            }
            // With TLS, the end may come together with the response.
            ended = !self.read().await?;
        }
    }

    async fn write(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            tls.take_wire(&mut self.wire)?;
        }
        self.stream.write_all(&self.wire).await?;
        self.wire.clear();
        Ok(())
    }

    /// Reads once. `false`: the peer has ended the stream.
    async fn read(&mut self) -> io::Result<bool> {
        let Some(tls) = &mut self.tls else {
            let n = self.stream.read(self.inbound.space()).await?;
            self.inbound.filled(n);
            return Ok(n > 0);
        };
        let mut records = vec![0; WIRE_CHUNK];
        let n = self.stream.read(&mut records).await?;
        Ok(n > 0 && !tls.decrypt(&records[..n], &mut self.inbound)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    #[test]
    fn a_lookup_that_hangs_holds_up_names_and_no_addresses() {
        let executor = glommio::LocalExecutorBuilder::default().io_memory(65_536).spawn(|| async {
            let (release, hangs) = std::sync::mpsc::channel::<()>();
            let hanging = glommio::executor().spawn_blocking(move || hangs.recv());
            assert_eq!(addresses_of("127.0.0.1", 7).await.unwrap(), ["127.0.0.1:7".parse().unwrap()]);
            assert_eq!(addresses_of("::1", 7).await.unwrap(), ["[::1]:7".parse().unwrap()]);
            let addresses = {
                let mut waits = std::pin::pin!(addresses_of("localhost", 7));
                assert!(futures_lite::future::poll_once(&mut waits).await.is_none(), "it waits for the other lookup");
                release.send(()).unwrap();
                hanging.await.unwrap();
                waits.await.unwrap()
            };
            assert!(!addresses.is_empty() && addresses.iter().all(|address| address.ip().is_loopback()));
        });
        executor.unwrap().join().unwrap();
    }

    #[test]
    fn a_lookup_that_nobody_waits_for_is_skipped() {
        let caller = Arc::new(());
        let waits = Arc::downgrade(&caller);
        assert!(!look_up("localhost", 7, &waits).unwrap().is_empty());
        drop(caller);
        assert!(look_up("localhost", 7, &waits).unwrap().is_empty());
    }

    /// The response and the end of TLS come in one segment.
    #[test]
    fn a_refusal_is_told_although_the_stream_has_ended() {
        let (client, server) = super::super::tls::tests::configs();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("wss://localhost:{}", listener.local_addr().unwrap().port());
        let serving = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut tls = rustls::ServerConnection::new(server).unwrap();
            let mut bytes = [0; 4096];
            assert!(rustls::Stream::new(&mut tls, &mut socket).read(&mut bytes).unwrap() > 0);
            tls.writer().write_all(b"HTTP/1.1 503 Busy\r\n\r\n").unwrap();
            tls.send_close_notify();
            let mut records = Vec::new();
            while tls.wants_write() {
                tls.write_tls(&mut records).unwrap();
            }
            socket.write_all(&records).unwrap();
            // The TCP stream stays open until the proxy ends it.
            let _ = socket.read(&mut bytes);
        });
        let executor = glommio::LocalExecutorBuilder::default()
            .io_memory(65_536)
            .spawn(move || async move { dial(&Endpoint::parse(&url).unwrap(), "v=10", client).await.err() });
        let error = executor.unwrap().join().unwrap();
        assert!(matches!(error, Some(DialError::Upgrade(HandshakeError::Status(503)))), "{error:?}");
        serving.join().unwrap();
    }

    #[test]
    fn an_address_that_does_not_answer_does_not_block_the_next() {
        let (silent, good) = (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [&silent, &good].map(|listener| listener.local_addr().unwrap());
        rustix::net::listen(&silent, 0).unwrap();
        // The queue of the listener is full once a connection is not accepted any more.
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
}
