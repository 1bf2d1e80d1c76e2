//! What stands between the proxy and Discord, and can be made to misbehave.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    thread,
};

/// How it treats connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Way {
    /// Bytes pass both ways.
    Pass,
    /// Connections end at once.
    Refuse,
    /// What answers is something else.
    Garbage,
    /// Connections open, and nothing comes of them.
    Silence,
    /// Of what comes from Discord one bit is another.
    Flip,
    /// What comes from Discord ends in the middle.
    Truncate,
}

const WAYS: [Way; 6] = [Way::Pass, Way::Refuse, Way::Garbage, Way::Silence, Way::Flip, Way::Truncate];

/// A port before another one.
pub struct Meddler {
    /// Where it listens.
    pub address: SocketAddr,
    way: Arc<AtomicU8>,
}

impl Meddler {
    /// Before whatever listens on `port` of this machine. It lasts as long as the process of the test.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let way = Arc::new(AtomicU8::new(Way::Pass as u8));
        let current = way.clone();
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let way = current.clone();
                thread::spawn(move || treat(near, port, &way));
            }
        });
        Self { address, way }
    }

    /// From now on; what passes already is treated so, too.
    pub fn turn(&self, way: Way) {
        self.way.store(way as u8, Relaxed);
    }
}

fn treat(mut near: TcpStream, port: u16, way: &Arc<AtomicU8>) {
    let current = || WAYS[usize::from(way.load(Relaxed))];
    match current() {
        Way::Refuse => return,
        Way::Garbage => {
            let _ = near.write_all(b"SSH-2.0-OpenSSH_9.9\r\n");
            return;
        }
        Way::Silence => {
            let _ = near.read_to_end(&mut Vec::new());
            return;
        }
        Way::Pass | Way::Flip | Way::Truncate => {}
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
            Way::Pass => {}
            Way::Flip => bytes[n - 1] ^= 1,
            _ => length = n / 2,
        }
        if near.write_all(&bytes[..length]).is_err() || length < n {
            break;
        }
    }
    let _ = near.shutdown(Shutdown::Both);
}
