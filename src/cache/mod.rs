//! What a shard knows of its guilds: enough to say, at any moment, the GUILD_CREATE that Discord would send.
//!
//! Lossless: entities are kept as the text that Discord sent, with the changes of later events spliced in key by key, so
//! keys that nobody knows yet survive, numbers stay as they were written and arrays keep their order. There is no schema
//! beyond the names of the arrays and of the ids of what is in them.
//!
//! Promises: no input makes it panic; an event that is malformed or about something unknown changes nothing and is
//! counted; with a [flag](Flags) off, nothing is stored or parsed for it; a [`GuildSnapshot`] shows one moment, however
//! long it takes to write. Never: does I/O, looks at a clock, knows clients or logs.

mod events;
mod flags;
mod guild;
mod list;
mod members;
mod snapshot;

#[cfg(test)]
mod tests;

use crate::protocol::json::{self, Malformed};
pub use flags::Flags;
use guild::Guild;
use hashbrown::HashMap;
pub use members::{CHUNK, MemberAnswer, MemberRequest};
pub use snapshot::{GuildSnapshot, View};

/// What an event did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The guild that it is about.
    pub guild: Option<u64>,
    /// A snapshot of that guild taken from now on contains it.
    pub changed: bool,
    /// Why it changed nothing though it should have.
    pub ignored: Option<&'static str>,
}

impl Outcome {
    fn changed(guild: u64) -> Self {
        Self { guild: Some(guild), changed: true, ignored: None }
    }

    fn unchanged(guild: Option<u64>) -> Self {
        Self { guild, changed: false, ignored: None }
    }

    fn ignored(guild: Option<u64>, why: &'static str) -> Self {
        Self { guild, changed: false, ignored: Some(why) }
    }
}

/// How much is cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Guilds, including those that are down.
    pub guilds: usize,
    /// Guilds that are down or have not been sent yet.
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
    /// User objects kept with members.
    pub users: usize,
    /// Voice states.
    pub voice_states: usize,
    /// Events that changed nothing, because they were malformed or about something unknown.
    pub ignored_events: u64,
}

/// See the module's description.
pub struct Cache {
    flags: Flags,
    guilds: HashMap<u64, Guild>,
    /// Ids of all guilds in the order in which they came.
    order: Vec<u64>,
    /// READY's `user`, kept current.
    user: Option<Box<[u8]>>,
    /// The id in it.
    user_id: Option<u64>,
    ignored_events: u64,
}

impl Cache {
    /// An empty cache.
    pub fn new(flags: Flags) -> Self {
        Self { flags, guilds: HashMap::new(), order: Vec::new(), user: None, user_id: None, ignored_events: 0 }
    }

    /// A new upstream session: its READY. Guilds that are known stay as they are until their GUILD_CREATE comes; those
    /// that READY does not name are removed and returned.
    pub fn ready(&mut self, data: &[u8]) -> Result<Vec<u64>, Malformed> {
        let mut named = Vec::new();
        if let Some(user) = json::get(data, "user") {
            self.user_id = json::get(user, "id").and_then(json::parse_id);
            self.user = Some(user.into());
        }
        for guild in json::elements(json::get(data, "guilds").unwrap_or(b"[]"))? {
            if let Some(id) = json::get(guild, "id").and_then(json::parse_id) {
                named.push(id);
            }
        }
        let keep: hashbrown::HashSet<u64> = named.iter().copied().collect();
        let gone: Vec<u64> = self.order.iter().copied().filter(|id| !keep.contains(id)).collect();
        self.order.retain(|id| keep.contains(id));
        self.guilds.retain(|id, _| keep.contains(id));
        for id in named {
            if !self.guilds.contains_key(&id) {
                self.guilds.insert(id, Guild::unavailable());
                self.order.push(id);
            }
        }
        Ok(gone)
    }

    /// Applies a dispatch of type `event` with the data `data`.
    pub fn apply(&mut self, event: &str, data: &[u8]) -> Outcome {
        let outcome = events::apply(self, event, data);
        self.ignored_events += u64::from(outcome.ignored.is_some());
        outcome
    }

    /// Can an event of this type change anything that is cached?
    pub fn wants(&self, event: &str) -> bool {
        events::wants(&self.flags, event)
    }

    /// All guilds, in the order in which they came; whether each is available.
    pub fn guilds(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        self.order.iter().filter_map(|id| self.guilds.get(id).map(|guild| (*id, guild.is_available())))
    }

    /// A guild as it is now; `None` when it is not known.
    pub fn snapshot(&self, guild: u64, view: View) -> Option<GuildSnapshot> {
        self.guilds.get(&guild).map(|guild| guild.snapshot(view, self.user_id))
    }

    /// The bot's own user, as READY and USER_UPDATE told.
    pub fn user(&self) -> Option<&[u8]> {
        self.user.as_deref()
    }

    /// How much is cached.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { guilds: self.guilds.len(), ignored_events: self.ignored_events, ..Counts::default() };
        for guild in self.guilds.values() {
            guild.count(&mut counts);
        }
        if self.flags.users {
            counts.users = counts.members;
        }
        counts
    }

    fn insert(&mut self, id: u64, guild: Guild) {
        if self.guilds.insert(id, guild).is_none() {
            self.order.push(id);
        }
    }

    fn remove(&mut self, id: u64) -> bool {
        self.order.retain(|other| *other != id);
        self.guilds.remove(&id).is_some()
    }
}
