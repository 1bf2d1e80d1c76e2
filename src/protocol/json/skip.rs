//! Finds the end of an object or array, 64 bytes at a time.
//!
//! The bytes of a block become bit masks for quotes, backslashes and brackets. Masking out the brackets in strings
//! leaves few bits to visit.

use super::Malformed;

/// Deepest nesting that is accepted. Discord's payloads stay below 20 levels.
pub const MAX_DEPTH: usize = 512;

const BLOCK: usize = 64;

/// One bit for each byte of a block. The first byte of the block has the lowest bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Marks {
    quotes: u64,
    backslashes: u64,
    brackets: u64,
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn marks(block: &[u8; BLOCK]) -> Marks {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { marks_by_sixteen(block) }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn marks_by_sixteen(block: &[u8; BLOCK]) -> Marks {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8};
    let mut marks = Marks::default();
    for (number, sixteen) in block.as_chunks::<16>().0.iter().enumerate() {
        let bytes = u128::from_le_bytes(*sixteen);
        let bytes = _mm_set_epi64x((bytes >> 64) as i64, bytes as i64);
        let bits = |found| u64::from(_mm_movemask_epi8(found) as u16) << (16 * number);
        let equal = |bytes, byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte as i8));
        // `[` and `]` differ from `{` and `}` in this bit.
        let folded = _mm_or_si128(bytes, _mm_set1_epi8(0x20));
        marks.quotes |= bits(equal(bytes, b'"'));
        marks.backslashes |= bits(equal(bytes, b'\\'));
        marks.brackets |= bits(_mm_or_si128(equal(folded, b'{'), equal(folded, b'}')));
    }
    marks
}

#[cfg(not(target_arch = "x86_64"))]
use marks_one_by_one as marks;

#[cfg(any(test, not(target_arch = "x86_64")))]
fn marks_one_by_one(block: &[u8; BLOCK]) -> Marks {
    let mut marks = Marks::default();
    for (number, byte) in block.iter().enumerate() {
        let bit = 1 << number;
        match byte {
            b'"' => marks.quotes |= bit,
            b'\\' => marks.backslashes |= bit,
            b'{' | b'}' | b'[' | b']' => marks.brackets |= bit,
            _ => {}
        }
    }
    marks
}

/// Finds the bytes that a backslash before them escapes. `first`: the block before ended with a backslash that
/// escapes the first byte of this block. The second result is `first` for the next block.
#[inline(always)]
fn escaped(mut backslashes: u64, first: bool) -> (u64, bool) {
    let mut escaped = u64::from(first);
    backslashes &= !escaped;
    let mut next = false;
    while backslashes != 0 {
        let backslash = backslashes & backslashes.wrapping_neg();
        next = backslash << 1 == 0;
        escaped |= backslash << 1;
        backslashes &= !(backslash | backslash << 1);
    }
    (escaped, next)
}

/// Sets every bit from the first bit of each pair up to, but not including, the second one. Applied to quotes, the
/// result covers the opening quotes and the contents of strings.
#[inline(always)]
fn between_pairs(mut bits: u64) -> u64 {
    for shift in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << shift;
    }
    bits
}

/// Finds the byte after the object or array whose opening bracket is at `start`. Fails when brackets do not match,
/// are nested more than [`MAX_DEPTH`] levels, or when the text ends first.
pub fn end_of_container(text: &[u8], start: usize) -> Result<usize, Malformed> {
    // One bit for each level of nesting: set for an object, clear for an array.
    let mut kinds = [0u64; MAX_DEPTH / 64];
    let mut depth = 0;
    let mut at = start;
    let (mut in_string, mut first_is_escaped) = (0u64, false);
    while at < text.len() {
        let rest = &text[at..];
        let marks = match rest.first_chunk() {
            Some(block) => marks(block),
            None => {
                let mut block = [b' '; BLOCK];
                block[..rest.len()].copy_from_slice(rest);
                marks(&block)
            }
        };
        let escaped = escaped(marks.backslashes, first_is_escaped);
        first_is_escaped = escaped.1;
        let strings = between_pairs(marks.quotes & !escaped.0) ^ in_string;
        in_string = ((strings as i64) >> 63) as u64;
        let mut brackets = marks.brackets & !strings;
        // A backslash outside of strings is malformed. Only the brackets before it are visited.
        let stray = marks.backslashes & !strings;
        if stray != 0 {
            brackets &= (stray & stray.wrapping_neg()) - 1;
        }
        while brackets != 0 {
            let bracket = at + brackets.trailing_zeros() as usize;
            brackets &= brackets - 1;
            let fail = |what| Err(Malformed { what, at: bracket });
            let byte = text[bracket];
            if matches!(byte, b'{' | b'[') {
                if depth == MAX_DEPTH {
                    return fail("nested too deeply");
                }
                let bit = 1 << (depth % 64);
                if byte == b'{' {
                    kinds[depth / 64] |= bit;
                } else {
                    kinds[depth / 64] &= !bit;
                }
                depth += 1;
            } else {
                // This can not underflow: the first bracket is an opening one.
                depth -= 1;
                if (kinds[depth / 64] >> (depth % 64) & 1 == 1) != (byte == b'}') {
                    return fail("brackets do not match");
                }
                if depth == 0 {
                    return Ok(bracket + 1);
                }
            }
        }
        if stray != 0 {
            return Err(Malformed { what: "a backslash outside of strings", at: at + stray.trailing_zeros() as usize });
        }
        at += BLOCK;
    }
    let what = if in_string == 0 { "unterminated value" } else { "unterminated string" };
    Err(Malformed { what, at: text.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A simple implementation that looks at one byte at a time.
    fn simple(text: &[u8]) -> Result<usize, &'static str> {
        let mut open = Vec::new();
        let mut bytes = text.iter().enumerate();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => loop {
                    match bytes.next() {
                        Some((_, b'"')) => break,
                        Some((_, b'\\')) => drop(bytes.next()),
                        Some(_) => {}
                        None => return Err("unterminated string"),
                    }
                },
                b'\\' => return Err("a backslash outside of strings"),
                b'{' | b'[' if open.len() == MAX_DEPTH => return Err("nested too deeply"),
                b'{' | b'[' => open.push(*byte),
                b'}' | b']' => match (open.pop(), byte) {
                    (Some(b'{'), b'}') | (Some(b'['), b']') if open.is_empty() => return Ok(at + 1),
                    (Some(b'{'), b'}') | (Some(b'['), b']') => {}
                    _ => return Err("brackets do not match"),
                },
                _ => {}
            }
        }
        Err("unterminated value")
    }

    proptest! {
        #[test]
        fn agrees_with_a_simple_search(
            pieces in prop::collection::vec(
                prop_oneof![
                    6 => r#"[\[\]{}",:a1 ]{0,6}"#,
                    3 => r#""[a-z\[{]{0,70}""#,
                    2 => r"\\{1,5}",
                    2 => r#""(\\\\|\\")*""#,
                    1 => Just(" ".repeat(60)),
                    1 => "\u{80}{1,3}",
                ],
                0..40,
            ),
            object in any::<bool>(),
            before in 0usize..70,
            close in any::<bool>(),
        ) {
            let (open, closing) = if object { ('{', '}') } else { ('[', ']') };
            let mut text = format!("{}{open}{}", "\"".repeat(before), pieces.concat());
            if close {
                text.push(closing);
            }
            let found = end_of_container(text.as_bytes(), before).map_err(|malformed| malformed.what);
            prop_assert_eq!(found, simple(&text.as_bytes()[before..]).map(|end| before + end));
        }

        #[test]
        fn marks_are_those_of_single_bytes(block in prop::collection::vec(prop_oneof![
            Just(b'"'), Just(b'\\'), Just(b'{'), Just(b']'), any::<u8>()], BLOCK)
        ) {
            let block = block.try_into().expect("a block");
            prop_assert_eq!(marks(&block), marks_one_by_one(&block));
        }
    }
}
