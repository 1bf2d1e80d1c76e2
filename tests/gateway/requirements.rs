//! What client libraries require of a gateway beyond Discord's documentation. Each test checks one requirement through
//! a whole proxy. Other requirements are tested elsewhere: encodings and compressions in `encodings.rs`, refused
//! RESUMEs and close codes in `door.rs`, streams without gaps in `fan_out.rs`, fatal close codes in `upstream.rs`,
//! whole libraries in `real_clients.rs`.

use std::{net::SocketAddr, time::Duration};

use gateway_proxy::websocket::{Opcode, write_frame};
use serde_json::{Value, json};
use support::{
    Gateway, Gone, Options, PATIENCE, Payload, Proxy, Simulator, TOKEN, Transport, free_port, get, scratch,
    wait_for_events, wait_until,
};

const WORLD: &str =
    "--shards 2 --max-concurrency 2 --identify-interval-ms 100 --guilds 8 --members 10 --seed 3 --rate 0";
const INTENTS: u64 = 53_608_447;
const SHARD: (u32, u32) = (0, 2);

fn start(name: &str) -> (Simulator, Proxy) {
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({}));
    (simulator, proxy)
}

/// A client that has all guilds: the connection, READY, the guilds, and the newest sequence number.
struct Client {
    gateway: Gateway,
    ready: Value,
    guilds: Vec<Payload>,
    sequence: u64,
}

impl Client {
    fn identified(proxy: &Proxy) -> Self {
        Self::take(Gateway::connect(proxy.address, Transport::None))
    }

    fn take(mut gateway: Gateway) -> Self {
        gateway.identify(SHARD, INTENTS);
        Self::synchronise(gateway)
    }

    fn synchronise(mut gateway: Gateway) -> Self {
        let ready = gateway.receive().expect("READY").data();
        let count = ready["guilds"].as_array().expect("guilds").len();
        let guilds: Vec<_> = (0..count).map(|_| gateway.receive().expect("a guild")).collect();
        Self { gateway, ready, guilds, sequence: 1 + count as u64 }
    }

    fn session(&self) -> &str {
        self.ready["session_id"].as_str().expect("an id")
    }
}

/// A masked frame.
fn frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, opcode, payload, Some([9, 8, 7, 6]));
    bytes
}

fn identify() -> String {
    json!({"op": 2, "d": {"token": TOKEN, "intents": INTENTS, "shard": [0, 2], "properties": {}}}).to_string()
}

#[test]
fn a_session_outlives_every_end_but_1000_and_1001() {
    let (simulator, proxy) = start("ends");
    // `None`: the connection ends without a close frame.
    for (code, outlives) in [
        (None, true),
        (Some(1000), false),
        (Some(1001), false),
        (Some(1002), true),
        (Some(3000), true),
        (Some(3024), true),
        (Some(4000), true),
        (Some(4900), true),
    ] {
        let Client { gateway, ready, mut sequence, .. } = Client::identified(&proxy);
        match code {
            Some(code) => assert_eq!(gateway.close(code), Some(code), "the code comes back"),
            None => drop(gateway),
        }
        let (first, last) = simulator.emit(0, 3);
        // Events that reach the proxy after the RESUME would follow RESUMED.
        wait_for_events(&proxy, &simulator, 0);
        let mut gateway = Gateway::connect(proxy.address, Transport::Zlib);
        gateway.resume(ready["session_id"].as_str().expect("an id"), sequence);
        if outlives {
            for number in first..=last {
                let missed = gateway.receive().expect("what was missed");
                sequence += 1;
                assert_eq!((missed.number(), missed.s), (Some(number), Some(sequence)), "after {code:?}");
            }
            let resumed = gateway.receive().expect("RESUMED");
            assert_eq!((resumed.t.as_deref(), resumed.s), (Some("RESUMED"), Some(sequence + 1)), "after {code:?}");
            assert!(resumed.data().is_object(), "{}", resumed.d);
        } else {
            let refused = gateway.receive().expect("an answer");
            assert_eq!((refused.op, refused.d.as_str()), (9, "false"), "after {code:?}");
        }
        gateway.close(1000);
    }
}

#[test]
fn guilds_of_ready_arrive_as_old_and_joined_ones_as_new() {
    let (simulator, proxy) = start("arrivals");
    let down = simulator.guilds(0).pop_first().expect("a guild").0;
    simulator.set_available(&down, false);
    // An event that comes after the outage shows that the proxy knows of the outage.
    let mut watcher = Client::identified(&proxy);
    let (_, last) = simulator.emit(0, 1);
    while watcher.gateway.receive().expect("an event").number() != Some(last) {}

    let mut client = Client::identified(&proxy);
    let listed = client.ready["guilds"].as_array().expect("guilds").clone();
    assert_eq!(listed.len(), simulator.guilds(0).len());
    for guild in &listed {
        assert_eq!(guild["unavailable"], true, "{guild}");
    }
    let mut arrived: Vec<String> = Vec::new();
    for guild in &client.guilds {
        let data = guild.data();
        let id = data["id"].as_str().expect("an id").to_owned();
        let expected = if id == down { ("GUILD_DELETE", json!(true)) } else { ("GUILD_CREATE", json!(false)) };
        assert_eq!((guild.t.as_deref().expect("a type"), &data["unavailable"]), (expected.0, &expected.1), "{id}");
        arrived.push(id);
    }
    arrived.sort();
    let mut ids: Vec<_> = listed.iter().map(|guild| guild["id"].as_str().expect("an id").to_owned()).collect();
    ids.sort();
    assert_eq!(arrived, ids);
    // A guild that the bot has joined has no key `unavailable`.
    let joined = simulator.join_guild(0);
    let arrival = client.gateway.receive().expect("the new guild");
    assert_eq!((arrival.t.as_deref(), &arrival.data()["id"]), (Some("GUILD_CREATE"), &json!(joined)));
    assert_eq!(arrival.data().get("unavailable"), None);
}

#[test]
fn commands_may_arrive_before_hello_has_been_read() {
    let (simulator, proxy) = start("early");
    let target = "/?v=10&encoding=json";
    let early = [frame(Opcode::Text, br#"{"op":1,"d":null}"#), frame(Opcode::Text, identify().as_bytes())].concat();
    let mut gateway = Gateway::open_at(proxy.address, target, Options::default(), &early).expect("an upgrade");
    let opcodes: Vec<_> = (0..2).map(|_| gateway.receive().expect("HELLO and an ACK").op).collect();
    assert_eq!(opcodes, [10, 11]);
    let client = Client::synchronise(gateway);
    let (session, sequence) = (client.session().to_owned(), client.sequence);
    drop(client);
    let resume = json!({"op": 6, "d": {"token": TOKEN, "session_id": session, "seq": sequence}}).to_string();
    let early = frame(Opcode::Text, resume.as_bytes());
    let mut gateway = Gateway::open_at(proxy.address, target, Options::default(), &early).expect("an upgrade");
    assert_eq!(gateway.receive().expect("HELLO").op, 10);
    assert_eq!(gateway.receive().expect("RESUMED").t.as_deref(), Some("RESUMED"));
    assert_eq!(simulator.identifies(), 2);
}

#[test]
fn the_interval_of_heartbeats_suits_all() {
    let (_simulator, proxy) = start("interval");
    let mut gateway = Gateway::open(proxy.address, Transport::None).expect("an upgrade");
    let hello = gateway.receive().expect("HELLO").data();
    let interval = hello["heartbeat_interval"].as_u64().expect("an integer");
    // Some libraries reconnect after one minute without a message.
    assert!((10_000..60_000).contains(&interval), "{interval}");
}

#[test]
fn any_path_and_version_of_today_and_yesterday_is_served() {
    let (_simulator, proxy) = start("paths");
    for (target, version) in [
        ("/", 10),
        ("//", 10),
        ("/?v=10", 10),
        ("/?v=9&encoding=json", 9),
        ("//?v=9", 9),
        ("/r/abc/?v=10&encoding=json", 10),
        ("/metrics?v=10", 10),
    ] {
        let mut gateway = Gateway::open_at(proxy.address, target, Options::default(), &[])
            .unwrap_or_else(|e| panic!("{target}: {e}"));
        assert_eq!(gateway.receive().expect("HELLO").op, 10);
        let client = Client::take(gateway);
        assert_eq!(client.ready["v"], version, "{target}");
    }
}

#[test]
fn ids_may_be_numbers_and_guilds_a_list_and_text_binary() {
    let (simulator, proxy) = start("forms");
    let mut client = Client::identified(&proxy);
    let (id, guild) = simulator.guilds(0).pop_last().expect("a guild");
    let created = client.guilds.iter().map(Payload::data).find(|data| data["id"] == *id).expect("the guild");
    let user = created["members"][0]["user"]["id"].as_str().expect("an id").to_owned();
    let number = |id: &str| id.parse::<u64>().expect("an id");
    for (data, members) in [
        (json!({"guild_id": id, "query": "", "limit": 0}), guild.members),
        (json!({"guild_id": number(&id), "query": "", "limit": 0}), guild.members),
        (json!({"guild_id": [id], "query": "", "limit": 0}), guild.members),
        (json!({"guild_id": number(&id), "user_ids": [number(&user)]}), Some(1)),
        (json!({"guild_id": id, "user_ids": user}), Some(1)),
        (json!({"guild_id": id, "user_ids": number(&user)}), Some(1)),
    ] {
        for binary in [false, true] {
            let mut data = data.clone();
            // The longest nonce that Discord accepts, and the empty one.
            let nonce = if binary { "x".repeat(32) } else { String::new() };
            data["nonce"] = json!(nonce);
            let command = json!({"op": 8, "d": data, "compress": true}).to_string();
            if binary {
                client.gateway.send_binary(command.as_bytes()).expect("an open connection");
            } else {
                client.gateway.send_text(&command).expect("an open connection");
            }
            let chunk = client.gateway.receive().expect("an answer");
            assert_eq!(chunk.t.as_deref(), Some("GUILD_MEMBERS_CHUNK"), "to {command}");
            let chunk = chunk.data();
            let found = chunk["members"].as_array().expect("members").len() as u64;
            assert_eq!((Some(found), chunk["guild_id"].as_str()), (members, Some(id.as_str())), "to {command}");
            assert_eq!(chunk["nonce"], nonce, "to {command}");
        }
    }
}

#[test]
fn unknown_opcodes_reach_discord_and_presences_are_put_right() {
    let (simulator, proxy) = start("opcodes");
    let mut client = Client::identified(&proxy);
    let (id, _) = simulator.guilds(0).pop_last().expect("a guild");
    client.gateway.send(31, &json!({"guild_ids": [id]}));
    client.gateway.send(43, &json!({"guild_id": id, "fields": ["status"]}));
    client
        .gateway
        .send(4, &json!({"guild_id": id.parse::<u64>().expect("an id"), "channel_id": null, "self_mute": true}));
    client.gateway.send(3, &json!({"since": null, "activities": null, "status": "idle", "afk": false}));
    wait_until("the commands", || {
        let stats = simulator.shard_stats(0);
        let came = |op: &str| stats["commands"][op].as_u64().unwrap_or(0) > 0;
        if ["3", "4", "31", "43"].into_iter().all(came) { Ok(()) } else { Err(stats["commands"].to_string()) }
    });
    let stats = simulator.shard_stats(0);
    assert_eq!(stats["last_presence"]["activities"], json!([]), "null would end the session");
    assert_eq!(stats["last_presence"]["status"], "idle");
    // The connection still works.
    client.gateway.heartbeat(client.sequence);
    assert!((0..10).any(|_| client.gateway.receive().expect("an ACK").op == 11));
    assert_eq!(simulator.stats()["violations"], json!([]));
}

#[test]
fn a_payload_of_megabytes_is_one_message() {
    const SIZE: usize = 12 << 20;
    let (simulator, proxy) = start("megabytes");
    for transport in [Transport::None, Transport::Zlib, Transport::Zstd] {
        let mut client = Client::take(Gateway::connect(proxy.address, transport));
        let data = json!({"guild_id": "1", "text": "0123456789abcdef".repeat(SIZE / 16)}).to_string();
        simulator.dispatch(0, "SOMETHING_LARGE", &data);
        let event = client.gateway.receive().expect("the event");
        assert_eq!((event.t.as_deref(), event.s), (Some("SOMETHING_LARGE"), Some(client.sequence + 1)));
        assert!(event.d == data, "{} of {} bytes", event.d.len(), data.len());
    }
}

#[test]
fn a_guild_in_any_spelling_is_shown_and_one_that_is_no_json_is_counted() {
    let (simulator, proxy) = start("spellings");
    let id = simulator.guilds(0).pop_first().expect("a guild").0;
    let refused = || {
        let metrics = get(proxy.address, "/metrics").expect("metrics").body;
        let line = metrics.lines().find(|line| line.starts_with("gateway_cache_refused_guilds_total{shard=\"0\"}"));
        line.expect("the metric").rsplit(' ').next().expect("a value").to_owned()
    };
    assert_eq!(refused(), "0");
    let create = format!(
        r#"{{ "id" : "{id}", "name":"old", "memb\u0065rs": [{{"user": {{"id":"5","username":"x"}}, "roles" : []}}], "member_count": 1,
        "roles":[], "channels":[], "voice_states":[], "presences": [], "na\u006de" : "new" }}"#
    );
    simulator.dispatch(0, "GUILD_CREATE", &create);
    simulator.dispatch(0, "GUILD_CREATE", r#"{"id":"1","members":[{"user":{"id":"2"},"x":01}]}"#);
    wait_until("the broken guild", || if refused() == "1" { Ok(()) } else { Err(refused()) });
    let client = Client::identified(&proxy);
    let guild = client.guilds.iter().map(Payload::data).find(|guild| guild["id"] == *id).expect("the guild");
    assert_eq!((&guild["name"], &guild["members"][0]["user"]["username"]), (&json!("new"), &json!("x")));
}

#[test]
fn nobody_is_asked_for_heartbeats_before_ready() {
    let directory = scratch("patient");
    let discord = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let proxy = Proxy::spawn_before(&directory, discord, &json!({}), &[]);
    let mut gateway =
        wait_until("the port", || Gateway::open(proxy.address, Transport::None).map_err(|e| e.to_string()));
    assert_eq!(gateway.receive().expect("HELLO").op, 10);
    gateway.identify(SHARD, INTENTS);
    // Discord is down at first. The client waits, and gets READY when the shard is connected.
    gateway.set_patience(Duration::from_secs(2));
    assert_eq!(gateway.receive(), Err(Gone::Silent));
    gateway.heartbeat(0);
    assert_eq!(gateway.receive().expect("an ACK").op, 11);
    let simulator = Simulator::start_at(&directory, discord.port(), WORLD);
    gateway.set_patience(PATIENCE);
    assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
    assert_eq!(simulator.stats()["violations"], json!([]));
}
