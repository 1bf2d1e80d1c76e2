//! Tests of the shard's event log: which events it keeps for whom, and what happens to a client that needs an older
//! event.

use super::*;

#[test]
fn nothing_is_kept_for_nobody() {
    let mut world = World::ready(&[10]);
    for number in 0..100 {
        world.message(10, number);
    }
    assert_eq!((world.shard.report().log_events, world.shard.report().log_bytes), (0, 0));
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    for number in 0..100 {
        world.message(10, number);
    }
    client.catch_up(&mut world);
    assert_eq!(client.messages, (0..100).collect::<Vec<_>>());
    assert_eq!(world.shard.report().log_events, 100);
    // The client has acknowledged the events, so the log drops them. It drops the segment that it is filling as a
    // whole.
    let beat = format!(r#"{{"op":1,"d":{}}}"#, client.sequence);
    world.shard.command(world.now, client.key, client.connection, beat.as_bytes(), &mut client.outbox).unwrap();
    world.now += time::MAINTENANCE_INTERVAL;
    world.shard.tick(world.now);
    assert_eq!(world.shard.report().log_events, 0);
}

#[test]
fn a_client_that_falls_off_is_told() {
    let mut world = World::new(Limits { bytes: 0, entries: 10 });
    world.connect(&[10]);
    world.guild_create(10, 1);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    // Each event is larger than a segment, so each has its own segment and the limit is exact.
    let big = json!({"guild_id": "10", "number": 0, "text": "x".repeat(100_000)});
    for _ in 0..10 {
        world.dispatch("MESSAGE_CREATE", &big);
    }
    client.catch_up(&mut world);
    assert_eq!(client.messages.len(), 10, "the newest ten are always kept");
    for _ in 0..30 {
        world.dispatch("MESSAGE_CREATE", &big);
    }
    assert_eq!(client.produce(&mut world), Progress::Close { close: Close::Lagged, reconnect: true });
    assert!(!{
        let sequence = client.sequence;
        client.resume(&mut world, 2, sequence)
    });
    assert_eq!(world.shard.report().fell_off, 1);
}
