use super::*;

mod derived;
mod known_members;
mod readable;

use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn shown(cache: &Cache, guild: u64, view: View) -> Value {
    let mut snapshot = cache.snapshot(guild, view).expect("a guild");
    let mut out = Vec::new();
    assert!(snapshot.write(&mut out, usize::MAX / 2));
    serde_json::from_slice(&out).expect("JSON")
}

fn apply(cache: &mut Cache, event: &str, data: Value) -> Outcome {
    cache.apply(EventKind::from_name(event.as_bytes()), data.to_string().as_bytes())
}

fn guild() -> Value {
    json!({
        "id": "1", "name": "a", "new_key": {"deep": [1, 2.50, "\u{e9}"]}, "member_count": 2, "large": false, "unavailable": false,
        "channels": [{"id": "10", "name": "c", "kept": true, "last_message_id": null}, {"id": "11", "name": "d"}],
        "threads": [{"id": "20", "parent_id": "10"}, {"id": "21", "parent_id": "11"}],
        "members": [
            {"user": {"id": "77", "username": "bot"}, "roles": [], "deaf": false, "mute": true},
            {"user": {"id": "78", "username": "b"}, "roles": ["5"], "deaf": false, "mute": true, "joined_at": "x"},
        ],
        "presences": [{"user": {"id": "78"}, "status": "idle"}],
        "roles": [{"id": "5", "name": "r"}], "emojis": [{"id": "6"}], "stickers": [{"id": "7"}],
        "voice_states": [{"user_id": "78", "channel_id": "11"}],
        "guild_scheduled_events": [{"id": "8", "status": 1, "user_count": 3}], "stage_instances": [{"id": "9"}],
        "soundboard_sounds": [{"sound_id": "4", "name": "s"}], "embedded_activities": [{"odd": 1}],
    })
}

fn cache(flags: Flags) -> Cache {
    let mut cache = Cache::new(flags);
    let ready = json!({"user": {"id": "77", "username": "bot"}, "guilds": [{"id": "1", "unavailable": true}]});
    assert_eq!(cache.ready(ready.to_string().as_bytes()), Ok(vec![]));
    assert!(apply(&mut cache, "GUILD_CREATE", guild()).changed);
    cache
}

#[test]
fn what_went_in_comes_out() {
    let cache = cache(Flags::ALL);
    assert_eq!(shown(&cache, 1, View::ALL), guild());
    let counts = cache.counts();
    assert_eq!((counts.guilds, counts.members, counts.channels, counts.presences), (1, 2, 4, 1));
}

#[test]
fn numbers_and_strings_are_untouched() {
    let mut cache = cache(Flags::ALL);
    let text = r#"{"id":"2","big":123456789012345678901234567890,"float":1.500,"text":"\u00e9\/","members":[{"user":{"id":"9"},"x":1e5}]}"#;
    cache.apply(EventKind::GuildCreate, text.as_bytes());
    let mut out = Vec::new();
    cache.snapshot(2, View::ALL).unwrap().write(&mut out, 1 << 20);
    let out = String::from_utf8(out).unwrap();
    for part in [r#""big":123456789012345678901234567890"#, r#""float":1.500"#, r#""text":"\u00e9\/""#, r#""x":1e5"#] {
        assert!(out.contains(part), "{part} in {out}");
    }
}

/// A GUILD_UPDATE has all of the guild's roles, emojis and stickers, which mostly are those that are known.
#[test]
fn a_guild_update_repeats_or_replaces_arrays() {
    let mut cache = cache(Flags::ALL);
    let mut update = |data: &str, roles: &str, emojis: &str| {
        let outcome = cache.apply(EventKind::GuildUpdate, format!(r#"{{"id":"1",{data}}}"#).as_bytes());
        let shown = shown(&cache, 1, View::ALL);
        assert_eq!((shown["roles"].to_string(), shown["emojis"].to_string()), (roles.into(), emojis.into()), "{data}");
        outcome.ignored.is_none()
    };
    let (r, e) = (r#"[{"id":"5","name":"r"}]"#, r#"[{"id":"6"}]"#);
    assert!(update(&format!(r#""roles":{r},"emojis":{e}"#), r, e));
    assert!(update(r#""roles":[ {"id":"5","name":"r"}]"#, r, e), "white space is not a change");
    let two = r#"[{"id":"5","name":"r"},{"id":"50","name":"s"}]"#;
    assert!(update(&format!(r#""emojis":{e},"roles":{two}"#), two, e));
    assert!(update(&format!(r#""roles":{two}"#), two, e));
    let turned = r#"[{"id":"50","name":"s"},{"id":"5","name":"r"}]"#;
    assert!(update(&format!(r#""roles":{turned}"#), turned, e), "order is kept");
    for (broken, good) in [("[{\"id\":\"5\",\"name\":\"r\"},]", "[]"), ("[{\"id\":\"6\"}{]", "[{\"id\":\"60\"}]")] {
        assert!(!update(&format!(r#""emojis":{good},"roles":{broken}"#), turned, e), "nothing of it counts");
    }
    // As in every JSON parser the last one of a key counts, also when it is what was known before.
    assert!(update(&format!(r#""roles":[],"roles":{turned}"#), turned, e));
    assert!(update(&format!(r#""roles":{turned},"roles":[]"#), "[]", e));
    assert!(update(r#""roles":[],"emojis":[]"#, "[]", "[]"));
    assert!(update(&format!(r#""roles":{r},"emojis":{e}"#), r, e));
}

#[test]
fn flags_that_are_off_keep_nothing() {
    let cache = cache(Flags::default());
    let shown = shown(&cache, 1, View::ALL);
    for list in [
        "channels",
        "threads",
        "members",
        "presences",
        "roles",
        "emojis",
        "stickers",
        "voice_states",
        "guild_scheduled_events",
        "stage_instances",
    ] {
        assert_eq!(shown[list], json!([]), "{list}");
    }
    assert_eq!((&shown["name"], &shown["embedded_activities"]), (&json!("a"), &json!([{"odd": 1}])));
    for event in [
        "PRESENCE_UPDATE",
        "CHANNEL_UPDATE",
        "VOICE_STATE_UPDATE",
        "GUILD_ROLE_CREATE",
        "TYPING_START",
        "GUILD_MEMBER_UPDATE",
    ] {
        assert!(!cache.wants(EventKind::from_name(event.as_bytes())), "{event}");
    }
    let own = self::cache(Flags { current_member: true, ..Flags::default() });
    assert_eq!(
        self::shown(&own, 1, View::ALL)["members"],
        json!([{"user": {"id": "77", "username": "bot"}, "roles": [], "deaf": false, "mute": true}])
    );
}

#[test]
fn views_hide_what_intents_do_not_cover() {
    let mut cache = cache(Flags::ALL);
    apply(&mut cache, "GUILD_MEMBER_ADD", json!({"guild_id": "1", "user": {"id": "79"}, "roles": []}));
    let shown =
        shown(&cache, 1, View { presences: false, members: false, voice_states: false, scheduled_events: false });
    for list in ["presences", "voice_states", "guild_scheduled_events"] {
        assert_eq!(shown[list], json!([]), "{list}");
    }
    // The bot itself, and who is in a voice channel.
    let members: Vec<_> = shown["members"].as_array().unwrap().iter().map(|member| &member["user"]["id"]).collect();
    assert_eq!(members, ["77", "78"]);
}

#[test]
fn members_come_change_and_go() {
    let mut cache = cache(Flags::ALL);
    assert!(apply(&mut cache, "GUILD_MEMBER_ADD", json!({"guild_id": "1", "user": {"id": "79"}, "roles": []})).changed);
    // What an update leaves out is as before; of somebody unknown it makes nothing.
    assert!(
        apply(
            &mut cache,
            "GUILD_MEMBER_UPDATE",
            json!({"guild_id": "1", "user": {"id": "78", "username": "new"}, "roles": []})
        )
        .changed
    );
    assert!(
        apply(&mut cache, "GUILD_MEMBER_UPDATE", json!({"guild_id": "1", "user": {"id": "1234"}})).ignored.is_some()
    );
    let after = shown(&cache, 1, View::ALL);
    assert_eq!(after["member_count"], 3);
    assert_eq!(
        after["members"][1],
        json!({"user": {"id": "78", "username": "new"}, "roles": [], "deaf": false, "mute": true, "joined_at": "x"})
    );
    assert_eq!(after["members"][2], json!({"user": {"id": "79"}, "roles": []}));
    // Whoever goes takes presence and voice state along.
    apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "1", "user": {"id": "78"}}));
    let after = shown(&cache, 1, View::ALL);
    assert_eq!(
        (&after["member_count"], &after["presences"], &after["voice_states"]),
        (&json!(2), &json!([]), &json!([]))
    );
    assert_eq!(after["members"].as_array().unwrap().len(), 2);
}

#[test]
fn presences_and_voice() {
    let mut cache = cache(Flags::ALL);
    apply(
        &mut cache,
        "PRESENCE_UPDATE",
        json!({"guild_id": "1", "user": {"id": "77", "username": "x"}, "status": "dnd"}),
    );
    apply(&mut cache, "PRESENCE_UPDATE", json!({"guild_id": "1", "user": {"id": "78"}, "status": "offline"}));
    assert_eq!(shown(&cache, 1, View::ALL)["presences"], json!([{"user": {"id": "77"}, "status": "dnd"}]));
    let state = json!({"guild_id": "1", "user_id": "77", "channel_id": "11", "member": {}, "self_mute": true});
    apply(&mut cache, "VOICE_STATE_UPDATE", state);
    apply(&mut cache, "VOICE_STATE_UPDATE", json!({"guild_id": "1", "user_id": "78", "channel_id": null}));
    assert_eq!(
        shown(&cache, 1, View::ALL)["voice_states"],
        json!([{"user_id": "77", "channel_id": "11", "self_mute": true}])
    );
}

#[test]
fn channels_and_threads() {
    let mut cache = cache(Flags::ALL);
    apply(&mut cache, "CHANNEL_UPDATE", json!({"guild_id": "1", "id": "10", "name": "new"}));
    apply(&mut cache, "CHANNEL_PINS_UPDATE", json!({"guild_id": "1", "channel_id": "10", "last_pin_timestamp": "t"}));
    apply(&mut cache, "VOICE_CHANNEL_STATUS_UPDATE", json!({"guild_id": "1", "id": "11", "status": "hi"}));
    let message = apply(&mut cache, "MESSAGE_CREATE", json!({"guild_id": "1", "channel_id": "10", "id": "99"}));
    assert!(!message.changed, "a message has to reach clients whose snapshot shows it already");
    let after = shown(&cache, 1, View::ALL);
    assert_eq!(
        after["channels"],
        json!([
            {"id": "10", "name": "new", "kept": true, "last_message_id": "99", "last_pin_timestamp": "t"},
            {"id": "11", "name": "d"},
        ])
    );
    apply(&mut cache, "THREAD_CREATE", json!({"guild_id": "1", "id": "22", "parent_id": "10", "newly_created": true}));
    apply(&mut cache, "THREAD_UPDATE", json!({"guild_id": "1", "id": "20", "thread_metadata": {"archived": true}}));
    apply(
        &mut cache,
        "THREAD_MEMBERS_UPDATE",
        json!({"guild_id": "1", "id": "21", "member_count": 4, "added_members": [{"id": "21", "user_id": "77", "flags": 1, "member": {}}]}),
    );
    assert_eq!(
        shown(&cache, 1, View::ALL)["threads"],
        json!([
            {"id": "21", "parent_id": "11", "member_count": 4, "member": {"flags": 1}},
            {"guild_id": "1", "id": "22", "parent_id": "10"},
        ])
    );
    apply(&mut cache, "CHANNEL_DELETE", json!({"guild_id": "1", "id": "10"}));
    assert_eq!(shown(&cache, 1, View::ALL)["threads"].as_array().unwrap().len(), 1, "threads go with their channel");
    let sync = json!({"guild_id": "1", "channel_ids": ["11"], "threads": [{"id": "30", "parent_id": "11"}], "members": [{"id": "30", "user_id": "77", "flags": 2}]});
    apply(&mut cache, "THREAD_LIST_SYNC", sync);
    assert_eq!(
        shown(&cache, 1, View::ALL)["threads"],
        json!([{"id": "30", "parent_id": "11", "member": {"flags": 2}}])
    );
}

#[test]
fn the_rest_of_a_guild() {
    let mut cache = cache(Flags::ALL);
    apply(&mut cache, "GUILD_UPDATE", json!({"id": "1", "name": "b", "roles": [{"id": "50"}], "another": 1}));
    apply(&mut cache, "GUILD_ROLE_CREATE", json!({"guild_id": "1", "role": {"id": "51"}}));
    apply(&mut cache, "GUILD_ROLE_DELETE", json!({"guild_id": "1", "role_id": "50"}));
    apply(&mut cache, "GUILD_EMOJIS_UPDATE", json!({"guild_id": "1", "emojis": [{"id": "60"}]}));
    apply(&mut cache, "GUILD_STICKERS_UPDATE", json!({"guild_id": "1", "stickers": []}));
    apply(
        &mut cache,
        "GUILD_SCHEDULED_EVENT_USER_ADD",
        json!({"guild_id": "1", "guild_scheduled_event_id": "8", "user_id": "5"}),
    );
    apply(&mut cache, "STAGE_INSTANCE_DELETE", json!({"guild_id": "1", "id": "9"}));
    apply(&mut cache, "GUILD_SOUNDBOARD_SOUND_UPDATE", json!({"guild_id": "1", "sound_id": "4", "name": "t"}));
    let after = shown(&cache, 1, View::ALL);
    assert_eq!((&after["name"], &after["another"]), (&json!("b"), &json!(1)));
    assert_eq!(
        (&after["roles"], &after["emojis"], &after["stickers"]),
        (&json!([{"id": "51"}]), &json!([{"id": "60"}]), &json!([]))
    );
    assert_eq!(after["guild_scheduled_events"][0]["user_count"], 4);
    assert_eq!((&after["stage_instances"], &after["soundboard_sounds"][0]["name"]), (&json!([]), &json!("t")));
    apply(&mut cache, "GUILD_SCHEDULED_EVENT_UPDATE", json!({"guild_id": "1", "id": "8", "status": 3}));
    assert_eq!(shown(&cache, 1, View::ALL)["guild_scheduled_events"], json!([]));
}

#[test]
fn guilds_go_down_come_back_and_go() {
    let mut cache = cache(Flags::ALL);
    assert!(apply(&mut cache, "GUILD_DELETE", json!({"id": "1", "unavailable": true})).changed);
    let down = cache.snapshot(1, View::ALL).unwrap();
    assert!(down.unavailable() && down.is_down());
    assert_eq!(cache.counts().unavailable_guilds, 1);
    assert!(apply(&mut cache, "GUILD_ROLE_CREATE", json!({"guild_id": "1", "role": {"id": "51"}})).ignored.is_some());
    apply(&mut cache, "GUILD_CREATE", guild());
    assert!(!cache.snapshot(1, View::ALL).unwrap().unavailable());
    assert!(apply(&mut cache, "GUILD_DELETE", json!({"id": "1"})).changed);
    assert!(cache.snapshot(1, View::ALL).is_none());
    assert!(apply(&mut cache, "GUILD_DELETE", json!({"id": "1"})).ignored.is_some());
    assert_eq!(cache.counts().ignored_events, 2);
}

#[test]
fn a_new_session_forgets_what_it_does_not_name() {
    let mut cache = cache(Flags::ALL);
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2"}));
    let ready = json!({"user": {"id": "77"}, "guilds": [{"id": "2"}, {"id": "3"}]}).to_string();
    assert_eq!(cache.ready(ready.as_bytes()), Ok(vec![1]));
    assert_eq!(cache.guilds().collect::<Vec<_>>(), [(2, false), (3, false)]);
    let pending = cache.snapshot(3, View::ALL).unwrap();
    assert!(pending.unavailable() && !pending.is_down());
}

#[test]
fn the_own_user_is_kept_current() {
    let mut cache = cache(Flags::ALL);
    apply(&mut cache, "USER_UPDATE", json!({"id": "77", "username": "renamed"}));
    assert_eq!(
        serde_json::from_slice::<Value>(cache.user().unwrap()).unwrap(),
        json!({"id": "77", "username": "renamed"})
    );
}

#[test]
fn a_snapshot_shows_one_moment_in_pieces_of_any_size() {
    let mut cache = cache(Flags::ALL);
    for budget in [1, 7, 50, 400, 10_000] {
        let before = shown(&cache, 1, View::ALL);
        let mut snapshot = cache.snapshot(1, View::ALL).unwrap();
        let mut out = Vec::new();
        let mut user = 1000;
        while !snapshot.write(&mut out, budget) {
            user += 1;
            apply(&mut cache, "GUILD_MEMBER_ADD", json!({"guild_id": "1", "user": {"id": user.to_string()}}));
            apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "1", "user": {"id": "78"}}));
            apply(&mut cache, "GUILD_UPDATE", json!({"id": "1", "name": user}));
        }
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), before);
    }
}

/// All chunks of an answer from the cache; `None`: it has to be asked of Discord.
fn ask(cache: &Cache, request: Value) -> Option<Vec<Value>> {
    let request = MemberRequest::parse(request.to_string().as_bytes()).expect("a request");
    let mut answer = cache.answer(request)?;
    let mut chunks = Vec::new();
    while !answer.is_complete() {
        let mut out = Vec::new();
        if cache.next_chunk(&mut answer, &mut out) {
            chunks.push(serde_json::from_slice(&out).expect("JSON"));
        }
    }
    Some(chunks)
}

#[test]
fn members_are_answered_from_the_cache() {
    let mut cache = cache(Flags::ALL);
    let all = ask(&cache, json!({"guild_id": 1, "query": "", "limit": 0, "presences": true, "nonce": "n\"1"})).unwrap();
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["members"], guild()["members"]);
    assert_eq!(all[0]["presences"], guild()["presences"]);
    assert_eq!(
        (&all[0]["nonce"], &all[0]["chunk_index"], &all[0]["chunk_count"]),
        (&json!("n\"1"), &json!(0), &json!(1))
    );
    let ids = ask(&cache, json!({"guild_id": ["1"], "user_ids": [78, "5"]})).unwrap();
    assert_eq!((&ids[0]["members"][0]["user"]["id"], &ids[0]["not_found"]), (&json!("78"), &json!(["5"])));
    assert!(ids[0].get("nonce").is_none() && ids[0].get("presences").is_none());
    for (name, count) in [("BO", 1), ("b", 2), ("zzz", 0)] {
        let named = ask(&cache, json!({"guild_id": "1", "query": name, "limit": 10})).unwrap();
        assert_eq!(named[0]["members"].as_array().unwrap().len(), count, "{name}");
    }
    // Not all members are known, or none.
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "member_count": 5, "members": []}));
    assert!(ask(&cache, json!({"guild_id": "2", "query": "", "limit": 0})).is_none());
    assert!(ask(&cache, json!({"guild_id": "3", "query": "", "limit": 0})).is_none());
    // One that is too long is ignored (docs: Request Guild Members).
    for (length, kept) in [(32, true), (33, false)] {
        let request = json!({"guild_id": "1", "user_ids": ["78"], "nonce": "n".repeat(length)});
        assert_eq!(ask(&cache, request).unwrap()[0].get("nonce").is_some(), kept);
    }
    for odd in [
        json!({}),
        json!({"guild_id": "1"}),
        json!({"guild_id": ["1", "2"], "query": "", "limit": 0}),
        json!({"guild_id": "1", "query": ""}),
    ] {
        assert_eq!(MemberRequest::parse(odd.to_string().as_bytes()), None, "{odd}");
    }
}

#[test]
fn an_answer_waits_for_its_guild_and_goes_to_discord_when_that_is_not_whole_any_more() {
    let mut cache = cache(Flags::ALL);
    let request = |data: Value| MemberRequest::parse(data.to_string().as_bytes()).unwrap();
    let all = json!({"guild_id": "1", "query": "", "limit": 0, "presences": true, "nonce": "n"});
    let answer = cache.answer(request(all)).unwrap();
    assert_eq!(cache.readiness(&answer), Readiness::Now);
    apply(&mut cache, "GUILD_DELETE", json!({"id": "1", "unavailable": true}));
    assert_eq!(cache.readiness(&answer), Readiness::Later);
    apply(&mut cache, "GUILD_CREATE", guild());
    assert_eq!(cache.readiness(&answer), Readiness::Now);
    apply(&mut cache, "GUILD_CREATE", json!({"id": "1", "member_count": 5, "members": []}));
    assert_eq!(cache.readiness(&answer), Readiness::Never);
    for data in [
        json!({"guild_id": "1", "query": "", "limit": 0, "presences": true, "nonce": "n"}),
        json!({"guild_id": "1", "query": "bo", "limit": 7}),
        json!({"guild_id": "1", "user_ids": ["5", "78"]}),
    ] {
        apply(&mut cache, "GUILD_CREATE", guild());
        let answer = cache.answer(request(data.clone())).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&answer.request()).unwrap(), data);
    }
    apply(&mut cache, "GUILD_DELETE", json!({"id": "1"}));
    assert_eq!(cache.readiness(&answer), Readiness::Now, "nobody is there to be told of");
}

#[test]
fn an_answer_that_contradicts_itself_is_not_taken_over() {
    let cache = cache(Flags::ALL);
    let request = json!({"guild_id": "1", "query": "", "limit": 0}).to_string();
    let answer = cache.answer(MemberRequest::parse(request.as_bytes()).unwrap()).unwrap();
    let good = serde_json::to_value(answer.save()).unwrap();
    assert!(MemberAnswer::restore(serde_json::from_value(good.clone()).unwrap()).is_some());
    for (key, value) in [("chunk", json!(2)), ("chunks", json!(0)), ("chunks", json!(3))] {
        let mut bad = good.clone();
        bad[key] = value;
        assert!(MemberAnswer::restore(serde_json::from_value(bad).unwrap()).is_none(), "{key}");
    }
}

#[test]
fn large_answers_come_in_chunks_that_are_true_when_they_come_and_can_go_back() {
    let mut cache = cache(Flags::ALL);
    let member = |id: usize| json!({"user": {"id": (1000 + id).to_string(), "username": format!("user{id}")}});
    let mut members: Vec<Value> = (0..4321).map(member).collect();
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "member_count": members.len(), "members": members}));
    let request = json!({"guild_id": "2", "query": "", "limit": 0}).to_string();
    let mut answer = cache.answer(MemberRequest::parse(request.as_bytes()).unwrap()).unwrap();
    let next = |answer: &mut MemberAnswer, cache: &Cache| -> Value {
        let mut out = Vec::new();
        assert!(cache.next_chunk(answer, &mut out));
        serde_json::from_slice(&out).unwrap()
    };
    let named = ask(&cache, json!({"guild_id": "2", "query": "user4320", "limit": 5})).unwrap();
    assert_eq!(named[0]["members"].as_array().unwrap().len(), 1);
    let first: Vec<Value> = (0..3).map(|_| next(&mut answer, &cache)).collect();
    assert_eq!(first[2]["members"], json!(members[2000..3000]));
    // The client hears of these by events before the next chunk, and then must not be told the opposite.
    apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": "2500"}}));
    apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": "4500"}}));
    apply(&mut cache, "GUILD_MEMBER_UPDATE", json!({"guild_id": "2", "user": {"id": "4501"}, "nick": "new"}));
    apply(&mut cache, "GUILD_MEMBER_ADD", json!({"guild_id": "2", "user": {"id": "9999", "username": "late"}}));
    members[3501] = json!({"user": {"id": "4501"}, "nick": "new"});
    members.remove(3500);
    members.remove(1500);
    answer.rewind(1);
    assert_eq!((answer.made(), answer.is_complete()), (1, false));
    let saved: SavedAnswer = serde_json::from_value(serde_json::to_value(answer.save()).unwrap()).unwrap();
    let restored = MemberAnswer::restore(saved).unwrap();
    for mut answer in [answer, restored] {
        let mut chunks = vec![first[0].clone()];
        while !answer.is_complete() {
            chunks.push(next(&mut answer, &cache));
        }
        let numbers: Vec<_> = chunks.iter().map(|chunk| chunk["chunk_index"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4]);
        let all: Vec<Value> = chunks.iter().flat_map(|chunk| chunk["members"].as_array().unwrap().clone()).collect();
        assert_eq!(all, members);
        answer.rewind(0);
        assert_eq!(next(&mut answer, &cache)["members"], first[0]["members"]);
    }
    // Of a guild that is gone by now nothing can be said, but the answer ends.
    let request = json!({"guild_id": "2", "query": "", "limit": 0}).to_string();
    let mut answer = cache.answer(MemberRequest::parse(request.as_bytes()).unwrap()).unwrap();
    let named = json!({"guild_id": "2", "query": "user", "limit": 5}).to_string();
    let mut by_name = cache.answer(MemberRequest::parse(named.as_bytes()).unwrap()).unwrap();
    apply(&mut cache, "GUILD_DELETE", json!({"id": "2"}));
    while !answer.is_complete() {
        assert_eq!(next(&mut answer, &cache)["members"], json!([]));
    }
    assert_eq!(next(&mut by_name, &cache)["members"], json!([]));
    let limited = json!({"guild_id": "1", "query": "", "limit": 1});
    assert_eq!(ask(&cache, limited).unwrap()[0]["members"].as_array().unwrap().len(), 1);
}

/// A client has had every event when a chunk is made, so an older state would undo what they told.
#[test]
fn chunks_show_members_as_they_are_by_then() {
    let requests = [
        json!({"guild_id": "2", "query": "", "limit": 0}),
        json!({"guild_id": "2", "query": "user", "limit": 100}),
        json!({"guild_id": "2", "user_ids": ["1000", "1001", "1002"]}),
    ];
    for request in requests {
        let mut cache = cache(Flags::ALL);
        apply(&mut cache, "GUILD_CREATE", large_guild(3));
        let named = request.get("user_ids").is_some();
        let mut answer = cache.answer(MemberRequest::parse(request.to_string().as_bytes()).unwrap()).unwrap();
        let renamed = json!({"guild_id": "2", "user": {"id": "1001", "username": "user1"}, "nick": "new", "roles": []});
        apply(&mut cache, "GUILD_MEMBER_UPDATE", renamed);
        apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": "1002"}}));
        let mut out = Vec::new();
        assert!(cache.next_chunk(&mut answer, &mut out));
        let chunk: Value = serde_json::from_slice(&out).unwrap();
        let members: Vec<_> = chunk["members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|member| (&member["user"]["id"], &member["nick"]))
            .collect();
        assert_eq!(members, [(&json!("1000"), &Value::Null), (&json!("1001"), &json!("new"))]);
        assert_eq!(chunk.get("not_found"), named.then(|| json!(["1002"])).as_ref());
        // A guild that is gone leaves an empty answer, which is an answer too.
        apply(&mut cache, "GUILD_DELETE", json!({"id": "2", "unavailable": true}));
        answer.rewind(0);
        out.clear();
        assert!(cache.next_chunk(&mut answer, &mut out));
        let chunk: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&chunk["members"], chunk.get("not_found")), (&json!([]), None));
    }
}

#[test]
fn what_no_snapshot_shows_reaches_every_client() {
    // Whoever heard of somebody's joining or of a role being made has to hear of the end too.
    let mut cache = cache(Flags { voice_states: false, roles: false, ..Flags::ALL });
    for (event, data) in [
        ("VOICE_STATE_UPDATE", json!({"guild_id": "1", "user_id": "77", "channel_id": "11"})),
        ("VOICE_STATE_UPDATE", json!({"guild_id": "1", "user_id": "77", "channel_id": null})),
        ("GUILD_ROLE_CREATE", json!({"guild_id": "1", "role": {"id": "51"}})),
        ("GUILD_ROLE_DELETE", json!({"guild_id": "1", "role_id": "51"})),
    ] {
        let outcome = apply(&mut cache, event, data.clone());
        assert_eq!((outcome.changed, outcome.ignored), (false, None), "{event} {data}");
    }
}

#[test]
fn who_is_no_member_can_not_leave_again() {
    let mut cache = cache(Flags::ALL);
    let leave = json!({"guild_id": "1", "user": {"id": "78"}});
    assert!(apply(&mut cache, "GUILD_MEMBER_REMOVE", leave.clone()).changed);
    assert!(apply(&mut cache, "GUILD_MEMBER_REMOVE", leave.clone()).ignored.is_some(), "all members are known");
    assert_eq!(shown(&cache, 1, View::ALL)["member_count"], 1);
    // Of a large guild few are known.
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "member_count": 5, "members": []}));
    assert!(apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": "78"}})).changed);
    assert_eq!(shown(&cache, 2, View::ALL)["member_count"], 4);
}

#[test]
fn only_the_channels_own_last_message_moves() {
    let mut cache = cache(Flags::ALL);
    let [old, other, new] = ["123456789012345678", "223456789012345678", "323456789012345678"];
    let channel = |last: &str| json!({"id": "10", "last_message_id": last, "x": {"last_message_id": other}});
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "channels": [channel(old)]}));
    apply(&mut cache, "MESSAGE_CREATE", json!({"guild_id": "2", "channel_id": "10", "id": new}));
    assert_eq!(shown(&cache, 2, View::ALL)["channels"], json!([channel(new)]));
}

#[test]
fn a_threads_member_is_as_guild_create_has_it() {
    let mut cache = cache(Flags::ALL);
    let event = json!({"id": "22", "user_id": "77", "flags": 1, "guild_id": "1"});
    let inside = json!({"id": "22", "user_id": "77", "flags": 1});
    for (name, data) in [
        ("THREAD_CREATE", json!({"guild_id": "1", "id": "22", "parent_id": "10", "member": inside})),
        ("THREAD_UPDATE", json!({"guild_id": "1", "id": "22", "parent_id": "10", "member": inside})),
        ("THREAD_MEMBER_UPDATE", event),
        ("THREAD_MEMBERS_UPDATE", json!({"guild_id": "1", "id": "22", "added_members": [inside]})),
        (
            "THREAD_LIST_SYNC",
            json!({"guild_id": "1", "threads": [{"id": "22", "parent_id": "10", "member": inside}], "members": []}),
        ),
        (
            "THREAD_LIST_SYNC",
            json!({"guild_id": "1", "threads": [{"id": "22", "parent_id": "10"}], "members": [inside]}),
        ),
    ] {
        assert!(apply(&mut cache, name, data).changed);
        let threads = shown(&cache, 1, View::ALL)["threads"].clone();
        let thread = threads.as_array().unwrap().iter().find(|thread| thread["id"] == "22").unwrap().clone();
        assert_eq!(thread["member"], json!({"flags": 1}), "{name}");
    }
}

#[test]
fn a_status_moves_where_the_guild_came_with_one() {
    let mut cache = cache(Flags::ALL);
    let channels = json!([{"id": "10", "status": "old", "voice_start_time": 5}, {"id": "11"}]);
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "channels": channels}));
    for (event, channel, value, changed) in [
        ("VOICE_CHANNEL_STATUS_UPDATE", "10", json!({"status": "new"}), true),
        ("VOICE_CHANNEL_STATUS_UPDATE", "11", json!({"status": "new"}), false),
        ("VOICE_CHANNEL_START_TIME_UPDATE", "10", json!({}), true),
        ("VOICE_CHANNEL_START_TIME_UPDATE", "11", json!({"voice_start_time": 7}), false),
    ] {
        let mut data = json!({"guild_id": "2", "id": channel});
        data.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        assert_eq!(apply(&mut cache, event, data).changed, changed, "{event} of {channel}");
    }
    assert_eq!(
        shown(&cache, 2, View::ALL)["channels"],
        json!([{"id": "10", "status": "new", "voice_start_time": null}, {"id": "11"}])
    );
}

#[test]
fn an_array_that_was_null_stands_once() {
    let mut cache = cache(Flags::ALL);
    cache.apply(EventKind::GuildCreate, br#"{"id":"2","threads":null}"#);
    apply(&mut cache, "THREAD_CREATE", json!({"guild_id": "2", "id": "22"}));
    let mut out = Vec::new();
    cache.snapshot(2, View::ALL).unwrap().write(&mut out, 1 << 20);
    assert_eq!(memchr::memmem::find_iter(&out, b"\"threads\"").count(), 1, "{}", String::from_utf8_lossy(&out));
    assert_eq!(shown(&cache, 2, View::ALL)["threads"][0]["id"], "22");
}

#[test]
fn who_stands_in_an_array_twice_is_there_once() {
    let mut cache = cache(Flags::ALL);
    let create = r#"{"id":"2","member_count":2,"members":[{"user":{"id":"5"},"nick":"a"},{"user":{"id":"6"}},
        {"user":{"id":"5"},"nick":"b"}],"roles":[{"id":"8"},{"name":"none"},{"name":"none"}]}"#;
    for _ in 0..2 {
        assert!(cache.apply(EventKind::GuildCreate, create.as_bytes()).changed);
        let counts = cache.counts();
        assert_eq!((counts.members, counts.roles, counts.guilds), (2 + 2, 1 + 3, 2));
    }
    let shown = shown(&cache, 2, View::ALL);
    assert_eq!(shown["members"], json!([{"user": {"id": "5"}, "nick": "b"}, {"user": {"id": "6"}}]));
    assert_eq!(shown["roles"], json!([{"id": "8"}, {"name": "none"}, {"name": "none"}]));
}

/// A guild in which everybody has the roles 100000000000000005 and, every other one, 100000000000000006.
fn large_guild(members: u64) -> Value {
    let members: Vec<Value> = (0..members)
        .map(|id| {
            let roles = if id % 2 == 0 { json!([ROLES[0], ROLES[1]]) } else { json!([ROLES[0]]) };
            let user = json!({
                "id": (1000 + id).to_string(), "username": format!("user{id}"), "global_name": format!("User {id}"),
                "avatar": format!("{:032x}", u128::from(id).pow(6)),
            });
            json!({"user": user, "nick": null, "roles": roles, "joined_at": "2024-02-29T23:59:59.999999+00:00"})
        })
        .collect();
    json!({"id": "2", "member_count": members.len(), "members": members, "roles": [{"id": ROLES[0]}, {"id": ROLES[1]}]})
}

const ROLES: [&str; 2] = ["100000000000000005", "100000000000000006"];

#[test]
fn a_deleted_role_is_gone_at_once_from_however_many_members() {
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
    assert!(cache.guilds[&2].sweep.is_none(), "it is done some time");
    check(&cache, &[]);
}

/// No operation on a guild of 100,000 members takes a millisecond, but for reading what Discord has sent.
#[test]
fn nothing_holds_the_core_up() {
    // See [`work`]: 0.9 ms.
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
    // What is shared has to be copied when it changes.
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
    while cache.guilds[&2].sweep.is_some() {
        each(&mut cache, "TYPING_START", json!({}));
        each(&mut cache, "MESSAGE_CREATE", json!({"channel_id": "11", "id": "2"}));
    }
    let mut held = cache.snapshot(2, View::ALL);
    for (number, id) in people().enumerate() {
        // In order and all over, so that chunks empty, split and are joined.
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
    assert_eq!(cache.counts().members, 2, "of the other guild");
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

proptest! {
    /// Any bytes, for any event: no panic, and what is shown stays JSON.
    #[test]
    fn hostile_data_does_no_harm(
        event in prop::sample::select(vec![
            "GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE", "GUILD_MEMBER_ADD", "GUILD_MEMBER_UPDATE", "GUILD_MEMBER_REMOVE",
            "GUILD_MEMBERS_CHUNK", "PRESENCE_UPDATE", "CHANNEL_UPDATE", "CHANNEL_DELETE", "THREAD_LIST_SYNC", "THREAD_MEMBERS_UPDATE",
            "GUILD_ROLE_CREATE", "GUILD_EMOJIS_UPDATE", "VOICE_STATE_UPDATE", "MESSAGE_CREATE", "GUILD_SCHEDULED_EVENT_UPDATE",
        ]),
        text in r#"\{("(guild_id|id|user|members|member_count|channel_id|role|emojis|threads)":("1"|\{"id":"78"\}|\[\]|\[1,\{\}\]|null|-5|"),?){0,4}[\]}{"]{0,3}"#,
    ) {
        let mut cache = cache(Flags::ALL);
        cache.apply(EventKind::from_name(event.as_bytes()), text.as_bytes());
        if let Some(mut snapshot) = cache.snapshot(1, View::ALL) && !snapshot.unavailable() {
            let mut out = Vec::new();
            prop_assert!(snapshot.write(&mut out, 1 << 20));
            prop_assert!(serde_json::from_slice::<Value>(&out).is_ok() || serde_json::from_str::<Value>(&text).is_err());
        }
        let _ = cache.ready(text.as_bytes());
    }
}
