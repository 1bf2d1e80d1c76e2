//! Guilds in state files: the packed records of the cache as bytes for the next process.
//!
//! This file owns the format of two things: of the codec's tables, which all records refer to, and of one guild. A
//! guild's records are copied as they are, so writing and reading a guild takes a copy and a check of each record, no
//! JSON.
//!
//! Promises: a guild that is read shows what the written one showed. No bytes make reading panic, allocate much more
//! than their own size, or lead to a guild that is not well-formed. When the tables of this thread and those of the
//! file give different meanings to the same index, the guilds of the file are encoded again from their texts.
//!
//! An older format is not readable. The caller stores the bytes with a version, which has to change with every
//! change of this file, of the codec, and of the list of [kinds](super::kind).

use super::{
    Cache, View,
    codec::{Decoder, Reader, SharedTables, Tables, write_varint},
    guild::{
        Array, Context, Guild,
        create::{Created, create},
    },
    kind::Kind,
    membership::Membership,
    snapshot::GuildSnapshot,
    store::Store,
};
use crate::protocol::json;

/// Maximum length in bytes of the JSON text of a record from a state file. No payload of Discord is longer. Without the
/// bound a few bytes that refer to a long template many times could become gigabytes of text.
const MAX_TEXT: usize = 256 << 20;

/// The tables that the guilds of a state file refer to.
pub struct Origin {
    /// The tables of the file; `None` when the tables of this thread have all that the file's have, at the same
    /// indexes.
    tables: Option<SharedTables>,
}

/// Appends the number of bytes, a varint, and the bytes.
fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what [`write_bytes`] has written.
fn read_bytes<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = reader.length()?;
    reader.take(length)
}

fn read_tables(bytes: &[u8]) -> Option<Tables> {
    let mut tables = Tables::default();
    let mut reader = Reader { bytes };
    for _ in 0..reader.varint()? {
        tables.templates.append(read_bytes(&mut reader)?)?;
    }
    for _ in 0..reader.varint()? {
        tables.strings.append(read_bytes(&mut reader)?)?;
    }
    reader.bytes.is_empty().then_some(tables)
}

/// Appends a guild: id, `member_count`, whether all members are known, own fields, id table, and the records of each
/// kind.
fn write(guild: &Guild, id: u64, fields: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&id.to_le_bytes());
    out.push(guild.member_count.is_some().into());
    write_varint(out, guild.member_count.unwrap_or(0));
    out.push(guild.membership.is_complete().into());
    write_bytes(out, fields);
    let ids = guild.ids.borrow();
    write_varint(out, ids.all().len() as u64);
    ids.all().iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    for kind in Kind::ALL {
        let chunks = guild.array(kind).store.share_chunks();
        write_varint(out, chunks.iter().map(|chunk| chunk.len() as u64).sum());
        chunks.iter().for_each(|chunk| out.extend_from_slice(chunk));
    }
}

/// Reads a guild whose records refer to `tables`, and its id. `None` when the bytes are not well-formed, or when the
/// guild has entities that the flags exclude.
fn read(context: &Context<'_>, tables: &Tables, bytes: &[u8]) -> Option<(u64, Guild)> {
    let mut reader = Reader { bytes };
    let id = reader.number::<8>()?;
    let member_count = match (reader.byte()?, reader.varint()?) {
        (0, 0) => None,
        (1, count) => Some(count),
        _ => return None,
    };
    let membership = match reader.byte()? {
        complete @ (0 | 1) => Membership::new(complete == 1),
        _ => return None,
    };
    let fields = Some(read_bytes(&mut reader)?.into());
    let mut guild = Guild { fields, member_count, membership, ..Guild::default() };
    {
        let mut ids = guild.ids.borrow_mut();
        for index in 0..reader.varint()? {
            if ids.find_or_add(reader.number::<8>()?) != Some(index) {
                return None;
            }
        }
    }
    check_fields(&guild, tables)?;
    for kind in Kind::ALL {
        let store = Store::from_records(read_bytes(&mut reader)?)?;
        if !store.is_empty() && !kind.is_on(&context.flags) {
            return None;
        }
        let mut text = 0usize;
        {
            let ids = guild.ids.borrow();
            let decoder = Decoder { tables, ids: &ids };
            for (id, record) in store.iter() {
                text = text.checked_add(check(&decoder, id, record)?)?;
            }
        }
        guild.arrays[kind as usize] = Array { store, text };
    }
    // Which members are cached can depend on the voice states, which come behind the members.
    let members = &guild.array(Kind::Members).store;
    let all_are_cached = members.iter().all(|(user, _)| guild.is_cached(context, Kind::Members, user));
    (reader.bytes.is_empty() && all_are_cached).then_some((id, guild))
}

/// Checks a record, and returns the length of its text. `None` when it is broken, its text is no JSON object, or its
/// text is longer than [`MAX_TEXT`].
fn check(decoder: &Decoder<'_>, id: u64, record: &[u8]) -> Option<usize> {
    decoder.check(id, record).filter(|length| *length <= MAX_TEXT)
}

/// Checks the record of a guild's own fields.
fn check_fields(guild: &Guild, tables: &Tables) -> Option<()> {
    let (id, record) = guild.fields.as_ref()?.split_first_chunk::<8>()?;
    check(&Decoder { tables, ids: &guild.ids.borrow() }, u64::from_le_bytes(*id), record)?;
    json::for_each_entry(&guild.fields_text(tables)?, |_, _| true).ok()
}

impl Cache {
    /// Appends the tables that the guilds of [`write_guild`](Self::write_guild) refer to. Finishes the removal of
    /// deleted roles in all guilds first, because that can add to the tables, and because state files do not contain
    /// it.
    pub fn write_tables(&mut self, out: &mut Vec<u8>) {
        {
            let (guilds, mut context) = self.split();
            for guild in guilds.values_mut() {
                while guild.removal.is_some() {
                    guild.continue_role_removal(&mut context);
                }
            }
        }
        let Tables { templates, strings, .. } = &*self.tables.borrow();
        write_varint(out, templates.len() as u64);
        templates.skeletons().for_each(|skeleton| write_bytes(out, skeleton));
        write_varint(out, strings.len() as u64);
        strings.iter().for_each(|string| write_bytes(out, string));
    }

    /// Appends a guild. Returns false, and appends nothing, when the guild is unknown or unavailable.
    pub fn write_guild(&self, id: u64, out: &mut Vec<u8>) -> bool {
        let Some(guild) = self.guilds.get(&id) else { return false };
        let Some(fields) = &guild.fields else { return false };
        write(guild, id, fields, out);
        true
    }

    /// Reads what [`write_tables`](Self::write_tables) has written. If the tables of this thread agree with it, they
    /// take over what they lack; otherwise the returned [`Origin`] keeps the tables of the file. `None` when the bytes
    /// are not well-formed.
    pub fn read_tables(&mut self, bytes: &[u8]) -> Option<Origin> {
        let tables = read_tables(bytes)?;
        let mut own = self.tables.borrow_mut();
        let shared = own.agrees_with(&tables) && own.extend_from(&tables);
        Some(Origin { tables: (!shared).then(|| SharedTables::new(tables.into())) })
    }

    /// Reads a guild that [`write_guild`](Self::write_guild) has written, and adds the guild to the cache, in place of
    /// a guild with the same id. Returns the id. `origin` is what [`read_tables`](Self::read_tables) has returned for
    /// the same state file. `None`, and no guild of the cache changed, when the bytes are not well-formed, or when the
    /// guild has entities that the flags of the cache exclude.
    pub fn read_guild(&mut self, origin: &Origin, bytes: &[u8]) -> Option<u64> {
        let user = self.user_id;
        let (_, mut context) = self.split();
        let (id, guild) = match &origin.tables {
            None => {
                let (id, guild) = read(&context, &context.tables, bytes)?;
                for kind in Kind::ALL {
                    context.totals[kind as usize] += guild.count(kind);
                }
                (id, guild)
            }
            Some(tables) => {
                let (_, guild) = read(&context, &tables.borrow(), bytes)?;
                let mut snapshot = GuildSnapshot::new(&guild, tables, View::ALL, &context.flags, user);
                let mut text = Vec::new();
                while !snapshot.write(&mut text, usize::MAX / 2) {}
                // The text is in plain spelling, because only that is stored.
                context.encoder.strict = false;
                let created = create(&mut context, &text);
                context.encoder.strict = true;
                let Ok(Created::Guild(id, mut encoded_again)) = created else { return None };
                encoded_again.membership = guild.membership;
                (id, *encoded_again)
            }
        };
        drop(context);
        self.insert(id, guild);
        Some(id)
    }
}

#[cfg(test)]
mod tests;
