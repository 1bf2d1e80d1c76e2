//! A TCP relay between the proxy and Discord that can damage, block or end connections.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread,
};

/// What the relay does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// It relays bytes in both directions.
    None,
    /// It closes connections at once.
    Refuse,
    /// It answers with the greeting of an SSH server.
    Garbage,
    /// It accepts connections and never answers.
    Silence,
    /// It flips one bit in each piece of what Discord sends.
    Flip,
    /// It cuts a piece of what Discord sends in half and closes the connection.
    Truncate,
}

const FAULTS: [Fault; 6] = [Fault::None, Fault::Refuse, Fault::Garbage, Fault::Silence, Fault::Flip, Fault::Truncate];

/// A relay in front of another port.
pub struct FaultyRelay {
    /// The address that the relay listens on.
    pub address: SocketAddr,
    fault: Arc<AtomicU8>,
}

impl FaultyRelay {
    /// Starts a relay in front of `port` on this machine. It runs until the process of the test ends.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let fault = Arc::new(AtomicU8::new(Fault::None as u8));
        let current = fault.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let fault = current.clone();
                thread::spawn(move || treat(near, port, &fault));
            }
        });
        Self { address, fault }
    }

    /// Changes what the relay does, also with open connections.
    pub fn set_fault(&self, fault: Fault) {
        self.fault.store(fault as u8, Relaxed);
    }
}

fn treat(mut near: TcpStream, port: u16, fault: &Arc<AtomicU8>) {
    let current = || FAULTS[usize::from(fault.load(Relaxed))];
    match current() {
        Fault::Refuse => return,
        Fault::Garbage => {
            let _ = near.write_all(b"SSH-2.0-OpenSSH_9.9\r\n");
            return;
        }
        Fault::Silence => {
            let _ = near.read_to_end(&mut Vec::new());
            return;
        }
        Fault::None | Fault::Flip | Fault::Truncate => {}
    }
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let (Ok(mut from), Ok(mut to)) = (near.try_clone(), far.try_clone()) else { return };
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut bytes = [0; 16 << 10];
    while let Ok(n @ 1..) = far.read(&mut bytes) {
        let mut length = n;
        match current() {
            Fault::None => {}
            Fault::Flip => bytes[n - 1] ^= 1,
            _ => length = n / 2,
        }
        if near.write_all(&bytes[..length]).is_err() || length < n {
            break;
        }
    }
    let _ = near.shutdown(Shutdown::Both);
}
