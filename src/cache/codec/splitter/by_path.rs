//! Splitting by path: an object whose keys the [key trie](crate::cache::codec::trie) knows.
//!
//! This is the hot path of the cache. The splitter compares the text of each key, punctuation included, with the trie,
//! and packs the value behind it. It touches neither the template table nor the skeleton. At the end the trie maps the
//! kinds of the values, the *signature*, to the template.

use super::{Splitter, insert_varint};
use crate::{
    cache::codec::{
        slot::Slot,
        trie::{KeyClass, KeyMatch, Nested, ObjectEnd, TriePosition, ValueKind},
    },
    protocol::json,
};

impl Splitter<'_> {
    /// Splits the whole object and returns the index of its template. `None` when the trie does not know the object's
    /// form: the record then holds a part of the object, and the caller has to start again [by key](super::by_key).
    pub fn split_by_path(&mut self, root: TriePosition) -> Option<u64> {
        let first = self.tables.trie.first_node(root);
        match self.known_object(first)? {
            ObjectEnd::Template(template) => Some(template),
            ObjectEnd::Inlined(_) => None,
        }
    }

    /// Reads one object. `node` is the first of the trie's nodes that its first key can match.
    fn known_object(&mut self, mut node: u32) -> Option<ObjectEnd> {
        let start_of_signature = self.signature.len();
        loop {
            let KeyMatch { node: matched, length, class, next } =
                self.tables.trie.match_key(node, self.text, self.at)?;
            self.at += length;
            if class.is(KeyClass::END) {
                let end = self.tables.trie.object_end(matched, self.signature, start_of_signature)?;
                self.signature.truncate(start_of_signature);
                return Some(end);
            }
            let start = self.at;
            let kind = if class.is(KeyClass::LEFT_OUT) {
                let mut cursor = json::Cursor::new(&self.text[start..]);
                cursor.value().ok()?;
                self.at += cursor.position();
                self.removed = self.removed.wrapping_add(length + cursor.position());
                ValueKind::LeftOut
            } else {
                self.known_value(matched, class)?
            };
            self.note_id(class, start);
            self.signature.push(kind);
            node = next;
        }
    }

    /// Reads and packs the value of the key at `node`.
    #[inline(always)]
    fn known_value(&mut self, node: u32, class: KeyClass) -> Option<ValueKind> {
        let start = self.at;
        // The scalar functions copy text from here on to the skeleton. The skeleton is not used, so that should be
        // little.
        self.copied = start;
        if class.is(KeyClass::USER) && self.shape.bare_user && self.skip_bare_user().ok()? {
            return Some(ValueKind::BareUser);
        }
        match (self.text.get(start)?, self.text.get(start + 1)?) {
            (b'{', next) if *next != b'}' => {
                let inner = self.record.len();
                let first = self.tables.trie.first_node(TriePosition::Inside(node, Nested::Object));
                match self.known_object(first)? {
                    ObjectEnd::Inlined(kind) => Some(kind),
                    ObjectEnd::Template(template) => {
                        insert_varint(self.record, inner, template);
                        Some(ValueKind::Slot(Slot::Object))
                    }
                }
            }
            (b'[', b'{') => self.known_elements(node),
            (b'[', next) if *next != b']' => self.flat_array(class, false).ok(),
            _ => self.scalar(class).ok(),
        }
    }

    /// Reads and packs the array of objects of the key at `node`. `None` when the trie does not know the form of an
    /// element, or when the array is not well-formed; the record then holds a part of the array.
    fn known_elements(&mut self, node: u32) -> Option<ValueKind> {
        let first = self.tables.trie.first_node(TriePosition::Inside(node, Nested::Elements));
        let count_at = self.record.len();
        self.at += 1;
        let mut count = 0;
        loop {
            let inner = self.record.len();
            let ObjectEnd::Template(template) = self.known_object(first)? else { return None };
            insert_varint(self.record, inner, template);
            count += 1;
            if !self.another().ok()? {
                break;
            }
        }
        insert_varint(self.record, count_at, count);
        Some(ValueKind::Slot(Slot::Objects))
    }
}
