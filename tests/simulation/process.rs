//! A process of the proxy: the real data core with its mailboxes, on a simulated network and disk, with random
//! numbers that follow from the seed.

use crate::{
    io::{SimIo, Weather},
    net::{Shared, Socket},
};
use fastrand::Rng;
use gateway_proxy::{
    cache::Flags,
    compression::Transport,
    control::identify::{IdentifyQueue, SessionStartLimit},
    data_core::{CoreConfig, DataCore, Dependencies, States, ToControl, ToCore},
    io::wake::Waker,
    log::Limits,
    net::mailbox::{Mailbox, Postbox, core_mailbox, mailbox},
    protocol::Time,
    shard::Shard,
};
use std::{cell::RefCell, io::Read, rc::Rc, time::Duration};

/// The settings that a seed chooses for its processes.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    pub log: Limits,
    pub resume_window: Duration,
    pub voice_grace: Duration,
    pub voice_rejoin: bool,
    pub transport: Transport,
    pub weather: Weather,
}

/// The state that outlives a process.
#[derive(Default)]
pub struct Disk {
    pub state: Option<Vec<u8>>,
    /// Whether the last process saved any state.
    pub kept: bool,
}

struct Memory(Rc<RefCell<Disk>>);

impl States for Memory {
    fn load(
        &self,
        _: &CoreConfig,
        _: u32,
        make: &mut dyn FnMut(&mut dyn Read) -> std::io::Result<Shard>,
    ) -> std::io::Result<Option<Shard>> {
        let state = self.0.borrow_mut().state.take();
        Ok(state.map(|state| make(&mut state.as_slice()).expect("its own state")))
    }

    fn store(&self, _: &CoreConfig, shard: &mut Shard) -> std::io::Result<bool> {
        let mut state = Vec::new();
        let kept = shard.save(&mut state)?;
        *self.0.borrow_mut() = Disk { state: kept.then_some(state), kept };
        Ok(kept)
    }
}

/// A data core and its mailboxes.
pub struct Process {
    pub core: DataCore<SimIo>,
    pub to_core: Postbox<ToCore<Socket>>,
    pub from_core: Mailbox<ToControl<Socket>>,
    /// Number of events that the shard had counted when the host last read it.
    pub events: u64,
}

fn core_config(choice: Choice) -> CoreConfig {
    CoreConfig {
        index: 0,
        shards: vec![0],
        shard_count: 1,
        token: "t".into(),
        gateway_url: "ws://discord".into(),
        intents: u64::MAX,
        presences: Vec::new(),
        transport: choice.transport,
        public_url: "ws://proxy".into(),
        log: choice.log,
        resume_window: choice.resume_window,
        cache: Flags::ALL,
        prefetch_members: false,
        honor_client_intents: true,
        denied: Default::default(),
        voice_grace: choice.voice_grace,
        voice_rejoin: choice.voice_rejoin,
        state_dir: None,
        forward_opcodes: Vec::new(),
        memory: std::sync::Arc::default(),
        credentials: Default::default(),
    }
}

impl Process {
    pub fn start(choice: Choice, net: &Shared, disk: &Rc<RefCell<Disk>>, rng: &mut Rng) -> Self {
        let waker = Waker::new().expect("a descriptor");
        let (to_core, mailbox_of_core) = core_mailbox(waker.clone());
        let (to_control, from_core) = mailbox();
        let io = SimIo::new(net.clone(), waker, choice.weather, rng.u64(..));
        let seed = rng.u64(..);
        let dependencies = Dependencies {
            states: Box::new(Memory(disk.clone())),
            entropy: Box::new(move || {
                let mut random = Rng::with_seed(seed);
                Box::new(move |bytes| random.fill(bytes))
            }),
        };
        let mut core = DataCore::start(Box::new(core_config(choice)), io, mailbox_of_core, to_control, dependencies);
        let events = core.shards_mut().map(|shard| shard.events()).sum();
        Self { core, to_core, from_core, events }
    }

    pub fn shard(&mut self) -> &mut Shard {
        self.core.shards_mut().next().expect("the only shard")
    }
}

/// The identify queue of a process that starts now.
pub fn queue(now: Time) -> IdentifyQueue {
    let reset_after = Duration::from_secs(86_400);
    IdentifyQueue::new(SessionStartLimit { total: 1_000, remaining: 1_000, reset_after, max_concurrency: 1 }, now, [0])
}
