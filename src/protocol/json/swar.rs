//! Looks at eight bytes at once with ordinary integer operations (SIMD within a register). JSON strings are mostly
//! short, and for these it is faster than a call of a vectorised search.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// Sets the high bit of each byte of `word` that equals `byte`. Bits above the first match may be wrong.
#[inline(always)]
pub fn equal(word: u64, byte: u8) -> u64 {
    let word = word ^ (ONES * byte as u64);
    word.wrapping_sub(ONES) & !word & HIGHS
}

/// Sets the high bit of each byte of `word` that is below `bound`, which is at most 128. Bits above the first match
/// may be wrong.
#[inline(always)]
pub fn below(word: u64, bound: u8) -> u64 {
    word.wrapping_sub(ONES * bound as u64) & !word & HIGHS
}

/// Finds the first matching byte at or after `at`. `word` marks the matches in eight bytes as [`equal`] does, `byte`
/// decides for a single byte; both have to mean the same bytes.
#[inline(always)]
pub fn find(bytes: &[u8], mut at: usize, word: impl Fn(u64) -> u64, byte: impl Fn(u8) -> bool) -> Option<usize> {
    while let Some(eight) = bytes.get(at..at + 8).and_then(|eight| eight.try_into().ok()) {
        let found = word(u64::from_le_bytes(eight));
        if found != 0 {
            return Some(at + (found.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    bytes.get(at..)?.iter().position(|found| byte(*found)).map(|length| at + length)
}

/// Parses eight decimal digits; `None` when one of them is not a digit.
#[inline(always)]
pub fn eight_digits(digits: [u8; 8]) -> Option<u64> {
    const HIGH_NIBBLES: u64 = 0xf0 * ONES;
    let word = u64::from_le_bytes(digits);
    // A digit is 0x30 to 0x39. Adding 6 does not carry it out of the nibble, as it does for 0x3a to 0x3f.
    if (word | word.wrapping_add(0x06 * ONES)) & HIGH_NIBBLES != 0x30 * ONES || word & HIGH_NIBBLES != 0x30 * ONES {
        return None;
    }
    // Joins neighbouring digits to numbers of two digits, then of four, then of eight. The first digit is in the
    // lowest byte.
    let one = word & (0x0f * ONES);
    let two = (one.wrapping_mul(10 << 8 | 1) >> 8) & 0x00ff_00ff_00ff_00ff;
    let four = (two.wrapping_mul(100 << 16 | 1) >> 16) & 0x0000_ffff_0000_ffff;
    Some(four.wrapping_mul(10_000 << 32 | 1) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn eight_digits_are_a_number(number in 0u64..100_000_000, at in 0usize..8, byte: u8) {
            let mut digits: [u8; 8] = format!("{number:08}").into_bytes().try_into().unwrap();
            prop_assert_eq!(eight_digits(digits), Some(number));
            digits[at] = byte;
            let expected = std::str::from_utf8(&digits).ok().filter(|_| digits.iter().all(u8::is_ascii_digit));
            prop_assert_eq!(eight_digits(digits), expected.map(|text| text.parse().unwrap()));
        }

        #[test]
        fn it_finds_what_a_simple_search_finds(
            bytes in prop::collection::vec(prop_oneof![Just(b'"'), Just(0x1f), Just(0x20), Just(0x80), any::<u8>()], 0..40),
            at in 0usize..42,
            wanted in any::<u8>(),
            bound in 0u8..=128,
        ) {
            let found = find(&bytes, at, |word| equal(word, wanted) | below(word, bound), |byte| byte == wanted || byte < bound);
            let simple = bytes.iter().enumerate().skip(at).find(|(_, byte)| **byte == wanted || **byte < bound);
            prop_assert_eq!(found, simple.map(|(at, _)| at));
        }
    }
}
