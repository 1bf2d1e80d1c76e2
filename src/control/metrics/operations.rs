//! Metrics that earlier proxies do not have: traffic, why connections end, what cores do, which libraries clients use.
//!
//! Their names follow the conventions of Prometheus: base units, and `_total` for counters. A series with a reason, a
//! library, an encoding or a compression appears only when its value is not 0, so that the number of series stays
//! small. The values of its labels come from fixed lists.

use super::{counter, family, gauge, histogram, label};
use crate::{
    control::{
        reload::Reloads,
        status::{CoreReports, resident_bytes},
        waits::{BUCKETS, PermitWaits},
    },
    data_core::{CoreReport, figures::ADDED_BUCKETS},
    protocol::Time,
    shard::report::{ClientKind, CloseReason, Report},
    upstream::loss::Reason,
};
use prometheus::proto::{Metric, MetricFamily, MetricType};
use rustix::time::{ClockId, clock_gettime};
use std::time::{Duration, SystemTime};

use MetricType::{COUNTER, GAUGE};

/// All metrics of this module.
pub fn families(
    reports: &CoreReports,
    waits: &PermitWaits,
    reloads: Reloads,
    started: SystemTime,
) -> Vec<MetricFamily> {
    let mut all = process(started, reloads);
    all.extend(shards(&reports.shards, reports.at));
    all.extend(reasons(&reports.shards));
    all.extend(cores(reports));
    let clients = reports.client_kinds().into_iter().map(|(ClientKind { library, encoding, compression }, count)| {
        let labels =
            vec![label("compression", compression), label("encoding", encoding), label("library", library.name())];
        gauge(labels, count as f64)
    });
    all.push(family(
        "gateway_clients",
        "Connected clients by library, encoding and compression",
        GAUGE,
        clients.collect(),
    ));
    all.push(family(
        "gateway_identify_wait_seconds",
        "How long shards waited for the permit to identify",
        MetricType::HISTOGRAM,
        vec![histogram(Vec::new(), &BUCKETS, &waits.counts, waits.sum)],
    ));
    all
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Number of open file descriptors of the process, without the one that this function opens to count them.
fn open_files() -> Option<f64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

fn process(started: SystemTime, reloads: Reloads) -> Vec<MetricFamily> {
    let cpu = Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    let build = vec![
        label("arch", std::env::consts::ARCH),
        label("profile", if cfg!(debug_assertions) { "debug" } else { "release" }),
        label("version", env!("CARGO_PKG_VERSION")),
    ];
    let one = |name: &str, help: &str, kind: MetricType, value: Option<f64>| {
        let metrics =
            value.map(|value| if kind == COUNTER { counter(Vec::new(), value) } else { gauge(Vec::new(), value) });
        family(name, help, kind, metrics.into_iter().collect())
    };
    let reload = |result: &str, count: u64| counter(vec![label("result", result)], count as f64);
    vec![
        family("gateway_build_info", "Always 1; the labels say what runs", GAUGE, vec![gauge(build, 1.0)]),
        one(
            "process_start_time_seconds",
            "When the process began, in seconds since 1970",
            GAUGE,
            Some(unix_seconds(started)),
        ),
        one("process_cpu_seconds_total", "Time of all threads on a CPU in seconds", COUNTER, Some(cpu.as_secs_f64())),
        one(
            "process_resident_memory_bytes",
            "Memory of the process that is in RAM, in bytes",
            GAUGE,
            resident_bytes().map(|bytes| bytes as f64),
        ),
        one("process_open_fds", "Files that the process has open", GAUGE, open_files()),
        one(
            "process_max_fds",
            "Files that the process may have open",
            GAUGE,
            crate::preflight::open_files().ok().map(|files| files as f64),
        ),
        family(
            "gateway_config_reloads_total",
            "How often the configuration was read again, by what came of it",
            COUNTER,
            vec![reload("failed", reloads.bad), reload("ok", reloads.good)],
        ),
        one(
            "gateway_config_last_reload_timestamp_seconds",
            "When the configuration that holds was read, in seconds since 1970",
            GAUGE,
            Some(unix_seconds(reloads.last_good.unwrap_or(started))),
        ),
    ]
}

fn shards(reports: &[Report], at: Time) -> Vec<MetricFamily> {
    let per_shard = |name: &str, help: &str, kind: MetricType, value: &dyn Fn(&Report) -> Option<f64>| {
        let metrics = reports.iter().filter_map(|report| {
            let labels = vec![label("shard", &report.shard.to_string())];
            let value = value(report)?;
            Some(if kind == COUNTER { counter(labels, value) } else { gauge(labels, value) })
        });
        family(name, help, kind, metrics.collect())
    };
    let age = |since: Option<Time>| since.map(|since| at.saturating_sub(since).as_secs_f64());
    let count = |name: &str, help: &str, value: fn(&Report) -> u64| {
        per_shard(name, help, COUNTER, &|report| Some(value(report) as f64))
    };
    vec![
        per_shard(
            "gateway_shard_last_event_age_seconds",
            "Time since the last event from Discord; missing before the first one",
            GAUGE,
            &|report| age(report.last_event),
        ),
        per_shard(
            "gateway_shard_session_age_seconds",
            "Age of the session with Discord; missing without one, or when a former process began it",
            GAUGE,
            &|report| age(report.session_since),
        ),
        count("gateway_shard_received_bytes_total", "Bytes from Discord as they came on the wire", |report| {
            report.traffic.received_bytes
        }),
        count("gateway_shard_payload_bytes_total", "Bytes of payloads from Discord, decompressed", |report| {
            report.payload_bytes
        }),
        count("gateway_shard_sent_bytes_total", "Bytes that the sockets of clients took", |report| {
            report.traffic.sent_bytes
        }),
        count("gateway_shard_events_sent_total", "Events that clients were sent, each client counted", |report| {
            report.sent
        }),
        count("gateway_shard_events_replayed_total", "Events that clients were sent again after a RESUME", |report| {
            report.replayed
        }),
        count("gateway_shard_events_denied_total", "Events that events.deny kept from clients", |report| report.denied),
        per_shard(
            "gateway_shard_prefetch_guilds_waiting",
            "Guilds whose members the proxy has still to ask for (prefetch_members)",
            GAUGE,
            &|report| Some(report.prefetch_waiting as f64),
        ),
        count(
            "gateway_shard_prefetch_guilds_total",
            "Guilds whose members the proxy has asked for and got",
            |report| report.prefetched,
        ),
        count("gateway_shard_client_resumes_total", "RESUMEs of clients that were served", |report| report.resumed),
        per_shard(
            "gateway_shard_client_lag_events",
            "The most events that a connected client is behind",
            GAUGE,
            &|report| Some(report.traffic.lag as f64),
        ),
        per_shard(
            "gateway_shard_client_lag_seconds",
            "The longest time that the next event for a connected client has waited, in steps of 0.25 s",
            GAUGE,
            &|report| Some(report.traffic.lag_time.as_secs_f64()),
        ),
        per_shard(
            "gateway_shard_client_kernel_bytes",
            "Bytes that the kernel holds for the first 256 connected clients and that they have not acknowledged",
            GAUGE,
            &|report| Some(report.traffic.kernel_bytes as f64),
        ),
    ]
}

/// Counts by reason, without those that are 0.
fn by_reason<'a>(
    reports: &'a [Report],
    of: impl Fn(&'a Report) -> Vec<(&'static str, u64)> + 'a,
) -> impl Iterator<Item = Metric> + 'a {
    reports.iter().flat_map(move |report| {
        let shard = report.shard.to_string();
        of(report)
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(reason, count)| counter(vec![label("reason", reason), label("shard", &shard)], count as f64))
            .collect::<Vec<_>>()
    })
}

fn reasons(reports: &[Report]) -> Vec<MetricFamily> {
    let losses = by_reason(reports, |report| {
        Reason::ALL.iter().map(|reason| reason.name()).zip(report.upstream.losses).collect()
    });
    let closes = by_reason(reports, |report| {
        CloseReason::ALL.iter().map(|closing| closing.name()).zip(report.traffic.closes).collect()
    });
    vec![
        family(
            "gateway_shard_reconnects_total",
            "Connections to Discord that were lost or could not be made, by reason",
            COUNTER,
            losses.collect(),
        ),
        family(
            "gateway_shard_clients_closed_total",
            "Connections of clients that the proxy ended, by reason",
            COUNTER,
            closes.collect(),
        ),
    ]
}

fn cores(reports: &CoreReports) -> Vec<MetricFamily> {
    let per_core = |name: &str, help: &str, kind: MetricType, value: fn(&CoreReport) -> f64| {
        let metrics = reports.cores.iter().map(|core| {
            let labels = vec![label("core", &core.index.to_string())];
            if kind == COUNTER { counter(labels, value(core)) } else { gauge(labels, value(core)) }
        });
        family(name, help, kind, metrics.collect())
    };
    let cpu = per_core(
        "gateway_core_cpu_seconds_total",
        "Time of a core's thread on a CPU in seconds; its rate is the busy fraction",
        COUNTER,
        |core| core.cpu.as_secs_f64(),
    );
    let mut metrics = cpu.get_metric().to_vec();
    metrics.push(counter(vec![label("core", "control")], reports.control_cpu.as_secs_f64()));
    let added = reports.cores.iter().map(|core| {
        let labels = vec![label("core", &core.index.to_string())];
        histogram(labels, &ADDED_BUCKETS, &core.added.buckets, core.added.sum)
    });
    vec![
        family(cpu.name(), cpu.help(), COUNTER, metrics),
        family(
            "gateway_core_added_latency_seconds",
            "From the arrival of bytes from Discord to the system call that gives their events to a client's socket",
            MetricType::HISTOGRAM,
            added.collect(),
        ),
        per_core("gateway_core_turns_total", "Turns of a core's loop", COUNTER, |core| core.turns as f64),
        per_core(
            "gateway_core_longest_turn_seconds",
            "The longest turn of a core's loop in this minute and the one before",
            GAUGE,
            |core| core.longest_turn.as_secs_f64(),
        ),
        per_core(
            "gateway_core_ring_enters_total",
            "System calls that gave a core's ring work or waited for it (io_uring_enter)",
            COUNTER,
            |core| core.enters as f64,
        ),
        per_core(
            "gateway_core_compression_input_bytes_total",
            "Bytes that went into the compression of clients' connections",
            COUNTER,
            |core| core.compression_input as f64,
        ),
        per_core(
            "gateway_core_compression_output_bytes_total",
            "Bytes that came out of the compression of clients' connections",
            COUNTER,
            |core| core.compression_output as f64,
        ),
    ]
}
