//! Attacks with many connections, with hostile requests, and on configurations that let everyone in.

use super::*;
use std::{net::TcpListener, os::unix::fs::PermissionsExt, process::Command, thread};
use support::{Gone, Options, TOKEN, wait_until};

/// In an earlier version each request made the data cores report and the control core write the text again. The text
/// stayed in memory while the client did not read it.
#[test]
fn requests_for_metrics_that_nobody_reads_cost_what_one_costs() {
    const SHARDS: u32 = 200;
    const REQUESTS: usize = 800;
    let directory = scratch("unread_metrics");
    let world = format!(
        "--shards {SHARDS} --max-concurrency {SHARDS} --identify-interval-ms 10 --guilds {SHARDS} --members 2 --seed 3 --rate 0"
    );
    let simulator = Simulator::start(&directory, &world);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": SHARDS, "log_level": "warn"}));
    let _bot = identified(&proxy, SHARDS);
    // The cost of one request when no report is cached.
    thread::sleep(Duration::from_millis(1_500));
    let before = cpu(proxy.id());
    let size = get(proxy.address, "/metrics").expect("metrics").body.len() as u64;
    let one = cpu(proxy.id()) - before;
    let (before, memory) = (cpu(proxy.id()), rss(proxy.id()));
    let mut unread = Vec::new();
    for index in 0..REQUESTS {
        let path = if index % 2 == 0 { "/metrics" } else { "/health" };
        unread.push(send(proxy.address, &format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")));
    }
    assert_eq!(get(proxy.address, "/shard-count").expect("an answer").body, SHARDS.to_string());
    bot_is_served(&simulator, &proxy, SHARDS);
    assert_eq!(get(proxy.address, "/health").expect("an answer").status, 200);
    let (spent, grown) = (cpu(proxy.id()) - before, rss(proxy.id()).saturating_sub(memory));
    eprintln!("one: {one:?} for {size} bytes; {REQUESTS}: {spent:?}, {} KiB more", grown >> 10);
    assert!(spent < one * (REQUESTS as u32 / 4), "{REQUESTS} requests took {spent:?}, one takes {one:?}");
    assert!(grown < size * 40, "{} KiB more, for answers of {} KiB", grown >> 10, size >> 10);
    drop(unread);
}

/// The proxy closes the oldest silent connection to make room, so 4,096 silent connections do not keep a bot out.
#[test]
fn silent_connections_do_not_keep_bots_out() {
    assert_eq!(gateway_proxy::preflight::limits(1).unwrap(), None, "each connection is a file of this process");
    let (simulator, proxy) = start_with("silent", &json!({}));
    // After its upgrade a client has one minute to identify.
    let request = "GET /?v=10 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut silent = Vec::new();
    while metric(&proxy, "gateway_connections_revoked_total") < 1.0 {
        assert!(silent.len() < 15_000, "nobody had to give way");
        silent.extend((0..250).map(|_| send(proxy.address, request)));
    }
    for _ in 0..20 {
        assert_eq!(get(proxy.address, "/health").expect("an answer").status, 200);
        bot_is_served(&simulator, &proxy, 1);
    }
    assert!(metric(&proxy, "gateway_connections_unauthenticated") <= 4096.0);
    drop(silent);
}

/// A stand-in for `rest_proxy`. It answers requests for `/users/@me` and `/echo`, and holds all others until their
/// client disconnects.
fn patient_api() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    let (mut head, mut byte) = (Vec::new(), [0]);
                    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                        head.push(byte[0]);
                    }
                    if head.windows(9).any(|part| part == b"users/@me") || head.windows(5).any(|part| part == b"/echo")
                    {
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", head.len());
                        let _ = stream.write_all(&[answer.as_bytes(), &head].concat());
                    } else {
                        let _ = stream.read_to_end(&mut Vec::new());
                    }
                })
                .expect("a thread");
        }
    });
    address
}

/// In an earlier version a request held its place for two minutes after its client had disconnected.
#[test]
fn requests_of_clients_that_are_gone_end_at_once() {
    let api = patient_api();
    let changes = json!({"rest_proxy": api.to_string(), "rest_proxy_without_token": true});
    let (_simulator, proxy) = start_with("gone", &changes);
    let webhook = format!("/api/webhooks/1/{}", "a".repeat(68));
    let good = format!("GET /api/users/@me HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\n\r\n");
    for (path, token) in
        [("/api/channels/1/messages", format!("Authorization: Bot {TOKEN}\r\n")), (&webhook, String::new())]
    {
        for _ in 0..1_100 {
            drop(send(proxy.address, &format!("POST {path} HTTP/1.1\r\n{token}Content-Length: 100\r\n\r\n")));
        }
        // Requests without a body, too: the proxy does not wait for a body of theirs.
        for _ in 0..100 {
            drop(send(proxy.address, &format!("POST {path} HTTP/1.1\r\n{token}\r\n")));
        }
        wait_until("all of them to have ended", || {
            let active = metric(&proxy, "gateway_api_requests_active") + metric(&proxy, "gateway_api_tokenless_active");
            if active == 0.0 { Ok(()) } else { Err(format!("{active} requests are on their way")) }
        });
        assert!(ask(proxy.address, &good).starts_with("HTTP/1.1 200 "), "after POSTs to {path}");
    }
}

/// Requests without the token share a small number of places, and cannot take the places of requests with the token.
#[test]
fn requests_without_the_token_have_places_of_their_own() {
    let api = patient_api();
    let changes = json!({"rest_proxy": api.to_string(), "rest_proxy_without_token": true});
    let (_simulator, proxy) = start_with("tokenless", &changes);
    let token = "a".repeat(68);
    let hanging = format!("POST /api/webhooks/1/{token} HTTP/1.1\r\nContent-Length: 10\r\n\r\nhalf");
    let mut held = Vec::new();
    let mut refused = 0;
    while metric(&proxy, "gateway_api_tokenless_revoked_total") == 0.0 {
        assert!(held.len() < 2_000, "nobody had to give way");
        held.extend((0..40).map(|_| send(proxy.address, &hanging)));
        thread::sleep(Duration::from_millis(200));
        refused = held.len() - metric(&proxy, "gateway_api_tokenless_active") as usize;
    }
    eprintln!("of {} requests {refused} were refused or gave way", held.len());
    assert!(metric(&proxy, "gateway_api_tokenless_active") <= 64.0);
    assert_eq!(metric(&proxy, "gateway_api_requests_active"), 0.0);
    let good = format!("GET /api/users/@me HTTP/1.1\r\nAuthorization: Bot {TOKEN}\r\n\r\n");
    assert!(ask(proxy.address, &good).starts_with("HTTP/1.1 200 "));
    // More requests per second than Discord allows a bot. On a busy machine they may take more than one second.
    wait_until("a request to be refused", || {
        let fast: Vec<TcpStream> = (0..300).map(|_| send(proxy.address, &hanging)).collect();
        let refused = |mut stream: TcpStream| {
            stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
            let mut answer = [0; 512];
            let n = stream.read(&mut answer).unwrap_or(0);
            answer[..n].starts_with(b"HTTP/1.1 429 ")
        };
        if fast.into_iter().any(refused) { Ok(()) } else { Err("none of 300 was".to_owned()) }
    });
}

/// In an earlier version any path of this form, with any method and any `Authorization`, was forwarded from the
/// operator's address.
#[test]
fn only_documented_routes_pass_without_the_token_and_only_if_wanted() {
    let api = patient_api();
    let own = "a".repeat(68);
    let request =
        |method: &str, path: &str, headers: &str| format!("{method} /api/v10{path} HTTP/1.1\r\n{headers}\r\n");
    let webhook = format!("/webhooks/123/{own}?echo=/echo");
    let (_simulator, closed) = start_with("relay_closed", &json!({"rest_proxy": api.to_string()}));
    let answer = ask(closed.address, &request("POST", &webhook, ""));
    assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("`rest_proxy_without_token`"), "{answer}");
    let bot = format!("Authorization: Bot {TOKEN}\r\n");
    assert!(ask(closed.address, &request("POST", &webhook, &bot)).starts_with("HTTP/1.1 200 "));

    let changes = json!({"rest_proxy": api.to_string(), "rest_proxy_without_token": true});
    let (_simulator, open) = start_with("relay_open", &changes);
    let answer = ask(open.address, &request("POST", &webhook, "Authorization: Bearer foreign\r\nX-Kept: yes\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("X-Kept: yes"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("authorization"), "{answer}");
    for (method, path) in [
        ("OPTIONS", format!("/webhooks/123/{own}?/echo")),
        ("PUT", format!("/webhooks/123/{own}?/echo")),
        ("GET", format!("/webhooks/123/{own}/echo")),
        ("POST", format!("/interactions/123/{own}/echo")),
        ("GET", format!("/interactions/123/{own}/callback?/echo")),
        ("POST", "/webhooks/123/aaaaaaaaaaaaaaaaaaaaaaaa?/echo".to_owned()),
    ] {
        let answer = ask(open.address, &request(method, &path, ""));
        assert!(answer.starts_with("HTTP/1.1 401 "), "{method} {path}: {answer}");
    }
}

/// In an earlier version any web page in a browser on this machine could use the bot when `validate_token` was off.
#[test]
fn web_pages_have_nothing_of_a_proxy_that_asks_for_no_token() {
    let api = patient_api();
    let changes = json!({"rest_proxy": api.to_string(), "validate_token": false});
    let (simulator, proxy) = start_with("pages", &changes);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, expected) in [
        (
            format!("GET /?v=10 HTTP/1.1\r\nHost: {}\r\nOrigin: https://evil.example\r\n{upgrade}\r\n", proxy.address),
            "403",
        ),
        ("POST /api/users/@me HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\r\n".to_owned(), "403"),
        ("GET /api/users/@me HTTP/1.1\r\nHost: rebound.example:7878\r\n\r\n".to_owned(), "421"),
        ("GET /metrics HTTP/1.1\r\nHost: rebound.example\r\n\r\n".to_owned(), "421"),
        ("GET /api/users/@me HTTP/1.1\r\nHost: localhost:7878\r\n\r\n".to_owned(), "200"),
    ] {
        let answer = ask(proxy.address, &request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{request}: {answer}");
    }
    bot_is_served(&simulator, &proxy, 1);
}

/// In an earlier version `--check-config` accepted this configuration.
#[test]
fn a_bot_that_is_open_to_all_is_no_right_configuration() {
    let directory = scratch("open_to_all");
    let check = |config: &str| {
        let path = directory.join("config.json");
        fs::write(&path, config).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
        let output = command.arg("--check-config").current_dir(&directory).env_remove("TOKEN").output();
        let output = output.expect("a program that runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, error) = check(r#"{"token":"t","intents":1,"validate_token":false}"#);
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("`trust_network`"), "{error}");
    let (code, error) = check(r#"{"token":"t","intents":1,"validate_token":false,"host":"127.0.0.1"}"#);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let (code, error) = check(r#"{"token":"t","intents":1}"#);
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains("the port is open on all addresses"), "{error}");
}

/// In an earlier version 600 client connections with a limit of 300 files left a shard no file for its connection to
/// Discord.
#[test]
fn connections_leave_files_for_the_shards() {
    let directory = scratch("files");
    let simulator = Simulator::start(&directory, WORLD);
    let changes = json!({"shards": 1, "log_level": "info"});
    let proxy = Proxy::start_with_files(&directory, &simulator, &changes, 300);
    let held: Vec<TcpStream> = (0..600).map(|_| TcpStream::connect(proxy.address).expect("a connection")).collect();
    wait_until("connections to be refused", || {
        if log("files").contains("files are reserved for shards") { Ok(()) } else { Err(log("files")) }
    });
    let before = simulator.resumes();
    for round in 1..=3 {
        simulator.drop_connection(0);
        wait_until("the shard to be back", || {
            let resumes = simulator.resumes();
            if resumes >= before + round { Ok(()) } else { Err(format!("{resumes} RESUMEs, {before} before")) }
        });
    }
    let lines = log("files").lines().filter(|line| line.contains("files are reserved for shards")).count();
    assert!(lines <= 3, "{lines} lines of the log about the same, and one a minute is enough");
    drop(held);
    wait_until("room", || get(proxy.address, "/health").map(drop));
    bot_is_served(&simulator, &proxy, 1);
}

/// An earlier version read the last bytes of a long head one by one, and parsed the head again for each of them.
#[test]
fn a_long_head_costs_as_much_as_its_length() {
    const HEADS: usize = 300;
    let (_simulator, proxy) = start_with("long_heads", &json!({}));
    let cost = |length: usize, expected: &str| {
        let mut request = format!("GET /shard-count HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(length));
        request.push_str("\r\n\r\n");
        let before = cpu(proxy.id());
        for _ in 0..HEADS {
            let answer = ask(proxy.address, &request);
            assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{answer}");
        }
        cpu(proxy.id()) - before
    };
    let (short, long, longest) = (cost(3_000, "200"), cost(7_000, "200"), cost(9_000, "431"));
    eprintln!("{HEADS} heads of 3,000 bytes {short:?}, of 7,000 {long:?}, of 9,000 {longest:?}");
    assert!(long.max(longest) < short * 8, "3,000 bytes take {short:?}, 7,000 {long:?}, 9,000 {longest:?}");
}

/// Checks that the door closes the connection because of its RESUMEs. The same code, with another reason, would come
/// after a minute without IDENTIFY.
fn closed_without_a_session(gateway: &mut Gateway) {
    match gateway.receive() {
        Err(Gone::Closed(Some(4009), reason)) => assert!(reason.starts_with("no session"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// An earlier version answered any number of RESUMEs on a connection that had no session.
#[test]
fn a_connection_has_three_resumes() {
    let (_simulator, proxy) = start_with("resumes", &json!({}));
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    for _ in 0..2 {
        gateway.resume("nonsense", 1);
        assert_eq!(gateway.receive().expect("an answer").op, 9);
    }
    gateway.resume("nonsense", 1);
    assert_eq!(gateway.receive().expect("an answer").op, 9);
    closed_without_a_session(&mut gateway);
}

/// In an earlier version a RESUME that a data core refused was not counted: the count began again when the connection
/// came back to the door.
#[test]
fn resumes_of_sessions_that_are_over_count_too() {
    let (_simulator, proxy) = start_with("resumes_of_ended_sessions", &json!({}));
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    gateway.identify((0, 1), 1);
    let ready = gateway.receive().expect("READY");
    let ready: Value = serde_json::from_str(&ready.d).expect("JSON");
    let session = ready["session_id"].as_str().expect("a session id").to_owned();
    // A sequence that the session never had can not be resumed, and the data core of the shard finds that out.
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    for _ in 0..3 {
        gateway.resume(&session, 1_000_000);
        assert_eq!(gateway.receive().expect("an answer").op, 9);
    }
    closed_without_a_session(&mut gateway);
}

/// Attempts with a wrong token are counted in the metrics, and logged at most once a minute.
#[test]
fn wrong_tokens_are_counted_and_told_once_a_minute() {
    let (_simulator, proxy) = start_with("wrong_tokens", &json!({"rest_proxy": "127.0.0.1:1"}));
    for _ in 0..10 {
        let mut gateway = Gateway::connect(proxy.address, Options::default());
        gateway.send(2, &json!({"token": "guess", "intents": 1, "shard": [0, 1], "properties": {}}));
        assert!(matches!(gateway.receive(), Err(Gone::Closed(Some(4004), _))));
        for path in ["/api/gateway/bot", "/api/users/@me"] {
            let request = format!("GET {path} HTTP/1.1\r\nAuthorization: Bot guess\r\n\r\n");
            assert!(ask(proxy.address, &request).starts_with("HTTP/1.1 401 "));
        }
    }
    wait_until("all to be counted", || {
        let counted = metric(&proxy, "gateway_wrong_tokens_total");
        if counted == 30.0 { Ok(()) } else { Err(format!("{counted}")) }
    });
    let log = log("wrong_tokens");
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("was refused: it showed a wrong token or none")).collect();
    assert!((1..=2).contains(&lines.len()) && lines[0].contains("127.0.0.1:"), "{lines:?}");
    assert!(!log.contains("guess"), "{log}");
}
