//! Discord fails in every way that it can announce, and in some that it cannot. The shard resumes where that is
//! possible, and a connected client gets each event once and in order.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};
use support::{
    Fault, FaultyRelay, Gateway, Gone, Payload, Proxy, Simulator, Transport, compare_guilds, free_port, get, scratch,
    wait_until,
};

const WORLD: &str = "--shards 1 --identify-interval-ms 100 --guilds 12 --members 10 --seed 3";
const INTENTS: u64 = 53_608_447;

/// A world without traffic.
fn quiet() -> String {
    format!("{WORLD} --rate 0")
}

struct Client {
    gateway: Gateway,
    session: String,
    sequence: u64,
    number: Option<u64>,
    others: Vec<Payload>,
}

impl Client {
    fn start(proxy: &Proxy) -> Self {
        let mut gateway = Gateway::connect(proxy.address, Transport::Zstd);
        gateway.identify((0, 1), INTENTS);
        let ready = gateway.receive().expect("READY");
        let session = ready.data()["session_id"].as_str().expect("an id").to_owned();
        let guilds = ready.data()["guilds"].as_array().expect("guilds").len() as u64;
        for _ in 0..guilds {
            assert_eq!(gateway.receive().expect("a guild").t.as_deref(), Some("GUILD_CREATE"));
        }
        Self { gateway, session, sequence: guilds + 1, number: None, others: Vec::new() }
    }

    /// Reads up to the message with this number. Each sequence number and each message number must be one higher than
    /// the one before.
    fn read_to(&mut self, last: u64) {
        self.read_while(|number| number != Some(last));
    }

    /// Reads this many further messages.
    fn read_messages(&mut self, count: u64) {
        let mut last = None;
        self.read_while(|number| number.is_none() || number < Some(*last.get_or_insert(number.unwrap_or(0) + count)));
    }

    fn read_while(&mut self, mut goes_on: impl FnMut(Option<u64>) -> bool) {
        while goes_on(self.number) {
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
    let simulator = Simulator::start(&directory, &quiet());
    let faults = [
        ["drop?shard=0", "drop?shard=0&code=4000", "reconnect?shard=0"],
        ["drop?shard=0&code=4001", "invalid?shard=0&resumable=true", "drop?shard=0&code=1000"],
        ["drop?shard=0&code=1001", "reconnect?shard=0", "drop?shard=0&code=4008"],
    ];
    // Only three faults for each proxy, because the proxy waits longer after each further one.
    for (compression, faults) in ["zstd-stream", "zlib-stream", "none"].into_iter().zip(faults) {
        let identifies = simulator.identifies();
        let changes = json!({"shards": 1, "upstream_compression": compression});
        let proxy = Proxy::start(&directory, &simulator, &changes);
        let mut client = Client::start(&proxy);
        let mut resumes = simulator.shard_stats(0)["resumes"].as_u64().expect("a number");
        for fault in faults {
            simulator.emit(0, 50);
            simulator.fault(fault);
            // Some of these messages are sent while the shard is disconnected.
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
    let simulator = Simulator::start(&directory, &quiet());
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
    let simulator = Simulator::start(&directory, &format!("{} --heartbeat-interval-ms 1500", quiet()));
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let mut client = Client::start(&proxy);
    simulator.emit(0, 10);
    simulator.fault("drop?shard=0&freeze=1");
    let (_, last) = simulator.emit(0, 10);
    wait_for_session(&simulator, 1);
    client.read_to(last);
    assert_eq!(simulator.identifies(), 1);
}

/// Events that happen while the shard has no session are lost. So the proxy ends the sessions of its clients, as
/// Discord would.
#[test]
fn a_new_session_invalidates_those_of_clients() {
    let directory = scratch("upstream_identify");
    let simulator = Simulator::start(&directory, &quiet());
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let (mut client, away) = (Client::start(&proxy), Client::start(&proxy));
    let (session, sequence) = (away.session.clone(), away.sequence);
    drop(away);
    let gone = simulator.guilds(0).into_keys().next().expect("a guild");
    simulator.fault("drop?shard=0&end_session=1");
    simulator.leave_guild(&gone);
    simulator.mutate(0, 300);
    // The next payload that the client gets is Invalid Session.
    let told = client.gateway.receive().expect("op 9");
    assert_eq!((told.op, told.d.as_str()), (9, "false"), "{told:?}");
    assert_eq!(simulator.identifies(), 2);
    // Commands that the client sends before it reads Invalid Session do no harm.
    client.gateway.send(3, &json!({"status": "idle", "activities": [], "since": null, "afk": false}));
    client.gateway.heartbeat(sequence);
    assert_eq!(client.gateway.receive().expect("an ACK").op, 11);
    client.gateway.identify((0, 1), INTENTS);
    let ready = client.gateway.receive().expect("READY");
    assert_eq!((ready.t.as_deref(), ready.s), (Some("READY"), Some(1)));
    let id = |guild: &Value| guild["id"].as_str().expect("an id").to_owned();
    let announced: BTreeSet<String> = ready.data()["guilds"].as_array().expect("guilds").iter().map(id).collect();
    assert_eq!(announced, simulator.guilds(0).into_keys().collect(), "with the session's own guilds");
    assert!(!announced.contains(&gone));
    for _ in &announced {
        let guild = client.gateway.receive().expect("a guild");
        assert!(matches!(guild.t.as_deref(), Some("GUILD_CREATE" | "GUILD_DELETE")), "{guild:?}");
    }
    // The session that had no connection at that time cannot be resumed either.
    let mut late = Gateway::connect(proxy.address, Transport::None);
    late.resume(&session, sequence);
    let told = late.receive().expect("op 9");
    assert_eq!((told.op, told.d.as_str()), (9, "false"), "{told:?}");
    // A client that identifies now receives the true state.
    compare_guilds(&proxy, &simulator, 0, 1, true);
}

/// Discord has the session and refuses to resume it. After one refusal the shard tries again. After three refusals in
/// a row with close codes of Discord's own it begins a new session.
#[test]
fn a_session_that_discord_does_not_resume_is_replaced() {
    let directory = scratch("upstream_refused");
    let simulator = Simulator::start(&directory, &quiet());
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let mut client = Client::start(&proxy);
    simulator.fault("refuse-resume?shard=0&count=1&code=4006");
    simulator.fault("drop?shard=0");
    let (_, last) = simulator.emit(0, 10);
    wait_for_session(&simulator, 1);
    client.read_to(last);
    assert_eq!(simulator.identifies(), 1);
    simulator.fault("refuse-resume?shard=0&count=1000&code=4006");
    simulator.fault("drop?shard=0");
    let told = client.gateway.receive().expect("op 9");
    assert_eq!((told.op, told.d.as_str()), (9, "false"), "{told:?}");
    assert_eq!(simulator.identifies(), 2);
    assert_eq!(metric(&proxy, "gateway_shard_sessions_given_up_total{"), 1.0);
    assert_eq!(metric(&proxy, "gateway_shard_clients_invalidated_total{"), 1.0);
    assert_eq!(simulator.stats()["violations"], json!([]));
}

#[test]
fn a_fatal_close_is_told_and_not_retried() {
    let directory = scratch("upstream_fatal");
    let simulator = Simulator::start(&directory, &quiet());
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
    // The answer of `/health` can be one second old.
    let mut health = get(proxy.address, "/health").expect("an answer");
    wait_until("/health to say so", || {
        health = get(proxy.address, "/health")?;
        if health.status == 503 { Ok(()) } else { Err(health.body.clone()) }
    });
    assert!(health.body.contains("4014") && health.body.contains("privileged"), "{}", health.body);
    let mut late = Gateway::connect(proxy.address, Transport::None);
    late.identify((0, 1), INTENTS);
    assert!(matches!(late.receive(), Err(Gone::Closed(Some(4014), _))));
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(simulator.identifies(), 1);
    let metrics = get(proxy.address, "/metrics").expect("an answer").body;
    assert!(metrics.contains("gateway_shard_status{shard=\"0\"} 0"), "{metrics}");
}

#[test]
fn garbage_costs_a_resume_and_nothing_else() {
    let directory = scratch("upstream_garbage");
    let simulator = Simulator::start(&directory, &quiet());
    let kinds: [[(&str, &[u8]); 3]; 3] = [
        [
            ("what is no stream", b"\x82\x04\xde\xad\xbe\xef"),
            ("half of a frame", b"\x82\x7e\x10\x00{"),
            ("a reserved opcode", b"\x83\x01x"),
        ],
        [
            ("what is no stream", b"\x82\x04\xde\xad\xbe\xef"),
            ("what is not UTF-8", b"\x81\x02\xc3\x28"),
            ("a frame with a mask", b"\x81\x81\0\0\0\0x"),
        ],
        [
            ("what is no payload", b"\x82\x02{]"),
            ("half of a payload", b"\x81\x0b{\"t\":\"READY"),
            ("a frame without end", b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"),
        ],
    ];
    for (compression, kinds) in ["zstd-stream", "zlib-stream", "none"].into_iter().zip(kinds) {
        let identifies = simulator.identifies();
        let changes = json!({"shards": 1, "upstream_compression": compression});
        let proxy = Proxy::start(&directory, &simulator, &changes);
        let mut client = Client::start(&proxy);
        let mut resumes = simulator.shard_stats(0)["resumes"].as_u64().expect("a number");
        for (kind, bytes) in kinds {
            simulator.emit(0, 50);
            simulator.put_on_wire(0, bytes);
            let (_, last) = simulator.emit(0, 200);
            resumes += 1;
            println!("{compression}: {kind}");
            wait_for_session(&simulator, resumes);
            client.read_to(last);
        }
        assert_eq!(simulator.identifies(), identifies + 1, "{compression}");
        client.gateway.heartbeat(client.sequence);
        assert_eq!(client.gateway.receive().expect("an ACK").op, 11, "the client has noticed nothing");
    }
}

fn metric(proxy: &Proxy, name: &str) -> f64 {
    let metrics = get(proxy.address, "/metrics").expect("metrics").body;
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {metrics}"));
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

/// Faults between the proxy and Discord: the shard connects when Discord can be reached, and resumes after each fault.
#[test]
fn broken_networks_are_outlasted() {
    let directory = scratch("upstream_network");
    let (tls, port) = (directory.join("ca"), free_port());
    let relay = FaultyRelay::before(port);
    let url = format!("wss://localhost:{}", relay.address.port());
    // Another simulator serves REST in plain text. It names the same gateway.
    let world = format!("{WORLD} --public-url {url}");
    let _discord = Simulator::start_at(&directory, port, &format!("{world} --rate 200 --tls-dir {}", tls.display()));
    let rest = Simulator::start(&directory, &format!("{world} --rate 0"));
    let ca = tls.join("ca.pem");
    let variables = [("SSL_CERT_FILE", ca.to_str().expect("a path in UTF-8"))];
    relay.set_fault(Fault::Garbage);
    let proxy = Proxy::spawn_before(&directory, rest.address, &json!({"shards": 1}), &variables);
    wait_until("the failure to be told", || {
        let log = std::fs::read_to_string(directory.join("gateway-proxy.log")).map_err(|error| error.to_string())?;
        if log.contains("can not connect") { Ok(()) } else { Err(log) }
    });
    assert_eq!(get(proxy.address, "/health").expect("an answer").status, 503);
    relay.set_fault(Fault::None);
    let proxy = proxy.wait_until_ready();
    let mut client = Client::start(&proxy);
    client.read_messages(20);
    for (resumes, fault) in (1..).zip([Fault::Flip, Fault::Truncate, Fault::Refuse]) {
        relay.set_fault(fault);
        wait_until("the connection to break", || {
            let status = metric(&proxy, "gateway_shard_status{");
            if status < 4.0 { Ok(()) } else { Err(format!("status {status}")) }
        });
        relay.set_fault(Fault::None);
        wait_until("the session to go on", || {
            let seen = metric(&proxy, "gateway_shard_resumes_total{");
            let status = metric(&proxy, "gateway_shard_status{");
            let back = seen >= f64::from(resumes) && status == 4.0;
            if back { Ok(()) } else { Err(format!("{seen} RESUMEs, status {status}")) }
        });
        // These messages include those that the broken connection has not delivered.
        client.read_messages(200);
    }
    assert_eq!(metric(&proxy, "gateway_shard_identifies_total{"), 1.0);
}

/// A host name that cannot be resolved counts as Discord being down.
#[test]
fn a_name_that_is_unknown_is_told_and_tried_again() {
    let directory = scratch("upstream_dns");
    let rest = Simulator::start(&directory, &format!("{WORLD} --public-url wss://discord.invalid"));
    let proxy = Proxy::spawn_before(&directory, rest.address, &json!({"shards": 1}), &[]);
    wait_until("a second attempt", || {
        let log = std::fs::read_to_string(directory.join("gateway-proxy.log")).map_err(|error| error.to_string())?;
        if log.matches("can not connect").count() >= 2 { Ok(()) } else { Err(log) }
    });
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    gateway.identify((0, 1), INTENTS);
    gateway.heartbeat(0);
    assert_eq!(gateway.receive().expect("an ACK").op, 11);
    let health = get(proxy.address, "/health").expect("an answer");
    assert_eq!((health.status, rest.identifies()), (503, 0), "{}", health.body);
}
