//! Tests of commands that are on their way when the connection to Discord breaks.

use super::*;

impl World {
    /// The replay ends. Returns the payloads that the shard sends then.
    fn resumed(&mut self) -> Vec<Value> {
        self.dispatch("RESUMED", &json!({}));
        sent_upstream(self)
    }

    fn chunk(&mut self, nonce: &Value, index: u64, count: u64) {
        self.dispatch(
            "GUILD_MEMBERS_CHUNK",
            &json!({"guild_id": "11", "members": [], "chunk_index": index, "chunk_count": count, "nonce": nonce}),
        );
    }
}

fn send(world: &mut World, client: &mut Client, command: &Value) {
    let text = command.to_string();
    world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox).unwrap();
}

/// A client that has requested the members of a guild that the cache does not know, and the nonce in the request to
/// Discord.
fn asked() -> (World, Client, Value) {
    let mut world = World::ready(&[10]);
    world.dispatch("GUILD_CREATE", &json!({"id": "11", "member_count": 9000, "members": []}));
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    request(&mut world, &mut client, &json!({"guild_id": "11", "query": "", "limit": 0, "nonce": "mine"}));
    let nonce = sent_upstream(&mut world)[0]["d"]["nonce"].clone();
    (world, client, nonce)
}

fn chunks(world: &mut World, client: &mut Client) -> Vec<u64> {
    let chunks = payloads(client, world, "GUILD_MEMBERS_CHUNK");
    assert!(chunks.iter().all(|chunk| chunk["d"]["nonce"] == "mine"), "{chunks:?}");
    chunks.iter().map(|chunk| chunk["d"]["chunk_index"].as_u64().unwrap()).collect()
}

#[test]
fn a_request_for_members_that_was_lost_is_sent_again_once() {
    for restart in [false, true] {
        let (mut world, mut client, nonce) = asked();
        match restart {
            true => world.restart(),
            false => world.break_connection(),
        }
        let sent = world.resumed();
        assert_eq!((sent.len(), &sent[0]["op"], &sent[0]["d"]["nonce"]), (1, &json!(8), &nonce), "{sent:?}");
        assert_eq!((&sent[0]["d"]["guild_id"], &sent[0]["d"]["query"]), (&json!("11"), &json!("")));
        if restart {
            let sequence = client.sequence;
            assert!(client.resume(&mut world, 2, sequence));
        }
        world.break_connection();
        assert_eq!(world.resumed(), Vec::<Value>::new(), "once");
        world.chunk(&nonce, 0, 2);
        world.chunk(&nonce, 1, 2);
        assert_eq!(chunks(&mut world, &mut client), [0, 1]);
    }
}

#[test]
fn a_request_for_members_whose_answer_is_in_the_replay_is_not_sent_again() {
    for count in [1, 2] {
        let (mut world, mut client, nonce) = asked();
        world.break_connection();
        world.chunk(&nonce, 0, count);
        assert_eq!(world.resumed(), Vec::<Value>::new());
        for index in 1..count {
            world.chunk(&nonce, index, count);
        }
        assert_eq!(chunks(&mut world, &mut client), (0..count).collect::<Vec<_>>());
    }
}

#[test]
fn two_answers_to_one_request_reach_the_client_as_one() {
    for order in [[0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 2]] {
        let (mut world, mut client, nonce) = asked();
        let mut other = Client::identify(&mut world, 9, Intents::ALL);
        other.catch_up(&mut world);
        world.break_connection();
        assert_eq!(world.resumed().len(), 1);
        for index in order {
            world.chunk(&nonce, index, 3);
        }
        assert_eq!(chunks(&mut world, &mut client), [0, 1, 2], "{order:?}");
        assert!(chunks(&mut world, &mut other).is_empty());
    }
}

#[test]
fn of_two_requests_one_may_be_refused_and_the_other_one_answered() {
    let (mut world, mut client, nonce) = asked();
    world.break_connection();
    assert_eq!(world.resumed().len(), 1);
    let refused = json!({"opcode": 8, "retry_after": 3, "meta": {"guild_id": "11", "nonce": nonce}});
    world.dispatch("RATE_LIMITED", &refused);
    assert_eq!(payloads(&mut client, &mut world, "RATE_LIMITED").len(), 1);
    world.chunk(&nonce, 0, 1);
    assert_eq!(chunks(&mut world, &mut client), [0]);
    // If the answer comes first, the client does not get the refusal.
    let (mut world, mut client, nonce) = asked();
    world.break_connection();
    assert_eq!(world.resumed().len(), 1);
    world.chunk(&nonce, 0, 1);
    let refused = json!({"opcode": 8, "retry_after": 3, "meta": {"guild_id": "11", "nonce": nonce}});
    world.dispatch("RATE_LIMITED", &refused);
    assert_eq!(chunks(&mut world, &mut client), [0]);
    assert!(payloads(&mut client, &mut world, "RATE_LIMITED").is_empty());
}

fn voice(guild: u64, channel: u64) -> Value {
    json!({"op": 4, "d": {"guild_id": guild.to_string(), "channel_id": channel.to_string()}})
}

fn presence(status: &str) -> Value {
    json!({"op": 3, "d": {"status": status, "activities": [], "since": null, "afk": false}})
}

/// A client that has sent these commands, all of which went to Discord.
fn sender(commands: &[Value]) -> (World, Client) {
    let mut world = World::ready(&[10, 20]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    for command in commands {
        send(&mut world, &mut client, command);
        assert_eq!(sent_upstream(&mut world).len(), 1);
    }
    (world, client)
}

#[test]
fn the_newest_voice_state_and_presence_that_may_be_lost_are_sent_again_once() {
    let sounds = json!({"op": 31, "d": {"guild_ids": ["10"]}});
    let unknown = json!({"op": 44, "d": {"x": 1}});
    for restart in [false, true] {
        let commands = [&voice(10, 1), &voice(20, 2), &voice(10, 3), &sounds, &unknown];
        let (mut world, mut client) = sender(&commands.map(Clone::clone));
        for status in ["idle", "dnd"] {
            send(&mut world, &mut client, &presence(status));
            assert_eq!(sent_upstream(&mut world).len(), 1);
        }
        match restart {
            true => world.restart(),
            false => world.break_connection(),
        }
        assert_eq!(world.resumed(), [voice(20, 2), voice(10, 3), sounds.clone(), presence("dnd")]);
        world.break_connection();
        let again = world.resumed();
        assert!(again.iter().all(|command| command["op"] == 3), "{again:?}");
    }
}

#[test]
fn what_has_arrived_is_not_sent_again() {
    let (mut world, mut client) = sender(&[voice(10, 1), presence("idle")]);
    // The acknowledgement of a heartbeat proves that what was sent before it has arrived.
    world.now += SECOND;
    world.feed(r#"{"op":1,"d":null}"#);
    assert_eq!(sent_upstream(&mut world).len(), 1);
    world.now += SECOND;
    send(&mut world, &mut client, &voice(20, 2));
    assert_eq!(sent_upstream(&mut world).len(), 1);
    world.feed(r#"{"op":11,"d":null}"#);
    world.break_connection();
    // An acknowledgement on the new connection proves nothing about commands on the old one.
    world.now += SECOND;
    world.feed(r#"{"op":1,"d":null}"#);
    world.feed(r#"{"op":11,"d":null}"#);
    let sent = world.resumed();
    assert_eq!(sent.iter().filter(|sent| sent["op"] != 1).collect::<Vec<_>>(), [&voice(20, 2)]);
}

#[test]
fn what_is_newer_or_whose_client_has_gone_is_not_undone() {
    let (mut world, mut client) = sender(&[voice(10, 1), presence("idle")]);
    let mut other = Client::identify(&mut world, 2, Intents::ALL);
    other.catch_up(&mut world);
    send(&mut world, &mut other, &voice(20, 7));
    assert_eq!(sent_upstream(&mut world).len(), 1);
    world.break_connection();
    send(&mut world, &mut client, &voice(10, 2));
    send(&mut world, &mut client, &presence("dnd"));
    world.shard.detach(world.now, other.key, ConnectionId(2), true);
    assert_eq!(world.resumed(), [presence("dnd"), voice(10, 2)]);
}

#[test]
fn a_new_session_is_not_sent_what_the_old_one_has_lost() {
    let (mut world, _) = sender(&[voice(10, 1)]);
    world.break_connection();
    world.feed(r#"{"op":9,"d":false}"#);
    while world.shard.poll_upstream(world.now).is_some() {}
    world.now += SECOND * 6;
    world.connect(&[10]);
    let sent = std::iter::from_fn(|| world.shard.poll_upstream(world.now));
    assert_eq!(sent.collect::<Vec<_>>(), [Action::RequestPermit, Action::Send(b"{}".to_vec())], "only IDENTIFY");
}
