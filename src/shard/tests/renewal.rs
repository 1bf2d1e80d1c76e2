//! Tests of client sessions when Discord gives the shard a new session.

use super::*;
use crate::{
    compression::Transport,
    downstream::outbox::Outbox,
    protocol::Encoding,
    shard::renewal::{STEP, WINDOW},
};

fn renamed(world: &mut World, guild: u64, name: &str) {
    world.dispatch(
        "GUILD_CREATE",
        &json!({"id": guild.to_string(), "name": name, "member_count": 0, "members": [], "unavailable": false}),
    );
}

#[test]
fn a_lost_session_invalidates_those_of_connected_clients() {
    let mut world = World::ready(&[10, 20]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    world.renew(&[20]);
    renamed(&mut world, 20, "new");
    world.message(20, 1);
    let before = client.sequence;
    client.catch_up(&mut world);
    assert_eq!(client.end, Some(Progress::Return));
    assert_eq!(client.produce(&mut world), Progress::Return, "the same again");
    client.read();
    assert_eq!((client.ops.clone(), client.sequence), (vec![9], before), "op 9, and no event of the new session");
    assert!(!client.resume(&mut world, 2, before), "it can not be resumed");
    // The client may identify again on its connection, and gets the current guilds.
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.left_before = vec![10];
    let guilds = payloads(&mut client, &mut world, "GUILD_CREATE");
    assert_eq!(guilds.len(), 1, "{guilds:?}");
    assert_eq!((&guilds[0]["d"]["id"], &guilds[0]["d"]["name"]), (&json!("20"), &json!("new")));
    assert_eq!(world.shard.report().invalidated, 1);
}

#[test]
fn clients_of_the_former_session_have_no_part_in_the_id_of_the_new_one() {
    let mut world = World::ready(&[10]);
    let mut former = Client::identify(&mut world, 1, Intents::ALL);
    for number in 0..10 {
        world.message(10, number);
    }
    former.catch_up(&mut world);
    assert_eq!(former.session, "up");
    // The former client has not been told of the new session when another client comes.
    world.renew(&[10]);
    let mut client = Client::identify(&mut world, 2, Intents::ALL);
    client.catch_up(&mut world);
    assert_eq!(client.session, "up2", "no connected client has the new id");
    // The connection of the former client breaks before it is told. Its id is the former one, so it can not be meant by
    // a RESUME with the new id, although its sequence was higher.
    world.shard.detach(world.now, former.key, former.connection, false);
    world.shard.detach(world.now, client.key, client.connection, false);
    let (of_former, of_client) = (former.sequence, client.sequence);
    assert!(of_former > of_client, "{of_former} {of_client}");
    assert!(client.resume_at(&mut world, 3, "ws://proxy", of_client));
    assert!(!former.resume_at(&mut world, 4, "ws://proxy", of_former));
}

#[test]
fn a_lost_session_invalidates_those_without_a_connection() {
    for restart in [false, true] {
        let mut world = World::ready(&[10]);
        let mut client = Client::identify(&mut world, 1, Intents::ALL);
        client.catch_up(&mut world);
        world.shard.detach(world.now, client.key, ConnectionId(1), false);
        if restart {
            // The proxy has been restarted, and Discord refuses its RESUME.
            world.restart();
        }
        world.renew(&[10]);
        let sequence = client.sequence;
        assert!(!client.resume(&mut world, 2, sequence), "restart: {restart}");
        assert_eq!(world.shard.report().detached, 0);
    }
}

/// A client that was told nothing since keeps the guild until it gets its GUILD_DELETE.
#[test]
fn guilds_that_left_are_told_after_another_loss_and_after_a_restart() {
    for restart in [false, true] {
        let mut world = World::ready(&[10, 20, 30]);
        let mut client = Client::identify(&mut world, 1, Intents::ALL);
        client.catch_up(&mut world);
        world.shard.detach(world.now, client.key, client.connection, false);
        world.renew(&[20, 30]);
        if restart {
            world.restart();
        }
        world.renew(&[20]);
        let mut client = Client::identify(&mut world, 2, Intents::ALL);
        client.left_before = vec![10, 30];
        let left: Vec<Value> =
            payloads(&mut client, &mut world, "GUILD_DELETE").iter().map(|event| event["d"].clone()).collect();
        let ids: std::collections::BTreeSet<&str> = left.iter().filter_map(|guild| guild["id"].as_str()).collect();
        assert_eq!((left.len(), ids), (2, ["10", "30"].into()), "restart: {restart}");
    }
}

#[test]
fn a_ready_that_can_not_be_used_begins_another_session() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    world.lose_session();
    world.shard.tick(world.now);
    while world.shard.poll_upstream(world.now).is_some() {}
    world.shard.upstream_connected(world.now);
    world.feed(HELLO);
    world.shard.upstream_permitted(world.now);
    while world.shard.poll_upstream(world.now).is_some() {}
    let ready = r#"{"t":"READY","s":1,"op":0,"d":{"v":10,"user":{"id":"77" "x":2},"guilds":[],"session_id":"up2","resume_gateway_url":"ws://resume"}}"#;
    assert!(world.shard.upstream_payload(world.now, ready.as_bytes()).is_err());
    let actions: Vec<Action> = std::iter::from_fn(|| world.shard.poll_upstream(world.now)).collect();
    assert!(matches!(actions[..], [Action::Close(1000)]), "{actions:?}");
    world.now += SECOND * 10;
    world.connect(&[10]);
    client.catch_up(&mut world);
    assert_eq!(client.end, Some(Progress::Return), "its session is over");
}

#[test]
fn a_client_that_comes_between_two_sessions_gets_the_new_one() {
    let mut world = World::ready(&[10, 20]);
    world.lose_session();
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.left_before = vec![10];
    assert_eq!(client.produce(&mut world), Progress::Idle, "the old READY is void");
    assert!(client.outbox.pending().is_empty());
    world.connect(&[20]);
    client.catch_up(&mut world);
    assert_eq!((client.announced.clone(), client.guilds.len()), (vec![20], 0));
    world.guild_create(20, 3);
    client.catch_up(&mut world);
    assert_eq!((client.guilds[&20].1, client.end), (3, None), "it has noticed nothing");
}

#[test]
fn what_the_new_session_has_not_sent_yet_is_unavailable() {
    let mut world = World::ready(&[10, 20]);
    world.renew(&[10, 20]);
    renamed(&mut world, 20, "new");
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    let guilds = payloads(&mut client, &mut world, "GUILD_CREATE");
    let ids: Vec<&Value> = guilds.iter().map(|guild| &guild["d"]["id"]).collect();
    assert_eq!((client.announced.clone(), ids), (vec![10, 20], vec![&json!("20")]));
    renamed(&mut world, 10, "also new");
    let guilds = payloads(&mut client, &mut world, "GUILD_CREATE");
    assert_eq!((guilds.len(), &guilds[0]["d"]["name"]), (1, &json!("also new")));
}

#[test]
fn clients_are_invalidated_one_after_the_other() {
    for (count, step) in [(3u64, STEP), (1_000, WINDOW / 1_000)] {
        let mut world = World::ready(&[10]);
        let mut clients: Vec<Client> =
            (1..=count).map(|connection| Client::identify(&mut world, connection, Intents::ALL)).collect();
        clients.iter_mut().for_each(|client| client.catch_up(&mut world));
        world.renew(&[10]);
        let (start, mut told) = (world.now, 0);
        while told < count {
            assert_eq!(world.now, start + step * told as u32, "{told} of {count}");
            let due: Vec<ConnectionId> = std::iter::from_fn(|| world.shard.poll_due(world.now)).collect();
            assert_eq!(due, [ConnectionId(told + 1)]);
            let later = &mut clients[told as usize + 1..];
            assert!(later.iter_mut().all(|client| client.produce(&mut world) == Progress::Idle), "not yet");
            assert_eq!(clients[told as usize].produce(&mut world), Progress::Return);
            told += 1;
            if told < count {
                world.now = world.shard.deadline().expect("the next one");
                world.shard.tick(world.now);
            }
        }
        assert!(world.now - start <= WINDOW);
        for client in &clients {
            world.shard.detach(world.now, client.key, client.connection, true);
        }
        assert_eq!((world.shard.report().clients, world.shard.report().detached), (0, 0));
    }
}

#[test]
fn a_client_is_told_in_the_middle_of_its_guilds() {
    for transport in [Transport::None, Transport::Zlib] {
        let mut world = World::ready(&[]);
        // The guild is so large that it is sent in pieces.
        world.guild_create(10, 5_000);
        let mut client = Client::identify(&mut world, 1, Intents::ALL);
        client.outbox = Outbox::new(transport, Encoding::Json);
        client.outbox.start_compressing(false);
        for _ in 0..2 {
            assert!(client.produce(&mut world).has_more());
        }
        // The client has joined a voice channel, so it is told that its voice connection is over.
        let join = r#"{"op":4,"d":{"guild_id":"10","channel_id":"7"}}"#;
        world.shard.command(world.now, client.key, client.connection, join.as_bytes(), &mut client.outbox).unwrap();
        while world.shard.poll_upstream(world.now).is_some() {}
        let joined = json!({"guild_id": "10", "user_id": "77", "channel_id": "7", "session_id": "up"});
        world.dispatch("VOICE_STATE_UPDATE", &joined);
        world.renew(&[10]);
        let end = client.produce(&mut world);
        match transport {
            Transport::None => {
                assert_eq!(end, Progress::Return);
                client.read();
                // The voice state gets the number of the guild that is discarded.
                assert_eq!((client.ops.clone(), client.guilds.len(), client.sequence), (vec![9], 0, 2));
            }
            // Half of the guild is in the compressed stream, and no other message can follow it.
            _ => assert_eq!(end, Progress::Close { close: Close::SessionInvalid, reconnect: false }),
        }
        world.shard.detach(world.now, client.key, client.connection, false);
        let report = world.shard.report();
        assert_eq!((report.clients, report.detached, report.syncing), (0, 0, 0));
    }
}

#[test]
fn a_client_that_is_not_told_yet_is_heard_but_asks_for_nothing() {
    let mut world = World::ready(&[10]);
    let mut clients = [1, 2].map(|connection| Client::identify(&mut world, connection, Intents::ALL));
    clients.iter_mut().for_each(|client| client.catch_up(&mut world));
    world.renew(&[10]);
    while world.shard.poll_upstream(world.now).is_some() {}
    let client = &mut clients[1];
    request(&mut world, client, &json!({"guild_id": "10", "query": "", "limit": 0}));
    for command in [r#"{"op":1,"d":1}"#, r#"{"op":4,"d":{"guild_id":"10"}}"#] {
        world.shard.command(world.now, client.key, client.connection, command.as_bytes(), &mut client.outbox).unwrap();
    }
    assert_eq!(sent_upstream(&mut world), Vec::<Value>::new());
    world.now += WINDOW;
    client.catch_up(&mut world);
    assert_eq!((client.ops.clone(), client.end), (vec![11, 9], Some(Progress::Return)));
}

#[test]
fn a_presence_that_a_client_has_set_goes_to_the_new_session() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    let presence = r#"{"op":3,"d":{"status":"idle"}}"#;
    world.shard.command(world.now, client.key, client.connection, presence.as_bytes(), &mut client.outbox).unwrap();
    while world.shard.poll_upstream(world.now).is_some() {}
    world.renew(&[10]);
    let last = std::iter::from_fn(|| world.shard.poll_upstream(world.now)).last();
    let Some(Action::Send(last)) = last else { panic!("{last:?}") };
    assert_eq!(
        serde_json::from_slice::<Value>(&last).unwrap(),
        json!({"op": 3, "d": {"status": "idle", "activities": [], "since": null, "afk": false}})
    );
}
