//! A shard with its connections: the connection to Discord and those of its clients.
//!
//! The core notes what happens on the sockets ([`HostedShard::note`]) and later gives the shard its turn
//! ([`HostedShard::turn`]). In a turn the [`Shard`] gets the payloads from Discord, then the commands of clients. Then
//! events go into the outboxes of the clients, and everything that is to be sent is handed to the sockets. Nothing here
//! blocks.
//!
//! Promises: a turn handles what has been received, and gives each client at most one full outbox, so that all shards
//! of the core get their turns. A panic while a client is served ends the connection of that client only
//! ([`HostedShard::recover`]).

use super::{
    Core, Owner, StatusChange, ToControl,
    client::Client,
    frames::{self, Way},
    timers::Timer,
    upstream::{ConnectionLost, Upstream},
};
use crate::{
    io::{
        Io,
        sockets::{Event, Receiving, SocketId},
    },
    logging::trace::Trace,
    net::dial::{ConnectError, Dialled},
    protocol::{Time, close::FatalClose},
    shard::{
        Shard,
        report::{ClientKind, ClientReport, CloseReason, Report, Traffic},
    },
    upstream::session::{Action, Status},
    websocket::Outgoing,
};
use slab::Slab;
use std::{collections::VecDeque, time::Duration};

/// Time in which the close frame has to be sent and Discord has to end its side of the stream. Then the connection is
/// dropped.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);
/// The number of connections to Discord that can be closing at the same time. For one more, the oldest is dropped.
const MAX_CLOSING: usize = 4;
/// The most clients of a shard whose kernel buffers a report has. The call for a client takes some 200 ns.
const MAX_SAMPLED: usize = 256;

/// The connection to Discord.
enum Link {
    /// There is no connection, and none is being made.
    None,
    /// The control core is making a connection.
    Dialling,
    /// The connection is open.
    Open(Box<Upstream>),
}

/// A connection to Discord that is being closed.
struct ClosingUpstream {
    socket: SocketId,
    outgoing: Outgoing,
    /// Whether the close frame was sent and the proxy has ended its side of the stream.
    half_closed: bool,
    /// Whether Discord has ended its side, or the connection is broken.
    ended: bool,
}

/// A shard with its connections. See the module's description.
pub struct HostedShard<I: Io> {
    /// Index of the shard in the core's list.
    pub index: u32,
    /// The pure part: sessions, log and cache.
    pub shard: Shard,
    link: Link,
    /// How many connections the shard has asked the control core for.
    attempt: u64,
    closing: Vec<ClosingUpstream>,
    pub(super) clients: Slab<Client<I::Socket>>,
    /// Clients that get new events: they are open and their sockets take bytes.
    pub(super) awake: Vec<usize>,
    /// Clients on whose sockets something has happened.
    pub(super) noted: Vec<usize>,
    /// Clients that may have something to get. The next turn serves all of them.
    pub(super) ready_clients: VecDeque<usize>,
    /// Clients that cost much: newcomers, and clients that had more to get than one outbox takes. A turn serves as many
    /// of them as its budget allows, in order.
    pub(super) bulk_clients: VecDeque<usize>,
    /// Whether the upstream session may have actions.
    wants_upstream: bool,
    /// Whether there may be something for every client.
    pub(super) has_events: bool,
    /// When [`Shard::tick`] or [`Shard::poll_due`] has something to do; [`Time::MAX`]: not before something else
    /// happens.
    pub deadline: Time,
    /// Whether the shard is in the core's list of shards that have a turn next.
    pub queued: bool,
    /// The client that the shard is serving now. A panic is put down to this client.
    pub(super) serving: Option<usize>,
    /// Whether it has been logged that Discord closed the shard for good.
    fatal_logged: bool,
    /// The upstream status that the control core was told last.
    reported_status: Status,
    /// Counts of bytes and of closed connections.
    traffic: Traffic,
    /// Bytes from Discord were received since the last turn.
    has_received: bool,
    /// When the bytes were received that this turn handles; `None`: there are none.
    pub(super) received_at: Option<Time>,
    /// The trace of the payloads between the proxy and Discord, while an operator wants it.
    trace: Option<Box<Trace>>,
}

impl<I: Io> HostedShard<I> {
    /// Makes a hosted shard without connections.
    pub fn new(index: u32, shard: Shard) -> Self {
        Self {
            index,
            shard,
            link: Link::None,
            attempt: 0,
            closing: Vec::new(),
            clients: Slab::new(),
            awake: Vec::new(),
            noted: Vec::new(),
            ready_clients: VecDeque::new(),
            bulk_clients: VecDeque::new(),
            wants_upstream: true,
            has_events: false,
            deadline: Time::ZERO,
            queued: false,
            serving: None,
            fatal_logged: false,
            reported_status: Status::Disconnected,
            traffic: Traffic::default(),
            has_received: false,
            received_at: None,
            trace: None,
        }
    }

    fn upstream_owner(&self) -> Owner {
        Owner { shard: self.index, client: None }
    }

    /// Says whether the shard has no connection left.
    pub fn is_alone(&self) -> bool {
        self.clients.is_empty() && self.closing.is_empty() && !matches!(self.link, Link::Open(_))
    }

    // ---- what happens on sockets ----

    /// Notes what has happened to a connection, for the next turn.
    pub fn note(&mut self, now: Time, id: SocketId, owner: Owner, event: Event<'_, I::Socket>) {
        let Some(key) = owner.client else { return self.note_upstream(id, event) };
        let client = self.clients.get_mut(key as usize).filter(|client| client.socket == id);
        let Some(client) = client else { return };
        match event {
            Event::Received(bytes) => client.inbound.receive(bytes),
            Event::Ended(error) => {
                client.ended = true;
                client.broken |= error.is_some();
            }
            Event::Sent(bytes, result) => {
                self.traffic.sent_bytes += *result.as_ref().unwrap_or(&0) as u64;
                client.sent(now, bytes, result);
            }
            Event::Writable => client.blocked = false,
            Event::Released(socket) => client.released = Some(socket),
        }
        if !std::mem::replace(&mut client.noted, true) {
            self.noted.push(key as usize);
        }
    }

    fn note_upstream(&mut self, id: SocketId, event: Event<'_, I::Socket>) {
        if let Link::Open(upstream) = &mut self.link
            && upstream.socket == id
        {
            match event {
                Event::Received(bytes) => {
                    self.traffic.received_bytes += bytes.len() as u64;
                    self.has_received = true;
                    upstream.received(bytes);
                }
                Event::Ended(error) => {
                    upstream.ended.get_or_insert(error.map_or(ConnectionLost::EndOfStream, ConnectionLost::Io));
                }
                Event::Sent(bytes, result) => {
                    upstream.outgoing.returned(bytes, *result.as_ref().unwrap_or(&0));
                    upstream.blocked = !upstream.outgoing.pending().is_empty();
                    // What the socket did not take has to be sent later, and so have the frames that were made since.
                    self.wants_upstream |= upstream.blocked;
                    if let Err(error) = result {
                        upstream.ended.get_or_insert(error.into());
                    }
                }
                Event::Writable => {
                    upstream.blocked = false;
                    self.wants_upstream = true;
                }
                Event::Released(_) => {}
            }
            return;
        }
        let Some(closing) = self.closing.iter_mut().find(|closing| closing.socket == id) else { return };
        match event {
            Event::Ended(_) => closing.ended = true,
            // Bytes that the socket did not take are discarded. Discord notices the end of the connection without the
            // close frame too.
            Event::Sent(bytes, _) => {
                let all = closing.outgoing.len() - closing.outgoing.pending().len();
                closing.outgoing.returned(bytes, all);
            }
            Event::Received(_) | Event::Writable | Event::Released(_) => {}
        }
    }

    // ---- its turn ----

    /// Does everything that there is to do for the shard. Returns whether clients are left to serve after the turns of
    /// the other shards.
    pub fn turn(&mut self, core: &mut Core<I>) -> bool {
        self.received_at = std::mem::take(&mut self.has_received).then_some(core.now);
        self.shard.tick(core.now);
        while let Some(connection) = self.shard.poll_due(core.now) {
            self.queue_connection(connection);
        }
        self.read_upstream(core);
        self.run_upstream_actions(core);
        self.advance_closing(core);
        self.read_clients(core);
        self.run_upstream_actions(core);
        let mut more = self.serve_clients(core);
        self.run_upstream_actions(core);
        // What had to be sent in this turn could not be encrypted, or too much waits. The next turn ends the connection.
        more |= matches!(&self.link, Link::Open(upstream) if upstream.ended.is_some());
        self.shard.apply_deferred();
        self.report_status(core);
        self.deadline = self.shard.deadline().unwrap_or(Time::MAX);
        more
    }

    /// Notes what the last calls into the shard have caused: actions for Discord, events for clients, or another id of
    /// the upstream session, which the control core is told.
    pub(super) fn collect_wakes(&mut self, core: &Core<I>) {
        if let Some(id) = self.shard.take_new_upstream_id() {
            core.send(ToControl::UpstreamId(self.shard.id().id, id));
        }
        let wake = self.shard.take_wake();
        self.wants_upstream |= wake.upstream;
        self.has_events |= wake.clients;
    }

    /// Gives the shard the payloads that Discord has sent, and handles the end of the connection.
    fn read_upstream(&mut self, core: &mut Core<I>) {
        let Link::Open(upstream) = &mut self.link else { return };
        upstream.decrypt();
        let lost = loop {
            match upstream.next() {
                Ok(Some(payload)) => {
                    if self.trace.is_some() {
                        let id = self.shard.id().id;
                        frames::show(&mut self.trace, core.now, id, Way::Received, payload);
                    }
                    if let Err(malformed) = self.shard.upstream_payload(core.now, payload) {
                        let bytes = payload.len();
                        tracing::error!(
                            shard = self.shard.id().id,
                            bytes,
                            "the shard received a malformed payload from Discord: {malformed}"
                        );
                    }
                }
                Ok(None) => break upstream.ended.take(),
                Err(lost) => break Some(lost),
            }
        };
        upstream.shrink();
        if let Some(lost) = lost {
            let code = lost.code();
            tracing::info!(shard = self.shard.id().id, code, "the shard lost its connection to Discord: {lost}");
            self.close_upstream(core);
            if lost.is_unreadable() {
                self.shard.upstream_unreadable(core.now);
            } else {
                self.shard.upstream_closed(core.now, code);
            }
            self.log_fatal();
        }
    }

    /// Tells the control core when the status of the upstream session has changed.
    fn report_status(&mut self, core: &mut Core<I>) {
        let (from, to) = (self.reported_status, self.shard.status());
        if from != to {
            self.reported_status = to;
            let lost = matches!(to, Status::Disconnected | Status::Fatal);
            let loss = if lost { self.shard.last_loss() } else { None };
            core.send(ToControl::StatusChanged(StatusChange {
                shard: self.shard.id().id,
                at: core.now,
                from,
                to,
                loss,
            }));
        }
    }

    /// Reports the state of the shard and of its connections in numbers. Asks the kernel about the buffers of at most
    /// [`MAX_SAMPLED`] clients, which is a system call for each.
    pub fn report(&mut self, core: &Core<I>) -> Report {
        let mut traffic = self.traffic.clone();
        for (index, (_, client)) in self.clients.iter().enumerate() {
            let stats = client.session.and_then(|key| self.shard.client_stats(core.now, key));
            let Some(stats) = stats else { continue };
            traffic.add(ClientReport {
                lag_time: stats.lag_time,
                kernel: if index < MAX_SAMPLED { core.sockets.unsent(client.socket) } else { None },
                kind: ClientKind::new(stats.library, client.outbox.encoding(), client.outbox.compression()),
                since: client.since,
                lag: stats.lag,
                sequence: stats.sequence,
                waiting: client.outbox.len(),
            });
        }
        Report { traffic, ..self.shard.report() }
    }

    /// Begins or ends the trace of the payloads between the proxy and Discord.
    pub fn set_trace(&mut self, core: &Core<I>, on: bool) {
        self.trace = on.then(|| Box::new(Trace::new(core.now, &core.config.token)));
    }

    /// Counts a client's connection that the proxy closes.
    pub(super) fn count_close(&mut self, reason: CloseReason) {
        self.traffic.closes[reason as usize] += 1;
    }

    fn log_fatal(&mut self) {
        if let Some(FatalClose { code, advice }) = self.shard.fatal()
            && !std::mem::replace(&mut self.fatal_logged, true)
        {
            tracing::error!(shard = self.shard.id().id, code, "Discord closed the shard for good: {advice}");
        }
    }

    /// Carries out the actions of the upstream session, and sends what is to go to Discord.
    fn run_upstream_actions(&mut self, core: &mut Core<I>) {
        self.collect_wakes(core);
        if !std::mem::take(&mut self.wants_upstream) {
            return;
        }
        while let Some(action) = self.shard.poll_upstream(core.now) {
            match (action, &mut self.link) {
                (Action::Send(payload), Link::Open(upstream)) => {
                    frames::show(&mut self.trace, core.now, self.shard.id().id, Way::Sent, &payload);
                    upstream.send(&payload);
                }
                (Action::RequestPermit, _) => core.send(ToControl::WantPermit(self.shard.id().id)),
                (Action::Close(code), Link::Open(upstream)) => {
                    upstream.close(Some(code));
                    tracing::info!(shard = self.shard.id().id, code, "the shard closes its connection to Discord");
                    self.close_upstream(core);
                }
                (Action::Close(_), Link::Dialling) => {
                    tracing::warn!(shard = self.shard.id().id, "the shard gave up an attempt to connect to Discord");
                    self.link = Link::None;
                }
                (Action::Connect(url), _) => self.dial(core, url),
                // The action was meant for a connection that is gone.
                (Action::Send(_) | Action::Close(_), _) => {}
            }
        }
        self.flush_upstream(core);
    }

    fn dial(&mut self, core: &mut Core<I>, url: String) {
        if core.stopping {
            return;
        }
        self.close_upstream(core);
        self.attempt += 1;
        self.link = Link::Dialling;
        core.send(ToControl::Dial { shard: self.shard.id().id, attempt: self.attempt, url });
    }

    /// The control core has made the connection with the number `attempt`, or could not. The result of an older attempt
    /// is ignored.
    pub fn dialled(&mut self, core: &mut Core<I>, attempt: u64, result: Result<Dialled<I::Socket>, Box<ConnectError>>) {
        if attempt != self.attempt || !matches!(self.link, Link::Dialling) {
            return;
        }
        match result {
            Ok(Dialled { socket, tls, inbound }) => {
                let socket = core.sockets.adopt(socket, self.upstream_owner());
                core.sockets.receive(socket, Receiving::Many);
                self.link = Link::Open(Box::new(Upstream::new(socket, tls, inbound, core.config.transport)));
                tracing::debug!(shard = self.shard.id().id, "connected to Discord");
                self.shard.upstream_connected(core.now);
            }
            Err(error) => {
                self.link = Link::None;
                tracing::warn!(shard = self.shard.id().id, "can not connect to Discord: {error}");
                self.shard.upstream_closed(core.now, None);
                self.log_fatal();
            }
        }
    }

    fn flush_upstream(&mut self, core: &mut Core<I>) {
        let Link::Open(upstream) = &mut self.link else { return };
        if let Err(error) = upstream.encrypt() {
            upstream.ended.get_or_insert(error);
            return;
        }
        if upstream.blocked {
            core.sockets.poll_writable(upstream.socket);
        } else if let Some((bytes, from)) = upstream.outgoing.take() {
            core.sockets.send(upstream.socket, bytes, from);
        } else if !upstream.outgoing.pending().is_empty() {
            // These bytes are sent when the send in flight has ended.
            core.sockets.hurry(upstream.socket);
        }
    }

    /// Begins to close the connection to Discord: sends what is left, such as the close frame.
    fn close_upstream(&mut self, core: &mut Core<I>) {
        let Link::Open(mut upstream) = std::mem::replace(&mut self.link, Link::None) else { return };
        // If the close frame can not be encrypted, the connection ends without it.
        let _ = upstream.encrypt();
        let socket = upstream.socket;
        let mut outgoing = std::mem::take(&mut upstream.outgoing);
        if let Some((bytes, from)) = outgoing.take() {
            core.sockets.send(socket, bytes, from);
        }
        // The proxy ends its side of the stream when the send has ended.
        core.sockets.hurry(socket);
        if self.closing.len() >= MAX_CLOSING {
            core.sockets.close(self.closing.remove(0).socket);
        }
        core.timers.add(Timer { at: core.now + CLOSE_LIMIT, owner: self.upstream_owner(), socket });
        let ended = upstream.ended.is_some();
        self.closing.push(ClosingUpstream { socket, outgoing, half_closed: false, ended });
    }

    /// Goes on closing connections to Discord: after the close frame the proxy ends its side of the stream, then
    /// Discord ends the other side.
    fn advance_closing(&mut self, core: &mut Core<I>) {
        self.closing.retain_mut(|closing| {
            if let Some((bytes, from)) = closing.outgoing.take() {
                // The close frame had to wait for a send in flight.
                core.sockets.send(closing.socket, bytes, from);
                core.sockets.hurry(closing.socket);
            }
            if !closing.half_closed && !closing.outgoing.is_taken() {
                closing.half_closed = true;
                core.sockets.shutdown(closing.socket);
            }
            let over = closing.ended && closing.half_closed;
            if over {
                core.sockets.close(closing.socket);
            }
            !over
        });
    }

    /// Handles a timer of the shard that is due.
    pub fn on_timer(&mut self, core: &mut Core<I>, timer: Timer) {
        match timer.owner.client {
            Some(key) => self.on_client_timer(core, key as usize, timer.socket),
            None => self.closing.retain(|closing| {
                let over = closing.socket == timer.socket;
                if over {
                    core.sockets.close(closing.socket);
                }
                !over
            }),
        }
    }

    // ---- panics ----

    /// Handles a panic in [`HostedShard::turn`] or another call. If the shard was serving a client, that client loses
    /// its connection, and nothing else changes. Returns false when no client was being served: then the caller has to
    /// make a new shard and pass it to [`HostedShard::replace_shard`].
    pub fn recover(&mut self, core: &mut Core<I>) -> bool {
        let Some(key) = self.serving.take() else { return false };
        let client = self.clients.get(key).and_then(|client| client.session).map(|key| key.0);
        tracing::error!(
            shard = self.shard.id().id,
            client,
            "a panic happened while a client was served: the connection of that client is dropped"
        );
        self.drop_client(core, key);
        true
    }

    /// Goes on with a new shard, which knows no sessions: the clients are closed, and have to identify again.
    pub fn replace_shard(&mut self, core: &mut Core<I>, shard: Shard) {
        tracing::error!(
            shard = self.shard.id().id,
            "the shard panicked: a new one replaces it, and its clients have to identify again"
        );
        self.shard = shard;
        self.deadline = Time::ZERO;
        self.serving = None;
        if let Link::Open(upstream) = std::mem::replace(&mut self.link, Link::None) {
            core.sockets.close(upstream.socket);
        }
        self.wake_all();
    }

    /// Queues every client, so that the next turn serves it.
    pub fn wake_all(&mut self) {
        for (key, client) in &mut self.clients {
            if !std::mem::replace(&mut client.queued, true) {
                self.ready_clients.push_back(key);
            }
        }
    }
}
