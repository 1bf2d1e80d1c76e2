//! The cache, one behaviour after the other: what each event changes, what snapshots show, and that nothing is lost.

use super::*;

mod bounded_work;
mod derived;
mod known_members;
mod member_answers;
mod readable;

use proptest::prelude::*;
use serde_json::{Value, json};

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
fn a_snapshot_gives_back_the_guild_create() {
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

/// A GUILD_UPDATE carries all roles, emojis and stickers of the guild. Mostly they are as before.
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
        assert!(
            !update(&format!(r#""emojis":{good},"roles":{broken}"#), turned, e),
            "a malformed array changes nothing"
        );
    }
    // If a key occurs twice, the last one counts, as in every JSON parser. Here one of the two is what was stored
    // before.
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
    // Without the intent for members a client sees the bot itself (77) and the users in voice channels (78).
    let members: Vec<_> = shown["members"].as_array().unwrap().iter().map(|member| &member["user"]["id"]).collect();
    assert_eq!(members, ["77", "78"]);
}

#[test]
fn members_come_change_and_go() {
    let mut cache = cache(Flags::ALL);
    assert!(apply(&mut cache, "GUILD_MEMBER_ADD", json!({"guild_id": "1", "user": {"id": "79"}, "roles": []})).changed);
    // Keys that an update lacks stay as they are. An update of an unknown member is ignored.
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
    // A member who leaves loses presence and voice state too.
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
    assert!(!message.changed, "a client must get the message even if its snapshot counts it");
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
fn roles_emojis_scheduled_events_and_sounds() {
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
fn user_update_changes_the_bots_own_user() {
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

/// All chunks of the answer to a request; `None` when the cache cannot answer it.
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

/// A guild in which all members have the first of [`ROLES`], and every second one has the other too.
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
fn events_that_no_snapshot_shows_do_not_count_as_changes() {
    // Clients got the first event of each pair. If the second one counted as a change, a client with a newer snapshot
    // would not get it.
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
fn a_user_who_is_no_member_does_not_leave_twice() {
    let mut cache = cache(Flags::ALL);
    let leave = json!({"guild_id": "1", "user": {"id": "78"}});
    assert!(apply(&mut cache, "GUILD_MEMBER_REMOVE", leave.clone()).changed);
    assert!(apply(&mut cache, "GUILD_MEMBER_REMOVE", leave.clone()).ignored.is_some(), "all members are known");
    assert_eq!(shown(&cache, 1, View::ALL)["member_count"], 1);
    // Of this guild the cache does not know all members, so an unknown user may have been one.
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "member_count": 5, "members": []}));
    assert!(apply(&mut cache, "GUILD_MEMBER_REMOVE", json!({"guild_id": "2", "user": {"id": "78"}})).changed);
    assert_eq!(shown(&cache, 2, View::ALL)["member_count"], 4);
}

#[test]
fn only_the_top_level_last_message_id_changes() {
    let mut cache = cache(Flags::ALL);
    let [old, other, new] = ["123456789012345678", "223456789012345678", "323456789012345678"];
    let channel = |last: &str| json!({"id": "10", "last_message_id": last, "x": {"last_message_id": other}});
    apply(&mut cache, "GUILD_CREATE", json!({"id": "2", "channels": [channel(old)]}));
    apply(&mut cache, "MESSAGE_CREATE", json!({"guild_id": "2", "channel_id": "10", "id": new}));
    assert_eq!(shown(&cache, 2, View::ALL)["channels"], json!([channel(new)]));
}

#[test]
fn a_thread_member_has_the_form_of_guild_create() {
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
fn a_status_changes_only_in_channels_that_have_one() {
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
fn an_array_that_was_null_is_written_once() {
    let mut cache = cache(Flags::ALL);
    cache.apply(EventKind::GuildCreate, br#"{"id":"2","threads":null}"#);
    apply(&mut cache, "THREAD_CREATE", json!({"guild_id": "2", "id": "22"}));
    let mut out = Vec::new();
    cache.snapshot(2, View::ALL).unwrap().write(&mut out, 1 << 20);
    assert_eq!(memchr::memmem::find_iter(&out, b"\"threads\"").count(), 1, "{}", String::from_utf8_lossy(&out));
    assert_eq!(shown(&cache, 2, View::ALL)["threads"][0]["id"], "22");
}

#[test]
fn an_entity_that_is_listed_twice_is_stored_once() {
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

proptest! {
    /// Malformed data of any event causes no panic, and snapshots stay valid JSON.
    #[test]
    fn malformed_data_does_no_harm(
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
