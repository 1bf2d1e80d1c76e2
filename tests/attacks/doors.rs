//! Which routes each listener serves, and which client address a request counts for: `admin_listen`, the PROXY
//! protocol, `X-Forwarded-For`, HTTP/1.0.

use super::*;
use std::{net::TcpListener, os::unix::net::UnixStream, thread};
use support::{Gone, free_port, wait_until};
use terminator::terminator;

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or(answer)
}

/// With `admin_listen`, metrics and health are served only there. Bots cannot read them on the port for clients.
#[test]
fn what_is_for_operators_is_not_on_the_port_of_the_bots() {
    let directory = scratch("admin");
    let simulator = Simulator::start(&directory, WORLD);
    let port = free_port();
    let admin = SocketAddr::from(([127, 0, 0, 1], port));
    let changes = json!({"shards": 1, "log_level": "info", "admin_listen": admin.to_string()});
    let proxy = Proxy::spawn(&directory, &simulator, &changes);
    wait_until("health", || match get(admin, "/health") {
        Ok(health) if health.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for path in ["/metrics", "/health", "/anything"] {
        let there = get(proxy.address, path).expect("an answer");
        assert_eq!(there.status, 404, "{path}: {}", there.body);
    }
    assert!(get(admin, "/metrics").expect("metrics").body.contains("gateway_shard_status"));
    for address in [proxy.address, admin] {
        assert_eq!(get(address, "/shard-count").expect("an answer").body, "1");
    }
    assert_eq!(get(proxy.address, "/api/v10/gateway").expect("an answer").status, 200);
    for path in ["/api/v10/gateway", "/api/v10/gateway/bot", "/api/v10/users/@me"] {
        assert_eq!(get(admin, path).expect("an answer").status, 404, "{path}");
    }
    assert!(Gateway::open(admin, Transport::None).is_err(), "no gateway there");
    bot_is_served(&simulator, &proxy, 1);
    proxy.stop();
}

/// `admin_listen` can be a Unix socket that only its owner and its group can open.
#[test]
fn operators_may_have_a_socket_in_the_file_system() {
    let directory = scratch("admin_socket");
    let simulator = Simulator::start(&directory, WORLD);
    // A socket address has room for a short path only.
    let path = std::env::temp_dir().join(format!("gateway-proxy-{}", std::process::id()));
    let changes = json!({"shards": 1, "log_level": "info", "admin_listen": format!("unix:{}", path.display())});
    let proxy = Proxy::spawn(&directory, &simulator, &changes);
    let ask = |route: &str| {
        let mut stream = UnixStream::connect(&path).map_err(|error| error.to_string())?;
        stream.write_all(format!("GET {route} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        Ok::<_, String>(answer)
    };
    wait_until("health", || {
        let answer = ask("/health")?;
        if status(&answer) == "200" { Ok(()) } else { Err(answer) }
    });
    assert!(ask("/metrics").expect("metrics").contains("gateway_shard_status"));
    assert_eq!(status(&ask("/api/v10/gateway").expect("an answer")), "404");
    proxy.stop();
    assert!(!path.exists(), "it is taken away");
}

/// Behind a terminator all connections come from one address. With the PROXY protocol, limits and log lines use the
/// address of the client.
#[test]
fn connections_of_a_terminator_count_for_whom_they_are() {
    let changes = json!({"proxy_protocol_from": ["127.0.0.1"], "admin_listen": null});
    let directory = scratch("proxy_protocol");
    let simulator = Simulator::start(&directory, WORLD);
    let mut all =
        json!({"shards": 1, "log_level": "info", "rest_proxy": "127.0.0.1:1", "rest_proxy_without_token": true});
    for (key, value) in changes.as_object().expect("an object") {
        all[key] = value.clone();
    }
    let proxy = Proxy::spawn(&directory, &simulator, &all);
    let ask_as = |header: &[u8], request: &str| {
        let mut stream = TcpStream::connect(proxy.address).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut answer = Vec::new();
        let sent = stream.write_all(&[header, request.as_bytes()].concat());
        sent.and_then(|()| stream.read_to_end(&mut answer)).map_err(|error| error.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&answer).into_owned())
    };
    let line = |host: u8| format!("PROXY TCP4 192.0.2.{host} 127.0.0.1 5000 7878\r\n").into_bytes();
    let count = "GET /shard-count HTTP/1.1\r\nHost: localhost\r\n\r\n";
    wait_until("an answer", || {
        let answer = ask_as(&line(1), count)?;
        if status(&answer) == "200" { Ok(()) } else { Err(answer) }
    });
    let version_2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[192, 0, 2, 1, 127, 0, 0, 1, 9, 9, 9, 9]].concat();
    assert_eq!(status(&ask_as(&version_2, count).expect("an answer")), "200");
    // The proxy closes a connection from a terminator with a missing or malformed header.
    assert_eq!(ask_as(b"", count).unwrap_or_default(), "");
    assert_eq!(ask_as(b"PROXY TCP4 nonsense\r\n", count).unwrap_or_default(), "");
    logged("proxy_protocol", "which `proxy_protocol_from` lists, was refused: it sent no header of the PROXY protocol");
    // The limit of one client does not apply to another client of the same terminator.
    let webhook = format!("GET /api/webhooks/1/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(68));
    let limited = (0..300).any(|_| status(&ask_as(&line(1), &webhook).expect("an answer")) == "429");
    assert!(limited, "nothing was limited");
    assert_eq!(status(&ask_as(&line(2), &webhook).expect("an answer")), "502");
    // The log names a client by its own address.
    let wrong = "GET /api/gateway/bot HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bot guess\r\n\r\n";
    assert_eq!(status(&ask_as(&line(77), wrong).expect("an answer")), "401");
    logged("proxy_protocol", "192.0.2.77:5000 was refused: it showed a wrong token or none");
}

/// A client whose session is over comes back to the door on the connection that it has. In an earlier version it
/// counted there as the terminator, so that all clients of one terminator took each other's places.
#[test]
fn a_client_that_comes_back_counts_for_whom_it_is() {
    let name = "comes_back";
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let changes = json!({"shards": 1, "log_level": "info", "proxy_protocol_from": ["127.0.0.1"], "admin_listen": admin.to_string()});
    let proxy = Proxy::spawn(&directory, &simulator, &changes);
    wait_until("health", || match get(admin, "/health") {
        Ok(health) if health.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut gateway = Gateway::connect(terminator(proxy.address, 78), Transport::None);
    gateway.identify((0, 1), INTENTS);
    assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
    simulator.fault("invalid?shard=0&resumable=false");
    while gateway.receive().expect("a payload").op != 9 {}
    gateway.send(2, &json!({"token": "guess", "intents": 1, "shard": [0, 1], "properties": {}}));
    let gone = loop {
        if let Err(gone) = gateway.receive() {
            break gone;
        }
    };
    assert!(matches!(gone, Gone::Closed(Some(4004), _)), "{gone:?}");
    let log = logged(name, "was refused: it showed a wrong token or none");
    assert!(log.contains("192.0.2.78:5000 was refused: it showed a wrong token or none"), "{log}");
}

/// A terminator can name the client in `X-Forwarded-For`. The header counts only when it comes from a listed network.
#[test]
fn a_header_of_a_terminator_says_for_whom_a_request_is() {
    let wrong = "GET /api/gateway/bot HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.66\r\nAuthorization: Bot guess\r\n\r\n";
    for (name, network, told) in
        [("forwarded_for", "127.0.0.0/8", "192.0.2.66:0 was"), ("not_forwarded_for", "10.0.0.0/8", "127.0.0.1:")]
    {
        let (_simulator, proxy) = start_with(name, &json!({"forwarded_for_from": [network]}));
        assert_eq!(status(&ask(proxy.address, wrong)), "401");
        let log = logged(name, "was refused: it showed a wrong token or none");
        let line = log.lines().find(|line| line.contains("was refused: it showed a wrong token or none"));
        assert!(line.is_some_and(|line| line.contains(told)), "{network}: {log}");
    }
}

/// A client of HTTP/1.0 cannot read a chunked response. An earlier version forwarded its request as HTTP/1.1, which
/// allows such a response.
#[test]
fn old_requests_are_passed_on_as_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let api = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let _ = stream.write_all(&[b"HTTP/1.1 200 OK\r\n\r\n", &head[..]].concat());
        }
    });
    let (_simulator, proxy) = start_with("old_requests", &json!({"rest_proxy": api.to_string()}));
    let token = support::TOKEN;
    for version in ["1.0", "1.1"] {
        let request =
            format!("GET /api/users/@me HTTP/{version}\r\nHost: localhost\r\nAuthorization: Bot {token}\r\n\r\n");
        let answer = ask(proxy.address, &request);
        assert!(answer.contains(&format!("GET /api/users/@me HTTP/{version}\r\n")), "{answer}");
    }
    let chunked =
        format!("POST /api/x HTTP/1.0\r\nAuthorization: Bot {token}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(status(&ask(proxy.address, &chunked)), "400");
    let upgrade = "GET / HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(status(&ask(proxy.address, upgrade)), "426");
    let count = ask(proxy.address, "GET /shard-count HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(count.contains("\r\nX-Content-Type-Options: nosniff\r\n"), "{count}");
}
