//! A stand-in for a TLS terminator: it passes connections on to the proxy, and says with the PROXY protocol for whom
//! each connection is.

use std::{
    io::{self, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

/// Starts a terminator whose clients all have the address 192.0.2.`host`, with port 5000. Returns the address that it
/// listens on. It runs until the test ends.
pub fn terminator(proxy: SocketAddr, host: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for near in listener.incoming() {
            let near = near.expect("a connection");
            let mut far = TcpStream::connect(proxy).expect("a connection to the proxy");
            for stream in [&near, &far] {
                stream.set_nodelay(true).expect("a socket option");
            }
            let header = format!("PROXY TCP4 192.0.2.{host} 127.0.0.1 5000 7878\r\n");
            far.write_all(header.as_bytes()).expect("a header");
            pass_on(&near, &far);
            pass_on(&far, &near);
        }
    });
    address
}

/// Copies from one connection to the other on a thread of its own, until either ends.
fn pass_on(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().expect("a descriptor"), to.try_clone().expect("a descriptor"));
    let copy = move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    thread::Builder::new().stack_size(64 << 10).spawn(copy).expect("a thread");
}
