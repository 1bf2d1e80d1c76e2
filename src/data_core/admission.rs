//! Decides whether a client that the door has let in may begin or resume a session on its shard.
//!
//! The door has checked the client's token. What it can not know is checked here: the memory that all clients take, the
//! room on the shard, and whether the operator has changed the client's credential since.

use super::{Core, SessionRequest, hosted::HostedShard};
use crate::{
    downstream::{
        budget::{Charge, Refusal},
        outbox::Outbox,
        session::Claim,
        source::Source,
        visitor::Visitor,
    },
    io::Io,
    protocol::close::Close,
};
use std::net::{IpAddr, Ipv4Addr};

/// The close frame for a client when its shard has no room for more clients.
const FULL: Close = Close::ShardFull;
/// The close frame for a client whose credential does not cover the shard any more.
const NOT_COVERED: Close = Close::ShardNotCovered;

impl<I: Io> Core<I> {
    /// Counts a new client in the memory budgets. The error is the close for the client if a budget has no room for it.
    pub(super) fn charge(&self, visitor: &Visitor, outbox: &Outbox) -> Result<Charge, Close> {
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
    /// The close for a client that can not be served; `None`: it can. Puts the current form of the client's credential
    /// in the place of the one that the door has found.
    pub(super) fn refuses(&self, core: &Core<I>, request: &SessionRequest, visitor: &mut Visitor) -> Option<Close> {
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
