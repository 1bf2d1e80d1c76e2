//! Decimal numbers.

use super::swar;

/// Parses unsigned decimal digits; leading zeros are allowed. `None`: another byte, no digit, or more than 64 bits.
#[inline]
pub fn parse_digits(digits: &[u8]) -> Option<u64> {
    let (words, rest) = digits.as_chunks::<8>();
    let mut number = 0u64;
    for word in words {
        number = number.checked_mul(100_000_000)?.checked_add(swar::eight_digits(*word)?)?;
    }
    for digit in rest {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(digit.into())?;
    }
    (!digits.is_empty()).then_some(number)
}

/// Parses a number that is written as `u64` prints it: unsigned decimal digits without a leading zero.
#[inline]
pub fn parse_canonical(digits: &[u8]) -> Option<u64> {
    if digits.len() > 1 && digits[0] == b'0' { None } else { parse_digits(digits) }
}

/// Parses a snowflake or another unsigned decimal number, with or without quotes. Leading zeros are allowed.
pub fn parse_id(value: &[u8]) -> Option<u64> {
    parse_digits(value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_are_parsed_with_and_without_quotes() {
        assert_eq!(parse_id(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_id(b"\"5\""), Some(5));
        for bad in [&b""[..], b"\"", b"\"\"", b"-1", b"+1", b"null", b"\"5", b"18446744073709551616", b"1.0"] {
            assert_eq!(parse_id(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_canonical_numbers_have_no_leading_zero() {
        assert_eq!((parse_digits(b"007"), parse_canonical(b"007")), (Some(7), None));
        assert_eq!((parse_digits(b"0"), parse_canonical(b"0")), (Some(0), Some(0)));
        let long = format!("{:030}", 5);
        assert_eq!((parse_digits(long.as_bytes()), parse_canonical(long.as_bytes())), (Some(5), None));
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(number: u64, text in "[0-9]{0,24}|[0-9]{0,9}[a/:]?[0-9]{0,9}") {
            prop_assert_eq!(parse_canonical(number.to_string().as_bytes()), Some(number));
            prop_assert_eq!(parse_digits(text.as_bytes()), text.parse().ok());
        }
    }
}
