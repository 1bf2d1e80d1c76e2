//! Tests of requests for all members: after which answers from Discord the cache can answer the next request.

use super::*;

/// A shard with a large guild, of whose members it knows one, and a client.
fn large() -> (World, Client) {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    world.connect(&[10]);
    world.dispatch(
        "GUILD_CREATE",
        &json!({"id": "10", "large": true, "member_count": 4, "members": [member(1)], "channels": [], "voice_states": []}),
    );
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    (world, client)
}

fn member(id: u64) -> Value {
    json!({"user": {"id": id.to_string(), "username": "somebody"}, "roles": [], "joined_at": "2020-01-01T00:00:00+00:00"})
}

/// Sends a request of the client. Returns the nonce if the request goes to Discord, or as an error the number of
/// members with which the cache answers.
fn ask(world: &mut World, client: &mut Client, data: Value) -> Result<Value, usize> {
    request(world, client, &data);
    match &sent_upstream(world)[..] {
        [] => {
            let chunks = payloads(client, world, "GUILD_MEMBERS_CHUNK");
            Err(chunks.iter().map(|chunk| chunk["d"]["members"].as_array().unwrap().len()).sum())
        }
        [sent] => Ok(sent["d"]["nonce"].clone()),
        more => panic!("{more:?}"),
    }
}

fn all() -> Value {
    json!({"guild_id": "10", "query": "", "limit": 0})
}

fn chunk(world: &mut World, nonce: &Value, ids: [u64; 2], index: u64, count: u64) {
    let members = ids.map(member);
    world.dispatch(
        "GUILD_MEMBERS_CHUNK",
        &json!({"guild_id": "10", "members": members, "chunk_index": index, "chunk_count": count, "nonce": nonce}),
    );
}

#[test]
fn guests_in_voice_do_not_stand_for_members() {
    let (mut world, mut client) = large();
    for user in ["951", "952", "953"] {
        let guest = json!({"user": {"id": user, "username": "g"}, "roles": [], "joined_at": null, "flags": 16});
        let state = json!({"guild_id": "10", "user_id": user, "channel_id": "202", "session_id": "x", "member": guest});
        world.dispatch("VOICE_STATE_UPDATE", &state);
    }
    let nonce = ask(&mut world, &mut client, all()).expect("Discord is asked");
    chunk(&mut world, &nonce, [1, 2], 0, 2);
    let second = ask(&mut world, &mut client, all()).expect("half of the answer is not there yet");
    assert_ne!(nonce, second);
    chunk(&mut world, &nonce, [3, 4], 1, 2);
    assert_eq!(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK").len(), 2);
    assert_eq!(ask(&mut world, &mut client, all()), Err(7), "four members and three guests");
}

#[test]
fn answers_to_other_requests_and_broken_ones_do_not_count() {
    let (mut world, mut client) = large();
    for data in [
        json!({"guild_id": "10", "query": "s", "limit": 0}),
        json!({"guild_id": "10", "query": "", "limit": 4}),
        json!({"guild_id": "10", "user_ids": ["1", "2"]}),
    ] {
        let nonce = ask(&mut world, &mut client, data).expect("Discord is asked");
        chunk(&mut world, &nonce, [1, 2], 0, 2);
        chunk(&mut world, &nonce, [3, 4], 1, 2);
        assert!(ask(&mut world, &mut client, all()).is_ok());
    }
    let nonce = ask(&mut world, &mut client, all()).expect("Discord is asked");
    chunk(&mut world, &nonce, [1, 2], 0, 3);
    chunk(&mut world, &nonce, [3, 4], 2, 3);
    let nonce = ask(&mut world, &mut client, all()).expect("one chunk is missing");
    chunk(&mut world, &nonce, [1, 2], 0, 2);
    // Discord skips a sequence, and the skipped event may have been about a member.
    world.sequence += 1;
    chunk(&mut world, &nonce, [3, 4], 1, 2);
    let nonce = ask(&mut world, &mut client, all()).expect("an event is missing");
    chunk(&mut world, &nonce, [1, 2], 0, 2);
    chunk(&mut world, &nonce, [3, 4], 1, 2);
    payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!(ask(&mut world, &mut client, all()), Err(4));
    world.sequence += 1;
    world.message(10, 1);
    assert!(ask(&mut world, &mut client, all()).is_ok(), "an event is missing again");
}

#[test]
fn what_is_known_survives_a_restart_and_not_a_lost_session() {
    let (mut world, mut client) = large();
    let nonce = ask(&mut world, &mut client, all()).expect("Discord is asked");
    chunk(&mut world, &nonce, [1, 2], 0, 1);
    world.restart();
    world.dispatch("RESUMED", &json!({}));
    let mut client = Client::identify(&mut world, 2, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    assert_eq!(ask(&mut world, &mut client, all()), Err(2));
    // A restart in the middle of an answer makes the cache ask again.
    world.dispatch("GUILD_CREATE", &json!({"id": "10", "large": true, "member_count": 4, "members": [member(1)]}));
    let nonce = ask(&mut world, &mut client, all()).expect("Discord is asked");
    chunk(&mut world, &nonce, [1, 2], 0, 2);
    world.restart();
    world.dispatch("RESUMED", &json!({}));
    chunk(&mut world, &nonce, [3, 4], 1, 2);
    let mut client = Client::identify(&mut world, 3, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    assert!(ask(&mut world, &mut client, all()).is_ok());
}
