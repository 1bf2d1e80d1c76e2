//! The bounds on the clients and sessions of a shard.
//!
//! Owns the two bounds and the checks against them. Never: closes a client; the callers do.

use super::{Client, Shard};
use crate::{downstream::session::SessionId, protocol::Time};

/// The number of clients that can be connected to one shard. The callers of [`Shard::has_room_for`] close any more with
/// 4008.
pub const MAX_ATTACHED: usize = 4096;
/// The number of sessions without a connection that one shard keeps. For one more, the shard removes the oldest.
pub const MAX_DETACHED: usize = 256;

impl Shard {
    /// Returns whether the shard has room for one more client, or for one that resumes the session `id`. See
    /// [`MAX_ATTACHED`].
    pub fn has_room_for(&self, id: Option<&SessionId>) -> bool {
        let is_attached = |client: &Client| client.session.connection.is_some();
        // The newer connection of a session takes the place of the older one.
        let takes_over = || {
            let key = id.and_then(|id| self.sessions.get(id));
            key.and_then(|key| self.clients.get(key)).is_some_and(is_attached)
        };
        self.clients.len() < MAX_ATTACHED
            || self.clients.values().filter(|client| is_attached(client)).count() < MAX_ATTACHED
            || takes_over()
    }

    /// Removes the oldest session without a connection when there are more than [`MAX_DETACHED`].
    pub(super) fn bound_detached(&mut self, now: Time) {
        let detached = |client: &Client| client.session.detached_at.map(|at| (at, client.session.key));
        let count = self.clients.values().filter_map(detached).count();
        if count > MAX_DETACHED
            && let Some((_, oldest)) = self.clients.values().filter_map(detached).min()
        {
            self.remove(now, oldest, false);
        }
    }
}
