//! Many clients on many shards over several cores, with bursts of events, while clients connect and disconnect: each
//! client's stream is complete, in order and without duplicates.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde_json::json;
use support::{Encoding, Gateway, Gone, Options, Payload, Proxy, Simulator, Transport, scratch, wait_until};

const SHARDS: u32 = 8;
const EVENTS: u64 = 200_000;
const BURST: u64 = 500;
/// Most messages that a client may be behind before the next burst. The log of a shard has room for several times as
/// many. A client that falls off the log would have to identify again.
const MOST_BEHIND: u64 = 5_000;
/// All intents of the proxy.
const INTENTS: u64 = 53_608_447;

/// How a client behaves besides reading.
#[derive(Clone, Copy, Debug)]
enum Habit {
    /// The client stays connected to the end.
    Steady,
    /// The client repeatedly drops its connection and resumes.
    Resumes,
    /// The client repeatedly closes its session and identifies again.
    Restarts,
}

struct Client {
    address: SocketAddr,
    simulator: SocketAddr,
    shard: u32,
    options: Options,
    habit: Habit,
    /// Number of the last message of this shard; 0 while it is not known.
    last: Arc<AtomicU64>,
    /// Number of the newest message that the client has got in this session; `u64::MAX`: it has got none yet.
    reached: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
    /// Set after the bursts: clients no longer disconnect.
    settling: Arc<AtomicBool>,
    /// Number of clients that have seen `settling` and have all guilds.
    settled: Arc<AtomicUsize>,
    random: fastrand::Rng,
}

/// The events that a client has got in one session.
struct Seen {
    session: String,
    sequence: u64,
    number: Option<u64>,
    first: Option<u64>,
    /// Guilds of READY, those of them with a GUILD_CREATE or GUILD_DELETE since, and all guilds that are present.
    announced: BTreeSet<String>,
    answered: BTreeSet<String>,
    present: BTreeSet<String>,
    /// Guilds of READY that the client has not been shown, and of which it gets no messages.
    not_shown: BTreeSet<String>,
    shard: u32,
    simulator: SocketAddr,
}

impl Seen {
    fn take(&mut self, payload: &Payload) {
        if payload.op != 0 {
            return;
        }
        let sequence = payload.s.expect("a dispatch has a sequence");
        assert_eq!(sequence, self.sequence + 1, "sequence after {} ({:?})", self.sequence, payload.t);
        self.sequence = sequence;
        if let Some(number) = payload.number() {
            if let Some(before) = self.number {
                assert!(number > before, "number {number} after {before}");
                Simulator::check_missing(self.simulator, self.shard, before + 1..number, &self.not_shown);
            }
            self.first.get_or_insert(number);
            self.number = Some(number);
        }
        match payload.t.as_deref() {
            Some("GUILD_CREATE") => {
                let data = payload.data();
                let id = data["id"].as_str().expect("an id").to_owned();
                if self.announced.contains(&id) && self.answered.insert(id.clone()) {
                    assert_eq!(data["unavailable"], false, "a guild that READY has named is no new one");
                }
                self.not_shown.remove(&id);
                assert!(self.present.insert(id), "a guild that came twice");
            }
            Some("GUILD_DELETE") => {
                let data = payload.data();
                let id = data["id"].as_str().expect("an id").to_owned();
                self.present.remove(&id);
                if data["unavailable"] != true {
                    self.not_shown.remove(&id);
                }
                if self.announced.contains(&id) {
                    self.answered.insert(id);
                }
            }
            _ => {}
        }
    }

    /// Whether each guild of READY has come or has been reported as unavailable.
    fn is_synced(&self) -> bool {
        self.answered.len() == self.announced.len()
    }

    /// Whether the client has got the last message, and all guilds of READY.
    fn is_complete(&self, last: u64) -> bool {
        last > 0 && self.number == Some(last) && self.is_synced()
    }
}

impl Client {
    fn identify(&self) -> (Gateway, Seen) {
        let mut gateway = Gateway::connect(self.address, self.options);
        gateway.identify((self.shard, SHARDS), INTENTS);
        let ready = gateway.receive().expect("READY");
        self.reached.store(u64::MAX, Relaxed);
        assert_eq!((ready.t.as_deref(), ready.s), (Some("READY"), Some(1)));
        let data = ready.data();
        assert_eq!(data["shard"], json!([self.shard, SHARDS]));
        let announced = data["guilds"].as_array().expect("guilds").iter();
        let announced: BTreeSet<_> = announced.map(|guild| guild["id"].as_str().expect("an id").to_owned()).collect();
        let session = data["session_id"].as_str().expect("a session").to_owned();
        (
            gateway,
            Seen {
                session,
                sequence: 1,
                number: None,
                first: None,
                not_shown: announced.clone(),
                shard: self.shard,
                simulator: self.simulator,
                announced,
                answered: BTreeSet::new(),
                present: BTreeSet::new(),
            },
        )
    }

    fn take(&self, seen: &mut Seen, payload: &Payload) {
        seen.take(payload);
        if let Some(number) = seen.number {
            self.reached.store(number, Relaxed);
        }
    }

    fn run(mut self) -> u64 {
        let (mut gateway, mut seen) = self.identify();
        gateway.set_patience(Duration::from_millis(200));
        let mut resumes = 0;
        let mut total = 0;
        let mut turns = self.random.u64(500..4_000);
        let mut settled = false;
        loop {
            let synced = seen.is_synced();
            if synced && !settled && self.settling.load(Relaxed) {
                settled = true;
                self.settled.fetch_add(1, Relaxed);
            }
            let last = self.last.load(Relaxed);
            if seen.is_complete(last) {
                gateway.close(1000);
                return total;
            }
            assert!(!self.failed.load(Relaxed), "another client has failed");
            match gateway.receive() {
                Ok(payload) => {
                    self.take(&mut seen, &payload);
                    total += 1;
                }
                Err(Gone::Silent) => continue,
                Err(gone) => panic!("{gone:?} after {} events", seen.sequence),
            }
            if seen.sequence.is_multiple_of(5_000) {
                gateway.heartbeat(seen.sequence);
            }
            turns = turns.saturating_sub(1);
            if turns > 0 || !synced || settled {
                continue;
            }
            turns = self.random.u64(2_000..9_000);
            match self.habit {
                Habit::Steady => {}
                Habit::Resumes => {
                    resumes += 1;
                    // Every second time the client closes its socket without a close frame.
                    if resumes % 2 == 0 {
                        drop(gateway);
                    } else {
                        assert_eq!(gateway.close(4900), Some(4900));
                    }
                    thread::sleep(Duration::from_millis(self.random.u64(0..50)));
                    gateway = Gateway::connect(self.address, self.options);
                    gateway.resume(&seen.session, seen.sequence);
                    gateway.set_patience(Duration::from_millis(200));
                    let until = loop {
                        let payload = match gateway.receive() {
                            Ok(payload) => payload,
                            Err(Gone::Silent) => continue,
                            Err(gone) => panic!("{gone:?} during a replay"),
                        };
                        assert_ne!(payload.op, 9, "a RESUME from {} was refused", seen.sequence);
                        self.take(&mut seen, &payload);
                        total += 1;
                        if payload.t.as_deref() == Some("RESUMED") {
                            break payload;
                        }
                    };
                    assert!(until.data().is_object());
                }
                Habit::Restarts => {
                    gateway.close(1000);
                    (gateway, seen) = self.identify();
                    gateway.set_patience(Duration::from_millis(200));
                }
            }
        }
    }
}

/// Transport and habit of the clients, three for a shard. The shards take the three groups in turn.
const KINDS: [(Transport, Habit); 9] = [
    (Transport::None, Habit::Steady),
    (Transport::Zlib, Habit::Resumes),
    (Transport::Zstd, Habit::Restarts),
    (Transport::Zstd, Habit::Resumes),
    (Transport::None, Habit::Restarts),
    (Transport::Zlib, Habit::Steady),
    (Transport::None, Habit::Resumes),
    (Transport::Zlib, Habit::Restarts),
    (Transport::Zstd, Habit::Steady),
];

/// A client in its thread.
struct Running {
    /// Shard, options and habit, for messages.
    what: String,
    shard: u32,
    /// [`Client::reached`].
    reached: Arc<AtomicU64>,
    thread: thread::JoinHandle<thread::Result<u64>>,
}

/// All clients, and what the test tells them.
struct Crowd {
    clients: Vec<Running>,
    /// [`Client::last`] of each shard.
    last: Vec<Arc<AtomicU64>>,
    failed: Arc<AtomicBool>,
    settling: Arc<AtomicBool>,
    settled: Arc<AtomicUsize>,
}

impl Crowd {
    /// Starts three clients on each shard.
    fn start(address: SocketAddr, simulator: SocketAddr) -> Self {
        let mut crowd = Self {
            clients: Vec::new(),
            last: (0..SHARDS).map(|_| Arc::default()).collect(),
            failed: Arc::default(),
            settling: Arc::default(),
            settled: Arc::default(),
        };
        for shard in 0..SHARDS {
            for slot in 0..3 {
                let client = crowd.start_client(address, simulator, shard, slot);
                crowd.clients.push(client);
            }
        }
        crowd
    }

    fn start_client(&self, address: SocketAddr, simulator: SocketAddr, shard: u32, slot: usize) -> Running {
        let (transport, habit) = KINDS[(shard as usize % 3) * 3 + slot];
        let encoding = if shard.is_multiple_of(2) { Encoding::Json } else { Encoding::Etf };
        let options = Options { transport, encoding, compress: slot > 0 };
        let reached = Arc::new(AtomicU64::new(u64::MAX));
        let client = Client {
            address,
            simulator,
            shard,
            options,
            habit,
            last: self.last[shard as usize].clone(),
            reached: reached.clone(),
            failed: self.failed.clone(),
            settling: self.settling.clone(),
            settled: self.settled.clone(),
            random: fastrand::Rng::with_seed(u64::from(shard) * 3 + slot as u64),
        };
        let failed = self.failed.clone();
        let thread = thread::spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.run()));
            failed.fetch_or(result.is_err(), Relaxed);
            result
        });
        Running { what: format!("shard {shard}, {options:?}, {habit:?}"), shard, reached, thread }
    }

    fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    /// Waits until each client has got nearly all of the messages up to these numbers, one for each shard, or a client
    /// has failed.
    fn keeps_up_with(&self, emitted: &[u64]) {
        wait_until("the slowest client to be near the newest message", || {
            let mut behind = self
                .clients
                .iter()
                .map(|client| emitted[client.shard as usize].saturating_sub(client.reached.load(Relaxed)));
            match behind.find(|behind| *behind > MOST_BEHIND) {
                Some(behind) if !self.has_failed() => Err(format!("it is {behind} messages behind")),
                _ => Ok(()),
            }
        });
    }

    /// Tells the clients to stay connected, and waits until all of them have their guilds, or a client has failed.
    fn settles(&self) {
        self.settling.store(true, Relaxed);
        wait_until("all clients to settle", || match self.settled.load(Relaxed) {
            _ if self.has_failed() => Ok(()),
            count if count == self.clients.len() => Ok(()),
            count => Err(format!("{count} have")),
        });
    }

    /// Waits for the end of each client, and fails when one has failed. Returns how many events the clients have got.
    fn ends(self) -> u64 {
        let mut total = 0;
        let mut failures = Vec::new();
        for client in self.clients {
            match client.thread.join().expect("the panic is in the result") {
                Ok(events) => total += events,
                Err(_) => failures.push(client.what),
            }
        }
        assert!(failures.is_empty(), "failed: {failures:#?}");
        total
    }
}

/// Sends bursts of messages on all shards until [`EVENTS`] are sent or a client has failed.
fn send_bursts(simulator: &Simulator, crowd: &Crowd) {
    let per_shard = EVENTS / u64::from(SHARDS);
    let mut emitted = [0_u64; SHARDS as usize];
    for round in 0..per_shard / BURST {
        for shard in 0..SHARDS {
            // The state changes between the bursts, so that a wrong order of snapshots and events shows.
            simulator.mutate(shard, 20);
            let (_, to) = simulator.emit(shard, BURST);
            emitted[shard as usize] = to;
        }
        crowd.keeps_up_with(&emitted);
        if crowd.has_failed() {
            break;
        }
        // Some bursts follow each other at once, others find clients that have nothing to read.
        thread::sleep(Duration::from_millis(if round % 10 == 9 { 100 } else { 10 }));
    }
}

/// Sends the last message of each shard. A client that has it has got all.
fn send_the_last_messages(simulator: &Simulator, crowd: &Crowd) {
    for shard in 0..SHARDS {
        let (_, to) = simulator.emit(shard, 1);
        crowd.last[shard as usize].store(to, Relaxed);
    }
}

#[test]
fn every_stream_is_complete() {
    let _alone = crate::alone();
    let directory = scratch("fan_out");
    let options = format!("--shards {SHARDS} --max-concurrency 8 --guilds 160 --members 20 --seed 5 --rate 0");
    let simulator = Simulator::start(&directory, &options);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": SHARDS, "cores": 3, "log_level": "info"}));
    let crowd = Crowd::start(proxy.address, simulator.address);
    send_bursts(&simulator, &crowd);
    crowd.settles();
    send_the_last_messages(&simulator, &crowd);
    let total = crowd.ends();
    assert!(total > EVENTS, "{total} events reached the clients");
    assert_eq!(simulator.stats()["violations"], json!([]));
    assert_eq!(simulator.identifies(), u64::from(SHARDS), "no client has cost an IDENTIFY");
}
