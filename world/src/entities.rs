//! The entities of a guild other than users: roles, emojis, stickers, channels, threads, scheduled events, stages,
//! sounds.
//!
//! Each function writes one entity with the fields that Discord sends, in Discord's order. Some of them are not
//! documented (`version`, `icon_emoji`, `template`): a client must keep these too.

use super::{Dice, names};
use crate::clock::{self, iso8601};
use crate::json::{self, Object};

/// Channel types (Channel: "Channel Types").
pub mod kind {
    /// GUILD_TEXT
    pub const TEXT: u64 = 0;
    /// GUILD_VOICE
    pub const VOICE: u64 = 2;
    /// GUILD_CATEGORY
    pub const CATEGORY: u64 = 4;
    /// GUILD_ANNOUNCEMENT
    pub const ANNOUNCEMENT: u64 = 5;
    /// PUBLIC_THREAD
    pub const PUBLIC_THREAD: u64 = 11;
    /// PRIVATE_THREAD
    pub const PRIVATE_THREAD: u64 = 12;
    /// GUILD_STAGE_VOICE
    pub const STAGE: u64 = 13;
    /// GUILD_FORUM
    pub const FORUM: u64 = 15;
}

/// Permission bits that exist today. Some are above 2^40, which older libraries do not know.
const PERMISSION_BITS: u64 = (1 << 51) - 1;

/// An undocumented version stamp, which entities of Discord carry.
fn version(dice: &mut Dice) -> u64 {
    clock::GENERATED_UNTIL_MS - dice.rng.u64(..1 << 30)
}

/// A role.
pub fn role(dice: &mut Dice, id: u64, everyone: bool, position: u64, bot: Option<u64>) -> String {
    let permissions = dice.rng.u64(..) & dice.rng.u64(..) & PERMISSION_BITS | 1 << 43 | 1 << 48;
    let rng = &mut dice.rng;
    let color = if rng.bool() { rng.u64(..1 << 24) } else { 0 };
    let gradient = rng.u8(..8) == 0;
    let colors = Object::new()
        .int("primary_color", color)
        .raw("secondary_color", if gradient { "11127295" } else { "null" })
        .null("tertiary_color")
        .finish();
    let name = if everyone { "@everyone" } else { names::role(rng) };
    let emoji = (rng.u8(..15) == 0).then(|| names::emoji(rng));
    let mut role = Object::with_capacity(420)
        .id("id", id)
        .str("name", name)
        .null("description")
        .str("permissions", &permissions.to_string())
        .int("position", position)
        .int("color", color)
        .raw("colors", &colors)
        .bool("hoist", rng.u8(..3) == 0)
        .bool("managed", bot.is_some())
        .bool("mentionable", rng.bool())
        .null("icon")
        .opt_str("unicode_emoji", emoji)
        .int("flags", 0);
    if let Some(bot) = bot {
        role = role.raw("tags", &Object::new().id("bot_id", bot).finish());
    } else if rng.u8(..20) == 0 && !everyone {
        role = role.raw("tags", r#"{"premium_subscriber":null}"#);
    }
    role.finish()
}

/// A custom emoji.
pub fn emoji(dice: &mut Dice, id: u64, roles: &[u64]) -> String {
    let version = version(dice);
    let rng = &mut dice.rng;
    Object::new()
        .id("id", id)
        .str("name", names::emoji_name(rng))
        .raw("roles", &json::ids(roles.iter().copied()))
        .bool("require_colons", true)
        .bool("managed", false)
        .bool("animated", rng.u8(..3) == 0)
        .bool("available", true)
        .int("version", version)
        .finish()
}

/// A sticker of a guild.
pub fn sticker(dice: &mut Dice, id: u64, guild: u64) -> String {
    let version = version(dice);
    let rng = &mut dice.rng;
    let description = (rng.bool()).then(|| names::text(rng, 3));
    Object::new()
        .id("id", id)
        .str("name", names::emoji_name(rng))
        .str("tags", names::emoji(rng))
        .int("type", 2)
        .int("format_type", rng.u64(1..5))
        .opt_str("description", description.as_deref())
        .str("asset", "")
        .bool("available", true)
        .id("guild_id", guild)
        .int("version", version)
        .finish()
}

/// Permission overwrites for a few of the given roles.
fn overwrites(dice: &mut Dice, roles: &[u64]) -> String {
    let count = dice.rng.usize(..3.min(roles.len() + 1));
    let rows: Vec<String> = (0..count)
        .map(|at| {
            let rng = &mut dice.rng;
            Object::new()
                .id("id", roles[at])
                .int("type", 0)
                .str("allow", &(rng.u64(..) & rng.u64(..) & rng.u64(..) & PERMISSION_BITS).to_string())
                .str("deny", &(1_u64 << rng.u32(..50)).to_string())
                .finish()
        })
        .collect();
    json::array(rows)
}

/// A channel in the form of GUILD_CREATE: without `guild_id`.
pub fn channel(dice: &mut Dice, id: u64, kind: u64, position: u64, parent: Option<u64>, roles: &[u64]) -> String {
    let overwrites = overwrites(dice, roles);
    let version = version(dice);
    let spoken = matches!(kind, kind::VOICE | kind::STAGE);
    let rng = &mut dice.rng;
    let name = match kind {
        kind::VOICE | kind::STAGE => names::voice_channel(rng).to_owned(),
        kind::CATEGORY => names::channel(rng).to_uppercase(),
        _ => names::channel(rng),
    };
    let mut channel = Object::with_capacity(600)
        .id("id", id)
        .int("type", kind)
        .str("name", &name)
        .int("position", position)
        .int("flags", 0)
        .opt_id("parent_id", parent)
        .raw("permission_overwrites", &overwrites)
        .int("version", version);
    if kind == kind::CATEGORY {
        return channel.finish();
    }
    let words = rng.usize(2..14);
    // Some topics contain characters that JSON escapes. Equal JSON need not be equal text.
    let topic = match rng.u8(..6) {
        0..=2 => "null".to_owned(),
        3 => r#""caf\u00e9 \ud83e\udd8a \/ rules""#.to_owned(),
        _ => json::string(&names::text(rng, words)),
    };
    let newest = (rng.u8(..8) > 0).then(|| id + (rng.u64(..1 << 30) << 8));
    channel = channel
        .raw("topic", &topic)
        .bool("nsfw", rng.u8(..20) == 0)
        .opt_id("last_message_id", newest)
        .int("rate_limit_per_user", u64::from(rng.u8(..8) == 0) * 5)
        .raw("icon_emoji", &Object::new().null("id").str("name", names::emoji(rng)).finish())
        .null("theme_color");
    if spoken {
        let region = (rng.u8(..5) == 0).then_some("rotterdam");
        channel
            .int("bitrate", 64_000)
            .int("user_limit", u64::from(rng.u8(..4) == 0) * 10)
            .opt_str("rtc_region", region)
            .int("video_quality_mode", 1)
            .finish()
    } else if kind == kind::FORUM {
        let tags: Vec<String> = (0..rng.u64(1..5))
            .map(|at| {
                Object::new()
                    .id("id", id + 1 + at)
                    .str("name", names::emoji_name(rng))
                    .bool("moderated", at == 0)
                    .null("emoji_id")
                    .str("emoji_name", names::emoji(rng))
                    .finish()
            })
            .collect();
        channel
            .raw("available_tags", &json::array(tags))
            .raw("default_reaction_emoji", r#"{"emoji_id":null,"emoji_name":"👍"}"#)
            .null("default_sort_order")
            .int("default_forum_layout", 0)
            .int("default_thread_rate_limit_per_user", 0)
            .int("default_auto_archive_duration", 4_320)
            .str("template", "")
            .finish()
    } else {
        if rng.u8(..4) == 0 {
            channel = channel.str("last_pin_timestamp", &iso8601(clock::created_ms(id) + rng.u64(..1 << 30)));
        }
        channel.int("default_auto_archive_duration", 1_440).finish()
    }
}

/// A thread. It has its `guild_id` in GUILD_CREATE too.
pub fn thread(dice: &mut Dice, id: u64, kind: u64, guild: u64, parent: u64, owner: u64) -> String {
    let rng = &mut dice.rng;
    let messages = rng.u64(..5_000);
    let created = iso8601(clock::created_ms(id));
    let mut metadata = Object::new()
        .bool("archived", false)
        .str("archive_timestamp", &created)
        .int("auto_archive_duration", 4_320)
        .bool("locked", false)
        .str("create_timestamp", &created);
    if kind == kind::PRIVATE_THREAD {
        metadata = metadata.bool("invitable", true);
    }
    let mut thread = Object::with_capacity(640)
        .id("id", id)
        .id("guild_id", guild)
        .id("parent_id", parent)
        .id("owner_id", owner)
        .int("type", kind)
        .str("name", &names::text(rng, 4))
        .id("last_message_id", id + (rng.u64(..1 << 20) << 8))
        .int("rate_limit_per_user", 0)
        .int("message_count", messages)
        .int("member_count", rng.u64(1..50))
        .int("total_message_sent", messages + rng.u64(..40))
        .raw("thread_metadata", &metadata.finish())
        .int("flags", 0);
    if kind == kind::PRIVATE_THREAD || rng.u8(..3) == 0 {
        // The thread member has no ids here; only events carry them.
        let member = Object::new()
            .str("join_timestamp", &created)
            .int("flags", 1)
            .bool("muted", false)
            .null("mute_config")
            .finish();
        thread = thread.raw("member", &member);
    }
    thread.finish()
}

/// A stage instance in the given channel.
pub fn stage_instance(dice: &mut Dice, id: u64, guild: u64, channel: u64) -> String {
    Object::new()
        .id("id", id)
        .id("guild_id", guild)
        .id("channel_id", channel)
        .str("topic", &names::text(&mut dice.rng, 3))
        .int("privacy_level", 2)
        .null("invite_code")
        .bool("discoverable_disabled", true)
        .null("guild_scheduled_event_id")
        .finish()
}

/// A scheduled event, in the given voice channel or at an external place.
pub fn scheduled_event(dice: &mut Dice, id: u64, guild: u64, creator: u64, channel: Option<u64>) -> String {
    let rng = &mut dice.rng;
    let start = clock::GENERATED_UNTIL_MS + rng.u64(..1 << 33);
    let words = rng.usize(2..20);
    let image = (rng.bool()).then(|| names::image_hash(rng));
    let (kind, metadata) = match channel {
        Some(_) => (2, "null".to_owned()),
        None => (3, Object::new().str("location", &names::guild(rng)).finish()),
    };
    Object::with_capacity(600)
        .id("id", id)
        .id("guild_id", guild)
        .opt_id("channel_id", channel)
        .id("creator_id", creator)
        .str("name", &names::text(rng, 4))
        .str("description", &names::text(rng, words))
        .opt_str("image", image.as_deref())
        .str("scheduled_start_time", &iso8601(start))
        .str("scheduled_end_time", &iso8601(start + 7_200_000))
        .int("privacy_level", 2)
        .int("status", 1)
        .int("entity_type", kind)
        .null("entity_id")
        .raw("entity_metadata", &metadata)
        .null("recurrence_rule")
        .int("user_count", rng.u64(1..100))
        .raw("sku_ids", "[]")
        .raw("guild_scheduled_event_exceptions", "[]")
        .finish()
}

/// A soundboard sound.
pub fn sound(dice: &mut Dice, id: u64, guild: u64) -> String {
    let rng = &mut dice.rng;
    Object::new()
        .str("name", names::emoji_name(rng))
        .id("sound_id", id)
        .raw("volume", names::one_of(rng, &["1.0", "0.5", "0.8", "1"]))
        .null("emoji_id")
        .str("emoji_name", names::emoji(rng))
        .id("guild_id", guild)
        .bool("available", true)
        .id("user_id", dice.bot)
        .finish()
}

/// A voice state in the form of GUILD_CREATE: without `guild_id` and `member`.
pub fn voice_state(dice: &mut Dice, user: u64, channel: u64, session: &str) -> String {
    let rng = &mut dice.rng;
    let mute = rng.bool();
    Object::new()
        .id("user_id", user)
        .id("channel_id", channel)
        .str("session_id", session)
        .bool("deaf", false)
        .bool("mute", false)
        .bool("self_deaf", mute && rng.bool())
        .bool("self_mute", mute)
        .bool("self_stream", rng.u8(..10) == 0)
        .bool("self_video", rng.u8(..20) == 0)
        .bool("suppress", false)
        .null("request_to_speak_timestamp")
        .finish()
}
