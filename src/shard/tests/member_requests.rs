//! Tests of Request Guild Members (op 8): when the cache answers, when Discord is asked, and which client gets the
//! answer.

use super::*;

#[test]
fn members_are_answered_to_the_asker_alone() {
    let mut world = World::ready(&[10]);
    world.guild_create(10, 2500);
    let (mut asker, mut other) =
        (Client::identify(&mut world, 1, Intents::ALL), Client::identify(&mut world, 2, Intents::ALL));
    asker.catch_up(&mut world);
    other.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    request(&mut world, &mut asker, &json!({"guild_id": 10, "query": "", "limit": 0, "nonce": "a"}));
    world.message(10, 1);
    assert!(world.shard.poll_upstream(world.now).is_none(), "Discord is not asked");
    let chunks = payloads(&mut asker, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!(
        chunks.iter().map(|chunk| chunk["d"]["members"].as_array().unwrap().len()).collect::<Vec<_>>(),
        [1000, 1000, 500]
    );
    assert!(chunks.iter().all(|chunk| chunk["d"]["nonce"] == "a"));
    assert!(payloads(&mut other, &mut world, "GUILD_MEMBERS_CHUNK").is_empty());
    assert_eq!((asker.messages.clone(), other.messages.clone()), (vec![1], vec![1]));
    // The last two chunks got lost. The client gets them again, after the events that it has lost.
    world.message(10, 2);
    let seen = chunks[0]["s"].as_u64().unwrap();
    world.shard.detach(world.now, asker.key, ConnectionId(1), false);
    asker.sequence = seen;
    assert!(asker.resume(&mut world, 3, seen));
    let again = payloads(&mut asker, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!(again.iter().map(|chunk| &chunk["d"]["chunk_index"]).collect::<Vec<_>>(), [1, 2]);
    assert!(asker.resumed);
    let beat = format!(r#"{{"op":1,"d":{}}}"#, asker.sequence);
    world.shard.command(world.now, asker.key, asker.connection, beat.as_bytes(), &mut asker.outbox).unwrap();
    world.shard.detach(world.now, asker.key, ConnectionId(3), false);
    let sequence = asker.sequence;
    assert!(asker.resume(&mut world, 4, sequence));
    assert!(payloads(&mut asker, &mut world, "GUILD_MEMBERS_CHUNK").is_empty(), "acknowledged");
}

#[test]
fn an_answer_outlives_an_outage_of_its_guild() {
    let mut world = World::ready(&[10, 11]);
    world.guild_create(10, 3);
    world.guild_create(11, 3);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    for guild in ["10", "11"] {
        request(&mut world, &mut client, &json!({"guild_id": guild, "query": "", "limit": 0, "nonce": guild}));
    }
    for guild in ["10", "11"] {
        world.dispatch("GUILD_DELETE", &json!({"id": guild, "unavailable": true}));
    }
    assert!(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK").is_empty());
    // One guild comes back with all members, the other one without, as Discord sends large guilds.
    world.guild_create(10, 2);
    let chunks = payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!((chunks.len(), chunks[0]["d"]["members"].as_array().unwrap().len()), (1, 2));
    world.dispatch("GUILD_CREATE", &json!({"id": "11", "member_count": 3, "members": []}));
    assert!(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK").is_empty());
    let asked = sent_upstream(&mut world);
    assert_eq!((asked.len(), &asked[0]["op"], &asked[0]["d"]["guild_id"]), (1, &json!(8), &json!("11")));
}

#[test]
fn what_the_cache_does_not_have_discord_answers_to_the_asker_alone() {
    let mut world = World::ready(&[10]);
    world.dispatch("GUILD_CREATE", &json!({"id": "10", "member_count": 9000, "members": []}));
    let mut clients = [1, 2].map(|connection| Client::identify(&mut world, connection, Intents::ALL));
    clients.iter_mut().for_each(|client| client.catch_up(&mut world));
    while world.shard.poll_upstream(world.now).is_some() {}
    for client in &mut clients {
        // Both clients use the same nonce.
        request(&mut world, client, &json!({"guild_id": "10", "query": "", "limit": 0, "nonce": "same"}));
    }
    let nonces: Vec<Value> = std::iter::from_fn(|| world.shard.poll_upstream(world.now))
        .map(|action| match action {
            Action::Send(payload) => serde_json::from_slice::<Value>(&payload).unwrap()["d"]["nonce"].clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_ne!(nonces[0], nonces[1]);
    for chunk in 0..2 {
        world.dispatch(
            "GUILD_MEMBERS_CHUNK",
            &json!({"guild_id": "10", "members": [], "chunk_index": chunk, "chunk_count": 2, "nonce": nonces[1]}),
        );
    }
    world.dispatch(
        "RATE_LIMITED",
        &json!({"opcode": 8, "retry_after": 3, "meta": {"guild_id": "10", "nonce": nonces[0]}}),
    );
    let [first, second] = &mut clients;
    let limited = payloads(first, &mut world, "RATE_LIMITED");
    assert_eq!(limited[0]["d"]["meta"]["nonce"], "same");
    assert_eq!(payloads(first, &mut world, "GUILD_MEMBERS_CHUNK").len(), 0);
    let chunks = payloads(second, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!(chunks.iter().map(|chunk| &chunk["d"]["nonce"]).collect::<Vec<_>>(), ["same", "same"]);
    // An answer to no known request goes to all clients.
    world.dispatch("GUILD_MEMBERS_CHUNK", &json!({"guild_id": "10", "members": [], "nonce": nonces[1]}));
    for client in &mut clients {
        assert_eq!(payloads(client, &mut world, "GUILD_MEMBERS_CHUNK").len(), 1);
    }
}

/// The requests for members that go to Discord now.
fn asked(world: &mut World) -> Vec<Value> {
    std::iter::from_fn(|| world.shard.poll_upstream(world.now))
        .filter_map(|action| match action {
            Action::Send(payload) => {
                serde_json::from_slice::<Value>(&payload).ok().filter(|payload| payload["op"] == 8)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn presences_are_for_who_has_the_intent() {
    let mut world = World::ready(&[10]);
    world.dispatch("PRESENCE_UPDATE", &json!({"guild_id": "10", "user": {"id": "10000"}, "status": "idle"}));
    world.dispatch("GUILD_CREATE", &json!({"id": "11", "member_count": 9000, "members": []}));
    for (connection, intents, has) in
        [(1, Intents::ALL, true), (2, Intents::ALL.without(Intents::GUILD_PRESENCES), false)]
    {
        let mut client = Client::identify(&mut world, connection, intents);
        client.catch_up(&mut world);
        asked(&mut world);
        request(&mut world, &mut client, &json!({"guild_id": "10", "query": "", "limit": 0, "presences": true}));
        let chunks = payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK");
        assert_eq!(chunks[0]["d"].get("presences").is_some(), has, "{intents:?}");
        request(&mut world, &mut client, &json!({"guild_id": "11", "query": "", "limit": 0, "presences": true}));
        assert_eq!(asked(&mut world)[0]["d"].get("presences").is_some(), has, "{intents:?}");
    }
}

#[test]
fn without_the_intent_for_members_discord_is_asked() {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    let settings = Rc::get_mut(&mut world.shard.settings).unwrap();
    settings.intents = Intents::ALL.without(Intents::GUILD_MEMBERS).0;
    world.connect(&[10]);
    world.guild_create(10, 3);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    asked(&mut world);
    // Discord does not say who has left, so the cache can not answer.
    request(&mut world, &mut client, &json!({"guild_id": "10", "user_ids": ["10000"]}));
    assert_eq!(asked(&mut world).len(), 1);
}

#[test]
fn a_nonce_is_not_that_of_another_process() {
    let nonces = [1, 2].map(|seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let entropy = Box::new(move |bytes: &mut [u8]| random.fill(bytes));
        let identity = Identity { identify: b"{}".to_vec(), token: "t".into() };
        let settings = settings(Limits { bytes: 1 << 20, entries: 100 });
        let id = ShardId { id: 0, count: 1 };
        let shard = Shard::new(id, settings, identity, "ws://discord".into(), None, entropy);
        let mut world = World::of(shard);
        world.connect(&[10]);
        let mut client = Client::identify(&mut world, 1, Intents::ALL);
        client.catch_up(&mut world);
        request(&mut world, &mut client, &json!({"guild_id": "10", "query": "", "limit": 0}));
        asked(&mut world)[0]["d"]["nonce"].as_str().unwrap().to_owned()
    });
    assert_ne!(nonces[0], nonces[1]);
    assert!(nonces.iter().all(|nonce| nonce.len() <= 32), "{nonces:?}");
}
