//! Tests of what a shard saves when the proxy stops, and has again in the next process.

use super::*;

#[test]
fn requests_and_commands_survive_a_restart() {
    let mut world = World::ready(&[10, 11]);
    world.guild_create(10, 2500);
    world.dispatch("GUILD_CREATE", &json!({"id": "11", "member_count": 9000, "members": []}));
    let (mut asker, mut other) =
        (Client::identify(&mut world, 1, Intents::ALL), Client::identify(&mut world, 2, Intents::ALL));
    asker.catch_up(&mut world);
    other.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    // Discord is asked for one guild; the cache answers for the other, and the client gets the first chunk only.
    request(&mut world, &mut asker, &json!({"guild_id": "11", "query": "", "limit": 0, "nonce": "far"}));
    let nonce = sent_upstream(&mut world)[0]["d"]["nonce"].clone();
    request(&mut world, &mut asker, &json!({"guild_id": "10", "query": "", "limit": 0, "nonce": "near"}));
    assert!(asker.produce(&mut world).has_more());
    asker.read();
    // The next commands wait for a connection to Discord.
    world.shard.upstream_closed(world.now, Some(4000));
    for command in [r#"{"op":4,"d":{"guild_id":"10"}}"#, r#"{"op":3,"d":{"status":"idle"}}"#] {
        world.shard.command(world.now, other.key, other.connection, command.as_bytes(), &mut other.outbox).unwrap();
    }
    world.restart();
    world.leave(10, 10_000 + 2_400);
    world.dispatch("RESUMED", &json!({}));
    let commands: Vec<Value> = sent_upstream(&mut world).iter().map(|sent| sent["op"].clone()).collect();
    // The request was sent before, and its answer is not in the replay.
    assert_eq!(commands, [8, 3, 4]);
    world.dispatch(
        "GUILD_MEMBERS_CHUNK",
        &json!({"guild_id": "11", "members": [], "chunk_index": 0, "chunk_count": 1, "nonce": nonce}),
    );
    for (client, connection) in [(&mut asker, 3), (&mut other, 4)] {
        let sequence = client.sequence;
        assert!(client.resume(&mut world, connection, sequence));
    }
    let chunks = payloads(&mut asker, &mut world, "GUILD_MEMBERS_CHUNK");
    let told: Vec<Value> = chunks
        .iter()
        .map(|chunk| {
            json!([chunk["d"]["nonce"], chunk["d"]["chunk_index"], chunk["d"]["members"].as_array().unwrap().len()])
        })
        .collect();
    assert_eq!(json!(told), json!([["far", 0, 0], ["near", 1, 1000], ["near", 2, 499]]));
    assert!(payloads(&mut other, &mut world, "GUILD_MEMBERS_CHUNK").is_empty());
    assert!(asker.resumed && other.resumed);
    assert_eq!(asker.guilds[&10].0.len(), 2499);
}
