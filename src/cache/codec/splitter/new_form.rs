//! The form of an object that is read for the first time. The object's keys are read one by one, its template's text is
//! built and looked up, and the keys are added to the [key trie](crate::cache::codec::trie), so that the next object of
//! the form is a [`KnownForm`](super::KnownForm).
//!
//! The template's text consists of the keys that stay, with a slot or a constant behind each. A small nested object
//! becomes part of the text around it. When a template is not admitted to the table, the object is read again for a
//! *loose* template, which holds only the keys, and is therefore more likely to be known.

use super::{
    Checkpoint, NoTemplate, Splitter,
    walk::{Form, Key},
};
use crate::cache::codec::{
    shape::{IdPath, MAX_NESTING, Shape},
    slot::{CONSTANTS, Slot},
    trie::{KeyClass, NO_NODE, Nested, ObjectEnd, TriePosition, ValueKind},
};

/// A nested object whose template text has at most this many bytes becomes part of the template around it.
const MAX_INLINED: usize = 64;
/// Keys of one object up to which a strict splitter looks for repeated keys. It compares each key with all keys before
/// it, so the bound keeps the work per object small. Beyond it the object counts as not being in plain spelling.
const MAX_STRICT_KEYS: usize = 128;

/// See the module's description.
#[derive(Clone, Copy)]
pub(in crate::cache::codec) struct NewForm {
    /// Where the trie has, or gets, the object's next key.
    position: TriePosition,
    /// The state of the splitter before the object.
    start: Checkpoint,
    /// Index of the object's first key in [`Splitter::keys`].
    first_key: usize,
    /// Number of objects around this one.
    depth: usize,
    /// Whether this is the top-level `user`.
    is_user: bool,
    /// Whether the template is to hold only keys.
    loose: bool,
    /// Whether the object can become part of the template around it.
    may_be_inlined: bool,
}

impl NewForm {
    /// The form of the whole object. `position` is where the trie has, or gets, its keys. A `loose` template holds only
    /// keys.
    pub fn root(splitter: &Splitter<'_>, position: TriePosition, loose: bool) -> Self {
        let start = splitter.checkpoint();
        Self { position, start, first_key: 0, depth: 0, is_user: false, loose, may_be_inlined: false }
    }

    /// What `key` says about its value.
    fn class(&self, shape: &Shape, key: &[u8]) -> KeyClass {
        let Shape { id, leave_out, .. } = shape;
        let is_top = self.depth == 0;
        if is_top && leave_out.iter().any(|left_out| left_out.as_bytes() == key) {
            return KeyClass::LEFT_OUT;
        }
        let is_id = match id {
            IdPath::At(id) => is_top && id.as_bytes() == key,
            IdPath::User => self.is_user && key == b"id",
            IdPath::None => false,
        };
        // The ids in permission overwrites are mostly those of roles.
        let of_role = key == b"id" && *id == IdPath::At("id");
        KeyClass::PLAIN
            .with_if(KeyClass::ID, is_id)
            .with_if(KeyClass::USER, is_top && *id == IdPath::User && key == b"user")
            .with_if(KeyClass::ADDS_ID, of_role || matches!(key, b"parent_id" | b"guild_id"))
            .with_if(KeyClass::FINDS_ID, key.ends_with(b"channel_id"))
            .with_if(KeyClass::LISTS_IDS, matches!(key, b"roles" | b"applied_tags"))
    }

    /// Whether `key`, which the splitter has just read, has no escapes and did not occur in this object before. Adds the
    /// key to [`Splitter::keys`].
    fn is_plain_key(&self, splitter: &mut Splitter<'_>, key: &[u8]) -> bool {
        let text = splitter.text;
        let known = &splitter.keys[self.first_key..];
        let good = known.len() < MAX_STRICT_KEYS
            && !key.contains(&b'\\')
            && known.iter().all(|(start, end)| text[*start..*end] != *key);
        // The splitter is just behind the key's closing quote.
        let end = splitter.at - 1;
        splitter.keys.push((end - key.len(), end));
        good
    }

    /// Whether the template's text has no entry yet.
    fn is_empty(&self, splitter: &Splitter<'_>) -> bool {
        splitter.skeleton.len() == self.start.skeleton
    }

    /// Reads the object again, for a loose template.
    fn read_again(self, splitter: &mut Splitter<'_>, signature: usize) -> Result<Option<ObjectEnd>, NoTemplate> {
        splitter.roll_back(self.start);
        splitter.signature.truncate(signature);
        splitter.object(Self { position: TriePosition::Unknown, loose: true, may_be_inlined: false, ..self })
    }
}

impl Form for NewForm {
    fn key(&mut self, splitter: &mut Splitter<'_>) -> Result<Key, NoTemplate> {
        let before = splitter.at;
        let is_first = before == self.start.at;
        let end: &[u8] = if is_first { b"{}" } else { b"}" };
        if splitter.text[before..].starts_with(end) {
            splitter.at += end.len();
            return Ok(Key { node: NO_NODE, class: KeyClass::END });
        }
        splitter.expect(if is_first { b'{' } else { b',' })?;
        let key = splitter.string()?;
        if splitter.strict && !self.is_plain_key(splitter, key) {
            return Err(NoTemplate);
        }
        splitter.expect(b':')?;
        let class = self.class(splitter.shape, key);
        // A trie key includes the brace or comma before it and the colon behind it.
        let literal = &splitter.text[before..splitter.at];
        let node = splitter.tables.trie.learn_key(self.position, literal, class).unwrap_or(NO_NODE);
        if !class.is(KeyClass::LEFT_OUT) {
            // When the entries before this one are left out, a brace takes the place of the comma.
            splitter.skeleton.push(if self.is_empty(splitter) { b'{' } else { b',' });
            splitter.skeleton.extend_from_slice(&literal[1..]);
        }
        Ok(Key { node, class })
    }

    fn is_loose(&self) -> bool {
        self.loose
    }

    fn value_read(&mut self, splitter: &mut Splitter<'_>, key: Key, kind: ValueKind) {
        match kind {
            ValueKind::Slot(slot) => splitter.skeleton.push(slot as u8),
            ValueKind::Constant(index) => splitter.skeleton.extend_from_slice(CONSTANTS[usize::from(index)]),
            ValueKind::BareUser => {
                splitter.skeleton.extend_from_slice(b"{\"id\":");
                splitter.skeleton.extend_from_slice(&[Slot::OwnId as u8, b'}']);
            }
            // The text of an inlined object is there already.
            ValueKind::LeftOut | ValueKind::Inlined(_) | ValueKind::Unlearnt => {}
        }
        self.position = if kind == ValueKind::Unlearnt { TriePosition::Unknown } else { TriePosition::After(key.node) };
    }

    fn inside(&self, splitter: &Splitter<'_>, key: Key, nested: Nested) -> Option<Self> {
        let is_value = nested == Nested::Object;
        (self.depth < MAX_NESTING).then(|| Self {
            position: TriePosition::Inside(key.node, nested),
            start: splitter.checkpoint(),
            first_key: splitter.keys.len(),
            depth: self.depth + 1,
            is_user: is_value && key.class.is(KeyClass::USER),
            loose: false,
            may_be_inlined: is_value && !self.loose,
        })
    }

    fn end(mut self, splitter: &mut Splitter<'_>, _: u32, signature: usize) -> Result<Option<ObjectEnd>, NoTemplate> {
        splitter.keys.truncate(self.first_key);
        if self.is_empty(splitter) {
            // The object has no entry, or all are left out. Only the two braces stay. The trie has no key for both.
            splitter.skeleton.push(b'{');
            splitter.removed = self.start.removed.wrapping_add(splitter.at - self.start.at - b"{}".len());
            self.position = TriePosition::Unknown;
        }
        splitter.skeleton.push(b'}');
        let text = &splitter.skeleton[self.start.skeleton..];
        let (templates, trie) = (&mut splitter.tables.templates, &mut splitter.tables.trie);
        if self.may_be_inlined && text.len() <= MAX_INLINED {
            let kind = trie.learn_end(self.position, splitter.signature, signature, None);
            return Ok(Some(ObjectEnd::Inlined(kind.unwrap_or(ValueKind::Unlearnt))));
        }
        let Some(template) = templates.find_or_add(text, self.loose) else {
            // The caller forgets what was read of an object that has not even a loose template.
            return if self.loose { Ok(None) } else { self.read_again(splitter, signature) };
        };
        trie.learn_end(self.position, splitter.signature, signature, Some(template));
        splitter.skeleton.truncate(self.start.skeleton);
        Ok(Some(ObjectEnd::Template(template)))
    }
}
