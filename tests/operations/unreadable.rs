//! What Discord sends and the proxy can not read: a payload costs a RESUME, an event that the cache can not take costs
//! nothing, and metrics count both.

use crate::{client, metrics, start, status};
use serde_json::{Value, json};
use support::{Gateway, Proxy, Simulator, Transport, wait_until};

/// A series of `/metrics`: its name, its labels, its value.
type Series<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// Waits until series of `/metrics` have these values; a series that is not there is 0.
fn wait_for(proxy: &Proxy, expected: &[Series<'_>]) {
    wait_until("the metrics", || {
        let (_, families) = metrics::scrape(proxy);
        let found: Vec<f64> =
            expected.iter().map(|(name, labels, _)| metrics::value(&families, name, labels).unwrap_or(0.0)).collect();
        let wanted: Vec<f64> = expected.iter().map(|(.., value)| *value).collect();
        if found == wanted { Ok(()) } else { Err(format!("{found:?} instead of {wanted:?}")) }
    });
}

/// A client of shard 0 that has got READY and all guilds.
fn watch(proxy: &Proxy) -> Gateway {
    client(proxy, (0, 2), Transport::None)
}

/// Sends a numbered message on shard 0, and checks that it is the next thing that the client gets.
fn check_next(simulator: &Simulator, gateway: &mut Gateway) {
    let (number, _) = simulator.emit(0, 1);
    assert_eq!(gateway.receive().expect("a message").number(), Some(number));
}

#[test]
fn an_event_that_the_cache_can_not_take_is_relayed_and_counted() {
    let (simulator, proxy) = start("unreadable_event", &json!({}));
    let mut gateway = watch(&proxy);
    let guild = simulator.guilds(0).keys().next().expect("a guild").clone();
    let events = [
        ("GUILD_STICKERS_UPDATE", json!({"guild_id": guild, "stickers": 5})),
        ("GUILD_ROLE_CREATE", json!({"guild_id": guild, "role": "a name"})),
        ("GUILD_MEMBER_ADD", json!({"guild_id": guild, "user": {}})),
        ("CHANNEL_UPDATE", json!({"guild_id": guild, "id": {}})),
        ("CHANNEL_UPDATE", json!([])),
        ("THREAD_DELETE", json!({"guild_id": "1", "id": "2"})),
    ];
    for (name, data) in &events {
        simulator.dispatch(0, name, &data.to_string());
    }
    // Each event comes as it was, in order, and what follows comes too.
    for (name, data) in &events {
        let event = gateway.receive().expect("an event");
        assert_eq!((event.t.as_deref(), event.data()), (Some(*name), data.clone()));
    }
    check_next(&simulator, &mut gateway);
    wait_for(
        &proxy,
        &[
            ("gateway_cache_ignored_total", &[("shard", "0")], events.len() as f64),
            ("gateway_cache_ignored_total", &[("shard", "1")], 0.0),
            ("gateway_cache_refused_guilds_total", &[("shard", "0")], 0.0),
            ("gateway_shard_malformed_total", &[("shard", "0")], 0.0),
            ("gateway_shard_reconnects_total", &[("shard", "0")], 0.0),
        ],
    );
    // A client that identifies now gets the guild as Discord knows it.
    let mut late = Gateway::connect(proxy.address, Transport::None);
    late.identify((0, 2), crate::INTENTS);
    let guilds = late.receive().expect("READY").data()["guilds"].as_array().expect("guilds").len();
    let shown: Vec<Value> = (0..guilds).map(|_| late.receive().expect("a guild").data()).collect();
    let shown = shown.into_iter().find(|shown| shown["id"] == guild.as_str()).expect("the guild");
    let truth = simulator.guild(&guild);
    for key in ["stickers", "roles", "channels", "member_count"] {
        assert_eq!(shown[key], truth[key], "{key}");
    }
}

/// The frames of a WebSocket from Discord that a shard with this compression can not read.
fn unreadable(compression: &str) -> [(&'static str, &'static [u8]); 2] {
    match compression {
        "none" => [("a text that is no payload", b"\x81\x02{]"), ("a reserved opcode", b"\x83\x01x")],
        _ => [("bytes that are no stream", b"\x82\x04\xde\xad\xbe\xef"), ("a reserved opcode", b"\x83\x01x")],
    }
}

#[test]
fn a_payload_that_can_not_be_read_costs_a_resume_and_is_the_reason() {
    for compression in ["zstd-stream", "zlib-stream", "none"] {
        let (simulator, proxy) =
            start(&format!("unreadable_{compression}"), &json!({"upstream_compression": compression}));
        let mut gateway = watch(&proxy);
        for (count, (what, bytes)) in (1..).zip(unreadable(compression)) {
            simulator.put_on_wire(0, bytes);
            wait_until(what, || match simulator.shard_stats(0)["resumes"].as_u64() {
                Some(resumes) if resumes == count => Ok(()),
                other => Err(format!("{other:?}")),
            });
            check_next(&simulator, &mut gateway);
        }
        wait_for(
            &proxy,
            &[
                ("gateway_shard_reconnects_total", &[("shard", "0"), ("reason", "unreadable")], 2.0),
                ("gateway_shard_reconnects_total", &[("shard", "1")], 0.0),
                // The bytes of a violated protocol are no payload.
                ("gateway_shard_malformed_total", &[("shard", "0")], f64::from(u8::from(compression == "none"))),
                ("gateway_cache_ignored_total", &[("shard", "0")], 0.0),
            ],
        );
        let details = crate::ask(proxy.address, "GET", "/status.json?shard=0", None).json()["shard"].clone();
        assert_eq!(details["reconnects"], json!({"unreadable": 2}), "{details}");
        assert_eq!(details["last_loss"]["reason"], "unreadable", "{details}");
        assert_eq!((simulator.identifies(), status(proxy.address)["totals"]["reconnects"].clone()), (2, json!(2)));
    }
}
