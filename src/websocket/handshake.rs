//! The opening handshake (RFC 6455 section 4), for both sides.
//!
//! Owns which headers a handshake needs, and what it answers. Promises: no extension and no subprotocol is ever
//! asked for or agreed on. Never reads or writes a socket.

use tungstenite::handshake::{client::generate_key, derive_accept_key};

/// Most headers that a server's response may have. A response with more is refused.
const MAX_HEADERS: usize = 64;

/// A valid request for an upgrade to WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The value of `Sec-WebSocket-Key`.
    pub key: String,
}

/// Why a handshake failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The bytes are not the head of an HTTP/1.1 message.
    #[error("malformed HTTP: {0}")]
    Http(#[source] httparse::Error),
    /// The server answered with this status instead of 101.
    #[error("the server answered {0} instead of 101")]
    Status(u16),
    /// The header of this name is missing or has the wrong value.
    #[error("header {0} is missing or wrong")]
    Header(&'static str),
}

fn header<'a>(headers: &'a [httparse::Header<'_>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.trim_ascii())
}

/// Says whether a comma-separated header value contains `token`.
fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|&byte| byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Checks the headers of a request. `None`: the request does not ask for a WebSocket, so it is plain HTTP.
pub fn upgrade_of(headers: &[httparse::Header<'_>]) -> Option<Result<Upgrade, HandshakeError>> {
    let upgrade = header(headers, "upgrade")?;
    if !has_token(upgrade, "websocket") {
        return None;
    }
    Some(check_upgrade(headers))
}

fn check_upgrade(headers: &[httparse::Header<'_>]) -> Result<Upgrade, HandshakeError> {
    if !header(headers, "connection").is_some_and(|value| has_token(value, "upgrade")) {
        return Err(HandshakeError::Header("Connection"));
    }
    if header(headers, "sec-websocket-version") != Some(b"13") {
        return Err(HandshakeError::Header("Sec-WebSocket-Version"));
    }
    let key = header(headers, "sec-websocket-key").and_then(|key| std::str::from_utf8(key).ok());
    // The key is 16 bytes in base64, which are 24 characters.
    let key = key.filter(|key| key.len() == 24).ok_or(HandshakeError::Header("Sec-WebSocket-Key"))?;
    Ok(Upgrade { key: key.to_owned() })
}

/// The head of the 101 response to `upgrade`.
pub fn server_response(upgrade: &Upgrade) -> String {
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(upgrade.key.as_bytes())
    )
}

/// The head of a client's request for `target` (path and query) at `host` (with the port if it is not the default
/// one), and the key that [`parse_response`] needs.
pub fn client_request(host: &str, target: &str) -> (String, String) {
    let key = generate_key();
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nUser-Agent: gateway-proxy/{}\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    (request, key)
}

/// Checks the server's response to a request with `key`. `Some(n)`: the response is complete and has `n` bytes.
/// `None`: more bytes are needed.
pub fn parse_response(bytes: &[u8], key: &str) -> Result<Option<usize>, HandshakeError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let size = match response.parse(bytes).map_err(HandshakeError::Http)? {
        httparse::Status::Complete(size) => size,
        httparse::Status::Partial => return Ok(None),
    };
    match response.code {
        Some(101) => {}
        code => return Err(HandshakeError::Status(code.unwrap_or(0))),
    }
    let accept = derive_accept_key(key.as_bytes());
    let headers = response.headers;
    let checks = [
        ("Upgrade", header(headers, "upgrade").is_some_and(|value| has_token(value, "websocket"))),
        ("Connection", header(headers, "connection").is_some_and(|value| has_token(value, "upgrade"))),
        ("Sec-WebSocket-Accept", header(headers, "sec-websocket-accept") == Some(accept.as_bytes())),
        ("Sec-WebSocket-Extensions", header(headers, "sec-websocket-extensions").is_none()),
        ("Sec-WebSocket-Protocol", header(headers, "sec-websocket-protocol").is_none()),
    ];
    match checks.into_iter().find(|(_, right)| !right) {
        Some((name, _)) => Err(HandshakeError::Header(name)),
        None => Ok(Some(size)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(request: &str) -> Option<Result<Upgrade, HandshakeError>> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(request.as_bytes()).unwrap();
        upgrade_of(parsed.headers)
    }

    #[test]
    fn both_sides_agree() {
        let (request, key) = client_request("localhost:1", "/?v=10");
        let upgrade = parse(&request).unwrap().unwrap();
        assert_eq!(upgrade.key, key);
        let mut response = server_response(&upgrade).into_bytes();
        let length = response.len();
        response.extend_from_slice(b"\x81\x00");
        assert_eq!(parse_response(&response, &key), Ok(Some(length)));
        assert_eq!(parse_response(&response[..length - 1], &key), Ok(None));
        assert_eq!(
            parse_response(&response, "dGhlIHNhbXBsZSBub25jZQ=="),
            Err(HandshakeError::Header("Sec-WebSocket-Accept"))
        );
    }

    #[test]
    fn the_example_of_the_rfc() {
        let upgrade = Upgrade { key: "dGhlIHNhbXBsZSBub25jZQ==".into() };
        assert!(server_response(&upgrade).contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
    }

    #[test]
    fn requests_are_checked() {
        assert_eq!(parse("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), None);
        assert_eq!(
            parse("GET / HTTP/1.1\r\nUpgrade: WebSocket\r\n\r\n"),
            Some(Err(HandshakeError::Header("Connection")))
        );
        let head = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: keep-alive, upgrade\r\n";
        assert_eq!(
            parse(&format!("{head}Sec-WebSocket-Version: 8\r\n\r\n")),
            Some(Err(HandshakeError::Header("Sec-WebSocket-Version")))
        );
        assert_eq!(
            parse(&format!("{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n")),
            Some(Err(HandshakeError::Header("Sec-WebSocket-Key")))
        );
    }

    #[test]
    fn responses_are_checked() {
        let right = server_response(&Upgrade { key: "dGhlIHNhbXBsZSBub25jZQ==".into() });
        let parse = |response: &str| parse_response(response.as_bytes(), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(parse(&right), Ok(Some(right.len())));
        for name in ["Upgrade", "Connection", "Sec-WebSocket-Accept"] {
            let without = right.replace(&format!("\r\n{name}: "), "\r\nX-Other: ");
            assert_eq!(parse(&without), Err(HandshakeError::Header(name)));
        }
        for name in ["Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"] {
            let with = right.replace("\r\n\r\n", &format!("\r\n{name}: a\r\n\r\n"));
            assert_eq!(parse(&with), Err(HandshakeError::Header(name)));
        }
    }

    #[test]
    fn a_refusal_names_the_status() {
        assert_eq!(parse_response(b"HTTP/1.1 503 Busy\r\n\r\n", "k"), Err(HandshakeError::Status(503)));
        assert!(matches!(parse_response(b"garbage\r\n\r\n", "k"), Err(HandshakeError::Http(_))));
    }
}
