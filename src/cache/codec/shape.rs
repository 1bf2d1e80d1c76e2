//! What the encoder is asked to do with an object, and what it reports about the result.
//!
//! Owns only plain data. A [`Shape`] is constant for one kind of entity and one event; an [`Encoded`] describes one
//! record.

/// Objects nested deeper than this are stored as JSON text (slot [`Raw`](super::slot::Slot::Raw)).
pub(super) const MAX_NESTING: usize = 12;

/// Where an object carries its own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdPath {
    /// The object has no id.
    None,
    /// At this top-level key.
    At(&'static str),
    /// At `user.id`, as in members and presences.
    User,
}

/// How to encode an object.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Where the object carries its id.
    pub id: IdPath,
    /// Top-level keys whose entries are left out of the record.
    pub leave_out: &'static [&'static str],
    /// Whether the top-level `user` is reduced to `{"id":…}`.
    pub bare_user: bool,
    /// Whether to use a loose template, which holds only the keys. This suits objects whose values change their kind
    /// from one object to the next, such as a guild's own fields.
    pub loose: bool,
}

impl Shape {
    /// Encodes the whole object, with its id at `id`.
    pub const fn of(id: IdPath) -> Self {
        Self { id, leave_out: &[], bare_user: false, loose: false }
    }
}

/// The parts of a [`Shape`] that decide how a key's value is treated. Each different `ShapeKey` has its own root in the
/// [key trie](super::trie::KeyTrie).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShapeKey {
    id: IdPath,
    leave_out: &'static [&'static str],
    bare_user: bool,
}

impl From<&Shape> for ShapeKey {
    fn from(shape: &Shape) -> Self {
        let Shape { id, leave_out, bare_user, .. } = *shape;
        Self { id, leave_out, bare_user }
    }
}

/// What the encoder found out about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The object's id; 0 when the object has none.
    pub id: u64,
    /// Length in bytes of the JSON text that decoding the record gives back.
    pub length: usize,
    /// Offset in the input just behind the object's closing brace.
    pub end: usize,
}
