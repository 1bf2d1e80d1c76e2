//! Edits JSON objects as text: replaces, merges or removes entries and copies everything else byte for byte.
//!
//! A key matches however it is escaped. [`merge`] is the exception: it compares the bytes of keys, so both objects
//! have to be in [plain spelling](super::spelling). Every function fails when its argument is not a JSON object.

use super::json::{self, Malformed, string::spells};

/// Writes a JSON object entry by entry.
pub struct ObjectWriter {
    out: Vec<u8>,
}

impl ObjectWriter {
    /// Starts an empty object in a buffer of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity);
        out.push(b'{');
        Self { out }
    }

    /// Appends an entry. `key` is the text between the key's quotes, with its escapes; `value` is JSON text.
    pub fn entry(&mut self, key: &[u8], value: &[u8]) {
        if self.out.len() > 1 {
            self.out.push(b',');
        }
        self.out.push(b'"');
        self.out.extend_from_slice(key);
        self.out.extend_from_slice(b"\":");
        self.out.extend_from_slice(value);
    }

    /// Closes the object and returns its text.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(b'}');
        self.out
    }
}

/// Copies `object` without the entries of `keys`.
pub fn without(object: &[u8], keys: &[&str]) -> Result<Vec<u8>, Malformed> {
    let mut writer = ObjectWriter::new(object.len());
    json::for_each_spelled_entry(object, |key, escaped, value| {
        if !keys.iter().any(|left_out| spells(key, escaped, left_out.as_bytes())) {
            writer.entry(key, value);
        }
        true
    })?;
    Ok(writer.finish())
}

/// Copies `old` and sets the entries of `new`, except those of `keys`. A key in both objects keeps its position in
/// `old` and takes the value of `new`; the other keys of `new` follow at the end.
pub fn merge(old: &[u8], new: &[u8], keys: &[&str]) -> Result<Vec<u8>, Malformed> {
    let mut changes: Vec<(&[u8], Option<&[u8]>)> = Vec::with_capacity(24);
    json::for_each_entry(new, |key, value| {
        if !keys.iter().any(|left_out| left_out.as_bytes() == key) {
            changes.push((key, Some(value)));
        }
        true
    })?;
    let mut writer = ObjectWriter::new(old.len() + new.len());
    // Discord writes the keys of a type in one order, so the next key of `old` is usually the next one of `new`.
    let mut expected = 0;
    json::for_each_entry(old, |key, value| {
        let is_it = |at: usize| changes.get(at).is_some_and(|(changed, _)| *changed == key);
        let found =
            if is_it(expected) { Some(expected) } else { changes.iter().position(|(changed, _)| *changed == key) };
        let change = found.and_then(|at| {
            expected = at + 1;
            changes[at].1.take()
        });
        writer.entry(key, change.unwrap_or(value));
        true
    })?;
    for (key, value) in changes {
        if let Some(value) = value {
            writer.entry(key, value);
        }
    }
    Ok(writer.finish())
}

/// Copies `object` with the entry `key` set to `value`. An existing entry is replaced in place, otherwise the new one
/// follows at the end.
pub fn with(object: &[u8], key: &str, value: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut writer = ObjectWriter::new(object.len() + key.len() + value.len() + 4);
    let mut found = false;
    json::for_each_spelled_entry(object, |name, escaped, old| {
        if !spells(name, escaped, key.as_bytes()) {
            writer.entry(name, old);
        } else if !std::mem::replace(&mut found, true) {
            writer.entry(key.as_bytes(), value);
        }
        true
    })?;
    if !found {
        writer.entry(key.as_bytes(), value);
    }
    Ok(writer.finish())
}

/// Reads the id at a path of nested keys: `["user", "id"]` finds 5 in `{"user":{"id":"5"}}`.
pub fn id_at(object: &[u8], path: &[&str]) -> Option<u64> {
    let mut value = object;
    for key in path {
        value = json::get(value, key)?;
    }
    json::parse_id(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Result<Vec<u8>, Malformed>) -> String {
        String::from_utf8(bytes.unwrap()).unwrap()
    }

    #[test]
    fn entries_are_replaced_in_place() {
        assert_eq!(text(with(br#"{"a": 1,"b":[2]}"#, "a", b"9")), r#"{"a":9,"b":[2]}"#);
        assert_eq!(text(with(b"{}", "a", b"9")), r#"{"a":9}"#);
        assert_eq!(text(without(br#"{"a":1,"b":2,"c":3}"#, &["a", "c"])), r#"{"b":2}"#);
        assert_eq!(text(merge(br#"{"a":1,"b":2}"#, br#"{"c":3,"b":null,"x":0}"#, &["x"])), r#"{"a":1,"b":null,"c":3}"#);
        let respelled = br#"{"\u0061":1,"b":2,"a":3}"#;
        assert_eq!(text(with(respelled, "a", b"9")), r#"{"a":9,"b":2}"#);
        assert_eq!(text(without(respelled, &["a"])), r#"{"b":2}"#);
        assert!(with(b"[", "a", b"1").is_err());
        assert_eq!(id_at(br#"{"user":{"id":"5"}}"#, &["user", "id"]), Some(5));
        assert_eq!(id_at(br#"{"user":5}"#, &["user", "id"]), None);
    }
}
