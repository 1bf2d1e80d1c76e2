//! How the proxy handles responses to `GET /gateway/bot`: how long it waits before the next request, and how it ends
//! when Discord refuses the token.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use support::{PATIENCE, Proxy, Simulator, get, scratch, wait_until};

const WORLD: &str =
    "--shards 1 --max-concurrency 1 --identify-interval-ms 100 --guilds 2 --members 5 --seed 3 --rate 0";

/// More requests than a test causes.
const MANY: usize = 1_000;

/// A REST API that gives these responses in turn, and repeats the last one. A response is a status line with headers,
/// and a body. Also returns the head of each request with the time of its arrival. The API responds to a request once
/// the test has received all but `unseen` of the requests so far.
fn rest(answers: Vec<(String, String)>, unseen: usize) -> (SocketAddr, Receiver<(Instant, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (arrived, arrivals) = sync_channel(unseen);
    thread::spawn(move || {
        for (index, stream) in listener.incoming().enumerate() {
            let mut stream = stream.expect("a connection");
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            if arrived.send((Instant::now(), String::from_utf8_lossy(&head).into_owned())).is_err() {
                return;
            }
            let (status, body) = &answers[index.min(answers.len() - 1)];
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            // Writing may fail, because the proxy may have been stopped meanwhile.
            let _ = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat());
        }
    });
    (address, arrivals)
}

fn answer(status: &str, body: impl Into<String>) -> (String, String) {
    (status.to_owned(), body.into())
}

fn gateway_bot(simulator: &Simulator, shards: u64, remaining: u32, reset_after: u64) -> (String, String) {
    let body = json!({
        "url": format!("ws://{}", simulator.address), "shards": shards,
        "session_start_limit": {"total": 1000, "remaining": remaining, "reset_after": reset_after, "max_concurrency": 2},
    });
    answer("200 OK", body.to_string())
}

fn log(directory: &Path) -> String {
    fs::read_to_string(directory.join("gateway-proxy.log")).expect("a log")
}

/// A response can ask for a pause in its header and in its body, in whole seconds or fractions, with 429 or another
/// status. The proxy waits for the longer one instead of its own 1, 2, 4 s. The API holds back each response until the
/// test has looked at the one before.
#[test]
fn an_answer_that_asks_to_wait_is_obeyed_and_told() {
    let directory = scratch("retry_after");
    let simulator = Simulator::start(&directory, WORLD);
    let (address, arrivals) = rest(
        vec![
            answer("429 Too Many Requests\r\nRetry-After: 3", ""),
            answer("503 Service Unavailable\r\nRetry-After: 4.25", "<html>"),
            answer("429 Too Many Requests\r\nRetry-After: 1", r#"{"message":"x","retry_after":6.5,"global":true}"#),
            gateway_bot(&simulator, 1, 1000, 1000),
        ],
        0,
    );
    let changes = json!({"shards": null, "log_level": "info"});
    let proxy = Proxy::spawn_before(&directory, address, &changes, &[]);
    let next = || arrivals.recv_timeout(PATIENCE).expect("a request");
    let (mut last, head) = next();
    let agent = head.lines().find(|line| line.to_ascii_lowercase().starts_with("user-agent:"));
    let agent = agent.expect("a User-Agent").to_owned();
    assert!(agent.contains("DiscordBot (https://") && !agent.contains("github.com/gateway-proxy"), "{agent}");
    for (status, wait) in [(429, 3.0), (503, 4.25), (429, 6.5_f64)] {
        let health = wait_until("/health to tell", || {
            let health = get(proxy.address, "/health")?;
            if health.body.contains(&format!("status {status}")) { Ok(health) } else { Err(health.body) }
        });
        assert_eq!(health.status, 503);
        let told = health.body.split("trying again in ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
        let told: f64 = told.unwrap_or_else(|| panic!("no wait in {}", health.body));
        assert!(told <= wait.ceil(), "{}", health.body);
        let line = format!("status {status}; trying again in {} s, as the answer asks (Retry-After)", wait.ceil());
        // The log arrives through a pipe, so a line can be late.
        wait_until("the log to tell", || if log(&directory).contains(&line) { Ok(()) } else { Err(line.clone()) });
        let (at, _) = next();
        let waited = at.duration_since(last);
        assert!(waited >= Duration::from_secs_f64(wait), "after {status} it waited {waited:?} instead of {wait} s");
        last = at;
    }
    let proxy = proxy.wait_until_ready();
    let health = get(proxy.address, "/health").expect("an answer").body;
    assert!(!health.contains("trying again"), "{health}");
}

/// Numbers that no bot can have are logged, and the proxy asks again.
#[test]
fn an_absurd_answer_is_a_failure_that_may_pass() {
    let directory = scratch("absurd");
    let simulator = Simulator::start(&directory, WORLD);
    let (address, _arrivals) = rest(
        vec![
            gateway_bot(&simulator, 1 << 31, 1000, 1000),
            gateway_bot(&simulator, 0, 1000, 1000),
            gateway_bot(&simulator, 1, 1000, u64::MAX),
            gateway_bot(&simulator, 1, 1000, 1000),
        ],
        MANY,
    );
    let proxy = Proxy::spawn_before(&directory, address, &json!({"shards": null, "log_level": "info"}), &[]);
    let _proxy = proxy.wait_until_ready();
    let log = log(&directory);
    for named in ["`shards` is 2147483648", "`shards` is 0", "`reset_after` is 18446744073709551615"] {
        assert!(log.contains(named), "{named} in {log}");
    }
}

/// The token is replaced while the shards run. The proxy cannot continue, and ends in the same way as after SIGTERM.
#[test]
fn a_refused_token_ends_the_proxy_with_its_state_written() {
    let directory = scratch("refused_token");
    let simulator = Simulator::start(
        &directory,
        &WORLD.replace("--shards 1 --max-concurrency 1", "--shards 2 --max-concurrency 2"),
    );
    // After the start no IDENTIFY is left, so the proxy asks again when a session is lost, once the answer is 15 s old.
    let (address, _arrivals) = rest(
        vec![
            gateway_bot(&simulator, 2, 2, 3_600_000),
            answer("401 Unauthorized", r#"{"message":"401: Unauthorized"}"#),
        ],
        MANY,
    );
    let state = directory.join("state");
    let changes = json!({"shards": null, "log_level": "info", "state_dir": state});
    let mut proxy = Proxy::spawn_before(&directory, address, &changes, &[]).wait_until_ready();
    simulator.fault("invalid?shard=0");
    let status = wait_until("the proxy to end", || proxy.ended().ok_or("it runs".to_owned()));
    assert_eq!(status.code(), Some(1));
    let log = log(&directory);
    assert!(log.contains("Discord refused the token (401)"), "{log}");
    // One file of the gateway, and one of each shard that has a session.
    let files = fs::read_dir(&state).expect("a directory").map(|file| file.expect("a file").file_name());
    let files: BTreeSet<_> = files.map(|name| name.into_string().expect("ASCII")).collect();
    assert_eq!(files, BTreeSet::from(["gateway.json".to_owned(), "shard-1.state".to_owned()]), "{log}");
}
