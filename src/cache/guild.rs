//! One guild: its own fields, and the arrays of what it has, all packed.

use super::{
    codec::{
        Tables,
        decode::{self, Decoder},
        encode::{Encoded, Encoder, IdPath, Shape},
        ids::Ids,
    },
    flags::Flags,
    kind::Kind,
    membership::Membership,
    roles::Sweep,
    store::{self, Place, Store},
};
use crate::protocol::{
    edit,
    json::{self, Malformed},
};
use std::{cell::RefCell, rc::Rc};

/// What it takes to read and change guilds.
pub struct Kit<'a> {
    pub flags: Flags,
    /// The bot itself.
    pub user: Option<u64>,
    pub tables: &'a mut Tables,
    pub encoder: &'a mut Encoder,
    /// Text of an entity that is being changed.
    pub scratch: &'a mut Vec<u8>,
    /// Entities of all guilds, by kind.
    pub totals: &'a mut [usize; Kind::COUNT],
}

impl Kit<'_> {
    /// The shape of an entity of an event, which says more than one of GUILD_CREATE.
    pub fn shape(&self, kind: Kind, leave_out: &'static [&'static str]) -> Shape {
        Shape { leave_out, ..kind.shape(&self.flags) }
    }
}

/// Entities of one kind.
#[derive(Default)]
pub struct Array {
    pub store: Store,
    /// Bytes of their JSON text, without commas.
    pub text: usize,
}

/// See the module's description.
#[derive(Default)]
pub struct Guild {
    /// Its own fields in Discord's order, with empty arrays in place of those that are kept by entity, packed. `None`:
    /// it is not available.
    pub(super) fields: Option<Box<[u8]>>,
    /// GUILD_DELETE has said that it is down.
    pub(super) down: bool,
    /// `member_count`, which joins and leaves move.
    pub(super) member_count: Option<u64>,
    /// Are all members known?
    pub(super) membership: Membership,
    /// Roles that are being taken from members.
    pub(super) sweep: Option<Box<Sweep>>,
    pub(super) ids: Rc<RefCell<Ids>>,
    pub(super) arrays: [Array; Kind::COUNT],
}

impl Guild {
    /// One that READY has named.
    pub fn unavailable() -> Self {
        Self::default()
    }

    /// Is it there?
    pub fn is_available(&self) -> bool {
        self.fields.is_some()
    }

    /// An outage: everything but the id is forgotten, as clients do.
    pub fn go_down(&mut self, totals: &mut [usize; Kind::COUNT]) {
        self.uncount(totals);
        *self = Self { down: true, ..Self::default() };
    }

    /// Takes what it has from the totals, because it goes.
    pub fn uncount(&self, totals: &mut [usize; Kind::COUNT]) {
        for (total, array) in totals.iter_mut().zip(&self.arrays) {
            *total -= array.store.len();
        }
    }

    /// The array of a kind.
    pub fn array(&self, kind: Kind) -> &Array {
        &self.arrays[kind as usize]
    }

    fn array_mut(&mut self, kind: Kind) -> &mut Array {
        &mut self.arrays[kind as usize]
    }

    /// Is this entity one that is kept? Of members, when not all are: the bot itself, and who is in a voice channel.
    pub fn keeps(&self, kit: &Kit<'_>, kind: Kind, id: u64) -> bool {
        let Flags { members, current_member, voice_states, .. } = kit.flags;
        let is_member_kept =
            || members || (current_member && Some(id) == kit.user) || (voice_states && self.has(Kind::VoiceStates, id));
        kind.is_on(&kit.flags) && (kind != Kind::Members || is_member_kept())
    }

    /// Is this somebody who is known, and counted as a member?
    pub fn counts(&self, kit: &Kit<'_>, user: u64) -> bool {
        let place = self.array(Kind::Members).store.find(user);
        place.is_some_and(|place| !self.is_guest(kit, self.array(Kind::Members).store.record(place)))
    }

    /// Is the record that of a member who is a guest?
    pub fn is_guest(&self, kit: &Kit<'_>, record: &[u8]) -> bool {
        Decoder { tables: kit.tables, ids: &self.ids.borrow() }.is_guest(record)
    }

    /// How many of a kind there are.
    pub fn len(&self, kind: Kind) -> usize {
        self.array(kind).store.len()
    }

    /// Is this entity known?
    pub fn has(&self, kind: Kind, id: u64) -> bool {
        self.array(kind).store.find(id).is_some()
    }

    /// The JSON text of an entity.
    pub fn read<'k>(&self, kit: &'k mut Kit<'_>, kind: Kind, id: u64) -> Option<&'k [u8]> {
        let place = self.array(kind).store.find(id)?;
        self.read_at(kit, kind, id, place)?;
        Some(kit.scratch)
    }

    fn read_at(&self, kit: &mut Kit<'_>, kind: Kind, id: u64, place: Place) -> Option<()> {
        kit.scratch.clear();
        let ids = self.ids.borrow();
        let decoder = Decoder { tables: kit.tables, ids: &ids };
        decoder.decode(id, self.array(kind).store.record(place), kit.scratch)
    }

    /// Packs the entity that begins at `at` in `text`; its record is in the kit.
    pub fn encode(&self, kit: &mut Kit<'_>, shape: &Shape, text: &[u8], at: usize) -> Result<Encoded, Malformed> {
        kit.encoder.encode(kit.tables, &mut self.ids.borrow_mut(), shape, text, at)
    }

    /// Packs a text that is known to be in plain spelling, because it is made of such texts.
    fn encode_plain(&self, kit: &mut Kit<'_>, shape: &Shape, text: &[u8]) -> Result<Encoded, Malformed> {
        let strict = std::mem::replace(&mut kit.encoder.strict, false);
        let encoded = self.encode(kit, shape, text, 0);
        kit.encoder.strict = strict;
        encoded
    }

    /// Keeps the record that was just packed, in place of the old one or at the end.
    pub fn keep(&mut self, kit: &mut Kit<'_>, kind: Kind, encoded: Encoded) {
        match self.array(kind).store.find(encoded.key) {
            Some(place) => self.keep_at(kit, kind, encoded, place),
            None => {
                let array = self.array_mut(kind);
                array.store.push(encoded.key, kit.encoder.record());
                array.text += encoded.length;
                kit.totals[kind as usize] += 1;
            }
        }
    }

    fn keep_at(&mut self, kit: &mut Kit<'_>, kind: Kind, encoded: Encoded, place: Place) {
        let old = self.text_length(kind, place);
        let array = self.array_mut(kind);
        array.store.replace(place, kit.encoder.record());
        array.text = array.text + encoded.length - old;
    }

    fn text_length(&self, kind: Kind, place: Place) -> usize {
        decode::text_length(self.array(kind).store.record(place)).unwrap_or(0)
    }

    /// Sets an entity, if it is one that is kept; returns its id, if it has one.
    pub fn set(&mut self, kit: &mut Kit<'_>, kind: Kind, shape: &Shape, text: &[u8]) -> Result<Option<u64>, Malformed> {
        let encoded = self.encode(kit, shape, text, 0)?;
        if encoded.key == 0 {
            return Ok(None);
        }
        if self.keeps(kit, kind, encoded.key) {
            self.keep(kit, kind, encoded);
        }
        Ok(Some(encoded.key))
    }

    /// Puts an entity over what is known of it: keys that it does not have stay as they are. Returns its id.
    pub fn merge(
        &mut self,
        kit: &mut Kit<'_>,
        kind: Kind,
        shape: &Shape,
        text: &[u8],
    ) -> Result<Option<u64>, Malformed> {
        let new = self.encode(kit, shape, text, 0)?;
        if new.key == 0 {
            return Ok(None);
        }
        if self.keeps(kit, kind, new.key) {
            match self.array(kind).store.find(new.key) {
                Some(place) => self.merge_at(kit, kind, shape, text, new, place)?,
                None => self.keep(kit, kind, new),
            }
        }
        Ok(Some(new.key))
    }

    /// As [`merge`](Self::merge), but what is not known stays so. False: it is not known.
    pub fn merge_known(
        &mut self,
        kit: &mut Kit<'_>,
        kind: Kind,
        shape: &Shape,
        text: &[u8],
    ) -> Result<bool, Malformed> {
        let new = self.encode(kit, shape, text, 0)?;
        let Some(place) = self.array(kind).store.find(new.key) else { return Ok(false) };
        self.merge_at(kit, kind, shape, text, new, place)?;
        Ok(true)
    }

    /// Puts the entity that was just packed over the one that is there.
    fn merge_at(
        &mut self,
        kit: &mut Kit<'_>,
        kind: Kind,
        shape: &Shape,
        text: &[u8],
        new: Encoded,
        place: Place,
    ) -> Result<(), Malformed> {
        let old = self.array(kind).store.record(place);
        let merged = kit.encoder.merge(kit.tables, &self.ids.borrow(), new, old);
        if let Some(merged) = merged {
            self.keep_at(kit, kind, merged, place);
        } else if self.read_at(kit, kind, new.key, place).is_some() {
            let merged = edit::merge(kit.scratch, text, shape.leave_out)?;
            let merged = self.encode_plain(kit, &Shape { leave_out: &[], ..*shape }, &merged)?;
            self.keep_at(kit, kind, Encoded { key: new.key, ..merged }, place);
        }
        Ok(())
    }

    /// Changes the text of an entity, which is in plain spelling before and after. `None` from `change` leaves it. False: the entity is not known.
    pub fn edit(
        &mut self,
        kit: &mut Kit<'_>,
        kind: Kind,
        id: u64,
        change: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, Malformed>,
    ) -> Result<bool, Malformed> {
        let Some(place) = self.array(kind).store.find(id) else { return Ok(false) };
        if self.read_at(kit, kind, id, place).is_none() {
            return Ok(false);
        }
        if let Some(text) = change(kit.scratch)? {
            let shape = kind.shape(&kit.flags);
            let encoded = self.encode_plain(kit, &shape, &text)?;
            self.keep_at(kit, kind, Encoded { key: id, ..encoded }, place);
        }
        Ok(true)
    }

    /// Writes over packed bytes of an entity whose text stays as long as it is.
    pub fn patch(&mut self, kind: Kind, place: Place, at: usize, bytes: &[u8]) {
        self.array_mut(kind).store.overwrite(place, at, bytes);
    }

    /// Forgets an entity. False: it was not known.
    pub fn remove(&mut self, kit: &mut Kit<'_>, kind: Kind, id: u64) -> bool {
        let Some(place) = self.array(kind).store.find(id) else { return false };
        let length = self.text_length(kind, place);
        let array = self.array_mut(kind);
        array.store.remove(place);
        array.text -= length;
        kit.totals[kind as usize] -= 1;
        true
    }

    /// Forgets all entities of a kind.
    pub fn clear(&mut self, kit: &mut Kit<'_>, kind: Kind) {
        kit.totals[kind as usize] -= self.len(kind);
        *self.array_mut(kind) = Array::default();
    }

    /// Forgets the threads for which `goes` is true of their parent.
    pub fn remove_threads(&mut self, kit: &mut Kit<'_>, goes: impl Fn(Option<u64>) -> bool) {
        let mut going = Vec::new();
        {
            let ids = self.ids.borrow();
            let decoder = Decoder { tables: kit.tables, ids: &ids };
            for (id, record) in self.array(Kind::Threads).store.iter() {
                kit.scratch.clear();
                if decoder.decode(id, record, kit.scratch).is_some() && goes(edit::id_at(kit.scratch, &["parent_id"])) {
                    going.push(id);
                }
            }
        }
        for id in going {
            self.remove(kit, Kind::Threads, id);
        }
    }

    /// Sets its own fields from their JSON text, in which arrays that are kept by entity are empty. Returns its id, which is
    /// 0 when there is none.
    pub fn set_fields(&mut self, kit: &mut Kit<'_>, text: &[u8]) -> Result<u64, Malformed> {
        let shape = Shape { loose: true, ..Shape::of(IdPath::At("id")) };
        let encoded = self.encode(kit, &shape, text, 0)?;
        let key = encoded.key.to_le_bytes();
        self.fields = Some([&key, kit.encoder.record()].concat().into());
        Ok(encoded.key)
    }

    /// The JSON text of its own fields; nothing when it is not available.
    pub fn fields_text(&self, tables: &Tables) -> Option<Vec<u8>> {
        let (key, record) = self.fields.as_ref()?.split_first_chunk::<8>()?;
        let mut text = Vec::with_capacity(2_048);
        let ids = self.ids.borrow();
        Decoder { tables, ids: &ids }.decode(u64::from_le_bytes(*key), record, &mut text)?;
        Some(text)
    }

    /// Somebody joined or left.
    pub fn move_member_count(&mut self, by: i64) {
        if let Some(count) = &mut self.member_count {
            *count = count.saturating_add_signed(by);
        }
    }

    /// How many members there are, guests included, if all of them are in the cache.
    pub fn complete_members(&self) -> Option<usize> {
        (self.is_available() && self.membership.is_complete()).then(|| self.len(Kind::Members))
    }

    /// Does a GUILD_CREATE that said this of `large` list all members?
    fn lists_all_members(&self, kit: &Kit<'_>, is_large: bool) -> bool {
        let store = &self.array(Kind::Members).store;
        let Some(count) = self.member_count.filter(|_| kit.flags.members && !is_large) else { return false };
        if (store.len() as u64) < count {
            return false;
        }
        let ids = self.ids.borrow();
        let decoder = Decoder { tables: kit.tables, ids: &ids };
        store.iter().filter(|(id, record)| *id != 0 && !decoder.is_guest(record)).count() as u64 == count
    }

    /// Bytes on the heap, its own included.
    pub fn heap(&self) -> usize {
        let arrays: usize = self.arrays.iter().map(|array| array.store.heap()).sum();
        let fields = self.fields.as_ref().map_or(0, |fields| fields.len()) + self.membership.heap();
        let ids = size_of::<RefCell<Ids>>() + 2 * size_of::<usize>() + self.ids.borrow().heap();
        size_of::<Self>() + arrays + fields + ids
    }
}

/// What a GUILD_CREATE has brought.
pub enum Created {
    /// The guild of this id.
    Guild(u64, Box<Guild>),
    /// Only that the guild of this id is down.
    Down(u64),
}

/// Reads the data of a GUILD_CREATE. What it adds to the totals is taken back when it brings no guild.
pub fn create(kit: &mut Kit<'_>, data: &[u8]) -> Result<Created, Malformed> {
    let mut guild = Box::<Guild>::default();
    let result = match fill(&mut guild, kit, data) {
        Ok((0, _)) => Err(Malformed { what: "a guild without id", at: 0 }),
        Ok((id, true)) => Ok(Created::Down(id)),
        Ok((id, false)) => return Ok(Created::Guild(id, guild)),
        Err(malformed) => Err(malformed),
    };
    guild.uncount(kit.totals);
    result
}

/// Returns the guild's id, 0 when it has none, and whether it says that it is down.
fn fill(guild: &mut Guild, kit: &mut Kit<'_>, data: &[u8]) -> Result<(u64, bool), Malformed> {
    let mut fields = edit::ObjectWriter::new(2_048);
    let mut base = 0;
    let mut cursor = json::Cursor::new(data);
    let (mut available, mut down, mut is_large, mut some_members) = (false, false, false, None);
    cursor.expect(b'{', "expected an object")?;
    while !cursor.take(b'}') {
        let key = cursor.string()?;
        cursor.expect(b':', "expected a colon")?;
        match Kind::from_name(key) {
            Some(kind) if cursor.peek() == Some(b'[') => {
                if kind == Kind::Members && !kit.flags.members {
                    // Which of them are kept depends on the voice states, which may come later.
                    some_members = Some(base + cursor.position());
                    cursor.value()?;
                } else if kind.is_on(&kit.flags) {
                    base += cursor.position();
                    base += fill_array(guild, kit, kind, &data[base..])?;
                    cursor = json::Cursor::new(&data[base..]);
                } else {
                    cursor.value()?;
                }
                fields.entry(key, b"[]");
            }
            _ => {
                let value = cursor.value()?;
                match key {
                    // Its absence would tell libraries that the bot has just joined.
                    b"unavailable" => {
                        (available, down) = (true, value == b"true");
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
                return Err(Malformed { what: "a comma before the end", at: base + cursor.position() });
            }
        }
    }
    cursor.end()?;
    if !available {
        fields.entry(b"unavailable", b"false");
    }
    if let Some(at) = some_members.filter(|_| Kind::Members.is_on(&kit.flags)) {
        fill_some_members(guild, kit, &data[at..])?;
    }
    // Every key has gone into these, so here the whole object turns out to be in plain spelling or not.
    let id = guild.set_fields(kit, &fields.finish())?;
    guild.membership = Membership::new(guild.lists_all_members(kit, is_large));
    for array in &mut guild.arrays {
        array.store.shrink_to_fit();
    }
    guild.ids.borrow_mut().shrink_to_fit();
    Ok((id, down))
}

/// Takes in those of the array at the start of `data` that are kept when not all members are. Most need not be taken apart
/// to see that they are not among them.
fn fill_some_members(guild: &mut Guild, kit: &mut Kit<'_>, data: &[u8]) -> Result<(), Malformed> {
    let shape = Kind::Members.shape(&kit.flags);
    let own = kit.user.unwrap_or(0).to_string();
    let nobody_in_voice = guild.len(Kind::VoiceStates) == 0;
    each_object(data, |at| {
        let element = json::Cursor::new(&data[at..]).value()?;
        let may_be_kept = !nobody_in_voice || memchr::memmem::find(element, own.as_bytes()).is_some();
        if may_be_kept && edit::id_at(element, &["user", "id"]).is_some_and(|id| guild.keeps(kit, Kind::Members, id)) {
            guild.set(kit, Kind::Members, &shape, element)?;
        }
        Ok(at + element.len())
    })?;
    Ok(())
}

/// Takes in the array at the start of `data`; returns where it ends.
fn fill_array(guild: &mut Guild, kit: &mut Kit<'_>, kind: Kind, data: &[u8]) -> Result<usize, Malformed> {
    guild.clear(kit, kind);
    let shape = kind.shape(&kit.flags);
    // All at once: to look for each one among those before it would take as long as to pack it.
    let (mut records, mut text) = (Vec::new(), 0);
    let end = each_object(data, |at| {
        let encoded = guild.encode(kit, &shape, data, at)?;
        store::write_record(&mut records, encoded.key, kit.encoder.record());
        text += encoded.length;
        Ok(encoded.end)
    })?;
    if let Some(store) = Store::from_records(&records) {
        kit.totals[kind as usize] += store.len();
        *guild.array_mut(kind) = Array { store, text };
        return Ok(end);
    }
    // One of them comes twice.
    each_object(data, |at| {
        let encoded = guild.encode(kit, &shape, data, at)?;
        guild.keep(kit, kind, encoded);
        Ok(encoded.end)
    })
}

/// Calls `each` with the start of every object of the array at the start of `data`; it returns where the object ends.
/// Returns where the array ends.
fn each_object(data: &[u8], mut each: impl FnMut(usize) -> Result<usize, Malformed>) -> Result<usize, Malformed> {
    let mut base = 0;
    let mut cursor = json::Cursor::new(data);
    cursor.expect(b'[', "expected an array")?;
    if cursor.take(b']') {
        return Ok(cursor.position());
    }
    loop {
        if cursor.peek() != Some(b'{') {
            return Err(Malformed { what: "expected an object", at: base + cursor.position() });
        }
        base = each(base + cursor.position())?;
        cursor = json::Cursor::new(&data[base..]);
        if cursor.take(b']') {
            return Ok(base + cursor.position());
        }
        cursor.expect(b',', "expected a comma")?;
    }
}

/// Fails when it is not a well-formed array of objects.
fn check_array(array: &[u8]) -> Result<(), Malformed> {
    let sound = serde_json::from_slice::<serde::de::IgnoredAny>(array).is_ok()
        && json::elements(array)?.iter().all(|element| element.starts_with(b"{"));
    if sound { Ok(()) } else { Err(Malformed { what: "expected an array of objects", at: 0 }) }
}

impl Guild {
    /// Replaces all entities of a kind by those of a JSON array. When that is malformed, nothing changes.
    pub fn replace_all(&mut self, kit: &mut Kit<'_>, kind: Kind, array: &[u8]) -> Result<(), Malformed> {
        check_array(array)?;
        self.replace_checked(kit, kind, array)
    }

    fn replace_checked(&mut self, kit: &mut Kit<'_>, kind: Kind, array: &[u8]) -> Result<(), Malformed> {
        if !kind.is_on(&kit.flags) {
            return Ok(());
        }
        fill_array(self, kit, kind, array)?;
        self.array_mut(kind).store.shrink_to_fit();
        Ok(())
    }

    /// Is this array just what is known?
    fn repeats(&self, kit: &mut Kit<'_>, kind: Kind, array: &[u8]) -> bool {
        let array_of_guild = self.array(kind);
        let count = array_of_guild.store.len();
        // The brackets, and a comma between two.
        if !kind.is_on(&kit.flags) || array.len() != array_of_guild.text + count.saturating_sub(1) + 2 {
            return false;
        }
        let ids = self.ids.borrow();
        let decoder = Decoder { tables: kit.tables, ids: &ids };
        let mut rest = array;
        for (number, (id, record)) in array_of_guild.store.iter().enumerate() {
            kit.scratch.clear();
            kit.scratch.push(if number == 0 { b'[' } else { b',' });
            let same = decoder.decode(id, record, kit.scratch).and_then(|()| rest.strip_prefix(kit.scratch.as_slice()));
            let Some(behind) = same else { return false };
            rest = behind;
        }
        rest == if count == 0 { &b"[]"[..] } else { b"]" }
    }

    /// The data of a GUILD_UPDATE, in plain spelling: fields, and arrays of the guild object, that it names replace the old ones.
    pub fn update(&mut self, kit: &mut Kit<'_>, data: &[u8]) -> Result<(), Malformed> {
        let Some(old) = self.fields_text(kit.tables) else { return Ok(()) };
        let mut fields = edit::ObjectWriter::new(data.len());
        let mut arrays = Vec::new();
        json::for_each_entry(data, |key, value| {
            match Kind::from_name(key) {
                Some(kind) if value.starts_with(b"[") => {
                    if kind.is_of_guild_object() {
                        arrays.push((kind, value));
                        fields.entry(key, b"[]");
                    }
                }
                _ if matches!(key, b"unavailable" | b"member_count" | b"large" | b"guild_id") => {}
                _ => fields.entry(key, value),
            }
            true
        })?;
        let merged = edit::merge(&old, &fields.finish(), &[])?;
        if serde_json::from_slice::<serde::de::IgnoredAny>(&merged).is_err() {
            return Err(Malformed { what: "not JSON", at: 0 });
        }
        // Mostly nothing has changed in them.
        arrays.retain(|(kind, array)| !self.repeats(kit, *kind, array));
        for (_, array) in &arrays {
            check_array(array)?;
        }
        for (kind, array) in arrays {
            self.replace_checked(kit, kind, array)?;
        }
        self.set_fields(kit, &merged).map(drop)
    }
}
