//! People: users, members and presences.

use super::{Dice, names};
use crate::clock::{self, iso8601};
use crate::json::{self, Fields, Object};

/// The status values of a user who is not offline.
pub const STATUSES: &[&str] = &["online", "idle", "dnd"];

/// A user in the form that members and messages have.
pub fn user(dice: &mut Dice, id: u64, bot: bool) -> String {
    let rng = &mut dice.rng;
    let has_avatar = rng.u8(..10) > 1;
    let mut user = Object::with_capacity(400).id("id", id).str("username", &names::username(rng));
    user = if bot {
        user.str("discriminator", &format!("{:04}", rng.u16(1..10_000))).null("global_name")
    } else {
        let global_name = (rng.u8(..4) > 0).then(|| names::display_name(rng));
        user.str("discriminator", "0").opt_str("global_name", global_name.as_deref())
    };
    let avatar = has_avatar.then(|| names::image_hash(rng));
    user = user.opt_str("avatar", avatar.as_deref()).int("public_flags", 1 << rng.u32(6..9));
    if bot {
        user = user.bool("bot", true);
    }
    let decoration = (rng.u8(..12) == 0).then(|| {
        Object::new()
            .id("sku_id", 1_144_058_844_004_233_369 + rng.u64(..50))
            .str("asset", &format!("a_{}", names::hex(rng, 32)))
            .null("expires_at")
            .finish()
    });
    let guild = (rng.u8(..20) == 0).then(|| {
        Object::new()
            .id("identity_guild_id", 1_234_647_491_267_808_778 + rng.u64(..100))
            .bool("identity_enabled", true)
            .str("tag", names::one_of(rng, &["DISC", "RUST", "CAFÉ", "猫", "GG"]))
            .str("badge", &names::hex(rng, 32))
            .finish()
    });
    let guild = guild.as_deref().unwrap_or("null");
    user.raw("avatar_decoration_data", decoration.as_deref().unwrap_or("null"))
        .null("collectibles")
        .null("display_name_styles")
        .raw("primary_guild", guild)
        .raw("clan", guild)
        .finish()
}

/// A member with these roles.
pub fn member(user: &str, roles: &[u64], joined_ms: u64, dice: &mut Dice) -> String {
    let rng = &mut dice.rng;
    let nick = (rng.u8(..5) == 0).then(|| names::display_name(rng));
    let avatar = (rng.u8(..40) == 0).then(|| names::image_hash(rng));
    let premium = (rng.u8(..30) == 0).then(|| iso8601(joined_ms + 86_400_000));
    let flags = u64::from(rng.u8(..4) == 0) * 2;
    Object::with_capacity(user.len() + 300)
        .raw("user", user)
        .opt_str("nick", nick.as_deref())
        .opt_str("avatar", avatar.as_deref())
        .null("banner")
        .raw("roles", &json::ids(roles.iter().copied()))
        .str("joined_at", &iso8601(joined_ms))
        .opt_str("premium_since", premium.as_deref())
        .bool("deaf", false)
        .bool("mute", false)
        .int("flags", flags)
        .bool("pending", false)
        .null("communication_disabled_until")
        .finish()
}

/// A presence in the form of GUILD_CREATE: `user` has only an id, and there is no `guild_id`.
pub fn presence(dice: &mut Dice, user: u64, status: &str) -> String {
    let activities = match dice.rng.u8(..20) {
        0..=5 => "[]".to_owned(),
        6..=9 => json::array([custom_status(dice)]),
        10..=12 => json::array([custom_status(dice), game(dice)]),
        13..=16 => json::array([game(dice)]),
        _ => json::array([song(dice)]),
    };
    let device = names::one_of(&mut dice.rng, &["desktop", "desktop", "mobile", "web"]);
    Object::with_capacity(activities.len() + 140)
        .raw("user", &Object::new().id("id", user).finish())
        .str("status", status)
        .raw("activities", &activities)
        .raw("client_status", &Object::new().str(device, status).finish())
        .finish()
}

/// The data of a PRESENCE_UPDATE for a user who goes offline.
pub fn offline(user: u64, guild: u64) -> String {
    Object::new()
        .raw("user", &Object::new().id("id", user).finish())
        .str("status", "offline")
        .raw("activities", "[]")
        .raw("client_status", "{}")
        .id("guild_id", guild)
        .finish()
}

fn custom_status(dice: &mut Dice) -> String {
    let rng = &mut dice.rng;
    let words = rng.usize(1..7);
    Object::new()
        .str("name", "Custom Status")
        .int("type", 4)
        .str("id", "custom")
        .str("state", &names::text(rng, words))
        .raw("emoji", &Object::new().str("name", names::emoji(rng)).finish())
        .int("created_at", clock::GENERATED_UNTIL_MS - rng.u64(..86_400_000))
        .finish()
}

fn game(dice: &mut Dice) -> String {
    let rng = &mut dice.rng;
    let start = clock::GENERATED_UNTIL_MS - rng.u64(..10_000_000);
    let mut game = Object::new()
        .str("name", names::game(rng))
        .int("type", 0)
        .str("id", &names::hex(rng, 16))
        .int("created_at", start)
        .raw("timestamps", &Object::new().int("start", start).finish())
        .id("application_id", 356_875_570_916_753_438 + rng.u64(..1_000));
    if rng.bool() {
        game = game
            .str("details", &names::text(rng, 3))
            .str("state", &names::text(rng, 2))
            .raw("party", &Object::new().str("id", &names::hex(rng, 24)).raw("size", "[2,5]").finish())
            .raw(
                "assets",
                &Object::new()
                    .str("large_image", &rng.u64(1 << 58..1 << 59).to_string())
                    .str("large_text", &names::text(rng, 2))
                    .finish(),
            );
    }
    game.finish()
}

fn song(dice: &mut Dice) -> String {
    let rng = &mut dice.rng;
    let start = clock::GENERATED_UNTIL_MS - rng.u64(..200_000);
    Object::new()
        .str("name", "Spotify")
        .int("type", 2)
        .str("id", "spotify:1")
        .str("details", names::song(rng))
        .str("state", &names::display_name(rng))
        .str("sync_id", &names::hex(rng, 22))
        .str("session_id", &names::hex(rng, 32))
        .int("flags", 48)
        .int("created_at", start)
        .raw("timestamps", &Object::new().int("start", start).int("end", start + 215_000).finish())
        .raw("party", &Object::new().str("id", "spotify:80351110224678912").finish())
        .raw(
            "assets",
            &Object::new()
                .str("large_image", &format!("spotify:{}", names::hex(rng, 40)))
                .str("large_text", names::song(rng))
                .finish(),
        )
        .finish()
}

/// The bot's user in the form that Discord sends to the bot itself.
pub fn current_user(id: u64) -> String {
    Object::new()
        .id("id", id)
        .str("username", "simulated-bot")
        .str("discriminator", "4242")
        .null("global_name")
        .str("avatar", "8342729096ea3675442027381ff50dfe")
        .bool("bot", true)
        .bool("mfa_enabled", true)
        .bool("verified", true)
        .null("email")
        .int("flags", 65_536)
        .int("public_flags", 65_536)
        .null("banner")
        .null("accent_color")
        .str("locale", "en-US")
        .null("avatar_decoration_data")
        .null("collectibles")
        .null("primary_guild")
        .null("clan")
        .finish()
}

/// The bot's user in the form that other users get.
pub fn bot_user(id: u64) -> String {
    Fields::parse(&current_user(id)).map_or_else(String::new, |user| {
        user.without("mfa_enabled")
            .without("verified")
            .without("email")
            .without("flags")
            .without("locale")
            .without("accent_color")
            .without("banner")
            .text()
    })
}

/// Whether the username, display name or nickname of a member starts with `query`, which has to be in lower case.
pub fn name_starts_with(member: &str, query: &str) -> bool {
    let starts = |json: Option<&str>| {
        json.and_then(|json| serde_json::from_str::<String>(json).ok())
            .is_some_and(|name| name.to_lowercase().starts_with(query))
    };
    let Some(member) = Fields::parse(member) else {
        return false;
    };
    if starts(member.get("nick")) {
        return true;
    }
    let Some(user) = member.get("user").and_then(Fields::parse) else {
        return false;
    };
    starts(user.get("username")) || starts(user.get("global_name"))
}
