//! Tests of clients that the shard closes: those that send no heartbeat and those that read nothing.

use super::*;
use crate::downstream::session::session_in;

#[test]
fn nobody_is_closed_for_silence_before_ready() {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    world.now += 10 * HEARTBEAT_TIMEOUT;
    world.shard.tick(world.now);
    assert_eq!(client.produce(&mut world), Progress::Idle);
    world.connect(&[]);
    client.catch_up(&mut world);
    world.now += HEARTBEAT_TIMEOUT - SECOND;
    world.shard.tick(world.now);
    assert_eq!(client.produce(&mut world), Progress::Idle, "it counts from READY on");
}

#[test]
fn a_silent_client_is_closed_resumably() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    world.now += HEARTBEAT_TIMEOUT - SECOND;
    world.shard.tick(world.now);
    assert_eq!(client.produce(&mut world), Progress::Idle);
    world.now += SECOND;
    world.shard.tick(world.now);
    assert!(matches!(client.produce(&mut world), Progress::Close { close: Close::Silent, .. }));
    world.shard.detach(world.now, client.key, ConnectionId(1), false);
    let sequence = client.sequence;
    assert!(client.resume(&mut world, 2, sequence));
}

#[test]
fn a_client_that_reads_nothing_is_closed_all_the_same() {
    let mut world = World::ready(&[10]);
    let (mut old, mut silent) =
        (Client::identify(&mut world, 1, Intents::ALL), Client::identify(&mut world, 2, Intents::ALL));
    for client in [&mut old, &mut silent] {
        client.catch_up(&mut world);
        client.outbox.message(&[&vec![b' '; 1 << 20]]);
        assert!(client.produce(&mut world).has_more());
    }
    let id = session_in(&old.url).unwrap();
    assert!(world.shard.resume(world.now, ConnectionId(3), &id, old.sequence).is_some());
    assert_eq!(old.produce(&mut world), Progress::Close { close: Close::Superseded, reconnect: false });
    world.now += HEARTBEAT_TIMEOUT;
    world.shard.tick(world.now);
    assert!(matches!(silent.produce(&mut world), Progress::Close { reconnect: true, .. }));
}
