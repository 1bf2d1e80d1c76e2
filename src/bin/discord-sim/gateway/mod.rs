//! The gateway: sessions, connections, and the events that the world sends to both.
//!
//! [`Gateway`] is the whole state. It runs in one thread without locks, and has no sockets: commands go in at
//! [`Gateway::receive`], payloads come out at [`Gateway::produce`], and the gateway wakes the task of a connection when
//! there are bytes to send. The caller passes the time.

mod commands;
pub mod connection;
mod encoder;
mod faults;
mod identify;
mod intents;
mod refusal;
mod session;
mod stats;
pub mod voice;

#[cfg(test)]
mod tests;

pub use encoder::{Encoder, Transport};
pub use faults::Cut;
pub use session::MAX_EVENTS;

use identify::Budget;
use session::Session;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};
use world::{Body, Event, World};

/// Time for which a session without a connection can be resumed.
const RESUMABLE_FOR: Duration = Duration::from_secs(180);

/// Maximum number of sessions of one shard. A further one ends the oldest session without a connection, or the oldest
/// session if all have one.
const MAX_SESSIONS: usize = 16;

/// Maximum number of violations that `/sim/stats` lists; the oldest one is dropped.
const MAX_VIOLATIONS: usize = 1_000;

/// Time that a client has to answer a close frame. After that the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after which a frozen connection is dropped.
const FROZEN_FOR: Duration = Duration::from_secs(600);

/// Limits that the gateway enforces, and addresses that it announces.
#[derive(Clone, Debug)]
pub struct Options {
    /// The bot's token, without the prefix `Bot `.
    pub token: String,
    /// Number of IDENTIFY buckets (`max_concurrency`).
    pub max_concurrency: usize,
    /// Minimum time between two IDENTIFYs of one bucket.
    pub identify_interval: Duration,
    /// `session_start_limit.total`.
    pub total: u64,
    /// `session_start_limit.remaining` at the start.
    pub remaining: u64,
    /// `heartbeat_interval` of HELLO.
    pub heartbeat_interval: Duration,
    /// `large_threshold` for an IDENTIFY that names none.
    pub large_threshold: u64,
    /// Intent bits that are refused with 4014.
    pub disallowed_intents: u64,
    /// Minimum time between two requests for all members of one guild, over all sessions of the bot.
    pub member_request_interval: Duration,
    /// Maximum number of bytes in the replay buffer of one session.
    pub replay_bytes: usize,
    /// `url` of the REST routes.
    pub url: String,
    /// `resume_gateway_url` of READY.
    pub resume_url: String,
    /// `endpoint` of VOICE_SERVER_UPDATE.
    pub voice_endpoint: String,
}

/// A violation of Discord's rules by a client.
pub struct ViolationRecord {
    /// The client's shard, if the client had identified.
    pub shard: Option<usize>,
    /// Description of the violation.
    pub what: String,
}

/// What `/sim/stats` tells about one shard.
#[derive(Default)]
pub struct ShardRecord {
    /// Keys of the shard's sessions, oldest first.
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
    /// Data of the newest op 3, or the presence of the newest IDENTIFY.
    pub last_presence: Option<String>,
    /// Close codes that answer the next RESUMEs, although the sessions exist.
    pub refusals: VecDeque<u16>,
    /// Data of the newest op 4, 8, 31 and 43, by opcode.
    pub last_commands: BTreeMap<u64, String>,
    /// Compression of the newest connection that identified or resumed.
    pub compress: Option<Transport>,
    /// Path of that connection's URL.
    pub path: String,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a close frame, which the client answers.
    Close(u16, &'static str),
    /// With a TCP reset.
    Reset,
}

/// Bytes for a connection.
#[derive(Clone, Copy, Debug)]
pub enum Output<'a> {
    /// A payload to be framed, and compressed as the client asked. With `true` payload compression is on: a large
    /// payload is compressed by itself.
    Payload(&'a [u8], bool),
    /// Bytes that are sent as they are. They need not be a WebSocket frame.
    Wire(&'a [u8]),
}

/// Something to send on a connection that is not an event of its session.
enum Waiting {
    Payload(Vec<u8>),
    Wire(Vec<u8>),
}

/// A connection after its handshake.
pub struct Peer {
    waker: Option<Waker>,
    session: Option<u64>,
    /// Sequence number of the session's event that is sent next.
    cursor: u64,
    /// What to send before the session's next event.
    outbox: VecDeque<Waiting>,
    /// Times of the newest commands, oldest first.
    commands: VecDeque<Instant>,
    /// Times of the newest presence updates, oldest first.
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

/// What the task of a connection has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Read and write.
    Open,
    /// Neither read nor write, and keep the socket open.
    Frozen,
    /// Write what the gateway produces, then end the connection.
    Ending(Ending),
    /// Drop the socket: the gateway has removed the connection.
    Gone,
}

/// The simulated gateway; see the module's description.
pub struct Gateway {
    /// The limits and addresses.
    pub options: Options,
    /// The state of all guilds.
    pub world: World,
    /// One record for each shard, by shard id.
    pub shards: Vec<ShardRecord>,
    /// The newest violations, newest last.
    pub violations: VecDeque<ViolationRecord>,
    /// Number of all violations, including those that were dropped from the list.
    pub violation_count: u64,
    /// The voice tokens and who may use them.
    pub voice: voice::Grants,
    budget: Budget,
    sessions: BTreeMap<u64, Session>,
    peers: BTreeMap<u64, Peer>,
    next_key: u64,
    /// Time of the newest request for all members, by guild.
    member_requests: BTreeMap<u64, Instant>,
    rng: fastrand::Rng,
    scratch: Vec<u8>,
}

/// A payload that is not a dispatch. It has all four keys.
fn payload(op: u64, data: &str) -> Vec<u8> {
    format!(r#"{{"t":null,"s":null,"op":{op},"d":{data}}}"#).into_bytes()
}

impl Gateway {
    /// A gateway for this world, without connections.
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

    /// Number of IDENTIFYs that are left in the budget, and milliseconds until the period of the budget ends.
    pub fn remaining(&self, now: Instant) -> (u64, u64) {
        self.budget.remaining(now)
    }

    /// Sets the number of IDENTIFYs that are left in the budget.
    pub fn set_remaining(&mut self, remaining: u64) {
        self.budget.set_remaining(remaining);
    }

    /// Adds a connection, queues HELLO for it, and returns the connection's key.
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

    /// Removes a connection that has ended. `code` is the code of the client's close frame, if the client sent one:
    /// 1000 and 1001 end the session, any other end leaves the session for a RESUME.
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

    /// What the task of a connection has to do.
    pub fn state(&self, key: u64) -> State {
        match self.peers.get(&key).map(|peer| (peer.ending, peer.frozen)) {
            None => State::Gone,
            Some((Some(ending), _)) => State::Ending(ending),
            Some((None, Some(_))) => State::Frozen,
            Some((None, None)) => State::Open,
        }
    }

    /// Keeps the waker of a connection's task. The gateway calls it once when there is something to do for the
    /// connection.
    pub fn park(&mut self, key: u64, waker: &Waker) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.waker = Some(waker.clone());
        }
    }

    /// Calls `send` with each thing to send on a connection, until `send` returns false or nothing is left.
    pub fn produce(&mut self, key: u64, mut send: impl FnMut(Output<'_>) -> bool, now: Instant) {
        let mut payload = std::mem::take(&mut self.scratch);
        while let Some(peer) = self.peers.get_mut(&key) {
            let compress = peer.compress_payloads;
            if let Some(waiting) = peer.outbox.pop_front() {
                let output = match &waiting {
                    Waiting::Payload(payload) => Output::Payload(payload, compress),
                    Waiting::Wire(bytes) => Output::Wire(bytes),
                };
                if send(output) {
                    continue;
                }
                break;
            }
            // After a close has been decided no event of the session is sent.
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
            if !send(Output::Payload(&payload, compress)) {
                break;
            }
        }
        if payload.capacity() > 1 << 20 {
            payload = Vec::new();
        }
        self.scratch = payload;
    }

    /// Appends to a session the next event that is made only on demand: GUILD_CREATE for a guild of READY, or
    /// GUILD_MEMBERS_CHUNK. False if there is none.
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

    /// Appends an event to each session of the shard whose intents cover the event.
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
                            // A numbered message must not be left out, and a client must get GUILD_CREATE before any
                            // event of the guild.
                            session.pending.remove(&event.guild);
                            if let Some(guild) = self.world.guild(event.guild) {
                                let data = guild.create(Some(session.view), false, self.world.bot());
                                session.push("GUILD_CREATE", data);
                            }
                        } else {
                            // The guild's GUILD_CREATE is made later, and contains the change.
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

    /// Appends a dispatch with any type and data to every session of a shard, whatever its intents. Returns the number
    /// of sessions.
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

    /// Whether the shard has a session, with or without a connection.
    pub fn has_session(&self, shard: usize) -> bool {
        self.shards.get(shard).is_some_and(|record| !record.sessions.is_empty())
    }

    /// Keys of the connections that are attached to a shard's sessions.
    pub fn connections_of(&self, shard: usize) -> Vec<u64> {
        let Some(record) = self.shards.get(shard) else { return Vec::new() };
        let sessions = record.sessions.iter().filter_map(|key| self.sessions.get(key));
        sessions.filter_map(|session| session.connection).collect()
    }

    fn violate(&mut self, shard: Option<usize>, what: String) {
        self.violation_count += 1;
        if self.violations.len() == MAX_VIOLATIONS {
            self.violations.pop_front();
        }
        self.violations.push_back(ViolationRecord { shard, what });
    }

    /// Closes a connection because its client broke a rule, and records the violation.
    fn refuse(&mut self, key: u64, code: u16, reason: &'static str, what: &str, now: Instant) {
        let session = self.peers.get(&key).and_then(|peer| peer.session);
        let shard = session.and_then(|session| self.sessions.get(&session)).map(|session| session.shard);
        self.violate(shard, format!("{code}: {what}"));
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.end(Ending::Close(code, reason), now);
            peer.session = None;
        }
        if let Some(session) = session {
            // The session stays: after missed heartbeats a client is "forced to Resume" (Gateway: "Sending
            // Heartbeats").
            self.detach(session, now);
        }
    }

    /// Closes a connection whose client broke the WebSocket protocol.
    pub fn protocol_error(&mut self, key: u64, code: u16, what: &str, now: Instant) {
        self.refuse(key, code, "", what, now);
    }

    /// Applies the time limits: closes connections without heartbeats, drops connections whose client does not answer a
    /// close frame, and ends sessions without a connection. The caller calls it several times in a heartbeat interval.
    pub fn expire(&mut self, now: Instant) {
        let interval = self.options.heartbeat_interval;
        // 1.5 heartbeat intervals, and up to 5 s more for a slow network.
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
