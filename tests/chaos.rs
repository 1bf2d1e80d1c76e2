//! Chaos, with real processes and real libraries: `make chaos SECONDS=600`, `SEED=` for the same faults again. In `cargo
//! test` it lasts for a few seconds.
//!
//! First come faults that must not cost anybody anything: connections cut, frozen, refused and hanging on Discord's side,
//! op 7, op 9, clients that reconnect, restarts of the proxy. Through all of that every bot receives every message once and in
//! order, in its first session, and Discord sees no IDENTIFY. Then come those that end sessions, kills of the proxy among
//! them: afterwards everybody is back by himself, nothing has come twice, and what is cached is the truth.

mod support;

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
/// How long a library may take to come back when its sessions have been ended.
const COMING_BACK: Duration = Duration::from_secs(300);
/// Seconds of each of the two parts in `cargo test`.
const MOMENT: u64 = 8;

struct Chaos {
    rng: Rng,
    directory: PathBuf,
    simulator: Simulator,
    socket: TcpListener,
    config: Value,
    proxy: Option<Proxy>,
    bots: Vec<Bot>,
    /// The newest message of each shard before the bots came.
    before: Vec<u64>,
}

impl Chaos {
    fn begin(rng: Rng) -> Self {
        let directory = scratch("chaos");
        // Heartbeats are quick, so that what is frozen is noticed soon.
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

    /// One fault, of those that must not cost anything or of all.
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
                // It refuses those of this test too.
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

    /// Sends messages until every bot has got some on every shard. Libraries take their time when their sessions have ended
    /// again and again: discord.js identifies once in 5 s, also for the connections that are gone, discord.py waits longer
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
    let seconds = number("SECONDS_OF_CHAOS").map_or(MOMENT, |seconds| seconds / 2);
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("chaos for twice {seconds} s, SEED={seed}");
    let mut chaos = Chaos::begin(Rng::with_seed(seed));
    let identifies = chaos.simulator.identifies();

    // What must not cost anything.
    chaos.simulator.traffic(200);
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        chaos.emit();
        println!("{}", chaos.disturb(true));
        // After some failures in short time the proxy waits longer for Discord, as it should.
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

    // What ends sessions.
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
