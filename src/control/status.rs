//! `/status.json`: the state of the whole proxy in one document, for the live page, `gateway-proxy status` and scripts.
//!
//! The fields of the document are described in docs/operations.md. New fields may come; existing ones stay. The
//! document holds no token, no session id, and no text that users of Discord or of the bot wrote.

use super::{
    Control, RestFailure,
    feed::{FeedEntry, FeedEvent},
    watchdog::{self, Found},
};
use crate::{
    data_core::{CoreReport, figures::thread_cpu_time},
    protocol::{Time, close::FatalClose, event::EventKind},
    shard::report::{ClientKind, ClientReport, CloseReason, Report},
    upstream::{loss::Reason, session::Status},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

/// Most entries of the feed in the document.
const SHOWN_ENTRIES: usize = 100;

/// The reports of all data cores, gathered at one time.
#[derive(Clone, Debug)]
pub struct CoreReports {
    /// When the reports were gathered, as time since the start.
    pub at: Time,
    /// The reports of all shards, by id.
    pub shards: Vec<Report>,
    /// The reports of all data cores, by index, without those of their shards.
    pub cores: Vec<CoreReport>,
    /// Number of shards of each data core.
    pub shards_of_cores: Vec<usize>,
    /// CPU time of the control core's thread.
    pub control_cpu: Duration,
}

impl CoreReports {
    /// Sorts what the data cores have reported. Has to be called on the control core, whose CPU time it measures.
    pub fn new(at: Time, mut cores: Vec<CoreReport>) -> Self {
        cores.sort_by_key(|core| core.index);
        let shards_of_cores = cores.iter().map(|core| core.shards.len()).collect();
        let mut shards: Vec<Report> = cores.iter_mut().flat_map(|core| std::mem::take(&mut core.shards)).collect();
        shards.sort_by_key(|report| report.shard);
        Self { at, shards, cores, shards_of_cores, control_cpu: thread_cpu_time() }
    }

    /// Number of connected clients by library, encoding and compression.
    pub fn client_kinds(&self) -> BTreeMap<ClientKind, u64> {
        let mut all = BTreeMap::new();
        for (kind, count) in self.shards.iter().flat_map(|report| &report.traffic.client_kinds) {
            *all.entry(*kind).or_default() += u64::from(*count);
        }
        all
    }
}

/// Resident memory of the process, in bytes; `None`: the system does not tell it.
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Name of a state in the document.
pub fn state_name(status: Status) -> &'static str {
    match status {
        Status::Fatal => "fatal",
        Status::Disconnected => "disconnected",
        Status::Identifying => "identifying",
        Status::Resuming => "resuming",
        Status::Active => "active",
    }
}

#[derive(Serialize)]
struct Document {
    version: &'static str,
    /// Milliseconds since the Unix epoch.
    now_ms: u64,
    uptime_s: f64,
    shards_of_bot: Option<u32>,
    stopping: bool,
    states: States,
    totals: Totals,
    identify: Option<Identify>,
    memory: Memory,
    control_core: ControlCore,
    cores: Vec<Core>,
    clients: Vec<Clients>,
    rest_error: Option<RestError>,
    feed: Vec<Happened>,
    shards: Vec<Row>,
}

/// Number of shards by state.
#[derive(Default, Serialize)]
struct States {
    active: u32,
    resuming: u32,
    identifying: u32,
    disconnected: u32,
    fatal: u32,
}

#[derive(Default, Serialize)]
struct Totals {
    guilds: u64,
    unavailable_guilds: u64,
    members: u64,
    clients: u64,
    sessions_detached: u64,
    events: u64,
    events_sent: u64,
    events_replayed: u64,
    events_denied: u64,
    payload_bytes: u64,
    received_bytes: u64,
    sent_bytes: u64,
    connects: u64,
    reconnects: u64,
    identifies: u64,
    clients_lagged: u64,
}

#[derive(Serialize)]
struct Identify {
    total: u32,
    remaining: u32,
    max_concurrency: u32,
    renewed_in_s: Option<f64>,
    waiting: usize,
    asking: usize,
    queue_error: Option<String>,
    given: u64,
    last_shard_in_s: Option<f64>,
}

#[derive(Serialize)]
struct Memory {
    resident_bytes: Option<u64>,
    cache_bytes: u64,
    log_bytes: u64,
}

#[derive(Serialize)]
struct ControlCore {
    cpu: usize,
    cpu_seconds: f64,
    connections_unauthenticated: usize,
    connections_accepted: u64,
    wrong_tokens: u64,
    panics: u64,
}

#[derive(Serialize)]
struct Core {
    core: usize,
    cpu: Option<usize>,
    shards: usize,
    cpu_seconds: f64,
    turns: u64,
    longest_turn_s: f64,
    ring_enters: u64,
}

#[derive(Serialize)]
struct Clients {
    library: &'static str,
    encoding: &'static str,
    compression: &'static str,
    clients: u64,
}

#[derive(Serialize)]
struct RestError {
    what: String,
    again_in_s: f64,
}

#[derive(Serialize)]
struct Happened {
    n: u64,
    at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Serialize)]
struct Row {
    id: u32,
    core: usize,
    state: &'static str,
    latency_ms: Option<f64>,
    silent_s: Option<f64>,
    guilds: usize,
    unavailable_guilds: usize,
    clients: usize,
    lag: u64,
    lag_s: f64,
    events: u64,
    reconnects: u64,
    /// What the watchdog finds wrong.
    sick: Option<String>,
}

#[derive(Serialize)]
struct Details {
    id: u32,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fatal: Option<Fatal>,
    session_age_s: Option<f64>,
    sequence: u64,
    events: BTreeMap<&'static str, u64>,
    members: usize,
    sessions_detached: usize,
    sessions_syncing: usize,
    reconnects: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_loss: Option<Loss>,
    identifies: u64,
    resumes: u64,
    sequence_gaps: u64,
    commands_queued: usize,
    cache_bytes: usize,
    log_bytes: usize,
    log_events: usize,
    clients_closed: BTreeMap<&'static str, u64>,
    clients: Vec<Client>,
}

#[derive(Serialize)]
struct Fatal {
    code: u16,
    advice: &'static str,
}

#[derive(Serialize)]
struct Loss {
    reason: &'static str,
    code: Option<u16>,
}

#[derive(Serialize)]
struct Client {
    library: &'static str,
    encoding: &'static str,
    compression: &'static str,
    connected_s: f64,
    lag: u64,
    lag_s: f64,
    sequence: u64,
    waiting_bytes: usize,
    kernel_bytes: Option<usize>,
}

/// The time between two moments, in seconds, rounded down to milliseconds.
fn seconds_between(from: Time, to: Time) -> f64 {
    to.saturating_sub(from).as_millis() as f64 / 1000.0
}

fn unix_ms(started: SystemTime, at: Time) -> u64 {
    let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since + at).as_millis() as u64
}

fn losses(report: &Report) -> u64 {
    report.upstream.losses.iter().sum()
}

/// The document without the details of any shard.
pub(super) fn document(control: &Control, reports: &CoreReports) -> String {
    let at = reports.at;
    let figures = control.figures();
    let found = control.found.borrow();
    let placed = control.starter.placement.data(reports.shards.len());
    let count_of_cores = reports.cores.len().max(1);
    let rest_error = control.rest_failure.borrow().as_ref().map(|RestFailure { what, again_at }| RestError {
        what: what.clone(),
        again_in_s: seconds_between(at, *again_at),
    });
    let identify = control.queue.borrow().as_ref().map(|queue| Identify {
        total: queue.total(),
        remaining: queue.remaining(),
        max_concurrency: queue.max_concurrency(),
        renewed_in_s: queue.renewed_in(at).map(|left| left.as_secs_f64()),
        waiting: queue.waiting(),
        asking: control.external_queue.as_ref().map_or(0, super::ExternalQueue::waiting),
        queue_error: control.queue_failure.borrow().clone(),
        given: queue.granted(),
        last_shard_in_s: queue.last_permit_in(at).map(|left| left.as_secs_f64()),
    });
    let document = Document {
        version: env!("CARGO_PKG_VERSION"),
        now_ms: unix_ms(control.started, at),
        uptime_s: seconds_between(Time::ZERO, at),
        shards_of_bot: control.shard_count(),
        stopping: control.stopping.get(),
        states: states(&reports.shards),
        totals: totals(&reports.shards),
        identify,
        memory: Memory {
            resident_bytes: resident_bytes(),
            cache_bytes: cache_bytes(reports),
            log_bytes: reports.shards.iter().map(|report| report.log_bytes as u64).sum(),
        },
        control_core: ControlCore {
            cpu: control.starter.placement.control,
            cpu_seconds: reports.control_cpu.as_secs_f64(),
            connections_unauthenticated: figures.unauthenticated,
            connections_accepted: figures.accepted,
            wrong_tokens: figures.wrong_tokens,
            panics: figures.panics,
        },
        cores: cores(reports, placed),
        clients: reports
            .client_kinds()
            .into_iter()
            .map(|(ClientKind { library, encoding, compression }, clients)| Clients {
                library: library.name(),
                encoding,
                compression,
                clients,
            })
            .collect(),
        rest_error,
        feed: feed(control),
        shards: reports.shards.iter().map(|report| row(report, at, count_of_cores, &found)).collect(),
    };
    serde_json::to_string(&document).expect("numbers and texts can be written as JSON")
}

fn states(shards: &[Report]) -> States {
    let mut states = States::default();
    for report in shards {
        *match report.status {
            Status::Active => &mut states.active,
            Status::Resuming => &mut states.resuming,
            Status::Identifying => &mut states.identifying,
            Status::Disconnected => &mut states.disconnected,
            Status::Fatal => &mut states.fatal,
        } += 1;
    }
    states
}

fn totals(shards: &[Report]) -> Totals {
    let sum = |of: &dyn Fn(&Report) -> u64| shards.iter().map(of).sum::<u64>();
    Totals {
        guilds: sum(&|report| report.cache.guilds as u64),
        unavailable_guilds: sum(&|report| report.cache.unavailable_guilds as u64),
        members: sum(&|report| report.cache.members as u64),
        clients: sum(&|report| report.clients as u64),
        sessions_detached: sum(&|report| report.detached as u64),
        events: sum(&|report| report.events.iter().sum()),
        events_sent: sum(&|report| report.sent),
        events_replayed: sum(&|report| report.replayed),
        events_denied: sum(&|report| report.denied),
        payload_bytes: sum(&|report| report.payload_bytes),
        received_bytes: sum(&|report| report.traffic.received_bytes),
        sent_bytes: sum(&|report| report.traffic.sent_bytes),
        connects: sum(&|report| report.upstream.connects),
        reconnects: sum(&losses),
        identifies: sum(&|report| report.upstream.identifies),
        clients_lagged: sum(&|report| report.fell_off),
    }
}

/// Bytes of the caches of all shards. Tables that the shards of a data core share count once.
fn cache_bytes(reports: &CoreReports) -> u64 {
    let own: usize = reports.shards.iter().map(|report| report.cache_bytes).sum();
    let count = reports.cores.len().max(1);
    let shared: usize = (0..count)
        .filter_map(|core| reports.shards.iter().find(|report| report.shard as usize % count == core))
        .map(|report| report.cache_tables.bytes)
        .sum();
    (own + shared) as u64
}

fn cores(reports: &CoreReports, placed: &[usize]) -> Vec<Core> {
    let cores = reports.cores.iter().zip(&reports.shards_of_cores);
    cores
        .map(|(core, shards)| Core {
            core: core.index,
            cpu: placed.get(core.index).copied(),
            shards: *shards,
            cpu_seconds: core.cpu.as_secs_f64(),
            turns: core.turns,
            longest_turn_s: core.longest_turn.as_secs_f64(),
            ring_enters: core.enters,
        })
        .collect()
}

fn feed(control: &Control) -> Vec<Happened> {
    let feed = control.feed.borrow();
    let entries: Vec<&FeedEntry> = feed.entries().collect();
    let shown = entries.len().saturating_sub(SHOWN_ENTRIES);
    entries[shown..]
        .iter()
        .map(|entry| {
            let at_ms = unix_ms(control.started, entry.at);
            let n = entry.number;
            match &entry.event {
                FeedEvent::State { shard, from, to, loss } => Happened {
                    n,
                    at_ms,
                    shard: Some(*shard),
                    from: Some(state_name(*from)),
                    to: Some(state_name(*to)),
                    reason: loss.map(|(reason, _)| reason.name()),
                    code: loss.and_then(|(_, code)| code),
                    note: None,
                },
                FeedEvent::Note { shard, text } => Happened {
                    n,
                    at_ms,
                    shard: *shard,
                    from: None,
                    to: None,
                    reason: None,
                    code: None,
                    note: Some(text.clone()),
                },
            }
        })
        .collect()
}

fn row(report: &Report, at: Time, count_of_cores: usize, found: &Found) -> Row {
    Row {
        id: report.shard,
        core: report.shard as usize % count_of_cores,
        state: state_name(report.status),
        latency_ms: report.latency.map(|latency| latency.as_micros() as f64 / 1000.0),
        silent_s: report.last_event.map(|last| seconds_between(last, at)),
        guilds: report.cache.guilds,
        unavailable_guilds: report.cache.unavailable_guilds,
        clients: report.clients,
        lag: report.traffic.lag,
        lag_s: report.traffic.lag_time.as_millis() as f64 / 1000.0,
        events: report.events.iter().sum(),
        reconnects: losses(report),
        sick: found.of(report.shard).map(watchdog::describe),
    }
}

/// The details of one shard, as a JSON object.
pub(super) fn details(report: &Report, now: Time) -> String {
    let counted = |names: &mut dyn Iterator<Item = (&'static str, u64)>| {
        names.filter(|(_, count)| *count > 0).collect::<BTreeMap<_, _>>()
    };
    let client = |client: &ClientReport| Client {
        library: client.kind.library.name(),
        encoding: client.kind.encoding,
        compression: client.kind.compression,
        connected_s: seconds_between(client.since, now),
        lag: client.lag,
        lag_s: client.lag_time.as_millis() as f64 / 1000.0,
        sequence: client.sequence,
        waiting_bytes: client.waiting,
        kernel_bytes: client.kernel,
    };
    let details = Details {
        id: report.shard,
        state: state_name(report.status),
        fatal: report.fatal.map(|FatalClose { code, advice }| Fatal { code, advice }),
        session_age_s: report.session_since.map(|since| seconds_between(since, now)),
        sequence: report.sequence,
        events: counted(&mut EventKind::ALL.iter().map(|kind| kind.name()).zip(report.events)),
        members: report.cache.members,
        sessions_detached: report.detached,
        sessions_syncing: report.syncing,
        reconnects: counted(&mut Reason::ALL.iter().map(|reason| reason.name()).zip(report.upstream.losses)),
        last_loss: report.last_loss.map(|(reason, code)| Loss { reason: reason.name(), code }),
        identifies: report.upstream.identifies,
        resumes: report.upstream.resumes,
        sequence_gaps: report.upstream.gaps,
        commands_queued: report.queued_commands,
        cache_bytes: report.cache_bytes,
        log_bytes: report.log_bytes,
        log_events: report.log_events,
        clients_closed: counted(&mut CloseReason::ALL.iter().map(|closing| closing.name()).zip(report.traffic.closes)),
        clients: report.traffic.clients.iter().map(client).collect(),
    };
    serde_json::to_string(&details).expect("numbers and texts can be written as JSON")
}
