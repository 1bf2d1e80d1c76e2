//! Grants permits to identify. The proxy's own queue grants one first. With an external queue, the shard then waits for
//! a permit of that queue too. Then the permit goes to the shard's core.

use super::{Control, ExternalQueue, QUEUE_TICK, QueueError};
use crate::data_core::ToCore;
use std::{future::poll_fn, rc::Rc, task::Poll, time::Duration};

impl Control {
    /// Takes every permit that is due from the own queue. Each goes to the shard, or with an external queue causes a
    /// request there.
    pub(super) fn grant(&self) {
        let now = self.now();
        let mut queue = self.queue.borrow_mut();
        let Some(queue) = &mut *queue else { return };
        while let Some(shard) = queue.poll(now) {
            match &self.external_queue {
                Some(external) => external.ask(shard),
                None => self.permit(shard),
            }
        }
    }

    /// Grants permits while shards wait for them, and sleeps while none does. Logs once when the budget is used up.
    pub(super) async fn pace_identifies(self: Rc<Self>) {
        let mut logged = false;
        loop {
            poll_fn(|cx| {
                if self.queue.borrow().as_ref().is_some_and(|queue| queue.waiting() > 0) {
                    return Poll::Ready(());
                }
                logged = false;
                self.pacer.set(Some(cx.waker().clone()));
                Poll::Pending
            })
            .await;
            glommio::timer::sleep(QUEUE_TICK).await;
            self.grant();
            self.ask_for_budget();
            let blocked = self.queue.borrow().as_ref().and_then(|queue| queue.blocked_for(self.now()));
            match blocked {
                Some(wait) if !logged => {
                    tracing::error!(
                        "no IDENTIFY is left: no shard identifies for {} s, or until Discord says that some are left",
                        wait.as_secs()
                    );
                    logged = true;
                }
                Some(_) => {}
                None => logged = false,
            }
        }
    }

    /// Sends GET `/gateway/bot` if the answer may release shards that wait. While such a request fails, it is repeated
    /// anyway.
    fn ask_for_budget(&self) {
        if self.rest_failure.borrow().is_none()
            && self.queue.borrow_mut().as_mut().is_some_and(|queue| queue.take_question(self.now()))
        {
            let _ = self.ask_rest.try_send(Duration::ZERO);
        }
    }

    /// Sends a permit to a shard.
    pub(super) fn permit(&self, shard: u32) {
        self.waits.borrow_mut().granted(shard, self.now());
        let _ = self.cores()[self.index_of(shard)].send(ToCore::Permit(shard));
    }

    /// Passes a permit of the external queue to its shard.
    pub(super) fn permitted(&self, shard: u32) {
        if let Some(external) = &self.external_queue {
            external.answered(shard);
        }
        *self.queue_failure.borrow_mut() = None;
        self.permit(shard);
    }

    /// Logs, once a minute at most, that a request to the external queue has failed, and keeps the reason for
    /// `/health`. No shard identifies until the queue answers.
    pub(super) fn queue_failed(&self, error: &QueueError) {
        if let Some(held_back) = self.queue_log.borrow_mut().poll(self.now()) {
            let waiting = self.external_queue.as_ref().map_or(0, ExternalQueue::waiting);
            tracing::warn!(waiting, held_back, "identify_queue {error}; no shard identifies until it answers");
        }
        self.figures.borrow_mut().external_failures += 1;
        *self.queue_failure.borrow_mut() = Some(error.to_string());
    }
}
