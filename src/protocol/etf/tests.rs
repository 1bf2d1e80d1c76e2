//! Compares terms byte by byte. `tests/models/etf.rs` checks with an independent decoder that all of JSON can be encoded.

use super::*;

fn encode(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    Encoder::default().encode(&[text.as_bytes()], &mut out).unwrap();
    out
}

fn decode(term: &[u8]) -> Result<String, Unreadable> {
    let mut out = Vec::new();
    to_json(term, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// The term of a text, without the version byte.
fn term(text: &str) -> Vec<u8> {
    encode(text)[1..].to_vec()
}

/// The term of `value` at `key` in the data of a dispatch.
fn at(key: &str, value: &str) -> Vec<u8> {
    let before = encode(&format!(r#"{{"t":"X","d":{{"{key}":0}}}}"#));
    let all = encode(&format!(r#"{{"t":"X","d":{{"{key}":{value}}}}}"#));
    all[before.len() - 2..].to_vec()
}

#[test]
fn scalars_have_their_smallest_type() {
    assert_eq!(term("null"), b"s\x03nil");
    assert_eq!(term("true"), b"s\x04true");
    assert_eq!(term("false"), b"s\x05false");
    assert_eq!(term("255"), [97, 255]);
    assert_eq!(term("256"), [98, 0, 0, 1, 0]);
    assert_eq!(term("-1"), [98, 255, 255, 255, 255]);
    assert_eq!(term("2147483648"), [110, 4, 0, 0, 0, 0, 128]);
    assert_eq!(term("-2147483649"), [110, 4, 1, 1, 0, 0, 128]);
    assert_eq!(term("18446744073709551615"), [110, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(term("1.5"), [70, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
    assert_eq!(term("1e400")[1..], f64::MAX.to_be_bytes());
    assert_eq!(term("18446744073709551616")[1..], 18446744073709551616f64.to_be_bytes());
}

#[test]
fn lists_and_maps() {
    assert_eq!(term("[]"), b"j");
    assert_eq!(term("{}"), b"t\0\0\0\0");
    assert_eq!(term("[1,[ ]]"), b"l\0\0\0\x02a\x01jj");
    assert_eq!(at("x", r#"{"a":{"b":[null]}}"#), b"t\0\0\0\x01m\0\0\0\x01at\0\0\0\x01m\0\0\0\x01bl\0\0\0\x01s\x03nilj");
}

#[test]
fn strings_are_binaries_without_escapes() {
    assert_eq!(at("x", r#""aé""#), "m\0\0\0\x03aé".as_bytes());
    assert_eq!(at("x", r#""\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00""#), "m\0\0\0\x0e\"\\/\u{8}\u{c}\n\r\té😀".as_bytes());
    // Unpaired surrogates: alone, in the wrong order, or before another character.
    assert_eq!(
        at("x", r#""\ud83d\ude00\ude00\ud83dx\ud83d\n""#),
        "m\0\0\0\x0f😀\u{fffd}\u{fffd}x\u{fffd}\n".as_bytes()
    );
    assert_eq!(at("x", r#"{"\"":1}"#), b"t\0\0\0\x01m\0\0\0\x01\"a\x01");
}

#[test]
fn ids_are_integers_at_the_keys_of_ids() {
    let id = b"n\x08\0\x15\xcd\x5b\x07\0\0\0\x02";
    let text = format!("\"{}\"", u64::from_le_bytes(id[3..].try_into().unwrap()));
    for key in ["id", "guild_id", "x_id"] {
        assert_eq!(at(key, &text), id, "{key}");
    }
    for key in ["roles", "user_ids", "ids"] {
        assert_eq!(at(key, &format!("[{text}]")), [b"l\0\0\0\x01", &id[..], b"j"].concat(), "{key}");
    }
    let binary = |string: &str| [&[109, 0, 0, 0, string.len() as u8][..], string.as_bytes()].concat();
    for key in ["custom_id", "content", "ids", "nonce"] {
        assert_eq!(at(key, &text), binary(&text[1..text.len() - 1]), "{key}");
    }
    // Strings that Discord does not write for an integer id.
    for other in ["5", "", "9007199254740991", "09007199254740993", "9223372036854775808", "+144115188075855872", "x"] {
        assert_eq!(at("id", &format!("\"{other}\"")), binary(other));
    }
    // The keys of an object in a list of ids decide about their values.
    assert_eq!(
        at("roles", r#"[{"name":"144115188075855872"}]"#)[10..],
        [binary("name"), binary("144115188075855872"), vec![106]].concat()
    );
}

#[test]
fn the_envelope_has_atoms() {
    assert_eq!(
        encode(r#"{"t":null,"s":null,"op":10,"d":{"_trace":"y","x":1}}"#),
        b"\x83t\0\0\0\x04s\x01ts\x03nils\x01ss\x03nils\x02opa\x0as\x01dt\0\0\0\x02s\x06_tracem\0\0\0\x01ym\0\0\0\x01xa\x01"
    );
    assert_eq!(
        encode(r#"{"t":"READY","s":1,"op":0,"d":{"t":"Y"}}"#),
        b"\x83t\0\0\0\x04s\x01ts\x05READYs\x01sa\x01s\x02opa\0s\x01dt\0\0\0\x01m\0\0\0\x01tm\0\0\0\x01Y"
    );
    // A string that is no event type stays a binary, and so does one that would be the atom for a constant.
    assert!(encode(r#"{"t":"nil"}"#).ends_with(b"m\0\0\0\x03nil"));
    assert!(encode(r#"{"t":null,"d":{"true":1}}"#).ends_with(b"m\0\0\0\x04truea\x01"));
    let long = format!(r#"{{"t":"{}"}}"#, "X".repeat(300));
    assert!(encode(&long).ends_with(&[b"m\0\0\x01\x2c", "X".repeat(300).as_bytes()].concat()));
}

#[test]
fn parts_make_one_payload() {
    let mut encoder = Encoder::default();
    let mut out = b"before".to_vec();
    encoder.encode(&[br#"{"t":"X","s":"#, b"12345", br#","op":0,"d":"#, b"[1,2]", b"}"], &mut out).unwrap();
    assert_eq!(out[6..], encode(r#"{"t":"X","s":12345,"op":0,"d":[1,2]}"#));
}

#[test]
fn what_is_not_json_is_an_error() {
    let deep = format!("{}{}", "[".repeat(513), "]".repeat(513));
    for bad in [
        "",
        " ",
        "{",
        "[",
        "]",
        "}",
        "[1",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1]]",
        "[}",
        "{]",
        "{1:2}",
        "{\"a\"}",
        "{\"a\":}",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "\"a",
        "\"a\\",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "nul",
        "-",
        "1.2.3",
        "--1",
        "+1",
        "1 2",
        ",",
        ":",
        &deep,
    ] {
        let mut out = Vec::new();
        assert!(Encoder::default().encode(&[bad.as_bytes()], &mut out).is_err(), "{bad}");
    }
}

#[test]
fn commands_become_json() {
    // As erlpack encodes {"op":2,"d":{…}}.
    let term = b"\x83t\0\0\0\x02m\0\0\0\x02opa\x02m\0\0\0\x01dt\0\0\0\x05\
        m\0\0\0\x01al\0\0\0\x02a\0a\x01jm\0\0\0\x01bs\x03nilm\0\0\0\x01cs\x04truem\0\0\0\x01dj\
        m\0\0\0\x01eF\x42\x78\xbc\xfe\x56\x80\0\0";
    assert_eq!(decode(term).unwrap(), r#"{"op":2,"d":{"a":[0,1],"b":null,"c":true,"d":[],"e":1700000000000}}"#);
    for (term, json) in [
        (&b"k\0\x02\0\x05"[..], "[0,5]"),
        (b"k\0\0", "[]"),
        (b"h\x02a\x01j", "[1,[]]"),
        (b"i\0\0\0\x01a\x01", "[1]"),
        (b"s\x04idle", "\"idle\""),
        (b"d\0\x01\xe9", "\"é\""),
        (b"w\x02\xc3\xa9", "\"é\""),
        (b"v\0\x09undefined", "null"),
        (b"n\x08\0\x15\xcd\x5b\x07\0\0\0\x02", "\"144115188199312661\""),
        (b"n\x04\x01\0\0\0\x01", "-16777216"),
        (b"o\0\0\0\x09\0\x01\0\0\0\0\0\0\0\0", "1"),
        (b"n\x00\x01", "0"),
        (b"b\x80\0\0\0", "-2147483648"),
        (b"F\x3f\xf8\0\0\0\0\0\0", "1.5"),
        (b"F\x80\0\0\0\0\0\0\0", "0"),
        (b"c1.50000000000000000000e+00\0\0\0\0\0", "1.5"),
        (b"m\0\0\0\x03\"\\\n", "\"\\\"\\\\\\n\""),
    ] {
        assert_eq!(decode(&[&[VERSION], term].concat()).unwrap(), json, "{term:?}");
    }
}

#[test]
fn what_is_no_command_is_refused() {
    let deep = [&[VERSION][..], &b"l\0\0\0\x01".repeat(66), &b"j".repeat(67)].concat();
    for bad in [
        &b""[..],
        b"\x83",
        b"\x82a\x01",
        b"{}",
        b"\x83a",
        b"\x83a\x01a",
        b"\x83t\0\0\0\x01s\x02opa\x01", // an atom for a key
        b"\x83t\0\0\0\x01a\x01a\x01",   // an integer for a key
        b"\x83t\xff\xff\xff\xff",       // more than there is
        b"\x83l\xff\xff\xff\xff",
        b"\x83m\xff\xff\xff\xff",
        b"\x83l\0\0\0\x01a\x01a\x01",             // an improper list
        b"\x83m\0\0\0\x01\xff",                   // not UTF-8
        b"\x83F\x7f\xf0\0\0\0\0\0\0",             // infinity
        b"\x83F\x7f\xf8\0\0\0\0\0\0",             // not a number
        b"\x83n\x09\0\0\0\0\0\0\0\0\0\x01",       // 65 bits
        b"\x83P\0\0\0\x02x\x9cKd\x04\0\0\xc4\0b", // compressed
        b"\x83cx\0",
        &deep,
    ] {
        assert!(decode(bad).is_err(), "{bad:?}");
    }
}
