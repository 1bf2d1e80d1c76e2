//! Random events of every type that changes the cache. They have unusual keys and values, and lack some keys.

use super::{ARRAYS, model::LARGE};
use fastrand::Rng;
use serde_json::{Map, Value, json as value};

/// The types of the events. Some come twice, so that they are more frequent.
const EVENTS: [&str; 42] = [
    "GUILD_CREATE",
    "GUILD_UPDATE",
    "GUILD_DELETE",
    "GUILD_MEMBER_ADD",
    "GUILD_MEMBER_UPDATE",
    "GUILD_MEMBER_REMOVE",
    "GUILD_MEMBERS_CHUNK",
    "PRESENCE_UPDATE",
    "VOICE_STATE_UPDATE",
    "CHANNEL_CREATE",
    "CHANNEL_UPDATE",
    "CHANNEL_DELETE",
    "CHANNEL_PINS_UPDATE",
    "VOICE_CHANNEL_STATUS_UPDATE",
    "MESSAGE_CREATE",
    "THREAD_CREATE",
    "THREAD_UPDATE",
    "THREAD_DELETE",
    "THREAD_LIST_SYNC",
    "THREAD_MEMBER_UPDATE",
    "THREAD_MEMBERS_UPDATE",
    "GUILD_ROLE_CREATE",
    "GUILD_ROLE_UPDATE",
    "GUILD_ROLE_DELETE",
    "GUILD_EMOJIS_UPDATE",
    "GUILD_STICKERS_UPDATE",
    "GUILD_SCHEDULED_EVENT_CREATE",
    "GUILD_SCHEDULED_EVENT_UPDATE",
    "GUILD_SCHEDULED_EVENT_DELETE",
    "GUILD_SCHEDULED_EVENT_USER_ADD",
    "GUILD_SCHEDULED_EVENT_USER_REMOVE",
    "STAGE_INSTANCE_CREATE",
    "STAGE_INSTANCE_UPDATE",
    "STAGE_INSTANCE_DELETE",
    "GUILD_SOUNDBOARD_SOUND_CREATE",
    "GUILD_SOUNDBOARD_SOUND_UPDATE",
    "GUILD_SOUNDBOARD_SOUND_DELETE",
    "GUILD_SOUNDBOARD_SOUNDS_UPDATE",
    "THREAD_MEMBERS_UPDATE",
    "MESSAGE_CREATE",
    "MESSAGE_DELETE",
    "MESSAGE_DELETE_BULK",
];

/// The array that an event changes, if it changes only one.
pub(super) fn array_of(event: &str) -> Option<&'static str> {
    let arrays = [
        ("PRESENCE_", "presences"),
        ("VOICE_STATE_", "voice_states"),
        ("CHANNEL_", "channels"),
        ("VOICE_CHANNEL_", "channels"),
        ("THREAD_", "threads"),
        ("GUILD_ROLE_", "roles"),
        ("GUILD_EMOJIS_", "emojis"),
        ("GUILD_STICKERS_", "stickers"),
        ("GUILD_SCHEDULED_", "guild_scheduled_events"),
        ("STAGE_", "stage_instances"),
    ];
    arrays.into_iter().find(|(prefix, _)| event.starts_with(prefix)).map(|(_, array)| array)
}

fn small_id(rng: &mut Rng) -> Value {
    rng.u64(1..7).to_string().into()
}

/// A random JSON value, which need not be like any of Discord's.
fn anything(rng: &mut Rng, depth: u32) -> Value {
    match rng.u32(0..if depth > 2 { 12 } else { 15 }) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => 0.into(),
        3 => rng.u64(..).into(),
        4 => rng.i64(..).into(),
        5 => (rng.i32(..) as f64 / 8.0).into(),
        6 => "".into(),
        7 => rng.u64(..).to_string().into(),
        8 => format!("{}{:032x}", if rng.bool() { "a_" } else { "" }, rng.u128(..)).into(),
        9 => format!(
            "2024-0{}-1{}T0{}:00:00.{:06}+00:00",
            rng.u8(1..10),
            rng.u8(0..10),
            rng.u8(0..10),
            rng.u32(0..1_000_000)
        )
        .into(),
        10 => ["online", "idle", "line\nbreak", "\u{1F600} \u{e9}", "\\\"", "007", "-0", "1e5"][rng.usize(0..8)].into(),
        11 => std::iter::repeat_with(|| rng.char(..)).take(5).collect::<String>().into(),
        12 => Value::Array((0..rng.usize(0..4)).map(|_| anything(rng, depth + 1)).collect()),
        13 => Value::Array((0..rng.usize(0..4)).map(|_| small_id(rng)).collect()),
        _ => Value::Object((0..rng.usize(0..4)).map(|_| (key(rng), anything(rng, depth + 1))).collect()),
    }
}

fn key(rng: &mut Rng) -> String {
    ["name", "nick", "flags", "avatar", "topic", "a \"key\"", "\u{e9}", "", "permissions", "last_message_id"]
        [rng.usize(0..10)]
    .to_owned()
}

/// A random entity for an array.
fn entity(rng: &mut Rng, array: &str) -> Value {
    let mut row: Map<String, Value> = (0..rng.usize(0..5)).map(|_| (key(rng), anything(rng, 0))).collect();
    let id = small_id(rng);
    match array {
        "members" | "presences" => {
            let mut user = value!({ "id": id });
            if rng.bool() {
                user[key(rng)] = anything(rng, 1);
            }
            row.insert("user".into(), user);
            if array == "members" && rng.bool() {
                let joined_at = [Value::Null, value!("2024-02-29T23:59:59.000000+00:00")];
                row.insert("joined_at".into(), joined_at[rng.usize(0..2)].clone());
            }
            if array == "members" && rng.bool() {
                row.insert("roles".into(), Value::Array((0..rng.usize(0..4)).map(|_| small_id(rng)).collect()));
            }
            if array == "presences" {
                row.insert("status".into(), ["online", "offline", "idle"][rng.usize(0..3)].into());
            }
        }
        "voice_states" => drop(row.insert("user_id".into(), id)),
        "soundboard_sounds" => drop(row.insert("sound_id".into(), id)),
        "threads" => {
            row.insert("parent_id".into(), small_id(rng));
            for key in ["message_count", "total_message_sent"] {
                if rng.u8(0..4) > 0 {
                    row.insert(key.into(), [0, 8, 9, 49, 50, 99, 127, 128][rng.usize(0..8)].into());
                }
            }
            if rng.bool() {
                let mut member = anything_in(rng, "flags");
                if rng.u8(0..3) == 0 {
                    member["id"] = id.clone();
                }
                row.insert("member".into(), member);
            }
            row.insert("id".into(), id);
        }
        "channels" => {
            row.insert("id".into(), id);
            if rng.bool() {
                row.insert("type".into(), [0, 15, 16][rng.usize(0..3)].into());
            }
            if rng.bool() {
                row.insert("status".into(), anything(rng, 0));
            }
        }
        "guild_scheduled_events" => {
            row.insert("id".into(), id);
            row.insert("status".into(), rng.u8(1..5).into());
            if rng.bool() {
                row.insert("user_count".into(), rng.u8(0..3).into());
            }
        }
        _ => drop(row.insert("id".into(), id)),
    }
    row.into()
}

fn entities(rng: &mut Rng, array: &str) -> Value {
    Value::Array((0..rng.usize(0..6)).map(|_| entity(rng, array)).collect())
}

fn anything_in(rng: &mut Rng, key: &str) -> Value {
    value!({ key: anything(rng, 0) })
}

/// A random thread member in the form that events have, of the bot or of another user.
fn thread_member(rng: &mut Rng) -> Value {
    let mut member = anything_in(rng, "flags");
    member["id"] = small_id(rng);
    member["user_id"] = small_id(rng);
    member["member"] = value!({});
    member
}

/// A random event.
pub(super) fn event(seed: u64) -> (&'static str, Value) {
    let mut rng = Rng::with_seed(seed);
    let name = EVENTS[rng.usize(0..EVENTS.len())];
    let guild = rng.u64(1..3).to_string();
    let mut d = match name {
        "GUILD_CREATE" | "GUILD_UPDATE" => {
            let mut d: Map<String, Value> =
                (0..rng.usize(0..6)).map(|_| (key(&mut rng), anything(&mut rng, 0))).collect();
            for array in ARRAYS {
                if rng.u8(0..4) > 0 {
                    d.insert(array.into(), entities(&mut rng, array));
                }
            }
            if rng.bool() {
                let count = if rng.u8(0..4) == 0 { rng.u64(LARGE - 1..LARGE + 3) } else { rng.u64(0..9) };
                d.insert("member_count".into(), count.into());
                if rng.bool() {
                    d.insert("large".into(), rng.bool().into());
                }
            }
            d.insert("id".into(), guild.as_str().into());
            return (name, d.into());
        }
        "GUILD_DELETE" => {
            let d = if rng.bool() { value!({"id": guild, "unavailable": true}) } else { value!({ "id": guild }) };
            return (name, d);
        }
        "GUILD_MEMBER_ADD" | "GUILD_MEMBER_UPDATE" | "GUILD_MEMBER_REMOVE" => entity(&mut rng, "members"),
        "PRESENCE_UPDATE" => entity(&mut rng, "presences"),
        "GUILD_MEMBERS_CHUNK" => {
            value!({"members": entities(&mut rng, "members"), "presences": entities(&mut rng, "presences")})
        }
        "VOICE_STATE_UPDATE" => {
            let mut state = entity(&mut rng, "voice_states");
            if rng.bool() {
                state["channel_id"] = small_id(&mut rng);
                state["member"] = entity(&mut rng, "members");
                if rng.bool() {
                    state["member"]["user"]["id"] = state["user_id"].clone();
                }
            }
            state
        }
        "CHANNEL_PINS_UPDATE" => {
            let mut pins = value!({"channel_id": small_id(&mut rng)});
            if rng.bool() {
                pins["last_pin_timestamp"] = anything(&mut rng, 3);
            }
            pins
        }
        "VOICE_CHANNEL_STATUS_UPDATE" => value!({"id": small_id(&mut rng), "status": anything(&mut rng, 3)}),
        "MESSAGE_CREATE" => {
            let id = if rng.bool() { rng.u64(1..9) } else { rng.u64(..) };
            let kind = [0, 21][rng.usize(0..2)];
            value!({"channel_id": small_id(&mut rng), "id": id.to_string(), "type": kind})
        }
        "MESSAGE_DELETE" => value!({"channel_id": small_id(&mut rng), "id": small_id(&mut rng)}),
        "MESSAGE_DELETE_BULK" => {
            let ids = Value::Array((0..rng.usize(0..4)).map(|_| small_id(&mut rng)).collect());
            value!({"channel_id": small_id(&mut rng), "ids": ids})
        }
        "THREAD_CREATE" | "THREAD_UPDATE" | "THREAD_DELETE" => {
            let mut thread = entity(&mut rng, "threads");
            if rng.bool() {
                thread["thread_metadata"] = value!({"archived": rng.u8(0..3) == 0});
            }
            if name == "THREAD_CREATE" && rng.bool() {
                thread["newly_created"] = rng.bool().into();
            }
            thread
        }
        "THREAD_LIST_SYNC" => {
            let members = Value::Array((0..rng.usize(0..3)).map(|_| thread_member(&mut rng)).collect());
            let mut sync = value!({"threads": entities(&mut rng, "threads"), "members": members});
            if rng.bool() {
                sync["channel_ids"] = (0..rng.usize(0..4)).map(|_| small_id(&mut rng)).collect();
            }
            sync
        }
        "THREAD_MEMBER_UPDATE" => thread_member(&mut rng),
        "THREAD_MEMBERS_UPDATE" => {
            let added = Value::Array((0..rng.usize(0..4)).map(|_| thread_member(&mut rng)).collect());
            let removed = Value::Array((0..rng.usize(0..4)).map(|_| small_id(&mut rng)).collect());
            let (id, count) = (small_id(&mut rng), rng.u8(0..50));
            value!({"id": id, "member_count": count, "added_members": added, "removed_member_ids": removed})
        }
        "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE" => value!({"role": entity(&mut rng, "roles")}),
        "GUILD_ROLE_DELETE" => value!({"role_id": small_id(&mut rng)}),
        "GUILD_EMOJIS_UPDATE" => value!({"emojis": entities(&mut rng, "emojis")}),
        "GUILD_STICKERS_UPDATE" => value!({"stickers": entities(&mut rng, "stickers")}),
        "GUILD_SCHEDULED_EVENT_CREATE" | "GUILD_SCHEDULED_EVENT_UPDATE" | "GUILD_SCHEDULED_EVENT_DELETE" => {
            entity(&mut rng, "guild_scheduled_events")
        }
        "GUILD_SCHEDULED_EVENT_USER_ADD" | "GUILD_SCHEDULED_EVENT_USER_REMOVE" => {
            value!({"guild_scheduled_event_id": small_id(&mut rng), "user_id": small_id(&mut rng)})
        }
        "GUILD_SOUNDBOARD_SOUNDS_UPDATE" => {
            value!({"soundboard_sounds": entities(&mut rng, "soundboard_sounds")})
        }
        "GUILD_SOUNDBOARD_SOUND_CREATE" | "GUILD_SOUNDBOARD_SOUND_UPDATE" | "GUILD_SOUNDBOARD_SOUND_DELETE" => {
            entity(&mut rng, "soundboard_sounds")
        }
        _ => entity(&mut rng, "channels"),
    };
    d["guild_id"] = guild.into();
    (name, d)
}
