//! Taking a deleted role from the members who had it.
//!
//! GUILD_ROLE_DELETE says nothing of members, but GUILD_CREATE does not list a role that is no more. Going through a
//! hundred thousand members would take too long at once, so what is beyond the first thousands follows with the next
//! events of the guild.

use super::{
    codec::{decode::Decoder, kind::Slot, template::Name, values::Reader},
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
/// Roles that may be waiting; beyond that members keep them until their next update.
const MAX_WAITING: usize = 250;

/// Members as they were when a role was deleted; they may have changed since, but not got that role.
pub struct Sweep {
    role: u64,
    members: Vec<Chunk>,
    chunk: usize,
    at: usize,
    /// Roles that were deleted meanwhile.
    waiting: Vec<u64>,
}

impl Guild {
    /// A role was deleted.
    pub fn begin_sweep(&mut self, kit: &mut Kit<'_>, role: u64) {
        match &mut self.sweep {
            Some(sweep) if sweep.waiting.len() < MAX_WAITING => sweep.waiting.push(role),
            Some(_) => {}
            None => {
                self.sweep = self.new_sweep(role, Vec::new());
                self.continue_sweep(kit);
            }
        }
    }

    fn new_sweep(&self, role: u64, waiting: Vec<u64>) -> Option<Box<Sweep>> {
        let members = self.array(Kind::Members).store.share();
        if members.is_empty() {
            return None;
        }
        Some(Box::new(Sweep { role, members, chunk: 0, at: 0, waiting }))
    }

    /// Goes on where the last event of this guild left off.
    pub fn continue_sweep(&mut self, kit: &mut Kit<'_>) {
        let Some(mut sweep) = self.sweep.take() else { return };
        let mut budget = AT_ONCE;
        let mut having = Vec::new();
        while let Some(chunk) = sweep.members.get(sweep.chunk) {
            let ids = self.ids.borrow();
            let decoder = Decoder { tables: kit.tables, ids: &ids };
            let role = ids.find(sweep.role).unwrap_or(u64::MAX);
            let mut records = Records::new(chunk, sweep.at);
            for (user, record) in records.by_ref() {
                if has_role(&decoder, record, role) {
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
            let _ = self.edit(kit, Kind::Members, user, |member| without_role(member, sweep.role));
        }
        if budget == 0 {
            self.sweep = Some(sweep);
            return;
        }
        if let Some(role) = sweep.waiting.pop() {
            self.sweep = self.new_sweep(role, sweep.waiting);
        }
    }
}

/// May the member have the role with this number? Yes also when its roles are spelt out.
fn has_role(decoder: &Decoder<'_>, record: &[u8], role: u64) -> bool {
    let mut found = false;
    let seen = decoder.named(record, |name, slot, packed| {
        if name == Name::Roles {
            let mut reader = Reader { bytes: packed };
            reader.varint();
            found |= match slot {
                Slot::References => std::iter::from_fn(|| reader.varint()).any(|number| number == role),
                slot => slot != Slot::Constant,
            };
        }
    });
    found || !seen
}

/// The member without the role; `None` when it did not have it.
fn without_role(member: &[u8], role: u64) -> Result<Option<Vec<u8>>, Malformed> {
    let Some(roles) = json::get(member, "roles") else { return Ok(None) };
    let roles = json::elements(roles)?;
    let left: Vec<&[u8]> = roles.iter().copied().filter(|other| json::parse_id(other) != Some(role)).collect();
    if left.len() == roles.len() {
        return Ok(None);
    }
    let array = [b"[", &left.join(&b","[..])[..], b"]"].concat();
    edit::with(member, "roles", &array).map(Some)
}
