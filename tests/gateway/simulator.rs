//! `discord-sim` as its users run it: processes, sockets, HTTP.

use gateway_proxy::websocket::{FrameDecoder, Message, Opcode, Role, client_request, parse_response, write_frame};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Time limit for each wait. It is far above what any wait should take.
const PATIENCE: Duration = Duration::from_secs(60);

const BINARY: &str = env!("CARGO_BIN_EXE_discord-sim");

/// A process that prints the address that it listens on. It is killed at the end of the test.
struct Listening {
    child: Child,
    address: String,
}

impl Listening {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(args)
            .args(["--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
        Self { child, address }
    }

    /// Starts a simulator with `shards` shards, all of which may identify at once.
    fn sim(shards: usize, more: &[&str]) -> Self {
        let shards = shards.to_string();
        let mut args = vec!["serve", "--shards", &shards, "--max-concurrency", &shards, "--identify-interval-ms", "0"];
        args.extend(more);
        Self::start(&args)
    }

    fn get(&self, path: &str) -> Value {
        let mut response = ureq::get(format!("http://{}{path}", self.address)).call().expect(path);
        serde_json::from_str(&response.body_mut().with_config().limit(64 << 20).read_to_string().unwrap()).unwrap()
    }

    fn post(&self, path: &str, body: &str) -> Value {
        let mut response = ureq::post(format!("http://{}{path}", self.address)).send(body).expect(path);
        serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap()
    }

    /// Waits until `/sim/stats` meets the condition.
    fn until(&self, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let give_up = Instant::now() + PATIENCE;
        loop {
            let stats = self.get("/sim/stats");
            if done(&stats) {
                return stats;
            }
            assert!(Instant::now() < give_up, "never: {what}; {stats:#}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a bot that runs until it gets SIGTERM.
fn bot(url: &str, more: &[&str]) -> Child {
    Command::new(BINARY)
        .args(["bot", "--json", "--seconds", "3600", "--url", url])
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

/// Sends SIGTERM to the bot. Returns its summary, and whether its exit code is 0.
fn end(bot: Child) -> (Value, bool) {
    assert!(Command::new("kill").args(["-TERM", &bot.id().to_string()]).status().unwrap().success());
    let Output { status, stdout, .. } = bot.wait_with_output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    (serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}")), status.success())
}

fn all(stats: &Value, check: impl Fn(&Value) -> bool) -> bool {
    stats["shards"].as_array().unwrap().iter().all(check)
}

/// Whether each shard is connected and has been sent all guilds.
fn caught_up(stats: &Value) -> bool {
    all(stats, |shard| {
        shard["connected"] == true && shard["guilds_pending"] == 0 && shard["sequence"].as_u64() > Some(1)
    })
}

fn directory(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

#[test]
fn a_bot_loses_nothing_over_drops_and_bursts() {
    for compress in [None, Some("zlib-stream"), Some("zstd-stream")] {
        let sim = Listening::sim(3, &["--guilds", "30", "--rate", "500"]);
        let arguments: Vec<&str> = compress.map(|name| vec!["--compress", name]).unwrap_or_default();
        let bot = bot(&format!("ws://{}", sim.address), &[&arguments[..], &["--close"]].concat());
        let stats = sim.until("ready", caught_up);
        assert!(all(&stats, |shard| shard["compress"] == json!(compress)));

        let emitted = sim.post("/sim/emit?shard=all&count=1000", "");
        assert_eq!(emitted["shards"].as_array().unwrap().len(), 3);
        sim.post("/sim/drop?shard=0", "");
        sim.post("/sim/drop?shard=1&code=4000", "");
        sim.post("/sim/reconnect?shard=2", "");
        sim.post("/sim/emit?shard=all&count=1000", "");
        sim.until("three resumes", |stats| stats["resumes"] == 3 && caught_up(stats));
        sim.post("/sim/invalid?shard=2&resumable=true", "");
        sim.post("/sim/heartbeat?shard=0", "");
        sim.post("/sim/mutate?shard=all&count=500", "");
        sim.until("a fourth", |stats| stats["resumes"] == 4 && caught_up(stats));
        sim.post("/sim/traffic?rate=0", "");
        // Each bot has to answer a heartbeat request. When it has, it has received everything before the request.
        let beats = sim.get("/sim/stats")["shards"].as_array().unwrap().clone();
        sim.post("/sim/heartbeat?shard=all", "");
        sim.until("heartbeats", |stats| {
            stats["shards"]
                .as_array()
                .unwrap()
                .iter()
                .zip(&beats)
                .all(|(now, before)| now["heartbeats"].as_u64() > before["heartbeats"].as_u64())
        });

        let (summary, content) = end(bot);
        assert!(content, "{summary:#}");
        assert_eq!((&summary["shards"], &summary["gaps"], &summary["duplicates"]), (&json!(3), &json!(0), &json!(0)));
        assert_eq!((&summary["identifies"], &summary["resumes"]), (&json!(3), &json!(4)));
        assert!(summary["messages"].as_u64().unwrap() >= 6_000, "{summary:#}");
        assert!(summary["all_guilds_ms"].is_u64());
        let stats = sim.until("closed sessions", |stats| all(stats, |shard| shard["session"] == false));
        assert_eq!(stats["violations"], json!([]));
        assert_eq!(stats["remaining"], 997);
    }
}

#[test]
fn a_bot_notices_a_lost_event() {
    let sim = Listening::sim(1, &["--guilds", "4", "--rate", "0"]);
    let bot = bot(&format!("ws://{}", sim.address), &["--shards", "1"]);
    sim.until("ready", caught_up);
    sim.post("/sim/raw?shard=0", r#"{"t":"TYPING_START","s":4000,"op":0,"d":{}}"#);
    // The close frame comes after the event. A reset could discard the event before the bot has read it.
    sim.post("/sim/drop?shard=0&code=4000", "");
    // The bot resumes with a sequence number that was never sent: the simulator closes with 4007, and the bot
    // identifies.
    sim.until("a new session", |stats| stats["identifies"] == 2 && caught_up(stats));
    let (summary, content) = end(bot);
    assert!(!content);
    assert_eq!(summary["gaps"], 4_000 - 6);
}

#[test]
fn the_relay_passes_everything_on() {
    let sim = Listening::sim(2, &["--guilds", "40", "--members", "300", "--rate", "500"]);
    let upstream = format!("ws://{}", sim.address);
    let relay = Listening::start(&["relay", "--upstream", &upstream]);
    let bot = bot(&format!("ws://{}", relay.address), &["--compress", "zstd-stream"]);
    sim.until("ready", caught_up);
    sim.post("/sim/emit?shard=all&count=5000&size=3000", "");
    let stats = sim.until("sent", |stats| all(stats, |shard| shard["events_sent"].as_u64() > Some(5_000)));
    assert_eq!(stats["violations"], json!([]));
    let (summary, content) = end(bot);
    assert!(content, "{summary:#}");
    assert_eq!((&summary["gaps"], &summary["duplicates"]), (&json!(0), &json!(0)));
}

#[test]
fn tls_serves_what_plain_text_does() {
    let tls = directory("simulator-tls");
    let path = tls.to_str().unwrap();
    let sim = Listening::sim(2, &["--guilds", "20", "--members", "400", "--tls-dir", path]);
    let port = sim.address.rsplit(':').next().unwrap();
    let ca = tls.join("ca.pem");
    let output = Command::new(BINARY)
        .args(["bot", "--json", "--seconds", "2", "--compress", "zlib-stream", "--ca", ca.to_str().unwrap()])
        .args(["--url", &format!("wss://localhost:{port}")])
        .output()
        .unwrap();
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{summary:#}");
    assert_eq!((&summary["ready"], &summary["gaps"]), (&json!(2), &json!(0)));
    assert!(summary["guilds"].as_u64().unwrap() >= 18);
}

/// A WebSocket whose messages the test sends and reads one by one.
struct Client {
    stream: TcpStream,
    inbound: FrameDecoder,
}

impl Client {
    fn connect(sim: &Listening, target: &str) -> Self {
        let mut stream = TcpStream::connect(&sim.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (request, key) = client_request(&sim.address, target);
        stream.write_all(request.as_bytes()).unwrap();
        let mut inbound = FrameDecoder::new(Role::Client, 64 << 20);
        loop {
            if let Some(length) = parse_response(inbound.unconsumed(), &key).unwrap() {
                inbound.consume(length);
                return Self { stream, inbound };
            }
            let n = stream.read(inbound.space()).unwrap();
            assert_ne!(n, 0);
            inbound.filled(n);
        }
    }

    fn send(&mut self, payload: Value) {
        let mut frame = Vec::new();
        write_frame(&mut frame, Opcode::Text, payload.to_string().as_bytes(), Some([1, 2, 3, 4]));
        self.stream.write_all(&frame).unwrap();
    }

    /// The next payload, or the code of a close frame. `None` when the connection ends without one.
    fn next(&mut self) -> Option<Result<Value, u16>> {
        loop {
            match self.inbound.next().unwrap() {
                Some(Message::Text(payload)) => return Some(Ok(serde_json::from_slice(payload).unwrap())),
                Some(Message::Close(reason)) => return Some(Err(reason.unwrap().0)),
                Some(other) => panic!("{other:?}"),
                None => {}
            }
            match self.stream.read(self.inbound.space()) {
                Ok(0) | Err(_) => return None,
                Ok(n) => self.inbound.filled(n),
            }
        }
    }

    fn payload(&mut self) -> Value {
        self.next().expect("a payload").expect("no close frame")
    }

    /// Reads payloads up to the first one of this type.
    fn until(&mut self, name: &str) -> Vec<Value> {
        let mut payloads = Vec::new();
        loop {
            let payload = self.payload();
            let found = payload["t"] == name;
            payloads.push(payload);
            if found {
                return payloads;
            }
        }
    }

    fn identify(&mut self) -> Value {
        assert_eq!(self.payload()["op"], 10);
        self.send(
            json!({"op": 2, "d": {"token": "sim-token", "intents": 53608447, "shard": [0, 1], "properties": {}}}),
        );
        let ready = self.payload();
        assert_eq!(ready["t"], "READY");
        ready["d"].clone()
    }
}

fn ids(rows: &Value, id: impl Fn(&Value) -> &Value) -> BTreeSet<String> {
    rows.as_array().unwrap().iter().map(|row| id(row).as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_client_gets_the_truth_and_can_ask_for_members() {
    let sim = Listening::sim(1, &["--guilds", "5", "--members", "500", "--rate", "0", "--seed", "4"]);
    let mut client = Client::connect(&sim, "/?v=10&encoding=json");
    let ready = client.identify();
    assert_eq!(ready["resume_gateway_url"], format!("ws://{}", sim.address));
    let guilds = ready["guilds"].as_array().unwrap();
    let announced: Vec<Value> = guilds.iter().map(|_| client.payload()["d"].take()).collect();
    for (guild, announced) in guilds.iter().zip(announced) {
        assert_eq!(announced["id"], guild["id"]);
        let id = guild["id"].as_str().unwrap();
        let truth = sim.get(&format!("/sim/guild?id={id}"));
        let count = truth["members"].as_array().unwrap().len();
        assert_eq!(truth["member_count"], count);
        if announced["large"] == true {
            assert!(announced["members"].as_array().unwrap().len() < count);
            assert_eq!(announced["presences"], truth["presences"]);
        } else {
            assert_eq!(announced, truth);
        }
        client.send(json!({"op": 8, "d": {"guild_id": id, "query": "", "limit": 0, "nonce": id}}));
        let mut members = BTreeSet::new();
        for index in 0..count.div_ceil(1_000) {
            let chunk = client.until("GUILD_MEMBERS_CHUNK").pop().unwrap()["d"].take();
            assert_eq!((&chunk["chunk_index"], &chunk["nonce"]), (&json!(index), &json!(id)));
            members.extend(ids(&chunk["members"], |member| &member["user"]["id"]));
        }
        assert_eq!(members, ids(&truth["members"], |member| &member["user"]["id"]));
    }
    let stats = sim.get("/sim/stats");
    assert_eq!(stats["violations"], json!([]));
    assert_eq!(stats["shards"][0]["commands"]["8"], 5);
}

#[test]
fn faults_reach_the_client() {
    let sim = Listening::sim(
        1,
        &["--guilds", "3", "--rate", "0", "--resume-path", "again", "--heartbeat-interval-ms", "3000"],
    );
    let mut client = Client::connect(&sim, "/?v=9&encoding=json");
    let ready = client.identify();
    assert_eq!(ready["v"], 9);
    let session = ready["session_id"].as_str().unwrap();
    for _ in 0..3 {
        client.payload();
    }
    sim.post("/sim/dispatch?shard=0&type=USER_UPDATE", r#"{"x": [1,  2]}"#);
    assert_eq!(client.payload(), json!({"t": "USER_UPDATE", "s": 5, "op": 0, "d": {"x": [1, 2]}}));
    sim.post("/sim/drop?shard=0&code=4003", "");
    assert_eq!(client.next(), Some(Err(4003)));
    sim.post("/sim/guild-join?shard=0", "");

    let path = ready["resume_gateway_url"].as_str().unwrap();
    assert_eq!(path, format!("ws://{}/again", sim.address));
    let mut client = Client::connect(&sim, "/again/?v=10");
    assert_eq!(client.payload()["op"], 10);
    client.send(json!({"op": 6, "d": {"token": "sim-token", "session_id": session, "seq": 4}}));
    let replay = client.until("RESUMED");
    let names: Vec<&str> = replay.iter().map(|payload| payload["t"].as_str().unwrap()).collect();
    assert_eq!(names, ["USER_UPDATE", "GUILD_CREATE", "RESUMED"]);
    assert!(replay[1]["d"].get("unavailable").is_none(), "a real join");
    assert_eq!(sim.get("/sim/stats")["shards"][0]["path"], "/again/");

    let guild = replay[1]["d"]["id"].as_str().unwrap();
    sim.post(&format!("/sim/guild-unavailable?id={guild}"), "");
    sim.post(&format!("/sim/guild-available?id={guild}"), "");
    sim.post(&format!("/sim/guild-leave?id={guild}"), "");
    let seen: Vec<Value> = (0..3).map(|_| client.payload()["d"]["unavailable"].take()).collect();
    assert_eq!(seen, [json!(true), json!(false), json!(null)]);

    sim.post("/sim/drop?shard=0&freeze=1", "");
    sim.post("/sim/emit?shard=0&count=2", "");
    let mut second = Client::connect(&sim, "/?v=10");
    assert_eq!(second.payload()["op"], 10);
    second.send(json!({"op": 6, "d": {"token": "sim-token", "session_id": session, "seq": 10}}));
    assert_eq!(second.until("RESUMED").len(), 3);
    // The client has sent no heartbeat.
    assert_eq!(second.next(), Some(Err(4009)));
    let stats = sim.until("the violation", |stats| stats["violation_count"] == 1);
    assert!(stats["violations"][0]["what"].as_str().unwrap().starts_with("4009"));

    sim.post("/sim/hang?seconds=60", "");
    let mut hanging = TcpStream::connect(&sim.address).unwrap();
    hanging.write_all(b"GET /api/gateway HTTP/1.1\r\n\r\n").unwrap();
    hanging.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(hanging.read(&mut [0; 10]).is_err(), "no answer");
    sim.post("/sim/hang?seconds=0", "");
    sim.post("/sim/refuse?seconds=60", "");
    let mut refused = TcpStream::connect(&sim.address).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(refused.read(&mut [0; 10]), Ok(0) | Err(_)));
}

#[test]
fn while_a_session_is_lost_the_world_changes_and_nobody_is_told() {
    let sim = Listening::sim(1, &["--guilds", "3", "--rate", "0", "--large-threshold", "250"]);
    let mut client = Client::connect(&sim, "/?v=10");
    let ready = client.identify();
    let session = ready["session_id"].as_str().unwrap();
    let announced: Vec<Value> = (0..3).map(|_| client.payload()["d"].take()).collect();
    let left = ready["guilds"][0]["id"].as_str().unwrap();
    let answer = sim.post(&format!("/sim/lose?shard=0&changes=8&leave={left}&join=1"), "");
    assert_eq!(answer["connections"], 1);
    assert!(answer["events"].as_u64().unwrap() >= 8 * 20, "changes of every kind: {answer}");

    let mut client = Client::connect(&sim, "/?v=10");
    assert_eq!(client.payload()["op"], 10);
    client.send(json!({"op": 6, "d": {"token": "sim-token", "session_id": session, "seq": 4}}));
    assert_eq!(client.payload(), json!({"t": null, "s": null, "op": 9, "d": false}));
    drop(client);
    let mut client = Client::connect(&sim, "/?v=10");
    let ready = client.identify();
    let now = ids(&ready["guilds"], |guild| &guild["id"]);
    assert_eq!(now.len(), 3);
    assert!(!now.contains(left), "the bot has left it");
    let mut changed = BTreeSet::new();
    for before in announced.iter().filter(|guild| guild["id"] != left) {
        let truth = sim.get(&format!("/sim/guild?id={}", before["id"].as_str().unwrap()));
        for list in ["channels", "roles", "members", "voice_states", "threads"] {
            if before[list] != truth[list] {
                changed.insert(list);
            }
        }
    }
    assert_eq!(changed.len(), 5, "{changed:?}");
}

#[test]
fn rest_routes_answer_like_discord() {
    let sim = Listening::sim(2, &["--guilds", "2", "--rate", "0"]);
    let ask = |path: &str, token: &str| -> (u16, String, Value) {
        let config = ureq::Agent::config_builder().http_status_as_error(false).build();
        let agent = ureq::Agent::new_with_config(config);
        let url = format!("http://{}{path}", sim.address);
        let mut response = agent.get(url).header("authorization", token).call().unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = serde_json::from_str(&response.body_mut().read_to_string().unwrap()).unwrap();
        (response.status().as_u16(), kind, body)
    };
    for prefix in ["/api", "/api/v9", "/api/v10"] {
        for route in ["/gateway/bot", "/users/@me", "/oauth2/applications/@me", "/soundboard-default-sounds"] {
            let (status, kind, _) = ask(&format!("{prefix}{route}"), "Bot sim-token");
            assert_eq!((status, kind.as_str()), (200, "application/json"));
            assert_eq!(ask(&format!("{prefix}{route}"), "Bot other").0, 401);
        }
    }
    let (_, _, body) = ask("/api/v10/gateway/bot", "Bot sim-token");
    assert_eq!((&body["shards"], &body["session_start_limit"]["max_concurrency"]), (&json!(2), &json!(2)));
    assert_eq!(ask("/api/gateway", "").2, json!({"url": format!("ws://{}", sim.address)}));
    let (status, _, body) = ask("/api/v10/guilds/1", "Bot sim-token");
    assert_eq!((status, body), (404, json!({"message": "404: Not Found", "code": 0})));
}

#[test]
fn a_taken_port_is_an_error() {
    let sim = Listening::sim(1, &["--guilds", "1"]);
    let output = Command::new(BINARY).args(["serve", "--guilds", "1", "--listen", &sim.address]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&sim.address));
}
