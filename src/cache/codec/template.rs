//! Templates: the texts of JSON objects with their values taken out.
//!
//! All objects with the same keys, constants and slots share one template. The table belongs to a thread; it only
//! grows, and a template keeps its index, because records refer to templates by index.
//!
//! Bounds: [`MAX_TEMPLATES`] and [`MAX_TEMPLATE_BYTES`]. From [`ADMITTED_AT_ONCE`] templates on, a new one is admitted
//! only when it comes for the second time, so that objects of random form do not fill the table.

use super::slot::Slot;
use crate::protocol::json::strict;
use hashbrown::HashTable;
use serde::de::IgnoredAny;

/// Maximum number of templates. Indexes fit into 16 bits.
pub(super) const MAX_TEMPLATES: usize = 16_384;
/// Maximum size in bytes of all templates together.
const MAX_TEMPLATE_BYTES: usize = 4 << 20;
/// This many templates are admitted when they come for the first time; later ones when they come for the second time.
const ADMITTED_AT_ONCE: usize = 512;
/// Number of templates whose first sighting is remembered.
const CANDIDATES: usize = 4_096;

/// The top-level keys whose values the cache looks up in packed records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownKey {
    /// Any other key.
    Other,
    /// `last_message_id` of a channel or thread.
    LastMessageId,
    /// `roles` of a member.
    Roles,
    /// `message_count` of a thread.
    MessageCount,
    /// `total_message_sent` of a thread.
    TotalMessageSent,
    /// `joined_at` of a member.
    JoinedAt,
}

impl KnownKey {
    /// The key at the end of `text`, which is the template's text before a value.
    fn at_end_of(text: &[u8]) -> Self {
        if text.ends_with(b"\"last_message_id\":") {
            Self::LastMessageId
        } else if text.ends_with(b"\"roles\":") {
            Self::Roles
        } else if text.ends_with(b"\"message_count\":") {
            Self::MessageCount
        } else if text.ends_with(b"\"total_message_sent\":") {
            Self::TotalMessageSent
        } else if text.ends_with(b"\"joined_at\":") {
            Self::JoinedAt
        } else {
            Self::Other
        }
    }
}

/// One value of a template, and the text before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Bytes of text between the value before this one and this one.
    pub before: u16,
    /// How the record holds the value.
    pub slot: Slot,
    /// The value's key, for values of the object itself; `Other` for values of inlined objects.
    pub key: KnownKey,
}

/// See the module's description.
pub(super) struct Template {
    /// The text, with the byte of its [`Slot`] in place of each value.
    pub skeleton: Box<[u8]>,
    /// The values, in the order of the text.
    pub segments: Box<[Segment]>,
    /// What the template says about `joined_at`.
    pub joined_at: JoinedAt,
}

/// What a template says about the value of the top-level key `joined_at`, which is `null` for guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JoinedAt {
    /// The key is missing, or its value is not `null`.
    NotNull,
    /// The value is `null`.
    Null,
    /// The template is loose, so only the record knows the value.
    InRecord,
}

/// A piece of a skeleton that [`scan_skeleton`] reports.
pub(super) enum Token {
    /// A string, which can be a key. Its content ends at offset `end`.
    String { end: usize },
    /// A slot: its byte.
    Slot(u8),
    /// A comma or a closing bracket: the end of an entry or element.
    End,
}

/// Calls `each` for every token of a skeleton, with its offset (of a string: the offset of its content), and with the
/// number of objects and arrays around it. `None`: `each` has returned `None`, which ends the scan; or a string does not
/// end; or more brackets close than were opened.
pub(super) fn scan_skeleton(skeleton: &[u8], mut each: impl FnMut(usize, usize, Token) -> Option<()>) -> Option<()> {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(byte) = skeleton.get(at) {
        match byte {
            b'{' | b'[' => depth += 1,
            b',' => each(at, depth, Token::End)?,
            b'}' | b']' => {
                each(at, depth, Token::End)?;
                depth = depth.checked_sub(1)?;
            }
            b'"' => {
                let end = strict::string_end(skeleton, at + 1)?;
                each(at + 1, depth, Token::String { end })?;
                at = end;
            }
            0..0x20 => each(at, depth, Token::Slot(*byte))?,
            _ => {}
        }
        at += 1;
    }
    Some(())
}

impl Template {
    /// Finds the values in a skeleton. `None` when the skeleton has a string that does not end, a control byte that is
    /// no slot, or more than 65,535 bytes of text before a value.
    fn new(skeleton: &[u8]) -> Option<Self> {
        let mut segments = Vec::new();
        let mut joined_at = JoinedAt::NotNull;
        // Where the text behind the last value begins.
        let mut from = 0;
        scan_skeleton(skeleton, |at, depth, token| {
            match token {
                Token::String { .. } if depth == 1 && skeleton[at..].starts_with(b"joined_at\":null") => {
                    joined_at = JoinedAt::Null;
                }
                Token::Slot(byte) => {
                    let text = &skeleton[from..at];
                    let key = if depth == 1 { KnownKey::at_end_of(text) } else { KnownKey::Other };
                    let slot = Slot::from_byte(byte)?;
                    if key == KnownKey::JoinedAt && slot == Slot::Any {
                        joined_at = JoinedAt::InRecord;
                    }
                    segments.push(Segment { before: text.len().try_into().ok()?, slot, key });
                    from = at + 1;
                }
                Token::String { .. } | Token::End => {}
            }
            Some(())
        })?;
        Some(Self { skeleton: skeleton.into(), segments: segments.into(), joined_at })
    }

    fn heap(&self) -> usize {
        self.skeleton.len() + size_of_val(&*self.segments)
    }
}

/// The templates of a thread.
pub(crate) struct TemplateTable {
    templates: Vec<Template>,
    /// Finds templates by their skeletons.
    lookup: HashTable<u16>,
    /// Heap of the templates, without reserved memory.
    bytes: usize,
    /// For each hash modulo [`CANDIDATES`]: 32 bits of the hash of the last skeleton that was seen there and not
    /// admitted.
    candidates: Box<[u32]>,
}

impl Default for TemplateTable {
    fn default() -> Self {
        Self {
            templates: Vec::new(),
            lookup: HashTable::new(),
            bytes: 0,
            candidates: vec![0; CANDIDATES].into_boxed_slice(),
        }
    }
}

impl TemplateTable {
    /// The template with this index.
    #[inline(always)]
    pub(super) fn get(&self, index: u64) -> Option<&Template> {
        self.templates.get(usize::try_from(index).ok()?)
    }

    /// The index of the template with this skeleton. A new template is admitted if there is room and if one of these
    /// holds: the table has fewer than [`ADMITTED_AT_ONCE`], the skeleton was seen before, or `at_once` is set.
    /// Otherwise `None`.
    pub(super) fn find_or_add(&mut self, skeleton: &[u8], at_once: bool) -> Option<u64> {
        let hash = super::hash(skeleton);
        let found = self.lookup.find(hash, |index| *self.templates[usize::from(*index)].skeleton == *skeleton);
        if let Some(index) = found {
            return Some(u64::from(*index));
        }
        let index = self.templates.len();
        if !at_once && index >= ADMITTED_AT_ONCE {
            let candidate = &mut self.candidates[hash as usize % CANDIDATES];
            let tag = (hash >> 32) as u32;
            if *candidate != tag {
                *candidate = tag;
                return None;
            }
        }
        if index >= MAX_TEMPLATES || self.bytes + skeleton.len() > MAX_TEMPLATE_BYTES {
            return None;
        }
        let template = Template::new(skeleton)?;
        self.bytes += template.heap() + size_of::<Template>();
        self.templates.push(template);
        let templates = &self.templates;
        let hash_of = |index: &u16| super::hash(&templates[usize::from(*index)].skeleton);
        self.lookup.insert_unique(hash, index as u16, hash_of);
        Some(index as u64)
    }

    /// The skeletons of all templates in the order of their indexes.
    pub fn skeletons(&self) -> impl Iterator<Item = &[u8]> {
        self.templates.iter().map(|template| &*template.skeleton)
    }

    /// Appends a skeleton from a state file, which gets the next index. `None`, and nothing appended, when values in
    /// its slots would not make it a JSON object, when the table has it already, or when there is no room.
    pub fn append(&mut self, skeleton: &[u8]) -> Option<()> {
        // With a digit in place of each slot a skeleton is JSON text.
        let filled: Vec<u8> = skeleton.iter().map(|byte| if *byte < 0x20 { b'0' } else { *byte }).collect();
        if !filled.starts_with(b"{") || serde_json::from_slice::<IgnoredAny>(&filled).is_err() {
            return None;
        }
        let next = self.templates.len() as u64;
        self.find_or_add(skeleton, true).filter(|index| *index == next).map(drop)
    }

    /// Number of templates, at most [`MAX_TEMPLATES`].
    pub fn len(&self) -> usize {
        self.templates.len()
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.bytes
            + (self.templates.capacity() - self.templates.len()) * size_of::<Template>()
            + self.lookup.allocation_size()
            + size_of_val(&*self.candidates)
    }
}
