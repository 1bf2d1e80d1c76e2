//! The codec: packs JSON objects into small records and gives back their text, byte for byte.
//!
//! The objects that Discord sends differ in few bytes. So the codec splits the text of an object into a *template*,
//! which is the text with the values taken out and is stored once, and the values, each packed in the form that its
//! slot names. There is no schema: a key that Discord adds tomorrow makes a new template. `docs/cache.md`
//! follows one member from JSON text to the bytes of its record.
//!
//! | file | content |
//! |---|---|
//! | `shape` | what the encoder is asked to do with an object |
//! | `encode` | the encoder: text to record |
//! | `splitter` | the one walk over the text of an object: splits it into template and values |
//! | `trie` | the keys and templates of known objects, which make splitting fast |
//! | `template`, `strings`, `ids` | the tables that records refer to |
//! | `slot`, `values` | the forms of packed values |
//! | `decode` | record to text, or to some of its values |
//! | `merge` | one record over another without their texts |
//!
//! Promises: decoding the record of a JSON object gives back its text, apart from what the [`Shape`] leaves out. No
//! text and no record makes the codec panic. Every table is bounded; what does not fit into a table, and what has no
//! template, is stored as text.

mod decode;
mod encode;
mod ids;
mod merge;
mod shape;
mod slot;
mod splitter;
mod strings;
mod template;
mod trie;
mod values;

#[cfg(test)]
mod tests;

pub use decode::{Decoder, text_length};
pub use encode::{EncodeError, Encoder};
pub use ids::IdTable;
pub use shape::{Encoded, IdPath, Shape};
pub(crate) use slot::Slot;
pub(crate) use template::KnownKey;
pub(crate) use values::{Reader, decimal_length, varint, write_varint};

use hashbrown::DefaultHashBuilder;
use std::{cell::RefCell, hash::BuildHasher, rc::Rc, sync::LazyLock};

/// The tables that all records of a thread refer to. They only grow, and an index keeps its meaning while they live.
#[derive(Default)]
pub struct Tables {
    pub(crate) templates: template::TemplateTable,
    pub(crate) strings: strings::StringTable,
    /// Finds templates sooner. Records do not refer to it.
    trie: trie::KeyTrie<shape::ShapeKey>,
    /// Makes merging faster. Records do not refer to them.
    merge_rules: merge::MergeRules,
}

/// How full the tables of a thread are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSizes {
    /// Number of templates, at most 16,384.
    pub templates: usize,
    /// Number of frequent strings, at most 8,192.
    pub strings: usize,
    /// Number of nodes of the key trie, at most 8,192.
    pub trie_nodes: usize,
    /// Number of signatures that the key trie knows, at most 16,384.
    pub signatures: usize,
    /// Heap of all tables in bytes.
    pub bytes: usize,
}

/// Tables that the caches and the snapshots of a thread use together.
pub(crate) type SharedTables = Rc<RefCell<Tables>>;

thread_local! {
    static OF_THREAD: SharedTables = SharedTables::default();
}

impl Tables {
    /// The tables of this thread.
    pub(crate) fn of_thread() -> SharedTables {
        OF_THREAD.with(Rc::clone)
    }

    /// Whether an index that both these tables and `other` have means the same in both.
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        self.templates.skeletons().zip(other.templates.skeletons()).all(|(own, other)| own == other)
            && self.strings.iter().zip(other.strings.iter()).all(|(own, other)| own == other)
    }

    /// Appends what `other` has beyond these tables. `other` must [agree](Self::agrees_with) with them. Returns false
    /// when not everything could be appended.
    pub(crate) fn extend_from(&mut self, other: &Self) -> bool {
        let (templates, strings) = (self.templates.len(), self.strings.len());
        other.templates.skeletons().skip(templates).all(|skeleton| self.templates.append(skeleton).is_some())
            && other.strings.iter().skip(strings).all(|string| self.strings.append(string).is_some())
    }

    /// How full the tables are.
    pub(crate) fn sizes(&self) -> TableSizes {
        let Self { templates, strings, trie, .. } = self;
        TableSizes {
            templates: templates.len(),
            strings: strings.len(),
            trie_nodes: trie.nodes(),
            signatures: trie.signatures(),
            bytes: self.heap(),
        }
    }

    /// Bytes on the heap.
    fn heap(&self) -> usize {
        self.templates.heap() + self.strings.heap() + self.trie.heap() + self.merge_rules.heap()
    }
}

/// Hash of a string, skeleton or signature. The seed is random, because these come from outside.
#[inline]
fn hash(bytes: &[u8]) -> u64 {
    static STATE: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);
    STATE.hash_one(bytes)
}
