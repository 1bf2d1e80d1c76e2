//! The plain model that the cache is compared with: each guild is a tree of JSON values. Simple, and slow.

use super::{ARRAYS, OWN};
use gateway_proxy::cache::Flags;
use serde_json::{Value, json as value};
use std::collections::{BTreeMap, BTreeSet};

/// A model of the cache: each guild is a tree of JSON values, which events change as Discord's documentation says.
pub(super) struct Model {
    flags: Flags,
    /// The guilds by id; `None` for one that is unavailable.
    pub(super) guilds: BTreeMap<u64, Option<Value>>,
    /// The guilds all of whose members are known.
    pub(super) known: BTreeSet<u64>,
    /// The `member_count` and `large` of each guild's GUILD_CREATE.
    told: BTreeMap<u64, (Option<u64>, Value)>,
}

/// A guild with more members than this is large.
pub(super) const LARGE: u64 = 250;

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

/// The object without these keys.
pub(super) fn without(row: &Value, keys: &[&str]) -> Value {
    let entries = row.as_object().expect("an object").iter().filter(|(key, _)| !keys.contains(&key.as_str()));
    Value::Object(entries.map(|(key, value)| (key.clone(), value.clone())).collect())
}

fn merge(old: &mut Value, new: &Value) {
    for (key, value) in new.as_object().expect("an object") {
        old[key] = value.clone();
    }
}

impl Model {
    /// A model of a cache with these flags, after a READY without guilds.
    pub(super) fn new(flags: Flags) -> Self {
        Self { flags, guilds: BTreeMap::new(), known: BTreeSet::new(), told: BTreeMap::new() }
    }

    /// Whether the cache keeps an entity of this array.
    pub(super) fn keeps(&self, guild: &Value, array: &str, id: Option<u64>) -> bool {
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
    pub(super) fn shown(&self, id: u64) -> Option<Value> {
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

    /// Changes the guild of an event as Discord's documentation says.
    #[allow(clippy::too_many_lines)]
    pub(super) fn apply(&mut self, event: &str, d: &Value) {
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
