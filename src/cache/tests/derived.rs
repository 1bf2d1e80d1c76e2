//! The keys of a guild that the cache derives, because events change them without naming them.

use super::*;

fn large(cache: &Cache) -> Value {
    shown(cache, 2, View::ALL)["large"].clone()
}

fn create(flags: Flags, large: bool, count: u64, listed: u64) -> Cache {
    let mut cache = cache(flags);
    let members: Vec<Value> = (0..listed).map(|id| json!({"user": {"id": (1000 + id).to_string()}})).collect();
    let create = json!({"id": "2", "large": large, "member_count": count, "members": members});
    assert!(apply(&mut cache, "GUILD_CREATE", create).changed);
    cache
}

fn join(cache: &mut Cache, user: u64) {
    apply(cache, "GUILD_MEMBER_ADD", json!({"guild_id": "2", "user": {"id": user.to_string()}, "roles": []}));
}

fn leave(cache: &mut Cache, user: u64) {
    apply(cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": user.to_string()}}));
}

#[test]
fn large_follows_the_count_of_members() {
    for flags in [Flags::ALL, Flags::default()] {
        let mut cache = create(flags, false, 250, 250);
        assert_eq!(large(&cache), false);
        join(&mut cache, 5);
        assert_eq!(large(&cache), true, "with 251 members");
        leave(&mut cache, 5);
        assert_eq!(large(&cache), false, "with 250 again");
        leave(&mut cache, 1000);
        assert_eq!(large(&cache), false);
    }
}

#[test]
fn large_stays_as_discord_said_until_a_member_joins_or_leaves() {
    // The cache does not judge whether a guild with exactly the threshold's number of members is large.
    assert_eq!(large(&create(Flags::ALL, true, 250, 1)), true);
    assert_eq!(large(&create(Flags::ALL, true, 3, 1)), true);
    assert_eq!(large(&create(Flags::ALL, false, 300, 1)), false);
    let mut cache = cache(Flags::ALL);
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "member_count": 250}));
    join(&mut cache, 5);
    assert_eq!(shown(&cache, 2, View::ALL).get("large"), None, "the key is not added");
}

#[test]
fn a_guild_stays_large_while_members_are_missing() {
    // Libraries request the members of large guilds only.
    let mut cache = create(Flags::ALL, true, 251, 10);
    leave(&mut cache, 1000);
    assert_eq!(large(&cache), true, "the cache does not know 241 of the members");
    let members: Vec<Value> = (1..251).map(|id| json!({"user": {"id": (1000 + id).to_string()}})).collect();
    let chunk = json!({"guild_id": "2", "members": members, "chunk_index": 0, "chunk_count": 1});
    apply(&mut cache, "GUILD_MEMBERS_CHUNK", chunk.clone());
    cache.chunk_of_all_members(1, chunk.to_string().as_bytes());
    assert_eq!(large(&cache), false);
    // When members are not cached, the number of members alone decides.
    let mut cache = create(Flags::default(), true, 251, 10);
    leave(&mut cache, 1000);
    assert_eq!(large(&cache), false);
}

#[test]
fn messages_of_a_thread_are_counted() {
    let mut cache = cache(Flags::ALL);
    // One thread from before July 2022 and one from after.
    let (old, new) = ("900000000000000000", "1000000000000000000");
    let thread = |id: &str, count: u64, sent: u64| json!({"id": id, "parent_id": "10", "message_count": count, "total_message_sent": sent, "last_message_id": null});
    let threads = json!([thread(old, 49, 80), thread(new, 0, 0)]);
    apply(
        &mut cache,
        "GUILD_CREATE",
        json!({"id": "2", "threads": threads, "channels": [{"id": "10", "message_count": 3}]}),
    );
    let mut id = 1_100_000_000_000_000_000u64;
    let counts = |cache: &Cache, thread: usize| {
        let thread = &shown(cache, 2, View::ALL)["threads"][thread];
        (thread["message_count"].as_u64().unwrap(), thread["total_message_sent"].as_u64().unwrap())
    };
    for number in 1..=1_030 {
        for thread in [old, new] {
            id += 1;
            let message = json!({"guild_id": "2", "channel_id": thread, "id": id.to_string(), "type": 0});
            assert!(!apply(&mut cache, "MESSAGE_CREATE", message).changed);
        }
        assert_eq!(counts(&cache, 0), (50, 80 + number), "in an old thread message_count stops at 50");
        assert_eq!(counts(&cache, 1), (number, number));
        assert_eq!(shown(&cache, 2, View::ALL)["threads"][1]["last_message_id"], id.to_string());
    }
    // The message that a thread starts with is not counted: it has the type 21, or the id of the thread.
    for (id, kind) in [("1100000000000999999", 21), (new, 0)] {
        let message = json!({"guild_id": "2", "channel_id": new, "id": id, "type": kind});
        apply(&mut cache, "MESSAGE_CREATE", message);
        assert_eq!(counts(&cache, 1), (1_030, 1_030));
    }
    let deleted = json!({"guild_id": "2", "channel_id": new, "id": id.to_string()});
    assert_eq!(apply(&mut cache, "MESSAGE_DELETE", deleted).ignored, None);
    assert_eq!(counts(&cache, 1), (1_029, 1_030));
    let deleted =
        json!({"guild_id": "2", "channel_id": new, "ids": ["1100000000000000002", "1100000000000000004", new]});
    assert_eq!(apply(&mut cache, "MESSAGE_DELETE_BULK", deleted).ignored, None);
    assert_eq!(counts(&cache, 1), (1_027, 1_030));
    // Channels have no counts. Events about messages in unknown channels are not an error.
    apply(&mut cache, "MESSAGE_CREATE", json!({"guild_id": "2", "channel_id": "10", "id": "12", "type": 0}));
    for data in [json!({"guild_id": "2", "channel_id": "10", "id": "12"}), json!({"channel_id": "10", "id": "12"})] {
        assert_eq!(apply(&mut cache, "MESSAGE_DELETE", data).ignored, None);
    }
    assert_eq!(shown(&cache, 2, View::ALL)["channels"][0]["message_count"], 3);
}

#[test]
fn only_counts_that_a_thread_has_change() {
    let mut cache = cache(Flags::ALL);
    let thread = json!({"avatar": null, "flags": 0, "id": "2", "member": {"flags": {}, "id": "2"}, "parent_id": "1", "total_message_sent": 8, "é": "4751770370924796708"});
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "threads": [{"id": "3", "total_message_sent": 127}, thread]}));
    let message = json!({"guild_id": "2", "channel_id": "2", "id": "2310718776836527397", "type": 0});
    apply(&mut cache, "MESSAGE_CREATE", message);
    assert_eq!(shown(&cache, 2, View::ALL)["threads"][1]["total_message_sent"], 9);
}

#[test]
fn a_role_is_taken_from_members_with_unusual_keys() {
    let mut cache = cache(Flags::ALL);
    let members = json!([{"user": {"id": "5", "a \"key\"": 1}, "roles": ["100000000000000005", "100000000000000006"]}]);
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "members": members}));
    apply(&mut cache, "GUILD_ROLE_DELETE", json!({"guild_id": "2", "role_id": "100000000000000005"}));
    assert_eq!(shown(&cache, 2, View::ALL)["members"][0]["roles"], json!(["100000000000000006"]));
}
