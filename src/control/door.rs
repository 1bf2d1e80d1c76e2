//! The door: handles a connection until it belongs to a shard.
//!
//! The door accepts the connection, reads the HTTP request head ([`head`]) and answers plain requests. For a gateway
//! connection it answers the upgrade, sends HELLO [`HELLO_PAUSE`] later (also while Discord is down), and reads IDENTIFY
//! or RESUME ([`session_request`]). Then it hands the connection off to the data core of its shard.
//!
//! Bounded: a request head has to be complete within 10 seconds, IDENTIFY or RESUME has to come within 60 seconds, and
//! at most [`MAX_UNAUTHENTICATED`] connections are at the door.

mod head;
mod session_request;

use super::{
    Control,
    connection::ClientConnection,
    http::{self, Response, Route},
    pool::Place,
};
use crate::{
    compression::Transport,
    downstream::{outbox::Outbox, visitor::Visitor},
    net::within,
    protocol::{Encoding, command::MAX_COMMAND, payload},
    websocket::{FrameDecoder, Role, Upgrade, server_response},
};
use glommio::net::{TcpListener, TcpStream};
pub use head::read_head;
use session_request::{EarlyCommands, UrlParameters};
use std::{future::poll_fn, net::SocketAddr, rc::Rc, time::Duration};

/// Connections at the door: those that have not identified yet. When one more comes, the oldest one of the address with
/// the most connections is closed.
pub const MAX_UNAUTHENTICATED: usize = 4096;
/// Answers to operators' requests and to `/health` that are made or sent at a time. When one more comes, the oldest one
/// of the address with the most answers is cut off. A client that reads its answer has all of it within milliseconds.
pub const MAX_SCRAPES: usize = 16;
/// Longest wait for a complete request head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Pause between the answer to the upgrade and HELLO. Some libraries ignore bytes that they read together with the answer
/// (seyfert on Node.js): such a library would wait for HELLO until it gives up. A library that waits for data reads the
/// answer within much less than this pause.
const HELLO_PAUSE: Duration = Duration::from_millis(5);
/// Pause after a failed accept. The usual cause is that the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which routes are served at a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSet {
    /// All routes.
    All,
    /// The routes that bots need: the gateway, Discord's API, the number of shards. The others are served at
    /// `admin_listen`.
    Bots,
    /// All routes except for the gateway and Discord's API.
    Operators,
}

impl RouteSet {
    /// The answer to a request for a route that this socket does not serve; `None`: the route is served.
    fn refusal(self, route: &Route) -> Option<Response> {
        let is_for_bots =
            matches!(route, Route::Gateway(..) | Route::Api(_) | Route::GatewayUrl | Route::GatewayBot(_));
        let is_for_all = matches!(route, Route::ShardCount | Route::Refused(_));
        match self {
            Self::Bots if !is_for_bots && !is_for_all => {
                Some(Response::text("404 Not Found", "this is served at `admin_listen` of the configuration\n"))
            }
            Self::Operators if is_for_bots => {
                Some(Response::text("404 Not Found", "this is served at `host` and `port` of the configuration\n"))
            }
            _ => None,
        }
    }
}

/// Accepts connections until the proxy stops. A failed accept is logged, once a minute at most, and tried again.
pub async fn accept(control: Rc<Control>, listener: TcpListener, routes: RouteSet) {
    while !control.stopping.get() {
        match listener.accept().await {
            Ok(stream) => {
                control.figures.borrow_mut().accepted += 1;
                let task = handle_connection(control.clone(), stream, routes);
                control.tasks.spawn("the task of a connection at the door", task);
            }
            Err(_) if control.stopping.get() => {}
            Err(error) => {
                if let Some(held_back) = control.accept_log.borrow_mut().poll(control.now()) {
                    tracing::warn!(held_back, "can not accept a connection: {error}");
                }
                glommio::timer::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn handle_connection(control: Rc<Control>, stream: TcpStream, routes: RouteSet) {
    let peer = match stream.peer_addr() {
        Ok(peer) if stream.set_nodelay(true).is_ok() => peer,
        // A connection to a Unix socket has no IP address. The client is a process of this machine, so it counts as
        // 127.0.0.1.
        Err(_) if routes == RouteSet::Operators => SocketAddr::from(([127, 0, 0, 1], 0)),
        _ => return,
    };
    let inbound = FrameDecoder::new(Role::Server, MAX_COMMAND);
    let connection = ClientConnection::new(stream, inbound, Outbox::new(Transport::None, Encoding::Json));
    if connection.descriptor() >= control.last_descriptor {
        return control.refuse(peer);
    }
    let pool = control.unauthenticated.clone();
    // Boxed, because the future is large and each future around it would contain it again.
    pool.run_unless_revoked(peer.ip().into(), |place| {
        Box::pin(handle_request(control, place, connection, peer, routes))
    })
    .await;
}

/// Reads the request and the address of the client, and goes on with the client's own place at the door.
///
/// Until then the connection has a place of the address that it comes from. A reverse proxy connects for many clients,
/// so with that address for all of them they would take each other's places.
async fn handle_request(
    control: Rc<Control>,
    place: Place,
    mut connection: ClientConnection,
    sender: SocketAddr,
    routes: RouteSet,
) {
    let Some(Some((route, peer))) =
        within(HEAD_LIMIT, head::read_request(&control, &mut connection, sender, routes)).await
    else {
        return;
    };
    let route = routes.refusal(&route).map_or(route, Route::Refused);
    if peer == sender {
        return route_request(control, place, connection, peer, route).await;
    }
    connection.set_peer(peer);
    drop(place);
    let pool = control.unauthenticated.clone();
    pool.run_unless_revoked(peer.ip().into(), |place| Box::pin(route_request(control, place, connection, peer, route)))
        .await;
}

async fn route_request(
    control: Rc<Control>,
    place: Place,
    mut connection: ClientConnection,
    peer: SocketAddr,
    route: Route,
) {
    let (upgrade, query) = match route {
        Route::Gateway(upgrade, query) => (upgrade, query),
        Route::Api(request) => {
            return Box::pin(control.forward(place, connection, request, peer)).await;
        }
        Route::Operator(..) | Route::Health => {
            drop(place);
            let pool = control.scrapes.clone();
            let answer = |place| {
                Box::pin(async move {
                    let _place = place;
                    answer(&control, connection, route, peer).await;
                })
            };
            return pool.run_unless_revoked(peer.ip().into(), answer).await;
        }
        route => return Box::pin(answer(&control, connection, route, peer)).await,
    };
    tracing::debug!(version = query.version, encoding = ?query.encoding, transport = ?query.transport, "a client connects");
    let transport = if control.live().client_compression { query.transport } else { Transport::None };
    accept_upgrade(&mut connection, &upgrade, http::GatewayQuery { transport, ..query });
    let answered = within(HEAD_LIMIT, poll_fn(|cx| connection.poll_write(cx).1)).await;
    if !matches!(answered, Some(Ok(()))) {
        return;
    }
    glommio::timer::sleep(HELLO_PAUSE).await;
    connection.outbox.message(&[&payload::hello(payload::HEARTBEAT_INTERVAL)]);
    let url = UrlParameters { version: query.version, session: query.session };
    session_request::receive_and_hand_over(control, place, connection, url, EarlyCommands::Refused, 0).await;
}

async fn answer(control: &Rc<Control>, mut connection: ClientConnection, route: Route, peer: SocketAddr) {
    let response = control.respond(route, peer).await;
    connection.outbox.raw(&response.encode());
    connection.linger().await;
}

/// Takes a connection back from a shard that could not resume its session, or whose session has ended. The client may
/// identify on the same connection, with the same token or another one.
pub async fn readmit(control: Rc<Control>, mut connection: ClientConnection, visitor: Visitor) {
    // Behind a reverse proxy the socket knows only the address of that proxy, and limits go by that of the client.
    if let Some(address) = visitor.address {
        connection.set_peer(address);
    }
    let Visitor { version, refused_resumes, .. } = visitor;
    let Some(peer) = connection.peer() else { return };
    let url = UrlParameters { version, session: None };
    let pool = control.unauthenticated.clone();
    pool.run_unless_revoked(peer.ip().into(), |place| {
        Box::pin(session_request::receive_and_hand_over(
            control,
            place,
            connection,
            url,
            EarlyCommands::Ignored,
            refused_resumes,
        ))
    })
    .await;
}

/// Answers a WebSocket upgrade. From then on the outbox has the encoding and the compression of `query`.
pub fn accept_upgrade(connection: &mut ClientConnection, upgrade: &Upgrade, query: http::GatewayQuery) {
    connection.outbox = Outbox::new(query.transport, query.encoding);
    connection.outbox.raw(server_response(upgrade).as_bytes());
}
