//! Merging two records of the same entity without decoding them: an update over what is stored.
//!
//! Which keys of the two objects stay depends only on their templates. So the merge rule for a pair of templates is
//! worked out once and remembered, and then the packed values of both records are put together as they are.
//!
//! Promise: the result, as JSON, is what [`edit::merge`](crate::protocol::edit::merge) makes of the two texts. Where no
//! rule can say that (a record that holds text, a key that occurs twice, a template that is not admitted),
//! [`Encoder::merge`] returns `None`, and the caller merges the texts.

use super::{
    Tables,
    decode::{self, Decoder},
    encode::Encoder,
    ids::IdTable,
    shape::Encoded,
    template::{Template, TemplateTable, Token, scan_skeleton},
    values::Reader,
};
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Maximum number of remembered rules. At the bound all are forgotten, and worked out again when they are needed.
const MAX_RULES: usize = 4_096;
/// Maximum number of entries of an object for which a rule is made. Each entry is searched for among the others.
const MAX_ENTRIES: usize = 256;

/// Consecutive packed values of one of the two records.
struct ValueRange {
    /// Whether the values are those of the new record.
    of_new: bool,
    /// Index of the first value.
    from: u16,
    /// Index behind the last value.
    to: u16,
}

/// How to merge a record with one template over a record with another.
enum MergeRule {
    /// The new record replaces the old one: it has every key of the old one.
    Replace,
    /// The result has this template, and these values in this order.
    Combine { template: u16, ranges: Box<[ValueRange]> },
    /// The texts have to be merged.
    MergeTexts,
}

/// The known rules, by the template of the new record and that of the old one.
#[derive(Default)]
pub(super) struct MergeRules {
    rules: HashMap<(u16, u16), MergeRule>,
}

/// A top-level entry of a template.
struct Entry<'a> {
    key: &'a [u8],
    /// The text of the entry's value, with slots.
    value: &'a [u8],
    /// Index of the first slot in `value` among all slots of the template.
    from: u16,
    /// Index behind the last one.
    to: u16,
}

/// The top-level entries of a template. `None` when a key occurs twice, or when there are more than [`MAX_ENTRIES`].
fn entries(template: &Template) -> Option<Vec<Entry<'_>>> {
    let skeleton = &*template.skeleton;
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut slots = 0u16;
    // The entry that is being read: its key, where its value begins, and the index of its first slot.
    let mut open: Option<(&[u8], usize, u16)> = None;
    scan_skeleton(skeleton, |at, depth, token| {
        match token {
            // The value begins behind the closing quote of the key and the colon.
            Token::String { end } if depth == 1 && open.is_none() => open = Some((&skeleton[at..end], end + 2, slots)),
            Token::Slot(_) => slots = slots.checked_add(1)?,
            Token::End if depth == 1 => {
                if let Some((key, start, from)) = open.take() {
                    if entries.len() == MAX_ENTRIES || entries.iter().any(|entry| entry.key == key) {
                        return None;
                    }
                    entries.push(Entry { key, value: &skeleton[start..at], from, to: slots });
                }
            }
            Token::String { .. } | Token::End => {}
        }
        Some(())
    })?;
    Some(entries)
}

impl MergeRule {
    /// Works out the rule for two templates. `None` when the template of the result is not admitted yet: it has to come
    /// for the second time.
    fn new(templates: &mut TemplateTable, new: u16, old: u16) -> Option<Self> {
        let (Some(a), Some(b)) = (templates.get(new.into()), templates.get(old.into())) else {
            return Some(Self::MergeTexts);
        };
        let (Some(a), Some(b)) = (entries(a), entries(b)) else { return Some(Self::MergeTexts) };
        let find = |entries: &[Entry<'_>], key: &[u8]| entries.iter().position(|entry| entry.key == key);
        if b.iter().all(|entry| find(&a, entry.key).is_some()) {
            return Some(Self::Replace);
        }
        let kept = b.iter().map(|old| find(&a, old.key).map_or((false, old), |at| (true, &a[at])));
        let added = a.iter().filter(|new| find(&b, new.key).is_none()).map(|new| (true, new));
        let (mut skeleton, mut ranges) = (vec![b'{'], Vec::<ValueRange>::new());
        for (of_new, Entry { key, value, from, to }) in kept.chain(added) {
            if skeleton.len() > 1 {
                skeleton.push(b',');
            }
            [b"\"", *key, b"\":", value].iter().for_each(|part| skeleton.extend_from_slice(part));
            match ranges.last_mut() {
                Some(last) if last.of_new == of_new && last.to == *from => last.to = *to,
                _ if from == to => {}
                _ => ranges.push(ValueRange { of_new, from: *from, to: *to }),
            }
        }
        skeleton.push(b'}');
        let template = u16::try_from(templates.find_or_add(&skeleton, false)?).ok()?;
        Some(Self::Combine { template, ranges: ranges.into() })
    }
}

impl MergeRules {
    /// Works out the rule for two templates, unless it is known. `None` when there is none yet.
    fn learn(&mut self, templates: &mut TemplateTable, new: u16, old: u16) -> Option<()> {
        if !self.rules.contains_key(&(new, old)) {
            let rule = MergeRule::new(templates, new, old)?;
            if self.rules.len() == MAX_RULES {
                self.rules.clear();
            }
            self.rules.insert((new, old), rule);
        }
        Some(())
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        let ranges =
            |rule: &MergeRule| if let MergeRule::Combine { ranges, .. } = rule { size_of_val(&**ranges) } else { 0 };
        self.rules.allocation_size() + self.rules.values().map(ranges).sum::<usize>()
    }
}

/// The packed values of a record.
#[derive(Default)]
struct PackedValues {
    /// Offset in the record where each value begins; at the end the offset where the last one ends.
    starts: SmallVec<[usize; 32]>,
    /// Bytes of JSON text that each value decodes to.
    text_lengths: SmallVec<[usize; 32]>,
}

impl PackedValues {
    /// Finds the values of a record with this template. `None` when the record is broken.
    fn of(decoder: &Decoder<'_>, template: u16, id: u64, record: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes: record };
        // The header: the template's index and the length of the text.
        reader.varint()?;
        reader.varint()?;
        let mut values = Self::default();
        for segment in &decoder.tables.templates.get(template.into())?.segments {
            values.starts.push(record.len() - reader.bytes.len());
            values.text_lengths.push(decoder.skip(segment.slot, id, &mut reader)?);
        }
        values.starts.push(record.len() - reader.bytes.len());
        Some(values)
    }
}

/// The template of a record; `None` when the record holds text.
fn template_of(record: &[u8]) -> Option<u16> {
    decode::template_plus_one(record)?.checked_sub(1)?.try_into().ok()
}

impl Encoder {
    /// Merges the record that was just made, which `new` describes, over the record `old` of the same entity. The
    /// result is in [`record`](Self::record). `None` when the texts have to be merged instead; the record that was just
    /// made stays.
    pub fn merge(&mut self, tables: &mut Tables, ids: &IdTable, new: Encoded, old: &[u8]) -> Option<Encoded> {
        let (new_template, old_template) = (template_of(self.record())?, template_of(old)?);
        if new_template == old_template {
            return Some(new);
        }
        tables.merge_rules.learn(&mut tables.templates, new_template, old_template)?;
        let tables = &*tables;
        let (template, ranges) = match tables.merge_rules.rules.get(&(new_template, old_template))? {
            MergeRule::Replace => return Some(new),
            MergeRule::MergeTexts => return None,
            MergeRule::Combine { template, ranges } => (*template, ranges),
        };
        let decoder = Decoder { tables, ids };
        let new_values = PackedValues::of(&decoder, new_template, new.id, self.record())?;
        let old_values = PackedValues::of(&decoder, old_template, new.id, old)?;
        let merged = decoder.tables.templates.get(template.into())?;
        let mut length = merged.skeleton.len() - merged.segments.len();
        let mut record = std::mem::take(&mut self.merged);
        record.clear();
        for range in ranges {
            let (values, source) = if range.of_new { (&new_values, self.record()) } else { (&old_values, old) };
            let (from, to) = (usize::from(range.from), usize::from(range.to));
            record.extend_from_slice(&source[values.starts[from]..values.starts[to]]);
            length += values.text_lengths[from..to].iter().sum::<usize>();
        }
        self.merged = std::mem::replace(&mut self.buffers.record, record);
        self.write_header(template.into(), length);
        Some(Encoded { length, ..new })
    }
}
