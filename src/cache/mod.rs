//! What a shard knows of its guilds: enough to say, at any moment, the GUILD_CREATE that Discord would send.
//!
//! Lossless: each entity comes back as the text that Discord sent, with the changes of later events, so keys that nobody
//! knows yet survive, numbers stay as they were written and arrays keep their order. There is no schema beyond the names of
//! the arrays and of the ids of what is in them. Small: entities are packed by the [codec], one behind the other in the
//! [stores](store) of their guild.
//!
//! Promises: no input makes it panic; an event that is malformed or about something unknown changes nothing and is
//! counted; with a [flag](Flags) off, nothing is stored or parsed for it; a [`GuildSnapshot`] shows one moment, however
//! long it takes to write. Never: does I/O, looks at a clock, knows clients or logs.

pub mod codec;
mod events;
mod flags;
mod guild;
mod kind;
mod members;
mod membership;
mod packed;
mod roles;
mod scan;
mod snapshot;
pub mod store;

#[cfg(test)]
mod tests;
mod work;

use crate::protocol::{
    edit,
    event::EventKind,
    json::{self, Malformed},
    spelling,
};
use codec::{Fill, Shared, Tables, encode::Encoder};
pub use flags::Flags;
use guild::{Guild, Kit};
use hashbrown::HashMap;
use kind::Kind;
pub use members::{CHUNK, LONGEST_NONCE, MemberAnswer, MemberRequest, Readiness, SavedAnswer};
pub use packed::Origin;
pub use snapshot::{GuildSnapshot, View};
use std::cell::RefMut;

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
    /// User objects kept with members: each has one.
    pub users: usize,
    /// Voice states.
    pub voice_states: usize,
    /// Events that changed nothing, because they were malformed or about something unknown.
    pub ignored_events: u64,
    /// Those of them that were GUILD_CREATEs: clients that identify later are not shown these guilds.
    pub refused_guilds: u64,
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
    refused_guilds: u64,
    tables: Shared,
    encoder: Encoder,
    scratch: Vec<u8>,
    totals: [usize; Kind::COUNT],
}

/// What a [`Kit`] is made of.
struct Parts<'a> {
    flags: Flags,
    user: Option<u64>,
    tables: RefMut<'a, Tables>,
    encoder: &'a mut Encoder,
    scratch: &'a mut Vec<u8>,
    totals: &'a mut [usize; Kind::COUNT],
}

impl Parts<'_> {
    fn kit(&mut self) -> Kit<'_> {
        let Self { flags, user, tables, encoder, scratch, totals } = self;
        Kit { flags: *flags, user: *user, tables, encoder, scratch, totals }
    }
}

impl Cache {
    /// An empty cache. Its tables are those of all caches of this thread.
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
            encoder: Encoder::strict(),
            scratch: Vec::new(),
            totals: [0; Kind::COUNT],
        }
    }

    fn parts(&mut self) -> (&mut HashMap<u64, Guild>, Parts<'_>) {
        let parts = Parts {
            flags: self.flags,
            user: self.user_id,
            tables: self.tables.borrow_mut(),
            encoder: &mut self.encoder,
            scratch: &mut self.scratch,
            totals: &mut self.totals,
        };
        (&mut self.guilds, parts)
    }

    /// A new upstream session: its READY. All guilds are unavailable until their GUILD_CREATE comes, because what was known
    /// of them is old: of one that is down by now nothing more will be heard. Those that READY does not name are removed and
    /// returned.
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
        let keep: hashbrown::HashSet<u64> = named.iter().copied().collect();
        let gone: Vec<u64> = self.order.iter().copied().filter(|id| !keep.contains(id)).collect();
        self.order.retain(|id| keep.contains(id));
        self.guilds.clear();
        self.totals = [0; Kind::COUNT];
        let known: hashbrown::HashSet<u64> = self.order.iter().copied().collect();
        for id in named {
            if self.guilds.insert(id, Guild::unavailable()).is_none() && !known.contains(&id) {
                self.order.push(id);
            }
        }
        Ok(gone)
    }

    /// Applies a dispatch of type `event` with the data `data`, which is JSON in any spelling.
    pub fn apply(&mut self, event: EventKind, data: &[u8]) -> Outcome {
        let outcome = self.apply_in_any_spelling(event, data).unwrap_or_else(|malformed| {
            let key = if event == EventKind::GuildCreate { "id" } else { "guild_id" };
            Outcome::ignored(edit::id_at(data, &[key]), malformed.what)
        });
        self.ignored_events += u64::from(outcome.ignored.is_some());
        self.refused_guilds += u64::from(outcome.ignored.is_some() && event == EventKind::GuildCreate);
        outcome
    }

    /// What is kept is in plain spelling, as Discord writes. Frequent and large events are not looked at before: what is read
    /// of them directly is found in any spelling that has no needless escapes, and of what is packed the codec notices
    /// the rest. Then the event is applied once more from the start, in plain spelling; with these events that comes to
    /// the same whether a part of it has been applied before or not.
    fn apply_in_any_spelling(&mut self, event: EventKind, data: &[u8]) -> Result<Outcome, Malformed> {
        if !self.wants(event) {
            return Ok(Outcome::unchanged(None));
        }
        if events::is_read_as_it_is(event) && !spelling::has_needless_escape(data) {
            match events::apply(self, event, data) {
                Err(Malformed { what: spelling::NOT_PLAIN, .. }) => {}
                result => return result,
            }
        }
        let plain = spelling::in_plain(data)?;
        self.encoder.strict = false;
        let result = events::apply(self, event, &plain);
        self.encoder.strict = true;
        result
    }

    /// Can an event of this type change anything that is cached?
    pub fn wants(&self, event: EventKind) -> bool {
        events::wants(&self.flags, event)
    }

    /// All guilds, in the order in which they came; whether each is available.
    pub fn guilds(&self) -> impl Iterator<Item = (u64, bool)> + '_ {
        self.order.iter().filter_map(|id| self.guilds.get(id).map(|guild| (*id, guild.is_available())))
    }

    /// A guild as it is now; `None` when it is not known.
    pub fn snapshot(&self, guild: u64, view: View) -> Option<GuildSnapshot> {
        self.guilds.get(&guild).map(|guild| GuildSnapshot::new(guild, &self.tables, view, &self.flags, self.user_id))
    }

    /// The bot's own user, as READY and USER_UPDATE told.
    pub fn user(&self) -> Option<&[u8]> {
        self.user.as_deref()
    }

    /// How much is cached.
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
    pub fn tables(&self) -> Fill {
        self.tables.borrow().fill()
    }

    fn insert(&mut self, id: u64, guild: Guild) {
        match self.guilds.insert(id, guild) {
            Some(old) => old.uncount(&mut self.totals),
            None => self.order.push(id),
        }
    }

    /// Discord says that a guild is down.
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
