//! The listening socket: bound by this process, or inherited through socket activation.
//!
//! With socket activation (`LISTEN_FDS`, sd_listen_fds(3)) systemd owns the port. The port stays open between two
//! processes, and a client that connects in between waits in the backlog instead of being refused. That matters
//! because many libraries answer a refused connection with an IDENTIFY, which loses the events in between.
//!
//! Promises: a connection that is accepted holds at most [`UNSENT_LIMIT`] of unsent bytes in the kernel. Never
//! accepts a connection itself.

mod admin;

pub use admin::AdminListenError;
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Longest time to wait for a port that another process holds: the kernel frees the ring of a process that has just
/// died, and with the ring its port, only after some time.
const BIND_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two attempts to bind.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// Longest time for connecting to the own port, which wakes the accept loop.
const WAKE_LIMIT: Duration = Duration::from_secs(1);

/// Bytes that the kernel holds for one connection and has not sent yet (`TCP_NOTSENT_LOWAT`). A send ends, and the
/// socket counts as full, when this many bytes are unsent. The kernel checks before each of its buffers, so one more
/// buffer (64 KiB) may be unsent. A client that does not read thus costs at most 128 KiB of payload and the overhead
/// of its buffers, instead of the 4 MiB that Linux grows a send buffer to.
///
/// Bytes that are sent and not acknowledged do not count, so the limit does not slow down a fast client far away: 46
/// MB over a link with a delay of 50 ms arrive at 39 MB/s with this limit and at 40 MB/s without it. A send buffer of
/// fixed size (`SO_SNDBUF`) counts both, sent and unsent bytes, and is wrong for this purpose: with 192 KiB the same
/// link carries 2.9 MB/s. The bytes in flight stay bounded by the window that the client opens by reading, and by
/// `net.ipv4.tcp_wmem`.
const UNSENT_LIMIT: libc::c_int = 64 << 10;

/// What a socket unit has to look like.
const ONE_PORT: &str = "the proxy has one port, so its socket unit needs exactly one ListenStream=";

/// Why there is no socket to accept clients from. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The variables of socket activation can not be parsed.
    #[error("LISTEN_PID or LISTEN_FDS is wrong ({0}): {ONE_PORT}")]
    Activation(#[source] io::Error),
    /// The process inherits this many sockets.
    #[error("LISTEN_FDS is {0}, expected 1: {ONE_PORT}")]
    SeveralSockets(usize),
    /// The inherited socket does not accept TCP connections.
    #[error(
        "the inherited socket (LISTEN_FDS) does not listen for TCP: expected ListenStream= with a port, and Accept=no"
    )]
    NotTcp,
    /// The port of `host` and `port` can not be bound.
    #[error("`host` and `port`: {0}")]
    Bind(#[from] BindError),
    /// The kernel does not bound the unsent bytes of the connections.
    #[error("TCP_NOTSENT_LOWAT can not be set on the listening socket ({0}): Linux 6.1 or newer is needed")]
    UnsentLimit(#[source] io::Error),
}

/// Why a TCP port can not be bound. The text says what to do; the error around it names the keys of the configuration.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process has kept the port for the whole of [`BIND_LIMIT`].
    #[error("{0} is in use: stop what listens there, or choose another port")]
    InUse(SocketAddr),
    /// The kernel keeps the port for privileged processes.
    #[error("{0} may not be used: choose a port from 1024 on, or give the CAP_NET_BIND_SERVICE capability")]
    Privileged(SocketAddr),
    /// No network interface has the address.
    #[error("{0} is not an address of this machine: choose one that is")]
    ForeignAddress(SocketAddr),
    /// The port can not be bound for another reason.
    #[error("can not listen on {address} ({source}): choose another address or port")]
    Other {
        /// The address of the configuration.
        address: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A listening socket. Every connection that it accepts has [`UNSENT_LIMIT`].
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    inherited: bool,
    /// The path of the socket, when the socket is in the file system.
    path: Option<PathBuf>,
}

impl Listener {
    /// Returns the inherited socket, or else a socket that is bound to `address`.
    pub fn obtain(address: SocketAddr) -> Result<Self, ListenError> {
        let listener = Self::find(address)?;
        limit_unsent(&listener.socket).map_err(ListenError::UnsentLimit)?;
        Ok(listener)
    }

    fn find(address: SocketAddr) -> Result<Self, ListenError> {
        match inherited(sd_notify::listen_fds())? {
            Some(descriptor) => {
                // SAFETY: by the protocol of socket activation the descriptor was opened for this process. Nothing else
                // takes it: this is called once, and what the process itself has opened has other numbers.
                let socket = TcpListener::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
                let own = listening_at(&socket).ok_or(ListenError::NotTcp)?;
                tracing::info!("listening on {own}, an inherited socket (LISTEN_FDS): `host` and `port` are not used");
                Ok(Self { socket, inherited: true, path: None })
            }
            None => Ok(Self { socket: bind(address)?, inherited: false, path: None }),
        }
    }

    /// Splits the listener into the socket to accept from and the handle that ends accepting.
    pub fn split(self) -> io::Result<(TcpListener, Stopper)> {
        let socket = self.socket.try_clone()?;
        Ok((self.socket, Stopper { socket, inherited: self.inherited, path: self.path }))
    }
}

/// Ends the accept loop.
#[derive(Debug)]
pub struct Stopper {
    socket: TcpListener,
    inherited: bool,
    path: Option<PathBuf>,
}

impl Stopper {
    /// Wakes the accept loop, which then has to check whether to go on. Afterwards a port that this process has bound
    /// is free; an inherited socket keeps its queue for the next process.
    pub fn stop(self) {
        if let Some(path) = &self.path {
            // A file that can not be removed is replaced by the next process.
            let _ = fs::remove_file(path);
        }
        if self.inherited {
            // Cancelling a pending accept could lose the client that it has just accepted. So the accept is completed
            // with a connection of our own.
            let _ = listening_at(&self.socket).and_then(|own| TcpStream::connect_timeout(&own, WAKE_LIMIT).ok());
        } else {
            // Closing the socket is not enough: the kernel's pending accept holds the port beyond the end of this
            // process. Shutting a listening socket down removes it from the port.
            let _ = TcpStream::from(OwnedFd::from(self.socket)).shutdown(Shutdown::Both);
        }
    }
}

/// Sets [`UNSENT_LIMIT`] on a listening socket. The connections that it accepts inherit the option.
fn limit_unsent(socket: &TcpListener) -> io::Result<()> {
    let limit = UNSENT_LIMIT;
    // SAFETY: the pointer is to an int, as this option wants it, and lives as long as the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const limit).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Returns the descriptor that this process inherits, if any. `descriptors`: all that the environment names.
fn inherited(descriptors: io::Result<impl ExactSizeIterator<Item = RawFd>>) -> Result<Option<RawFd>, ListenError> {
    let mut descriptors = descriptors.map_err(ListenError::Activation)?;
    match descriptors.len() {
        0 | 1 => Ok(descriptors.next()),
        count => Err(ListenError::SeveralSockets(count)),
    }
}

/// Returns the address at which this machine reaches a socket; `None`: the socket does not listen for TCP.
fn listening_at(socket: &TcpListener) -> Option<SocketAddr> {
    let listens = rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false);
    let mut own = socket.local_addr().ok().filter(|_| listens)?;
    if own.ip().is_unspecified() {
        own.set_ip(match own {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Some(own)
}

/// Binds the port. A port that another process keeps is an error, even if that process is another gateway-proxy.
fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let start = Instant::now();
    let bound = loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < BIND_LIMIT => {
                thread::sleep(BIND_PAUSE);
            }
            bound => break bound,
        }
    };
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        io::ErrorKind::PermissionDenied => BindError::Privileged(address),
        io::ErrorKind::AddrNotAvailable => BindError::ForeignAddress(address),
        _ => BindError::Other { address, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_port_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert!(matches!(error, BindError::InUse(named) if named == address), "{error:?}");
        assert!(error.to_string().starts_with(&format!("{address} is in use")), "{error}");
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(matches!(error, BindError::ForeignAddress(_)), "{error:?}");
        assert_eq!(
            ListenError::from(error).to_string(),
            "`host` and `port`: 192.0.2.1:0 is not an address of this machine: choose one that is"
        );
    }

    #[test]
    fn at_most_one_socket_is_inherited() {
        let inherited = |count: RawFd| inherited(Ok(3..3 + count));
        assert_eq!(inherited(0).unwrap(), None);
        assert_eq!(inherited(1).unwrap(), Some(3));
        assert!(inherited(2).unwrap_err().to_string().starts_with("LISTEN_FDS is 2, expected 1: "));
        let unreadable = super::inherited(Err::<std::ops::Range<RawFd>, _>(io::ErrorKind::InvalidInput.into()));
        let error = unreadable.unwrap_err();
        assert!(matches!(error, ListenError::Activation(_)), "{error:?}");
        assert!(error.to_string().ends_with("exactly one ListenStream="), "{error}");
    }

    #[test]
    fn stopping_frees_a_bound_port_and_wakes_the_accept_loop_of_an_inherited_one() {
        let bound = |inherited| {
            let socket = bind("0.0.0.0:0".parse().unwrap()).unwrap();
            let address = socket.local_addr().unwrap();
            let (socket, stopper) = Listener { socket, inherited, path: None }.split().unwrap();
            let accepting = thread::spawn(move || socket.accept().map(drop));
            stopper.stop();
            (accepting.join().unwrap(), address)
        };
        let (accepted, address) = bound(false);
        assert!(accepted.is_err());
        assert!(TcpListener::bind(address).is_ok());
        let (accepted, _) = bound(true);
        assert!(accepted.is_ok());
    }

    /// The memory of a connection whose client never reads, however much is written.
    #[test]
    fn an_accepted_connection_takes_only_so_much_unsent() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        limit_unsent(&listener).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        // A send that has to wait ends with the number of bytes taken, or with an error when that is 0.
        accepted.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        while io::Write::write(&mut accepted, &[0; 16 << 10]).is_ok() {}
        let mut unsent: libc::c_int = 0;
        // SAFETY: SIOCOUTQ (spelled TIOCOUTQ in the C library) writes an int to where the pointer is to.
        assert_eq!(unsafe { libc::ioctl(accepted.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) }, 0);
        assert!(unsent > 0, "the client's window is full, so something is unsent");
        assert!(unsent <= UNSENT_LIMIT + (64 << 10), "{unsent} bytes are held for a client that reads nothing");
        drop(client);
    }

    #[test]
    fn what_does_not_listen_is_recognised() {
        let listener = bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let at = listening_at(&listener).unwrap();
        assert!(at.ip().is_loopback());
        let connection = TcpStream::connect(at).unwrap();
        assert_eq!(listening_at(&TcpListener::from(OwnedFd::from(connection))), None);
    }
}
