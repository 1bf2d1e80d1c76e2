//! The world: guilds and everything in them, as Discord holds it. Tests compare a client's state with it.
//!
//! Owns the state and the seeded generator; a seed gives the same world each time. Each entity is kept as its text in
//! GUILD_CREATE, so that hundreds of thousands of members fit into memory and a snapshot only joins texts. The world
//! knows neither sessions nor sockets: changes come out as [`Event`]s.

mod chatter;
pub mod clock;
mod entities;
mod generate;
pub mod json;
mod mix;
mod mutate;
mod names;
mod people;
mod table;
mod threads;
mod voice;

#[cfg(test)]
mod tests;

pub use generate::Settings;
pub use mix::{Wish, known as known_event};

use fastrand::Rng;
use json::Object;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use table::Table;

/// Which parts of a guild a session gets in GUILD_CREATE.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The session has the intent GUILD_PRESENCES. Without it GUILD_CREATE has no presences, and lists only the bot and
    /// members in a voice channel.
    pub presences: bool,
    /// A guild with more members than this lists only the bot and members who are online or in a voice channel.
    pub large_threshold: u64,
}

/// An event, for the sessions of the guild's shard.
#[derive(Debug)]
pub struct Event {
    /// The event type, `t`.
    pub name: &'static str,
    /// Id of the guild.
    pub guild: u64,
    /// The data, `d`.
    pub body: Body,
}

/// The data of an event.
#[derive(Debug)]
pub enum Body {
    /// The same text for all sessions.
    Json {
        /// The complete data.
        text: String,
        /// Position of the value of `content` in a message. Sessions without the intent MESSAGE_CONTENT get an empty
        /// value.
        content: Option<Range<usize>>,
        /// Whether the message has a number of its shard. Such a message must not be left out.
        numbered: bool,
    },
    /// A GUILD_CREATE, which is written for each session by its intents.
    Guild {
        /// Whether the bot has just been added to the guild. Then the key `unavailable` is absent.
        joined: bool,
    },
}

impl Event {
    fn json(name: &'static str, guild: u64, text: String) -> Self {
        let body = Body::Json { text, content: None, numbered: false };
        Self { name, guild, body }
    }
}

/// The source of random numbers and of new snowflakes.
pub struct Dice {
    rng: Rng,
    last_id: u64,
    bot: u64,
    application: u64,
}

impl Dice {
    fn new(seed: u64, bot: u64, application: u64) -> Self {
        Self { rng: Rng::with_seed(seed), last_id: 0, bot, application }
    }

    /// A snowflake with a random time between `from_ms` (milliseconds since 1970) and the end of the generated past.
    fn past_id(&mut self, from_ms: u64) -> u64 {
        let until = clock::GENERATED_UNTIL_MS.max(from_ms + 1);
        let at = self.rng.u64(from_ms..until);
        ((at - clock::DISCORD_EPOCH_MS) << 22) | self.rng.u64(..1 << 22)
    }

    /// A snowflake with the current time, larger than all earlier ones.
    fn live_id(&mut self) -> u64 {
        let now = (clock::unix_ms().saturating_sub(clock::DISCORD_EPOCH_MS)) << 22;
        self.last_id = now.max(self.last_id + 1);
        self.last_id
    }

    /// True with probability 1/`n`.
    fn one_in(&mut self, n: u32) -> bool {
        self.rng.u32(..n) == 0
    }
}

/// A guild. Each table holds the entities of one array of GUILD_CREATE, ordered by id.
pub struct Guild {
    id: u64,
    /// False during an outage. Then the guild does not change, and clients are told that it is unavailable.
    available: bool,
    /// Time at which the guild was created, in milliseconds since 1970.
    created_ms: u64,
    owner: u64,
    /// The guild's own fields, without the arrays. GUILD_UPDATE has them too.
    base: String,
    joined_at: String,
    roles: Table,
    emojis: Table,
    stickers: Table,
    channels: Table,
    threads: Table,
    members: Table,
    presences: Table,
    voice_states: Table,
    stage_instances: Table,
    scheduled_events: Table,
    sounds: Table,
    /// Channels that messages are sent to, with the id of the newest message. They are kept outside the channels' texts
    /// because the id changes with each message.
    last_messages: BTreeMap<u64, u64>,
    /// Voice channels that users join.
    voice_channels: Vec<u64>,
    /// Status and start time of voice channels. GUILD_CREATE does not have them.
    voice_status: BTreeMap<u64, String>,
    /// Roles that no member has. Deleting one changes no member.
    loose_roles: Vec<u64>,
    /// Channels that no other entity refers to. They may be deleted.
    loose_channels: Vec<u64>,
}

impl Guild {
    /// Id and text of a random member other than the bot.
    fn random_member(&self, dice: &mut Dice) -> Option<(u64, &str)> {
        (0..4).find_map(|_| self.members.pick(&mut dice.rng).filter(|(user, _)| *user != dice.bot))
    }

    /// The guild's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the guild is available, that is, not in an outage.
    pub fn available(&self) -> bool {
        self.available
    }

    /// Number of members, the bot included.
    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// The data of GUILD_CREATE. `unavailable` is absent when the bot has just been added (`joined`). Without a view it
    /// lists all members and presences.
    pub fn create(&self, view: Option<View>, joined: bool, bot: u64) -> String {
        let large_threshold = view.map_or(generate::DEFAULT_LARGE_THRESHOLD, |v| v.large_threshold);
        let large = self.members.len() as u64 > large_threshold;
        let presences = view.is_none_or(|view| view.presences);
        let everybody = view.is_none() || (presences && !large);
        let expected = self.channels.bytes()
            + self.roles.bytes()
            + self.threads.bytes()
            + self.emojis.bytes()
            + 8192
            + if everybody { self.members.bytes() } else { 0 }
            + if presences { self.presences.bytes() } else { 0 };
        let mut out = Object::with_capacity(expected)
            .spread(&self.base)
            .str("joined_at", &self.joined_at)
            .bool("large", large)
            .bool("lazy", true);
        if !joined {
            out = out.bool("unavailable", false);
        }
        out = out
            .int("member_count", self.members.len() as u64)
            .raw("application_command_counts", r#"{"1":12,"2":1,"3":2}"#)
            .raw("embedded_activities", "[]")
            .raw("activity_instances", "[]")
            .raw("roles", &self.roles.array())
            .raw("emojis", &self.emojis.array())
            .raw("stickers", &self.stickers.array())
            .raw("channels", &self.channels_array())
            .raw("threads", &self.threads.array())
            .raw("voice_states", &self.voice_states.array())
            .raw("stage_instances", &self.stage_instances.array())
            .raw("guild_scheduled_events", &self.scheduled_events.array())
            .raw("soundboard_sounds", &self.sounds.array());
        let members = if everybody {
            self.members.array()
        } else {
            self.members.array_where(|id| {
                id == bot || self.voice_states.contains(id) || (presences && self.presences.contains(id))
            })
        };
        let presences = if presences { self.presences.array() } else { "[]".to_owned() };
        out.raw("members", &members).raw("presences", &presences).finish()
    }

    /// The data of GUILD_UPDATE. It has no members, channels, presences and so on.
    fn update(&self) -> String {
        Object::with_capacity(self.base.len() + self.roles.bytes() + self.emojis.bytes() + 64)
            .spread(&self.base)
            .raw("roles", &self.roles.array())
            .raw("emojis", &self.emojis.array())
            .raw("stickers", &self.stickers.array())
            .finish()
    }

    fn channels_array(&self) -> String {
        json::array(self.channels.ids().filter_map(|id| self.channel(id)))
    }

    /// The text of a channel, with the id of its newest message.
    fn channel(&self, id: u64) -> Option<String> {
        let text = self.channels.get(id)?;
        Some(match self.last_messages.get(&id) {
            Some(0) | None => text.to_owned(),
            Some(message) => json::with_field(text, "last_message_id", &format!("\"{message}\"")),
        })
    }

    /// Ids of the members whose names begin with `query`, at most `limit` of them; 0 is no limit.
    pub fn search(&self, query: &str, limit: usize) -> Vec<u64> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        if query.is_empty() {
            return self.members.ids().take(limit).collect();
        }
        let query = query.to_lowercase();
        self.members
            .iter()
            .filter(|(_, member)| people::name_starts_with(member, &query))
            .map(|(id, _)| id)
            .take(limit)
            .collect()
    }

    /// The text of a member.
    pub fn member(&self, user: u64) -> Option<&str> {
        self.members.get(user)
    }

    /// The text of a presence.
    pub fn presence(&self, user: u64) -> Option<&str> {
        self.presences.get(user)
    }

    /// The soundboard sounds as JSON array.
    pub fn sounds(&self) -> String {
        self.sounds.array()
    }
}

/// The most numbered messages of a shard whose guilds are kept.
const MAX_MESSAGES: usize = 1 << 16;

/// The guilds of one shard.
#[derive(Default)]
struct ShardGuilds {
    /// The ids, ordered.
    ids: Vec<u64>,
    /// Running sums of the guilds' weights, by which busy guilds are picked more often. Rebuilt when a guild is added
    /// or removed.
    weights: Vec<u64>,
    /// Number of the newest numbered message.
    last_number: u64,
    /// The guilds of the newest numbered messages, at most [`MAX_MESSAGES`], the oldest first.
    message_guilds: VecDeque<u64>,
    /// The guild whose outage the traffic started, and the number of changes until the outage ends.
    down: Option<(u64, u32)>,
}

/// All guilds, by shard.
pub struct World {
    settings: Settings,
    guilds: BTreeMap<u64, Guild>,
    shards: Vec<ShardGuilds>,
    dice: Dice,
}

impl World {
    /// The bot's user id.
    pub fn bot(&self) -> u64 {
        self.dice.bot
    }

    /// The bot's application id.
    pub fn application(&self) -> u64 {
        self.dice.application
    }

    /// The bot as the current user: `user` of READY, and the response of `GET /users/@me`.
    pub fn current_user(&self) -> String {
        people::current_user(self.dice.bot)
    }

    /// The shard that a guild belongs to (Gateway: "Sharding").
    pub fn shard_of(&self, guild: u64) -> usize {
        shard_of(guild, self.shards.len())
    }

    /// The guild with this id.
    pub fn guild(&self, id: u64) -> Option<&Guild> {
        self.guilds.get(&id)
    }

    /// The guilds of a shard, ordered by id.
    pub fn guilds_of(&self, shard: usize) -> impl Iterator<Item = &Guild> {
        self.shards.get(shard).into_iter().flat_map(|shard| &shard.ids).filter_map(|id| self.guilds.get(id))
    }

    /// The number of the newest numbered message of a shard.
    pub fn last_number(&self, shard: usize) -> u64 {
        self.shards.get(shard).map_or(0, |shard| shard.last_number)
    }

    /// The guild of a shard's numbered message; `None` if there was no such message, or [`MAX_MESSAGES`] came after it.
    pub fn guild_of_message(&self, shard: usize, number: u64) -> Option<u64> {
        let shard = self.shards.get(shard)?;
        let after = usize::try_from(shard.last_number.checked_sub(number)?).ok()?;
        shard.message_guilds.iter().rev().nth(after).copied()
    }

    fn reindex(&mut self, shard: usize) {
        let Some(entry) = self.shards.get_mut(shard) else {
            return;
        };
        entry.ids = self.guilds.keys().copied().filter(|id| shard_of(*id, self.settings.shards) == shard).collect();
        let mut sum = 0;
        entry.weights = entry
            .ids
            .iter()
            .map(|id| {
                // The constant gives small guilds a share. Large guilds are busier, but less than in proportion to
                // their size.
                sum += 10 + self.guilds[id].members.len() as u64 / 2;
                sum
            })
            .collect();
    }

    /// A random available guild of a shard, chosen by weight.
    fn pick(&mut self, shard: usize) -> Option<u64> {
        let entry = self.shards.get(shard)?;
        let total = *entry.weights.last()?;
        for _ in 0..8 {
            let point = self.dice.rng.u64(..total);
            let id = entry.ids[entry.weights.partition_point(|sum| *sum <= point)];
            if self.guilds.get(&id).is_some_and(|guild| guild.available) {
                return Some(id);
            }
        }
        entry.ids.iter().copied().find(|id| self.guilds.get(id).is_some_and(|guild| guild.available))
    }
}

/// The shard of a guild, by the documented formula.
pub fn shard_of(guild: u64, shards: usize) -> usize {
    usize::try_from((guild >> 22) % shards as u64).unwrap_or(0)
}
