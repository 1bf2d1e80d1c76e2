//! One connection of the bot: HELLO, IDENTIFY or RESUME, heartbeats, events. It is one task, and it writes as seldom as
//! possible.

use super::Shared;
use super::decoder::Decoder;
use crate::client::Url;
use crate::link::Link;
use futures_lite::FutureExt;
use gateway_proxy::protocol::envelope::Envelope;
use gateway_proxy::websocket::{FrameDecoder, Message, Opcode, write_close, write_frame};
use glommio::timer::{Timer, sleep};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use world::clock;
use world::json;

/// Number of reads before the task yields to other connections.
const ROUNDS: usize = 16;

/// Maximum time for connecting and the handshake.
const CONNECT: Duration = Duration::from_secs(10);

/// Time between op 9 and the next IDENTIFY or RESUME.
const AFTER_INVALID: Duration = Duration::from_secs(1);

/// How a connection ended.
pub enum Ending {
    /// The bot connects again, and resumes if it has a session.
    Resume,
    /// The bot connects again and identifies.
    Identify,
    /// The close code means that a further try is useless.
    Fatal(u16),
    /// The bot itself closed the connection.
    Done,
}

struct Connection<'a> {
    shared: &'a Shared,
    shard: usize,
    link: Link,
    inbound: FrameDecoder,
    decoder: Decoder,
    payload: Vec<u8>,
    interval: Duration,
    heartbeat: Option<Timer>,
    acknowledged: bool,
    /// Set after op 9: the time of the next IDENTIFY or RESUME on this connection.
    retry: Option<Timer>,
    rng: fastrand::Rng,
}

/// Connects one shard, and serves the connection until it ends.
///
/// # Errors
/// When connecting fails, or the server breaks the protocol.
pub async fn run(shared: &Shared, url: &Url, shard: usize) -> io::Result<Ending> {
    let compress = shared.options.compress.as_deref();
    let query = compress.map_or(String::new(), |name| format!("&compress={name}"));
    let target = format!("{}?v=10&encoding=json{query}", url.path);
    let timeout = async {
        sleep(CONNECT).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let (link, inbound) = url.upgrade(&target, shared.tls.as_ref()).or(timeout).await?;
    let mut connection = Connection {
        shared,
        shard,
        link,
        inbound,
        decoder: Decoder::new(compress)?,
        payload: Vec::new(),
        interval: Duration::ZERO,
        heartbeat: None,
        acknowledged: true,
        retry: None,
        rng: fastrand::Rng::new(),
    };
    let ending = match connection.receive()? {
        Some(ending) => ending,
        None => poll_fn(|cx| connection.poll(cx)).await?,
    };
    connection.link.finish().await;
    Ok(ending)
}

impl Connection<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Ending>> {
        if self.shared.ending.get() {
            let mask = self.mask();
            write_close(&mut self.link.out, Some(1000), "", Some(mask));
            return Poll::Ready(Ok(Ending::Done));
        }
        for _ in 0..ROUNDS {
            let read = match self.link.poll_read(cx, self.inbound.space()) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(Ending::Resume)),
                Poll::Ready(Ok(n)) => {
                    self.inbound.filled(n);
                    if let Some(ending) = self.receive()? {
                        return Poll::Ready(Ok(ending));
                    }
                    true
                }
                Poll::Pending => false,
            };
            if let Some(ending) = self.timers(cx) {
                return Poll::Ready(Ok(ending));
            }
            if let Poll::Ready(Err(_)) = self.link.poll_flush(cx) {
                return Poll::Ready(Ok(Ending::Resume));
            }
            if !read {
                let mut wakers = self.shared.wakers.borrow_mut();
                if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
                    wakers.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn timers(&mut self, cx: &mut Context<'_>) -> Option<Ending> {
        while self.heartbeat.as_mut().is_some_and(|timer| Pin::new(timer).poll(cx).is_ready()) {
            if !self.acknowledged {
                return Some(Ending::Resume);
            }
            self.acknowledged = false;
            self.send_heartbeat();
            self.heartbeat = Some(Timer::new(self.interval));
        }
        if self.retry.as_mut().is_some_and(|timer| Pin::new(timer).poll(cx).is_ready()) {
            self.retry = None;
            self.authenticate();
        }
        None
    }

    fn mask(&mut self) -> [u8; 4] {
        self.rng.u32(..).to_ne_bytes()
    }

    fn send(&mut self, payload: &str) {
        let mask = self.mask();
        write_frame(&mut self.link.out, Opcode::Text, payload.as_bytes(), Some(mask));
    }

    fn send_heartbeat(&mut self) {
        let sequence = self.shared.totals.borrow().shards[self.shard].sequence;
        let sequence = if sequence == 0 { "null".to_owned() } else { sequence.to_string() };
        self.send(&format!(r#"{{"op":1,"d":{sequence}}}"#));
    }

    /// Sends RESUME if the shard has a session, otherwise IDENTIFY.
    fn authenticate(&mut self) {
        let options = &self.shared.options;
        let token = json::string(&options.token);
        let mut totals = self.shared.totals.borrow_mut();
        let count = totals.shards.len();
        let state = &totals.shards[self.shard];
        let payload = match &state.session {
            Some(session) => {
                let id = json::string(&session.id);
                format!(r#"{{"op":6,"d":{{"token":{token},"session_id":{id},"seq":{}}}}}"#, state.sequence)
            }
            None => {
                totals.identifies += 1;
                format!(
                    r#"{{"op":2,"d":{{"token":{token},"intents":{},"shard":[{},{count}],"large_threshold":250,"properties":{{"os":"linux","browser":"discord-sim","device":"discord-sim"}}}}}}"#,
                    options.intents, self.shard
                )
            }
        };
        drop(totals);
        self.send(&payload);
    }

    /// Handles all complete messages.
    fn receive(&mut self) -> io::Result<Option<Ending>> {
        loop {
            let message = match self.inbound.next() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(None),
                Err(violation) => return Err(io::Error::other(format!("{violation:?}"))),
            };
            let payload = match message {
                Message::Text(payload) => payload,
                Message::Binary(message) => {
                    self.decoder.decode(message, &mut self.payload)?;
                    &self.payload
                }
                Message::Ping(payload) => {
                    let mask = self.rng.u32(..).to_ne_bytes();
                    write_frame(&mut self.link.out, Opcode::Pong, payload, Some(mask));
                    continue;
                }
                Message::Pong(_) => continue,
                Message::Close(reason) => {
                    let code = reason.map(|(code, _)| code);
                    let mask = self.mask();
                    write_close(&mut self.link.out, code, "", Some(mask));
                    return Ok(Some(match code {
                        Some(code @ (4004 | 4010..=4014)) => Ending::Fatal(code),
                        Some(1000 | 1001 | 4003 | 4007 | 4009) => Ending::Identify,
                        _ => Ending::Resume,
                    }));
                }
            };
            let envelope = Envelope::scan(payload).map_err(|error| io::Error::other(format!("{error:?}")))?;
            match (envelope.op, envelope.t, envelope.s) {
                (0, Some(name), Some(sequence)) => {
                    dispatch(self.shared, self.shard, name, sequence, envelope.d, payload.len());
                }
                (op, _, _) => {
                    let data = std::str::from_utf8(envelope.d).unwrap_or("null").to_owned();
                    if let Some(ending) = self.control(op, &data) {
                        return Ok(Some(ending));
                    }
                }
            }
        }
    }

    /// Handles a payload that is not a dispatch.
    fn control(&mut self, op: u64, data: &str) -> Option<Ending> {
        match op {
            1 => self.send_heartbeat(),
            7 => return Some(Ending::Resume),
            9 => {
                if data != "true" {
                    self.shared.totals.borrow_mut().shards[self.shard].session = None;
                }
                self.retry = Some(Timer::new(AFTER_INVALID));
            }
            10 => {
                let interval = json::field(data, "heartbeat_interval").and_then(|text| text.parse().ok());
                self.interval = Duration::from_millis(interval.unwrap_or(41_250));
                self.heartbeat = Some(Timer::new(self.interval.mul_f64(self.rng.f64())));
                self.authenticate();
            }
            11 => self.acknowledged = true,
            _ => {}
        }
        None
    }
}

fn dispatch(shared: &Shared, shard: usize, name: &[u8], sequence: u64, data: &[u8], bytes: usize) {
    let mut totals = shared.totals.borrow_mut();
    totals.events += 1;
    totals.bytes += bytes as u64;
    let sent = totals.shards[shard].dispatch(name, sequence, data, shared.options.intents);
    if let Some(sent) = sent {
        let latency = clock::monotonic_ns().saturating_sub(sent);
        totals.latency.add(latency);
        totals.latency_of_second.add(latency);
    }
    if name == b"RESUMED" {
        totals.resumes += 1;
    }
    if matches!(name, b"READY" | b"GUILD_CREATE" | b"GUILD_DELETE") && totals.all_guilds.is_none() {
        totals.milestones(shared.started);
    }
}
