//! From JSON text to a record: the number of its template, and its values.

use super::{
    Tables, hash,
    ids::Ids,
    kind::{CONSTANTS, EPOCH_MILLIS, Slot},
    values::{self, parse_decimal, parse_hash, parse_time, varint, write_varint},
    words,
};
use crate::{
    cache::{scan, work},
    protocol::{
        edit,
        json::{self, Malformed},
    },
};
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// Objects nested deeper are kept as text.
pub const MAX_NESTING: usize = 12;
/// Nested objects whose template would be shorter are part of the outer one's.
const INLINE: usize = 64;
/// Strings of digits from this length on are snowflakes.
const SNOWFLAKE_DIGITS: usize = 15;

/// Where the id of a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdPath {
    /// Nowhere.
    None,
    /// At this key.
    At(&'static str),
    /// At `id` of the `user`.
    User,
}

/// What to make of an object.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Where its id stands.
    pub id: IdPath,
    /// Keys to leave out.
    pub leave_out: &'static [&'static str],
    /// Reduce `user` to its id.
    pub bare_user: bool,
    /// Most values differ in kind from object to object, so only the keys make the template.
    pub loose: bool,
}

impl Shape {
    /// An object that is kept whole.
    pub const fn of(id: IdPath) -> Self {
        Self { id, leave_out: &[], bare_user: false, loose: false }
    }
}

/// What an object became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Its id; 0 when it has none.
    pub key: u64,
    /// Length of the text that decoding will give.
    pub length: usize,
    /// Where the object ends in the text.
    pub end: usize,
}

/// Makes records. Keeps its buffers.
#[derive(Default)]
pub struct Encoder {
    skeleton: Vec<u8>,
    record: Vec<u8>,
}

impl Encoder {
    /// Packs the object that begins at `at` in `text`; the result is in [`record`](Self::record). Fails when there is no
    /// well-formed object.
    pub fn encode(
        &mut self,
        tables: &mut Tables,
        ids: &mut Ids,
        shape: &Shape,
        text: &[u8],
        at: usize,
    ) -> Result<Encoded, Malformed> {
        work::add(200);
        for loose in [false, true] {
            if shape.loose && !loose {
                continue;
            }
            self.skeleton.clear();
            self.record.clear();
            let mut walk = Walk {
                text,
                at,
                copied: at,
                skeleton: &mut self.skeleton,
                record: &mut self.record,
                tables,
                ids,
                shape,
                key: 0,
                removed: 0,
            };
            match walk.object(0, loose, false) {
                Ok(()) => {
                    walk.flush(walk.at);
                    let encoded =
                        Encoded { key: walk.key, length: (walk.at - at).wrapping_sub(walk.removed), end: walk.at };
                    if let Some(number) = walk.tables.templates.find_or_add(walk.skeleton, loose) {
                        // 0 marks plain text.
                        insert_varint(&mut self.record, 0, number + 1);
                        return Ok(encoded);
                    }
                }
                Err(Odd) => break,
            }
        }
        self.as_text(shape, text, at)
    }

    /// The fallback: anything that is JSON.
    fn as_text(&mut self, shape: &Shape, text: &[u8], at: usize) -> Result<Encoded, Malformed> {
        let mut cursor = json::Cursor::new(&text[at..]);
        let object = cursor.value()?;
        let end = at + cursor.position();
        if serde_json::from_slice::<IgnoredAny>(object).is_err() || !object.starts_with(b"{") {
            return Err(Malformed { what: "not a JSON object", at });
        }
        let mut object = if shape.leave_out.is_empty() {
            Cow::Borrowed(object)
        } else {
            Cow::Owned(edit::without(object, shape.leave_out)?)
        };
        let key = match shape.id {
            IdPath::None => None,
            IdPath::At(key) => edit::id_at(&object, &[key]),
            IdPath::User => edit::id_at(&object, &["user", "id"]),
        };
        if shape.bare_user
            && let Some(id) = edit::id_at(&object, &["user", "id"])
        {
            object = Cow::Owned(edit::with(&object, "user", format!(r#"{{"id":"{id}"}}"#).as_bytes())?);
        }
        self.record.clear();
        self.record.push(0);
        self.record.extend_from_slice(&object);
        Ok(Encoded { key: key.unwrap_or(0), length: object.len(), end })
    }

    /// The record that the last [`encode`](Self::encode) made.
    pub fn record(&self) -> &[u8] {
        &self.record
    }
}

/// It does not fit into a template; it may still be JSON.
struct Odd;

fn insert_varint(out: &mut Vec<u8>, at: usize, value: u64) {
    let (bytes, length) = varint(value);
    out.splice(at..at, bytes[..length].iter().copied());
}

/// A string, by what it looks like.
enum Found {
    Bytes(Slot, [u8; 16], usize),
    Number(Slot, u64),
    Text,
}

struct Walk<'a> {
    text: &'a [u8],
    at: usize,
    /// The text before this is in the skeleton, in a value, or left out.
    copied: usize,
    skeleton: &'a mut Vec<u8>,
    record: &'a mut Vec<u8>,
    tables: &'a mut Tables,
    ids: &'a mut Ids,
    shape: &'a Shape,
    key: u64,
    /// Bytes of text that were left out.
    removed: usize,
}

impl<'a> Walk<'a> {
    #[inline(always)]
    fn peek(&self) -> Result<u8, Odd> {
        self.text.get(self.at).copied().ok_or(Odd)
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), Odd> {
        if self.text.get(self.at) == Some(&byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(Odd)
        }
    }

    /// A string; returns what is between the quotes.
    #[inline(always)]
    fn string(&mut self) -> Result<&'a [u8], Odd> {
        self.expect(b'"')?;
        let start = self.at;
        let end = scan::string_end(self.text, start).ok_or(Odd)?;
        self.at = end + 1;
        Ok(&self.text[start..end])
    }

    /// Makes the text up to `until` part of the template.
    #[inline(always)]
    fn flush(&mut self, until: usize) {
        self.skeleton.extend_from_slice(&self.text[self.copied..until]);
        self.copied = until;
    }

    /// Puts a slot in place of the text from `start` on.
    #[inline(always)]
    fn slot(&mut self, start: usize, slot: Slot, loose: bool) {
        self.flush(start);
        if loose {
            self.skeleton.push(Slot::Any as u8);
            self.record.push(slot as u8);
        } else {
            self.skeleton.push(slot as u8);
        }
    }

    /// An object, up to behind its closing brace. Its values go into the record, its text into the skeleton, the last
    /// bit of which is left to be flushed.
    fn object(&mut self, depth: usize, loose: bool, in_user: bool) -> Result<(), Odd> {
        if depth > MAX_NESTING {
            return Err(Odd);
        }
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        let mut kept = false;
        loop {
            let entry = self.at;
            let key = self.string()?;
            self.expect(b':')?;
            let mut is_id = false;
            let mut is_user = false;
            if depth == 0 {
                if self.shape.leave_out.iter().any(|left_out| left_out.as_bytes() == key) {
                    if self.leave_out(entry, kept)? {
                        return Ok(());
                    }
                    continue;
                }
                match self.shape.id {
                    IdPath::At(id) => is_id = id.as_bytes() == key,
                    IdPath::User => is_user = key == b"user",
                    IdPath::None => {}
                }
            } else if in_user {
                is_id = key == b"id";
            }
            kept = true;
            if !(is_user && self.shape.bare_user && self.bare_user()?) {
                let start = self.at;
                self.value(key, depth, loose, is_id, is_user)?;
                if is_id && self.key == 0 {
                    // A number, or a string with leading zeros.
                    self.key = json::parse_id(&self.text[start..self.at]).unwrap_or(0);
                }
            }
            let next = self.peek()?;
            self.at += 1;
            match next {
                b',' => {}
                b'}' => return Ok(()),
                _ => return Err(Odd),
            }
        }
    }

    /// Leaves out the entry that began at `entry`, with one comma. True when the object ends with it.
    fn leave_out(&mut self, entry: usize, kept: bool) -> Result<bool, Odd> {
        let mut cursor = json::Cursor::new(&self.text[self.at..]);
        cursor.value().map_err(|_| Odd)?;
        self.at += cursor.position();
        let last = match self.peek()? {
            b',' => false,
            b'}' => true,
            _ => return Err(Odd),
        };
        // The comma before it goes, if there is an entry before it that stays; else the one behind it.
        let from = entry - usize::from(kept);
        self.flush(from);
        self.copied = self.at + usize::from(!kept && !last);
        self.removed += self.copied - from;
        self.at += 1;
        Ok(last)
    }

    /// Reduces the `user` that follows to its id. False: it has none, or it is one already.
    fn bare_user(&mut self) -> Result<bool, Odd> {
        let start = self.at;
        let mut cursor = json::Cursor::new(&self.text[start..]);
        let user = cursor.value().map_err(|_| Odd)?;
        let Some(id) = json::get(user, "id").and_then(json::parse_id).filter(|id| *id != 0) else { return Ok(false) };
        if self.key != 0 && self.key != id {
            return Err(Odd);
        }
        self.flush(start);
        self.skeleton.extend_from_slice(b"{\"id\":");
        self.skeleton.push(Slot::Key as u8);
        self.skeleton.push(b'}');
        self.key = id;
        self.at = start + user.len();
        self.copied = self.at;
        let bare = br#"{"id":""}"#.len() + values::decimal_length(id);
        // What is shorter than it was can not be less than a user with an id, but digits may have led with zeros.
        self.removed = self.removed.wrapping_add(user.len().wrapping_sub(bare));
        Ok(true)
    }

    fn value(&mut self, key: &[u8], depth: usize, loose: bool, is_id: bool, is_user: bool) -> Result<(), Odd> {
        let start = self.at;
        match self.peek()? {
            b'"' => {
                let text = self.string()?;
                if text.is_empty() {
                    self.constant(start, 6, loose);
                    return Ok(());
                }
                let found = self.classify(text, key, is_id);
                self.pack(start, found, text, loose);
                Ok(())
            }
            b'{' => {
                if self.text.get(start + 1) == Some(&b'}') {
                    self.at += 2;
                    self.constant(start, 5, loose);
                    return Ok(());
                }
                self.nested(depth, loose, is_user)
            }
            b'[' => {
                if self.text.get(start + 1) == Some(&b']') {
                    self.at += 2;
                    self.constant(start, 4, loose);
                    return Ok(());
                }
                self.array(key, depth, loose)
            }
            b'-' | b'0'..=b'9' => self.number(start, loose),
            first => {
                let number = match first {
                    b'n' => 0,
                    b'f' => 1,
                    b't' => 2,
                    _ => return Err(Odd),
                };
                let word = CONSTANTS[number];
                if !self.text[start..].starts_with(word) {
                    return Err(Odd);
                }
                self.at += word.len();
                self.constant(start, number as u8, loose);
                Ok(())
            }
        }
    }

    /// One of [`CONSTANTS`], which is part of the template unless that is loose.
    #[inline(always)]
    fn constant(&mut self, start: usize, number: u8, loose: bool) {
        if loose {
            self.slot(start, Slot::Constant, true);
            self.record.push(number);
            self.copied = self.at;
        }
    }

    fn classify(&mut self, text: &[u8], key: &[u8], is_id: bool) -> Found {
        if text[0].is_ascii_digit() {
            if let Some(number) = parse_decimal(text) {
                // Of a key that stands there twice the first one counts.
                if is_id && self.key == 0 {
                    self.key = number;
                }
                if number == self.key && number != 0 {
                    return Found::Number(Slot::Key, 0);
                }
                if text.len() < SNOWFLAKE_DIGITS {
                    return Found::Number(Slot::Decimal, number);
                }
                let known = match key {
                    b"parent_id" | b"guild_id" => self.ids.find_or_add(number),
                    // In overwrites: mostly roles.
                    b"id" if self.shape.id == IdPath::At("id") => self.ids.find_or_add(number),
                    _ if key.ends_with(b"channel_id") => self.ids.find(number),
                    _ => None,
                };
                return match known {
                    Some(reference) => Found::Number(Slot::Reference, reference),
                    None => Found::Number(Slot::Snowflake, number),
                };
            }
            if let Some(time) = parse_time(text) {
                let micros = time.micros.map(|micros| time.seconds * 1_000_000 + u64::from(micros));
                let (slot, number) = match micros {
                    None => (Slot::Seconds, time.seconds),
                    Some(micros) if micros % 1_000 == 0 => match (micros / 1_000).checked_sub(EPOCH_MILLIS) {
                        Some(millis) if millis < 1 << 40 => (Slot::Millis, millis),
                        _ => (Slot::Micros, micros),
                    },
                    Some(micros) => (Slot::Micros, micros),
                };
                let bits = if slot == Slot::Micros { 56 } else { 40 };
                if number < 1 << bits {
                    let mut bytes = [0; 16];
                    bytes[..8].copy_from_slice(&number.to_le_bytes());
                    return Found::Bytes(slot, bytes, bits / 8);
                }
            }
        }
        let (slot, digits) = match text.strip_prefix(b"a_") {
            Some(digits) => (Slot::AnimatedHash, digits),
            None => (Slot::Hash, text),
        };
        if let Ok(digits) = digits.try_into()
            && let Some(bytes) = parse_hash(digits)
        {
            return Found::Bytes(slot, bytes, 16);
        }
        if words::LENGTHS.contains(&text.len())
            && let Some(word) = self.tables.words.find(text, hash(text))
        {
            return Found::Number(Slot::Word, word);
        }
        Found::Text
    }

    #[inline(always)]
    fn pack(&mut self, start: usize, found: Found, text: &[u8], loose: bool) {
        match found {
            Found::Number(slot, number) => {
                self.slot(start, slot, loose);
                match slot {
                    Slot::Key => {}
                    Slot::Snowflake => self.record.extend_from_slice(&number.to_le_bytes()),
                    _ => write_varint(self.record, number),
                }
            }
            Found::Bytes(slot, bytes, length) => {
                self.slot(start, slot, loose);
                self.record.extend_from_slice(&bytes[..length]);
            }
            Found::Text => {
                self.slot(start, Slot::Text, loose);
                write_varint(self.record, text.len() as u64);
                self.record.extend_from_slice(text);
            }
        }
        self.copied = self.at;
    }

    fn number(&mut self, start: usize, loose: bool) -> Result<(), Odd> {
        self.at = scan::number_end(self.text, start).ok_or(Odd)?;
        let digits = &self.text[start..self.at];
        if digits == b"0" {
            self.constant(start, 3, loose);
            return Ok(());
        }
        let packed = match digits.strip_prefix(b"-") {
            None => parse_decimal(digits).map(|number| (Slot::Integer, number)),
            Some(digits) => parse_decimal(digits).filter(|number| *number > 0).map(|number| (Slot::Negative, number)),
        };
        match packed {
            Some((slot, number)) => {
                self.slot(start, slot, loose);
                write_varint(self.record, number);
            }
            None => {
                self.slot(start, Slot::Raw, loose);
                write_varint(self.record, digits.len() as u64);
                self.record.extend_from_slice(digits);
            }
        }
        self.copied = self.at;
        Ok(())
    }

    /// A value that is kept as the text that it is.
    fn raw(&mut self, start: usize, loose: bool) -> Result<(), Odd> {
        let mut cursor = json::Cursor::new(&self.text[start..]);
        let value = cursor.value().map_err(|_| Odd)?;
        if serde_json::from_slice::<IgnoredAny>(value).is_err() {
            return Err(Odd);
        }
        self.at = start + value.len();
        self.slot(start, Slot::Raw, loose);
        write_varint(self.record, value.len() as u64);
        self.record.extend_from_slice(value);
        self.copied = self.at;
        Ok(())
    }

    /// An object in an object: part of the same template when it is small, else with one of its own.
    fn nested(&mut self, depth: usize, loose: bool, is_user: bool) -> Result<(), Odd> {
        let start = self.at;
        self.flush(start);
        let mark = (self.skeleton.len(), self.record.len());
        if loose {
            self.skeleton.push(Slot::Any as u8);
            self.record.push(Slot::Object as u8);
        }
        let inner = (self.skeleton.len(), self.record.len());
        if depth == MAX_NESTING {
            self.skeleton.truncate(mark.0);
            self.record.truncate(mark.1);
            return self.raw(start, loose);
        }
        self.object(depth + 1, false, is_user)?;
        self.flush(self.at);
        if !loose && self.skeleton.len() - inner.0 <= INLINE {
            return Ok(());
        }
        if !self.finish_nested(start, inner, depth, is_user)? {
            self.skeleton.truncate(mark.0);
            self.record.truncate(mark.1);
            self.copied = start;
            return self.raw(start, loose);
        }
        if !loose {
            self.skeleton.push(Slot::Object as u8);
        }
        Ok(())
    }

    /// Takes the skeleton of an object that began at `start` out of the outer one and puts the number of its template
    /// before its values. False: there is no room for the template.
    fn finish_nested(&mut self, start: usize, inner: (usize, usize), depth: usize, is_user: bool) -> Result<bool, Odd> {
        let mut number = self.tables.templates.find_or_add(&self.skeleton[inner.0..], false);
        if number.is_none() {
            self.skeleton.truncate(inner.0);
            self.record.truncate(inner.1);
            self.at = start;
            self.copied = start;
            self.object(depth + 1, true, is_user)?;
            self.flush(self.at);
            number = self.tables.templates.find_or_add(&self.skeleton[inner.0..], true);
        }
        self.skeleton.truncate(inner.0);
        let Some(number) = number else { return Ok(false) };
        insert_varint(self.record, inner.1, number);
        Ok(true)
    }

    fn array(&mut self, key: &[u8], depth: usize, loose: bool) -> Result<(), Odd> {
        let start = self.at;
        self.flush(start);
        let mark = (self.skeleton.len(), self.record.len());
        let first = self.text.get(start + 1).copied();
        let fits = match first {
            Some(b'{') => self.objects(start, depth, loose)?,
            Some(b'"') if matches!(key, b"roles" | b"applied_tags") && self.references(start, loose)? => true,
            _ => {
                self.back_to(start, mark);
                self.scalars(start, loose)?
            }
        };
        if !fits {
            self.back_to(start, mark);
            return self.raw(start, loose);
        }
        self.copied = self.at;
        Ok(())
    }

    fn back_to(&mut self, start: usize, mark: (usize, usize)) {
        self.skeleton.truncate(mark.0);
        self.record.truncate(mark.1);
        self.at = start;
        self.copied = start;
    }

    /// Behind an element: true when there is another one.
    #[inline(always)]
    fn another(&mut self) -> Result<bool, Odd> {
        let next = self.peek()?;
        self.at += 1;
        match next {
            b',' => Ok(true),
            b']' => Ok(false),
            _ => Err(Odd),
        }
    }

    fn objects(&mut self, start: usize, depth: usize, loose: bool) -> Result<bool, Odd> {
        if depth == MAX_NESTING {
            return Ok(false);
        }
        self.slot(start, Slot::Objects, loose);
        let counted = self.record.len();
        self.at = start + 1;
        let mut count = 0;
        loop {
            let element = self.at;
            if self.peek()? != b'{' {
                return Ok(false);
            }
            let inner = (self.skeleton.len(), self.record.len());
            self.copied = element;
            self.object(depth + 1, false, false)?;
            self.flush(self.at);
            if !self.finish_nested(element, inner, depth, false)? {
                return Ok(false);
            }
            count += 1;
            if !self.another()? {
                break;
            }
        }
        insert_varint(self.record, counted, count);
        Ok(true)
    }

    fn references(&mut self, start: usize, loose: bool) -> Result<bool, Odd> {
        self.slot(start, Slot::References, loose);
        let counted = self.record.len();
        self.at = start + 1;
        let mut count = 0;
        loop {
            if self.peek()? != b'"' {
                return Ok(false);
            }
            let id = parse_decimal(self.string()?).filter(|id| *id >= 10u64.pow(SNOWFLAKE_DIGITS as u32 - 1));
            let Some(number) = id.and_then(|id| self.ids.find_or_add(id)) else { return Ok(false) };
            write_varint(self.record, number);
            count += 1;
            if !self.another()? {
                break;
            }
        }
        insert_varint(self.record, counted, count);
        Ok(true)
    }

    fn scalars(&mut self, start: usize, loose: bool) -> Result<bool, Odd> {
        self.slot(start, Slot::Scalars, loose);
        // Elements are packed as by a loose template, which itself is not needed.
        let skeleton = self.skeleton.len();
        let counted = self.record.len();
        self.at = start + 1;
        let mut count = 0;
        loop {
            self.copied = self.at;
            if matches!(self.peek()?, b'{' | b'[') {
                return Ok(false);
            }
            self.value(b"", 0, true, false, false)?;
            self.skeleton.truncate(skeleton);
            count += 1;
            if !self.another()? {
                break;
            }
        }
        insert_varint(self.record, counted, count);
        Ok(true)
    }
}
