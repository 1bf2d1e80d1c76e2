//! A guild at one moment, written out as the data of a GUILD_CREATE, piece by piece.

use super::{
    guild::{Fields, Kind},
    list::Slots,
};
use std::rc::Rc;

/// What of a guild a session may see, by its intents (docs: Gateway Events, Guild Create).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Presences.
    pub presences: bool,
    /// All members, not just the bot itself.
    pub members: bool,
    /// Voice states.
    pub voice_states: bool,
    /// Scheduled events.
    pub scheduled_events: bool,
}

impl View {
    /// Everything.
    pub const ALL: Self = Self { presences: true, members: true, voice_states: true, scheduled_events: true };
}

/// See the module's description. Later changes of the guild do not show in it.
pub struct GuildSnapshot {
    fields: Option<Fields>,
    down: bool,
    member_count: Option<u64>,
    lists: [Option<Rc<Slots>>; Kind::ALL.len()],
    /// The list that is being written; before the first the fields are.
    list: Option<usize>,
    slot: usize,
    /// The list's bracket is written.
    opened: bool,
    /// The list has an element already.
    begun: bool,
}

impl GuildSnapshot {
    pub(super) fn new(
        fields: Option<Fields>,
        down: bool,
        member_count: Option<u64>,
        lists: [Option<Rc<Slots>>; Kind::ALL.len()],
    ) -> Self {
        Self { fields, down, member_count, lists, list: None, slot: 0, opened: false, begun: false }
    }

    /// The guild is not there, be it down or not sent yet.
    pub fn unavailable(&self) -> bool {
        self.fields.is_none()
    }

    /// Discord has said that the guild is down.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Appends about `budget` bytes (one entity more at most) of the GUILD_CREATE's data to `out`; true when it is
    /// complete.
    pub fn write(&mut self, out: &mut Vec<u8>, budget: usize) -> bool {
        let end = out.len() + budget;
        let Some(fields) = &self.fields else { return true };
        if self.list.is_none() {
            out.push(b'{');
            for (key, value) in fields.iter() {
                write_key(out, key);
                out.extend_from_slice(value);
                out.push(b',');
            }
            if let Some(count) = self.member_count {
                write_key(out, b"member_count");
                out.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
                out.push(b',');
            }
            // Its absence would tell libraries that the bot has just joined.
            out.extend_from_slice(b"\"unavailable\":false");
            self.list = Some(0);
        }
        while let Some(index) = self.list.filter(|index| *index < Kind::ALL.len()) {
            if !std::mem::replace(&mut self.opened, true) {
                out.push(b',');
                write_key(out, Kind::ALL[index].name().as_bytes());
                out.push(b'[');
                self.begun = false;
            }
            if let Some(slots) = &self.lists[index] {
                for slot in &slots[self.slot..] {
                    if out.len() >= end {
                        return false;
                    }
                    self.slot += 1;
                    if let Some(text) = slot {
                        if std::mem::replace(&mut self.begun, true) {
                            out.push(b',');
                        }
                        out.extend_from_slice(text);
                    }
                }
            }
            out.push(b']');
            self.list = Some(index + 1);
            self.slot = 0;
            self.opened = false;
        }
        out.push(b'}');
        true
    }
}

fn write_key(out: &mut Vec<u8>, key: &[u8]) {
    out.push(b'"');
    out.extend_from_slice(key);
    out.extend_from_slice(b"\":");
}
