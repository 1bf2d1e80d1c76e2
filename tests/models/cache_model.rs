//! The cache is compared with two models after each event:
//!
//! * discord-sim's world, with events as they happen in real guilds;
//! * a plain tree of JSON values, with random events, which also have unusual keys and values and lack some keys.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use gateway_proxy::{
    cache::{Cache, Flags, MemberRequest, View},
    protocol::event::EventKind,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json as value};
use world::{Body, Settings, Wish, World};

/// The bot's user id.
const OWN: &str = "3";
/// The arrays of a guild whose entities the cache stores one by one.
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

/// The snapshot of a guild, written in slices of about `slice` bytes; `None` when the guild is unknown or unavailable.
fn shown(cache: &Cache, guild: u64, slice: usize) -> Option<Value> {
    let mut snapshot = cache.snapshot(guild, View::ALL)?;
    if snapshot.unavailable() {
        return None;
    }
    let (mut out, length) = (Vec::new(), snapshot.len());
    while !snapshot.write(&mut out, slice) {}
    assert_eq!(out.len(), length, "the length that the snapshot said");
    Some(serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error} in {}", String::from_utf8_lossy(&out))))
}

/// The guild with the entities of each array sorted. The world does not keep the order of its arrays.
fn canonical(mut guild: Value) -> Value {
    for array in ARRAYS {
        if let Some(rows) = guild[array].as_array_mut() {
            rows.sort_by_cached_key(ToString::to_string);
        }
    }
    guild
}

#[test]
fn the_cache_equals_the_world_after_every_event() {
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
        // One step of the world can cause several events, and the world shows all of them. So all are applied before
        // comparing.
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

/// A model of the cache: each guild is a tree of JSON values, which events change as Discord's documentation says.
struct Model {
    flags: Flags,
    /// The guilds by id; `None` for one that is unavailable.
    guilds: BTreeMap<u64, Option<Value>>,
    /// The guilds all of whose members are known.
    known: BTreeSet<u64>,
    /// The `member_count` and `large` of each guild's GUILD_CREATE.
    told: BTreeMap<u64, (Option<u64>, Value)>,
}

/// A guild with more members than this is large.
const LARGE: u64 = 250;

/// Whether a member is a guest, whom `member_count` does not count.
fn is_guest(member: &Value) -> bool {
    member.get("joined_at").is_some_and(Value::is_null)
}

fn rows<'a>(guild: &'a mut Value, array: &str) -> &'a mut Vec<Value> {
    if !guild[array].is_array() {
        guild[array] = value!([]);
    }
    guild[array].as_array_mut().expect("an array")
}

/// An id as the cache reads it: a string of digits, or a number.
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

fn row<'a>(guild: &'a mut Value, array: &str, id: Option<u64>) -> Option<&'a mut Value> {
    let rows = guild.get_mut(array).and_then(Value::as_array_mut)?;
    rows.iter_mut().find(|row| id.is_some() && row_id(array, row) == id)
}

/// The channel or thread with this id.
fn channel<'a>(guild: &'a mut Value, id: &Value) -> Option<&'a mut Value> {
    let id = id_of(id);
    let array = if row(guild, "channels", id).is_some() { "channels" } else { "threads" };
    row(guild, array, id)
}

/// A thread member in the form of GUILD_CREATE. Its ids are removed, unless `old`, the stored one, has them.
fn as_shown(old: &Value, member: &Value) -> Value {
    let keys = ["guild_id", "member", "presence", "id", "user_id"];
    without(member, if old.get("id").is_some() { &keys[..3] } else { &keys })
}

fn set_member(thread: &mut Value, member: &Value) {
    let member = as_shown(&thread["member"], member);
    thread["member"] = member;
}

/// Changes the number at a key, if the thread has one there.
fn counted(thread: &mut Value, key: &str, change: impl Fn(u64) -> u64) {
    if let Some(count) = thread[key].as_u64() {
        thread[key] = change(count).into();
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
    fn keeps(&self, guild: &Value, array: &str, id: Option<u64>) -> bool {
        let flags = &self.flags;
        let in_voice = || {
            let states = guild["voice_states"].as_array();
            states.is_some_and(|states| states.iter().any(|state| id.is_some() && id_of(&state["user_id"]) == id))
        };
        match array {
            "channels" | "threads" => flags.channels,
            "members" => {
                flags.members || (flags.current_member && id == OWN.parse().ok()) || (flags.voice_states && in_voice())
            }
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

    /// The entity as the cache stores it when it comes with an event.
    fn reduced(&self, array: &str, row: &Value) -> Value {
        let mut row = row.clone();
        if let Some(id) = row_id(array, &row).filter(|_| array == "presences") {
            row["user"] = value!({ "id": id.to_string() });
        }
        row
    }

    fn filled(&self, guild: &Value, array: &str, all: &[Value]) -> Vec<Value> {
        let mut kept: Vec<Value> = Vec::new();
        for row in all {
            let id = row_id(array, row);
            if !self.keeps(guild, array, id) {
                continue;
            }
            // With the flag `users`, the users of presences in GUILD_CREATE are stored whole.
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
        let Some(Some(known)) = self.guilds.get(&guild) else { return };
        if !self.keeps(known, array, Some(id)) {
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

    fn thread(&mut self, id: u64, thread: &Value) {
        let mut thread = thread.clone();
        if thread["member"].is_object() {
            let Some(Some(guild)) = self.guilds.get_mut(&id) else { return };
            let old = row(guild, "threads", id_of(&thread["id"])).map_or(Value::Null, |old| old["member"].clone());
            thread["member"] = as_shown(&old, &thread["member"]);
        }
        self.put(id, "threads", &thread, true);
    }

    fn presence(&mut self, id: u64, presence: &Value) {
        if presence["status"] != "offline" {
            return self.put(id, "presences", &without(presence, &["guild_id"]), false);
        }
        if let Some(Some(guild)) = self.guilds.get_mut(&id)
            && self.flags.presences
        {
            Self::drop(guild, "presences", row_id("presences", presence));
        }
    }

    /// If `doubtful`, notes that not all members of the guild are known any more.
    fn doubt(&mut self, guild: u64, doubtful: bool) {
        if doubtful {
            self.known.remove(&guild);
        }
    }

    fn keeps_members(&self) -> bool {
        self.flags.members || self.flags.current_member || self.flags.voice_states
    }

    /// The guild as a snapshot shows it.
    fn shown(&self, id: u64) -> Option<Value> {
        let mut guild = self.guilds.get(&id).cloned().flatten()?;
        let (told_count, told) = self.told.get(&id).expect("an available guild has had a GUILD_CREATE");
        if let (Some(count), true) = (guild["member_count"].as_u64(), told.is_boolean())
            && Some(count) != *told_count
        {
            let incomplete = self.flags.members && !self.known.contains(&id);
            guild["large"] = (count > LARGE || (told == true && incomplete)).into();
        }
        Some(guild)
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
            let members_last = ARRAYS.into_iter().filter(|array| *array != "members").chain(["members"]);
            for array in members_last {
                if let Some(all) = d[array].as_array() {
                    guild[array] = self.filled(&guild, array, all).into();
                }
            }
            guild["unavailable"] = false.into();
            let id = id_of(&d["id"]).expect("an id");
            let count = d["member_count"].as_u64();
            let members = guild["members"].as_array().into_iter().flatten();
            let counted = members.filter(|member| row_id("members", member).is_some() && !is_guest(member)).count();
            let whole = self.flags.members && d["large"] != true && count == Some(counted as u64);
            if whole {
                self.known.insert(id);
            } else {
                self.known.remove(&id);
            }
            self.told.insert(id, (count, d["large"].clone()));
            self.guilds.insert(id, Some(guild));
            return;
        }
        let key = if matches!(event, "GUILD_UPDATE" | "GUILD_DELETE") { "id" } else { "guild_id" };
        let id = id_of(&d[key]).expect("an id");
        if event == "GUILD_DELETE" {
            self.known.remove(&id);
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
                        ("roles" | "emojis" | "stickers", Some(all)) => {
                            guild[key] = self.filled(&guild, key, all).into();
                        }
                        (array, Some(_)) if ARRAYS.contains(&array) => {}
                        ("unavailable" | "member_count" | "large" | "guild_id", _) => {}
                        _ => guild[key] = value.clone(),
                    }
                }
            }
            "GUILD_MEMBER_ADD" => {
                self.doubt(id, user.is_none() && self.keeps_members());
                if user.is_some() && !is_guest(d) && row(&mut guild, "members", user).is_none_or(|old| is_guest(old)) {
                    moved(&mut guild, 1);
                }
                self.guilds.insert(id, Some(guild));
                return self.put(id, "members", &without(d, &["guild_id"]), false);
            }
            "GUILD_MEMBER_UPDATE" => {
                self.doubt(id, self.flags.members && !known(&guild, "members", user));
                if known(&guild, "members", user) {
                    self.put(id, "members", &without(d, &["guild_id"]), true);
                }
                return;
            }
            "GUILD_MEMBER_REMOVE" => {
                if user.is_none() || (self.known.contains(&id) && !known(&guild, "members", user)) {
                    return;
                }
                if !row(&mut guild, "members", user).is_some_and(|old| is_guest(old)) {
                    moved(&mut guild, -1);
                }
                for array in ["members", "presences", "voice_states"] {
                    Self::drop(&mut guild, array, user);
                }
            }
            "GUILD_MEMBERS_CHUNK" => {
                if !self.flags.members {
                    return;
                }
                for member in d["members"].as_array().into_iter().flatten() {
                    self.put(id, "members", member, true);
                }
                for presence in d["presences"].as_array().into_iter().flatten() {
                    self.presence(id, presence);
                }
                return;
            }
            "PRESENCE_UPDATE" => return self.presence(id, d),
            "VOICE_STATE_UPDATE" => {
                if !self.flags.voice_states && !self.flags.members {
                    return;
                }
                let user = id_of(&d["user_id"]);
                if d["channel_id"].is_null() {
                    Self::drop(&mut guild, "voice_states", user);
                    let stays = self.keeps(&guild, "members", user);
                    if row(&mut guild, "members", user).is_some_and(|member| is_guest(member) || !stays) {
                        Self::drop(&mut guild, "members", user);
                    }
                } else {
                    self.put(id, "voice_states", &without(d, &["guild_id", "member"]), false);
                    let is_known = known(&guild, "members", user);
                    let own = self.flags.current_member && user == id_of(&OWN.into());
                    if row_id("members", &d["member"]) == user && !(is_known && (self.flags.members || own)) {
                        self.doubt(id, self.flags.members && !is_guest(&d["member"]));
                        self.put(id, "members", &d["member"], true);
                    }
                    return;
                }
            }
            "CHANNEL_PINS_UPDATE" => {
                if let Some(channel) = channel(&mut guild, &d["channel_id"]) {
                    match d.get("last_pin_timestamp") {
                        Some(time) => channel["last_pin_timestamp"] = time.clone(),
                        None => drop(channel.get_mut("last_pin_timestamp").map(Value::take)),
                    }
                }
            }
            "MESSAGE_CREATE" => {
                let in_channel = row(&mut guild, "channels", id_of(&d["channel_id"])).is_some();
                if let Some(channel) = channel(&mut guild, &d["channel_id"]) {
                    channel["last_message_id"] = d["id"].clone();
                    // The ids of the test are small, so all threads are from before July 2022.
                    if !in_channel && d["type"] != 21 && id_of(&d["id"]) != id_of(&d["channel_id"]) {
                        counted(channel, "message_count", |count| if count < 50 { count + 1 } else { count });
                        counted(channel, "total_message_sent", |count| count + 1);
                    }
                }
            }
            "MESSAGE_DELETE" | "MESSAGE_DELETE_BULK" => {
                let one = [d["id"].clone()];
                let messages = d["ids"].as_array().map_or(&one[..], |ids| &ids[..]);
                let gone = messages.iter().filter(|message| id_of(message) != id_of(&d["channel_id"])).count() as u64;
                if let Some(thread) = row(&mut guild, "threads", id_of(&d["channel_id"])) {
                    counted(thread, "message_count", |count| count.saturating_sub(gone));
                }
            }
            "VOICE_CHANNEL_STATUS_UPDATE" => {
                if let Some(channel) = row(&mut guild, "channels", id_of(&d["id"]))
                    && let Some(status) = channel.get_mut("status")
                {
                    *status = d["status"].clone();
                }
            }
            "CHANNEL_CREATE" | "CHANNEL_UPDATE" => return self.put(id, "channels", &without(d, &["guild_id"]), true),
            "CHANNEL_DELETE" => {
                let channel = id_of(&d["id"]);
                if channel.is_some() && guild["threads"].is_array() {
                    rows(&mut guild, "threads").retain(|thread| id_of(&thread["parent_id"]) != channel);
                }
                Self::drop(&mut guild, "channels", channel);
            }
            "THREAD_CREATE" | "THREAD_UPDATE" if d["thread_metadata"]["archived"] == true => {
                Self::drop(&mut guild, "threads", id_of(&d["id"]));
            }
            "THREAD_CREATE" | "THREAD_UPDATE" => {
                if let Some(forum) = row(&mut guild, "channels", id_of(&d["parent_id"]))
                    && (event, &d["newly_created"]) == ("THREAD_CREATE", &Value::Bool(true))
                    && matches!(forum["type"].as_u64(), Some(15 | 16))
                {
                    forum["last_message_id"] = d["id"].clone();
                    self.guilds.insert(id, Some(guild));
                }
                return self.thread(id, &without(d, &["newly_created"]));
            }
            "THREAD_DELETE" => Self::drop(&mut guild, "threads", id_of(&d["id"])),
            "THREAD_LIST_SYNC" => {
                if guild["threads"].is_array() {
                    rows(&mut guild, "threads").retain(|thread| match d["channel_ids"].as_array() {
                        Some(parents) => !parents.iter().any(|parent| id_of(parent) == id_of(&thread["parent_id"])),
                        None => false,
                    });
                }
                self.guilds.insert(id, Some(guild));
                for thread in d["threads"].as_array().expect("an array") {
                    self.thread(id, thread);
                }
                let Some(Some(guild)) = self.guilds.get_mut(&id) else { return };
                for member in d["members"].as_array().expect("an array") {
                    if let Some(thread) = row(guild, "threads", id_of(&member["id"])) {
                        set_member(thread, member);
                    }
                }
                return;
            }
            "THREAD_MEMBER_UPDATE" => {
                if let Some(thread) = row(&mut guild, "threads", id_of(&d["id"])) {
                    set_member(thread, d);
                }
            }
            "THREAD_MEMBERS_UPDATE" => {
                if let Some(thread) = row(&mut guild, "threads", id_of(&d["id"])) {
                    thread["member_count"] = d["member_count"].clone();
                    let own = |id: &Value| id_of(id) == OWN.parse().ok();
                    let added = d["added_members"].as_array().expect("an array");
                    if let Some(member) = added.iter().find(|member| own(&member["user_id"])) {
                        set_member(thread, member);
                    }
                    if d["removed_member_ids"].as_array().expect("an array").iter().any(own) {
                        *thread = without(thread, &["member"]);
                    }
                }
            }
            "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE" => return self.put(id, "roles", &d["role"], true),
            "GUILD_ROLE_DELETE" => {
                let role = id_of(&d["role_id"]);
                for member in guild.get_mut("members").and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(roles) = member.get_mut("roles").and_then(Value::as_array_mut) {
                        roles.retain(|other| id_of(other) != role);
                    }
                }
                Self::drop(&mut guild, "roles", role);
            }
            "GUILD_EMOJIS_UPDATE" | "GUILD_STICKERS_UPDATE" => {
                let array = if event == "GUILD_EMOJIS_UPDATE" { "emojis" } else { "stickers" };
                if self.keeps(&guild, array, None) {
                    guild[array] = self.filled(&guild, array, d[array].as_array().expect("an array")).into();
                }
            }
            "GUILD_SCHEDULED_EVENT_CREATE" | "GUILD_SCHEDULED_EVENT_UPDATE" => {
                if !matches!(d["status"].as_u64(), Some(3 | 4)) {
                    return self.put(id, "guild_scheduled_events", d, true);
                }
                Self::drop(&mut guild, "guild_scheduled_events", id_of(&d["id"]));
            }
            "GUILD_SCHEDULED_EVENT_DELETE" => Self::drop(&mut guild, "guild_scheduled_events", id_of(&d["id"])),
            "GUILD_SCHEDULED_EVENT_USER_ADD" | "GUILD_SCHEDULED_EVENT_USER_REMOVE" => {
                let by = if event == "GUILD_SCHEDULED_EVENT_USER_ADD" { 1 } else { -1 };
                let scheduled = row(&mut guild, "guild_scheduled_events", id_of(&d["guild_scheduled_event_id"]));
                if let Some(count) = scheduled.and_then(|row| row.get_mut("user_count")) {
                    *count = (count.as_i64().expect("a number") + by).max(0).into();
                }
            }
            "STAGE_INSTANCE_CREATE" | "STAGE_INSTANCE_UPDATE" => return self.put(id, "stage_instances", d, true),
            "STAGE_INSTANCE_DELETE" => Self::drop(&mut guild, "stage_instances", id_of(&d["id"])),
            "GUILD_SOUNDBOARD_SOUND_CREATE" | "GUILD_SOUNDBOARD_SOUND_UPDATE" => {
                return self.put(id, "soundboard_sounds", d, true);
            }
            "GUILD_SOUNDBOARD_SOUNDS_UPDATE" => {
                for sound in d["soundboard_sounds"].as_array().expect("an array") {
                    self.put(id, "soundboard_sounds", sound, true);
                }
                return;
            }
            "GUILD_SOUNDBOARD_SOUND_DELETE" => Self::drop(&mut guild, "soundboard_sounds", id_of(&d["sound_id"])),
            other => panic!("{other} is not in the model"),
        }
        self.guilds.insert(id, Some(guild));
    }
}

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
fn array_of(event: &str) -> Option<&'static str> {
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

/// The guild without its empty arrays. An array that GUILD_CREATE did not have may be missing or empty.
fn without_empty(guild: Value) -> Value {
    let empty = |key: &&str| guild[*key].as_array().is_some_and(Vec::is_empty);
    let keys: Vec<&str> = ARRAYS.into_iter().filter(empty).collect();
    without(&guild, &keys)
}

/// The first two keys whose values differ.
fn difference(shown: &Option<Value>, truth: &Option<Value>) -> String {
    let (Some(shown), Some(truth)) = (shown, truth) else { return format!("{shown:?} instead of {truth:?}") };
    let keys = shown.as_object().into_iter().chain(truth.as_object()).flat_map(Map::keys);
    let wrong = keys.filter(|key| shown.get(key) != truth.get(key));
    wrong.map(|key| format!("{key}: {:?} instead of {:?}", shown.get(key), truth.get(key))).take(2).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_events_change_the_cache_as_the_model(seeds in prop::collection::vec(any::<u64>(), 1..60), choice in 0u8..5) {
        let flags = match choice {
            0 | 1 => Flags::ALL,
            2 => Flags { users: false, emojis: false, voice_states: false, ..Flags::ALL },
            3 => Flags { voice_states: true, ..Flags::default() },
            _ => Flags { channels: true, current_member: true, ..Flags::default() },
        };
        let mut cache = Cache::new(flags);
        cache.ready(value!({"user": {"id": OWN}, "guilds": []}).to_string().as_bytes()).expect("READY");
        let mut model =
            Model { flags, guilds: BTreeMap::new(), known: BTreeSet::new(), told: BTreeMap::new() };
        for seed in seeds {
            let (name, data) = event(seed);
            let before = model.guilds.clone();
            model.apply(name, &data);
            let outcome = cache.apply(EventKind::from_name(name.as_bytes()), data.to_string().as_bytes());
            // An event that counts as a change is not sent to clients whose snapshot is newer, so the snapshot must
            // show it. An event that a snapshot shows must count as a change, or such clients would get it twice.
            // Messages and answers to requests are exceptions: clients get them in any case.
            if !name.starts_with("MESSAGE_") && name != "GUILD_MEMBERS_CHUNK" {
                let off = array_of(name).is_some_and(|array| !model.keeps(&Value::Null, array, None));
                prop_assert!(!(off && outcome.changed), "{name} {data} is in no snapshot but counts as a change");
                // Deleting an unknown channel is ignored, but removes the threads that name it as their parent.
                let off = off || name.ends_with("_DELETE");
                prop_assert!(off || outcome.changed || before == model.guilds, "{name} {data} is in the snapshot but does not count as a change");
            }
            for guild in [1, 2] {
                let everybody = value!({"guild_id": guild, "query": "", "limit": 0}).to_string();
                let request = MemberRequest::parse(everybody.as_bytes()).expect("a request");
                let knows_all = cache.answer(request).is_some();
                prop_assert!(knows_all == model.known.contains(&guild), "{knows_all} after {name} {data}");
                let truth = model.shown(guild).map(without_empty);
                let shown = shown(&cache, guild, 64).map(without_empty);
                prop_assert!(shown == truth, "{} after {name} {data}", difference(&shown, &truth));
            }
        }
    }
}
