//! Splitting key by key: builds the template text, and adds the object's keys to the [key
//! trie](crate::cache::codec::trie) so that the next object of the form is split [by path](super::by_path).
//!
//! The functions here read the object from left to right. They copy keys and punctuation to the skeleton, and put one
//! slot byte in place of each value that goes into the record. When a form turns out not to fit, they roll the buffers
//! back to a checkpoint and try the next, more general form.

use super::{Checkpoint, NoTemplate, Splitter, insert_varint};
use crate::{
    cache::codec::{
        shape::{IdPath, MAX_NESTING, Shape},
        slot::Slot,
        trie::{KeyClass, Nested, TriePosition, ValueKind},
    },
    protocol::json,
};

/// A nested object whose template text has at most this many bytes becomes part of the template around it.
const MAX_INLINED: usize = 64;
/// Keys of one object up to which a strict splitter looks for repeated keys. It compares each key with all keys before
/// it, so the bound keeps the work per object small. Beyond it the object counts as not being in plain spelling.
const MAX_STRICT_KEYS: usize = 128;

impl<'a> Splitter<'a> {
    /// Splits the whole object and returns the index of its template; `None` when the template is new and not admitted.
    /// `position` is where the trie has, or gets, the object's keys. A `loose` template holds only keys.
    pub fn split_by_key(&mut self, loose: bool, position: TriePosition) -> Result<Option<u64>, NoTemplate> {
        let end = self.object(0, loose, false, position)?;
        self.copy_until(self.at);
        let template = self.tables.templates.find_or_add(self.skeleton, loose);
        if template.is_some() {
            self.tables.trie.learn_end(end, self.signature, 0, template);
        }
        Ok(template)
    }

    /// What `key` says about its value. `depth` counts the objects around the object that has the key; `in_user` says
    /// whether that object is the top-level `user`.
    fn class(&self, key: &[u8], depth: usize, in_user: bool) -> KeyClass {
        let Shape { id, leave_out, .. } = self.shape;
        if depth == 0 && leave_out.iter().any(|left_out| left_out.as_bytes() == key) {
            return KeyClass::LEFT_OUT;
        }
        let is_id = match id {
            IdPath::At(id) => depth == 0 && id.as_bytes() == key,
            IdPath::User => depth > 0 && in_user && key == b"id",
            IdPath::None => false,
        };
        // The ids in permission overwrites are mostly those of roles.
        let of_role = key == b"id" && *id == IdPath::At("id");
        KeyClass::PLAIN
            .with_if(KeyClass::ID, is_id)
            .with_if(KeyClass::USER, depth == 0 && *id == IdPath::User && key == b"user")
            .with_if(KeyClass::ADDS_ID, of_role || matches!(key, b"parent_id" | b"guild_id"))
            .with_if(KeyClass::FINDS_ID, key.ends_with(b"channel_id"))
            .with_if(KeyClass::LISTS_IDS, matches!(key, b"roles" | b"applied_tags"))
    }

    /// Whether `key`, which has just been read, has no escapes and did not occur in this object before. The keys of
    /// this object begin at index `first_key` of the list. Adds the key to the list.
    fn is_plain_key(&mut self, first_key: usize, key: &[u8]) -> bool {
        let text = self.text;
        let known = &self.keys[first_key..];
        let good = known.len() < MAX_STRICT_KEYS
            && !key.contains(&b'\\')
            && known.iter().all(|(start, end)| text[*start..*end] != *key);
        // The splitter is just behind the key's closing quote.
        let end = self.at - 1;
        self.keys.push((end - key.len(), end));
        good
    }

    /// Reads one object up to its closing brace. Packs its values, and copies its text to the skeleton, except for the
    /// text behind the last value, which the caller has to copy. Adds the keys to the trie from `position` on, and
    /// returns the position behind the last value.
    fn object(
        &mut self,
        depth: usize,
        loose: bool,
        in_user: bool,
        mut position: TriePosition,
    ) -> Result<TriePosition, NoTemplate> {
        if depth > MAX_NESTING {
            return Err(NoTemplate);
        }
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Ok(TriePosition::Unknown);
        }
        let mut kept = false;
        let first_key = self.keys.len();
        loop {
            let entry = self.at;
            let key = self.string()?;
            if self.strict && !self.is_plain_key(first_key, key) {
                return Err(NoTemplate);
            }
            self.expect(b':')?;
            let start = self.at;
            let class = self.class(key, depth, in_user);
            // A trie key includes the brace or comma before it and the colon behind it.
            let node = self.tables.trie.learn_key(position, &self.text[entry - 1..start], class);
            if class.is(KeyClass::LEFT_OUT) {
                let last = self.leave_out(entry, kept)?;
                position = self.position_after(node, Some(ValueKind::LeftOut));
                if last {
                    self.keys.truncate(first_key);
                    return Ok(if kept { position } else { TriePosition::Unknown });
                }
                continue;
            }
            kept = true;
            let kind = if class.is(KeyClass::USER) && self.shape.bare_user && self.bare_user()? {
                Some(ValueKind::BareUser)
            } else {
                self.value(class, depth, loose, node)?
            };
            self.note_id(class, start);
            position = self.position_after(node, kind);
            let next = self.peek()?;
            self.at += 1;
            match next {
                b',' => {}
                b'}' => {
                    self.keys.truncate(first_key);
                    return Ok(position);
                }
                _ => return Err(NoTemplate),
            }
        }
    }

    /// Adds the kind of the value at `node` to the signature, and returns the trie position behind that value.
    /// [`Unknown`](TriePosition::Unknown) when the trie has no node for the key, or the value cannot be part of a
    /// signature.
    #[inline(always)]
    fn position_after(&mut self, node: Option<u32>, kind: Option<ValueKind>) -> TriePosition {
        let (Some(node), Some(kind)) = (node, kind) else { return TriePosition::Unknown };
        self.signature.push(kind);
        TriePosition::After(node)
    }

    /// Leaves out the entry whose key begins at offset `entry`, together with one comma. `kept` says whether an entry
    /// before it stays. Returns true when the object ends with this entry.
    fn leave_out(&mut self, entry: usize, kept: bool) -> Result<bool, NoTemplate> {
        let mut cursor = json::Cursor::new(&self.text[self.at..]);
        cursor.value().map_err(|_| NoTemplate)?;
        self.at += cursor.position();
        let last = match self.peek()? {
            b',' => false,
            b'}' => true,
            _ => return Err(NoTemplate),
        };
        // If an entry before this one stays, the comma between the two goes; otherwise the comma behind this one.
        let from = entry - usize::from(kept);
        self.copy_until(from);
        self.copied = self.at + usize::from(!kept && !last);
        self.removed += self.copied - from;
        self.at += 1;
        Ok(last)
    }

    /// Reduces the `user` object that comes next to its id. Returns false, and does nothing, when it has no id.
    fn bare_user(&mut self) -> Result<bool, NoTemplate> {
        let start = self.at;
        if !self.skip_bare_user()? {
            return Ok(false);
        }
        self.copy_until(start);
        self.skeleton.extend_from_slice(b"{\"id\":");
        self.skeleton.push(Slot::OwnId as u8);
        self.skeleton.push(b'}');
        self.copied = self.at;
        Ok(true)
    }

    /// Reads and packs one value of any kind. Returns its kind, or `None` when the trie cannot continue behind it.
    fn value(
        &mut self,
        class: KeyClass,
        depth: usize,
        loose: bool,
        node: Option<u32>,
    ) -> Result<Option<ValueKind>, NoTemplate> {
        let start = self.at;
        match (self.peek()?, self.text.get(start + 1)) {
            (b'{', Some(byte)) if *byte != b'}' => self.nested(depth, loose, class.is(KeyClass::USER), node),
            (b'[', Some(byte)) if *byte != b']' => self.array(class, depth, loose, node).map(Some),
            _ => self.pack(loose, |splitter| splitter.scalar(class)).map(Some),
        }
    }

    /// Reads an object inside an object. A small one becomes part of the template around it; a larger one gets a
    /// template of its own, and one that is nested too deeply is stored as text.
    fn nested(
        &mut self,
        depth: usize,
        loose: bool,
        is_user: bool,
        node: Option<u32>,
    ) -> Result<Option<ValueKind>, NoTemplate> {
        let start = self.at;
        self.copy_until(start);
        let before = self.checkpoint();
        if loose {
            self.skeleton.push(Slot::Any as u8);
            self.record.push(Slot::Object as u8);
        }
        let inner = self.checkpoint();
        if depth == MAX_NESTING {
            self.roll_back(start, before);
            return self.raw(loose).map(Some);
        }
        let position = node.map_or(TriePosition::Unknown, |node| TriePosition::Inside(node, Nested::Object));
        let end = self.object(depth + 1, false, is_user, position)?;
        self.copy_until(self.at);
        if !loose && self.skeleton.len() - inner.skeleton <= MAX_INLINED {
            let kind = self.tables.trie.learn_end(end, self.signature, inner.signature, None);
            self.signature.truncate(inner.signature);
            return Ok(kind);
        }
        if !self.give_own_template(start, inner, depth, is_user, end)? {
            self.roll_back(start, before);
            return self.raw(loose).map(Some);
        }
        if !loose {
            self.skeleton.push(Slot::Object as u8);
        }
        Ok(Some(ValueKind::Slot(Slot::Object)))
    }

    /// Gives the object that was just read, from offset `start` on, a template of its own: moves its template text out
    /// of the skeleton, and inserts the template's index before its values. If its template is not admitted, reads the
    /// object again for a loose template. Returns false when that is not admitted either.
    fn give_own_template(
        &mut self,
        start: usize,
        inner: Checkpoint,
        depth: usize,
        is_user: bool,
        end: TriePosition,
    ) -> Result<bool, NoTemplate> {
        let mut template = self.tables.templates.find_or_add(&self.skeleton[inner.skeleton..], false);
        if template.is_some() {
            self.tables.trie.learn_end(end, self.signature, inner.signature, template);
        } else {
            self.roll_back(start, inner);
            self.object(depth + 1, true, is_user, TriePosition::Unknown)?;
            self.copy_until(self.at);
            template = self.tables.templates.find_or_add(&self.skeleton[inner.skeleton..], true);
        }
        self.skeleton.truncate(inner.skeleton);
        self.signature.truncate(inner.signature);
        let Some(template) = template else { return Ok(false) };
        insert_varint(self.record, inner.record, template);
        Ok(true)
    }

    /// Reads an array that is not empty: as an array of objects if all its elements are objects, else as a
    /// [flat array](Self::flat_array).
    fn array(
        &mut self,
        class: KeyClass,
        depth: usize,
        loose: bool,
        node: Option<u32>,
    ) -> Result<ValueKind, NoTemplate> {
        let start = self.at;
        self.copy_until(start);
        let before = self.checkpoint();
        if self.text.get(start + 1) == Some(&b'{') && self.objects(start, depth, loose, node)? {
            self.copied = self.at;
            return Ok(ValueKind::Slot(Slot::Objects));
        }
        self.roll_back(start, before);
        self.flat_array(class, loose)
    }

    /// Reads the array at `start` as an array of objects, each with a template of its own. Returns false when an
    /// element is no object, when the objects are nested too deeply, or when a template is not admitted; the caller
    /// then rolls back.
    fn objects(&mut self, start: usize, depth: usize, loose: bool, node: Option<u32>) -> Result<bool, NoTemplate> {
        if depth == MAX_NESTING {
            return Ok(false);
        }
        self.put_slot(start, Slot::Objects, loose);
        let count_at = self.record.len();
        self.at = start + 1;
        let position = node.map_or(TriePosition::Unknown, |node| TriePosition::Inside(node, Nested::Elements));
        let mut count = 0;
        loop {
            let element = self.at;
            if self.peek()? != b'{' {
                return Ok(false);
            }
            let inner = self.checkpoint();
            self.copied = element;
            let end = self.object(depth + 1, false, false, position)?;
            self.copy_until(self.at);
            if !self.give_own_template(element, inner, depth, false, end)? {
                return Ok(false);
            }
            count += 1;
            if !self.another()? {
                break;
            }
        }
        insert_varint(self.record, count_at, count);
        Ok(true)
    }
}
