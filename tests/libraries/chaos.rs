//! Random faults with real processes and real libraries: `make chaos SECONDS=600`; `SEED=` repeats a run. `cargo test`
//! runs it for a few seconds, always with the same seed.
//!
//! The first part has faults that must not end a session: connections that Discord cuts, freezes, refuses or leaves
//! unanswered, op 7, op 9, clients that reconnect, restarts of the proxy. Each bot receives each message once and in
//! order, in its first session, and Discord sees no IDENTIFY. The second part also has faults that end sessions, and
//! kills of the proxy. After it each bot is back without help, no message has come twice, and the cache matches the
//! simulator.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde_json::{Value, json};
use support::{Bot, Proxy, Settings, Simulator, compare_guilds, scratch, wait_until};

const SHARDS: u32 = 2;
const LIBRARIES: [&str; 3] = ["twilight", "discord.js", "discord.py"];
/// Maximum time that a library needs to come back after its sessions have ended.
const COMING_BACK: Duration = Duration::from_secs(300);
/// Length of each of the two parts in `cargo test`, in seconds.
const MOMENT: u64 = 8;
/// The seed in `cargo test`. A change of the code is judged by the same faults as the code before it.
const SEED: u64 = 1;

struct Chaos {
    rng: Rng,
    directory: PathBuf,
    simulator: Simulator,
    socket: TcpListener,
    config: Value,
    proxy: Option<Proxy>,
    bots: Vec<Bot>,
    /// Number of the newest message of each shard before the bots started.
    before: Vec<u64>,
}

impl Chaos {
    fn begin(rng: Rng) -> Self {
        let directory = scratch("chaos");
        // The heartbeat interval is short, so that a frozen connection is noticed soon.
        let world = "--shards 2 --max-concurrency 2 --identify-interval-ms 100 --heartbeat-interval-ms 1500 --guilds 30 \
                     --members 60 --seed 4 --rate 0 --remaining 100000";
        let simulator = Simulator::start(&directory, world);
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let config = json!({
            "shards": SHARDS, "state_dir": directory.join("state"), "rest_proxy": simulator.address.to_string(),
            "log_level": "info", "resume_buffer": 64 << 20,
        });
        let proxy = Proxy::start_on(&socket, &directory, &simulator, &config);
        let gateway = format!("ws://{}", proxy.address);
        let api = format!("http://{}/api", proxy.address);
        let settings = Settings { gateway: &gateway, api: &api, ..Settings::default() };
        let before = (0..SHARDS).map(|shard| simulator.last_number(shard)).collect();
        let mut bots: Vec<Bot> = LIBRARIES
            .iter()
            .map(|name| Bot::start(&directory, &format!("bot-{name}"), name, SHARDS, &settings))
            .collect();
        for bot in &mut bots {
            bot.wait("the shards to be ready", |bot| {
                let waiting = (0..SHARDS).find(|shard| bot.shard(*shard).ready.is_empty());
                waiting.map_or(Ok(()), |shard| Err(format!("shard {shard} is not")))
            });
        }
        Self { rng, directory, simulator, socket, config, proxy: Some(proxy), bots, before }
    }

    fn restart(&mut self, kindly: bool) {
        let proxy = self.proxy.take().expect("a proxy");
        if kindly {
            proxy.stop();
        } else {
            proxy.kill();
        }
        self.emit();
        self.config["cores"] = json!(self.rng.u32(1..3));
        self.proxy = Some(Proxy::start_on(&self.socket, &self.directory, &self.simulator, &self.config));
    }

    fn emit(&mut self) {
        for shard in 0..SHARDS {
            self.simulator.emit(shard, self.rng.u64(1..40));
        }
    }

    /// Causes one random fault: one that must not end a session if `harmless`, otherwise any.
    fn disturb(&mut self, harmless: bool) -> &'static str {
        let shard = self.rng.u32(0..SHARDS);
        let fault = |what: &str| self.simulator.fault(&format!("{what}shard={shard}"));
        match self.rng.u8(0..if harmless { 10 } else { 13 }) {
            0 => (fault("drop?"), "Discord resets the connection").1,
            1 => (fault("drop?code=4000&"), "Discord closes with 4000").1,
            2 => (fault("drop?freeze=1&"), "Discord falls silent").1,
            3 => (fault("reconnect?"), "op 7").1,
            4 => (fault("invalid?resumable=true&"), "op 9, resumable").1,
            5 => {
                fault("drop?");
                self.simulator.fault("refuse?seconds=1");
                // The simulator refuses connections of this test, too, so the test waits.
                thread::sleep(Duration::from_millis(1_100));
                "Discord refuses connections"
            }
            6 => {
                self.simulator.fault("hang?seconds=1");
                fault("drop?");
                "Discord does not answer connections"
            }
            7 | 8 => {
                let bot = self.rng.usize(0..self.bots.len());
                self.bots[bot].reconnect(shard);
                "a bot loses its connection"
            }
            9 => {
                self.restart(true);
                "the proxy restarts"
            }
            10 => (fault("invalid?resumable=false&"), "op 9, not resumable").1,
            11 => (fault("drop?code=4009&end_session=1&"), "Discord ends the session").1,
            _ => {
                self.restart(false);
                "the proxy is killed"
            }
        }
    }

    fn last(&self, shard: u32) -> u64 {
        self.simulator.last_number(shard)
    }

    /// Sends messages until every bot has received a new one on every shard. Libraries need time after several lost
    /// sessions: discord.js identifies once in 5 s, also for connections that have ended, and discord.py waits longer
    /// after each failure.
    fn wait_for_everybody(&mut self) {
        let marks: Vec<u64> = (0..SHARDS).map(|shard| self.last(shard)).collect();
        let start = Instant::now();
        loop {
            self.emit();
            thread::sleep(Duration::from_millis(250));
            self.bots.iter_mut().for_each(Bot::catch_up);
            let everybody = self.bots.iter().zip(LIBRARIES);
            let missing = everybody.flat_map(|(bot, library)| {
                let away = (0..SHARDS).filter(|&shard| bot.shard(shard).numbers.last() <= Some(&marks[shard as usize]));
                away.map(move |shard| format!("{library} on shard {shard}"))
            });
            let missing: Vec<String> = missing.collect();
            if missing.is_empty() {
                return;
            }
            assert!(start.elapsed() < COMING_BACK, "not back after {COMING_BACK:?}: {}", missing.join(", "));
        }
    }

    fn quiet(&mut self) {
        self.simulator.traffic(0);
        // Discord sends nothing about a guild that was down when the proxy identified, and a new client would wait for it.
        for shard in 0..SHARDS {
            for (id, guild) in self.simulator.guilds(shard) {
                if guild.unavailable {
                    self.simulator.set_available(&id, true);
                }
            }
        }
        let address = self.proxy.as_ref().expect("a proxy").address;
        wait_until("all shards to be healthy", || match support::get(address, "/health") {
            Ok(response) if response.status == 200 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        self.emit();
    }
}

#[test]
fn nothing_is_lost_and_everybody_comes_back() {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let (seconds, seed) = match number("SECONDS_OF_CHAOS") {
        Some(seconds) => (seconds / 2, number("SEED").unwrap_or_else(|| fastrand::u64(..))),
        None => (MOMENT, number("SEED").unwrap_or(SEED)),
    };
    println!("chaos for twice {seconds} s, SEED={seed}");
    let mut chaos = Chaos::begin(Rng::with_seed(seed));
    let identifies = chaos.simulator.identifies();

    // Faults that must not end a session.
    chaos.simulator.traffic(200);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        chaos.emit();
        println!("{}", chaos.disturb(true));
        // After several failures in a short time the proxy waits longer before it connects again.
        thread::sleep(Duration::from_millis(chaos.rng.u64(300..1_500)));
    }
    chaos.quiet();
    for shard in 0..SHARDS {
        let (before, last) = (chaos.before[shard as usize], chaos.last(shard));
        for (bot, library) in chaos.bots.iter_mut().zip(LIBRARIES) {
            bot.wait_for_numbers(shard, before, last);
            assert_eq!(bot.shard(shard).ready.len(), 1, "{library} had to identify again");
        }
    }
    assert_eq!(chaos.simulator.identifies(), identifies, "an IDENTIFY was spent");
    assert_eq!(chaos.simulator.stats()["violations"], json!([]));
    for shard in 0..SHARDS {
        compare_guilds(chaos.proxy.as_ref().expect("a proxy"), &chaos.simulator, shard, SHARDS, true);
    }

    // Faults that end sessions.
    for bot in &mut chaos.bots {
        bot.tolerate_errors();
    }
    chaos.simulator.traffic(200);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        chaos.emit();
        println!("{}", chaos.disturb(false));
        thread::sleep(Duration::from_millis(chaos.rng.u64(300..1_500)));
    }
    chaos.restart(false);
    chaos.quiet();
    chaos.wait_for_everybody();
    for shard in 0..SHARDS {
        let last = chaos.last(shard);
        for (bot, library) in chaos.bots.iter_mut().zip(LIBRARIES) {
            bot.wait(&format!("{library} to be back on shard {shard}"), |bot| {
                let newest = bot.shard(shard).numbers.last();
                if newest == Some(&last) { Ok(()) } else { Err(format!("it has {newest:?} of {last}")) }
            });
            let numbers = &bot.shard(shard).numbers;
            assert!(numbers.is_sorted_by(|a, b| a < b), "{library}: something came twice or out of order");
        }
        compare_guilds(chaos.proxy.as_ref().expect("a proxy"), &chaos.simulator, shard, SHARDS, true);
    }
}
