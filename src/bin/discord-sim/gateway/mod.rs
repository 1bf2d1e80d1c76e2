//! The gateway: sessions, connections, and the events that flow from the world to these.
//!
//! [`Gateway`] is the whole state, in one thread, without locks and without sockets: bytes of commands go in at
//! [`Gateway::receive`], payloads come out at [`Gateway::produce`], and the owner of a socket is woken when there are
//! bytes to send. Time is passed in.

mod commands;
pub mod connection;
mod encoder;
mod faults;
mod identify;
mod intents;
mod session;
mod stats;
pub mod voice;

#[cfg(test)]
mod tests;

pub use encoder::{Encoder, Transport};
pub use faults::Cut;
pub use session::MOST_EVENTS;

use crate::world::{Body, Event, World};
use identify::Budget;
use session::Session;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

/// How long a session without a connection can be resumed.
const RESUMABLE_FOR: Duration = Duration::from_secs(180);

/// The most sessions of one shard at a time; the oldest goes first.
const MOST_SESSIONS: usize = 16;

/// The most violations that are kept for `/sim/stats`.
const MOST_VIOLATIONS: usize = 1_000;

/// How long a client may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a frozen connection is kept.
const FROZEN_FOR: Duration = Duration::from_secs(600);

/// What the gateway enforces and announces.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bot's token, without `Bot `.
    pub token: String,
    /// IDENTIFY buckets (`max_concurrency`).
    pub max_concurrency: usize,
    /// One IDENTIFY for each bucket in this time.
    pub identify_interval: Duration,
    /// `session_start_limit.total`.
    pub total: u64,
    /// `session_start_limit.remaining` at the start.
    pub remaining: u64,
    /// `heartbeat_interval` of HELLO.
    pub heartbeat_interval: Duration,
    /// `large_threshold` of an IDENTIFY that has none.
    pub large_threshold: u64,
    /// Bits of intents that are refused with 4014.
    pub disallowed_intents: u64,
    /// Time between two requests for all members of one guild, of the whole bot.
    pub member_request_interval: Duration,
    /// Most bytes in the replay buffer of one session.
    pub replay_bytes: usize,
    /// `url` of the REST routes.
    pub url: String,
    /// `resume_gateway_url` of READY.
    pub resume_url: String,
    /// `endpoint` of VOICE_SERVER_UPDATE.
    pub voice_endpoint: String,
}

/// A break of the rules by a client.
pub struct ViolationRecord {
    /// Its shard, if it had identified.
    pub shard: Option<usize>,
    /// What it did.
    pub what: String,
}

/// What `/sim/stats` says of one shard.
#[derive(Default)]
pub struct ShardRecord {
    /// Sessions, oldest first.
    sessions: Vec<u64>,
    /// Accepted IDENTIFYs.
    pub identifies: u64,
    /// Accepted RESUMEs.
    pub resumes: u64,
    /// Dispatches written to connections, replays included.
    pub events_sent: u64,
    /// Heartbeats received.
    pub heartbeats: u64,
    /// Commands received, by opcode.
    pub commands: BTreeMap<u64, u64>,
    /// Newest IDENTIFY without its token.
    pub last_identify: Option<String>,
    /// Newest op 3, or the presence of the newest IDENTIFY.
    pub last_presence: Option<String>,
    /// Close codes with which the next RESUMEs are answered, though the sessions are there.
    pub refusals: VecDeque<u16>,
    /// Newest op 4, 8, 31 and 43, by opcode.
    pub last_commands: BTreeMap<u64, String>,
    /// Compression of the newest connection that identified or resumed.
    pub compress: Option<Transport>,
    /// Path of that connection's URL.
    pub path: String,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A close frame is sent and answered.
    Close(u16, &'static str),
    /// The TCP connection is reset.
    Reset,
}

/// Something to put on a connection.
#[derive(Clone, Copy, Debug)]
pub enum Said<'a> {
    /// A payload, in a frame and compressed as the client asked; with `true` one by one, if it is large.
    Payload(&'a [u8], bool),
    /// Bytes for the wire as they are: no frame of ours, and perhaps none at all.
    Wire(&'a [u8]),
}

/// What waits for a connection and is no event of its session.
enum Waiting {
    Payload(Vec<u8>),
    Wire(Vec<u8>),
}

/// A connection after its handshake.
pub struct Peer {
    waker: Option<Waker>,
    session: Option<u64>,
    /// The number of the next event to send.
    cursor: u64,
    /// Payloads that are not events of the session.
    outbox: VecDeque<Waiting>,
    /// When the newest commands came.
    commands: VecDeque<Instant>,
    /// When it sent its last presence updates, oldest first.
    presences: VecDeque<Instant>,
    last_heartbeat: Instant,
    ending: Option<Ending>,
    ending_since: Option<Instant>,
    frozen: Option<Instant>,
    compress_payloads: bool,
    transport: Option<Transport>,
    version: u64,
    path: String,
}

impl Peer {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn say(&mut self, payload: impl Into<Vec<u8>>) {
        self.outbox.push_back(Waiting::Payload(payload.into()));
        self.wake();
    }

    fn put_on_wire(&mut self, bytes: &[u8]) {
        self.outbox.push_back(Waiting::Wire(bytes.to_owned()));
        self.wake();
    }

    fn end(&mut self, ending: Ending, now: Instant) {
        if self.ending.is_none() || ending == Ending::Reset {
            self.ending = Some(ending);
            self.ending_since = Some(now);
        }
        self.wake();
    }
}

/// What a connection is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Go on.
    Open,
    /// Neither read nor write.
    Frozen,
    /// End, after what was produced.
    Ending(Ending),
    /// Forgotten: drop the socket.
    Gone,
}

/// All of it.
pub struct Gateway {
    /// What is enforced.
    pub options: Options,
    /// The truth.
    pub world: World,
    /// Per shard.
    pub shards: Vec<ShardRecord>,
    /// Newest last.
    pub violations: VecDeque<ViolationRecord>,
    /// All violations, also those that are not kept.
    pub violation_count: u64,
    /// Voice servers that were given out.
    pub voice: voice::Grants,
    budget: Budget,
    sessions: BTreeMap<u64, Session>,
    peers: BTreeMap<u64, Peer>,
    next_key: u64,
    /// When all members of a guild were requested last.
    member_requests: BTreeMap<u64, Instant>,
    rng: fastrand::Rng,
    scratch: Vec<u8>,
}

/// A payload that is not a dispatch, with all four keys.
fn payload(op: u64, data: &str) -> Vec<u8> {
    format!(r#"{{"t":null,"s":null,"op":{op},"d":{data}}}"#).into_bytes()
}

impl Gateway {
    /// A gateway without connections in front of this world.
    pub fn new(options: Options, world: World, shards: usize, now: Instant) -> Self {
        let budget = Budget::new(options.max_concurrency, options.identify_interval, options.remaining, now);
        Self {
            budget,
            options,
            world,
            shards: std::iter::repeat_with(ShardRecord::default).take(shards).collect(),
            violations: VecDeque::new(),
            violation_count: 0,
            voice: voice::Grants::default(),
            sessions: BTreeMap::new(),
            peers: BTreeMap::new(),
            next_key: 1,
            member_requests: BTreeMap::new(),
            rng: fastrand::Rng::new(),
            scratch: Vec::new(),
        }
    }

    /// IDENTIFYs that are left, and ms until there are more.
    pub fn remaining(&self, now: Instant) -> (u64, u64) {
        self.budget.remaining(now)
    }

    /// Sets how many IDENTIFYs are left.
    pub fn set_remaining(&mut self, remaining: u64) {
        self.budget.set_remaining(remaining);
    }

    /// A new connection; HELLO is ready to be sent.
    pub fn connect(&mut self, version: u64, transport: Option<Transport>, path: &str, now: Instant) -> u64 {
        let key = self.next_key;
        self.next_key += 1;
        let interval = self.options.heartbeat_interval.as_millis();
        let hello =
            format!(r#"{{"heartbeat_interval":{interval},"_trace":["[\"gateway-sim-1\",{{\"micros\":0.0}}]"]}}"#);
        let mut peer = Peer {
            waker: None,
            session: None,
            cursor: 1,
            outbox: VecDeque::new(),
            commands: VecDeque::new(),
            presences: VecDeque::new(),
            last_heartbeat: now,
            ending: None,
            ending_since: None,
            frozen: None,
            compress_payloads: false,
            transport,
            version,
            path: path.to_owned(),
        };
        peer.say(payload(10, &hello));
        self.peers.insert(key, peer);
        key
    }

    /// A connection is gone. `code` is the client's close code, if it sent a close frame: 1000 and 1001 end the session.
    pub fn disconnect(&mut self, key: u64, code: Option<u16>, now: Instant) {
        let Some(peer) = self.peers.remove(&key) else { return };
        let Some(session) = peer.session else { return };
        if matches!(code, Some(1000 | 1001)) {
            self.end_session(session);
        } else {
            self.detach(session, now);
        }
    }

    fn detach(&mut self, session: u64, now: Instant) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.connection = None;
            session.detached = Some(now);
        }
    }

    fn end_session(&mut self, key: u64) {
        let Some(session) = self.sessions.remove(&key) else { return };
        if let Some(record) = self.shards.get_mut(session.shard) {
            record.sessions.retain(|other| *other != key);
        }
        if let Some(peer) = session.connection.and_then(|connection| self.peers.get_mut(&connection)) {
            peer.session = None;
        }
        for event in self.world.end_voice(session.shard, &session.id) {
            self.voice_ended(&event);
            self.publish(session.shard, &event);
        }
    }

    /// What a connection is to do.
    pub fn state(&self, key: u64) -> State {
        match self.peers.get(&key).map(|peer| (peer.ending, peer.frozen)) {
            None => State::Gone,
            Some((Some(ending), _)) => State::Ending(ending),
            Some((None, Some(_))) => State::Frozen,
            Some((None, None)) => State::Open,
        }
    }

    /// Nothing is left to do for a connection: whom to wake when that changes.
    pub fn park(&mut self, key: u64, waker: &Waker) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.waker = Some(waker.clone());
        }
    }

    /// Hands over what there is for a connection until `send` says stop or there is no more.
    pub fn produce(&mut self, key: u64, mut send: impl FnMut(Said<'_>) -> bool, now: Instant) {
        let mut payload = std::mem::take(&mut self.scratch);
        while let Some(peer) = self.peers.get_mut(&key) {
            let compress = peer.compress_payloads;
            if let Some(waiting) = peer.outbox.pop_front() {
                let said = match &waiting {
                    Waiting::Payload(payload) => Said::Payload(payload, compress),
                    Waiting::Wire(bytes) => Said::Wire(bytes),
                };
                if send(said) {
                    continue;
                }
                break;
            }
            // After op 7, 9 or a close nothing of the session follows.
            if peer.ending.is_some() {
                break;
            }
            let Some(session_key) = peer.session else { break };
            let Some(session) = self.sessions.get_mut(&session_key) else { break };
            if peer.cursor > session.sequence() {
                if !Self::prepare(&self.world, session) {
                    break;
                }
                continue;
            }
            payload.clear();
            if !session.write(peer.cursor, &mut payload) {
                let what = "too slow: events were forgotten before it read them".to_owned();
                let shard = session.shard;
                self.violate(Some(shard), what);
                self.end_session(session_key);
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.end(Ending::Close(4000, "Unknown error."), now);
                }
                break;
            }
            peer.cursor += 1;
            self.shards[session.shard].events_sent += 1;
            if !send(Said::Payload(&payload, compress)) {
                break;
            }
        }
        if payload.capacity() > 1 << 20 {
            payload = Vec::new();
        }
        self.scratch = payload;
    }

    /// Makes the next lazy event of a session: a guild of READY, or a chunk of members. False if there is none.
    fn prepare(world: &World, session: &mut Session) -> bool {
        if let Some(guild) = session.pending.pop_first() {
            if let Some(guild) = world.guild(guild).filter(|guild| guild.available()) {
                let data = guild.create(Some(session.view), false, world.bot());
                session.push("GUILD_CREATE", data);
            }
            return true;
        }
        let Some(chunks) = session.chunks.front_mut() else { return false };
        match commands::next_chunk(world, chunks) {
            Some(data) => session.push("GUILD_MEMBERS_CHUNK", data),
            None => {
                session.chunks.pop_front();
            }
        }
        true
    }

    /// Sends an event to every session of the shard that wants it.
    pub fn publish(&mut self, shard: usize, event: &Event) {
        let Some(record) = self.shards.get(shard) else { return };
        let name: Rc<str> = event.name.into();
        let (mut whole, mut stripped): (Option<Rc<str>>, Option<Rc<str>>) = (None, None);
        for key in &record.sessions {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            if !session.wants(event.name) {
                continue;
            }
            let data = match &event.body {
                Body::Guild { joined } => {
                    session.pending.remove(&event.guild);
                    let Some(guild) = self.world.guild(event.guild) else { continue };
                    Rc::from(guild.create(Some(session.view), *joined, self.world.bot()))
                }
                Body::Json { text, content, numbered } => {
                    if session.pending.contains(&event.guild) {
                        if event.name == "GUILD_DELETE" {
                            session.pending.remove(&event.guild);
                        } else if *numbered {
                            // It must not be left out, and nothing of a guild comes before its GUILD_CREATE.
                            session.pending.remove(&event.guild);
                            if let Some(guild) = self.world.guild(event.guild) {
                                let data = guild.create(Some(session.view), false, self.world.bot());
                                session.push("GUILD_CREATE", data);
                            }
                        } else {
                            // Its GUILD_CREATE will tell.
                            continue;
                        }
                    }
                    match content {
                        Some(content) if session.intents & intents::MESSAGE_CONTENT == 0 => {
                            let strip = || format!("{}\"\"{}", &text[..content.start], &text[content.end..]).into();
                            Rc::clone(stripped.get_or_insert_with(strip))
                        }
                        _ => Rc::clone(whole.get_or_insert_with(|| text.as_str().into())),
                    }
                }
            };
            session.push(Rc::clone(&name), data);
            if let Some(peer) = session.connection.and_then(|key| self.peers.get_mut(&key)) {
                peer.wake();
            }
        }
    }

    /// Sends any payload as a dispatch to every session of a shard, whatever its intents. Says to how many.
    pub fn dispatch(&mut self, shard: usize, name: &str, data: &str) -> usize {
        let keys = self.shards.get(shard).map(|record| record.sessions.clone()).unwrap_or_default();
        for key in &keys {
            self.push_to(*key, name, data);
        }
        keys.len()
    }

    fn push_to(&mut self, session: u64, name: &str, data: &str) {
        let Some(session) = self.sessions.get_mut(&session) else { return };
        session.push(name, data);
        if let Some(peer) = session.connection.and_then(|key| self.peers.get_mut(&key)) {
            peer.wake();
        }
    }

    /// Whether events of this shard reach anybody, now or by a RESUME.
    pub fn has_session(&self, shard: usize) -> bool {
        self.shards.get(shard).is_some_and(|record| !record.sessions.is_empty())
    }

    /// Keys of the connections of a shard's sessions.
    pub fn connections_of(&self, shard: usize) -> Vec<u64> {
        let Some(record) = self.shards.get(shard) else { return Vec::new() };
        let sessions = record.sessions.iter().filter_map(|key| self.sessions.get(key));
        sessions.filter_map(|session| session.connection).collect()
    }

    fn violate(&mut self, shard: Option<usize>, what: String) {
        self.violation_count += 1;
        if self.violations.len() == MOST_VIOLATIONS {
            self.violations.pop_front();
        }
        self.violations.push_back(ViolationRecord { shard, what });
    }

    /// A connection is closed because of what its client did.
    fn refuse(&mut self, key: u64, code: u16, reason: &'static str, what: &str, now: Instant) {
        let session = self.peers.get(&key).and_then(|peer| peer.session);
        let shard = session.and_then(|session| self.sessions.get(&session)).map(|session| session.shard);
        self.violate(shard, format!("{code}: {what}"));
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.end(Ending::Close(code, reason), now);
            peer.session = None;
        }
        if let Some(session) = session {
            // After missed heartbeats a client is "forced to Resume" (Gateway: "Sending Heartbeats"), so that is possible.
            self.detach(session, now);
        }
    }

    /// Bytes that a client sent against the rules of WebSocket.
    pub fn protocol_error(&mut self, key: u64, code: u16, what: &str, now: Instant) {
        self.refuse(key, code, "", what, now);
    }

    /// Ends what has lasted too long: connections without heartbeats, closes without an answer, sessions without a
    /// connection. To be called several times in a heartbeat interval.
    pub fn expire(&mut self, now: Instant) {
        let interval = self.options.heartbeat_interval;
        // One and a half intervals, and some grace for a slow network.
        let patience = interval * 3 / 2 + (interval / 2).min(Duration::from_secs(5));
        let mut silent = Vec::new();
        self.peers.retain(|key, peer| {
            let waited = |since: Option<Instant>, limit| since.is_some_and(|since| now.duration_since(since) > limit);
            if waited(peer.ending_since, CLOSE_TIMEOUT) || waited(peer.frozen, FROZEN_FOR) {
                peer.wake();
                return false;
            }
            if peer.ending.is_none() && peer.frozen.is_none() && now.duration_since(peer.last_heartbeat) > patience {
                silent.push(*key);
            }
            true
        });
        for key in silent {
            self.refuse(key, 4009, "Session timed out.", "no heartbeat for more than 1.5 intervals", now);
        }
        let expired: Vec<u64> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.detached.is_some_and(|since| now.duration_since(since) > RESUMABLE_FOR))
            .map(|(key, _)| *key)
            .collect();
        for key in expired {
            self.end_session(key);
        }
    }
}
