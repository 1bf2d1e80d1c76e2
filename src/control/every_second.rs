//! What the control core does once a second: it reads a changed configuration file, asks Discord for the budget of
//! IDENTIFYs when its renewal is due, and writes the lines that stand for log lines that were held back.

use super::{Control, file_watch::Stamp};
use std::{rc::Rc, time::Duration};

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

impl Control {
    /// Sends GET `/gateway/bot` once the time of the renewal has passed. Until the answer has come, the queue assumes that
    /// the budget was renewed.
    fn ask_for_renewed_budget(&self) {
        let mut queue = self.queue.borrow_mut();
        if queue.as_mut().is_some_and(|queue| queue.take_renewal(self.now())) {
            let _ = self.ask_rest.try_send(PERIOD);
        }
    }

    /// Runs as long as the proxy does.
    pub(super) async fn every_second(self: Rc<Self>) {
        loop {
            let stamp = Stamp::of(&self.reloading.path);
            let changed = self.file_watch.borrow_mut().look(self.now(), stamp);
            if changed && self.live().reload_on_change && !self.stopping.get() {
                // The log says what came of it.
                let _ = self.reload("the file has changed");
            }
            self.ask_for_renewed_budget();
            self.reloading.held_lines.write_due();
            glommio::timer::sleep(PERIOD).await;
        }
    }
}
