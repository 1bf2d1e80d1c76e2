//! The walk over the JSON text of an object. It alone decides which values an object can have, in which way each is
//! read, and what happens when that way fails.
//!
//! The walk goes from left to right. It packs each value into the record, and appends the kind of the value to the
//! [signature](crate::cache::codec::trie::Signature). It knows nothing of keys and templates: a [`Form`] reads the keys
//! and says which template the object has. There are two forms, [`KnownForm`](super::KnownForm) and
//! [`NewForm`](super::NewForm). The compiler makes machine code of the walk for each of them, so the walk over a known
//! form, which is the hot path of the cache, contains nothing of the other.

use super::{NoTemplate, Splitter, insert_varint};
use crate::{
    cache::codec::{
        slot::Slot,
        trie::{KeyClass, Nested, ObjectEnd, ValueKind},
    },
    protocol::json,
};

/// A key that a [`Form`] has read, or the closing brace.
#[derive(Clone, Copy)]
pub(in crate::cache::codec) struct Key {
    /// Index of the key's node in the [key trie](crate::cache::codec::trie);
    /// [`NO_NODE`](crate::cache::codec::trie::NO_NODE) when the trie does not have the key.
    pub node: u32,
    /// What the key says about its value; [`KeyClass::END`] for the closing brace.
    pub class: KeyClass,
}

/// The form of one object: its keys and the kinds of its values. A `Form` is told how the walk through the object
/// proceeds, and gives it what it needs from there.
pub(in crate::cache::codec) trait Form: Copy {
    /// Reads what comes next in the object, with the punctuation around it: a key up to its colon, or the closing
    /// brace.
    fn key(&mut self, splitter: &mut Splitter<'_>) -> Result<Key, NoTemplate>;

    /// Whether the template of the object is loose: each value is then packed behind a byte for its slot.
    fn is_loose(&self) -> bool;

    /// Takes note that the value of `key` has been read, and is of this kind.
    fn value_read(&mut self, splitter: &mut Splitter<'_>, key: Key, kind: ValueKind);

    /// The form of the object that begins at the splitter's offset, inside the value of `key`. `None` when objects
    /// there are nested too deeply.
    fn inside(&self, splitter: &Splitter<'_>, key: Key, nested: Nested) -> Option<Self>;

    /// Says what becomes of the object after its closing brace, of which `brace` is the node. The kinds of the object's
    /// values are the signature from `signature` on. `None` when the object can have no template.
    fn end(self, splitter: &mut Splitter<'_>, brace: u32, signature: usize) -> Result<Option<ObjectEnd>, NoTemplate>;
}

impl Splitter<'_> {
    /// Reads the whole object and returns the index of its template; `None` when the object can have no template. After
    /// an error or `None` the record is not complete.
    pub fn split<F: Form>(&mut self, form: F) -> Result<Option<u64>, NoTemplate> {
        Ok(match self.object(form)? {
            Some(ObjectEnd::Template(template)) => Some(template),
            Some(ObjectEnd::Inlined(_)) | None => None,
        })
    }

    /// Reads one object up to its closing brace, and packs its values.
    pub(super) fn object<F: Form>(&mut self, mut form: F) -> Result<Option<ObjectEnd>, NoTemplate> {
        let signature = self.signature.len();
        loop {
            let entry = self.at;
            let key = form.key(self)?;
            if key.class.is(KeyClass::END) {
                let end = form.end(self, key.node, signature)?;
                self.signature.truncate(signature);
                return Ok(end);
            }
            let start = self.at;
            let kind = if key.class.is(KeyClass::LEFT_OUT) {
                self.skip()?;
                self.removed = self.removed.wrapping_add(self.at - entry);
                ValueKind::LeftOut
            } else if key.class.is(KeyClass::USER) && self.shape.bare_user && self.skip_bare_user()? {
                ValueKind::BareUser
            } else if form.is_loose() {
                self.pack_with_slot(|splitter| splitter.value(&form, key))?
            } else {
                self.value(&form, key)?
            };
            self.note_id(key.class, start);
            self.signature.push(kind);
            form.value_read(self, key, kind);
        }
    }

    /// Reads and packs the value of `key`.
    #[inline(always)]
    fn value<F: Form>(&mut self, form: &F, key: Key) -> Result<ValueKind, NoTemplate> {
        match (self.peek()?, self.text.get(self.at + 1)) {
            (b'{', Some(next)) if *next != b'}' => self.nested(form, key),
            (b'[', Some(b'{')) => self.objects(form, key),
            (b'[', Some(next)) if *next != b']' => self.flat_array(key.class),
            _ => self.scalar(key.class),
        }
    }

    /// Reads an object inside an object. When it can have no template, it is stored as text.
    #[inline(always)]
    fn nested<F: Form>(&mut self, form: &F, key: Key) -> Result<ValueKind, NoTemplate> {
        let before = self.checkpoint();
        if let Some(inner) = form.inside(self, key, Nested::Object) {
            match self.object(inner)? {
                Some(ObjectEnd::Inlined(kind)) => return Ok(kind),
                Some(ObjectEnd::Template(template)) => {
                    insert_varint(self.record, before.record, template);
                    return Ok(ValueKind::Slot(Slot::Object));
                }
                None => self.roll_back(before),
            }
        }
        self.raw()
    }

    /// Reads an array whose first element is an object. When an element is no object, or can have no template, the array
    /// is read as a [flat array](Self::flat_array).
    fn objects<F: Form>(&mut self, form: &F, key: Key) -> Result<ValueKind, NoTemplate> {
        let before = self.checkpoint();
        self.at += 1;
        let mut count = 0;
        loop {
            let element = self.record.len();
            let inner = if self.peek()? == b'{' { form.inside(self, key, Nested::Elements) } else { None };
            let end = match inner {
                Some(inner) => self.object(inner)?,
                None => None,
            };
            let Some(ObjectEnd::Template(template)) = end else {
                self.roll_back(before);
                return self.flat_array(key.class);
            };
            insert_varint(self.record, element, template);
            count += 1;
            if !self.another()? {
                break;
            }
        }
        insert_varint(self.record, before.record, count);
        Ok(ValueKind::Slot(Slot::Objects))
    }

    /// Skips one value of any kind.
    fn skip(&mut self) -> Result<(), NoTemplate> {
        let mut cursor = json::Cursor::new(&self.text[self.at..]);
        cursor.value().map_err(|_| NoTemplate)?;
        self.at += cursor.position();
        Ok(())
    }
}
