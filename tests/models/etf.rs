//! Any JSON value passes through ETF in both directions, and damaged input does no harm. The results are read by code
//! that shares nothing with the proxy.

use gateway_proxy::protocol::etf::{Encoder, to_json};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use support::etf::{Style, read, write};

/// Some keys have a meaning to the proxy, others have none.
const KEYS: [&str; 14] = [
    "id",
    "guild_id",
    "custom_id",
    "role_ids",
    "roles",
    "t",
    "s",
    "op",
    "d",
    "nil",
    "true",
    "heartbeat_interval",
    "",
    "ü\"\\",
];

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..64u32, any::<bool>()).prop_map(|(bits, less)| ((1u64 << bits) - u64::from(less)).into()),
        any::<f64>().prop_map(|float| json!(float)),
        any::<u64>().prop_map(|id| id.to_string().into()),
        any::<String>().prop_map(Value::from),
        "[0-9]{14,21}".prop_map(Value::from),
        "\\PC{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        let key = prop_oneof![prop::sample::select(&KEYS[..]).prop_map(str::to_owned), any::<String>()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..8).prop_map(|entries| Value::Object(Map::from_iter(entries))),
        ]
    })
}

/// The JSON values that the proxy's term stands for: an integer of 2^53 or more becomes a string.
fn expected(value: &Value) -> Value {
    match value {
        Value::Number(number) => {
            let large = |magnitude: u64| magnitude >= 1 << 53;
            let is_large =
                number.as_u64().is_some_and(large) || number.as_i64().is_some_and(|n| large(n.unsigned_abs()));
            if is_large { number.to_string().into() } else { value.clone() }
        }
        Value::Array(list) => list.iter().map(expected).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), expected(value))).collect(),
        _ => value.clone(),
    }
}

/// The JSON values of a command: a float without a fraction becomes an integer.
fn expected_command(value: &Value, style: Style) -> Value {
    match value {
        Value::Number(number) => {
            // erlpack writes large integers as floats, which lose precision before the proxy reads them.
            let exact =
                !number.is_f64() && (matches!(style, Style::Elixir) || number.as_f64().is_some_and(|f| f.abs() < 2e9));
            let float = number.as_f64().expect("a number");
            match () {
                () if exact => expected(value),
                () if float.fract() == 0.0 && float.abs() < (1u64 << 53) as f64 => json!(float as i64),
                () => json!(float),
            }
        }
        Value::Array(list) => list.iter().map(|value| expected_command(value, style)).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), expected_command(value, style))).collect(),
        _ => value.clone(),
    }
}

/// Writes JSON text with escapes and white space where none are needed.
fn print(value: &Value, random: &mut fastrand::Rng, out: &mut String) {
    let string = |string: &str, random: &mut fastrand::Rng, out: &mut String| {
        out.push('"');
        for character in string.chars() {
            if character < ' ' || "\"\\".contains(character) || random.u8(..10) == 0 {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").expect("a string");
                }
            } else {
                out.push(character);
            }
        }
        out.push('"');
    };
    let space = |random: &mut fastrand::Rng, out: &mut String| {
        out.push_str(["", "", "", " ", "\t\n", "\r\n"][random.usize(..6)]);
    };
    space(random, out);
    match value {
        Value::String(text) => string(text, random, out),
        Value::Array(list) => {
            out.push('[');
            for (index, element) in list.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                print(element, random, out);
            }
            space(random, out);
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (index, (key, value)) in map.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                space(random, out);
                string(key, random, out);
                space(random, out);
                out.push(':');
                print(value, random, out);
            }
            space(random, out);
            out.push('}');
        }
        scalar => write!(out, "{scalar}").expect("a string"),
    }
    space(random, out);
}

fn encode(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    Encoder::default().encode(parts, &mut out).ok()?;
    Some(out)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn payloads_come_through(value in values(), seed in any::<u64>()) {
        let mut text = String::new();
        print(&value, &mut fastrand::Rng::with_seed(seed), &mut text);
        let term = encode(&[text.as_bytes()]).expect("JSON");
        prop_assert_eq!(read(&term).expect("a term"), expected(&value));
        // The value as the data of a dispatch.
        let term = encode(&[br#"{"t":"X","s":"#, b"17", br#","op":0,"d":"#, text.as_bytes(), b"}"]).expect("JSON");
        let payload = json!({"t": "X", "s": 17, "op": 0, "d": expected(&value)});
        prop_assert_eq!(read(&term).expect("a term"), payload);
    }

    #[test]
    fn commands_come_through(value in values(), style in prop_oneof![Just(Style::Erlpack), Just(Style::Elixir)]) {
        let mut text = Vec::new();
        to_json(&write(&value, style), &mut text).expect("a term");
        prop_assert_eq!(String::from_utf8(text).expect("text"), expected_command(&value, style).to_string());
    }

    #[test]
    fn damaged_payloads_do_no_harm(value in values(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        if cut {
            text.truncate(at + 1);
        }
        // If `encode` accepts the text, the result is a complete term. Only the bytes of strings may be invalid UTF-8.
        if let Some(term) = encode(&[&text])
            && std::str::from_utf8(&text).is_ok()
        {
            prop_assert!(read(&term).is_ok(), "{}", String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn damaged_commands_do_no_harm(value in values(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut term = write(&value, Style::Elixir);
        let at = at.index(term.len());
        term[at] = byte;
        let mut text = Vec::new();
        if to_json(&term, &mut text).is_ok() {
            prop_assert!(serde_json::from_slice::<Value>(&text).is_ok(), "{}", String::from_utf8_lossy(&text));
        }
        prop_assert!(text.len() <= 7 * term.len() + 7);
    }

    #[test]
    fn noise_is_refused_or_read(noise in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"\x83\x61\x62\x46\x64\x68\x6a\x6b\x6c\x6d\x6e\x6f\x73\x74\x76\x77\0\x01\x02"[..])], 0..300)) {
        let mut text = Vec::new();
        let _ = to_json(&noise, &mut text);
        let _ = to_json(&[&[131], &noise[..]].concat(), &mut text);
        prop_assert!(text.len() <= 14 * noise.len() + 14);
        let _ = encode(&[&noise]);
    }
}
