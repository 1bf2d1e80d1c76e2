//! The key trie: the keys of objects that were encoded before, and which template each such object has.
//!
//! Discord sends objects of the same few forms again and again. When the encoder meets an object whose keys the trie
//! knows, it compares the keys with the trie instead of parsing them, and finds the template without building the
//! template's text.
//!
//! * A **node** is one key with the punctuation around it, such as `,"nick":`. It knows which nodes can come next
//!   behind its value, and, if its value is an object or an array of objects, which nodes come first inside. The
//!   closing brace of an object is a node too.
//! * The **signature** of an object is the sequence of the kinds of its values. Node of the closing brace and signature
//!   together identify the template. Were the kinds part of the trie, there would be a node for every combination of
//!   kinds; as it is, there are about as many signatures as templates.
//!
//! The trie only learns. It keeps no values and no reference to an object's text, and records do not depend on it:
//! without the trie the encoder finds the same template more slowly.
//!
//! Bounds: every table has a maximum below, and a position has at most [`MAX_SIBLINGS`] keys. What goes beyond a bound
//! is not learnt. The metrics show how full the tables are.

use super::slot::Slot;
use hashbrown::HashTable;

/// Maximum number of nodes.
const MAX_NODES: usize = 8_192;
/// Maximum size in bytes of the keys of all nodes together.
const MAX_LITERAL_BYTES: usize = 128 << 10;
/// Maximum number of different keys that can come next at one position. They are searched one after the other.
const MAX_SIBLINGS: usize = 24;
/// Maximum number of roots. Each different [`ShapeKey`](super::shape::ShapeKey) has one.
const MAX_ROOTS: usize = 64;
/// Maximum number of signatures.
const MAX_SIGNATURES: usize = 16_384;
/// Maximum size in bytes of all signatures together.
const MAX_SIGNATURE_BYTES: usize = 512 << 10;

/// What a key says about its value: a set of flags. It depends only on the key, the [`Shape`](super::shape::Shape) and
/// where the object with the key is, so a trie node can keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyClass(u8);

impl KeyClass {
    /// No flag.
    pub const PLAIN: Self = Self(0);
    /// The value is the record's own id.
    pub const ID: Self = Self(1);
    /// The value is the `user` object that carries the record's own id.
    pub const USER: Self = Self(2);
    /// The entry is left out of the record.
    pub const LEFT_OUT: Self = Self(4);
    /// A snowflake here is added to the guild's id table and packed as a reference.
    pub const ADDS_ID: Self = Self(8);
    /// A snowflake here is packed as a reference if the guild's id table has it already.
    pub const FINDS_ID: Self = Self(16);
    /// An array here is packed as references if all its elements are snowflakes and the guild's id table has room for
    /// them.
    pub const LISTS_IDS: Self = Self(32);
    /// This is the node of a closing brace.
    pub const END: Self = Self(64);

    /// Whether any of these flags is set.
    #[inline(always)]
    pub fn is(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// Sets `flags` when `condition` holds.
    #[inline(always)]
    pub fn with_if(self, flags: Self, condition: bool) -> Self {
        if condition { Self(self.0 | flags.0) } else { self }
    }
}

/// The kind of a value: one element of a [`Signature`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    /// The value is in the record, packed as this slot says.
    Slot(Slot),
    /// The value is part of the template: the constant with this index in [`CONSTANTS`](super::slot::CONSTANTS).
    Constant(u8),
    /// The entry is left out.
    LeftOut,
    /// The value is a `user` that is reduced to its id.
    BareUser,
    /// The value is an object whose text is part of the template around it: the index of its own signature.
    Inlined(u16),
    /// The value is an inlined object that the trie could not learn, because a bound is reached. The trie cannot learn
    /// the object around it either.
    Unlearnt,
}

/// The kinds of the values of an object, as far as they have been read, encoded as bytes. Different sequences of kinds
/// have different bytes.
///
/// One buffer serves all nested objects: an inner object appends its kinds, and truncates the buffer when it ends.
#[derive(Default)]
pub(super) struct Signature(Vec<u8>);

impl Signature {
    const CONSTANTS: u8 = 0x40;
    const LEFT_OUT: u8 = 0x80;
    const BARE_USER: u8 = 0x81;
    const INLINED: u8 = 0x82;
    const UNLEARNT: u8 = 0x83;

    /// Appends the kind of the next value.
    #[inline(always)]
    pub fn push(&mut self, kind: ValueKind) {
        match kind {
            ValueKind::Slot(slot) => self.0.push(slot as u8),
            ValueKind::Constant(index) => self.0.push(Self::CONSTANTS + index),
            ValueKind::LeftOut => self.0.push(Self::LEFT_OUT),
            ValueKind::BareUser => self.0.push(Self::BARE_USER),
            ValueKind::Unlearnt => self.0.push(Self::UNLEARNT),
            ValueKind::Inlined(signature) => {
                let [low, high] = signature.to_le_bytes();
                self.0.extend_from_slice(&[Self::INLINED, low, high]);
            }
        }
    }

    /// Length in bytes.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Removes everything behind the first `length` bytes.
    #[inline(always)]
    pub fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }
}

/// In place of the index of a node: there is none.
pub(super) const NO_NODE: u32 = u32::MAX;

/// What the trie knows about an object that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ObjectEnd {
    /// The object's text is part of the template around it. The kind goes into the signature of the outer object.
    Inlined(ValueKind),
    /// The object has a template of its own, with this index.
    Template(u64),
}

/// One key at one position. See the module's description.
#[derive(Clone, Copy)]
struct Node {
    /// Where the bytes of the key begin in [`KeyTrie::literals`].
    literal: u32,
    /// How many bytes the key has, with its punctuation.
    length: u8,
    class: KeyClass,
    /// The first node behind the value.
    next: u32,
    /// The first node of an object that is the value, and of objects in an array that is the value (see [`Nested`]).
    inside: [u32; 2],
    /// Another key at the same position.
    sibling: u32,
}

/// A node whose key matches the text.
#[derive(Clone, Copy)]
pub(super) struct KeyMatch {
    /// Index of the node.
    pub node: u32,
    /// How many bytes of the text the key takes, with its punctuation.
    pub length: usize,
    /// What the key says about its value.
    pub class: KeyClass,
    /// The first node behind the value.
    pub next: u32,
}

/// A learnt end of an object.
struct LearntEnd {
    /// The node of the closing brace.
    node: u32,
    /// Where the bytes of the signature begin and end in [`KeyTrie::signatures`].
    signature: (u32, u32),
    /// Index of the object's template; `None` when the object is inlined.
    template: Option<u16>,
}

/// Which objects inside a value a node leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nested {
    /// The value itself.
    Object,
    /// The elements of the array that is the value.
    Elements,
}

/// Where in the trie the encoder stands: between two values. A node can be added there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TriePosition {
    /// Before the first key of an object that is encoded by itself. The root's index.
    Root(u32),
    /// Behind the value of a node.
    After(u32),
    /// Before the first key of an object inside the value of a node.
    Inside(u32, Nested),
    /// Outside of the trie: a bound was reached, or the object cannot be in the trie. Nothing is learnt or found here,
    /// nor after or inside [`NO_NODE`].
    Unknown,
}

/// See the module's description. `R` is what identifies a root.
pub(super) struct KeyTrie<R> {
    /// Each root with the index of its first node.
    roots: Vec<(R, u32)>,
    /// Index of the root that was asked for last. Mostly it is the next one too.
    last_root: usize,
    nodes: Vec<Node>,
    literals: Vec<u8>,
    ends: Vec<LearntEnd>,
    signatures: Vec<u8>,
    /// Finds ends by closing brace and signature: 16 bits of the hash, and the index in `ends`.
    lookup: HashTable<(u16, u16)>,
}

impl<R> Default for KeyTrie<R> {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            last_root: 0,
            nodes: Vec::new(),
            literals: Vec::new(),
            ends: Vec::new(),
            signatures: Vec::new(),
            lookup: HashTable::new(),
        }
    }
}

/// Whether `text` has the bytes `wanted` at offset `at`. Compares eight bytes at a time; for keys, which are a few
/// words long, that is faster than a call of `memcmp`.
#[inline(always)]
fn has_at(text: &[u8], at: usize, wanted: &[u8]) -> bool {
    let Some(text) = text.get(at..at + wanted.len()) else { return false };
    let equal = |(a, b): (&[u8; 8], &[u8; 8])| u64::from_ne_bytes(*a) == u64::from_ne_bytes(*b);
    match (wanted.last_chunk::<8>(), text.last_chunk::<8>()) {
        (Some(a), Some(b)) => equal((a, b)) && wanted.as_chunks().0.iter().zip(text.as_chunks().0).all(equal),
        _ => wanted.iter().zip(text).all(|(a, b)| a == b),
    }
}

/// Finding what has been learnt.
impl<R: PartialEq> KeyTrie<R> {
    /// The position before objects of the root `key`. Adds the root if it is new and there is room.
    pub fn root(&mut self, key: R) -> TriePosition {
        let is_it = |(root, _): &(R, u32)| *root == key;
        if !self.roots.get(self.last_root).is_some_and(is_it) {
            self.last_root = match self.roots.iter().position(is_it) {
                Some(known) => known,
                None if self.roots.len() == MAX_ROOTS => return TriePosition::Unknown,
                None => {
                    self.roots.push((key, NO_NODE));
                    self.roots.len() - 1
                }
            };
        }
        TriePosition::Root(self.last_root as u32)
    }

    /// Index of the first node at a position; an index that no node has when there is none.
    #[inline]
    pub fn first_node(&self, position: TriePosition) -> u32 {
        let first = match position {
            TriePosition::Root(root) => self.roots.get(root as usize).map(|(_, first)| *first),
            TriePosition::After(node) => self.nodes.get(node as usize).map(|node| node.next),
            TriePosition::Inside(node, which) => self.nodes.get(node as usize).map(|node| node.inside[which as usize]),
            TriePosition::Unknown => None,
        };
        first.unwrap_or(NO_NODE)
    }

    #[inline(always)]
    fn literal(&self, node: &Node) -> &[u8] {
        let start = node.literal as usize;
        &self.literals[start..start + usize::from(node.length)]
    }

    /// Finds the node whose key stands in `text` at offset `at`, among the node `first` and its siblings.
    #[inline]
    pub fn match_key(&self, first: u32, text: &[u8], at: usize) -> Option<KeyMatch> {
        let mut index = first;
        loop {
            let node = self.nodes.get(index as usize)?;
            if has_at(text, at, self.literal(node)) {
                let Node { length, class, next, .. } = *node;
                return Some(KeyMatch { node: index, length: length.into(), class, next });
            }
            index = node.sibling;
        }
    }

    fn signature_of(&self, end: &LearntEnd) -> &[u8] {
        &self.signatures[end.signature.0 as usize..end.signature.1 as usize]
    }

    fn find_end(&self, hash: u64, node: u32, signature: &[u8]) -> Option<u16> {
        let tag = tag(hash);
        let found = self.lookup.find(hash, |(other, index)| {
            let end = &self.ends[usize::from(*index)];
            *other == tag && end.node == node && self.signature_of(end) == signature
        });
        found.map(|(_, index)| *index)
    }

    /// What the trie knows about the object whose closing brace is `node` and whose signature is that part of
    /// `signature` which begins at `start`. `None` when it has not learnt such an object.
    #[inline]
    pub fn object_end(&self, node: u32, signature: &Signature, start: usize) -> Option<ObjectEnd> {
        let signature = &signature.0[start..];
        let index = self.find_end(hash(node, signature), node, signature)?;
        Some(match self.ends[usize::from(index)].template {
            Some(template) => ObjectEnd::Template(template.into()),
            None => ObjectEnd::Inlined(ValueKind::Inlined(index)),
        })
    }
}

/// Hash of a closing brace and a signature. It has a random seed, because signatures come from outside.
#[inline(always)]
fn hash(node: u32, signature: &[u8]) -> u64 {
    super::hash(signature) ^ u64::from(node).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The bits of a hash that the lookup table keeps.
fn tag(hash: u64) -> u16 {
    (hash >> 32) as u16
}

/// Learning.
impl<R: PartialEq> KeyTrie<R> {
    /// Returns the node of the key `literal` at a position; adds it if it is new. `None` when a bound is reached, when
    /// the key is longer than 255 bytes, or when the position is unknown.
    pub fn learn_key(&mut self, position: TriePosition, literal: &[u8], class: KeyClass) -> Option<u32> {
        // New siblings go to the end of the list: the key that came first is likely to come most often.
        let (mut index, mut last, mut siblings) = (self.first_node(position), None, 0);
        while let Some(node) = self.nodes.get(index as usize) {
            if self.literal(node) == literal {
                return Some(index);
            }
            siblings += 1;
            last = Some(index);
            index = node.sibling;
        }
        let full = self.nodes.len() >= MAX_NODES || self.literals.len() + literal.len() > MAX_LITERAL_BYTES;
        if siblings >= MAX_SIBLINGS || full {
            return None;
        }
        let length = u8::try_from(literal.len()).ok()?;
        let new = self.nodes.len() as u32;
        match (last, position) {
            (Some(last), _) => self.nodes[last as usize].sibling = new,
            (None, TriePosition::Root(root)) => self.roots.get_mut(root as usize)?.1 = new,
            (None, TriePosition::After(node)) => self.nodes.get_mut(node as usize)?.next = new,
            (None, TriePosition::Inside(node, which)) => {
                self.nodes.get_mut(node as usize)?.inside[which as usize] = new;
            }
            (None, TriePosition::Unknown) => return None,
        }
        let start = self.literals.len() as u32;
        self.literals.extend_from_slice(literal);
        self.nodes.push(Node { literal: start, length, class, next: NO_NODE, inside: [NO_NODE; 2], sibling: NO_NODE });
        Some(new)
    }

    /// Learns the end of an object at `position`. Its signature is the part of `signature` from `start` on. `template`
    /// is the index of its template; `None` when the object is part of the template around it. Returns
    /// `None` when the end is not learnt; otherwise, for an inlined object, the kind that stands for it in the outer
    /// signature. For an object with a template the kind has no meaning.
    pub fn learn_end(
        &mut self,
        position: TriePosition,
        signature: &Signature,
        start: usize,
        template: Option<u64>,
    ) -> Option<ValueKind> {
        let template = template.map(u16::try_from).transpose().ok()?;
        let node = self.learn_key(position, b"}", KeyClass::END)?;
        let signature = &signature.0[start..];
        let hash = hash(node, signature);
        if let Some(known) = self.find_end(hash, node, signature) {
            return Some(ValueKind::Inlined(known));
        }
        let index = self.ends.len();
        if index >= MAX_SIGNATURES || self.signatures.len() + signature.len() > MAX_SIGNATURE_BYTES {
            return None;
        }
        let start = self.signatures.len() as u32;
        self.signatures.extend_from_slice(signature);
        if self.lookup.len() == self.lookup.capacity() {
            self.grow_lookup();
        }
        self.ends.push(LearntEnd { node, signature: (start, self.signatures.len() as u32), template });
        self.lookup.insert_unique(hash, (tag(hash), index as u16), |_| 0);
        debug_assert_eq!(self.lookup.len(), self.ends.len(), "each end is in the lookup table once");
        Some(ValueKind::Inlined(index as u16))
    }

    /// Replaces the lookup table by a larger one. The table does not keep whole hashes, so they are computed again.
    fn grow_lookup(&mut self) {
        let mut lookup = HashTable::with_capacity((2 * self.ends.len()).max(64));
        for (index, end) in self.ends.iter().enumerate() {
            let hash = hash(end.node, self.signature_of(end));
            lookup.insert_unique(hash, (tag(hash), index as u16), |_| 0);
        }
        self.lookup = lookup;
    }

    /// Number of nodes, at most [`MAX_NODES`].
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Number of signatures, at most [`MAX_SIGNATURES`].
    pub fn signatures(&self) -> usize {
        self.ends.len()
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.roots.capacity() * size_of::<(R, u32)>()
            + self.nodes.capacity() * size_of::<Node>()
            + self.literals.capacity()
            + self.ends.capacity() * size_of::<LearntEnd>()
            + self.signatures.capacity()
            + self.lookup.allocation_size()
    }
}
