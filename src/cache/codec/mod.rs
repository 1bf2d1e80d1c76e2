//! Packing JSON objects: what they have in common once, what differs in few bytes, and all of it back byte for byte.
//!
//! An object is split into a [template](template::Template), its text with the values taken out, and the values, each
//! packed by what it looks like ([`kind::Slot`]). There is no schema: a key that Discord adds tomorrow makes a new
//! template. What does not fit (white space between tokens, nesting beyond [`encode::MAX_NESTING`], templates beyond
//! their bound) is kept as text. Templates and frequent strings are shared by all caches of a thread, ids by the
//! entities of a guild. Paths that were taken before lead to the templates sooner.
//!
//! Promises: `decode(encode(text)) == text` for every JSON object; no text and no record makes it panic; every table is
//! bounded.

pub mod decode;
pub mod encode;
mod follow;
pub mod ids;
pub mod kind;
mod merge;
mod paths;
pub mod template;
pub mod values;
mod walk;
pub mod words;

#[cfg(test)]
mod tests;

use hashbrown::DefaultHashBuilder;
use std::{cell::RefCell, hash::BuildHasher, rc::Rc, sync::LazyLock};

/// What the records of a thread have in common.
#[derive(Default)]
pub struct Tables {
    /// Texts of objects without their values.
    pub templates: template::Templates,
    /// Frequent strings.
    pub words: words::Words,
    /// How to come to a template. Not what records need: only what makes them sooner.
    paths: paths::Paths<encode::Use>,
    /// How to put one record over another. Not what records need either.
    plans: merge::Plans,
}

/// How full the tables of a thread are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Templates, of [`template::MAX_TEMPLATES`].
    pub templates: usize,
    /// Frequent strings, of [`words::MAX_WORDS`].
    pub words: usize,
    /// Keys on known paths, of 8,192.
    pub paths: usize,
    /// Ends of known paths, of 16,384.
    pub trails: usize,
    /// Bytes of all.
    pub bytes: usize,
}

/// Tables in use by caches and snapshots of a thread.
pub type Shared = Rc<RefCell<Tables>>;

thread_local! {
    static OF_THREAD: Shared = Shared::default();
}

impl Tables {
    /// Those that the caches of this thread share.
    pub fn of_thread() -> Shared {
        OF_THREAD.with(Rc::clone)
    }

    /// Do numbers mean the same here as in `other`, where both have them?
    pub fn agrees_with(&self, other: &Self) -> bool {
        let mut templates = self.templates.iter().zip(other.templates.iter());
        templates.all(|(own, other)| own.skeleton == other.skeleton)
            && self.words.iter().zip(other.words.iter()).all(|(own, other)| own == other)
    }

    /// Takes what `other`, with which this agrees, has beyond it. False: not all of it could be taken.
    pub fn catch_up(&mut self, other: &Self) -> bool {
        let (templates, words) = (self.templates.len(), self.words.len());
        other.templates.iter().skip(templates).all(|template| self.templates.add(&template.skeleton).is_some())
            && other.words.iter().skip(words).all(|word| self.words.add(word).is_some())
    }

    /// How full they are.
    pub fn fill(&self) -> Fill {
        let Self { templates, words, paths, .. } = self;
        Fill {
            templates: templates.len(),
            words: words.len(),
            paths: paths.places(),
            trails: paths.trails(),
            bytes: self.heap(),
        }
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.templates.heap() + self.words.heap() + self.paths.heap() + self.plans.heap()
    }
}

/// Hash of names and skeletons; seeded by chance, because they come from outside.
#[inline]
pub(super) fn hash(bytes: &[u8]) -> u64 {
    static STATE: LazyLock<DefaultHashBuilder> = LazyLock::new(DefaultHashBuilder::default);
    STATE.hash_one(bytes)
}
