//! The life of a shard's clients: taking them over from the door, handling their commands, sending them events, and
//! closing their connections.
//!
//! A shard has two queues of clients that may have something to get. A turn serves the first queue completely and the
//! second one within a budget ([`TURN_BYTES`]).

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

/// Budget in bytes that one turn of a shard spends on the clients of its second queue. The other clients of that queue
/// wait for the next turn; before it, the other shards of the core have their turns. Serving a client once makes a
/// slice of its snapshot (32 KiB) or fills its outbox.
pub(super) const TURN_BYTES: usize = 64 << 10;
/// Bytes that serving a client of the second queue takes from [`TURN_BYTES`] at least. A send costs some 3 us even when
/// it is short. In that time the core can make and copy some 4 KiB.
pub(super) const SERVE_COST: usize = 4 << 10;
/// How long a client is served from the second queue after it has arrived.
///
/// When hundreds of clients arrive at once, each costs a snapshot, and from then on every event of the shard. Together
/// that is more than a core can do, and it must not delay the clients that were there before. A client that does not
/// read stops costing when the buffers of its socket are full. The higher the rate of events, the sooner the buffers
/// are full: two seconds of a load that keeps a core busy fill them.
pub(super) const NEWCOMER: Duration = Duration::from_secs(2);

/// The close frame for a client when its shard has no room for more clients.
const FULL: Close = (close::RATE_LIMITED, "too many clients on this shard");

/// Why the connection of a client ends.
enum End {
    /// The client has sent a close frame with this code.
    Closed(Option<u16>),
    /// The client has to be closed with this code and reason.
    Close(Close),
}

impl<I: Io> Hosted<I> {
    /// Takes over a client that the door has identified or that wants to resume. A RESUME that can not be served is
    /// answered with Invalid Session, and the connection goes back to the door.
    pub fn admit(&mut self, core: &mut Core<I>, arrival: Arrival<I::Socket>) {
        let Arrival { parcel, entry, version, .. } = arrival;
        let Parcel { socket, inbound, mut outbox } = parcel;
        core.clients += 1;
        // The lower half of the number is the client's key in `clients`, so [`Hosted::queue_number`] finds the client.
        let number = core.clients << 32 | self.clients.vacant_key() as u64;
        let charge = core.plan.memory.admit(outbox.memory());
        let session = match entry {
            // The client left the door just before the core began to stop. Serving it would only delay the end of the
            // core.
            _ if core.stopping => Err((close::UNKNOWN_ERROR, "the proxy restarts")),
            // The session that the client wanted to resume stays, so the client can resume it later.
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
        // The door may have received more messages than the IDENTIFY or RESUME.
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

    /// Says whether the shard has room for a client that resumes the claimed session.
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

    /// Queues the client with this number, because the shard may have something for it.
    pub(super) fn queue_number(&mut self, number: u64) {
        let key = number as u32 as usize;
        if self.clients.get(key).is_some_and(|client| client.number == number) {
            self.queue(key);
        }
    }

    /// Adds a client that may have something to get to its queue, unless it is in a queue already.
    fn queue(&mut self, key: usize) {
        if let Some(client) = self.clients.get_mut(key)
            && !std::mem::replace(&mut client.queued, true)
        {
            let queue = if client.newcomer_until.is_some() { &mut self.second } else { &mut self.first };
            queue.push_back(key);
        }
    }

    /// Handles the clients on whose sockets something has happened.
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
                        // The close frame repeats the client's code, because some libraries decide by the code that
                        // they receive.
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

    /// Handles the complete messages of a client until one ends the connection or the outbox is full.
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

    /// Receives from a client while its outbox has room for answers. Frees the empty buffers of its frame decoder.
    fn listen(&mut self, core: &mut Core<I>, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.inbound.shrink(0);
        let how = if client.outbox.is_full() || client.ended { Receiving::Off } else { Receiving::Single };
        core.sockets.receive(client.connection, how);
    }

    /// Serves the clients of both queues, the second one within its budget. Returns whether clients are left in a
    /// queue.
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

    /// Fills the outbox of a client once and sends it. Returns how many bytes were made for the client.
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
        if made > 0 && matches!(progress, Progress::Idle | Progress::More) && client.oldest_waiting.is_none() {
            client.oldest_waiting = self.received_at;
        }
        if let Progress::Snapshot { bytes } = progress {
            made = made.max(bytes);
        }
        match progress {
            Progress::Idle => {}
            // The client is queued again when its socket takes bytes.
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

    /// Gives the outbox of a client to its socket. A client that is to be closed goes on to its next [`Stage`] when its
    /// outbox has been sent.
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
            client.oldest_sent = client.oldest_waiting.take();
            if let Some(came) = client.oldest_sent {
                core.added.send(core.now, came);
            }
        }
        // The core has to know when this send ends if more bytes follow it, if the proxy receives from the client again
        // then, if the client becomes awake then, or if the connection ends with it.
        let ends = matches!(client.stage, Stage::Flushing { .. } | Stage::Returning);
        let waits = ends || !client.outbox.pending().is_empty() || client.outbox.is_full() || !client.awake;
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

    /// Closes the connection of a client. `reconnect`: the client gets op 7 first, and [`RECONNECT_GRACE`] to close the
    /// connection itself.
    fn send_away(&mut self, core: &mut Core<I>, key: usize, close: Close, reconnect: bool) {
        let client = &mut self.clients[key];
        // Op 7 can not follow a payload that is half in the compressed stream. Then the client gets the close frame
        // only.
        if reconnect && client.outbox.abandon() {
            client.outbox.message(&[payload::RECONNECT]);
            client.stage = Stage::Grace { until: core.now + RECONNECT_GRACE, close };
            self.set_timer(core, key);
            return self.flush(core, key);
        }
        self.say_goodbye(core, key, Some(close.0), close.1);
    }

    /// Closes the connection of a client in order: the close frame is sent, the proxy ends its side of the stream, then
    /// the client ends its own. [`LINGER`] limits the time for that.
    fn say_goodbye(&mut self, core: &mut Core<I>, key: usize, code: Option<u16>, reason: &str) {
        let client = &mut self.clients[key];
        client.outbox.close(code, reason);
        client.stage = Stage::Flushing { until: core.now + LINGER };
        self.set_timer(core, key);
        self.flush(core, key);
        self.listen(core, key);
    }

    /// Ends the session of a client whose outbox has Invalid Session already. The connection goes back to the door,
    /// where the client can identify again.
    fn begin_return(&mut self, core: &mut Core<I>, key: usize) {
        let client = &mut self.clients[key];
        client.stage = Stage::Returning;
        client.stalled_since = None;
        core.sockets.release(client.connection);
        if let Some(session) = client.session.take() {
            self.shard.detach(core.now, session, client.number, true);
        }
    }

    /// Gives a connection back to the door once the socket has been released. Bytes that wait to be sent go along in
    /// the outbox.
    fn give_back(&mut self, core: &mut Core<I>, key: usize) {
        let Some(socket) = self.clients[key].released.take() else { return };
        self.forget(key);
        let client = self.clients.remove(key);
        let parcel = Parcel { socket, inbound: client.inbound, outbox: client.outbox };
        core.tell(ToControl::Return(Box::new(parcel), client.version));
    }

    /// Removes a client from the list of awake clients, the queues, and the list of noted clients.
    fn forget(&mut self, key: usize) {
        self.awake.retain(|&awake| awake != key);
        self.first.retain(|&queued| queued != key);
        self.second.retain(|&queued| queued != key);
        self.noted.retain(|&noted| noted != key);
    }

    /// Closes the connection of a client at once and detaches its session.
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

    /// Handles a timer of a client. `connection` is the connection that the timer was made for; a timer of an earlier
    /// client with the same key is ignored.
    pub(super) fn on_client_timer(&mut self, core: &mut Core<I>, key: usize, connection: ConnectionId) {
        let Some(client) = self.clients.get_mut(key).filter(|client| client.connection == connection) else { return };
        if client.timer.is_none_or(|at| at > core.now) {
            // This timer is void: an earlier one has been handled since, and the next timer of the client, if any, is
            // later.
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
            // The shard may have decided to close the client.
            Stage::Open => drop(self.serve(core, key)),
            _ => {}
        }
        if self.clients.contains(key) {
            self.set_timer(core, key);
        }
    }
}
