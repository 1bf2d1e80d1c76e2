//! The door as clients see it: refusals with the right close code and a reason, RESUMEs that cannot be served, HTTP,
//! and a proxy whose Discord is down.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use serde_json::{Value, json};
use support::{Gateway, Gone, Proxy, Simulator, TOKEN, Transport, free_port, get, scratch, wait_until};

const WORLD: &str =
    "--shards 2 --max-concurrency 2 --identify-interval-ms 100 --guilds 8 --members 10 --seed 3 --rate 0";
const INTENTS: u64 = 53_608_447;

fn start(name: &str) -> (Simulator, Proxy) {
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({}));
    (simulator, proxy)
}

/// Reads until the close, and returns its code and reason.
fn close_of(gateway: &mut Gateway) -> (Option<u16>, String) {
    loop {
        match gateway.receive() {
            Ok(_) => {}
            Err(Gone::Closed(code, reason)) => return (code, reason),
            Err(gone) => panic!("{gone:?} instead of a close"),
        }
    }
}

#[test]
fn refusals_have_discords_close_codes_and_a_reason() {
    let (simulator, proxy) = start("refusals");
    let identify = |token: &str, shard: Value| {
        json!({"op": 2, "d": {"token": token, "intents": INTENTS, "shard": shard, "properties": {}}}).to_string()
    };
    let long = json!({"op": 1, "d": "x".repeat(5000)}).to_string();
    let cases = [
        (identify("wrong", json!([0, 2])), 4004),
        (identify(TOKEN, json!([2, 2])), 4010),
        (identify(TOKEN, json!([0, 3])), 4010),
        (json!({"op": 2, "d": {"token": TOKEN, "intents": 1}}).to_string(), 4010), // the default [0, 1] is wrong for a bot with two shards
        (json!({"op": 6, "d": {"token": "wrong", "session_id": "x", "seq": 1}}).to_string(), 4004),
        (json!({"op": 2, "d": {}}).to_string(), 4002),
        ("{\"op\":".to_owned(), 4002),
        ("[]".to_owned(), 4002),
        (json!({"op": 8, "d": {}}).to_string(), 4003),
        (json!({"op": 3, "d": {}}).to_string(), 4003),
        (long, 4002),
    ];
    for (text, expected) in cases {
        for transport in [Transport::None, Transport::Zlib] {
            let mut gateway = Gateway::connect(proxy.address, transport);
            gateway.send_text(&text).expect("an open connection");
            let (code, reason) = close_of(&mut gateway);
            assert_eq!(code, Some(expected), "after {text:.60}: {reason}");
            assert!(!reason.is_empty(), "a reason for {expected}");
        }
    }
    // Refusals after IDENTIFY.
    for (text, expected) in [(identify(TOKEN, json!([0, 2])), 4005), ("garbage".to_owned(), 4002)] {
        let mut gateway = Gateway::connect(proxy.address, Transport::None);
        gateway.identify((0, 2), INTENTS);
        assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
        gateway.send_text(&text).expect("an open connection");
        assert_eq!(close_of(&mut gateway).0, Some(expected));
    }
    assert_eq!(simulator.stats()["violations"], json!([]), "nothing of that has reached Discord");
    assert_eq!(simulator.identifies(), 2);
}

/// seyfert ignores what it reads together with the answer to its upgrade. A thread of the test may be late and read both
/// at once, so the test needs one of several connections.
#[test]
fn hello_does_not_come_with_the_answer_to_the_upgrade() {
    let (_simulator, proxy) = start("hello");
    let alone = (0..100).find(|_| {
        let mut stream = TcpStream::connect(proxy.address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        let request = "GET /?v=10&encoding=json HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request");
        let mut bytes = [0; 4096];
        let n = stream.read(&mut bytes).expect("an answer");
        let text = String::from_utf8_lossy(&bytes[..n]);
        assert!(text.starts_with("HTTP/1.1 101"), "{text}");
        text.ends_with("\r\n\r\n")
    });
    assert!(alone.is_some(), "on each of 100 connections HELLO came together with the answer");
}

#[test]
fn what_libraries_do_is_accepted() {
    let (_simulator, proxy) = start("dresses");
    // A heartbeat before IDENTIFY is acknowledged. The token may have its prefix. Keys may be missing or unknown.
    let mut gateway = Gateway::connect(proxy.address, Transport::Zstd);
    for beat in [json!({"op": 1, "d": null}), json!({"op": 1, "d": 0}), json!({"op": 1})] {
        gateway.send_text(&beat.to_string()).expect("an open connection");
        assert_eq!(gateway.receive().expect("an ACK").op, 11);
    }
    let identify = json!({"op": 2, "compress": true, "d": {
        "token": format!("Bot {TOKEN}"), "intents": INTENTS, "shard": [1, 2], "compress": true, "v": 10,
        "properties": {"$os": "linux"}, "capabilities": 5, "presence": {"activities": null, "status": "offline"},
    }});
    gateway.send_text(&identify.to_string()).expect("an open connection");
    let ready = gateway.receive().expect("READY").data();
    for key in ["v", "user", "guilds", "session_id", "resume_gateway_url", "shard", "application", "private_channels"] {
        assert!(!ready[key].is_null(), "READY has {key}");
    }
    // The only client of the shard gets Discord's session id. The URL contains the proxy's own id of the session.
    let url = ready["resume_gateway_url"].as_str().expect("a URL");
    assert!(url.starts_with(&format!("ws://{}/r/", proxy.address)), "{url}");
    assert_eq!((&ready["v"], &ready["shard"]), (&json!(10), &json!([1, 2])));
    assert!(ready["application"]["id"].is_string() && ready["application"]["flags"].is_number());
    // The proxy answers with the client's own close code.
    for code in [1000, 3000, 4000, 4900] {
        let gateway = Gateway::connect(proxy.address, Transport::None);
        assert_eq!(gateway.close(code), Some(code));
    }
}

#[test]
fn a_resume_that_can_not_be_served_leaves_the_socket_open() {
    let (simulator, proxy) = start("refused_resume");
    let mut first = Gateway::connect(proxy.address, Transport::Zlib);
    first.identify((0, 2), INTENTS);
    let session = first.receive().expect("READY").data()["session_id"].as_str().expect("an id").to_owned();
    let foreign = format!("{}{}", &session[..31], if session.ends_with('0') { '1' } else { '0' });
    for (id, sequence) in
        [("nonsense", 1), (foreign.as_str(), 1), ("ffffffffffffffffffffffffffffffff", 1), (session.as_str(), 1_000_000)]
    {
        let mut gateway = Gateway::connect(proxy.address, Transport::Zlib);
        gateway.resume(id, sequence);
        let refused = gateway.receive().expect("an answer");
        assert_eq!((refused.op, refused.d.as_str()), (9, "false"), "for {id} at {sequence}");
        gateway.send_text(r#"{"op":1,"d":null}"#).expect("an open connection");
        assert_eq!(gateway.receive().expect("an ACK").op, 11);
    }
    let odd = [json!({}), json!({"session_id": null, "seq": null}), json!({"session_id": session, "seq": "1"})];
    let mut gateways = odd.map(|odd| {
        let mut gateway = Gateway::connect(proxy.address, Transport::Zlib);
        let mut data = odd.clone();
        data["token"] = json!(TOKEN);
        gateway.send(6, &data);
        let refused = gateway.receive().expect("an answer");
        assert_eq!((refused.op, refused.d.as_str()), (9, "false"), "for {odd}");
        gateway
    });
    let gateway = &mut gateways[0];
    gateway.identify((1, 2), INTENTS);
    assert_eq!(gateway.receive().expect("READY on the same socket").s, Some(1));
    assert_eq!(simulator.identifies(), 2);
}

#[test]
fn the_newest_resume_wins() {
    let (simulator, proxy) = start("newest_wins");
    let mut old = Gateway::connect(proxy.address, Transport::None);
    old.identify((0, 2), INTENTS);
    let ready = old.receive().expect("READY").data();
    let guilds = ready["guilds"].as_array().expect("guilds").len() as u64;
    for _ in 0..guilds {
        assert_eq!(old.receive().expect("a guild").t.as_deref(), Some("GUILD_CREATE"));
    }
    simulator.emit(0, 3);
    let numbers: Vec<_> = (0..3).map(|_| old.receive().expect("a message").number()).collect();
    // The old connection has not been closed.
    let mut new = Gateway::connect(proxy.address, Transport::Zstd);
    let session = ready["session_id"].as_str().expect("an id");
    new.resume(session, guilds + 2);
    for number in &numbers[1..] {
        assert_eq!(new.receive().expect("the replay").number(), *number);
    }
    let resumed = new.receive().expect("RESUMED");
    assert_eq!((resumed.t.as_deref(), resumed.s), (Some("RESUMED"), Some(guilds + 5)));
    assert!(resumed.data().is_object());
    assert_eq!(close_of(&mut old).0, Some(4000));
    simulator.emit(0, 1);
    assert_eq!(new.receive().expect("what is new").s, Some(guilds + 6));
    // A close with 1000 ends the session.
    new.close(1000);
    let mut gone = Gateway::connect(proxy.address, Transport::None);
    gone.resume(session, guilds + 6);
    assert_eq!(gone.receive().expect("an answer").op, 9);
}

#[test]
fn http_on_the_same_port() {
    let (_simulator, proxy) = start("http");
    let body = |path: &str| get(proxy.address, path).expect("an answer");
    assert_eq!(body("/shard-count").body, "2");
    assert_eq!(body("/health").status, 200);
    let metrics = body("/metrics").body;
    for name in [
        "gateway_shard_events{event_type=\"GUILD_CREATE\",shard=\"0\"} 4",
        "gateway_shard_status{shard=\"1\"} 4",
        "gateway_shard_latency{shard=\"0\"}",
        "gateway_shard_latency_histogram_bucket{shard=\"0\",le=\"+Inf\"}",
        "gateway_cache_guilds{shard=\"0\"} 4",
        "gateway_cache_members{shard=",
        "gateway_cache_voice_states{shard=",
        "gateway_identifies_remaining 998",
    ] {
        assert!(metrics.contains(name), "{name} in\n{metrics}");
    }
    for table in ["templates", "words", "paths", "trails", "tables_bytes"] {
        let name = format!("gateway_cache_{table}{{shard=\"0\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok());
        assert!(value.is_some_and(|value| value > 0.0), "{name} in\n{metrics}");
    }
    assert!(!metrics.contains(TOKEN));
    assert_eq!(body("/api/v10/gateway").body, json!({"url": format!("ws://{}", proxy.address)}).to_string());
    assert_eq!(body("/api/v10/gateway/bot").status, 401);
    assert_eq!(body("/api/v10/users/@me").status, 404);
    let request = format!("GET /api/gateway/bot HTTP/1.1\r\nHost: a\r\nAuthorization: Bot {TOKEN}\r\n\r\n");
    let answer = raw(proxy.address, &request);
    assert!(answer.contains("\r\nContent-Type: application/json\r\n"), "{answer}");
    let (_, json) = answer.split_once("\r\n\r\n").expect("a body");
    let bot: Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(bot["shards"], 2);
    assert!(bot["session_start_limit"]["remaining"].as_u64().expect("a number") >= 2);
    assert!(bot["session_start_limit"]["max_concurrency"].as_u64().expect("a number") >= 2);
    for (target, says) in [
        ("/?encoding=msgpack", "encoding=msgpack: expected json or etf"),
        ("/?encoding=etf&compress=brotli", "compress=brotli: expected zlib-stream or zstd-stream"),
        ("/?v=5", "v=5: versions 9 and 10"),
    ] {
        let head = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
        let request = format!("GET {target} HTTP/1.1\r\n{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
        let answer = raw(proxy.address, &request);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
        assert!(answer.contains(&format!("\r\n\r\n{says}")), "{target}: {answer}");
    }
    assert!(raw(proxy.address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
}

/// Sends a request, and returns all bytes of the answer.
fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn hello_comes_even_when_discord_is_down() {
    let directory = scratch("down");
    let port = free_port();
    let discord = SocketAddr::from(([127, 0, 0, 1], port));
    let proxy = Proxy::spawn_before(&directory, discord, &json!({"shards": 2}), &[]);
    let mut gateway =
        wait_until("the port", || Gateway::open(proxy.address, Transport::Zlib).map_err(|e| e.to_string()));
    assert_eq!(gateway.receive().expect("HELLO").op, 10);
    gateway.identify((0, 2), INTENTS);
    for _ in 0..3 {
        gateway.heartbeat(0);
        assert_eq!(gateway.receive().expect("an ACK, and no READY yet").op, 11);
    }
    let health = get(proxy.address, "/health").expect("an answer");
    assert_eq!(health.status, 503, "{}", health.body);
    let simulator = Simulator::start_at(&directory, port, WORLD);
    gateway.set_patience(Duration::from_secs(60));
    assert_eq!(gateway.receive().expect("READY when Discord is back").t.as_deref(), Some("READY"));
    assert_eq!(simulator.stats()["violations"], json!([]));
}

/// The gateway uses TLS, and only `SSL_CERT_FILE` names its certificate authority.
#[test]
fn discord_over_tls() {
    let directory = scratch("tls");
    let tls = directory.join("ca");
    // One simulator serves REST in plain text, and names the other one, which uses TLS, as the gateway.
    let secure = Simulator::start(&directory, &format!("{WORLD} --tls-dir {}", tls.display()));
    let ca = tls.join("ca.pem");
    let port = secure.address.port();
    let plain = Simulator::start(&directory, &format!("{WORLD} --public-url wss://localhost:{port}"));
    for compression in ["zstd-stream", "zlib-stream", "none"] {
        let changes = json!({"upstream_compression": compression});
        let variables = [("SSL_CERT_FILE", ca.to_str().expect("a path in UTF-8"))];
        let proxy = Proxy::spawn_before(&directory, plain.address, &changes, &variables).wait_until_ready();
        let mut gateway = Gateway::connect(proxy.address, Transport::Zstd);
        gateway.identify((0, 2), INTENTS);
        assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
        for _ in 0..4 {
            assert_eq!(gateway.receive().expect("a guild").t.as_deref(), Some("GUILD_CREATE"));
        }
    }
    // Without `SSL_CERT_FILE` the proxy does not trust the certificate.
    let proxy = Proxy::spawn_before(&directory, plain.address, &json!({}), &[]);
    wait_until("the refusal of the certificate", || {
        let log = std::fs::read_to_string(directory.join("gateway-proxy.log")).map_err(|error| error.to_string())?;
        if log.contains("UnknownIssuer") { Ok(()) } else { Err("not yet".into()) }
    });
    assert_eq!(get(proxy.address, "/health").expect("an answer").status, 503);
}
