//! Drives one shard's connection to Discord: reads, decompresses and hands payloads to the shard, and does what the
//! session machine asks for. It decides nothing.

use super::{Core, Place, ToControl, note_waker};
use crate::{
    compression::{InflateError, Inflater},
    net::{
        Pause, contain, race,
        upstream::{Endpoint, UpstreamConnection},
    },
    protocol::Time,
    upstream::session::Action,
    websocket::Message,
};
use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};

/// Largest payload after decompression, in bytes. A guild with 100,000 members comes to some 60 MB.
const MAX_PAYLOAD: usize = 256 << 20;
/// Reads in one turn before the other tasks of the core get theirs.
const READS_PER_TURN: usize = 8;
/// How long a close frame may take to leave.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);
/// The buffer of payloads is given back when it grew beyond this.
const KEEP_PAYLOAD: usize = 256 << 10;

/// Runs the connection of a shard for ever. A panic restarts the shard with a new session.
pub async fn run(core: Rc<Core>, place: Rc<Place>, index: usize) {
    loop {
        let stopped = race(
            async {
                drive(&core, &place).await;
                true
            },
            async {
                place.broken().await;
                false
            },
        );
        if contain(stopped).await == Some(true) {
            return;
        }
        core.tell(ToControl::Panicked);
        let shard = core.plan.shards[index];
        tracing::error!(shard, "the shard panicked and is started anew; its clients have to identify again");
        *place.shard.borrow_mut() = Core::new_shard(&core.plan, index);
        place.wake_handles(|_| true);
    }
}

/// What ended a connection.
enum End {
    /// We closed it: the machine knows.
    Ours,
    /// The peer did, or the network.
    Theirs(Option<u16>, String),
}

async fn drive(core: &Rc<Core>, place: &Place) {
    let id = place.shard.borrow().id();
    let mut told = false;
    loop {
        let Some(action) = next_action(core, place).await else { return };
        let Action::Connect(url) = action else { continue };
        match connect(core, place, &url).await {
            Ok(Some(mut connection)) => {
                place.with(|shard| shard.upstream_connected(core.now()));
                tracing::debug!(shard = %id, url, "connected");
                match serve(core, place, &mut connection).await {
                    End::Ours => tracing::info!(shard = %id, "closed the connection to Discord"),
                    End::Theirs(code, why) => {
                        tracing::info!(shard = %id, code, "lost the connection to Discord: {why}");
                        place.with(|shard| shard.upstream_closed(core.now(), code));
                    }
                }
            }
            // The machine has given up waiting.
            Ok(None) => tracing::warn!(shard = %id, url, "connecting took too long"),
            Err(error) => {
                tracing::warn!(shard = %id, url, "can not connect: {error}");
                place.with(|shard| shard.upstream_closed(core.now(), None));
            }
        }
        let fatal = place.shard.borrow().fatal();
        if let Some((code, advice)) = fatal
            && !std::mem::replace(&mut told, true)
        {
            tracing::error!(shard = %id, code, "Discord closed the shard for good: {advice}");
            core.tell(ToControl::Fatal(id.id, code, advice));
        }
    }
}

/// Waits for the machine to want something while there is no connection. `None`: the core stops.
async fn next_action(core: &Core, place: &Place) -> Option<Action> {
    poll_fn(|cx| {
        note_waker(&place.upstream, cx);
        match place.shard.borrow_mut().poll_upstream(core.now()) {
            Some(action) => Poll::Ready(Some(action)),
            None if core.stopping.get() => Poll::Ready(None),
            None => Poll::Pending,
        }
    })
    .await
}

/// `None`: the machine did not want to wait any longer.
async fn connect(core: &Core, place: &Place, url: &str) -> io::Result<Option<UpstreamConnection>> {
    let endpoint = Endpoint::parse(url).map_err(|what| io::Error::new(io::ErrorKind::InvalidInput, what))?;
    let mut query = "v=10&encoding=json".to_owned();
    if let Some(name) = core.plan.transport.name() {
        query.push_str("&compress=");
        query.push_str(name);
    }
    race(async { UpstreamConnection::connect(&endpoint, &query, core.plan.tls.clone()).await.map(Some) }, async {
        // The only thing that the machine can want of a connection that is being made is to drop it.
        next_action(core, place).await;
        Ok(None)
    })
    .await
}

async fn serve(core: &Core, place: &Place, connection: &mut UpstreamConnection) -> End {
    let inflater = Inflater::new(core.plan.transport, MAX_PAYLOAD);
    let mut reader = Reader { inflater, payload: Vec::new(), news: false };
    let mut pause = Pause::default();
    let end = poll_fn(|cx| {
        note_waker(&place.upstream, cx);
        if !pause.is_over(cx) {
            return Poll::Pending;
        }
        let now = core.now();
        let next = turn(core, place, connection, &mut reader, now, cx);
        if std::mem::take(&mut reader.news) {
            place.serve_clients(now);
            place.shard.borrow_mut().settle();
        }
        match next {
            Turn::End(end) => return Poll::Ready(end),
            Turn::Again => pause.begin(cx),
            Turn::Wait => {}
        }
        Poll::Pending
    })
    .await;
    // A close frame that is still here goes out if it can.
    let _ = crate::net::within(CLOSE_LIMIT, poll_fn(|cx| connection.poll_write(cx))).await;
    end
}

/// What follows a turn.
enum Turn {
    /// Somebody will wake it.
    Wait,
    /// There is more to do, after everyone else.
    Again,
    End(End),
}

struct Reader {
    inflater: Inflater,
    /// The payload under assembly.
    payload: Vec<u8>,
    /// There may be something for clients.
    news: bool,
}

/// One turn: read what is there, do what is wanted, write.
fn turn(
    core: &Core,
    place: &Place,
    connection: &mut UpstreamConnection,
    reader: &mut Reader,
    now: Time,
    cx: &mut Context<'_>,
) -> Turn {
    let mut next = Turn::Again;
    for read in 0..=READS_PER_TURN {
        // Before the first read too: the first messages may have come together with the end of the upgrade.
        if let Some(end) = messages(place, connection, reader, now) {
            return Turn::End(end);
        }
        if let Some(end) = actions(core, place, connection, now) {
            return Turn::End(end);
        }
        if read == READS_PER_TURN {
            break;
        }
        match connection.poll_read(cx) {
            Poll::Ready(Ok(true)) => {}
            Poll::Ready(Ok(false)) => return Turn::End(End::Theirs(None, "end of stream".into())),
            Poll::Ready(Err(error)) => return Turn::End(End::Theirs(None, error.to_string())),
            Poll::Pending => {
                connection.inbound.release();
                next = Turn::Wait;
                break;
            }
        }
    }
    match connection.poll_write(cx) {
        Poll::Ready(Err(error)) => Turn::End(End::Theirs(None, error.to_string())),
        Poll::Ready(Ok(())) | Poll::Pending => next,
    }
}

/// Handles every message that is complete.
fn messages(place: &Place, connection: &mut UpstreamConnection, reader: &mut Reader, now: Time) -> Option<End> {
    let mut pong = Vec::new();
    loop {
        let complete = match connection.inbound.next() {
            Ok(None) => return None,
            Ok(Some(Message::Text(text))) => {
                // Plain text is legal on a connection that asked for compression.
                reader.news |= deliver(place, text, now);
                continue;
            }
            Ok(Some(Message::Binary(bytes))) => reader.inflater.inflate(bytes, &mut reader.payload),
            Ok(Some(Message::Ping(payload))) => {
                pong.clear();
                pong.extend_from_slice(payload);
                connection.pong(&pong);
                continue;
            }
            Ok(Some(Message::Pong(_))) => continue,
            Ok(Some(Message::Close(close))) => {
                let code = close.map(|(code, _)| code);
                let reason = close.map_or_else(|| "closed".into(), |(_, reason)| format!("closed: {reason:?}"));
                connection.close(code);
                return Some(End::Theirs(code, reason));
            }
            Err(violation) => {
                connection.close(Some(violation.close_code()));
                return Some(End::Theirs(None, format!("WebSocket violation: {violation}")));
            }
        };
        match complete {
            Ok(false) => {}
            Ok(true) => {
                reader.news |= deliver(place, &reader.payload, now);
                if reader.payload.capacity() > KEEP_PAYLOAD {
                    reader.payload = Vec::new();
                } else {
                    reader.payload.clear();
                }
            }
            Err(error @ (InflateError::Corrupt(_) | InflateError::TooLarge)) => {
                connection.close(Some(crate::protocol::close::UNKNOWN_ERROR));
                return Some(End::Theirs(None, error.to_string()));
            }
        }
    }
}

/// Returns whether there may be something for clients. What the machine wants is asked for after this.
fn deliver(place: &Place, payload: &[u8], now: Time) -> bool {
    let (result, wake) = place.call(|shard| shard.upstream_payload(now, payload));
    if let Err(malformed) = result {
        tracing::error!(shard = %place.shard.borrow().id(), bytes = payload.len(), "malformed payload from Discord: {malformed}");
    }
    wake.clients
}

/// Does what the machine wants.
fn actions(core: &Core, place: &Place, connection: &mut UpstreamConnection, now: Time) -> Option<End> {
    loop {
        let action = place.shard.borrow_mut().poll_upstream(now)?;
        match action {
            Action::Send(payload) => connection.send(&payload),
            Action::RequestPermit => core.tell(ToControl::WantPermit(place.shard.borrow().id().id)),
            Action::Close(code) => {
                connection.close(Some(code));
                return Some(End::Ours);
            }
            // The machine connects only when it has no connection.
            Action::Connect(_) => return Some(End::Ours),
        }
    }
}
