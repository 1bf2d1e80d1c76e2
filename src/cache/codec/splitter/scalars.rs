//! Packing values that contain no object: strings, numbers, constants, and arrays of them; and, as text, values of any
//! kind.
//!
//! Each function reads one value at the splitter's offset, appends the packed bytes to the record, and returns the kind
//! of the value. A value is packed only in a form that decodes to the same bytes; [`Slot`] lists the forms. The
//! template's text is left to the [`Form`](super::walk::Form).

use super::{NoTemplate, Splitter, insert_varint};
use crate::{
    cache::codec::{
        hash,
        slot::{CONSTANTS, DISCORD_EPOCH_MILLIS, Slot},
        strings,
        trie::{KeyClass, ValueKind},
        values::{Time, parse_hash, parse_time, write_varint},
    },
    protocol::json::{self, number::parse_canonical, strict},
};
use serde::de::IgnoredAny;

/// Strings of digits with at least this many digits are packed as snowflakes, shorter ones as decimals.
const SNOWFLAKE_DIGITS: usize = 15;
/// A number with fewer digits than this fits into a `u64`.
const SAFE_DIGITS: usize = 19;

impl<'a> Splitter<'a> {
    /// Reads a value that contains no other value: a string, a number, `null`, `true`, `false`, `[]` or `{}`.
    #[inline(always)]
    pub(super) fn scalar(&mut self, class: KeyClass) -> Result<ValueKind, NoTemplate> {
        match self.peek()? {
            b'"' => {
                let text = self.string()?;
                Ok(if text.is_empty() { ValueKind::Constant(6) } else { self.pack_string(text, class) })
            }
            b'-' | b'0'..=b'9' => self.number(self.at),
            b'n' => self.constant(b"null", 0),
            b'f' => self.constant(b"false", 1),
            b't' => self.constant(b"true", 2),
            b'[' => self.constant(b"[]", 4),
            b'{' => self.constant(b"{}", 5),
            _ => Err(NoTemplate),
        }
    }

    /// Reads the constant `text`, which has this index in [`CONSTANTS`].
    #[inline(always)]
    fn constant<const N: usize>(&mut self, text: &[u8; N], index: u8) -> Result<ValueKind, NoTemplate> {
        debug_assert_eq!(CONSTANTS[usize::from(index)], text);
        if self.text[self.at..].first_chunk::<N>() != Some(text) {
            return Err(NoTemplate);
        }
        self.at += N;
        Ok(ValueKind::Constant(index))
    }

    /// Packs a string that is not empty. `text` is what stands between its quotes.
    #[inline]
    fn pack_string(&mut self, text: &'a [u8], class: KeyClass) -> ValueKind {
        if text[0].is_ascii_digit() {
            if let Some(number) = parse_canonical(text) {
                return self.pack_digits(text.len(), number, class);
            }
            if let Some(time) = parse_time(text)
                && let Some(kind) = self.pack_time(time)
            {
                return kind;
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
            return ValueKind::Slot(slot);
        }
        if strings::LENGTHS.contains(&text.len())
            && let Some(index) = self.tables.strings.find_or_count(text, hash(text))
        {
            return self.pack_varint(Slot::Interned, index);
        }
        self.pack_text(Slot::Text, text)
    }

    /// Packs a string that consists of `digits` decimal digits and says `number`.
    #[inline(always)]
    fn pack_digits(&mut self, digits: usize, number: u64, class: KeyClass) -> ValueKind {
        if class.is(KeyClass::ID) && self.id == 0 {
            self.id = number;
        }
        if number == self.id && number != 0 {
            return ValueKind::Slot(Slot::OwnId);
        }
        if digits < SNOWFLAKE_DIGITS {
            return self.pack_varint(Slot::Decimal, number);
        }
        let reference = if class.is(KeyClass::ADDS_ID) {
            self.ids.find_or_add(number)
        } else if class.is(KeyClass::FINDS_ID) {
            self.ids.find(number)
        } else {
            None
        };
        match reference {
            Some(index) => self.pack_varint(Slot::Reference, index),
            None => {
                self.record.extend_from_slice(&number.to_le_bytes());
                ValueKind::Slot(Slot::Snowflake)
            }
        }
    }

    /// Packs a timestamp; `None`, and nothing packed, when it is too large for its slot.
    #[inline(always)]
    fn pack_time(&mut self, time: Time) -> Option<ValueKind> {
        let micros = time.micros.map(|micros| time.seconds * 1_000_000 + u64::from(micros));
        let (slot, number) = match micros {
            None => (Slot::Seconds, time.seconds),
            Some(micros) if micros % 1_000 == 0 => match (micros / 1_000).checked_sub(DISCORD_EPOCH_MILLIS) {
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
        Some(ValueKind::Slot(slot))
    }

    #[inline(always)]
    fn pack_varint(&mut self, slot: Slot, number: u64) -> ValueKind {
        write_varint(self.record, number);
        ValueKind::Slot(slot)
    }

    #[inline(always)]
    fn pack_text(&mut self, slot: Slot, text: &[u8]) -> ValueKind {
        write_varint(self.record, text.len() as u64);
        self.record.extend_from_slice(text);
        ValueKind::Slot(slot)
    }

    #[inline]
    fn number(&mut self, start: usize) -> Result<ValueKind, NoTemplate> {
        let negative = self.text[start] == b'-';
        let first = start + usize::from(negative);
        let mut at = first;
        let mut magnitude = 0u64;
        while let Some(digit @ b'0'..=b'9') = self.text.get(at) {
            magnitude = magnitude.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
            at += 1;
        }
        let is_short = at > first && at - first < SAFE_DIGITS && (self.text[first] != b'0' || at - first == 1);
        if !is_short || matches!(self.text.get(at), Some(b'.' | b'e' | b'E')) || (negative && magnitude == 0) {
            return self.unusual_number(start);
        }
        self.at = at;
        Ok(match (negative, magnitude) {
            (false, 0) => ValueKind::Constant(3),
            (false, _) => self.pack_varint(Slot::Integer, magnitude),
            (true, _) => self.pack_varint(Slot::Negative, magnitude),
        })
    }

    /// Reads a number that has many digits, a fraction or an exponent, or that is `-0`. Refuses leading zeros.
    fn unusual_number(&mut self, start: usize) -> Result<ValueKind, NoTemplate> {
        self.at = strict::number_end(self.text, start).ok_or(NoTemplate)?;
        let digits = &self.text[start..self.at];
        let packed = match digits.strip_prefix(b"-") {
            None => parse_canonical(digits).map(|number| (Slot::Integer, number)),
            Some(digits) => parse_canonical(digits).filter(|number| *number > 0).map(|number| (Slot::Negative, number)),
        };
        Ok(match packed {
            Some((slot, number)) => self.pack_varint(slot, number),
            None => self.pack_text(Slot::Raw, digits),
        })
    }

    /// Reads one value, which `pack` packs, and writes a byte for its slot before it, as [`Slot::Any`] says.
    #[inline(always)]
    pub(super) fn pack_with_slot(
        &mut self,
        pack: impl FnOnce(&mut Self) -> Result<ValueKind, NoTemplate>,
    ) -> Result<ValueKind, NoTemplate> {
        let slot_at = self.record.len();
        self.record.push(0);
        let slot = match pack(self)? {
            ValueKind::Slot(slot) => slot,
            ValueKind::Constant(index) => {
                self.record.push(index);
                Slot::Constant
            }
            // Values of these kinds are not in the record. The walk packs none of them behind a slot.
            ValueKind::LeftOut | ValueKind::BareUser | ValueKind::Inlined(_) | ValueKind::Unlearnt => {
                return Err(NoTemplate);
            }
        };
        self.record[slot_at] = slot as u8;
        Ok(ValueKind::Slot(Slot::Any))
    }

    /// Reads a value of any kind and stores it as JSON text.
    pub(super) fn raw(&mut self) -> Result<ValueKind, NoTemplate> {
        let mut cursor = json::Cursor::new(&self.text[self.at..]);
        let value = cursor.value().map_err(|_| NoTemplate)?;
        if serde_json::from_slice::<IgnoredAny>(value).is_err() {
            return Err(NoTemplate);
        }
        self.at += value.len();
        Ok(self.pack_text(Slot::Raw, value))
    }

    /// Reads an array that is not empty: as references into the guild's id table if the key allows that and all
    /// elements are ids, else as an array of scalars, else as JSON text.
    pub(super) fn flat_array(&mut self, class: KeyClass) -> Result<ValueKind, NoTemplate> {
        let before = self.checkpoint();
        if class.is(KeyClass::LISTS_IDS) {
            if self.references()? {
                return Ok(ValueKind::Slot(Slot::References));
            }
            self.roll_back(before);
        }
        if self.scalars()? {
            return Ok(ValueKind::Slot(Slot::Scalars));
        }
        self.roll_back(before);
        self.raw()
    }

    /// Reads an array as references. Returns false when an element is no snowflake, or the id table is full; the caller
    /// then rolls back.
    fn references(&mut self) -> Result<bool, NoTemplate> {
        let count_at = self.record.len();
        self.at += 1;
        let mut count = 0;
        loop {
            if self.peek()? != b'"' {
                return Ok(false);
            }
            let id = parse_canonical(self.string()?).filter(|id| *id >= 10u64.pow(SNOWFLAKE_DIGITS as u32 - 1));
            let Some(index) = id.and_then(|id| self.ids.find_or_add(id)) else { return Ok(false) };
            write_varint(self.record, index);
            count += 1;
            if !self.another()? {
                break;
            }
        }
        insert_varint(self.record, count_at, count);
        Ok(true)
    }

    /// Reads an array as scalars. Returns false when an element is an object or an array; the caller then rolls back.
    fn scalars(&mut self) -> Result<bool, NoTemplate> {
        let count_at = self.record.len();
        self.at += 1;
        let mut count = 0;
        loop {
            if matches!(self.peek()?, b'{' | b'[') {
                return Ok(false);
            }
            self.pack_with_slot(|splitter| splitter.scalar(KeyClass::PLAIN))?;
            count += 1;
            if !self.another()? {
                break;
            }
        }
        insert_varint(self.record, count_at, count);
        Ok(true)
    }
}
