//! Reads what a client sends before anything else: the header of the PROXY protocol, if a proxy in front of this one has
//! to send it, and the HTTP request head.
//!
//! Promises: bytes after the head stay in the connection's buffer. An address is believed only from the networks that
//! the configuration lists. Bounded by [`http::MAX_HEAD`]; the caller limits the time.

use super::RouteSet;
use crate::{
    config::Network,
    control::{
        Control,
        connection::ClientConnection,
        http::{self, Route},
        origin::{self, ProxyHeaderError},
    },
};
use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
};

/// Reads the PROXY protocol header, if `sender` has to send one, and the request head. Returns the route and the
/// address of the client.
///
/// `sender` is the address that the connection comes from. `None`: the connection ended, or the PROXY protocol header
/// is missing or malformed.
pub(super) async fn read_request(
    control: &Control,
    connection: &mut ClientConnection,
    sender: SocketAddr,
    routes: RouteSet,
) -> Option<(Route, SocketAddr)> {
    let is_one = |networks: &[Network], peer: SocketAddr| networks.iter().any(|network| network.contains(peer.ip()));
    let config = &control.config;
    let mut peer = sender;
    if routes != RouteSet::Operators && is_one(&config.proxy_protocol_from, sender) {
        match proxy_header(connection).await {
            Ok(Some(source)) => peer = source.unwrap_or(sender),
            Ok(None) => return None,
            Err(what) => {
                if let Some(held_back) = control.accept_log.borrow_mut().poll(control.now()) {
                    tracing::warn!(
                        held_back,
                        "{sender}, which `proxy_protocol_from` lists, was refused: it sent {what}"
                    );
                }
                return None;
            }
        }
    }
    let believed = is_one(&config.forwarded_for_from, peer).then_some(&config.forwarded_for_from[..]);
    let (route, named) = read_head_for(connection, Some(&control.origin_policy), believed).await?;
    Some((route, named.map_or(peer, |address| SocketAddr::new(address, 0))))
}

/// Reads the header of the PROXY protocol. `Ok(None)`: the connection ended within the header. `Ok(Some(None))`: the
/// header names no address.
async fn proxy_header(connection: &mut ClientConnection) -> Result<Option<Option<SocketAddr>>, ProxyHeaderError> {
    loop {
        if let Some((size, source)) = origin::proxy_header(connection.inbound.unconsumed())? {
            connection.inbound.consume(size);
            return Ok(Some(source));
        }
        match poll_fn(|cx| connection.poll_read(cx)).await {
            Ok(n) if n > 0 => {}
            _ => return Ok(None),
        }
    }
}

/// Reads a request head without a check of its `Origin` and without `X-Forwarded-For`, for tests. Takes the head out of
/// the connection's buffer unless the route is [`Route::Api`]. `None`: the connection ended before the end of the head.
pub async fn read_head(connection: &mut ClientConnection) -> Option<Route> {
    read_head_for(connection, None, None).await.map(|(route, _)| route)
}

/// Reads a request head, and takes the head out of the connection's buffer unless the route is [`Route::Api`]. Returns
/// the route, and the client that `X-Forwarded-For` names. A request that `origin_policy` does not allow, and a head
/// that is not well-formed, have the route [`Route::Refused`]. `believed` are the networks whose entries in that header
/// are believed; without `believed`, the header is not read. `None`: the connection ended within the head.
async fn read_head_for(
    connection: &mut ClientConnection,
    origin_policy: Option<&http::OriginPolicy>,
    believed: Option<&[Network]>,
) -> Option<(Route, Option<IpAddr>)> {
    // The head is parsed on the first read, so that bytes that are not HTTP are refused at once, and then only when it
    // may be complete. Parsing it after every read would take time quadratic in the number of reads.
    let mut seen = 0;
    loop {
        let bytes = connection.inbound.unconsumed();
        let is_due = seen == 0 || bytes.len() >= http::MAX_HEAD || http::may_end_after(bytes, seen);
        if is_due && let Some((size, route)) = http::parse_for(bytes, origin_policy) {
            let named = believed.and_then(|believed| origin::forwarded_for(&bytes[..size], believed));
            // The head of a request to forward stays, because hyper reads that request again from its first byte.
            connection.inbound.consume(if matches!(route, Route::Api(_)) { 0 } else { size });
            return Some((route, named));
        }
        seen = bytes.len();
        match poll_fn(|cx| connection.poll_read(cx)).await {
            Ok(n) if n > 0 => {}
            _ => return None,
        }
    }
}
