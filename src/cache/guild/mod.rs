//! One guild of the cache: its own fields, its entities, and what the cache derives about it.
//!
//! An *entity* is an object in one of the guild's arrays: a member, a role, a channel and so on (see [`Kind`]). Each
//! array has a [store](Store) of packed records. The guild's own fields are one more record, in which these arrays are
//! empty; a [snapshot](super::snapshot) puts the entities back into them.
//!
//! | file | content |
//! |---|---|
//! | this one | the state of a guild |
//! | [`entities`] | reading and changing single entities |
//! | [`create`] | reading a GUILD_CREATE |
//! | [`update`] | replacing whole arrays, and GUILD_UPDATE |
//! | [`roles`] | taking deleted roles from members |

pub(super) mod create;
mod entities;
mod roles;
mod update;

use super::{
    codec::{Decoder, EncodeError, Encoder, IdPath, IdTable, Shape, Tables},
    flags::Flags,
    kind::Kind,
    membership::Membership,
    role_removal::RoleRemoval,
    store::Store,
};
use std::{
    cell::{RefCell, RefMut},
    rc::Rc,
};

/// The parts of the cache that are needed to read and change a guild.
pub(super) struct Context<'a> {
    pub flags: Flags,
    /// The bot's user id.
    pub user: Option<u64>,
    pub tables: RefMut<'a, Tables>,
    pub encoder: &'a mut Encoder,
    /// Buffer for the JSON text of one entity.
    pub scratch: &'a mut Vec<u8>,
    /// Number of entities in all guilds, by [`Kind`].
    pub totals: &'a mut [usize; Kind::COUNT],
}

impl Context<'_> {
    /// How to encode an entity that comes with an event. Unlike an entity of GUILD_CREATE it can have keys that are to
    /// be left out.
    pub fn shape(&self, kind: Kind, leave_out: &'static [&'static str]) -> Shape {
        Shape { leave_out, ..kind.shape(&self.flags) }
    }
}

/// The entities of one kind.
#[derive(Default)]
pub(super) struct Array {
    pub store: Store,
    /// Bytes of JSON text of all entities together, without the commas between them.
    pub text: usize,
}

/// See the module's description.
#[derive(Default)]
pub(super) struct Guild {
    /// The guild's own fields in Discord's order: the guild's id (8 bytes, little endian), then the record. `None`
    /// while the guild is unavailable.
    pub fields: Option<Box<[u8]>>,
    /// Whether Discord has reported an outage of the guild (GUILD_DELETE with `unavailable`).
    pub down: bool,
    /// `member_count`, adjusted by joins and leaves. `None` when GUILD_CREATE did not have it.
    pub member_count: Option<u64>,
    /// Whether the cache knows all members.
    pub membership: Membership,
    /// The removal of deleted roles from members that is under way.
    pub removal: Option<Box<RoleRemoval>>,
    /// The ids that the records refer to. Snapshots share the table.
    pub ids: Rc<RefCell<IdTable>>,
    pub arrays: [Array; Kind::COUNT],
}

impl Guild {
    /// A guild that READY has named, and whose GUILD_CREATE has not come yet.
    pub fn unavailable() -> Self {
        Self::default()
    }

    /// Whether the guild has come with a GUILD_CREATE and has had no outage since.
    pub fn is_available(&self) -> bool {
        self.fields.is_some()
    }

    /// Handles an outage: forgets everything about the guild, as clients do.
    pub fn go_down(&mut self, totals: &mut [usize; Kind::COUNT]) {
        self.uncount(totals);
        *self = Self { down: true, ..Self::default() };
    }

    /// Subtracts the guild's entities from the totals. Called before the guild is dropped.
    pub fn uncount(&self, totals: &mut [usize; Kind::COUNT]) {
        for (total, array) in totals.iter_mut().zip(&self.arrays) {
            *total -= array.store.len();
        }
    }

    /// The entities of a kind.
    pub fn array(&self, kind: Kind) -> &Array {
        &self.arrays[kind as usize]
    }

    fn array_mut(&mut self, kind: Kind) -> &mut Array {
        &mut self.arrays[kind as usize]
    }

    /// Number of entities of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        self.array(kind).store.len()
    }

    /// Whether the cache has this entity.
    pub fn contains(&self, kind: Kind, id: u64) -> bool {
        self.array(kind).store.find(id).is_some()
    }

    /// Whether the flags say that this entity is cached. If not all members are cached, these are: the bot's own member
    /// with the flag `current_member`, and users in voice channels with the flag `voice_states`.
    pub fn is_cached(&self, context: &Context<'_>, kind: Kind, id: u64) -> bool {
        let Flags { members, current_member, voice_states, .. } = context.flags;
        let is_member_cached = || {
            members
                || (current_member && Some(id) == context.user)
                || (voice_states && self.contains(Kind::VoiceStates, id))
        };
        kind.is_on(&context.flags) && (kind != Kind::Members || is_member_cached())
    }

    /// Whether the cache has this user as a member whom `member_count` counts, that is, who is no guest.
    pub fn has_counted_member(&self, context: &Context<'_>, user: u64) -> bool {
        let members = &self.array(Kind::Members).store;
        members.find(user).is_some_and(|location| !self.is_guest(context, members.record(location)))
    }

    /// Whether the record is that of a guest: a member whose `joined_at` is `null`.
    pub fn is_guest(&self, context: &Context<'_>, record: &[u8]) -> bool {
        Decoder { tables: &context.tables, ids: &self.ids.borrow() }.is_guest(record)
    }

    /// Sets the guild's own fields from their JSON text, in which the arrays of entities are empty. Returns the guild's
    /// id; 0 when the text has none.
    pub fn set_fields(&mut self, context: &mut Context<'_>, text: &[u8]) -> Result<u64, EncodeError> {
        let shape = Shape { loose: true, ..Shape::of(IdPath::At("id")) };
        let encoded = self.encode(context, &shape, text, 0)?;
        let id = encoded.id.to_le_bytes();
        self.fields = Some([&id, context.encoder.record()].concat().into());
        Ok(encoded.id)
    }

    /// The JSON text of the guild's own fields; `None` while the guild is unavailable.
    pub fn fields_text(&self, tables: &Tables) -> Option<Vec<u8>> {
        let (id, record) = self.fields.as_ref()?.split_first_chunk::<8>()?;
        let mut text = Vec::with_capacity(2_048);
        let ids = self.ids.borrow();
        Decoder { tables, ids: &ids }.decode(u64::from_le_bytes(*id), record, &mut text)?;
        Some(text)
    }

    /// Adds `by` to `member_count`, if the guild has it. It does not go below 0.
    pub fn adjust_member_count(&mut self, by: i64) {
        if let Some(count) = &mut self.member_count {
            *count = count.saturating_add_signed(by);
        }
    }

    /// Number of members, guests included, if the cache knows all of them.
    pub fn complete_members(&self) -> Option<usize> {
        (self.is_available() && self.membership.is_complete()).then(|| self.count(Kind::Members))
    }

    /// Bytes that the guild takes on the heap, the size of `Guild` included.
    pub fn heap(&self) -> usize {
        let arrays: usize = self.arrays.iter().map(|array| array.store.heap()).sum();
        let fields = self.fields.as_ref().map_or(0, |fields| fields.len()) + self.membership.heap();
        let ids = size_of::<RefCell<IdTable>>() + 2 * size_of::<usize>() + self.ids.borrow().heap();
        size_of::<Self>() + arrays + fields + ids
    }
}
