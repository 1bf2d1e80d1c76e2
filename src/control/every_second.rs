//! What the control core does once a second: it reads a changed configuration file, brings the budget of IDENTIFYs up to
//! date for the metrics, and writes the lines that stand for log lines that were held back.

use super::{Control, file_watch::Stamp};
use std::{rc::Rc, time::Duration};

/// Time between two looks.
const PERIOD: Duration = Duration::from_secs(1);

impl Control {
    /// Runs as long as the proxy does.
    pub(super) async fn every_second(self: Rc<Self>) {
        loop {
            let stamp = Stamp::of(&self.reloading.path);
            let changed = self.file_watch.borrow_mut().look(self.now(), stamp);
            if changed && self.live().reload_on_change && !self.stopping.get() {
                // The log says what came of it.
                let _ = self.reload("the file has changed");
            }
            if let Some(queue) = &mut *self.queue.borrow_mut() {
                queue.expire(self.now());
            }
            self.reloading.held_lines.write_due();
            glommio::timer::sleep(PERIOD).await;
        }
    }
}
