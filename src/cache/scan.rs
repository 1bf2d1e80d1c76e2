//! Finding where JSON strings and numbers end. Strings are scanned eight bytes at a time.
//!
//! These functions are stricter than [`crate::protocol::json`], because the cache takes apart and stores what they
//! accept: they refuse control bytes in strings, unknown escapes, and numbers that break JSON's grammar. They do not
//! skip white space.

use crate::protocol::{json, swar};
use memchr::memmem::FinderRev;
use std::sync::LazyLock;

/// A JSON string cannot contain bytes below this one.
const SPACE: u8 = 0x20;

/// The offset of the first quote, backslash or control byte at or behind `at`.
#[inline(always)]
fn special(text: &[u8], at: usize) -> Option<usize> {
    let word = |word| swar::equal(word, b'"') | swar::equal(word, b'\\') | swar::below(word, SPACE);
    swar::find(text, at, word, |byte| matches!(byte, b'"' | b'\\') || byte < SPACE)
}

/// The offset of the closing quote of the string whose content begins at `at`. `None` when it is not a valid string.
#[inline]
pub(super) fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = special(text, at)?;
        match text[at] {
            b'"' => return Some(at),
            b'\\' => at = escape_end(text, at)?,
            _ => return None,
        }
    }
}

/// Whether this is valid between the quotes of a string.
pub(super) fn is_content(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = special(text, at) {
        match escape_end(text, found) {
            Some(end) if text[found] == b'\\' => at = end,
            _ => return false,
        }
    }
    true
}

/// The offset behind the escape whose backslash is at `at`. `None` when the escape is invalid.
fn escape_end(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 2),
        b'u' => text.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit).then_some(at + 6),
        _ => None,
    }
}

/// The offset behind the number at `at`. `None` when it breaks JSON's grammar.
pub(super) fn number_end(text: &[u8], mut at: usize) -> Option<usize> {
    let digits = |mut at: usize| {
        let from = at;
        while text.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        (at > from).then_some(at)
    };
    at += usize::from(text.get(at) == Some(&b'-'));
    at = if text.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if text.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(text.get(at), Some(b'+' | b'-')));
        at = digits(at)?;
    }
    Some(at)
}

/// The value of `"guild_id":"…"` when that is the last entry of the object, or its first entry and the text
/// `"guild_id"` does not occur again. Discord puts it in one of these two places, so this usually saves a scan of the
/// whole object.
///
/// `None` does not mean that the object has no `guild_id`. The answer is right only for a well-formed object without
/// needless escapes.
pub(super) fn outer_guild_id(object: &[u8]) -> Option<u64> {
    const KEY: &[u8] = b"\"guild_id\":\"";
    static NAME: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new(b"\"guild_id\""));
    if let Some(inner) = object.strip_suffix(b"\"}") {
        let length = inner.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (before, id) = inner.split_at(inner.len() - length);
        if before.strip_suffix(KEY).is_some_and(|before| before.last() == Some(&b',')) {
            return json::parse_id(id);
        }
    }
    let rest = object.strip_prefix(b"{").and_then(|rest| rest.strip_prefix(KEY))?;
    let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    // If the key occurred again, the last one would count.
    json::parse_id(&rest[..length]).filter(|_| rest.get(length) == Some(&b'"') && NAME.rfind(rest).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The code takes other paths on CPUs with AVX2. `CPU_HAS_AVX2=yes` or `no` states which CPU the tests are meant to
    /// run on, for example an emulated one; without it the answer of this machine is expected.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_cpu_is_the_expected_one() {
        let own = || std::fs::read_to_string("/proc/cpuinfo").expect("Linux").contains(" avx2 ");
        let expected = std::env::var("CPU_HAS_AVX2").map_or_else(|_| own(), |has| has == "yes");
        assert_eq!(std::arch::is_x86_feature_detected!("avx2"), expected);
    }

    #[test]
    fn strings_end_at_their_quote() {
        let end = |text: &str| string_end(text.as_bytes(), 0);
        assert_eq!(end("\""), Some(0));
        assert_eq!(end("abcdefgh\"x"), Some(8));
        assert_eq!(end(r#"a\"b\\"#), None);
        assert_eq!(end(r#"a\"b\\""#), Some(6));
        assert_eq!(end(r#"\u00e9 \/""#), Some(9));
        assert_eq!(end("é\u{7f}\u{80}\""), Some(5));
        for bad in ["", "abc", "abcdefghij", "a\nb\"", "abcdefgh\0\"", r#"\x""#, r#"\u12g4""#, r#"\u12""#, "\\"] {
            assert_eq!(end(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn numbers_follow_the_grammar() {
        for good in ["0", "-0", "10", "1.5", "-1.25e+10", "3E9", "18446744073709551616000"] {
            assert_eq!(number_end(good.as_bytes(), 0), Some(good.len()), "{good}");
        }
        for bad in ["", "-", ".5", "1.", "1e", "1e+", "+1", "x"] {
            assert_eq!(number_end(bad.as_bytes(), 0), None, "{bad}");
        }
        assert_eq!(number_end(b"01", 0), Some(1));
    }

    #[test]
    fn guild_ids_at_either_end() {
        let id = |text: &str| outer_guild_id(text.as_bytes());
        assert_eq!(id(r#"{"guild_id":"12","a":1}"#), Some(12));
        assert_eq!(id(r#"{"a":1,"guild_id":"12"}"#), Some(12));
        assert_eq!(id(r#"{"a":{"guild_id":"12"}}"#), None);
        assert_eq!(id(r#"{"a":"\"guild_id\":\"12"}"#), None);
        assert_eq!(id(r#"{"a":1,"guild_id":12}"#), None);
        assert_eq!(id(r#"{"a":1,"guild_id":"99999999999999999999"}"#), None);
        assert_eq!(id(r#"{"a":1,"guild_id":""}"#), None);
        assert_eq!(id(r#"{"guild_id":"123456789012345678905","a":1}"#), None);
        assert_eq!(id(r#"{"guild_id":"12a","a":1}"#), None);
        assert_eq!(id(r#"{"guild_id":"12","a":1,"guild_id" : "13","b":2}"#), None);
        assert_eq!(id(r#"{"guild_id":"12","a":1,"guild_id":"13"}"#), Some(13));
    }

    proptest! {
        #[test]
        fn agrees_with_a_simple_scan(text in r#"[a-c"\\\x00\x1f\x7fé ]{0,30}"#) {
            let mut simple = None;
            let mut bytes = text.bytes().enumerate();
            while let Some((at, byte)) = bytes.next() {
                match byte {
                    b'"' => { simple = Some(at); break }
                    b'\\' if matches!(bytes.next(), Some((_, b'"' | b'\\' | b'b'))) => {}
                    b'\\' | 0..0x20 => break,
                    _ => {}
                }
            }
            prop_assert_eq!(string_end(text.as_bytes(), 0), simple);
            let quoted = [text.as_bytes(), b"\""].concat();
            prop_assert_eq!(is_content(text.as_bytes()), string_end(&quoted, 0) == Some(text.len()));
        }
    }
}
