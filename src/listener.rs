//! The listening socket: bound here, or handed over by whoever started the process.
//!
//! With socket activation (`LISTEN_FDS`, sd_listen_fds(3)) the port belongs to systemd. It stays open between two
//! processes: who connects meanwhile waits in the backlog instead of being refused. That matters, because many libraries
//! answer a refused connection with an IDENTIFY, for which there is no replay.

mod admin;

use std::{
    env, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// How long a port may still be held by a process that has just died: the kernel takes its time to clear up a ring.
const BIND_LIMIT: Duration = Duration::from_secs(3);
/// Pause between two attempts.
const BIND_PAUSE: Duration = Duration::from_millis(50);
/// The first descriptor that is handed over, by the protocol of socket activation.
const FIRST_INHERITED: RawFd = 3;
/// How long the connection to oneself may take that wakes the accept loop.
const WAKE_LIMIT: Duration = Duration::from_secs(1);

/// Bytes that the kernel holds for one connection and has not sent yet (`TCP_NOTSENT_LOWAT`). A send ends, and a socket
/// counts as full, once so much is unsent; the kernel looks before each of its buffers, so it can be one buffer (64 KiB)
/// more. A client that reads nothing thus costs at most 128 KiB of payload and what its buffers add, instead of the 4 MiB
/// that Linux grows a send buffer to.
///
/// What is sent and not acknowledged does not count, so a fast client far away is not slowed down: 46 MB over a link of 50 ms
/// arrive at 39 MB/s with this limit and at 40 MB/s without it. A send buffer of fixed size (`SO_SNDBUF`) holds both, sent
/// and unsent, and is wrong for that: with one of 192 KiB the same link carries 2.9 MB/s. What is in flight stays bounded
/// by the window that the client opens by reading, and by `net.ipv4.tcp_wmem`.
const UNSENT_LIMIT: libc::c_int = 64 << 10;

/// A socket that listens. Every connection that is accepted from it has [`UNSENT_LIMIT`].
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    inherited: bool,
    /// Of a socket in the file system.
    path: Option<PathBuf>,
}

impl Listener {
    /// The socket that was handed over, else one that is bound to `address`. An error says what to do.
    pub fn obtain(address: SocketAddr) -> Result<Self, String> {
        let listener = Self::find(address)?;
        limit_unsent(&listener.socket).map_err(|error| {
            format!("TCP_NOTSENT_LOWAT can not be set on the listening socket ({error}): Linux 6.1 or newer is needed")
        })?;
        Ok(listener)
    }

    fn find(address: SocketAddr) -> Result<Self, String> {
        match inherited(env::var("LISTEN_PID").ok().as_deref(), env::var("LISTEN_FDS").ok().as_deref())? {
            Some(descriptor) => {
                // SAFETY: by the protocol of socket activation the descriptor was opened for this process. Nothing else
                // takes it: this is called once, and what the process itself has opened has other numbers.
                let socket = TcpListener::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
                let own = listening_at(&socket).ok_or(
                    "the socket that was handed over (LISTEN_FDS) does not listen for TCP: expected ListenStream= with a port, and Accept=no",
                )?;
                tracing::info!("listening on {own}, a socket that was handed over: `host` and `port` are not used");
                Ok(Self { socket, inherited: true, path: None })
            }
            None => bind(address).map(|socket| Self { socket, inherited: false, path: None }),
        }
    }

    /// The socket to accept from, and what ends that.
    pub fn split(self) -> io::Result<(TcpListener, Stopper)> {
        let socket = self.socket.try_clone()?;
        Ok((self.socket, Stopper { socket, inherited: self.inherited, path: self.path }))
    }
}

/// Ends accepting.
#[derive(Debug)]
pub struct Stopper {
    socket: TcpListener,
    inherited: bool,
    path: Option<PathBuf>,
}

impl Stopper {
    /// Wakes whoever accepts, who then has to look whether to go on. A port of our own is free afterwards; a socket that
    /// was handed over keeps its queue for the next process.
    pub fn stop(self) {
        if let Some(path) = &self.path {
            // What is there after all is replaced by the next process.
            let _ = fs::remove_file(path);
        }
        if self.inherited {
            // A pending accept that is cancelled could take a client with it. So it is given a connection.
            let _ = listening_at(&self.socket).and_then(|own| TcpStream::connect_timeout(&own, WAKE_LIMIT).ok());
        } else {
            // Closing is not enough: the kernel's pending accept holds the port beyond the end of this process. Of a
            // socket that listens, a shutdown takes it away from the port.
            let _ = TcpStream::from(OwnedFd::from(self.socket)).shutdown(Shutdown::Both);
        }
    }
}

/// Sets [`UNSENT_LIMIT`] on a listening socket. Connections that it accepts inherit the option.
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

/// The descriptor that was handed over to this process, if any.
fn inherited(pid: Option<&str>, count: Option<&str>) -> Result<Option<RawFd>, String> {
    let is_ours = pid.and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    match count {
        Some(count) if is_ours => match count.parse() {
            Ok(0) => Ok(None),
            Ok(1) => Ok(Some(FIRST_INHERITED)),
            _ => Err(format!(
                "LISTEN_FDS is {count:?}, expected 1: the proxy has one port, so its socket unit one ListenStream="
            )),
        },
        _ => Ok(None),
    }
}

/// The address under which a socket can be reached from here, if it listens for TCP.
fn listening_at(socket: &TcpListener) -> Option<SocketAddr> {
    let (mut listens, mut size) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the pointers are to an int and its size, as this option wants them, and live as long as the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ACCEPTCONN,
            (&raw mut listens).cast(),
            &raw mut size,
        )
    };
    let mut own = socket.local_addr().ok().filter(|_| result == 0 && listens != 0)?;
    if own.ip().is_unspecified() {
        own.set_ip(match own {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    Some(own)
}

/// Binds the port. A port that stays taken is an error, even by another instance of this program.
fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let start = Instant::now();
    let bound = loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && start.elapsed() < BIND_LIMIT => {
                thread::sleep(BIND_PAUSE);
            }
            bound => break bound,
        }
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use: stop what listens there, or change `port` or `host` in the configuration")
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "{address} may not be used: choose a `port` from 1024 on, or give the CAP_NET_BIND_SERVICE capability"
            )
        }
        io::ErrorKind::AddrNotAvailable => format!("{address} is no address of this machine: change `host`"),
        _ => format!("can not listen on {address}: {error}"),
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
        assert!(error.starts_with(&format!("{address} is in use")), "{error}");
        let error = bind("192.0.2.1:0".parse().unwrap()).unwrap_err();
        assert!(error.contains("is no address of this machine"), "{error}");
    }

    #[test]
    fn a_socket_is_taken_only_by_who_it_is_for() {
        let own = std::process::id().to_string();
        assert_eq!(inherited(None, None), Ok(None));
        assert_eq!(inherited(Some("1"), Some("1")), Ok(None));
        assert_eq!(inherited(Some(&own), None), Ok(None));
        assert_eq!(inherited(Some(&own), Some("0")), Ok(None));
        assert_eq!(inherited(Some(&own), Some("1")), Ok(Some(3)));
        for wrong in ["2", "-1", "x", ""] {
            assert!(inherited(Some(&own), Some(wrong)).unwrap_err().contains("expected 1"), "{wrong}");
        }
    }

    #[test]
    fn stopping_frees_an_own_port_and_wakes_who_accepts_on_another() {
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

    /// What a connection takes whose client reads nothing, however long it is written to.
    #[test]
    fn an_accepted_connection_takes_only_so_much_unsent() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        limit_unsent(&listener).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        // A send that has to wait ends with what it has placed, or with an error when that is nothing.
        accepted.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        while std::io::Write::write(&mut accepted, &[0; 16 << 10]).is_ok() {}
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
