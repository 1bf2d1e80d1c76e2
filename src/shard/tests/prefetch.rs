//! Tests of the prefetch of members: the shard asks for members by itself, and clients notice nothing of it.

use super::*;
use crate::shard::prefetch::{AGAIN, ANSWER_LIMIT, PACE, TRIES};

/// A shard that asks for members, with guilds of three members each, of whom Discord has sent one.
fn fetching(guilds: &[u64]) -> World {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    let settings = Settings { prefetch_members: true, ..Settings::clone(world.shard.settings()) };
    world.shard.settings = Rc::new(settings);
    world.connect(guilds);
    for guild in guilds {
        large(&mut world, *guild);
    }
    while world.shard.poll_upstream(world.now).is_some() {}
    world
}

fn large(world: &mut World, guild: u64) {
    let member = json!({"user": {"id": "1", "username": "x"}, "roles": [], "joined_at": "2020-01-01T00:00:00+00:00"});
    world.dispatch(
        "GUILD_CREATE",
        &json!({"id": guild.to_string(), "large": true, "member_count": 3, "members": [member], "channels": [], "voice_states": []}),
    );
}

/// Lets time pass. Returns the guilds that the shard asks for, each with the time and the nonce.
fn pass(world: &mut World, time: Duration) -> Vec<(Time, u64, Value)> {
    let end = world.now + time;
    let mut asked = Vec::new();
    loop {
        world.shard.tick(world.now);
        for sent in sent_upstream(world).into_iter().filter(|sent| sent["op"] == 8) {
            let data = &sent["d"];
            assert_eq!((&data["query"], &data["limit"], &data["presences"]), (&json!(""), &json!(0), &json!(true)));
            asked.push((world.now, data["guild_id"].as_str().unwrap().parse().unwrap(), data["nonce"].clone()));
        }
        world.now += Duration::from_millis(250);
        if world.now > end {
            return asked;
        }
        // Discord acknowledges heartbeats.
        world.feed(r#"{"op":11}"#);
    }
}

fn answer(world: &mut World, guild: u64, nonce: &Value) {
    for index in 0..2 {
        let members: Vec<Value> = (0..2 - index)
            .map(|user| json!({"user": {"id": (10 * index + user + 1).to_string(), "username": "x"}, "roles": [], "joined_at": "2020-01-01T00:00:00+00:00"}))
            .collect();
        world.dispatch(
            "GUILD_MEMBERS_CHUNK",
            &json!({"guild_id": guild.to_string(), "members": members, "chunk_index": index, "chunk_count": 2, "nonce": nonce}),
        );
    }
}

fn all(guild: u64) -> Value {
    json!({"guild_id": guild.to_string(), "query": "", "limit": 0, "nonce": "mine"})
}

#[test]
fn guilds_are_asked_for_one_after_the_other_and_clients_see_nothing() {
    let mut world = fetching(&[10, 20, 30]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    let mut times = Vec::new();
    for guild in [10, 20, 30] {
        let asked = pass(&mut world, PACE * 2);
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!(asked[0].1, guild);
        times.push(asked[0].0);
        answer(&mut world, guild, &asked[0].2);
    }
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= PACE), "{times:?}");
    let asked = pass(&mut world, Duration::from_secs(60));
    assert_eq!(asked, []);
    assert_eq!(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK"), [] as [Value; 0]);
    let report = world.shard.report();
    assert_eq!((report.prefetch_waiting, report.prefetched), (0, 3));
    // From then on the cache answers.
    request(&mut world, &mut client, &all(20));
    assert_eq!(sent_upstream(&mut world), [] as [Value; 0]);
    let chunks = payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!((chunks.len(), chunks[0]["d"]["members"].as_array().unwrap().len()), (1, 3));
}

#[test]
fn a_client_that_asks_meanwhile_gets_the_answer_of_the_cache() {
    let mut world = fetching(&[10, 20]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    let asked = pass(&mut world, PACE);
    assert_eq!(asked[0].1, 10);
    request(&mut world, &mut client, &all(10));
    assert_eq!(sent_upstream(&mut world), [] as [Value; 0], "a second request would be refused");
    assert_eq!(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK"), [] as [Value; 0]);
    answer(&mut world, 10, &asked[0].2);
    let chunks = payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!((chunks.len(), &chunks[0]["d"]["nonce"]), (1, &json!("mine")));
    // A guild that a client has asked for is left alone for a while, and not asked for when it is complete.
    request(&mut world, &mut client, &all(20));
    let sent = sent_upstream(&mut world);
    assert_eq!((sent.len(), &sent[0]["d"]["guild_id"]), (1, &json!("20")));
    assert_eq!(pass(&mut world, AGAIN - PACE), []);
    answer(&mut world, 20, &sent[0]["d"]["nonce"]);
    assert_eq!(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK").len(), 2);
    assert_eq!(pass(&mut world, AGAIN * 2), []);
}

/// The proxy is restarted while a client's request waits for the answer to the proxy's own request.
#[test]
fn a_request_that_waits_is_answered_by_the_next_process() {
    for answered in [true, false] {
        for prefetch_members in [true, false] {
            let mut world = fetching(&[10]);
            let mut client = Client::identify(&mut world, 1, Intents::ALL);
            client.catch_up(&mut world);
            let asked = pass(&mut world, PACE);
            request(&mut world, &mut client, &all(10));
            assert_eq!(sent_upstream(&mut world), [] as [Value; 0], "it waits");
            world.shard.detach(world.now, client.key, client.connection, false);
            let settings = Settings { prefetch_members, ..Settings::clone(world.shard.settings()) };
            world.shard.settings = Rc::new(settings);
            world.restart();
            let sequence = client.sequence;
            assert!(client.resume(&mut world, 2, sequence));
            let case = format!("answered {answered}, prefetch {prefetch_members}");
            if answered {
                answer(&mut world, 10, &asked[0].2);
            }
            world.dispatch("RESUMED", &json!({}));
            // Without an answer, the request of the client or of the proxy goes to Discord in the end.
            let mut chunks = payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK");
            for _ in 0..400 {
                world.now += Duration::from_millis(250);
                world.feed(r#"{"op":11}"#);
                world.shard.tick(world.now);
                for sent in sent_upstream(&mut world).into_iter().filter(|sent| sent["op"] == 8) {
                    answer(&mut world, 10, &sent["d"]["nonce"]);
                }
                chunks.extend(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK"));
            }
            assert!(!chunks.is_empty(), "{case}");
            assert!(chunks.iter().all(|chunk| chunk["d"]["nonce"] == json!("mine")), "{case}: {chunks:?}");
        }
    }
}

#[test]
fn discord_is_obeyed_and_not_asked_for_ever() {
    let mut world = fetching(&[10]);
    let asked = pass(&mut world, PACE);
    let limited = json!({"opcode": 8, "retry_after": 45.5, "meta": {"guild_id": "10", "nonce": asked[0].2}});
    world.dispatch("RATE_LIMITED", &limited);
    let from = world.now;
    let again = pass(&mut world, Duration::from_secs(60));
    assert_eq!(again.len(), 1);
    assert!(again[0].0 >= from + Duration::from_millis(45_500), "{again:?}");
    // Nothing comes any more: a guild is asked for three times.
    let asked = pass(&mut world, (ANSWER_LIMIT + AGAIN) * 5);
    assert_eq!(asked.len(), usize::from(TRIES) - 1, "{asked:?}");
    assert!(asked.windows(2).all(|pair| pair[1].0 - pair[0].0 >= ANSWER_LIMIT), "{asked:?}");
}

#[test]
fn commands_of_clients_go_first() {
    let mut world = fetching(&[10, 20]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    // The client uses up what Discord allows, so its last commands wait.
    for number in 0..115 {
        let text = format!(r#"{{"op":31,"d":{{"guild_ids":["{number}"]}}}}"#);
        let Client { key, connection, outbox, .. } = &mut client;
        world.shard.command(world.now, *key, *connection, text.as_bytes(), outbox).unwrap();
    }
    let sent = sent_upstream(&mut world);
    assert!(sent.iter().all(|sent| sent["op"] == 31) && sent.len() == 110, "{}", sent.len());
    assert_eq!(pass(&mut world, Duration::from_secs(55)), []);
    assert_eq!(pass(&mut world, Duration::from_secs(20)).len(), 1);
}

#[test]
fn a_gap_makes_the_shard_ask_again_and_a_new_session_starts_over() {
    let mut world = fetching(&[10]);
    let asked = pass(&mut world, PACE);
    answer(&mut world, 10, &asked[0].2);
    assert_eq!(pass(&mut world, AGAIN * 2), []);
    world.sequence += 1;
    world.message(10, 1);
    let asked = pass(&mut world, AGAIN);
    assert_eq!(asked.len(), 1, "an event about a member may be missing");
    world.shard.upstream_closed(world.now, Some(4007));
    world.now += Duration::from_secs(10);
    world.connect(&[10]);
    large(&mut world, 10);
    while world.shard.poll_upstream(world.now).is_some() {}
    assert_eq!(world.shard.report().prefetch_waiting, 1);
    assert_eq!(pass(&mut world, AGAIN).len(), 1);
}

#[test]
fn without_the_key_nothing_is_asked() {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    world.connect(&[10]);
    large(&mut world, 10);
    while world.shard.poll_upstream(world.now).is_some() {}
    assert_eq!(pass(&mut world, Duration::from_secs(700)), []);
}
