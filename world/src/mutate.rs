//! Events that change a guild's state. Each function changes the guild in the same way as its payload tells a client
//! to.

use super::entities::{self, kind};
use super::{Dice, Event, Guild, names, people, voice};
use crate::clock::{self, iso8601};
use crate::json::{self, Fields, Object};

/// Limits on the number of roles, channels and so on to which traffic grows a guild. They are at or below Discord's
/// limits.
const MAX_ROLES: usize = 240;
const MAX_CHANNELS: usize = 450;
const MAX_EMOJIS: usize = 200;
pub(super) const MAX_OTHERS: usize = 40;

type Events = Vec<Event>;

/// The text of a member's user.
pub(super) fn user_of(member: &str) -> &str {
    json::field(member, "user").unwrap_or("{}")
}

pub(super) fn presence_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((user, _)) = guild.random_member(dice) else {
        return;
    };
    let online = guild.presences.contains(user);
    let text = if online && dice.one_in(4) {
        guild.presences.remove(user);
        people::offline(user, guild.id)
    } else {
        let status = names::one_of(&mut dice.rng, people::STATUSES);
        let presence = people::presence(dice, user, status);
        let text = Object::with_capacity(presence.len() + 40).spread(&presence).id("guild_id", guild.id).finish();
        guild.presences.set(user, presence);
        text
    };
    events.push(Event::json("PRESENCE_UPDATE", guild.id, text));
}

/// The roles that members may get, in random order. The loose roles are not among them, so that they can be deleted
/// without changing members.
fn assignable(guild: &Guild, dice: &mut Dice) -> Vec<u64> {
    let mut roles: Vec<u64> = guild
        .roles
        .iter()
        .filter(|(id, text)| *id != guild.id && !guild.loose_roles.contains(id) && !text.contains("\"bot_id\""))
        .map(|(id, _)| id)
        .collect();
    dice.rng.shuffle(&mut roles);
    roles
}

pub(super) fn member_add(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let user = dice.past_id(clock::DISCORD_EPOCH_MS);
    let profile = people::user(dice, user, false);
    let member = people::member(&profile, &[], clock::unix_ms(), dice);
    let text = Object::with_capacity(member.len() + 40).spread(&member).id("guild_id", guild.id).finish();
    guild.members.set(user, member);
    events.push(Event::json("GUILD_MEMBER_ADD", guild.id, text));
}

pub(super) fn member_remove(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.members.len() < 4 {
        return;
    }
    let Some((user, _)) = guild.random_member(dice) else {
        return;
    };
    remove_member(guild, user, events);
}

/// Removes a member, after taking the member out of the voice channel. Never removes the owner.
fn remove_member(guild: &mut Guild, user: u64, events: &mut Events) {
    let Some(member) = guild.members.get(user) else {
        return;
    };
    if user == guild.owner {
        return;
    }
    let text = Object::new().id("guild_id", guild.id).raw("user", user_of(member)).finish();
    voice::leave(guild, user, events);
    guild.members.remove(user);
    guild.presences.remove(user);
    events.push(Event::json("GUILD_MEMBER_REMOVE", guild.id, text));
}

pub(super) fn ban_add(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.members.len() < 4 {
        return;
    }
    let Some((user, member)) = guild.random_member(dice) else {
        return;
    };
    if user == guild.owner {
        return;
    }
    let text = Object::new().id("guild_id", guild.id).raw("user", user_of(member)).finish();
    events.push(Event::json("GUILD_BAN_ADD", guild.id, text));
    remove_member(guild, user, events);
}

pub(super) fn member_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let roles = assignable(guild, dice);
    let Some((user, member)) = guild.random_member(dice) else {
        return;
    };
    let Some(fields) = Fields::parse(member) else {
        return;
    };
    let changed = match dice.rng.u8(..8) {
        0 | 1 => {
            let nick =
                if dice.one_in(4) { "null".to_owned() } else { json::string(&names::display_name(&mut dice.rng)) };
            fields.set("nick", nick)
        }
        2..=4 => {
            let count = dice.rng.usize(..=roles.len().min(5));
            let mut mine = roles[..count].to_vec();
            mine.sort_unstable();
            fields.set("roles", json::ids(mine))
        }
        5 => {
            let profile = Fields::parse(user_of(member)).map(|profile| {
                profile
                    .set("username", json::string(&names::username(&mut dice.rng)))
                    .set("global_name", json::string(&names::display_name(&mut dice.rng)))
                    .set("avatar", json::string(&names::image_hash(&mut dice.rng)))
                    .text()
            });
            match profile {
                Some(profile) => fields.set("user", profile),
                None => return,
            }
        }
        6 => {
            let until = clock::unix_ms() + 60_000;
            let until = json::string(&iso8601(until));
            fields.set("communication_disabled_until", until).set("flags", dice.rng.u8(..4).to_string())
        }
        _ => {
            let since = json::string(&iso8601(clock::unix_ms()));
            fields.set("premium_since", since).set("pending", if dice.one_in(2) { "true" } else { "false" })
        }
    };
    let member = changed.text();
    let mut event = changed;
    if dice.one_in(5) {
        // Discord sometimes leaves these keys out; their values stay as they are.
        event = event.without("deaf").without("mute");
    }
    let text = Object::with_capacity(member.len() + 40).id("guild_id", guild.id).spread(&event.text()).finish();
    guild.members.set(user, member);
    events.push(Event::json("GUILD_MEMBER_UPDATE", guild.id, text));
}

fn with_guild(guild: u64, text: &str) -> String {
    Object::with_capacity(text.len() + 40).spread(text).id("guild_id", guild).finish()
}

pub(super) fn channel_create(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.channels.len() >= MAX_CHANNELS {
        return;
    }
    let id = dice.live_id();
    let kind = [kind::TEXT, kind::TEXT, kind::VOICE, kind::FORUM][dice.rng.usize(..4)];
    let roles = assignable(guild, dice);
    let position = guild.channels.len() as u64;
    let text = entities::channel(dice, id, kind, position, None, &roles);
    let text = json::with_field(&text, "last_message_id", "null");
    events.push(Event::json("CHANNEL_CREATE", guild.id, with_guild(guild.id, &text)));
    guild.channels.set(id, text);
    guild.loose_channels.push(id);
    match kind {
        kind::TEXT => {
            guild.last_messages.insert(id, 0);
        }
        kind::VOICE => guild.voice_channels.push(id),
        _ => {}
    }
}

pub(super) fn channel_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, text)) = guild.channels.pick(&mut dice.rng) else {
        return;
    };
    let Some(fields) = Fields::parse(text) else {
        return;
    };
    let words = dice.rng.usize(1..10);
    let changed = match dice.rng.u8(..3) {
        0 => fields.set("name", json::string(&names::channel(&mut dice.rng))),
        1 if fields.get("topic").is_some() => fields.set("topic", json::string(&names::text(&mut dice.rng, words))),
        _ => fields.set("position", dice.rng.u32(..50).to_string()),
    };
    guild.channels.set(id, changed.text());
    let text = guild.channel(id).unwrap_or_default();
    events.push(Event::json("CHANNEL_UPDATE", guild.id, with_guild(guild.id, &text)));
}

pub(super) fn channel_delete(guild: &mut Guild, _: &mut Dice, events: &mut Events) {
    let Some(id) = guild.loose_channels.pop() else {
        return;
    };
    let Some(text) = guild.channel(id) else {
        return;
    };
    let inside: Vec<u64> =
        guild.voice_states.iter().filter(|(_, state)| voice::in_channel(state, id)).map(|(user, _)| user).collect();
    for user in inside {
        voice::leave(guild, user, events);
    }
    guild.channels.remove(id);
    guild.last_messages.remove(&id);
    guild.voice_channels.retain(|channel| *channel != id);
    guild.voice_status.remove(&id);
    // Discord deletes the threads of the channel too, without events for them.
    let threads: Vec<u64> = guild
        .threads
        .iter()
        .filter(|(_, thread)| json::field(thread, "parent_id") == Some(&format!("\"{id}\"")))
        .map(|(id, _)| id)
        .collect();
    for thread in threads {
        guild.threads.remove(thread);
    }
    events.push(Event::json("CHANNEL_DELETE", guild.id, with_guild(guild.id, &text)));
}

pub(super) fn pins_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some(id) = text_channel(guild, dice) else {
        return;
    };
    let Some(text) = guild.channels.get(id) else {
        return;
    };
    let now = iso8601(clock::unix_ms());
    let text = json::with_field(text, "last_pin_timestamp", &json::string(&now));
    guild.channels.set(id, text);
    let text = Object::new().id("guild_id", guild.id).id("channel_id", id).str("last_pin_timestamp", &now).finish();
    events.push(Event::json("CHANNEL_PINS_UPDATE", guild.id, text));
}

/// A random channel that messages are sent to.
pub(super) fn text_channel(guild: &Guild, dice: &mut Dice) -> Option<u64> {
    if guild.last_messages.is_empty() {
        return None;
    }
    let at = dice.rng.usize(..guild.last_messages.len());
    guild.last_messages.keys().nth(at).copied()
}

fn role_event(guild: u64, role: &str) -> String {
    Object::with_capacity(role.len() + 60).id("guild_id", guild).raw("role", role).finish()
}

pub(super) fn role_create(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.roles.len() >= MAX_ROLES {
        return;
    }
    let id = dice.live_id();
    let role = entities::role(dice, id, false, guild.roles.len() as u64, None);
    events.push(Event::json("GUILD_ROLE_CREATE", guild.id, role_event(guild.id, &role)));
    guild.roles.set(id, role);
    guild.loose_roles.push(id);
}

pub(super) fn role_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, role)) = guild.roles.pick(&mut dice.rng) else {
        return;
    };
    let permissions = format!("\"{}\"", dice.rng.u64(..1 << 51));
    let role = json::with_field(role, "permissions", &permissions);
    let role = json::with_field(&role, "hoist", if dice.one_in(2) { "true" } else { "false" });
    let rename = id != guild.id && dice.one_in(2);
    let role = if rename { json::with_field(&role, "name", &json::string(names::role(&mut dice.rng))) } else { role };
    events.push(Event::json("GUILD_ROLE_UPDATE", guild.id, role_event(guild.id, &role)));
    guild.roles.set(id, role);
}

pub(super) fn role_delete(guild: &mut Guild, _: &mut Dice, events: &mut Events) {
    let Some(id) = guild.loose_roles.pop() else {
        return;
    };
    guild.roles.remove(id);
    let text = Object::new().id("guild_id", guild.id).id("role_id", id).finish();
    events.push(Event::json("GUILD_ROLE_DELETE", guild.id, text));
}

pub(super) fn guild_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let words = dice.rng.usize(1..12);
    let Some(fields) = Fields::parse(&guild.base) else {
        return;
    };
    let version = fields.id("version").unwrap_or(0) + 1;
    let changed = match dice.rng.u8(..3) {
        0 => fields.set("name", json::string(&names::guild(&mut dice.rng))),
        1 => fields.set("icon", json::string(&names::image_hash(&mut dice.rng))),
        _ => fields
            .set("description", json::string(&names::text(&mut dice.rng, words)))
            .set("premium_subscription_count", dice.rng.u32(..40).to_string()),
    };
    guild.base = changed.set("version", version.to_string()).text();
    events.push(Event::json("GUILD_UPDATE", guild.id, guild.update()));
}

pub(super) fn emojis_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.emojis.len() >= MAX_EMOJIS || (guild.emojis.len() > 4 && dice.one_in(2)) {
        let Some(id) = guild.emojis.pick(&mut dice.rng).map(|(id, _)| id) else {
            return;
        };
        guild.emojis.remove(id);
    } else {
        let id = dice.live_id();
        let text = entities::emoji(dice, id, &[]);
        guild.emojis.set(id, text);
    }
    let text = Object::with_capacity(guild.emojis.bytes() + 60)
        .id("guild_id", guild.id)
        .raw("emojis", &guild.emojis.array())
        .finish();
    events.push(Event::json("GUILD_EMOJIS_UPDATE", guild.id, text));
}

pub(super) fn stickers_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.stickers.len() > 3 {
        let Some(id) = guild.stickers.pick(&mut dice.rng).map(|(id, _)| id) else {
            return;
        };
        guild.stickers.remove(id);
    } else {
        let id = dice.live_id();
        let text = entities::sticker(dice, id, guild.id);
        guild.stickers.set(id, text);
    }
    let text = Object::with_capacity(guild.stickers.bytes() + 60)
        .id("guild_id", guild.id)
        .raw("stickers", &guild.stickers.array())
        .finish();
    events.push(Event::json("GUILD_STICKERS_UPDATE", guild.id, text));
}

pub(super) fn scheduled_event_create(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.scheduled_events.len() >= MAX_OTHERS {
        return;
    }
    let id = dice.live_id();
    let text = entities::scheduled_event(dice, id, guild.id, guild.owner, None);
    guild.scheduled_events.set(id, text.clone());
    events.push(Event::json("GUILD_SCHEDULED_EVENT_CREATE", guild.id, text));
}

pub(super) fn scheduled_event_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, text)) = guild.scheduled_events.pick(&mut dice.rng) else {
        return;
    };
    let name = json::string(&names::text(&mut dice.rng, 3));
    let text = json::with_field(text, "name", &name);
    guild.scheduled_events.set(id, text.clone());
    events.push(Event::json("GUILD_SCHEDULED_EVENT_UPDATE", guild.id, text));
}

pub(super) fn scheduled_event_delete(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, text)) = guild.scheduled_events.pick(&mut dice.rng) else {
        return;
    };
    let text = json::with_field(text, "status", "4");
    guild.scheduled_events.remove(id);
    events.push(Event::json("GUILD_SCHEDULED_EVENT_DELETE", guild.id, text));
}

pub(super) fn sound_create(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.sounds.len() >= MAX_OTHERS {
        return;
    }
    let id = dice.live_id();
    let text = entities::sound(dice, id, guild.id);
    guild.sounds.set(id, text.clone());
    events.push(Event::json("GUILD_SOUNDBOARD_SOUND_CREATE", guild.id, text));
}

pub(super) fn sound_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, text)) = guild.sounds.pick(&mut dice.rng) else {
        return;
    };
    let name = json::string(names::emoji_name(&mut dice.rng));
    let text = json::with_field(text, "name", &name);
    guild.sounds.set(id, text.clone());
    events.push(Event::json("GUILD_SOUNDBOARD_SOUND_UPDATE", guild.id, text));
}

pub(super) fn sound_delete(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, _)) = guild.sounds.pick(&mut dice.rng) else {
        return;
    };
    guild.sounds.remove(id);
    let text = Object::new().id("sound_id", id).id("guild_id", guild.id).finish();
    events.push(Event::json("GUILD_SOUNDBOARD_SOUND_DELETE", guild.id, text));
}
