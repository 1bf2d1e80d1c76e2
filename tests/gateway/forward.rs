//! Requests for the rest of Discord's API, which the proxy forwards to `rest_proxy`: bodies of any kind in both
//! directions, which requests are allowed, and the answers when `rest_proxy` fails.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Mutex, mpsc},
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

/// Takes the chunks of a body apart. The flag says whether the last chunk is there.
fn chunks(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        let size = size.unwrap_or_else(|| panic!("{:?} is no size of a chunk", &bytes[..end]));
        bytes = &bytes[end + 2..];
        if size == 0 {
            assert_eq!(bytes, b"\r\n", "what follows the last chunk");
            return (body, true);
        }
        let (chunk, rest) = bytes.split_at(size.min(bytes.len()));
        body.extend_from_slice(chunk);
        bytes = rest.strip_prefix(b"\r\n").unwrap_or(b"");
    }
    (body, false)
}

/// Parts a response into its head, with the empty line, and its body.
fn parted(answer: &[u8]) -> (String, &[u8]) {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    (text(answer[..end].to_vec()), &answer[end..])
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
    let (head, rest) = parted(&answer);
    assert_eq!(head, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    let there = format!(
        "POST /api/v10/channels/1/messages HTTP/1.1\r\nX-Audit-Log-Reason: why\r\nContent-Length: {SIZE}\r\n\
         Authorization: Bot {TOKEN}\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    );
    let (rest, whole) = chunks(rest);
    assert!(whole);
    assert_eq!(text(rest[..there.len()].to_vec()), there);
    assert!(rest[there.len()..] == body, "another body of {} bytes", rest.len() - there.len());
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
    for (head, body, expected) in [
        ("", "", ""),
        ("Content-Length: 4\r\n", "body", "body"),
        // The chunks are written anew.
        ("Transfer-Encoding: chunked\r\n", "4;x\r\nbody\r\n0\r\nX: y\r\n\r\n", "4\r\nbody\r\n0\r\n\r\n"),
    ] {
        let length = expected.len();
        let answer = text(exchange(
            proxy.address,
            format!("POST {path}?length={length} HTTP/1.1\r\n{head}\r\n{body}{other}").as_bytes(),
        ));
        let (_, passed) = answer.split_once("\r\n\r\n").expect("a head");
        assert_eq!(passed, expected, "{head}");
    }
    for head in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 18446744073709551615\r\n",
    ] {
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

/// Responses of all kinds, on connections to `rest_proxy` that it leaves open: only the framing says where they end.
#[test]
fn responses_end_where_their_framing_says() {
    let held = Mutex::new(Vec::new());
    // The stand-in sends the response whose number is in the path.
    const RESPONSES: [&str; 11] = [
        "HTTP/1.1 200 OK\r\nx-RateLimit-Bucket: a\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\no\r\n1\r\nk\r\n0\r\nX-Trailer: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nX: y\r\nSet-Cookie: b\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 429 Slow Down\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\n\r\nok",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ];
    const ENDS_WITH_ITS_CONNECTION: usize = 9;
    let address = api(move |head, mut stream| {
        let number: usize = head.split([' ', '/']).nth(3).and_then(|number| number.parse().ok()).expect("a number");
        stream.write_all(RESPONSES[number].as_bytes()).expect("taken");
        if number == ENDS_WITH_ITS_CONNECTION {
            stream.shutdown(Shutdown::Write).expect("an end");
        }
        held.lock().expect("a lock").push(stream);
    });
    let (_simulator, proxy) = start("forward_framing", address);
    for (method, version, number, expected, chunked, body) in [
        ("GET", 1, 0, "200 OK\r\nx-RateLimit-Bucket: a\r\nContent-Length: 2\r\n", false, "ok"),
        ("GET", 1, 1, "200 OK\r\nTransfer-Encoding: chunked\r\n", true, "ok"),
        ("GET", 1, 2, "200 OK\r\nTransfer-Encoding: chunked\r\n", true, "ok"),
        ("GET", 1, 3, "200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nX: y\r\nContent-Length: 2\r\n", false, "ok"),
        ("DELETE", 1, 4, "204 No Content\r\n", false, ""),
        ("GET", 1, 5, "304 Not Modified\r\nETag: \"a\"\r\n", false, ""),
        ("HEAD", 1, 6, "200 OK\r\nContent-Length: 5\r\n", false, ""),
        ("GET", 1, 7, "200 OK\r\nContent-Length: 2\r\n", false, "ok"),
        ("PUT", 1, 8, "429 Slow Down\r\nRetry-After: 3\r\nContent-Length: 2\r\n", false, "ok"),
        ("GET", 1, 9, "200 OK\r\nTransfer-Encoding: chunked\r\n", true, "ok"),
        // A client of HTTP/1.0 knows no chunks: the end of the connection ends the body.
        ("GET", 0, 1, "200 OK\r\n", false, "ok"),
        ("GET", 0, 9, "200 OK\r\n", false, "ok"),
    ] {
        let request = format!("{method} /api/{number} HTTP/1.{version}\r\nAuthorization: Bot {TOKEN}\r\n\r\n");
        let answer = exchange(proxy.address, request.as_bytes());
        let (head, rest) = parted(&answer);
        let case = format!("{method} HTTP/1.{version}, response {number}: {}", text(answer.clone()));
        let close = if version == 1 { "Connection: close\r\n" } else { "" };
        // The order of different headers has no meaning.
        let lines = |head: &str| {
            let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(lines(&head), lines(&format!("HTTP/1.{version} {expected}{close}\r\n")), "{case}");
        let rest = if chunked { chunks(rest) } else { (rest.to_vec(), true) };
        assert_eq!((text(rest.0), rest.1), (body.to_owned(), true), "{case}");
    }
    let request = format!("GET /api/10 HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\n\r\n");
    let answer = text(exchange(proxy.address, request.as_bytes()));
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("changed the protocol"), "{answer}");
}

/// The client gets every byte that came, and can tell that more should have come.
#[test]
fn a_response_that_breaks_off_is_seen_as_such() {
    const SENT: usize = 2 << 20;
    let address = api(|head, mut stream| {
        let body = vec![b'x'; SENT];
        let (head, before, after): (&[u8], &[u8], &[u8]) = match head.split([' ', '/']).nth(3) {
            Some("length") => (b"Content-Length: 3000000", b"", b""),
            Some("chunks") => (b"Transfer-Encoding: chunked", b"200000\r\n", b"\r\n"),
            _ => (b"Transfer-Encoding: chunked", b"200000\r\n", b"\r\nno size\r\n"),
        };
        stream.write_all(&[b"HTTP/1.1 200 OK\r\n", head, b"\r\n\r\n", before, &body, after].concat()).expect("taken");
    });
    let (_simulator, proxy) = start("forward_broken", address);
    for what in ["length", "chunks", "malformed"] {
        let mut stream = TcpStream::connect(proxy.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!("GET /api/{what} HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("taken");
        // In small pieces, so that the end of the response comes while the proxy still has a part of it.
        let (mut answer, mut piece) = (Vec::new(), [0; 700]);
        loop {
            match stream.read(&mut piece).expect("an answer") {
                0 => break,
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
        let (head, rest) = parted(&answer);
        assert!(head.starts_with("HTTP/1.1 200 "), "{what}: {head}");
        let (body, whole) = if what == "length" { (rest.to_vec(), false) } else { chunks(rest) };
        assert_eq!((body.len(), whole), (SENT, false), "{what}");
    }
    let metrics = get(proxy.address, "/metrics").expect("metrics").body;
    assert!(metrics.contains("\ngateway_api_requests_active 0\n"), "{metrics}");
}

/// A client that asks whether it may send its body is told what `rest_proxy` says.
#[test]
fn the_api_decides_whether_a_body_is_wanted() {
    let address = api(|head, mut stream| {
        assert!(head.contains("Expect: 100-continue\r\n"), "{head}");
        match head.split([' ', '/']).nth(3) {
            Some("agree") => stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").expect("taken"),
            // Without an answer, the client is asked for its body after a while.
            Some("silent") => {}
            _ => {
                return stream
                    .write_all(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 0\r\n\r\n")
                    .expect("taken");
            }
        }
        let mut body = [0; 4];
        stream.read_exact(&mut body).expect("the body");
        stream.write_all(&[&b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"[..], &body].concat()).expect("taken");
    });
    let (_simulator, proxy) = start("forward_expect", address);
    let ask = |what: &str| {
        let mut stream = TcpStream::connect(proxy.address).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = format!(
            "PUT /api/{what} HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("taken");
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        (text(head), stream)
    };
    for what in ["agree", "silent"] {
        let (head, mut stream) = ask(what);
        assert_eq!(head, "HTTP/1.1 100 Continue\r\n\r\n", "{what}");
        stream.write_all(b"body").expect("taken");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let answer = text(answer);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nbody"), "{what}: {answer}");
    }
    // On a busy machine the stand-in may answer so late that the client has already been asked.
    support::wait_until("a client that is not asked for the body", || {
        let (head, _) = ask("refuse");
        if head.starts_with("HTTP/1.1 413 ") { Ok(()) } else { Err(head) }
    });
}

/// A body that the client ends too early, or whose chunks are malformed, does not look whole to `rest_proxy`.
#[test]
fn a_body_that_is_not_whole_is_not_passed_on_as_one() {
    let (arrived, bodies) = mpsc::channel();
    let address = api(move |_, mut stream| {
        let mut body = Vec::new();
        let _ = stream.read_to_end(&mut body);
        arrived.send(text(body)).expect("a test");
    });
    let (_simulator, proxy) = start("forward_half", address);
    let head = format!(
        "POST /api/x HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    );
    let came = || bodies.recv_timeout(PATIENCE).expect("a request");
    let answer = text(exchange(proxy.address, format!("{head}no size\r\n").as_bytes()));
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"), "{answer}");
    assert!(answer.contains("the body of the request is malformed") && answer.contains("\"code\":0"), "{answer}");
    let body = came();
    assert!("5\r\nhello\r\n".starts_with(&body), "{body}");
    let mut stream = TcpStream::connect(proxy.address).expect("a connection");
    stream.write_all(head.as_bytes()).expect("taken");
    stream.shutdown(Shutdown::Write).expect("an end");
    let body = came();
    assert!("5\r\nhello\r\n".starts_with(&body), "{body}");
}
