//! Measures how long a bot waits for its events, and a newcomer for READY, while each attack goes on. `make attacks`
//! prints the table.
//!
//! This is a measurement and no test: a time on a busy machine says little, so nothing here judges one. It fails when
//! an event is lost.
//!
//! With two CPUs or more, the attacker and the control core share the first one, and Discord, the data core and the bot
//! share the second one. So the bot waits longer only for what the proxy does because of the attack, and not because
//! the attacker takes the CPU of the bot. The newcomer talks to the control core, which shares its CPU with the
//! attacker, so the newcomer's times have the attacker's share of the CPU in them.

use super::*;
use std::{
    collections::VecDeque,
    env,
    net::TcpListener,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Instant,
};
use support::TOKEN;

/// CPU of the attacker and of the control core.
const ATTACKER: usize = 0;
/// CPU of Discord, of the data core and of the bot.
const BOT: usize = 1;
/// Time between two events.
const PACE: Duration = Duration::from_millis(5);
/// Time between two newcomers.
const NEWCOMERS: Duration = Duration::from_millis(100);
/// Most connections that an attacker keeps open.
const HELD: usize = 2_000;

/// Attacks until the flag is set. Returns how many times it has done what it does.
type Attack = fn(SocketAddr, &AtomicBool) -> u64;

const ATTACKS: [(&str, Attack); 9] = [
    ("requests for /metrics and /health, unread", |proxy, stop| {
        hold(proxy, stop, |turn| {
            let path = if turn % 2 == 0 { "/metrics" } else { "/health" };
            format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
        })
    }),
    ("connections that never identify", |proxy, stop| hold(proxy, stop, |_| UPGRADE.to_owned())),
    ("request heads that never end", |proxy, stop| hold(proxy, stop, |_| "GET / HTTP/1.1\r\nX: ".to_owned())),
    ("request heads byte by byte", |proxy, stop| {
        until(stop, || {
            let Ok(mut stream) = TcpStream::connect(proxy) else { return };
            stream.set_nodelay(true).expect("a socket option");
            for _ in 0..500 {
                let _ = stream.write_all(b"x");
            }
        })
    }),
    ("POSTs whose body never comes, closed", |proxy, stop| {
        let request = format!(
            "POST /api/channels/1/messages HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\nContent-Length: 99\r\n\r\n"
        );
        until(stop, || abandon(proxy, &request))
    }),
    ("webhooks without the token, unfinished", |proxy, stop| {
        let request = format!("POST /api/webhooks/1/{} HTTP/1.1\r\nContent-Length: 99\r\n\r\n", "a".repeat(68));
        hold(proxy, stop, |_| request.clone())
    }),
    ("IDENTIFYs with a wrong token", |proxy, stop| {
        until(stop, || {
            let Ok(mut gateway) = Gateway::open(proxy, Transport::None) else { return };
            say(&mut gateway, &json!({"op": 2, "d": {"token": "guess", "intents": 1, "properties": {}}}));
            while gateway.receive().is_ok() {}
        })
    }),
    ("RESUMEs of sessions that do not exist", |proxy, stop| {
        until(stop, || {
            let Ok(mut gateway) = Gateway::open(proxy, Transport::None) else { return };
            let resume = json!({"op": 6, "d": {"token": TOKEN, "session_id": format!("{:032x}", 255), "seq": 1}});
            while gateway.receive().is_ok() {
                say(&mut gateway, &resume);
            }
        })
    }),
    ("clients with the token, bad commands", |proxy, stop| {
        until(stop, || {
            let Ok(mut gateway) = Gateway::open(proxy, Transport::None) else { return };
            say(
                &mut gateway,
                &json!({"op": 2, "d": {"token": TOKEN, "intents": 1, "shard": [0, 1], "properties": {}}}),
            );
            say(&mut gateway, &json!({"op": 99, "d": {}}));
            say(&mut gateway, &json!({"op": 8, "d": {"guild_id": {}}}));
            while gateway.receive().is_ok() {}
        })
    }),
];

const UPGRADE: &str = "GET /?v=10 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Sends a payload. The proxy may have closed the connection.
fn say(gateway: &mut Gateway, payload: &Value) {
    let _ = gateway.send_text(&payload.to_string());
}

/// Sets a flag at the end of its life, so that the threads that look at the flag end also after a panic.
struct AtEnd<'a>(&'a AtomicBool);

impl Drop for AtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn until(stop: &AtomicBool, mut act: impl FnMut()) -> u64 {
    let mut count = 0;
    while !stop.load(Relaxed) {
        act();
        count += 1;
    }
    count
}

/// Opens connections, sends a request on each, and keeps the newest [`HELD`] open without reading.
fn hold(proxy: SocketAddr, stop: &AtomicBool, mut request: impl FnMut(u64) -> String) -> u64 {
    let (mut held, mut turn) = (VecDeque::new(), 0);
    until(stop, || {
        let Ok(mut stream) = TcpStream::connect(proxy) else { return };
        let _ = stream.write_all(request(turn).as_bytes());
        turn += 1;
        held.push_back(stream);
        if held.len() > HELD {
            held.pop_front();
        }
    })
}

/// Sends a request and closes the connection.
fn abandon(proxy: SocketAddr, request: &str) {
    if let Ok(mut stream) = TcpStream::connect(proxy) {
        let _ = stream.write_all(request.as_bytes());
    }
}

fn pin(cpu: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
}

/// The time of the clock that discord-sim writes into its messages, in nanoseconds.
fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// When the simulator made a message.
fn sent_at(data: &str) -> Option<u64> {
    let digits = data.split_once("\"sim_sent_ns\":")?.1;
    digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse().ok()
}

/// Times in milliseconds.
struct Times(Vec<f64>);

impl Times {
    fn quantile(&self, of_1000: usize) -> f64 {
        self.0.get((self.0.len() * of_1000 / 1000).min(self.0.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
    }

    fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }
}

/// Sends events for this long. Returns how long the bot waited for each, and how long newcomers waited for READY.
fn measure(simulator: &Simulator, proxy: &Proxy, bot: &mut Gateway, time: Duration) -> (Times, Times) {
    let over = AtomicBool::new(false);
    let count = time.as_nanos() / PACE.as_nanos();
    // The bot is one that the proxy hears of.
    bot.heartbeat(1);
    thread::scope(|scope| {
        let _over = AtEnd(&over);
        scope.spawn(|| {
            for _ in 0..count {
                simulator.emit(0, 1);
                thread::sleep(PACE);
            }
        });
        let newcomers = scope.spawn(|| {
            let mut waits = Vec::new();
            while !over.load(Relaxed) {
                let begun = Instant::now();
                let gateway = identified(proxy, 1);
                waits.push(begun.elapsed().as_secs_f64() * 1e3);
                drop(gateway);
                thread::sleep(NEWCOMERS);
            }
            waits
        });
        let mut waits = Vec::new();
        let mut last = None;
        while (waits.len() as u128) < count {
            let payload = bot.receive().expect("an event");
            let Some(number) = payload.number() else { continue };
            assert!(last.is_none_or(|last| number == last + 1), "{number} after {last:?}");
            last = Some(number);
            let sent = sent_at(&payload.d).expect("the time of a message");
            waits.push(monotonic_ns().saturating_sub(sent) as f64 / 1e6);
        }
        over.store(true, Relaxed);
        (Times::new(waits), Times::new(newcomers.join().expect("newcomers that got READY")))
    })
}

#[test]
#[ignore = "a measurement: `make attacks`"]
fn the_latency_of_a_bot_during_each_attack() {
    let seconds = env::var("SECONDS_OF_EACH").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let time = Duration::from_secs(seconds);
    let two_cpus = thread::available_parallelism().is_ok_and(|cpus| cpus.get() >= 2);
    let api = TcpListener::bind("127.0.0.1:0").expect("a port");
    let directory = scratch("latency");
    let cpu = if two_cpus { format!(" --cpu {BOT}") } else { String::new() };
    let simulator = Simulator::start(&directory, &format!("{WORLD}{cpu}"));
    let mut changes = json!({
        "shards": 1, "log_level": "warn", "rest_proxy_without_token": true,
        "rest_proxy": api.local_addr().expect("an address").to_string(),
    });
    if two_cpus {
        (changes["cores"], changes["control_core"]) = (json!([BOT]), json!(ATTACKER));
    }
    let proxy = Proxy::start(&directory, &simulator, &changes);
    if two_cpus {
        // A process that is started later would inherit this.
        pin(BOT);
    }
    // Takes requests in, so that they are on their way, and answers none.
    thread::spawn(move || {
        let mut taken = VecDeque::new();
        for stream in api.incoming().flatten() {
            taken.push_back(stream);
            if taken.len() > HELD {
                taken.pop_front();
            }
        }
    });
    let mut bot = identified(&proxy, 1);
    println!("| attack | attacker, /s | event p50, ms | p99 | of quiet p99 | READY p50, ms | p99 |");
    println!("|---|---|---|---|---|---|---|");
    let mut quiet_p99 = f64::NAN;
    let mut row = |name: &str, rate: String, (events, ready): (Times, Times)| {
        let (p50, p99) = (events.quantile(500), events.quantile(990));
        if quiet_p99.is_nan() {
            quiet_p99 = p99;
        }
        let (ready_p50, ready_p99) = (ready.quantile(500), ready.quantile(990));
        println!(
            "| {name} | {rate} | {p50:.3} | {p99:.3} | {:.1} | {ready_p50:.2} | {ready_p99:.2} |",
            p99 / quiet_p99
        );
    };
    let quiet = measure(&simulator, &proxy, &mut bot, time);
    row("none", String::new(), quiet);
    for (name, attack) in ATTACKS {
        let stop = AtomicBool::new(false);
        let (rate, times) = thread::scope(|scope| {
            let _stop = AtEnd(&stop);
            let attacker = scope.spawn(|| {
                if two_cpus {
                    pin(ATTACKER);
                }
                let begun = Instant::now();
                attack(proxy.address, &stop) as f64 / begun.elapsed().as_secs_f64()
            });
            // The places that the attack takes are taken when the measurement begins.
            thread::sleep(Duration::from_secs(1));
            let times = measure(&simulator, &proxy, &mut bot, time);
            stop.store(true, Relaxed);
            (attacker.join().expect("an attacker"), times)
        });
        row(name, format!("{rate:.0}"), times);
    }
    let quiet = measure(&simulator, &proxy, &mut bot, time);
    row("none, again", String::new(), quiet);
}
