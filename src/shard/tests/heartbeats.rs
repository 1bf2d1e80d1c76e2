//! Tests of the acknowledgement of clients' heartbeats, which takes as long as the shard's last round trip to Discord.

use super::*;
use crate::shard::due::{ACK_DELAY, MAX_OWED_ACKS};

impl World {
    /// Discord acknowledges a heartbeat of the shard after this time.
    fn round_trip(&mut self, time: Duration) {
        self.feed(r#"{"op":1,"d":null}"#);
        while self.shard.poll_upstream(self.now).is_some() {}
        self.now += time;
        self.feed(r#"{"op":11,"d":null}"#);
    }

    /// Goes to the next time at which the shard has something to do, and does it. Returns the connections to serve.
    fn next(&mut self) -> Vec<ConnectionId> {
        self.now = self.now.max(self.shard.deadline().expect("something to do"));
        self.shard.tick(self.now);
        while self.shard.poll_upstream(self.now).is_some() {}
        std::iter::from_fn(|| self.shard.poll_due(self.now)).collect()
    }
}

fn beat(world: &mut World, client: &mut Client) {
    let beat = format!(r#"{{"op":1,"d":{}}}"#, client.sequence);
    world.shard.command(world.now, client.key, client.connection, beat.as_bytes(), &mut client.outbox).unwrap();
}

/// The time from a heartbeat of the client to its acknowledgement.
fn acknowledged_after(world: &mut World, client: &mut Client) -> Duration {
    let sent_at = world.now;
    client.ops.clear();
    beat(world, client);
    loop {
        client.catch_up(world);
        if !client.ops.is_empty() {
            assert_eq!(client.ops, [11]);
            return world.now - sent_at;
        }
        while world.next() != [client.connection] {}
    }
}

#[test]
fn heartbeats_are_acknowledged_after_the_round_trip_to_discord() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    assert_eq!(acknowledged_after(&mut world, &mut client), ACK_DELAY.0, "none is known yet");
    let ms = Duration::from_millis;
    for (round_trip, expected) in [(ms(1), ACK_DELAY.0), (ms(83), ms(83)), (SECOND * 30, ACK_DELAY.1)] {
        world.round_trip(round_trip);
        assert_eq!(acknowledged_after(&mut world, &mut client), expected, "{round_trip:?}");
    }
    // Without a connection to Discord the shard still uses the last round trip.
    world.round_trip(ms(47));
    world.shard.upstream_closed(world.now, None);
    assert_eq!(acknowledged_after(&mut world, &mut client), ms(47));
}

#[test]
fn an_acknowledgement_waits_for_no_event_and_needs_no_tick_of_its_own() {
    let mut world = World::ready(&[10]);
    let mut clients: Vec<Client> =
        (1..=50).map(|connection| Client::identify(&mut world, connection, Intents::ALL)).collect();
    clients.iter_mut().for_each(|client| client.catch_up(&mut world));
    world.round_trip(Duration::from_millis(100));
    let start = world.now;
    for client in &mut clients {
        beat(&mut world, client);
        world.now += Duration::from_millis(1);
    }
    // A call that comes too early does nothing.
    world.shard.tick(world.now);
    assert_eq!(world.shard.poll_due(world.now), None);
    assert_eq!(world.shard.deadline(), Some(start + Duration::from_millis(100)));
    assert_eq!(world.next(), [ConnectionId(1)]);
    // A call that comes late serves all clients that are due.
    world.now += SECOND;
    let mut due = world.next();
    due.sort_unstable_by_key(|connection| connection.0);
    assert_eq!(due, (2..=50).map(ConnectionId).collect::<Vec<_>>());
    for client in &mut clients {
        client.catch_up(&mut world);
        assert_eq!(client.ops, [11]);
    }
}

#[test]
fn a_flood_of_heartbeats_is_acknowledged_and_bounded() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    for _ in 0..1_000 {
        beat(&mut world, &mut client);
    }
    client.read();
    assert_eq!(client.ops.len(), 1_000 - MAX_OWED_ACKS as usize, "those beyond the bound come at once");
    while world.next() != [ConnectionId(1)] {}
    assert_eq!(world.shard.poll_due(world.now + SECOND), None, "one entry for one client");
    client.catch_up(&mut world);
    assert_eq!(client.ops.len(), 1_000);
}

#[test]
fn an_old_connections_heartbeats_are_not_acknowledged_on_the_new_one() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    beat(&mut world, &mut client);
    let sequence = client.sequence;
    assert!(client.resume(&mut world, 2, sequence));
    world.now += SECOND;
    client.catch_up(&mut world);
    assert_eq!((client.ops.len(), client.resumed), (0, true));
    assert_eq!(acknowledged_after(&mut world, &mut client), ACK_DELAY.0);
}

#[test]
fn an_idle_shard_has_nothing_to_do_but_its_own_heartbeat() {
    let mut world = World::ready(&[10]);
    world.round_trip(Duration::from_millis(10));
    let idle_until = world.now + SECOND * 39;
    world.shard.tick(world.now + time::MAINTENANCE_INTERVAL);
    assert!(world.shard.deadline() >= Some(idle_until), "{:?}", world.shard.deadline());
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    assert!(world.shard.deadline() >= Some(idle_until), "a client that is content changes nothing");
    world.message(10, 1);
    assert_eq!(world.shard.deadline(), Some(world.now + time::MAINTENANCE_INTERVAL), "the log has to be tidied");
}
