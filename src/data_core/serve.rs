//! The clients of a shard: from their arrival over their commands and events to their end.

use super::{
    Arrival, Core, Entry, Owner, Parcel, ToControl,
    client::{Client, LINGER, RECONNECT_GRACE, STALL_LIMIT, Said, Stage},
    hosted::Hosted,
    timers::Timer,
};
use crate::{
    downstream::session::Claim,
    io::{
        Io,
        sockets::{ConnectionId, Receiving},
    },
    protocol::{close, payload},
    shard::{Close, Progress, report::Closing},
};
use std::time::Duration;

/// What one turn of a shard may spend on the clients of its second queue, in bytes, so that the clients of its first queue
/// and the other shards of the core are served in between. A client is given at most one outbox full (32 KiB) at a time.
pub(super) const TURN_BYTES: usize = 64 << 10;
/// What a client of the second queue takes from [`TURN_BYTES`] at least. A send costs some 3 us however short it is, and in
/// that time some 4 KiB can be made and copied.
pub(super) const SERVE_COST: usize = 4 << 10;
/// For this long after it has come a client is served from the second queue.
///
/// When hundreds of clients come at once, what they cost at first is more than a core has: a snapshot for each, and after that
/// every event of the shard for each. That must not hold up the clients that were there before. A client that reads nothing
/// stops costing when the buffers of its socket are full. The faster the events, the sooner that is, and two seconds of a load
/// that keeps a core busy fill them.
pub(super) const NEWCOMER: Duration = Duration::from_secs(2);

/// The close of a client for which the shard has no room.
const FULL: Close = (close::RATE_LIMITED, "too many clients on this shard");

/// What a client wants that ends its connection.
enum End {
    /// It closes, with this code.
    Closed(Option<u16>),
    /// It has to be closed.
    Close(Close),
}

impl<I: Io> Hosted<I> {
    /// Takes a client over that has passed the door.
    pub fn admit(&mut self, core: &mut Core<I>, arrival: Arrival<I::Socket>) {
        let Arrival { parcel, entry, version, .. } = arrival;
        let Parcel { socket, inbound, mut outbox } = parcel;
        core.clients += 1;
        // The shard names the client by its number, so the place in the list is in it.
        let number = core.clients << 32 | self.clients.vacant_key() as u64;
        let charge = core.plan.memory.admit(outbox.memory());
        let session = match entry {
            // It passed the door just before that was closed, and would only keep the others waiting.
            _ if core.stopping => Err((close::UNKNOWN_ERROR, "the proxy restarts")),
            // A session that it has stays, and can be resumed later.
            _ if charge.is_none() => Err((close::RATE_LIMITED, "the memory for clients (`client_memory`) is used up")),
            Entry::Resume { claim, sequence } if !self.has_room_for(&claim, sequence) => Err(FULL),
            Entry::Identify(_) if !self.shard.has_room_for(None) => Err(FULL),
            Entry::Identify(options) => self.shard.identify(core.now, number, options),
            Entry::Resume { claim, sequence } => match self.resume(core, number, &claim, sequence) {
                Some(session) => Ok(session),
                None => {
                    outbox.message(&[payload::INVALID_SESSION]);
                    core.tell(ToControl::Return(Box::new(Parcel { socket, inbound, outbox }), version));
                    return;
                }
            },
        };
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        let connection = core.sockets.adopt(socket, Owner { shard: self.index, client: Some(key as u32) });
        let mut client = Client::new(number, connection, version, inbound, outbox);
        client.newcomer_until = Some(core.now + NEWCOMER);
        client.session = session.ok();
        client.since = core.now;
        client.charge = charge;
        // The door may have read more than the IDENTIFY.
        client.noted = true;
        client.awake = true;
        let client = entry.insert(client);
        self.noted.push(key);
        self.awake.push(key);
        core.sockets.receive(connection, Receiving::Single);
        match session {
            Ok(session) => {
                client.outbox.start_compressing(self.shard.packs_payloads(session));
                self.queue(key);
            }
            Err((code, reason)) => self.say_goodbye(core, key, Some(code), reason),
        }
    }

    /// Is there room for the client that resumes the claimed session?
    fn has_room_for(&self, claim: &Claim, sequence: u64) -> bool {
        self.shard.has_room_for(self.shard.claimed(claim, sequence).as_ref())
    }

    fn resume(&mut self, core: &Core<I>, number: u64, claim: &Claim, sequence: u64) -> Option<u32> {
        let id = self.shard.claimed(claim, sequence);
        let session = id.and_then(|id| self.shard.resume(core.now, number, &id, sequence));
        match session {
            Some(_) => tracing::debug!(shard = %self.shard.id(), ?id, sequence, "a client resumes"),
            None => tracing::info!(shard = %self.shard.id(), ?id, sequence, "a RESUME can not be served"),
        }
        session
    }

    /// The client with this number may have something to get.
    pub(super) fn queue_number(&mut self, number: u64) {
        let key = number as u32 as usize;
        if self.clients.get(key).is_some_and(|client| client.number == number) {
            self.queue(key);
        }
    }

    /// Puts a client that may have something to get into the queue that it is served from, if it is in none.
    fn queue(&mut self, key: usize) {
        if let Some(client) = self.clients.get_mut(key)
            && !std::mem::replace(&mut client.queued, true)
        {
            let queue = if client.newcomer_until.is_some() { &mut self.second } else { &mut self.first };
            queue.push_back(key);
        }
    }

    /// Looks at the clients on whose sockets something has happened.
    pub(super) fn hear_clients(&mut self, core: &mut Core<I>) {
        while let Some(key) = self.noted.pop() {
            if let Some(client) = self.clients.get_mut(key) {
                client.noted = false;
                self.hear(core, key);
            }
        }
    }

    fn hear(&mut self, core: &mut Core<I>, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.broken || (client.ended && client.stage == Stage::Open) {
            return self.drop_client(core, key);
        }
        match client.stage {
            Stage::Returning => return self.give_back(core, key),
            Stage::Open => {
                self.serving = Some(key);
                let end = self.commands(core, key);
                self.serving = None;
                match end {
                    Some(End::Closed(code)) => {
                        let client = &self.clients[key];
                        if let Some(session) = client.session {
                            self.shard.detach(core.now, session, client.number, close::ends_session(code));
                        }
                        // Some libraries decide by the code that comes back, so it is theirs.
                        return self.say_goodbye(core, key, code, "");
                    }
                    Some(End::Close((code, reason))) => {
                        self.count_closing(Closing::Misbehaved);
                        return self.say_goodbye(core, key, Some(code), reason);
                    }
                    None => {}
                }
            }
            Stage::Grace { .. } if client.ended => return self.drop_client(core, key),
            Stage::Grace { .. } => {
                let closed = client.messages(|said, _| match said {
                    Said::Payload(_) => None,
                    Said::Closed(code) => Some(code),
                    Said::Violated((code, _)) => Some(Some(code)),
                });
                if let Some(code) = closed {
                    return self.say_goodbye(core, key, code, "");
                }
            }
            Stage::Flushing { .. } | Stage::HalfClosed { .. } => {
                let unread = client.inbound.pending();
                client.inbound.consume(unread);
            }
        }
        self.flush(core, key);
        self.listen(core, key);
    }

    /// Handles every message of a client that is complete.
    fn commands(&mut self, core: &Core<I>, key: usize) -> Option<End> {
        let Self { clients, shard, .. } = self;
        let client = &mut clients[key];
        let (session, number) = (client.session?, client.number);
        client.messages(|said, outbox| match said {
            Said::Payload(text) => shard.command(core.now, session, number, &text, outbox).err().map(End::Close),
            Said::Closed(code) => Some(End::Closed(code)),
            Said::Violated(close) => Some(End::Close(close)),
        })
    }

    /// Listens to a client as long as there is room for answers, and gives up the memory that it was heard with.
    fn listen(&mut self, core: &mut Core<I>, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.inbound.shrink(0);
        let how = if client.outbox.is_full() || client.ended { Receiving::Off } else { Receiving::Single };
        core.sockets.receive(client.connection, how);
    }

    /// Puts what there is for the clients on its way. Returns whether there is more.
    pub(super) fn serve_clients(&mut self, core: &mut Core<I>) -> bool {
        self.look(core);
        if std::mem::take(&mut self.news) {
            for index in 0..self.awake.len() {
                self.queue(self.awake[index]);
            }
        }
        while let Some(key) = self.first.pop_front() {
            self.serve(core, key);
        }
        let mut budget = TURN_BYTES;
        for _ in 0..self.second.len() {
            let Some(key) = self.second.pop_front() else { break };
            budget = budget.saturating_sub(self.serve(core, key).max(SERVE_COST));
            if budget == 0 {
                break;
            }
        }
        !self.first.is_empty() || !self.second.is_empty()
    }

    /// Fills the outbox of a client once, and puts it on its way. Returns how many bytes were made for the client.
    fn serve(&mut self, core: &mut Core<I>, key: usize) -> usize {
        let Some(client) = self.clients.get_mut(key) else { return 0 };
        client.queued = false;
        client.newcomer_until = client.newcomer_until.filter(|&until| core.now < until);
        let (Stage::Open, Some(session)) = (client.stage, client.session) else { return 0 };
        let before = client.outbox.len();
        self.serving = Some(key);
        let progress = self.shard.produce(core.now, session, client.number, &mut client.outbox);
        self.serving = None;
        let mut made = client.outbox.len().saturating_sub(before);
        if let Progress::Snapshot { bytes } = progress {
            made = made.max(bytes);
        }
        match progress {
            Progress::Idle => {}
            // What a full socket does not take yet is asked for again when it does.
            Progress::More | Progress::Snapshot { .. } if client.blocked => {}
            Progress::More | Progress::Snapshot { .. } => {
                client.queued = true;
                self.second.push_back(key);
            }
            Progress::Close { close, reconnect } => {
                self.count_closing(Closing::of(close));
                self.send_away(core, key, close, reconnect);
                return made;
            }
            Progress::Return => {
                self.count_closing(Closing::Invalidated);
                self.begin_return(core, key);
                return made;
            }
        }
        self.flush(core, key);
        made
    }

    /// Puts the outbox of a client on its way, and goes on with its end when it has one.
    fn flush(&mut self, core: &mut Core<I>, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.broken {
            return self.drop_client(core, key);
        }
        if let Some(charge) = &mut client.charge {
            charge.set(client.outbox.memory());
        }
        if client.blocked {
            if client.stage == Stage::Open
                && client.charge.as_ref().is_some_and(|charge| charge.must_go(client.outbox.len()))
            {
                tracing::info!(shard = %self.shard.id(), "a client that takes nothing is dropped, because the memory for clients (`client_memory`) is used up");
                return self.drop_client(core, key);
            }
            core.sockets.poll_writable(client.connection);
            if std::mem::take(&mut client.awake) {
                self.awake.retain(|&awake| awake != key);
            }
            return self.set_timer(core, key);
        }
        if let Some((bytes, from)) = client.outbox.take() {
            core.sockets.send(client.connection, bytes, from);
        }
        // More bytes have to follow, the client is listened to again when they have left, or it has to be served or closed then.
        let waits = !client.outbox.pending().is_empty() || client.outbox.is_full() || !client.awake;
        if waits && !client.outbox.is_empty() {
            core.sockets.hurry(client.connection);
        }
        if let Stage::Flushing { until } = client.stage
            && client.outbox.is_empty()
        {
            client.stage = Stage::HalfClosed { until };
            core.sockets.shutdown(client.connection);
        }
        match client.stage {
            Stage::HalfClosed { .. } if client.ended => self.drop_client(core, key),
            Stage::Open if client.stalled_since.is_none() && !client.awake => {
                client.awake = true;
                self.awake.push(key);
                self.queue(key);
            }
            _ => {}
        }
    }

    /// The connection has to be closed. `reconnect`: the client is told to come back by op 7 first.
    fn send_away(&mut self, core: &mut Core<I>, key: usize, close: Close, reconnect: bool) {
        let client = &mut self.clients[key];
        // In the middle of a large guild that is compressed on the way the code alone has to do.
        if reconnect && client.outbox.abandon() {
            client.outbox.message(&[payload::RECONNECT]);
            client.stage = Stage::Grace { until: core.now + RECONNECT_GRACE, close };
            self.set_timer(core, key);
            return self.flush(core, key);
        }
        self.say_goodbye(core, key, Some(close.0), close.1);
    }

    /// Says goodbye so that the client hears it: the close frame, our end of the stream, then its end.
    fn say_goodbye(&mut self, core: &mut Core<I>, key: usize, code: Option<u16>, reason: &str) {
        let client = &mut self.clients[key];
        client.outbox.close(code, reason);
        client.stage = Stage::Flushing { until: core.now + LINGER };
        self.set_timer(core, key);
        self.flush(core, key);
        self.listen(core, key);
    }

    /// The session of a client is over, and the client is told so by what is in its outbox: its connection goes back to the
    /// door, where it may identify anew.
    fn begin_return(&mut self, core: &mut Core<I>, key: usize) {
        let client = &mut self.clients[key];
        client.stage = Stage::Returning;
        client.stalled_since = None;
        core.sockets.release(client.connection);
        if let Some(session) = client.session.take() {
            self.shard.detach(core.now, session, client.number, true);
        }
    }

    /// Gives a connection back to the door once its socket is free. What waits to be sent goes with it.
    fn give_back(&mut self, core: &mut Core<I>, key: usize) {
        let Some(socket) = self.clients[key].released.take() else { return };
        self.forget(key);
        let client = self.clients.remove(key);
        let parcel = Parcel { socket, inbound: client.inbound, outbox: client.outbox };
        core.tell(ToControl::Return(Box::new(parcel), client.version));
    }

    /// Takes a client out of the lists of those to be served.
    fn forget(&mut self, key: usize) {
        self.awake.retain(|&awake| awake != key);
        self.first.retain(|&queued| queued != key);
        self.second.retain(|&queued| queued != key);
        self.noted.retain(|&noted| noted != key);
    }

    /// The connection of a client is over.
    pub(super) fn drop_client(&mut self, core: &mut Core<I>, key: usize) {
        let Some(client) = self.clients.try_remove(key) else { return };
        self.forget(key);
        core.sockets.close(client.connection);
        if let Some(session) = client.session {
            self.shard.detach(core.now, session, client.number, false);
        }
    }

    fn set_timer(&mut self, core: &mut Core<I>, key: usize) {
        let client = &mut self.clients[key];
        if let Some(at) = client.deadline(core.now)
            && client.timer.is_none_or(|timer| at < timer)
        {
            client.timer = Some(at);
            let owner = Owner { shard: self.index, client: Some(key as u32) };
            core.timers.add(Timer { at, owner, connection: client.connection });
        }
    }

    /// Time has passed for a client that was to react.
    pub(super) fn on_client_timer(&mut self, core: &mut Core<I>, key: usize, connection: ConnectionId) {
        let Some(client) = self.clients.get_mut(key).filter(|client| client.connection == connection) else { return };
        if client.timer.is_none_or(|at| at > core.now) {
            // An earlier one was made meanwhile, and this one is void.
            return;
        }
        client.timer = None;
        match client.stage {
            Stage::Grace { until, close: (code, reason) } if core.now >= until => {
                return self.say_goodbye(core, key, Some(code), reason);
            }
            Stage::Flushing { until } | Stage::HalfClosed { until } if core.now >= until => {
                return self.drop_client(core, key);
            }
            Stage::Open if client.stalled_since.is_some_and(|since| core.now.saturating_sub(since) >= STALL_LIMIT) => {
                self.count_closing(Closing::Stalled);
                tracing::info!(shard = %self.shard.id(), "a client takes nothing for {} s and is dropped", STALL_LIMIT.as_secs());
                return self.drop_client(core, key);
            }
            // There may be a reason to close it.
            Stage::Open => drop(self.serve(core, key)),
            _ => {}
        }
        if self.clients.contains(key) {
            self.set_timer(core, key);
        }
    }
}
