//! Tests of clients' intents: a client gets the events that its intents cover, and its sequence has no gaps.

use super::*;

#[test]
fn intents_filter_without_gaps() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::GUILDS.union(Intents::GUILD_MESSAGES));
    client.catch_up(&mut world);
    for number in 0..20 {
        world.dispatch("TYPING_START", &json!({"guild_id": "10"}));
        world.message(10, number);
        world.dispatch("MESSAGE_CREATE", &json!({"channel_id": "1", "number": 1000, "id": "1"}));
    }
    client.catch_up(&mut world);
    assert_eq!(client.messages, (0..20).collect::<Vec<_>>());
    assert_eq!(client.sequence, 22);
}
