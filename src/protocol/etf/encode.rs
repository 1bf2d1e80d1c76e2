//! Encodes JSON text as a term in one pass over the text, with a stack of open maps and lists.
//!
//! Promises: text that is not JSON is an error, never a panic; nesting is bounded by [`MAX_DEPTH`].

use super::{MAX_JSON_INTEGER, VERSION, tag};
use crate::protocol::json::{MAX_DEPTH, Malformed, number, string};

/// Size of a length or count field in bytes.
const COUNT: usize = 4;

/// The token that may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// The first element of an array, or its end.
    ValueOrEnd,
    Key,
    /// The first key of an object, or its end.
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    /// No token: the payload is complete.
    Nothing,
}

/// What the key of a value says about the value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Other,
    /// The value is an id.
    Id,
    /// The value is a list of ids.
    Ids,
    /// The value is an event type.
    Event,
}

/// A map or list that is still open.
struct Open {
    /// Offset of its count in the output.
    count_at: usize,
    count: u32,
    is_map: bool,
    /// The elements are ids.
    ids: bool,
}

/// Encodes payloads as terms. Between two payloads it keeps only the memory of its stack, 24 bytes for each level of
/// nesting.
#[derive(Default)]
pub struct Encoder {
    open: Vec<Open>,
}

impl Encoder {
    /// Appends the term of a payload to `out`. The text of the payload is the concatenation of `parts`, which may be
    /// split between any two tokens. `out` grows by little more than the length of the text. After an error the bytes
    /// that were appended to `out` are garbage.
    pub fn encode(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Malformed> {
        self.open.clear();
        out.push(VERSION);
        let mut pass =
            Pass { open: &mut self.open, out, expect: Expect::Value, meaning: Meaning::Other, is_dispatch: false };
        let mut before = 0;
        for part in parts {
            pass.part(part).map_err(|malformed| Malformed { at: malformed.at + before, ..malformed })?;
            before += part.len();
        }
        match pass.expect {
            Expect::Nothing => Ok(()),
            _ => Err(Malformed { what: "unterminated value", at: before }),
        }
    }
}

/// The state of encoding one payload.
struct Pass<'a> {
    open: &'a mut Vec<Open>,
    out: &'a mut Vec<u8>,
    expect: Expect,
    /// The meaning of the value that comes next.
    meaning: Meaning,
    /// The payload has an event type, which the proxy writes before the other keys.
    is_dispatch: bool,
}

impl Pass<'_> {
    /// Encodes one part of the payload's text.
    fn part(&mut self, text: &[u8]) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            let fail = |what| Malformed { what, at };
            at = match (byte, self.expect) {
                (b' ' | b'\t' | b'\n' | b'\r', _) => at + 1,
                (b':', Expect::Colon) => {
                    self.expect = Expect::Value;
                    at + 1
                }
                (b',', Expect::CommaOrEnd) => {
                    self.expect = match self.open.last() {
                        Some(Open { is_map: true, .. }) => Expect::Key,
                        _ => Expect::Value,
                    };
                    at + 1
                }
                (b'"', Expect::Key | Expect::KeyOrEnd) => self.key(text, at + 1)?,
                (b'"', Expect::Value | Expect::ValueOrEnd) => {
                    self.begin_value();
                    self.string(text, at + 1)?
                }
                (b'{' | b'[', Expect::Value | Expect::ValueOrEnd) => {
                    self.begin_value();
                    self.open(byte == b'{', at)?;
                    at + 1
                }
                (b'}', Expect::KeyOrEnd | Expect::CommaOrEnd) if self.is_in(true) => {
                    self.close();
                    at + 1
                }
                (b']', Expect::ValueOrEnd | Expect::CommaOrEnd) if self.is_in(false) => {
                    self.close();
                    at + 1
                }
                (b'-' | b'0'..=b'9' | b'a'..=b'z', Expect::Value | Expect::ValueOrEnd) => {
                    self.begin_value();
                    let rest = &text[at..];
                    let is_scalar = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                    let length = rest.iter().position(|byte| !is_scalar(byte)).unwrap_or(rest.len());
                    self.scalar(&rest[..length], at)?;
                    self.end_value();
                    at + length
                }
                _ => return Err(fail("unexpected token")),
            };
        }
        Ok(())
    }

    fn is_in(&self, map: bool) -> bool {
        self.open.last().is_some_and(|open| open.is_map == map)
    }

    /// Prepares for the next value. When the innermost open container is a list, counts the value as an element and
    /// sets the meaning of the value: an id if the list is a list of ids. For a value in a map, [`key`](Self::key) has
    /// done both.
    fn begin_value(&mut self) {
        if let Some(open) = self.open.last_mut().filter(|open| !open.is_map) {
            open.count += 1;
            self.meaning = if open.ids { Meaning::Id } else { Meaning::Other };
        }
    }

    fn end_value(&mut self) {
        self.expect = if self.open.is_empty() { Expect::Nothing } else { Expect::CommaOrEnd };
    }

    /// Opens the map or list that begins at `at`.
    fn open(&mut self, is_map: bool, at: usize) -> Result<(), Malformed> {
        if self.open.len() == MAX_DEPTH {
            return Err(Malformed { what: "nested too deeply", at });
        }
        self.out.push(if is_map { tag::MAP } else { tag::LIST });
        let ids = !is_map && self.meaning == Meaning::Ids;
        self.open.push(Open { count_at: self.out.len(), count: 0, is_map, ids });
        self.out.extend_from_slice(&[0; COUNT]);
        self.expect = if is_map { Expect::KeyOrEnd } else { Expect::ValueOrEnd };
        Ok(())
    }

    fn close(&mut self) {
        let Some(open) = self.open.pop() else { return };
        if !open.is_map {
            if open.count == 0 {
                self.out.truncate(open.count_at - 1);
            }
            // The tail of the list. Without elements it is the whole term of the list.
            self.out.push(tag::NIL);
        }
        if open.is_map || open.count > 0 {
            self.out[open.count_at..open.count_at + COUNT].copy_from_slice(&open.count.to_be_bytes());
        }
        self.end_value();
    }

    /// Encodes the key whose content begins at `at`. Returns the offset after its closing quote.
    fn key(&mut self, text: &[u8], at: usize) -> Result<usize, Malformed> {
        let depth = self.open.len();
        if let Some(open) = self.open.last_mut() {
            open.count += 1;
        }
        self.expect = Expect::Colon;
        let Some((key, end)) = plain_string(text, at) else {
            self.meaning = Meaning::Other;
            return self.escaped_string(text, at);
        };
        self.meaning = meaning(key, depth);
        let is_atom = match depth {
            1 => matches!(key, b"t" | b"s" | b"op" | b"d"),
            2 => !self.is_dispatch && matches!(key, b"heartbeat_interval" | b"_trace"),
            _ => false,
        };
        if is_atom {
            self.atom(key);
        } else {
            self.binary(key);
        }
        Ok(end)
    }

    /// Encodes the string value whose content begins at `at`. Returns the offset after its closing quote.
    fn string(&mut self, text: &[u8], at: usize) -> Result<usize, Malformed> {
        let end = match plain_string(text, at) {
            None => self.escaped_string(text, at)?,
            Some((string, end)) => {
                match self.meaning {
                    Meaning::Id => match parse_id(string) {
                        Some(id) => self.integer(false, id),
                        None => self.binary(string),
                    },
                    Meaning::Event if is_event_name(string) => {
                        self.is_dispatch = true;
                        self.atom(string);
                    }
                    _ => self.binary(string),
                }
                end
            }
        };
        self.end_value();
        Ok(end)
    }

    /// Encodes a string with escapes as a binary.
    fn escaped_string(&mut self, text: &[u8], mut at: usize) -> Result<usize, Malformed> {
        self.out.push(tag::BINARY);
        let length_at = self.out.len();
        self.out.extend_from_slice(&[0; COUNT]);
        loop {
            let unterminated = Malformed { what: "unterminated string", at: text.len() };
            let stop = string::special::<false>(text, at).ok_or(unterminated)?;
            self.out.extend_from_slice(&text[at..stop]);
            at = stop;
            if text[at] == b'"' {
                break;
            }
            let mut buffer = [0; 4];
            let (character, length) = unescape(&text[at..]).ok_or(Malformed { what: "not an escape sequence", at })?;
            self.out.extend_from_slice(character.encode_utf8(&mut buffer).as_bytes());
            at += length;
        }
        let length = (self.out.len() - length_at - COUNT) as u32;
        self.out[length_at..length_at + COUNT].copy_from_slice(&length.to_be_bytes());
        Ok(at + 1)
    }

    /// Encodes a number, `true`, `false` or `null`, which begins at `at`.
    fn scalar(&mut self, text: &[u8], at: usize) -> Result<(), Malformed> {
        match text {
            b"null" => self.atom(b"nil"),
            b"true" | b"false" => self.atom(text),
            _ => self.number(text).ok_or(Malformed { what: "not a number", at })?,
        }
        Ok(())
    }

    /// Encodes a number; `None`: the text is none.
    fn number(&mut self, text: &[u8]) -> Option<()> {
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        if !digits.first().is_some_and(u8::is_ascii_digit) {
            return None;
        }
        let text = std::str::from_utf8(text).ok()?;
        let magnitude = if digits.len() <= 20 { text[usize::from(negative)..].parse().ok() } else { None };
        match magnitude {
            Some(magnitude) => self.integer(negative, magnitude),
            None => {
                // Erlang has no infinity, so a number that is too large becomes the largest float.
                let float: f64 = text.parse().ok()?;
                self.out.push(tag::NEW_FLOAT);
                self.out.extend_from_slice(&float.clamp(f64::MIN, f64::MAX).to_be_bytes());
            }
        }
        Some(())
    }

    fn integer(&mut self, negative: bool, magnitude: u64) {
        let signed = if negative { -i128::from(magnitude) } else { i128::from(magnitude) };
        if let Ok(byte) = u8::try_from(signed) {
            self.out.extend_from_slice(&[tag::SMALL_INTEGER, byte]);
        } else if let Ok(word) = i32::try_from(signed) {
            self.out.push(tag::INTEGER);
            self.out.extend_from_slice(&word.to_be_bytes());
        } else {
            let length = 8 - magnitude.leading_zeros() as usize / 8;
            self.out.extend_from_slice(&[tag::SMALL_BIG, length as u8, u8::from(negative)]);
            self.out.extend_from_slice(&magnitude.to_le_bytes()[..length]);
        }
    }

    /// Appends an atom. `name` is ASCII and has at most 255 bytes.
    fn atom(&mut self, name: &[u8]) {
        self.out.extend_from_slice(&[tag::SMALL_ATOM, name.len() as u8]);
        self.out.extend_from_slice(name);
    }

    fn binary(&mut self, bytes: &[u8]) {
        self.out.push(tag::BINARY);
        self.out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        self.out.extend_from_slice(bytes);
    }
}

/// Returns the string whose content begins at `at` and the offset after its closing quote; `None` when the string has
/// escapes or no end.
fn plain_string(text: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let end = string::special::<false>(text, at)?;
    (text[end] == b'"').then(|| (&text[at..end], end + 1))
}

/// Decodes the escape sequence at the start of `text`. Returns the character and the length of the sequence in bytes.
/// An unpaired surrogate, which is no character, becomes the replacement character.
fn unescape(text: &[u8]) -> Option<(char, usize)> {
    let character = match text.get(1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = |at: usize| {
                let digits = text.get(at..at + 4).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
            };
            let first = unit(2)?;
            if (0xd800..0xdc00).contains(&first)
                && text.get(6..8) == Some(b"\\u")
                && let Some(second @ 0xdc00..0xe000) = unit(8)
            {
                let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                return Some((char::from_u32(code)?, 12));
            }
            return Some((char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER), 6));
        }
        _ => return None,
    };
    Some((character, 2))
}

/// An event type that can be an atom: short, ASCII, and in capitals, so that it is none of `nil`, `true` and `false`.
fn is_event_name(name: &[u8]) -> bool {
    (1..=64).contains(&name.len()) && name.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
}

/// Says what a key at this level of nesting means for its value.
fn meaning(key: &[u8], depth: usize) -> Meaning {
    match key {
        b"t" if depth == 1 => Meaning::Event,
        b"id" => Meaning::Id,
        b"custom_id" | b"session_id" => Meaning::Other,
        b"ids" | b"roles" | b"mention_roles" | b"exempt_roles" | b"exempt_channels" | b"applied_tags"
        | b"not_found" => Meaning::Ids,
        _ if key.ends_with(b"_id") => Meaning::Id,
        _ if key.ends_with(b"_ids") => Meaning::Ids,
        _ => Meaning::Other,
    }
}

/// Parses an id that Discord has as an integer and writes as a string in JSON: more than 53 bits, and at most 63 bits
/// because some clients have no larger integers.
fn parse_id(digits: &[u8]) -> Option<u64> {
    if !(16..=19).contains(&digits.len()) {
        return None;
    }
    number::parse_canonical(digits).filter(|id| (MAX_JSON_INTEGER + 1..=i64::MAX as u64).contains(id))
}
