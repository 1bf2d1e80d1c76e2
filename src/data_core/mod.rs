//! A data core: one thread that owns shards and everything that belongs to them, from socket to socket.
//!
//! Owns its shards, their upstream connections, and the connections of their clients. With N data cores, a core owns
//! the shards whose id modulo N is its index. It exchanges messages with the control core through mailboxes. Apart from
//! them and the memory budget of all clients, it shares no state with other threads.
//!
//! A core is one loop ([`DataCore::turn`]), generic over the source of completions ([`Io`]). A turn waits, notes what
//! has happened, gives every shard concerned its turn, and starts the operations that the shards want together with the
//! next wait. That is one system call for each turn. There are no tasks and no system timers: the wait ends at the
//! next deadline. The only lock is that of the memory budget, which arriving and leaving clients take for a moment.
//!
//! A panic within a shard's turn affects that shard only ([`HostedShard::recover`]).
//!
//! What an event costs, counted on a release build with twenty shards, one client each and all of the cache on:
//!
//! * copies in user space: the received bytes from the ring's buffer into the frame decoder; the payload into the log;
//!   for each client the payload into the client's outbox. Decompression writes the payload once more. The kernel
//!   copies on receive and on send;
//! * allocations (`perf` probes on malloc and realloc of libc): 0.49 and 0.35 an event at 1,000 events/s, 0.21 and 0.14
//!   at 20,000. They are records of the cache that change their size, and segments and tables of the log that grow;
//! * system calls (`make bench`): 1.1, 0.9 and 0.5 an event at 1,000, 10,000 and 40,000 events/s, the sends of a turn
//!   and the wait being one.

mod admission;
pub(crate) mod client;
pub(crate) mod figures;
mod frames;
mod hosted;
mod messages;
mod serve;
mod state;
mod time_slice;
mod timers;
mod upstream;
mod watch;

pub use client::{close_for, command_text};
pub use messages::{
    ConfigChange, ConnectionParts, CoreConfig, CoreFailure, CoreReport, EndOfSlot, NewClient, Repair, SessionRequest,
    SlotReport, StatusChange, ToControl, ToCore,
};
pub use state::{NoStates, StateFiles, States};

use crate::{
    compression::count,
    io::{Io, Wait, sockets::Sockets, uring::Uring, wake::Waker},
    net::mailbox::Postbox,
    protocol::{ShardId, Time, payload},
    shard::{Entropy, Settings, Shard, tally},
    upstream::session::Identity,
};
use crossbeam_channel::Receiver;
use figures::{Added, Figures};
use hashbrown::HashMap;
use hosted::HostedShard;
use std::{
    collections::VecDeque,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    time::{Duration, Instant},
};
use timers::Timers;
use watch::Watch;

/// Longest time that a stopping core waits for its connections to be closed in order.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// The number of messages of the control core that one turn handles at most. Nearly all messages are clients that
/// arrive. Taking over a client costs as much as some events, and many arrivals must not delay the events of the
/// clients that are connected already.
const MESSAGES_PER_TURN: usize = 8;

/// The shard that a connection belongs to, and the client if it is a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Index of the shard in the core's list.
    shard: u32,
    /// Key of the client in the shard's list; `None`: the connection is one to Discord.
    client: Option<u32>,
}

/// What the shards of a core share.
pub struct Core<I: Io> {
    sockets: Sockets<I, Owner>,
    timers: Timers,
    control: Postbox<ToControl<I::Socket>>,
    config: Box<CoreConfig>,
    /// The time of this turn.
    now: Time,
    /// Whether the core is stopping: it admits no clients and makes no connections.
    stopping: bool,
    /// Number of clients that have arrived so far.
    clients: u64,
    figures: Figures,
    added: Added,
}

impl<I: Io> Core<I> {
    fn send(&self, message: ToControl<I::Socket>) {
        if self.control.send(message).is_err() {
            tracing::error!("a message to the control core was dropped: its mailbox is full or closed");
        }
    }
}

/// What a core gets from outside besides its configuration.
pub struct Dependencies {
    /// Where the states of shards are kept between two processes.
    pub states: Box<dyn States>,
    /// Makes a source of random bytes for a shard.
    pub entropy: Box<dyn Fn() -> Entropy>,
}

/// How far a core is with a client, for tests.
#[derive(Clone, Copy, Debug)]
pub struct ClientProgress {
    /// Whether the client is served and its commands are handled.
    pub open: bool,
    /// Bytes that were received from the client and not handled yet.
    pub unread: usize,
    /// Bytes for the client that have not been given to its socket.
    pub waiting: usize,
}

/// A data core. See the module's description.
pub struct DataCore<I: Io> {
    core: Core<I>,
    mailbox: Receiver<ToCore<I::Socket>>,
    dependencies: Dependencies,
    shards: Vec<HostedShard<I>>,
    /// Index of a shard in `shards`, by the shard's id.
    indices: HashMap<u32, usize>,
    /// Shards that have a turn next, by their indices in `shards`.
    runnable: VecDeque<usize>,
    /// No shard has a deadline before this time.
    next_deadline: Time,
    /// Whether the mailbox may have a message.
    mail: bool,
    /// When a stopping core stops waiting for connections to be closed.
    stop_at: Option<Time>,
    watch: Watch,
}

impl<I: Io> DataCore<I> {
    /// Makes a core with the shards of its configuration. A shard goes on from the state that a former process has
    /// left, if there is one.
    pub fn start(
        config: Box<CoreConfig>,
        io: I,
        mailbox: Receiver<ToCore<I::Socket>>,
        control: Postbox<ToControl<I::Socket>>,
        dependencies: Dependencies,
    ) -> Self {
        let now = io.now();
        let sockets = Sockets::new(io);
        let core = Core {
            sockets,
            timers: Timers::default(),
            control,
            config,
            now,
            stopping: false,
            clients: 0,
            figures: Figures::default(),
            added: Added::default(),
        };
        let mut this = Self {
            core,
            mailbox,
            dependencies,
            shards: Vec::new(),
            indices: HashMap::new(),
            runnable: VecDeque::new(),
            next_deadline: now,
            mail: true,
            stop_at: None,
            watch: Watch::default(),
        };
        for (index, id) in this.core.config.shards.clone().into_iter().enumerate() {
            let shard = match this.restore_shard(index) {
                Some(mut shard) => {
                    this.core.send(ToControl::Restored(id));
                    shard.set_credentials(this.core.now, &this.core.config.credentials);
                    shard
                }
                None => this.new_shard(index),
            };
            this.shards.push(HostedShard::new(index as u32, shard));
            this.indices.insert(id, index);
            this.enqueue(index);
        }
        this
    }

    /// The implementation of [`Io`], for a test that plays the other end of the connections.
    pub fn io_mut(&mut self) -> &mut I {
        self.core.sockets.io_mut()
    }

    /// The shards, for a test that reads their reports.
    pub fn shards_mut(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.shards.iter_mut().map(|hosted| &mut hosted.shard)
    }

    /// How far the core is with the client whose socket `is` accepts, for a test that plays the client. `None`: there
    /// is no such client.
    pub fn client(&self, is: impl Fn(&I::Socket) -> bool) -> Option<ClientProgress> {
        let (socket, owner) = self.core.sockets.find(is)?;
        let client = self.shards[owner.shard as usize].clients.get(owner.client? as usize)?;
        (client.socket == socket).then(|| ClientProgress {
            open: client.stage == client::Stage::Open,
            unread: client.inbound.pending(),
            waiting: client.outbox.pending().len(),
        })
    }

    /// Makes a shard without a session.
    fn new_shard(&self, index: usize) -> Shard {
        let ShardSetup { id, settings, identity } = ShardSetup::new(&self.core.config, index);
        let entropy = (self.dependencies.entropy)();
        Shard::new(id, settings, identity, self.core.config.gateway_url.clone(), None, entropy)
    }

    /// Makes a shard from the state that a former process has left; `None`: there is no usable state.
    fn restore_shard(&mut self, index: usize) -> Option<Shard> {
        let config = &self.core.config;
        let ShardSetup { id, settings, identity } = ShardSetup::new(config, index);
        let (url, entropy, now) = (config.gateway_url.clone(), (self.dependencies.entropy)(), self.core.now);
        let mut make =
            Some(|mut stream: &mut dyn Read| Shard::restore(id, settings, identity, url, entropy, now, &mut stream));
        let mut make = |stream: &mut dyn Read| (make.take().expect("a state is read once"))(stream);
        match self.dependencies.states.load(config, id.id, &mut make) {
            Ok(shard) => shard,
            Err(error) => {
                tracing::warn!(shard = id.id, "the shard's state of the last process is not used: {error}");
                None
            }
        }
    }

    fn enqueue(&mut self, index: usize) {
        if !std::mem::replace(&mut self.shards[index].queued, true) {
            self.runnable.push_back(index);
        }
    }

    /// Runs one turn of the loop. Returns false when the core has stopped.
    pub fn turn(&mut self) -> bool {
        self.wait();
        self.read_mail();
        self.run_timers();
        for _ in 0..self.runnable.len() {
            let Some(index) = self.runnable.pop_front() else { break };
            self.shards[index].queued = false;
            if self.catch_panic(index, HostedShard::turn).unwrap_or(true) {
                self.enqueue(index);
            }
            self.next_deadline = self.next_deadline.min(self.shards[index].deadline);
        }
        self.stop_at.is_none_or(|deadline| !self.has_stopped(deadline))
    }

    /// Waits for completions, and notes them at their shards. Does not sleep when there is something to do already.
    fn wait(&mut self) {
        let wait = if self.runnable.is_empty() && !self.mail {
            let deadline = self.core.timers.next().into_iter().chain([self.next_deadline]).chain(self.stop_at).min();
            Wait::Until(deadline.filter(|&at| at < Time::MAX))
        } else {
            Wait::Poll
        };
        let Self { core, shards, runnable, .. } = self;
        let now = core.now;
        let end = core.sockets.now();
        core.figures.turn(now, end);
        core.added.end_turn(now, end);
        let woken = core.sockets.wait(wait, |id, owner, event| {
            let hosted = &mut shards[owner.shard as usize];
            hosted.note(now, id, owner, event);
            if !std::mem::replace(&mut hosted.queued, true) {
                runnable.push_back(owner.shard as usize);
            }
        });
        core.now = core.sockets.now();
        self.mail |= woken;
    }

    /// Calls into a shard and contains a panic; `None`: the call has panicked.
    fn catch_panic<T>(&mut self, index: usize, call: impl FnOnce(&mut HostedShard<I>, &mut Core<I>) -> T) -> Option<T> {
        let Self { core, shards, .. } = self;
        if let Ok(result) = catch_unwind(AssertUnwindSafe(|| call(&mut shards[index], core))) {
            return Some(result);
        }
        self.core.send(ToControl::Panicked);
        let Self { core, shards, .. } = self;
        // Removing the client calls into the shard, which may panic again in the state that the first panic has left.
        let saved = catch_unwind(AssertUnwindSafe(|| shards[index].recover(core))).unwrap_or(false);
        if !saved {
            let shard = self.new_shard(index);
            self.shards[index].replace_shard(&mut self.core, shard);
        }
        None
    }

    fn read_mail(&mut self) {
        if !std::mem::take(&mut self.mail) {
            return;
        }
        for _ in 0..MESSAGES_PER_TURN {
            let Ok(message) = self.mailbox.try_recv() else { return };
            self.on_message(message);
        }
        self.mail = true;
    }

    fn on_message(&mut self, message: ToCore<I::Socket>) {
        match message {
            ToCore::Start(_) => {}
            ToCore::Permit(shard) => {
                self.call(shard, |hosted, core| hosted.shard.upstream_permitted(core.now));
            }
            ToCore::GatewayUrl(url) => {
                for hosted in &mut self.shards {
                    hosted.shard.set_gateway_url(&url);
                }
                // A shard that replaces one that has panicked starts with this URL.
                self.core.config.gateway_url = url;
            }
            ToCore::Dialled { shard, attempt, result } => {
                self.call(shard, |hosted, core| hosted.dialled(core, attempt, result.map(|dialled| *dialled)));
            }
            // The door knows which shards exist. A client of a shard that does not exist is dropped.
            ToCore::Client(new_client) => {
                self.call(new_client.shard, |hosted, core| hosted.admit(core, *new_client));
            }
            ToCore::Report(number) => {
                let report = self.report();
                self.core.send(ToControl::Reports(number, Box::new(report)));
            }
            ToCore::Pulse => self.core.send(ToControl::Pulse(self.core.config.index)),
            ToCore::ConfigChanged(change) => self.change_config(&change),
            ToCore::Repair(shard, repair, reason) => self.call(shard, |hosted, core| match repair {
                Repair::Reconnect => hosted.shard.reconnect(core.now, reason),
                Repair::Identify => hosted.shard.identify_anew(core.now, reason),
            }),
            ToCore::Trace(shard, on) => self.call(shard, |hosted, core| hosted.set_trace(core, on)),
            ToCore::EndSlot(end) => {
                let report = self.watch.end_slot(self.core.config.index, &end, &self.shards);
                self.core.send(ToControl::SlotEnded(Box::new(report)));
            }
            ToCore::Stop => self.stop(),
        }
    }

    fn report(&mut self) -> CoreReport {
        let shards = (0..self.shards.len())
            .filter_map(|index| self.catch_panic(index, |hosted, core| hosted.report(core)))
            .collect();
        let (compression_input, compression_output) = count::total();
        let core = &mut self.core;
        CoreReport {
            index: core.config.index,
            cpu: figures::thread_cpu_time(),
            turns: core.figures.turns,
            longest_turn: core.figures.longest(core.now),
            enters: core.sockets.enters(),
            compression_input,
            compression_output,
            added: core.added.clone(),
            shards,
        }
    }

    /// Applies the values that the operator has changed to the core's configuration and to every shard.
    fn change_config(&mut self, change: &ConfigChange) {
        let config = &mut self.core.config;
        config.log = change.log;
        config.resume_window = change.resume_window;
        config.voice_grace = change.voice_grace;
        config.honor_client_intents = change.honor_client_intents;
        config.denied = change.denied.clone();
        config.credentials = change.credentials.clone();
        if let Some(presences) = &change.presences {
            config.presences.clone_from(presences);
        }
        for index in 0..self.shards.len() {
            let ShardSetup { settings, identity, .. } = ShardSetup::new(&self.core.config, index);
            let presence = change.presences.as_ref().and_then(|presences| presences.get(index));
            let presence = presence.map(|presence| (identity.identify, payload::presence_update(presence)));
            self.catch_panic(index, |hosted, core| {
                hosted.shard.change_settings(tally::SettingsChange { settings: Settings::clone(&settings), presence });
                hosted.shard.set_credentials(core.now, &core.config.credentials);
            });
            self.enqueue(index);
        }
    }

    /// Calls into the shard with this id, which then has a turn.
    fn call(&mut self, id: u32, call: impl FnOnce(&mut HostedShard<I>, &mut Core<I>)) {
        if let Some(&index) = self.indices.get(&id) {
            self.catch_panic(index, call);
            self.enqueue(index);
        }
    }

    /// Handles the timers that are due, and gives a turn to each shard whose deadline has passed.
    fn run_timers(&mut self) {
        let now = self.core.now;
        while let Some(timer) = self.core.timers.pop(now) {
            let index = timer.owner.shard as usize;
            self.catch_panic(index, |hosted, core| hosted.on_timer(core, timer));
            self.enqueue(index);
        }
        if now >= self.next_deadline {
            self.next_deadline = Time::MAX;
            for index in 0..self.shards.len() {
                let deadline = self.shards[index].deadline;
                if now >= deadline {
                    // The turn of the shard sets its next deadline.
                    self.enqueue(index);
                } else {
                    self.next_deadline = self.next_deadline.min(deadline);
                }
            }
        }
    }

    // ---- the end ----

    fn stop(&mut self) {
        self.core.stopping = true;
        self.stop_at.get_or_insert(self.core.now + STOP_LIMIT);
        for index in 0..self.shards.len() {
            self.catch_panic(index, |hosted, _| {
                hosted.shard.stop();
                hosted.wake_all();
            });
            self.enqueue(index);
        }
    }

    /// Says whether the stopping core has nothing left to do: every connection has ended, or `deadline` has passed.
    /// Then writes the states.
    fn has_stopped(&mut self, deadline: Time) -> bool {
        let waits = self.core.now < deadline && !self.shards.iter().all(HostedShard::is_alone);
        if waits || !self.runnable.is_empty() && self.core.now < deadline {
            return false;
        }
        for index in 0..self.shards.len() {
            let Self { core, shards, dependencies, .. } = self;
            let shard = &mut shards[index].shard;
            // The core serves no connections any more, so a slow disk delays nothing.
            let stored = catch_unwind(AssertUnwindSafe(|| dependencies.states.store(&core.config, shard)));
            match stored {
                Ok(Ok(true)) => {
                    tracing::info!(shard = shard.id().id, "the shard's state is written for the next process");
                }
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::error!(
                        shard = shard.id().id,
                        "the shard's state can not be written for the next process: {error}"
                    );
                }
                Err(_) => core.send(ToControl::Panicked),
            }
        }
        self.core.send(ToControl::Stopped);
        true
    }
}

/// What a new shard is made from.
struct ShardSetup {
    id: ShardId,
    settings: Rc<Settings>,
    identity: Identity,
}

impl ShardSetup {
    fn new(config: &CoreConfig, index: usize) -> Self {
        let id = ShardId { id: config.shards[index], count: config.shard_count };
        let presence = config.presences.get(index).map(|presence| &**presence);
        let identity = Identity {
            identify: payload::identify(&config.token, id, config.intents, presence),
            token: config.token.to_string(),
        };
        let settings = Settings {
            public_url: config.public_url.clone(),
            log: config.log,
            resume_window: config.resume_window,
            cache: config.cache,
            prefetch_members: config.prefetch_members,
            honor_client_intents: config.honor_client_intents,
            voice_grace: config.voice_grace,
            voice_rejoin: config.voice_rejoin,
            intents: config.intents,
            denied: config.denied.clone(),
            forward_opcodes: config.forward_opcodes.clone(),
        };
        Self { id, settings: Rc::new(settings), identity }
    }
}

/// Runs a data core on the calling thread: waits for [`ToCore::Start`], and returns when the control core stops the
/// data core. Returns early when the data core can not make its ring or panics outside of a shard, and then sends
/// [`ToControl::Failed`]. Also returns when the mailbox is closed before the start. `epoch` is the zero of time in this
/// process.
pub fn run(mailbox: Receiver<ToCore>, waker: Waker, control: Postbox<ToControl>, epoch: Instant) {
    if let Err(error) = time_slice::shorten() {
        tracing::debug!(%error, "a data core keeps the kernel's own time slice, because a filter denies to change it");
    }
    let failed = |failure| drop(control.send(ToControl::Failed(failure)));
    let io = match Uring::new(waker, epoch) {
        Ok(io) => io,
        Err(error) => return failed(CoreFailure::Ring(error)),
    };
    let mut config = None;
    while config.is_none() {
        match mailbox.recv() {
            Ok(ToCore::Start(start)) => config = Some(start),
            Ok(ToCore::Report(number)) => drop(control.send(ToControl::Reports(number, Box::default()))),
            Ok(ToCore::Stop) => {
                drop(control.send(ToControl::Stopped));
                return;
            }
            // Before the configuration has come, no shard can have asked for a permit or a connection, and no client
            // can have been admitted.
            Ok(ToCore::Permit(_) | ToCore::GatewayUrl(_) | ToCore::Client(_) | ToCore::Dialled { .. }) => {}
            // `CoreConfig` has the changed values already, and there is no shard yet.
            Ok(ToCore::ConfigChanged(_) | ToCore::Repair(..) | ToCore::Trace(..) | ToCore::EndSlot(_)) => {}
            // The control core asks only cores that it has sent their configuration.
            Ok(ToCore::Pulse) => {}
            Err(_) => return,
        }
    }
    let Some(config) = config else { return };
    let random = crate::net::tls::provider().secure_random;
    let dependencies = Dependencies {
        states: match &config.state_dir {
            Some(directory) => Box::new(StateFiles(directory.clone())),
            None => Box::new(NoStates),
        },
        entropy: Box::new(move || {
            Box::new(move |bytes: &mut [u8]| random.fill(bytes).expect("the system has random numbers"))
        }),
    };
    let postbox = control.clone();
    let ended = catch_unwind(AssertUnwindSafe(move || {
        let mut core = DataCore::start(config, io, mailbox, postbox, dependencies);
        while core.turn() {}
    }));
    if ended.is_err() {
        failed(CoreFailure::Panicked);
    }
}

#[cfg(test)]
mod tests;
