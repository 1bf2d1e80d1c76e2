//! An operator repairs one shard.

use crate::{HTTP_TOKEN, ask, client, run, start, status, text};
use serde_json::json;
use support::{PATIENCE, Transport, scratch_path, wait_until};

#[test]
fn a_shard_is_repaired_without_touching_the_others() {
    let (simulator, proxy) = start("repair", &json!({"http_token": HTTP_TOKEN}));
    let directory = scratch_path("repair");
    let mut gateways = [0, 1].map(|shard| client(&proxy, (shard, 2), Transport::None));
    let count = |shard: u32, what: &str| simulator.shard_stats(shard)[what].as_u64().expect("a count");
    // A new connection: the shard resumes its session, and its clients notice nothing.
    let output = run(&directory, &["shard", "1", "reconnect"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "shard 1 reconnects and resumes its session\n");
    wait_until("the RESUME of shard 1", || match (count(1, "resumes"), count(1, "identifies")) {
        (1, 1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    simulator.emit(1, 1);
    assert_eq!(gateways[1].receive().expect("the next event").t.as_deref(), Some("MESSAGE_CREATE"));
    // A new session: the shard spends an IDENTIFY, and its clients get Invalid Session.
    let output = run(&directory, &["shard", "1", "identify"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    gateways[1].set_patience(PATIENCE);
    assert_eq!(gateways[1].receive().expect("Invalid Session").op, 9);
    assert_eq!((count(1, "identifies"), count(0, "identifies"), count(0, "resumes")), (2, 1, 0));
    simulator.emit(0, 1);
    assert_eq!(gateways[0].receive().expect("the next event").t.as_deref(), Some("MESSAGE_CREATE"));
    assert_eq!(simulator.stats()["violations"], json!([]));
    let document = ask(proxy.address, "GET", "/status.json?shard=1", Some(HTTP_TOKEN)).json();
    assert_eq!(document["shard"]["reconnects"], json!({"by_hand": 2}));
    let feed = document["feed"].to_string();
    assert!(
        feed.contains("an operator makes it reconnect") && feed.contains("an operator makes it begin a new session")
    );
}

#[test]
fn a_shard_is_repaired_only_by_who_has_the_token() {
    let (simulator, proxy) = start("repair_refused", &json!({}));
    let answer = ask(proxy.address, "POST", "/admin/shards/0/identify", Some(HTTP_TOKEN));
    assert_eq!((answer.status, answer.body.contains("`http_token`")), (403, true), "{}", answer.body);
    let directory = scratch_path("repair_refused");
    let output = run(&directory, &["shard", "0", "identify"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("only with `http_token`"), "{}", text(&output.stderr));
    let (simulator_2, proxy_2) = start("repair_token", &json!({"http_token": HTTP_TOKEN}));
    for (path, token, expected) in [
        ("/admin/shards/0/identify", None, 401),
        ("/admin/shards/0/identify", Some("wrong"), 401),
        ("/admin/shards/2/identify", Some(HTTP_TOKEN), 404),
        ("/admin/shards/0/explode", Some(HTTP_TOKEN), 405),
        ("/admin/shards/x/identify", Some(HTTP_TOKEN), 405),
    ] {
        assert_eq!(ask(proxy_2.address, "POST", path, token).status, expected, "{path} with {token:?}");
    }
    assert_eq!(ask(proxy_2.address, "GET", "/admin/shards/0/identify", Some(HTTP_TOKEN)).status, 405);
    assert_eq!((simulator.identifies(), simulator_2.identifies()), (2, 2));
    assert_eq!(status(proxy.address)["states"]["active"], 2);
}
