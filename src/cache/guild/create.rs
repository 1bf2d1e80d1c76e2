//! Reading a GUILD_CREATE into a new guild (docs: Gateway Events, Guild Create; Guild, Guild Structure).
//!
//! The data is read once from left to right. The entities of each array go into a store; all other keys go into the
//! guild's own fields, in which the arrays are left empty.

use super::{Array, Context, Guild};
use crate::{
    cache::{
        codec::{Decoder, EncodeError},
        kind::Kind,
        membership::Membership,
        store::{self, Store},
    },
    protocol::{
        edit,
        json::{self, Malformed},
    },
};

/// What a GUILD_CREATE has brought.
pub(in crate::cache) enum Created {
    /// A guild, with its id.
    Guild(u64, Box<Guild>),
    /// The guild with this id has an outage.
    Down(u64),
}

/// Reads the data of a GUILD_CREATE. The entities of the new guild are added to the context's totals, unless no guild
/// is returned.
///
/// # Errors
///
/// The data is malformed or has no id, or a strict encoder finds that it is not in plain spelling.
pub(in crate::cache) fn create(context: &mut Context<'_>, data: &[u8]) -> Result<Created, EncodeError> {
    let mut guild = Box::<Guild>::default();
    let result = match fill(&mut guild, context, data) {
        Ok((0, _)) => Err(Malformed { what: "a guild without id", at: 0 }.into()),
        Ok((id, true)) => Ok(Created::Down(id)),
        Ok((id, false)) => return Ok(Created::Guild(id, guild)),
        Err(error) => Err(error),
    };
    guild.uncount(context.totals);
    result
}

/// Fills `guild`. Returns its id, which is 0 when the data has none, and whether the data says that the guild has an
/// outage.
fn fill(guild: &mut Guild, context: &mut Context<'_>, data: &[u8]) -> Result<(u64, bool), EncodeError> {
    let mut fields = edit::ObjectWriter::new(2_048);
    // Arrays are read by the encoder. Behind one a new cursor starts at `base`.
    let mut base = 0;
    let mut cursor = json::Cursor::new(data);
    let (mut has_unavailable, mut down, mut is_large, mut members_at) = (false, false, false, None);
    cursor.expect(b'{', "expected an object")?;
    while !cursor.take(b'}') {
        let key = cursor.string()?;
        cursor.expect(b':', "expected a colon")?;
        match Kind::from_name(key) {
            Some(kind) if cursor.peek() == Some(b'[') => {
                if kind == Kind::Members && !context.flags.members {
                    // Which members are cached depends on the voice states, which can come later.
                    members_at = Some(base + cursor.position());
                    cursor.value()?;
                } else if kind.is_on(&context.flags) {
                    base += cursor.position();
                    base += fill_array(guild, context, kind, &data[base..])?;
                    cursor = json::Cursor::new(&data[base..]);
                } else {
                    cursor.value()?;
                }
                fields.entry(key, b"[]");
            }
            _ => {
                let value = cursor.value()?;
                match key {
                    // Libraries take a GUILD_CREATE without this key for the guild's first: the bot has just joined.
                    b"unavailable" => {
                        (has_unavailable, down) = (true, value == b"true");
                        fields.entry(key, b"false");
                    }
                    b"member_count" => {
                        guild.member_count = json::parse_id(value);
                        fields.entry(key, value);
                    }
                    b"large" => {
                        is_large = value == b"true";
                        fields.entry(key, value);
                    }
                    _ => fields.entry(key, value),
                }
            }
        }
        if cursor.peek() != Some(b'}') {
            cursor.expect(b',', "expected a comma")?;
            if cursor.peek() == Some(b'}') {
                return Err(Malformed { what: "a comma before the end", at: base + cursor.position() }.into());
            }
        }
    }
    cursor.end()?;
    if !has_unavailable {
        fields.entry(b"unavailable", b"false");
    }
    if let Some(at) = members_at.filter(|_| Kind::Members.is_on(&context.flags)) {
        fill_cached_members(guild, context, &data[at..])?;
    }
    // The fields have every key of the object, so a strict encoder checks here that the object itself is in plain
    // spelling.
    let id = guild.set_fields(context, &fields.finish())?;
    guild.membership = Membership::new(guild.lists_all_members(context, is_large));
    for array in &mut guild.arrays {
        array.store.shrink_to_fit();
    }
    guild.ids.borrow_mut().shrink_to_fit();
    Ok((id, down))
}

/// Reads the array of members at the start of `data` when not all members are cached, and stores those that are (see
/// [`Guild::is_cached`]).
fn fill_cached_members(guild: &mut Guild, context: &mut Context<'_>, data: &[u8]) -> Result<(), EncodeError> {
    let shape = Kind::Members.shape(&context.flags);
    let own = context.user.unwrap_or(0).to_string();
    let nobody_in_voice = guild.count(Kind::VoiceStates) == 0;
    each_object(data, |at| {
        let element = json::Cursor::new(&data[at..]).value()?;
        // With nobody in voice only the bot's own member can be cached. A search for its id rules out nearly all
        // others.
        let may_be_cached = !nobody_in_voice || memchr::memmem::find(element, own.as_bytes()).is_some();
        if may_be_cached
            && edit::id_at(element, &["user", "id"]).is_some_and(|id| guild.is_cached(context, Kind::Members, id))
        {
            guild.set(context, Kind::Members, &shape, element)?;
        }
        Ok(at + element.len())
    })?;
    Ok(())
}

/// Replaces all entities of a kind by those of the array at the start of `data`. Returns the offset behind the array.
/// On an error the guild is left without entities of this kind, or with a part of the new ones.
pub(super) fn fill_array(
    guild: &mut Guild,
    context: &mut Context<'_>,
    kind: Kind,
    data: &[u8],
) -> Result<usize, EncodeError> {
    guild.clear(context, kind);
    let shape = kind.shape(&context.flags);
    // All records are put into the store at once: searching for each id before storing it would take as long as
    // encoding it.
    let (mut records, mut text) = (Vec::new(), 0);
    let end = each_object(data, |at| {
        let encoded = guild.encode(context, &shape, data, at)?;
        store::write_record(&mut records, encoded.id, context.encoder.record());
        text += encoded.length;
        Ok(encoded.end)
    })?;
    if let Some(store) = Store::from_records(&records) {
        context.totals[kind as usize] += store.len();
        *guild.array_mut(kind) = Array { store, text };
        return Ok(end);
    }
    // An id occurs twice, so the entities are stored one by one. The last one with an id replaces the others.
    each_object(data, |at| {
        let encoded = guild.encode(context, &shape, data, at)?;
        guild.store_encoded(context, kind, encoded);
        Ok(encoded.end)
    })
}

/// Calls `each` with the offset of every object of the array at the start of `data`. It returns the offset behind the
/// object. Returns the offset behind the array.
fn each_object(data: &[u8], mut each: impl FnMut(usize) -> Result<usize, EncodeError>) -> Result<usize, EncodeError> {
    let mut base = 0;
    let mut cursor = json::Cursor::new(data);
    cursor.expect(b'[', "expected an array")?;
    if cursor.take(b']') {
        return Ok(cursor.position());
    }
    loop {
        if cursor.peek() != Some(b'{') {
            return Err(Malformed { what: "expected an object", at: base + cursor.position() }.into());
        }
        base = each(base + cursor.position())?;
        cursor = json::Cursor::new(&data[base..]);
        if cursor.take(b']') {
            return Ok(base + cursor.position());
        }
        cursor.expect(b',', "expected a comma")?;
    }
}

impl Guild {
    /// Whether the members that GUILD_CREATE listed are all members of the guild. They are when members are cached, the
    /// event says that the guild is not large, and the number of listed members is its `member_count`. Guests, and
    /// members without an id, are not among that number.
    fn lists_all_members(&self, context: &Context<'_>, is_large: bool) -> bool {
        let store = &self.array(Kind::Members).store;
        let Some(count) = self.member_count.filter(|_| context.flags.members && !is_large) else { return false };
        if (store.len() as u64) < count {
            return false;
        }
        let ids = self.ids.borrow();
        let decoder = Decoder { tables: &context.tables, ids: &ids };
        store.iter().filter(|(id, record)| *id != 0 && !decoder.is_guest(record)).count() as u64 == count
    }
}
