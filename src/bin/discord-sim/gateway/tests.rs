//! The gateway without sockets: commands in, payloads out, time as an argument.

mod mute;

use super::*;
use serde_json::{Value, json};
use world::{Settings, Wish};

/// The one intent bit that these tests disallow.
const DISALLOWED: u64 = 1 << 21;
const ALL: u64 = intents::KNOWN & !DISALLOWED;

struct Sim {
    gateway: Gateway,
    now: Instant,
}

impl Sim {
    fn new(shards: usize) -> Self {
        let now = Instant::now();
        let world = World::generate(Settings {
            seed: 2,
            shards,
            guilds: shards * 4,
            members: 30,
            presences: 0.4,
            channels: 8,
            roles: 6,
            emojis: 3,
        });
        let options = Options {
            token: "secret".into(),
            max_concurrency: 1,
            identify_interval: Duration::from_secs(5),
            total: 1000,
            remaining: 10,
            heartbeat_interval: Duration::from_secs(40),
            large_threshold: 250,
            disallowed_intents: DISALLOWED,
            member_request_interval: Duration::from_secs(30),
            replay_bytes: 64 << 20,
            url: "ws://sim".into(),
            resume_url: "ws://sim/r".into(),
            voice_endpoint: "voice.sim:443".into(),
        };
        Self { gateway: Gateway::new(options, world, shards, now), now }
    }

    fn pass(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    /// A connection that has read HELLO.
    fn connect(&mut self) -> u64 {
        let key = self.gateway.connect(10, None, "/", self.now);
        let hello = self.read(key);
        assert_eq!((hello.len(), &hello[0]["op"]), (1, &json!(10)));
        key
    }

    fn send(&mut self, key: u64, op: u64, d: Value) {
        self.gateway.receive(key, json!({"op": op, "d": d}).to_string().as_bytes(), self.now);
    }

    fn read(&mut self, key: u64) -> Vec<Value> {
        let mut payloads = Vec::new();
        let send = |output: Output<'_>| {
            payloads.push(serde_json::from_slice(payload_of(output)).expect("every payload is JSON"));
            true
        };
        self.gateway.produce(key, send, self.now);
        payloads
    }

    fn identify(&mut self, key: u64, shard: usize, intents: u64) {
        let count = self.gateway.shards.len();
        self.send(
            key,
            2,
            json!({"token": "Bot secret", "intents": intents, "shard": [shard, count], "properties": {}}),
        );
    }

    /// A shard that has read READY and its guilds; the session id.
    fn ready(&mut self, shard: usize, intents: u64) -> (u64, String) {
        let key = self.connect();
        self.pass(5_000);
        self.identify(key, shard, intents);
        let payloads = self.read(key);
        assert_eq!(payloads[0]["t"], "READY", "{payloads:?}");
        (key, payloads[0]["d"]["session_id"].as_str().unwrap().to_owned())
    }

    fn closed(&self, key: u64) -> Option<u16> {
        match self.gateway.state(key) {
            State::Ending(Ending::Close(code, _)) => Some(code),
            _ => None,
        }
    }

    fn resume(&mut self, key: u64, session: &str, seq: u64) {
        self.send(key, 6, json!({"token": "secret", "session_id": session, "seq": seq}));
    }

    fn emit(&mut self, shard: usize, count: usize) {
        for _ in 0..count {
            let event = self.gateway.world.message(shard, None, None).unwrap();
            self.gateway.publish(shard, &event);
        }
    }

    fn violations(&self) -> Vec<&str> {
        self.gateway.violations.iter().map(|violation| violation.what.as_str()).collect()
    }
}

fn names(payloads: &[Value]) -> Vec<&str> {
    payloads.iter().map(|payload| payload["t"].as_str().unwrap_or("")).collect()
}

#[test]
fn identify_gives_ready_and_the_guilds_of_the_shard() {
    let mut sim = Sim::new(3);
    let key = sim.connect();
    sim.identify(key, 1, ALL);
    let payloads = sim.read(key);
    assert_eq!(names(&payloads), ["READY", "GUILD_CREATE", "GUILD_CREATE", "GUILD_CREATE", "GUILD_CREATE"]);
    for (at, payload) in payloads.iter().enumerate() {
        assert_eq!(payload["s"], at + 1);
        assert_eq!(payload["op"], 0);
    }
    let ready = &payloads[0]["d"];
    assert_eq!(ready["shard"], json!([1, 3]));
    assert_eq!(ready["resume_gateway_url"], "ws://sim/r");
    for (guild, payload) in ready["guilds"].as_array().unwrap().iter().zip(&payloads[1..]) {
        assert_eq!(guild["unavailable"], true);
        assert_eq!(payload["d"]["unavailable"], false);
        assert_eq!(guild["id"], payload["d"]["id"]);
    }
    assert!(sim.violations().is_empty());
    assert_eq!(sim.gateway.remaining(sim.now).0, 9);
}

#[test]
fn a_bad_identify_is_refused_with_the_documented_code() {
    let cases = [
        (json!({"token": "wrong", "intents": 0, "shard": [0, 2]}), 4004),
        (json!({"token": "secret", "intents": 0, "shard": [2, 2]}), 4010),
        (json!({"token": "secret", "intents": 0, "shard": [0, 3]}), 4010),
        (json!({"token": "secret", "intents": 0}), 4011),
        (json!({"token": "secret", "intents": 1 << 17, "shard": [0, 2]}), 4013),
        (json!({"token": "secret", "shard": [0, 2]}), 4013),
        (json!({"token": "secret", "intents": DISALLOWED, "shard": [0, 2]}), 4014),
        (json!({"token": 5}), 4002),
        (json!(null), 4002),
    ];
    for (d, code) in cases {
        let mut sim = Sim::new(2);
        let key = sim.connect();
        sim.send(key, 2, d.clone());
        assert_eq!(sim.closed(key), Some(code), "{d}");
        assert_eq!(sim.violations().len(), 1);
        assert_eq!(sim.gateway.remaining(sim.now).0, 10, "nothing was spent");
    }
}

#[test]
fn what_breaks_the_rules_is_closed_with_the_documented_code() {
    let cases: [(&[u8], bool, u16); 9] = [
        (b"no json", false, 4002),
        (b"{}", false, 4002),
        (br#"{"op":3,"d":{}}"#, false, 4003),
        (br#"{"op":8,"d":{}}"#, false, 4003),
        (br#"{"op":5,"d":{}}"#, false, 4001),
        (br#"{"op":11,"d":null}"#, true, 4001),
        (br#"{"op":2,"d":{}}"#, true, 4005),
        (br#"{"op":6,"d":{}}"#, true, 4005),
        (br#"{"op":8,"d":{"guild_id":"1"}}"#, true, 4002),
    ];
    for (payload, identified, code) in cases {
        let mut sim = Sim::new(1);
        let key = if identified { sim.ready(0, ALL).0 } else { sim.connect() };
        sim.gateway.receive(key, payload, sim.now);
        assert_eq!(sim.closed(key), Some(code), "{}", String::from_utf8_lossy(payload));
    }
    let mut sim = Sim::new(1);
    let (key, _) = sim.ready(0, ALL);
    let long = json!({"op": 3, "d": {"x": "y".repeat(4_100)}}).to_string();
    sim.gateway.receive(key, long.as_bytes(), sim.now);
    assert_eq!(sim.closed(key), Some(4002));
}

#[test]
fn identifies_are_limited_in_time_and_number() {
    let mut sim = Sim::new(2);
    let (first, second) = (sim.connect(), sim.connect());
    sim.identify(first, 0, ALL);
    sim.pass(1_000);
    sim.identify(second, 1, ALL);
    let payloads = sim.read(second);
    assert_eq!((payloads.len(), &payloads[0]["op"], &payloads[0]["d"]), (1, &json!(9), &json!(false)));
    assert_eq!(sim.violations().len(), 1);
    sim.pass(4_000);
    sim.identify(second, 1, ALL);
    assert_eq!(sim.read(second)[0]["t"], "READY", "on the same connection, in time");
    sim.gateway.set_remaining(0);
    sim.pass(5_000);
    let third = sim.connect();
    sim.identify(third, 0, ALL);
    assert_eq!(sim.closed(third), Some(4004));
}

#[test]
fn a_resume_replays_everything_in_order() {
    let mut sim = Sim::new(1);
    let (key, session) = sim.ready(0, ALL);
    sim.emit(0, 10);
    let seen = sim.read(key);
    let seq = seen[3]["s"].as_u64().unwrap();
    sim.gateway.disconnect(key, Some(4000), sim.now);
    sim.emit(0, 5);
    sim.pass(179_000);
    sim.gateway.expire(sim.now);
    let key = sim.connect();
    sim.resume(key, &session, seq);
    let payloads = sim.read(key);
    assert_eq!(payloads.len(), 12);
    assert_eq!(payloads.last().unwrap()["t"], "RESUMED");
    assert!(payloads.last().unwrap()["d"].is_object());
    for (at, payload) in payloads.iter().enumerate() {
        assert_eq!(payload["s"].as_u64().unwrap(), seq + 1 + at as u64);
    }
    let numbers: Vec<u64> = payloads.iter().filter_map(|payload| payload["d"]["sim_number"].as_u64()).collect();
    assert_eq!(numbers, (5..=15).collect::<Vec<u64>>());
    assert!(sim.violations().is_empty());
}

#[test]
fn sessions_end_as_documented() {
    for code in [1000, 1001] {
        let mut sim = Sim::new(1);
        let (key, session) = sim.ready(0, ALL);
        sim.gateway.disconnect(key, Some(code), sim.now);
        let key = sim.connect();
        sim.resume(key, &session, 1);
        let payloads = sim.read(key);
        assert_eq!((&payloads[0]["op"], &payloads[0]["d"]), (&json!(9), &json!(false)));
        assert!(sim.closed(key).is_none(), "the connection stays open for an IDENTIFY");
    }
    let mut sim = Sim::new(1);
    let (key, session) = sim.ready(0, ALL);
    sim.gateway.disconnect(key, None, sim.now);
    sim.pass(181_000);
    sim.gateway.expire(sim.now);
    let key = sim.connect();
    sim.resume(key, &session, 1);
    assert_eq!(sim.read(key)[0]["op"], 9, "after three minutes");
}

#[test]
fn a_resume_from_the_future_is_4007() {
    let mut sim = Sim::new(1);
    let (key, session) = sim.ready(0, ALL);
    sim.gateway.disconnect(key, None, sim.now);
    let key = sim.connect();
    sim.resume(key, &session, 4_000);
    assert_eq!(sim.closed(key), Some(4007));
}

#[test]
fn a_resume_takes_the_session_from_a_half_dead_connection() {
    let mut sim = Sim::new(1);
    let (old, session) = sim.ready(0, ALL);
    let key = sim.connect();
    sim.resume(key, &session, 1);
    assert_eq!(sim.closed(old), Some(4000));
    sim.gateway.disconnect(old, None, sim.now);
    sim.emit(0, 1);
    assert_eq!(sim.read(key).last().unwrap()["t"], "MESSAGE_CREATE");
}

#[test]
fn heartbeats_are_answered_and_missed() {
    let mut sim = Sim::new(1);
    let (key, session) = sim.ready(0, ALL);
    for _ in 0..10 {
        sim.pass(40_000);
        sim.send(key, 1, json!(3));
        let payloads = sim.read(key);
        assert_eq!(payloads, [json!({"t": null, "s": null, "op": 11, "d": null})]);
        sim.gateway.expire(sim.now);
    }
    sim.pass(61_000);
    sim.gateway.expire(sim.now);
    assert_eq!(sim.closed(key), None, "some grace");
    sim.pass(10_000);
    sim.gateway.expire(sim.now);
    assert_eq!(sim.closed(key), Some(4009));
    let key = sim.connect();
    sim.resume(key, &session, 3);
    assert_eq!(sim.read(key).last().unwrap()["t"], "RESUMED");
}

#[test]
fn more_than_120_payloads_a_minute_are_4008() {
    let mut sim = Sim::new(1);
    let key = sim.connect();
    for _ in 0..120 {
        sim.pass(400);
        sim.send(key, 1, json!(null));
    }
    assert_eq!(sim.closed(key), None);
    sim.pass(12_500);
    sim.send(key, 1, json!(null));
    assert_eq!(sim.closed(key), None, "the first are a minute old");
    for _ in 0..40 {
        sim.send(key, 1, json!(null));
    }
    assert_eq!(sim.closed(key), Some(4008));
}

#[test]
fn more_than_five_presence_updates_in_20_s_are_dropped() {
    let mut sim = Sim::new(1);
    let (key, _) = sim.ready(0, ALL);
    for number in 0..7 {
        sim.send(key, 3, json!({"status": "idle", "number": number}));
    }
    let presence = |sim: &Sim| {
        let stats: Value = serde_json::from_str(&sim.gateway.shard_stats(0)).unwrap();
        stats["last_presence"]["number"].clone()
    };
    assert_eq!((presence(&sim), sim.violations().len(), sim.closed(key)), (json!(4), 2, None));
    sim.pass(20_000);
    sim.send(key, 3, json!({"status": "idle", "number": 7}));
    assert_eq!(presence(&sim), json!(7));
}

#[test]
fn intents_choose_the_events_and_the_content() {
    let mut sim = Sim::new(1);
    let (all, _) = sim.ready(0, ALL);
    let (lean, _) = sim.ready(0, 1 | 1 << 9);
    let (none, _) = sim.ready(0, 0);
    for key in [all, lean, none] {
        sim.read(key);
    }
    for _ in 0..600 {
        for event in sim.gateway.world.happen(0, Wish::Any) {
            sim.gateway.publish(0, &event);
        }
    }
    let payloads = sim.read(lean);
    for payload in &payloads {
        let name = payload["t"].as_str().unwrap();
        assert!(!["PRESENCE_UPDATE", "TYPING_START", "VOICE_STATE_UPDATE"].contains(&name), "{name}");
        if name == "MESSAGE_CREATE" {
            assert_eq!(payload["d"]["content"], "");
            assert!(payload["d"]["sim_number"].is_u64());
        }
    }
    assert!(names(&payloads).contains(&"MESSAGE_CREATE"));
    let whole = sim.read(all);
    assert!(names(&whole).contains(&"PRESENCE_UPDATE"));
    assert!(whole.iter().any(|payload| payload["d"]["content"].as_str().is_some_and(|text| text.starts_with("n:"))));
    assert!(names(&sim.read(none)).iter().all(|name| *name == "INTERACTION_CREATE"));
}

fn payload_of(output: Output<'_>) -> &[u8] {
    match output {
        Output::Payload(payload, _) => payload,
        Output::Wire(bytes) => panic!("nobody asked for {bytes:?}"),
    }
}

#[test]
fn bytes_for_the_wire_come_between_payloads() {
    let mut sim = Sim::new(1);
    let (key, _) = sim.ready(0, ALL);
    sim.gateway.ask_for_heartbeat(0);
    assert_eq!(sim.gateway.put_on_wire(0, b"\xff"), 1);
    let mut seen = Vec::new();
    sim.gateway.produce(key, |output| (seen.push(matches!(output, Output::Wire(b"\xff"))), true).1, sim.now);
    assert_eq!(seen, [false, true]);
}

#[test]
fn nothing_of_a_guild_comes_before_its_guild_create() {
    let mut sim = Sim::new(1);
    let key = sim.connect();
    sim.identify(key, 0, ALL);
    // The client reads READY only; the guilds have not been made yet.
    let mut first = Vec::new();
    sim.gateway.produce(
        key,
        |output| {
            first.push(payload_of(output).to_vec());
            false
        },
        sim.now,
    );
    assert_eq!(first.len(), 1);
    for _ in 0..400 {
        for event in sim.gateway.world.happen(0, Wish::Any) {
            sim.gateway.publish(0, &event);
        }
    }
    let mut known = std::collections::HashSet::new();
    let mut numbers = Vec::new();
    for payload in sim.read(key) {
        let d = &payload["d"];
        match payload["t"].as_str().unwrap() {
            "GUILD_CREATE" => assert!(known.insert(d["id"].clone()), "announced once"),
            "GUILD_DELETE" => {
                known.remove(&d["id"]);
            }
            name => {
                let guild = d.get("guild_id").or(d.get("id")).unwrap();
                assert!(known.contains(guild), "{name} of an unknown guild");
            }
        }
        numbers.extend(d["sim_number"].as_u64());
    }
    assert_eq!(numbers, (1..=sim.gateway.world.last_number(0)).collect::<Vec<u64>>(), "none is left out");
}

#[test]
fn members_are_requested_in_chunks() {
    let mut sim = Sim::new(1);
    let (key, _) = sim.ready(0, ALL);
    let guild = sim.gateway.world.guilds_of(0).max_by_key(|guild| guild.member_count()).unwrap();
    let (id, count) = (guild.id(), guild.member_count());
    let some = guild.search("", 2);
    sim.send(key, 8, json!({"guild_id": id.to_string(), "query": "", "limit": 0, "presences": true, "nonce": "n1"}));
    let payloads = sim.read(key);
    assert_eq!(names(&payloads), ["GUILD_MEMBERS_CHUNK"]);
    let d = &payloads[0]["d"];
    assert_eq!(d["members"].as_array().unwrap().len(), count);
    assert_eq!((&d["chunk_index"], &d["chunk_count"], &d["nonce"]), (&json!(0), &json!(1), &json!("n1")));
    assert!(!d["presences"].as_array().unwrap().is_empty());
    sim.send(key, 8, json!({"guild_id": [id], "user_ids": [some[0].to_string(), "17"], "nonce": "x".repeat(33)}));
    let d = sim.read(key)[0]["d"].clone();
    assert_eq!(d["members"][0]["user"]["id"], some[0].to_string());
    assert_eq!(d["not_found"], json!(["17"]));
    assert!(d.get("nonce").is_none() && d.get("presences").is_none());
    let everybody = json!({"guild_id": id.to_string(), "query": "", "limit": 0, "nonce": "again"});
    sim.send(key, 8, everybody.clone());
    let limited = sim.read(key).remove(0);
    assert_eq!(limited["t"], "RATE_LIMITED");
    assert_eq!(limited["d"]["meta"], json!({"guild_id": id.to_string(), "nonce": "again"}));
    assert_eq!(limited["d"]["retry_after"], 30.0);
    sim.pass(30_000);
    sim.send(key, 8, everybody);
    assert_eq!(names(&sim.read(key)), ["GUILD_MEMBERS_CHUNK"]);
    let (lean, _) = sim.ready(0, 1);
    sim.send(lean, 8, json!({"guild_id": id.to_string(), "query": "", "limit": 0}));
    assert!(!names(&sim.read(lean)).contains(&"GUILD_MEMBERS_CHUNK"));
    assert_eq!(sim.violations().len(), 1);
}

#[test]
fn large_guilds_come_in_several_chunks() {
    let mut sim = Sim::new(1);
    sim.gateway.world = World::generate(Settings {
        seed: 1,
        shards: 1,
        guilds: 1,
        members: 2_500,
        presences: 0.1,
        channels: 3,
        roles: 3,
        emojis: 0,
    });
    let (key, _) = sim.ready(0, ALL);
    let id = sim.gateway.world.guilds_of(0).next().unwrap().id();
    sim.send(key, 8, json!({"guild_id": id.to_string(), "query": "", "limit": 0}));
    let payloads = sim.read(key);
    let sizes: Vec<usize> = payloads.iter().map(|p| p["d"]["members"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
    for (at, payload) in payloads.iter().enumerate() {
        assert_eq!((&payload["d"]["chunk_index"], &payload["d"]["chunk_count"]), (&json!(at), &json!(3)));
    }
}

#[test]
fn voice_goes_to_the_session_that_asked() {
    let mut sim = Sim::new(1);
    let (asks, session) = sim.ready(0, ALL);
    let (other, _) = sim.ready(0, ALL);
    let guild = sim.gateway.world.guilds_of(0).next().unwrap();
    let truth: Value = serde_json::from_str(&guild.create(None, false, 0)).unwrap();
    let channel = truth["channels"].as_array().unwrap().iter().find(|channel| channel["type"] == 2).unwrap();
    let guild = guild.id().to_string();
    sim.send(asks, 4, json!({"guild_id": guild, "channel_id": channel["id"], "self_mute": true, "self_deaf": false}));
    let payloads = sim.read(asks);
    assert_eq!(names(&payloads), ["VOICE_STATE_UPDATE", "VOICE_SERVER_UPDATE"]);
    assert_eq!(payloads[0]["d"]["session_id"], session);
    assert_eq!(names(&sim.read(other)), ["VOICE_STATE_UPDATE"]);
    sim.gateway.disconnect(asks, Some(1000), sim.now);
    let payloads = sim.read(other);
    assert_eq!(names(&payloads), ["VOICE_STATE_UPDATE"], "the bot leaves with its session");
    assert!(payloads[0]["d"]["channel_id"].is_null());
}

#[test]
fn sounds_and_channel_info_are_answered() {
    let mut sim = Sim::new(1);
    let (key, _) = sim.ready(0, ALL);
    let id = sim.gateway.world.guilds_of(0).next().unwrap().id().to_string();
    sim.send(key, 31, json!({"guild_ids": [id, "5"]}));
    sim.send(key, 43, json!({"guild_id": id, "fields": ["status", "voice_start_time"]}));
    sim.send(key, 3, json!({"status": "dnd", "activities": [], "since": null, "afk": false}));
    let payloads = sim.read(key);
    assert_eq!(names(&payloads), ["SOUNDBOARD_SOUNDS", "CHANNEL_INFO"]);
    assert!(payloads[1]["d"]["channels"][0].get("voice_start_time").is_some());
    let stats: Value = serde_json::from_str(&sim.gateway.stats(sim.now)).unwrap();
    assert_eq!(stats["shards"][0]["commands"], json!({"3": 1, "31": 1, "43": 1}));
    assert_eq!(stats["shards"][0]["last_presence"]["status"], "dnd");
    assert!(stats["shards"][0]["last_identify"].get("token").is_none());
    assert_eq!(stats["shards"][0]["last_identify"]["intents"], ALL);
}

#[test]
fn faults_do_what_they_say() {
    let mut sim = Sim::new(1);
    let (key, session) = sim.ready(0, ALL);
    assert_eq!(sim.gateway.ask_to_reconnect(0), 1);
    assert_eq!(sim.gateway.ask_for_heartbeat(0), 1);
    let ops: Vec<Value> = sim.read(key).into_iter().map(|payload| payload["op"].clone()).collect();
    assert_eq!(ops, [json!(7), json!(1)]);
    sim.gateway.invalidate(0, true, sim.now);
    sim.emit(0, 1);
    let payloads = sim.read(key);
    assert_eq!((payloads.len(), &payloads[0]["d"]), (1, &json!(true)));
    sim.resume(key, &session, 5);
    assert_eq!(names(&sim.read(key)), ["MESSAGE_CREATE", "RESUMED"], "on the same connection");
    assert_eq!(sim.gateway.cut(0, Cut::Freeze, false, sim.now), 1);
    assert_eq!(sim.gateway.state(key), State::Frozen);
    let key = sim.connect();
    sim.resume(key, &session, 7);
    assert_eq!(names(&sim.read(key)), ["RESUMED"]);
    assert_eq!(sim.gateway.cut(0, Cut::Close(4000), true, sim.now), 1);
    assert_eq!(sim.closed(key), Some(4000));
    let key = sim.connect();
    sim.resume(key, &session, 7);
    assert_eq!(sim.read(key)[0]["op"], 9, "the session was ended");
    sim.pass(5_000);
    sim.identify(key, 0, ALL);
    sim.read(key);
    sim.gateway.cut(0, Cut::Reset, false, sim.now);
    assert_eq!(sim.gateway.state(key), State::Ending(Ending::Reset));
}

#[test]
fn who_does_not_read_is_cut_off_instead_of_losing_events() {
    let mut sim = Sim::new(1);
    sim.gateway.options.replay_bytes = 100_000;
    let (key, session) = sim.ready(0, ALL);
    sim.emit(0, 500);
    let mut seen = sim.read(key);
    assert!(seen.pop().is_none(), "nothing with a gap is sent");
    assert_eq!(sim.closed(key), Some(4000));
    assert!(sim.violations()[0].contains("too slow"));
    let key = sim.connect();
    sim.resume(key, &session, 5);
    assert_eq!(sim.read(key)[0]["op"], 9);
}

#[test]
fn a_shard_keeps_a_bounded_number_of_sessions() {
    let mut sim = Sim::new(1);
    sim.gateway.set_remaining(100);
    let (first, _) = sim.ready(0, ALL);
    for _ in 0..MAX_SESSIONS {
        sim.ready(0, 0);
    }
    assert_eq!(sim.closed(first), Some(4000));
    assert_eq!(sim.gateway.sessions.len(), MAX_SESSIONS);
}
