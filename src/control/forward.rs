//! Requests for the rest of Discord's API (config key `rest_proxy`), passed through to an HTTP proxy for it.
//!
//! One request for each connection: both sides are told to close, and of what a client sends nothing passes but that
//! request, as far as its [`Body`] goes. A direction holds one buffer; who does not take his bytes is not sent more. A client
//! that goes away, or is slower than any network, ends its request. Such proxies put the bot's token in front of whatever they
//! get, so a request has to bring it. Where the configuration allows that (`rest_proxy_without_token`), the documented
//! routes whose path carries a token of its own, those of interactions and webhooks, need none.

use super::{body::Body, http::Response};
use crate::net::{
    Budget,
    client::{ClientConnection, poll_read},
    dial::{ADDRESS_LIMIT, connect_any},
    within,
};
use futures_lite::io::AsyncWrite;
use glommio::net::TcpStream;
use std::{
    future::poll_fn,
    io,
    net::{SocketAddr, ToSocketAddrs},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

/// Requests that are passed through at a time; more are refused with 503.
pub const MAX_FORWARDED: usize = 1024;
/// Requests that are passed through at a time and whose path carries a token of its own, so that the bot's is not needed.
/// For one more, the oldest one of the address that has most of them is cut off.
pub const MAX_TOKENLESS: usize = 64;
/// Such requests of one address in a second; Discord's own limit for a bot is 50.
pub const TOKENLESS_RATE: u32 = 50;
/// How long a connection to the proxy for the API may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// After this time without a byte in either direction a request is given up. Discord's rate limits can make it wait long.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// The same when the client is the one who has to send: it has no rate limit to wait for.
const CLIENT_IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Longest time for a request, its body and its answer.
const TOTAL_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Bytes of its body that a client has to send for each second that it is waited for, after [`CLIENT_IDLE_LIMIT`].
const LEAST_RATE: f64 = 4096.0;
/// Digits of the largest id.
const ID_DIGITS: usize = 20;
/// Lengths of the tokens of webhooks and interactions.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 32..=1024;
/// Bytes of a response that are read at a time.
const CHUNK: usize = 16 << 10;
/// Longest head of a response, in bytes.
const MAX_RESPONSE_HEAD: usize = 32 << 10;
/// Most headers of a response.
const MAX_HEADERS: usize = 128;
/// Headers that are about one connection and not about the request (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "upgrade", "te"];

/// A request on its way.
#[derive(Debug, PartialEq, Eq)]
pub struct Forward {
    /// Its head without what is about the connection, and without the last line.
    head: Vec<u8>,
    body: Body,
    /// The value of `Authorization`.
    pub authorization: Option<String>,
    /// Is it for a documented route whose path carries a token?
    pub has_own_token: bool,
}

impl Forward {
    /// From a request whose path is below `/api`. `route` is what follows the version. An error says what is wrong with it.
    pub fn new(request: &httparse::Request<'_, '_>, route: &str) -> Result<Self, &'static str> {
        let body = Body::of(request.headers)?;
        let (method, target) = (request.method.unwrap_or("GET"), request.path.unwrap_or("/"));
        // Who speaks HTTP/1.0 could not read the chunks that an answer to HTTP/1.1 may come in.
        let version = request.version.unwrap_or(1).min(1);
        if version == 0 && request.headers.iter().any(|header| header.name.eq_ignore_ascii_case("transfer-encoding")) {
            return Err("HTTP/1.0 knows no Transfer-Encoding");
        }
        let mut head = format!("{method} {target} HTTP/1.{version}\r\n").into_bytes();
        let ours = |name: &str| name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case("authorization");
        copy_headers(request.headers, &mut head, |name| !ours(name));
        let authorization = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("authorization"));
        let authorization = authorization.and_then(|header| String::from_utf8(header.value.to_vec()).ok());
        Ok(Self { head, body, authorization, has_own_token: carries_token(method, route) })
    }

    /// Takes `Authorization` away: what it says is not the bot's token, and would go out from this machine's address.
    pub fn without_authorization(self) -> Self {
        Self { authorization: None, ..self }
    }

    fn encode(mut self, host: &str) -> Vec<u8> {
        if let Some(authorization) = &self.authorization {
            self.head.extend_from_slice(format!("Authorization: {authorization}\r\n").as_bytes());
        }
        self.head.extend_from_slice(format!("Host: {host}\r\nConnection: close\r\n\r\n").as_bytes());
        self.head
    }
}

fn copy_headers(headers: &[httparse::Header<'_>], out: &mut Vec<u8>, wanted: impl Fn(&str) -> bool) {
    for header in headers {
        if wanted(header.name) && !HOP_BY_HOP.iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
            out.extend_from_slice(header.name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(header.value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The routes whose path carries a token (docs: Interactions, Create Interaction Response and the followup messages; Webhook
/// Resource, those "with Token", "Execute" and those for messages), spelled in a way that means nothing else to anyone.
fn carries_token(method: &str, route: &str) -> bool {
    let path = route.split('?').next().unwrap_or("");
    let is_id = |id: &str| (1..=ID_DIGITS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let is_token = |token: &str| TOKEN_LENGTH.contains(&token.len()) && token.bytes().all(plain);
    let segments: Vec<&str> = path.split('/').take(7).collect();
    let ["", kind, id, token, rest @ ..] = &segments[..] else { return false };
    is_id(id)
        && is_token(token)
        && match (*kind, rest) {
            ("interactions", ["callback"]) => method == "POST",
            ("webhooks", []) => matches!(method, "GET" | "POST" | "PATCH" | "DELETE"),
            ("webhooks", ["slack" | "github"]) => method == "POST",
            ("webhooks", ["messages", message]) => {
                (*message == "@original" || is_id(message)) && matches!(method, "GET" | "PATCH" | "DELETE")
            }
            _ => false,
        }
}

/// Rewrites the head of a response, so that the client closes too. `None` while it is incomplete, otherwise the bytes it
/// took, and whether it is the last head: before it there may be interim ones.
pub fn response_head(bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, bool)>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let size = match response.parse(bytes) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_RESPONSE_HEAD => return Ok(None),
        Ok(httparse::Status::Partial) => return Err("its response has an endless head"),
        Err(_) => return Err("its response is not HTTP/1.1"),
    };
    let code = response.code.unwrap_or(0);
    if code == 101 {
        return Err("it changed the protocol");
    }
    let last = code >= 200;
    out.extend_from_slice(format!("HTTP/1.1 {code} {}\r\n", response.reason.unwrap_or("")).as_bytes());
    copy_headers(response.headers, out, |_| true);
    out.extend_from_slice(if last { b"Connection: close\r\n\r\n" } else { b"\r\n" });
    Ok(Some((size, last)))
}

/// Passes a request through to `address` (`host:port`) and the response back. An answer of our own is returned if there is
/// no other; otherwise the connection only has to be ended.
pub async fn forward(connection: &mut ClientConnection, request: Forward, address: &str) -> Option<Response> {
    let stream = match within(CONNECT_LIMIT, connect(address.to_owned())).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return Some(bad_gateway(&error.to_string())),
        None => return Some(bad_gateway("no connection in time")),
    };
    let mut exchange = Exchange {
        upstream: stream,
        budget: Budget::default(),
        body: request.body,
        outgoing: request.encode(address),
        sent: 0,
        waits_for_client: false,
        received: 0,
        client_gone: false,
        incoming: Vec::new(),
        in_body: false,
        answered: false,
    };
    let start = Instant::now();
    let (mut idle, mut waited_for_client) = (Duration::ZERO, Duration::ZERO);
    while start.elapsed() < TOTAL_LIMIT && idle < IDLE_LIMIT {
        let turn = Instant::now();
        let step = within(CLIENT_IDLE_LIMIT, poll_fn(|cx| exchange.poll(connection, cx))).await;
        if exchange.waits_for_client {
            waited_for_client += turn.elapsed();
        }
        match step {
            Some(Step::Moved) => idle = Duration::ZERO,
            Some(Step::Done(Ok(()))) => return None,
            Some(Step::Done(Err(_))) if exchange.answered || exchange.client_gone => return None,
            Some(Step::Done(Err(error))) => return Some(bad_gateway(&error.to_string())),
            None => idle += CLIENT_IDLE_LIMIT,
        }
        let late = waited_for_client.saturating_sub(CLIENT_IDLE_LIMIT).as_secs_f64();
        if exchange.waits_for_client && (!idle.is_zero() || (exchange.received as f64) < late * LEAST_RATE) {
            let body = r#"{"message":"gateway-proxy: the body of the request does not come","code":0}"#;
            return Some(Response::json("408 Request Timeout", body)).filter(|_| !exchange.answered);
        }
    }
    let body =
        r#"{"message":"gateway-proxy: the proxy for Discord's API (`rest_proxy`) did not answer in time","code":0}"#;
    Some(Response::json("504 Gateway Timeout", body)).filter(|_| !exchange.answered)
}

fn bad_gateway(what: &str) -> Response {
    let message = format!("gateway-proxy: the proxy for Discord's API (`rest_proxy`) can not be used: {what}");
    tracing::debug!("{message}");
    Response::json("502 Bad Gateway", serde_json::json!({ "message": message, "code": 0 }).to_string())
}

async fn connect(address: String) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> =
        glommio::executor().spawn_blocking(move || address.to_socket_addrs().map(Iterator::collect)).await?;
    let stream = connect_any(&addresses, ADDRESS_LIMIT).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// What came of one turn.
enum Step {
    /// Bytes have moved, so the limit of idleness starts anew.
    Moved,
    Done(io::Result<()>),
}

/// The two directions of a request.
struct Exchange {
    upstream: TcpStream,
    budget: Budget,
    /// Bytes for the proxy of the API that did not come from the client's buffer: the head.
    outgoing: Vec<u8>,
    sent: usize,
    /// What of the request's body has not been passed on.
    body: Body,
    /// The next byte of the body has to come from the client.
    waits_for_client: bool,
    /// Bytes that have come from the client.
    received: u64,
    /// The client has ended its side. As with other proxies that means that it does not want the answer any more.
    client_gone: bool,
    /// The beginning of a response whose head is not complete.
    incoming: Vec<u8>,
    in_body: bool,
    /// Has anything gone to the client?
    answered: bool,
}

impl Exchange {
    /// Moves what can be moved.
    fn poll(&mut self, connection: &mut ClientConnection, cx: &mut Context<'_>) -> Poll<Step> {
        let mut moved = false;
        if let Poll::Ready(Err(error)) = self.poll_request(connection, cx, &mut moved) {
            return Poll::Ready(Step::Done(Err(error)));
        }
        match self.poll_response(connection, cx, &mut moved) {
            Poll::Ready(result) => Poll::Ready(Step::Done(result)),
            Poll::Pending if moved => Poll::Ready(Step::Moved),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Client to proxy, until one of them has to wait.
    fn poll_request(
        &mut self,
        connection: &mut ClientConnection,
        cx: &mut Context<'_>,
        moved: &mut bool,
    ) -> Poll<io::Result<()>> {
        self.waits_for_client = false;
        loop {
            let head = &self.outgoing[self.sent..];
            let unconsumed = connection.inbound.unconsumed();
            if !head.is_empty() {
                self.sent += ready!(Pin::new(&mut self.upstream).poll_write(cx, head))?;
                *moved = true;
            } else if !self.body.is_over() && !unconsumed.is_empty() {
                let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
                let mut ahead = self.body;
                let belongs = ahead.advance(unconsumed).map_err(wrong)?;
                let n = ready!(Pin::new(&mut self.upstream).poll_write(cx, &unconsumed[..belongs]))?;
                self.body.advance(&unconsumed[..n]).map_err(wrong)?;
                connection.inbound.consume(n);
                *moved = true;
            } else if !unconsumed.is_empty() {
                // What is behind the request is not read any further.
                return Poll::Pending;
            } else {
                self.waits_for_client = !self.body.is_over();
                let n = ready!(connection.poll_read(cx)).inspect_err(|_| self.client_gone = true)?;
                self.waits_for_client = false;
                if n == 0 {
                    self.client_gone = true;
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                self.received += n as u64;
                *moved = true;
            }
        }
    }

    /// Proxy to client, until one of them has to wait, or until the response has gone.
    fn poll_response(
        &mut self,
        connection: &mut ClientConnection,
        cx: &mut Context<'_>,
        moved: &mut bool,
    ) -> Poll<io::Result<()>> {
        let mut chunk = [0; CHUNK];
        loop {
            let (n, progress) = connection.poll_write(cx);
            *moved |= n > 0;
            ready!(progress)?;
            let n = ready!(poll_read(&mut self.upstream, &mut self.budget, cx, &mut chunk))?;
            if n == 0 {
                let complete = if self.in_body { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                return Poll::Ready(complete);
            }
            *moved = true;
            if self.in_body {
                connection.outbox.raw(&chunk[..n]);
                continue;
            }
            self.incoming.extend_from_slice(&chunk[..n]);
            let mut out = Vec::new();
            while !self.in_body {
                let parsed = response_head(&self.incoming, &mut out)
                    .map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
                let Some((size, last)) = parsed else { break };
                self.incoming.drain(..size);
                self.in_body = last;
            }
            if self.in_body {
                out.append(&mut self.incoming);
            }
            self.answered |= !out.is_empty();
            connection.outbox.raw(&out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str, route: &str) -> Forward {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut request = httparse::Request::new(&mut headers);
        assert!(request.parse(head.as_bytes()).unwrap().is_complete());
        Forward::new(&request, route).unwrap()
    }

    #[test]
    fn a_request_is_passed_on_without_what_is_about_the_connection() {
        let forward = request(
            "POST /api/v10/channels/1/messages?a=b HTTP/1.1\r\nHost: proxy:7878\r\nConnection: keep-alive\r\n\
             Authorization: Bot x\r\nTransfer-Encoding: chunked\r\nKeep-Alive: 5\r\n\r\n",
            "/channels/1/messages?a=b",
        );
        assert_eq!(forward.authorization.as_deref(), Some("Bot x"));
        assert!(!forward.has_own_token);
        let text = String::from_utf8(forward.encode("rest:80")).unwrap();
        assert_eq!(
            text,
            "POST /api/v10/channels/1/messages?a=b HTTP/1.1\r\nTransfer-Encoding: chunked\r\nAuthorization: Bot x\r\n\
             Host: rest:80\r\nConnection: close\r\n\r\n"
        );
    }

    #[test]
    fn only_documented_routes_with_a_token_need_none() {
        let token = &"aW50ZXJhY3Rpb246MTIz-_x.".repeat(3);
        for (method, good) in [
            ("POST", format!("/interactions/123/{token}/callback")),
            ("POST", format!("/interactions/123/{token}/callback?with_response=true")),
            ("POST", format!("/webhooks/123/{token}?wait=true")),
            ("GET", format!("/webhooks/123/{token}")),
            ("DELETE", format!("/webhooks/123/{token}")),
            ("POST", format!("/webhooks/123/{token}/github")),
            ("PATCH", format!("/webhooks/123/{token}/messages/@original")),
            ("GET", format!("/webhooks/123/{token}/messages/456?thread_id=1")),
        ] {
            assert!(carries_token(method, &good), "{method} {good}");
        }
        for (method, bad) in [
            ("GET", "/users/@me".to_owned()),
            ("GET", "/webhooks/123".to_owned()),
            ("GET", "/webhooks/123/short".to_owned()),
            ("GET", format!("/webhooks/123/{}", "a".repeat(2000))),
            ("GET", format!("/webhooks/abc/{token}")),
            ("GET", format!("/webhooks/{}/{token}", "1".repeat(21))),
            ("GET", format!("/webhooks/123/{token}/../../../users/@me")),
            ("GET", format!("/webhooks/123/{token}/%2e%2e/users")),
            ("GET", format!("/webhooks//123/{token}")),
            ("GET", format!("webhooks/123/{token}")),
            ("GET", format!("/webhooks/123/{token}/")),
            ("GET", format!("/webhooks/123/{token}/anything")),
            ("GET", format!("/webhooks/123/{token}/messages/456/7")),
            ("GET", format!("/webhooks/123/{token}/messages/../456")),
            ("PUT", format!("/webhooks/123/{token}")),
            ("POST", format!("/webhooks/123/{token}/messages/456")),
            ("GET", format!("/interactions/123/{token}/callback")),
            ("POST", format!("/interactions/123/{token}")),
            ("OPTIONS", format!("/webhooks/123/{token}")),
        ] {
            assert!(!carries_token(method, &bad), "{method} {bad}");
        }
    }

    #[test]
    fn a_foreign_authorization_does_not_go_out() {
        let forward =
            request("GET /api/users/@me HTTP/1.1\r\nauthorization: Bearer foreign\r\nX: y\r\n\r\n", "/users/@me");
        let text = String::from_utf8(forward.without_authorization().encode("rest:80")).unwrap();
        assert_eq!(text, "GET /api/users/@me HTTP/1.1\r\nX: y\r\nHost: rest:80\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn a_response_closes_the_connection_of_the_client() {
        let mut out = Vec::new();
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        assert_eq!(response_head(interim, &mut out), Ok(Some((interim.len(), false))));
        assert_eq!(out, interim);
        out.clear();
        let whole = b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok";
        for cut in 0..whole.len() - 2 {
            assert_eq!(response_head(&whole[..cut], &mut out), Ok(None), "{cut}");
        }
        assert_eq!(response_head(whole, &mut out), Ok(Some((whole.len() - 2, true))));
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
        assert!(response_head(b"\x15\x03\x01", &mut out).is_err());
        assert!(response_head(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", &mut out).is_err());
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".as_slice(), &vec![b'a'; MAX_RESPONSE_HEAD]].concat();
        assert!(response_head(&endless, &mut out).is_err());
    }
}
