//! JSON as text: writes objects key by key, and changes single keys of an object without touching the others.
//!
//! The simulator keeps each entity as the text that it sends. A change rewrites only the changed value, so the order of
//! keys, unknown keys, and the spelling of numbers and escapes stay the same. No tree of values is built.

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

/// An object under construction. Keys are written in the order of the calls, without escaping: the caller passes only
/// keys that need none.
pub struct Object {
    text: String,
}

impl Default for Object {
    fn default() -> Self {
        Self::new()
    }
}

impl Object {
    /// An empty object.
    pub fn new() -> Self {
        Self::with_capacity(128)
    }

    /// An empty object with room for `bytes` of text.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut text = String::with_capacity(bytes);
        text.push('{');
        Self { text }
    }

    fn key(&mut self, key: &str) {
        if self.text.len() > 1 {
            self.text.push(',');
        }
        self.text.push('"');
        self.text.push_str(key);
        self.text.push_str("\":");
    }

    /// Adds a value that is JSON text already.
    pub fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        self.text.push_str(json);
        self
    }

    /// Adds a snowflake, as a string of digits.
    pub fn id(mut self, key: &str, id: u64) -> Self {
        self.key(key);
        push_id(&mut self.text, id);
        self
    }

    /// Adds a snowflake or null.
    pub fn opt_id(self, key: &str, id: Option<u64>) -> Self {
        match id {
            Some(id) => self.id(key, id),
            None => self.null(key),
        }
    }

    /// Adds a string.
    pub fn str(mut self, key: &str, value: &str) -> Self {
        self.key(key);
        push_str(&mut self.text, value);
        self
    }

    /// Adds a string or null.
    pub fn opt_str(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.str(key, value),
            None => self.null(key),
        }
    }

    /// Adds an integer.
    pub fn int(mut self, key: &str, value: u64) -> Self {
        self.key(key);
        self.text.push_str(itoa::Buffer::new().format(value));
        self
    }

    /// Adds a boolean.
    pub fn bool(self, key: &str, value: bool) -> Self {
        self.raw(key, if value { "true" } else { "false" })
    }

    /// Adds a null.
    pub fn null(self, key: &str) -> Self {
        self.raw(key, "null")
    }

    /// Adds all keys of another object, in its order. `object` must be the text of an object.
    pub fn spread(mut self, object: &str) -> Self {
        let inner = object.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or("");
        if !inner.is_empty() {
            if self.text.len() > 1 {
                self.text.push(',');
            }
            self.text.push_str(inner);
        }
        self
    }

    /// Number of bytes written so far. The value of the next key starts `key.len() + 4` bytes further.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The finished text.
    pub fn finish(mut self) -> String {
        self.text.push('}');
        self.text
    }
}

/// Appends a string of digits in quotes.
pub fn push_id(out: &mut String, id: u64) {
    out.push('"');
    out.push_str(itoa::Buffer::new().format(id));
    out.push('"');
}

/// Appends a quoted and escaped string.
pub fn push_str(out: &mut String, value: &str) {
    out.push('"');
    let mut clean = 0;
    for (at, byte) in value.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&value[clean..at]);
        if escape.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escape);
        }
        clean = at + 1;
    }
    out.push_str(&value[clean..]);
    out.push('"');
}

/// A quoted and escaped string.
pub fn string(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    push_str(&mut out, value);
    out
}

/// An array of values that are JSON text already.
pub fn array<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> String {
    let mut out = String::from("[");
    for value in values {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(value.as_ref());
    }
    out.push(']');
    out
}

/// An array of snowflakes.
pub fn ids(values: impl IntoIterator<Item = u64>) -> String {
    let mut out = String::from("[");
    for value in values {
        if out.len() > 1 {
            out.push(',');
        }
        push_id(&mut out, value);
    }
    out.push(']');
    out
}

/// The keys of one object and the raw text of their values, in order.
pub struct Fields<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// Splits an object. `None` if the text is not an object, or a key contains escapes; the simulator writes no such
    /// keys.
    pub fn parse(text: &'a str) -> Option<Self> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Vec<(&'de str, Cow<'de, str>)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(24);
                while let Some((key, value)) = map.next_entry::<&'de str, &'de RawValue>()? {
                    fields.push((key, Cow::Borrowed(value.get())));
                }
                Ok(fields)
            }
        }
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer.deserialize_map(Keys).ok().map(Self)
    }

    /// The raw text of a value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_ref())
    }

    /// The value of a key as a snowflake: a string of digits or a number.
    pub fn id(&self, key: &str) -> Option<u64> {
        self.get(key)?.trim_matches('"').parse().ok()
    }

    /// Replaces the value of a key in place, or appends the key.
    pub fn set(mut self, key: &'a str, json: impl Into<Cow<'a, str>>) -> Self {
        let json = json.into();
        match self.0.iter_mut().find(|(name, _)| *name == key) {
            Some(field) => field.1 = json,
            None => self.0.push((key, json)),
        }
        self
    }

    /// Removes a key.
    pub fn without(mut self, key: &str) -> Self {
        self.0.retain(|(name, _)| *name != key);
        self
    }

    /// The object as text again.
    pub fn text(&self) -> String {
        let length = self.0.iter().map(|(key, value)| key.len() + value.len() + 4);
        let mut object = Object::with_capacity(length.sum::<usize>() + 2);
        for (key, value) in &self.0 {
            object = object.raw(key, value);
        }
        object.finish()
    }
}

/// The raw text of one value of an object.
pub fn field<'a>(object: &'a str, key: &str) -> Option<&'a str> {
    let fields = Fields::parse(object)?;
    let (_, value) = fields.0.into_iter().find(|(name, _)| *name == key)?;
    match value {
        Cow::Borrowed(value) => Some(value),
        Cow::Owned(_) => None,
    }
}

/// The object with the value of one key replaced.
pub fn with_field(object: &str, key: &str, json: &str) -> String {
    Fields::parse(object).map_or_else(|| object.to_owned(), |fields| fields.set(key, json).text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped_like_any_json_writer_does() {
        for text in
            ["", "plain", "quo\"te back\\slash", "line\nfeed\ttab\rret", "\u{0}\u{1f}\u{7f}", "żółw 🦊 \u{2028}"]
        {
            assert_eq!(serde_json::from_str::<String>(&string(text)).unwrap(), text);
        }
    }

    #[test]
    fn changing_one_key_keeps_the_others_byte_for_byte() {
        let before = r#"{"b":1.50,"a":"\u00e9","c":{"x":[1, 2]},"d":null}"#;
        assert_eq!(with_field(before, "a", "true"), r#"{"b":1.50,"a":true,"c":{"x":[1, 2]},"d":null}"#);
        assert_eq!(with_field(before, "new", "7"), r#"{"b":1.50,"a":"\u00e9","c":{"x":[1, 2]},"d":null,"new":7}"#);
        assert_eq!(field(before, "c"), Some(r#"{"x":[1, 2]}"#));
        assert_eq!(field(before, "z"), None);
        assert_eq!(Fields::parse("[1]").map(|f| f.text()), None);
    }

    #[test]
    fn objects_are_valid_json() {
        let text = Object::new()
            .id("id", 5)
            .opt_id("none", None)
            .str("s", "a\"b")
            .int("i", 3)
            .bool("b", false)
            .spread(r#"{"x":1,"y":[]}"#)
            .spread("{}")
            .finish();
        assert_eq!(text, r#"{"id":"5","none":null,"s":"a\"b","i":3,"b":false,"x":1,"y":[]}"#);
        assert_eq!(Object::new().spread(r#"{"x":1}"#).finish(), r#"{"x":1}"#);
    }
}
