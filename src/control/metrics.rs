//! `/metrics`: the reports of all shards in the Prometheus text format. Names and labels of earlier proxies are kept,
//! so that their dashboards work with this one.

mod clients;
mod operations;
mod watchdog;

use super::{reload::Reloads, status::CoreReports, waits::PermitWaits, watchdog::Found};
use crate::{
    downstream::budget::Sources,
    protocol::event::EventKind,
    shard::report::{LATENCY_BUCKETS, Report},
};
use prometheus::{
    Encoder, TextEncoder,
    proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType},
};
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

/// Figures of the control core itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlFigures {
    /// Connections that have not identified yet.
    pub unauthenticated: usize,
    /// Connections refused because the remaining file descriptors are reserved for shards.
    pub refused: u64,
    /// Connections that lost their place at the door to a newer one.
    pub revoked_unauthenticated: u64,
    /// Answers to operators' requests and to `/health` that were cut off for a newer one.
    pub revoked_scrapes: u64,
    /// Requests without the bot's token that are being forwarded to Discord's API.
    pub tokenless: usize,
    /// Requests without the bot's token that were cut off for a newer one.
    pub revoked_tokenless: u64,
    /// Clients and requests that showed a wrong token or none.
    pub wrong_tokens: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Permits given by the identify queue.
    pub identifies: u64,
    /// Permits left before Discord renews them.
    pub identifies_remaining: u32,
    /// Shards that wait for a permit of the own queue.
    pub identifies_waiting: usize,
    /// Shards that wait for a permit of the external queue (`identify_queue`).
    pub external_waiting: usize,
    /// Requests to the external queue that have failed.
    pub external_failures: u64,
    /// Requests with the bot's token that are being forwarded to Discord's API.
    pub forwarding: usize,
    /// Requests that were forwarded, or that could not be.
    pub forwarded: u64,
    /// Requests to forward that the proxy had to answer itself.
    pub forward_failures: u64,
    /// Tasks that panicked and were contained: shards and clients' connections on data cores, and tasks of the control
    /// core.
    pub panics: u64,
    /// Bytes that the connections of all clients take, and the limit.
    pub client_memory: (usize, usize),
    /// Clients that were refused because of the memory limit, and clients that were disconnected because of it.
    pub memory_refused: (u64, u64),
    /// The memory of the clients of single source addresses, and the limit of one address.
    pub source_memory: (Sources, usize),
    /// As `memory_refused`, because of the limit of one address.
    pub source_refused: (u64, u64),
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.into());
    pair.set_value(value.into());
    pair
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

fn gauge(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut gauge = Gauge::default();
    gauge.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_gauge(gauge);
    metric
}

fn counter(labels: Vec<LabelPair>, value: f64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value);
    let mut metric = Metric::from_label(labels);
    metric.set_counter(counter);
    metric
}

fn histogram(labels: Vec<LabelPair>, bounds: &[f64], counts: &[u64], sum: f64) -> Metric {
    let mut histogram = Histogram::default();
    let mut below = 0;
    let buckets = bounds.iter().zip(counts).map(|(&bound, count)| {
        below += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(below);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counts.iter().sum());
    histogram.set_sample_sum(sum);
    let mut metric = Metric::from_label(labels);
    metric.set_histogram(histogram);
    metric
}

/// Renders all metrics. `started` is when the process began.
pub(super) fn render(
    reports: &CoreReports,
    control: ControlFigures,
    waits: &PermitWaits,
    found: &Found,
    reloads: Reloads,
    started: SystemTime,
    shown: &BTreeMap<Arc<str>, u64>,
) -> String {
    let shards = &reports.shards;
    let mut families = operations::families(reports, waits, reloads, started);
    families.extend(watchdog::families(reports, found));
    families.extend(clients::memory(&control));
    families.extend(clients::credentials(shards, shown));
    let mut per_shard = |name: &str, help: &str, kind: MetricType, value: &dyn Fn(&Report) -> f64| {
        let metrics = shards.iter().map(|report| {
            let labels = vec![label("shard", &report.shard.to_string())];
            if kind == COUNTER { counter(labels, value(report)) } else { gauge(labels, value(report)) }
        });
        families.push(family(name, help, kind, metrics.collect()));
    };
    use MetricType::{COUNTER, GAUGE};
    per_shard(
        "gateway_shard_latency",
        "Round trip of the last heartbeat in seconds (NaN: none yet)",
        GAUGE,
        &|report| report.latency.map_or(f64::NAN, |latency| latency.as_secs_f64()),
    );
    per_shard(
        "gateway_shard_status",
        "0 fatal, 1 disconnected, 2 identifying, 3 resuming, 4 active",
        GAUGE,
        &|report| f64::from(report.status as u8),
    );
    per_shard("gateway_cache_guilds", "Guilds in the cache", GAUGE, &|report| report.cache.guilds as f64);
    per_shard("gateway_cache_unavailable_guilds", "Guilds that are down", GAUGE, &|report| {
        report.cache.unavailable_guilds as f64
    });
    per_shard("gateway_cache_members", "Members in the cache", GAUGE, &|report| report.cache.members as f64);
    per_shard("gateway_cache_presences", "Presences in the cache", GAUGE, &|report| report.cache.presences as f64);
    per_shard("gateway_cache_channels", "Channels in the cache", GAUGE, &|report| report.cache.channels as f64);
    per_shard("gateway_cache_roles", "Roles in the cache", GAUGE, &|report| report.cache.roles as f64);
    per_shard("gateway_cache_emojis", "Emojis in the cache", GAUGE, &|report| report.cache.emojis as f64);
    per_shard("gateway_cache_users", "Users in the cache", GAUGE, &|report| report.cache.users as f64);
    per_shard("gateway_cache_voice_states", "Voice states in the cache", GAUGE, &|report| {
        report.cache.voice_states as f64
    });
    per_shard("gateway_cache_bytes", "Heap of the cache in bytes", GAUGE, &|report| report.cache_bytes as f64);
    per_shard("gateway_cache_templates", "Forms of objects that are known", GAUGE, &|report| {
        report.cache_tables.templates as f64
    });
    per_shard("gateway_cache_words", "Frequent strings", GAUGE, &|report| report.cache_tables.strings as f64);
    per_shard("gateway_cache_paths", "Keys on known paths", GAUGE, &|report| report.cache_tables.trie_nodes as f64);
    per_shard("gateway_cache_trails", "Ends of known paths", GAUGE, &|report| report.cache_tables.signatures as f64);
    per_shard("gateway_cache_tables_bytes", "Heap of these, which a core has once", GAUGE, &|report| {
        report.cache_tables.bytes as f64
    });
    per_shard(
        "gateway_cache_ignored_total",
        "Events that were malformed or about something unknown",
        COUNTER,
        &|report| report.cache.ignored_events as f64,
    );
    per_shard(
        "gateway_cache_refused_guilds_total",
        "GUILD_CREATEs that could not be kept: clients that identify later are not shown these guilds",
        COUNTER,
        &|report| report.cache.refused_guilds as f64,
    );
    per_shard("gateway_shard_clients", "Clients connected", GAUGE, &|report| report.clients as f64);
    per_shard("gateway_shard_sessions_detached", "Sessions that can be resumed", GAUGE, &|report| {
        report.detached as f64
    });
    per_shard("gateway_shard_sessions_syncing", "Clients that are being sent READY and guilds", GAUGE, &|report| {
        report.syncing as f64
    });
    per_shard("gateway_shard_log_events", "Events kept for clients", GAUGE, &|report| report.log_events as f64);
    per_shard("gateway_shard_log_bytes", "Bytes of events kept for clients", GAUGE, &|report| report.log_bytes as f64);
    per_shard("gateway_shard_commands_queued", "Commands waiting for Discord's rate limit", GAUGE, &|report| {
        report.queued_commands as f64
    });
    per_shard(
        "gateway_shard_commands_unknown_total",
        "Commands of clients with an unknown opcode; they are not passed on",
        COUNTER,
        &|report| report.unknown_commands as f64,
    );
    per_shard(
        "gateway_shard_commands_refused_total",
        "Commands of clients for which Discord closed the connection",
        COUNTER,
        &|report| report.refused_commands as f64,
    );
    per_shard("gateway_shard_clients_lagged_total", "Clients too slow for the log", COUNTER, &|report| {
        report.fell_off as f64
    });
    per_shard("gateway_shard_connects_total", "Connections to Discord", COUNTER, &|r| r.upstream.connects as f64);
    per_shard("gateway_shard_identifies_total", "IDENTIFYs sent", COUNTER, &|r| r.upstream.identifies as f64);
    per_shard("gateway_shard_resumes_total", "RESUMEs sent", COUNTER, &|r| r.upstream.resumes as f64);
    per_shard("gateway_shard_zombies_total", "Connections without heartbeat ACK", COUNTER, &|r| {
        r.upstream.zombies as f64
    });
    per_shard("gateway_shard_malformed_total", "Payloads that could not be read", COUNTER, &|r| {
        r.upstream.malformed as f64
    });
    per_shard("gateway_shard_duplicates_total", "Events of a replay that had come before", COUNTER, &|r| {
        r.upstream.duplicates as f64
    });
    per_shard(
        "gateway_shard_out_of_sequence_total",
        "Events whose sequence was not above the last one, and that were passed on",
        COUNTER,
        &|r| r.upstream.out_of_sequence as f64,
    );
    per_shard("gateway_shard_sessions_given_up_total", "Sessions that could not be resumed", COUNTER, &|r| {
        r.upstream.given_up as f64
    });
    per_shard(
        "gateway_shard_clients_invalidated_total",
        "Sessions of clients that ended because Discord began a new one",
        COUNTER,
        &|r| r.invalidated as f64,
    );
    per_shard("gateway_voice_connections", "Guilds in whose voice channels the bot is", GAUGE, &|report| {
        report.voice_connections as f64
    });
    per_shard(
        "gateway_voice_takeovers_total",
        "Voice connections that passed from one session of a client to another",
        COUNTER,
        &|report| report.voice_takeovers as f64,
    );
    per_shard("gateway_voice_refused_total", "Op 4s that were not passed to Discord", COUNTER, &|report| {
        report.voice_refused as f64
    });
    per_shard("gateway_shard_sequence_gaps_total", "Sequences that Discord skipped", COUNTER, &|r| {
        r.upstream.gaps as f64
    });
    let events = shards.iter().flat_map(|report| {
        let shard = report.shard.to_string();
        let counted = EventKind::ALL.iter().zip(report.events).filter(|(_, count)| *count > 0);
        counted
            .map(|(kind, count)| counter(vec![label("event_type", kind.name()), label("shard", &shard)], count as f64))
            .collect::<Vec<_>>()
    });
    families.push(family("gateway_shard_events", "Events received from Discord", COUNTER, events.collect()));
    families.push(family(
        "gateway_shard_latency_histogram",
        "Round trips of heartbeats in seconds",
        MetricType::HISTOGRAM,
        shards
            .iter()
            .map(|report| {
                let labels = vec![label("shard", &report.shard.to_string())];
                histogram(labels, &LATENCY_BUCKETS, &report.latencies.buckets, report.latencies.sum)
            })
            .collect(),
    ));
    for (name, help, kind, value) in [
        ("gateway_connections_unauthenticated", "Connections before IDENTIFY", GAUGE, control.unauthenticated as f64),
        (
            "gateway_connections_refused_total",
            "Connections refused for want of open files",
            COUNTER,
            control.refused as f64,
        ),
        (
            "gateway_connections_revoked_total",
            "Connections before IDENTIFY that gave way to newer ones",
            COUNTER,
            control.revoked_unauthenticated as f64,
        ),
        (
            "gateway_scrapes_revoked_total",
            "Answers of /metrics and /health that nobody read and that gave way to newer ones",
            COUNTER,
            control.revoked_scrapes as f64,
        ),
        ("gateway_wrong_tokens_total", "Clients and requests without the token", COUNTER, control.wrong_tokens as f64),
        (
            "gateway_api_tokenless_active",
            "Requests to Discord's API whose path carries a token of its own",
            GAUGE,
            control.tokenless as f64,
        ),
        (
            "gateway_api_tokenless_revoked_total",
            "Those of them that gave way to newer ones",
            COUNTER,
            control.revoked_tokenless as f64,
        ),
        ("gateway_api_requests_active", "Requests on their way to Discord's API", GAUGE, control.forwarding as f64),
        ("gateway_api_requests_total", "Requests passed to Discord's API", COUNTER, control.forwarded as f64),
        (
            "gateway_panics_total",
            "Tasks that panicked and were contained; each is a bug",
            COUNTER,
            control.panics as f64,
        ),
        ("gateway_api_failures_total", "Those of them without an answer", COUNTER, control.forward_failures as f64),
        ("gateway_connections_accepted_total", "Connections accepted", COUNTER, control.accepted as f64),
        ("gateway_identifies_total", "Permits of the identify queue", COUNTER, control.identifies as f64),
        ("gateway_identifies_remaining", "IDENTIFYs left today", GAUGE, f64::from(control.identifies_remaining)),
        ("gateway_identifies_waiting", "Shards waiting to identify", GAUGE, control.identifies_waiting as f64),
        (
            "gateway_identify_queue_waiting",
            "Shards waiting for a permit of the external queue (identify_queue)",
            GAUGE,
            control.external_waiting as f64,
        ),
        (
            "gateway_identify_queue_failures_total",
            "Requests to the external queue (identify_queue) that failed; each is repeated",
            COUNTER,
            control.external_failures as f64,
        ),
    ] {
        let metric = if kind == COUNTER { counter(Vec::new(), value) } else { gauge(Vec::new(), value) };
        families.push(family(name, help, kind, vec![metric]));
    }
    families.retain(|family| !family.get_metric().is_empty());
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text).expect("families of one kind, without empty ones, can be written");
    String::from_utf8(text).expect("the text format is UTF-8")
}
