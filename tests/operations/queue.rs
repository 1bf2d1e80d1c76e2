//! Several proxies of one bot: each has a part of the shards, and they share a queue for IDENTIFYs.

use crate::{ask, metrics, status};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};
use support::{PATIENCE, Process, Proxy, Simulator, chosen, free_port, get, install, root, scratch, wait_until};

/// The time between two IDENTIFYs that the simulator asks for, shorter than Discord's.
const INTERVAL: Duration = Duration::from_millis(200);
/// The time between two permits of the queue. The difference is for IDENTIFYs that come late from a busy machine.
const BETWEEN_PERMITS: Duration = Duration::from_millis(1_500);
/// The time between two IDENTIFYs that the simulator asks for when they have to collide, on a busy machine too.
const COLLIDING: Duration = Duration::from_secs(60);

/// A queue that speaks the protocol of twilight's queue: the request is a GET with `shard`, and the response is the
/// permit. It runs until the test ends.
struct Queue {
    address: SocketAddr,
    /// The shards in the order in which they got permits.
    permits: Arc<Mutex<Vec<u32>>>,
}

impl Queue {
    fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a port");
        let address = listener.local_addr().expect("a bound socket");
        let permits = Arc::new(Mutex::new(Vec::new()));
        let next = Arc::new(Mutex::new(Instant::now()));
        let given = permits.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (next, given) = (next.clone(), given.clone());
                thread::spawn(move || answer(stream, &next, &given));
            }
        });
        Self { address, permits }
    }

    fn permits(&self) -> Vec<u32> {
        self.permits.lock().expect("nobody panics with it").clone()
    }
}

fn answer(mut stream: TcpStream, next: &Mutex<Instant>, given: &Mutex<Vec<u32>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head");
    let shard =
        head.strip_prefix("GET /?shard=").and_then(|rest| rest.split(' ').next()).and_then(|id| id.parse().ok());
    let at = {
        let mut next = next.lock().expect("nobody panics with it");
        let at = (*next).max(Instant::now());
        *next = at + BETWEEN_PERMITS;
        at
    };
    thread::sleep(at.saturating_duration_since(Instant::now()));
    given.lock().expect("nobody panics with it").push(shard.unwrap_or_else(|| panic!("a wrong request: {head}")));
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
}

fn simulator(name: &str, interval: Duration) -> Simulator {
    let options = format!(
        "--shards 6 --max-concurrency 1 --identify-interval-ms {} --guilds 6 --members 5 --seed 3 --rate 0",
        interval.as_millis()
    );
    Simulator::start(&scratch(&format!("{name}_discord")), &options)
}

/// Starts three proxies that share six shards.
fn group(name: &str, simulator: &Simulator, queue: Option<SocketAddr>) -> Vec<Proxy> {
    let one = |index: u32| {
        let directory = scratch(&format!("{name}_{index}"));
        let mut changes = json!({"shards": 6, "shard_group": {"index": index, "of": 3}});
        if let Some(queue) = queue {
            changes["identify_queue"] = format!("http://{queue}").into();
        }
        Proxy::spawn(&directory, simulator, &changes)
    };
    (0..3).map(one).collect()
}

#[test]
fn three_proxies_share_a_bot_without_a_collision() {
    // Without a queue each proxy uses the bucket as if it were alone.
    let alone = simulator("queue_alone", COLLIDING);
    let proxies = group("queue_alone", &alone, None);
    wait_until("a collision", || match alone.stats()["violations"].as_array() {
        Some(violations) if !violations.is_empty() => Ok(()),
        _ => Err(alone.stats().to_string()),
    });
    drop(proxies);
    // With a queue the IDENTIFYs keep their distance, and each proxy has its part of the shards.
    let queue = Queue::start(0);
    let simulator = simulator("queue_shared", INTERVAL);
    let proxies = group("queue_shared", &simulator, Some(queue.address));
    let proxies: Vec<Proxy> = proxies.into_iter().map(Proxy::wait_until_ready).collect();
    assert_eq!(simulator.stats()["violations"], json!([]));
    assert_eq!(simulator.identifies(), 6);
    let mut permits = queue.permits();
    permits.sort_unstable();
    assert_eq!(permits, [0, 1, 2, 3, 4, 5], "one permit for each IDENTIFY");
    for (index, proxy) in proxies.iter().enumerate() {
        let ids: Vec<Value> = status(proxy.address)["shards"]
            .as_array()
            .expect("shards")
            .iter()
            .map(|shard| shard["id"].clone())
            .collect();
        assert_eq!(ids, [json!(2 * index), json!(2 * index + 1)]);
        assert_eq!(get(proxy.address, "/shard-count").expect("an answer").body, "6");
    }
}

#[test]
fn nobody_identifies_while_the_queue_is_away() {
    let simulator = simulator("queue_away", INTERVAL);
    let port = free_port();
    let changes = json!({"shards": 6, "shard_group": {"index": 1, "of": 3}, "identify_queue": format!("http://127.0.0.1:{port}/")});
    let proxy = Proxy::spawn(&scratch("queue_away_proxy"), &simulator, &changes);
    let expected = format!("identify_queue http://127.0.0.1:{port}: ");
    wait_until("the proxy to say that the queue is away", || match get(proxy.address, "/health") {
        Ok(answer) if answer.status == 503 && answer.body.contains(&expected) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    wait_until("the metrics to say so", || {
        let (_, families) = metrics::scrape(&proxy);
        let value = |name: &str| metrics::value(&families, name, &[]).unwrap_or(f64::NAN);
        let found = (value("gateway_identify_queue_waiting"), value("gateway_identify_queue_failures_total"));
        if found.0 >= 1.0 && found.1 >= 1.0 { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let document = wait_until("a document that says so", || {
        let document = ask(proxy.address, "GET", "/status.json", None).json();
        if document["identify"]["queue_error"].is_string() { Ok(document) } else { Err(document.to_string()) }
    });
    assert!(document["identify"]["asking"].as_u64() >= Some(1), "{document}");
    assert_eq!(simulator.identifies(), 0);
    let queue = Queue::start(port);
    let proxy = proxy.wait_until_ready();
    assert_eq!((simulator.identifies(), simulator.stats()["violations"].clone()), (2, json!([])));
    assert_eq!(queue.permits().len(), 2);
    wait_until("a document without that", || {
        let document = ask(proxy.address, "GET", "/status.json", None).json();
        if document["identify"]["queue_error"].is_null() { Ok(()) } else { Err(document.to_string()) }
    });
    // A RESUME needs no permit.
    simulator.drop_connection(2);
    wait_until("the RESUME", || if simulator.resumes() == 1 { Ok(()) } else { Err(simulator.stats().to_string()) });
    assert_eq!(queue.permits().len(), 2);
}

/// The queue of twilight-gateway-queue behind its HTTP protocol, as a process. Its two buckets give a permit in 5 s.
fn queue_of_twilight(name: &str, port: u16) -> (Process, SocketAddr) {
    let mut command = Command::new(root().join("target/clients/twilight/debug/queue"));
    command.env("LISTEN", format!("127.0.0.1:{port}")).env("MAX_CONCURRENCY", "2");
    let mut process = Process::start("queue", command, &scratch(name));
    let line = process.read_line(PATIENCE).unwrap_or_else(|reason| panic!("{reason}"));
    let address = line.strip_prefix("listening on ").and_then(|address| address.parse().ok());
    (process, address.unwrap_or_else(|| panic!("no address: {line}")))
}

/// The shards that have got the next `count` permits, by number.
fn permits(queue: &mut Process, count: usize) -> Vec<u32> {
    let permit = |line: String| line.strip_prefix("permit ").and_then(|shard| shard.parse().ok()).expect("a permit");
    let mut line = || queue.read_line(PATIENCE).unwrap_or_else(|reason| panic!("{reason}"));
    let mut permits: Vec<u32> = (0..count).map(|_| permit(line())).collect();
    permits.sort_unstable();
    permits
}

#[test]
fn three_proxies_share_the_queue_of_twilight() {
    if !chosen("twilight") {
        return;
    }
    install("twilight");
    let (mut queue, address) = queue_of_twilight("queue_twilight", free_port());
    // Shorter than the 5 s of the queue, because an IDENTIFY takes some time to arrive.
    let options = "--shards 6 --max-concurrency 2 --identify-interval-ms 2000 --guilds 6 --members 5 --seed 3 --rate 0";
    let simulator = Simulator::start(&scratch("queue_twilight_discord"), options);
    let proxies = group("queue_twilight", &simulator, Some(address));
    let proxies: Vec<Proxy> = proxies.into_iter().map(Proxy::wait_until_ready).collect();
    assert_eq!((simulator.identifies(), simulator.stats()["violations"].clone()), (6, json!([])));
    assert_eq!(permits(&mut queue, 6), [0, 1, 2, 3, 4, 5], "one permit for each IDENTIFY");
    // The queue goes away, and then a shard needs a new session.
    queue.kill();
    simulator.fault("lose?shard=3");
    let expected = format!("identify_queue http://{address}: ");
    wait_until("the proxy to say that the queue is away", || match get(proxies[1].address, "/health") {
        Ok(answer) if answer.status == 503 && answer.body.contains(&expected) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(simulator.identifies(), 6, "nobody identifies without a permit");
    for proxy in [&proxies[0], &proxies[2]] {
        assert_eq!(get(proxy.address, "/health").map(|answer| answer.status), Ok(200), "the others need no permit");
    }
    let (mut queue, _) = queue_of_twilight("queue_twilight_again", address.port());
    wait_until("the shard to be back", || match get(proxies[1].address, "/health") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!((simulator.identifies(), simulator.stats()["violations"].clone()), (7, json!([])));
    assert_eq!(permits(&mut queue, 1), [3]);
}
