//! Events that leave the state of a guild as it is: messages, reactions, typing, interactions.
//!
//! The exception is `last_message_id` of a channel, which a message changes.

use super::mutate::{text_channel, user_of};
use super::{Body, Dice, Event, Guild, names};
use crate::clock::{self, iso8601};
use crate::json::{Fields, Object};

type Events = Vec<Event>;

/// A member without `user`, in the form that messages have next to `author`.
fn partial_member(member: &str) -> String {
    Fields::parse(member).map_or_else(|| "{}".to_owned(), |fields| fields.without("user").text())
}

struct Message<'a> {
    id: u64,
    channel: u64,
    guild: u64,
    member: &'a str,
    content: &'a str,
    edited: bool,
}

/// The first fields of a message, to which the caller adds more. Also returns the position of the value of `content`.
fn message(message: &Message<'_>, dice: &mut Dice) -> (Object, std::ops::Range<usize>) {
    let edited = message.edited.then(|| iso8601(clock::unix_ms()));
    let author = user_of(message.member);
    let object = Object::with_capacity(1_200 + message.content.len())
        .id("id", message.id)
        .int("type", 0)
        .id("channel_id", message.channel)
        .id("guild_id", message.guild)
        .int("channel_type", 0)
        .raw("author", author)
        .raw("member", &partial_member(message.member));
    let from = object.bytes() + r#","content":"#.len();
    let object = object.str("content", message.content);
    let to = object.bytes();
    let object = object
        .str("timestamp", &iso8601(clock::created_ms(message.id)))
        .opt_str("edited_timestamp", edited.as_deref())
        .bool("tts", false)
        .bool("mention_everyone", false)
        .raw("mentions", "[]")
        .raw("mention_roles", "[]")
        .raw("attachments", "[]")
        .raw("embeds", "[]")
        .bool("pinned", false)
        .int("flags", 0)
        .raw("components", "[]")
        .str("nonce", &dice.rng.u64(..1 << 60).to_string());
    (object, from..to)
}

/// A numbered MESSAGE_CREATE. The content starts with `n:<number>`. For clients without the content, the key
/// `sim_number` has the number too, and `sim_sent_ns` has the time at which the message was made, in ns of
/// CLOCK_MONOTONIC.
pub(super) fn message_create(guild: &mut Guild, dice: &mut Dice, number: u64, size: Option<usize>) -> Event {
    let id = dice.live_id();
    let channel = text_channel(guild, dice).unwrap_or(guild.id);
    let words = dice.rng.usize(1..24);
    let mut content = format!("n:{number} ");
    content.push_str(&names::text(&mut dice.rng, words));
    let member = guild.random_member(dice).or_else(|| guild.members.iter().next()).map_or("{}", |(_, member)| member);
    if let Some(size) = size {
        // An estimate of the bytes of the message's other fields.
        let rest = member.len() + 400;
        let padding = size.saturating_sub(rest + content.len());
        content.reserve(padding + 1);
        content.push(' ');
        content.extend(std::iter::repeat_n('x', padding));
    }
    let parts = Message { id, channel, guild: guild.id, member, content: &content, edited: false };
    let (object, content) = message(&parts, dice);
    let text = object.int("sim_number", number).int("sim_sent_ns", clock::monotonic_ns()).finish();
    if let Some(newest) = guild.last_messages.get_mut(&channel) {
        *newest = id;
    }
    Event { name: "MESSAGE_CREATE", guild: guild.id, body: Body::Json { text, content: Some(content), numbered: true } }
}

/// A channel with a message of this run, and the id of that message.
fn recent(guild: &Guild, dice: &mut Dice) -> Option<(u64, u64)> {
    (0..4).find_map(|_| {
        let channel = text_channel(guild, dice)?;
        let message = *guild.last_messages.get(&channel)?;
        (message > 0).then_some((channel, message))
    })
}

pub(super) fn message_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((channel, id)) = recent(guild, dice) else {
        return;
    };
    let words = dice.rng.usize(1..24);
    let content = names::text(&mut dice.rng, words);
    let Some((_, member)) = guild.random_member(dice) else {
        return;
    };
    let parts = Message { id, channel, guild: guild.id, member, content: &content, edited: true };
    let (object, content) = message(&parts, dice);
    events.push(Event {
        name: "MESSAGE_UPDATE",
        guild: guild.id,
        body: Body::Json { text: object.finish(), content: Some(content), numbered: false },
    });
}

pub(super) fn message_delete(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((channel, id)) = recent(guild, dice) else {
        return;
    };
    let text = Object::new().id("id", id).id("channel_id", channel).id("guild_id", guild.id).finish();
    events.push(Event::json("MESSAGE_DELETE", guild.id, text));
}

pub(super) fn typing_start(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some(channel) = text_channel(guild, dice) else {
        return;
    };
    let Some((user, member)) = guild.random_member(dice) else {
        return;
    };
    let text = Object::with_capacity(member.len() + 160)
        .id("user_id", user)
        .int("timestamp", clock::unix_ms() / 1_000)
        .raw("member", member)
        .id("channel_id", channel)
        .id("guild_id", guild.id)
        .finish();
    events.push(Event::json("TYPING_START", guild.id, text));
}

pub(super) fn reaction_add(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((channel, message)) = recent(guild, dice) else {
        return;
    };
    let Some((user, member)) = guild.random_member(dice) else {
        return;
    };
    let emoji = Object::new().null("id").str("name", names::emoji(&mut dice.rng)).finish();
    let text = Object::with_capacity(member.len() + 260)
        .id("user_id", user)
        .int("type", 0)
        .id("message_id", message)
        .id("message_author_id", user)
        .raw("member", member)
        .raw("emoji", &emoji)
        .id("channel_id", channel)
        .bool("burst", false)
        .id("guild_id", guild.id)
        .finish();
    events.push(Event::json("MESSAGE_REACTION_ADD", guild.id, text));
}

pub(super) fn reaction_remove(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((channel, message)) = recent(guild, dice) else {
        return;
    };
    let Some((user, _)) = guild.random_member(dice) else {
        return;
    };
    let emoji = Object::new().null("id").str("name", names::emoji(&mut dice.rng)).finish();
    let text = Object::new()
        .id("user_id", user)
        .int("type", 0)
        .id("message_id", message)
        .raw("emoji", &emoji)
        .id("channel_id", channel)
        .bool("burst", false)
        .id("guild_id", guild.id)
        .finish();
    events.push(Event::json("MESSAGE_REACTION_REMOVE", guild.id, text));
}

pub(super) fn invite_create(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some(channel) = text_channel(guild, dice) else {
        return;
    };
    let Some((_, member)) = guild.random_member(dice) else {
        return;
    };
    let text = Object::new()
        .id("channel_id", channel)
        .str("code", &names::hex(&mut dice.rng, 8))
        .str("created_at", &iso8601(clock::unix_ms()))
        .id("guild_id", guild.id)
        .raw("inviter", user_of(member))
        .int("max_age", 604_800)
        .int("max_uses", 0)
        .bool("temporary", false)
        .int("type", 0)
        .int("uses", 0)
        .finish();
    events.push(Event::json("INVITE_CREATE", guild.id, text));
}

pub(super) fn interaction_create(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some(channel) = text_channel(guild, dice) else {
        return;
    };
    let Some((_, member)) = guild.random_member(dice) else {
        return;
    };
    let id = dice.live_id();
    // The whole channel without its overwrites, with the user's permissions: libraries build a channel object from it.
    let whole = guild.channel(channel).unwrap_or_default();
    let partial =
        Fields::parse(&whole).map_or_else(|| "{}".to_owned(), |it| it.without("permission_overwrites").text());
    let partial_channel =
        Object::new().spread(&partial).str("permissions", "2248473465835073").id("guild_id", guild.id).finish();
    let data = Object::new().id("id", dice.application + 7).str("name", "ping").int("type", 1).finish();
    let partial_guild = Object::new().id("id", guild.id).str("locale", "en-US").raw("features", "[]").finish();
    let text = Object::with_capacity(member.len() + 900)
        .id("id", id)
        .id("application_id", dice.application)
        .int("type", 2)
        .int("version", 1)
        .str("token", &names::hex(&mut dice.rng, 160))
        .raw("data", &data)
        .id("guild_id", guild.id)
        .raw("guild", &partial_guild)
        .id("channel_id", channel)
        .raw("channel", &partial_channel)
        .raw("member", &Object::new().spread(member).str("permissions", "2248473465835073").finish())
        .str("locale", "de")
        .str("guild_locale", "en-US")
        .str("app_permissions", "2248473465835073")
        .raw("entitlements", "[]")
        .raw("authorizing_integration_owners", &Object::new().id("0", guild.id).finish())
        .int("context", 0)
        .int("attachment_size_limit", 10_485_760)
        .finish();
    events.push(Event::json("INTERACTION_CREATE", guild.id, text));
}
