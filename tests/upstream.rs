//! Discord's side fails in every way that it can announce, and in some that it can not: the shard comes back by a RESUME
//! where that is possible, and a connected client gets every event once and in order.

mod support;

use std::{collections::BTreeSet, time::Duration};

use gateway_proxy::compression::Transport;
use serde_json::json;
use support::{Gateway, Gone, Payload, Proxy, Simulator, get, scratch, wait_until};

const WORLD: &str = "--shards 1 --identify-interval-ms 100 --guilds 12 --members 10 --seed 3 --rate 0";
const INTENTS: u64 = 53_608_447;

struct Client {
    gateway: Gateway,
    sequence: u64,
    number: Option<u64>,
    others: Vec<Payload>,
}

impl Client {
    fn start(proxy: &Proxy) -> Self {
        let mut gateway = Gateway::connect(proxy.address, Transport::Zstd);
        gateway.identify((0, 1), INTENTS);
        let ready = gateway.receive().expect("READY");
        let guilds = ready.data()["guilds"].as_array().expect("guilds").len() as u64;
        for _ in 0..guilds {
            assert_eq!(gateway.receive().expect("a guild").t.as_deref(), Some("GUILD_CREATE"));
        }
        Self { gateway, sequence: guilds + 1, number: None, others: Vec::new() }
    }

    /// Reads up to the message of that number; every sequence and every number has to be one more than the last.
    fn read_to(&mut self, last: u64) {
        while self.number != Some(last) {
            let payload = self.gateway.receive().expect("an event");
            assert_eq!(payload.s, Some(self.sequence + 1), "{payload:?}");
            self.sequence += 1;
            match (payload.number(), self.number) {
                (Some(number), Some(before)) => assert_eq!(number, before + 1),
                (Some(_), None) => {}
                (None, _) => {
                    self.others.push(payload);
                    continue;
                }
            }
            self.number = payload.number();
        }
    }
}

fn wait_for_session(simulator: &Simulator, resumes: u64) {
    wait_until("the shard to resume", || {
        let stats = simulator.shard_stats(0);
        let back = stats["connected"] == true && stats["resumes"].as_u64() >= Some(resumes);
        if back { Ok(()) } else { Err(stats.to_string()) }
    });
}

#[test]
fn what_can_be_resumed_is_resumed_and_nothing_is_lost() {
    let directory = scratch("upstream_resume");
    let simulator = Simulator::start(&directory, WORLD);
    let faults = [
        ["drop?shard=0", "drop?shard=0&code=4000", "reconnect?shard=0"],
        ["drop?shard=0&code=4001", "invalid?shard=0&resumable=true", "drop?shard=0&code=1000"],
        ["drop?shard=0&code=1001", "reconnect?shard=0", "drop?shard=0&code=4008"],
    ];
    // Few in a row, because each further one waits longer.
    for (compression, faults) in ["zstd-stream", "zlib-stream", "none"].into_iter().zip(faults) {
        let identifies = simulator.identifies();
        let changes = json!({"shards": 1, "upstream_compression": compression});
        let proxy = Proxy::start(&directory, &simulator, &changes);
        let mut client = Client::start(&proxy);
        let mut resumes = simulator.shard_stats(0)["resumes"].as_u64().expect("a number");
        for fault in faults {
            simulator.emit(0, 50);
            simulator.fault(fault);
            // Some of these come while the shard is away.
            let (_, last) = simulator.emit(0, 200);
            resumes += 1;
            wait_for_session(&simulator, resumes);
            client.read_to(last);
        }
        assert_eq!(simulator.identifies(), identifies + 1, "{compression}");
        assert_eq!(simulator.stats()["violations"], json!([]));
    }
}

#[test]
fn a_heartbeat_that_is_asked_for_comes_at_once() {
    let directory = scratch("upstream_heartbeat");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let before = simulator.shard_stats(0)["heartbeats"].as_u64().expect("a number");
    simulator.fault("heartbeat?shard=0");
    wait_until("a heartbeat", || {
        let now = simulator.shard_stats(0)["heartbeats"].as_u64();
        if now > Some(before) { Ok(()) } else { Err(format!("{now:?}")) }
    });
    wait_until("its latency in the metrics", || {
        let metrics = get(proxy.address, "/metrics")?.body;
        let line = metrics.lines().find(|line| line.starts_with("gateway_shard_latency_histogram_count"));
        if line.is_some_and(|line| !line.ends_with(" 0")) { Ok(()) } else { Err(format!("{line:?}")) }
    });
}

#[test]
fn a_half_open_connection_is_noticed_by_its_missing_acks() {
    let directory = scratch("upstream_frozen");
    let simulator = Simulator::start(&directory, &format!("{WORLD} --heartbeat-interval-ms 1500"));
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let mut client = Client::start(&proxy);
    simulator.emit(0, 10);
    simulator.fault("drop?shard=0&freeze=1");
    let (_, last) = simulator.emit(0, 10);
    wait_for_session(&simulator, 1);
    client.read_to(last);
    assert_eq!(simulator.identifies(), 1);
}

#[test]
fn a_new_session_tells_clients_what_is_gone() {
    let directory = scratch("upstream_identify");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let mut client = Client::start(&proxy);
    let (_, last) = simulator.emit(0, 1);
    client.read_to(last);
    client.others.clear();
    let guilds = simulator.guilds(0);
    let gone = guilds.keys().next().expect("a guild").clone();
    simulator.fault("drop?shard=0&end_session=1");
    simulator.leave_guild(&gone);
    wait_until("a new session", || match simulator.identifies() {
        2 => Ok(()),
        count => Err(format!("{count} IDENTIFYs")),
    });
    wait_until("all guilds", || {
        let stats = simulator.shard_stats(0);
        if stats["connected"] == true && stats["guilds_pending"] == 0 { Ok(()) } else { Err(stats.to_string()) }
    });
    // Without `s` of a session that is over: numbers begin anew at Discord, and go on for the client.
    client.number = None;
    let (_, last) = simulator.emit(0, 1);
    client.read_to(last);
    let of = |kind: &str| -> Vec<String> {
        let payloads = client.others.iter().filter(|payload| payload.t.as_deref() == Some(kind));
        payloads.map(|payload| payload.data()["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(of("GUILD_DELETE"), [gone.clone()]);
    let renewed: BTreeSet<String> = of("GUILD_CREATE").into_iter().collect();
    let expected: BTreeSet<String> = guilds.keys().filter(|id| **id != gone).cloned().collect();
    assert_eq!(renewed, expected);
    // Who comes now is told of those that there are.
    assert_eq!(Client::start(&proxy).sequence, 12);
}

#[test]
fn a_fatal_close_is_told_and_not_retried() {
    let directory = scratch("upstream_fatal");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let mut client = Client::start(&proxy);
    simulator.fault("drop?shard=0&code=4014");
    loop {
        match client.gateway.receive() {
            Ok(_) => {}
            Err(Gone::Closed(code, reason)) => {
                assert_eq!(code, Some(4014), "{reason}");
                break;
            }
            Err(gone) => panic!("{gone:?}"),
        }
    }
    let health = get(proxy.address, "/health").expect("an answer");
    assert_eq!(health.status, 503);
    assert!(health.body.contains("4014") && health.body.contains("privileged"), "{}", health.body);
    let mut late = Gateway::connect(proxy.address, Transport::None);
    late.identify((0, 1), INTENTS);
    assert!(matches!(late.receive(), Err(Gone::Closed(Some(4014), _))));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(simulator.identifies(), 1);
    let metrics = get(proxy.address, "/metrics").expect("an answer").body;
    assert!(metrics.contains("gateway_shard_status{shard=\"0\"} 0"), "{metrics}");
}
