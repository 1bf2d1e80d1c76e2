//! Tests of client sessions without a connection: how long a client can resume its session, which sessions it can not
//! resume, and how many the shard keeps.

use super::*;
use crate::downstream::session::RESUME_PATH;

#[test]
fn sessions_expire_and_memory_returns() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    world.message(10, 1);
    world.shard.detach(world.now, client.key, ConnectionId(1), false);
    world.message(10, 2);
    assert_eq!(world.shard.report().detached, 1);
    world.now += SECOND * 119;
    world.shard.tick(world.now);
    let sequence = client.sequence;
    assert!(client.resume(&mut world, 2, sequence));
    client.catch_up(&mut world);
    assert_eq!((client.messages.clone(), client.resumed), (vec![1, 2], true));
    world.shard.detach(world.now, client.key, ConnectionId(2), false);
    world.now += SECOND * 120;
    world.shard.tick(world.now);
    let sequence = client.sequence;
    assert!(!client.resume(&mut world, 3, sequence));
    let report = world.shard.report();
    assert_eq!((report.detached, report.clients, report.log_events, report.log_bytes), (0, 0, 0, 0));
}

#[test]
fn a_client_that_gives_up_or_is_not_synced_leaves_nothing() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    world.shard.detach(world.now, client.key, ConnectionId(1), true);
    let sequence = client.sequence;
    assert!(!client.resume(&mut world, 2, sequence));
    let mut client = Client::identify(&mut world, 3, Intents::ALL);
    client.produce(&mut world);
    client.read();
    world.shard.detach(world.now, client.key, ConnectionId(3), false);
    assert!(!client.resume(&mut world, 4, 1));
    assert_eq!(world.shard.report().detached, 0);
}

/// The last guild fills the outbox, and the connection is lost before the shard writes anything more.
#[test]
fn a_client_that_has_read_all_its_guilds_can_resume() {
    let mut world = World::ready(&[10]);
    world.guild_create(10, 5_000);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    while client.guilds.is_empty() {
        assert!(client.produce(&mut world).has_more());
        client.read();
    }
    world.shard.detach(world.now, client.key, ConnectionId(1), false);
    let sequence = client.sequence;
    assert!(client.resume(&mut world, 2, sequence));
    client.catch_up(&mut world);
    assert!(client.resumed);
}

#[test]
fn detached_sessions_are_bounded() {
    let mut world = World::ready(&[10]);
    let mut clients = Vec::new();
    for connection in 0..MAX_DETACHED as u64 + 10 {
        let mut client = Client::identify(&mut world, connection, Intents::ALL);
        client.catch_up(&mut world);
        world.now += SECOND / 1000;
        world.shard.detach(world.now, client.key, ConnectionId(connection), false);
        clients.push(client);
    }
    assert_eq!(world.shard.report().detached, MAX_DETACHED);
    let sequence = clients[0].sequence;
    assert!(!clients[0].resume(&mut world, 9_999, sequence), "the oldest went first");
    let last = clients.last_mut().unwrap();
    let sequence = last.sequence;
    assert!(last.resume(&mut world, 9_998, sequence));
}

#[test]
fn an_old_connection_has_no_say_any_more() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    let seen = client.sequence;
    for number in 0..10 {
        world.message(10, number);
    }
    client.catch_up(&mut world);
    let beat = json!({"op": 1, "d": client.sequence}).to_string();
    // The client has lost the last events, and resumes. Then a heartbeat arrives that it had sent on its old
    // connection.
    client.sequence = seen;
    client.messages.clear();
    assert!(client.resume(&mut world, 2, seen));
    assert_eq!(client.produce(&mut world), Progress::Idle);
    let late = world.shard.command(world.now, client.key, ConnectionId(1), beat.as_bytes(), &mut client.outbox);
    assert_eq!(late, Err(Close::Superseded));
    // The new connection is lost, too, before the client reads anything.
    assert!(client.resume(&mut world, 3, seen));
    client.catch_up(&mut world);
    assert_eq!((client.messages.len(), client.resumed), (10, true));
}

#[test]
fn no_resume_leads_to_the_session_of_another_client() {
    let mut world = World::ready(&[10]);
    let identify = |world: &mut World, connection| {
        let mut client = Client::identify(world, connection, Intents::ALL);
        client.catch_up(world);
        client
    };
    let (mut first, mut second) = (identify(&mut world, 1), identify(&mut world, 2));
    assert_eq!((&*first.session, second.session.len()), ("up", 32));
    let key = |client: &Client| client.url.rsplit_once(RESUME_PATH).map(|(_, key)| key.to_owned());
    assert_eq!(key(&second), None);
    for number in 0..10 {
        world.message(10, number);
    }
    first.catch_up(&mut world);
    second.catch_up(&mut world);
    // With and without the key, each client resumes its own session. An unknown key is refused, and so is a sequence
    // that the session was never sent.
    let (of_first, of_second) = (first.sequence, second.sequence);
    assert!(first.resume(&mut world, 3, of_first) && first.resume_at(&mut world, 4, "ws://proxy", of_first));
    assert!(second.resume(&mut world, 5, of_second));
    let nobody = format!("ws://proxy{RESUME_PATH}{}", "0".repeat(32));
    assert!(!first.resume_at(&mut world, 6, &nobody, of_first));
    assert!(!first.resume_at(&mut world, 6, "ws://proxy", of_first + 1));
    // The client's process is killed. The next one has a session with a low sequence.
    world.shard.detach(world.now, first.key, ConnectionId(4), false);
    let mut third = identify(&mut world, 7);
    assert_eq!((&*third.session, third.key != first.key), ("up", true));
    let of_third = third.sequence;
    assert!(!third.resume_at(&mut world, 8, "ws://proxy", of_third), "it could be the first one's");
    assert!(third.resume(&mut world, 8, of_third));
    // The first client's session is over, and the client does not know. Its RESUMEs are refused in the same way.
    world.now += SECOND * 200;
    world.shard.tick(world.now);
    let of_first = first.sequence;
    assert!(!first.resume(&mut world, 9, of_first) && !first.resume_at(&mut world, 9, "ws://proxy", of_first));
    assert!(!third.resume_at(&mut world, 9, "ws://proxy", of_third));
    for restart in [false, true] {
        if restart {
            world.restart();
            assert!(!third.resume_at(&mut world, 9, "ws://proxy", of_third), "another process knows that, too");
        }
        third.sequence = of_third;
        assert!(third.resume(&mut world, 10, of_third));
    }
    for number in 10..30 {
        world.message(10, number);
    }
    third.catch_up(&mut world);
    let of_third = third.sequence;
    assert!(of_third > of_first && third.resume_at(&mut world, 11, "ws://proxy", of_third), "now it is the only one");
}
