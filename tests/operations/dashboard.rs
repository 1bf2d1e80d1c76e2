//! The Grafana dashboard: it shows every metric that an operator needs, each in its unit.

use serde_json::Value;
use std::{collections::BTreeSet, fs};
use support::root;

/// Metrics that no panel shows, because another one says the same, or because they serve a search for a cause.
pub const NOT_SHOWN: [&str; 22] = [
    // The kinds of cached objects are named in /metrics; the dashboard shows the largest.
    "gateway_cache_emojis",
    "gateway_cache_roles",
    "gateway_cache_users",
    "gateway_cache_voice_states",
    // How full the tables of the codec are; their memory is in that of the process.
    "gateway_cache_paths",
    "gateway_cache_tables_bytes",
    "gateway_cache_templates",
    "gateway_cache_trails",
    "gateway_cache_words",
    // Named by the panels of reconnects, clients and traffic in other words.
    "gateway_client_addresses",
    "gateway_client_authentications_total",
    "gateway_connections_accepted_total",
    "gateway_identifies_total",
    "gateway_shard_client_lag_events",
    "gateway_shard_client_resumes_total",
    "gateway_shard_connects_total",
    "gateway_shard_log_events",
    // The histogram of heartbeats is shown.
    "gateway_shard_latency",
    // The busy fraction of each core is shown.
    "process_cpu_seconds_total",
    // Texts and times, not figures.
    "gateway_build_info",
    "gateway_config_last_reload_timestamp_seconds",
    "process_start_time_seconds",
];

/// A query of the dashboard.
pub struct Query {
    /// The title of its panel.
    pub panel: String,
    /// The unit of its panel.
    pub unit: String,
    /// In PromQL.
    pub text: String,
}

fn panels() -> Vec<Value> {
    let text = fs::read_to_string(root().join("config/grafana.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("a dashboard that is JSON");
    dashboard["panels"].as_array().expect("panels").clone()
}

/// All queries of the dashboard.
pub fn queries() -> Vec<Query> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let of_panel = |panel: Value| {
        let targets = panel["targets"].as_array().expect("queries").clone();
        let (title, unit) = (text(&panel["title"]), text(&panel["fieldConfig"]["defaults"]["unit"]));
        targets.into_iter().map(move |target| Query {
            panel: title.clone(),
            unit: unit.clone(),
            text: text(&target["expr"]),
        })
    };
    panels().into_iter().flat_map(of_panel).collect()
}

/// The unit of what a query gives, by the suffixes of metrics.
fn unit_of(query: &str) -> &'static str {
    let has = |part: &str| query.contains(part);
    match () {
        () if has("histogram_quantile(") => "s",
        () if has("increase(") || has("count_values(") || has("bool") => "short",
        () if has(") / ") => "percentunit",
        () if has("rate(") && has("_seconds_total[") => "percentunit",
        () if has("rate(") && has("_bytes_total[") => "Bps",
        () if has("rate(") => "ops",
        () if has("_bytes") => "bytes",
        () if has("_seconds") => "s",
        () => "short",
    }
}

#[test]
fn each_panel_has_the_unit_of_its_queries() {
    let queries = queries();
    assert!(queries.len() > 60, "{}", queries.len());
    for Query { panel, unit, text } in queries {
        assert_eq!(unit, unit_of(&text), "{panel}: {text}");
    }
}

#[test]
fn each_panel_has_a_place_and_queries_of_its_own() {
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels() {
        let place = &panel["gridPos"];
        assert!(ids.insert(panel["id"].as_u64().expect("a number")), "{panel}");
        assert!(places.insert((place["x"].as_u64(), place["y"].as_u64())), "{panel}");
        assert_eq!((place["w"].as_u64(), place["h"].as_u64()), (Some(12), Some(8)), "{panel}");
        let targets = panel["targets"].as_array().expect("queries");
        let letters: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str().expect("a letter")).collect();
        assert_eq!(letters.len(), targets.len(), "{panel}");
    }
    let mut all: Vec<String> = queries().into_iter().map(|query| query.text).collect();
    all.sort();
    let count = all.len();
    all.dedup();
    assert_eq!(all.len(), count, "a query is there twice");
}
