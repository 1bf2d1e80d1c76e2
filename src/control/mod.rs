//! The control core: one thread that accepts client connections, serves HTTP, grants IDENTIFY permits, connects to
//! Discord for the data cores, and starts and stops the data cores.
//!
//! Owns the listening sockets, the identify queue, the answer of `/gateway/bot`, and the handling of signals. It
//! exchanges messages with the data cores and shares no other state with them, except for the budget of client memory.
//! No event passes through the control core.

mod access;
mod answers;
mod api_request;
pub mod connection;
mod core_messages;
mod dial;
mod door;
mod every_second;
mod external_queue;
mod failure;
mod feed;
mod file_watch;
mod forward;
mod gateway_info;
pub mod http;
pub mod identify;
mod lifecycle;
mod metrics;
mod operator;
pub mod origin;
mod page;
mod permits;
mod pool;
mod queue_connection;
mod reload;
pub mod rest;
mod saved_gateway;
mod service_manager;
mod signals;
mod single_flight;
mod spawn;
mod starter;
mod status;
mod threads;
mod waits;
mod watchdog;

use crate::{
    config::Config,
    data_core::{CoreFailure, CoreReport, ToCore},
    downstream::budget::MemoryBudget,
    listener::Listener,
    net::{
        ContainedTasks,
        hosts::Hosts,
        mailbox::{Postbox, mailbox},
        tls,
    },
    placement::Placement,
    preflight,
};
pub use door::{accept_upgrade, read_head};
use external_queue::{ExternalQueue, QueueError};
pub use failure::Failure;
use feed::Feed;
use glommio::LocalExecutorBuilder;
use http::OriginPolicy;
use identify::IdentifyQueue;
use metrics::ControlFigures;
use pool::{LogThrottle, Pool, Rate};
pub use reload::{Reloading, SetLogLevel};
use rest::{GatewayInfo, RestError};
use saved_gateway::SavedGateway;
use service_manager::ServiceManager;
use single_flight::SingleFlight;
use starter::{CoreThreads, Starter, memory_budget, origin_policy};
use status::CoreReports;
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    os::fd::RawFd,
    rc::Rc,
    sync::Arc,
    task,
    time::{Duration, Instant, SystemTime},
};
use threads::Threads;
use waits::PermitWaits;

/// Memory that an executor registers with io_uring, in bytes. Sockets do not use it, and glommio's default is 10 MiB.
const IO_MEMORY: usize = 64 << 10;
/// Longest wait for the reports of the data cores. A report that comes later is dropped.
const REPORT_LIMIT: Duration = Duration::from_secs(5);
/// First and longest wait before a failed GET `/gateway/bot` is repeated. The wait doubles with each failure.
const REST_BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often the identify queue is polled while a shard waits in it.
const QUEUE_TICK: Duration = Duration::from_millis(100);
/// Longest wait for the data cores when the proxy stops. They close the client connections and write the state files,
/// which are some gigabytes at most.
const STOP_LIMIT: Duration = Duration::from_secs(90);
/// Longest wait for an accept loop to end after its listening socket was shut down.
const DOOR_LIMIT: Duration = Duration::from_secs(1);

/// Messages to the control core from threads other than the data cores, and a data core's failure, which the task that
/// reads the mailbox of the data cores passes on.
enum Event {
    Signal(i32),
    /// A data core can not go on.
    Failed(CoreFailure),
    Gateway(Result<GatewayInfo, RestError>),
    /// The external queue has granted a permit to this shard.
    Permit(u32),
    /// A request to the external queue has failed.
    QueueFailed(QueueError),
}

/// A GET `/gateway/bot` that failed.
struct RestFailure {
    /// Why the request failed.
    what: String,
    /// When the request is repeated, as time since [`Control::epoch`].
    again_at: Duration,
}

/// The reports of the data cores that one request gathers.
#[derive(Default)]
struct ReportRequest {
    reports: Vec<CoreReport>,
    missing: usize,
    waker: Option<task::Waker>,
}

/// The state of the control core.
struct Control {
    /// The configuration at the start. Keys that need a restart to change are read from here.
    config: Config,
    /// The configuration in force, with the keys that a reload has changed; see [`Control::live`].
    live: RefCell<Rc<Config>>,
    reloading: Reloading,
    reloads: Cell<reload::Reloads>,
    file_watch: RefCell<file_watch::FileWatch>,
    epoch: Instant,
    /// The wall-clock time at `epoch`.
    started: SystemTime,
    /// The mailboxes of the data cores, by index. Empty until the number of shards is known.
    cores: OnceCell<Vec<Postbox<ToCore>>>,
    starter: Starter,
    /// The gateway URL and the recommended number of shards that the shards run with; `None` until they have been
    /// started.
    gateway: RefCell<Option<SavedGateway>>,
    queue: RefCell<Option<IdentifyQueue>>,
    /// The queue that several proxies share (`identify_queue`); `None`: only the own queue grants permits.
    external_queue: Option<ExternalQueue>,
    /// Why the last request to the external queue failed; `None`: the last one was answered.
    queue_failure: RefCell<Option<String>>,
    queue_log: RefCell<LogThrottle>,
    /// Wakes the task that grants permits. Set while no shard waits for a permit and that task sleeps.
    pacer: Cell<Option<task::Waker>>,
    report_requests: RefCell<HashMap<u64, ReportRequest>>,
    next_report_request: Cell<u64>,
    figures: RefCell<ControlFigures>,
    /// The tasks of connections at the door, and those that gather reports.
    tasks: ContainedTasks,
    ask_rest: crossbeam_channel::Sender<Duration>,
    /// The failure of the last GET `/gateway/bot`; `None`: it was answered.
    rest_failure: RefCell<Option<RestFailure>>,
    /// The proxy stops: it accepts no connection and admits no client any more.
    stopping: Cell<bool>,
    /// The origins and host names whose HTTP requests and upgrades are accepted.
    origin_policy: OriginPolicy,
    /// The hosts that shards may connect to.
    hosts: Hosts,
    /// The memory that the connections of all clients may take, shared with the data cores.
    memory: Arc<MemoryBudget>,
    /// Places of connections that have not identified, and of HTTP requests.
    unauthenticated: Rc<Pool>,
    /// Places of answers to operators' requests and to `/health` that are being made or sent.
    scrapes: Rc<Pool>,
    /// Places of forwarded requests without the bot's token, whose path carries a token of its own.
    tokenless: Rc<Pool>,
    tokenless_rate: RefCell<Rate>,
    /// Recent changes of shards' states and actions of operators.
    feed: RefCell<Feed>,
    /// How long shards have waited for their permits to identify.
    waits: RefCell<PermitWaits>,
    service_manager: RefCell<ServiceManager>,
    /// What the watchdog has found.
    found: RefCell<watchdog::Found>,
    reports: Rc<SingleFlight<Rc<CoreReports>>>,
    status: Rc<SingleFlight<Rc<str>>>,
    metrics: Rc<SingleFlight<Rc<str>>>,
    /// A client connection with this descriptor or a higher one is refused, because the remaining descriptors are
    /// reserved for shards.
    last_descriptor: RawFd,
    reserved_files: u64,
    /// Discord's session id of each shard that has reported whether it has a session. `None`: the shard has none.
    upstream_ids: RefCell<HashMap<u32, Option<String>>>,
    /// What was noted about the credentials of clients.
    noted: access::Noted,
    /// `Some`: a data core has not got the configuration in force, because its mailbox was full.
    untold: Cell<Option<reload::Presences>>,
    token_log: RefCell<LogThrottle>,
    files_log: RefCell<LogThrottle>,
    accept_log: RefCell<LogThrottle>,
}

/// The sockets that the proxy listens on.
pub struct Listeners {
    /// The socket for bots. Without `admin`, it serves all routes.
    pub bots: Listener,
    /// The socket for operators (`admin_listen`).
    pub admin: Option<Listener>,
}

/// Runs the proxy until SIGTERM or SIGINT ends it. No other code of the process may handle these signals or SIGHUP.
///
/// Returns an error when the proxy can not start, when it can not go on, and when it could not stop in order.
pub fn run(config: Config, placement: &Placement, listeners: Listeners, reloading: Reloading) -> Result<(), Failure> {
    let signals = signals::register().map_err(Failure::Signals)?;
    let tls = tls::client_config()?;
    let (epoch, started) = (Instant::now(), SystemTime::now());
    let ((to_control, from_cores), (events, inbox)) = (mailbox(), mailbox());

    let starter = Starter { placement: placement.clone(), control: to_control, epoch, threads: CoreThreads::default() };
    let threads = starter.threads.clone();
    let hosts = Hosts(config.gateway_hosts.clone());
    let Threads { ask_rest, external_queue } = threads::start(&config, &hosts, signals, &events)?;
    let core_events = events;
    let files = preflight::open_files().map_err(Failure::OpenFiles)?;
    let reserved_files = preflight::reserved_files(config.shards, files);
    let memory = Arc::new(memory_budget(&config));
    let cpu = placement.control;
    let executor = LocalExecutorBuilder::default()
        .name("control")
        .io_memory(IO_MEMORY)
        .spawn(move || async move {
            starter::pin_control_core(cpu)?;
            let tasks = ContainedTasks::default();
            let control = Rc::new(Control {
                origin_policy: origin_policy(&config),
                live: RefCell::new(Rc::new(config.clone())),
                hosts,
                memory,
                config,
                reloading,
                reloads: Cell::default(),
                file_watch: RefCell::default(),
                epoch,
                started,
                feed: RefCell::default(),
                waits: RefCell::default(),
                service_manager: RefCell::new(ServiceManager::start()),
                found: RefCell::default(),
                cores: OnceCell::new(),
                starter,
                gateway: RefCell::new(None),
                queue: RefCell::new(None),
                external_queue,
                queue_failure: RefCell::default(),
                queue_log: RefCell::default(),
                pacer: Cell::new(None),
                report_requests: RefCell::new(HashMap::new()),
                next_report_request: Cell::new(0),
                figures: RefCell::new(ControlFigures::default()),
                tasks: tasks.clone(),
                ask_rest,
                rest_failure: RefCell::new(None),
                stopping: Cell::new(false),
                unauthenticated: Pool::new(door::MAX_UNAUTHENTICATED),
                scrapes: Pool::new(door::MAX_SCRAPES),
                tokenless: Pool::new(forward::MAX_TOKENLESS),
                tokenless_rate: RefCell::new(Rate::new(forward::TOKENLESS_RATE)),
                reports: SingleFlight::new(answers::REPORTS_REUSED_FOR, &tasks),
                status: SingleFlight::new(answers::REPORTS_REUSED_FOR, &tasks),
                metrics: SingleFlight::new(answers::REPORTS_REUSED_FOR, &tasks),
                last_descriptor: files.saturating_sub(reserved_files).try_into().unwrap_or(RawFd::MAX),
                reserved_files,
                upstream_ids: RefCell::default(),
                noted: access::Noted::default(),
                untold: Cell::default(),
                token_log: RefCell::default(),
                files_log: RefCell::default(),
                accept_log: RefCell::default(),
            });
            control.main(listeners, from_cores, inbox, core_events, tls).await
        })
        .map_err(Failure::ControlCore)?;
    let result = executor.join().map_err(Failure::ControlCoreEnded)?;
    for thread in std::mem::take(&mut *threads.lock().expect("nobody panics with it")) {
        // When the proxy ends with an error, the threads are not joined, because one of them may never end. The end of
        // the process ends them.
        if result.is_ok() {
            let _ = thread.join();
        }
    }
    result
}

impl Control {
    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// The mailboxes of the data cores; empty until the shards have been started.
    fn cores(&self) -> &[Postbox<ToCore>] {
        self.cores.get().map_or(&[], Vec::as_slice)
    }

    /// The index of the data core that has this shard. Panics before the data cores have been started.
    fn index_of(&self, shard: u32) -> usize {
        shard as usize % self.cores().len()
    }

    /// How many shards the bot has; `None` until that is known.
    fn shard_count(&self) -> Option<u32> {
        self.config.shards.or_else(|| self.gateway.borrow().as_ref().map(|info| info.shards))
    }

    /// How many shards the bot has; `None` until the shards have been started. Clients are admitted only then.
    fn running_shards(&self) -> Option<u32> {
        self.gateway.borrow().as_ref().and_then(|_| self.shard_count())
    }

    /// The mailbox of the data core that has this shard; `None`: this proxy does not serve the shard, or has not
    /// started it yet.
    fn core_of(&self, shard: u32) -> Option<&Postbox<ToCore>> {
        let recommended = self.gateway.borrow().as_ref()?.shards;
        let range = self.config.shard_range(recommended).ok()?;
        range.contains(&shard).then(|| &self.cores()[self.index_of(shard)])
    }

    /// The shard whose session has this id at Discord. `Some(None)`: all shards have reported, and none has this
    /// session. `None`: not known yet, because some shards have not reported.
    fn shard_of_upstream_id(&self, id: &str) -> Option<Option<u32>> {
        let range = self.config.shard_range(self.gateway.borrow().as_ref()?.shards).ok()?;
        let ids = self.upstream_ids.borrow();
        let found = ids.iter().find(|(_, known)| known.as_deref() == Some(id)).map(|(shard, _)| *shard);
        (found.is_some() || ids.len() >= range.len()).then_some(found)
    }

    fn intents(&self) -> u64 {
        self.config.intents
    }
}

/// The length of a wait in whole seconds, rounded up.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
