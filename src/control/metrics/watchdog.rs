//! Metrics of the [watchdog](crate::watchdog).

use super::{counter, family, gauge, label};
use crate::{
    control::{status::CoreReports, watchdog::Found},
    watchdog::Ailment,
};
use prometheus::proto::{MetricFamily, MetricType};

/// All metrics of this module.
pub(super) fn families(reports: &CoreReports, found: &Found) -> Vec<MetricFamily> {
    let sick = reports.shards.iter().map(|report| {
        let value = match found.of(report.shard) {
            None => 0.0,
            Some(Ailment::NoEvents) => 1.0,
            Some(Ailment::None(_)) => 2.0,
        };
        gauge(vec![label("shard", &report.shard.to_string())], value)
    });
    let (findings, [resumes, identifies]) = found.counts();
    let repairs = [("identify", identifies), ("reconnect", resumes)];
    let repairs = repairs.map(|(action, count)| counter(vec![label("action", action)], count as f64));
    vec![
        family(
            "gateway_shard_sick",
            "What the watchdog finds: 0 nothing wrong, 1 no events, 2 no events of one usual type",
            MetricType::GAUGE,
            sick.collect(),
        ),
        family(
            "gateway_watchdog_findings_total",
            "How often the watchdog has found a shard sick",
            MetricType::COUNTER,
            vec![counter(Vec::new(), findings as f64)],
        ),
        family(
            "gateway_watchdog_repairs_total",
            "Repairs of shards by the watchdog",
            MetricType::COUNTER,
            repairs.into(),
        ),
    ]
}
