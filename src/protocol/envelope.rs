//! Finds the envelope of a payload, that is `op`, `s`, `t` and the text of `d`, without parsing `d` (docs: Gateway
//! Events, Payload Structure).
//!
//! Promises: the result does not depend on the order of keys, on white space, on escapes in keys, or on strings
//! inside `d` that look like keys. Malformed input is an error. When a key is repeated, its last value counts, as in
//! other JSON parsers. Never allocates, except for keys with escapes.

use super::json::{Cursor, Malformed, end_of_container, number::parse_digits, string};

/// The parts of a payload, borrowed from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The opcode.
    pub op: u64,
    /// The sequence, for a dispatch.
    pub s: Option<u64>,
    /// The event type, for a dispatch: the text between its quotes, with its escapes.
    pub t: Option<&'a [u8]>,
    /// The text of the data; `null` when the payload has no `d`.
    pub d: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Finds the envelope of a payload.
    pub fn scan(payload: &'a [u8]) -> Result<Self, Malformed> {
        match Self::scan_usual(payload) {
            Some(envelope) => Ok(envelope),
            None => Self::scan_any(payload),
        }
    }

    /// Fast path for dispatches as Discord writes them: exactly the keys `t`, `s`, `op`, `d` in this order, no white
    /// space, and data that is an object or an array. `None` means that the payload has another form, not that it is
    /// malformed.
    fn scan_usual(payload: &'a [u8]) -> Option<Self> {
        let rest = payload.strip_prefix(br#"{"t":""#)?;
        let (t, rest) = split(rest, |byte| byte.is_ascii_uppercase() || *byte == b'_');
        let (s, rest) = split(rest.strip_prefix(br#"","s":"#)?, u8::is_ascii_digit);
        let (op, rest) = split(rest.strip_prefix(br#","op":"#)?, u8::is_ascii_digit);
        let d = rest.strip_prefix(br#","d":"#)?;
        if !matches!(d.first(), Some(b'{' | b'[')) {
            return None;
        }
        let (d, rest) = d.split_at(end_of_container(d, 0).ok()?);
        (rest == b"}").then_some(Self { op: parse_digits(op)?, s: Some(parse_digits(s)?), t: Some(t), d })
    }

    /// Finds the envelope of a payload of any form.
    fn scan_any(payload: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(payload);
        let (mut op, mut s, mut t, mut d) = (None, None, None, &b"null"[..]);
        cursor.expect(b'{', "expected an object")?;
        if !cursor.take(b'}') {
            loop {
                let key = cursor.string()?;
                cursor.expect(b':', "expected a colon")?;
                let at = cursor.position();
                let value = cursor.value()?;
                let bad = |what| Malformed { what, at };
                match unescape_key(key) {
                    Some(b'o') => op = Some(parse_digits(value).ok_or(bad("`op` is not a number"))?),
                    Some(b's') => {
                        s = match value {
                            b"null" => None,
                            _ => Some(parse_digits(value).ok_or(bad("`s` is not a number"))?),
                        }
                    }
                    Some(b't') => {
                        t = match value {
                            b"null" => None,
                            [b'"', name @ .., b'"'] => Some(name),
                            _ => return Err(bad("`t` is not a string")),
                        }
                    }
                    Some(b'd') => d = value,
                    _ => {}
                }
                if cursor.take(b'}') {
                    break;
                }
                cursor.expect(b',', "expected a comma")?;
            }
        }
        cursor.end()?;
        let op = op.ok_or(Malformed { what: "`op` is missing", at: payload.len() })?;
        Ok(Self { op, s, t, d })
    }
}

/// Splits `text` before the first byte that is not `wanted`.
fn split(text: &[u8], wanted: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !wanted(byte)).unwrap_or(text.len()))
}

/// Identifies one of the four keys by its first letter. `key` is the text between the quotes, which may escape any
/// letter.
fn unescape_key(key: &[u8]) -> Option<u8> {
    match key {
        b"op" => Some(b'o'),
        b"s" => Some(b's'),
        b"t" => Some(b't'),
        b"d" => Some(b'd'),
        _ if key.contains(&b'\\') => match string::unescape(key)?.as_str() {
            name @ ("op" | "s" | "t" | "d") => Some(name.as_bytes()[0]),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn discords_own_order() {
        let payload = br#"{"t":"MESSAGE_CREATE","s":42,"op":0,"d":{"content":"\"s\":5,\"op\":9}","s":7}}"#;
        let envelope = Envelope::scan(payload).unwrap();
        assert_eq!((envelope.op, envelope.s, envelope.t), (0, Some(42), Some(&b"MESSAGE_CREATE"[..])));
        assert_eq!(envelope.d, br#"{"content":"\"s\":5,\"op\":9}","s":7}"#);
    }

    #[test]
    fn other_orders_spaces_and_nulls() {
        let envelope =
            Envelope::scan(b" { \"d\" : [ 1 , { } ] , \"x\":{\"op\":3},\n\"op\" : 11 , \"s\":null,\"t\":null } ")
                .unwrap();
        assert_eq!((envelope.op, envelope.s, envelope.t, envelope.d), (11, None, None, &b"[ 1 , { } ]"[..]));
        assert_eq!(Envelope::scan(br#"{"op":7}"#).unwrap().d, b"null");
        assert_eq!(Envelope::scan(br#"{"\u006fp":10,"d":1,"op":11}"#).unwrap().op, 11);
        assert_eq!(Envelope::scan(br#"{"\u006fp":10,"\u0064":1}"#).unwrap().d, b"1");
    }

    #[test]
    fn malformed_is_reported() {
        for bad in [
            "",
            "null",
            "[]",
            "{",
            "{}",
            "{\"op\"}",
            "{\"op\":}",
            "{\"op\":0",
            "{\"op\":0}}",
            "{\"op\":0,}",
            "{\"op\":\"0\"}",
            "{\"op\":-1}",
            "{\"op\":1.5}",
            "{\"op\":0,\"s\":\"1\"}",
            "{\"op\":0,\"t\":5}",
            "{\"op\":0 \"s\":1}",
            "{\"op\":0,\"d\":{]}",
            "{\"op\":0,\"d\":\"abc}",
            "{\"op\":99999999999999999999}",
        ] {
            assert!(Envelope::scan(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn ten_megabytes() {
        let inner = "{\"op\":9,\"s\":1,\"x\":\"]}\\\"\"},".repeat(400_000);
        let payload = format!("{{\"op\":0,\"d\":[{inner}0],\"t\":\"BIG\",\"s\":18446744073709551615}}");
        let envelope = Envelope::scan(payload.as_bytes()).unwrap();
        assert_eq!((envelope.s, envelope.t), (Some(u64::MAX), Some(&b"BIG"[..])));
        assert_eq!(envelope.d.len(), inner.len() + 3);
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
            r#"["\\{}\[\]:,opstd]{0,20}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((r#"(op|s|t|d|["\\{}a]{0,3})"#, inner), 0..6)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The scan agrees with a JSON parser, for every order of keys and with hostile data.
        #[test]
        fn agrees_with_serde(
            d in value(), extra in value(), op in 0u64..20, s in prop::option::of(any::<u64>()),
            t in prop::option::of("[A-Z_]{1,30}"), pretty in any::<bool>(), order in Just([0, 1, 2, 3, 4]).prop_shuffle(),
        ) {
            let entries = [("op", json!(op)), ("s", json!(s)), ("t", json!(t)), ("d", d.clone()), ("extra", extra)];
            let text = |value: &Value| if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }.unwrap();
            let (open, comma, close) = if pretty { ("\n{ ", " ,\t", " }\r\n") } else { ("{", ",", "}") };
            let body: Vec<String> = order.iter().map(|&i: &usize| format!("\"{}\":{}", entries[i].0, text(&entries[i].1))).collect();
            let payload = format!("{open}{}{close}", body.join(comma));
            let envelope = Envelope::scan(payload.as_bytes()).unwrap();
            prop_assert_eq!(envelope.op, op);
            prop_assert_eq!(envelope.s, s);
            prop_assert_eq!(envelope.t, t.as_deref().map(str::as_bytes));
            prop_assert_eq!(serde_json::from_slice::<Value>(envelope.d).unwrap(), d);
        }

        /// A truncated payload is always an error.
        #[test]
        fn truncation_is_noticed(d in value(), cut in 1usize..200) {
            let payload = json!({"op": 0, "s": 1, "t": "X", "d": d}).to_string();
            let cut = payload.len().saturating_sub(cut);
            prop_assert!(Envelope::scan(&payload.as_bytes()[..cut]).is_err());
        }

        /// The fast path returns the same as the general scan, and takes every dispatch in Discord's form.
        #[test]
        fn the_usual_form_is_no_other(
            d in value(), s in any::<u64>(), op in 0u64..20, t in "[A-Z_]{1,30}",
            at in any::<prop::sample::Index>(), byte in prop::sample::select(&br#"{}[]":,\ 0aZn"#[..]), broken in any::<bool>(),
        ) {
            let mut payload = format!("{{\"t\":\"{t}\",\"s\":{s},\"op\":{op},\"d\":{d}}}").into_bytes();
            if broken {
                let at = at.index(payload.len());
                payload[at] = byte;
            }
            let (usual, any) = (Envelope::scan_usual(&payload), Envelope::scan_any(&payload));
            prop_assert!(usual.is_none_or(|usual| any == Ok(usual)));
            prop_assert!(broken || usual.is_some() == (d.is_object() || d.is_array()));
        }

        #[test]
        fn noise(text in r#"[{}\[\]":,\\ opstd019n]{0,60}"#) {
            if Envelope::scan(text.as_bytes()).is_err() {
                let parsed = serde_json::from_str::<Value>(&text);
                let number = |value: &Value| value.as_u64().is_some();
                let fine = parsed.ok().filter(|value| {
                    value.get("op").is_some_and(number)
                        && value.get("s").is_none_or(|s| s.is_null() || number(s))
                        && value.get("t").is_none_or(|t| t.is_null() || t.is_string())
                });
                // The scan may refuse JSON that repeats a key, when an earlier value of the key has the wrong type.
                prop_assert!(fine.is_none() || text.matches("\"op\"").count() + text.matches("\"s\"").count() + text.matches("\"t\"").count() > 3);
            }
        }
    }
}
