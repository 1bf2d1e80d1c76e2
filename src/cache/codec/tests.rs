//! The codec gives back every JSON object byte for byte, bounds its tables, and survives broken input.

use super::{
    Tables,
    decode::{Decoder, text_length},
    encode::Encoder,
    ids::IdTable,
    shape::{IdPath, Shape},
    slot::Slot,
    splitter::{Buffers, KnownForm, Splitter},
    template::KnownKey,
    values::Reader,
};
use proptest::prelude::*;
use serde_json::{Value, json};

#[derive(Default)]
struct Codec {
    tables: Tables,
    ids: IdTable,
    encoder: Encoder,
}

impl Codec {
    /// Encodes twice: the second time the trie may know the keys. Both records must decode to the same text. Returns
    /// the id, the first record, and the length of the text.
    fn encode(&mut self, shape: &Shape, text: &str) -> Option<(u64, Vec<u8>, usize)> {
        let mut once = || {
            let encoded = self.encoder.encode(&mut self.tables, &mut self.ids, shape, text.as_bytes(), 0).ok()?;
            Some((encoded, self.encoder.record().to_vec()))
        };
        let (Some((encoded, record)), Some((again, second))) = (once(), once()) else { return None };
        assert_eq!((encoded, encoded.end), (again, text.len()));
        assert_eq!(self.decode(encoded.id, &record), self.decode(encoded.id, &second));
        Some((encoded.id, record, encoded.length))
    }

    /// The template that the trie finds; `None` when it does not know the object's form.
    fn known_template(&mut self, shape: &Shape, text: &str) -> Option<u64> {
        let mut buffers = Buffers::default();
        let root = self.tables.trie.root(shape.into());
        let (tables, ids) = (&mut self.tables, &mut self.ids);
        let mut splitter = Splitter::new(text.as_bytes(), 0, &mut buffers, tables, ids, shape, false);
        let form = KnownForm::root(&splitter, root);
        splitter.split(form).ok().flatten()
    }

    /// Merges the records of `new` and `old`, and returns the text of the result. `None` when their texts have to be
    /// merged.
    fn merge(&mut self, shape: &Shape, new: &str, old: &str) -> Option<String> {
        let (_, old, _) = self.encode(shape, old)?;
        self.encode(shape, new)?;
        let encoded = self.encoder.encode(&mut self.tables, &mut self.ids, shape, new.as_bytes(), 0).ok()?;
        let mut merged = self.encoder.merge(&mut self.tables, &self.ids, encoded, &old);
        if merged.is_none() {
            // A new template may be admitted only when it comes for the second time.
            merged = self.encoder.merge(&mut self.tables, &self.ids, encoded, &old);
        }
        let merged = merged?;
        assert_eq!(text_length(self.encoder.record()), Some(merged.length));
        Some(self.decode(merged.id, self.encoder.record()))
    }

    fn decode(&self, id: u64, record: &[u8]) -> String {
        let decoder = Decoder { tables: &self.tables, ids: &self.ids };
        let mut out = Vec::new();
        decoder.decode(id, record, &mut out).expect("a sound record");
        assert_eq!(text_length(record), Some(out.len()));
        String::from_utf8(out).expect("UTF-8")
    }

    /// Encodes and decodes `text`, and checks that it comes back. Returns its id and the length of the record.
    fn round_trip(&mut self, shape: &Shape, text: &str) -> (u64, usize) {
        let (id, record, length) = self.encode(shape, text).unwrap_or_else(|| panic!("{text} is JSON"));
        assert_eq!(self.decode(id, &record), text);
        assert_eq!(length, text.len());
        (id, record.len())
    }
}

const MEMBER: Shape = Shape::of(IdPath::User);
const ENTITY: Shape = Shape::of(IdPath::At("id"));
const LOOSE: Shape = Shape { loose: true, ..Shape::of(IdPath::At("id")) };

const A_MEMBER: &str = concat!(
    r#"{"user":{"id":"80351110224678912","username":"nelly","discriminator":"0","global_name":"Nelly \"x\" \u00e9","#,
    r#""avatar":"8342729096ea3675442027381ff50dfe","public_flags":64,"avatar_decoration_data":{"sku_id":"#,
    r#""1144058844004233369","asset":"a_fed43ab12698df65902ba06727e20c0e","expires_at":null},"clan":null},"#,
    r#""nick":"NOT API SUPPORT","avatar":null,"roles":["123456789012345678","223456789012345678"],"#,
    r#""joined_at":"2015-04-26T06:26:56.936000+00:00","premium_since":"2021-04-12T23:40:39.855793+00:00","#,
    r#""deaf":false,"mute":false,"flags":0,"pending":false}"#
);

#[test]
fn a_member_is_packed_and_comes_back() {
    let mut codec = Codec::default();
    let (id, packed) = codec.round_trip(&MEMBER, A_MEMBER);
    assert_eq!(id, 80351110224678912);
    assert!(packed < 110, "{packed} bytes");
    // The third sighting admits the strings to the string table. After that nothing about the form is new.
    codec.round_trip(&MEMBER, A_MEMBER);
    let templates = codec.tables.templates.len();
    codec.round_trip(&MEMBER, &A_MEMBER.replace("80351110224678912", "80351110224678913"));
    assert_eq!(codec.tables.templates.len(), templates);
}

/// A skeleton as docs/cache.md shows it: `‹15›` for the slot 0x15.
fn with_slots(skeleton: &[u8]) -> String {
    let show = |byte: &u8| if *byte < 0x20 { format!("‹{byte:02x}›") } else { char::from(*byte).to_string() };
    skeleton.iter().map(show).collect()
}

/// docs/cache.md shows a member as JSON text, its two templates, and the bytes of its record in a chunk.
#[test]
fn the_member_of_the_documentation_is_packed_as_shown() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cache.md")).expect("docs/cache.md");
    let section = page.split("### One member").nth(1).expect("the section that shows a member");
    let blocks: Vec<&str> = section.split("```").skip(1).step_by(2).collect();
    let text: String = blocks[0].strip_prefix("json").expect("the first block is JSON").lines().collect();
    let bytes = blocks.iter().find(|block| block.contains("bytes follow")).expect("a block with the bytes");
    let shown: Vec<u8> = bytes
        .lines()
        .flat_map(|line| line.split("    ").next().unwrap_or_default().split_whitespace())
        .map(|byte| u8::from_str_radix(byte, 16).expect("two hexadecimal digits"))
        .collect();
    let mut codec = Codec::default();
    let (id, record, length) = codec.encode(&MEMBER, &text).expect("the member is JSON");
    assert_eq!((length, codec.decode(id, &record)), (text.len(), text));
    let mut packed = Vec::new();
    crate::cache::store::write_record(&mut packed, id, &record);
    assert_eq!(packed, shown);
    let templates: Vec<String> = codec.tables.templates.skeletons().map(with_slots).collect();
    assert_eq!(templates, [blocks[1].trim(), blocks[2].trim()]);
}

#[test]
fn unusual_json_comes_back() {
    let deep = format!(r#"{{"id":"1","a":{}1{}}}"#, r#"{"a":["#.repeat(20), "]}".repeat(20));
    let long = format!(r#"{{"{}":1}}"#, "k".repeat(70_000));
    for text in [
        "{}",
        r#"{"id":"5"}"#,
        r#"{"id":5}"#,
        r#"{"id":"005"}"#,
        r#"{"id":null}"#,
        r#"{"id":"x","id":"7"}"#,
        r#"{ "id" : "5" , "x" : [ 1 , 2 ] }"#,
        r#"{"x":[ 1,2]}"#,
        r#"{"x":[]}"#,
        r#"{"x":[{}]}"#,
        r#"{"x":[{},{"a":{}},{"a":[[],[1,"a",{}]]}]}"#,
        r#"{"x":[{"a":1},2]}"#,
        r#"{"x":["1",2,null,"",true]}"#,
        r#"{"x":-0,"y":-5,"z":1e5,"w":1.0,"v":18446744073709551616,"u":-18446744073709551616}"#,
        r#"{"roles":["1"],"applied_tags":["123456789012345678",5]}"#,
        r#"{"roles":["123456789012345678"],"parent_id":"123456789012345678","guild_id":"0123456789012345678"}"#,
        r#"{"t":"2015-04-26T06:26:56.936000+00:00","u":"2014-04-26T06:26:56.936000+00:00","v":"9999-12-31T23:59:59.999999+00:00"}"#,
        r#"{"\u0069d":"5","é":"é"}"#,
        &deep,
        &long,
    ] {
        for shape in [MEMBER, ENTITY, LOOSE] {
            Codec::default().round_trip(&shape, text);
        }
    }
}

#[test]
fn text_that_is_no_object_is_refused() {
    let mut codec = Codec::default();
    for text in [
        "",
        "{",
        "[]",
        "1",
        "null",
        r#"{"a"}"#,
        r#"{"a":}"#,
        r#"{"a":1,}"#,
        r#"{"a":01}"#,
        r#"{"a":tru}"#,
        r#"{"a":1 2}"#,
        "{\"a\":\"\n\"}",
        r#"{"a":"\x"}"#,
        r#"{"a":[1,]}"#,
        r#"{"a":[{"b":1}"#,
        r#"{"a":[{},]}"#,
        r#"{"a":{"b"}}"#,
        r"{a:1}",
        r#"{"guild_id":1"#,
        r#"{"guild_id"}"#,
        r#"{"user":{"id":"1"}"#,
    ] {
        for shape in [MEMBER, ENTITY, LOOSE, Shape { leave_out: &["guild_id"], bare_user: true, ..MEMBER }] {
            let result = codec.encoder.encode(&mut codec.tables, &mut codec.ids, &shape, text.as_bytes(), 0);
            assert!(result.is_err(), "{text}: {result:?}");
        }
    }
}

#[test]
fn left_out_keys_can_be_at_any_position() {
    let shape = Shape { leave_out: &["guild_id", "member"], ..ENTITY };
    for (text, left) in [
        (r#"{"guild_id":"1","id":"5"}"#, r#"{"id":"5"}"#),
        (r#"{"id":"5","guild_id":"1"}"#, r#"{"id":"5"}"#),
        (r#"{"id":"5","guild_id":"1","x":1}"#, r#"{"id":"5","x":1}"#),
        (r#"{"guild_id":"1","member":{"a":["}"]},"id":"5","x":{"guild_id":2}}"#, r#"{"id":"5","x":{"guild_id":2}}"#),
        (r#"{"id":"5","guild_id":"1","member":null}"#, r#"{"id":"5"}"#),
        (r#"{"guild_id":"1"}"#, "{}"),
        (r#"{"guild_id":"1","member":2}"#, "{}"),
        (r#"{"a": 1,"guild_id":"1"}"#, r#"{"a":1}"#),
    ] {
        for shape in [shape, Shape { loose: true, ..shape }] {
            let mut codec = Codec::default();
            let (id, record, length) = codec.encode(&shape, text).expect("JSON");
            assert_eq!(codec.decode(id, &record), left, "{text}");
            assert_eq!(length, left.len(), "{text}");
        }
    }
}

#[test]
fn a_bare_user_keeps_only_its_id() {
    let shape = Shape { bare_user: true, leave_out: &["guild_id"], ..MEMBER };
    for (text, left) in [
        (r#"{"user":{"username":"x","id":"5"},"a":1}"#, r#"{"user":{"id":"5"},"a":1}"#),
        (r#"{"a":1,"user":{"id":5}}"#, r#"{"a":1,"user":{"id":"5"}}"#),
        (r#"{"user":{"id":"5"}, "a":1}"#, r#"{"user":{"id":"5"},"a":1}"#),
        (r#"{"user":{"name":"5"}}"#, r#"{"user":{"name":"5"}}"#),
        (r#"{"user":null}"#, r#"{"user":null}"#),
    ] {
        let mut codec = Codec::default();
        let (id, record, length) = codec.encode(&shape, text).expect("JSON");
        assert_eq!(codec.decode(id, &record), left, "{text}");
        assert_eq!(length, left.len(), "{text}");
        assert_eq!(id, if left.contains("\"id\":\"5\"") { 5 } else { 0 });
    }
}

#[test]
fn values_of_known_keys_are_found_without_decoding() {
    let inner = r#"{"last_message_id":"123456789012345678","roles":["1"]}"#;
    let text = format!(
        r#"{{"id":"1","{{":1,"a":{inner},"last_message_id":"223456789012345678","b":[{inner}],"c":[1],"roles":["323456789012345678"],"d":{inner}}}"#
    );
    for loose in [false, true] {
        let mut codec = Codec::default();
        let (id, record, _) = codec.encode(&Shape { loose, ..ENTITY }, &text).expect("JSON");
        let decoder = Decoder { tables: &codec.tables, ids: &codec.ids };
        let mut found = Vec::new();
        let whole = decoder.for_each_known_key(&record, |key, slot, packed| {
            let mut text = Vec::new();
            decoder.decode_value(slot, id, packed, &mut text).unwrap();
            found.push((key, slot, String::from_utf8(text).unwrap()));
        });
        assert!(whole);
        assert_eq!(
            found,
            [
                (KnownKey::LastMessageId, Slot::Snowflake, r#""223456789012345678""#.to_owned()),
                (KnownKey::Roles, Slot::References, r#"["323456789012345678"]"#.to_owned()),
            ]
        );
    }
}

#[test]
fn an_object_of_known_form_is_split_without_its_template() {
    let shape = Shape { leave_out: &["guild_id"], ..MEMBER };
    let text = A_MEMBER.replace("\"nick\"", "\"guild_id\":\"1\",\"nick\"");
    let mut codec = Codec::default();
    assert_eq!(codec.known_template(&shape, &text), None, "the trie is empty");
    // By the second call the strings have been seen three times and are in the string table.
    let [_, Some((_, record, _))] = [(); 2].map(|()| codec.encode(&shape, &text)) else { panic!("JSON") };
    let template = Reader { bytes: &record }.varint().map(|number| number - 1);
    assert!(template.is_some());
    assert_eq!(codec.known_template(&shape, &text), template);
    assert_eq!(
        codec.known_template(&shape, &text.replace("8912", "8913").replace("64", "128")),
        template,
        "other values"
    );
    assert_eq!(codec.known_template(&shape, &text.replace("64", "null")), None, "another kind of value");
    assert_eq!(codec.known_template(&shape, &text.replace("\"mute\"", "\"dumb\"")), None, "another key");
    assert_eq!(codec.known_template(&MEMBER, &text), None, "a shape with another root");
    // The trie learns the second form and keeps the first one.
    let changed = text.replace("64", "null");
    assert!(codec.encode(&shape, &changed).is_some());
    assert_eq!(codec.known_template(&shape, &text), template);
    assert_eq!(codec.known_template(&shape, &changed), template, "the user has a template of its own");
}

#[test]
fn an_object_with_a_mixed_array_is_of_known_form_too() {
    let mut codec = Codec::default();
    for text in [r#"{"id":"1","a":[{"b":1},2]}"#, r#"{"id":"1","roles":["123456789012345678",{"b":[]}]}"#] {
        codec.round_trip(&ENTITY, text);
        assert!(codec.known_template(&ENTITY, text).is_some(), "{text}");
    }
}

#[test]
fn the_trie_is_bounded() {
    let mut codec = Codec::default();
    let text = |round: u32| format!(r#"{{"id":"1","k{round}":[{{"x{round}":1}}],"y":{{"z{round}":"a"}}}}"#);
    for round in 0..20_000 {
        codec.round_trip(&ENTITY, &text(round));
    }
    assert!(codec.tables.trie.heap() < 1 << 20, "{}", codec.tables.trie.heap());
    assert!(codec.known_template(&ENTITY, &text(0)).is_some(), "the trie keeps what it has learnt");
    assert_eq!(codec.known_template(&ENTITY, &text(19_999)), None, "the position has its maximum of keys");
    for uses in 0..1_000 {
        let key: &'static str = format!("k{uses}").leak();
        codec.round_trip(&Shape::of(IdPath::At(key)), &text(0));
    }
    assert!(codec.tables.trie.heap() < 1 << 20, "{}", codec.tables.trie.heap());
}

#[test]
fn templates_are_bounded() {
    let mut codec = Codec::default();
    for round in 0..20_000 {
        codec.round_trip(&ENTITY, &format!(r#"{{"id":"1","k{round}":null,"nested":{{"a{round}":{round},"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx":1}}}}"#));
    }
    assert!(codec.tables.templates.len() <= super::template::MAX_TEMPLATES);
    assert!(codec.tables.templates.heap() <= 6 << 20, "{}", codec.tables.templates.heap());
}

#[test]
fn records_are_merged_without_their_texts() {
    let mut codec = Codec::default();
    let old = r#"{"id":"1","a":"x","roles":["223456789012345678"],"b":{"c":1},"d":[{"e":1}],"f":null}"#;
    for (new, merged) in [
        (
            r#"{"id":"1","d":true}"#,
            r#"{"id":"1","a":"x","roles":["223456789012345678"],"b":{"c":1},"d":true,"f":null}"#,
        ),
        (
            r#"{"g":7,"f":["y"],"a":null,"id":"1"}"#,
            r#"{"id":"1","a":null,"roles":["223456789012345678"],"b":{"c":1},"d":[{"e":1}],"f":["y"],"g":7}"#,
        ),
        (old, old),
        (
            r#"{"f":"z","d":-5,"b":{},"roles":[],"a":5,"id":"1","h":""}"#,
            r#"{"f":"z","d":-5,"b":{},"roles":[],"a":5,"id":"1","h":""}"#,
        ),
    ] {
        assert_eq!(codec.merge(&ENTITY, new, old).as_deref(), Some(merged));
    }
    for twice in [r#"{"id":"1","a":1,"a":2}"#, r#"{"id":"1", "a":1}"#] {
        assert_eq!(codec.merge(&ENTITY, twice, old), None, "a key twice, or white space: the texts have to be merged");
        assert_eq!(codec.merge(&ENTITY, old, twice), None, "a key twice, or white space: the texts have to be merged");
    }
    let many: String = (0..300).map(|key| format!(r#","k{key}":1"#)).collect();
    assert_eq!(
        codec.merge(&ENTITY, &format!(r#"{{"id":"1"{many}}}"#), old),
        None,
        "the object has too many entries for a rule"
    );
}

#[test]
fn merge_rules_are_bounded() {
    let mut codec = Codec::default();
    for round in 0..5_000 {
        let (new, old) = (format!(r#"{{"id":"1","k{round}":1}}"#), format!(r#"{{"id":"1","m{}":1}}"#, round / 2));
        codec.merge(&ENTITY, &new, &old);
    }
    assert!(codec.tables.merge_rules.heap() < 1 << 20, "{}", codec.tables.merge_rules.heap());
}

/// Any JSON value. Some strings and keys are like Discord's.
fn any_json() -> impl Strategy<Value = Value> {
    let string = prop_oneof![
        "[a-z]{0,6}",
        "[0-9]{1,21}",
        "[0-9a-f]{32}",
        "a_[0-9a-f]{32}",
        "20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{3}(000|[0-9]{3}))?\\+00:00",
        any::<String>(),
        Just("123456789012345678".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0u64..3).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        string.clone().prop_map(Value::from),
    ];
    let key = prop_oneof!["id|user|roles|guild_id|parent_id|name|member|applied_tags", any::<String>()];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// Entries of an object. Two such objects are likely to have some keys in common.
fn entries() -> impl Strategy<Value = Vec<(String, Value)>> {
    prop::collection::vec(("[a-e]|roles|\\PC", any_json()), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn everything_comes_back(values in prop::collection::vec(any_json(), 1..8), pretty: bool) {
        let mut codec = Codec::default();
        for value in &values {
            let object = json!({"id": "80351110224678912", "user": {"id": "5"}, "value": value, "guild_id": value});
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            for shape in [MEMBER, ENTITY, LOOSE] {
                codec.round_trip(&shape, &text);
            }
            let shape = Shape { leave_out: &["guild_id", "value"], ..ENTITY };
            let (id, record, length) = codec.encode(&shape, &text).unwrap();
            let left = codec.decode(id, &record);
            prop_assert_eq!(length, left.len());
            prop_assert_eq!(serde_json::from_str::<Value>(&left).unwrap(), json!({"id": "80351110224678912", "user": {"id": "5"}}));
        }
    }

    #[test]
    fn merging_records_equals_merging_texts(
        pairs in prop::collection::vec((entries(), entries()), 1..8),
        loose in (any::<bool>(), any::<bool>()),
    ) {
        let mut codec = Codec::default();
        for (new, old) in &pairs {
            let [new, old] = [new, old].map(|entries| {
                let mut object = serde_json::Map::new();
                object.insert("id".to_owned(), json!("80351110224678912"));
                object.extend(entries.iter().cloned());
                serde_json::to_string(&object).unwrap()
            });
            let shape = Shape { loose: loose.0, ..ENTITY };
            codec.encode(&Shape { loose: loose.1, ..ENTITY }, &old).unwrap();
            if let Some(merged) = codec.merge(&shape, &new, &old) {
                let texts = crate::protocol::edit::merge(old.as_bytes(), new.as_bytes(), &[]).unwrap();
                let value = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap();
                prop_assert_eq!(value(merged.as_bytes()), value(&texts));
            } else {
                prop_assert!(false, "{} over {}", new, old);
            }
        }
    }

    #[test]
    fn random_text_is_refused_or_comes_back(text in r#"\{[\[\]{}",:\\ a0-3\-.enulltrue]{0,40}\}"#) {
        let mut codec = Codec::default();
        let valid = serde_json::from_str::<std::collections::HashMap<String, serde::de::IgnoredAny>>(&text).is_ok();
        for shape in [MEMBER, ENTITY, LOOSE, MEMBER, ENTITY] {
            let encoded = codec.encoder.encode(&mut codec.tables, &mut codec.ids, &shape, text.as_bytes(), 0);
            match encoded {
                Ok(encoded) if encoded.end == text.len() => {
                    prop_assert!(valid);
                    let record = codec.encoder.record().to_vec();
                    prop_assert_eq!(codec.decode(encoded.id, &record), text.clone());
                }
                _ => prop_assert!(!valid),
            }
        }
    }

    #[test]
    fn a_damaged_object_of_known_form_is_refused_or_comes_back(
        at: prop::sample::Index,
        byte in prop_oneof![Just(b'"'), Just(b','), Just(b'}'), Just(b'\\'), Just(b'0'), Just(b' '), 0u8..0x80],
        what in 0..3,
    ) {
        let mut codec = Codec::default();
        codec.round_trip(&MEMBER, A_MEMBER);
        let mut text = A_MEMBER.as_bytes().to_vec();
        let at = at.index(text.len());
        match what {
            0 => text[at] = byte,
            1 => text.insert(at, byte),
            _ => drop(text.drain(at..(at + usize::from(byte)).min(A_MEMBER.len()))),
        }
        let text = String::from_utf8(text).expect("ASCII");
        let valid = serde_json::from_str::<std::collections::HashMap<String, serde::de::IgnoredAny>>(&text).is_ok();
        let encoded = codec.encoder.encode(&mut codec.tables, &mut codec.ids, &MEMBER, text.as_bytes(), 0);
        match encoded {
            Ok(encoded) if encoded.end == text.len() => {
                prop_assert!(valid);
                let record = codec.encoder.record().to_vec();
                // The change may have put white space before the object. That is not part of the object.
                prop_assert_eq!(codec.decode(encoded.id, &record), text.trim_ascii_start());
            }
            _ => prop_assert!(!valid),
        }
    }

    #[test]
    fn broken_records_never_panic(mut bytes: Vec<u8>, at: usize, byte: u8, text in "[a-c]{1,3}") {
        let mut codec = Codec::default();
        let (id, record, _) = codec.encode(&MEMBER, A_MEMBER).unwrap();
        codec.encode(&LOOSE, &format!(r#"{{"id":"1","a":[{{"b":"{text}"}},{{}}],"c":["x",1.5,null]}}"#)).unwrap();
        let mut spoiled = record.clone();
        let at = at % spoiled.len();
        spoiled[at] = byte;
        if let Some(first) = bytes.first_mut() {
            *first %= 8;
        }
        let decoder = Decoder { tables: &codec.tables, ids: &codec.ids };
        for record in [&spoiled[..], &record[..at], &bytes] {
            let mut out = Vec::new();
            let decoded = decoder.decode(id, record, &mut out);
            if let Some(length) = decoder.check(id, record) {
                prop_assert_eq!((decoded, length, text_length(record)), (Some(()), out.len(), Some(length)));
            }
            decoder.for_each_known_key(record, |_, slot, packed| {
                decoder.decode_value(slot, id, packed, &mut out);
            });
            // Skipping a value gives the length of its text, or fails where decoding fails.
            let (mut text, mut reader) = (Vec::new(), Reader { bytes: record });
            let decoded = decoder.decode_value(Slot::Object, id, record, &mut text);
            prop_assert_eq!(decoder.skip(Slot::Object, id, &mut reader), decoded.map(|()| text.len()));
        }
    }
}
