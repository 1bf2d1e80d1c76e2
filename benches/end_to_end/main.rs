//! Measures the whole proxy as a bot sees it, beside a null relay that moves the same bytes without looking at them.
//! Run it with `make bench`, or with `QUICK=1 make bench` for rough figures within a minute.
//!
//! discord-sim plays Discord, the relay and the bots, each in a process of its own. The proxy and the relay are
//! measured in turn, and the figures are medians, because absolute figures mean little on a machine that others use
//! too. The results are printed as tables and written to `target/bench.json`. The benchmark fails when an event is lost
//! or doubled.

mod capacity;
mod loads;
mod measure;

use std::{
    cell::Cell,
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

use measure::rss;
use serde_json::{Value, json};
use support::{Gateway, Options, Simulator, TOKEN, Transport, free_port, get, memory_of_connections, wait_until};

/// CPU of the process under test, where processes are pinned.
const TESTED: usize = 1;
/// CPU of all other processes, where processes are pinned.
const OTHERS: usize = 0;
const INTENTS: u64 = 53_608_447;
/// Keys that pin the proxy or the relay to [`TESTED`].
static PINNED: LazyLock<Value> = LazyLock::new(|| json!({ "cores": [TESTED], "control_core": TESTED }));
const MB: f64 = (1 << 20) as f64;

/// The program under test.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Side {
    Proxy,
    Relay,
}

/// A process under test.
struct Tested {
    child: Child,
    port: u16,
}

impl Drop for Tested {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Bench {
    directory: PathBuf,
    quick: bool,
    /// Whether the simulator and the bots are pinned to [`OTHERS`]. If not, the kernel places them.
    pins_others: Cell<bool>,
}

impl Bench {
    fn simulator(&self, shards: usize, guilds: usize, members: usize) -> Simulator {
        self.simulator_with(shards, guilds, members, "")
    }

    /// Starts a simulator with further options.
    fn simulator_with(&self, shards: usize, guilds: usize, members: usize, options: &str) -> Simulator {
        let world = format!(
            "--shards {shards} --max-concurrency {shards} --identify-interval-ms 50 --guilds {guilds} --members {members} \
             --rate 0 --remaining 1000000 --member-request-interval-ms 0 {} {options}",
            self.pin_of_others()
        );
        Simulator::start(&self.directory, &world)
    }

    /// Returns the options of discord-sim that pin the simulator or a bot.
    fn pin_of_others(&self) -> String {
        if self.pins_others.get() { format!("--cpu {OTHERS}") } else { String::new() }
    }

    fn tls_directory(&self) -> PathBuf {
        self.directory.join("tls")
    }

    fn start(&self, side: Side, simulator: &Simulator, shards: usize) -> Tested {
        self.start_with(side, simulator, shards, &PINNED)
    }

    /// Starts the process under test, with further keys in the proxy's configuration. Without `cores` and
    /// `control_core` among the keys, neither side is pinned.
    fn start_with(&self, side: Side, simulator: &Simulator, shards: usize, keys: &Value) -> Tested {
        let port = free_port();
        let log = fs::File::create(self.directory.join(format!("{side:?}.log"))).expect("a log");
        let mut command = match side {
            Side::Proxy => {
                let cached: Value = [
                    "channels",
                    "presences",
                    "emojis",
                    "current_member",
                    "members",
                    "roles",
                    "scheduled_events",
                    "stage_instances",
                    "stickers",
                    "users",
                    "voice_states",
                ]
                .into_iter()
                .map(|flag| (flag.to_owned(), json!(true)))
                .collect::<serde_json::Map<_, _>>()
                .into();
                let mut config = json!({
                    "token": TOKEN, "intents": INTENTS, "host": "127.0.0.1", "port": port, "shards": shards,
                    "twilight_http_proxy": simulator.address.to_string(),
                    "externally_accessible_url": format!("ws://127.0.0.1:{port}"), "upstream_compression": "zstd-stream",
                    "cache": cached, "log_level": "warn",
                });
                for (key, value) in keys.as_object().expect("an object") {
                    config[key] = value.clone();
                }
                let path = self.directory.join("config.json");
                fs::write(&path, config.to_string()).expect("a configuration");
                let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
                command.arg("--config").arg(path).env_remove("TOKEN");
                // Where the simulator uses TLS, the proxy has to trust its certificate.
                let ca = self.tls_directory().join("ca.pem");
                if ca.exists() {
                    command.env("SSL_CERT_FILE", ca);
                }
                command
            }
            Side::Relay => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_discord-sim"));
                command.args(["relay", "--listen", &format!("127.0.0.1:{port}")]);
                command.args(["--upstream", &format!("ws://{}", simulator.address)]);
                if !keys["control_core"].is_null() {
                    command.args(["--cpu", &TESTED.to_string()]);
                }
                command
            }
        };
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("a process");
        let address = ([127, 0, 0, 1], port).into();
        wait_until("the one under test", || match side {
            Side::Proxy => match get(address, "/health") {
                Ok(response) if response.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            },
            Side::Relay => std::net::TcpStream::connect(address).map(drop).map_err(|error| error.to_string()),
        });
        Tested { child, port }
    }

    fn bot(&self, port: u16, shards: usize, seconds: f64) -> Child {
        self.bot_with(port, shards, seconds, Stdio::null())
    }

    /// Starts a bot that also prints what it sees in each second.
    fn observer(&self, port: u16, shards: usize, seconds: f64) -> Child {
        self.bot_with(port, shards, seconds, Stdio::piped())
    }

    /// Starts a bot with the lowest priority. An observer on the same CPU then notices what the process under test
    /// does, and not that this bot has megabytes to read.
    fn modest_bot(&self, port: u16, shards: usize, seconds: f64) -> Child {
        let mut nice = Command::new("nice");
        nice.args(["-n", "19", env!("CARGO_BIN_EXE_discord-sim")]);
        self.start_bot(nice, port, shards, seconds, Stdio::null())
    }

    fn bot_with(&self, port: u16, shards: usize, seconds: f64, stderr: Stdio) -> Child {
        self.start_bot(Command::new(env!("CARGO_BIN_EXE_discord-sim")), port, shards, seconds, stderr)
    }

    /// Starts a bot whose connections use this transport compression.
    fn compressed_bot(&self, port: u16, shards: usize, seconds: f64, compress: Option<&str>) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_discord-sim"));
        command.arg("bot").args(compress.iter().flat_map(|transport| ["--compress", transport]));
        self.start_prepared_bot(command, port, shards, seconds, Stdio::null())
    }

    fn start_bot(&self, mut command: Command, port: u16, shards: usize, seconds: f64, stderr: Stdio) -> Child {
        command.arg("bot");
        self.start_prepared_bot(command, port, shards, seconds, stderr)
    }

    /// Starts a bot from a command that has its subcommand already.
    fn start_prepared_bot(&self, mut command: Command, port: u16, shards: usize, seconds: f64, stderr: Stdio) -> Child {
        command
            .args(["--json", "--close", "--url", &format!("ws://127.0.0.1:{port}"), "--token", TOKEN])
            .args(["--shards", &shards.to_string(), "--seconds", &seconds.to_string()])
            .args(self.pin_of_others().split_whitespace())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("a bot")
    }
}

fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|error| panic!("{error} in {text:?}"))
}

fn finished(bot: Child, what: &str) -> Value {
    let summary = summary(&bot.wait_with_output().expect("a bot"));
    assert_eq!(
        (&summary["gaps"], &summary["duplicates"]),
        (&json!(0), &json!(0)),
        "{what}: events were lost or doubled: {summary}"
    );
    summary
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    if values.is_empty() { f64::NAN } else { values[values.len() / 2] }
}

/// Requests all members of every guild, as some libraries do when they start, so that the cache has the members.
fn fill_members(port: u16, simulator: &Simulator, shards: u32) {
    for shard in 0..shards {
        let mut gateway = Gateway::connect(([127, 0, 0, 1], port).into(), Transport::None);
        gateway.set_patience(Duration::from_secs(60));
        gateway.identify((shard, shards), INTENTS);
        let ready = gateway.receive().expect("READY").data();
        for _ in 0..ready["guilds"].as_array().expect("guilds").len() {
            gateway.receive().expect("a guild");
        }
        for (id, guild) in simulator.guilds(shard) {
            if guild.unavailable {
                continue;
            }
            gateway.send(8, &json!({"guild_id": id, "query": "", "limit": 0, "presences": true}));
            loop {
                let event = gateway.receive().expect("an answer");
                if event.t.as_deref() == Some("GUILD_MEMBERS_CHUNK") {
                    let chunk = event.data();
                    if chunk["chunk_index"].as_u64().map(|index| index + 1) == chunk["chunk_count"].as_u64() {
                        break;
                    }
                }
            }
            // The proxy limits the commands of a client and those of a shard.
            thread::sleep(Duration::from_millis(if guild.members > Some(250) { 600 } else { 0 }));
        }
        gateway.close(1000);
    }
}

fn cached(port: u16, name: &str) -> f64 {
    let metrics = get(([127, 0, 0, 1], port).into(), "/metrics").expect("metrics").body;
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Measures the resident memory with a large cache, and again after many updates.
fn memory(bench: &Bench) -> Value {
    const SHARDS: u32 = 20;
    let (guilds, updates) = if bench.quick { (200, 50_000.0) } else { (2_000, 1_000_000.0) };
    let simulator = bench.simulator(SHARDS as usize, guilds, 200);
    let tested = bench.start(Side::Proxy, &simulator, SHARDS as usize);
    let pid = tested.child.id();
    fill_members(tested.port, &simulator, SHARDS);
    let filled = rss(pid);
    let count = |name: &str| cached(tested.port, name);
    let (members, presences) = (count("gateway_cache_members{"), count("gateway_cache_presences{"));
    let heap = count("gateway_cache_bytes{");
    let sent = || simulator.stats()["events_sent"].as_f64().expect("a number");
    let from = sent();
    simulator.traffic(40_000);
    while sent() - from < updates {
        thread::sleep(Duration::from_millis(200));
    }
    simulator.traffic(0);
    thread::sleep(Duration::from_millis(500));
    json!({
        "guilds": guilds, "members": members, "presences": presences, "cache_heap": heap, "rss": filled,
        "updates": sent() - from, "rss_after_updates": rss(pid),
    })
}

/// Where clients join while an observer is connected to the proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Joins {
    Nowhere,
    /// At Discord itself: what the observer then notices is the machine, not the proxy.
    Elsewhere,
    Here,
}

/// Returns the 99th percentile of the latency that an observer sees in each second, without the seconds in which it
/// joins.
fn observed(observer: Child) -> Vec<f64> {
    let output = observer.wait_with_output().expect("a bot");
    let summary = summary(&output);
    assert_eq!((&summary["gaps"], &summary["duplicates"]), (&json!(0), &json!(0)), "events were lost or doubled");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let p99 = |line: &str| line.split(" p99 ").nth(1)?.split(' ').next()?.parse().ok();
    text.lines().filter_map(p99).skip(2).collect()
}

/// Measures the time until a client has all its guilds, and the latency of other clients meanwhile.
fn joining(bench: &Bench) -> Value {
    let (rounds, seconds) = if bench.quick { (1, 5.0) } else { (4, 8.0) };
    let simulator = bench.simulator(1, 1_000, 25);
    let tested = bench.start(Side::Proxy, &simulator, 1);
    simulator.steady_traffic(2_000);
    let (mut times, mut bytes) = (Vec::new(), Vec::new());
    let mut seen = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (joins, seen) in [Joins::Nowhere, Joins::Elsewhere, Joins::Here].into_iter().zip(&mut seen) {
            let observer = bench.observer(tested.port, 1, seconds);
            let end = Instant::now() + Duration::from_secs_f64(seconds - 1.0);
            thread::sleep(Duration::from_millis(1_500));
            let port = if joins == Joins::Here { tested.port } else { simulator.address.port() };
            while joins != Joins::Nowhere && Instant::now() < end {
                let joined = finished(bench.modest_bot(port, 1, 0.5), &format!("a client that joins {joins:?}"));
                if joins == Joins::Here {
                    times.extend(joined["all_guilds_ms"].as_f64());
                    bytes.extend(joined["bytes"].as_f64());
                }
            }
            seen.extend(observed(observer));
        }
    }
    simulator.traffic(0);
    let [quiet, elsewhere, here] = seen.map(median);
    json!({
        "guilds": 1_000, "bytes": median(bytes), "identify_to_last_guild_ms": median(times),
        "others_p99_us": quiet, "others_p99_us_joining_elsewhere": elsewhere, "others_p99_us_joining_here": here,
        "ratio": here / quiet,
    })
}

/// Measures the cost of a crowd of clients that identify at once and read nothing: memory of the process and of the
/// kernel, and the latency of the one client that reads, in its worst second. The crowd costs something only while its
/// sockets fill up, in the first seconds. So those seconds are observed, and the figure is not a median over all
/// seconds.
fn stuck(bench: &Bench) -> Value {
    const STUCK: usize = 300;
    const RATE: u32 = 1_500;
    let (rounds, seconds) = if bench.quick { (1, 8.0) } else { (4, 12.0) };
    let simulator = bench.simulator(1, 50, 20);
    let tested = bench.start(Side::Proxy, &simulator, 1);
    let address = ([127, 0, 0, 1], tested.port).into();
    simulator.steady_traffic(RATE);
    let worst_second = |seen: Vec<f64>| seen.into_iter().reduce(f64::max).unwrap_or(f64::NAN);
    let mut worst = [Vec::new(), Vec::new()];
    let before = rss(tested.child.id());
    let (mut with, mut after, mut kernel) = (before, before, 0);
    for _ in 0..rounds {
        worst[0].push(worst_second(observed(bench.observer(tested.port, 1, seconds))));
        let observer = bench.observer(tested.port, 1, seconds);
        // The seconds in which the observer joins are not evaluated.
        thread::sleep(Duration::from_secs(3));
        let open = |_| Gateway::open_at(address, "/?v=10", Options::default(), &[]).expect("an upgrade");
        let mut clients: Vec<Gateway> = (0..STUCK).map(open).collect();
        for client in &mut clients {
            client.identify((0, 1), INTENTS);
        }
        worst[1].push(worst_second(observed(observer)));
        with = with.max(rss(tested.child.id()));
        let memory = memory_of_connections(address);
        assert!(memory.len() >= STUCK, "some of the crowd have gone");
        kernel = kernel.max(memory.into_iter().max().unwrap_or(0));
        drop(clients);
        thread::sleep(Duration::from_secs(2));
        after = rss(tested.child.id());
    }
    simulator.traffic(0);
    let [alone, among] = worst.map(median);
    json!({
        "clients": STUCK, "events_per_second": RATE, "others_p99_us_worst_second": alone,
        "others_p99_us_worst_second_with_them": among, "ratio": among / alone, "kernel_bytes_per_client": kernel,
        "rss": before, "rss_with_them": with, "rss_after": after,
    })
}

/// Measures the restart of a large proxy: the time from SIGTERM to the end of the process, and from the next start
/// until every shard has resumed.
fn restarting(bench: &Bench) -> Value {
    const SHARDS: usize = 100;
    let guilds = if bench.quick { 2_000 } else { 75_000 };
    let simulator = bench.simulator(SHARDS, guilds, 150);
    let state = bench.directory.join("state");
    let _ = fs::remove_dir_all(&state);
    let keys = json!({ "state_dir": state, "cores": [TESTED], "control_core": TESTED });
    let mut tested = bench.start_with(Side::Proxy, &simulator, SHARDS, &keys);
    // The guilds arrive after the shards are ready. When the cache has not grown for a second, all have arrived.
    let mut heap = 0.0;
    loop {
        thread::sleep(Duration::from_secs(1));
        let before = std::mem::replace(&mut heap, cached(tested.port, "gateway_cache_bytes{"));
        if before == heap {
            break;
        }
    }
    let count = |name: &str| cached(tested.port, name);
    let (members, presences) = (count("gateway_cache_members{"), count("gateway_cache_presences{"));
    let identifies = simulator.identifies();
    simulator.traffic(1_000);
    thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    let ended = Command::new("kill").arg(tested.child.id().to_string()).status().expect("kill");
    assert!(ended.success());
    assert!(tested.child.wait().expect("a process").success(), "it did not end well");
    let stop = start.elapsed();
    let files = fs::read_dir(&state).expect("state files").map(|file| file.expect("a file"));
    let bytes: u64 = files.map(|file| file.metadata().expect("a file").len()).sum();
    let start = Instant::now();
    let tested = bench.start_with(Side::Proxy, &simulator, SHARDS, &keys);
    let begin = start.elapsed();
    simulator.traffic(0);
    assert_eq!(simulator.identifies(), identifies, "an IDENTIFY was spent");
    json!({
        "shards": SHARDS, "guilds": guilds, "members": members, "presences": presences, "cache_heap": heap,
        "rss": rss(tested.child.id()), "files": bytes, "stop_s": stop.as_secs_f64(), "start_s": begin.as_secs_f64(),
    })
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

fn print_memory(memory: &Value) {
    println!("| memory | |\n|---|---|");
    println!(
        "| {} guilds, {} members, {} presences | RSS {:.1} MB, cache {:.1} MB |",
        memory["guilds"],
        memory["members"],
        memory["presences"],
        number(&memory["rss"]) / MB,
        number(&memory["cache_heap"]) / MB
    );
    println!("| after {} events | RSS {:.1} MB |", memory["updates"], number(&memory["rss_after_updates"]) / MB);
}

fn print_joining(join: &Value) {
    println!("| a client joins | |\n|---|---|");
    println!(
        "| IDENTIFY to the last of {} guilds | {:.0} ms, {:.1} MB |",
        join["guilds"],
        number(&join["identify_to_last_guild_ms"]),
        number(&join["bytes"]) / MB
    );
    println!(
        "| p99 of the others: nobody joins / one joins elsewhere / one joins here | {:.0} / {:.0} / {:.0} µs, ratio {:.2} |",
        number(&join["others_p99_us"]),
        number(&join["others_p99_us_joining_elsewhere"]),
        number(&join["others_p99_us_joining_here"]),
        number(&join["ratio"])
    );
}

fn print_stuck(stuck: &Value) {
    println!(
        "| {} clients that come at once and read nothing, {} events/s | |\n|---|---|",
        stuck["clients"], stuck["events_per_second"]
    );
    println!(
        "| p99 of one that reads in the worst second: without / with them | {:.0} / {:.0} µs, ratio {:.2} |",
        number(&stuck["others_p99_us_worst_second"]),
        number(&stuck["others_p99_us_worst_second_with_them"]),
        number(&stuck["ratio"])
    );
    println!(
        "| kernel memory of one of them, at most | {:.0} KiB |",
        number(&stuck["kernel_bytes_per_client"]) / 1024.0
    );
    println!(
        "| RSS before / with them / after they have left | {:.0} / {:.0} / {:.0} MB |",
        number(&stuck["rss"]) / MB,
        number(&stuck["rss_with_them"]) / MB,
        number(&stuck["rss_after"]) / MB
    );
}

fn print_restarting(restart: &Value) {
    println!("| a restart | |\n|---|---|");
    println!(
        "| {} shards, {} guilds, {} members, {} presences | cache {:.0} MB, state files {:.0} MB |",
        restart["shards"],
        restart["guilds"],
        restart["members"],
        restart["presences"],
        number(&restart["cache_heap"]) / MB,
        number(&restart["files"]) / MB
    );
    println!(
        "| SIGTERM to the end / start to the last RESUMED, one data core | {:.1} s / {:.1} s |",
        number(&restart["stop_s"]),
        number(&restart["start_s"])
    );
}

fn main() {
    let cpus = thread::available_parallelism().map_or(1, |cpus| cpus.get());
    if cpus < 2 {
        eprintln!("bench: two CPUs are needed, one for what is measured and one for the rest; {cpus} can be used");
        std::process::exit(1);
    }
    // Each client of the crowd is an open file of this process.
    match gateway_proxy::preflight::limits(1) {
        Ok(None) => {}
        Ok(Some(warning)) => eprintln!("bench: {warning}"),
        Err(error) => eprintln!("bench: {error}"),
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = root.join("target/bench");
    fs::create_dir_all(&directory).expect("a directory");
    let quick = env::var("QUICK").is_ok_and(|quick| !quick.is_empty() && quick != "0");
    let bench = Bench { directory, quick, pins_others: Cell::new(true) };
    let only = env::var("ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only == name;
    let mut results = json!({ "quick": bench.quick });
    let parts = [
        ("loads", loads::run as fn(&Bench) -> Value, loads::print as fn(&Value)),
        ("clients", capacity::clients, capacity::print_clients),
        ("idle", capacity::idle, capacity::print_idle),
        ("sustained", capacity::sustained, capacity::print_sustained),
        ("joining", joining, print_joining),
        ("memory", memory, print_memory),
        ("stuck", stuck, print_stuck),
        ("restarting", restarting, print_restarting),
    ];
    for (name, run, print) in parts {
        if wanted(name) {
            eprintln!("bench: {name}");
            results[name] = run(&bench);
            print(&results[name]);
            println!();
        }
    }
    let path = root.join("target/bench.json");
    fs::write(&path, format!("{results:#}\n")).expect("the result");
    eprintln!("bench: the same as JSON in target/bench.json");
}
