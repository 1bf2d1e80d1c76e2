//! The client's side of a connection: URLs, TCP with or without TLS, a single HTTP request, the WebSocket handshake.

use crate::link::{Link, inbound};
use gateway_proxy::websocket::{FrameDecoder, Role, client_request, parse_response};
use glommio::net::TcpStream;
use rustls::ClientConfig;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;

/// Maximum length in bytes of the head, and of the body, of an HTTP response.
const MAX_RESPONSE: usize = 1 << 20;

/// Largest WebSocket message in bytes. A GUILD_CREATE of a very large guild fits.
const MAX_MESSAGE: usize = 256 << 20;

/// A `ws://` or `wss://` URL whose host has been resolved.
#[derive(Clone, Debug)]
pub struct Url {
    /// Host and port as in the URL.
    pub authority: String,
    /// Path without query; at least `/`.
    pub path: String,
    host: String,
    /// The address of the host.
    pub address: SocketAddr,
    secure: bool,
}

fn invalid(text: &str, what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?}: {what}"))
}

impl Url {
    /// Parses a URL and resolves its host. The thread blocks during the look-up.
    ///
    /// # Errors
    /// When the text is not a gateway URL, or the host has no address.
    pub fn parse(text: &str) -> io::Result<Self> {
        let (secure, rest) = match text.split_once("://") {
            Some(("ws", rest)) => (false, rest),
            Some(("wss", rest)) => (true, rest),
            _ => return Err(invalid(text, "a gateway URL starts with ws:// or wss://")),
        };
        let rest = rest.split(['?', '#']).next().unwrap_or("");
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let port = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
        let (host, port) = match port {
            Some((host, port)) => (host, port.parse().map_err(|_| invalid(text, "the port is no number"))?),
            None => (authority, if secure { 443 } else { 80 }),
        };
        let host = host.trim_matches(['[', ']']);
        let address = (host, port).to_socket_addrs()?.next().ok_or_else(|| invalid(text, "no address"))?;
        Ok(Self { authority: authority.to_owned(), path: path.to_owned(), host: host.to_owned(), address, secure })
    }

    /// Opens the TCP connection. A `wss` URL needs `tls`; the TLS handshake happens with the first reads and writes.
    ///
    /// # Errors
    /// When connecting fails, or a `wss` URL comes without `tls` or has a host that TLS can not name.
    pub async fn connect(&self, tls: Option<&Arc<ClientConfig>>) -> io::Result<Link> {
        let session = if self.secure {
            let config = tls.ok_or_else(|| invalid(&self.authority, "wss:// needs --ca"))?;
            let name = self.host.clone().try_into().map_err(io::Error::other)?;
            Some(rustls::ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?.into())
        } else {
            None
        };
        let stream = TcpStream::connect(self.address).await.map_err(|error| match error {
            glommio::GlommioError::IoError(error) => error,
            other => io::Error::other(other.to_string()),
        })?;
        Link::new(stream, session)
    }

    /// Connects and upgrades to a WebSocket at this path and query.
    ///
    /// # Errors
    /// When connecting fails, or the server refuses the handshake.
    pub async fn upgrade(&self, target: &str, tls: Option<&Arc<ClientConfig>>) -> io::Result<(Link, FrameDecoder)> {
        let mut link = self.connect(tls).await?;
        let (request, key) = client_request(&self.authority, target);
        link.out.extend_from_slice(request.as_bytes());
        let mut buffer = Vec::new();
        loop {
            if let Some(length) = parse_response(&buffer, &key).map_err(io::Error::other)? {
                return Ok((link, inbound(Role::Client, MAX_MESSAGE, &buffer[length..])));
            }
            if buffer.len() > MAX_RESPONSE {
                return Err(invalid(target, "the response has no end"));
            }
            if link.read_more(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Requests a path from the same host over HTTP. Returns the body of a response with status 200.
    ///
    /// # Errors
    /// When connecting fails, or the response has another status.
    pub async fn get(&self, path: &str, token: &str, tls: Option<&Arc<ClientConfig>>) -> io::Result<String> {
        let mut link = self.connect(tls).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bot {token}\r\nConnection: close\r\n\r\n",
            self.authority
        );
        link.out.extend_from_slice(request.as_bytes());
        let mut buffer = Vec::new();
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut response = httparse::Response::new(&mut headers);
            if let httparse::Status::Complete(head) = response.parse(&buffer).map_err(io::Error::other)? {
                if response.code != Some(200) {
                    return Err(io::Error::other(format!("{path}: status {}", response.code.unwrap_or(0))));
                }
                let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
                let length = header.and_then(|header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
                let length: usize = length.ok_or_else(|| invalid(path, "a response without a length"))?;
                if buffer.len() - head >= length {
                    return String::from_utf8(buffer[head..head + length].to_vec()).map_err(io::Error::other);
                }
            }
            if buffer.len() > MAX_RESPONSE {
                return Err(invalid(path, "the response is too long"));
            }
            if link.read_more(&mut buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("ws://127.0.0.1:7878/r/abc?v=10").unwrap();
        assert_eq!((url.authority.as_str(), url.path.as_str(), url.secure), ("127.0.0.1:7878", "/r/abc", false));
        assert_eq!(url.address, "127.0.0.1:7878".parse().unwrap());
        let url = Url::parse("wss://[::1]").unwrap();
        assert_eq!((url.host.as_str(), url.path.as_str(), url.secure), ("::1", "/", true));
        assert_eq!(url.address.port(), 443);
        assert!(Url::parse("http://127.0.0.1").is_err());
        assert!(Url::parse("ws://127.0.0.1:x").is_err());
    }
}
