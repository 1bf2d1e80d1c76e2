//! The decoder: from a record back to JSON text, or to some of its values.
//!
//! A record is read from left to right along the segments of its template. What becomes of the text is up to a
//! [`Sink`]: it is written, measured, or checked.
//!
//! Promise: a broken record gives `None`, not a panic and not endless work. Records from a state file are
//! [checked](Decoder::check) before they are stored, so a record of the cache is not broken.

use super::{
    Tables,
    ids::IdTable,
    slot::{CONSTANTS, DISCORD_EPOCH_MILLIS, NULL, Slot},
    template::{JoinedAt, KnownKey, Segment},
    values::{Reader, Time, decimal_length, hash_text, time_text},
};
use crate::{
    cache::work,
    protocol::json::{self, strict},
};
use serde::de::IgnoredAny;

/// The decoder refuses records that are nested deeper than this. The encoder's are not; each of its levels takes up to
/// two of the decoder's.
const MAX_NESTING: usize = 2 * super::shape::MAX_NESTING;

/// What receives the text of a record, piece by piece.
trait Sink {
    /// A piece of a template, or a constant.
    fn text(&mut self, text: &[u8]);
    /// A number.
    fn decimal(&mut self, number: u64);
    /// A snowflake or another number in quotes.
    fn quoted(&mut self, number: u64);
    /// The hash of an image as a string, behind `before`, which begins with the opening quote.
    fn hash(&mut self, before: &[u8], hash: [u8; 16]);
    /// A timestamp as a string.
    fn time(&mut self, time: Time);
    /// A string; `text` is what stands between its quotes.
    fn string(&mut self, text: &[u8]);
    /// A value that was stored as JSON text.
    fn raw(&mut self, text: &[u8]) {
        self.text(text);
    }
}

// Writes the text.
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

/// Measures the text, in bytes.
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

/// Measures the text, and checks that strings and raw values from the record are valid JSON. The rest of the text comes
/// from templates, which were checked when they were added.
struct Checker {
    length: Length,
    valid: bool,
}

impl Sink for Checker {
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
        self.valid &= strict::is_content(text);
        self.length.string(text);
    }

    fn raw(&mut self, text: &[u8]) {
        self.valid &= serde_json::from_slice::<IgnoredAny>(text).is_ok();
        self.length.text(text);
    }
}

/// The index of a record's template plus one; 0 when the record holds text. `None` when the record is empty or broken.
pub(super) fn template_plus_one(record: &[u8]) -> Option<u64> {
    Reader { bytes: record }.varint()
}

/// The length in bytes of the text of a record, found without decoding the record. A packed record has the length in
/// its header, and this function does not check that length against the text. In a record that holds text, the text is
/// everything behind the header. `None` when the header is broken.
pub fn text_length(record: &[u8]) -> Option<usize> {
    let mut reader = Reader { bytes: record };
    match reader.varint()? {
        0 => Some(reader.bytes.len()),
        _ => reader.varint().and_then(|length| length.try_into().ok()),
    }
}

/// Decodes records. It needs the tables that the records refer to.
#[derive(Clone, Copy)]
pub struct Decoder<'a> {
    /// The tables with which the records were encoded.
    pub tables: &'a Tables,
    /// The id table of the records' guild.
    pub ids: &'a IdTable,
}

impl Decoder<'_> {
    /// Appends the text of a record to `out`. `id` is the id that the store keeps beside the record. `None` when the
    /// record is broken; `out` can then hold a part of its text.
    #[inline]
    pub fn decode(&self, id: u64, record: &[u8], out: &mut Vec<u8>) -> Option<()> {
        self.record(id, record, out).map(drop)
    }

    /// Checks a record that comes from a state file, and returns the length of its text in bytes. `None` when the
    /// record is broken, when its text is no JSON object, or when its header says another length.
    pub fn check(&self, id: u64, record: &[u8]) -> Option<usize> {
        let mut checker = Checker { length: Length(0), valid: true };
        let rest = self.record(id, record, &mut checker)?;
        let is_object = !matches!(record, [0, rest @ ..] if !rest.starts_with(b"{"));
        let valid = checker.valid && is_object && rest.is_empty() && text_length(record) == Some(checker.length.0);
        valid.then_some(checker.length.0)
    }

    /// Decodes a whole record. Returns the bytes behind it, of which a sound record has none.
    fn record<'r>(&self, id: u64, record: &'r [u8], sink: &mut impl Sink) -> Option<&'r [u8]> {
        work::add(40 + record.len() / 2);
        let mut reader = Reader { bytes: record };
        match reader.varint()? {
            0 => sink.raw(std::mem::take(&mut reader.bytes)),
            template_plus_one => {
                reader.varint()?;
                self.object(template_plus_one - 1, id, &mut reader, sink, 0)?;
            }
        }
        Some(reader.bytes)
    }

    /// Decodes an object with this template.
    fn object(
        &self,
        template: u64,
        id: u64,
        reader: &mut Reader<'_>,
        sink: &mut impl Sink,
        depth: usize,
    ) -> Option<()> {
        let template = self.tables.templates.get(template)?;
        let mut skeleton: &[u8] = &template.skeleton;
        for segment in &template.segments {
            let (before, rest) = skeleton.split_at_checked(usize::from(segment.before))?;
            sink.text(before);
            skeleton = rest.get(1..)?;
            self.value(segment.slot, id, reader, sink, depth)?;
        }
        sink.text(skeleton);
        Some(())
    }

    #[inline(always)]
    fn value(&self, slot: Slot, id: u64, reader: &mut Reader<'_>, sink: &mut impl Sink, depth: usize) -> Option<()> {
        match slot {
            Slot::OwnId => sink.quoted(id),
            Slot::Snowflake => sink.quoted(reader.number::<8>()?),
            Slot::Reference => sink.quoted(self.ids.get(reader.varint()?)?),
            Slot::Hash => sink.hash(b"\"", reader.array()?),
            Slot::AnimatedHash => sink.hash(b"\"a_", reader.array()?),
            Slot::Micros => sink.time(from_micros(reader.number::<7>()?)),
            Slot::Millis => sink.time(from_micros((reader.number::<5>()? + DISCORD_EPOCH_MILLIS) * 1_000)),
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
            Slot::Interned => sink.string(self.tables.strings.get(reader.varint()?)?),
            Slot::Raw => {
                let length = reader.length()?;
                sink.raw(reader.take(length)?);
            }
            Slot::Constant => sink.text(CONSTANTS.get(usize::from(reader.byte()?))?),
            Slot::References | Slot::Objects | Slot::Scalars | Slot::Object | Slot::Any => {
                return self.container(slot, id, reader, sink, depth);
            }
        }
        Some(())
    }

    /// Skips a packed value, and returns the length of its text in bytes.
    #[inline]
    pub(super) fn skip(&self, slot: Slot, id: u64, reader: &mut Reader<'_>) -> Option<usize> {
        let mut length = Length(0);
        self.value(slot, id, reader, &mut length, 0)?;
        Some(length.0)
    }

    /// Decodes a value that contains others.
    fn container(
        &self,
        slot: Slot,
        id: u64,
        reader: &mut Reader<'_>,
        sink: &mut impl Sink,
        depth: usize,
    ) -> Option<()> {
        if depth > MAX_NESTING {
            return None;
        }
        match slot {
            Slot::Object => {
                let template = reader.varint()?;
                self.object(template, id, reader, sink, depth + 1)
            }
            Slot::Any => {
                let slot = Slot::from_byte(reader.byte()?)?;
                self.value(slot, id, reader, sink, depth + 1)
            }
            _ => {
                // Each element takes at least one byte, so a broken count ends where the record ends.
                let count = reader.varint()?;
                sink.text(b"[");
                for index in 0..count {
                    if index > 0 {
                        sink.text(b",");
                    }
                    match slot {
                        Slot::References => sink.quoted(self.ids.get(reader.varint()?)?),
                        Slot::Objects => {
                            let template = reader.varint()?;
                            self.object(template, id, reader, sink, depth + 1)?;
                        }
                        _ => {
                            let slot = Slot::from_byte(reader.byte()?)?;
                            self.value(slot, id, reader, sink, depth + 1)?;
                        }
                    }
                }
                sink.text(b"]");
                Some(())
            }
        }
    }

    /// Whether the record is that of a guest: a member whose `joined_at` is `null`, whom `member_count` does not count
    /// (docs: Guild, Guild Member Object).
    pub(crate) fn is_guest(&self, record: &[u8]) -> bool {
        let mut reader = Reader { bytes: record };
        let Some(template_plus_one) = reader.varint() else { return false };
        let Some(template) = template_plus_one.checked_sub(1) else {
            return json::get(reader.bytes, "joined_at") == Some(b"null");
        };
        match self.tables.templates.get(template).map(|template| template.joined_at) {
            Some(JoinedAt::Null) => true,
            Some(JoinedAt::InRecord) => {
                let mut is_null = false;
                self.for_each_known_key(record, |key, slot, packed| {
                    is_null |= key == KnownKey::JoinedAt && slot == Slot::Constant && packed == [NULL];
                });
                is_null
            }
            _ => false,
        }
    }

    /// Calls `each` for every top-level value of the record that has a [`KnownKey`], with the key, the slot and the
    /// packed bytes. Constants that are part of the template are not reported. Returns false when the record holds text
    /// or is broken; then not all values were reported.
    pub(crate) fn for_each_known_key<'r>(
        &self,
        record: &'r [u8],
        mut each: impl FnMut(KnownKey, Slot, &'r [u8]),
    ) -> bool {
        work::add(24);
        let mut reader = Reader { bytes: record };
        let template = reader.varint().and_then(|template_plus_one| template_plus_one.checked_sub(1));
        template.is_some_and(|template| self.known_keys(template, reader, &mut each).is_some())
    }

    fn known_keys<'r>(
        &self,
        template: u64,
        mut reader: Reader<'r>,
        each: &mut impl FnMut(KnownKey, Slot, &'r [u8]),
    ) -> Option<()> {
        let template = self.tables.templates.get(template)?;
        reader.varint()?;
        for Segment { slot, key, .. } in &template.segments {
            let mut slot = *slot;
            if slot == Slot::Any {
                slot = Slot::from_byte(reader.byte()?)?;
            }
            let before = reader.bytes;
            self.skip(slot, 0, &mut reader)?;
            if *key != KnownKey::Other {
                each(*key, slot, &before[..before.len() - reader.bytes.len()]);
            }
        }
        Some(())
    }

    /// Appends the text of one packed value to `out`.
    #[cfg(test)]
    pub(super) fn decode_value(&self, slot: Slot, id: u64, packed: &[u8], out: &mut Vec<u8>) -> Option<()> {
        self.value(slot, id, &mut Reader { bytes: packed }, out, 0)
    }
}

/// The timestamp with microseconds that is so many microseconds after 1970.
fn from_micros(micros: u64) -> Time {
    Time { seconds: micros / 1_000_000, micros: Some((micros % 1_000_000) as u32) }
}
