//! Benchmarks at fixed loads: CPU time, latency and system calls with twenty shards and one client for each, in several
//! settings.

use crate::{
    Bench, Side, finished,
    measure::{Syscalls, cpu_ns},
    median, number,
};
use serde_json::{Value, json};
use std::{
    env, thread,
    time::{Duration, Instant},
};

const SHARDS: usize = 20;

/// The samples of one side at one load, one for each round.
#[derive(Default)]
struct Samples {
    cpu_us: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    p999: Vec<f64>,
    syscalls: Vec<f64>,
    rate: Vec<f64>,
}

impl Samples {
    fn json(&self) -> Value {
        json!({
            "cpu_us_per_event": median(self.cpu_us.clone()),
            "latency_us": {
                "p50": median(self.p50.clone()), "p99": median(self.p99.clone()), "p99.9": median(self.p999.clone()),
            },
            "syscalls_per_event": Some(median(self.syscalls.clone())).filter(|value| value.is_finite()),
            "events_per_second": median(self.rate.clone()),
            "events_per_second_and_core": 1e6 / median(self.cpu_us.clone()),
        })
    }
}

/// A setting in which the proxy and the relay are measured.
struct Setting {
    name: &'static str,
    /// Keys of the proxy's configuration.
    keys: Value,
    /// Whether the simulator and the bots are pinned to a CPU.
    pins_others: bool,
    /// Whether the proxy connects to the simulator with TLS. The relay does not.
    tls: bool,
    /// The transport compression that the relay's bots ask for. The relay passes bytes on, so the simulator compresses
    /// and the bots decompress, as the simulator and the proxy do on the other side.
    relay_compression: Option<&'static str>,
}

/// Returns all settings, first the one that the aims are stated for. The environment variable `SETTING` selects one by
/// its name.
fn settings() -> Vec<Setting> {
    let pinned = json!({ "cores": [crate::TESTED], "control_core": crate::TESTED });
    // "As started" is how a user starts them: the proxy places its own threads, and the kernel places everything else.
    let setting = |name, keys| Setting { name, keys, pins_others: false, tls: false, relay_compression: None };
    let all = vec![
        setting("as started", json!({})),
        // The relay is not pinned. At low loads the kernel then puts it on the CPU of the bots, but never the proxy's
        // data core.
        Setting { pins_others: true, ..setting("as started, bots and simulator pinned to CPU 0", json!({})) },
        setting("as started, no cache", json!({ "cache": {} })),
        // The relay's upstream is not compressed, and in this setting neither is the proxy's. So the latency of
        // neither side includes the time that the simulator takes to compress.
        setting("as started, upstream not compressed", json!({ "upstream_compression": "none" })),
        // Here the latency of both sides includes compressing and decompressing: at the relay's side the bots decompress.
        Setting {
            relay_compression: Some("zstd-stream"),
            ..setting("as started, the relay's connections compressed too", json!({}))
        },
        setting("as started, zlib-stream", json!({ "upstream_compression": "zlib-stream" })),
        Setting { pins_others: true, ..setting("pinned to CPU 1, the others to CPU 0", pinned) },
        Setting { tls: true, ..setting("as started, wss", json!({})) },
    ];
    match env::var("SETTING") {
        Ok(wanted) if !wanted.is_empty() => all.into_iter().filter(|setting| setting.name == wanted).collect(),
        _ => all,
    }
}

/// Events per second. The environment variable `RATE` selects one.
fn rates() -> Vec<u32> {
    let wanted = env::var("RATE").ok().filter(|rate| !rate.is_empty());
    wanted.map_or(vec![1_000, 10_000, 40_000], |rate| vec![rate.parse().expect("RATE is a number")])
}

/// Measures every setting.
pub fn run(bench: &Bench) -> Value {
    let measured =
        settings().iter().map(|setting| json!({ "setting": setting.name, "loads": measure(bench, setting) })).collect();
    bench.pins_others.set(true);
    measured
}

fn measure(bench: &Bench, setting: &Setting) -> Value {
    let rounds = if bench.quick { 1 } else { 5 };
    let options = if setting.tls { format!("--tls-dir {}", bench.tls_directory().display()) } else { String::new() };
    bench.pins_others.set(setting.pins_others);
    let simulator = bench.simulator_with(SHARDS, 400, 50, &options);
    let mut results = Vec::new();
    for rate in rates() {
        let (mut proxy, mut relay) = (Samples::default(), Samples::default());
        for round in 0..rounds {
            let order = if round % 2 == 0 { [Side::Proxy, Side::Relay] } else { [Side::Relay, Side::Proxy] };
            for side in order {
                let samples = if side == Side::Proxy { &mut proxy } else { &mut relay };
                sample(bench, side, setting, &simulator, rate, samples);
            }
        }
        // Each ratio is of two runs of one round, one right after the other, because the speed of the machine changes
        // over time.
        let ratios = |key: fn(&Samples) -> &[f64]| -> Vec<f64> {
            key(&proxy).iter().zip(key(&relay)).map(|(proxy, relay)| proxy / relay).collect()
        };
        let (cpu, p50, p99) = (ratios(|side| &side.cpu_us), ratios(|side| &side.p50), ratios(|side| &side.p99));
        let range = [f64::min, f64::max].map(|choose| cpu.iter().copied().reduce(choose));
        let (proxy, relay) = (proxy.json(), relay.json());
        results.push(json!({
            "asked": rate, "proxy": proxy, "relay": relay, "cpu_ratio": median(cpu), "cpu_ratio_range": range,
            "p50_ratio": median(p50), "p99_ratio": median(p99),
        }));
    }
    results.into()
}

/// Runs one side once at one load and adds the figures to `samples`.
fn sample(
    bench: &Bench,
    side: Side,
    setting: &Setting,
    simulator: &crate::Simulator,
    rate: u32,
    samples: &mut Samples,
) {
    let seconds = if bench.quick { 2.0 } else { 3.0 };
    let tested = bench.start_with(side, simulator, SHARDS, &setting.keys);
    let pid = tested.child.id();
    let compression = if side == Side::Relay { setting.relay_compression } else { None };
    let bot = bench.compressed_bot(tested.port, SHARDS, seconds + 2.5, compression);
    thread::sleep(Duration::from_millis(1_000));
    simulator.traffic(rate);
    thread::sleep(Duration::from_millis(500));
    let time = Duration::from_secs_f64(seconds);
    let counting = Syscalls::start(pid, time);
    let events = || simulator.stats()["events_sent"].as_f64().expect("a number");
    let (start, cpu, sent) = (Instant::now(), cpu_ns(pid), events());
    thread::sleep(time);
    let (time, cpu, sent) = (start.elapsed(), cpu_ns(pid) - cpu, events() - sent);
    let syscalls = counting.count();
    simulator.traffic(0);
    let summary = finished(bot, &format!("{side:?} at {rate}/s"));
    samples.cpu_us.push(cpu as f64 / 1e3 / sent);
    let latency = |key: &str| summary["latency_us"][key].as_f64().unwrap_or(f64::NAN);
    samples.p50.push(latency("p50"));
    samples.p99.push(latency("p99"));
    samples.p999.push(latency("p999"));
    samples.rate.push(sent / time.as_secs_f64());
    samples.syscalls.extend(syscalls.map(|count| count as f64 / sent));
}

/// Prints one table for each setting.
pub fn print(settings: &Value) {
    for setting in settings.as_array().expect("settings") {
        println!(
            "| {}, 20 shards | | CPU µs per event | events/s per core | latency µs p50 / p99 / p99.9 | system calls per event |",
            setting["setting"].as_str().unwrap_or_default()
        );
        println!("|---|---|---|---|---|---|");
        for load in setting["loads"].as_array().expect("loads") {
            print_load(load);
        }
        println!();
    }
}

fn print_load(load: &Value) {
    for side in ["proxy", "relay"] {
        let it = &load[side];
        let latency = &it["latency_us"];
        println!(
            "| {} events/s | {side} | {:.2} | {:.0} | {:.0} / {:.0} / {:.0} | {:.2} |",
            load["asked"],
            number(&it["cpu_us_per_event"]),
            number(&it["events_per_second_and_core"]),
            number(&latency["p50"]),
            number(&latency["p99"]),
            number(&latency["p99.9"]),
            number(&it["syscalls_per_event"]),
        );
    }
    let [low, high] = [0, 1].map(|end| number(&load["cpu_ratio_range"][end]));
    println!(
        "| | ratio | {:.2} ({low:.2} to {high:.2}) | | p50 {:.2}, p99 {:.2} | |",
        number(&load["cpu_ratio"]),
        number(&load["p50_ratio"]),
        number(&load["p99_ratio"])
    );
}
