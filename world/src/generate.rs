//! Generates a world from a seed.
//!
//! Each guild has its own generator, seeded from the world's seed and the guild's number, so guilds do not depend on
//! each other. Sizes are heavy-tailed: the median is well below the mean, and the largest guilds have a hundred times
//! the mean. They add up to exactly `guilds × members`.

use super::entities::{self, kind};
use super::table::Table;
use super::{Dice, Guild, ShardGuilds, World, names, people};
use crate::clock::{self, iso8601};
use crate::json::{self, Object};
use std::collections::BTreeMap;

/// `large_threshold` of a snapshot that is not for a session, and the highest value that a session may ask for.
pub const DEFAULT_LARGE_THRESHOLD: u64 = 250;

/// Minimum number of members of a guild: the owner, the bot and one further user.
const FEWEST_MEMBERS: u64 = 3;

/// 2016-01-01 in milliseconds since 1970: the creation time of the oldest guilds and users.
const OLDEST_MS: u64 = 1_451_606_400_000;

/// Milliseconds of one day.
const DAY_MS: u64 = 86_400_000;

const FEATURES: &[&str] = &[
    "COMMUNITY",
    "NEWS",
    "SOUNDBOARD",
    "INVITE_SPLASH",
    "ANIMATED_ICON",
    "BANNER",
    "ROLE_ICONS",
    "DISCOVERABLE",
    "AUTO_MODERATION",
    "TIERLESS_BOOSTING_CLIENT_PREVIEW",
    "ENHANCED_ROLE_COLORS",
    "GUESTS_ENABLED",
];

/// The settings of a generated world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The seed, from which everything else follows.
    pub seed: u64,
    /// Number of shards.
    pub shards: usize,
    /// Number of guilds, spread evenly over the shards.
    pub guilds: usize,
    /// Mean number of members of a guild.
    pub members: u64,
    /// Share of the members with a presence, 0 to 1.
    pub presences: f64,
    /// Mean number of channels of a guild.
    pub channels: u64,
    /// Mean number of roles.
    pub roles: u64,
    /// Mean number of custom emojis.
    pub emojis: u64,
}

impl World {
    /// Generates the world with these settings.
    pub fn generate(settings: Settings) -> Self {
        let mut dice = Dice::new(settings.seed, 0, 0);
        dice.bot = dice.past_id(1_600_000_000_000);
        dice.application = dice.bot;
        let (bot, application) = (dice.bot, dice.application);
        let sizes = sizes(&mut dice.rng, settings.guilds, settings.members);
        let shards = settings.shards.max(1);
        let mut guilds = BTreeMap::new();
        for (number, size) in sizes.into_iter().enumerate() {
            let mut dice = Dice::new(mix_seed(settings.seed, number as u64), bot, application);
            let guild = guild(&settings, &mut dice, number % shards, size);
            guilds.insert(guild.id, guild);
        }
        let mut world = Self {
            shards: std::iter::repeat_with(ShardGuilds::default).take(shards).collect(),
            guilds,
            dice,
            settings,
        };
        for shard in 0..shards {
            world.reindex(shard);
        }
        world
    }

    /// Generates a guild that the bot joins now. Returns its id.
    pub(super) fn new_guild(&mut self, shard: usize) -> u64 {
        let seed = self.dice.rng.u64(..);
        let mut dice = Dice::new(seed, self.dice.bot, self.dice.application);
        let size = dice.rng.u64(FEWEST_MEMBERS..self.settings.members.max(FEWEST_MEMBERS) + 2);
        let mut guild = guild(&self.settings, &mut dice, shard, size);
        guild.joined_at = iso8601(clock::unix_ms());
        let id = guild.id;
        self.guilds.insert(id, guild);
        self.reindex(shard);
        id
    }
}

/// Spreads neighbouring numbers over the whole range (SplitMix64).
fn mix_seed(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A standard normal deviate (Box and Muller).
fn normal(rng: &mut fastrand::Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.f64()).cos()
}

/// The number of members of each guild: lognormal with a few very large guilds. The sum is `guilds × mean`.
#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn sizes(rng: &mut fastrand::Rng, guilds: usize, mean: u64) -> Vec<u64> {
    let raw: Vec<f64> = (0..guilds)
        .map(|_| {
            let giant = if rng.u32(..400) == 0 { 20.0 + rng.f64() * 100.0 } else { 1.0 };
            (normal(rng) * 1.2).exp() * giant
        })
        .collect();
    let mean = mean.max(FEWEST_MEMBERS);
    let spare = guilds as u64 * (mean - FEWEST_MEMBERS);
    let sum: f64 = raw.iter().sum();
    let mut sizes: Vec<u64> = raw.iter().map(|weight| FEWEST_MEMBERS + (weight / sum * spare as f64) as u64).collect();
    // The members that rounding down has left over.
    let missing = guilds as u64 * mean - sizes.iter().sum::<u64>();
    for at in 0..usize::try_from(missing).unwrap_or(0) {
        sizes[at % guilds] += 1;
    }
    sizes
}

/// A random number around `mean`, at least `least`.
fn about(dice: &mut Dice, mean: u64, least: u64) -> u64 {
    if mean == 0 {
        return least;
    }
    dice.rng.u64(mean / 2..=mean + mean / 2).max(least)
}

fn guild(settings: &Settings, dice: &mut Dice, shard: usize, size: u64) -> Guild {
    let shards = settings.shards.max(1) as u64;
    let created = dice.rng.u64(OLDEST_MS..clock::GENERATED_UNTIL_MS - 30 * DAY_MS);
    // The shard depends on the timestamp modulo the number of shards. The guild's time is moved by a few milliseconds
    // so that it belongs to the wanted shard.
    let since_epoch = created - clock::DISCORD_EPOCH_MS;
    let since_epoch = since_epoch - since_epoch % shards + shard as u64;
    let id = (since_epoch << 22) | dice.rng.u64(..1 << 22);
    let mut guild = Guild {
        id,
        available: true,
        created_ms: created + shards,
        owner: 0,
        base: String::new(),
        joined_at: iso8601(dice.rng.u64(created + DAY_MS..clock::GENERATED_UNTIL_MS)),
        roles: Table::default(),
        emojis: Table::default(),
        stickers: Table::default(),
        channels: Table::default(),
        threads: Table::default(),
        members: Table::default(),
        presences: Table::default(),
        voice_states: Table::default(),
        stage_instances: Table::default(),
        scheduled_events: Table::default(),
        sounds: Table::default(),
        last_messages: BTreeMap::new(),
        voice_channels: Vec::new(),
        voice_status: BTreeMap::new(),
        loose_roles: Vec::new(),
        loose_channels: Vec::new(),
    };
    let roles = add_roles(settings, dice, &mut guild);
    add_members(settings, dice, &mut guild, size, &roles);
    let stages = add_channels(settings, dice, &mut guild, &roles);
    add_threads(dice, &mut guild);
    add_expressions(settings, dice, &mut guild, &roles);
    add_happenings(dice, &mut guild, &stages);
    guild.base = base(dice, &guild);
    guild
}

fn add_roles(settings: &Settings, dice: &mut Dice, guild: &mut Guild) -> Vec<u64> {
    let everyone = entities::role(dice, guild.id, true, 0, None);
    guild.roles.set(guild.id, everyone);
    let mut roles = Vec::new();
    for position in 1..about(dice, settings.roles, 2) {
        let id = dice.past_id(guild.created_ms);
        let bot = (position == 1).then_some(dice.bot);
        let text = entities::role(dice, id, false, position, bot);
        guild.roles.set(id, text);
        if bot.is_none() {
            roles.push(id);
        }
    }
    roles
}

fn add_members(settings: &Settings, dice: &mut Dice, guild: &mut Guild, size: u64, roles: &[u64]) {
    let capacity = usize::try_from(size).unwrap_or(0);
    let mut members: Vec<(u64, Box<str>)> = Vec::with_capacity(capacity);
    let mut presences: Vec<(u64, Box<str>)> = Vec::new();
    let bot = people::bot_user(dice.bot);
    let text = people::member(&bot, &[], guild.created_ms + DAY_MS, dice);
    members.push((dice.bot, text.into()));
    while members.len() < capacity {
        let user = dice.past_id(OLDEST_MS);
        let text = new_member(dice, user, guild.created_ms, roles);
        members.push((user, text.into()));
        if guild.owner == 0 {
            guild.owner = user;
        }
        if dice.rng.f64() < settings.presences {
            let status = names::one_of(&mut dice.rng, people::STATUSES);
            presences.push((user, people::presence(dice, user, status).into()));
        }
    }
    guild.members = Table::from_rows(members);
    guild.presences = Table::from_rows(presences);
}

/// A member with a new user and some of the guild's roles.
fn new_member(dice: &mut Dice, user: u64, created_ms: u64, roles: &[u64]) -> String {
    let is_bot = dice.one_in(30);
    let profile = people::user(dice, user, is_bot);
    let from = created_ms.max(clock::created_ms(user));
    let joined = dice.rng.u64(from..clock::GENERATED_UNTIL_MS.max(from + 1));
    let mut mine = Vec::new();
    if !roles.is_empty() {
        for _ in 0..dice.rng.usize(..4) {
            let role = roles[dice.rng.usize(..roles.len())];
            if !mine.contains(&role) {
                mine.push(role);
            }
        }
    }
    people::member(&profile, &mine, joined, dice)
}

fn add_channels(settings: &Settings, dice: &mut Dice, guild: &mut Guild, roles: &[u64]) -> Vec<u64> {
    let mut category = None;
    let mut stages = Vec::new();
    let count = about(dice, settings.channels, 3);
    for position in 0..count {
        let kind = match position {
            0 => kind::TEXT,
            1 => kind::VOICE,
            _ => match dice.rng.u8(..40) {
                0..=4 => kind::CATEGORY,
                5..=11 => kind::VOICE,
                12..=13 => kind::ANNOUNCEMENT,
                14 => kind::STAGE,
                15..=16 => kind::FORUM,
                _ => kind::TEXT,
            },
        };
        let id = dice.past_id(guild.created_ms);
        let parent = if kind == kind::CATEGORY { None } else { category };
        let text = entities::channel(dice, id, kind, position, parent, roles);
        guild.channels.set(id, text);
        match kind {
            kind::CATEGORY => category = Some(id),
            kind::VOICE => guild.voice_channels.push(id),
            kind::STAGE => stages.push(id),
            kind::TEXT | kind::ANNOUNCEMENT => {
                guild.last_messages.insert(id, 0);
            }
            _ => {}
        }
    }
    stages
}

fn add_threads(dice: &mut Dice, guild: &mut Guild) {
    let parents: Vec<u64> = guild.last_messages.keys().copied().collect();
    for _ in 0..dice.rng.usize(..6) {
        let parent = parents[dice.rng.usize(..parents.len())];
        let id = dice.past_id(guild.created_ms);
        let owner = any_member(dice, guild);
        let kind = if dice.one_in(5) { kind::PRIVATE_THREAD } else { kind::PUBLIC_THREAD };
        let text = entities::thread(dice, id, kind, guild.id, parent, owner);
        guild.threads.set(id, text);
    }
}

fn add_expressions(settings: &Settings, dice: &mut Dice, guild: &mut Guild, roles: &[u64]) {
    let emojis = if settings.emojis == 0 { 0 } else { about(dice, settings.emojis, 1) };
    for _ in 0..emojis {
        let id = dice.past_id(guild.created_ms);
        let exclusive = if dice.one_in(12) { roles.get(..1).unwrap_or(&[]) } else { &[] };
        let text = entities::emoji(dice, id, exclusive);
        guild.emojis.set(id, text);
    }
    for _ in 0..dice.rng.usize(..4) {
        let id = dice.past_id(guild.created_ms);
        let text = entities::sticker(dice, id, guild.id);
        guild.stickers.set(id, text);
    }
    for _ in 0..dice.rng.usize(..4) {
        let id = dice.past_id(guild.created_ms);
        let text = entities::sound(dice, id, guild.id);
        guild.sounds.set(id, text);
    }
}

fn add_happenings(dice: &mut Dice, guild: &mut Guild, stages: &[u64]) {
    let in_voice = (guild.members.len() / 40 + 1).min(60);
    for _ in 0..in_voice {
        let user = any_member(dice, guild);
        let channel = guild.voice_channels[dice.rng.usize(..guild.voice_channels.len())];
        if user != dice.bot {
            let session = names::hex(&mut dice.rng, 32);
            let text = entities::voice_state(dice, user, channel, &session);
            guild.voice_states.set(user, text);
        }
    }
    for channel in stages.iter().copied().take(1) {
        let id = dice.past_id(guild.created_ms);
        let text = entities::stage_instance(dice, id, guild.id, channel);
        guild.stage_instances.set(id, text);
    }
    for at in 0..dice.rng.usize(..3) {
        let id = dice.past_id(guild.created_ms);
        let channel = if at == 0 { guild.voice_channels.first().copied() } else { None };
        let text = entities::scheduled_event(dice, id, guild.id, guild.owner, channel);
        guild.scheduled_events.set(id, text);
    }
}

fn any_member(dice: &mut Dice, guild: &Guild) -> u64 {
    guild.members.pick(&mut dice.rng).map_or(guild.owner, |(user, _)| user)
}

/// The guild's own fields (Guild: "Guild Structure"), including some that Discord sends but does not document.
fn base(dice: &mut Dice, guild: &Guild) -> String {
    let text_channel = guild.last_messages.keys().next().copied();
    let rng = &mut dice.rng;
    let mut features: Vec<String> =
        FEATURES.iter().filter(|_| rng.bool()).map(|feature| json::string(feature)).collect();
    features.dedup();
    let community = rng.bool();
    let optional = |rng: &mut fastrand::Rng| (rng.u8(..3) == 0).then(|| names::image_hash(rng));
    let (icon, splash, banner) = (optional(rng), optional(rng), optional(rng));
    let words = rng.usize(3..20);
    let description = community.then(|| names::text(rng, words));
    let vanity = (rng.u8(..10) == 0).then(|| names::username(rng));
    let nsfw = rng.u8(..25) == 0;
    Object::with_capacity(2_000)
        .id("id", guild.id)
        .str("name", &names::guild(rng))
        .opt_str("icon", icon.as_deref())
        .opt_str("description", description.as_deref())
        .null("home_header")
        .opt_str("splash", splash.as_deref())
        .null("discovery_splash")
        .raw("features", &json::array(features))
        .opt_str("banner", banner.as_deref())
        .id("owner_id", guild.owner)
        .null("application_id")
        .str("region", "us-west")
        .opt_id("afk_channel_id", guild.voice_channels.first().copied())
        .int("afk_timeout", 300)
        .opt_id("system_channel_id", text_channel)
        .int("system_channel_flags", rng.u64(..16))
        .bool("widget_enabled", rng.bool())
        .opt_id("widget_channel_id", text_channel)
        .int("verification_level", rng.u64(..5))
        .int("default_message_notifications", rng.u64(..2))
        .int("mfa_level", rng.u64(..2))
        .int("explicit_content_filter", rng.u64(..3))
        .null("max_presences")
        .int("max_members", 25_000_000)
        .int("max_stage_video_channel_users", 50)
        .int("max_video_channel_users", 25)
        .opt_str("vanity_url_code", vanity.as_deref())
        .int("premium_tier", rng.u64(..4))
        .int("premium_subscription_count", rng.u64(..30))
        .str("preferred_locale", names::one_of(rng, &["en-US", "de", "pl", "ja", "pt-BR"]))
        .opt_id("rules_channel_id", text_channel.filter(|_| community))
        .opt_id("safety_alerts_channel_id", None)
        .opt_id("public_updates_channel_id", text_channel.filter(|_| community))
        .null("hub_type")
        .bool("premium_progress_bar_enabled", rng.bool())
        .null("premium_progress_bar_enabled_user_updated_at")
        .null("latest_onboarding_question_id")
        .bool("nsfw", nsfw)
        .int("nsfw_level", u64::from(nsfw) * 3)
        .null("incidents_data")
        .null("inventory_settings")
        .int("owner_configured_content_level", 5)
        .raw(
            "premium_features",
            r#"{"features":[],"additional_emoji_slots":0,"additional_sticker_slots":0,"additional_sound_slots":0}"#,
        )
        .raw("profile", r#"{"tag":null,"badge":null}"#)
        .raw("moderator_reporting", r#"{"moderator_reporting_enabled":false,"moderator_report_channel_id":null}"#)
        .int("version", clock::GENERATED_UNTIL_MS - rng.u64(..1 << 32))
        .finish()
}
