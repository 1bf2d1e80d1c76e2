//! From a record back to JSON text, or to some of its values.

use super::{
    Tables,
    ids::Ids,
    kind::{CONSTANTS, EPOCH_MILLIS, NULL, Slot},
    template::{JoinedAt, Name, Segment, Template},
    values::{Reader, Time, decimal_length, hash_text, time_text},
};
use crate::{
    cache::{scan, work},
    protocol::json,
};
use serde::de::IgnoredAny;

/// Nested deeper than the encoder does; only a broken record is.
const MAX_NESTING: usize = 2 * super::encode::MAX_NESTING;

/// What becomes of the text of a record.
trait Sink {
    fn text(&mut self, text: &[u8]);
    fn decimal(&mut self, number: u64);
    /// A snowflake or other number in quotes.
    fn quoted(&mut self, number: u64);
    fn hash(&mut self, before: &[u8], hash: [u8; 16]);
    fn time(&mut self, time: Time);
    /// What stands between the quotes of a string.
    fn string(&mut self, text: &[u8]);
    /// A JSON value as it is.
    fn raw(&mut self, text: &[u8]) {
        self.text(text);
    }
}

impl Sink for Vec<u8> {
    #[inline(always)]
    fn text(&mut self, text: &[u8]) {
        self.extend_from_slice(text);
    }

    #[inline]
    fn decimal(&mut self, number: u64) {
        self.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }

    #[inline]
    fn quoted(&mut self, number: u64) {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number).as_bytes();
        let mut quoted = [b'"'; 22];
        quoted[1..=digits.len()].copy_from_slice(digits);
        self.extend_from_slice(&quoted[..digits.len() + 2]);
    }

    fn hash(&mut self, before: &[u8], hash: [u8; 16]) {
        self.extend_from_slice(before);
        self.extend_from_slice(&hash_text(hash));
        self.push(b'"');
    }

    fn time(&mut self, time: Time) {
        let (text, length) = time_text(time);
        self.push(b'"');
        self.extend_from_slice(&text[..length]);
        self.push(b'"');
    }

    #[inline]
    fn string(&mut self, text: &[u8]) {
        self.push(b'"');
        self.extend_from_slice(text);
        self.push(b'"');
    }
}

/// Counts bytes of text.
struct Length(usize);

impl Sink for Length {
    #[inline(always)]
    fn text(&mut self, text: &[u8]) {
        self.0 += text.len();
    }

    #[inline(always)]
    fn decimal(&mut self, number: u64) {
        self.0 += decimal_length(number);
    }

    #[inline(always)]
    fn quoted(&mut self, number: u64) {
        self.0 += decimal_length(number) + 2;
    }

    #[inline(always)]
    fn hash(&mut self, before: &[u8], _: [u8; 16]) {
        self.0 += before.len() + 33;
    }

    #[inline(always)]
    fn time(&mut self, time: Time) {
        self.0 += if time.micros.is_some() { 34 } else { 27 };
    }

    #[inline(always)]
    fn string(&mut self, text: &[u8]) {
        self.0 += text.len() + 2;
    }
}

/// Counts bytes of text, and sees to it that the text is JSON.
struct Checked {
    length: Length,
    sound: bool,
}

impl Sink for Checked {
    #[inline(always)]
    fn text(&mut self, text: &[u8]) {
        self.length.text(text);
    }

    #[inline(always)]
    fn decimal(&mut self, number: u64) {
        self.length.decimal(number);
    }

    #[inline(always)]
    fn quoted(&mut self, number: u64) {
        self.length.quoted(number);
    }

    #[inline(always)]
    fn hash(&mut self, before: &[u8], hash: [u8; 16]) {
        self.length.hash(before, hash);
    }

    #[inline(always)]
    fn time(&mut self, time: Time) {
        self.length.time(time);
    }

    #[inline(always)]
    fn string(&mut self, text: &[u8]) {
        self.sound &= scan::is_content(text);
        self.length.string(text);
    }

    fn raw(&mut self, text: &[u8]) {
        self.sound &= serde_json::from_slice::<IgnoredAny>(text).is_ok();
        self.length.text(text);
    }
}

/// The number of the template of a record plus one; 0 for plain text.
pub fn template(record: &[u8]) -> Option<u64> {
    Reader { bytes: record }.varint()
}

/// The length of the text of a record, as it says itself.
pub fn text_length(record: &[u8]) -> Option<usize> {
    let mut reader = Reader { bytes: record };
    match reader.varint()? {
        0 => Some(reader.bytes.len()),
        _ => reader.varint().and_then(|length| length.try_into().ok()),
    }
}

/// Where records of a guild are understood.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    /// Those with which the records were made.
    pub tables: &'a Tables,
    /// Those of the guild.
    pub ids: &'a Ids,
}

impl Decoder<'_> {
    /// Appends the text of the record of `key` to `out`. `None`: the record is broken, and `out` holds a part of it.
    #[inline]
    pub fn decode(&self, key: u64, record: &[u8], out: &mut Vec<u8>) -> Option<()> {
        self.whole(key, record, out).map(drop)
    }

    /// The length of the text of a record that comes from outside. `None`: it is broken, or its text is not an object of
    /// JSON.
    pub fn check(&self, key: u64, record: &[u8]) -> Option<usize> {
        let mut checked = Checked { length: Length(0), sound: true };
        let rest = self.whole(key, record, &mut checked)?;
        let is_object = !matches!(record, [0, rest @ ..] if !rest.starts_with(b"{"));
        let sound = checked.sound && is_object && rest.is_empty() && text_length(record) == Some(checked.length.0);
        sound.then_some(checked.length.0)
    }

    /// Returns what is left of the record.
    fn whole<'r>(&self, key: u64, record: &'r [u8], sink: &mut impl Sink) -> Option<&'r [u8]> {
        work::add(40 + record.len() / 2);
        let mut reader = Reader { bytes: record };
        match reader.varint()? {
            0 => sink.raw(std::mem::take(&mut reader.bytes)),
            number => {
                reader.varint()?;
                self.object(number - 1, key, &mut reader, sink, 0)?;
            }
        }
        Some(reader.bytes)
    }

    fn object(&self, number: u64, key: u64, reader: &mut Reader<'_>, sink: &mut impl Sink, depth: usize) -> Option<()> {
        let template = self.tables.templates.get(number)?;
        let mut skeleton: &[u8] = &template.skeleton;
        for segment in &template.segments {
            let (before, rest) = skeleton.split_at_checked(usize::from(segment.before))?;
            sink.text(before);
            skeleton = rest.get(1..)?;
            self.value(segment.slot, key, reader, sink, depth)?;
        }
        sink.text(skeleton);
        Some(())
    }

    #[inline(always)]
    fn value(&self, slot: Slot, key: u64, reader: &mut Reader<'_>, sink: &mut impl Sink, depth: usize) -> Option<()> {
        match slot {
            Slot::Key => sink.quoted(key),
            Slot::Snowflake => sink.quoted(reader.number::<8>()?),
            Slot::Reference => sink.quoted(self.ids.get(reader.varint()?)?),
            Slot::Hash => sink.hash(b"\"", reader.array()?),
            Slot::AnimatedHash => sink.hash(b"\"a_", reader.array()?),
            Slot::Micros => sink.time(from_micros(reader.number::<7>()?)),
            Slot::Millis => sink.time(from_micros((reader.number::<5>()? + EPOCH_MILLIS) * 1_000)),
            Slot::Seconds => sink.time(Time { seconds: reader.number::<5>()?, micros: None }),
            Slot::Integer => sink.decimal(reader.varint()?),
            Slot::Negative => {
                sink.text(b"-");
                sink.decimal(reader.varint()?);
            }
            Slot::Decimal => sink.quoted(reader.varint()?),
            Slot::Text => {
                let length = reader.length()?;
                sink.string(reader.take(length)?);
            }
            Slot::Word => sink.string(self.tables.words.get(reader.varint()?)?),
            Slot::Raw => {
                let length = reader.length()?;
                sink.raw(reader.take(length)?);
            }
            Slot::Constant => sink.text(CONSTANTS.get(usize::from(reader.byte()?))?),
            Slot::References | Slot::Objects | Slot::Scalars | Slot::Object | Slot::Any => {
                return self.composed(slot, key, reader, sink, depth);
            }
        }
        Some(())
    }

    /// Goes past a value; how long its text is.
    #[inline]
    pub(super) fn skip(&self, slot: Slot, key: u64, reader: &mut Reader<'_>) -> Option<usize> {
        let mut length = Length(0);
        self.value(slot, key, reader, &mut length, 0)?;
        Some(length.0)
    }

    /// A value that consists of others.
    fn composed(
        &self,
        slot: Slot,
        key: u64,
        reader: &mut Reader<'_>,
        sink: &mut impl Sink,
        depth: usize,
    ) -> Option<()> {
        if depth > MAX_NESTING {
            return None;
        }
        match slot {
            Slot::Object => {
                let number = reader.varint()?;
                self.object(number, key, reader, sink, depth + 1)
            }
            Slot::Any => {
                let slot = Slot::from_byte(reader.byte()?)?;
                self.value(slot, key, reader, sink, depth + 1)
            }
            _ => {
                // Each element takes a byte at least, so a broken count ends with the record.
                let count = reader.varint()?;
                sink.text(b"[");
                for index in 0..count {
                    if index > 0 {
                        sink.text(b",");
                    }
                    match slot {
                        Slot::References => sink.quoted(self.ids.get(reader.varint()?)?),
                        Slot::Objects => {
                            let number = reader.varint()?;
                            self.object(number, key, reader, sink, depth + 1)?;
                        }
                        _ => {
                            let slot = Slot::from_byte(reader.byte()?)?;
                            self.value(slot, key, reader, sink, depth + 1)?;
                        }
                    }
                }
                sink.text(b"]");
                Some(())
            }
        }
    }

    /// Is this a member whose `joined_at` is null? Such a guest is not counted (docs: Guild, Guild Member Object).
    pub fn is_guest(&self, record: &[u8]) -> bool {
        let mut reader = Reader { bytes: record };
        let Some(number) = reader.varint() else { return false };
        let Some(number) = number.checked_sub(1) else {
            return json::get(reader.bytes, "joined_at") == Some(b"null");
        };
        match self.tables.templates.get(number).map(|template| template.joined_at) {
            Some(JoinedAt::Null) => true,
            Some(JoinedAt::Open) => {
                let mut is_null = false;
                self.named(record, |name, slot, packed| {
                    is_null |= name == Name::JoinedAt && slot == Slot::Constant && packed == [NULL];
                });
                is_null
            }
            _ => false,
        }
    }

    /// Calls `each` with the name, kind and packed bytes of every value of the record itself that has a [`Name`]. False:
    /// the record is plain text or broken, and not all were seen.
    pub fn named<'r>(&self, record: &'r [u8], mut each: impl FnMut(Name, Slot, &'r [u8])) -> bool {
        work::add(24);
        let mut reader = Reader { bytes: record };
        let template = reader.varint().filter(|number| *number > 0);
        template.is_some_and(|number| self.named_in(number - 1, reader, &mut each).is_some())
    }

    fn named_in<'r>(
        &self,
        number: u64,
        mut reader: Reader<'r>,
        each: &mut impl FnMut(Name, Slot, &'r [u8]),
    ) -> Option<()> {
        let template: &Template = self.tables.templates.get(number)?;
        reader.varint()?;
        for Segment { slot, name, .. } in &template.segments {
            let mut slot = *slot;
            if slot == Slot::Any {
                slot = Slot::from_byte(reader.byte()?)?;
            }
            let before = reader.bytes;
            self.skip(slot, 0, &mut reader)?;
            if *name != Name::Other {
                each(*name, slot, &before[..before.len() - reader.bytes.len()]);
            }
        }
        Some(())
    }

    /// Appends the text of one packed value.
    pub fn decode_value(&self, slot: Slot, key: u64, packed: &[u8], out: &mut Vec<u8>) -> Option<()> {
        self.value(slot, key, &mut Reader { bytes: packed }, out, 0)
    }
}

fn from_micros(micros: u64) -> Time {
    Time { seconds: micros / 1_000_000, micros: Some((micros % 1_000_000) as u32) }
}
