//! Opens connections to the external queue (`identify_queue`) that end when the way to the queue is gone.
//!
//! The answer of the queue may take an hour, so silence says nothing. Without more, a request would wait for an hour when
//! the queue's machine or the network between fails and no packet says so. And an answer that comes after such a failure is too
//! old: the kernel delivers it as soon as the network is back, though the queue has given other permits meanwhile. So the
//! kernel asks whether the queue's machine still answers (TCP keepalive), and ends the connection of one that does not for
//! [`UNANSWERED`]. The request is then repeated.

use rustix::net::sockopt;
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};
use ureq::{
    Error,
    unversioned::transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport},
};

/// Longest wait for a connection, over all addresses of the queue.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection is silent before the kernel asks whether the other machine is there, and asks again.
const SILENCE: Duration = Duration::from_secs(3);
/// How long the other machine can leave that, or what was sent, without an answer.
const UNANSWERED: Duration = Duration::from_secs(10);

/// Opens the connections of an HTTP client.
#[derive(Debug)]
pub struct QueueConnector;

impl Connector for QueueConnector {
    type Out = QueueTransport;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<QueueTransport>, Error> {
        let stream = open(&details.addrs)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(QueueTransport { stream, buffers }))
    }
}

/// A connection to the external queue, for one request.
#[derive(Debug)]
pub struct QueueTransport {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for QueueTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    /// Sends what is at the start of the output buffer. The kernel limits how long that takes ([`UNANSWERED`]).
    fn transmit_output(&mut self, amount: usize, _: NextTimeout) -> Result<(), Error> {
        let output = &self.buffers.output()[..amount];
        Ok(self.stream.write_all(output)?)
    }

    /// Waits for bytes. `Ok(false)`: the queue has closed the connection.
    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.set_read_timeout(timeout.not_zero().map(|limit| *limit))?;
        loop {
            match self.stream.read(self.buffers.input_append_buf()) {
                Ok(received) => {
                    self.buffers.input_appended(received);
                    return Ok(received > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(Error::Timeout(timeout.reason)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// No connection is used for another request: permits are seconds apart.
    fn is_open(&mut self) -> bool {
        false
    }
}

/// Connects to the first address that answers. The error is that of the last address.
fn open(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut failure = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        match TcpStream::connect_timeout(address, CONNECT_LIMIT / addresses.len() as u32) {
            Ok(stream) => {
                watch(&stream)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Lets the kernel end the connection when the other machine does not answer any more (tcp(7)).
fn watch(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, SILENCE)?;
    sockopt::set_tcp_user_timeout(stream, UNANSWERED.as_millis() as u32)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_connection_is_watched_and_the_first_address_that_answers_is_taken() {
        let queue = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = queue.local_addr().unwrap();
        // The near end of another connection: its port is taken and listens to nobody, so a connection is refused.
        let deaf = TcpStream::connect(address).unwrap();
        let stream = open(&[deaf.local_addr().unwrap(), address]).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), address);
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), SILENCE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), SILENCE);
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 10_000);
        let refused = open(&[deaf.local_addr().unwrap()]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(open(&[]).is_err());
    }
}
