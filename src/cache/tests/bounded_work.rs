//! No operation holds up the core, however large a guild is.

use super::*;
use std::collections::BTreeMap;

#[test]
fn a_deleted_role_is_not_shown_even_while_it_is_being_removed() {
    let mut cache = cache(Flags::ALL);
    apply(&mut cache, "GUILD_CREATE", large_guild(20_000));
    let check = |cache: &Cache, left: &[&str]| {
        let few = View { members: false, presences: false, ..View::ALL };
        let mut members = shown(cache, 2, View::ALL)["members"].as_array().unwrap().clone();
        members.extend(shown(cache, 2, few)["members"].as_array().unwrap().clone());
        members.extend(
            ask(cache, json!({"guild_id": "2", "query": "user1999", "limit": 100})).unwrap()[0]["members"]
                .as_array()
                .unwrap()
                .clone(),
        );
        assert!(members.len() > 20_010, "{}", members.len());
        for member in members {
            let id: u64 = member["user"]["id"].as_str().unwrap().parse().unwrap();
            let has = if id.is_multiple_of(2) { &ROLES[..] } else { &ROLES[..1] };
            let expected: Vec<_> = has.iter().filter(|role| left.contains(role)).collect();
            assert_eq!(member["roles"], json!(expected), "{member}");
        }
    };
    check(&cache, &ROLES);
    apply(&mut cache, "VOICE_STATE_UPDATE", json!({"guild_id": "2", "user_id": "20998", "channel_id": "5"}));
    for (index, role) in ROLES.into_iter().enumerate() {
        let deleted = json!({"guild_id": "2", "role_id": role});
        assert!(apply(&mut cache, "GUILD_ROLE_DELETE", deleted).changed);
        check(&cache, &ROLES[index + 1..]);
    }
    for _ in 0..500 {
        apply(&mut cache, "MESSAGE_CREATE", json!({"guild_id": "2", "channel_id": "1", "id": "2"}));
    }
    assert!(cache.guilds[&2].removal.is_none(), "the removal finishes with further events");
    check(&cache, &[]);
}

/// No operation on a guild of 100,000 members takes a millisecond, except for reading a GUILD_CREATE.
#[test]
fn every_operation_on_a_large_guild_is_short() {
    // In units of [`work`]: 0.9 ms.
    const MOST: usize = 360_000;
    let mut longest: BTreeMap<&str, usize> = BTreeMap::new();
    let mut count = |what: &'static str| {
        let most = longest.entry(what).or_default();
        *most = (*most).max(work::take());
    };
    let mut cache = cache(Flags::ALL);
    let mut guild = large_guild(100_000);
    let people = || (0..100_000).map(|id| (1000 + id).to_string());
    guild["presences"] = people().step_by(3).map(|id| {
        json!({"user": {"id": id}, "status": "idle", "activities": [{"name": id, "state": "playing", "created_at": 1}]})
    }).collect();
    guild["voice_states"] = people().take(1_000).map(|id| json!({"user_id": id, "channel_id": "5"})).collect();
    guild["channels"] = (10..500).map(|id| json!({"id": id.to_string(), "name": "c"})).collect();
    guild["threads"] = (2_000..3_000).map(|id| json!({"id": id.to_string(), "parent_id": "10"})).collect();
    apply(&mut cache, "GUILD_CREATE", guild);
    work::take();
    // While the snapshot lives, chunks that change have to be copied.
    let mut snapshot = cache.snapshot(2, View::ALL).unwrap();
    count("snapshot");
    drop(cache.snapshot(2, View { members: false, ..View::ALL }));
    count("snapshot of few members");
    let mut out = Vec::new();
    while !snapshot.write(&mut out, 64 << 10) {
        count("slice of a snapshot");
        out.clear();
    }
    for request in [
        json!({"guild_id": "2", "query": "", "limit": 0, "presences": true}),
        json!({"guild_id": "2", "query": "zzzz", "limit": 100}),
        json!({"guild_id": "2", "query": "user", "limit": 100}),
    ] {
        let request = MemberRequest::parse(request.to_string().as_bytes()).unwrap();
        let mut answer = cache.answer(request).unwrap();
        count("request for members");
        while !answer.is_complete() {
            cache.next_chunk(&mut answer, &mut out);
            count("chunk of members");
            out.clear();
        }
    }
    let mut each = |cache: &mut Cache, event: &'static str, mut data: Value| {
        data["guild_id"] = "2".into();
        apply(cache, event, data);
        count(event);
    };
    for role in ROLES {
        each(&mut cache, "GUILD_ROLE_DELETE", json!({"role_id": role}));
    }
    while cache.guilds[&2].removal.is_some() {
        each(&mut cache, "TYPING_START", json!({}));
        each(&mut cache, "MESSAGE_CREATE", json!({"channel_id": "11", "id": "2"}));
    }
    let mut held = cache.snapshot(2, View::ALL);
    for (number, id) in people().enumerate() {
        // Members in the order of the store and in random order, so that chunks become empty, are split and are joined.
        let id = if number % 2 == 0 { id } else { (1000 + number * 7919 % 100_000).to_string() };
        if number % 1_000 == 0 {
            held = cache.snapshot(2, View::ALL);
            work::take();
        }
        match number % 5 {
            0 => each(&mut cache, "PRESENCE_UPDATE", json!({"user": {"id": id}, "status": "dnd"})),
            1 => each(&mut cache, "GUILD_MEMBER_UPDATE", json!({"user": {"id": id}, "nick": "n".repeat(number % 32)})),
            2 => each(&mut cache, "VOICE_STATE_UPDATE", json!({"user_id": id, "channel_id": "6"})),
            3 => each(&mut cache, "GUILD_MEMBER_ADD", json!({"user": {"id": (200_000 + number).to_string()}})),
            _ => each(&mut cache, "GUILD_MEMBER_REMOVE", json!({"user": {"id": id}})),
        }
    }
    drop(held);
    for id in people().chain((200_000..300_000).map(|id: u64| id.to_string())) {
        each(&mut cache, "GUILD_MEMBER_REMOVE", json!({"user": {"id": id}}));
    }
    assert_eq!(cache.counts().members, 2, "the two of the other guild");
    for event in ["CHANNEL_UPDATE", "CHANNEL_DELETE"] {
        each(&mut cache, event, json!({"id": "10"}));
    }
    each(&mut cache, "GUILD_UPDATE", json!({"id": "2", "name": "new"}));
    apply(&mut cache, "GUILD_DELETE", json!({"id": "2"}));
    count("GUILD_DELETE");
    println!("{longest:?}");
    let too_long: Vec<_> = longest.into_iter().filter(|(_, most)| *most > MOST).collect();
    assert!(too_long.is_empty(), "{too_long:?}");
}
