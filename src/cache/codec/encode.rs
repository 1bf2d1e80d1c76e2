//! From JSON text to a record: the number of its template, and its values. By a known [path](super::paths) if there is
//! one, else key by key; what fits no template as text.

use super::{
    Tables,
    ids::Ids,
    paths::Point,
    values::varint,
    walk::{Buffers, Odd, Walk},
};
use crate::{
    cache::work,
    protocol::{
        edit,
        json::{self, Malformed},
        spelling,
    },
};
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// Objects nested deeper are kept as text.
pub const MAX_NESTING: usize = 12;

/// Where the id of a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdPath {
    /// Nowhere.
    None,
    /// At this key.
    At(&'static str),
    /// At `id` of the `user`.
    User,
}

/// What to make of an object.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Where its id stands.
    pub id: IdPath,
    /// Keys to leave out.
    pub leave_out: &'static [&'static str],
    /// Reduce `user` to its id.
    pub bare_user: bool,
    /// Most values differ in kind from object to object, so only the keys make the template.
    pub loose: bool,
}

impl Shape {
    /// An object that is kept whole.
    pub const fn of(id: IdPath) -> Self {
        Self { id, leave_out: &[], bare_user: false, loose: false }
    }
}

/// What of a [`Shape`] decides which path an object is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    id: IdPath,
    leave_out: &'static [&'static str],
    bare_user: bool,
}

impl From<&Shape> for Use {
    fn from(shape: &Shape) -> Self {
        let Shape { id, leave_out, bare_user, .. } = *shape;
        Self { id, leave_out, bare_user }
    }
}

/// What an object became.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Its id; 0 when it has none.
    pub key: u64,
    /// Length of the text that decoding will give.
    pub length: usize,
    /// Where the object ends in the text.
    pub end: usize,
}

/// Makes records. Keeps its buffers.
#[derive(Default)]
pub struct Encoder {
    /// Refuse text that is not in [plain spelling](spelling), instead of keeping it as text: what such an object says can
    /// not be compared with what others say. Without effect on text that is known to be plain, except that it is not looked at.
    pub strict: bool,
    pub(super) buffers: Buffers,
    /// What a record is put together in.
    pub(super) merged: Vec<u8>,
}

impl Encoder {
    /// One that refuses text which is not in plain spelling.
    pub fn strict() -> Self {
        Self { strict: true, ..Self::default() }
    }

    /// Packs the object that begins at `at` in `text`; the result is in [`record`](Self::record). Fails when there is no
    /// well-formed object, and with [`spelling::NOT_PLAIN`] when [`strict`](Self::strict) refuses it.
    pub fn encode(
        &mut self,
        tables: &mut Tables,
        ids: &mut Ids,
        shape: &Shape,
        text: &[u8],
        at: usize,
    ) -> Result<Encoded, Malformed> {
        work::add(200);
        let root = if shape.loose { Point::Lost } else { tables.paths.root(shape.into()) };
        let strict = self.strict;
        let mut walk = Walk::new(text, at, &mut self.buffers, tables, ids, shape, strict);
        if let Some(number) = walk.follow_from(root) {
            let encoded = walk.encoded(at);
            self.begin(number, encoded.length);
            return Ok(encoded);
        }
        for loose in [false, true] {
            if shape.loose && !loose {
                continue;
            }
            let mut walk = Walk::new(text, at, &mut self.buffers, tables, ids, shape, strict);
            match walk.whole(loose, if loose { Point::Lost } else { root }) {
                Ok(Some(number)) => {
                    let encoded = walk.encoded(at);
                    self.begin(number, encoded.length);
                    return Ok(encoded);
                }
                Ok(None) => {}
                Err(Odd) if strict => return Err(Malformed { what: spelling::NOT_PLAIN, at }),
                Err(Odd) => break,
            }
        }
        self.as_text(shape, text, at)
    }

    /// Puts the number of the template, where 0 marks plain text, and the length of the text before the values.
    pub(super) fn begin(&mut self, template: u64, length: usize) {
        let (number, digits) = varint(template + 1);
        let (length, more) = varint(length as u64);
        let mut head = [0; 20];
        head[..digits].copy_from_slice(&number[..digits]);
        head[digits..digits + more].copy_from_slice(&length[..more]);
        let (record, more) = (&mut self.buffers.record, digits + more);
        let values = record.len();
        record.extend_from_slice(&head[..more]);
        record.copy_within(..values, more);
        record[..more].copy_from_slice(&head[..more]);
    }

    /// The fallback: anything that is JSON.
    fn as_text(&mut self, shape: &Shape, text: &[u8], at: usize) -> Result<Encoded, Malformed> {
        let mut cursor = json::Cursor::new(&text[at..]);
        let object = cursor.value()?;
        let end = at + cursor.position();
        if serde_json::from_slice::<IgnoredAny>(object).is_err() || !object.starts_with(b"{") {
            return Err(Malformed { what: "not a JSON object", at });
        }
        let mut object = if shape.leave_out.is_empty() {
            Cow::Borrowed(object)
        } else {
            Cow::Owned(edit::without(object, shape.leave_out)?)
        };
        let key = match shape.id {
            IdPath::None => None,
            IdPath::At(key) => edit::id_at(&object, &[key]),
            IdPath::User => edit::id_at(&object, &["user", "id"]),
        };
        if shape.bare_user
            && let Some(id) = edit::id_at(&object, &["user", "id"])
        {
            object = Cow::Owned(edit::with(&object, "user", format!(r#"{{"id":"{id}"}}"#).as_bytes())?);
        }
        self.buffers.record.clear();
        self.buffers.record.push(0);
        self.buffers.record.extend_from_slice(&object);
        Ok(Encoded { key: key.unwrap_or(0), length: object.len(), end })
    }

    /// The record that the last [`encode`](Self::encode) made.
    pub fn record(&self) -> &[u8] {
        &self.buffers.record
    }
}
