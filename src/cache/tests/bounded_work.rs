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

/// The most work that one call of each operation did, in units of [`work`].
#[derive(Default)]
struct Longest(BTreeMap<&'static str, usize>);

impl Longest {
    /// Notes the work since the last call as that of this operation.
    fn count(&mut self, what: &'static str) {
        let most = self.0.entry(what).or_default();
        *most = (*most).max(work::take());
    }

    /// Applies an event of guild 2, and notes its work.
    fn apply(&mut self, cache: &mut Cache, event: &'static str, mut data: Value) {
        data["guild_id"] = "2".into();
        apply(cache, event, data);
        self.count(event);
    }
}

/// The user ids of a guild with 100,000 members.
fn user_ids() -> impl Iterator<Item = String> {
    (0..100_000).map(|id| (1000 + id).to_string())
}

/// A guild with 100,000 members, and with many presences, voice states, channels and threads.
fn huge_guild() -> Value {
    let mut guild = large_guild(100_000);
    let presence = |id: String| {
        let activity = json!({"name": id, "state": "playing", "created_at": 1});
        json!({"user": {"id": id}, "status": "idle", "activities": [activity]})
    };
    guild["presences"] = user_ids().step_by(3).map(presence).collect();
    guild["voice_states"] = user_ids().take(1_000).map(|id| json!({"user_id": id, "channel_id": "5"})).collect();
    guild["channels"] = (10..500).map(|id| json!({"id": id.to_string(), "name": "c"})).collect();
    guild["threads"] = (2_000..3_000).map(|id| json!({"id": id.to_string(), "parent_id": "10"})).collect();
    guild
}

/// Takes and writes snapshots, and answers requests for members.
fn read(cache: &Cache, longest: &mut Longest) {
    let mut snapshot = cache.snapshot(2, View::ALL).unwrap();
    longest.count("snapshot");
    drop(cache.snapshot(2, View { members: false, ..View::ALL }));
    longest.count("snapshot of few members");
    let mut out = Vec::new();
    while !snapshot.write(&mut out, 64 << 10) {
        longest.count("slice of a snapshot");
        out.clear();
    }
    for request in [
        json!({"guild_id": "2", "query": "", "limit": 0, "presences": true}),
        json!({"guild_id": "2", "query": "zzzz", "limit": 100}),
        json!({"guild_id": "2", "query": "user", "limit": 100}),
    ] {
        let request = MemberRequest::parse(request.to_string().as_bytes()).unwrap();
        let mut answer = cache.answer(request).unwrap();
        longest.count("request for members");
        while !answer.is_complete() {
            cache.next_chunk(&mut answer, &mut out);
            longest.count("chunk of members");
            out.clear();
        }
    }
}

/// Deletes roles that all members have, and applies events until the removal has finished.
fn delete_roles(cache: &mut Cache, longest: &mut Longest) {
    // While the snapshot lives, chunks that change have to be copied.
    let snapshot = cache.snapshot(2, View::ALL);
    work::take();
    for role in ROLES {
        longest.apply(cache, "GUILD_ROLE_DELETE", json!({"role_id": role}));
    }
    while cache.guilds[&2].removal.is_some() {
        longest.apply(cache, "TYPING_START", json!({}));
        longest.apply(cache, "MESSAGE_CREATE", json!({"channel_id": "11", "id": "2"}));
    }
    drop(snapshot);
}

/// Applies 100,000 events about members, while a recent snapshot shares the chunks.
fn change_members(cache: &mut Cache, longest: &mut Longest) {
    let mut snapshot = cache.snapshot(2, View::ALL);
    for (number, id) in user_ids().enumerate() {
        // Members in the order of the store and in random order, so that chunks become empty, are split and are joined.
        let id = if number % 2 == 0 { id } else { (1000 + number * 7919 % 100_000).to_string() };
        if number % 1_000 == 0 {
            snapshot = cache.snapshot(2, View::ALL);
            work::take();
        }
        let new_id = (200_000 + number).to_string();
        let (event, data) = match number % 5 {
            0 => ("PRESENCE_UPDATE", json!({"user": {"id": id}, "status": "dnd"})),
            1 => ("GUILD_MEMBER_UPDATE", json!({"user": {"id": id}, "nick": "n".repeat(number % 32)})),
            2 => ("VOICE_STATE_UPDATE", json!({"user_id": id, "channel_id": "6"})),
            3 => ("GUILD_MEMBER_ADD", json!({"user": {"id": new_id}})),
            _ => ("GUILD_MEMBER_REMOVE", json!({"user": {"id": id}})),
        };
        longest.apply(cache, event, data);
    }
    drop(snapshot);
}

/// No operation on a guild of 100,000 members takes a millisecond, except for reading a GUILD_CREATE.
#[test]
fn every_operation_on_a_large_guild_is_short() {
    // In units of [`work`]: 0.9 ms.
    const MOST: usize = 360_000;
    let mut longest = Longest::default();
    let mut cache = cache(Flags::ALL);
    apply(&mut cache, "GUILD_CREATE", huge_guild());
    work::take();
    read(&cache, &mut longest);
    delete_roles(&mut cache, &mut longest);
    change_members(&mut cache, &mut longest);
    for id in user_ids().chain((200_000..300_000).map(|id: u64| id.to_string())) {
        longest.apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"user": {"id": id}}));
    }
    assert_eq!(cache.counts().members, 2, "the two of the other guild");
    for event in ["CHANNEL_UPDATE", "CHANNEL_DELETE"] {
        longest.apply(&mut cache, event, json!({"id": "10"}));
    }
    longest.apply(&mut cache, "GUILD_UPDATE", json!({"id": "2", "name": "new"}));
    apply(&mut cache, "GUILD_DELETE", json!({"id": "2"}));
    longest.count("GUILD_DELETE");
    println!("{:?}", longest.0);
    let too_long: Vec<_> = longest.0.into_iter().filter(|(_, most)| *most > MOST).collect();
    assert!(too_long.is_empty(), "{too_long:?}");
}
