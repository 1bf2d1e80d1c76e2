//! Runs the Autobahn test suite, which compares implementations of WebSocket, against the code that serves clients.
//!
//! The suite needs an echo server, and a gateway has none. So this file has an echo endpoint, made of the code that
//! serves clients: the door parses the request head and answers it, messages and control frames go through
//! `ClientConnection` with its decoder and its outbox, a violation gets the same close as from a shard, and the
//! connection ends in the same way. Only two parts are the test's own: the echo, and a message limit that admits the
//! suite's largest message.
//!
//! Each case of the sections 1 to 7 (framing, pings, reserved bits, opcodes, fragments, UTF-8, closing), 9 (limits) and
//! 10 must run and pass, its close included. Sections 12 and 13 test an extension that compresses messages. The proxy
//! declines it on purpose, as `bad_clients.rs` shows. The sections 8 and 11 have no cases. The reports stay in the
//! directory of the test.
//!
//! The suite was written for Python 2. `tests/autobahn/` says how it is run with Python 3.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use gateway_proxy::{
    compression::Transport,
    control::{
        accept_upgrade,
        connection::{ClientConnection, ConnectionEnd, Payload},
        http::Route,
        read_head,
    },
    data_core::close_for,
    downstream::outbox::Outbox,
    protocol::Encoding,
    websocket::{FrameDecoder, Opcode, Role, write_frame},
};
use glommio::{
    LocalExecutorBuilder,
    net::{TcpListener, TcpStream},
};
use serde::Deserialize;
use serde_json::{Value, json};
use support::{Process, install, root, scratch};

/// Size in bytes of the suite's largest message.
const MAX_MESSAGE: usize = 16 << 20;

/// Maximum time of one test. It takes less than a minute on an idle machine.
const LIMIT: Duration = Duration::from_secs(900);

/// Cases that pass only in the suite's non-strict way: text that is not UTF-8 is refused when the message is complete,
/// not while it is being received. RFC 6455 allows both (section 8.1). A client's message has at most 4096 bytes, and
/// the proxy does not use a part of a message.
const NOT_FAIL_FAST: [&str; 4] = ["6.4.1", "6.4.2", "6.4.3", "6.4.4"];

#[test]
fn protocol() {
    run("protocol", &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"], 247, &NOT_FAIL_FAST);
}

#[test]
fn limits_of_text() {
    run("text", &["9.1.*", "9.3.*", "9.5.*", "9.7.*"], 27, &[]);
}

#[test]
fn limits_of_binary() {
    run("binary", &["9.2.*", "9.4.*", "9.6.*", "9.8.*"], 27, &[]);
}

/// One case in `index.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    behavior: String,
    behavior_close: String,
    reportfile: String,
}

/// Runs `cases`, of which there are `count`. The cases in `lenient` must pass in the non-strict way, all others in the
/// strict way.
fn run(name: &str, cases: &[&str], count: usize, lenient: &[&str]) {
    install("autobahn");
    let directory = scratch(&format!("autobahn-{name}"));
    let spec = json!({
        "servers": [{"agent": "gateway-proxy", "url": format!("ws://{}", echo_endpoint())}],
        "outdir": directory.join("reports"),
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
        // Timeouts of one second are too short on a busy machine.
        "options": {"openHandshakeTimeout": 60, "closeHandshakeTimeout": 60, "serverConnectionDropTimeout": 60},
    });
    let file = directory.join("spec.json");
    fs::write(&file, spec.to_string()).expect("writing what to run");
    let mut command = Command::new(root().join("target/clients/autobahn/venv/bin/python"));
    command.arg(root().join("tests/autobahn/fuzz.py")).arg(&file).env("PYTHONDONTWRITEBYTECODE", "1");
    let mut process = Process::start("autobahn", command, &directory);
    let start = Instant::now();
    let status = loop {
        match process.ended() {
            Some(status) => break status,
            None => assert!(start.elapsed() < LIMIT, "the suite does not come to an end"),
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(status.success(), "the suite has failed: {status}");
    judge(&directory.join("reports"), count, lenient);
}

/// Checks that the reports have all cases, and that each case has passed.
fn judge(reports: &Path, count: usize, lenient: &[&str]) {
    let index = fs::read(reports.join("index.json")).expect("reports");
    let mut index: BTreeMap<String, BTreeMap<String, Case>> =
        serde_json::from_slice(&index).expect("an index of reports");
    let cases = index.remove("gateway-proxy").expect("reports on the endpoint");
    assert_eq!(cases.len(), count, "cases have been run: {:?}", cases.keys());
    let mut lenient: BTreeSet<&str> = lenient.iter().copied().collect();
    let mut failures = String::new();
    for (id, case) in &cases {
        let expected: &[&str] = if lenient.remove(id.as_str()) { &["NON-STRICT"] } else { &["OK", "INFORMATIONAL"] };
        let closed = ["OK", "INFORMATIONAL"].contains(&case.behavior_close.as_str());
        if !expected.contains(&case.behavior.as_str()) || !closed {
            let report = fs::read(reports.join(&case.reportfile)).expect("a report");
            let report: Value = serde_json::from_slice(&report).expect("a report as JSON");
            failures += &format!("\n{id}: {}, close: {}\n", case.behavior, case.behavior_close);
            for key in
                ["description", "expectation", "result", "resultClose", "expected", "received", "wasNotCleanReason"]
            {
                failures += &format!("    {key}: {}\n", report[key]);
            }
        }
    }
    assert!(failures.is_empty(), "cases that have not passed as expected:{failures}");
    assert!(lenient.is_empty(), "cases that were not run: {lenient:?}");
}

/// Starts the echo endpoint on its own thread, which ends with the process.
fn echo_endpoint() -> SocketAddr {
    let (tell, address) = mpsc::channel();
    LocalExecutorBuilder::default()
        .name("echo")
        .spawn(move || async move {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            tell.send(listener.local_addr().expect("an address")).expect("the test waits for it");
            loop {
                let stream = listener.accept().await.expect("a connection");
                glommio::spawn_local(serve(stream)).detach();
            }
        })
        .expect("an executor");
    address.recv().expect("the address of the endpoint")
}

async fn serve(stream: TcpStream) {
    stream.set_nodelay(true).expect("an option of TCP");
    let inbound = FrameDecoder::new(Role::Server, MAX_MESSAGE);
    let mut connection = ClientConnection::new(stream, inbound, Outbox::new(Transport::None, Encoding::Json));
    let Some(Route::Gateway(upgrade, query)) = read_head(&mut connection).await else { return };
    accept_upgrade(&mut connection, &upgrade, query);
    match connection.read_until(echo).await {
        ConnectionEnd::Lost => {}
        ConnectionEnd::Closed(code) => connection.close(code, "").await,
        ConnectionEnd::Violated(violation) => {
            let close = close_for(violation);
            let (code, reason) = (close.code(), close.reason());
            connection.close(Some(code), reason).await;
        }
    }
}

fn echo(payload: Payload<'_>, outbox: &mut Outbox) -> Option<ConnectionEnd> {
    match payload {
        Payload::Text(bytes) => outbox.message(&[bytes]),
        Payload::Binary(bytes) => {
            // The gateway sends no binary message to a client that has asked for JSON, so the test writes the frame
            // itself.
            let mut frame = Vec::new();
            write_frame(&mut frame, Opcode::Binary, bytes, None);
            outbox.raw(&frame);
        }
    }
    None
}
