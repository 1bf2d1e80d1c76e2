//! Attacks: each test carries one out, and checks that a bot is served meanwhile. The attackers are clients without the
//! token (`door`, `doors`), clients with the token (`commands`, `memory`), clients with a secret of their own
//! (`credentials`), servers in Discord's place (`upstream`), and other users of the machine (`state_files`,
//! `machine`).

#[cfg(target_arch = "x86_64")]
mod calls;
mod commands;
mod credentials;
mod door;
mod doors;
mod latency;
mod machine;
mod memory;
mod state_files;
mod terminator;
mod upstream;

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use serde_json::{Value, json};
use support::{Gateway, PATIENCE, Proxy, Simulator, Transport, get, scratch};

const WORLD: &str =
    "--shards 1 --max-concurrency 1 --identify-interval-ms 100 --guilds 4 --members 10 --seed 3 --rate 0";
const INTENTS: u64 = 53_608_447;

fn start_with(name: &str, changes: &Value) -> (Simulator, Proxy) {
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let mut all = json!({"shards": 1, "log_level": "info"});
    for (key, value) in changes.as_object().expect("an object") {
        all[key] = value.clone();
    }
    let proxy = Proxy::start(&directory, &simulator, &all);
    (simulator, proxy)
}

/// A client that has got READY.
fn identified(proxy: &Proxy, of: u32) -> Gateway {
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    gateway.identify((0, of), INTENTS);
    assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
    gateway
}

/// Checks that a bot can identify and gets an event.
fn bot_is_served(simulator: &Simulator, proxy: &Proxy, of: u32) {
    let mut gateway = identified(proxy, of);
    let (first, _) = simulator.emit(0, 1);
    while gateway.receive().expect("an event").number() != Some(first) {}
}

fn metric(proxy: &Proxy, name: &str) -> f64 {
    let metrics = get(proxy.address, "/metrics").expect("metrics").body;
    let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{name} in {metrics}"))
}

/// The CPU time of a process in the scheduler's statistics.
fn cpu(pid: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process that runs");
    let nanoseconds: u64 = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanoseconds)
}

fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

/// Sends a request, and returns the open connection.
fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("a request");
    stream
}

/// Sends a request, and returns everything that the server sends until it closes the connection.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut answer = Vec::new();
    send(address, request).read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until the log of the proxy contains a text, and returns the log. A log line reaches the file a moment after it
/// is written.
fn logged(name: &str, text: &str) -> String {
    support::wait_until("a line of the log", || {
        let log = log(name);
        if log.contains(text) { Ok(log) } else { Err(format!("no {text:?} in {log}")) }
    })
}

fn log(name: &str) -> String {
    let path = support::scratch_path(name).join("gateway-proxy.log");
    fs::read_to_string(path).expect("a log")
}
