//! The cache of a shard: the state of its guilds, complete enough to write, at any moment, the GUILD_CREATE that
//! Discord would send.
//!
//! *Lossless*: every entity comes back as the text that Discord sent, with the changes of later events. Keys that
//! nobody knows yet survive, numbers stay as they were written, and arrays keep their order. The cache knows only the
//! names of the arrays and where an entity has its id.
//!
//! *Small*: the [codec] packs entities into records, and a store holds the records of one array of a guild.
//!
//! | file | content |
//! |---|---|
//! | `events` | what each event changes |
//! | `guild`, `kind` | one guild and its entities |
//! | `role_removal` | taking deleted roles from members |
//! | `snapshot`, `frozen` | writing a guild as GUILD_CREATE |
//! | `members`, `membership` | answers to Request Guild Members |
//! | `packed` | guilds in state files |
//! | `codec`, `store` | packing and storing records |
//! | `sizes` | what each flag takes, as measured |
//!
//! Promises: no input makes the cache panic. An event that is malformed, or about something unknown, changes nothing
//! and is counted; of a malformed GUILD_MEMBERS_CHUNK the members before the malformed one are kept. With a
//! [flag](Flags) off, nothing is stored or parsed for it. A [`GuildSnapshot`] shows one moment, however long it takes to
//! write. The cache does no I/O, reads no clock, and knows neither clients nor logs.

pub mod codec;
mod events;
mod flags;
mod frozen;
mod guild;
mod kind;
mod members;
mod membership;
mod packed;
mod role_removal;
pub mod sizes;
mod snapshot;
mod store;
mod work;

#[cfg(test)]
mod tests;

pub use codec::TableSizes;
pub use flags::Flags;
pub use members::{LONGEST_NONCE, MemberAnswer, MemberRequest, Readiness, SavedAnswer};
pub use packed::Origin;
pub use snapshot::{GuildSnapshot, View};

use crate::protocol::{
    edit,
    event::EventKind,
    json::{self, Malformed},
    spelling,
};
use codec::{EncodeError, Encoder, SharedTables, Tables};
use guild::{Context, Guild};
use hashbrown::{HashMap, HashSet};
use kind::Kind;

/// Why an event changed nothing although its type can change the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// The data is malformed, in the way that the text says.
    #[error("{0}")]
    Malformed(&'static str),
    /// The data does not say which guild it is about.
    #[error("the event names no guild")]
    NoGuild,
    /// The cache does not have the guild, or the guild is unavailable.
    #[error("the guild is unknown or unavailable")]
    UnknownGuild,
    /// The event is about an entity that the cache does not have, or that has no id.
    #[error("the entity is unknown or has no id")]
    UnknownEntity,
}

impl From<EncodeError> for Ignored {
    fn from(error: EncodeError) -> Self {
        Self::Malformed(match error {
            EncodeError::NotPlain => spelling::NOT_PLAIN,
            EncodeError::Malformed(malformed) => malformed.what,
        })
    }
}

/// What an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The guild that the event is about.
    pub guild: Option<u64>,
    /// Whether snapshots of that guild that are taken from now on show everything that the event says.
    pub changed: bool,
    /// Why the event changed nothing; `None` when it did what it should.
    pub ignored: Option<Ignored>,
}

impl Outcome {
    fn changed(guild: u64) -> Self {
        Self { guild: Some(guild), changed: true, ignored: None }
    }

    fn unchanged(guild: Option<u64>) -> Self {
        Self { guild, changed: false, ignored: None }
    }

    fn ignored(guild: Option<u64>, why: Ignored) -> Self {
        Self { guild, changed: false, ignored: Some(why) }
    }
}

/// How much a cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Guilds, unavailable ones included.
    pub guilds: usize,
    /// Guilds that have an outage, or whose GUILD_CREATE has not come yet.
    pub unavailable_guilds: usize,
    /// Channels and threads.
    pub channels: usize,
    /// Members.
    pub members: usize,
    /// Presences.
    pub presences: usize,
    /// Roles.
    pub roles: usize,
    /// Emojis.
    pub emojis: usize,
    /// User objects that are stored with members. Each member has one.
    pub users: usize,
    /// Voice states.
    pub voice_states: usize,
    /// Events that were [ignored](Ignored) since the start.
    pub ignored_events: u64,
    /// How many of them were GUILD_CREATEs. Clients that identify later are not shown these guilds.
    pub refused_guilds: u64,
}

/// The cache of one shard. See the module's description.
pub struct Cache {
    flags: Flags,
    guilds: HashMap<u64, Guild>,
    /// Ids of all guilds in the order in which they came.
    order: Vec<u64>,
    /// The `user` of READY, with the changes of USER_UPDATEs.
    user: Option<Box<[u8]>>,
    /// The id of that user.
    user_id: Option<u64>,
    ignored_events: u64,
    refused_guilds: u64,
    tables: SharedTables,
    encoder: Encoder,
    scratch: Vec<u8>,
    /// Number of entities in all guilds, by [`Kind`].
    totals: [usize; Kind::COUNT],
}

impl Cache {
    /// An empty cache. It shares the codec's tables with all caches of the thread.
    pub fn new(flags: Flags) -> Self {
        Self {
            flags,
            guilds: HashMap::new(),
            order: Vec::new(),
            user: None,
            user_id: None,
            ignored_events: 0,
            refused_guilds: 0,
            tables: Tables::of_thread(),
            encoder: Encoder::new_strict(),
            scratch: Vec::new(),
            totals: [0; Kind::COUNT],
        }
    }

    /// The guilds, and what it takes to read and change one of them.
    fn split(&mut self) -> (&mut HashMap<u64, Guild>, Context<'_>) {
        let context = Context {
            flags: self.flags,
            user: self.user_id,
            tables: self.tables.borrow_mut(),
            encoder: &mut self.encoder,
            scratch: &mut self.scratch,
            totals: &mut self.totals,
        };
        (&mut self.guilds, context)
    }

    /// Applies the data of a READY: the shard has a new session. All guilds become unavailable until their GUILD_CREATE
    /// comes; what the cache knew may be out of date, and for a guild that has an outage by now no more events come.
    /// Guilds that READY does not name are removed, and their ids are returned.
    ///
    /// # Errors
    ///
    /// The data is not well-formed JSON. Guilds and their order have not changed then.
    pub fn ready(&mut self, data: &[u8]) -> Result<Vec<u64>, Malformed> {
        let mut named = Vec::new();
        let data = &*spelling::in_plain(data)?;
        if let Some(user) = json::get(data, "user") {
            self.user_id = json::get(user, "id").and_then(json::parse_id);
            self.user = Some(user.into());
        }
        for guild in json::elements(json::get(data, "guilds").unwrap_or(b"[]"))? {
            if let Some(id) = json::get(guild, "id").and_then(json::parse_id) {
                named.push(id);
            }
        }
        let keep: HashSet<u64> = named.iter().copied().collect();
        let removed: Vec<u64> = self.order.iter().copied().filter(|id| !keep.contains(id)).collect();
        self.order.retain(|id| keep.contains(id));
        self.guilds.clear();
        self.totals = [0; Kind::COUNT];
        let known: HashSet<u64> = self.order.iter().copied().collect();
        for id in named {
            if self.guilds.insert(id, Guild::unavailable()).is_none() && !known.contains(&id) {
                self.order.push(id);
            }
        }
        Ok(removed)
    }

    /// Applies a dispatch of type `event`. `data` is its `d`, JSON in any spelling. READY is applied by [`Cache::ready`]
    /// instead. An event that the cache does not [want](Cache::wants) changes nothing and is not counted.
    pub fn apply(&mut self, event: EventKind, data: &[u8]) -> Outcome {
        let outcome = self.apply_in_any_spelling(event, data).unwrap_or_else(|error| {
            let key = if event == EventKind::GuildCreate { "id" } else { "guild_id" };
            Outcome::ignored(edit::id_at(data, &[key]), error.into())
        });
        self.ignored_events += u64::from(outcome.ignored.is_some());
        self.refused_guilds += u64::from(outcome.ignored.is_some() && event == EventKind::GuildCreate);
        outcome
    }

    /// Applies an event, and brings its data into plain spelling first if that is necessary. The cache stores only
    /// plain spelling, which is what Discord writes.
    ///
    /// For frequent and large events the spelling is not checked in advance. They are applied as they are, and the
    /// strict encoder notices an object that is not in plain spelling. Then the whole event is applied again in plain
    /// spelling. For these events it makes no difference that a part of the event has been applied before.
    fn apply_in_any_spelling(&mut self, event: EventKind, data: &[u8]) -> Result<Outcome, EncodeError> {
        if !self.wants(event) {
            return Ok(Outcome::unchanged(None));
        }
        if events::can_skip_spelling_check(event) && !spelling::has_needless_escape(data) {
            match events::apply(self, event, data) {
                Err(EncodeError::NotPlain) => {}
                result => return result,
            }
        }
        let plain = spelling::in_plain(data)?;
        self.encoder.strict = false;
        let result = events::apply(self, event, &plain);
        self.encoder.strict = true;
        result
    }

    /// Whether an event of this type can change anything that is cached.
    pub fn wants(&self, event: EventKind) -> bool {
        events::wants(&self.flags, event)
    }

    /// The ids of all guilds, in the order in which they came, and whether each guild is available.
    pub fn guilds(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        self.order.iter().filter_map(|id| self.guilds.get(id).map(|guild| (*id, guild.is_available())))
    }

    /// The number of guilds, unavailable ones included.
    pub fn guild_count(&self) -> usize {
        self.guilds.len()
    }

    /// A snapshot of a guild as it is now; `None` when the cache does not have the guild.
    pub fn snapshot(&self, guild: u64, view: View) -> Option<GuildSnapshot> {
        self.guilds.get(&guild).map(|guild| GuildSnapshot::new(guild, &self.tables, view, &self.flags, self.user_id))
    }

    /// The bot's own user as JSON text, from READY and USER_UPDATEs.
    pub fn user(&self) -> Option<&[u8]> {
        self.user.as_deref()
    }

    /// How much the cache holds.
    pub fn counts(&self) -> Counts {
        let total = |kind: Kind| self.totals[kind as usize];
        Counts {
            guilds: self.guilds.len(),
            unavailable_guilds: self.guilds.values().filter(|guild| !guild.is_available()).count(),
            channels: total(Kind::Channels) + total(Kind::Threads),
            members: total(Kind::Members),
            presences: total(Kind::Presences),
            roles: total(Kind::Roles),
            emojis: total(Kind::Emojis),
            users: total(Kind::Members),
            voice_states: total(Kind::VoiceStates),
            ignored_events: self.ignored_events,
            refused_guilds: self.refused_guilds,
        }
    }

    /// Bytes on the heap, without the tables that all caches of the thread share.
    pub fn heap(&self) -> usize {
        let guilds: usize = self.guilds.values().map(Guild::heap).sum();
        let slots = self.guilds.capacity().saturating_sub(self.guilds.len()) * size_of::<(u64, Guild)>();
        guilds + slots + self.order.capacity() * size_of::<u64>() + self.user.as_ref().map_or(0, |user| user.len())
    }

    /// How full the tables are that all caches of the thread share.
    pub fn tables(&self) -> TableSizes {
        self.tables.borrow().sizes()
    }

    /// Adds a guild, or replaces the one with this id. The totals have the new guild's entities already.
    fn insert(&mut self, id: u64, guild: Guild) {
        match self.guilds.insert(id, guild) {
            Some(old) => old.uncount(&mut self.totals),
            None => self.order.push(id),
        }
    }

    /// Notes the outage of a guild.
    fn guild_is_down(&mut self, id: u64) {
        if !self.guilds.contains_key(&id) {
            self.insert(id, Guild::unavailable());
        }
        if let Some(guild) = self.guilds.get_mut(&id) {
            guild.go_down(&mut self.totals);
        }
    }

    fn remove(&mut self, id: u64) {
        self.order.retain(|other| *other != id);
        if let Some(guild) = self.guilds.remove(&id) {
            guild.uncount(&mut self.totals);
        }
    }
}
