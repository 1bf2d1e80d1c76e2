//! Metrics of clients: the memory that their connections take, in all and for one address, and the use of each
//! credential (config key `clients`).
//!
//! The number of series is bounded: no series has an address as label, and those with the label `client` are a few for
//! each credential, of which there are at most [`MAX_CREDENTIALS`](crate::downstream::credential::MAX_CREDENTIALS).

use super::{ControlFigures, counter, family, gauge, label};
use crate::shard::report::{Report, Usage};
use prometheus::proto::{MetricFamily, MetricType};
use std::{collections::BTreeMap, sync::Arc};

use MetricType::{COUNTER, GAUGE};

/// The memory of clients.
pub fn memory(control: &ControlFigures) -> Vec<MetricFamily> {
    let (sources, limit_of_a_source) = control.source_memory;
    [
        (
            "gateway_client_memory_bytes",
            "Memory of the connections of all clients",
            GAUGE,
            control.client_memory.0 as f64,
        ),
        ("gateway_client_memory_limit_bytes", "The most that it may be", GAUGE, control.client_memory.1 as f64),
        (
            "gateway_client_memory_refused_total",
            "Clients that were not let in for want of memory",
            COUNTER,
            control.memory_refused.0 as f64,
        ),
        (
            "gateway_client_memory_dropped_total",
            "Clients that took nothing and were dropped for want of memory",
            COUNTER,
            control.memory_refused.1 as f64,
        ),
        ("gateway_client_addresses", "Addresses (IPv6: networks) that have clients", GAUGE, sources.count as f64),
        (
            "gateway_client_memory_address_bytes",
            "Memory of the clients of the address whose clients take most",
            GAUGE,
            sources.most as f64,
        ),
        (
            "gateway_client_memory_address_limit_bytes",
            "The most that the clients of an address other than this machine's may take",
            GAUGE,
            limit_of_a_source as f64,
        ),
        (
            "gateway_client_memory_address_refused_total",
            "Clients that were not let in, because the others of their address take too much",
            COUNTER,
            control.source_refused.0 as f64,
        ),
        (
            "gateway_client_memory_address_dropped_total",
            "Clients that took nothing and were dropped, because those of their address take too much",
            COUNTER,
            control.source_refused.1 as f64,
        ),
    ]
    .map(|(name, help, kind, value)| {
        let metric = if kind == COUNTER { counter(Vec::new(), value) } else { gauge(Vec::new(), value) };
        family(name, help, kind, vec![metric])
    })
    .into()
}

/// The use of each credential. `shown` has the names of all credentials, and how often the secret of each was shown.
pub fn credentials(reports: &[Report], shown: &BTreeMap<Arc<str>, u64>) -> Vec<MetricFamily> {
    let mut all: BTreeMap<&str, (usize, u64)> = shown.keys().map(|name| (&**name, (0, 0))).collect();
    for Usage { name, clients, refused } in reports.iter().flat_map(|report| &report.credentials) {
        // A credential that was revoked a moment ago may be in the reports still.
        if let Some(sum) = all.get_mut(&**name) {
            *sum = (sum.0 + clients, sum.1 + refused);
        }
    }
    let labels = |name: &str| vec![label("client", name)];
    let shown = shown.iter().map(|(name, count)| counter(labels(name), *count as f64)).collect();
    vec![
        family(
            "gateway_client_connections",
            "Connected clients of each credential in `clients`, each shard counted",
            GAUGE,
            all.iter().map(|(name, (clients, _))| gauge(labels(name), *clients as f64)).collect(),
        ),
        family(
            "gateway_client_commands_refused_total",
            "Commands of clients that were not passed on, because their credential does not permit them",
            COUNTER,
            all.iter().map(|(name, (_, refused))| counter(labels(name), *refused as f64)).collect(),
        ),
        family(
            "gateway_client_authentications_total",
            "Identifies, resumes and requests with the secret of each credential",
            COUNTER,
            shown,
        ),
    ]
}
