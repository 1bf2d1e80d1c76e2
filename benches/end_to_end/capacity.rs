//! Benchmarks of capacity: the cost of more clients, the cost of idle shards and clients, and the highest rate of
//! events.

use crate::{Bench, MB, Side, finished, measure::cpu_ns, measure::rss, median, number};
use serde_json::{Value, json};
use std::{
    process::Child,
    thread,
    time::{Duration, Instant},
};
use support::{Gateway, Options, Simulator};

const INTENTS: u64 = crate::INTENTS;

/// The start of a time of measurement: the CPU time of a process and of the simulator, and the number of events sent.
struct Window {
    start: Instant,
    cpu: u64,
    simulator_cpu: u64,
    sent: f64,
}

impl Window {
    fn open(pid: u32, simulator: &Simulator) -> Self {
        let sent = simulator.stats()["events_sent"].as_f64().expect("a number");
        Self { start: Instant::now(), cpu: cpu_ns(pid), simulator_cpu: cpu_ns(simulator.pid()), sent }
    }

    /// Returns events per second, CPU time of the process per event in microseconds, and the CPU shares of the process
    /// and of the simulator.
    fn close(&self, pid: u32, simulator: &Simulator) -> (f64, f64, f64, f64) {
        let end = Self::open(pid, simulator);
        let seconds = end.start.duration_since(self.start).as_secs_f64();
        let events = end.sent - self.sent;
        let cpu = (end.cpu - self.cpu) as f64;
        let simulator = (end.simulator_cpu - self.simulator_cpu) as f64;
        (events / seconds, cpu / 1e3 / events, cpu / 1e9 / seconds, simulator / 1e9 / seconds)
    }
}

fn wait(seconds: f64) {
    thread::sleep(Duration::from_secs_f64(seconds));
}

/// Measures the CPU time per event of one shard with 1, 2 and 20 clients that read everything.
pub fn clients(bench: &Bench) -> Value {
    let (rounds, seconds) = if bench.quick { (1, 2.0) } else { (5, 3.0) };
    let simulator = bench.simulator(1, 50, 20);
    let mut rows = Vec::new();
    for rate in [1_000, 5_000] {
        let mut by_count = [1, 2, 20].map(|count| (count, Vec::new()));
        for _ in 0..rounds {
            for (count, cpu) in &mut by_count {
                let tested = bench.start(Side::Proxy, &simulator, 1);
                let pid = tested.child.id();
                let bots: Vec<Child> = (0..*count).map(|_| bench.bot(tested.port, 1, seconds + 4.0)).collect();
                // The proxy treats clients as newcomers for two seconds.
                wait(2.5);
                simulator.steady_traffic(rate);
                wait(0.3);
                let window = Window::open(pid, &simulator);
                wait(seconds);
                cpu.push(window.close(pid, &simulator).1);
                simulator.traffic(0);
                for bot in bots {
                    finished(bot, &format!("one of {count} clients at {rate}/s"));
                }
            }
        }
        let cpu = by_count.map(|(_, cpu)| median(cpu));
        rows.push(json!({
            "events_per_second": rate, "cpu_us_per_event": { "1": cpu[0], "2": cpu[1], "20": cpu[2] },
            "second_client": cpu[1] / cpu[0] - 1.0, "each_of_twenty": (cpu[2] / cpu[0] - 1.0) / 19.0,
        }));
    }
    rows.into()
}

pub fn print_clients(rows: &Value) {
    println!(
        "| clients of one shard | CPU µs per event with 1 / 2 / 20 | the second adds | each of twenty adds |\n|---|---|---|---|"
    );
    for row in rows.as_array().expect("rows") {
        let cpu = &row["cpu_us_per_event"];
        println!(
            "| {} events/s | {:.1} / {:.1} / {:.1} | {:.0} % | {:.0} % |",
            row["events_per_second"],
            number(&cpu["1"]),
            number(&cpu["2"]),
            number(&cpu["20"]),
            number(&row["second_client"]) * 100.0,
            number(&row["each_of_twenty"]) * 100.0
        );
    }
}

/// Measures idle shards, which send heartbeats only, without and with idle clients: share of one CPU, and resident
/// memory in bytes.
pub fn idle(bench: &Bench) -> Value {
    const SHARDS: usize = 100;
    const CLIENTS: usize = 1_000;
    let seconds = if bench.quick { 10.0 } else { 60.0 };
    let simulator = bench.simulator(SHARDS, SHARDS * 5, 20);
    let tested = bench.start(Side::Proxy, &simulator, SHARDS);
    let pid = tested.child.id();
    let share = || {
        wait(2.0);
        let (start, cpu) = (Instant::now(), cpu_ns(pid));
        wait(seconds);
        (cpu_ns(pid) - cpu) as f64 / 1e9 / start.elapsed().as_secs_f64()
    };
    let alone = (share(), rss(pid));
    let address = ([127, 0, 0, 1], tested.port).into();
    let clients: Vec<Gateway> = (0..CLIENTS)
        .map(|index| {
            let mut client = Gateway::open_at(address, "/?v=10", Options::default(), &[]).expect("an upgrade");
            client.identify(((index % SHARDS) as u32, SHARDS as u32), INTENTS);
            client
        })
        .collect();
    let with = (share(), rss(pid));
    drop(clients);
    json!({
        "shards": SHARDS, "seconds": seconds, "cpu_share": alone.0, "rss": alone.1,
        "clients": CLIENTS, "cpu_share_with_clients": with.0, "rss_with_clients": with.1,
    })
}

pub fn print_idle(idle: &Value) {
    println!("| nothing happens, heartbeats only | share of one CPU | RSS |\n|---|---|---|");
    println!(
        "| {} shards | {:.2} % | {:.1} MB |",
        idle["shards"],
        number(&idle["cpu_share"]) * 100.0,
        number(&idle["rss"]) / MB
    );
    println!(
        "| the same with {} clients | {:.2} % | {:.1} MB |",
        idle["clients"],
        number(&idle["cpu_share_with_clients"]) * 100.0,
        number(&idle["rss_with_clients"]) / MB
    );
}

/// Asks for high rates of events. Measures the rate that is achieved and the CPU share of every process. Fails when an
/// event is lost.
pub fn sustained(bench: &Bench) -> Value {
    let seconds = if bench.quick { 5.0 } else { 20.0 };
    let cases = [
        ("20 shards", 20, 150_000, None),
        ("1 shard", 1, 60_000, None),
        ("20 shards, clients with zlib-stream", 20, 100_000, Some("zlib-stream")),
    ];
    let mut rows = Vec::new();
    for (name, shards, rate, compress) in cases {
        let simulator = bench.simulator(shards, 400, 50);
        // Without upstream compression the simulator has less to do, so the proxy gets more events.
        let keys = json!({ "upstream_compression": "none", "cores": [crate::TESTED], "control_core": crate::TESTED });
        let tested = bench.start_with(Side::Proxy, &simulator, shards, &keys);
        let pid = tested.child.id();
        let bot = bench.compressed_bot(tested.port, shards, seconds + 6.0, compress);
        wait(1.5);
        simulator.steady_traffic(rate);
        wait(1.0);
        let (window, bot_cpu) = (Window::open(pid, &simulator), cpu_ns(bot.id()));
        wait(seconds);
        let bot_share = (cpu_ns(bot.id()) - bot_cpu) as f64 / 1e9 / seconds;
        let (achieved, cpu_us, share, simulator_share) = window.close(pid, &simulator);
        simulator.traffic(0);
        let summary = finished(bot, name);
        rows.push(json!({
            "case": name, "asked": rate, "achieved": achieved, "cpu_us_per_event": cpu_us, "proxy_share": share,
            "simulator_share": simulator_share, "bot_share": bot_share, "latency_us": summary["latency_us"],
        }));
    }
    rows.into()
}

pub fn print_sustained(rows: &Value) {
    println!(
        "| sustained, nothing lost | asked / achieved events/s | CPU µs per event | share of a CPU: proxy / simulator / bots | latency µs p50 / p99 |\n|---|---|---|---|---|"
    );
    for row in rows.as_array().expect("rows") {
        println!(
            "| {} | {} / {:.0} | {:.2} | {:.0} % / {:.0} % / {:.0} % | {:.0} / {:.0} |",
            row["case"].as_str().unwrap_or_default(),
            row["asked"],
            number(&row["achieved"]),
            number(&row["cpu_us_per_event"]),
            number(&row["proxy_share"]) * 100.0,
            number(&row["simulator_share"]) * 100.0,
            number(&row["bot_share"]) * 100.0,
            number(&row["latency_us"]["p50"]),
            number(&row["latency_us"]["p99"])
        );
    }
}
