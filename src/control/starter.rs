//! Starting the data cores.

use super::{Failure, IO_MEMORY};
use crate::{
    data_core::{self, ToControl, ToCore},
    io::wake::Waker,
    net::mailbox::{Postbox, core_mailbox},
    placement::Placement,
};
use glommio::LocalExecutorBuilder;
use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

/// The threads of the data cores, to be waited for at the end.
pub type CoreThreads = Arc<Mutex<Vec<glommio::ExecutorJoinHandle<()>>>>;

/// Starts data cores once it is known how many are needed.
pub struct Starter {
    /// Where they run.
    pub placement: Placement,
    /// Where they tell the control core what it has to know.
    pub control: Postbox<ToControl>,
    /// The process's zero of time.
    pub epoch: Instant,
    /// Their threads.
    pub threads: CoreThreads,
}

impl Starter {
    /// Starts as many as so many shards need.
    pub fn start(&self, shards: usize) -> Result<Vec<Postbox<ToCore>>, Failure> {
        let mut postboxes = Vec::new();
        for (index, &cpu) in self.placement.data(shards).iter().enumerate() {
            let failure = |error: &dyn std::fmt::Display| {
                Failure(format!("can not start data core {index} on CPU {cpu}: {error}"))
            };
            let waker = Waker::new().map_err(|error| failure(&error))?;
            let (postbox, mailbox) = core_mailbox(waker.clone());
            let (control, epoch) = (self.control.clone(), self.epoch);
            let thread = LocalExecutorBuilder::new(glommio::Placement::Fixed(cpu))
                .name(&format!("data-{index}"))
                .io_memory(IO_MEMORY)
                .spawn(move || async move { data_core::run(mailbox, waker, control, epoch) })
                .map_err(|error| failure(&error))?;
            self.threads.lock().expect("nobody panics with it").push(thread);
            postboxes.push(postbox);
        }
        Ok(postboxes)
    }
}
