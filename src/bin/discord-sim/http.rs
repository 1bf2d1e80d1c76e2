//! The part of HTTP/1.1 that the simulator needs: requests with a Content-Length, JSON responses, keep-alive.

use gateway_proxy::websocket::{HandshakeError, Upgrade, upgrade_of};

/// Longest head of a request in bytes.
pub const MAX_HEAD: usize = 16 << 10;

/// Longest body of a request in bytes.
pub const MAX_BODY: usize = 32 << 20;

const MAX_HEADERS: usize = 64;

/// The head of a request.
#[derive(Debug)]
pub struct Request {
    /// GET, POST, ...
    pub method: String,
    /// Path without query, also when the target is an absolute URI.
    pub path: String,
    /// Parameters of the query in order, decoded.
    pub query: Vec<(String, String)>,
    /// Value of `Authorization`.
    pub authorization: Option<String>,
    /// The WebSocket handshake, or its error. `None` for a plain request.
    pub upgrade: Option<Result<Upgrade, HandshakeError>>,
    /// Length of the body in bytes.
    pub body: usize,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// Whether the connection stays open for another request.
    pub keep_alive: bool,
}

/// Why a request can not be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The head is not one of HTTP/1, or the length of the body is no number.
    #[error("not an HTTP/1 request")]
    Malformed,
    /// The body has no length.
    #[error("a body without Content-Length")]
    NoLength,
    /// The body is longer than [`MAX_BODY`].
    #[error("a body of more than {MAX_BODY} bytes")]
    BodyTooLong,
    /// The head is longer than [`MAX_HEAD`].
    #[error("a head of more than {MAX_HEAD} bytes")]
    HeadTooLong,
}

impl BadRequest {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::NoLength => 411,
            Self::BodyTooLong => 413,
            Self::HeadTooLong => 431,
        }
    }
}

impl Request {
    /// Parses a head at the start of `bytes`, and returns it with its length. `None` when the head is not complete.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, BadRequest> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Request::new(&mut headers);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() > MAX_HEAD => return Err(BadRequest::HeadTooLong),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(BadRequest::Malformed),
        };
        let header = |name: &str| {
            let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(found.value).ok().map(str::trim)
        };
        let is = |name: &str, value: &str| header(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
        if header("transfer-encoding").is_some() {
            return Err(BadRequest::NoLength);
        }
        let body = match header("content-length").map(str::parse::<usize>) {
            None => 0,
            Some(Ok(body)) if body <= MAX_BODY => body,
            Some(Ok(_)) => return Err(BadRequest::BodyTooLong),
            Some(Err(_)) => return Err(BadRequest::Malformed),
        };
        let (path, query) = target(head.path.unwrap_or("/"));
        let request = Self {
            method: head.method.unwrap_or("GET").to_owned(),
            path,
            query,
            authorization: header("authorization").map(str::to_owned),
            body,
            expects_continue: is("expect", "100-continue"),
            keep_alive: !is("connection", "close") && (head.version == Some(1) || is("connection", "keep-alive")),
            upgrade: upgrade_of(head.headers),
        };
        Ok(Some((request, length)))
    }

    /// The value of a query parameter.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Path and query of a request target. A proxy sends an absolute URI as target.
fn target(target: &str) -> (String, Vec<(String, String)>) {
    let target = match target.split_once("://") {
        Some((_, rest)) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if path.is_empty() { "/" } else { path };
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key), decode(value))
    });
    (path.to_owned(), query.collect())
}

/// Decodes percent encoding.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let digits = (*byte == b'%').then(|| tail.get(..2)).flatten();
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                out.push(value);
                rest = &tail[2..];
            }
            None => out.push(if *byte == b'+' { b' ' } else { *byte }),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A response; its body is always JSON.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// JSON text.
    pub body: String,
}

impl Response {
    /// A response with status 200.
    pub fn ok(body: impl Into<String>) -> Self {
        Self { status: 200, body: body.into() }
    }

    /// An error response with the body that Discord uses.
    pub fn error(status: u16, message: &str, code: u32) -> Self {
        Self { status, body: format!(r#"{{"message":{},"code":{code}}}"#, world::json::string(message)) }
    }

    /// Appends the response to `out`.
    pub fn write(&self, keep_alive: bool, out: &mut Vec<u8>) {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            401 => "Unauthorized",
            404 => "Not Found",
            405 => "Method Not Allowed",
            _ => "Error",
        };
        // Some libraries compare the content type as a whole.
        let head = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n",
            self.status,
            self.body.len(),
            if keep_alive { "keep-alive" } else { "close" }
        );
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(self.body.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_taken_apart() {
        let text = b"POST http://discord.com/api/v10/gateway?a=1&b=x%20y+z&c HTTP/1.1\r\nHost: discord.com\r\n\
            Authorization: Bot t\r\nContent-Length: 4\r\n\r\nbody";
        let (request, length) = Request::parse(text).unwrap().unwrap();
        assert_eq!(&text[length..], b"body");
        assert_eq!((request.method.as_str(), request.path.as_str(), request.body), ("POST", "/api/v10/gateway", 4));
        assert_eq!(request.get("a"), Some("1"));
        assert_eq!(request.get("b"), Some("x y z"));
        assert_eq!(request.get("c"), Some(""));
        assert_eq!(request.authorization.as_deref(), Some("Bot t"));
        assert!(request.keep_alive && request.upgrade.is_none());
        assert!(Request::parse(&text[..30]).unwrap().is_none());
    }

    #[test]
    fn bad_requests_are_refused() {
        let status = |head: &[u8]| Request::parse(head).err().map(BadRequest::status);
        assert_eq!(status(b"nonsense\r\n\r\n"), Some(400));
        assert_eq!(status(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Some(411));
        assert_eq!(status(b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"), Some(413));
        assert_eq!(status(&[b'a'; MAX_HEAD + 1]), Some(431));
    }

    #[test]
    fn odd_targets_are_understood() {
        assert_eq!(target("?v=10").0, "/");
        assert_eq!(target("//?v=10").0, "//");
        assert_eq!(target("http://h").0, "/");
        assert_eq!(target("http://h?x=%zz%4").1, vec![("x".to_owned(), "%zz%4".to_owned())]);
    }
}
