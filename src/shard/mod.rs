//! One shard: connects its upstream session, its event log, its cache and its clients.
//!
//! A payload from Discord passes through the session machine, the cache and the log to the clients. The shard is pure,
//! like its parts: payloads, commands and the time go in; actions for the upstream connection and frames in the
//! outboxes of clients come out. [`crate::data_core`] owns the sockets.
//!
//! Promises (P1, P2, P5 of docs/architecture.md): a client gets every event of the shard that its intents cover exactly
//! once and in order, or the proxy tells it to resume or to start over. The events that follow READY and a snapshot
//! continue the state that these show. Nothing that a client does affects another client or the upstream session, but
//! for its commands, which the shard forwards in turn.

mod answers;
mod commands;
pub mod credentials;
mod culprit;
mod deliver;
mod dispatch;
pub(crate) mod due;
pub(crate) mod in_flight;
mod lazy_cache;
mod marks;
mod outgoing;
mod prefetch;
mod ready;
pub(crate) mod renewal;
pub mod report;
mod requests;
mod room;
pub(crate) mod session_ids;
pub(crate) mod settings;
mod state;
pub(crate) mod tally;
pub(crate) mod time;
pub(crate) mod voice;

use crate::{
    cache::Cache,
    downstream::session::{Options, Session, SessionId},
    log::Log,
    protocol::{
        ConnectionId, SessionKey, ShardId, Time,
        close::{Close, FatalClose},
        envelope::Envelope,
        event::EventKind,
        json::{self, Malformed},
        payload, spelling,
    },
    upstream::{
        limiter::Limiter,
        loss::Reason,
        session::{Action, Identity, Received, Resumption, Session as Upstream, Status, Warning},
    },
};
pub use deliver::Progress;
use hashbrown::HashMap;
use lazy_cache::LazyCache;
use report::Histogram;
use room::MAX_DETACHED;
pub use settings::Settings;
use std::{rc::Rc, time::Duration};

/// The shard closes a client that sent no heartbeat for this long: two intervals and 10 s. The client may resume.
pub const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(2 * payload::HEARTBEAT_INTERVAL + 10_000);

/// Fills a buffer with cryptographically random bytes. Tests use a source that repeats.
pub type Entropy = Box<dyn FnMut(&mut [u8])>;

/// The tasks that the caller has to wake after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wake {
    /// The task of the upstream connection: [`Shard::poll_upstream`] may return an action.
    pub upstream: bool,
    /// The tasks of the clients: [`Shard::produce`] may have something for them.
    pub clients: bool,
}

struct Client {
    session: Session,
    /// Answers from the cache to the client's Request Guild Members.
    answers: answers::Answers,
    /// The snapshot that the client is being sent, if any.
    snapshot: Option<Box<deliver::Snapshot>>,
    /// Heartbeats of the client that wait for their acknowledgement.
    acks: due::PendingAcks,
    /// The client's connection has to be closed with this code and reason.
    pending_close: Option<Close>,
    /// The client has been sent Invalid Session (op 9).
    invalid_session_sent: bool,
    /// Voice states that tell the client that its voice connections are over, because Discord ended the shard's
    /// session. At most one for each guild of the voice table.
    voice_lost: Vec<Vec<u8>>,
}

impl Client {
    fn new(session: Session) -> Self {
        let (answers, acks) = (answers::Answers::default(), due::PendingAcks::default());
        Self {
            session,
            answers,
            snapshot: None,
            acks,
            pending_close: None,
            invalid_session_sent: false,
            voice_lost: Vec::new(),
        }
    }
}

/// See the module's description.
pub struct Shard {
    id: ShardId,
    settings: Rc<Settings>,
    upstream: Upstream,
    limiter: Limiter,
    log: Log,
    marks: marks::Marks,
    cache: LazyCache,
    /// Clients that are being sent a snapshot. While there are any, the cache applies each event at once, because the
    /// log entry has to say whose snapshot contains the event: a client must not get it again after its snapshot.
    syncing: usize,
    /// Guilds that the bot left between the last upstream session and the current one.
    departed: renewal::DepartedGuilds,
    /// The `d` of the READY of the current upstream session.
    ready: Option<Box<[u8]>>,
    /// Discord's id of the current upstream session.
    upstream_id: Option<Box<str>>,
    /// The control core has not been told `upstream_id` since it changed.
    upstream_id_is_new: bool,
    /// The highest sequence that a stray with `upstream_id` as its session id was sent. See [`session_ids`].
    strays_until: u64,
    /// The owners of the bot's voice connections.
    voice: voice::Table,
    /// The newest presence update (op 3), which the shard sends again in a new upstream session.
    presence: Option<Vec<u8>>,
    clients: HashMap<SessionKey, Client>,
    sessions: HashMap<SessionId, SessionKey>,
    /// Requests for members that went to Discord.
    requests: requests::Requests,
    prefetch: prefetch::Prefetch,
    /// Other commands that went to Discord and may not have arrived.
    in_flight: in_flight::InFlight,
    /// Finds the client whose command made Discord close the connection.
    culprit: culprit::Culprit,
    /// The number of client commands with an unknown opcode.
    unknown_commands: u64,
    /// The numbers of commands that credentials do not permit.
    refusals: credentials::Refusals,
    /// The times at which clients have to be served although no event comes.
    due: due::DueClients,
    /// When [`Shard::tick`] next has to look after clients, requests and the log.
    maintenance_at: Option<Time>,
    /// The key of the newest session.
    last_key: SessionKey,
    /// The source of session ids and of the seed.
    entropy: Entropy,
    wake: Wake,
    events: [u64; EventKind::ALL.len()],
    latency: Histogram,
    /// The round trip of the last acknowledged heartbeat to Discord. The value stays when its connection ends.
    round_trip: Option<Duration>,
    /// The number of client sessions that ended because Discord gave the shard a new session.
    invalidated: u64,
    /// The number of times that a client was closed because it fell off the log.
    fell_off: u64,
    /// Counts for metrics and the live page.
    tally: tally::Tally,
    /// The place at which a test makes the shard panic.
    #[cfg(test)]
    panics: Option<&'static str>,
}

impl Shard {
    /// A shard that connects to Discord at its first tick. With a `resumption` it sends RESUME, without one IDENTIFY.
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
            marks: marks::Marks::default(),
            cache: LazyCache::new(id.id, Cache::new(settings.cache), settings.log.entries),
            syncing: 0,
            voice: voice::Table::new(settings.voice_grace),
            settings,
            departed: renewal::DepartedGuilds::default(),
            ready: None,
            upstream_id: None,
            upstream_id_is_new: true,
            strays_until: 0,
            presence: None,
            clients: HashMap::new(),
            sessions: HashMap::new(),
            requests: requests::Requests::new(seed),
            prefetch: prefetch::Prefetch::default(),
            in_flight: in_flight::InFlight::default(),
            culprit: culprit::Culprit::default(),
            unknown_commands: 0,
            refusals: credentials::Refusals::default(),
            due: due::DueClients::default(),
            maintenance_at: None,
            last_key: SessionKey::NONE,
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

    /// The id of the shard and the number of shards.
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// State of the upstream session.
    pub fn status(&self) -> Status {
        self.upstream.status()
    }

    /// Why the shard was given up for good; `None` as long as it was not.
    pub fn fatal(&self) -> Option<FatalClose> {
        self.upstream.fatal()
    }

    /// The tasks to wake since the last call of this method.
    pub fn take_wake(&mut self) -> Wake {
        std::mem::take(&mut self.wake)
    }

    // ---- upstream ----

    /// The next action for the upstream connection; `None` when there is nothing to do now.
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
        self.culprit.register_sent(now, next.client);
        match next.client {
            Some(client) => self.in_flight.register_sent(now, client, &next.command, next.is_resend),
            None => self.in_flight.register_presence_sent(now),
        }
        let payload = self.requests.register_sent(now, next);
        if let Some(at) = self.requests.deadline() {
            self.schedule_maintenance(at);
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

    /// The upstream connection ended: by a close frame with `code`, or in any other way (`None`). After a fatal code
    /// the shard closes all clients with that code.
    pub fn upstream_closed(&mut self, now: Time, code: Option<u16>) {
        self.close_culprit(code);
        self.upstream.on_closed(now, code);
        self.log_warning();
        self.wake.upstream = true;
        if let Some(fatal) = self.upstream.fatal() {
            for client in self.clients.values_mut() {
                client.pending_close = Some(Close::Fatal(fatal));
            }
            self.wake.clients = true;
        }
    }

    /// The bytes of the upstream connection violate a protocol. The caller has closed it, and the shard resumes.
    pub fn upstream_unreadable(&mut self, now: Time) {
        self.upstream.reconnect(now, Reason::Unreadable);
        self.log_warning();
        self.wake.upstream = true;
    }

    /// Sets the gateway URL for connections that do not use the resume URL.
    pub fn set_gateway_url(&mut self, url: &str) {
        self.upstream.set_gateway_url(url);
    }

    /// The identify queue has given this shard a permit for one IDENTIFY.
    pub fn upstream_permitted(&mut self, now: Time) {
        self.upstream.on_permit(now);
        self.wake.upstream = true;
    }

    /// Handles one payload from Discord. An error says why it is unreadable; the session machine has already reacted.
    pub fn upstream_payload(&mut self, now: Time, payload: &[u8]) -> Result<(), Malformed> {
        self.wake.upstream = true;
        self.tally.payload_bytes += payload.len() as u64;
        let envelope = match Envelope::scan(payload) {
            Ok(envelope) => envelope,
            Err(malformed) => {
                self.upstream.on_malformed(now);
                self.log_warning();
                return Err(malformed);
            }
        };
        let gaps = self.upstream.counters().gaps;
        let received = self.upstream.on_payload(now, &envelope);
        if self.upstream.counters().gaps > gaps {
            self.cache.up_to_date(&self.log).doubt_members();
            self.prefetch_all(now);
        }
        match received {
            Received::Ready => {
                if let Err(malformed) = self.on_ready(now, envelope.d) {
                    self.upstream.on_malformed_ready(now);
                    return Err(malformed);
                }
            }
            Received::Dispatch(kind) => {
                self.tally.last_event = Some(now);
                self.on_dispatch(now, kind, &envelope);
            }
            Received::Resumed => self.on_resumed(now),
            Received::Control => {}
        }
        self.log_warning();
        if let Some(latency) = self.upstream.take_new_latency() {
            self.latency.observe(latency);
            self.round_trip = Some(latency);
            self.in_flight.acknowledge_sent_before(now.saturating_sub(latency));
            self.culprit.acknowledge_sent_before(now.saturating_sub(latency));
        }
        if !self.log.is_empty() {
            self.schedule_maintenance(now + time::MAINTENANCE_INTERVAL);
        }
        #[cfg(test)]
        if self.panics == Some("tick") {
            self.schedule_maintenance(now);
        }
        Ok(())
    }

    /// Writes the session machine's warning, if it has one, to the log output.
    fn log_warning(&mut self) {
        match self.upstream.take_warning() {
            None => {}
            Some(Warning::OutOfSequence { sequence, last }) => {
                tracing::warn!(
                    shard = self.id.id,
                    sequence,
                    last,
                    "an event from Discord has a sequence that is not above the last one; clients are sent the event anyway"
                );
            }
            Some(Warning::GivenUp) => {
                tracing::warn!(
                    shard = self.id.id,
                    "Discord accepted no RESUME: the shard gives its session up and will identify"
                );
            }
        }
    }

    fn on_ready(&mut self, now: Time, data: &[u8]) -> Result<(), Malformed> {
        self.events[EventKind::Ready as usize] += 1;
        (self.tally.last_event, self.tally.session_since) = (Some(now), Some(now));
        let renewed = self.ready.is_some();
        // The shard makes the READY of each client from this text, key by key.
        let data = &*spelling::in_plain(data)?;
        if renewed {
            self.voice_lost(now);
            let sessions = self.invalidate_sessions(now);
            self.requests.forget_all();
            self.limiter.clear_resends();
            self.in_flight = in_flight::InFlight::default();
            tracing::info!(
                shard = self.id.id,
                sessions,
                "Discord gave the shard a new session: its clients are told to identify again (op 9)"
            );
        }
        self.forget_prefetch();
        let gone = self.cache.up_to_date(&self.log).ready(data)?;
        if renewed {
            let until = now + self.settings.resume_window;
            self.departed.add(gone, now, until);
            self.schedule_maintenance(until);
        }
        self.ready = Some(data.into());
        self.read_upstream_id();
        // IDENTIFY does not contain the presence that a client has set.
        if renewed && let Some(presence) = &self.presence {
            self.limiter.push_presence(presence.clone());
        }
        self.wake.clients = true;
        Ok(())
    }

    /// Discord has sent RESUMED, so its replay is complete. Queues again the commands that may have been lost with the
    /// former connection.
    fn on_resumed(&mut self, now: Time) {
        self.limiter.clear_resends();
        let waiting: Vec<&[u8]> = self.limiter.waiting().map(|(_, command)| command).collect();
        let sent = self.in_flight.commands_to_resend(&waiting).map(|(client, command)| (client, command.to_vec()));
        let mut lost: Vec<(SessionKey, Vec<u8>)> = sent.chain(self.requests.unanswered()).collect();
        lost.retain(|(client, _)| {
            *client == SessionKey::NONE || self.clients.contains_key(client) && !self.culprit.is_excluded(*client)
        });
        let guilds: Vec<u64> =
            lost.iter().filter_map(|(_, command)| Some(voice::VoiceCommand::parse(command)?.guild)).collect();
        self.voice.expect_answers_only_for(&guilds);
        for (client, command) in lost {
            if let Some(leave) = self.leave_again(now, client, &command) {
                self.limiter.push_resend(client, leave);
            }
            self.limiter.push_resend(client, command);
        }
        self.culprit.end_exclusion();
        if self.in_flight.take_lost_presence()
            && !self.limiter.presence_waits()
            && let Some(presence) = &self.presence
        {
            self.limiter.push_presence(presence.clone());
        }
    }

    // ---- clients ----

    /// A client has identified. Returns the key of its new session; with an error the caller closes the connection.
    pub fn identify(&mut self, now: Time, connection: ConnectionId, mut options: Options) -> Result<SessionKey, Close> {
        if let Some(fatal) = self.upstream.fatal() {
            return Err(Close::Fatal(fatal));
        }
        if !self.settings.honor_client_intents {
            options.intents = crate::protocol::intents::Intents::ALL;
        }
        let mut random = [0; 12];
        (self.entropy)(&mut random);
        let id = SessionId::new(self.id.id, random);
        self.last_key = self.last_key.next();
        let key = self.last_key;
        let mut session = Session::new(key, id, options, now);
        session.connection = Some(connection);
        self.sessions.insert(id, key);
        self.clients.insert(key, Client::new(session));
        Ok(key)
    }

    /// A client resumes session `id` after `sequence`. Returns the session's key; `None`: answer with Invalid
    /// Session.
    pub fn resume(&mut self, now: Time, connection: ConnectionId, id: &SessionId, sequence: u64) -> Option<SessionKey> {
        let &key = self.sessions.get(id)?;
        let client = self.clients.get_mut(&key)?;
        let session = &mut client.session;
        // After a fatal close no session can be resumed. The client then identifies, and gets the close code.
        let before = session.sequence();
        if self.upstream.fatal().is_some() || !session.rewind(sequence, self.log.oldest(), self.log.next()) {
            return None;
        }
        self.tally.resumed += 1;
        self.tally.replayed += before - session.sequence();
        session.acknowledge(sequence);
        client.answers.rewind(sequence);
        client.answers.acknowledge(sequence);
        // The new connection replaces the old one. The next call for the old connection closes it with `Superseded`.
        session.connection = Some(connection);
        session.detached_at = None;
        session.last_heartbeat = now;
        client.pending_close = None;
        // The client sent these heartbeats on the old connection, so the new one gets no acknowledgement for them.
        client.acks.take_all();
        self.schedule_maintenance(now + HEARTBEAT_TIMEOUT);
        self.wake.clients = true;
        Some(key)
    }

    /// Returns whether the client of session `key` has asked for payload compression.
    pub fn compresses_payloads(&self, key: SessionKey) -> bool {
        self.clients.get(&key).is_some_and(|client| client.session.options.compress)
    }

    /// The `connection` of a session has ended. `gives_up`: the client closed it with a code that ends the session.
    pub fn detach(&mut self, now: Time, key: SessionKey, connection: ConnectionId, gives_up: bool) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        if client.session.connection != Some(connection) {
            return;
        }
        client.session.connection = None;
        client.session.detached_at = Some(now);
        let resumable = client.session.is_resumable();
        self.schedule_maintenance(now + self.settings.resume_window);
        if gives_up || !resumable {
            self.remove(now, key, gives_up);
        } else if self.clients.len() > MAX_DETACHED {
            self.bound_detached(now);
        }
        self.trim();
    }

    /// Ends a session for good. `told`: its client knows that the session has ended.
    fn remove(&mut self, now: Time, key: SessionKey, told: bool) {
        if let Some(client) = self.clients.remove(&key) {
            if !told {
                self.note_stray(&client.session);
            }
            if !self.voice.is_empty() {
                self.voice.session_ended(now, key, client.session.detached_at.unwrap_or(now));
                self.schedule_voice_maintenance();
            }
            self.syncing -= usize::from(deliver::is_syncing(&client));
            self.sessions.remove(&client.session.id);
            self.tally.sent_by_gone += client.session.sequence();
            self.limiter.remove_session(key);
            self.in_flight.remove_session(key);
        }
    }

    /// Drops the events from the log that no session needs, and from the sessions the cursors that point to dropped
    /// events. The cache applies its waiting events first, because they are only in the log. Without sessions, frees
    /// spare memory, too.
    fn trim(&mut self) {
        self.cache.up_to_date(&self.log);
        let needed = self.clients.values().map(|client| client.session.oldest_needed()).min();
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

    /// Makes the cache apply the events that wait in the log, if the cache is at least a batch behind
    /// ([`LazyCache::apply_deferred`](lazy_cache::LazyCache::apply_deferred)). The caller calls this after it has
    /// served the clients.
    pub fn apply_deferred(&mut self) {
        self.cache.apply_deferred(&self.log);
    }

    /// Closes the upstream connection so that Discord keeps the session, and has all clients closed with `Restarting`.
    pub fn stop(&mut self) {
        self.upstream.stop();
        for client in self.clients.values_mut() {
            client.pending_close.get_or_insert(Close::Restarting);
        }
        self.wake = Wake { upstream: true, clients: true };
    }

    /// The id of the bot's own user; `None` before READY.
    fn own_user(&self) -> Option<u64> {
        self.cache.user().and_then(|user| json::get(user, "id")).and_then(json::parse_id)
    }
}

#[cfg(test)]
mod tests;
