//! What each event does to the state (docs: Gateway Events, Receive Events), with Discord's semantics: partial objects
//! are merged, what goes with something else goes with it, `guild_id` is not part of what GUILD_CREATE carries.

use super::{
    Cache, Flags, Outcome,
    guild::{Guild, Keeper, Kind},
};
use crate::protocol::{
    edit,
    json::{self, Malformed},
};

/// Can the event change anything that is kept?
pub fn wants(flags: &Flags, event: &str) -> bool {
    match event {
        "GUILD_CREATE" | "GUILD_UPDATE" | "GUILD_DELETE" | "USER_UPDATE" => true,
        // They move `member_count`.
        "GUILD_MEMBER_ADD" | "GUILD_MEMBER_REMOVE" => true,
        "GUILD_MEMBER_UPDATE" => flags.members || flags.current_member,
        "GUILD_MEMBERS_CHUNK" => flags.members,
        "PRESENCE_UPDATE" => flags.presences,
        "CHANNEL_CREATE" | "CHANNEL_UPDATE" | "CHANNEL_DELETE" | "CHANNEL_PINS_UPDATE" => flags.channels,
        "THREAD_CREATE" | "THREAD_UPDATE" | "THREAD_DELETE" | "THREAD_LIST_SYNC" => flags.channels,
        "THREAD_MEMBER_UPDATE" | "THREAD_MEMBERS_UPDATE" => flags.channels,
        // VOICE_CHANNEL_STATUS_UPDATE and VOICE_CHANNEL_START_TIME_UPDATE are not here: what they tell is no part of the
        // channel object and so of no GUILD_CREATE; clients read it by op 43.
        "MESSAGE_CREATE" => flags.channels,
        "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE" | "GUILD_ROLE_DELETE" => flags.roles,
        "GUILD_EMOJIS_UPDATE" => flags.emojis,
        "GUILD_STICKERS_UPDATE" => flags.stickers,
        "GUILD_SCHEDULED_EVENT_CREATE" | "GUILD_SCHEDULED_EVENT_UPDATE" | "GUILD_SCHEDULED_EVENT_DELETE" => {
            flags.scheduled_events
        }
        "GUILD_SCHEDULED_EVENT_USER_ADD" | "GUILD_SCHEDULED_EVENT_USER_REMOVE" => flags.scheduled_events,
        "STAGE_INSTANCE_CREATE" | "STAGE_INSTANCE_UPDATE" | "STAGE_INSTANCE_DELETE" => flags.stage_instances,
        "GUILD_SOUNDBOARD_SOUND_CREATE" | "GUILD_SOUNDBOARD_SOUND_UPDATE" | "GUILD_SOUNDBOARD_SOUND_DELETE" => true,
        "GUILD_SOUNDBOARD_SOUNDS_UPDATE" => true,
        "VOICE_STATE_UPDATE" => flags.voice_states,
        _ => false,
    }
}

/// Applies one event.
pub fn apply(cache: &mut Cache, event: &str, data: &[u8]) -> Outcome {
    let result = match event {
        "GUILD_CREATE" => create(cache, data),
        "GUILD_DELETE" => Ok(delete(cache, data)),
        "USER_UPDATE" => Ok(user_update(cache, data)),
        _ => in_guild(cache, event, data),
    };
    result.unwrap_or_else(|malformed| Outcome::ignored(None, malformed.what))
}

fn keeper(cache: &Cache) -> Keeper {
    Keeper { flags: cache.flags, user: cache.user_id }
}

fn create(cache: &mut Cache, data: &[u8]) -> Result<Outcome, Malformed> {
    let Some(id) = edit::id_at(data, &["id"]) else { return Ok(Outcome::ignored(None, "a guild without id")) };
    let guild = if json::get(data, "unavailable") == Some(b"true") {
        let mut guild = Guild::unavailable();
        guild.go_down();
        guild
    } else {
        Guild::create(data, keeper(cache))?
    };
    cache.insert(id, guild);
    Ok(Outcome::changed(id))
}

fn delete(cache: &mut Cache, data: &[u8]) -> Outcome {
    let Some(id) = edit::id_at(data, &["id"]) else { return Outcome::ignored(None, "a guild without id") };
    if json::get(data, "unavailable") == Some(b"true") {
        match cache.guilds.get_mut(&id) {
            Some(guild) => guild.go_down(),
            None => return Outcome::ignored(Some(id), "an unknown guild"),
        }
    } else if !cache.remove(id) {
        return Outcome::ignored(Some(id), "an unknown guild");
    }
    Outcome::changed(id)
}

/// Changes what READY says, not any guild: members have their own events for it.
fn user_update(cache: &mut Cache, data: &[u8]) -> Outcome {
    let merged = edit::merge(cache.user.as_deref().unwrap_or(b"{}"), data, &[]);
    match merged {
        Ok(user) => {
            cache.user = Some(user.into());
            Outcome::unchanged(None)
        }
        Err(malformed) => Outcome::ignored(None, malformed.what),
    }
}

fn in_guild(cache: &mut Cache, event: &str, data: &[u8]) -> Result<Outcome, Malformed> {
    let keeper = keeper(cache);
    let key = if event == "GUILD_UPDATE" { "id" } else { "guild_id" };
    let Some(id) = json::get(data, key).and_then(json::parse_id) else {
        // Messages and pins of direct messages belong to no guild.
        return Ok(match event {
            "MESSAGE_CREATE" | "CHANNEL_PINS_UPDATE" => Outcome::unchanged(None),
            _ => Outcome::ignored(None, "an event of no guild"),
        });
    };
    let Some(guild) = cache.guilds.get_mut(&id).filter(|guild| guild.is_available()) else {
        return Ok(Outcome::ignored(Some(id), "an unknown or unavailable guild"));
    };
    let mut change = Change { guild, keeper, data };
    let changed = match event {
        "GUILD_UPDATE" => change.guild.update(data, keeper).map(|()| true),
        "GUILD_MEMBER_ADD" => change.member_add(),
        "GUILD_MEMBER_UPDATE" => change.member_update(),
        "GUILD_MEMBER_REMOVE" => change.member_remove(),
        "GUILD_MEMBERS_CHUNK" => change.members_chunk(),
        "PRESENCE_UPDATE" => change.presence_update(),
        "CHANNEL_CREATE" => change.put(Kind::Channels, data, &["guild_id"]),
        "CHANNEL_UPDATE" => change.merge(Kind::Channels, data, &["guild_id"]),
        "CHANNEL_DELETE" => change.channel_delete(),
        "CHANNEL_PINS_UPDATE" => change.channel_field("channel_id", "last_pin_timestamp", "last_pin_timestamp"),
        "MESSAGE_CREATE" => change.channel_field("channel_id", "id", "last_message_id"),
        "THREAD_CREATE" => change.merge(Kind::Threads, data, &["newly_created"]),
        "THREAD_UPDATE" => change.thread_update(),
        "THREAD_DELETE" => Ok(change.drop(Kind::Threads, &["id"])),
        "THREAD_LIST_SYNC" => change.thread_list_sync(),
        "THREAD_MEMBER_UPDATE" => change.thread_member_update(),
        "THREAD_MEMBERS_UPDATE" => change.thread_members_update(),
        "GUILD_ROLE_CREATE" | "GUILD_ROLE_UPDATE" => match json::get(data, "role") {
            Some(role) => change.put(Kind::Roles, role, &[]),
            None => Ok(false),
        },
        "GUILD_ROLE_DELETE" => Ok(change.drop(Kind::Roles, &["role_id"])),
        "GUILD_EMOJIS_UPDATE" => change.replace(Kind::Emojis),
        "GUILD_STICKERS_UPDATE" => change.replace(Kind::Stickers),
        "GUILD_SCHEDULED_EVENT_CREATE" | "GUILD_SCHEDULED_EVENT_UPDATE" => change.scheduled_event(),
        "GUILD_SCHEDULED_EVENT_DELETE" => Ok(change.drop(Kind::ScheduledEvents, &["id"])),
        "GUILD_SCHEDULED_EVENT_USER_ADD" => return change.scheduled_event_users(id, 1),
        "GUILD_SCHEDULED_EVENT_USER_REMOVE" => return change.scheduled_event_users(id, -1),
        "STAGE_INSTANCE_CREATE" | "STAGE_INSTANCE_UPDATE" => change.put(Kind::StageInstances, data, &[]),
        "STAGE_INSTANCE_DELETE" => Ok(change.drop(Kind::StageInstances, &["id"])),
        "GUILD_SOUNDBOARD_SOUND_CREATE" | "GUILD_SOUNDBOARD_SOUND_UPDATE" => {
            change.put(Kind::SoundboardSounds, data, &[])
        }
        "GUILD_SOUNDBOARD_SOUND_DELETE" => Ok(change.drop(Kind::SoundboardSounds, &["sound_id"])),
        "GUILD_SOUNDBOARD_SOUNDS_UPDATE" => change.sounds_update(),
        "VOICE_STATE_UPDATE" => change.voice_state(),
        _ => return Ok(Outcome::unchanged(Some(id))),
    };
    Ok(match changed {
        // These are more than the state that they change: a client must get them even when its snapshot has that already.
        Ok(_) if matches!(event, "MESSAGE_CREATE" | "GUILD_MEMBERS_CHUNK") => Outcome::unchanged(Some(id)),
        Ok(true) => Outcome::changed(id),
        Ok(false) => Outcome::ignored(Some(id), "about something unknown"),
        Err(malformed) => Outcome::ignored(Some(id), malformed.what),
    })
}

/// Discord's `status` of a scheduled event that is over: completed or cancelled.
const OVER: [&[u8]; 2] = [b"3", b"4"];

/// An event and the guild that it changes. Each method answers whether it changed something.
struct Change<'a> {
    guild: &'a mut Guild,
    keeper: Keeper,
    data: &'a [u8],
}

type Changed = Result<bool, Malformed>;

impl Change<'_> {
    /// The entity as it is, without some keys.
    fn put(&mut self, kind: Kind, entity: &[u8], leave_out: &[&str]) -> Changed {
        let Some(id) = edit::id_at(entity, kind.id_path()) else { return Ok(false) };
        self.guild.set(kind, id, &edit::without(entity, leave_out)?, self.keeper)?;
        Ok(true)
    }

    /// The entity over what is known of it.
    fn merge(&mut self, kind: Kind, entity: &[u8], leave_out: &[&str]) -> Changed {
        let Some(id) = edit::id_at(entity, kind.id_path()) else { return Ok(false) };
        let merged = match self.guild.get(kind, id) {
            Some(old) => edit::merge(old, entity, leave_out)?,
            None => edit::without(entity, leave_out)?,
        };
        self.guild.set(kind, id, &merged, self.keeper)?;
        Ok(true)
    }

    fn drop(&mut self, kind: Kind, id_path: &[&str]) -> bool {
        edit::id_at(self.data, id_path).is_some_and(|id| self.guild.remove(kind, id))
    }

    fn replace(&mut self, kind: Kind) -> Changed {
        let Some(array) = json::get(self.data, kind.name()) else { return Ok(false) };
        self.guild.replace(kind, array, self.keeper)?;
        Ok(true)
    }

    fn member_add(&mut self) -> Changed {
        self.guild.move_member_count(1);
        if self.keeper.flags.members || self.keeper.flags.current_member {
            self.put(Kind::Members, self.data, &["guild_id"])?;
        }
        Ok(true)
    }

    /// May leave keys out; then they are as before. Of a member that is not known, as most of a large guild, it can not
    /// make a whole one.
    fn member_update(&mut self) -> Changed {
        let known =
            edit::id_at(self.data, &["user", "id"]).is_some_and(|id| self.guild.get(Kind::Members, id).is_some());
        if !known {
            return Ok(false);
        }
        self.merge(Kind::Members, self.data, &["guild_id"])
    }

    fn member_remove(&mut self) -> Changed {
        self.guild.move_member_count(-1);
        if let Some(user) = edit::id_at(self.data, &["user", "id"]) {
            self.guild.remove(Kind::Members, user);
            self.guild.remove(Kind::Presences, user);
            self.guild.remove(Kind::VoiceStates, user);
        }
        Ok(true)
    }

    fn members_chunk(&mut self) -> Changed {
        for member in json::elements(json::get(self.data, "members").unwrap_or(b"[]"))? {
            self.merge(Kind::Members, member, &[])?;
        }
        if let Some(presences) = json::get(self.data, "presences") {
            for presence in json::elements(presences)? {
                self.presence(presence)?;
            }
        }
        Ok(true)
    }

    fn presence_update(&mut self) -> Changed {
        self.presence(self.data)
    }

    fn presence(&mut self, presence: &[u8]) -> Changed {
        let Some(user) = edit::id_at(presence, &["user", "id"]) else { return Ok(false) };
        if json::get(presence, "status") == Some(b"\"offline\"") {
            // GUILD_CREATE lists only who is there. Whoever was not is no news to the snapshot.
            self.guild.remove(Kind::Presences, user);
            return Ok(true);
        }
        let text = edit::without(presence, &["guild_id"])?;
        // Of the user only the id is certain, and the only thing that GUILD_CREATE has.
        let text = edit::with(&text, "user", format!(r#"{{"id":"{user}"}}"#).as_bytes())?;
        self.guild.set(Kind::Presences, user, &text, self.keeper)?;
        Ok(true)
    }

    fn channel_delete(&mut self) -> Changed {
        let Some(id) = edit::id_at(self.data, &["id"]) else { return Ok(false) };
        self.guild.retain(Kind::Threads, |_, thread| edit::id_at(thread, &["parent_id"]) != Some(id));
        Ok(self.guild.remove(Kind::Channels, id))
    }

    /// Sets one field of a channel or thread from one of the event.
    fn channel_field(&mut self, id_key: &str, from: &str, to: &str) -> Changed {
        let (Some(id), Some(value)) = (edit::id_at(self.data, &[id_key]), json::get(self.data, from)) else {
            return Ok(false);
        };
        for kind in [Kind::Channels, Kind::Threads] {
            if let Some(old) = self.guild.get(kind, id) {
                let new = edit::with(old, to, value)?;
                self.guild.set(kind, id, &new, self.keeper)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// GUILD_CREATE lists active threads only.
    fn thread_update(&mut self) -> Changed {
        let archived = json::get(self.data, "thread_metadata").and_then(|metadata| json::get(metadata, "archived"));
        if archived == Some(b"true") {
            self.drop(Kind::Threads, &["id"]);
            return Ok(true);
        }
        self.merge(Kind::Threads, self.data, &[])
    }

    /// The bot gained access to channels: their active threads, or those of the whole guild.
    fn thread_list_sync(&mut self) -> Changed {
        let parents: Option<Vec<u64>> = match json::get(self.data, "channel_ids") {
            Some(ids) => Some(json::elements(ids)?.into_iter().filter_map(json::parse_id).collect()),
            None => None,
        };
        self.guild.retain(Kind::Threads, |_, thread| {
            let parent = edit::id_at(thread, &["parent_id"]);
            parents.as_ref().is_some_and(|parents| parent.is_none_or(|parent| !parents.contains(&parent)))
        });
        for thread in json::elements(json::get(self.data, "threads").unwrap_or(b"[]"))? {
            self.put(Kind::Threads, thread, &[])?;
        }
        for member in json::elements(json::get(self.data, "members").unwrap_or(b"[]"))? {
            self.own_thread_member(member)?;
        }
        Ok(true)
    }

    fn thread_member_update(&mut self) -> Changed {
        self.own_thread_member(self.data)
    }

    /// The bot's own membership stands in the thread's `member`.
    fn own_thread_member(&mut self, member: &[u8]) -> Changed {
        let Some(id) = edit::id_at(member, &["id"]) else { return Ok(false) };
        let Some(thread) = self.guild.get(Kind::Threads, id) else { return Ok(false) };
        let text = edit::with(thread, "member", &edit::without(member, &["guild_id"])?)?;
        self.guild.set(Kind::Threads, id, &text, self.keeper)?;
        Ok(true)
    }

    fn thread_members_update(&mut self) -> Changed {
        let Some(id) = edit::id_at(self.data, &["id"]) else { return Ok(false) };
        let Some(thread) = self.guild.get(Kind::Threads, id) else { return Ok(false) };
        let mut text = thread.to_vec();
        if let Some(count) = json::get(self.data, "member_count") {
            text = edit::with(&text, "member_count", count)?;
        }
        for member in json::elements(json::get(self.data, "added_members").unwrap_or(b"[]"))? {
            if edit::id_at(member, &["user_id"]).is_some_and(|user| Some(user) == self.keeper.user) {
                text = edit::with(&text, "member", &edit::without(member, &["member", "presence"])?)?;
            }
        }
        for removed in json::elements(json::get(self.data, "removed_member_ids").unwrap_or(b"[]"))? {
            if json::parse_id(removed).is_some_and(|user| Some(user) == self.keeper.user) {
                text = edit::without(&text, &["member"])?;
            }
        }
        self.guild.set(Kind::Threads, id, &text, self.keeper)?;
        Ok(true)
    }

    fn scheduled_event(&mut self) -> Changed {
        if json::get(self.data, "status").is_some_and(|status| OVER.contains(&status)) {
            self.drop(Kind::ScheduledEvents, &["id"]);
            return Ok(true);
        }
        self.merge(Kind::ScheduledEvents, self.data, &[])
    }

    /// `user_count` is there only when it was asked for; then it moves. Otherwise a snapshot does not show it.
    fn scheduled_event_users(&mut self, guild: u64, by: i64) -> Result<Outcome, Malformed> {
        let event = edit::id_at(self.data, &["guild_scheduled_event_id"])
            .and_then(|id| self.guild.get(Kind::ScheduledEvents, id).map(|event| (id, event)));
        let Some((id, event)) = event else { return Ok(Outcome::ignored(Some(guild), "an unknown event")) };
        let Some(count) = json::get(event, "user_count").and_then(json::parse_id) else {
            return Ok(Outcome::unchanged(Some(guild)));
        };
        let count = count.saturating_add_signed(by).to_string();
        let text = edit::with(event, "user_count", count.as_bytes())?;
        self.guild.set(Kind::ScheduledEvents, id, &text, self.keeper)?;
        Ok(Outcome::changed(guild))
    }

    fn sounds_update(&mut self) -> Changed {
        let Some(sounds) = json::get(self.data, "soundboard_sounds") else { return Ok(false) };
        for sound in json::elements(sounds)? {
            self.put(Kind::SoundboardSounds, sound, &[])?;
        }
        Ok(true)
    }

    fn voice_state(&mut self) -> Changed {
        let Some(user) = edit::id_at(self.data, &["user_id"]) else { return Ok(false) };
        if json::get(self.data, "channel_id").is_none_or(|channel| channel == b"null") {
            self.guild.remove(Kind::VoiceStates, user);
            return Ok(true);
        }
        let text = edit::without(self.data, &["guild_id", "member"])?;
        self.guild.set(Kind::VoiceStates, user, &text, self.keeper)?;
        Ok(true)
    }
}
