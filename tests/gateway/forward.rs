//! Requests for the rest of Discord's API, which the proxy forwards to `rest_proxy`: bodies of any kind in both
//! directions, which requests are allowed, and the answers when `rest_proxy` fails.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::json;
use support::{PATIENCE, Proxy, Simulator, TOKEN, get, scratch};

const WORLD: &str =
    "--shards 1 --max-concurrency 1 --identify-interval-ms 100 --guilds 2 --members 5 --seed 3 --rate 0";

/// Sends bytes, and returns everything that the server sends until it closes the connection.
fn exchange(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut writer = stream.try_clone().expect("a copy");
    let request = request.to_vec();
    let writing = thread::spawn(move || writer.write_all(&request));
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    writing.join().expect("a thread").expect("the request is taken");
    answer
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

/// A stand-in for `rest_proxy`. Calls `answer` with each request head and the stream after it.
fn api(answer: impl Fn(String, TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut byte) {
                    Ok(1) => head.push(byte[0]),
                    _ => break,
                }
            }
            answer(text(head), stream);
        }
    });
    address
}

fn start(name: &str, rest_proxy: SocketAddr) -> (Simulator, Proxy) {
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let changes = json!({"shards": 1, "rest_proxy": rest_proxy.to_string(), "rest_proxy_without_token": true});
    let proxy = Proxy::start(&directory, &simulator, &changes);
    (simulator, proxy)
}

#[test]
fn bodies_of_any_kind_pass_both_ways() {
    const SIZE: usize = 3 << 20;
    // The stand-in sends back what it has received, in chunks, and offers to keep the connection.
    let address = api(|head, mut stream| {
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("a length");
        let mut body = vec![0; length.parse().expect("a number")];
        stream.read_exact(&mut body).expect("the body");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n")
            .expect("taken");
        for (name, part) in [("head", head.as_bytes()), ("body", body.as_slice())] {
            let size = format!("{:x};{name}\r\n", part.len());
            stream.write_all(&[size.as_bytes(), part, b"\r\n"].concat()).expect("taken");
        }
        stream.write_all(b"0\r\n\r\n").expect("taken");
        stream.shutdown(Shutdown::Write).expect("an end");
    });
    let (_simulator, proxy) = start("forward", address);
    let body: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8).collect();
    let head = format!(
        "POST /api/v10/channels/1/messages HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\nAuthorization: Bot {TOKEN}\r\n\
         X-Audit-Log-Reason: why\r\nContent-Length: {SIZE}\r\n\r\n"
    );
    let answer = exchange(proxy.address, &[head.as_bytes(), &body].concat());
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let (head, rest) = answer.split_at(end);
    assert_eq!(head, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    let there = format!(
        "POST /api/v10/channels/1/messages HTTP/1.1\r\nX-Audit-Log-Reason: why\r\nContent-Length: {SIZE}\r\n\
         Authorization: Bot {TOKEN}\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    let first = format!("{:x};head\r\n{there}\r\n{SIZE:x};body\r\n", there.len());
    assert_eq!(&rest[..first.len()], first.as_bytes());
    assert_eq!(&rest[first.len()..], [body.as_slice(), b"\r\n0\r\n\r\n"].concat());
    let metrics = get(proxy.address, "/metrics").expect("metrics").body;
    for line in ["gateway_api_requests_active 0", "gateway_api_requests_total 1", "gateway_api_failures_total 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in\n{metrics}");
    }
}

#[test]
fn who_does_not_bring_the_token_is_not_passed_on() {
    let address = api(|_, mut stream| stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("taken"));
    let (_simulator, proxy) = start("forward_token", address);
    let status = |request: String| text(exchange(proxy.address, request.as_bytes()))[9..12].to_owned();
    let good = "a".repeat(40);
    for (request, expected) in [
        ("GET /api/v10/users/@me HTTP/1.1\r\n\r\n".to_owned(), "401"),
        ("GET /api/v10/users/@me HTTP/1.1\r\nAuthorization: Bot wrong\r\n\r\n".to_owned(), "401"),
        (format!("GET /api/v10/users/@me HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\n\r\n"), "204"),
        (format!("GET /api/v10/users/@me HTTP/1.1\r\nauthorization: {TOKEN}\r\n\r\n"), "204"),
        (format!("POST /api/v10/interactions/1/{good}/callback HTTP/1.1\r\nContent-Length: 0\r\n\r\n"), "204"),
        (format!("PATCH /api/webhooks/1/{good}/messages/@original HTTP/1.1\r\n\r\n"), "204"),
        (format!("GET /api/webhooks/1/{good}/../../../users/@me HTTP/1.1\r\n\r\n"), "401"),
        (format!("GET /api/v10/gateway HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\n\r\n"), "200"),
        ("POST /api/v10/gateway HTTP/1.1\r\n\r\n".to_owned(), "405"),
    ] {
        assert_eq!(status(request.clone()), expected, "{request}");
    }
}

#[test]
fn nothing_passes_behind_a_request() {
    // The stand-in waits for the body, whose length is in the path. Then it reads on for a moment, and sends back
    // everything that has come.
    let address = api(|head, mut stream| {
        let length = head.split_once("?length=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        let mut rest = vec![0; length.expect("a length in the path")];
        stream.read_exact(&mut rest).expect("the body");
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let _ = stream.read_to_end(&mut rest);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", rest.len());
        stream.write_all(&[head.as_bytes(), &rest].concat()).expect("taken");
    });
    let (_simulator, proxy) = start("forward_smuggling", address);
    let path = format!("/api/v10/webhooks/1/{}", "a".repeat(40));
    let other = "GET /api/v10/users/@me HTTP/1.1\r\nHost: x\r\n\r\n";
    for (head, body) in [
        ("", ""),
        ("Content-Length: 4\r\n", "body"),
        ("Transfer-Encoding: chunked\r\n", "4;x\r\nbody\r\n0\r\nX: y\r\n\r\n"),
    ] {
        let length = body.len();
        let answer = text(exchange(
            proxy.address,
            format!("POST {path}?length={length} HTTP/1.1\r\n{head}\r\n{body}{other}").as_bytes(),
        ));
        let (_, passed) = answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(passed, body, "{head}");
    }
    for head in ["Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Content-Length: 4\r\nContent-Length: 5\r\n"] {
        let answer = text(exchange(proxy.address, format!("POST {path} HTTP/1.1\r\n{head}\r\n0\r\n\r\n").as_bytes()));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{head}: {answer}");
    }
}

#[test]
fn failures_are_answered_and_named() {
    // The path selects the failure.
    let address = api(|head, mut stream| {
        let answer: &[u8] = match head.split([' ', '/']).nth(3) {
            Some("garbage") => b"\x15\x03\x01\x02\x02",
            Some("half") => b"HTTP/1.1 200 OK\r\nContent-Le",
            Some("endless") => &[b'A'; 100_000],
            Some("truncated") => b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            _ => b"",
        };
        // Writing may fail, because the proxy may already have answered its client and closed the connection.
        let _ = stream.write_all(answer);
    });
    let (_simulator, proxy) = start("forward_failures", address);
    let ask = |address, what: &str| {
        let request = format!("GET /api/{what} HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\n\r\n");
        text(exchange(address, request.as_bytes()))
    };
    for what in ["garbage", "half", "endless", "nothing"] {
        let answer = ask(proxy.address, what);
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{what}: {answer}");
        assert!(answer.contains("`rest_proxy`"), "{what}: {answer}");
    }
    // An answer that has begun cannot be replaced. The client sees by the length that it is cut short.
    assert!(ask(proxy.address, "truncated").ends_with("\r\n\r\nhalf"));
    // A client disconnects in the middle of its request: the proxy ends the request.
    let mut stream = TcpStream::connect(proxy.address).expect("a connection");
    let head = format!("POST /api/upload HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\nContent-Length: 9\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("taken");
    drop(stream);
    support::wait_until("all requests to have ended", || {
        let metrics = get(proxy.address, "/metrics")?.body;
        if metrics.contains("\ngateway_api_requests_active 0\n") { Ok(()) } else { Err(metrics) }
    });

    let nowhere = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let (_simulator, proxy) = start("forward_nowhere", nowhere);
    assert!(ask(proxy.address, "users/@me").starts_with("HTTP/1.1 502 "));

    let directory = scratch("forward_off");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let answer = ask(proxy.address, "users/@me");
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("set `rest_proxy`"), "{answer}");
}
