//! A data core: one thread that owns shards, and everything that touches them, from socket to socket.
//!
//! Owns its shards (s with s mod N = its index), their upstream connections and the connections of their clients. Talks
//! to the control core through mailboxes only; shares nothing else with anyone. I/O is a thin shell: it moves bytes
//! between sockets and the pure [`Shard`], wakes who has something to do, and contains panics.

mod client;
mod state;
pub use client::{close_for, command_text};
mod upstream;

use crate::{
    compression::Transport,
    downstream::session::{Options, SessionId},
    log::Limits,
    net::{
        client::{ClientConnection, Parcel},
        contain,
        mailbox::{Mailbox, Postbox},
    },
    protocol::{ShardId, Time, payload},
    shard::{Entropy, Settings, Shard, Wake, report::Report},
    upstream::session::Identity,
};
use hashbrown::HashMap;
use rustls::ClientConfig;
use serde_json::value::RawValue;
use std::{
    any::Any,
    cell::{Cell, RefCell},
    future::poll_fn,
    io::Read,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

/// Time passes for the shards in steps of this: how often whoever runs a core has to send [`ToCore::Tick`].
pub const TICK: Duration = Duration::from_millis(250);
/// Every this many ticks idle memory is looked for.
const TICKS_PER_SWEEP: u32 = 40;

/// What a data core needs to know to run its shards.
#[derive(Clone)]
pub struct Plan {
    /// Ids of its shards.
    pub shards: Vec<u32>,
    /// How many shards the bot has in total.
    pub shard_count: u32,
    /// The bot's token, bare.
    pub token: Arc<str>,
    /// What `/gateway/bot` returned.
    pub gateway_url: String,
    /// Intents to identify with.
    pub intents: u64,
    /// Presence of each shard, in the order of `shards`.
    pub presences: Vec<Box<RawValue>>,
    /// How to compress what Discord sends.
    pub transport: Transport,
    /// What READY tells clients to resume at.
    pub public_url: String,
    /// Bounds of each log.
    pub log: Limits,
    /// How long a client can resume.
    pub resume_window: Duration,
    /// What is cached.
    pub cache: crate::cache::Flags,
    /// Filter by the intents of each client.
    pub honor_client_intents: bool,
    /// Where state is kept between two processes.
    pub state_dir: Option<PathBuf>,
    /// TLS roots.
    pub tls: Arc<ClientConfig>,
}

/// How a client asked to be let in.
#[derive(Debug)]
pub enum Entry {
    /// A new session.
    Identify(Options),
    /// An old one, from this sequence on.
    Resume {
        /// Which.
        id: SessionId,
        /// The last sequence that the client has seen.
        sequence: u64,
    },
}

/// A client that passed the door.
pub struct Arrival {
    /// Its connection.
    pub parcel: Parcel,
    /// The shard that it wants.
    pub shard: u32,
    /// What it asked for.
    pub entry: Entry,
    /// Its API version, for an IDENTIFY that follows on the same connection.
    pub version: u8,
}

/// Messages to a data core.
pub enum ToCore {
    /// Start. Comes once and first.
    Start(Box<Plan>),
    /// Time has passed. A timer of the core's own would cost two system calls more each time it goes to sleep, which is up to
    /// once an event.
    Tick,
    /// The identify queue lets a shard go.
    Permit(u32),
    /// A client to serve.
    Client(Box<Arrival>),
    /// Answer with [`ToControl::Reports`].
    Report(u64),
    /// Leave Discord and the clients so that both can be resumed, then answer with [`ToControl::Stopped`].
    Stop,
}

/// Messages to the control core.
pub enum ToControl {
    /// A shard has a session of a former process: it needs no permit to start.
    Restored(u32),
    /// A shard wants to identify.
    WantPermit(u32),
    /// A client whose RESUME was refused: it may identify on the same connection.
    Return(Box<Parcel>, u8),
    /// The states of all shards of a core, in answer to the request of that number.
    Reports(u64, Vec<Report>),
    /// A shard was given up for good.
    Fatal(u32, u16, &'static str),
    /// A task has panicked, and was contained.
    Panicked,
    /// A core has nothing left to do.
    Stopped,
}

/// One client's connection as the rest of the core sees it.
struct Handle {
    number: u64,
    /// Its session on the shard.
    session: u32,
    /// Gone when the connection comes to its end, which is its own task's business.
    connection: RefCell<Option<ClientConnection>>,
    waker: RefCell<Option<Waker>>,
    /// Since when bytes wait that the client does not take.
    stalled_since: Cell<Option<Time>>,
    /// Its task waits for news, and for nothing else.
    idle: Cell<bool>,
    /// What another task came upon while it served this client.
    panic: RefCell<Option<Box<dyn Any + Send>>>,
}

/// A shard with its surroundings.
struct Place {
    shard: RefCell<Shard>,
    /// Wakes the upstream connection.
    upstream: RefCell<Option<Waker>>,
    clients: RefCell<HashMap<u64, Rc<Handle>>>,
    /// The shard has panicked in a task that is not its own. The upstream task starts it anew.
    broken: Cell<bool>,
}

/// Notes whom to wake. The waker of a task stays the same, so this is mostly one comparison.
fn note_waker(slot: &RefCell<Option<Waker>>, cx: &Context<'_>) {
    match &mut *slot.borrow_mut() {
        Some(waker) => waker.clone_from(cx.waker()),
        empty => *empty = Some(cx.waker().clone()),
    }
}

impl Place {
    /// Calls into the shard, then wakes whom that concerns.
    fn with<T>(&self, call: impl FnOnce(&mut Shard) -> T) -> T {
        let (result, wake) = self.call(call);
        if wake.upstream
            && let Some(waker) = &*self.upstream.borrow()
        {
            waker.wake_by_ref();
        }
        if wake.clients {
            self.wake_clients();
        }
        result
    }

    /// Calls into the shard; says whom that concerns.
    fn call<T>(&self, call: impl FnOnce(&mut Shard) -> T) -> (T, Wake) {
        let mut shard = self.shard.borrow_mut();
        let result = call(&mut shard);
        (result, shard.take_wake())
    }

    /// The same as [`Place::with`] for a task that serves other shards too: a panic costs only this one. `None`: there was
    /// one.
    fn try_with<T>(&self, call: impl FnOnce(&mut Shard) -> T) -> Option<T> {
        let result = catch_unwind(AssertUnwindSafe(|| self.with(call)));
        if result.is_err() {
            self.broken.set(true);
            if let Some(waker) = &*self.upstream.borrow() {
                waker.wake_by_ref();
            }
        }
        result.ok()
    }

    /// Waits until the shard is broken. To be awaited by the upstream task, which is the one that is woken.
    async fn broken(&self) {
        poll_fn(|_| if self.broken.take() { Poll::Ready(()) } else { Poll::Pending }).await
    }

    /// There may be something to write for clients. If there is only one, as for most bots, it gets it now: to wake its task
    /// for each event took 6 % of the CPU at 40,000 events a second. Several have their turns one after the other.
    fn serve_clients(&self, now: Time) {
        let clients = self.clients.borrow();
        let only = clients.values().next().filter(|_| clients.len() == 1);
        if !only.is_some_and(|client| client::serve_now(self, client, now)) {
            self.wake_clients();
        }
    }

    /// Wakes those who may have something to write. Who takes nothing has enough already: the socket wakes it when that
    /// changes, and each sweep does, in case there is a reason to close. So a crowd of them costs nobody anything.
    fn wake_clients(&self) {
        self.wake_handles(|handle| handle.stalled_since.get().is_none());
    }

    fn wake_handles(&self, wanted: impl Fn(&Handle) -> bool) {
        for handle in self.clients.borrow().values().filter(|handle| wanted(handle)) {
            if let Some(waker) = &*handle.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }
}

struct Core {
    plan: Box<Plan>,
    epoch: Instant,
    control: Postbox<ToControl>,
    places: HashMap<u32, Rc<Place>>,
    next_connection: Cell<u64>,
    stopping: Cell<bool>,
}

impl Core {
    fn now(&self) -> Time {
        self.epoch.elapsed()
    }

    fn tell(&self, message: ToControl) {
        if self.control.send(message).is_err() {
            tracing::error!("the control core does not take messages");
        }
    }

    /// A shard at its beginning.
    fn new_shard(plan: &Plan, index: usize) -> Shard {
        let Parts { id, settings, identity, entropy } = Parts::new(plan, index);
        Shard::new(id, settings, identity, plan.gateway_url.clone(), None, entropy)
    }

    /// A shard that goes on where a former process has stopped, if there is a good state file.
    fn old_shard(plan: &Plan, index: usize, now: Time) -> Option<Shard> {
        let directory = plan.state_dir.as_deref()?;
        let Parts { id, settings, identity, entropy } = Parts::new(plan, index);
        let url = plan.gateway_url.clone();
        let make =
            |mut stream: &mut dyn Read, now| Shard::restore(id, settings, identity, url, entropy, now, &mut stream);
        match state::load(directory, plan, id.id, make, now) {
            Ok(shard) => shard,
            Err(error) => {
                tracing::warn!(shard = id.id, "the state file in {} is ignored: {error}", directory.display());
                None
            }
        }
    }
}

/// What a shard is made of.
struct Parts {
    id: ShardId,
    settings: Rc<Settings>,
    identity: Identity,
    entropy: Entropy,
}

impl Parts {
    fn new(plan: &Plan, index: usize) -> Self {
        let id = ShardId { id: plan.shards[index], count: plan.shard_count };
        let presence = plan.presences.get(index).map(|presence| &**presence);
        let identity = Identity {
            identify: payload::identify(&plan.token, id, plan.intents, presence),
            token: plan.token.to_string(),
        };
        let settings = Settings {
            public_url: plan.public_url.clone(),
            log: plan.log,
            resume_window: plan.resume_window,
            cache: plan.cache,
            honor_client_intents: plan.honor_client_intents,
            intents: plan.intents,
        };
        let random = crate::net::tls::provider().secure_random;
        let entropy = Box::new(move |bytes: &mut [u8]| {
            random.fill(bytes).expect("the system has random numbers");
        });
        Self { id, settings: Rc::new(settings), identity, entropy }
    }
}

/// Runs a data core on the calling executor until it is told to stop. `epoch` is the process's zero of time.
pub async fn run(mut mailbox: Mailbox<ToCore>, control: Postbox<ToControl>, epoch: Instant) {
    let plan = loop {
        match mailbox.receive().await {
            ToCore::Start(plan) => break plan,
            ToCore::Report(number) => drop(control.send(ToControl::Reports(number, Vec::new()))),
            ToCore::Stop => {
                drop(control.send(ToControl::Stopped));
                return;
            }
            // No shard can have asked, and no client be let in, before there is a plan.
            ToCore::Permit(_) | ToCore::Client(_) | ToCore::Tick => {}
        }
    };
    let places = plan.shards.iter().enumerate().map(|(index, &id)| {
        let shard = match Core::old_shard(&plan, index, epoch.elapsed()) {
            Some(shard) => {
                drop(control.send(ToControl::Restored(id)));
                shard
            }
            None => Core::new_shard(&plan, index),
        };
        let place = Place {
            shard: RefCell::new(shard),
            upstream: RefCell::new(None),
            clients: RefCell::new(HashMap::new()),
            broken: Cell::new(false),
        };
        (id, Rc::new(place))
    });
    let places = places.collect();
    let core =
        Rc::new(Core { places, plan, epoch, control, next_connection: Cell::new(0), stopping: Cell::new(false) });
    for (index, id) in core.plan.shards.iter().enumerate() {
        glommio::spawn_local(upstream::run(core.clone(), core.places[id].clone(), index)).detach();
    }
    let mut ticks = 0u32;
    loop {
        match mailbox.receive().await {
            ToCore::Start(_) => {}
            ToCore::Tick => {
                ticks = ticks.wrapping_add(1);
                tick(&core, ticks.is_multiple_of(TICKS_PER_SWEEP));
            }
            ToCore::Permit(shard) => {
                if let Some(place) = core.places.get(&shard) {
                    place.try_with(|shard| shard.upstream_permitted(core.now()));
                }
            }
            ToCore::Client(arrival) => admit(&core, *arrival),
            ToCore::Report(number) => {
                let reports = core.places.values().filter_map(|place| place.try_with(|shard| shard.report())).collect();
                core.tell(ToControl::Reports(number, reports));
            }
            ToCore::Stop => break,
        }
    }
    stop(&core).await;
}

fn admit(core: &Rc<Core>, arrival: Arrival) {
    let Some(place) = core.places.get(&arrival.shard).cloned() else {
        // The door knows which shards there are, so this is a client of a shard that no longer exists.
        return;
    };
    let core = core.clone();
    glommio::spawn_local(async move {
        if contain(client::serve(core.clone(), place, arrival)).await.is_none() {
            core.tell(ToControl::Panicked);
            tracing::error!("a client's task panicked; its connection is dropped");
        }
    })
    .detach();
}

fn tick(core: &Core, sweep: bool) {
    let now = core.now();
    let over = |since: Time| now.saturating_sub(since) >= client::STALL_LIMIT;
    for place in core.places.values() {
        place.try_with(|shard| shard.tick(now));
        while let Some(connection) = place.try_with(|shard| shard.poll_due(now)).flatten() {
            if let Some(handle) = place.clients.borrow().get(&connection)
                && let Some(waker) = &*handle.waker.borrow()
            {
                waker.wake_by_ref();
            }
        }
        place.wake_handles(|handle| sweep || handle.stalled_since.get().is_some_and(over));
    }
}

/// Longest wait for clients to take their goodbye.
const STOP_LIMIT: Duration = Duration::from_secs(8);

async fn stop(core: &Rc<Core>) {
    core.stopping.set(true);
    let now = core.now();
    for place in core.places.values() {
        place.try_with(|shard| shard.stop());
        place.wake_handles(|_| true);
    }
    let deadline = now + STOP_LIMIT;
    while core.now() < deadline && core.places.values().any(|place| !place.clients.borrow().is_empty()) {
        glommio::timer::sleep(Duration::from_millis(20)).await;
    }
    // The close frames to Discord go out in the same turns of the loop; give an idle core one at least.
    glommio::timer::sleep(Duration::from_millis(20)).await;
    if let Some(directory) = &core.plan.state_dir {
        for place in core.places.values() {
            // Nothing else runs on this core any more, so the disk may take its time.
            place.try_with(|shard| match state::store(directory, &core.plan, shard) {
                Ok(stored) => tracing::info!(shard = %shard.id(), stored, "state"),
                Err(error) => {
                    tracing::error!(shard = %shard.id(), "can not write the state file in {}: {error}", directory.display());
                }
            });
        }
    }
    core.tell(ToControl::Stopped);
}

#[cfg(test)]
mod tests;
