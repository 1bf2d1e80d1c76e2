//! Tests of READY and of the guilds that it announces: what a client is sent first, and when.

use super::*;
use crate::downstream::session::session_in;

#[test]
fn ready_is_discords_with_the_proxys_own_in_it() {
    let mut world = World::ready(&[10, 20]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.produce(&mut world);
    let text = String::from_utf8_lossy(client.outbox.pending());
    let ready: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    assert!(text.contains(r#"{"t":"READY","s":1,"op":0,"d":{"v":10,"#));
    let data = &ready["d"];
    // The client is the only one, so its READY has Discord's id of the session.
    assert_eq!(data["session_id"], "up");
    let url = data["resume_gateway_url"].as_str().unwrap();
    assert!(url.starts_with("ws://proxy/r/") && session_in(url).is_some(), "{url}");
    assert_eq!(data["shard"], json!([0, 1]));
    assert_eq!(data["guilds"], json!([{"id": "10", "unavailable": true}, {"id": "20", "unavailable": true}]));
    assert_eq!((&data["user"]["username"], &data["new_key"]), (&json!("bot"), &json!([1])));
    assert_eq!((&data["private_channels"], &data["application"]["id"]), (&json!([]), &json!("1")));
    assert_eq!(data.as_object().unwrap().keys().filter(|key| *key == "session_id").count(), 1);
}

#[test]
fn a_client_waits_for_the_first_ready() {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    assert_eq!(client.produce(&mut world), Progress::Idle);
    world.connect(&[10]);
    client.catch_up(&mut world);
    assert_eq!((client.announced.clone(), client.guilds.len()), (vec![10], 0));
    world.guild_create(10, 3);
    client.catch_up(&mut world);
    assert_eq!(client.guilds[&10].1, 3);
}

#[test]
fn a_guild_that_is_down_is_answered() {
    let mut world = World::ready(&[10, 20]);
    world.dispatch("GUILD_DELETE", &json!({"id": "20", "unavailable": true}));
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    assert_eq!((client.announced.clone(), client.sequence), (vec![10, 20], 3), "READY, GUILD_CREATE, GUILD_DELETE");
    world.guild_create(20, 2);
    client.catch_up(&mut world);
    assert_eq!(client.guilds[&20].1, 2);
}

#[test]
fn a_ready_in_another_spelling_is_the_same_to_clients() {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    world.shard.tick(world.now);
    while world.shard.poll_upstream(world.now).is_some() {}
    world.shard.upstream_connected(world.now);
    world.feed(r#"{ "op" : 10 , "d" : { "heartbeat_interv\u0061l" : 40000 } }"#);
    world.shard.upstream_permitted(world.now);
    world.feed(
        r#"{"s": 1, "op": 0, "t": "READ\u0059", "d": {"session_id": "old", "us\u0065r": {"id": "1", "username": "no"},
        "guilds": [], "v": 10, "guilds": [{"id": "10", "unavailable": true}], "session\u005fid": "up", "resume_gateway_url": "ws://r",
        "user": {"id": "\u0037\u0037", "username": "bot"}, "application": {"id": "1"}}}"#,
    );
    world.sequence = 1;
    world.feed(r#"{"s": 2, "op": 0, "t": "GUILD_CREATE", "d": {"id": "10", "member_count": 1, "memb\u0065rs": [ {"user" : {"id" :"77"}} ]}}"#);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    let ready = payloads(&mut client, &mut world, "READY");
    assert_eq!(ready[0]["d"]["user"], json!({"id": "77", "username": "bot"}));
    assert_eq!(ready[0]["d"]["guilds"], json!([{"id": "10", "unavailable": true}]));
    assert_eq!(world.shard.upstream.resumption().map(|resumption| resumption.session_id.as_str()), Some("up"));
}
