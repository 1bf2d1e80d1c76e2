//! Denied events are not sent to clients, and compression can be turned off.

use crate::{INTENTS, client, start, status};
use serde_json::{Value, json};
use support::{Encoding, Gateway, Options, Transport, wait_until};

/// The types of the events before the next message.
fn kinds_until_message(gateway: &mut Gateway) -> Vec<String> {
    let mut kinds = Vec::new();
    loop {
        let payload = gateway.receive().expect("an event");
        let kind = payload.t.expect("a dispatch");
        if kind == "MESSAGE_CREATE" {
            return kinds;
        }
        kinds.push(kind);
    }
}

#[test]
fn denied_events_reach_the_cache_and_no_client() {
    let (simulator, proxy) = start(
        "denied",
        &json!({"events": {"deny": ["TYPING_START", "CHANNEL_UPDATE", "PRESENCE_UPDATE", "NEW_EVENT"]}}),
    );
    let mut gateway = client(&proxy, (0, 2), Transport::None);
    let guild = simulator.guilds(0).keys().next().expect("a guild").clone();
    let truth = simulator.guild(&guild);
    let mut channel = truth["channels"][0].clone();
    channel["guild_id"] = guild.clone().into();
    channel["name"] = "renamed-and-denied".into();
    let user = truth["members"][0]["user"]["id"].clone();
    let presence =
        json!({"guild_id": guild, "user": {"id": user}, "status": "dnd", "activities": [], "client_status": {}});
    for (name, data) in [
        ("TYPING_START", json!({"channel_id": "1", "user_id": "2", "timestamp": 3})),
        ("CHANNEL_UPDATE", channel),
        ("PRESENCE_UPDATE", presence),
        ("NEW_EVENT", json!({})),
        ("ANOTHER_NEW_EVENT", json!({})),
    ] {
        simulator.dispatch(0, name, &data.to_string());
    }
    simulator.emit(0, 1);
    assert_eq!(kinds_until_message(&mut gateway), ["ANOTHER_NEW_EVENT"]);
    // Denied events take no sequence number: READY, four guilds and two events are numbered without a gap.
    simulator.emit(0, 1);
    assert_eq!(gateway.receive().expect("a message").s, Some(8));
    // A client that identifies now gets guilds in which the denied events are applied.
    let mut late = Gateway::connect(proxy.address, Transport::None);
    late.identify((0, 2), INTENTS);
    let ready = late.receive().expect("READY").data();
    let mut shown: Option<Value> = None;
    for _ in ready["guilds"].as_array().expect("guilds") {
        let data = late.receive().expect("a guild").data();
        if data["id"] == guild.as_str() {
            shown = Some(data);
        }
    }
    let shown = shown.expect("the guild");
    let names: Vec<&str> =
        shown["channels"].as_array().expect("channels").iter().filter_map(|channel| channel["name"].as_str()).collect();
    assert!(names.contains(&"renamed-and-denied"), "{names:?}");
    let presences = shown["presences"].as_array().expect("presences");
    assert!(presences.iter().any(|of| of["user"]["id"] == user && of["status"] == "dnd"), "{presences:?}");
    wait_until("the count of what was denied", || match &status(proxy.address)["totals"]["events_denied"] {
        denied if *denied == 4 => Ok(()),
        denied => Err(denied.to_string()),
    });
}

#[test]
fn a_lagging_client_and_a_resume_miss_nothing_but_what_is_denied() {
    let (simulator, proxy) = start("denied_resume", &json!({"events": {"deny": ["TYPING_START"]}}));
    let mut gateway = Gateway::connect(proxy.address, Transport::Zlib);
    gateway.identify((0, 2), INTENTS);
    let session = gateway.receive().expect("READY").data()["session_id"].as_str().expect("an id").to_owned();
    for _ in 0..4 {
        gateway.receive().expect("a guild");
    }
    drop(gateway);
    for _ in 0..3 {
        simulator.emit(0, 2);
        simulator.dispatch(0, "TYPING_START", r#"{"channel_id":"1","user_id":"2","timestamp":3}"#);
    }
    let mut gateway = Gateway::connect(proxy.address, Transport::Zlib);
    gateway.resume(&session, 5);
    // Events that reach the proxy after the RESUME come after RESUMED, which has a sequence number too.
    let (mut numbers, mut sequences, mut resumed) = (Vec::new(), Vec::new(), false);
    while numbers.len() < 6 || !resumed {
        let payload = gateway.receive().expect("the replay, and what comes after it");
        sequences.push(payload.s.expect("a sequence"));
        match payload.t.as_deref() {
            Some("RESUMED") => resumed = true,
            Some("MESSAGE_CREATE") => numbers.push(payload.number().expect("a number")),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(numbers, (numbers[0]..numbers[0] + 6).collect::<Vec<_>>());
    assert_eq!(sequences, (6..13).collect::<Vec<_>>());
}

#[test]
fn without_client_compression_everybody_gets_text() {
    let (simulator, proxy) = start("uncompressed", &json!({"client_compression": false}));
    for asked in ["zlib-stream", "zstd-stream"] {
        // The URL asks for compression; the options say that the test expects none.
        let target = format!("/?v=10&encoding=json&compress={asked}");
        let mut gateway = Gateway::open_at(proxy.address, &target, Options::default(), b"").expect("a connection");
        assert_eq!(gateway.receive().expect("HELLO, as text").op, 10);
        gateway.send(
            2,
            &json!({"token": support::TOKEN, "intents": INTENTS, "shard": [0, 2], "properties": {}, "compress": true}),
        );
        let guilds = gateway.receive().expect("READY, as text").data()["guilds"].as_array().expect("guilds").len();
        for _ in 0..guilds {
            gateway.receive().expect("a guild, as text");
        }
        assert_eq!(gateway.packed, 0, "no payload is compressed by itself either");
        simulator.emit(0, 1);
        assert_eq!(gateway.receive().expect("an event, as text").t.as_deref(), Some("MESSAGE_CREATE"));
        wait_until("a client without compression", || match &status(proxy.address)["clients"][0]["compression"] {
            compression if compression == "none" => Ok(()),
            compression => Err(compression.to_string()),
        });
    }
    // An ETF client still gets ETF, without compression.
    let options = Options { encoding: Encoding::Etf, ..Options::default() };
    let mut gateway = Gateway::open_at(proxy.address, "/?v=10&encoding=etf&compress=zlib-stream", options, b"")
        .expect("a connection");
    assert_eq!(gateway.receive().expect("HELLO, as a term").op, 10);
}
