//! Snapshots can be read by typed libraries, whatever the flags are: discord.py and hikari need the name, discriminator
//! and avatar of the user of every member, and hikari looks up the user of each voice state among the members.

use super::*;

fn user(id: u64) -> Value {
    json!({"id": id.to_string(), "username": "somebody", "discriminator": "0", "avatar": null, "global_name": null})
}

fn member(id: u64) -> Value {
    json!({"user": user(id), "roles": [], "joined_at": "2020-01-01T00:00:00+00:00", "deaf": false, "mute": false, "flags": 0})
}

/// Every combination of flags.
fn combinations() -> impl Iterator<Item = Flags> {
    (0u32..1 << 11).map(|bits| {
        let on = |bit: u32| bits >> bit & 1 == 1;
        Flags {
            channels: on(0),
            presences: on(1),
            emojis: on(2),
            current_member: on(3),
            members: on(4),
            roles: on(5),
            scheduled_events: on(6),
            stage_instances: on(7),
            stickers: on(8),
            users: on(9),
            voice_states: on(10),
        }
    })
}

/// Collects every object at a key that holds a user, with the path to it.
fn users<'a>(value: &'a Value, path: &str, found: &mut Vec<(String, &'a Value)>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| users(item, path, found)),
        Value::Object(entries) => {
            for (key, value) in entries {
                let path = format!("{path}.{key}");
                if matches!(key.as_str(), "user" | "creator") {
                    found.push((path.clone(), value));
                }
                users(value, &path, found);
            }
        }
        _ => {}
    }
}

fn check(cache: &Cache, flags: Flags, when: &str) {
    for view in [View::ALL, View { members: false, presences: false, ..View::ALL }] {
        let guild = shown(cache, 1, view);
        let mut found = Vec::new();
        users(&guild, "", &mut found);
        for (path, user) in found {
            // Only the id of a presence's user is guaranteed, and libraries know that (docs: Gateway Events, Presence
            // Update).
            let whole = ["id", "username", "discriminator", "avatar"].iter().all(|key| user.get(key).is_some());
            let readable = if path == ".presences.user" { user.get("id").is_some() } else { whole };
            assert!(readable, "{path} is {user} {when}, with {flags:?}");
        }
        let ids = |array: &str, id: fn(&Value) -> &Value| -> Vec<String> {
            let rows = guild[array].as_array().expect("an array");
            rows.iter().map(|row| id(row).as_str().expect("an id").to_owned()).collect()
        };
        let members = ids("members", |member| &member["user"]["id"]);
        for in_voice in ids("voice_states", |state| &state["user_id"]) {
            assert!(members.contains(&in_voice), "{in_voice} of a voice state is no member {when}, with {flags:?}");
        }
        let own = flags.members || flags.current_member;
        assert_eq!(
            members.contains(&"77".into()),
            own || (flags.voice_states && when == "in voice"),
            "{when} {flags:?}"
        );
        if !flags.members {
            assert!(!members.contains(&"81".into()), "81 is in no channel: {when}, with {flags:?}");
        }
    }
}

#[test]
fn every_user_can_be_read_with_any_flags() {
    let create = json!({
        "id": "1", "member_count": 4, "large": false, "unavailable": false, "channels": [{"id": "10", "type": 2}], "threads": [],
        "members": [member(77), member(78), member(79), member(81)],
        "roles": [{"id": "1", "name": "@everyone"}], "stage_instances": [],
        "presences": [{"user": user(78), "status": "idle", "activities": [], "client_status": {}}],
        "voice_states": [{"user_id": "78", "channel_id": "10", "session_id": "s"}],
        "emojis": [{"id": "6", "name": "e", "user": user(78)}], "stickers": [{"id": "7", "user": user(78)}],
        "guild_scheduled_events": [{"id": "8", "status": 1, "creator": user(78)}],
        "soundboard_sounds": [{"sound_id": "4", "user": user(78)}],
    });
    let voice = |user: u64, channel: Value| json!({"guild_id": "1", "user_id": user.to_string(), "channel_id": channel, "session_id": "s", "member": member(user)});
    for flags in combinations() {
        let mut cache = Cache::new(flags);
        let ready = json!({"user": user(77), "guilds": [{"id": "1", "unavailable": true}]});
        assert_eq!(cache.ready(ready.to_string().as_bytes()), Ok(vec![]));
        assert!(apply(&mut cache, "GUILD_CREATE", create.clone()).changed);
        check(&cache, flags, "at first");
        for (event, data, when) in [
            ("VOICE_STATE_UPDATE", voice(79, json!("10")), "with another one"),
            ("VOICE_STATE_UPDATE", voice(90, json!("10")), "with somebody new"),
            ("VOICE_STATE_UPDATE", voice(77, json!("10")), "in voice"),
            ("VOICE_STATE_UPDATE", voice(78, json!(null)), "in voice"),
            ("GUILD_MEMBERS_CHUNK", json!({"guild_id": "1", "members": [member(82)], "presences": []}), "in voice"),
            ("VOICE_STATE_UPDATE", voice(77, json!(null)), "after voice"),
            ("GUILD_MEMBER_REMOVE", json!({"guild_id": "1", "user": user(79)}), "after a leave"),
            ("VOICE_STATE_UPDATE", voice(90, json!(null)), "when all have left voice"),
        ] {
            apply(&mut cache, event, data);
            check(&cache, flags, when);
        }
        let mut member = member(77);
        member["guild_id"] = "1".into();
        member["user"]["username"] = "renamed".into();
        apply(&mut cache, "GUILD_MEMBER_UPDATE", member);
        check(&cache, flags, "after an update");
        if flags.current_member && !flags.members {
            let members = &shown(&cache, 1, View::ALL)["members"];
            assert_eq!(members.as_array().map(Vec::len), Some(1), "{members} with {flags:?}");
            assert_eq!(members[0]["user"]["username"], "renamed");
        }
    }
}

/// Without the intent for members, VOICE_STATE_UPDATE is the only event about members in voice channels.
#[test]
fn a_member_in_voice_is_updated_by_voice_states() {
    let mut cache = cache(Flags { voice_states: true, ..Flags::default() });
    assert_eq!(shown(&cache, 1, View::ALL)["members"], json!([guild()["members"][1]]));
    let mut renamed = member(78);
    renamed["user"]["username"] = "new".into();
    let state = json!({"guild_id": "1", "user_id": "78", "channel_id": "10", "member": renamed});
    assert!(apply(&mut cache, "VOICE_STATE_UPDATE", state).changed);
    assert_eq!(shown(&cache, 1, View::ALL)["members"][0]["user"]["username"], "new");
    apply(&mut cache, "VOICE_STATE_UPDATE", json!({"guild_id": "1", "user_id": "78", "channel_id": null}));
    assert_eq!(shown(&cache, 1, View::ALL)["members"], json!([]));
}
