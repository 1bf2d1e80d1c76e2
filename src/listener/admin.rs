//! The listening socket for what is not the gateway (config key `admin_listen`): an address, or a socket in the file system.
//!
//! A socket in the file system can be opened by its owner and its group only, and is taken away when the proxy stops.

use super::{Listener, bind, limit_unsent};
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
    path::Path,
};

/// Owner and group may connect, which takes the permission to write.
const MODE: u32 = 0o660;

impl Listener {
    /// A socket at this address. An error says what to do.
    pub fn for_operators(address: &AdminAddress) -> Result<Self, String> {
        let named = |what: String| format!("`admin_listen`: {what}");
        match address {
            AdminAddress::Tcp(address) => {
                let socket = bind(*address).map_err(named)?;
                limit_unsent(&socket).map_err(|error| named(format!("TCP_NOTSENT_LOWAT can not be set ({error})")))?;
                Ok(Self { socket, inherited: false, path: None })
            }
            AdminAddress::Unix(path) => {
                let socket = bind_unix(path).map_err(|error| {
                    named(format!(
                        "no socket can be made at {path:?} ({error}): choose another path, or stop what listens there"
                    ))
                })?;
                // What is done with it, accepting, sending, receiving, ending, is the same for every kind of stream socket.
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
    // A process that was killed leaves its socket, at which nobody answers. Anything else is not touched.
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
        assert!(error.contains("stop what listens there"), "{error}");
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
