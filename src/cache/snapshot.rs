//! A snapshot: a guild at one moment, written as the data of a GUILD_CREATE, piece by piece.
//!
//! A snapshot is a list of parts: text, and [frozen](super::frozen) arrays of entities, which are decoded when they are
//! written. Later changes of the guild do not show in it, however long writing takes.

use super::{
    codec::{Decoder, IdTable, SharedTables},
    flags::Flags,
    frozen::FrozenEntities,
    guild::Guild,
    kind::Kind,
};
use crate::protocol::{json, payload::LARGE_THRESHOLD};
use std::{cell::RefCell, rc::Rc};

/// What a session may see of a guild, by its intents (docs: Gateway Events, Guild Create). An array that it may not see
/// is written as empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The array `presences`.
    pub presences: bool,
    /// The whole array `members`. Without it the array has only the bot itself and the users in voice channels, as
    /// Discord does it.
    pub members: bool,
    /// The array `voice_states`.
    pub voice_states: bool,
    /// The array `guild_scheduled_events`.
    pub scheduled_events: bool,
}

impl View {
    /// All arrays.
    pub const ALL: Self = Self { presences: true, members: true, voice_states: true, scheduled_events: true };

    fn shows(&self, kind: Kind) -> bool {
        match kind {
            Kind::Presences => self.presences,
            Kind::VoiceStates => self.voice_states,
            Kind::ScheduledEvents => self.scheduled_events,
            _ => true,
        }
    }
}

/// A piece of the snapshot's text.
enum Part {
    Text(Vec<u8>),
    Entities(FrozenEntities),
}

/// A guild at one moment. [`write`](Self::write) gives its text.
pub struct GuildSnapshot {
    available: bool,
    down: bool,
    tables: SharedTables,
    ids: Rc<RefCell<IdTable>>,
    parts: Vec<Part>,
    /// Index of the part that is being written.
    part: usize,
    /// How many bytes of a text part, or entities of an array, have been written.
    written: usize,
    length: usize,
}

impl GuildSnapshot {
    pub(super) fn new(guild: &Guild, tables: &SharedTables, view: View, flags: &Flags, user: Option<u64>) -> Self {
        let mut snapshot = Self {
            available: guild.is_available(),
            down: guild.down,
            tables: tables.clone(),
            ids: guild.ids.clone(),
            parts: Vec::new(),
            part: 0,
            written: 0,
            length: 0,
        };
        if let Some(fields) = guild.fields_text(&tables.borrow()) {
            snapshot.add_parts(guild, view, flags, user, &fields);
            snapshot.length = snapshot.parts.iter().map(Part::length).sum();
        }
        snapshot
    }

    /// Copies the guild's own `fields`, and puts the entities and the derived values where they belong.
    fn add_parts(&mut self, guild: &Guild, view: View, flags: &Flags, user: Option<u64>, fields: &[u8]) {
        let mut text = Vec::with_capacity(fields.len() + 64);
        let mut found = [false; Kind::COUNT];
        // The fields were encoded from a well-formed object, so this does not fail.
        let _ = json::for_each_entry(fields, |key, value| {
            write_key(&mut text, key);
            match Kind::from_name(key) {
                // In place of an array, GUILD_CREATE may have had `null`. With entities it becomes an array.
                Some(kind) if value == b"[]" || guild.count(kind) > 0 => {
                    found[kind as usize] = true;
                    self.add_array(guild, view, user, kind, &mut text);
                }
                _ => match (key, guild.member_count) {
                    (b"member_count", Some(count)) => {
                        text.extend_from_slice(itoa::Buffer::new().format(count).as_bytes());
                    }
                    (b"large", Some(count)) => {
                        let incomplete = flags.members && guild.complete_members().is_none();
                        text.extend_from_slice(large(value, fields, count, incomplete));
                    }
                    _ => text.extend_from_slice(value),
                },
            }
            true
        });
        // Arrays that GUILD_CREATE did not have, and that got entities by later events.
        for kind in Kind::ALL {
            if !found[kind as usize] && guild.count(kind) > 0 {
                write_key(&mut text, kind.name().as_bytes());
                self.add_array(guild, view, user, kind, &mut text);
            }
        }
        text.push(b'}');
        self.parts.push(Part::Text(text));
    }

    /// Writes the brackets of an array to `text`. If the view shows entities between them, adds the text so far and the
    /// entities as parts, and `text` goes on with the closing bracket.
    fn add_array(&mut self, guild: &Guild, view: View, user: Option<u64>, kind: Kind, text: &mut Vec<u8>) {
        text.push(b'[');
        if view.shows(kind) && guild.count(kind) > 0 {
            let entities = match kind {
                Kind::Members if !view.members => FrozenEntities::visible_members(guild, user),
                _ => FrozenEntities::new(guild, kind),
            };
            self.parts.push(Part::Text(std::mem::take(text)));
            self.parts.push(Part::Entities(entities));
        }
        text.push(b']');
    }

    /// Whether the guild is unavailable: it has an outage, or its GUILD_CREATE has not come yet.
    pub fn unavailable(&self) -> bool {
        !self.available
    }

    /// Whether Discord has reported an outage of the guild.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Bytes of the whole text; 0 when the guild is unavailable. While a deleted role is being taken from members, the
    /// text can turn out shorter.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing to write, because the guild is unavailable.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends about `budget` bytes of the text to `out`: it stops at the first entity that ends beyond the budget.
    /// Returns true when the whole text has been written.
    pub fn write(&mut self, out: &mut Vec<u8>, budget: usize) -> bool {
        let end = out.len().saturating_add(budget.max(1));
        let tables = self.tables.borrow();
        let ids = self.ids.borrow();
        let decoder = Decoder { tables: &tables, ids: &ids };
        out.reserve(budget.min(self.length));
        while let Some(part) = self.parts.get_mut(self.part) {
            match part {
                Part::Text(text) => {
                    let rest = &text[self.written..];
                    let length = rest.len().min(end.saturating_sub(out.len()));
                    out.extend_from_slice(&rest[..length]);
                    self.written += length;
                    if self.written < text.len() {
                        return false;
                    }
                }
                Part::Entities(entities) => {
                    let written = &mut self.written;
                    entities.each(|id, record, deleted_roles| {
                        if *written > 0 {
                            out.push(b',');
                        }
                        let before = out.len();
                        // The records of the cache are sound, so decoding does not fail.
                        if deleted_roles.decode_member(&decoder, id, record, out).is_none() {
                            debug_assert!(false, "a broken record in the cache");
                            out.truncate(before);
                        }
                        *written += 1;
                        out.len() < end
                    });
                    if self.written < entities.len {
                        return false;
                    }
                }
            }
            *part = Part::Text(Vec::new());
            self.part += 1;
            self.written = 0;
        }
        true
    }
}

impl Part {
    /// Bytes of text.
    fn length(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Entities(entities) => entities.text + entities.len.saturating_sub(1),
        }
    }
}

/// The value of `large` in a snapshot. GUILD_CREATE said `original`, and `member_count` is now `count`.
///
/// Discord calls a guild large by the `large_threshold` of the IDENTIFY, here the proxy's (docs: Gateway Events, Guild
/// Create, Identify). While `member_count` is as in GUILD_CREATE, the original value stays. After that, a guild with
/// more members than the threshold is large. One with fewer members stays large too if it came as large and the cache
/// does not know all its members (`incomplete`), because libraries request the members of large guilds only.
fn large<'a>(original: &'a [u8], fields: &[u8], count: u64, incomplete: bool) -> &'a [u8] {
    let original_count = json::get(fields, "member_count").and_then(json::parse_id);
    if !matches!(original, b"true" | b"false") || original_count == Some(count) {
        return original;
    }
    if count > LARGE_THRESHOLD || (original == b"true" && incomplete) { b"true" } else { b"false" }
}

/// Writes the brace or comma before an entry, its key and the colon.
fn write_key(text: &mut Vec<u8>, key: &[u8]) {
    // `text` is empty only at the very start: after a part was split off, it begins with a closing bracket.
    text.push(if text.is_empty() { b'{' } else { b',' });
    text.push(b'"');
    text.extend_from_slice(key);
    text.extend_from_slice(b"\":");
}
