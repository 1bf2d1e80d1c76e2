//! Starts the data cores, and derives from the configuration what they start with: their CoreConfig, and limits.

use super::{Control, Failure, IO_MEMORY, http::OriginPolicy};
use crate::{
    config::Config,
    data_core::{self, CoreConfig, CoreFailure, ToControl, ToCore},
    downstream::budget::MemoryBudget,
    io::wake::Waker,
    log::Limits,
    net::mailbox::{Postbox, core_mailbox},
    placement::{Placement, pin_thread},
    preflight,
    websocket::Endpoint,
};
use glommio::LocalExecutorBuilder;
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// After how long the executor of a data core interrupts its tasks. The loop of the core is its only task and never
/// returns to the executor, so no time is needed. If the time passed before the loop has begun, it would never begin.
const NEVER: Duration = Duration::from_secs(3600);

/// The threads of the data cores, which are joined when the proxy stops.
pub(super) type CoreThreads = Arc<Mutex<Vec<glommio::ExecutorJoinHandle<()>>>>;

/// Starts the data cores once the number of shards is known.
pub(super) struct Starter {
    pub placement: Placement,
    pub control: Postbox<ToControl>,
    pub epoch: Instant,
    pub threads: CoreThreads,
}

impl Starter {
    /// Starts the data cores for this many shards, each on its CPU. Returns their mailboxes, by index.
    pub fn start(&self, shards: usize) -> Result<Vec<Postbox<ToCore>>, Failure> {
        let mut postboxes = Vec::new();
        for (index, &cpu) in self.placement.data(shards).iter().enumerate() {
            let waker = Waker::new().map_err(|source| Failure::DataCoreWaker { index, cpu, source })?;
            let (postbox, mailbox) = core_mailbox(waker.clone());
            let (control, epoch) = (self.control.clone(), self.epoch);
            // The thread pins itself, because glommio can not do that where `/sys` is hidden.
            let thread = LocalExecutorBuilder::default()
                .name(&format!("data-{index}"))
                .io_memory(IO_MEMORY)
                .preempt_timer(NEVER)
                .spawn(move || async move {
                    match pin_thread(cpu) {
                        Ok(()) => data_core::run(mailbox, waker, control, epoch),
                        Err(source) => {
                            drop(control.send(ToControl::Failed(CoreFailure::Pin { index, cpu, source })));
                        }
                    }
                })
                .map_err(|source| Failure::DataCore { index, cpu, source })?;
            self.threads.lock().expect("nobody panics with it").push(thread);
            postboxes.push(postbox);
        }
        Ok(postboxes)
    }
}

/// Pins the calling thread, which is that of the control core, to its CPU. As the data cores, this thread pins itself,
/// because glommio can not do that where `/sys` is hidden.
pub(super) fn pin_control_core(cpu: usize) -> Result<(), Failure> {
    pin_thread(cpu).map_err(|source| Failure::PinControlCore { cpu, source })
}

impl Control {
    /// What a data core needs to run these shards, if the bot has `count` shards.
    pub(super) fn core_config(&self, index: usize, shards: Vec<u32>, count: u32, gateway_url: String) -> CoreConfig {
        let config = &*self.live();
        CoreConfig {
            index,
            presences: shards.iter().map(|shard| config.presence_for(*shard)).collect(),
            shards,
            shard_count: count,
            token: config.token.bare().into(),
            gateway_url,
            intents: config.intents,
            transport: config.upstream_compression,
            public_url: config.externally_accessible_url.clone(),
            log: Limits { bytes: config.resume_buffer, entries: config.backpressure },
            resume_window: config.resume_window,
            cache: config.cache,
            prefetch_members: config.prefetch_members,
            honor_client_intents: config.honor_client_intents,
            denied: config.denied.clone(),
            voice_grace: config.voice_grace(),
            voice_rejoin: config.voice_rejoin,
            state_dir: config.state_dir.clone(),
            forward_opcodes: config.forward_opcodes.clone(),
            memory: self.memory.clone(),
            credentials: config.clients.clone(),
        }
    }
}

/// The origins and host names whose requests are accepted: those of `allowed_origins` and `allowed_hosts`, and the host
/// of `externally_accessible_url`.
pub(super) fn origin_policy(config: &Config) -> OriginPolicy {
    let own = Endpoint::parse(&config.externally_accessible_url).ok().map(|endpoint| endpoint.host);
    let hosts = config.allowed_hosts.iter().cloned().chain(own).collect();
    OriginPolicy { origins: config.allowed_origins.clone(), hosts }
}

/// The memory budget of clients: `client_memory`, or by default a part of the memory that the process may use, and
/// `client_memory_per_address`.
pub(super) fn memory_budget(config: &Config) -> MemoryBudget {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let all = config.client_memory.unwrap_or_else(|| preflight::default_client_memory(preflight::memory()));
    MemoryBudget::new(bytes(all), config.client_memory_per_address.map(bytes))
}
