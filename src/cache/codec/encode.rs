//! The encoder: from the JSON text of an object to a record.
//!
//! A record is the index of the object's template plus one, the length of the JSON text, and the packed values. A
//! record that begins with the byte 0 holds the JSON text itself.
//!
//! The encoder tries, in this order: to [split](super::splitter) the object as one of a known form, to split it as one
//! of a new form, and to store its text. Only the last way accepts every JSON object.

use super::{
    Tables,
    ids::IdTable,
    shape::{Encoded, IdPath, Shape},
    splitter::{Buffers, KnownForm, NewForm, NoTemplate, Splitter},
    trie::TriePosition,
    values::varint,
};
use crate::{
    cache::work,
    protocol::{
        edit,
        json::{self, Malformed},
    },
};
use serde::de::IgnoredAny;
use std::borrow::Cow;

/// Why an object was not encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The text may be JSON, but it is not in [plain spelling](crate::protocol::spelling), and the encoder is
    /// strict.
    #[error("the object is not in plain spelling")]
    NotPlain,
    /// The text does not begin with a well-formed JSON object.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// Makes records. One encoder serves many objects and keeps its buffers, so that it allocates nothing once they have
/// grown.
#[derive(Default)]
pub struct Encoder {
    /// Whether the encoder refuses objects that are not in plain spelling. The cache compares keys and ids byte by
    /// byte, so such an object must be respelled before it is stored. Switch it off only for text that is known to be
    /// plain; that saves the check. An encoder that is not strict stores an object that
    /// cannot be split as text.
    pub(crate) strict: bool,
    pub(super) buffers: Buffers,
    /// The record that [`merge`](Self::merge) puts together.
    pub(super) merged: Vec<u8>,
}

impl Encoder {
    /// An encoder that refuses objects which are not in plain spelling.
    pub(crate) fn new_strict() -> Self {
        Self { strict: true, ..Self::default() }
    }

    /// Encodes the object that begins at offset `at` of `text`. The result is in [`record`](Self::record). `tables` and
    /// `ids` can grow.
    ///
    /// # Errors
    ///
    /// [`EncodeError::Malformed`] when no well-formed object begins there, [`EncodeError::NotPlain`] when a strict
    /// encoder refuses it; a strict encoder reports that for many malformed texts too.
    pub fn encode(
        &mut self,
        tables: &mut Tables,
        ids: &mut IdTable,
        shape: &Shape,
        text: &[u8],
        at: usize,
    ) -> Result<Encoded, EncodeError> {
        work::add(200);
        let root = if shape.loose { TriePosition::Unknown } else { tables.trie.root(shape.into()) };
        let strict = self.strict;
        let mut splitter = Splitter::new(text, at, &mut self.buffers, tables, ids, shape, strict);
        let known = KnownForm::root(&splitter, root);
        if let Ok(Some(template)) = splitter.split(known) {
            let encoded = splitter.encoded(at);
            self.write_header(template, encoded.length);
            return Ok(encoded);
        }
        let mut splitter = Splitter::new(text, at, &mut self.buffers, tables, ids, shape, strict);
        let new = NewForm::root(&splitter, root, shape.loose);
        match splitter.split(new) {
            Ok(Some(template)) => {
                let encoded = splitter.encoded(at);
                self.write_header(template, encoded.length);
                Ok(encoded)
            }
            Err(NoTemplate) if strict => Err(EncodeError::NotPlain),
            Ok(None) | Err(NoTemplate) => Ok(self.encode_as_text(shape, text, at)?),
        }
    }

    /// Inserts the template's index plus one and the length of the JSON text before the packed values.
    pub(super) fn write_header(&mut self, template: u64, length: usize) {
        let (template, digits) = varint(template + 1);
        let (length, more) = varint(length as u64);
        let mut header = [0; 20];
        header[..digits].copy_from_slice(&template[..digits]);
        header[digits..digits + more].copy_from_slice(&length[..more]);
        let (record, header_length) = (&mut self.buffers.record, digits + more);
        let values = record.len();
        record.extend_from_slice(&header[..header_length]);
        record.copy_within(..values, header_length);
        record[..header_length].copy_from_slice(&header[..header_length]);
    }

    /// Makes a record that holds the object's text.
    fn encode_as_text(&mut self, shape: &Shape, text: &[u8], at: usize) -> Result<Encoded, Malformed> {
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
        let id = match shape.id {
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
        Ok(Encoded { id: id.unwrap_or(0), length: object.len(), end })
    }

    /// The record that the last call of [`encode`](Self::encode) or [`merge`](Self::merge) made.
    pub fn record(&self) -> &[u8] {
        &self.buffers.record
    }
}
