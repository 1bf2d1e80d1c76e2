//! Reads the address of the client on whose behalf a reverse proxy connects: from the PROXY protocol, versions 1 and 2
//! (HAProxy's specification), and from `X-Forwarded-For`. Pure.
//!
//! Both are believed only from the networks that the configuration names, because every client can write any address
//! there.

use crate::config::Network;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of the PROXY protocol, in bytes; a longer one is refused.
pub const MAX_PROXY_HEADER: usize = 2 << 10;
/// Longest line of version 1, in bytes.
const MAX_LINE: usize = 107;
/// The first bytes of a header of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// What is wrong with the beginning of a connection that has to be a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The bytes begin neither like version 1 nor like version 2.
    #[error("no header of the PROXY protocol")]
    Missing,
    /// The line of version 1 has more than [`MAX_LINE`] bytes.
    #[error("a line of the PROXY protocol that is too long")]
    LineTooLong,
    /// The line of version 1 is not UTF-8.
    #[error("a line of the PROXY protocol that is no text")]
    NotText,
    /// The line of version 1 names no known protocol, or no addresses of it.
    #[error("a line of the PROXY protocol without protocol and addresses")]
    NoAddresses,
    /// The version of a binary header is not 2, or the header has more than [`MAX_PROXY_HEADER`] bytes.
    #[error("a header of the PROXY protocol that is not of version 1 or 2, or is too long")]
    VersionOrLength,
    /// The header of version 2 is too short for the addresses that it promises.
    #[error("an address of the PROXY protocol that is cut off")]
    AddressCutOff,
    /// The command of version 2 is neither LOCAL nor PROXY.
    #[error("a command of the PROXY protocol that does not exist")]
    UnknownCommand,
}

/// Reads the header of the PROXY protocol at the beginning of a connection. Returns its length in bytes, and the
/// address of the client.
///
/// `Ok(None)`: the header is incomplete. `None` in place of an address: the header names none, so the connection is for
/// the peer itself.
pub fn proxy_header(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, ProxyHeaderError> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, expected)| byte == expected);
    if begins(SIGNATURE) {
        return if bytes.len() < SIGNATURE.len() { Ok(None) } else { version_2(bytes) };
    }
    if !begins(b"PROXY ") {
        return Err(ProxyHeaderError::Missing);
    }
    let Some(end) = memchr::memmem::find(&bytes[..bytes.len().min(MAX_LINE)], b"\r\n") else {
        return if bytes.len() < MAX_LINE { Ok(None) } else { Err(ProxyHeaderError::LineTooLong) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| ProxyHeaderError::NotText)?;
    Ok(Some((end + 2, version_1(line)?)))
}

fn version_1(line: &str) -> Result<Option<SocketAddr>, ProxyHeaderError> {
    let words: Vec<&str> = line.split(' ').collect();
    let (source, port) = match words[..] {
        ["PROXY", "UNKNOWN", ..] => return Ok(None),
        ["PROXY", "TCP4", source, _, port, _] => (source.parse::<Ipv4Addr>().ok().map(IpAddr::from), port),
        ["PROXY", "TCP6", source, _, port, _] => (source.parse::<Ipv6Addr>().ok().map(IpAddr::from), port),
        _ => (None, ""),
    };
    match (source, port.parse()) {
        (Some(source), Ok(port)) => Ok(Some(SocketAddr::new(source, port))),
        _ => Err(ProxyHeaderError::NoAddresses),
    }
}

fn version_2(bytes: &[u8]) -> Result<Option<(usize, Option<SocketAddr>)>, ProxyHeaderError> {
    let Some(&[version_and_command, family, high, low]) = bytes.get(12..16).and_then(|head| head.first_chunk()) else {
        return Ok(None);
    };
    let size = 16 + usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != 2 || size > MAX_PROXY_HEADER {
        return Err(ProxyHeaderError::VersionOrLength);
    }
    let Some(header) = bytes.get(16..size) else { return Ok(None) };
    let source = match (version_and_command & 15, family) {
        // LOCAL: the peer connects on its own behalf, as for a health check.
        (0, _) => None,
        (1, 0x11) => {
            let address = header.first_chunk::<12>().ok_or(ProxyHeaderError::AddressCutOff)?;
            let [a, b, c, d, _, _, _, _, high, low, ..] = *address;
            Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low])))
        }
        (1, 0x21) => {
            let (source, rest) = header.split_first_chunk::<16>().ok_or(ProxyHeaderError::AddressCutOff)?;
            let port = rest.get(16..18).and_then(|port| port.first_chunk::<2>());
            let port = port.ok_or(ProxyHeaderError::AddressCutOff)?;
            Some(SocketAddr::new(Ipv6Addr::from(*source).into(), u16::from_be_bytes(*port)))
        }
        // The address is neither an IPv4 nor an IPv6 address with a TCP port.
        (1, _) => None,
        _ => return Err(ProxyHeaderError::UnknownCommand),
    };
    Ok(Some((size, source)))
}

/// The client that a request head names: the last address in `X-Forwarded-For` that is not in one of the `believed`
/// networks, or, if all are, the first address. Entries before an unreadable one do not count. `None`: the head names
/// no address.
pub fn forwarded_for(head: &[u8], believed: &[Network]) -> Option<IpAddr> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    if !matches!(request.parse(head), Ok(httparse::Status::Complete(_))) {
        return None;
    }
    let named = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("x-forwarded-for"));
    let all: Vec<&str> =
        named.filter_map(|header| std::str::from_utf8(header.value).ok()).flat_map(|list| list.split(',')).collect();
    let mut nearest = None;
    for name in all.iter().rev() {
        // Entries before an unreadable one are not believed, because the unreadable one was not written by a believed
        // proxy.
        let Some(address) = address(name.trim()) else { break };
        nearest = Some(address);
        if !believed.iter().any(|network| network.contains(address)) {
            break;
        }
    }
    nearest
}

/// Parses an address with or without a port, and with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> Option<SocketAddr> {
        Some(address.parse().unwrap())
    }

    fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = (addresses.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[0x20 | command, family], &length, addresses].concat()
    }

    #[test]
    fn both_versions_are_read() {
        let v4 = binary(1, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x1f, 0x90, 0, 80, 3, 0, 1, 9]);
        let mut addresses = [0; 36];
        addresses[..2].copy_from_slice(&[0x20, 1]);
        addresses[15] = 7;
        addresses[32..34].copy_from_slice(&[0x1f, 0x90]);
        let v6 = binary(1, 0x21, &addresses);
        for (header, expected) in [
            (&b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 7878\r\n"[..], source("192.0.2.7:8080")),
            (b"PROXY TCP6 2001::7 ::1 8080 7878\r\n", source("[2001::7]:8080")),
            (b"PROXY UNKNOWN\r\n", None),
            (b"PROXY UNKNOWN ffff:f ffff 65535 65535\r\n", None),
            (&v4, source("192.0.2.7:8080")),
            (&v6, source("[2001::7]:8080")),
            (&binary(0, 0, &[]), None),
            (&binary(1, 0x31, &[0; 216]), None),
        ] {
            let with_rest = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
            assert_eq!(proxy_header(&with_rest), Ok(Some((header.len(), expected))), "{header:?}");
            for cut in 0..header.len() {
                assert_eq!(proxy_header(&header[..cut]), Ok(None), "{cut} of {header:?}");
            }
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let long = binary(1, 0x11, &[0; MAX_PROXY_HEADER]);
        for wrong in [
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            b"\r\n\r\nx",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 8080\r\n",
            b"PROXY TCP4 2001::7 ::1 8080 7878\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 7878\r\n",
            b"PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
            b"PROXY TCP4 \xff 10.0.0.1 1 2\r\n",
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(),
            &binary(2, 0x11, &[0; 12]),
            &binary(1, 0x11, &[0; 11]),
            &binary(1, 0x21, &[0; 33]),
            &long,
        ] {
            assert!(proxy_header(wrong).is_err(), "{wrong:?}");
        }
        let mut third = binary(1, 0x11, &[0; 12]);
        third[12] = 0x31;
        assert!(proxy_header(&third).is_err());
    }

    #[test]
    fn the_last_stranger_counts() {
        let believed = ["10.0.0.0/8", "127.0.0.1"].map(|network| Network::parse(network).unwrap());
        let of = |headers: &str| {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
            forwarded_for(head.as_bytes(), &believed).map(|address| address.to_string())
        };
        assert_eq!(of(""), None);
        for (headers, expected) in [
            ("X-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7"),
            ("x-forwarded-for: 198.51.100.1, 192.0.2.7, 10.1.1.1\r\n", "192.0.2.7"),
            ("X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-For: 192.0.2.7\r\n", "192.0.2.7"),
            ("X-Forwarded-For: 10.2.2.2, 10.1.1.1\r\n", "10.2.2.2"),
            ("X-Forwarded-For: nonsense, 10.1.1.1\r\n", "10.1.1.1"),
            ("X-Forwarded-For: [2001:db8::1]:99\r\n", "2001:db8::1"),
            ("X-Forwarded-For: 192.0.2.7:99\r\n", "192.0.2.7"),
        ] {
            assert_eq!(of(headers).as_deref(), Some(expected), "{headers}");
        }
        assert_eq!(of("X-Forwarded-For: nonsense\r\n"), None);
        assert_eq!(forwarded_for(b"GET / HTTP/1.1\r\n", &believed), None);
    }
}
