//! Tests of clients' commands on their way to Discord: which commands the shard completes, refuses or limits.

use super::*;

#[test]
fn commands_are_limited_and_passed_on() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    let mut send = |world: &mut World, text: &str| {
        world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox)
    };
    send(&mut world, r#"{"op":8,"d":{"guild_id":99,"query":"","limit":0}}"#).unwrap();
    send(&mut world, r#"{"op":3,"d":{"activities":null,"status":"idle"}}"#).unwrap();
    let sent: Vec<Value> = std::iter::from_fn(|| world.shard.poll_upstream(world.now))
        .map(|action| match action {
            Action::Send(payload) => serde_json::from_slice(&payload).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sent[0]["d"]["activities"], json!([]));
    assert_eq!(sent[1]["d"]["guild_id"], 99);
    assert_eq!(send(&mut world, r#"{"op":2,"d":{}}"#).unwrap_err().code(), close::ALREADY_AUTHENTICATED);
    assert_eq!(send(&mut world, "[").unwrap_err().code(), close::DECODE_ERROR);
    let flood = (0..200).map(|_| send(&mut world, r#"{"op":31,"d":{"guild_ids":[]}}"#)).find_map(Result::err);
    assert_eq!(flood.unwrap().code(), close::RATE_LIMITED);
}

#[test]
fn nothing_that_is_too_long_goes_to_discord() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    // Each command has the greatest length that is allowed, before the proxy adds the nonce and the missing keys.
    for (start, end) in
        [(r#"{"op":8,"d":{"guild_id":"99","query":"","x":""#, r#""}}"#), (r#"{"op":3,"d":{"x":""#, r#""}}"#)]
    {
        let text = format!("{start}{}{end}", "x".repeat(4096 - start.len() - end.len()));
        let refused =
            world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox);
        assert_eq!(refused.unwrap_err().code(), close::DECODE_ERROR);
        assert_eq!(world.shard.poll_upstream(world.now), None);
    }
}
