//! Drives the connections of a shard's clients: handles their commands, sends them events, and closes their
//! connections. [`super::admission`] lets the clients in.
//!
//! A shard has two queues of clients that may have something to get. A turn serves all `ready_clients` and the
//! `bulk_clients` within a budget ([`TURN_BYTES`]).

use super::{
    ConnectionParts, Core, Owner, ToControl,
    client::{ClientMessage, LINGER, RECONNECT_GRACE, STALL_LIMIT, Stage},
    hosted::HostedShard,
    timers::Timer,
};
use crate::{
    downstream::budget::Refusal,
    io::{
        Io,
        sockets::{Receiving, SocketId},
    },
    protocol::{
        ConnectionId,
        close::{self, Close},
        payload,
    },
    shard::{Progress, report::CloseReason},
};

/// Budget in bytes that one turn of a shard spends on the bulk clients. The other bulk clients
/// wait for the next turn; before it, the other shards of the core have their turns. Serving a client once makes a
/// slice of its snapshot (32 KiB) or fills its outbox.
pub(super) const TURN_BYTES: usize = 64 << 10;
/// Bytes that serving a bulk client takes from [`TURN_BYTES`] at least. A send costs some 3 us even when
/// it is short. In that time the core can make and copy some 4 KiB.
pub(super) const SERVE_COST: usize = 4 << 10;

/// Why the connection of a client ends.
enum End {
    /// The client has sent a close frame with this code.
    Closed(Option<u16>),
    /// The client has to be closed with this code and reason.
    Close(Close),
}

impl<I: Io> HostedShard<I> {
    /// Queues the client with this connection, because the shard may have something for it.
    pub(super) fn queue_connection(&mut self, connection: ConnectionId) {
        let key = connection.0 as u32 as usize;
        if self.clients.get(key).is_some_and(|client| client.connection == connection) {
            self.queue(key);
        }
    }

    /// Adds a client that may have something to get to its queue, unless it is in a queue already.
    pub(super) fn queue(&mut self, key: usize) {
        if let Some(client) = self.clients.get_mut(key)
            && !std::mem::replace(&mut client.queued, true)
        {
            let queue = if client.newcomer_until.is_some() { &mut self.bulk_clients } else { &mut self.ready_clients };
            queue.push_back(key);
        }
    }

    /// Handles the clients on whose sockets something has happened.
    pub(super) fn read_clients(&mut self, core: &mut Core<I>) {
        while let Some(key) = self.noted.pop() {
            if let Some(client) = self.clients.get_mut(key) {
                client.noted = false;
                self.read_client(core, key);
            }
        }
    }

    fn read_client(&mut self, core: &mut Core<I>, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        if client.broken || (client.ended && client.stage == Stage::Open) {
            return self.drop_client(core, key);
        }
        match client.stage {
            Stage::Returning => return self.return_to_door(core, key),
            Stage::Open => {
                self.serving = Some(key);
                let end = self.handle_messages(core, key);
                self.serving = None;
                match end {
                    Some(End::Closed(code)) => {
                        let client = &self.clients[key];
                        if let Some(session) = client.session {
                            self.shard.detach(core.now, session, client.connection, close::ends_session(code));
                        }
                        // The close frame repeats the client's code, because some libraries decide by the code that
                        // they receive.
                        return self.close_client(core, key, code, "");
                    }
                    Some(End::Close(close)) => {
                        self.count_close(CloseReason::Misbehaved);
                        return self.close_client(core, key, Some(close.code()), close.reason());
                    }
                    None => {}
                }
            }
            Stage::Grace { .. } if client.ended => return self.drop_client(core, key),
            Stage::Grace { .. } => {
                let closed = client.messages(|message, _| match message {
                    ClientMessage::Payload(_) => None,
                    ClientMessage::Closed(code) => Some(code),
                    ClientMessage::Violated(close) => Some(Some(close.code())),
                });
                if let Some(code) = closed {
                    return self.close_client(core, key, code, "");
                }
            }
            Stage::Flushing { .. } | Stage::HalfClosed { .. } => {
                let unread = client.inbound.pending();
                client.inbound.consume(unread);
            }
        }
        self.flush(core, key);
        self.set_receiving(core, key);
    }

    /// Handles the complete messages of a client until one ends the connection or the outbox is full.
    fn handle_messages(&mut self, core: &Core<I>, key: usize) -> Option<End> {
        let Self { clients, shard, .. } = self;
        let client = &mut clients[key];
        let (session, connection) = (client.session?, client.connection);
        client.messages(|message, outbox| match message {
            ClientMessage::Payload(text) => {
                shard.command(core.now, session, connection, &text, outbox).err().map(End::Close)
            }
            ClientMessage::Closed(code) => Some(End::Closed(code)),
            ClientMessage::Violated(close) => Some(End::Close(close)),
        })
    }

    /// Receives from a client while its outbox has room for answers. Frees the empty buffers of its frame decoder.
    fn set_receiving(&mut self, core: &mut Core<I>, key: usize) {
        let Some(client) = self.clients.get_mut(key) else { return };
        client.inbound.shrink(0);
        let how = if client.outbox.is_full() || client.ended { Receiving::Off } else { Receiving::Single };
        core.sockets.receive(client.socket, how);
    }

    /// Serves the clients of both queues, the bulk clients within their budget. Returns whether clients are left in a
    /// queue.
    pub(super) fn serve_clients(&mut self, core: &mut Core<I>) -> bool {
        self.collect_wakes(core);
        if std::mem::take(&mut self.has_events) {
            for index in 0..self.awake.len() {
                self.queue(self.awake[index]);
            }
        }
        while let Some(key) = self.ready_clients.pop_front() {
            self.serve(core, key);
        }
        let mut budget = TURN_BYTES;
        for _ in 0..self.bulk_clients.len() {
            let Some(key) = self.bulk_clients.pop_front() else { break };
            budget = budget.saturating_sub(self.serve(core, key).max(SERVE_COST));
            if budget == 0 {
                break;
            }
        }
        !self.ready_clients.is_empty() || !self.bulk_clients.is_empty()
    }

    /// Fills the outbox of a client once and sends it. Returns how many bytes were made for the client.
    fn serve(&mut self, core: &mut Core<I>, key: usize) -> usize {
        let Some(client) = self.clients.get_mut(key) else { return 0 };
        client.queued = false;
        client.newcomer_until = client.newcomer_until.filter(|&until| core.now < until);
        let (Stage::Open, Some(session)) = (client.stage, client.session) else { return 0 };
        let before = client.outbox.len();
        self.serving = Some(key);
        let progress = self.shard.produce(core.now, session, client.connection, &mut client.outbox);
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
                self.bulk_clients.push_back(key);
            }
            Progress::Close { close, reconnect } => {
                self.count_close(CloseReason::of(close));
                self.reconnect_or_close(core, key, close, reconnect);
                return made;
            }
            Progress::Return => {
                self.count_close(CloseReason::Invalidated);
                self.begin_return(core, key);
                return made;
            }
        }
        self.flush(core, key);
        made
    }

    /// Gives the outbox of a client to its socket, or waits with a poll while the socket is full. A client that is to be
    /// closed goes on to its next [`Stage`] when its outbox has been sent. Drops the client if its connection is broken or
    /// has ended, or if its socket is full and a memory budget is exceeded: afterwards the key may have no client.
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
                && let Some(why) = client.charge.as_ref().and_then(|charge| charge.must_go(client.outbox.len()))
            {
                let exceeded = match why {
                    Refusal::Process => "all clients together exceed `client_memory`",
                    Refusal::Source => "the clients of its address together exceed `client_memory_per_address`",
                };
                tracing::info!(
                    shard = self.shard.id().id,
                    client = client.session.map(|key| key.0),
                    "client dropped: its socket is full, and {exceeded}"
                );
                return self.drop_client(core, key);
            }
            core.sockets.poll_writable(client.socket);
            if std::mem::take(&mut client.awake) {
                self.awake.retain(|&awake| awake != key);
            }
            return self.set_timer(core, key);
        }
        if let Some((bytes, from)) = client.outbox.take() {
            core.sockets.send(client.socket, bytes, from);
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
            core.sockets.hurry(client.socket);
        }
        if let Stage::Flushing { until } = client.stage
            && client.outbox.is_empty()
        {
            client.stage = Stage::HalfClosed { until };
            core.sockets.shutdown(client.socket);
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
    fn reconnect_or_close(&mut self, core: &mut Core<I>, key: usize, close: Close, reconnect: bool) {
        let client = &mut self.clients[key];
        // Op 7 can not follow a payload that is half in the compressed stream. Then the client gets the close frame
        // only.
        if reconnect && client.outbox.abandon() {
            client.outbox.message(&[payload::RECONNECT]);
            client.stage = Stage::Grace { until: core.now + RECONNECT_GRACE, close };
            self.set_timer(core, key);
            return self.flush(core, key);
        }
        self.close_client(core, key, Some(close.code()), close.reason());
    }

    /// Closes the connection of a client in order: the close frame is sent, the proxy ends its side of the stream, then
    /// the client ends its own. [`LINGER`] limits the time for that.
    pub(super) fn close_client(&mut self, core: &mut Core<I>, key: usize, code: Option<u16>, reason: &str) {
        // Without a reason the close frame answers the client's own.
        if !reason.is_empty() {
            tracing::debug!(shard = self.shard.id().id, code, reason, "the proxy closes the connection of a client");
        }
        let client = &mut self.clients[key];
        client.outbox.close(code, reason);
        client.stage = Stage::Flushing { until: core.now + LINGER };
        self.set_timer(core, key);
        self.flush(core, key);
        self.set_receiving(core, key);
    }

    /// Ends the session of a client whose outbox has Invalid Session already. The connection goes back to the door,
    /// where the client can identify again.
    fn begin_return(&mut self, core: &mut Core<I>, key: usize) {
        let client = &mut self.clients[key];
        client.stage = Stage::Returning;
        client.stalled_since = None;
        core.sockets.release(client.socket);
        if let Some(session) = client.session.take() {
            self.shard.detach(core.now, session, client.connection, true);
        }
    }

    /// Gives a connection back to the door once the socket has been released. Bytes that wait to be sent go along in
    /// the outbox.
    fn return_to_door(&mut self, core: &mut Core<I>, key: usize) {
        let Some(socket) = self.clients[key].released.take() else { return };
        self.remove_from_lists(key);
        let client = self.clients.remove(key);
        let parts = ConnectionParts { socket, inbound: client.inbound, outbox: client.outbox };
        core.send(ToControl::Return(Box::new(parts), client.visitor));
    }

    /// Removes a client from the list of awake clients, the queues, and the list of noted clients.
    fn remove_from_lists(&mut self, key: usize) {
        self.awake.retain(|&awake| awake != key);
        self.ready_clients.retain(|&queued| queued != key);
        self.bulk_clients.retain(|&queued| queued != key);
        self.noted.retain(|&noted| noted != key);
    }

    /// Closes the connection of a client at once and detaches its session.
    pub(super) fn drop_client(&mut self, core: &mut Core<I>, key: usize) {
        let Some(client) = self.clients.try_remove(key) else { return };
        self.remove_from_lists(key);
        core.sockets.close(client.socket);
        if let Some(session) = client.session {
            self.shard.detach(core.now, session, client.connection, false);
        }
    }

    fn set_timer(&mut self, core: &mut Core<I>, key: usize) {
        let client = &mut self.clients[key];
        if let Some(at) = client.deadline(core.now)
            && client.timer.is_none_or(|timer| at < timer)
        {
            client.timer = Some(at);
            let owner = Owner { shard: self.index, client: Some(key as u32) };
            core.timers.add(Timer { at, owner, socket: client.socket });
        }
    }

    /// Handles a timer of a client. `socket` is the one that the timer was made for; the timer of an earlier
    /// client with the same key is ignored.
    pub(super) fn on_client_timer(&mut self, core: &mut Core<I>, key: usize, socket: SocketId) {
        let Some(client) = self.clients.get_mut(key).filter(|client| client.socket == socket) else { return };
        if client.timer.is_none_or(|at| at > core.now) {
            // This timer is void: an earlier one has been handled since, and the next timer of the client, if any, is
            // later.
            return;
        }
        client.timer = None;
        match client.stage {
            Stage::Grace { until, close } if core.now >= until => {
                return self.close_client(core, key, Some(close.code()), close.reason());
            }
            Stage::Flushing { until } | Stage::HalfClosed { until } if core.now >= until => {
                return self.drop_client(core, key);
            }
            Stage::Open if client.stalled_since.is_some_and(|since| core.now.saturating_sub(since) >= STALL_LIMIT) => {
                let client = client.session.map(|key| key.0);
                self.count_close(CloseReason::Stalled);
                tracing::info!(
                    shard = self.shard.id().id,
                    client,
                    "client dropped: its socket took none of the waiting bytes for {} s",
                    STALL_LIMIT.as_secs()
                );
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
