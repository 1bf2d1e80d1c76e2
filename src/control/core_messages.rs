//! Handles the messages of the data cores.

use super::{Control, Event, connection::ClientConnection, dial::Dialler, door};
use crate::{
    data_core::ToControl,
    net::mailbox::{Mailbox, Postbox},
};
use std::{cell::Cell, rc::Rc, sync::Arc};

impl Control {
    pub(super) async fn receive_from_cores(
        self: Rc<Self>,
        mut mailbox: Mailbox<ToControl>,
        events: Postbox<Event>,
        tls: Arc<rustls::ClientConfig>,
        stopped: Rc<Cell<usize>>,
    ) {
        let mut dialler = Dialler::default();
        loop {
            match mailbox.receive().await {
                ToControl::Restored(shard) => {
                    tracing::info!(shard, "the shard resumes the session with Discord that the last process saved");
                    if let Some(queue) = &mut *self.queue.borrow_mut() {
                        queue.started(shard);
                    }
                }
                ToControl::UpstreamId(shard, id) => {
                    self.upstream_ids.borrow_mut().insert(shard, id);
                }
                ToControl::WantPermit(shard) => {
                    self.waits.borrow_mut().asked(shard, self.now());
                    let asks = self.external_queue.as_ref().is_some_and(|external| external.is_asking(shard));
                    if let Some(queue) = &mut *self.queue.borrow_mut()
                        && !asks
                    {
                        queue.request(shard);
                    }
                    self.grant();
                    if let Some(pacer) = self.pacer.take() {
                        pacer.wake();
                    }
                }
                ToControl::Return(parts, visitor) => {
                    let connection = ClientConnection::from_parts(*parts);
                    let task = door::readmit(self.clone(), connection, visitor);
                    self.tasks.spawn("the task of a connection at the door", task);
                }
                ToControl::Reports(number, reports) => {
                    if let Some(request) = self.report_requests.borrow_mut().get_mut(&number) {
                        request.reports.push(*reports);
                        request.missing -= 1;
                        if let Some(waker) = request.waker.take() {
                            waker.wake();
                        }
                    }
                }
                ToControl::SlotEnded(report) => self.slot_ended(*report),
                ToControl::StatusChanged(change) => {
                    self.service_manager.borrow_mut().changed(change.shard, change.to);
                    self.feed.borrow_mut().add_status_change(change);
                }
                ToControl::Pulse(core) => self.service_manager.borrow_mut().answered(core),
                ToControl::Dial { shard, attempt, url } => {
                    dialler.start(self.clone(), tls.clone(), shard, attempt, url);
                }
                ToControl::Failed(failure) => {
                    // The thread of that core has ended, so it counts as stopped: the orderly stop of the others does
                    // not wait for it.
                    stopped.set(stopped.get() + 1);
                    drop(events.send(Event::Failed(failure)));
                }
                ToControl::Panicked => self.figures.borrow_mut().panics += 1,
                ToControl::Stopped => stopped.set(stopped.get() + 1),
            }
        }
    }
}
