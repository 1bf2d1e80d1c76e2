//! Strings: where they end, which characters they stand for, and how the proxy writes them.

use super::swar;
use std::borrow::Cow;

/// JSON does not allow the bytes below this one in a string.
const SPACE: u8 = 0x20;

/// Finds the first quote or backslash at or after `at`, and with `STRICT` also the first control byte.
#[inline(always)]
pub fn special<const STRICT: bool>(text: &[u8], at: usize) -> Option<usize> {
    let word = |word| {
        let found = swar::equal(word, b'"') | swar::equal(word, b'\\');
        if STRICT { found | swar::below(word, SPACE) } else { found }
    };
    swar::find(text, at, word, |byte| matches!(byte, b'"' | b'\\') || STRICT && byte < SPACE)
}

/// Finds the closing quote of a string whose content begins at `at`, whatever its escapes and bytes are. Also returns
/// whether the string contains a backslash. `None`: the string has no end.
#[inline]
pub fn end(text: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let mut escaped = false;
    loop {
        at = special::<false>(text, at)?;
        if text[at] == b'"' {
            return Some((at, escaped));
        }
        // Skips the backslash and the byte after it, which can not end the string.
        at += 2;
        escaped = true;
    }
}

/// Decodes the text between the quotes of a string. `None`: the text is not valid there, for example because it escapes
/// an unpaired surrogate.
pub fn unescape(content: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", content, b"\""].concat()).ok()
}

/// Appends `text` as a JSON string.
pub fn write(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("writing a string into memory can not fail");
}

/// Rewrites the text between the quotes of a key so that it has only the escapes that it needs.
pub fn plain_key(key: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'\\', key).is_none() {
        return Cow::Borrowed(key);
    }
    // An unpaired surrogate is not Unicode text, but some parsers accept it. Such a key stays as it is.
    let Some(text) = unescape(key) else { return Cow::Borrowed(key) };
    let mut quoted = Vec::with_capacity(key.len() + 2);
    write(&mut quoted, &text);
    Cow::Owned(quoted[1..quoted.len() - 1].to_vec())
}

/// Compares a key of a text with `key`, which needs no escapes. `spelled` is the text between the quotes; `escaped`
/// says whether it contains a backslash.
#[inline]
pub fn spells(spelled: &[u8], escaped: bool, key: &[u8]) -> bool {
    spelled == key || (escaped && *plain_key(spelled) == *key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_ends_at_its_first_quote_without_a_backslash() {
        assert_eq!(end(b"\"x", 0), Some((0, false)));
        assert_eq!(end(br#"abcdefghij"x"#, 0), Some((10, false)));
        assert_eq!(end(br#"a\"b\\""#, 0), Some((6, true)));
        assert_eq!(end(b"a\nb\"", 0), Some((3, false)), "a control byte does not end the search");
        for open in [&b""[..], b"abc", b"abcdefgh", br#"a\""#, b"\\"] {
            assert_eq!(end(open, 0), None, "{open:?}");
        }
    }

    #[test]
    fn keys_are_compared_in_every_spelling() {
        assert!(spells(b"user", false, b"user") && spells(br"us\u0065r", true, b"user"));
        assert!(!spells(br"us\\u0065r", true, b"user") && !spells(br"\ud800", true, b"user"));
        assert_eq!(*plain_key(br"a \u0022b\u0022"), br#"a \"b\""#[..]);
        assert_eq!(*plain_key(br"\ud800"), br"\ud800"[..]);
    }
}
