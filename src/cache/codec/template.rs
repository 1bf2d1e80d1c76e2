//! Templates: JSON objects with their values taken out.

use super::kind::Slot;
use crate::cache::scan;
use hashbrown::HashTable;
use serde::de::IgnoredAny;

/// Templates at most; their numbers are packed as variable-length integers.
pub const MAX_TEMPLATES: usize = 16_384;
/// Bytes of all templates at most.
pub const MAX_TEMPLATE_BYTES: usize = 4 << 20;
/// Templates that are taken at first sight; later ones have to come twice.
const AT_FIRST_SIGHT: usize = 512;
const CANDIDATES: usize = 4_096;

/// Keys of an object itself whose values are looked at in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Any other.
    Other,
    /// `last_message_id`.
    LastMessage,
    /// `roles`.
    Roles,
    /// `message_count`.
    MessageCount,
    /// `total_message_sent`.
    TotalMessages,
    /// `joined_at`.
    JoinedAt,
}

impl Name {
    /// The key that the text before a value ends with.
    fn of(text: &[u8]) -> Self {
        if text.ends_with(b"\"last_message_id\":") {
            Self::LastMessage
        } else if text.ends_with(b"\"roles\":") {
            Self::Roles
        } else if text.ends_with(b"\"message_count\":") {
            Self::MessageCount
        } else if text.ends_with(b"\"total_message_sent\":") {
            Self::TotalMessages
        } else if text.ends_with(b"\"joined_at\":") {
            Self::JoinedAt
        } else {
            Self::Other
        }
    }
}

/// A value and the text before it.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Bytes of text before the value.
    pub before: u16,
    /// How the value is packed.
    pub slot: Slot,
    /// Its key, if that means something.
    pub name: Name,
}

/// An object without its values.
pub struct Template {
    /// The text, with the byte of its [`Slot`] in place of each value.
    pub skeleton: Box<[u8]>,
    /// The values in order.
    pub segments: Box<[Segment]>,
    /// What it says of `joined_at`.
    pub joined_at: JoinedAt,
}

/// What a template says of the value of `joined_at`, which is null for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinedAt {
    /// It is not there, or not null.
    Other,
    /// It is null.
    Null,
    /// The record has to say.
    Open,
}

impl Template {
    fn new(skeleton: &[u8]) -> Option<Self> {
        let mut segments = Vec::new();
        let mut joined_at = JoinedAt::Other;
        let (mut depth, mut from, mut at) = (0, 0, 0);
        while let Some(byte) = skeleton.get(at) {
            at += 1;
            match byte {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b'"' => {
                    if depth == 1 && skeleton[at..].starts_with(b"joined_at\":null") {
                        joined_at = JoinedAt::Null;
                    }
                    at = scan::string_end(skeleton, at)? + 1;
                }
                0..0x20 => {
                    let text = &skeleton[from..at - 1];
                    let name = if depth == 1 { Name::of(text) } else { Name::Other };
                    let slot = Slot::from_byte(*byte)?;
                    if name == Name::JoinedAt && slot == Slot::Any {
                        joined_at = JoinedAt::Open;
                    }
                    segments.push(Segment { before: text.len().try_into().ok()?, slot, name });
                    from = at;
                }
                _ => {}
            }
        }
        Some(Self { skeleton: skeleton.into(), segments: segments.into(), joined_at })
    }

    fn heap(&self) -> usize {
        self.skeleton.len() + size_of_val(&*self.segments)
    }
}

/// All templates of a thread.
pub struct Templates {
    templates: Vec<Template>,
    by_skeleton: HashTable<u16>,
    bytes: usize,
    /// Parts of the hashes of skeletons that have been seen once.
    candidates: Box<[u32]>,
}

impl Default for Templates {
    fn default() -> Self {
        Self {
            templates: Vec::new(),
            by_skeleton: HashTable::new(),
            bytes: 0,
            candidates: vec![0; CANDIDATES].into_boxed_slice(),
        }
    }
}

impl Templates {
    /// The template of this number.
    #[inline(always)]
    pub fn get(&self, number: u64) -> Option<&Template> {
        self.templates.get(usize::try_from(number).ok()?)
    }

    /// The number of the template with this skeleton. A new one is taken if there is room and, unless it is `common`
    /// by nature, if it has been seen before.
    pub fn find_or_add(&mut self, skeleton: &[u8], common: bool) -> Option<u64> {
        let hash = super::hash(skeleton);
        let found = self.by_skeleton.find(hash, |number| *self.templates[usize::from(*number)].skeleton == *skeleton);
        if let Some(number) = found {
            return Some(u64::from(*number));
        }
        let number = self.templates.len();
        if !common && number >= AT_FIRST_SIGHT {
            let candidate = &mut self.candidates[hash as usize % CANDIDATES];
            let tag = (hash >> 32) as u32;
            if *candidate != tag {
                *candidate = tag;
                return None;
            }
        }
        if number >= MAX_TEMPLATES || self.bytes + skeleton.len() > MAX_TEMPLATE_BYTES {
            return None;
        }
        let template = Template::new(skeleton)?;
        self.bytes += template.heap() + size_of::<Template>();
        self.templates.push(template);
        let templates = &self.templates;
        self.by_skeleton
            .insert_unique(hash, number as u16, |other| super::hash(&templates[usize::from(*other)].skeleton));
        Some(number as u64)
    }

    /// All of them, by their numbers.
    pub fn iter(&self) -> impl Iterator<Item = &Template> {
        self.templates.iter()
    }

    /// Takes a skeleton that comes from outside, as the next one. `None`: it is not one, is there already, or there is no
    /// room.
    pub fn add(&mut self, skeleton: &[u8]) -> Option<()> {
        // Control bytes are only where a value is, so this tells whether any values make it JSON.
        let filled: Vec<u8> = skeleton.iter().map(|byte| if *byte < 0x20 { b'0' } else { *byte }).collect();
        if !filled.starts_with(b"{") || serde_json::from_slice::<IgnoredAny>(&filled).is_err() {
            return None;
        }
        let number = self.templates.len() as u64;
        self.find_or_add(skeleton, true).filter(|found| *found == number).map(drop)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.templates.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.bytes
            + (self.templates.capacity() - self.templates.len()) * size_of::<Template>()
            + self.by_skeleton.allocation_size()
            + size_of_val(&*self.candidates)
    }
}
