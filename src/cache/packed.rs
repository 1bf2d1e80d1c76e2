//! Guilds in the form in which they are kept, as bytes for another process.
//!
//! Owns the form: of the tables that all records of a thread refer to, and of one guild. A guild's records go out and come
//! in as they are, so it takes a copy and a look at each, not JSON.
//!
//! Promises: what comes in shows what went out; no bytes make it panic, take more memory than they deserve, or lead to a
//! guild that is not well-formed. Where the tables of this thread have come to mean something else than those of the file,
//! guilds are made anew of their text. Never: does I/O, keeps an older form readable (whoever stores the bytes has to note
//! a version that changes with this module, with the codec and with the list of kinds).

use super::{
    Cache, View,
    codec::{
        Shared, Tables,
        decode::Decoder,
        values::{Reader, write_varint},
    },
    guild::{self, Created, Guild, Kit},
    kind::Kind,
    membership::Membership,
    snapshot::GuildSnapshot,
    store::Store,
};
use crate::protocol::json;

/// No text of an entity is longer, because no payload of Discord is: a few bytes could otherwise stand for gigabytes.
const MAX_TEXT: usize = 256 << 20;

/// Tables that came in: what the records behind them refer to.
pub struct Origin {
    /// `None`: those of this thread.
    tables: Option<Shared>,
}

fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn read_bytes<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    let length = reader.length()?;
    reader.take(length)
}

fn read_tables(bytes: &[u8]) -> Option<Tables> {
    let mut tables = Tables::default();
    let mut reader = Reader { bytes };
    for _ in 0..reader.varint()? {
        tables.templates.add(read_bytes(&mut reader)?)?;
    }
    for _ in 0..reader.varint()? {
        tables.words.add(read_bytes(&mut reader)?)?;
    }
    reader.bytes.is_empty().then_some(tables)
}

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
        let chunks = guild.array(kind).store.share();
        write_varint(out, chunks.iter().map(|chunk| chunk.len() as u64).sum());
        chunks.iter().for_each(|chunk| out.extend_from_slice(chunk));
    }
}

/// A guild whose records refer to `tables`, and its id.
fn read(kit: &Kit<'_>, tables: &Tables, bytes: &[u8]) -> Option<(u64, Guild)> {
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
        for number in 0..reader.varint()? {
            if ids.find_or_add(reader.number::<8>()?) != Some(number) {
                return None;
            }
        }
    }
    check_fields(&guild, tables)?;
    for kind in Kind::ALL {
        let store = Store::from_records(read_bytes(&mut reader)?)?;
        if !store.is_empty() && !kind.is_on(&kit.flags) {
            return None;
        }
        let mut text = 0usize;
        {
            let ids = guild.ids.borrow();
            let decoder = Decoder { tables, ids: &ids };
            for (key, record) in store.iter() {
                text = text.checked_add(check(&decoder, key, record)?)?;
            }
        }
        guild.arrays[kind as usize] = guild::Array { store, text };
    }
    // Whom of the members it keeps depends on the voice states, which come later.
    let are_kept = guild.array(Kind::Members).store.iter().all(|(user, _)| guild.keeps(kit, Kind::Members, user));
    (reader.bytes.is_empty() && are_kept).then_some((id, guild))
}

/// The length of a record's text, which is an object of JSON.
fn check(decoder: &Decoder<'_>, key: u64, record: &[u8]) -> Option<usize> {
    decoder.check(key, record).filter(|length| *length <= MAX_TEXT)
}

fn check_fields(guild: &Guild, tables: &Tables) -> Option<()> {
    let (key, record) = guild.fields.as_ref()?.split_first_chunk::<8>()?;
    check(&Decoder { tables, ids: &guild.ids.borrow() }, u64::from_le_bytes(*key), record)?;
    json::for_each_entry(&guild.fields_text(tables)?, |_, _| true).ok()
}

impl Cache {
    /// Appends the tables that the guilds of [`write_guild`](Self::write_guild) refer to. What is under way in guilds is
    /// brought to its end before, so that they need nothing else.
    pub fn write_tables(&mut self, out: &mut Vec<u8>) {
        {
            let (guilds, mut parts) = self.parts();
            let mut kit = parts.kit();
            for guild in guilds.values_mut() {
                while guild.sweep.is_some() {
                    guild.continue_sweep(&mut kit);
                }
            }
        }
        let Tables { templates, words, .. } = &*self.tables.borrow();
        write_varint(out, templates.len() as u64);
        templates.iter().for_each(|template| write_bytes(out, &template.skeleton));
        write_varint(out, words.len() as u64);
        words.iter().for_each(|word| write_bytes(out, word));
    }

    /// Appends a guild. False: it is not available, and there is nothing of it to write.
    pub fn write_guild(&self, id: u64, out: &mut Vec<u8>) -> bool {
        let Some(guild) = self.guilds.get(&id) else { return false };
        let Some(fields) = &guild.fields else { return false };
        write(guild, id, fields, out);
        true
    }

    /// Takes in what [`write_tables`](Self::write_tables) has written. Those of this thread grow by them, unless numbers
    /// mean something else here. `None`: the bytes are not of this form.
    pub fn read_tables(&mut self, bytes: &[u8]) -> Option<Origin> {
        let tables = read_tables(bytes)?;
        let mut own = self.tables.borrow_mut();
        let shared = own.agrees_with(&tables) && own.catch_up(&tables);
        Some(Origin { tables: (!shared).then(|| Shared::new(tables.into())) })
    }

    /// Takes in a guild that [`write_guild`](Self::write_guild) has written, with the tables that were written before it,
    /// and returns its id. `None`: the bytes are not of this form, and nothing has changed.
    pub fn read_guild(&mut self, origin: &Origin, bytes: &[u8]) -> Option<u64> {
        let user = self.user_id;
        let (_, mut parts) = self.parts();
        let (id, guild) = match &origin.tables {
            None => {
                let kit = parts.kit();
                let (id, guild) = read(&kit, kit.tables, bytes)?;
                for kind in Kind::ALL {
                    kit.totals[kind as usize] += guild.len(kind);
                }
                (id, guild)
            }
            Some(tables) => {
                let (_, guild) = read(&parts.kit(), &tables.borrow(), bytes)?;
                let mut snapshot = GuildSnapshot::new(&guild, tables, View::ALL, &parts.flags, user);
                let mut text = Vec::new();
                while !snapshot.write(&mut text, usize::MAX / 2) {}
                // It was in plain spelling when it was kept.
                parts.encoder.strict = false;
                let created = guild::create(&mut parts.kit(), &text);
                parts.encoder.strict = true;
                let Ok(Created::Guild(id, mut made)) = created else { return None };
                made.membership = guild.membership;
                (id, *made)
            }
        };
        drop(parts);
        self.insert(id, guild);
        Some(id)
    }
}

#[cfg(test)]
mod tests;
