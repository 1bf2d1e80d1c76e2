//! Plain spelling: a normal form of JSON text, in which the cache can compare keys and ids by their bytes.
//!
//! JSON allows white space between tokens, escapes in any string, and repeated keys, of which the last one counts.
//! Discord uses none of these. A text is in *plain spelling* when it has no white space between tokens, when no
//! object repeats a key, when keys have only the escapes that they need, and when strings do not escape letters,
//! digits and the punctuation of ids and timestamps. In two such texts, equal keys have equal bytes, and equal ids
//! have equal digits.
//!
//! Promises: [`plain`] does not change what a JSON parser reads, and copies numbers and all other strings byte for
//! byte; [`is_plain`] is true for the output of [`plain`]. Never checks that a text is JSON beyond what finding keys
//! and the ends of values requires.

use super::json::{Cursor, MAX_DEPTH, Malformed, string::plain_key};
use hashbrown::HashMap;
use memchr::memmem;
use smallvec::SmallVec;
use std::borrow::Cow;

/// The `what` of a [`Malformed`] for text that may be JSON but is not in plain spelling.
pub const NOT_PLAIN: &str = "not in plain spelling";

/// Number of keys up to which each key of an object is compared with each earlier one. The keys of larger objects are
/// sorted, or go into a hash table.
const FEW_KEYS: usize = 32;

/// The keys of one object that have been read so far.
#[derive(Default)]
struct Keys<'a> {
    list: Vec<Cow<'a, [u8]>>,
    table: HashMap<Cow<'a, [u8]>, usize>,
}

impl<'a> Keys<'a> {
    /// Adds a key. Returns the index of an equal earlier key, if there is one.
    fn add(&mut self, key: Cow<'a, [u8]>) -> Option<usize> {
        let before = if self.table.is_empty() {
            self.list.iter().rposition(|known| *known == key)
        } else {
            self.table.insert(key.clone(), self.list.len())
        };
        self.list.push(key);
        if self.table.is_empty() && self.list.len() > FEW_KEYS {
            self.table.extend(self.list.iter().cloned().zip(0..));
        }
        before
    }
}

/// Decodes the `\u00XX` escape at the start of `text` if its character needs no escape; otherwise `None`.
fn needless(text: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(text.strip_prefix(b"\\u00")?.get(..2)?).ok()?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'+' | b':' | b'.')).then_some(byte)
}

/// Says whether a string of this text escapes a character that needs no escape. One pass over the text suffices for
/// nearly all texts.
#[inline]
pub fn has_needless_escape(text: &[u8]) -> bool {
    let Some(first) = memchr::memchr(b'\\', text) else { return false };
    memmem::find_iter(&text[first..], b"\\u00").any(|at| {
        let (before, escape) = text.split_at(first + at);
        // A backslash that follows an odd number of backslashes is itself escaped.
        let backslashes = before.iter().rev().take_while(|byte| **byte == b'\\').count();
        backslashes.is_multiple_of(2) && needless(escape).is_some()
    })
}

/// Says whether the text is in plain spelling. Also false for some texts that are not JSON.
pub fn is_plain(text: &[u8]) -> bool {
    !has_needless_escape(text) && plain_value(text, 0, 0, &mut OpenKeys::new()) == Some(text.len())
}

/// The keys read so far of every object that is open, the outermost object's first. Nearly every event fits, so
/// [`is_plain`] allocates nothing.
type OpenKeys<'a> = SmallVec<[&'a [u8]; 64]>;

/// Says whether a key occurs twice among the keys of one object.
fn has_repeated(keys: &mut [&[u8]]) -> bool {
    if keys.len() > FEW_KEYS {
        keys.sort_unstable();
        keys.windows(2).any(|pair| pair[0] == pair[1])
    } else {
        keys.iter().enumerate().any(|(index, key)| keys[..index].contains(key))
    }
}

/// Finds the end of the value that begins at `at`; `None` when the value is not in plain spelling.
fn plain_value<'a>(text: &'a [u8], at: usize, depth: usize, keys: &mut OpenKeys<'a>) -> Option<usize> {
    let string = |at: usize| {
        let mut cursor = Cursor::new(text.get(at..)?);
        cursor.string_as_spelled().ok().map(|(string, escaped)| (string, escaped, at + cursor.position()))
    };
    let (close, mut at) = match text.get(at)? {
        _ if depth > MAX_DEPTH => return None,
        b'"' => return string(at).map(|(.., end)| end),
        b'{' => (b'}', at + 1),
        b'[' => (b']', at + 1),
        byte if byte.is_ascii_whitespace() => return None,
        _ => {
            let mut cursor = Cursor::new(&text[at..]);
            return cursor.value().ok().map(|_| at + cursor.position());
        }
    };
    if text.get(at) == Some(&close) {
        return Some(at + 1);
    }
    let first_key = keys.len();
    loop {
        if close == b'}' {
            if text.get(at) != Some(&b'"') {
                return None;
            }
            let (key, escaped, end) = string(at)?;
            if escaped && *plain_key(key) != *key {
                return None;
            }
            keys.push(key);
            at = end + usize::from(text.get(end) == Some(&b':'));
            if at == end {
                return None;
            }
        }
        at = plain_value(text, at, depth + 1, keys)?;
        match text.get(at)? {
            b',' => at += 1,
            byte if *byte == close => {
                let repeated = has_repeated(&mut keys[first_key..]);
                keys.truncate(first_key);
                return (!repeated).then_some(at + 1);
            }
            _ => return None,
        }
    }
}

/// Rewrites JSON text in plain spelling. Fails when keys or the ends of values can not be found.
pub fn plain(text: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut writer = Writer { cursor: Cursor::new(text), out: Vec::with_capacity(text.len()) };
    writer.value(0)?;
    writer.cursor.end()?;
    Ok(writer.out)
}

/// Returns the text itself when it is in plain spelling, otherwise a rewritten copy.
pub fn in_plain(text: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    if is_plain(text) { Ok(Cow::Borrowed(text)) } else { plain(text).map(Cow::Owned) }
}

struct Writer<'a> {
    cursor: Cursor<'a>,
    out: Vec<u8>,
}

impl Writer<'_> {
    fn value(&mut self, depth: usize) -> Result<(), Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed { what: "nested too deeply", at: self.cursor.position() });
        }
        match self.cursor.peek() {
            Some(b'{') => self.object(depth),
            Some(b'[') => self.array(depth),
            Some(b'"') => {
                let (string, escaped) = self.cursor.string_as_spelled()?;
                self.out.push(b'"');
                if escaped {
                    write_string(&mut self.out, string);
                } else {
                    self.out.extend_from_slice(string);
                }
                self.out.push(b'"');
                Ok(())
            }
            _ => {
                let scalar = self.cursor.value()?;
                self.out.extend_from_slice(scalar);
                Ok(())
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Malformed> {
        self.cursor.expect(b'[', "expected an array")?;
        self.out.push(b'[');
        if !self.cursor.take(b']') {
            loop {
                self.value(depth + 1)?;
                if self.cursor.take(b']') {
                    break;
                }
                self.cursor.expect(b',', "expected a comma")?;
                self.out.push(b',');
            }
        }
        self.out.push(b']');
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), Malformed> {
        self.cursor.expect(b'{', "expected an object")?;
        let start = self.out.len();
        self.out.push(b'{');
        // The range of each entry in the output, and whether a later entry repeats its key.
        let (mut keys, mut entries, mut any_gone) = (Keys::default(), Vec::new(), false);
        if !self.cursor.take(b'}') {
            loop {
                let begin = self.out.len();
                let key = plain_key(self.cursor.string()?);
                for part in [b"\"", &*key, b"\":"] {
                    self.out.extend_from_slice(part);
                }
                if let Some(before) = keys.add(key) {
                    let (.., gone): &mut (usize, usize, bool) = &mut entries[before];
                    *gone = true;
                    any_gone = true;
                }
                self.cursor.expect(b':', "expected a colon")?;
                self.value(depth + 1)?;
                entries.push((begin, self.out.len(), false));
                if self.cursor.take(b'}') {
                    break;
                }
                self.cursor.expect(b',', "expected a comma")?;
                self.out.push(b',');
            }
        }
        if any_gone {
            let all = self.out.split_off(start);
            self.out.push(b'{');
            for (begin, end, _) in entries.into_iter().filter(|(.., gone)| !gone) {
                if self.out.len() > start + 1 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(&all[begin - start..end - start]);
            }
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// Appends the text between the quotes of a string, without needless escapes.
fn write_string(out: &mut Vec<u8>, mut string: &[u8]) {
    while let Some(at) = memchr::memchr(b'\\', string) {
        out.extend_from_slice(&string[..at]);
        string = &string[at..];
        match needless(string) {
            Some(byte) => {
                out.push(byte);
                string = &string[6..];
            }
            None => {
                let (escape, rest) = string.split_at(string.len().min(2));
                out.extend_from_slice(escape);
                string = rest;
            }
        }
    }
    out.extend_from_slice(string);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn text(spelled: &str) -> String {
        String::from_utf8(plain(spelled.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn every_spelling_has_a_plain_one() {
        for (spelled, expected) in [
            (r#" { "a" : [ 1 , { } , [ ] ] , "b":"x y" } "#, r#"{"a":[1,{},[]],"b":"x y"}"#),
            (r#"{"us\u0065r":1,"a \u0022b\u0022":2,"\u00e9":3}"#, r#"{"user":1,"a \"b\"":2,"é":3}"#),
            (r#"{"id":"\u0031\u00322","t":"\u00e9\u003c\/\\u0041"}"#, r#"{"id":"122","t":"\u00e9\u003c\/\\u0041"}"#),
            (r#"{"a":1,"b":2,"\u0061":3,"c":{"x":1,"x":[]},"b":4}"#, r#"{"a":3,"c":{"x":[]},"b":4}"#),
            (r#"{"n":1.50e+1,"\ud800":0}"#, r#"{"n":1.50e+1,"\ud800":0}"#),
            ("\t[\r\n]", "[]"),
            ("{}", "{}"),
        ] {
            assert_eq!(text(spelled), expected);
            assert_eq!(is_plain(spelled.as_bytes()), spelled == expected, "{spelled}");
            assert!(is_plain(expected.as_bytes()), "{expected}");
        }
        for bad in ["", "{", r#"{"a"}"#, r#"{"a":1,}"#, "[1 2]", "{}{}", r#"{"a":"#] {
            assert!(plain(bad.as_bytes()).is_err(), "{bad}");
            assert!(!is_plain(bad.as_bytes()), "{bad}");
        }
        let deep = "[".repeat(100_000);
        assert!(plain(deep.as_bytes()).is_err() && !is_plain(deep.as_bytes()));
    }

    #[test]
    fn many_keys_and_many_repetitions_take_no_time() {
        let entries: Vec<String> = (0..200_000).map(|number| format!("\"{}\":{number}", number % 100_000)).collect();
        let spelled = format!("{{{}}}", entries.join(","));
        assert!(!is_plain(spelled.as_bytes()));
        assert_eq!(text(&spelled), format!("{{{}}}", entries[100_000..].join(",")));
    }

    proptest! {
        #[test]
        fn what_a_parser_reads_stays_the_same(
            spelled in r#"[\[{]{0,2}("(a|\\u0061|b|\\\\u0061|\\n)":|[0-9]{1,2},| |"(a|\\u0062\\")",|\{\},|[\[{]){0,8}"?a?"?:?1?[\]}]{0,4}"#,
        ) {
            let parsed = serde_json::from_str::<Value>(&spelled).ok();
            if let Some(parsed) = parsed {
                let plain = plain(spelled.as_bytes()).unwrap();
                prop_assert_eq!(serde_json::from_slice::<Value>(&plain).unwrap(), parsed);
                prop_assert!(is_plain(&plain));
                prop_assert!(!is_plain(spelled.as_bytes()) || plain == spelled.as_bytes());
            } else {
                let _ = (plain(spelled.as_bytes()), is_plain(spelled.as_bytes()));
            }
        }
    }
}
