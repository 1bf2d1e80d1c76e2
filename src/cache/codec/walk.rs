//! An object taken apart key by key: its text becomes a template, its values a record. On the way its path is learnt.
//!
//! A strict walk takes nothing but [plain spelling](crate::protocol::spelling), in which keys are the same when their bytes are, and
//! in which no key stands twice in an object. Paths that are learnt by strict walks lead through plain spelling only.

use super::{
    Tables,
    encode::{Encoded, IdPath, MAX_NESTING, Shape},
    hash,
    ids::Ids,
    kind::{CONSTANTS, EPOCH_MILLIS, Slot},
    paths::{Class, Inner, Point, Symbol, Trail},
    values::{self, Time, parse_decimal, parse_hash, parse_time, varint, write_varint},
    words,
};
use crate::{cache::scan, protocol::json};
use serde::de::IgnoredAny;

/// Nested objects whose template would be shorter are part of the outer one's.
const INLINE: usize = 64;
/// Strings of digits from this length on are snowflakes.
const SNOWFLAKE_DIGITS: usize = 15;
/// Numbers with fewer digits fit into 64 bits.
const SURE_DIGITS: usize = 19;
/// Keys of one object in a strict walk, which compares each with all before it; text with more is taken as plain only when
/// it has been made so.
const MAX_STRICT_KEYS: usize = 128;

/// It does not fit into a template; it may still be JSON.
pub struct Odd;

/// Puts a number before what is there from `at` on.
pub fn insert_varint(out: &mut Vec<u8>, at: usize, value: u64) {
    if value < 0x80 {
        out.insert(at, value as u8);
    } else {
        let (bytes, length) = varint(value);
        out.splice(at..at, bytes[..length].iter().copied());
    }
}

/// What is made on the way.
#[derive(Default)]
pub struct Buffers {
    skeleton: Vec<u8>,
    /// The record.
    pub record: Vec<u8>,
    trail: Trail,
    /// Where the keys stand in the text of the objects that are not at their ends yet.
    keys: Vec<(usize, usize)>,
}

/// How far the buffers were filled.
#[derive(Clone, Copy)]
struct Mark {
    skeleton: usize,
    record: usize,
    trail: usize,
}

/// See the module's description.
pub struct Walk<'a> {
    pub text: &'a [u8],
    pub at: usize,
    /// The text before this is in the skeleton, in a value, or left out.
    pub copied: usize,
    skeleton: &'a mut Vec<u8>,
    pub record: &'a mut Vec<u8>,
    pub trail: &'a mut Trail,
    pub tables: &'a mut Tables,
    ids: &'a mut Ids,
    pub shape: &'a Shape,
    pub key: u64,
    /// Bytes of text that were left out.
    pub removed: usize,
    keys: &'a mut Vec<(usize, usize)>,
    /// Take nothing but plain spelling.
    strict: bool,
}

impl<'a> Walk<'a> {
    /// Of the object that begins at `at`.
    pub fn new(
        text: &'a [u8],
        at: usize,
        buffers: &'a mut Buffers,
        tables: &'a mut Tables,
        ids: &'a mut Ids,
        shape: &'a Shape,
        strict: bool,
    ) -> Self {
        let Buffers { skeleton, record, trail, keys } = buffers;
        skeleton.clear();
        record.clear();
        trail.back_to(0);
        keys.clear();
        Self { text, at, copied: at, skeleton, record, trail, tables, ids, shape, key: 0, removed: 0, keys, strict }
    }

    /// What the object became that began at `start` and has been walked through.
    pub fn encoded(&self, start: usize) -> Encoded {
        Encoded { key: self.key, length: (self.at - start).wrapping_sub(self.removed), end: self.at }
    }

    /// The whole object; the number of its template, if there is room for that one. The path is learnt from `point` on.
    pub fn whole(&mut self, loose: bool, point: Point) -> Result<Option<u64>, Odd> {
        let end = self.object(0, loose, false, point)?;
        self.flush(self.at);
        let number = self.tables.templates.find_or_add(self.skeleton, loose);
        if number.is_some() {
            self.tables.paths.learn_end(end, self.trail, 0, number);
        }
        Ok(number)
    }

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
    pub fn string(&mut self) -> Result<&'a [u8], Odd> {
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

    /// What the key of an object says about its value.
    fn class(&self, key: &[u8], depth: usize, in_user: bool) -> Class {
        let Shape { id, leave_out, .. } = self.shape;
        if depth == 0 && leave_out.iter().any(|left_out| left_out.as_bytes() == key) {
            return Class::LEFT_OUT;
        }
        let is_id = match id {
            IdPath::At(id) => depth == 0 && id.as_bytes() == key,
            IdPath::User => depth > 0 && in_user && key == b"id",
            IdPath::None => false,
        };
        // Ids in overwrites are mostly those of roles.
        let of_role = key == b"id" && *id == IdPath::At("id");
        Class::PLAIN
            .and(Class::ID, is_id)
            .and(Class::USER, depth == 0 && *id == IdPath::User && key == b"user")
            .and(Class::ADDS, of_role || matches!(key, b"parent_id" | b"guild_id"))
            .and(Class::FINDS, key.ends_with(b"channel_id"))
            .and(Class::LISTS, matches!(key, b"roles" | b"applied_tags"))
    }

    /// Is this key, of the object whose keys begin at `first`, spelled plainly and not the second one of its name?
    fn is_plain_key(&mut self, first: usize, key: &[u8]) -> bool {
        let text = self.text;
        let known = &self.keys[first..];
        let good = known.len() < MAX_STRICT_KEYS
            && !key.contains(&b'\\')
            && known.iter().all(|(start, end)| text[*start..*end] != *key);
        // The key stands before its closing quote and the colon.
        let end = self.at - 1;
        self.keys.push((end - key.len(), end));
        good
    }

    /// An object, up to behind its closing brace. Its values go into the record, its text into the skeleton, the last
    /// bit of which is left to be flushed. Its path is learnt from `point` on; where it ended is returned.
    fn object(&mut self, depth: usize, loose: bool, in_user: bool, mut point: Point) -> Result<Point, Odd> {
        if depth > MAX_NESTING {
            return Err(Odd);
        }
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(Point::Lost);
        }
        let mut kept = false;
        let first_key = self.keys.len();
        loop {
            let entry = self.at;
            let key = self.string()?;
            if self.strict && !self.is_plain_key(first_key, key) {
                return Err(Odd);
            }
            self.expect(b':')?;
            let start = self.at;
            let class = self.class(key, depth, in_user);
            let place = self.tables.paths.learn_key(point, &self.text[entry - 1..start], class);
            if class.is(Class::LEFT_OUT) {
                let last = self.leave_out(entry, kept)?;
                point = self.passed(place, Some(Symbol::Gone));
                if last {
                    self.keys.truncate(first_key);
                    return Ok(if kept { point } else { Point::Lost });
                }
                continue;
            }
            kept = true;
            let symbol = if class.is(Class::USER) && self.shape.bare_user && self.bare_user()? {
                Some(Symbol::Bare)
            } else {
                self.value(class, depth, loose, place)?
            };
            self.note_id(class, start);
            point = self.passed(place, symbol);
            let next = self.peek()?;
            self.at += 1;
            match next {
                b',' => {}
                b'}' => {
                    self.keys.truncate(first_key);
                    return Ok(point);
                }
                _ => return Err(Odd),
            }
        }
    }

    /// The point behind the value at a place.
    #[inline(always)]
    fn passed(&mut self, place: Option<u32>, symbol: Option<Symbol>) -> Point {
        let (Some(place), Some(symbol)) = (place, symbol) else { return Point::Lost };
        self.trail.push(symbol);
        Point::Behind(place)
    }

    /// The record's id, when it is a number, or a string with leading zeros.
    #[inline(always)]
    pub fn note_id(&mut self, class: Class, start: usize) {
        if class.is(Class::ID) && self.key == 0 {
            self.key = json::parse_id(&self.text[start..self.at]).unwrap_or(0);
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

    /// Reduces the `user` that follows to its id. False: it has none.
    fn bare_user(&mut self) -> Result<bool, Odd> {
        let start = self.at;
        if !self.take_bare_user()? {
            return Ok(false);
        }
        self.skeleton.extend_from_slice(&self.text[self.copied..start]);
        self.skeleton.extend_from_slice(b"{\"id\":");
        self.skeleton.push(Slot::Key as u8);
        self.skeleton.push(b'}');
        self.copied = self.at;
        Ok(true)
    }

    /// Goes behind a `user` of which only the id is kept. False: it has none.
    pub fn take_bare_user(&mut self) -> Result<bool, Odd> {
        let text = &self.text[self.at..];
        match text.first() {
            Some(b'{') => {}
            Some(b' ' | b'\t' | b'\n' | b'\r') | None => return Err(Odd),
            Some(_) => return Ok(false),
        }
        let bare = text.strip_prefix(b"{\"id\":\"").and_then(|rest| {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let id = parse_decimal(&rest[..digits]).filter(|_| rest[digits..].starts_with(b"\"}"))?;
            Some((id, br#"{"id":""}"#.len() + digits))
        });
        let (id, length) = match bare {
            Some(bare) => bare,
            None => {
                let mut cursor = json::Cursor::new(text);
                let user = cursor.value().map_err(|_| Odd)?;
                (json::get(user, "id").and_then(json::parse_id).unwrap_or(0), user.len())
            }
        };
        if id == 0 {
            return Ok(false);
        }
        if self.key != 0 && self.key != id {
            return Err(Odd);
        }
        self.key = id;
        self.at += length;
        let bare = br#"{"id":""}"#.len() + values::decimal_length(id);
        // What is shorter than it was can not be less than a user with an id, but digits may have led with zeros.
        self.removed = self.removed.wrapping_add(length.wrapping_sub(bare));
        Ok(true)
    }

    /// A value. Says what it turned out to be, if the path may go on with that.
    fn value(&mut self, class: Class, depth: usize, loose: bool, place: Option<u32>) -> Result<Option<Symbol>, Odd> {
        let start = self.at;
        match (self.peek()?, self.text.get(start + 1)) {
            (b'{', Some(byte)) if *byte != b'}' => self.nested(depth, loose, class.is(Class::USER), place),
            (b'[', Some(byte)) if *byte != b']' => self.array(class, depth, loose, place).map(Some),
            _ => self.pack(loose, |walk| walk.scalar(class)).map(Some),
        }
    }

    /// A value that contains no other, put into the record.
    #[inline(always)]
    pub fn scalar(&mut self, class: Class) -> Result<Symbol, Odd> {
        match self.peek()? {
            b'"' => {
                let text = self.string()?;
                Ok(if text.is_empty() { Symbol::Constant(6) } else { self.classify(text, class) })
            }
            b'-' | b'0'..=b'9' => self.number(self.at),
            b'n' => self.constant(b"null", 0),
            b'f' => self.constant(b"false", 1),
            b't' => self.constant(b"true", 2),
            b'[' => self.constant(b"[]", 4),
            b'{' => self.constant(b"{}", 5),
            _ => Err(Odd),
        }
    }

    /// One of [`CONSTANTS`].
    #[inline(always)]
    fn constant<const N: usize>(&mut self, word: &[u8; N], number: u8) -> Result<Symbol, Odd> {
        debug_assert_eq!(CONSTANTS[usize::from(number)], word);
        if self.text[self.at..].first_chunk::<N>() != Some(word) {
            return Err(Odd);
        }
        self.at += N;
        Ok(Symbol::Constant(number))
    }

    /// A string that is not empty.
    #[inline]
    fn classify(&mut self, text: &'a [u8], class: Class) -> Symbol {
        if text[0].is_ascii_digit() {
            if let Some(number) = parse_decimal(text) {
                return self.put_decimal(text.len(), number, class);
            }
            if let Some(time) = parse_time(text)
                && let Some(symbol) = self.put_time(time)
            {
                return symbol;
            }
        }
        let (slot, digits) = match text.strip_prefix(b"a_") {
            Some(digits) => (Slot::AnimatedHash, digits),
            None => (Slot::Hash, text),
        };
        if let Ok(digits) = digits.try_into()
            && let Some(bytes) = parse_hash(digits)
        {
            self.record.extend_from_slice(&bytes);
            return Symbol::Slot(slot);
        }
        if words::LENGTHS.contains(&text.len())
            && let Some(word) = self.tables.words.find(text, hash(text))
        {
            return self.put_varint(Slot::Word, word);
        }
        self.put_text(Slot::Text, text)
    }

    /// A string of so many digits.
    #[inline(always)]
    fn put_decimal(&mut self, digits: usize, number: u64, class: Class) -> Symbol {
        if class.is(Class::ID) && self.key == 0 {
            self.key = number;
        }
        if number == self.key && number != 0 {
            return Symbol::Slot(Slot::Key);
        }
        if digits < SNOWFLAKE_DIGITS {
            return self.put_varint(Slot::Decimal, number);
        }
        let known = if class.is(Class::ADDS) {
            self.ids.find_or_add(number)
        } else if class.is(Class::FINDS) {
            self.ids.find(number)
        } else {
            None
        };
        match known {
            Some(reference) => self.put_varint(Slot::Reference, reference),
            None => {
                self.record.extend_from_slice(&number.to_le_bytes());
                Symbol::Slot(Slot::Snowflake)
            }
        }
    }

    /// `None`: it is beyond what is packed.
    #[inline(always)]
    fn put_time(&mut self, time: Time) -> Option<Symbol> {
        let micros = time.micros.map(|micros| time.seconds * 1_000_000 + u64::from(micros));
        let (slot, number) = match micros {
            None => (Slot::Seconds, time.seconds),
            Some(micros) if micros % 1_000 == 0 => match (micros / 1_000).checked_sub(EPOCH_MILLIS) {
                Some(millis) if millis < 1 << 40 => (Slot::Millis, millis),
                _ => (Slot::Micros, micros),
            },
            Some(micros) => (Slot::Micros, micros),
        };
        let length = if slot == Slot::Micros { 7 } else { 5 };
        if number >= 1 << (8 * length) {
            return None;
        }
        self.record.extend_from_slice(&number.to_le_bytes()[..length]);
        Some(Symbol::Slot(slot))
    }

    #[inline(always)]
    fn put_varint(&mut self, slot: Slot, number: u64) -> Symbol {
        write_varint(self.record, number);
        Symbol::Slot(slot)
    }

    #[inline(always)]
    fn put_text(&mut self, slot: Slot, text: &[u8]) -> Symbol {
        write_varint(self.record, text.len() as u64);
        self.record.extend_from_slice(text);
        Symbol::Slot(slot)
    }

    /// Takes in the value that comes next, which `value` puts into the record.
    #[inline(always)]
    fn pack(&mut self, loose: bool, value: impl FnOnce(&mut Self) -> Result<Symbol, Odd>) -> Result<Symbol, Odd> {
        let (start, mark) = (self.at, self.record.len());
        if loose {
            self.record.push(0);
        }
        let symbol = value(self)?;
        let slot = match symbol {
            Symbol::Slot(slot) => slot,
            // Part of the template, unless that is loose.
            Symbol::Constant(number) if loose => {
                self.record.push(number);
                Slot::Constant
            }
            _ => return Ok(symbol),
        };
        self.flush(start);
        self.copied = self.at;
        if loose {
            self.record[mark] = slot as u8;
        }
        self.skeleton.push(if loose { Slot::Any } else { slot } as u8);
        Ok(symbol)
    }

    #[inline]
    fn number(&mut self, start: usize) -> Result<Symbol, Odd> {
        let negative = self.text[start] == b'-';
        let first = start + usize::from(negative);
        let mut at = first;
        let mut magnitude = 0u64;
        while let Some(digit @ b'0'..=b'9') = self.text.get(at) {
            magnitude = magnitude.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            at += 1;
        }
        let is_short = at > first && at - first < SURE_DIGITS && (self.text[first] != b'0' || at - first == 1);
        if !is_short || matches!(self.text.get(at), Some(b'.' | b'e' | b'E')) || (negative && magnitude == 0) {
            return self.odd_number(start);
        }
        self.at = at;
        Ok(match (negative, magnitude) {
            (false, 0) => Symbol::Constant(3),
            (false, _) => self.put_varint(Slot::Integer, magnitude),
            (true, _) => self.put_varint(Slot::Negative, magnitude),
        })
    }

    /// A number that is long, or no integer.
    fn odd_number(&mut self, start: usize) -> Result<Symbol, Odd> {
        self.at = scan::number_end(self.text, start).ok_or(Odd)?;
        let digits = &self.text[start..self.at];
        let packed = match digits.strip_prefix(b"-") {
            None => parse_decimal(digits).map(|number| (Slot::Integer, number)),
            Some(digits) => parse_decimal(digits).filter(|number| *number > 0).map(|number| (Slot::Negative, number)),
        };
        Ok(match packed {
            Some((slot, number)) => self.put_varint(slot, number),
            None => self.put_text(Slot::Raw, digits),
        })
    }

    /// A value that is kept as the text that it is.
    fn raw(&mut self, loose: bool) -> Result<Symbol, Odd> {
        self.pack(loose, |walk| {
            let mut cursor = json::Cursor::new(&walk.text[walk.at..]);
            let value = cursor.value().map_err(|_| Odd)?;
            if serde_json::from_slice::<IgnoredAny>(value).is_err() {
                return Err(Odd);
            }
            walk.at += value.len();
            Ok(walk.put_text(Slot::Raw, value))
        })
    }

    /// An object in an object: part of the same template when it is small, else with one of its own.
    fn nested(&mut self, depth: usize, loose: bool, is_user: bool, place: Option<u32>) -> Result<Option<Symbol>, Odd> {
        let start = self.at;
        self.flush(start);
        let mark = self.mark();
        if loose {
            self.skeleton.push(Slot::Any as u8);
            self.record.push(Slot::Object as u8);
        }
        let inner = self.mark();
        if depth == MAX_NESTING {
            self.back_to(start, mark);
            return self.raw(loose).map(Some);
        }
        let point = place.map_or(Point::Lost, |place| Point::Inner(place, Inner::Object));
        let end = self.object(depth + 1, false, is_user, point)?;
        self.flush(self.at);
        if !loose && self.skeleton.len() - inner.skeleton <= INLINE {
            let symbol = self.tables.paths.learn_end(end, self.trail, inner.trail, None);
            self.trail.back_to(inner.trail);
            return Ok(symbol);
        }
        if !self.finish_nested(start, inner, depth, is_user, end)? {
            self.back_to(start, mark);
            return self.raw(loose).map(Some);
        }
        if !loose {
            self.skeleton.push(Slot::Object as u8);
        }
        Ok(Some(Symbol::Slot(Slot::Object)))
    }

    /// Takes the skeleton of an object that began at `start` out of the outer one and puts the number of its template
    /// before its values. False: there is no room for the template.
    fn finish_nested(
        &mut self,
        start: usize,
        inner: Mark,
        depth: usize,
        is_user: bool,
        end: Point,
    ) -> Result<bool, Odd> {
        let mut number = self.tables.templates.find_or_add(&self.skeleton[inner.skeleton..], false);
        if number.is_some() {
            self.tables.paths.learn_end(end, self.trail, inner.trail, number);
        } else {
            self.back_to(start, inner);
            self.object(depth + 1, true, is_user, Point::Lost)?;
            self.flush(self.at);
            number = self.tables.templates.find_or_add(&self.skeleton[inner.skeleton..], true);
        }
        self.skeleton.truncate(inner.skeleton);
        self.trail.back_to(inner.trail);
        let Some(number) = number else { return Ok(false) };
        insert_varint(self.record, inner.record, number);
        Ok(true)
    }

    fn array(&mut self, class: Class, depth: usize, loose: bool, place: Option<u32>) -> Result<Symbol, Odd> {
        let start = self.at;
        self.flush(start);
        let mark = self.mark();
        if self.text.get(start + 1) == Some(&b'{') && self.objects(start, depth, loose, place)? {
            self.copied = self.at;
            return Ok(Symbol::Slot(Slot::Objects));
        }
        self.back_to(start, mark);
        self.flat_array(class, loose)
    }

    /// An array, as one of ids or of scalars if it is one, else as text.
    pub fn flat_array(&mut self, class: Class, loose: bool) -> Result<Symbol, Odd> {
        let start = self.at;
        let mark = self.mark();
        let slot = if class.is(Class::LISTS) && self.references(start, loose)? {
            Slot::References
        } else {
            self.back_to(start, mark);
            if !self.scalars(start, loose)? {
                self.back_to(start, mark);
                return self.raw(loose);
            }
            Slot::Scalars
        };
        self.copied = self.at;
        Ok(Symbol::Slot(slot))
    }

    #[inline(always)]
    fn mark(&self) -> Mark {
        Mark { skeleton: self.skeleton.len(), record: self.record.len(), trail: self.trail.mark() }
    }

    fn back_to(&mut self, start: usize, mark: Mark) {
        self.skeleton.truncate(mark.skeleton);
        self.record.truncate(mark.record);
        self.trail.back_to(mark.trail);
        self.at = start;
        self.copied = start;
    }

    /// Behind an element: true when there is another one.
    #[inline(always)]
    pub fn another(&mut self) -> Result<bool, Odd> {
        let next = self.peek()?;
        self.at += 1;
        match next {
            b',' => Ok(true),
            b']' => Ok(false),
            _ => Err(Odd),
        }
    }

    fn objects(&mut self, start: usize, depth: usize, loose: bool, place: Option<u32>) -> Result<bool, Odd> {
        if depth == MAX_NESTING {
            return Ok(false);
        }
        self.slot(start, Slot::Objects, loose);
        let counted = self.record.len();
        self.at = start + 1;
        let point = place.map_or(Point::Lost, |place| Point::Inner(place, Inner::Elements));
        let mut count = 0;
        loop {
            let element = self.at;
            if self.peek()? != b'{' {
                return Ok(false);
            }
            let inner = self.mark();
            self.copied = element;
            let end = self.object(depth + 1, false, false, point)?;
            self.flush(self.at);
            if !self.finish_nested(element, inner, depth, false, end)? {
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
            self.value(Class::PLAIN, 0, true, None)?;
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
