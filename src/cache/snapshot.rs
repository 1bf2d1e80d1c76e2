//! A guild at one moment, written out as the data of a GUILD_CREATE, piece by piece.

use super::{
    codec::{
        Shared,
        decode::{Decoder, text_length},
        ids::Ids,
    },
    flags::Flags,
    guild::Guild,
    kind::Kind,
    roles::Going,
    store::{Chunk, Records, write_record},
};
use crate::protocol::{json, payload::LARGE_THRESHOLD};
use std::{cell::RefCell, rc::Rc};

/// What of a guild a session may see, by its intents (docs: Gateway Events, Guild Create). What it may not see is an
/// empty array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// `presences`.
    pub presences: bool,
    /// All `members`; else only the bot itself and users in voice channels, as Discord does.
    pub members: bool,
    /// `voice_states`.
    pub voice_states: bool,
    /// `guild_scheduled_events`.
    pub scheduled_events: bool,
}

impl View {
    /// Everything.
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

/// Packed entities, as they were.
#[derive(Clone)]
pub(super) struct Frozen {
    pub chunks: Vec<Chunk>,
    /// How many there are.
    pub len: usize,
    /// Bytes of their text, without commas; less comes out when members have roles that are going.
    pub text: usize,
    going: Going,
    chunk: usize,
    at: usize,
}

impl Frozen {
    pub fn new(guild: &Guild, kind: Kind) -> Self {
        let array = guild.array(kind);
        let going = if kind == Kind::Members { guild.going_roles() } else { Going::default() };
        Self { chunks: array.store.share(), len: array.store.len(), text: array.text, going, chunk: 0, at: 0 }
    }

    /// Records that say nothing but their ids, `step` of them in a chunk.
    pub fn of_ids(ids: &[u64], step: usize) -> Self {
        let records = |ids: &[u64]| {
            let mut chunk = Vec::with_capacity(ids.len() * 9);
            ids.iter().for_each(|id| write_record(&mut chunk, *id, &[]));
            Chunk::new(&chunk, 0)
        };
        Self {
            chunks: ids.chunks(step).map(records).collect(),
            len: ids.len(),
            text: 0,
            going: Going::default(),
            chunk: 0,
            at: 0,
        }
    }

    /// Where the next one is.
    pub fn position(&self) -> (usize, usize) {
        (self.chunk, self.at)
    }

    /// Goes back to where it was.
    pub fn seek(&mut self, position: (usize, usize)) {
        (self.chunk, self.at) = position;
    }

    /// Calls `each` with the id and the record of one after another, and what has to be left out of it, until it returns
    /// false. True: those were the last ones.
    pub fn each(&mut self, mut each: impl FnMut(u64, &[u8], &Going) -> bool) -> bool {
        while let Some(chunk) = self.chunks.get(self.chunk) {
            let mut records = Records::new(chunk, self.at);
            while let Some((key, record)) = records.next() {
                self.at = records.position();
                if !each(key, record, &self.going) {
                    return false;
                }
            }
            self.chunk += 1;
            self.at = 0;
        }
        true
    }
}

/// What its text consists of.
enum Part {
    Text(Vec<u8>),
    Entities(Frozen),
}

/// See the module's description. Later changes of the guild do not show in it.
pub struct GuildSnapshot {
    available: bool,
    down: bool,
    tables: Shared,
    ids: Rc<RefCell<Ids>>,
    parts: Vec<Part>,
    /// The part that is being written, and how many of its bytes or entities are.
    part: usize,
    written: usize,
    length: usize,
}

impl GuildSnapshot {
    pub(super) fn new(guild: &Guild, tables: &Shared, view: View, flags: &Flags, user: Option<u64>) -> Self {
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
            snapshot.fill(guild, view, flags, user, &fields);
            snapshot.length = snapshot.parts.iter().map(Part::length).sum();
        }
        snapshot
    }

    /// Takes its own fields apart where entities and the member count belong.
    fn fill(&mut self, guild: &Guild, view: View, flags: &Flags, user: Option<u64>, fields: &[u8]) {
        let mut text = Vec::with_capacity(fields.len() + 64);
        let mut found = [false; Kind::COUNT];
        // They were packed from a well-formed object.
        let _ = json::for_each_entry(fields, |key, value| {
            write_key(&mut text, key);
            match Kind::from_name(key) {
                // An array that was null is one when something has come.
                Some(kind) if value == b"[]" || guild.len(kind) > 0 => {
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
        // Arrays that GUILD_CREATE did not have.
        for kind in Kind::ALL {
            if !found[kind as usize] && guild.len(kind) > 0 {
                write_key(&mut text, kind.name().as_bytes());
                self.add_array(guild, view, user, kind, &mut text);
            }
        }
        text.push(b'}');
        self.parts.push(Part::Text(text));
    }

    fn add_array(&mut self, guild: &Guild, view: View, user: Option<u64>, kind: Kind, text: &mut Vec<u8>) {
        text.push(b'[');
        if view.shows(kind) && guild.len(kind) > 0 {
            let entities = match kind {
                Kind::Members if !view.members => visible_members(guild, user),
                _ => Frozen::new(guild, kind),
            };
            self.parts.push(Part::Text(std::mem::take(text)));
            self.parts.push(Part::Entities(entities));
        }
        text.push(b']');
    }

    /// The guild is not there, be it down or not sent yet.
    pub fn unavailable(&self) -> bool {
        !self.available
    }

    /// Discord has said that the guild is down.
    pub fn is_down(&self) -> bool {
        self.down
    }

    /// Bytes of the whole text, or a few more while a role is being taken from many members; 0 when the guild is
    /// unavailable.
    pub fn len(&self) -> usize {
        self.length
    }

    /// There is nothing to write, because the guild is unavailable.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends about `budget` bytes (one entity more at most) of the GUILD_CREATE's data to `out`; true when it is
    /// complete.
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
                    entities.each(|key, record, going| {
                        if *written > 0 {
                            out.push(b',');
                        }
                        let before = out.len();
                        if going.decode(&decoder, key, record, out).is_none() {
                            debug_assert!(false, "a broken record");
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
    fn length(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Entities(entities) => entities.text + entities.len.saturating_sub(1),
        }
    }
}

/// What `large` is by now, when Discord has said `told` and `member_count` has come to `count`, by the rule of Discord for
/// the `large_threshold` of the proxy's IDENTIFY (docs: Gateway Events, Guild Create, Identify). While nobody has come or
/// gone it stays as it was told. A guild that came as large, with only a part of its members, stays so until all of
/// them are known (`incomplete`: they are not), because that is what makes libraries ask for the rest.
fn large<'a>(told: &'a [u8], fields: &[u8], count: u64, incomplete: bool) -> &'a [u8] {
    if !matches!(told, b"true" | b"false") || json::get(fields, "member_count").and_then(json::parse_id) == Some(count)
    {
        return told;
    }
    if count > LARGE_THRESHOLD || (told == b"true" && incomplete) { b"true" } else { b"false" }
}

/// Writes a brace or a comma, the key and the colon.
fn write_key(text: &mut Vec<u8>, key: &[u8]) {
    // What is in parts already ends with a bracket, and an entry follows an entry.
    text.push(if text.is_empty() { b'{' } else { b',' });
    text.push(b'"');
    text.extend_from_slice(key);
    text.extend_from_slice(b"\":");
}

/// The bot itself and who is in a voice channel.
fn visible_members(guild: &Guild, user: Option<u64>) -> Frozen {
    let members = &guild.array(Kind::Members).store;
    let in_voice = guild.array(Kind::VoiceStates).store.iter().map(|(user, _)| user);
    let (mut chunk, mut len, mut text) = (Vec::new(), 0, 0);
    for id in user.into_iter().chain(in_voice.filter(|id| Some(*id) != user)) {
        let Some(place) = members.find(id) else { continue };
        let record = members.record(place);
        write_record(&mut chunk, id, record);
        len += 1;
        text += text_length(record).unwrap_or(0);
    }
    Frozen { chunks: vec![Chunk::new(&chunk, 0)], len, text, going: guild.going_roles(), chunk: 0, at: 0 }
}
