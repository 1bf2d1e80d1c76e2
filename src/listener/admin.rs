//! The listening socket for operators' routes (config key `admin_listen`): a TCP address, or a Unix socket in the file
//! system.
//!
//! Only the owner and the group of a Unix socket can connect to it. The socket file is removed when the proxy stops.

use super::{BindError, Listener, bind, limit_unsent};
use crate::config::AdminAddress;
use std::{
    fs, io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// Mode of the socket file: the owner and the group may connect, for which they need permission to write.
const MODE: u32 = 0o660;

/// Why there is no socket for operators' routes. Each text names the key and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AdminListenError {
    /// The TCP port can not be bound.
    #[error("`admin_listen`: {0}")]
    Tcp(#[source] BindError),
    /// The kernel does not bound the unsent bytes of the connections.
    #[error(
        "`admin_listen`: TCP_NOTSENT_LOWAT can not be set on the listening socket ({0}): Linux 6.1 or newer is needed"
    )]
    UnsentLimit(#[source] io::Error),
    /// The Unix socket can not be made.
    #[error(
        "`admin_listen`: no socket can be made at {path:?} ({source}): choose another path, or stop what listens there"
    )]
    Unix {
        /// The path of the configuration.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Listener {
    /// Makes a socket that listens at this address.
    pub fn for_operators(address: &AdminAddress) -> Result<Self, AdminListenError> {
        match address {
            AdminAddress::Tcp(address) => {
                let socket = bind(*address).map_err(AdminListenError::Tcp)?;
                limit_unsent(&socket).map_err(AdminListenError::UnsentLimit)?;
                Ok(Self { socket, inherited: false, path: None })
            }
            AdminAddress::Unix(path) => {
                let socket = bind_unix(path).map_err(|source| AdminListenError::Unix { path: path.clone(), source })?;
                // A `TcpListener` can hold the socket: accepting, sending, receiving and shutting down are the same for
                // all stream sockets.
                Ok(Self {
                    socket: TcpListener::from(OwnedFd::from(socket)),
                    inherited: false,
                    path: Some(path.clone()),
                })
            }
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    // A killed process leaves its socket file, and connecting to it is refused. Such a file is removed; a file of any
    // other kind and a socket that answers are not touched.
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    {
        fs::remove_file(path)?;
    }
    let socket = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_of_a_process_that_is_gone_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("gateway-proxy-admin-{}", std::process::id()));
        let address = AdminAddress::Unix(path.clone());
        drop(UnixListener::bind(&path).unwrap());
        let listener = Listener::for_operators(&address).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        let error = Listener::for_operators(&address).unwrap_err();
        assert!(error.to_string().contains("stop what listens there"), "{error}");
        let (socket, stopper) = listener.split().unwrap();
        let accepting = std::thread::spawn(move || socket.accept().map(drop));
        stopper.stop();
        assert!(accepting.join().unwrap().is_err());
        assert!(!path.exists(), "it is taken away");
        fs::write(&path, "precious").unwrap();
        assert!(Listener::for_operators(&address).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
    }
}
