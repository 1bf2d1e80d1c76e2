//! A shard with everything that moves bytes for it: its connection to Discord and its clients.
//!
//! The core notes what happens on the sockets ([`Hosted::note`]) and later gives the shard its turn ([`Hosted::turn`]): payloads
//! from Discord go into the [`Shard`], then commands of clients, then what the shard has for clients goes into their outboxes, and
//! everything that is to leave is put on its way. Nothing here waits.
//!
//! Promises: a turn of a shard takes what has been received and gives each client at most one outbox full, so that all shards of
//! the core get their turns; what goes wrong while a client is served is that client's alone ([`Hosted::recover`]).

use super::{
    Changed, Core, Owner, ToControl,
    client::Client,
    timers::Timer,
    upstream::{Broken, Upstream},
};
use crate::{
    io::{
        Io,
        sockets::{ConnectionId, Event, Receiving},
    },
    protocol::Time,
    shard::{
        Shard,
        report::{ClientReport, Closing, Dress, Report, Traffic},
    },
    upstream::session::{Action, Status},
    websocket::Outgoing,
};
use slab::Slab;
use std::{collections::VecDeque, time::Duration};

/// How long a close frame to Discord may take to leave, and Discord to end its side.
const CLOSE_LIMIT: Duration = Duration::from_millis(500);
/// Former connections to Discord that are still being closed; of more the oldest is dropped.
const MAX_LEAVING: usize = 4;

/// The way to Discord.
enum Link {
    /// There is none, and none is being made.
    None,
    /// The control core makes one.
    Dialling,
    /// It is open.
    Open(Box<Upstream>),
}

/// A connection to Discord that is being closed.
struct Leaving {
    connection: ConnectionId,
    outgoing: Outgoing,
    /// The close frame is with the socket, and our side of the stream has ended.
    half_closed: bool,
    /// Discord has ended its side, or the connection is broken.
    ended: bool,
}

/// See the module's description.
pub struct Hosted<I: Io> {
    /// Its place in the core's list.
    pub index: u32,
    /// The pure part.
    pub shard: Shard,
    link: Link,
    /// Connections that were asked for so far.
    attempt: u64,
    leaving: Vec<Leaving>,
    pub(super) clients: Slab<Client<I::Socket>>,
    /// Clients that get what there is: they are open and their sockets take bytes.
    pub(super) awake: Vec<usize>,
    /// Clients on whose sockets something has happened.
    pub(super) noted: Vec<usize>,
    /// Clients for which there may be something, and which all get it in the next turn.
    pub(super) first: VecDeque<usize>,
    /// Clients that came a short time ago, or for which there was more than one outbox full: a turn serves as many of them as
    /// its budget allows, in the order of this queue.
    pub(super) second: VecDeque<usize>,
    /// The session machine may want something.
    wants_upstream: bool,
    /// There may be something for every client.
    pub(super) news: bool,
    /// When the shard has to be told the time; [`Time::MAX`]: not before something happens.
    pub deadline: Time,
    /// It is in the core's list of those that have a turn next.
    pub queued: bool,
    /// The client on whose behalf code runs now.
    pub(super) serving: Option<usize>,
    /// The log has been told that Discord has closed the shard for good.
    told_fatal: bool,
    /// The state that the control core was told last.
    told: Status,
    /// Counts of what its sockets did.
    traffic: Traffic,
}

impl<I: Io> Hosted<I> {
    /// A shard without connections.
    pub fn new(index: u32, shard: Shard) -> Self {
        Self {
            index,
            shard,
            link: Link::None,
            attempt: 0,
            leaving: Vec::new(),
            clients: Slab::new(),
            awake: Vec::new(),
            noted: Vec::new(),
            first: VecDeque::new(),
            second: VecDeque::new(),
            wants_upstream: true,
            news: false,
            deadline: Time::ZERO,
            queued: false,
            serving: None,
            told_fatal: false,
            told: Status::Disconnected,
            traffic: Traffic::default(),
        }
    }

    fn upstream_owner(&self) -> Owner {
        Owner { shard: self.index, client: None }
    }

    /// Has every connection ended?
    pub fn is_alone(&self) -> bool {
        self.clients.is_empty() && self.leaving.is_empty() && !matches!(self.link, Link::Open(_))
    }

    // ---- what happens on sockets ----

    /// Notes what has happened, for the next turn.
    pub fn note(&mut self, now: Time, id: ConnectionId, owner: Owner, event: Event<'_, I::Socket>) {
        let Some(key) = owner.client else { return self.note_upstream(id, event) };
        let client = self.clients.get_mut(key as usize).filter(|client| client.connection == id);
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

    fn note_upstream(&mut self, id: ConnectionId, event: Event<'_, I::Socket>) {
        if let Link::Open(upstream) = &mut self.link
            && upstream.connection == id
        {
            match event {
                Event::Received(bytes) => {
                    self.traffic.received_bytes += bytes.len() as u64;
                    upstream.received(bytes);
                }
                Event::Ended(error) => {
                    let why = error.map_or_else(|| "end of stream".into(), |error| error.to_string());
                    upstream.ended.get_or_insert(why);
                }
                Event::Sent(bytes, result) => {
                    upstream.outgoing.returned(bytes, *result.as_ref().unwrap_or(&0));
                    upstream.blocked = !upstream.outgoing.pending().is_empty();
                    // What came meanwhile waits behind it, and so does what the socket did not take.
                    self.wants_upstream |= upstream.blocked;
                    if let Err(error) = result {
                        upstream.ended.get_or_insert(error.to_string());
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
        let Some(leaving) = self.leaving.iter_mut().find(|leaving| leaving.connection == id) else { return };
        match event {
            Event::Ended(_) => leaving.ended = true,
            // What the socket does not take now it may lose: Discord finds out without the close frame, too.
            Event::Sent(bytes, _) => {
                let all = leaving.outgoing.len() - leaving.outgoing.pending().len();
                leaving.outgoing.returned(bytes, all);
            }
            Event::Received(_) | Event::Writable | Event::Released(_) => {}
        }
    }

    // ---- its turn ----

    /// Does everything that there is to do for the shard. Returns whether there is more, after everyone else's turn.
    pub fn turn(&mut self, core: &mut Core<I>) -> bool {
        self.shard.tick(core.now);
        while let Some(number) = self.shard.poll_due(core.now) {
            self.queue_number(number);
        }
        self.read_upstream(core);
        self.act(core);
        self.leave(core);
        self.hear_clients(core);
        self.act(core);
        let more = self.serve_clients(core);
        self.act(core);
        self.shard.settle();
        self.tell_change(core);
        self.deadline = self.shard.deadline().unwrap_or(Time::MAX);
        more
    }

    /// Notes whom the last calls into the shard concern.
    pub(super) fn look(&mut self, core: &Core<I>) {
        if let Some(name) = self.shard.take_new_name() {
            core.tell(ToControl::Named(self.shard.id().id, name));
        }
        let wake = self.shard.take_wake();
        self.wants_upstream |= wake.upstream;
        self.news |= wake.clients;
    }

    /// Gives the shard what Discord has sent.
    fn read_upstream(&mut self, core: &mut Core<I>) {
        let Link::Open(upstream) = &mut self.link else { return };
        upstream.decrypt();
        let broken = loop {
            match upstream.next() {
                Ok(Some(payload)) => {
                    if let Err(malformed) = self.shard.upstream_payload(core.now, payload) {
                        let bytes = payload.len();
                        tracing::error!(shard = %self.shard.id(), bytes, "malformed payload from Discord: {malformed}");
                    }
                }
                Ok(None) => break upstream.ended.take().map(|why| Broken { code: None, why }),
                Err(broken) => break Some(broken),
            }
        };
        upstream.shrink();
        if let Some(Broken { code, why }) = broken {
            tracing::info!(shard = %self.shard.id(), code, "lost the connection to Discord: {why}");
            self.hang_up(core);
            self.shard.upstream_closed(core.now, code);
            self.tell_fatal();
        }
    }

    /// Tells the control core when the shard's state has changed.
    fn tell_change(&mut self, core: &mut Core<I>) {
        let (from, to) = (self.told, self.shard.status());
        if from != to {
            self.told = to;
            let lost = matches!(to, Status::Disconnected | Status::Fatal);
            let loss = if lost { self.shard.last_loss() } else { None };
            core.tell(ToControl::Changed(Changed { shard: self.shard.id().id, at: core.now, from, to, loss }));
        }
    }

    /// The state in numbers, that of the sockets included.
    pub fn report(&mut self) -> Report {
        let mut traffic = self.traffic.clone();
        for (_, client) in &self.clients {
            let Some(described) = client.session.and_then(|number| self.shard.describe(number)) else { continue };
            traffic.add(ClientReport {
                dress: Dress::new(described.library, client.outbox.encoding(), client.outbox.compression()),
                since: client.since,
                lag: described.lag,
                sequence: described.sequence,
                waiting: client.outbox.len(),
            });
        }
        Report { traffic, ..self.shard.report() }
    }

    /// Counts that the proxy closes the connection of a client.
    pub(super) fn count_closing(&mut self, closing: Closing) {
        self.traffic.closings[closing as usize] += 1;
    }

    fn tell_fatal(&mut self) {
        if let Some((code, advice)) = self.shard.fatal()
            && !std::mem::replace(&mut self.told_fatal, true)
        {
            tracing::error!(shard = %self.shard.id(), code, "Discord closed the shard for good: {advice}");
        }
    }

    /// Does what the session machine wants, and puts on its way what is to go to Discord.
    fn act(&mut self, core: &mut Core<I>) {
        self.look(core);
        if !std::mem::take(&mut self.wants_upstream) {
            return;
        }
        while let Some(action) = self.shard.poll_upstream(core.now) {
            match (action, &mut self.link) {
                (Action::Send(payload), Link::Open(upstream)) => upstream.send(&payload),
                (Action::RequestPermit, _) => core.tell(ToControl::WantPermit(self.shard.id().id)),
                (Action::Close(code), Link::Open(upstream)) => {
                    upstream.close(Some(code));
                    tracing::info!(shard = %self.shard.id(), code, "closes the connection to Discord");
                    self.hang_up(core);
                }
                (Action::Close(_), Link::Dialling) => {
                    tracing::warn!(shard = %self.shard.id(), "connecting to Discord took too long");
                    self.link = Link::None;
                }
                (Action::Connect(url), _) => self.dial(core, url),
                // What was meant for a connection that is gone.
                (Action::Send(_) | Action::Close(_), _) => {}
            }
        }
        self.flush_upstream(core);
    }

    fn dial(&mut self, core: &mut Core<I>, url: String) {
        if core.stopping {
            return;
        }
        self.hang_up(core);
        self.attempt += 1;
        self.link = Link::Dialling;
        core.tell(ToControl::Dial { shard: self.shard.id().id, attempt: self.attempt, url });
    }

    /// The control core has made a connection, or could not.
    pub fn dialled(&mut self, core: &mut Core<I>, attempt: u64, result: Result<super::Dialled<I::Socket>, String>) {
        if attempt != self.attempt || !matches!(self.link, Link::Dialling) {
            return;
        }
        match result {
            Ok(super::Dialled { socket, tls, inbound }) => {
                let connection = core.sockets.adopt(socket, self.upstream_owner());
                core.sockets.receive(connection, Receiving::Many);
                self.link = Link::Open(Box::new(Upstream::new(connection, tls, inbound, core.plan.transport)));
                tracing::debug!(shard = %self.shard.id(), "connected to Discord");
                self.shard.upstream_connected(core.now);
            }
            Err(why) => {
                self.link = Link::None;
                tracing::warn!(shard = %self.shard.id(), "can not connect to Discord: {why}");
                self.shard.upstream_closed(core.now, None);
                self.tell_fatal();
            }
        }
    }

    fn flush_upstream(&mut self, core: &mut Core<I>) {
        let Link::Open(upstream) = &mut self.link else { return };
        if let Err(error) = upstream.encrypt() {
            upstream.ended.get_or_insert(error.to_string());
            return;
        }
        if upstream.blocked {
            core.sockets.poll_writable(upstream.connection);
        } else if let Some((bytes, from)) = upstream.outgoing.take() {
            core.sockets.send(upstream.connection, bytes, from);
        } else if !upstream.outgoing.pending().is_empty() {
            // It has to follow what was sent before within this turn.
            core.sockets.hurry(upstream.connection);
        }
    }

    /// Begins to close the connection to Discord, with the close frame that was put on its way.
    fn hang_up(&mut self, core: &mut Core<I>) {
        let Link::Open(mut upstream) = std::mem::replace(&mut self.link, Link::None) else { return };
        // What can not be encrypted can not be sent: then the connection just ends.
        let _ = upstream.encrypt();
        let connection = upstream.connection;
        let mut outgoing = std::mem::take(&mut upstream.outgoing);
        if let Some((bytes, from)) = outgoing.take() {
            core.sockets.send(connection, bytes, from);
        }
        // Our side of the stream ends when that has left.
        core.sockets.hurry(connection);
        if self.leaving.len() >= MAX_LEAVING {
            core.sockets.close(self.leaving.remove(0).connection);
        }
        core.timers.add(Timer { at: core.now + CLOSE_LIMIT, owner: self.upstream_owner(), connection });
        let ended = upstream.ended.is_some();
        self.leaving.push(Leaving { connection, outgoing, half_closed: false, ended });
    }

    /// Goes on closing former connections to Discord: after the close frame our end of the stream, then Discord's.
    fn leave(&mut self, core: &mut Core<I>) {
        self.leaving.retain_mut(|leaving| {
            if let Some((bytes, from)) = leaving.outgoing.take() {
                // The close frame had to wait for a send that was under way.
                core.sockets.send(leaving.connection, bytes, from);
                core.sockets.hurry(leaving.connection);
            }
            if !leaving.half_closed && !leaving.outgoing.is_taken() {
                leaving.half_closed = true;
                core.sockets.shutdown(leaving.connection);
            }
            let over = leaving.ended && leaving.half_closed;
            if over {
                core.sockets.close(leaving.connection);
            }
            !over
        });
    }

    /// An appointment is due.
    pub fn on_timer(&mut self, core: &mut Core<I>, timer: Timer) {
        match timer.owner.client {
            Some(key) => self.on_client_timer(core, key as usize, timer.connection),
            None => self.leaving.retain(|leaving| {
                let over = leaving.connection == timer.connection;
                if over {
                    core.sockets.close(leaving.connection);
                }
                !over
            }),
        }
    }

    // ---- panics ----

    /// Something has panicked within [`Hosted::turn`] or another call. A client on whose behalf it happened loses its
    /// connection, and nobody else anything; otherwise the shard starts anew. `false`: it has to be made anew, and given to
    /// [`Hosted::start_over`].
    pub fn recover(&mut self, core: &mut Core<I>) -> bool {
        let Some(key) = self.serving.take() else { return false };
        tracing::error!(shard = %self.shard.id(), "serving a client panicked; its connection is dropped");
        self.drop_client(core, key);
        true
    }

    /// Goes on with another shard, which has no session: clients are told that theirs are gone.
    pub fn start_over(&mut self, core: &mut Core<I>, shard: Shard) {
        tracing::error!(shard = %self.shard.id(), "the shard panicked and is started anew; its clients have to identify again");
        self.shard = shard;
        self.deadline = Time::ZERO;
        self.serving = None;
        if let Link::Open(upstream) = std::mem::replace(&mut self.link, Link::None) {
            core.sockets.close(upstream.connection);
        }
        self.wake_all();
    }

    /// Every client is looked at in the next turn.
    pub fn wake_all(&mut self) {
        for (key, client) in &mut self.clients {
            if !std::mem::replace(&mut client.queued, true) {
                self.first.push_back(key);
            }
        }
    }
}
