//! The door: handles a connection until it belongs to a shard.
//!
//! The door accepts the connection, reads the HTTP request head and answers plain requests. For a gateway connection it
//! answers the upgrade, sends HELLO [`HELLO_PAUSE`] later (also while Discord is down), answers heartbeats, and reads
//! IDENTIFY or RESUME. Then it hands the connection off to the data core of its shard.
//!
//! Bounded: a request head has to be complete within 10 seconds, IDENTIFY or RESUME has to come within 60 seconds, and
//! at most [`MAX_UNAUTHENTICATED`] connections are at the door.

use super::{
    Control,
    access::{TokenHolder, WRONG_TOKEN},
    connection::{ClientConnection, ConnectionEnd, Payload},
    http::{self, Response, Route},
    origin,
    pool::Place,
};
use crate::{
    compression::Transport,
    config::Network,
    data_core::{NewClient, SessionRequest, ToCore, close_for, command_text},
    downstream::{
        outbox::Outbox,
        session::{Claim, Options, SessionId},
        visitor::Visitor,
    },
    net::{spawn_contained, within},
    protocol::{
        Encoding,
        close::{self, Close},
        command::{Command, Identify, MAX_COMMAND, Resume},
        intents::Intents,
        opcode, payload,
    },
    websocket::{FrameDecoder, Role, Upgrade, server_response},
};
use glommio::net::{TcpListener, TcpStream};
use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

/// Connections at the door: those that have not identified yet. When one more comes, the oldest one of the address with
/// the most connections is closed.
pub const MAX_UNAUTHENTICATED: usize = 4096;
/// Answers to operators' requests and to `/health` that are made or sent at a time. When one more comes, the oldest one
/// of the address with the most answers is cut off. A client that reads its answer has all of it within milliseconds.
pub const MAX_SCRAPES: usize = 16;
/// RESUMEs that are refused on one connection without a session between them, by the door or by a data core. After the
/// last one the door closes the connection. Libraries send one.
const MAX_REFUSED_RESUMES: u32 = 3;
/// The close after [`MAX_REFUSED_RESUMES`].
const NO_SESSION: Close = (close::SESSION_TIMED_OUT, "no session that can be resumed: identify on a new connection");
/// Longest wait for a complete request head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Pause between the answer to the upgrade and HELLO. Some libraries ignore bytes that they read together with the answer
/// (seyfert on Node.js): such a library would wait for HELLO until it gives up. A library that waits for data reads the
/// answer within much less than this pause.
const HELLO_PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for IDENTIFY or RESUME, from HELLO or from op 9. Libraries that pause between op 9 and IDENTIFY stay
/// far below this limit.
const IDENTIFY_LIMIT: Duration = Duration::from_secs(60);
/// Pause after a failed accept. The usual cause is that the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time between two checks whether the shards have been started.
const START_PAUSE: Duration = Duration::from_millis(100);

/// Close code and reason for clients that connect while the proxy stops. With this code libraries try again with the
/// session that they have.
const RESTARTING: Close = (close::UNKNOWN_ERROR, "the proxy restarts");

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
                spawn_contained(
                    "the task of a connection at the door",
                    handle_connection(control.clone(), stream, routes),
                );
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
    let place = control.unauthenticated.enter(peer.ip().into());
    // Boxed, because the future is large and each future around it would contain it again.
    control
        .unauthenticated
        .clone()
        .hold(place.id, Box::pin(handle_request(control, place, connection, peer, routes)))
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
    let Some(Some((route, peer))) = within(HEAD_LIMIT, read_request(&control, &mut connection, sender, routes)).await
    else {
        return;
    };
    let route = routes.refusal(&route).map_or(route, Route::Refused);
    if peer == sender {
        return route_request(control, place, connection, peer, route).await;
    }
    connection.set_peer(peer);
    drop(place);
    let place = control.unauthenticated.enter(peer.ip().into());
    control
        .unauthenticated
        .clone()
        .hold(place.id, Box::pin(route_request(control, place, connection, peer, route)))
        .await;
}

/// Reads the PROXY protocol header, if `sender` has to send one, and the request head. Returns the route and the
/// address of the client.
///
/// `sender` is the address that the connection comes from. `None`: the connection ended, or the PROXY protocol header
/// is missing or malformed.
async fn read_request(
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
async fn proxy_header(connection: &mut ClientConnection) -> Result<Option<Option<SocketAddr>>, &'static str> {
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
            let place = control.scrapes.enter(peer.ip().into());
            let id = place.id;
            let answer = async {
                let _place = place;
                answer(&control, connection, route, peer).await;
            };
            return control.scrapes.clone().hold(id, Box::pin(answer)).await;
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
    await_session_request(control, place, connection, url, EarlyCommands::Refused, 0).await;
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
    let place = control.unauthenticated.enter(peer.ip().into());
    control
        .unauthenticated
        .clone()
        .hold(
            place.id,
            Box::pin(await_session_request(
                control,
                place,
                connection,
                UrlParameters { version, session: None },
                EarlyCommands::Ignored,
                refused_resumes,
            )),
        )
        .await;
}

/// What the door needs of the URL that a client connected to.
#[derive(Clone, Copy)]
struct UrlParameters {
    version: u8,
    /// The session that the path names; `None`: the path names none.
    session: Option<SessionId>,
}

/// How the door handles a command before IDENTIFY or RESUME.
#[derive(Clone, Copy)]
enum EarlyCommands {
    /// The connection is closed.
    Refused,
    /// The command is ignored: the client may have sent it before it read that its session is over. The close code for
    /// such a command would be 4003, after which some libraries never reconnect.
    Ignored,
}

/// Answers a WebSocket upgrade. From then on the outbox has the encoding and the compression of `query`.
pub fn accept_upgrade(connection: &mut ClientConnection, upgrade: &Upgrade, query: http::GatewayQuery) {
    connection.outbox = Outbox::new(query.transport, query.encoding);
    connection.outbox.raw(server_response(upgrade).as_bytes());
}

/// Reads a request head from any origin; `None`: the connection ended within the head.
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
            // hyper reads a request that is forwarded from its start.
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

/// How the wait for IDENTIFY or RESUME ended.
enum Outcome {
    Identify(Identify),
    Resume(Resume),
    /// The connection was lost.
    Lost,
    /// The client closed the connection with this code.
    Closed(Option<u16>),
    Refused(Close),
}

impl From<ConnectionEnd> for Outcome {
    fn from(end: ConnectionEnd) -> Self {
        match end {
            ConnectionEnd::Lost => Self::Lost,
            ConnectionEnd::Closed(code) => Self::Closed(code),
            ConnectionEnd::Violated(violation) => Self::Refused(close_for(violation)),
        }
    }
}

/// Waits for IDENTIFY or RESUME and hands the connection to the data core of the shard. `refused_resumes` were refused
/// on this connection before.
async fn await_session_request(
    control: Rc<Control>,
    place: Place,
    mut connection: ClientConnection,
    url: UrlParameters,
    mut early: EarlyCommands,
    mut refused_resumes: u32,
) {
    let version = url.version;
    loop {
        if refused_resumes >= MAX_REFUSED_RESUMES {
            return connection.close(Some(NO_SESSION.0), NO_SESSION.1).await;
        }
        let outcome = within(IDENTIFY_LIMIT, next_outcome(&mut connection, early)).await;
        let close = match outcome {
            None => (close::SESSION_TIMED_OUT, "no IDENTIFY in 60 seconds"),
            Some(Outcome::Lost) => return,
            Some(Outcome::Closed(code)) => return connection.close(code, "").await,
            Some(Outcome::Refused(close)) => close,
            Some(Outcome::Identify(identify)) => {
                match check_identify(&control, &mut connection, &identify, version).await {
                    Ok((wish, holder)) => {
                        return send_to_core(&control, place, connection, wish, holder, version, refused_resumes);
                    }
                    Err(close) => close,
                }
            }
            Some(Outcome::Resume(resume)) => match check_resume(&control, &mut connection, &resume, url).await {
                Err(close) => close,
                Ok((Some(wish), holder)) => {
                    return send_to_core(&control, place, connection, wish, holder, version, refused_resumes);
                }
                Ok((None, _)) => {
                    refused_resumes += 1;
                    // The connection stays open so that the client can identify on it. After a close, some libraries
                    // reconnect and resume in a loop.
                    connection.outbox.message(&[payload::INVALID_SESSION]);
                    early = EarlyCommands::Ignored;
                    continue;
                }
            },
        };
        return connection.close(Some(close.0), close.1).await;
    }
}

/// Reads payloads until IDENTIFY or RESUME, and answers heartbeats.
async fn next_outcome(connection: &mut ClientConnection, early: EarlyCommands) -> Outcome {
    connection
        .read_until(|payload, outbox| {
            handle_payload(payload, outbox, early).unwrap_or_else(|close| Some(Outcome::Refused(close)))
        })
        .await
}

fn handle_payload(payload: Payload<'_>, outbox: &mut Outbox, early: EarlyCommands) -> Result<Option<Outcome>, Close> {
    let (bytes, binary) = match payload {
        Payload::Text(bytes) => (bytes, false),
        Payload::Binary(bytes) => (bytes, true),
    };
    let text = command_text(outbox.encoding(), bytes, binary)?;
    let decode = |_| (close::DECODE_ERROR, "not a payload of the documented form");
    let command = Command::parse(&text).map_err(decode)?;
    Ok(Some(match command.op {
        opcode::HEARTBEAT => {
            outbox.message(&[payload::HEARTBEAT_ACK]);
            return Ok(None);
        }
        opcode::IDENTIFY => Outcome::Identify(command.identify().map_err(decode)?),
        opcode::RESUME => Outcome::Resume(command.resume().map_err(decode)?),
        _ if matches!(early, EarlyCommands::Ignored) => return Ok(None),
        _ => return Err((close::NOT_AUTHENTICATED, "a command before IDENTIFY")),
    }))
}

/// The shard that a client wants, and what the client has sent to the door.
type Wish = (u32, SessionRequest);

/// Checks a RESUME: the token at once, and the shard once the shards have been started. Returns the shard with the
/// session that the RESUME is for, as far as the door can tell, and who the client is. `None`: no shard of this proxy
/// can have the session. The error is the close for the client.
async fn check_resume(
    control: &Control,
    connection: &mut ClientConnection,
    resume: &Resume,
    url: UrlParameters,
) -> Result<(Option<Wish>, TokenHolder), Close> {
    let holder = control.holder_of(resume.bare_token(), connection.peer()).ok_or(WRONG_TOKEN)?;
    wait_for_shards(control, connection).await?;
    let wish = locate_session(control, connection, resume, url).await?;
    if let Some((shard, _)) = &wish
        && let Some(close) = control.refuses_shard(&holder, *shard, connection.peer())
    {
        return Err(close);
    }
    Ok((wish, holder))
}

/// The shard and the session that a RESUME is for, as far as the door can tell; `None`: no shard of this proxy can have
/// the session.
async fn locate_session(
    control: &Control,
    connection: &mut ClientConnection,
    resume: &Resume,
    url: UrlParameters,
) -> Result<Option<Wish>, Close> {
    let (Some(id), Some(sequence)) = (resume.session_id.as_deref(), resume.seq) else { return Ok(None) };
    let is_here = |id: &SessionId| control.core_of(id.shard()).is_some();
    // An id of Discord's can have the same form as one of the proxy's, so the form does not tell them apart.
    let resume_key = url.session.filter(|resume_key| is_here(resume_key) && resume_key.as_str() != id);
    let named = match resume_key {
        Some(resume_key) => Some(resume_key.shard()),
        None => wait_for(control, connection, |control| control.shard_of_upstream_id(id)).await?,
    };
    Ok(match (named, SessionId::parse(id).filter(is_here)) {
        (Some(shard), _) => {
            Some((shard, SessionRequest::Resume { claim: Claim::Upstream { id: id.to_owned(), resume_key }, sequence }))
        }
        (None, Some(id)) => Some((id.shard(), SessionRequest::Resume { claim: Claim::Own(id), sequence })),
        (None, None) => None,
    })
}

/// Waits until the shards have been started, and answers the client's heartbeats meanwhile. Returns how many shards the
/// bot has.
async fn wait_for_shards(control: &Control, connection: &mut ClientConnection) -> Result<u32, Close> {
    wait_for(control, connection, Control::running_shards).await
}

/// Waits until `ask` returns a value, and answers the client's heartbeats meanwhile. Any other payload of the client,
/// and the stop of the proxy, end the wait with the close code for the client.
async fn wait_for<T>(
    control: &Control,
    connection: &mut ClientConnection,
    mut ask: impl FnMut(&Control) -> Option<T>,
) -> Result<T, Close> {
    loop {
        if control.stopping.get() {
            return Err(RESTARTING);
        }
        if let Some(answer) = ask(control) {
            return Ok(answer);
        }
        let outcome = crate::net::race(async { Some(next_outcome(connection, EarlyCommands::Refused).await) }, async {
            glommio::timer::sleep(START_PAUSE).await;
            None
        });
        match outcome.await {
            None => {}
            Some(Outcome::Identify(_) | Outcome::Resume(_)) => {
                return Err((close::ALREADY_AUTHENTICATED, "already identified on this connection"));
            }
            Some(Outcome::Refused(close)) => return Err(close),
            Some(Outcome::Closed(code)) => return Err((code.unwrap_or(close::NORMAL), "")),
            Some(Outcome::Lost) => return Err((close::NORMAL, "")),
        }
    }
}

/// Checks an IDENTIFY: the token at once; the number of shards and the shard once the shards have been started. Returns
/// the shard with the options of the session, and who the client is. The error is the close for the client.
async fn check_identify(
    control: &Rc<Control>,
    connection: &mut ClientConnection,
    identify: &Identify,
    version: u8,
) -> Result<(Wish, TokenHolder), Close> {
    let holder = control.holder_of(identify.bare_token(), connection.peer()).ok_or(WRONG_TOKEN)?;
    let count = wait_for_shards(control, connection).await?;
    let (shard, of) = identify.shard;
    if of != count {
        tracing::warn!(
            shard,
            of,
            count,
            "a client's IDENTIFY is refused: it names another number of shards than the bot has"
        );
        return Err((close::INVALID_SHARD, "wrong number of shards: GET /shard-count tells how many there are"));
    }
    if control.core_of(shard).is_none() {
        return Err((close::INVALID_SHARD, "this shard is not served here"));
    }
    if let Some(close) = control.refuses_shard(&holder, shard, connection.peer()) {
        return Err(close);
    }
    let intents = identify.intents.map_or(Intents::ALL, Intents);
    let beyond = intents.without(Intents(control.intents()));
    if identify.intents.is_some() && beyond != Intents::default() {
        tracing::warn!(
            shard,
            "a client identifies with intents that `intents` of the configuration does not have: bits {:#x}",
            beyond.0
        );
    }
    let compress = identify.compress == Some(true) && control.live().client_compression;
    let options = Options { intents, version, compress, library: identify.library() };
    let library = options.library.name();
    let client = match &holder {
        TokenHolder::Bot => None,
        TokenHolder::Client(credential) => Some(&*credential.name),
    };
    tracing::debug!(shard, intents = intents.0, compress, library, client, "a client identifies");
    Ok(((shard, SessionRequest::Identify(options)), holder))
}

fn send_to_core(
    control: &Control,
    place: Place,
    connection: ClientConnection,
    (shard, request): Wish,
    holder: TokenHolder,
    version: u8,
    refused_resumes: u32,
) {
    drop(place);
    let visitor = Visitor { version, address: connection.peer(), credential: holder.credential(), refused_resumes };
    let Ok(parts) = connection.into_parts() else { return };
    if let Some(core) = control.core_of(shard) {
        let new_client = NewClient { parts, shard, request, visitor };
        if core.send(ToCore::Client(Box::new(new_client))).is_err() {
            tracing::warn!(shard, "client dropped: the mailbox of its data core is full");
        }
    }
}
