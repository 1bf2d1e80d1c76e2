//! Tests of voice connections in a whole shard: which client owns one, and what its clients are told about it.

use super::*;

fn op_4(world: &mut World, client: &mut Client, channel: Option<u64>) {
    let data = json!({"guild_id": "10", "channel_id": channel.map(|channel| channel.to_string()), "self_mute": true});
    let text = json!({"op": 4, "d": data}).to_string();
    world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox).unwrap();
}

/// The channels of the op 4s that go to Discord now.
fn sent_channels(world: &mut World) -> Vec<Option<u64>> {
    let mut sent = sent_upstream(world);
    sent.retain(|sent| sent["op"] != 1);
    assert!(sent.iter().all(|sent| sent["op"] == 4 && sent["d"]["guild_id"] == "10"), "{sent:?}");
    sent.iter().map(|sent| sent["d"]["channel_id"].as_str().map(|id| id.parse().unwrap())).collect()
}

impl World {
    fn voice_state(&mut self, user: u64, channel: Option<u64>) {
        let channel = channel.map(|channel| channel.to_string());
        self.dispatch(
            "VOICE_STATE_UPDATE",
            &json!({"guild_id": "10", "user_id": user.to_string(), "channel_id": channel, "session_id": "up"}),
        );
    }

    fn voice_server(&mut self, token: &str) {
        self.dispatch("VOICE_SERVER_UPDATE", &json!({"guild_id": "10", "token": token, "endpoint": "voice:443"}));
    }

    /// Session `client` is connected to channel 7 by the token `one`.
    fn connected(clients: usize) -> (Self, Vec<Client>) {
        let mut world = Self::ready(&[10]);
        let mut all: Vec<Client> =
            (1..=clients as u64).map(|connection| Client::identify(&mut world, connection, Intents::ALL)).collect();
        all.iter_mut().for_each(|client| client.catch_up(&mut world));
        while world.shard.poll_upstream(world.now).is_some() {}
        op_4(&mut world, &mut all[0], Some(7));
        assert_eq!(sent_channels(&mut world), [Some(7)]);
        world.voice_state(77, Some(7));
        world.voice_server("one");
        (world, all)
    }
}

/// What a client is sent about the bot's voice connection: the channels of its voice states, and the tokens.
fn told(client: &mut Client, world: &mut World) -> Vec<String> {
    let own = payloads(client, world, "VOICE_");
    own.iter()
        .filter(|payload| payload["d"]["token"].is_string() || payload["d"]["user_id"] == "77")
        .map(|payload| match payload["d"]["token"].as_str() {
            Some(token) => token.to_owned(),
            None => payload["d"]["channel_id"].to_string(),
        })
        .collect()
}

#[test]
fn a_voice_server_goes_to_its_owner_and_states_go_to_all() {
    let (mut world, mut clients) = World::connected(3);
    world.voice_state(78, Some(7));
    world.message(10, 1);
    assert_eq!(told(&mut clients[0], &mut world), ["\"7\"", "one"]);
    for other in &mut clients[1..] {
        assert_eq!(told(other, &mut world), ["\"7\""]);
        assert_eq!(other.messages, [1], "numbers without a gap");
    }
    // Without GUILD_VOICE_STATES a client gets no voice states. A VOICE_SERVER_UPDATE needs no intent.
    let mut deaf = Client::identify(&mut world, 9, Intents(Intents::GUILDS.0));
    deaf.catch_up(&mut world);
    op_4(&mut world, &mut deaf, Some(8));
    assert_eq!(sent_channels(&mut world), [Some(8)]);
    world.voice_state(77, Some(8));
    world.voice_server("two");
    assert_eq!(told(&mut deaf, &mut world), ["two"]);
    assert_eq!((world.shard.report().voice_connections, world.shard.report().voice_takeovers), (1, 1));
}

#[test]
fn the_channel_is_left_for_who_takes_over_and_the_others_see_nothing() {
    for restart in [false, true] {
        let (mut world, mut clients) = World::connected(3);
        clients.iter_mut().for_each(|client| client.catch_up(&mut world));
        op_4(&mut world, &mut clients[1], Some(7));
        assert_eq!(sent_channels(&mut world), [None, Some(7)]);
        world.voice_state(77, None);
        if restart {
            for client in &clients {
                world.shard.detach(world.now, client.key, client.connection, false);
            }
            world.restart();
            for (index, client) in clients.iter_mut().enumerate() {
                let sequence = client.sequence;
                assert!(client.resume(&mut world, 20 + index as u64, sequence));
            }
            world.dispatch("RESUMED", &json!({}));
            // The join may have been lost, and is sent again; the leave has been answered.
            assert_eq!(sent_channels(&mut world), [Some(7)]);
        }
        world.voice_state(77, Some(7));
        world.voice_server("two");
        assert_eq!(told(&mut clients[0], &mut world), ["null", "\"7\""], "restart: {restart}");
        assert_eq!(told(&mut clients[1], &mut world), ["\"7\"", "two"]);
        assert_eq!(told(&mut clients[2], &mut world), ["\"7\""]);
        // The former owner's library sends a leave to clean up. It does not end the new owner's connection.
        op_4(&mut world, &mut clients[0], None);
        assert_eq!(sent_channels(&mut world), []);
        assert_eq!(world.shard.report().voice_refused, 1);
        op_4(&mut world, &mut clients[1], None);
        assert_eq!(sent_channels(&mut world), [None]);
    }
}

#[test]
fn a_leave_and_a_join_that_were_lost_are_both_sent_again() {
    let (mut world, mut clients) = World::connected(2);
    op_4(&mut world, &mut clients[1], Some(7));
    assert_eq!(sent_channels(&mut world), [None, Some(7)]);
    world.break_connection();
    world.dispatch("RESUMED", &json!({}));
    assert_eq!(sent_channels(&mut world), [None, Some(7)]);
    world.voice_state(77, None);
    world.break_connection();
    world.dispatch("RESUMED", &json!({}));
    assert_eq!(sent_channels(&mut world), [], "once");
}

#[test]
fn a_resume_brings_the_voice_server_while_it_is_good() {
    for (what, expected) in [
        ("nothing", vec!["\"7\"", "one"]),
        ("another server", vec!["\"7\"", "two"]),
        ("a leave", vec!["\"7\"", "null"]),
        ("a takeover", vec!["\"7\"", "null", "\"7\""]),
    ] {
        for restart in [false, true] {
            let (mut world, mut clients) = World::connected(2);
            let before = clients[0].sequence;
            world.shard.detach(world.now, clients[0].key, ConnectionId(1), false);
            match what {
                "another server" => world.voice_server("two"),
                "a leave" => world.voice_state(77, None),
                "a takeover" => {
                    op_4(&mut world, &mut clients[1], Some(7));
                    sent_channels(&mut world);
                    world.voice_state(77, None);
                    world.voice_state(77, Some(7));
                    world.voice_server("two");
                }
                _ => {}
            }
            if restart {
                world.shard.detach(world.now, clients[1].key, ConnectionId(2), false);
                world.restart();
            }
            world.message(10, 5);
            assert!(clients[0].resume(&mut world, 9, before));
            assert_eq!(told(&mut clients[0], &mut world), expected, "{what}, restart: {restart}");
            assert_eq!(clients[0].messages, [5]);
        }
    }
}

#[test]
fn a_channel_is_left_after_the_grace_and_only_if_nobody_has_come() {
    for comes in [false, true] {
        let (mut world, mut clients) = World::connected(2);
        world.shard.detach(world.now, clients[0].key, ConnectionId(1), true);
        world.now += SECOND * 59;
        world.shard.tick(world.now);
        assert_eq!(sent_channels(&mut world), []);
        if comes {
            op_4(&mut world, &mut clients[1], Some(7));
            assert_eq!(sent_channels(&mut world), [None, Some(7)]);
            world.voice_state(77, None);
            world.voice_state(77, Some(7));
        }
        world.now += SECOND * 2;
        world.shard.tick(world.now);
        assert_eq!(sent_channels(&mut world), if comes { vec![] } else { vec![None] });
    }
}

/// The proxy's own leave waits for Discord's rate limit, and the op 4 of a client goes first.
#[test]
fn a_leave_that_waits_does_not_throw_out_who_has_come() {
    let (mut world, mut clients) = World::connected(2);
    world.shard.detach(world.now, clients[0].key, ConnectionId(1), true);
    world.now += SECOND * 61;
    world.shard.tick(world.now);
    op_4(&mut world, &mut clients[1], Some(8));
    // Clients take turns, so the leave goes first here. Below, the proxy's own leave comes after the client's op 4.
    let channels = sent_channels(&mut world);
    assert_eq!(channels.last(), Some(&Some(8)));
    world.voice_state(77, None);
    world.voice_state(77, Some(8));
    world.voice_server("two");
    assert_eq!(told(&mut clients[1], &mut world).last().map(String::as_str), Some("two"));
    world.shard.push_own_voice_for_a_test(10);
    assert_eq!(sent_channels(&mut world), []);
}

#[test]
fn the_owner_is_told_when_discords_session_is_lost() {
    let (mut world, mut clients) = World::connected(2);
    clients.iter_mut().for_each(|client| client.catch_up(&mut world));
    world.renew(&[10]);
    world.now += SECOND * 6;
    assert_eq!(told(&mut clients[0], &mut world), ["null"]);
    assert_eq!(told(&mut clients[1], &mut world), Vec::<String>::new());
    assert!(clients.iter().all(|client| client.ops == [9]));
    assert_eq!(world.shard.report().voice_connections, 0);
}

#[test]
fn a_join_that_fails_after_the_leave_is_told_to_everyone() {
    let (mut world, mut clients) = World::connected(3);
    clients.iter_mut().for_each(|client| client.catch_up(&mut world));
    op_4(&mut world, &mut clients[1], Some(7));
    sent_channels(&mut world);
    world.voice_state(77, None);
    world.now += SECOND * 5;
    world.shard.tick(world.now);
    let all: Vec<_> = clients.iter_mut().map(|client| told(client, &mut world)).collect();
    assert_eq!(all, [vec!["null", "null"], vec!["null"], vec!["null"]]);
}
