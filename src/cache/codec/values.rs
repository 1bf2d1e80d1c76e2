//! The forms of single packed values: varints, hashes of images, timestamps.
//!
//! Promise: each `parse_…` accepts only text that its counterpart writes back byte for byte. For example, a number with
//! a leading zero is no decimal here, and a date that does not exist is no timestamp.

/// Reads packed values from the start of a slice. Every method returns `None` when too few bytes are left.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    /// The bytes that have not been read yet.
    pub bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// The next `length` bytes.
    #[inline(always)]
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    /// The next `N` bytes.
    #[inline(always)]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*taken)
    }

    /// The next byte.
    #[inline(always)]
    pub fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*first)
    }

    /// A varint (see [`write_varint`]). `None` also when it has more than ten bytes; bits above the 64th are dropped.
    #[inline(always)]
    pub fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        if first < 0x80 { Some(u64::from(first)) } else { self.long_varint(first) }
    }

    fn long_varint(&mut self, first: u8) -> Option<u64> {
        let mut value = u64::from(first & 0x7f);
        for shift in (7..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A varint that counts bytes.
    #[inline(always)]
    pub fn length(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }

    /// An unsigned little-endian number of `N` bytes. `N` is at most 8.
    #[inline(always)]
    pub fn number<const N: usize>(&mut self) -> Option<u64> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.array::<N>()?);
        Some(u64::from_le_bytes(wide))
    }
}

/// Appends a number as a varint: seven bits in each byte, the lowest first; the highest bit says that another byte
/// follows.
#[inline(always)]
pub(crate) fn write_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The bytes of a varint, and how many of them are used.
pub(crate) fn varint(mut value: u64) -> ([u8; 10], usize) {
    let mut bytes = [0; 10];
    let mut length = 0;
    while value >= 0x80 {
        bytes[length] = value as u8 | 0x80;
        value >>= 7;
        length += 1;
    }
    bytes[length] = value as u8;
    (bytes, length + 1)
}

/// How many decimal digits a number has.
#[inline]
pub(crate) fn decimal_length(value: u64) -> usize {
    value.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// The value of each lower-case hexadecimal digit; 0xff for all other bytes.
const fn nibbles() -> [u8; 256] {
    let mut table = [0xff; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
}

const NIBBLES: [u8; 256] = nibbles();

/// Parses 32 lower-case hexadecimal digits.
pub(crate) fn parse_hash(text: &[u8; 32]) -> Option<[u8; 16]> {
    let mut hash = [0; 16];
    let mut bad = 0;
    for (byte, pair) in hash.iter_mut().zip(text.as_chunks::<2>().0) {
        let (high, low) = (NIBBLES[pair[0] as usize], NIBBLES[pair[1] as usize]);
        bad |= high | low;
        *byte = high << 4 | low & 0xf;
    }
    (bad & 0xf0 == 0).then_some(hash)
}

/// The two hexadecimal digits of each byte.
const fn hex_pairs() -> [[u8; 2]; 256] {
    let mut table = [[0; 2]; 256];
    let mut value = 0;
    while value < 256 {
        table[value] = [b"0123456789abcdef"[value >> 4], b"0123456789abcdef"[value & 15]];
        value += 1;
    }
    table
}

const HEX_PAIRS: [[u8; 2]; 256] = hex_pairs();

/// The 32 hexadecimal digits of a hash, the inverse of [`parse_hash`].
pub(crate) fn hash_text(hash: [u8; 16]) -> [u8; 32] {
    let mut text = [0; 32];
    for (pair, byte) in text.as_chunks_mut::<2>().0.iter_mut().zip(hash) {
        *pair = HEX_PAIRS[byte as usize];
    }
    text
}

/// Seconds of a day.
const DAY: u64 = 86_400;

/// A timestamp in UTC as Discord writes it: `2021-04-12T23:40:39.855793+00:00`, or without the fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    /// Seconds since 1970.
    pub seconds: u64,
    /// Microseconds of the second; `None` when the text has no fraction. A fraction always has six digits.
    pub micros: Option<u32>,
}

/// The number that the two digits at offset `at` say.
fn two_digits(text: &[u8], at: usize) -> Option<u64> {
    let (high, low) = (text.get(at)?.wrapping_sub(b'0'), text.get(at + 1)?.wrapping_sub(b'0'));
    (high <= 9 && low <= 9).then_some(u64::from(high) * 10 + u64::from(low))
}

/// Days from 1970 to a date of the Gregorian calendar. `None` for dates before 1970. The calculation lets years begin
/// in March, so that a leap day is the last day of its year.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let in_era = year % 400;
    let in_year = (153 * month + 2) / 5 + day - 1;
    (year / 400 * 146_097 + in_era * 365 + in_era / 4 - in_era / 100 + in_year).checked_sub(719_468)
}

/// How many days a month has. `month` is 1 to 12.
fn month_days(year: u64, month: u64) -> u64 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The year, month and day that is so many days after 1970, the inverse of [`days`].
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let in_era = days % 146_097;
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let year = days / 146_097 * 400 + year;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

/// Parses a timestamp. `None` when [`time_text`] would not write the same text.
pub(crate) fn parse_time(text: &[u8]) -> Option<Time> {
    let fraction = match text.len() {
        25 => false,
        32 => true,
        _ => return None,
    };
    let punctuation = text[4] == b'-' && text[7] == b'-' && text[10] == b'T' && text[13] == b':' && text[16] == b':';
    if !punctuation || !text.ends_with(b"+00:00") || (fraction && text[19] != b'.') {
        return None;
    }
    let (year, month, day) =
        (two_digits(text, 0)? * 100 + two_digits(text, 2)?, two_digits(text, 5)?, two_digits(text, 8)?);
    let (hour, minute, second) = (two_digits(text, 11)?, two_digits(text, 14)?, two_digits(text, 17)?);
    if !(1..=12).contains(&month)
        || day == 0
        || day > month_days(year, month)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let days = days(year, month, day)?;
    let micros = match fraction {
        true => Some((two_digits(text, 20)? * 10_000 + two_digits(text, 22)? * 100 + two_digits(text, 24)?) as u32),
        false => None,
    };
    Some(Time { seconds: days * DAY + hour * 3_600 + minute * 60 + second, micros })
}

/// The text of a timestamp, and how many of its bytes are used. [`parse_time`] gives years up to 9999; of a later year
/// only the last four digits are written.
pub(crate) fn time_text(time: Time) -> ([u8; 32], usize) {
    let mut text = *b"0000-00-00T00:00:00.000000+00:00";
    let mut put = |at: usize, value: u64| {
        text[at] = b'0' + (value / 10 % 10) as u8;
        text[at + 1] = b'0' + (value % 10) as u8;
    };
    let (year, month, day) = date(time.seconds / DAY);
    let second = time.seconds % DAY;
    put(0, year / 100);
    put(2, year % 100);
    put(5, month);
    put(8, day);
    put(11, second / 3_600);
    put(14, second / 60 % 60);
    put(17, second % 60);
    match time.micros {
        Some(micros) => {
            let micros = u64::from(micros);
            put(20, micros / 10_000);
            put(22, micros / 100 % 100);
            put(24, micros % 100);
            (text, 32)
        }
        None => {
            text.copy_within(26..32, 19);
            (text, 25)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn timestamps_keep_their_text() {
        for good in [
            "2021-04-12T23:40:39.855793+00:00",
            "1970-01-01T00:00:00.000000+00:00",
            "2024-02-29T23:59:59.999999+00:00",
            "2000-02-29T00:00:00+00:00",
            "9999-12-31T23:59:59+00:00",
        ] {
            let time = parse_time(good.as_bytes()).unwrap_or_else(|| panic!("{good}"));
            let (text, length) = time_text(time);
            assert_eq!(std::str::from_utf8(&text[..length]).unwrap(), good);
        }
        for bad in [
            "2021-02-29T23:40:39.855793+00:00",
            "2021-04-31T23:40:39.855793+00:00",
            "2021-13-01T23:40:39.855793+00:00",
            "2021-04-12T24:40:39.855793+00:00",
            "2021-04-12T23:40:60.855793+00:00",
            "2021-04-12 23:40:39.855793+00:00",
            "2021-04-12T23:40:39.855793+01:00",
            "2021-04-12T23:40:39,855793+00:00",
            "1969-12-31T23:59:59.000000+00:00",
            "0000-01-01T00:00:00+00:00",
            "2021-04-12T23:40:39Z",
            "20x1-04-12T23:40:39+00:00",
            "",
        ] {
            assert_eq!(parse_time(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn varints_return(values: Vec<u64>) {
            let mut out = Vec::new();
            for value in &values {
                let before = out.len();
                write_varint(&mut out, *value);
                let (bytes, length) = varint(*value);
                prop_assert_eq!(&out[before..], &bytes[..length]);
            }
            let mut reader = Reader { bytes: &out };
            for value in &values {
                prop_assert_eq!(reader.varint(), Some(*value));
            }
            prop_assert_eq!(reader.varint(), None);
        }

        #[test]
        fn canonical_numbers_are_those_that_u64_writes(text in "[0-9]{0,21}|[0-9]{0,3}[ax+-][0-9]{0,3}") {
            let expected = text.parse::<u64>().ok().filter(|value| value.to_string() == text);
            prop_assert_eq!(crate::protocol::json::number::parse_canonical(text.as_bytes()), expected);
            if let Some(value) = expected {
                prop_assert_eq!(decimal_length(value), text.len());
            }
        }

        #[test]
        fn hashes_return(hash: [u8; 16], at in 0usize..32, byte: u8) {
            let mut text = hash_text(hash);
            prop_assert_eq!(parse_hash(&text), Some(hash));
            text[at] = byte;
            let valid = matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            prop_assert_eq!(parse_hash(&text).is_some(), valid);
            prop_assert!(parse_hash(&text).is_none_or(|hash| hash_text(hash) == text));
        }

        #[test]
        fn all_moments_return(seconds in 0u64..253_402_300_800, micros in proptest::option::of(0u32..1_000_000)) {
            let time = Time { seconds, micros };
            let (text, length) = time_text(time);
            prop_assert_eq!(parse_time(&text[..length]), Some(time));
        }

        #[test]
        fn readers_never_panic(bytes: Vec<u8>) {
            let mut reader = Reader { bytes: &bytes };
            while reader.varint().is_some() {}
            let mut reader = Reader { bytes: &bytes };
            while reader.number::<7>().is_some() && reader.length().is_some_and(|length| reader.take(length).is_some()) {}
        }
    }
}
