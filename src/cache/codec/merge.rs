//! One packed object over another, without their texts.
//!
//! Which keys of the two stay is a matter of their templates alone, so it is decided once for each pair: a plan. With it
//! the packed values of both are put together as they are.
//!
//! Promises: what comes out is, as JSON, what [`edit::merge`](crate::protocol::edit::merge) makes of the two texts. What
//! no plan can say (plain text, a key that stands there twice, no room for a template) is left to that. Plans are bounded.

use super::{
    Tables,
    decode::{self, Decoder},
    encode::{Encoded, Encoder},
    ids::Ids,
    template::{Template, Templates},
    values::Reader,
};
use crate::cache::scan;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Plans that are remembered.
const MAX_PLANS: usize = 4_096;
/// Entries of an object that a plan is made for: each one is looked for among the others.
const MAX_ENTRIES: usize = 256;

/// Values that stand one behind the other in one of the two.
struct Run {
    of_new: bool,
    from: u16,
    to: u16,
}

/// What becomes of two objects.
enum Plan {
    /// The new one, because it has every key of the old one.
    New,
    /// An object of this template with these values.
    Both { template: u16, runs: Box<[Run]> },
    /// Only their texts can say.
    Text,
}

/// Plans by the templates of the new object and of the old one.
#[derive(Default)]
pub struct Plans {
    plans: HashMap<(u16, u16), Plan>,
}

/// An entry of an object itself.
struct Entry<'a> {
    key: &'a [u8],
    /// The text of its value, with a byte for each that is taken out.
    value: &'a [u8],
    /// The numbers of those.
    from: u16,
    to: u16,
}

/// The entries of a template. `None`: a key stands there twice, or there are too many.
fn entries(template: &Template) -> Option<Vec<Entry<'_>>> {
    let skeleton = &*template.skeleton;
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let (mut depth, mut at, mut count) = (0, 0, 0u16);
    // Where the key ends and the value begins that is being read.
    let mut open: Option<(&[u8], usize, u16)> = None;
    while let Some(byte) = skeleton.get(at) {
        if let (1, b',' | b'}', Some((key, start, from))) = (depth, byte, open) {
            if entries.len() == MAX_ENTRIES || entries.iter().any(|entry| entry.key == key) {
                return None;
            }
            entries.push(Entry { key, value: &skeleton[start..at], from, to: count });
            open = None;
        }
        at += 1;
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => {
                let end = scan::string_end(skeleton, at)?;
                if depth == 1 && open.is_none() {
                    open = Some((&skeleton[at..end], end + 2, count));
                }
                at = end + 1;
            }
            0..0x20 => count = count.checked_add(1)?,
            _ => {}
        }
    }
    Some(entries)
}

impl Plan {
    fn new(templates: &mut Templates, new: u16, old: u16) -> Option<Self> {
        let (Some(a), Some(b)) = (templates.get(new.into()), templates.get(old.into())) else {
            return Some(Self::Text);
        };
        let (Some(a), Some(b)) = (entries(a), entries(b)) else { return Some(Self::Text) };
        let of = |entries: &[Entry<'_>], key: &[u8]| entries.iter().position(|entry| entry.key == key);
        if b.iter().all(|entry| of(&a, entry.key).is_some()) {
            return Some(Self::New);
        }
        let kept = b.iter().map(|old| of(&a, old.key).map_or((false, old), |at| (true, &a[at])));
        let added = a.iter().filter(|new| of(&b, new.key).is_none()).map(|new| (true, new));
        let (mut skeleton, mut runs) = (vec![b'{'], Vec::<Run>::new());
        for (of_new, Entry { key, value, from, to }) in kept.chain(added) {
            if skeleton.len() > 1 {
                skeleton.push(b',');
            }
            [b"\"", *key, b"\":", value].iter().for_each(|part| skeleton.extend_from_slice(part));
            match runs.last_mut() {
                Some(last) if last.of_new == of_new && last.to == *from => last.to = *to,
                _ if from == to => {}
                _ => runs.push(Run { of_new, from: *from, to: *to }),
            }
        }
        skeleton.push(b'}');
        // A rare template has to come again before it is taken.
        let template = u16::try_from(templates.find_or_add(&skeleton, false)?).ok()?;
        Some(Self::Both { template, runs: runs.into() })
    }
}

impl Plans {
    /// Makes a plan, unless there is one.
    fn learn(&mut self, templates: &mut Templates, new: u16, old: u16) -> Option<()> {
        if !self.plans.contains_key(&(new, old)) {
            let plan = Plan::new(templates, new, old)?;
            if self.plans.len() == MAX_PLANS {
                self.plans.clear();
            }
            self.plans.insert((new, old), plan);
        }
        Some(())
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        let runs = |plan: &Plan| if let Plan::Both { runs, .. } = plan { size_of_val(&**runs) } else { 0 };
        self.plans.allocation_size() + self.plans.values().map(runs).sum::<usize>()
    }
}

/// The packed values of a record: where each begins, and the end; and how long the text of each is.
type Values = (SmallVec<[usize; 32]>, SmallVec<[usize; 32]>);

fn values(decoder: &Decoder<'_>, template: u16, key: u64, record: &[u8]) -> Option<Values> {
    let mut reader = Reader { bytes: record };
    reader.varint()?;
    reader.varint()?;
    let (mut starts, mut lengths) = Values::default();
    for segment in &decoder.tables.templates.get(template.into())?.segments {
        starts.push(record.len() - reader.bytes.len());
        lengths.push(decoder.skip(segment.slot, key, &mut reader)?);
    }
    starts.push(record.len() - reader.bytes.len());
    Some((starts, lengths))
}

fn template_of(record: &[u8]) -> Option<u16> {
    decode::template(record)?.checked_sub(1)?.try_into().ok()
}

impl Encoder {
    /// Puts the record that was just made, `new`, over an old one with the same id; the result is the record. `None`: it
    /// takes their texts, and the record is as it was.
    pub fn merge(&mut self, tables: &mut Tables, ids: &Ids, new: Encoded, old: &[u8]) -> Option<Encoded> {
        let (from_new, from_old) = (template_of(self.record())?, template_of(old)?);
        if from_new == from_old {
            return Some(new);
        }
        tables.plans.learn(&mut tables.templates, from_new, from_old)?;
        let tables = &*tables;
        let (template, runs) = match tables.plans.plans.get(&(from_new, from_old))? {
            Plan::New => return Some(new),
            Plan::Text => return None,
            Plan::Both { template, runs } => (*template, runs),
        };
        let decoder = Decoder { tables, ids };
        let of_new = values(&decoder, from_new, new.key, self.record())?;
        let of_old = values(&decoder, from_old, new.key, old)?;
        let merged = decoder.tables.templates.get(template.into())?;
        let mut length = merged.skeleton.len() - merged.segments.len();
        let mut record = std::mem::take(&mut self.merged);
        record.clear();
        for run in runs {
            let ((starts, lengths), source) = if run.of_new { (&of_new, self.record()) } else { (&of_old, old) };
            let (from, to) = (usize::from(run.from), usize::from(run.to));
            record.extend_from_slice(&source[starts[from]..starts[to]]);
            length += lengths[from..to].iter().sum::<usize>();
        }
        self.merged = std::mem::replace(&mut self.buffers.record, record);
        self.begin(template.into(), length);
        Some(Encoded { length, ..new })
    }
}
