//! Forwards clients' requests for Discord's REST API to an HTTP proxy for that API (config key `rest_proxy`), and the
//! responses back.
//!
//! hyper serves the client's connection, and another hyper sends the request to `rest_proxy`. One task polls both, and
//! this module bounds it: how long it may take, how slowly the client may send, and how much is buffered ([`BUFFER`]).
//! Each connection carries one request: both sides are told to close after it. Of a client's bytes only the head of the
//! request, without the headers of the connection, and its body are forwarded. A request ends when the client closes
//! its side, or when it sends its body too slowly ([`LEAST_RATE`]).

mod bodies;
mod heads;
mod streams;

use super::{api_request::ApiRequest, connection::ClientConnection, http::Response};
use crate::net::{
    dial::{ADDRESS_LIMIT, addresses_of, connect_any},
    within,
};
use bodies::{Exchange, RequestBody, ResponseBody, describe};
use glommio::net::TcpStream;
use hyper::{StatusCode, body::Incoming, client, header::HeaderValue, server, service::service_fn};
use std::{
    cell::RefCell,
    convert::Infallible,
    future::{Future, pending, poll_fn},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};
use streams::{ClientStream, UpstreamStream};

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
/// Most bytes that each of hyper's four buffers holds: what was read of either side, and what is to be written. So it is
/// also the longest head of a response. hyper lets one piece of a body go beyond this limit.
const BUFFER: usize = 32 << 10;
/// Most headers of a response.
const MAX_HEADERS: usize = 128;

/// Forwards the request whose head and body `connection` is going to read to `address` (`host:port`), and the response
/// of `address` back to the client. `Some`: the request failed before any byte of the response was queued for the
/// client, and the caller has to send this error response (400, 408, 502 or 504). `None`: the response is complete, the
/// request failed within the response, or the client has closed its side. The caller then only has to end the
/// connection.
pub async fn forward(connection: &mut ClientConnection, request: &ApiRequest, address: &str) -> Option<Response> {
    let Ok(host) = HeaderValue::from_str(address) else { return Some(bad_gateway("its name is not one of a host")) };
    let stream = match within(CONNECT_LIMIT, connect(address)).await {
        Some(Ok(stream)) => stream,
        Some(Err(error)) => return Some(bad_gateway(&error.to_string())),
        None => return Some(bad_gateway("no connection in time")),
    };
    let exchange = Rc::new(Exchange::default());
    let stream = UpstreamStream::new(stream, exchange.clone());
    let (sender, upstream) = match upstream_settings().handshake(stream).await {
        Ok(both) => both,
        Err(error) => return Some(bad_gateway(&describe(&error))),
    };
    let sender = RefCell::new(sender);
    let service = service_fn(|incoming: hyper::Request<Incoming>| {
        let outgoing = heads::for_upstream(incoming, &host, request.authorization.is_some());
        let response = sender.borrow_mut().send_request(RequestBody::wrap(outgoing, exchange.clone()));
        pass_back(response, exchange.clone())
    });
    let stream = ClientStream::new(connection, exchange.clone());
    let mut client = client_settings().serve_connection(stream, service);
    let mut upstream = Some(upstream);
    let step = |cx: &mut Context<'_>| {
        let served = Pin::new(&mut client).poll(cx).is_ready();
        if upstream.as_mut().is_some_and(|upstream| Pin::new(upstream).poll(cx).is_ready()) {
            upstream = None;
        }
        match (served || exchange.is_over(), exchange.moved.take()) {
            (true, _) => Poll::Ready(Step::Done),
            (false, true) => Poll::Ready(Step::Moved),
            (false, false) => Poll::Pending,
        }
    };
    let timed_out = drive(step, &exchange).await;
    if exchange.client_gone.get() || exchange.answered.get() {
        return None;
    }
    timed_out.or_else(|| exchange.failure.take())
}

/// The result of one step of a request.
enum Step {
    /// Bytes have moved in one of the directions.
    Moved,
    /// The request is over.
    Done,
}

/// Makes steps until the request is over. `None`: it has ended by itself. `Some`: it has taken longer than one of the
/// limits allows, and the client has to get this response.
async fn drive(mut step: impl FnMut(&mut Context<'_>) -> Poll<Step>, exchange: &Exchange) -> Option<Response> {
    let start = Instant::now();
    let (mut idle, mut waited_for_client) = (Duration::ZERO, Duration::ZERO);
    while start.elapsed() < TOTAL_LIMIT && idle < IDLE_LIMIT {
        let turn = Instant::now();
        let step = within(CLIENT_IDLE_LIMIT, poll_fn(&mut step)).await;
        let waits_for_client = exchange.waits_for_client.get();
        if waits_for_client {
            waited_for_client += turn.elapsed();
        }
        match step {
            Some(Step::Moved) => idle = Duration::ZERO,
            Some(Step::Done) => return None,
            None => idle += CLIENT_IDLE_LIMIT,
        }
        let late = waited_for_client.saturating_sub(CLIENT_IDLE_LIMIT).as_secs_f64();
        if waits_for_client && (!idle.is_zero() || (exchange.received.get() as f64) < late * LEAST_RATE) {
            let body = r#"{"message":"gateway-proxy: the body of the request does not come","code":0}"#;
            return Some(Response::json("408 Request Timeout", body));
        }
    }
    let body =
        r#"{"message":"gateway-proxy: the proxy for Discord's API (`rest_proxy`) did not answer in time","code":0}"#;
    Some(Response::json("504 Gateway Timeout", body))
}

/// Gives the response of `rest_proxy` to the client's connection. Without a response this future puts the failure into
/// the exchange and is never ready, so that hyper writes no response of its own.
async fn pass_back(
    response: impl Future<Output = hyper::Result<hyper::Response<Incoming>>>,
    exchange: Rc<Exchange>,
) -> Result<hyper::Response<ResponseBody>, Infallible> {
    let failure = match response.await {
        Ok(response) if response.status() != StatusCode::SWITCHING_PROTOCOLS => {
            exchange.answered.set(true);
            return Ok(heads::for_client(response).map(|body| ResponseBody::new(body, exchange)));
        }
        Ok(_) => "it changed the protocol".to_owned(),
        Err(error) => describe(&error),
    };
    exchange.fail(bad_gateway(&failure));
    pending().await
}

/// The settings of a client's connection. hyper closes it after one request, adds no header but those that frame the
/// response, and writes the names of headers as `rest_proxy` did.
fn client_settings() -> server::conn::http1::Builder {
    let mut settings = server::conn::http1::Builder::new();
    settings
        .keep_alive(false)
        .auto_date_header(false)
        .header_read_timeout(None)
        .preserve_header_case(true)
        .title_case_headers(true)
        .max_buf_size(BUFFER);
    settings
}

/// The settings of the connection to `rest_proxy`. The names of headers are written as the client did.
fn upstream_settings() -> client::conn::http1::Builder {
    let mut settings = client::conn::http1::Builder::new();
    settings.preserve_header_case(true).title_case_headers(true).max_headers(MAX_HEADERS).max_buf_size(BUFFER);
    settings
}

fn bad_gateway(what: &str) -> Response {
    let message = format!("gateway-proxy: the proxy for Discord's API (`rest_proxy`) can not be used: {what}");
    tracing::debug!("{message}");
    Response::json("502 Bad Gateway", serde_json::json!({ "message": message, "code": 0 }).to_string())
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let (host, port) = address.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
    let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
    let addresses = addresses_of(host.trim_matches(['[', ']']), port).await?;
    let stream = connect_any(&addresses, ADDRESS_LIMIT).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::{super::http::Route, *};
    use hyper::{
        header::AUTHORIZATION,
        rt::{Read, ReadBufCursor, Write},
    };
    use proptest::prelude::*;
    use std::task::Waker;

    /// The connection of a client that has sent these bytes and waits.
    struct Sent(Vec<u8>);

    impl Read for Sent {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            mut space: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Pending;
            }
            let n = self.0.len().min(space.remaining());
            space.put_slice(&self.0[..n]);
            self.0.drain(..n);
            Poll::Ready(Ok(()))
        }
    }

    impl Write for Sent {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What hyper reads of a request: method, target, and the value of `Authorization`; `None`: hyper refuses it.
    fn read_by_hyper(head: &[u8]) -> Option<(String, String, Option<Vec<u8>>)> {
        let read = RefCell::new(None);
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes().to_vec());
            *read.borrow_mut() = Some((request.method().to_string(), request.uri().to_string(), authorization));
            pending::<Result<hyper::Response<Incoming>, Infallible>>()
        });
        let mut connection = client_settings().serve_connection(Sent(head.to_vec()), service);
        let _ = Pin::new(&mut connection).poll(&mut Context::from_waker(Waker::noop()));
        drop(connection);
        read.into_inner()
    }

    proptest! {
        /// hyper reads each request that the door lets pass, and reads it as the door does. Otherwise the client would
        /// get an answer of hyper's without a body, or another request would be forwarded than was checked.
        #[test]
        fn hyper_agrees_with_the_door(
            method in "GET|POST|[A-Z]{1,8}|[!-~]{1,4}",
            target in "/api/(v10/)?[!-~\u{80}-\u{ff}]{0,12}",
            headers in proptest::collection::vec(
                (
                    "Authorization|Content-Length|Transfer-Encoding|Expect|Connection|Upgrade|[!-~]{1,8}",
                    "Bot [a-z]{1,4}|[0-9]{1,20}|chunked|100-continue|upgrade|[ -~\u{80}-\u{ff}]{0,8}",
                ),
                0..5,
            ),
        ) {
            let mut head = format!("{method} {target} HTTP/1.1\r\n");
            for (name, value) in headers {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
            head.push_str("\r\n");
            if let Some((_, Route::Api(request))) = super::super::http::parse(head.as_bytes()) {
                let (read_method, read_target, authorization) = read_by_hyper(head.as_bytes()).expect("hyper refuses it");
                prop_assert_eq!(read_method, method);
                // A fragment is not for a server, and hyper leaves it out.
                prop_assert_eq!(Some(&*read_target), target.split('#').next());
                if let Some(shown) = request.authorization {
                    prop_assert_eq!(authorization, Some(shown.into_bytes()));
                }
            }
        }
    }
}
