//! Takes a client over from the door: decides whether the client may begin or resume a session on its shard, and makes
//! it a client of the shard. [`super::serve`] drives the client's connection from then on.
//!
//! The door has checked the client's token. What it can not know is checked here: the memory that all clients take, the
//! room on the shard, and whether the operator has changed the client's credential since. A client that may not begin
//! its session is closed. A client whose session can not be resumed goes back to the door.

use super::{ConnectionParts, Core, NewClient, Owner, SessionRequest, ToControl, client::Client, hosted::HostedShard};
use crate::{
    downstream::{
        budget::{Charge, Refusal},
        outbox::Outbox,
        session::{Claim, Options, SessionId},
        source::Source,
        visitor::Visitor,
    },
    io::{Io, sockets::Receiving},
    protocol::{ConnectionId, SessionKey, close::Close, payload},
    shard::report::CloseReason,
};
use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

/// How long a client is served as a bulk client after it has arrived.
///
/// When hundreds of clients arrive at once, each costs a snapshot, and from then on every event of the shard. Together
/// that is more than a core can do, and it must not delay the clients that were there before. A client that does not
/// read stops costing when the buffers of its socket are full. The higher the rate of events, the sooner the buffers
/// are full: two seconds of a load that keeps a core busy fill them.
pub(super) const NEWCOMER: Duration = Duration::from_secs(2);

/// The close frame for a client when its shard has no room for more clients.
const FULL: Close = Close::ShardFull;
/// The close frame for a client whose credential does not cover the shard any more.
const NOT_COVERED: Close = Close::ShardNotCovered;

impl<I: Io> Core<I> {
    /// Counts a new client in the memory budgets. The error is the close for the client if a budget has no room for it.
    fn charge(&self, visitor: &Visitor, outbox: &Outbox) -> Result<Charge, Close> {
        // A client whose address is unknown has ended its connection already.
        let address = visitor.address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        let charge = self.config.memory.admit(Source::from(address), outbox.memory());
        charge.map_err(|refusal| match refusal {
            Refusal::Process => Close::MemoryUsedUp,
            Refusal::Source => Close::AddressMemoryUsedUp,
        })
    }
}

impl<I: Io> HostedShard<I> {
    /// Takes over a client that the door has identified or that wants to resume. A RESUME that can not be served is
    /// answered with Invalid Session, and the connection goes back to the door.
    pub fn admit(&mut self, core: &mut Core<I>, new_client: NewClient<I::Socket>) {
        let NewClient { parts, request, mut visitor, .. } = new_client;
        let ConnectionParts { socket, inbound, mut outbox } = parts;
        core.clients += 1;
        // The lower half of the id is the client's key in `clients`, so [`HostedShard::queue_connection`] finds the
        // client.
        let connection = ConnectionId(core.clients << 32 | self.clients.vacant_key() as u64);
        let charge = core.charge(&visitor, &outbox);
        // A session that a refused client wanted to resume stays, so the client can resume it later.
        let refusal = charge.as_ref().err().copied().or_else(|| self.refuses(core, &request, &mut visitor));
        let session = match (refusal, request) {
            (Some(close), _) => Err(close),
            (None, SessionRequest::Identify(options)) => self.identify(core, connection, options, &visitor),
            (None, SessionRequest::Resume { claim, sequence }) => {
                match self.resume(core, connection, &claim, sequence, &visitor) {
                    Some(session) => Ok(session),
                    None => {
                        outbox.message(&[payload::INVALID_SESSION]);
                        visitor.refused_resumes += 1;
                        core.send(ToControl::Return(Box::new(ConnectionParts { socket, inbound, outbox }), visitor));
                        return;
                    }
                }
            }
        };
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        let socket = core.sockets.adopt(socket, Owner { shard: self.index, client: Some(key as u32) });
        let mut client = Client::new(connection, socket, visitor, inbound, outbox);
        client.newcomer_until = Some(core.now + NEWCOMER);
        client.session = session.ok();
        client.since = core.now;
        client.charge = charge.ok();
        // The door may have received more messages than the IDENTIFY or RESUME.
        client.noted = true;
        client.awake = true;
        let client = entry.insert(client);
        self.noted.push(key);
        self.awake.push(key);
        core.sockets.receive(socket, Receiving::Single);
        match session {
            Ok(session) => {
                client.visitor.refused_resumes = 0;
                client.outbox.set_owner(self.shard.id().id, session.0);
                client.outbox.start_compressing(self.shard.compresses_payloads(session));
                self.queue(key);
            }
            Err(close) => {
                self.count_close(if core.stopping { CloseReason::Restarting } else { CloseReason::of(close) });
                self.close_client(core, key, Some(close.code()), close.reason());
            }
        }
    }

    fn identify(
        &mut self,
        core: &Core<I>,
        connection: ConnectionId,
        options: Options,
        visitor: &Visitor,
    ) -> Result<SessionKey, Close> {
        let session = self.shard.identify(core.now, connection, options)?;
        if let Some(credential) = &visitor.credential {
            self.shard.bind(session, credential.clone());
        }
        Ok(session)
    }

    fn resume(
        &mut self,
        core: &Core<I>,
        connection: ConnectionId,
        claim: &Claim,
        sequence: u64,
        visitor: &Visitor,
    ) -> Option<SessionKey> {
        // A session belongs to the secret that it was begun with. A client with another secret can not resume it.
        let is_own = |id: &SessionId| self.shard.belongs_to(id, visitor.credential.as_deref());
        let id = self.shard.claimed(claim, sequence).filter(is_own);
        let session = id.and_then(|id| self.shard.resume(core.now, connection, &id, sequence));
        match session {
            Some(key) => tracing::debug!(shard = self.shard.id().id, client = key.0, ?id, sequence, "a client resumes"),
            None => {
                tracing::info!(
                    shard = self.shard.id().id,
                    ?id,
                    sequence,
                    "a client's RESUME is refused: the shard does not know the session, or has dropped events that the client missed"
                );
            }
        }
        session
    }

    /// The close for a client that can not be served; `None`: it can. Puts the current form of the client's credential
    /// in the place of the one that the door has found.
    fn refuses(&self, core: &Core<I>, request: &SessionRequest, visitor: &mut Visitor) -> Option<Close> {
        // The client left the door just before the core began to stop. Serving it would only delay the end of the core.
        if core.stopping {
            return Some(Close::Stopping);
        }
        if let Some(shown) = &visitor.credential {
            match core.config.credentials.with_hash(shown.hash) {
                None => return Some(Close::Revoked),
                Some(current) if !current.covers(self.shard.id().id) => return Some(NOT_COVERED),
                Some(current) => visitor.credential = Some(current.clone()),
            }
        }
        let has_room = match request {
            SessionRequest::Identify(_) => self.shard.has_room_for(None),
            SessionRequest::Resume { claim, sequence } => self.has_room_for(claim, *sequence),
        };
        (!has_room).then_some(FULL)
    }

    /// Says whether the shard has room for a client that resumes the claimed session.
    fn has_room_for(&self, claim: &Claim, sequence: u64) -> bool {
        self.shard.has_room_for(self.shard.claimed(claim, sequence).as_ref())
    }
}
