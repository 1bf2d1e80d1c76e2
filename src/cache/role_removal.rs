//! Taking deleted roles from the members who had them.
//!
//! GUILD_ROLE_DELETE does not name members, but a GUILD_CREATE lists no role that was deleted. To look at a hundred
//! thousand members at once would hold up the core, so a removal looks at some thousands at a time: at once when the
//! role is deleted, and then with each further event of the guild. Until it has finished, the roles are left out
//! wherever the text of a member is written ([`DeletedRoles::decode_member`]).
//!
//! This file finds the members and edits texts; the [guild](super::guild) stores them.
//!
//! Bounds: [`MEMBERS_PER_STEP`], [`CHANGE_COST`] and [`MAX_WAITING`].

use super::{
    codec::{Decoder, IdTable, KnownKey, Reader, Slot},
    store::SharedRecords,
};
use crate::protocol::{
    edit,
    json::{self, Malformed},
};

/// Members that one step looks at.
const MEMBERS_PER_STEP: usize = 4_096;
/// A member who may have one of the roles has to be decoded and encoded again, and counts as this many.
const CHANGE_COST: usize = 16;
/// Maximum number of roles that wait for the next removal; a guild has at most 250 roles. Members keep a role beyond
/// that until their next update.
const MAX_WAITING: usize = 250;

/// A removal that is under way.
///
/// It goes through the members as they were when it began. Members may have changed since, but none can have got a role
/// that was already deleted.
pub(super) struct RoleRemoval {
    /// The roles that this removal takes away.
    roles: Vec<u64>,
    members: SharedRecords,
    /// Roles that were deleted since it began. The next removal takes them away.
    waiting: Vec<u64>,
}

impl RoleRemoval {
    /// Begins a removal. `None` when there are no roles or no members.
    pub fn new(roles: Vec<u64>, members: SharedRecords) -> Option<Self> {
        let nothing_to_do = roles.is_empty() || members.is_empty();
        (!nothing_to_do).then(|| Self { roles, members, waiting: Vec::new() })
    }

    /// Adds a role that was deleted meanwhile, if there is room.
    pub fn add_waiting(&mut self, role: u64) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push(role);
        }
    }

    /// Ends the removal, and returns the roles for the next one.
    pub fn into_waiting(self) -> Vec<u64> {
        self.waiting
    }

    /// The roles that this removal takes away.
    pub fn current_roles(&self, ids: &IdTable) -> DeletedRoles {
        DeletedRoles::new(self.roles.clone(), ids)
    }

    /// All roles that members may still have although they were deleted.
    pub fn all_roles(&self, ids: &IdTable) -> DeletedRoles {
        DeletedRoles::new([&self.roles[..], &self.waiting].concat(), ids)
    }

    /// Looks at the next members. Returns the ids of those who may have one of the `roles`, and whether these were the
    /// last members.
    pub fn step(&mut self, roles: &DeletedRoles, decoder: &Decoder<'_>) -> (Vec<u64>, bool) {
        let mut budget = MEMBERS_PER_STEP;
        let mut found = Vec::new();
        let finished = self.members.each(|user, record| {
            if roles.may_be_in(decoder, record) {
                found.push(user);
                budget = budget.saturating_sub(CHANGE_COST);
            }
            budget = budget.saturating_sub(1);
            budget > 0
        });
        (found, finished)
    }
}

/// Roles to leave out of members.
#[derive(Clone, Default)]
pub(super) struct DeletedRoles {
    roles: Vec<u64>,
    /// Their indexes in the guild's id table, as far as they are in it.
    references: Vec<u64>,
}

impl DeletedRoles {
    fn new(roles: Vec<u64>, ids: &IdTable) -> Self {
        let references = roles.iter().filter_map(|role| ids.find(*role)).collect();
        Self { roles, references }
    }

    /// Appends the text of a member without these roles. `None` when the record is broken.
    #[inline]
    pub fn decode_member(&self, decoder: &Decoder<'_>, id: u64, record: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        decoder.decode(id, record, out)?;
        if !self.roles.is_empty()
            && self.may_be_in(decoder, record)
            && let Ok(Some(member)) = self.remove_from(&out[start..])
        {
            out.truncate(start);
            out.extend_from_slice(&member);
        }
        Some(())
    }

    /// Whether the member may have one of these roles. It says yes for every member whose roles are not packed as
    /// references.
    fn may_be_in(&self, decoder: &Decoder<'_>, record: &[u8]) -> bool {
        let mut found = false;
        let complete = decoder.for_each_known_key(record, |key, slot, packed| {
            if key == KnownKey::Roles {
                let mut reader = Reader { bytes: packed };
                reader.varint();
                found |= match slot {
                    Slot::References => {
                        std::iter::from_fn(|| reader.varint()).any(|index| self.references.contains(&index))
                    }
                    slot => slot != Slot::Constant,
                };
            }
        });
        found || !complete
    }

    /// The text of a member without these roles; `None` when the member has none of them.
    pub fn remove_from(&self, member: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        let Some(roles) = json::get(member, "roles") else { return Ok(None) };
        let roles = json::elements(roles)?;
        let stays = |role: &&[u8]| json::parse_id(role).is_none_or(|role| !self.roles.contains(&role));
        let left: Vec<&[u8]> = roles.iter().copied().filter(stays).collect();
        if left.len() == roles.len() {
            return Ok(None);
        }
        let array = [b"[", &left.join(&b","[..])[..], b"]"].concat();
        edit::with(member, "roles", &array).map(Some)
    }
}
