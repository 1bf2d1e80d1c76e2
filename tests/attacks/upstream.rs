//! Attacks by a server that answers in Discord's place, or by a host that a URL from Discord names.

use super::*;
use gateway_proxy::websocket::{FrameDecoder, Message, Opcode, Role, server_response, upgrade_of, write_frame};
use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};
use support::{Fault, FaultyRelay, free_port, post_body, wait_until};

/// A listener that counts connections and closes them.
fn trap(host: &str) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind((host, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            counted.fetch_add(1, Relaxed);
            drop(stream);
        }
    });
    (address, count)
}

fn resumes(simulator: &Simulator, at_least: u64) {
    wait_until("a RESUME", || {
        let resumes = simulator.resumes();
        if resumes >= at_least { Ok(()) } else { Err(format!("{resumes}")) }
    });
}

/// In an earlier version READY could send the next RESUME, with the token, to any host.
#[test]
fn a_session_is_resumed_at_listed_hosts_only() {
    let directory = scratch("resume_hosts");
    let (foreign, visits) = trap("127.0.0.2");
    let gateway = Simulator::start(&directory, &format!("{WORLD} --public-url ws://{foreign}"));
    let rest = Simulator::start(&directory, &format!("{WORLD} --public-url ws://{}", gateway.address));
    let changes = json!({"shards": 1, "log_level": "info", "gateway_hosts": ["127.0.0.1"]});
    let _proxy = Proxy::spawn_before(&directory, rest.address, &changes, &[]).wait_until_ready();
    for round in 1..=3 {
        gateway.drop_connection(0);
        resumes(&gateway, round);
    }
    assert_eq!(visits.load(Relaxed), 0, "somebody else was asked");
    logged("resume_hosts", "127.0.0.2 is not one of `gateway_hosts`");
    assert_eq!(gateway.identifies(), 1);
}

/// An answer of `/gateway/bot` that names a host outside `gateway_hosts` is refused.
#[test]
fn a_gateway_that_is_not_listed_is_not_asked() {
    let directory = scratch("first_host");
    let (foreign, visits) = trap("127.0.0.2");
    let rest = Simulator::start(&directory, &format!("{WORLD} --public-url ws://{foreign}"));
    let changes = json!({"shards": 1, "log_level": "info", "gateway_hosts": ["127.0.0.1"]});
    let proxy = Proxy::spawn_before(&directory, rest.address, &changes, &[]);
    wait_until("the answer to be refused", || match get(proxy.address, "/health") {
        Ok(health) if health.body.contains("127.0.0.2 is not one of `gateway_hosts`") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(visits.load(Relaxed), 0);
}

/// In an earlier version the shard gave up encryption when READY named a URL without it.
#[test]
fn a_session_that_began_encrypted_is_resumed_encrypted() {
    let directory = scratch("resume_plain");
    let tls = directory.join("ca");
    let foreign = format!("ws://discord.invalid:{}", free_port());
    let busy = WORLD.replace("--rate 0", "--rate 50");
    let gateway = Simulator::start(&directory, &format!("{busy} --tls-dir {} --public-url {foreign}", tls.display()));
    let relay = FaultyRelay::before(gateway.address.port());
    let url = format!("wss://localhost:{}", relay.address.port());
    let rest = Simulator::start(&directory, &format!("{WORLD} --public-url {url}"));
    let ca = tls.join("ca.pem");
    let variables = [("SSL_CERT_FILE", ca.to_str().expect("a path in UTF-8"))];
    let changes = json!({"shards": 1, "log_level": "info"});
    let proxy = Proxy::spawn_before(&directory, rest.address, &changes, &variables).wait_until_ready();
    // The relay flips a bit of an event, so that the connection breaks and the shard connects again.
    relay.set_fault(Fault::Flip);
    wait_until("the connection to break", || {
        let status = metric(&proxy, "gateway_shard_status{shard=\"0\"}");
        if status < 4.0 { Ok(()) } else { Err(format!("status {status}")) }
    });
    relay.set_fault(Fault::None);
    wait_until("the session to go on", || {
        let resumes = metric(&proxy, "gateway_shard_resumes_total{shard=\"0\"}");
        let status = metric(&proxy, "gateway_shard_status{shard=\"0\"}");
        if resumes >= 1.0 && status == 4.0 { Ok(()) } else { Err(format!("{resumes} RESUMEs, status {status}")) }
    });
    let told =
        format!("connects to {url} instead of {foreign}: it is not encrypted, and the URL that /gateway/bot named is");
    logged("resume_plain", &told);
}

/// An earlier version followed a redirect of `/gateway/bot` to any host.
#[test]
fn a_redirect_is_not_followed() {
    let directory = scratch("redirect");
    let (foreign, visits) = trap("127.0.0.1");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 2048];
            let _ = stream.read(&mut head);
            let answer = format!(
                "HTTP/1.1 302 Found\r\nLocation: http://{foreign}/api/v10/gateway/bot\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let proxy = Proxy::spawn_before(&directory, address, &json!({"shards": 1, "log_level": "info"}), &[]);
    wait_until("the answer to be refused", || match get(proxy.address, "/health") {
        Ok(health) if health.body.contains("status 302, and redirects are not followed") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(visits.load(Relaxed), 0);
}

/// In an earlier version a gateway that sent pings and read nothing made the proxy keep one pong for each ping.
#[test]
fn pings_that_nobody_takes_the_answers_of_are_not_kept() {
    const PINGS: usize = 400_000;
    let directory = scratch("pings");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let rest = Simulator::start(&directory, &format!("{WORLD} --public-url ws://{address}"));
    let proxy = Proxy::spawn_before(&directory, rest.address, &json!({"shards": 1, "log_level": "info"}), &[]);
    let (mut stream, _) = listener.accept().expect("the shard");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut headers);
    assert!(request.parse(&head).expect("a request").is_complete());
    let upgrade = upgrade_of(request.headers).expect("an upgrade").expect("a good one");
    stream.write_all(server_response(&upgrade).as_bytes()).expect("the answer");
    let mut hello = Vec::new();
    let text = r#"{"t":null,"s":null,"op":10,"d":{"heartbeat_interval":41250}}"#;
    write_frame(&mut hello, Opcode::Text, text.as_bytes(), None);
    stream.write_all(&hello).expect("HELLO");
    let before = rss(proxy.id());
    let mut pings = Vec::new();
    for _ in 0..1_000 {
        write_frame(&mut pings, Opcode::Ping, &[b'p'; 125], None);
    }
    for _ in 0..PINGS / 1_000 {
        stream.write_all(&pings).expect("the proxy goes on reading");
    }
    // The proxy has read all pings when it answers a ping behind them. After that ping the test reads the answers.
    write_frame(&mut hello, Opcode::Ping, b"last", None);
    stream.write_all(&hello).expect("the last one");
    let mut inbound = FrameDecoder::new(Role::Server, 1 << 20);
    let mut answers = 0;
    'reading: loop {
        while let Some(message) = inbound.next().expect("frames by the RFC") {
            if let Message::Pong(payload) = message {
                answers += 1;
                if payload == b"last" {
                    break 'reading;
                }
            }
        }
        let n = stream.read(inbound.space()).expect("answers");
        assert!(n > 0, "the connection has ended after {answers} answers");
        inbound.filled(n);
    }
    let grown = rss(proxy.id()).saturating_sub(before);
    eprintln!("{PINGS} pings: {answers} answers, {} KiB more", grown >> 10);
    assert!(grown < 16 << 20, "{} KiB more for pings", grown >> 10);
    assert!(answers < PINGS, "each of them was kept");
}

/// In an earlier version a sequence of 2^64 - 1 made every later event out of sequence, and a second one overflowed a
/// counter.
#[test]
fn an_absurd_sequence_is_not_believed() {
    let (simulator, proxy) = start_with("sequence", &json!({}));
    let mut gateway = identified(&proxy, 1);
    for round in 1..=2 {
        let payload = format!(r#"{{"t":"TYPING_START","s":{},"op":0,"d":{{}}}}"#, u64::MAX);
        post_body(simulator.address, "/sim/raw?shard=0", payload.as_bytes()).expect("an answer");
        resumes(&simulator, round.min(1));
        let (first, _) = simulator.emit(0, 1);
        while gateway.receive().expect("an event").number() != Some(first) {}
    }
    let value = |name: &str| metric(&proxy, &format!("{name}{{shard=\"0\"}}"));
    assert_eq!(value("gateway_shard_out_of_sequence_total"), 0.0);
    assert_eq!(value("gateway_shard_sequence_gaps_total"), 0.0);
    assert_eq!(metric(&proxy, "gateway_panics_total"), 0.0);
}
