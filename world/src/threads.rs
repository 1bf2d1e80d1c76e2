//! Events of threads.

use super::entities::{self, kind};
use super::mutate::{MAX_OTHERS, text_channel};
use super::{Dice, Event, Guild, names};
use crate::clock::{self, iso8601};
use crate::json::{self, Fields, Object};

type Events = Vec<Event>;

pub(super) fn create(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.threads.len() >= MAX_OTHERS {
        return;
    }
    let Some(parent) = text_channel(guild, dice) else {
        return;
    };
    let Some((owner, _)) = guild.random_member(dice) else {
        return;
    };
    let id = dice.live_id();
    let text = entities::thread(dice, id, kind::PUBLIC_THREAD, guild.id, parent, owner);
    let event = Object::new().spread(&text).bool("newly_created", true).finish();
    guild.threads.set(id, text);
    events.push(Event::json("THREAD_CREATE", guild.id, event));
}

pub(super) fn update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, text)) = guild.threads.pick(&mut dice.rng) else {
        return;
    };
    let name = json::string(&names::text(&mut dice.rng, 3));
    let text = json::with_field(text, "name", &name);
    guild.threads.set(id, text.clone());
    events.push(Event::json("THREAD_UPDATE", guild.id, text));
}

pub(super) fn delete(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, text)) = guild.threads.pick(&mut dice.rng) else {
        return;
    };
    let Some(fields) = Fields::parse(text) else {
        return;
    };
    let text = Object::new()
        .id("id", id)
        .id("guild_id", guild.id)
        .raw("parent_id", fields.get("parent_id").unwrap_or("null"))
        .raw("type", fields.get("type").unwrap_or("11"))
        .finish();
    guild.threads.remove(id);
    events.push(Event::json("THREAD_DELETE", guild.id, text));
}

/// The threads of a channel, each with the thread member of the current user.
fn of_channel(guild: &Guild, parent: u64) -> Vec<(u64, String)> {
    let parent = format!("\"{parent}\"");
    let inside = guild.threads.iter().filter(|(_, thread)| json::field(thread, "parent_id") == Some(parent.as_str()));
    inside.map(|(id, thread)| (id, thread.to_owned())).collect()
}

/// The thread member of the current user in the form of events: with the ids that GUILD_CREATE leaves out.
fn own_member(dice: &Dice, thread: u64, member: &str) -> String {
    Object::new().id("id", thread).id("user_id", dice.bot).spread(member).finish()
}

/// A THREAD_LIST_SYNC: the bot gains access to a channel, and gets the changes of its threads all at once.
pub(super) fn list_sync(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some(parent) = text_channel(guild, dice) else {
        return;
    };
    let Some((owner, _)) = guild.random_member(dice) else {
        return;
    };
    if let Some((gone, _)) = of_channel(guild, parent).first() {
        guild.threads.remove(*gone);
    }
    if guild.threads.len() < MAX_OTHERS {
        let id = dice.live_id();
        let text = entities::thread(dice, id, kind::PUBLIC_THREAD, guild.id, parent, owner);
        guild.threads.set(id, text);
    }
    let threads = of_channel(guild, parent);
    let members = threads.iter().filter_map(|(id, thread)| Some(own_member(dice, *id, json::field(thread, "member")?)));
    let text = Object::new()
        .id("guild_id", guild.id)
        .raw("channel_ids", &json::ids([parent]))
        .raw("threads", &json::array(threads.iter().map(|(_, thread)| thread)))
        .raw("members", &json::array(members))
        .finish();
    events.push(Event::json("THREAD_LIST_SYNC", guild.id, text));
}

/// A THREAD_MEMBER_UPDATE: the bot's own thread member changes.
pub(super) fn member_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let found = guild.threads.iter().find_map(|(id, thread)| Some((id, thread, json::field(thread, "member")?)));
    let Some((id, thread, member)) = found else {
        return;
    };
    let flags = dice.rng.u8(1..8).to_string();
    let member = json::with_field(member, "flags", &flags);
    let thread = json::with_field(thread, "member", &member);
    let text = Object::new().spread(&own_member(dice, id, &member)).id("guild_id", guild.id).finish();
    guild.threads.set(id, thread);
    events.push(Event::json("THREAD_MEMBER_UPDATE", guild.id, text));
}

/// A THREAD_MEMBERS_UPDATE: a random member joins a thread.
pub(super) fn members_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((user, member)) = guild.random_member(dice) else {
        return;
    };
    let Some((id, thread)) = guild.threads.pick(&mut dice.rng) else {
        return;
    };
    // Discord stops counting at 50.
    let count = json::field(thread, "member_count").and_then(|count| count.parse().ok()).unwrap_or(0_u64);
    let count = (count + 1).min(50);
    let added = Object::with_capacity(member.len() + 200)
        .id("id", id)
        .id("user_id", user)
        .str("join_timestamp", &iso8601(clock::unix_ms()))
        .int("flags", 0)
        .raw("member", member)
        .raw("presence", guild.presences.get(user).unwrap_or("null"))
        .finish();
    let text = Object::new()
        .id("id", id)
        .id("guild_id", guild.id)
        .int("member_count", count)
        .raw("added_members", &json::array([added]))
        .finish();
    let thread = json::with_field(thread, "member_count", &count.to_string());
    guild.threads.set(id, thread);
    events.push(Event::json("THREAD_MEMBERS_UPDATE", guild.id, text));
}
