//! The control core: one thread that accepts client connections, serves HTTP, grants IDENTIFY permits, connects to
//! Discord for the data cores, and starts and stops the data cores.
//!
//! Owns the listening sockets, the identify queue, the answer of `/gateway/bot`, and the handling of signals. It
//! exchanges messages with the data cores and shares no other state with them, except for the budget of client memory.
//! No event passes through the control core.

mod answers;
pub mod body;
mod dial;
mod door;
mod external_queue;
mod feed;
mod forward;
pub mod hosts;
pub mod http;
pub mod identify;
mod metrics;
mod operator;
pub mod origin;
mod page;
mod permits;
mod pool;
mod reload;
pub mod rest;
mod saved_gateway;
mod service_manager;
mod signals;
mod single_flight;
mod starter;
mod status;
mod threads;
mod waits;

use crate::{
    config::Config,
    data_core::{CoreReport, ToControl, ToCore},
    downstream::budget::MemoryBudget,
    listener::Listener,
    net::{
        client::ClientConnection,
        mailbox::{Mailbox, Postbox, mailbox},
        spawn_contained, tls,
    },
    placement::Placement,
    preflight,
    state_dir::StateDir,
};
use door::RouteSet;
pub use door::{accept_upgrade, read_head};
use external_queue::ExternalQueue;
use feed::Feed;
pub use forward::response_head;
use glommio::{LocalExecutorBuilder, net::TcpListener};
use hosts::Hosts;
use http::OriginPolicy;
use identify::{IdentifyQueue, SessionStartLimit};
use metrics::ControlFigures;
use pool::{LogThrottle, Pool, Rate};
pub use reload::{Reloading, SetLogLevel};
use rest::{GatewayInfo, RestError};
use saved_gateway::SavedGateway;
use service_manager::ServiceManager;
use single_flight::SingleFlight;
use starter::{CoreThreads, Starter, client_memory, origin_policy};
use status::CoreReports;
use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashMap,
    os::fd::{FromRawFd, IntoRawFd, RawFd},
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

/// Why the proxy ended without a signal that asked for it, or could not stop in order.
#[derive(Debug)]
pub struct Failure(pub String);

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Messages to the control core from threads other than the data cores, and a data core's failure, which the task that
/// reads the mailbox of the data cores passes on.
enum Event {
    Signal(i32),
    /// A data core can not go on, for this reason.
    Failed(String),
    Gateway(Result<GatewayInfo, RestError>),
    /// The external queue has granted a permit to this shard.
    Permit(u32),
    /// A request to the external queue has failed, for this reason.
    QueueFailed(String),
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
    reports: Rc<SingleFlight<Rc<CoreReports>>>,
    status: Rc<SingleFlight<Rc<str>>>,
    metrics: Rc<SingleFlight<Rc<str>>>,
    /// A client connection with this descriptor or a higher one is refused, because the remaining descriptors are
    /// reserved for shards.
    last_descriptor: RawFd,
    reserved_files: u64,
    /// Discord's session id of each shard that has reported whether it has a session. `None`: the shard has none.
    upstream_ids: RefCell<HashMap<u32, Option<String>>>,
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
    let failure = |what: &str, error: &dyn std::fmt::Display| Failure(format!("{what}: {error}"));
    let signals = signals::register().map_err(|error| failure("can not handle signals", &error))?;
    let tls = tls::client_config().map_err(Failure)?;
    let (epoch, started) = (Instant::now(), SystemTime::now());
    let ((to_control, from_cores), (events, inbox)) = (mailbox(), mailbox());

    let starter = Starter { placement: placement.clone(), control: to_control, epoch, threads: CoreThreads::default() };
    let threads = starter.threads.clone();
    let hosts = Hosts(config.gateway_hosts.clone());
    let Threads { ask_rest, external_queue } = threads::start(&config, &hosts, signals, &events)?;
    let core_events = events;
    let files = preflight::open_files().map_err(|error| failure("the limit of open files", &error))?;
    let reserved_files = preflight::reserved_files(config.shards, files);
    let memory = Arc::new(MemoryBudget::new(client_memory(&config)));
    let executor = LocalExecutorBuilder::new(glommio::Placement::Fixed(placement.control))
        .name("control")
        .io_memory(IO_MEMORY)
        .spawn(move || async move {
            let control = Rc::new(Control {
                origin_policy: origin_policy(&config),
                live: RefCell::new(Rc::new(config.clone())),
                hosts,
                memory,
                config,
                reloading,
                reloads: Cell::default(),
                epoch,
                started,
                feed: RefCell::default(),
                waits: RefCell::default(),
                service_manager: RefCell::new(ServiceManager::start()),
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
                ask_rest,
                rest_failure: RefCell::new(None),
                stopping: Cell::new(false),
                unauthenticated: Pool::new(door::MAX_UNAUTHENTICATED),
                scrapes: Pool::new(door::MAX_SCRAPES),
                tokenless: Pool::new(forward::MAX_TOKENLESS),
                tokenless_rate: RefCell::new(Rate::new(forward::TOKENLESS_RATE)),
                reports: SingleFlight::new(answers::REPORTS_REUSED_FOR),
                status: SingleFlight::new(answers::REPORTS_REUSED_FOR),
                metrics: SingleFlight::new(answers::REPORTS_REUSED_FOR),
                last_descriptor: files.saturating_sub(reserved_files).try_into().unwrap_or(RawFd::MAX),
                reserved_files,
                upstream_ids: RefCell::default(),
                token_log: RefCell::default(),
                files_log: RefCell::default(),
                accept_log: RefCell::default(),
            });
            control.main(listeners, from_cores, inbox, core_events, tls).await
        })
        .map_err(|error| failure("can not start the control core", &error))?;
    let result = executor.join().map_err(|error| failure("the control core ended", &error))?;
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

    async fn main(
        self: Rc<Self>,
        listeners: Listeners,
        from_cores: Mailbox<ToControl>,
        mut inbox: Mailbox<Event>,
        events: Postbox<Event>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<(), Failure> {
        let mut doors = Vec::new();
        let own = if listeners.admin.is_some() { RouteSet::Bots } else { RouteSet::All };
        let admin = listeners.admin.map(|listener| (listener, RouteSet::Operators));
        for (listener, routes) in [Some((listeners.bots, own)), admin].into_iter().flatten() {
            let (listener, stopper) =
                listener.split().map_err(|error| Failure(format!("can not copy a descriptor: {error}")))?;
            // SAFETY: the descriptor is a listening stream socket whose ownership `into_raw_fd` has given up.
            let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
            doors.push((glommio::spawn_local(door::accept(self.clone(), listener, routes)), stopper));
        }
        let stopped = Rc::new(Cell::new(0));
        glommio::spawn_local(self.clone().receive_from_cores(from_cores, events, tls, stopped.clone())).detach();
        glommio::spawn_local(self.clone().pace_identifies()).detach();
        glommio::spawn_local(self.clone().tell_service_manager()).detach();
        let _ = self.ask_rest.try_send(Duration::ZERO);
        let end = self.serve(&mut inbox).await;
        if let Err(failure) = &end {
            tracing::error!("{failure}: the proxy stops; the sessions with Discord and with clients can be resumed");
        }
        self.stopping.set(true);
        self.tell_stopping();
        // The listening sockets close before the clients are disconnected, so that a client that reconnects reaches the
        // next process and not this one.
        for (door, stopper) in doors {
            stopper.stop();
            let _ = crate::net::within(DOOR_LIMIT, door).await;
        }
        for core in self.cores() {
            let _ = core.send(ToCore::Stop);
        }
        let all_stopped = async {
            while stopped.get() < self.cores().len() {
                glommio::timer::sleep(Duration::from_millis(10)).await;
            }
            true
        };
        let second_signal = async {
            while !matches!(inbox.receive().await, Event::Signal(signal) if signal != signals::RELOAD) {}
            false
        };
        let result = match crate::net::within(STOP_LIMIT, crate::net::race(all_stopped, second_signal)).await {
            Some(true) => {
                self.save_gateway();
                end
            }
            Some(false) => {
                Err(Failure("a second signal came: the proxy quits without waiting for its data cores".into()))
            }
            None => Err(Failure("the data cores did not end in time".into())),
        };
        self.end_service_manager();
        result
    }

    /// Handles answers of `/gateway/bot`, permits of the external queue, and signals, until the proxy has to end.
    /// Returns `Ok` when a signal asked for the end, and `Err` when the proxy can not go on. In both cases the caller
    /// leaves Discord's sessions and the clients' sessions in a state in which they can be resumed.
    async fn serve(&self, inbox: &mut Mailbox<Event>) -> Result<(), Failure> {
        let mut backoff = REST_BACKOFF.0;
        let mut saved = self.saved_gateway();
        loop {
            match inbox.receive().await {
                Event::Gateway(Ok(info)) => {
                    backoff = REST_BACKOFF.0;
                    saved = None;
                    *self.rest_failure.borrow_mut() = None;
                    self.apply_gateway_info(info)?;
                }
                Event::Gateway(Err(RestError::Unauthorized)) => {
                    return Err(Failure(
                        "Discord refused the token (401): set a current one in TOKEN or `token`".into(),
                    ));
                }
                Event::Gateway(Err(RestError::Temporary { what, retry_after })) => {
                    self.retry_rest(what, retry_after, backoff);
                    backoff = (backoff * 2).min(REST_BACKOFF.1);
                    if let Some(SavedGateway { url, shards }) = saved.take() {
                        tracing::warn!(
                            "starting without an answer of GET /gateway/bot: shards with a state file resume, the others wait for that answer"
                        );
                        self.start(url, shards, None)?;
                    }
                }
                Event::Failed(what) => return Err(Failure(format!("a data core failed: {what}"))),
                Event::Permit(shard) => self.permitted(shard),
                Event::QueueFailed(what) => self.queue_failed(what),
                Event::Signal(signals::RELOAD) => drop(self.reload("SIGHUP")),
                Event::Signal(signal) => {
                    tracing::info!(
                        "signal {signal}: the proxy stops; the sessions with Discord and with clients can be resumed"
                    );
                    return Ok(());
                }
            }
        }
    }

    /// Schedules another GET `/gateway/bot` after `backoff`, or after `retry_after` when that is longer.
    fn retry_rest(&self, what: String, retry_after: Option<Duration>, backoff: Duration) {
        let wait = retry_after.map_or(backoff, |asked| asked.max(backoff));
        let reason =
            if retry_after.is_some_and(|asked| asked >= backoff) { ", as the answer asks (Retry-After)" } else { "" };
        let url = rest::url(self.config.twilight_http_proxy.as_deref());
        tracing::warn!("GET {url}: {what}; trying again in {} s{reason}", seconds(wait));
        *self.rest_failure.borrow_mut() = Some(RestFailure { what, again_at: self.now() + wait });
        let _ = self.ask_rest.try_send(wait);
    }

    /// Handles an answer of `/gateway/bot`. If the shards have not been started, the answer starts them. Otherwise it
    /// renews the IDENTIFY budget, and its URL replaces the one that the shards were started with, which may come from
    /// the file of the last process.
    fn apply_gateway_info(&self, info: GatewayInfo) -> Result<(), Failure> {
        if let Some(queue) = &mut *self.queue.borrow_mut() {
            queue.renew(info.budget, self.now());
        } else {
            return self.start(info.url, info.shards, Some(info.budget));
        }
        let mut gateway = self.gateway.borrow_mut();
        if let Some(known) = gateway.as_mut().filter(|known| known.url != info.url) {
            tracing::info!("Discord's gateway is at {} now, and no longer at {}", info.url, known.url);
            known.url.clone_from(&info.url);
            for core in self.cores() {
                let _ = core.send(ToCore::GatewayUrl(info.url.clone()));
            }
        }
        Ok(())
    }

    /// Starts the data cores with their shards. Without `budget`, shards that have to identify wait until
    /// `/gateway/bot` has told it.
    fn start(&self, url: String, recommended: u32, budget: Option<SessionStartLimit>) -> Result<(), Failure> {
        let shards = self.config.shard_range(recommended).map_err(Failure)?;
        let count = self.config.shards.unwrap_or(recommended);
        tracing::info!(
            shards = shards.len(),
            of = count,
            recommended,
            identifies_left = budget.map(|budget| budget.remaining),
            max_concurrency = budget.map(|budget| budget.max_concurrency),
            "starting"
        );
        let queue = match budget {
            Some(budget) => {
                let queue = IdentifyQueue::new(budget, self.now(), shards.clone());
                if queue.is_exhausted() {
                    tracing::error!(
                        "only {} of {} IDENTIFYs are left, and {} shards have to start: no shard identifies for {} s, until Discord renews them",
                        budget.remaining,
                        budget.total,
                        shards.len(),
                        budget.reset_after.as_secs()
                    );
                }
                queue
            }
            None => IdentifyQueue::without_budget(shards.clone()),
        };
        *self.queue.borrow_mut() = Some(queue);
        if let Some(directory) = self.state_dir() {
            SavedGateway::forget(&directory);
        }
        let cores = self.starter.start(shards.len())?;
        let cores = self.cores.get_or_init(|| cores);
        for (index, core) in cores.iter().enumerate() {
            let own: Vec<u32> = shards.clone().filter(|shard| self.index_of(*shard) == index).collect();
            let config = self.core_config(index, own, count, url.clone());
            if core.send(ToCore::Start(Box::new(config))).is_err() {
                return Err(Failure(format!("data core {index} has ended")));
            }
        }
        *self.gateway.borrow_mut() = Some(SavedGateway { url, shards: recommended });
        Ok(())
    }

    fn state_dir(&self) -> Option<StateDir> {
        self.config.state_dir.as_deref().map(|path| StateDir::new(path, self.config.token.bare()))
    }

    /// The mailboxes of the data cores; empty until the shards have been started.
    fn cores(&self) -> &[Postbox<ToCore>] {
        self.cores.get().map_or(&[], Vec::as_slice)
    }

    /// The index of the data core that has this shard. Panics before the data cores have been started.
    fn index_of(&self, shard: u32) -> usize {
        shard as usize % self.cores().len()
    }

    async fn receive_from_cores(
        self: Rc<Self>,
        mut mailbox: Mailbox<ToControl>,
        events: Postbox<Event>,
        tls: Arc<rustls::ClientConfig>,
        stopped: Rc<Cell<usize>>,
    ) {
        let mut dialler = dial::Dialler::default();
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
                ToControl::Return(parts, version) => {
                    let connection = ClientConnection::from_parts(*parts);
                    let task = door::readmit(self.clone(), connection, version);
                    spawn_contained("the task of a connection at the door", task);
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
                ToControl::StatusChanged(change) => {
                    self.service_manager.borrow_mut().changed(change.shard, change.to);
                    self.feed.borrow_mut().add_status_change(change);
                }
                ToControl::Pulse(core) => self.service_manager.borrow_mut().answered(core),
                ToControl::Dial { shard, attempt, url } => {
                    dialler.start(self.clone(), tls.clone(), shard, attempt, url);
                }
                ToControl::Failed(what) => {
                    // The thread of that core has ended, so it counts as stopped: the orderly stop of the others does
                    // not wait for it.
                    stopped.set(stopped.get() + 1);
                    drop(events.send(Event::Failed(what)));
                }
                ToControl::Panicked => self.figures.borrow_mut().panics += 1,
                ToControl::Stopped => stopped.set(stopped.get() + 1),
            }
        }
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

    fn accepts_token(&self, token: &str) -> bool {
        !self.config.validate_token || self.config.token.matches(token)
    }
}

/// The length of a wait in whole seconds, rounded up.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
