//! The state machine of one shard's session with Discord (docs: Gateway, Gateway Lifecycle).
//!
//! ```text
//! Idle ─▶ Connecting ─▶ AwaitHello ─▶ AwaitPermit ─▶ Identifying ─▶ Active
//!  ▲                        └─────────▶ Resuming ──────────────────▶ │
//!  └───────────────── closed, op 7, op 9, zombie, timeout ◀──────────┘        (or Fatal, or Stopped)
//! ```
//!
//! Pure: payloads, ends of connections and the time go in; [`Action`]s come out. It owns the session id, the resume
//! URL, the sequence, heartbeats and the decision how to come back after a loss.
//!
//! Promises: a session that Discord may still have is RESUMEd before anything else, and one that can not be resumed is
//! given up after a bounded time (see [`comeback`](super::comeback)); every IDENTIFY has been permitted; a fatal close code
//! ends it for good; every event is passed on, but for those of a replay that the RESUME named as received.

use super::{
    comeback::{Comeback, Loss},
    counters::Counters,
    loss::Reason,
};
use crate::protocol::{
    Time,
    close::{self, Remedy},
    envelope::Envelope,
    event::EventKind,
    json, opcode, payload,
};
use std::{collections::VecDeque, time::Duration};

/// A connection must be open, TLS and upgrade included, after this time.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// HELLO must have come this long after the connection opened.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(20);
/// READY must have come this long after IDENTIFY: a server that acknowledges heartbeats and does nothing else is no better
/// than one that is gone. Long, because the next attempt costs another IDENTIFY.
pub const READY_TIMEOUT: Duration = Duration::from_secs(180);
/// After a RESUME the first event, each further one, and RESUMED must have come within this time of what came before. So a
/// replay may be as long as it likes, as long as it goes on.
pub const RESUME_TIMEOUT: Duration = Duration::from_secs(20);
/// A permit is asked for again this often, in case that the question or the answer was lost between the cores. The queue
/// does not count a shard twice.
pub const ASK_AGAIN: Duration = Duration::from_secs(60);
/// After Invalid Session (op 9) Discord wants a pause of a random length between these (docs: Gateway, Resuming).
pub const INVALID_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// The resume URL is given up for the general one after this many failures in a row.
pub const RESUME_URL_ATTEMPTS: u32 = 3;
/// Highest sequence that is believed, the last number that every JSON parser reads exactly. Behind a higher one no other could
/// follow.
pub const MAX_SEQUENCE: u64 = (1 << 53) - 1;
/// Heartbeat intervals that are believed; anything else would flood Discord or never beat.
pub const HEARTBEAT_RANGE: (u64, u64) = (1_000, 300_000);

/// What the owner of the socket has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to this gateway URL (`ws://` or `wss://`, without a query).
    Connect(String),
    /// Send a payload.
    Send(Vec<u8>),
    /// Close with this code and drop the connection at once, without waiting for the peer.
    Close(u16),
    /// Ask the identify queue for a permit and report it with [`Session::on_permit`].
    RequestPermit,
}

/// What the state is called in metrics and `/health`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Given up; see [`Session::fatal`].
    Fatal = 0,
    /// No usable connection.
    Disconnected = 1,
    /// Waiting for a permit or for READY.
    Identifying = 2,
    /// Waiting for RESUMED.
    Resuming = 3,
    /// Live.
    Active = 4,
}

/// What a payload means for the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A new session: its READY.
    Ready,
    /// The session goes on: its RESUMED. Not for clients.
    Resumed,
    /// An event for the cache and the clients.
    Dispatch(EventKind),
    /// Nothing for the shard.
    Control,
}

/// Something that an operator should know. It changes nothing for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// An event came outside of a replay with a sequence that is not above the last one. It was passed on. Said once for
    /// a connection; [`Counters::out_of_sequence`] counts all of them.
    OutOfSequence {
        /// Its sequence; 0 when it has none.
        sequence: u64,
        /// The highest one so far.
        last: u64,
    },
    /// RESUMEs have failed for too long; the shard will identify anew.
    GivenUp,
}

/// What survives a connection, and, with state files, a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// Discord's id of the session.
    pub session_id: String,
    /// Where to resume it.
    pub resume_url: String,
    /// The last sequence received.
    pub sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle {
        until: Time,
    },
    Connecting {
        deadline: Time,
    },
    AwaitHello {
        deadline: Time,
    },
    AwaitPermit {
        ask_again: Time,
    },
    Identifying {
        deadline: Time,
    },
    Resuming {
        deadline: Time,
        /// The sequence that the RESUME named.
        from: u64,
    },
    Active,
    Fatal,
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Heartbeat {
    interval: Duration,
    next: Time,
    /// When the beat was sent that is not acknowledged yet.
    awaiting: Option<Time>,
}

/// The configuration that payloads are made of.
pub struct Identity {
    /// IDENTIFY, ready to send.
    pub identify: Vec<u8>,
    /// The token, for RESUME.
    pub token: String,
}

/// See the module's description.
pub struct Session {
    identity: Identity,
    gateway_url: String,
    state: State,
    resumption: Option<Resumption>,
    heartbeat: Option<Heartbeat>,
    comeback: Comeback,
    fatal: Option<(u16, &'static str)>,
    /// The last sequence when a malformed payload made us reconnect: a second one there is skipped.
    malformed_at: Option<u64>,
    latency: Option<Duration>,
    new_latency: Option<Duration>,
    counters: Counters,
    remark: Option<Remark>,
    /// Why the last connection was lost, and Discord's close code if it gave one.
    last_loss: Option<(Reason, Option<u16>)>,
    /// An event of this connection was out of sequence, and that has been told.
    disorder_told: bool,
    actions: VecDeque<Action>,
    random: fastrand::Rng,
}

impl Session {
    /// A session that connects at the first tick. `gateway_url` is what `/gateway/bot` returned.
    pub fn new(identity: Identity, gateway_url: String, resumption: Option<Resumption>, seed: u64) -> Self {
        Self {
            identity,
            gateway_url,
            state: State::Idle { until: Time::ZERO },
            resumption,
            heartbeat: None,
            comeback: Comeback::default(),
            fatal: None,
            malformed_at: None,
            latency: None,
            new_latency: None,
            counters: Counters::default(),
            remark: None,
            last_loss: None,
            disorder_told: false,
            actions: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// From now on this is the gateway's general URL.
    pub fn set_gateway_url(&mut self, url: &str) {
        url.clone_into(&mut self.gateway_url);
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The state in one word.
    pub fn status(&self) -> Status {
        match self.state {
            State::Fatal => Status::Fatal,
            State::AwaitPermit { .. } | State::Identifying { .. } => Status::Identifying,
            State::Resuming { .. } => Status::Resuming,
            State::Active => Status::Active,
            State::Idle { .. } | State::Connecting { .. } | State::AwaitHello { .. } | State::Stopped => {
                Status::Disconnected
            }
        }
    }

    /// The close code that ended it for good and what to do about it.
    pub fn fatal(&self) -> Option<(u16, &'static str)> {
        self.fatal
    }

    /// Time between the last heartbeat and its acknowledgement.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// The same, once for each acknowledgement.
    pub fn take_new_latency(&mut self) -> Option<Duration> {
        self.new_latency.take()
    }

    /// Counts for metrics.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What there is to say since the last call.
    pub fn take_remark(&mut self) -> Option<Remark> {
        self.remark.take()
    }

    /// Why the last connection was lost or could not be made, and the close code if Discord gave one.
    pub fn last_loss(&self) -> Option<(Reason, Option<u16>)> {
        self.last_loss
    }

    /// Sets the IDENTIFY for later sessions.
    pub fn set_identify(&mut self, identify: Vec<u8>) {
        self.identity.identify = identify;
    }

    /// What a RESUME would need now.
    pub fn resumption(&self) -> Option<&Resumption> {
        self.resumption.as_ref()
    }

    /// May commands of clients be sent now?
    pub fn accepts_commands(&self) -> bool {
        self.state == State::Active
    }

    /// The connection is open, upgrade included.
    pub fn on_connected(&mut self, now: Time) {
        if let State::Connecting { .. } = self.state {
            self.counters.connects += 1;
            self.state = State::AwaitHello { deadline: now + HELLO_TIMEOUT };
        }
    }

    /// The identify queue lets us go.
    pub fn on_permit(&mut self, now: Time) {
        // A permit that comes after the connection was lost is void; the next connection asks again.
        if let State::AwaitPermit { .. } = self.state {
            self.counters.identifies += 1;
            self.actions.push_back(Action::Send(self.identity.identify.clone()));
            self.state = State::Identifying { deadline: now + READY_TIMEOUT };
        }
    }

    /// The connection ended: by a close frame with `code`, or in any other way (`None`). Also when it could not be opened.
    pub fn on_closed(&mut self, now: Time, code: Option<u16>) {
        if matches!(self.state, State::Idle { .. } | State::Fatal | State::Stopped) {
            return;
        }
        let reason = match (self.state, code) {
            (State::Connecting { .. }, _) => Reason::Unreachable,
            (_, Some(_)) => Reason::Closed,
            (_, None) => Reason::Lost,
        };
        self.note_loss(reason, code);
        match close::remedy(code) {
            Remedy::Fatal(what) => {
                self.fatal = Some((code.unwrap_or_default(), what));
                self.drop_connection();
                self.state = State::Fatal;
            }
            Remedy::Identify => {
                let worked = matches!(self.state, State::Resuming { .. } | State::Active);
                self.resumption = None;
                self.retry(now, Loss::Refused);
                // Before IDENTIFY there was no session that this could end: then it is just another failure.
                if worked {
                    self.pause(now);
                }
            }
            Remedy::Resume => {
                self.retry(now, if close::is_about_session(code) { Loss::Refused } else { Loss::Other });
            }
        }
    }

    /// The loss of this connection, which is told next, is the doing of a client: it says nothing about Discord.
    pub fn excuse_loss(&mut self) {
        self.comeback.excuse();
    }

    /// One payload from Discord.
    pub fn on_payload(&mut self, now: Time, envelope: &Envelope<'_>) -> Received {
        if !self.is_connected() {
            // The rest of a connection that has been given up: a RESUME will bring it again.
            return Received::Control;
        }
        match envelope.op {
            opcode::DISPATCH => return self.on_dispatch(now, envelope),
            opcode::HELLO => self.on_hello(now, envelope),
            opcode::HEARTBEAT => self.beat(now),
            opcode::HEARTBEAT_ACK => {
                if let Some(heartbeat) = &mut self.heartbeat
                    && let Some(sent) = heartbeat.awaiting.take()
                {
                    self.latency = Some(now.saturating_sub(sent));
                    self.new_latency = self.latency;
                }
            }
            opcode::RECONNECT => self.reconnect(now, Reason::Reconnect),
            opcode::INVALID_SESSION => {
                if envelope.d != b"true" {
                    self.resumption = None;
                }
                self.note_loss(Reason::InvalidSession, None);
                self.close();
                self.retry(now, Loss::Other);
                self.pause(now);
            }
            _ => {}
        }
        Received::Control
    }

    /// A payload that is not one. Reconnecting gets it again, in case it was garbled on the way; if it then still is, it
    /// is skipped, because one bad event must not stop the shard for ever.
    pub fn on_malformed(&mut self, now: Time) {
        if !self.is_connected() {
            return;
        }
        self.counters.malformed += 1;
        let at = self.resumption.as_ref().map(|resumption| resumption.sequence);
        // Without a session it may have been READY, which nothing else brings.
        if at.is_none() || self.malformed_at != at {
            self.malformed_at = at;
            self.reconnect(now, Reason::Unreadable);
        }
    }

    /// Is there a connection that payloads can come from?
    pub fn is_connected(&self) -> bool {
        !matches!(self.state, State::Idle { .. } | State::Connecting { .. } | State::Fatal | State::Stopped)
    }

    fn on_dispatch(&mut self, now: Time, envelope: &Envelope<'_>) -> Received {
        let kind = envelope.t.map_or(EventKind::Other, EventKind::from_name);
        let sequence = envelope.s.unwrap_or(0);
        if sequence > MAX_SEQUENCE {
            self.on_malformed(now);
            return Received::Control;
        }
        if kind == EventKind::Ready {
            let text = |key| json::get(envelope.d, key).and_then(|value| serde_json::from_slice::<String>(value).ok());
            let guilds = json::elements(json::get(envelope.d, "guilds").unwrap_or(b"[]"));
            let (Some(session_id), Ok(_)) = (text("session_id"), guilds) else {
                self.on_malformed(now);
                return Received::Control;
            };
            let resume_url = text("resume_gateway_url").unwrap_or_else(|| self.gateway_url.clone());
            self.resumption = Some(Resumption { session_id, resume_url, sequence });
            self.activate(now);
            return Received::Ready;
        }
        let Some(resumption) = &mut self.resumption else {
            // An event of no session: Discord does not send that, and there is nothing to number it by.
            self.counters.malformed += 1;
            return Received::Control;
        };
        if kind == EventKind::Resumed {
            // Whatever its own number is, and some gateways give it none: the replay is over.
            resumption.sequence = resumption.sequence.max(sequence);
            self.activate(now);
            return Received::Resumed;
        }
        if let State::Resuming { deadline, from } = &mut self.state {
            if sequence <= *from {
                self.counters.duplicates += 1;
                return Received::Control;
            }
            *deadline = now + RESUME_TIMEOUT;
            self.comeback.works(now);
        }
        let last = resumption.sequence;
        if sequence > last {
            self.counters.gaps = self.counters.gaps.saturating_add(sequence - last - 1);
            resumption.sequence = sequence;
        } else {
            // Nothing says that it is one that was there before, so to drop it could lose it.
            self.counters.out_of_sequence += 1;
            if !std::mem::replace(&mut self.disorder_told, true) {
                self.remark = Some(Remark::OutOfSequence { sequence, last });
            }
        }
        Received::Dispatch(kind)
    }

    fn activate(&mut self, now: Time) {
        self.state = State::Active;
        self.comeback.works(now);
    }

    fn on_hello(&mut self, now: Time, envelope: &Envelope<'_>) {
        let State::AwaitHello { .. } = self.state else { return };
        let interval = json::get(envelope.d, "heartbeat_interval").and_then(json::parse_id).unwrap_or(41_250);
        let interval = Duration::from_millis(interval.clamp(HEARTBEAT_RANGE.0, HEARTBEAT_RANGE.1));
        let jitter = interval.mul_f64(self.random.f64());
        self.heartbeat = Some(Heartbeat { interval, next: now + jitter, awaiting: None });
        match &self.resumption {
            Some(Resumption { session_id, sequence, .. }) => {
                let resume = payload::resume(&self.identity.token, session_id, *sequence);
                self.actions.push_back(Action::Send(resume));
                self.counters.resumes += 1;
                self.comeback.resumes(now);
                self.state = State::Resuming { deadline: now + RESUME_TIMEOUT, from: *sequence };
            }
            None => self.ask(now),
        }
    }

    fn ask(&mut self, now: Time) {
        self.actions.push_back(Action::RequestPermit);
        self.state = State::AwaitPermit { ask_again: now + ASK_AGAIN };
    }

    fn beat(&mut self, now: Time) {
        let sequence = self.resumption.as_ref().map(|resumption| resumption.sequence);
        if let Some(heartbeat) = &mut self.heartbeat {
            self.actions.push_back(Action::Send(payload::heartbeat(sequence)));
            heartbeat.awaiting.get_or_insert(now);
            heartbeat.next = now + heartbeat.interval;
        }
    }

    /// Lets time pass.
    pub fn on_tick(&mut self, now: Time) {
        match self.state {
            State::Idle { until } if now >= until => {
                self.state = State::Connecting { deadline: now + CONNECT_TIMEOUT };
                let url = match &self.resumption {
                    Some(resumption) if self.comeback.failures() < RESUME_URL_ATTEMPTS => resumption.resume_url.clone(),
                    _ => self.gateway_url.clone(),
                };
                self.actions.push_back(Action::Connect(url));
            }
            State::AwaitPermit { ask_again } if now >= ask_again => self.ask(now),
            State::Connecting { deadline }
            | State::AwaitHello { deadline }
            | State::Identifying { deadline }
            | State::Resuming { deadline, .. }
                if now >= deadline =>
            {
                self.note_loss(Reason::Timeout, None);
                self.close();
                self.retry(now, Loss::Other);
            }
            _ => {}
        }
        if let Some(heartbeat) = self.heartbeat
            && now >= heartbeat.next
        {
            if heartbeat.awaiting.is_some() {
                self.counters.zombies += 1;
                self.note_loss(Reason::NoHeartbeatAck, None);
                self.close();
                self.retry(now, Loss::Other);
            } else {
                self.beat(now);
            }
        }
    }

    /// When [`Session::on_tick`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let state = match self.state {
            State::Idle { until } => Some(until),
            State::AwaitPermit { ask_again } => Some(ask_again),
            State::Connecting { deadline }
            | State::AwaitHello { deadline }
            | State::Identifying { deadline }
            | State::Resuming { deadline, .. } => Some(deadline),
            _ => None,
        };
        let beat = self.heartbeat.map(|heartbeat| heartbeat.next);
        state.into_iter().chain(beat).min()
    }

    /// Leaves for good, in a way that Discord keeps the session for a later RESUME.
    pub fn stop(&mut self) {
        if self.state != State::Fatal {
            self.close();
            self.state = State::Stopped;
        }
    }

    /// Gives the connection up and makes another one: at once, unless the last ones did not work or last either.
    pub fn reconnect(&mut self, now: Time, reason: Reason) {
        if !matches!(self.state, State::Fatal | State::Stopped | State::Idle { .. }) {
            self.note_loss(reason, None);
            self.close();
            self.retry(now, Loss::Other);
        }
    }

    /// Gives the session up, at Discord too, and begins a new one with the next permit. An operator wants that when Discord
    /// keeps a session alive and sends it no events any more.
    pub fn renew(&mut self, now: Time) {
        let over = matches!(self.state, State::Fatal | State::Stopped);
        self.resumption.take_if(|_| !over);
        if !over && !matches!(self.state, State::Idle { .. }) {
            self.note_loss(Reason::ByHand, None);
            self.close_with(close::NORMAL);
            self.retry(now, Loss::Other);
        }
    }

    fn note_loss(&mut self, reason: Reason, code: Option<u16>) {
        self.counters.losses[reason as usize] += 1;
        self.last_loss = Some((reason, code));
    }

    fn close(&mut self) {
        self.close_with(close::UNKNOWN_ERROR);
    }

    fn close_with(&mut self, code: u16) {
        self.actions.push_back(Action::Close(code));
        self.drop_connection();
    }

    fn drop_connection(&mut self) {
        self.heartbeat = None;
        self.latency = None;
        self.disorder_told = false;
        // What was to be sent on the old connection is void.
        self.actions.retain(|action| matches!(action, Action::Close(_)));
    }

    /// The connection is lost: decides whether the session is given up, and when the next connection is made.
    fn retry(&mut self, now: Time, loss: Loss) {
        let resuming = matches!(self.state, State::Resuming { .. });
        self.drop_connection();
        if resuming && self.comeback.resume_lost(now, loss) && self.resumption.take().is_some() {
            self.counters.given_up += 1;
            self.remark = Some(Remark::GivenUp);
        }
        let wait = self.comeback.wait(now, self.resumption.is_some(), resuming, &mut self.random);
        self.state = State::Idle { until: now + wait };
    }

    /// Waits as Discord wants after an invalid session, in place of any other wait.
    fn pause(&mut self, now: Time) {
        let (least, most) = INVALID_PAUSE;
        let pause = least + (most - least).mul_f64(self.random.f64());
        self.state = State::Idle { until: now + pause };
    }
}

#[cfg(test)]
mod tests;
