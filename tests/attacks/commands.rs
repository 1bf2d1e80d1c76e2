//! Attacks with commands for which Discord closes the shard's connection. All clients of the shard lose that
//! connection.

use super::*;
use support::{Gone, wait_until};

/// A client that has got READY and all guilds.
fn synced(proxy: &Proxy) -> Gateway {
    let mut gateway = identified(proxy, 1);
    for _ in 0..4 {
        assert_eq!(gateway.receive().expect("a guild").t.as_deref(), Some("GUILD_CREATE"));
    }
    gateway
}

fn end_of(gateway: &mut Gateway) -> Gone {
    loop {
        if let Err(gone) = gateway.receive() {
            return gone;
        }
    }
}

/// An earlier version forwarded any command. A client could make Discord close the shard with 4001 or 4002 again after
/// each RESUME, so that the shard stayed down.
#[test]
fn bad_commands_are_their_senders_matter() {
    let (simulator, proxy) = start_with("bad_commands", &json!({}));
    let mut good = synced(&proxy);
    for op in [5, 12, 44, 99, 1_000_000] {
        // The proxy drops an unknown op and keeps the client, because one library never reconnects after 4001.
        let mut bad = synced(&proxy);
        bad.send(op, &json!({"guild_id": "1"}));
        bad.heartbeat(1);
        assert_eq!(bad.receive().expect("an acknowledgement").op, 11);
    }
    for (op, data) in [
        (8, json!({"guild_id": {}, "query": "", "limit": 0})),
        (8, json!({"guild_id": "1", "limit": 0})),
        (8, json!("x")),
        (4, json!({"guild_id": "x", "channel_id": null})),
        (3, json!({"activities": [{"name": 5}], "status": "online"})),
        (31, json!({"guild_ids": {}})),
        (43, json!({"guild_id": "1", "fields": 1})),
    ] {
        let mut bad = synced(&proxy);
        bad.send(op, &data);
        let gone = end_of(&mut bad);
        assert!(
            matches!(&gone, Gone::Closed(Some(4002), reason) if reason.starts_with(&format!("op {op}"))),
            "{gone:?}"
        );
    }
    let (first, _) = simulator.emit(0, 1);
    while good.receive().expect("an event").number() != Some(first) {}
    assert_eq!((simulator.resumes(), simulator.identifies()), (0, 1), "the shard has kept its connection");
    assert_eq!(simulator.stats()["violations"], json!([]));
    counted(&proxy, "gateway_shard_commands_unknown_total", 5.0);
}

/// Waits until a counter of shard 0 has a value. The values in `/metrics` can be one second old.
fn counted(proxy: &Proxy, name: &str, expected: f64) {
    wait_until(name, || {
        let value = metric(proxy, &format!("{name}{{shard=\"0\"}}"));
        if value == expected { Ok(()) } else { Err(format!("{value} instead of {expected}")) }
    });
}

/// Some bad commands only Discord detects. Then the proxy closes the client that sent the command, and the shard
/// resumes at once, however often this happens.
#[test]
fn who_makes_discord_close_the_shard_is_closed() {
    let (simulator, proxy) = start_with("culprit", &json!({}));
    let mut good = synced(&proxy);
    for round in 1..=6 {
        let mut bad = synced(&proxy);
        let before = simulator.shard_stats(0)["commands"]["31"].as_u64().unwrap_or(0);
        bad.send(31, &json!({"guild_ids": ["1"]}));
        wait_until("the command at Discord", || {
            let sent = simulator.shard_stats(0)["commands"]["31"].as_u64().unwrap_or(0);
            if sent > before { Ok(()) } else { Err(format!("{sent}")) }
        });
        let code = if round % 2 == 0 { 4001 } else { 4002 };
        simulator.fault(&format!("drop?shard=0&code={code}"));
        let gone = end_of(&mut bad);
        assert!(matches!(gone, Gone::Closed(Some(with), _) if with == code), "{gone:?}");
        wait_until("the shard to be back", || {
            let resumes = simulator.resumes();
            if resumes >= round { Ok(()) } else { Err(format!("{resumes} RESUMEs")) }
        });
        assert_eq!(simulator.shard_stats(0)["commands"]["31"].as_u64(), Some(before + 1), "it is not sent again");
    }
    let (first, _) = simulator.emit(0, 1);
    while good.receive().expect("an event").number() != Some(first) {}
    counted(&proxy, "gateway_shard_commands_refused_total", 6.0);
    assert_eq!(simulator.identifies(), 1);
}
