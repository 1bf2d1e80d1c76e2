//! The strict form of strings and numbers, for text that is taken apart and stored.
//!
//! Promises: control bytes in strings, unknown escapes, and numbers outside of JSON's grammar are refused. The functions
//! look at single tokens. Never accepts white space around a token.

use super::string;

/// Finds the closing quote of a string whose content begins at `at`. `None`: the string is not valid, or has no end.
#[inline]
pub fn string_end(text: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at = string::special::<true>(text, at)?;
        match text[at] {
            b'"' => return Some(at),
            b'\\' => at = escape_end(text, at)?,
            _ => return None,
        }
    }
}

/// Says whether `text` is valid between the quotes of a string.
pub fn is_content(text: &[u8]) -> bool {
    let mut at = 0;
    while let Some(found) = string::special::<true>(text, at) {
        match escape_end(text, found) {
            Some(end) if text[found] == b'\\' => at = end,
            _ => return false,
        }
    }
    true
}

/// The end of the escape sequence whose backslash is at `at`. `None`: JSON has no such escape.
fn escape_end(text: &[u8], at: usize) -> Option<usize> {
    match text.get(at + 1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(at + 2),
        b'u' => text.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit).then_some(at + 6),
        _ => None,
    }
}

/// The end of the number that begins at `at`. `None`: there is no number by JSON's grammar.
pub fn number_end(text: &[u8], mut at: usize) -> Option<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
