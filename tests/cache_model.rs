//! The cache against two models, compared after each event: discord-sim's world, with the events of real guilds, and a plain
//! tree of JSON, with random events that also have odd keys, values and gaps.

#[allow(dead_code, unused_imports)]
#[path = "../src/bin/discord-sim/clock.rs"]
mod clock;
#[allow(dead_code, unused_imports)]
#[path = "../src/bin/discord-sim/json.rs"]
mod json;
#[allow(dead_code, unused_imports)]
#[path = "../src/bin/discord-sim/world/mod.rs"]
mod world;

use std::collections::BTreeMap;

use fastrand::Rng;
use gateway_proxy::{
    cache::{Cache, Flags, View},
    protocol::event::EventKind,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json as value};
use world::{Body, Settings, Wish, World};

/// The bot itself.
const OWN: &str = "3";
/// Its arrays are kept entity by entity.
const ARRAYS: [&str; 11] = [
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
    "soundboard_sounds",
];

/// What the cache shows of a guild, in slices of some bytes; `None` when it is not there.
fn shown(cache: &Cache, guild: u64, slice: usize) -> Option<Value> {
    let mut snapshot = cache.snapshot(guild, View::ALL)?;
    if snapshot.unavailable() {
        return None;
    }
    let (mut out, length) = (Vec::new(), snapshot.len());
    while !snapshot.write(&mut out, slice) {}
    assert_eq!(out.len(), length, "the length that was announced");
    Some(serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&out))))
}

/// Order within arrays of entities means nothing where the world makes them anew.
fn canonical(mut guild: Value) -> Value {
    for array in ARRAYS {
        if let Some(rows) = guild[array].as_array_mut() {
            rows.sort_by_cached_key(ToString::to_string);
        }
    }
    guild
}

#[test]
fn it_is_the_truth_after_every_event() {
    let (shards, guilds, members, presences) = (1, 6, 12, 0.4);
    let mut world =
        World::generate(Settings { seed: 11, shards, guilds, members, presences, channels: 6, roles: 5, emojis: 3 });
    let mut cache = Cache::new(Flags::ALL);
    let ready = value!({"user": {"id": world.bot().to_string()}, "guilds": []});
    cache.ready(ready.to_string().as_bytes()).expect("READY");
    let create = |cache: &mut Cache, world: &World, guild: u64| {
        let text = world.guild(guild).expect("a guild").create(None, false, world.bot());
        assert!(cache.apply(EventKind::GuildCreate, text.as_bytes()).changed);
    };
    for guild in world.guilds_of(0).map(|guild| guild.id()).collect::<Vec<_>>() {
        create(&mut cache, &world, guild);
    }
    for round in 0..4_000 {
        let wish = if round % 3 == 0 { Wish::Any } else { Wish::State };
        // Of one thing that happens all events come first: the world is ahead of them by no more than that.
        let events = world.happen(0, wish);
        for event in &events {
            match &event.body {
                Body::Json { text, .. } => {
                    let outcome = cache.apply(EventKind::from_name(event.name.as_bytes()), text.as_bytes());
                    assert_eq!(outcome.ignored, None, "{} {text}", event.name);
                }
                Body::Guild { .. } => create(&mut cache, &world, event.guild),
            }
        }
        for event in &events {
            let truth = world.guild(event.guild).filter(|guild| guild.available());
            let truth = truth.map(|guild| {
                let text = guild.create(None, false, world.bot());
                canonical(serde_json::from_str(&text).expect("JSON"))
            });
            let slice = [1, 100, 1 << 20][round % 3];
            assert_eq!(shown(&cache, event.guild, slice).map(canonical), truth, "after {} of {round}", event.name);
        }
    }
    let counts = cache.counts();
    let total =
        |of: fn(&world::Guild) -> usize| world.guilds_of(0).filter(|guild| guild.available()).map(of).sum::<usize>();
    assert_eq!(counts.members, total(|guild| guild.member_count()));
}

/// A tree of JSON that does what the documentation says.
struct Model {
    flags: Flags,
    /// `None`: named, but not available.
    guilds: BTreeMap<u64, Option<Value>>,
}

fn rows<'a>(guild: &'a mut Value, array: &str) -> &'a mut Vec<Value> {
    if !guild[array].is_array() {
        guild[array] = value!([]);
    }
    guild[array].as_array_mut().expect("an array")
}

/// The id as the cache reads it: a string of digits, or a number.
fn id_of(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn row_id(array: &str, row: &Value) -> Option<u64> {
    match array {
        "members" | "presences" => id_of(&row["user"]["id"]),
        "voice_states" => id_of(&row["user_id"]),
        "soundboard_sounds" => id_of(&row["sound_id"]),
        _ => id_of(&row["id"]),
    }
}

fn without(row: &Value, keys: &[&str]) -> Value {
    let entries = row.as_object().expect("an object").iter().filter(|(key, _)| !keys.contains(&key.as_str()));
    Value::Object(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn merge(old: &mut Value, new: &Value) {
    for (key, value) in new.as_object().expect("an object") {
        old[key] = value.clone();
    }
}

impl Model {
    fn keeps(&self, array: &str, id: Option<u64>) -> bool {
        let flags = &self.flags;
        match array {
            "channels" | "threads" => flags.channels,
            "members" => flags.members || (flags.current_member && id == OWN.parse().ok()),
            "presences" => flags.presences,
            "roles" => flags.roles,
            "emojis" => flags.emojis,
            "stickers" => flags.stickers,
            "voice_states" => flags.voice_states,
            "guild_scheduled_events" => flags.scheduled_events,
            "stage_instances" => flags.stage_instances,
            _ => true,
        }
    }

    /// What is kept of a row.
    fn reduced(&self, array: &str, row: &Value) -> Value {
        let mut row = row.clone();
        let bare = array == "presences" || (array == "members" && !self.flags.users && row["user"].is_object());
        if let Some(id) = row_id(array, &row).filter(|_| bare) {
            row["user"] = value!({ "id": id.to_string() });
        }
        row
    }

    fn filled(&self, array: &str, all: &[Value]) -> Vec<Value> {
        let mut kept: Vec<Value> = Vec::new();
        for row in all {
            let id = row_id(array, row);
            if !self.keeps(array, id) {
                continue;
            }
            // In GUILD_CREATE users of presences are what they are.
            let row = if array == "presences" && self.flags.users { row.clone() } else { self.reduced(array, row) };
            match kept.iter().position(|old| id.is_some() && row_id(array, old) == id) {
                Some(at) => kept[at] = row,
                None => kept.push(row),
            }
        }
        kept
    }

    fn put(&mut self, guild: u64, array: &str, row: &Value, over: bool) {
        let Some(id) = row_id(array, row) else { return };
        if !self.keeps(array, Some(id)) {
            return;
        }
        let row = self.reduced(array, row);
        let Some(Some(guild)) = self.guilds.get_mut(&guild) else { return };
        let rows = rows(guild, array);
        match rows.iter_mut().find(|old| row_id(array, old) == Some(id)) {
            Some(old) if over => merge(old, &row),
            Some(old) => *old = row,
            None => rows.push(row),
        }
    }

    fn drop(guild: &mut Value, array: &str, id: Option<u64>) {
        if id.is_some() && guild[array].is_array() {
            rows(guild, array).retain(|row| row_id(array, row) != id);
        }
    }

    #[allow(clippy::too_many_lines)]
    fn apply(&mut self, event: &str, d: &Value) {
        if event == "GUILD_CREATE" {
            let mut guild = d.clone();
            for array in ARRAYS {
                if let Some(all) = d[array].as_array() {
                    guild[array] = self.filled(array, all).into();
                }
            }
            guild["unavailable"] = false.into();
            self.guilds.insert(id_of(&d["id"]).expect("an id"), Some(guild));
            return;
        }
        let key = if matches!(event, "GUILD_UPDATE" | "GUILD_DELETE") { "id" } else { "guild_id" };
        let id = id_of(&d[key]).expect("an id");
        if event == "GUILD_DELETE" {
            if d["unavailable"] == true {
                self.guilds.entry(id).and_modify(|guild| *guild = None);
            } else {
                self.guilds.remove(&id);
            }
            return;
        }
        let Some(Some(guild)) = self.guilds.get(&id) else { return };
        let mut guild = guild.clone();
        let user = id_of(&d["user"]["id"]);
        let known = |guild: &Value, array: &str, id: Option<u64>| {
            guild[array].as_array().is_some_and(|rows| rows.iter().any(|row| row_id(array, row) == id))
        };
        let moved = |guild: &mut Value, by: i64| {
            if let Some(count) = guild["member_count"].as_i64() {
                guild["member_count"] = (count + by).max(0).into();
            }
        };
        match event {
            "GUILD_UPDATE" => {
                for (key, value) in d.as_object().expect("an object") {
                    match (key.as_str(), value.as_array()) {
                        ("roles" | "emojis" | "stickers", Some(all)) => guild[key] = self.filled(key, all).into(),
                        (array, Some(_)) if ARRAYS.contains(&array) => {}
                        ("unavailable" | "member_count" | "guild_id", _) => {}
                        _ => guild[key] = value.clone(),
                    }
                }
            }
            "GUILD_MEMBER_ADD" => {
                if user.is_some() && !(self.keeps("members", user) && known(&guild, "members", user)) {
                    moved(&mut guild, 1);
                }
                self.guilds.insert(id, Some(guild));
                return self.put(id, "members", &without(d, &["guild_id"]), false);
            }
            "GUILD_MEMBER_UPDATE" => {
                if known(&guild, "members", user) {
                    self.put(id, "members", &without(d, &["guild_id"]), true);
                }
                return;
            }
            "GUILD_MEMBER_REMOVE" => {
                if user.is_some() {
                    moved(&mut guild, -1);
                }
                for array in ["members", "presences", "voice_states"] {
                    Self::drop(&mut guild, array, user);
                }
            }
            "PRESENCE_UPDATE" if d["status"] == "offline" => Self::drop(&mut guild, "presences", user),
            "PRESENCE_UPDATE" => return self.put(id, "presences", &without(d, &["guild_id"]), false),
            "CHANNEL_UPDATE" => return self.put(id, "channels", &without(d, &["guild_id"]), true),
            "CHANNEL_DELETE" => {
                let channel = id_of(&d["id"]);
                if channel.is_some() && guild["threads"].is_array() {
                    rows(&mut guild, "threads").retain(|thread| id_of(&thread["parent_id"]) != channel);
                }
                Self::drop(&mut guild, "channels", channel);
            }
            "THREAD_UPDATE" => return self.put(id, "threads", d, true),
            "THREAD_DELETE" => Self::drop(&mut guild, "threads", id_of(&d["id"])),
            "GUILD_ROLE_UPDATE" => return self.put(id, "roles", &d["role"], true),
            "GUILD_ROLE_DELETE" => {
                let role = id_of(&d["role_id"]);
                for member in guild.get_mut("members").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(roles) = member.get_mut("roles").and_then(Value::as_array_mut) {
                        roles.retain(|other| id_of(other) != role);
                    }
                }
                Self::drop(&mut guild, "roles", role);
            }
            "GUILD_EMOJIS_UPDATE" => {
                if self.flags.emojis {
                    guild["emojis"] = self.filled("emojis", d["emojis"].as_array().expect("an array")).into();
                }
            }
            "STAGE_INSTANCE_UPDATE" => return self.put(id, "stage_instances", d, true),
            "STAGE_INSTANCE_DELETE" => Self::drop(&mut guild, "stage_instances", id_of(&d["id"])),
            "GUILD_SOUNDBOARD_SOUND_UPDATE" => return self.put(id, "soundboard_sounds", d, true),
            "GUILD_SOUNDBOARD_SOUND_DELETE" => Self::drop(&mut guild, "soundboard_sounds", id_of(&d["sound_id"])),
            other => panic!("{other} is not in the model"),
        }
        self.guilds.insert(id, Some(guild));
    }
}

const EVENTS: [&str; 18] = [
    "GUILD_CREATE",
    "GUILD_UPDATE",
    "GUILD_DELETE",
    "GUILD_MEMBER_ADD",
    "GUILD_MEMBER_UPDATE",
    "GUILD_MEMBER_REMOVE",
    "PRESENCE_UPDATE",
    "CHANNEL_UPDATE",
    "CHANNEL_DELETE",
    "THREAD_UPDATE",
    "THREAD_DELETE",
    "GUILD_ROLE_UPDATE",
    "GUILD_ROLE_DELETE",
    "GUILD_EMOJIS_UPDATE",
    "STAGE_INSTANCE_UPDATE",
    "STAGE_INSTANCE_DELETE",
    "GUILD_SOUNDBOARD_SOUND_UPDATE",
    "GUILD_SOUNDBOARD_SOUND_DELETE",
];

fn small_id(rng: &mut Rng) -> Value {
    rng.u64(1..7).to_string().into()
}

/// Any JSON, also such as Discord has never sent.
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

/// An entity with some id, or, seldom, none.
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
                row.insert("roles".into(), Value::Array((0..rng.usize(0..4)).map(|_| small_id(rng)).collect()));
            }
            if array == "presences" {
                row.insert("status".into(), ["online", "offline", "idle"][rng.usize(0..3)].into());
            }
        }
        "voice_states" => drop(row.insert("user_id".into(), id)),
        "soundboard_sounds" => drop(row.insert("sound_id".into(), id)),
        "threads" => {
            row.insert("id".into(), id);
            row.insert("parent_id".into(), small_id(rng));
        }
        _ => drop(row.insert("id".into(), id)),
    }
    row.into()
}

fn entities(rng: &mut Rng, array: &str) -> Value {
    Value::Array((0..rng.usize(0..6)).map(|_| entity(rng, array)).collect())
}

/// One event, by chance.
fn event(seed: u64) -> (&'static str, Value) {
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
                d.insert("member_count".into(), rng.u64(0..9).into());
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
        "THREAD_UPDATE" => entity(&mut rng, "threads"),
        "GUILD_ROLE_UPDATE" => value!({"role": entity(&mut rng, "roles")}),
        "GUILD_ROLE_DELETE" => value!({"role_id": small_id(&mut rng)}),
        "GUILD_EMOJIS_UPDATE" => value!({"emojis": entities(&mut rng, "emojis")}),
        "GUILD_SOUNDBOARD_SOUND_UPDATE" | "GUILD_SOUNDBOARD_SOUND_DELETE" => entity(&mut rng, "soundboard_sounds"),
        _ => entity(&mut rng, "channels"),
    };
    d["guild_id"] = guild.into();
    (name, d)
}

/// An array that GUILD_CREATE did not have, and that is empty again, is there or not.
fn without_empty(guild: Value) -> Value {
    let empty = |key: &&str| guild[*key].as_array().is_some_and(Vec::is_empty);
    let keys: Vec<&str> = ARRAYS.into_iter().filter(empty).collect();
    without(&guild, &keys)
}

/// The first keys and rows that are not the same.
fn difference(shown: &Option<Value>, truth: &Option<Value>) -> String {
    let (Some(shown), Some(truth)) = (shown, truth) else { return format!("{shown:?} instead of {truth:?}") };
    let keys = shown.as_object().into_iter().chain(truth.as_object()).flat_map(Map::keys);
    let wrong = keys.filter(|key| shown.get(key) != truth.get(key));
    wrong.map(|key| format!("{key}: {:?} instead of {:?}", shown.get(key), truth.get(key))).take(2).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_events_do_what_they_do_to_a_tree(seeds in prop::collection::vec(any::<u64>(), 1..60), choice in 0u8..4) {
        let flags = match choice {
            0 | 1 => Flags::ALL,
            2 => Flags { users: false, emojis: false, voice_states: false, ..Flags::ALL },
            _ => Flags { channels: true, current_member: true, ..Flags::default() },
        };
        let mut cache = Cache::new(flags);
        cache.ready(value!({"user": {"id": OWN}, "guilds": []}).to_string().as_bytes()).expect("READY");
        let mut model = Model { flags, guilds: BTreeMap::new() };
        for seed in seeds {
            let (name, data) = event(seed);
            model.apply(name, &data);
            cache.apply(EventKind::from_name(name.as_bytes()), data.to_string().as_bytes());
            for guild in [1, 2] {
                let truth = model.guilds.get(&guild).cloned().flatten().map(without_empty);
                let shown = shown(&cache, guild, 64).map(without_empty);
                prop_assert!(shown == truth, "{} after {name} {data}", difference(&shown, &truth));
            }
        }
    }
}
