//! Clients that break the rules, by mistake or on purpose. The proxy refuses or closes each one as Discord would, uses
//! a bounded amount of memory, and other clients notice nothing. Framing follows RFC 6455, with the cases of the
//! Autobahn test suite that apply to a gateway.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use gateway_proxy::websocket::{Opcode, write_frame};
use serde_json::json;
use support::{Gateway, Gone, Options, PATIENCE, Proxy, Simulator, Transport, get, scratch, wait_until};

const WORLD: &str =
    "--shards 1 --max-concurrency 1 --identify-interval-ms 100 --guilds 6 --members 20 --seed 3 --rate 0";
const INTENTS: u64 = 53_608_447;
const SHARD: (u32, u32) = (0, 1);

fn start(name: &str) -> (Simulator, Proxy) {
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1, "log_level": "info"}));
    (simulator, proxy)
}

/// A client that has got READY and all guilds.
fn synced(proxy: &Proxy) -> Gateway {
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    gateway.identify(SHARD, INTENTS);
    let guilds = gateway.receive().expect("READY").data()["guilds"].as_array().expect("guilds").len();
    for _ in 0..guilds {
        gateway.receive().expect("a guild");
    }
    gateway
}

fn metric(proxy: &Proxy, name: &str) -> f64 {
    let metrics = get(proxy.address, "/metrics").expect("metrics").body;
    let line = metrics.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {metrics}"));
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

/// Reads until the connection ends. Returns the close, or the end without one.
fn end_of(gateway: &mut Gateway) -> Gone {
    loop {
        if let Err(gone) = gateway.receive() {
            return gone;
        }
    }
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

#[test]
fn a_flood_ends_in_4008_and_costs_the_shard_nothing() {
    let (simulator, proxy) = start("flood");
    let mut good = synced(&proxy);
    let mut flood = synced(&proxy);
    let command = masked(0x81, br#"{"op":31,"d":{"guild_ids":["1"]}}"#);
    // Sending may fail, because the proxy may close the connection before everything is sent.
    let _ = flood.send_raw(&command.repeat(300));
    match end_of(&mut flood) {
        Gone::Closed(Some(4008), reason) => assert!(reason.contains("120 commands"), "{reason}"),
        Gone::Ended => {}
        gone => panic!("{gone:?}"),
    }
    // The other client's command does not wait behind the commands of the flood.
    good.send(31, &json!({"guild_ids": [simulator.guilds(0).pop_first().expect("a guild").0]}));
    wait_until("the good command", || {
        let sent = simulator.shard_stats(0)["commands"]["31"].as_u64().unwrap_or(0);
        if sent > 0 { Ok(()) } else { Err("none".to_owned()) }
    });
    let sent = simulator.shard_stats(0)["commands"]["31"].as_u64().unwrap_or(0);
    assert!(sent < 100, "{sent} commands of the flood have reached Discord");
    assert_eq!(simulator.stats()["violations"], json!([]));
}

#[test]
fn connections_that_never_identify_are_bounded() {
    const MOST: usize = 4096;
    // Each connection takes a file descriptor of this process.
    assert_eq!(gateway_proxy::preflight::limits(1).unwrap(), None);
    let (simulator, proxy) = start("crowd");
    let mut good = synced(&proxy);
    let mut crowd = Vec::new();
    for _ in 0..10_000 {
        // The proxy refuses a connection by closing it.
        crowd.push(TcpStream::connect(proxy.address).expect("a connection"));
    }
    wait_until("the bound", || {
        // At the bound the proxy accepts no further request, so a client that is already connected shows that the proxy
        // still serves.
        simulator.emit(0, 1);
        good.receive().map(|_| ()).map_err(|gone| format!("{gone:?}"))
    });
    let mut ended = 0;
    for stream in &mut crowd {
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        ended += usize::from(matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)) && is_closed(stream));
    }
    assert!(ended >= 10_000 - MOST, "{ended} of 10,000 were refused");
    drop(crowd);
    wait_until("room", || {
        let open = get(proxy.address, "/metrics")?.body;
        if open.contains("gateway_connections_unauthenticated 0\n") { Ok(()) } else { Err("still crowded".to_owned()) }
    });
    assert!(metric(&proxy, "gateway_connections_accepted_total") >= 10_000.0);
    synced(&proxy);
}

fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(0) => true,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        Ok(_) => false,
    }
}

#[test]
fn a_head_that_does_not_end_is_cut_off() {
    let (_simulator, proxy) = start("loris");
    let mut slow = TcpStream::connect(proxy.address).expect("a connection");
    slow.write_all(b"GET /shard-count HTTP/1.1\r\n").expect("taken");
    slow.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let start = Instant::now();
    // A single byte from time to time does not extend the time limit.
    while !is_closed(&mut slow) {
        assert!(start.elapsed() < Duration::from_secs(60), "it is still there");
        let _ = slow.write_all(b"X");
    }
    assert!(start.elapsed() > Duration::from_secs(5), "it had its time");
}

#[test]
fn violations_of_the_websocket_protocol_have_their_codes() {
    let (_simulator, proxy) = start("violations");
    let heartbeat: &[u8] = br#"{"op":1,"d":null}"#;
    let mut unmasked = Vec::new();
    write_frame(&mut unmasked, Opcode::Text, heartbeat, None);
    let mut endless = masked(0x81, b"");
    endless.truncate(1);
    endless.extend_from_slice(&[0xff; 9]);
    endless.extend_from_slice(&[0; 4]);
    for (what, bytes, code) in [
        ("an unmasked frame", unmasked, 1002),
        ("a reserved bit", masked(0xc1, heartbeat), 1002),
        ("a reserved opcode", masked(0x83, heartbeat), 1002),
        ("a reserved control opcode", masked(0x8b, b""), 1002),
        ("a continuation of nothing", masked(0x80, heartbeat), 1002),
        ("a text within a text", [masked(0x01, b"{"), masked(0x81, b"}")].concat(), 1002),
        ("a ping in fragments", masked(0x09, b"x"), 1002),
        ("a ping of 126 bytes", masked(0x89, &[b'x'; 126]), 1002),
        ("a close of one byte", masked(0x88, b"\x03"), 1002),
        ("a close with a code that is none", masked(0x88, &[0x03, 0xed]), 1002),
        ("a close whose reason is not UTF-8", masked(0x88, &[0x03, 0xe8, 0xff]), 1007),
        ("text that is not UTF-8", masked(0x81, b"{\"op\":1,\"d\":\"\xc3\x28\"}"), 1007),
        ("text that is cut within a character", masked(0x81, b"{\"op\":1,\"d\":\"\xc3"), 1007),
        ("a surrogate", masked(0x81, b"\xed\xa0\x80"), 1007),
        ("a payload that is too long", masked(0x81, &[b' '; 5_000]), 4002),
        (
            "fragments that are too long together",
            [masked(0x01, &[b' '; 3_000]), masked(0x80, &[b' '; 3_000])].concat(),
            4002,
        ),
        ("a length of 2^64 - 1", endless, 4002),
    ] {
        for identified in [false, true] {
            let mut gateway =
                if identified { synced(&proxy) } else { Gateway::connect(proxy.address, Transport::None) };
            gateway.send_raw(&bytes).expect("taken");
            match end_of(&mut gateway) {
                Gone::Closed(Some(found), _)
                    if found == code || (code == 4002 && found == 1002 && what.contains("2^64")) => {}
                gone => panic!("{what}: {gone:?} instead of {code}"),
            }
        }
    }
}

#[test]
fn what_the_websocket_protocol_allows_is_understood() {
    let (_simulator, proxy) = start("allowed");
    let text = "{\"op\":1,\"d\":null,\"x\":\"\u{1F600}\"}";
    let bytes = text.as_bytes();
    let acks = |gateway: &mut Gateway, count: usize| {
        for _ in 0..count {
            assert_eq!(gateway.receive().expect("an ACK").op, 11);
        }
    };
    // Fragments of every size, some of which split a character, with pings between them.
    for size in 1..bytes.len() {
        let mut gateway = Gateway::connect(proxy.address, Transport::None);
        let parts: Vec<&[u8]> = bytes.chunks(size).collect();
        let mut frames = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            let (opcode, last) = (u8::from(index == 0), index + 1 == parts.len());
            frames.extend(masked(if last { 0x80 | opcode } else { opcode }, part));
            if !last {
                frames.extend(masked(0x89, b"between"));
            }
        }
        frames.extend(masked(0x81, bytes));
        gateway.send_raw(&frames).expect("taken");
        acks(&mut gateway, 2);
    }
    // One byte in each write.
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    for byte in masked(0x81, bytes) {
        gateway.send_raw(&[byte]).expect("taken");
        thread::sleep(Duration::from_micros(200));
    }
    acks(&mut gateway, 1);
    // Empty fragments, a pong without a ping, and a close frame without a code.
    gateway
        .send_raw(&[masked(0x01, b""), masked(0x00, bytes), masked(0x80, b""), masked(0x8a, b"x")].concat())
        .expect("taken");
    acks(&mut gateway, 1);
    gateway.send_raw(&masked(0x88, b"")).expect("taken");
    assert!(matches!(end_of(&mut gateway), Gone::Closed(None, _)));
}

#[test]
fn compression_of_messages_is_declined_and_not_understood() {
    let (_simulator, proxy) = start("deflate");
    let mut stream = TcpStream::connect(proxy.address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let head = "GET /?v=10&encoding=json HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n";
    stream.write_all(head.as_bytes()).expect("taken");
    let mut answer = [0; 4096];
    let n = stream.read(&mut answer).expect("an answer");
    let text = String::from_utf8_lossy(&answer[..n]).to_lowercase();
    assert!(text.starts_with("http/1.1 101"), "{text}");
    assert!(!text.contains("sec-websocket-extensions"), "{text}");
}

fn rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}

#[test]
fn a_thousand_clients_that_read_nothing_cost_little_and_nobody_notices() {
    const STUCK: usize = 1_000;
    let (simulator, proxy) = start("stuck");
    let mut good = synced(&proxy);
    let before = rss_mib(proxy.id());
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        let mut gateway = Gateway::open_at(proxy.address, "/?v=10", Options::default(), &[]).expect("an upgrade");
        gateway.identify(SHARD, INTENTS);
        stuck.push(gateway);
    }
    // About 30 MB of events for each client.
    for round in 0..60 {
        let (first, last) = simulator.emit(0, 100);
        for number in first..=last {
            let event = good.receive().expect("an event");
            assert_eq!(event.number(), Some(number), "round {round}");
        }
        let padding = json!({"guild_id": "1", "text": "x".repeat(400_000)}).to_string();
        simulator.dispatch(0, "SOMETHING_LARGE", &padding);
        assert_eq!(good.receive().expect("an event").t.as_deref(), Some("SOMETHING_LARGE"));
    }
    let growth = rss_mib(proxy.id()) - before;
    // The shard's log of 16 MiB, and for each stuck client a full outbox plus at most one message.
    assert!(growth < 700.0, "{growth:.0} MiB more");
    drop(stuck);
    wait_until("the memory", || {
        let growth = rss_mib(proxy.id()) - before;
        if growth < 120.0 { Ok(()) } else { Err(format!("{growth:.0} MiB more")) }
    });
    assert_eq!(simulator.stats()["violations"], json!([]));
}
