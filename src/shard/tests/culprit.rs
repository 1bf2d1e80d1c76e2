//! Tests of commands for which Discord closes the shard's connection.

use super::*;
use crate::protocol::close::{DECODE_ERROR, UNKNOWN_OPCODE};

fn send(world: &mut World, client: &mut Client, command: &Value) -> Result<(), Close> {
    let text = command.to_string();
    world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox)
}

/// Two clients without waiting commands.
fn two() -> (World, Client, Client) {
    let mut world = World::ready(&[10]);
    let mut clients = [1, 2].map(|connection| {
        let mut client = Client::identify(&mut world, connection, Intents::ALL);
        client.catch_up(&mut world);
        client
    });
    while world.shard.poll_upstream(world.now).is_some() {}
    let second = std::mem::replace(&mut clients[1], Client::identify(&mut world, 3, Intents::ALL));
    let [first, _] = clients;
    (world, first, second)
}

fn sounds() -> Value {
    json!({"op": 31, "d": {"guild_ids": ["10"]}})
}

/// Discord closes the connection with this code, the shard makes another one at once, and the replay ends. Returns the
/// payloads that the shard sends then.
fn closed(world: &mut World, code: u16) -> Vec<Value> {
    world.now += SECOND;
    world.shard.upstream_closed(world.now, Some(code));
    world.shard.tick(world.now);
    assert_eq!(world.shard.poll_upstream(world.now), Some(Action::Connect("ws://resume".into())), "without a wait");
    world.shard.upstream_connected(world.now);
    world.feed(HELLO);
    assert_eq!(sent_upstream(world)[0]["op"], 6);
    world.dispatch("RESUMED", &json!({}));
    sent_upstream(world)
}

#[test]
fn the_client_whose_command_went_last_is_closed_and_nobody_else() {
    for code in [UNKNOWN_OPCODE, DECODE_ERROR] {
        let (mut world, mut good, mut bad) = two();
        send(&mut world, &mut good, &sounds()).unwrap();
        assert_eq!(sent_upstream(&mut world).len(), 1);
        send(&mut world, &mut bad, &json!({"op": 43, "d": {"guild_id": "10", "fields": ["x"]}})).unwrap();
        send(&mut world, &mut bad, &json!({"op": 4, "d": {"guild_id": "10", "channel_id": "5"}})).unwrap();
        assert_eq!(sent_upstream(&mut world).len(), 2);
        let again = closed(&mut world, code);
        assert_eq!(again, [sounds()], "of the other one only");
        let end = bad.produce(&mut world);
        assert!(matches!(end, Progress::Close { close, reconnect: false } if close.code() == code), "{end:?}");
        assert_eq!(good.produce(&mut world), Progress::Idle);
        assert_eq!(world.shard.report().refused_commands, 1);
        // The client may resume its session, as at Discord.
        let sequence = bad.sequence;
        world.shard.detach(world.now, bad.key, bad.connection, false);
        assert!(bad.resume(&mut world, 9, sequence));
        bad.catch_up(&mut world);
        assert_eq!((bad.resumed, bad.end), (true, None));
    }
}

#[test]
fn bad_commands_again_and_again_do_not_keep_the_shard_away() {
    let (mut world, mut good, mut bad) = two();
    for round in 0..20 {
        send(&mut world, &mut bad, &sounds()).unwrap();
        assert_eq!(sent_upstream(&mut world).len(), 1);
        assert_eq!(closed(&mut world, DECODE_ERROR), [Value::Null; 0], "in round {round}");
        world.shard.detach(world.now, bad.key, bad.connection, false);
        let sequence = bad.sequence;
        assert!(bad.resume(&mut world, 10 + round, sequence));
        bad.catch_up(&mut world);
    }
    assert_eq!(good.produce(&mut world), Progress::Idle);
}

#[test]
fn a_presence_that_discord_does_not_take_is_not_sent_again() {
    let (mut world, mut good, mut bad) = two();
    send(&mut world, &mut bad, &json!({"op": 3, "d": {"status": "idle"}})).unwrap();
    assert_eq!(sent_upstream(&mut world).len(), 1);
    assert_eq!(closed(&mut world, DECODE_ERROR), [Value::Null; 0]);
    assert!(matches!(bad.produce(&mut world), Progress::Close { close: Close::CommandRefused, .. }));
    assert_eq!(good.produce(&mut world), Progress::Idle);
}

#[test]
fn nobody_is_closed_for_what_discord_has_taken() {
    let (mut world, mut good, mut other) = two();
    send(&mut world, &mut good, &sounds()).unwrap();
    assert_eq!(sent_upstream(&mut world).len(), 1);
    // A heartbeat that was sent afterwards is acknowledged.
    world.now += SECOND * 41;
    world.shard.tick(world.now);
    assert_eq!(sent_upstream(&mut world).last().unwrap()["op"], 1);
    world.now += Duration::from_millis(50);
    world.feed(r#"{"op":11,"d":null}"#);
    closed(&mut world, DECODE_ERROR);
    assert_eq!((good.produce(&mut world), other.produce(&mut world)), (Progress::Idle, Progress::Idle));
    // No client is closed when Discord closes the connection with another code, either.
    send(&mut world, &mut good, &sounds()).unwrap();
    assert_eq!(sent_upstream(&mut world).len(), 1);
    world.now += SECOND * 10;
    world.shard.upstream_closed(world.now, Some(4000));
    assert_eq!((good.produce(&mut world), other.produce(&mut world)), (Progress::Idle, Progress::Idle));
    assert_eq!(world.shard.report().refused_commands, 0);
}

#[test]
fn what_discord_could_not_take_does_not_reach_it() {
    let (mut world, mut client, _) = two();
    for bad in [
        json!({"op": 8, "d": {"guild_id": {}, "query": ""}}),
        json!({"op": 8, "d": null}),
        json!({"op": 4, "d": {"guild_id": "10", "self_mute": 1}}),
        json!({"op": 3, "d": {"activities": [{"type": "x"}]}}),
        json!({"op": 31, "d": {"guild_ids": "x"}}),
        json!({"op": 43, "d": {}}),
    ] {
        assert_eq!(send(&mut world, &mut client, &bad).unwrap_err().code(), DECODE_ERROR, "{bad}");
    }
    for unknown in [5, 12, 99, 1_u64 << 40] {
        send(&mut world, &mut client, &json!({"op": unknown, "d": {}})).unwrap();
    }
    assert_eq!(sent_upstream(&mut world), [Value::Null; 0]);
    assert_eq!(world.shard.report().unknown_commands, 4);
}
