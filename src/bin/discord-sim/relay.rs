//! `discord-sim relay`: a relay that does nothing but relay, as a yardstick for what a proxy costs.
//!
//! One thread. Each client gets an upstream connection of its own; messages are decoded and framed anew in both
//! directions, never looked into, and everything that is there goes out in one write.

use crate::cli::Relay;
use crate::client::Url;
use crate::http::{Request, Response};
use crate::link::{Link, inbound};
use gateway_proxy::websocket::{Inbound, Message, Opcode, Role, server_response, write_close, write_frame};
use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Largest message in either direction.
const MOST_MESSAGE: usize = 256 << 20;

/// Above this many bytes waiting for one side, nothing more is read from the other.
const FULL: usize = 1 << 20;

/// Reads of one side before the other gets its turn.
const ROUNDS: usize = 8;

/// Runs until the process ends. Prints `listening on ADDRESS` when clients may come.
///
/// # Errors
/// When the port is taken or the upstream URL is bad.
pub async fn run(options: Relay) -> io::Result<()> {
    let upstream = Url::parse(&options.upstream)?;
    let listener = std::net::TcpListener::bind(options.listen)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", options.listen)))?;
    let address = listener.local_addr()?;
    // SAFETY: the descriptor is a listening TCP socket, and its only owner gives it away here.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    let mut stdout = io::stdout();
    writeln!(stdout, "listening on {address}")?;
    stdout.flush()?;
    let upstream = Rc::new((upstream, options.upstream, format!("ws://{address}")));
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                eprintln!("accept: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let upstream = Rc::clone(&upstream);
        glommio::spawn_local(async move {
            // The end of one client concerns nobody else.
            let _ = client(stream, &upstream.0, &upstream.1, &upstream.2).await;
        })
        .detach();
    }
}

async fn client(stream: TcpStream, upstream: &Url, upstream_url: &str, own_url: &str) -> io::Result<()> {
    let mut link = Link::new(stream, None)?;
    let mut buffer = Vec::new();
    let (request, length) = loop {
        match Request::parse(&buffer) {
            Ok(Some(parsed)) => break parsed,
            Ok(None) => {}
            Err(status) => {
                Response::error(status, "bad request", 0).write(false, &mut link.out);
                link.finish().await;
                return Ok(());
            }
        }
        if link.read_more(&mut buffer).await? == 0 {
            return Ok(());
        }
    };
    let query: Vec<String> = request.query.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let target = format!("{}?{}", request.path, query.join("&"));
    let Some(Ok(upgrade)) = &request.upgrade else {
        // The question for the URL is answered from upstream, with this relay's URL.
        let token = request.authorization.as_deref().unwrap_or("").trim_start_matches("Bot ");
        let response = match upstream.get(&target, token, None).await {
            Ok(body) => Response::ok(body.replace(upstream_url, own_url)),
            Err(error) => Response::error(502, &error.to_string(), 0),
        };
        response.write(false, &mut link.out);
        link.finish().await;
        return Ok(());
    };
    let (far, from_far) = upstream.upgrade(&target, None).await?;
    link.out.extend_from_slice(server_response(upgrade).as_bytes());
    let near = inbound(Role::Server, MOST_MESSAGE, &buffer[length..]);
    let mut near = Side { link, inbound: near, mask: false };
    let mut far = Side { link: far, inbound: from_far, mask: true };
    let mut ended = false;
    poll_fn(|cx| relay(cx, &mut near, &mut far, &mut ended)).await?;
    near.link.finish().await;
    far.link.finish().await;
    Ok(())
}

struct Side {
    link: Link,
    inbound: Inbound,
    /// We are the client on this side, so what we send is masked.
    mask: bool,
}

impl Side {
    fn mask(&self) -> Option<[u8; 4]> {
        self.mask.then(|| fastrand::u32(..).to_ne_bytes())
    }
}

/// Copies whole messages from what was read on one side to the buffer of the other. True at a close frame.
fn copy(from: &mut Side, to: &mut Side) -> io::Result<bool> {
    loop {
        let mask = to.mask();
        let out = &mut to.link.out;
        match from.inbound.next() {
            Ok(None) => return Ok(false),
            Ok(Some(Message::Text(payload))) => write_frame(out, Opcode::Text, payload, mask),
            Ok(Some(Message::Binary(payload))) => write_frame(out, Opcode::Binary, payload, mask),
            Ok(Some(Message::Ping(payload))) => write_frame(out, Opcode::Ping, payload, mask),
            Ok(Some(Message::Pong(payload))) => write_frame(out, Opcode::Pong, payload, mask),
            Ok(Some(Message::Close(reason))) => {
                let code = reason.map(|(code, _)| code);
                write_close(out, code, reason.map_or("", |(_, reason)| reason), mask);
                let mask = from.mask();
                write_close(&mut from.link.out, code, "", mask);
                return Ok(true);
            }
            Err(violation) => return Err(io::Error::other(format!("{violation:?}"))),
        }
    }
}

/// One direction: as much as there is, or as the other side takes. True at the end.
fn pump(cx: &mut Context<'_>, from: &mut Side, to: &mut Side) -> io::Result<bool> {
    for round in 0..ROUNDS {
        if to.link.backlog() >= FULL {
            return Ok(false);
        }
        match from.link.poll_read(cx, from.inbound.space())? {
            Poll::Ready(0) => return Ok(true),
            Poll::Ready(n) => from.inbound.filled(n),
            Poll::Pending => return Ok(false),
        }
        if copy(from, to)? {
            return Ok(true);
        }
        if round + 1 == ROUNDS {
            cx.waker().wake_by_ref();
        }
    }
    Ok(false)
}

fn relay(cx: &mut Context<'_>, near: &mut Side, far: &mut Side, ended: &mut bool) -> Poll<io::Result<()>> {
    // What came with the handshakes.
    *ended = *ended || copy(near, far)? || copy(far, near)?;
    loop {
        *ended = *ended || pump(cx, near, far)? || pump(cx, far, near)?;
        let full = near.link.backlog() >= FULL || far.link.backlog() >= FULL;
        let near_flushed = near.link.poll_flush(cx)?;
        let far_flushed = far.link.poll_flush(cx)?;
        if *ended {
            ready!(near_flushed);
            ready!(far_flushed);
            return Poll::Ready(Ok(()));
        }
        // Reading was held up, and now there is room again.
        if !(full && near_flushed.is_ready() && far_flushed.is_ready()) {
            return Poll::Pending;
        }
    }
}
