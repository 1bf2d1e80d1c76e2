//! The state machine of one shard's session with Discord (docs: Gateway, Gateway Lifecycle).
//!
//! ```text
//! Idle ─▶ Connecting ─▶ AwaitHello ─▶ AwaitPermit ─▶ Identifying ─▶ Active
//!  ▲                        └─────────▶ Resuming ──────────────────▶ │
//!  └───────────────── closed, op 7, op 9, zombie, timeout ◀──────────┘        (or Fatal, or Stopped)
//! ```
//!
//! Pure: payloads, ends of connections and the time go in; [`Action`]s come out. The machine owns the session id, the
//! resume URL, the sequence, the heartbeats and the decision how to come back after a loss.
//!
//! Promises: the machine first tries to resume a session that Discord may still have, and gives it up after a bounded
//! time (see [`ReconnectPolicy`](super::reconnect)). It sends an IDENTIFY only with a permit. A fatal close code ends
//! the machine for good. It passes every event on, except events of a replay that the RESUME named as received.

mod limits;

pub use limits::*;

use super::{
    counters::Counters,
    loss::Reason,
    reconnect::{Loss, ReconnectPolicy},
};
use crate::protocol::{
    Time,
    close::{self, FatalClose, Remedy},
    envelope::Envelope,
    event::EventKind,
    json, opcode, payload,
};
use std::{collections::VecDeque, time::Duration};

/// An action for the owner of the socket.
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

/// The state as metrics and `/health` show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The session is given up; see [`Session::fatal`].
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

/// The meaning of a payload for the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// READY of a new session.
    Ready,
    /// RESUMED: the replay is complete. The shard does not pass it to clients.
    Resumed,
    /// An event for the cache and the clients.
    Dispatch(EventKind),
    /// A payload that concerns the session machine alone.
    Control,
}

/// A message for the operator. The caller only logs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// An event outside of a replay had a sequence that is not above the last one. The event was passed on. Reported
    /// once for each connection; [`Counters::out_of_sequence`] counts all such events.
    OutOfSequence {
        /// The sequence of the event; 0 if it has none.
        sequence: u64,
        /// The highest sequence so far.
        last: u64,
    },
    /// RESUMEs have failed for too long; the shard will identify.
    GivenUp,
}

/// The data for a RESUME. It survives the connection and, with state files, a restart of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resumption {
    /// Discord's id of the session.
    pub session_id: String,
    /// The gateway URL at which Discord wants the RESUME.
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
        retry_at: Time,
    },
    Identifying {
        deadline: Time,
    },
    Resuming {
        deadline: Time,
        /// The sequence in the RESUME.
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
    /// When the oldest heartbeat without an acknowledgement was sent.
    awaiting: Option<Time>,
}

/// The parts of the configuration that the machine sends to Discord.
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
    reconnect: ReconnectPolicy,
    fatal: Option<FatalClose>,
    /// The last sequence when a malformed payload caused a reconnect. The machine skips a second one at this sequence.
    malformed_at: Option<u64>,
    latency: Option<Duration>,
    new_latency: Option<Duration>,
    counters: Counters,
    warning: Option<Warning>,
    /// Why the last connection was lost, and Discord's close code if it gave one.
    last_loss: Option<(Reason, Option<u16>)>,
    /// [`Warning::OutOfSequence`] has been reported for this connection.
    disorder_reported: bool,
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
            reconnect: ReconnectPolicy::default(),
            fatal: None,
            malformed_at: None,
            latency: None,
            new_latency: None,
            counters: Counters::default(),
            warning: None,
            last_loss: None,
            disorder_reported: false,
            actions: VecDeque::new(),
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// Sets the gateway's general URL.
    pub fn set_gateway_url(&mut self, url: &str) {
        url.clone_into(&mut self.gateway_url);
    }

    /// The next action; `None` when there is nothing to do now.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The state for metrics and `/health`.
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

    /// The close code that ended the session for good, and advice for the operator.
    pub fn fatal(&self) -> Option<FatalClose> {
        self.fatal
    }

    /// The time between the last acknowledged heartbeat of this connection and its acknowledgement.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// Returns the newest latency that no earlier call has returned; `None` if no heartbeat was acknowledged since the
    /// last call.
    pub fn take_new_latency(&mut self) -> Option<Duration> {
        self.new_latency.take()
    }

    /// Counts for metrics.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The newest warning since the last call.
    pub fn take_warning(&mut self) -> Option<Warning> {
        self.warning.take()
    }

    /// Why the last connection was lost or could not be made, and the close code if Discord gave one.
    pub fn last_loss(&self) -> Option<(Reason, Option<u16>)> {
        self.last_loss
    }

    /// Sets the IDENTIFY for later sessions.
    pub fn set_identify(&mut self, identify: Vec<u8>) {
        self.identity.identify = identify;
    }

    /// The data for a RESUME; `None` when there is no session.
    pub fn resumption(&self) -> Option<&Resumption> {
        self.resumption.as_ref()
    }

    /// Returns whether the shard may send commands of clients now.
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

    /// The identify queue has given a permit for one IDENTIFY.
    pub fn on_permit(&mut self, now: Time) {
        // A permit that comes after its connection was lost is void; the next connection asks again.
        if let State::AwaitPermit { .. } = self.state {
            self.counters.identifies += 1;
            self.actions.push_back(Action::Send(self.identity.identify.clone()));
            self.state = State::Identifying { deadline: now + READY_TIMEOUT };
        }
    }

    /// The connection ended, by a close frame with `code` or in any other way (`None`), or could not be opened.
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
                self.fatal = Some(FatalClose { code: code.unwrap_or_default(), advice: what });
                self.drop_connection();
                self.state = State::Fatal;
            }
            Remedy::Identify => {
                let worked = matches!(self.state, State::Resuming { .. } | State::Active);
                self.resumption = None;
                self.retry(now, Loss::Refused);
                // Before IDENTIFY the close can not end a session, so it counts as a failure without a pause.
                if worked {
                    self.pause_after_invalid_session(now);
                }
            }
            Remedy::Resume => {
                self.retry(now, if close::is_about_session(code) { Loss::Refused } else { Loss::Other });
            }
        }
    }

    /// A client caused the loss of this connection, which the caller reports next. The loss is not Discord's failure.
    pub fn excuse_loss(&mut self) {
        self.reconnect.excuse_next_loss();
    }

    /// One payload from Discord.
    pub fn on_payload(&mut self, now: Time, envelope: &Envelope<'_>) -> Received {
        if !self.is_connected() {
            // A payload of a connection that was given up. A RESUME makes Discord send it again.
            return Received::Control;
        }
        match envelope.op {
            opcode::DISPATCH => return self.on_dispatch(now, envelope),
            opcode::HELLO => self.on_hello(now, envelope),
            opcode::HEARTBEAT => self.send_heartbeat(now),
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
                self.pause_after_invalid_session(now);
            }
            _ => {}
        }
        Received::Control
    }

    /// A payload could not be read. The machine reconnects, and Discord sends it again. A payload that is unreadable
    /// again is skipped, because one bad event must not stop the shard for ever.
    pub fn on_malformed(&mut self, now: Time) {
        if !self.is_connected() {
            return;
        }
        self.counters.malformed += 1;
        let at = self.resumption.as_ref().map(|resumption| resumption.sequence);
        // Without a session the payload may have been READY, which only a new connection brings.
        if at.is_none() || self.malformed_at != at {
            self.malformed_at = at;
            self.reconnect(now, Reason::Unreadable);
        }
    }

    /// Returns whether there is a connection that can bring payloads.
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
            // Discord sends no event before READY. Without a session the event has no sequence to follow.
            self.counters.malformed += 1;
            return Received::Control;
        };
        if kind == EventKind::Resumed {
            // RESUMED ends the replay, whatever its sequence is; some gateways send it without one.
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
            self.reconnect.connection_works(now);
        }
        let last = resumption.sequence;
        if sequence > last {
            self.counters.gaps = self.counters.gaps.saturating_add(sequence - last - 1);
            resumption.sequence = sequence;
        } else {
            // The event need not be a duplicate, so dropping it could lose it.
            self.counters.out_of_sequence += 1;
            if !std::mem::replace(&mut self.disorder_reported, true) {
                self.warning = Some(Warning::OutOfSequence { sequence, last });
            }
        }
        Received::Dispatch(kind)
    }

    fn activate(&mut self, now: Time) {
        self.state = State::Active;
        self.reconnect.connection_works(now);
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
                self.reconnect.resume_sent(now);
                self.state = State::Resuming { deadline: now + RESUME_TIMEOUT, from: *sequence };
            }
            None => self.request_permit(now),
        }
    }

    fn request_permit(&mut self, now: Time) {
        self.actions.push_back(Action::RequestPermit);
        self.state = State::AwaitPermit { retry_at: now + PERMIT_RETRY };
    }

    fn send_heartbeat(&mut self, now: Time) {
        let sequence = self.resumption.as_ref().map(|resumption| resumption.sequence);
        if let Some(heartbeat) = &mut self.heartbeat {
            self.actions.push_back(Action::Send(payload::heartbeat(sequence)));
            heartbeat.awaiting.get_or_insert(now);
            heartbeat.next = now + heartbeat.interval;
        }
    }

    /// Does what is due at the time `now`.
    pub fn on_tick(&mut self, now: Time) {
        match self.state {
            State::Idle { until } if now >= until => {
                self.state = State::Connecting { deadline: now + CONNECT_TIMEOUT };
                let url = match &self.resumption {
                    Some(known) if self.reconnect.failures() < RESUME_URL_ATTEMPTS => known.resume_url.clone(),
                    _ => self.gateway_url.clone(),
                };
                self.actions.push_back(Action::Connect(url));
            }
            State::AwaitPermit { retry_at } if now >= retry_at => self.request_permit(now),
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
                self.send_heartbeat(now);
            }
        }
    }

    /// When [`Session::on_tick`] next has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let state = match self.state {
            State::Idle { until } => Some(until),
            State::AwaitPermit { retry_at } => Some(retry_at),
            State::Connecting { deadline }
            | State::AwaitHello { deadline }
            | State::Identifying { deadline }
            | State::Resuming { deadline, .. } => Some(deadline),
            _ => None,
        };
        let beat = self.heartbeat.map(|heartbeat| heartbeat.next);
        state.into_iter().chain(beat).min()
    }

    /// Closes the connection for good, with a code after which Discord keeps the session for a later RESUME.
    pub fn stop(&mut self) {
        if self.state != State::Fatal {
            self.close();
            self.state = State::Stopped;
        }
    }

    /// Closes the connection and makes another one: at once, unless the last connections failed or were short.
    pub fn reconnect(&mut self, now: Time, reason: Reason) {
        if !matches!(self.state, State::Fatal | State::Stopped | State::Idle { .. }) {
            self.note_loss(reason, None);
            self.close();
            self.retry(now, Loss::Other);
        }
    }

    /// Gives up the session, and begins a new one with the next permit. This is for a session that Discord keeps alive
    /// and sends no events any more. A connection is closed with a code that ends the session at Discord, too, and the
    /// next connection may have to wait as after any loss. Without a connection, the machine only forgets the session,
    /// and Discord is not told. Does nothing when the machine is fatal or stopped.
    pub fn begin_new_session(&mut self, now: Time, reason: Reason) {
        let over = matches!(self.state, State::Fatal | State::Stopped);
        self.resumption.take_if(|_| !over);
        if !over && !matches!(self.state, State::Idle { .. }) {
            self.note_loss(reason, None);
            self.close_with(close::NORMAL);
            self.retry(now, Loss::Other);
        }
    }

    /// READY was accepted, and its data can not be used. A RESUME would not bring it again, so the machine begins a new
    /// session.
    pub fn on_malformed_ready(&mut self, now: Time) {
        self.counters.malformed += 1;
        self.begin_new_session(now, Reason::Unreadable);
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
        self.disorder_reported = false;
        // Payloads for the old connection must not go out on the next one.
        self.actions.retain(|action| matches!(action, Action::Close(_)));
    }

    /// The connection is lost: decides whether the session is given up, and when the next connection is made.
    fn retry(&mut self, now: Time, loss: Loss) {
        let resuming = matches!(self.state, State::Resuming { .. });
        self.drop_connection();
        if resuming && self.reconnect.resume_lost(now, loss) && self.resumption.take().is_some() {
            self.counters.given_up += 1;
            self.warning = Some(Warning::GivenUp);
        }
        let wait = self.reconnect.next_wait(now, self.resumption.is_some(), resuming, &mut self.random);
        self.state = State::Idle { until: now + wait };
    }

    /// Waits as Discord wants after Invalid Session, in place of any other wait.
    fn pause_after_invalid_session(&mut self, now: Time) {
        let (least, most) = INVALID_PAUSE;
        let pause = least + (most - least).mul_f64(self.random.f64());
        self.state = State::Idle { until: now + pause };
    }
}

#[cfg(test)]
mod tests;
