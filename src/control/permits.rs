//! The last step before an IDENTIFY: the permit goes to the shard, after the external queue has agreed where there is one.

use super::Control;
use crate::data_core::ToCore;

impl Control {
    /// Lets a shard identify.
    pub(super) fn permit(&self, shard: u32) {
        self.waits.borrow_mut().granted(shard, self.now());
        let _ = self.cores()[self.index_of(shard)].send(ToCore::Permit(shard));
    }

    /// The external queue lets a shard identify.
    pub(super) fn permitted(&self, shard: u32) {
        if let Some(external) = &self.external_queue {
            external.answered(shard);
        }
        *self.queue_away.borrow_mut() = None;
        self.permit(shard);
    }

    /// The external queue does not answer: nobody identifies until it does.
    pub(super) fn queue_is_away(&self, what: String) {
        if let Some(held_back) = self.queue_log.borrow_mut().poll(self.now()) {
            let waiting = self.external_queue.as_ref().map_or(0, super::ExternalQueue::waiting);
            tracing::warn!(waiting, held_back, "identify_queue {what}; no shard identifies until it answers");
        }
        *self.queue_away.borrow_mut() = Some(what);
    }
}
