//! JSON as text: finds where values end and what keys and numbers say, and builds no tree.
//!
//! [`skip`] finds the end of an object or array, [`string`] handles strings, [`number`] parses numbers, [`strict`]
//! checks strings and numbers by the grammar, and this file reads entries and elements.
//!
//! Promises: strings are closed, brackets match, nesting is bounded by [`MAX_DEPTH`]. Never checks the grammar of numbers
//! or the order of tokens inside a value that it skips, because the proxy relays such a value unchanged; text that is
//! taken apart and stored is checked with [`strict`].

pub(crate) mod number;
mod skip;
pub(crate) mod strict;
pub(crate) mod string;
mod swar;

pub use number::parse_id;
pub use skip::{MAX_DEPTH, end_of_container};
pub use string::write as write_string;

use string::spells;

/// Why bytes are not the expected JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Malformed {
    /// What was wrong.
    pub what: &'static str,
    /// Offset, in bytes, at which the error was found.
    pub at: usize,
}

/// A read position in JSON text.
#[derive(Clone, Copy)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Malformed> {
        Err(Malformed { what, at: self.at })
    }

    /// Skips white space and returns the next byte without consuming it.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Skips white space and consumes `byte` if it is next. Returns whether it was.
    pub fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Skips white space and consumes `byte`. Fails with `what` when another byte is next.
    pub fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Malformed> {
        if self.take(byte) { Ok(()) } else { self.fail(what) }
    }

    /// Consumes a string and returns the bytes between its quotes, with their escapes.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        self.string_as_spelled().map(|(string, _)| string)
    }

    /// As [`Cursor::string`]; also returns whether the string contains a backslash.
    #[inline]
    pub fn string_as_spelled(&mut self) -> Result<(&'a [u8], bool), Malformed> {
        self.expect(b'"', "expected a string")?;
        let start = self.at;
        let escaped = self.skip_string()?;
        Ok((&self.bytes[start..self.at - 1], escaped))
    }

    /// Consumes the rest of a string, including its closing quote. Returns whether it contains a backslash.
    #[inline]
    fn skip_string(&mut self) -> Result<bool, Malformed> {
        match string::end(self.bytes, self.at) {
            Some((quote, escaped)) => {
                self.at = quote + 1;
                Ok(escaped)
            }
            None => {
                self.at = self.bytes.len();
                self.fail("unterminated string")
            }
        }
    }

    /// Consumes one value of any type and returns its text.
    pub fn value(&mut self) -> Result<&'a [u8], Malformed> {
        let Some(first) = self.peek() else { return self.fail("expected a value") };
        let start = self.at;
        match first {
            b'"' => {
                self.at += 1;
                self.skip_string()?;
            }
            b'{' | b'[' => self.at = end_of_container(self.bytes, start)?,
            _ => {
                let scalar = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                let length = self.bytes[self.at..].iter().take_while(|byte| scalar(byte)).count();
                if length == 0 {
                    return self.fail("expected a value");
                }
                self.at += length;
            }
        }
        Ok(&self.bytes[start..self.at])
    }

    /// Fails when anything but white space is left.
    pub fn end(&mut self) -> Result<(), Malformed> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.fail("bytes after the end"),
        }
    }
}

/// Calls `each` with every key (the text between its quotes, with its escapes) and value of an object, in order,
/// until `each` returns false.
///
/// A key may be escaped in different ways, and may be repeated. Where that matters, the object has to be in [plain
/// spelling](super::spelling), or the caller has to use [`get`] or [`get_all`].
pub fn for_each_entry<'a>(object: &'a [u8], mut each: impl FnMut(&'a [u8], &'a [u8]) -> bool) -> Result<(), Malformed> {
    for_each_spelled_entry(object, |key, _, value| each(key, value))
}

/// As [`for_each_entry`]; the second argument of `each` says whether the key contains a backslash.
#[inline]
pub fn for_each_spelled_entry<'a>(
    object: &'a [u8],
    mut each: impl FnMut(&'a [u8], bool, &'a [u8]) -> bool,
) -> Result<(), Malformed> {
    let mut cursor = Cursor::new(object);
    cursor.expect(b'{', "expected an object")?;
    if cursor.take(b'}') {
        return cursor.end();
    }
    loop {
        let (key, escaped) = cursor.string_as_spelled()?;
        cursor.expect(b':', "expected a colon")?;
        if !each(key, escaped, cursor.value()?) {
            return Ok(());
        }
        if cursor.take(b'}') {
            return cursor.end();
        }
        cursor.expect(b',', "expected a comma")?;
    }
}

/// Returns the text of each element of an array, in order.
pub fn elements(array: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let mut cursor = Cursor::new(array);
    let mut elements = Vec::new();
    cursor.expect(b'[', "expected an array")?;
    if !cursor.take(b']') {
        loop {
            elements.push(cursor.value()?);
            if cursor.take(b']') {
                break;
            }
            cursor.expect(b',', "expected a comma")?;
        }
    }
    cursor.end()?;
    Ok(elements)
}

/// Finds the value of a top-level key of an object, however the key is escaped. When the key is repeated, the last
/// value counts, as in other JSON parsers. `None`: the key does not occur, or only after something malformed.
pub fn get<'a>(object: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let [value] = get_all(object, [key]);
    value
}

/// Finds the values of several keys of an object in one pass, each as [`get`] would find it.
#[inline]
pub fn get_all<'a, const N: usize>(object: &'a [u8], keys: [&str; N]) -> [Option<&'a [u8]>; N] {
    let mut found = [None; N];
    // An error is ignored: values before something malformed count.
    let _ = for_each_spelled_entry(object, |name, escaped, value| {
        for (key, slot) in keys.iter().zip(&mut found) {
            if spells(name, escaped, key.as_bytes()) {
                *slot = Some(value);
            }
        }
        true
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_found_only_at_the_top() {
        let object = br#"{"a":{"id":1,"x":"\"id\":2"},"b":["id"],"id": "77" ,"z":null}"#;
        assert_eq!(get(object, "id").and_then(parse_id), Some(77));
        assert_eq!(get(object, "x"), None);
        assert_eq!(get(object, "z"), Some(&b"null"[..]));
        assert_eq!(get(b"[1]", "id"), None);
        let respelled = br#"{ "id":1,"\u0069d" : 2 , "i\\u0064":3}"#;
        assert_eq!(
            get(respelled, "id").and_then(parse_id),
            Some(2),
            "the last value counts, however its key is escaped"
        );
        for keys in [["id", "x", "z"], ["z", "id", "id"]] {
            assert_eq!(get_all(object, keys), keys.map(|key| get(object, key)));
        }
        assert_eq!(get_all(br#"{"a":1,"b":2,"a":3,]"#, ["a", "c"]), [Some(&b"3"[..]), None]);
    }

    #[test]
    fn arrays_are_taken_apart() {
        assert_eq!(elements(b"[]").unwrap(), Vec::<&[u8]>::new());
        assert_eq!(
            elements(b" [ 1 ,[2,3], {\"a\":[]},\"]\" ] ").unwrap(),
            [&b"1"[..], b"[2,3]", b"{\"a\":[]}", b"\"]\""]
        );
        for bad in [&b"{}"[..], b"[1", b"[1,]", b"[1 2]", b"[1]]", b"null"] {
            assert!(elements(bad).is_err());
        }
    }

    #[test]
    fn broken_structure_is_named() {
        let what = |text: &str| Cursor::new(text.as_bytes()).value().unwrap_err().what;
        assert_eq!(what("{]"), "brackets do not match");
        assert_eq!(what("[{\"a\":[}]]"), "brackets do not match");
        assert_eq!(what("{\"a"), "unterminated string");
        assert_eq!(what("\"a\\"), "unterminated string");
        assert_eq!(what("[[]"), "unterminated value");
        assert_eq!(what(":"), "expected a value");
        assert_eq!(what(&"[".repeat(MAX_DEPTH + 1)), "nested too deeply");
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert_eq!(Cursor::new(deep.as_bytes()).value(), Ok(deep.as_bytes()));
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in r#"[\[\]{}",:\\ a1-]{0,40}"#) {
            let _ = Cursor::new(text.as_bytes()).value();
            let _ = for_each_entry(text.as_bytes(), |_, _| true);
        }
    }
}
