//! Forwards clients' requests for Discord's REST API to an HTTP proxy for that API (config key `rest_proxy`), and the
//! responses back.
//!
//! Each connection carries one request: both sides are told to close after it. Of a client's bytes only the head of the
//! request, without the headers of the connection, and its [`Body`] are forwarded. Each direction holds one buffer, and
//! the proxy reads no more from one side before the other side has taken what was read. A request ends when the client
//! closes its side, or when it sends its body too slowly ([`LEAST_RATE`]).

use super::{
    api_request::{ApiRequest, copy_headers},
    body::Body,
    connection::{ClientConnection, poll_read},
    http::Response,
};
use crate::net::{
    ReadBudget,
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

/// Requests with the bot's token that are forwarded at a time; more are refused with status 503.
pub const MAX_FORWARDED: usize = 1024;
/// Requests without the bot's token that are forwarded at a time. When one more comes, the oldest one of the address
/// with the most such requests is cut off.
pub const MAX_TOKENLESS: usize = 64;
/// Requests without the bot's token that one address may send in a second. Discord's own limit for a bot is 50.
pub const TOKENLESS_RATE: u32 = 50;
/// Longest wait for the name and the connection of `rest_proxy`.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A request is given up after this time without a byte in either direction. The wait can be long because of Discord's
/// rate limits.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// A request whose body the client has to go on sending is given up after this time without a byte: a client has no
/// rate limit to wait for.
const CLIENT_IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Longest time for a request, with its body and its response.
const TOTAL_LIMIT: Duration = Duration::from_secs(15 * 60);
/// Bytes that a client has to send for each second that the proxy waits for its body. The first [`CLIENT_IDLE_LIMIT`]
/// does not count.
const LEAST_RATE: f64 = 4096.0;
/// Bytes of a response that are read at a time.
const CHUNK: usize = 16 << 10;
/// Longest head of a response, in bytes.
const MAX_RESPONSE_HEAD: usize = 32 << 10;
/// Most headers of a response.
const MAX_HEADERS: usize = 128;
/// Appends the first response head in `bytes` to `out`, changed so that the client closes the connection after the
/// response. Returns the length of the head in `bytes`, and whether it is the final one: interim responses (1xx) may
/// come before it. `None`: the head is incomplete.
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

/// Forwards a request to `address` (`host:port`), and the response of `address` back to the client. `Some`: the request
/// failed before any byte of the response was queued for the client, and the caller has to send this error response
/// (408, 502 or 504). `None`: the response is complete, the request failed within the response, or the client has
/// closed its side. The caller then only has to end the connection.
pub async fn forward(connection: &mut ClientConnection, request: ApiRequest, address: &str) -> Option<Response> {
    let stream = match within(CONNECT_LIMIT, connect(address.to_owned())).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return Some(bad_gateway(&error.to_string())),
        None => return Some(bad_gateway("no connection in time")),
    };
    let mut exchange = Exchange {
        upstream: stream,
        budget: ReadBudget::default(),
        body: request.body(),
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

/// The result of one call of [`Exchange::poll`].
enum Step {
    /// Bytes have moved in one of the directions.
    Moved,
    Done(io::Result<()>),
}

/// A request that is being forwarded: its two directions and the state of each.
struct Exchange {
    upstream: TcpStream,
    budget: ReadBudget,
    /// The head of the request, for `rest_proxy`.
    outgoing: Vec<u8>,
    sent: usize,
    /// The part of the request's body that has not been forwarded.
    body: Body,
    /// The client has to send the next byte of the body.
    waits_for_client: bool,
    /// Bytes received from the client, without those that came with the head.
    received: u64,
    /// The client has closed its side of the connection. As other proxies do, this one takes that as the client not
    /// wanting the response any more.
    client_gone: bool,
    /// The bytes of a response whose head is not complete.
    incoming: Vec<u8>,
    in_body: bool,
    /// A byte of the response has been given to the client's outbox.
    answered: bool,
}

impl Exchange {
    /// Moves bytes in both directions as far as is possible without waiting.
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

    /// Moves bytes from the client to `rest_proxy`, until one of them has to wait.
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
                // Bytes behind the request stay in the buffer, and no more are read.
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

    /// Moves bytes from `rest_proxy` to the client, until one of them has to wait, or until the whole response is in
    /// the client's outbox.
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
