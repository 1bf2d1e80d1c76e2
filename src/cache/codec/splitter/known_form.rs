//! The form of an object that the [key trie](crate::cache::codec::trie) knows. Splitting such an object is the hot path
//! of the cache.
//!
//! The text of each key, punctuation included, is compared with the trie. At the end the trie maps the kinds of the
//! values, the *signature*, to the template. Neither the template table nor the template's text is touched.

use super::{
    NoTemplate, Splitter,
    walk::{Form, Key},
};
use crate::cache::codec::trie::{KeyMatch, Nested, ObjectEnd, TriePosition, ValueKind};

/// See the module's description. Each function fails when the trie does not know the object: the object then has to be
/// read again as a [`NewForm`](super::NewForm).
#[derive(Clone, Copy)]
pub(in crate::cache::codec) struct KnownForm {
    /// The first of the trie's nodes that the next key can match.
    next: u32,
}

impl KnownForm {
    /// The form of objects whose keys the trie has at `root`.
    pub fn root(splitter: &Splitter<'_>, root: TriePosition) -> Self {
        Self { next: splitter.tables.trie.first_node(root) }
    }
}

impl Form for KnownForm {
    #[inline(always)]
    fn key(&mut self, splitter: &mut Splitter<'_>) -> Result<Key, NoTemplate> {
        let found = splitter.tables.trie.match_key(self.next, splitter.text, splitter.at);
        let KeyMatch { node, length, class, next } = found.ok_or(NoTemplate)?;
        splitter.at += length;
        self.next = next;
        Ok(Key { node, class })
    }

    #[inline(always)]
    fn is_loose(&self) -> bool {
        false
    }

    #[inline(always)]
    fn value_read(&mut self, _: &mut Splitter<'_>, _: Key, _: ValueKind) {}

    #[inline(always)]
    fn inside(&self, splitter: &Splitter<'_>, key: Key, nested: Nested) -> Option<Self> {
        // The trie learns no object that is nested too deeply.
        Some(Self { next: splitter.tables.trie.first_node(TriePosition::Inside(key.node, nested)) })
    }

    #[inline(always)]
    fn end(self, splitter: &mut Splitter<'_>, brace: u32, signature: usize) -> Result<Option<ObjectEnd>, NoTemplate> {
        splitter.tables.trie.object_end(brace, splitter.signature, signature).map(Some).ok_or(NoTemplate)
    }
}
