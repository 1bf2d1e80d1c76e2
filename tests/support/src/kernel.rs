//! Reads how much memory the kernel uses for TCP connections, through the socket monitoring interface sock_diag(7),
//! which `ss -m` uses too.

use std::{
    io::{self, Read, Write},
    mem::offset_of,
    net::SocketAddr,
    os::fd::{FromRawFd, OwnedFd},
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKMEMINFO: u16 = 7;
const TCP_ESTABLISHED: u32 = 1;
/// Indexes of numbers in INET_DIAG_SKMEMINFO: received bytes, bytes allocated in advance, bytes to send, bytes that
/// wait for the socket's lock.
const MEMORY: [usize; 4] = [0, 4, 5, 7];

/// `struct inet_diag_sockid`, in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SocketId {
    source_port: u16,
    destination_port: u16,
    source: [u32; 4],
    destination: [u32; 4],
    interface: u32,
    cookie: [u32; 2],
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    protocol: u8,
    extensions: u8,
    pad: u8,
    states: u32,
    id: SocketId,
}

/// `struct inet_diag_msg`.
#[repr(C)]
struct Found {
    family: u8,
    state: u8,
    timer: u8,
    retransmits: u8,
    id: SocketId,
    expires: u32,
    receive_queue: u32,
    write_queue: u32,
    owner: u32,
    inode: u32,
}

/// Returns, for each established connection whose own end is `local` (IPv4), the kernel memory in bytes: unread
/// bytes, bytes to send, and memory allocated in advance for either.
///
/// # Panics When the kernel does not answer.
pub fn memory_of_connections(local: SocketAddr) -> Vec<u64> {
    dump().expect("sock_diag").into_iter().filter(|(port, _)| *port == local.port()).map(|(_, memory)| memory).collect()
}

/// The local port and the memory of each established IPv4 connection.
fn dump() -> io::Result<Vec<(u16, u64)>> {
    // SAFETY: the call only makes a descriptor.
    let descriptor =
        unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now and nothing else owns it. A `File` reads and writes whole datagrams.
    let mut socket = std::fs::File::from(unsafe { OwnedFd::from_raw_fd(descriptor) });
    let request = Request {
        length: size_of::<Request>() as u32,
        kind: SOCK_DIAG_BY_FAMILY,
        flags: (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16,
        sequence: 1,
        port: 0,
        family: libc::AF_INET as u8,
        protocol: libc::IPPROTO_TCP as u8,
        extensions: 1 << (INET_DIAG_SKMEMINFO - 1),
        pad: 0,
        states: 1 << TCP_ESTABLISHED,
        id: SocketId::default(),
    };
    // SAFETY: the request is plain data without padding.
    let bytes = unsafe { std::slice::from_raw_parts((&raw const request).cast::<u8>(), size_of::<Request>()) };
    socket.write_all(bytes)?;
    let mut found = Vec::new();
    let mut datagram = vec![0; 256 << 10];
    loop {
        let n = socket.read(&mut datagram)?;
        let mut rest = &datagram[..n];
        while rest.len() >= 16 {
            let (length, kind) = (number(rest, 0) as usize, u16::from_ne_bytes([rest[4], rest[5]]));
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(found),
                libc::NLMSG_ERROR => return Err(io::Error::from_raw_os_error(-(number(rest, 16) as i32))),
                _ => found.push(read(&rest[16..length])),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// Reads a `Found` and the attributes that follow it.
fn read(message: &[u8]) -> (u16, u64) {
    let port = offset_of!(Found, id) + offset_of!(SocketId, source_port);
    let port = u16::from_be_bytes([message[port], message[port + 1]]);
    let mut attributes = &message[size_of::<Found>()..];
    while attributes.len() >= 4 {
        let length = usize::from(u16::from_ne_bytes([attributes[0], attributes[1]]));
        if u16::from_ne_bytes([attributes[2], attributes[3]]) == INET_DIAG_SKMEMINFO {
            return (port, MEMORY.iter().map(|place| u64::from(number(attributes, 4 + 4 * place))).sum());
        }
        attributes = &attributes[length.next_multiple_of(4).min(attributes.len())..];
    }
    panic!("a connection without INET_DIAG_SKMEMINFO")
}
