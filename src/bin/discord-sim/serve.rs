//! `discord-sim serve`: the listener, the HTTP requests of a connection, and the tasks that make traffic and apply time
//! limits.

use crate::cli::Serve;
use crate::gateway::connection::{Driver, MAX_MESSAGE};
use crate::gateway::{Encoder, Gateway, Options, Transport};
use crate::http::{Request, Response};
use crate::link::{Link, inbound};
use crate::server::{BREATH, Server};
use crate::{control, rest, tls, voice};
use futures_lite::FutureExt;
use gateway_proxy::websocket::{Role, Upgrade, server_response};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;
use rustls::ServerConnection;
use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::{Settings, Wish, World};

/// Maximum time without bytes from a client before or between HTTP requests.
const HTTP_IDLE: Duration = Duration::from_secs(60);

/// Maximum number of traffic events that are made before the task yields to other tasks.
const SLICE: usize = 64;

/// Maximum time that the traffic task sleeps. It reads the rate at least this often.
const NOTICE: Duration = Duration::from_millis(50);

/// Runs until the process ends. Prints `listening on ADDRESS` when the listener is ready.
///
/// # Errors
/// When the port is taken, or the certificates cannot be written.
pub async fn run(options: Serve) -> io::Result<()> {
    // The listener of the standard library is used because glommio would share the port with another process that has
    // it.
    let listener = std::net::TcpListener::bind(options.listen)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", options.listen)))?;
    let address = listener.local_addr()?;
    let tls = options.tls_dir.as_deref().map(tls::server_config).transpose()?;
    let host = if tls.is_some() { "localhost".to_owned() } else { reachable(address.ip()).to_string() };
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    let url = options.public_url.clone().unwrap_or_else(|| format!("{scheme}://{host}:{}", address.port()));
    let resume_url = match options.resume_path.trim_matches('/') {
        "" => url.clone(),
        path => format!("{url}/{path}"),
    };
    let world = World::generate(Settings {
        seed: options.seed,
        shards: options.shards,
        guilds: options.guilds,
        members: options.members,
        presences: options.presences,
        channels: options.channels,
        roles: options.roles,
        emojis: options.emojis,
    });
    let gateway_options = Options {
        token: options.token.strip_prefix("Bot ").unwrap_or(&options.token).to_owned(),
        max_concurrency: options.max_concurrency,
        identify_interval: Duration::from_millis(options.identify_interval_ms),
        total: options.remaining.max(1_000),
        remaining: options.remaining,
        heartbeat_interval: Duration::from_millis(options.heartbeat_interval_ms),
        large_threshold: options.large_threshold,
        disallowed_intents: options.disallowed_intents,
        member_request_interval: Duration::from_millis(options.member_request_interval_ms),
        replay_bytes: options.replay_mib << 20,
        url,
        resume_url,
        voice_endpoint: format!("{host}:{}", address.port()),
    };
    let now = Instant::now();
    let server = Rc::new(Server {
        gateway: RefCell::new(Gateway::new(gateway_options, world, options.shards, now)),
        rate: Cell::new(options.rate),
        steady: Cell::new(false),
        refuse_until: Cell::new(now),
        hang_until: Cell::new(now),
        old_voice_modes: options.old_voice_modes,
        voice_udp: voice::answer_discovery(reachable(address.ip()))?,
        tls,
        rng: RefCell::new(fastrand::Rng::with_seed(options.seed)),
    });
    glommio::spawn_local(traffic(Rc::clone(&server))).detach();
    glommio::spawn_local(janitor(Rc::clone(&server))).detach();
    // SAFETY: the descriptor is a listening TCP socket, and its only owner gives it away here.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {address}")?;
    stdout.flush()?;
    accept(server, listener).await
}

/// The loopback address in place of the unspecified address, to which clients cannot connect.
fn reachable(ip: std::net::IpAddr) -> std::net::IpAddr {
    if ip.is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { ip }
}

async fn accept(server: Rc<Server>, listener: TcpListener) -> io::Result<()> {
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // The process has no descriptor left. Accept fails until one is closed.
                eprintln!("accept: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if Instant::now() < server.refuse_until.get() {
            continue;
        }
        let server = Rc::clone(&server);
        glommio::spawn_local(async move {
            // An error of one client's socket does not affect other clients.
            let _ = connection(server, stream).await;
        })
        .detach();
    }
}

/// Whether the client begins with a TLS handshake. With TLS on, the same port still takes plain text, for the control
/// API and REST.
async fn speaks_tls(stream: &TcpStream) -> bool {
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    matches!(stream.peek(&mut first).await, Ok(1)) && first == [HANDSHAKE]
}

/// Serves HTTP requests until one becomes a WebSocket or the connection ends.
async fn connection(server: Rc<Server>, stream: TcpStream) -> io::Result<()> {
    let hangs = Instant::now() < server.hang_until.get();
    let tls = match &server.tls {
        Some(config) if speaks_tls(&stream).await => {
            Some(ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?.into())
        }
        _ => None,
    };
    let mut link = Link::new(stream, tls)?;
    let mut buffer = Vec::new();
    loop {
        let (request, length) = loop {
            match Request::parse(&buffer) {
                Ok(Some(parsed)) => break parsed,
                Ok(None) => {}
                Err(bad) => {
                    Response::error(bad.status(), "bad request", 0).write(false, &mut link.out);
                    link.finish().await;
                    return Ok(());
                }
            }
            if read(&mut link, &mut buffer).await? == 0 {
                return Ok(());
            }
        };
        buffer.drain(..length);
        let control = request.path.starts_with("/sim/");
        if hangs && !control {
            let left = server.hang_until.get().saturating_duration_since(Instant::now());
            sleep(left).await;
            return Ok(());
        }
        match &request.upgrade {
            Some(Ok(upgrade)) => return websocket(server, link, &request, upgrade, &buffer).await,
            Some(Err(error)) => {
                Response::error(400, &error.to_string(), 0).write(false, &mut link.out);
                link.finish().await;
                return Ok(());
            }
            None => {}
        }
        if request.expects_continue && buffer.len() < request.body {
            link.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            link.flush().await?;
        }
        while buffer.len() < request.body {
            if read(&mut link, &mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let body: Vec<u8> = buffer.drain(..request.body).collect();
        let response = if control {
            control::handle(&server, &request, &body).await
        } else {
            rest::handle(&server.gateway.borrow(), &request, Instant::now())
        };
        response.write(request.keep_alive, &mut link.out);
        link.flush().await?;
        if !request.keep_alive {
            link.finish().await;
            return Ok(());
        }
    }
}

/// Serves a WebSocket: a voice connection if `v` is a version of the voice gateway, otherwise a gateway connection. No
/// version number belongs to both. A URL that asks for something that the simulator does not support gets status 400.
/// `received` holds bytes that came together with the request.
async fn websocket(
    server: Rc<Server>,
    mut link: Link,
    request: &Request,
    upgrade: &Upgrade,
    received: &[u8],
) -> io::Result<()> {
    if let Some(version) = voice_version(request) {
        link.out.extend_from_slice(server_response(upgrade).as_bytes());
        let inbound = inbound(Role::Server, voice::MAX_MESSAGE, received);
        return voice::serve(server, link, inbound, version).await;
    }
    let Some((version, transport)) = gateway_query(request) else {
        let message =
            "the simulator speaks v=9 or v=10 (voice: 4 to 8), encoding=json, compress=zlib-stream or zstd-stream";
        Response::error(400, message, 0).write(false, &mut link.out);
        link.finish().await;
        return Ok(());
    };
    link.out.extend_from_slice(server_response(upgrade).as_bytes());
    let encoder = Encoder::new(transport)?;
    let inbound = inbound(Role::Server, MAX_MESSAGE, received);
    let key = server.gateway.borrow_mut().connect(version, transport, &request.path, Instant::now());
    Driver::new(server, key, link, inbound, encoder).run().await;
    Ok(())
}

/// Reads from the client. Returns 0, as at the end of the stream, when the client is silent for [`HTTP_IDLE`].
async fn read(link: &mut Link, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let idle = async {
        sleep(HTTP_IDLE).await;
        Ok(0)
    };
    link.read_more(buffer).or(idle).await
}

/// Version and compression that a gateway URL asks for (Gateway: "Gateway URL Query String Params"). `None` if the
/// simulator does not support them.
fn gateway_query(request: &Request) -> Option<(u64, Option<Transport>)> {
    let version = match request.get("v") {
        None | Some("10") => 10,
        Some("9") => 9,
        Some(_) => return None,
    };
    if !matches!(request.get("encoding"), None | Some("json")) {
        return None;
    }
    let transport = match request.get("compress") {
        None | Some("") => None,
        Some(name) => Some(Transport::parse(name)?),
    };
    Some((version, transport))
}

/// The version of the voice gateway that a URL asks for. `None` if `v` is not such a version.
fn voice_version(request: &Request) -> Option<u64> {
    request.get("v")?.parse().ok().filter(|version| voice::VERSIONS.contains(version))
}

/// Applies the gateway's time limits at regular intervals.
async fn janitor(server: Rc<Server>) {
    let interval = server.gateway.borrow().options.heartbeat_interval;
    let pause = (interval / 8).clamp(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        sleep(pause).await;
        server.gateway.borrow_mut().expire(Instant::now());
    }
}

/// Makes traffic at the current rate, at random times (a Poisson process), on shards that have a session.
async fn traffic(server: Rc<Server>) {
    let mut next = Instant::now();
    loop {
        let rate = server.rate.get();
        let now = Instant::now();
        if rate <= 0.0 {
            sleep(NOTICE).await;
            next = Instant::now();
            continue;
        }
        if next > now {
            sleep((next - now).min(NOTICE)).await;
            continue;
        }
        let shards = server.gateway.borrow().shards.len();
        let mut made = 0;
        while next <= now && made < SLICE {
            made += 1;
            let (shard, wait) = {
                let mut rng = server.rng.borrow_mut();
                (rng.usize(..shards), -(1.0 - rng.f64()).ln() / rate)
            };
            next += Duration::from_secs_f64(wait);
            let active = (shard..shards).chain(0..shard).find(|shard| server.gateway.borrow().has_session(*shard));
            let Some(shard) = active else { continue };
            server.happen(shard, if server.steady.get() { Wish::Steady } else { Wish::Any });
        }
        // After a delay of more than 1 s the missed events are skipped, because the task cannot keep up with the rate.
        if now > next + Duration::from_secs(1) {
            next = now;
        }
        sleep(BREATH).await;
    }
}
