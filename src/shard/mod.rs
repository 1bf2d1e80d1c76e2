//! One shard: ties its upstream session, event log, cache and clients together.
//!
//! Data flows one way: payload from Discord → session machine → cache → log → clients. Pure, like its parts: payloads,
//! commands and the time go in; actions for the upstream connection and frames in clients' outboxes come out. The
//! sockets are in [`crate::data_core`].
//!
//! Promises (P1, P2, P5 of docs/architecture.md): a client gets every event of the shard that its intents cover exactly once and in
//! order, or is told to resume or start over; what READY and the snapshot say and what the events after them say is the
//! same story; nothing a client does reaches another client or the upstream session, except its commands, in its turn.

mod cached;
mod commands;
mod culprit;
mod deliver;
pub mod due;
pub mod in_flight;
pub mod naming;
mod ready;
pub mod renewal;
pub mod report;
mod requests;
mod room;
pub mod settings;
mod state;
pub mod tally;
pub mod time;
pub mod voice;

use crate::{
    cache::Cache,
    downstream::session::{Options, Session, SessionId},
    log::Log,
    protocol::{
        ShardId, Time,
        envelope::Envelope,
        event::{EventKind, Meta},
        json::{self, Malformed},
        spelling,
    },
    upstream::{
        limiter::Limiter,
        loss::Reason,
        session::{Action, Identity, Received, Remark, Resumption, Session as Upstream, Status},
    },
};
use cached::Cached;
pub use deliver::Progress;
use hashbrown::HashMap;
use report::Histogram;
use requests::Addressee;
use room::MAX_DETACHED;
pub use settings::{LAGGED, RESTARTING, SILENT, SUPERSEDED, Settings};
use std::{rc::Rc, time::Duration};

/// What HELLO tells clients, in milliseconds. Discord's own value; some libraries give up at 60 s of silence.
pub const HEARTBEAT_INTERVAL: u64 = 41_250;
/// A client that sent no heartbeat for this long, two intervals and some grace, is closed (it may resume).
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(2 * HEARTBEAT_INTERVAL + 10_000);

/// A source of random bytes that nobody can guess; a test has one that it can repeat.
pub type Entropy = Box<dyn FnMut(&mut [u8])>;

/// A close of a client's connection: code and reason.
pub type Close = (u16, &'static str);

/// A number that no session has.
const NOBODY: u32 = 0;

/// Who has to be woken after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// The upstream connection: there may be actions.
    pub upstream: bool,
    /// The clients: there may be something to deliver.
    pub clients: bool,
}

struct Client {
    session: Session,
    /// Answers of the cache to its requests for members.
    answers: requests::Answers,
    /// The snapshot that is being sent.
    snapshot: Option<Box<deliver::Snapshot>>,
    /// Acknowledgements that it is owed.
    acks: due::Acks,
    /// The connection has to be closed.
    doomed: Option<Close>,
    /// It has been told that its session is over.
    dismissed: bool,
    /// Voice states that say that the connections it had are over, since Discord's session was lost. At most one for each
    /// guild of the table.
    voice_lost: Vec<Vec<u8>>,
}

impl Client {
    fn new(session: Session) -> Self {
        let (answers, acks) = (requests::Answers::default(), due::Acks::default());
        Self { session, answers, snapshot: None, acks, doomed: None, dismissed: false, voice_lost: Vec::new() }
    }
}

/// See the module's description.
pub struct Shard {
    id: ShardId,
    settings: Rc<Settings>,
    upstream: Upstream,
    limiter: Limiter,
    log: Log,
    cached: Cached,
    /// Clients that are being sent a snapshot. What changes meanwhile the log has to say, so that it is not told twice.
    syncing: usize,
    /// Guilds that the bot has left while its session was lost.
    left: renewal::Left,
    /// Data of the READY of the current upstream session.
    ready: Option<Box<[u8]>>,
    /// Discord's id of that session.
    upstream_id: Option<Box<str>>,
    /// The control core does not know it yet.
    name_is_new: bool,
    /// The highest number that was sent to a session with that id whose client may not know that it has ended.
    strays_until: u64,
    /// Voice connections.
    voice: voice::Table,
    /// The newest presence that a client has set; a new upstream session starts without it.
    presence: Option<Vec<u8>>,
    clients: HashMap<u32, Client>,
    sessions: HashMap<SessionId, u32>,
    /// Requests for members that Discord has to answer.
    requests: requests::Requests,
    /// Other commands that may not have arrived there.
    in_flight: in_flight::InFlight,
    /// Whose command Discord closes the connection for.
    culprit: culprit::Culprit,
    /// Commands with an unknown opcode so far.
    unknown_commands: u64,
    /// Clients that have to be served at a certain time.
    due: due::Due,
    /// When clients, requests and log have to be looked after.
    chores: Option<Time>,
    next_number: u32,
    /// Fills with cryptographically random bytes.
    entropy: Entropy,
    wake: Wake,
    events: [u64; EventKind::ALL.len()],
    latency: Histogram,
    /// The last round trip of a heartbeat to Discord, also of a connection that is gone.
    round_trip: Option<Duration>,
    /// Sessions of clients that ended because Discord gave the shard a new session.
    invalidated: u64,
    /// Clients told to start over because they fell off the log.
    fell_off: u64,
    /// Figures that only operators ask for.
    tally: tally::Tally,
    /// Where a test wants a panic.
    #[cfg(test)]
    panics: Option<&'static str>,
}

impl Shard {
    /// A shard that connects at its first tick.
    pub fn new(
        id: ShardId,
        settings: Rc<Settings>,
        identity: Identity,
        gateway_url: String,
        resumption: Option<Resumption>,
        mut entropy: Entropy,
    ) -> Self {
        let mut seed = [0; 8];
        entropy(&mut seed);
        let seed = u64::from_ne_bytes(seed);
        Self {
            id,
            upstream: Upstream::new(identity, gateway_url, resumption, seed),
            limiter: Limiter::default(),
            log: Log::new(settings.log),
            cached: Cached::new(Cache::new(settings.cache), settings.log.entries),
            syncing: 0,
            voice: voice::Table::new(settings.voice_grace),
            settings,
            left: renewal::Left::default(),
            ready: None,
            upstream_id: None,
            name_is_new: true,
            strays_until: 0,
            presence: None,
            clients: HashMap::new(),
            sessions: HashMap::new(),
            requests: requests::Requests::new(seed),
            in_flight: in_flight::InFlight::default(),
            culprit: culprit::Culprit::default(),
            unknown_commands: 0,
            due: due::Due::default(),
            chores: None,
            next_number: 0,
            entropy,
            wake: Wake { upstream: true, clients: false },
            events: [0; EventKind::ALL.len()],
            latency: Histogram::default(),
            round_trip: None,
            invalidated: 0,
            fell_off: 0,
            tally: tally::Tally::default(),
            #[cfg(test)]
            panics: None,
        }
    }

    /// Which shard of how many.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// State of the upstream session.
    pub fn status(&self) -> Status {
        self.upstream.status()
    }

    /// Why the shard has been given up, if it has.
    pub fn fatal(&self) -> Option<Close> {
        self.upstream.fatal()
    }

    /// Who has to be woken since the last call.
    pub fn take_wake(&mut self) -> Wake {
        std::mem::take(&mut self.wake)
    }

    // ---- upstream ----

    /// What the upstream connection has to do next.
    pub fn poll_upstream(&mut self, now: Time) -> Option<Action> {
        if let Some(action) = self.upstream.poll_action() {
            return Some(action);
        }
        if self.upstream.accepts_commands() {
            return Some(Action::Send(self.next_command(now)?));
        }
        None
    }

    fn next_command(&mut self, now: Time) -> Option<Vec<u8>> {
        let next = loop {
            let next = self.limiter.pop(now)?;
            if let Some(next) = self.check_voice(now, next) {
                break next;
            }
        };
        self.culprit.sent(now, next.client);
        match next.client {
            Some(client) => self.in_flight.sent(now, client, &next.command, next.again),
            None => self.in_flight.presence_sent(now),
        }
        let payload = self.requests.on_its_way(now, next);
        if let Some(at) = self.requests.deadline() {
            self.look_at(at);
        }
        Some(payload)
    }

    /// The upstream connection is open.
    pub fn upstream_connected(&mut self, now: Time) {
        self.limiter.reset_window();
        self.in_flight.connection_lost();
        self.culprit.connected();
        self.upstream.on_connected(now);
    }

    /// The upstream connection ended.
    pub fn upstream_closed(&mut self, now: Time, code: Option<u16>) {
        self.blame(code);
        self.upstream.on_closed(now, code);
        self.tell_remark();
        self.wake.upstream = true;
        if let Some(close) = self.upstream.fatal() {
            for client in self.clients.values_mut() {
                client.doomed = Some(close);
            }
            self.wake.clients = true;
        }
    }

    /// The upstream connection can not be read on, though the session is fine.
    pub fn upstream_broken(&mut self, now: Time) {
        self.upstream.reconnect(now, Reason::Unreadable);
        self.tell_remark();
        self.wake.upstream = true;
    }

    /// From now on this is the gateway's general URL.
    pub fn set_gateway_url(&mut self, url: &str) {
        self.upstream.set_gateway_url(url);
    }

    /// The identify queue lets this shard go.
    pub fn upstream_permitted(&mut self, now: Time) {
        self.upstream.on_permit(now);
        self.wake.upstream = true;
    }

    /// One payload from Discord. An error says what was wrong with it; the session machine has dealt with it.
    pub fn upstream_payload(&mut self, now: Time, payload: &[u8]) -> Result<(), Malformed> {
        self.wake.upstream = true;
        self.tally.payload_bytes += payload.len() as u64;
        let envelope = match Envelope::scan(payload) {
            Ok(envelope) => envelope,
            Err(malformed) => {
                self.upstream.on_malformed(now);
                self.tell_remark();
                return Err(malformed);
            }
        };
        let gaps = self.upstream.counters().gaps;
        let received = self.upstream.on_payload(now, &envelope);
        if self.upstream.counters().gaps > gaps {
            self.cached.now(&self.log).doubt_members();
        }
        match received {
            Received::Ready => self.on_ready(now, envelope.d)?,
            Received::Dispatch(kind) => {
                self.tally.last_event = Some(now);
                self.on_dispatch(now, kind, &envelope);
            }
            Received::Resumed => self.on_resumed(now),
            Received::Control => {}
        }
        self.tell_remark();
        if let Some(latency) = self.upstream.take_new_latency() {
            self.latency.observe(latency);
            self.round_trip = Some(latency);
            self.in_flight.arrived(now.saturating_sub(latency));
            self.culprit.arrived(now.saturating_sub(latency));
        }
        if !self.log.is_empty() {
            self.look_at(now + time::TIDY);
        }
        #[cfg(test)]
        if self.panics == Some("tick") {
            self.look_at(now);
        }
        Ok(())
    }

    /// Logs what the session machine has to say.
    fn tell_remark(&mut self) {
        match self.upstream.take_remark() {
            None => {}
            Some(Remark::OutOfSequence { sequence, last }) => {
                tracing::warn!(shard = %self.id, sequence, last, "an event from Discord is out of sequence; it is passed on");
            }
            Some(Remark::GivenUp) => {
                tracing::warn!(shard = %self.id, "Discord serves no RESUME: the session is given up, the shard will identify");
            }
        }
    }

    fn on_ready(&mut self, now: Time, data: &[u8]) -> Result<(), Malformed> {
        self.events[EventKind::Ready as usize] += 1;
        (self.tally.last_event, self.tally.session_since) = (Some(now), Some(now));
        let renewed = self.ready.is_some();
        // Every client's READY is made of it, key by key.
        let data = &*spelling::in_plain(data)?;
        if renewed {
            self.voice_lost(now);
            let sessions = self.invalidate_sessions(now);
            self.requests.forget_all();
            self.limiter.forget_again();
            self.in_flight = in_flight::InFlight::default();
            tracing::info!(shard = %self.id, sessions, "Discord has begun a new session: the clients have to identify anew");
        }
        let gone = self.cached.now(&self.log).ready(data)?;
        if renewed {
            self.left = renewal::Left::new(gone, now + self.settings.resume_window);
        }
        self.ready = Some(data.into());
        self.read_name();
        // What a client has set is not in our IDENTIFY.
        if renewed && let Some(presence) = &self.presence {
            self.limiter.push_presence(presence.clone());
        }
        self.wake.clients = true;
        Ok(())
    }

    /// The replay is complete. What was lost with the connection on its way to Discord is sent again.
    fn on_resumed(&mut self, now: Time) {
        self.limiter.forget_again();
        let waiting: Vec<&[u8]> = self.limiter.waiting().map(|(_, command)| command).collect();
        let sent = self.in_flight.lost(&waiting).map(|(client, command)| (client, command.to_vec()));
        let mut lost: Vec<(u32, Vec<u8>)> = sent.chain(self.requests.unanswered()).collect();
        lost.retain(|(client, _)| {
            *client == NOBODY || self.clients.contains_key(client) && !self.culprit.is_guilty(*client)
        });
        let guilds: Vec<u64> = lost.iter().filter_map(|(_, command)| Some(voice::Ask::parse(command)?.guild)).collect();
        self.voice.expect_answers_about(&guilds);
        for (client, command) in lost {
            if let Some(leave) = self.leave_again(now, &command) {
                self.limiter.push_again(client, leave);
            }
            self.limiter.push_again(client, command);
        }
        self.culprit.forgive();
        if self.in_flight.take_lost_presence()
            && !self.limiter.presence_waits()
            && let Some(presence) = &self.presence
        {
            self.limiter.push_presence(presence.clone());
        }
    }

    fn on_dispatch(&mut self, now: Time, kind: EventKind, envelope: &Envelope<'_>) {
        self.events[kind as usize] += 1;
        let name = envelope.t.unwrap_or_default();
        #[cfg(test)]
        match name {
            b"PANIC_IN_A_TEST" => panic!("a panic that a test wants"),
            b"PANIC_AT_A_TICK_IN_A_TEST" => (self.panics, self.chores) = (Some("tick"), Some(Time::ZERO)),
            b"PANIC_FOR_A_CLIENT_IN_A_TEST" => self.panics = Some("client"),
            _ => {}
        }
        self.cached.make_room(&self.log);
        let denied = self.settings.denied.covers(kind, name);
        let mut state_of = None;
        if self.cached.wants(kind) {
            // What is put off waits in the log, where an event that no client gets never is.
            let logged = !self.clients.is_empty() && self.syncing == 0 && !denied;
            if !(logged && self.cached.put_off(kind, &self.log)) {
                let outcome = self.cached.apply(kind, envelope.d, &self.log);
                if let Some(request) = self.requests.for_all(kind, envelope.d).filter(|_| outcome.ignored.is_none()) {
                    self.cached.now(&self.log).chunk_of_all_members(request, envelope.d);
                }
                state_of = outcome.guild.filter(|_| outcome.changed);
            }
        }
        if denied {
            self.tally.denied += 1;
            return;
        }
        match self.requests.resolve(kind, envelope.d) {
            Some(Addressee::Session(session, data)) => {
                self.append(name, &data, Meta { kind, state_of, only: Some(session) });
            }
            Some(Addressee::Nobody) => {
                self.append(name, envelope.d, Meta { kind, state_of, only: Some(NOBODY) });
            }
            None => {
                let only = self.voice_audience(now, kind, envelope.d);
                self.append(name, envelope.d, Meta { kind, state_of, only });
            }
        }
    }

    fn append(&mut self, name: &[u8], data: &[u8], meta: Meta) {
        if self.clients.is_empty() {
            self.cached.now(&self.log);
            self.log.skip();
        } else {
            self.log.append(name, data, meta);
            self.wake.clients = true;
        }
    }

    // ---- clients ----

    /// A client has identified; returns the number of its new session. `Err`: close the connection.
    pub fn identify(&mut self, now: Time, connection: u64, mut options: Options) -> Result<u32, Close> {
        if let Some(close) = self.upstream.fatal() {
            return Err(close);
        }
        if !self.settings.honor_client_intents {
            options.intents = crate::protocol::intents::Intents::ALL;
        }
        let mut random = [0; 12];
        (self.entropy)(&mut random);
        let id = SessionId::new(self.id.id, random);
        self.next_number = self.next_number.wrapping_add(1).max(1);
        let number = self.next_number;
        let mut session = Session::new(number, id, options, now);
        session.connection = Some(connection);
        self.sessions.insert(id, number);
        self.clients.insert(number, Client::new(session));
        Ok(number)
    }

    /// A client wants to resume; returns the session's number, or `None`: answer with Invalid Session.
    pub fn resume(&mut self, now: Time, connection: u64, id: &SessionId, sequence: u64) -> Option<u32> {
        let &number = self.sessions.get(id)?;
        let client = self.clients.get_mut(&number)?;
        let session = &mut client.session;
        // After a fatal close there is nothing to resume; the IDENTIFY that follows is told why.
        let before = session.sequence();
        if self.upstream.fatal().is_some() || !session.rewind(sequence, self.log.oldest(), self.log.next()) {
            return None;
        }
        self.tally.resumed += 1;
        self.tally.replayed += before - session.sequence();
        session.acknowledge(sequence);
        client.answers.rewind(sequence);
        client.answers.acknowledge(sequence);
        // The newest connection wins; the old one notices that it is no longer the session's.
        session.connection = Some(connection);
        session.detached_at = None;
        session.last_heartbeat = now;
        client.doomed = None;
        // The old connection is owed them, not this one.
        client.acks.take_all();
        self.look_at(now + HEARTBEAT_TIMEOUT);
        self.wake.clients = true;
        Some(number)
    }

    /// Whether the client of a session has asked for payload compression.
    pub fn packs_payloads(&self, number: u32) -> bool {
        self.clients.get(&number).is_some_and(|client| client.session.options.compress)
    }

    /// A connection of a client has ended. `gives_up`: the client closed with a code that ends the session.
    pub fn detach(&mut self, now: Time, number: u32, connection: u64, gives_up: bool) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if client.session.connection != Some(connection) {
            return;
        }
        client.session.connection = None;
        client.session.detached_at = Some(now);
        let resumable = client.session.is_resumable();
        self.look_at(now + self.settings.resume_window);
        if gives_up || !resumable {
            self.remove(now, number, gives_up);
        } else if self.clients.len() > MAX_DETACHED {
            self.bound_detached(now);
        }
        self.trim();
    }

    /// A session ends for good. `told`: its client knows.
    fn remove(&mut self, now: Time, number: u32, told: bool) {
        if let Some(client) = self.clients.remove(&number) {
            if !told {
                self.note_stray(&client.session);
            }
            if !self.voice.is_empty() {
                self.voice.session_ended(now, number, client.session.detached_at.unwrap_or(now));
                self.look_at_voice();
            }
            self.syncing -= usize::from(deliver::is_syncing(&client));
            self.sessions.remove(&client.session.id);
            self.tally.sent_by_gone += client.session.sequence();
            self.limiter.forget(number);
            self.in_flight.forget(number);
        }
    }

    /// Drops from the log what no session needs.
    fn trim(&mut self) {
        self.cached.now(&self.log);
        let needed = self.clients.values().map(|client| client.session.needs()).min();
        self.log.trim(needed.unwrap_or(u64::MAX).min(self.log.next()));
        let oldest = self.log.oldest();
        for client in self.clients.values_mut() {
            client.session.forget_before(oldest);
        }
        if self.clients.is_empty() {
            self.log.release();
            self.clients.shrink_to_fit();
            self.sessions.shrink_to_fit();
            self.due.shrink();
        }
    }

    /// Does what can wait until the clients have got their events. To be called after they have.
    pub fn settle(&mut self) {
        self.cached.settle(&self.log);
    }

    /// Leaves Discord so that the session can be resumed, and tells the clients to reconnect.
    pub fn stop(&mut self) {
        self.upstream.stop();
        for client in self.clients.values_mut() {
            client.doomed.get_or_insert(RESTARTING);
        }
        self.wake = Wake { upstream: true, clients: true };
    }

    /// The bot's own user, known since READY.
    fn own_user(&self) -> Option<u64> {
        self.cached.user().and_then(|user| json::get(user, "id")).and_then(json::parse_id)
    }
}

#[cfg(test)]
mod tests;
