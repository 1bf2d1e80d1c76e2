//! Taking deleted roles from the members who had them.
//!
//! GUILD_ROLE_DELETE says nothing of members, but GUILD_CREATE does not list a role that is no more. Going through a
//! hundred thousand members would take too long at once, so what is beyond the first thousands follows with the next
//! events of the guild. Until then the role is left out wherever the text of a member goes out.

use super::{
    codec::{decode::Decoder, ids::Ids, kind::Slot, template::Name, values::Reader},
    guild::{Guild, Kit},
    kind::Kind,
    store::{Chunk, Records},
};
use crate::protocol::{
    edit,
    json::{self, Malformed},
};

/// Members that are looked at in one go; a change counts for several.
const AT_ONCE: usize = 4_096;
/// For how many a member counts whose roles change.
const CHANGE: usize = 16;
/// Roles that may be waiting, as many as a guild can have; beyond that members keep them until their next update.
const MAX_WAITING: usize = 250;

/// Members as they were when roles were deleted; they may have changed since, but not got those roles.
pub struct Sweep {
    roles: Vec<u64>,
    members: Vec<Chunk>,
    chunk: usize,
    at: usize,
    /// Roles that were deleted meanwhile: the next sweep's.
    waiting: Vec<u64>,
}

/// Deleted roles that members may still have.
#[derive(Clone, Default)]
pub struct Going {
    roles: Vec<u64>,
    /// Their numbers in the guild's table.
    numbers: Vec<u64>,
}

impl Going {
    fn new(roles: Vec<u64>, ids: &Ids) -> Self {
        let numbers = roles.iter().filter_map(|role| ids.find(*role)).collect();
        Self { roles, numbers }
    }

    /// Appends the text of a member, without these roles. `None`: the record is broken.
    #[inline]
    pub fn decode(&self, decoder: &Decoder<'_>, id: u64, record: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        decoder.decode(id, record, out)?;
        if !self.roles.is_empty()
            && self.may_have(decoder, record)
            && let Ok(Some(member)) = self.taken_from(&out[start..])
        {
            out.truncate(start);
            out.extend_from_slice(&member);
        }
        Some(())
    }

    /// May the member have one of them? Yes also when its roles are spelt out.
    fn may_have(&self, decoder: &Decoder<'_>, record: &[u8]) -> bool {
        let mut found = false;
        let seen = decoder.named(record, |name, slot, packed| {
            if name == Name::Roles {
                let mut reader = Reader { bytes: packed };
                reader.varint();
                found |= match slot {
                    Slot::References => {
                        std::iter::from_fn(|| reader.varint()).any(|number| self.numbers.contains(&number))
                    }
                    slot => slot != Slot::Constant,
                };
            }
        });
        found || !seen
    }

    /// The member without them; `None` when it did not have any.
    fn taken_from(&self, member: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
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

impl Guild {
    /// A role was deleted.
    pub fn begin_sweep(&mut self, kit: &mut Kit<'_>, role: u64) {
        match &mut self.sweep {
            Some(sweep) if sweep.waiting.len() < MAX_WAITING => sweep.waiting.push(role),
            Some(_) => {}
            None => {
                self.sweep = self.new_sweep(vec![role]);
                self.continue_sweep(kit);
            }
        }
    }

    fn new_sweep(&self, roles: Vec<u64>) -> Option<Box<Sweep>> {
        let members = self.array(Kind::Members).store.share();
        if members.is_empty() || roles.is_empty() {
            return None;
        }
        Some(Box::new(Sweep { roles, members, chunk: 0, at: 0, waiting: Vec::new() }))
    }

    /// What has to be left out of the texts of its members.
    pub fn going_roles(&self) -> Going {
        match &self.sweep {
            Some(sweep) => Going::new([&sweep.roles[..], &sweep.waiting].concat(), &self.ids.borrow()),
            None => Going::default(),
        }
    }

    /// Goes on where the last event of this guild left off.
    pub fn continue_sweep(&mut self, kit: &mut Kit<'_>) {
        let Some(mut sweep) = self.sweep.take() else { return };
        let mut budget = AT_ONCE;
        let mut having = Vec::new();
        let going = Going::new(std::mem::take(&mut sweep.roles), &self.ids.borrow());
        while let Some(chunk) = sweep.members.get(sweep.chunk) {
            let ids = self.ids.borrow();
            let decoder = Decoder { tables: kit.tables, ids: &ids };
            let mut records = Records::new(chunk, sweep.at);
            for (user, record) in records.by_ref() {
                if going.may_have(&decoder, record) {
                    having.push(user);
                    budget = budget.saturating_sub(CHANGE);
                }
                budget = budget.saturating_sub(1);
                if budget == 0 {
                    break;
                }
            }
            sweep.at = records.position();
            if budget == 0 {
                break;
            }
            sweep.chunk += 1;
            sweep.at = 0;
        }
        for user in having {
            // It was packed from well-formed text, so this does not fail.
            let _ = self.edit(kit, Kind::Members, user, |member| going.taken_from(member));
        }
        self.sweep = if budget == 0 {
            sweep.roles = going.roles;
            Some(sweep)
        } else {
            self.new_sweep(sweep.waiting)
        };
    }
}
