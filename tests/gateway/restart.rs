//! The proxy is restarted while clients are connected and events are sent: no IDENTIFY is spent, each client gets each
//! event once, and the cache still matches the simulator. Damaged or foreign state files are not used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::TcpListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use support::{Gateway, Gone, Proxy, Simulator, Transport, compare_guilds, free_port, get, scratch, wait_until};

const SHARDS: u32 = 3;
const INTENTS: u64 = 53_608_447;

/// A client that behaves like a library: it resumes when its connection ends, and checks every number.
struct Client {
    address: std::net::SocketAddr,
    simulator: std::net::SocketAddr,
    shard: u32,
    transport: Transport,
    /// Number of the message after which the client ends; 0 while it is not known.
    last: Arc<AtomicU64>,
    /// Number of the newest message that the client has got.
    number: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
}

/// The result of a client.
struct Told {
    resumes: u32,
    members: BTreeMap<String, i64>,
    /// Guilds of READY that the client has not been shown, and of which it gets no messages.
    not_shown: BTreeSet<String>,
    /// The events about the members of each guild, with their sequence numbers: what a failure shows.
    story: BTreeMap<String, Vec<(u64, String)>>,
}

struct Alarm(Arc<AtomicBool>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

impl Client {
    fn run(self) -> Told {
        let _alarm = Alarm(self.failed.clone());
        let mut gateway = Gateway::connect(self.address, self.transport);
        gateway.identify((self.shard, SHARDS), INTENTS);
        let ready = gateway.receive().expect("READY").data();
        let session = ready["session_id"].as_str().expect("a session").to_owned();
        let mut sequence = 1;
        let guilds = ready["guilds"].as_array().expect("guilds").iter();
        let not_shown = guilds.map(|guild| guild["id"].as_str().expect("an id").to_owned()).collect();
        let mut told = Told { resumes: 0, members: BTreeMap::new(), not_shown, story: BTreeMap::new() };
        let mut asked_to_go = false;
        gateway.set_patience(Duration::from_millis(200));
        loop {
            assert!(!self.failed.load(Relaxed), "another client has failed");
            let last = self.last.load(Relaxed);
            if last > 0 && self.number.load(Relaxed) == last {
                gateway.close(1000);
                return told;
            }
            match gateway.receive() {
                Ok(payload) if payload.op == 0 => {
                    assert_eq!(payload.s, Some(sequence + 1), "{:?}", payload.t);
                    sequence += 1;
                    if let Some(number) = payload.number() {
                        let before = self.number.swap(number, Relaxed);
                        assert!(number > before, "{number} after {before}");
                        if before > 0 {
                            Simulator::check_missing(self.simulator, self.shard, before + 1..number, &told.not_shown);
                        }
                    }
                    self.count(&mut told, sequence, payload.t.as_deref().expect("a type"), || payload.data());
                }
                Ok(payload) => {
                    assert_ne!(payload.op, 9, "a session was refused at {sequence}");
                    asked_to_go |= payload.op == 7;
                }
                Err(Gone::Silent) => {}
                Err(gone) => {
                    // A client that had reconnected to the stopping process is told to reconnect by the close code
                    // alone.
                    assert!(asked_to_go || matches!(gone, Gone::Closed(..)), "{gone:?} without op 7");
                    if let Gone::Closed(code, _) = gone {
                        assert_eq!(code, Some(4000));
                    }
                    gateway = self.reconnect();
                    gateway.resume(&session, sequence);
                    asked_to_go = false;
                    told.resumes += 1;
                }
            }
        }
    }

    /// Counts the members of each guild from the events of this client.
    fn count(&self, told: &mut Told, sequence: u64, name: &str, data: impl Fn() -> Value) {
        let (key, change) = match name {
            "GUILD_CREATE" | "GUILD_DELETE" => ("id", 0),
            "GUILD_MEMBER_ADD" => ("guild_id", 1),
            "GUILD_MEMBER_REMOVE" => ("guild_id", -1),
            _ => return,
        };
        let data = data();
        let guild = data[key].as_str().expect("an id").to_owned();
        if key == "id" && data["unavailable"] != true {
            told.not_shown.remove(&guild);
        }
        told.story
            .entry(guild.clone())
            .or_default()
            .push((sequence, format!("{name} {} {}", data["member_count"], data["user"]["id"])));
        match name {
            "GUILD_CREATE" => drop(told.members.insert(guild, data["member_count"].as_i64().expect("a count"))),
            "GUILD_DELETE" => drop(told.members.remove(&guild)),
            _ => *told.members.get_mut(&guild).expect("a guild") += change,
        }
    }

    fn reconnect(&self) -> Gateway {
        wait_until("the proxy to be back", || {
            let mut gateway = Gateway::open(self.address, self.transport).map_err(|error| error.to_string())?;
            match gateway.receive() {
                Ok(hello) if hello.op == 10 => {
                    gateway.set_patience(Duration::from_millis(200));
                    Ok(gateway)
                }
                other => Err(format!("{other:?}")),
            }
        })
    }
}

fn world(seed: u32) -> String {
    format!(
        "--shards {SHARDS} --max-concurrency 4 --guilds 60 --members 40 --seed {seed} --rate 0 --identify-interval-ms 100"
    )
}

fn config(directory: &Path, port: u16, cores: u32) -> Value {
    json!({"shards": SHARDS, "cores": cores, "port": port, "log_level": "info", "state_dir": directory.join("state")})
}

fn state_files(directory: &Path) -> Vec<String> {
    let Ok(files) = fs::read_dir(directory.join("state")) else { return Vec::new() };
    let mut names: Vec<_> =
        files.map(|file| file.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn log_of(directory: &Path) -> String {
    fs::read_to_string(directory.join("gateway-proxy.log")).expect("a log")
}

/// The clients of a test, three on each shard with different transports, and what the test tells them.
struct Crowd {
    clients: Vec<thread::JoinHandle<Told>>,
    /// The shard and [`Client::number`] of each client.
    numbers: Vec<(u32, Arc<AtomicU64>)>,
    /// [`Client::last`] of each shard.
    last: Vec<Arc<AtomicU64>>,
    failed: Arc<AtomicBool>,
}

impl Crowd {
    fn start(address: std::net::SocketAddr, simulator: std::net::SocketAddr) -> Self {
        let failed = Arc::new(AtomicBool::new(false));
        let last: Vec<Arc<AtomicU64>> = (0..SHARDS).map(|_| Arc::default()).collect();
        let (mut clients, mut numbers) = (Vec::new(), Vec::new());
        for shard in 0..SHARDS {
            for transport in [Transport::None, Transport::Zlib, Transport::Zstd] {
                let number = Arc::new(AtomicU64::new(0));
                numbers.push((shard, number.clone()));
                let last = last[shard as usize].clone();
                let client = Client { address, simulator, shard, transport, last, number, failed: failed.clone() };
                clients.push(thread::spawn(move || client.run()));
            }
        }
        Self { clients, numbers, last, failed }
    }

    /// Waits until each client has got a message with a higher number than this one.
    fn sees_messages_after(&self, from: u64, simulator: &Simulator) {
        for (shard, number) in &self.numbers {
            wait_until("every client to see new events", || {
                assert!(!self.failed.load(Relaxed), "a client has failed");
                let seen = number.load(Relaxed);
                if seen > from {
                    Ok(())
                } else {
                    Err(format!("shard {shard}: {seen} of {}", simulator.last_number(*shard)))
                }
            });
        }
    }

    /// Sends the last message of each shard, with which its clients end. The simulator sends no random events any more.
    /// Each client has resumed at least once for each restart, and has counted the members of each guild right.
    fn ends_with_the_truth(self, simulator: &Simulator, restarts: usize) {
        for (shard, last) in self.last.iter().enumerate() {
            let (_, number) = simulator.emit(shard as u32, 1);
            last.store(number, Relaxed);
        }
        for (client, (shard, _)) in self.clients.into_iter().zip(self.numbers) {
            let told = client.join().expect("a client that is content");
            assert!(told.resumes as usize >= restarts);
            for (id, guild) in simulator.guilds(shard) {
                if !guild.unavailable {
                    let path = format!("/sim/guild?id={id}");
                    let truth = support::get_json(simulator.address, &path).expect("the truth");
                    assert_eq!(
                        told.members.get(&id).copied(),
                        truth["member_count"].as_i64(),
                        "members of {id} on shard {shard}; the client was sent {:?}; the simulator has {:?}",
                        told.story.get(&id),
                        truth["members"]
                            .as_array()
                            .map(|members| members.iter().map(|member| &member["user"]["id"]).collect::<Vec<_>>())
                    );
                }
            }
        }
    }
}

/// Stops the proxy while events are sent. Discord has further events meanwhile, and sends them after the RESUME.
/// Returns the highest number of a message so far.
fn stop_with_events_on_the_way(proxy: Proxy, simulator: &Simulator, directory: &Path) -> u64 {
    for shard in 0..SHARDS {
        simulator.mutate(shard, 100);
    }
    proxy.stop();
    assert_eq!(state_files(directory), ["gateway.json", "shard-0.state", "shard-1.state", "shard-2.state"]);
    for shard in 0..SHARDS {
        simulator.mutate(shard, 100);
        simulator.emit(shard, 30);
    }
    (0..SHARDS).map(|shard| simulator.last_number(shard)).max().expect("a shard")
}

/// Starts the proxy on its state files. It resumes each shard once.
fn start_and_resume(directory: &Path, simulator: &Simulator, config: &Value, restart: usize) -> Proxy {
    let proxy = Proxy::start(directory, simulator, config);
    let resumes: Vec<_> = (0..SHARDS).map(|shard| simulator.shard_stats(shard)["resumes"].clone()).collect();
    assert_eq!(resumes, vec![json!(restart + 1); SHARDS as usize]);
    proxy
}

#[test]
fn a_restart_costs_no_identify_and_no_event() {
    const RESTARTS: [u32; 3] = [2, 1, 3];
    let directory = scratch("restart");
    let simulator = Simulator::start(&directory, &world(8));
    let port = free_port();
    let mut proxy = Proxy::start(&directory, &simulator, &config(&directory, port, 1));
    assert_eq!(simulator.identifies(), u64::from(SHARDS));
    let crowd = Crowd::start(proxy.address, simulator.address);
    simulator.traffic(600);
    for shard in 0..SHARDS {
        simulator.emit(shard, 20);
    }
    crowd.sees_messages_after(0, &simulator);
    for (restart, cores) in RESTARTS.into_iter().enumerate() {
        let from = stop_with_events_on_the_way(proxy, &simulator, &directory);
        proxy = start_and_resume(&directory, &simulator, &config(&directory, port, cores), restart);
        for shard in 0..SHARDS {
            while simulator.last_number(shard) <= from {
                simulator.emit(shard, 10);
            }
        }
        crowd.sees_messages_after(from, &simulator);
        assert_eq!(state_files(&directory), [""; 0], "what was read is gone");
    }
    // The simulator makes no more random events after it has answered the request to stop them.
    simulator.traffic(0);
    crowd.ends_with_the_truth(&simulator, RESTARTS.len());
    for shard in 0..SHARDS {
        assert!(compare_guilds(&proxy, &simulator, shard, SHARDS, true) > 5);
    }
    assert_eq!(simulator.identifies(), u64::from(SHARDS), "a restart has cost an IDENTIFY");
    assert_eq!(simulator.stats()["violations"], json!([]));
    assert!(!log_of(&directory).contains(support::TOKEN), "the token is in the log");
}

#[test]
fn a_state_file_that_is_not_good_is_reported_and_not_used() {
    let directory = scratch("restart_damaged");
    let simulator = Simulator::start(&directory, &world(9));
    let port = free_port();
    let proxy = Proxy::start(&directory, &simulator, &config(&directory, port, 2));
    proxy.stop();
    assert_eq!(state_files(&directory), ["gateway.json", "shard-0.state", "shard-1.state", "shard-2.state"]);
    let path = |shard: u32| directory.join(format!("state/shard-{shard}.state"));
    for shard in 0..SHARDS {
        let bytes = fs::read(path(shard)).expect("a state file");
        assert!(!bytes.windows(support::TOKEN.len()).any(|part| part == support::TOKEN.as_bytes()));
    }
    // One file is cut off, and one has a flipped bit. The third file is good.
    let bytes = fs::read(path(0)).expect("a state file");
    fs::write(path(0), &bytes[..bytes.len() / 2]).expect("writing");
    let mut turned = fs::read(path(1)).expect("a state file");
    let middle = turned.len() / 2;
    turned[middle] ^= 4;
    fs::write(path(1), turned).expect("writing");
    let proxy = Proxy::start(&directory, &simulator, &config(&directory, port, 2));
    assert_eq!(simulator.identifies(), 5, "two shards had to start over");
    assert_eq!(simulator.resumes(), 1);
    let log = log_of(&directory);
    for shard in ["shard=0", "shard=1"] {
        let line = log.lines().find(|line| line.contains("of the last process is not used") && line.contains(shard));
        assert!(line.is_some_and(|line| line.contains("checksum")), "{line:?}");
    }
    for shard in 0..SHARDS {
        compare_guilds(&proxy, &simulator, shard, SHARDS, true);
    }
    // A proxy with other intents cannot continue these sessions.
    proxy.stop();
    let mut other = config(&directory, port, 2);
    other["intents"] = json!(INTENTS & !2);
    let proxy = Proxy::start(&directory, &simulator, &other);
    assert_eq!(simulator.identifies(), 8);
    assert!(log_of(&directory).contains("another version, bot or configuration"));
    // A killed proxy writes no state files, so the next start is a clean one.
    proxy.kill();
    assert_eq!(state_files(&directory), [""; 0]);
    // A kill during the writing of a file leaves a part of it, which is not used either.
    fs::write(directory.join("state/shard-0.state.new"), &bytes).expect("writing");
    let proxy = Proxy::start(&directory, &simulator, &other);
    assert_eq!(simulator.identifies(), 11);
    for shard in 0..SHARDS {
        compare_guilds(&proxy, &simulator, shard, SHARDS, true);
    }
    assert_eq!(simulator.stats()["violations"], json!([]));
}

/// Some libraries wait only 15 s for READY.
#[test]
fn who_identifies_while_discord_is_away_is_served_from_what_was_kept() {
    let directory = scratch("restart_away");
    let simulator = Simulator::start(&directory, &world(11));
    let config = config(&directory, free_port(), 1);
    Proxy::start(&directory, &simulator, &config).stop();
    let expected = simulator.guilds(0).len();
    simulator.fault("refuse?seconds=3600");
    // REST is up, and names a gateway that is down.
    let rest = Simulator::start(&directory, &format!("{} --public-url ws://127.0.0.1:{}", world(11), free_port()));
    let proxy = Proxy::spawn_before(&directory, rest.address, &config, &[]);
    let mut gateway =
        wait_until("the port", || Gateway::open(proxy.address, Transport::None).map_err(|e| e.to_string()));
    assert_eq!(gateway.receive().expect("HELLO").op, 10);
    gateway.identify((0, SHARDS), INTENTS);
    let ready = gateway.receive().expect("READY");
    let guilds = ready.data()["guilds"].as_array().expect("guilds").len();
    assert_eq!(guilds, expected);
    for _ in 0..guilds {
        assert_eq!(gateway.receive().expect("a guild").t.as_deref(), Some("GUILD_CREATE"));
    }
    assert_eq!(get(proxy.address, "/health").expect("an answer").status, 503);
}

#[test]
fn shards_that_can_resume_do_not_wait_for_rest() {
    let directory = scratch("restart_without_rest");
    let simulator = Simulator::start(&directory, &world(12));
    let config = config(&directory, free_port(), 1);
    Proxy::start(&directory, &simulator, &config).stop();
    // The third shard has no state file.
    fs::remove_file(directory.join("state/shard-2.state")).expect("a state file");
    // A proxy that is told to stop before the REST API has answered leaves all state files as they are.
    let before = state_files(&directory);
    assert_eq!(before, ["gateway.json", "shard-0.state", "shard-1.state"]);
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("its address");
    let proxy = Proxy::spawn_before(&directory, address, &config, &[]);
    wait_until("the port", || Gateway::open(proxy.address, Transport::None).map(drop).map_err(|e| e.to_string()));
    proxy.stop();
    assert_eq!(state_files(&directory), before);
    let port = free_port();
    let proxy = Proxy::spawn_before(&directory, ([127, 0, 0, 1], port).into(), &config, &[]);
    wait_until("two shards to be resumed", || match simulator.resumes() {
        2 => Ok(()),
        resumes => Err(format!("{resumes} are")),
    });
    for shard in 0..2 {
        let mut gateway = Gateway::connect(proxy.address, Transport::None);
        gateway.identify((shard, SHARDS), INTENTS);
        assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
        compare_guilds(&proxy, &simulator, shard, SHARDS, true);
    }
    assert_eq!(simulator.identifies(), u64::from(SHARDS), "nobody identifies without a budget");
    // REST is up again: the third shard starts.
    let _rest =
        Simulator::start_at(&directory, port, &format!("{} --public-url ws://{}", world(12), simulator.address));
    wait_until("health", || match get(proxy.address, "/health") {
        Ok(response) if response.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(simulator.identifies(), u64::from(SHARDS) + 1);
    assert_eq!(simulator.resumes(), 2);
    compare_guilds(&proxy, &simulator, 2, SHARDS, true);
    assert_eq!(simulator.stats()["violations"], json!([]));
}

#[test]
fn without_a_state_dir_nothing_is_written_and_a_second_signal_quits_at_once() {
    let directory = scratch("restart_without");
    let simulator = Simulator::start(&directory, &world(10));
    let mut proxy = Proxy::start(&directory, &simulator, &json!({"shards": SHARDS}));
    // A client that does not close its connection delays the end of the proxy by a few seconds.
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    gateway.identify((0, SHARDS), INTENTS);
    assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
    proxy.signal("TERM");
    wait_until("the goodbye", || match gateway.receive() {
        Ok(payload) if payload.op == 7 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    proxy.signal("INT");
    let status = wait_until("the end", || proxy.ended().ok_or("it runs".to_owned()));
    assert!(!status.success(), "it was told to hurry: {status}");
    assert_eq!(state_files(&directory), [""; 0]);
}
