//! Splits the text of one JSON object into a template and packed values.
//!
//! A [`Splitter`] reads the object in one walk ([`walk`]), and packs its values ([`scalars`]). What the walk does with
//! the keys, and how it finds the template, depends on the [`Form`](walk::Form) that the encoder gives it:
//!
//! * [`KnownForm`]: an object with the same keys in the same order was seen before, so the [key trie](super::trie) knows
//!   the keys and the template. No template text is built. This is the hot path.
//! * [`NewForm`]: the template text is built and looked up, and the keys are added to the trie for next time.
//!
//! Records of both forms decode to the same text.
//!
//! A *strict* splitter accepts only text in [plain spelling](crate::protocol::spelling): two keys of one object are the
//! same exactly when their bytes are, and no key occurs twice. Strict splitters therefore add only plain spellings to
//! the trie.

mod known_form;
mod new_form;
mod scalars;
mod walk;

pub(super) use known_form::KnownForm;
pub(super) use new_form::NewForm;

use super::{
    Tables,
    ids::IdTable,
    shape::{Encoded, Shape},
    trie::{KeyClass, Signature},
    values::{self, varint},
};
use crate::protocol::json::{self, number::parse_canonical, strict};

/// The text cannot be split. For a [`KnownForm`]: the object is not of a form that the trie knows. For a [`NewForm`]: the
/// text is malformed, it has white space between tokens, it gives the object two different ids, or, for a strict
/// splitter, it is not in plain spelling in another way. The text can still be valid JSON.
pub(super) struct NoTemplate;

/// Inserts `value` as a varint at offset `at` of `out`. Used for counts and template indexes, which are known only
/// after the values behind them have been written.
fn insert_varint(out: &mut Vec<u8>, at: usize, value: u64) {
    if value < 0x80 {
        out.insert(at, value as u8);
    } else {
        let (bytes, length) = varint(value);
        out.splice(at..at, bytes[..length].iter().copied());
    }
}

/// The buffers that a splitter writes to. The encoder keeps them, so that encoding an object allocates nothing once
/// they have grown.
#[derive(Default)]
pub(super) struct Buffers {
    skeleton: Vec<u8>,
    /// The packed values of the last object, and after [`Encoder::encode`](super::encode::Encoder::encode) its whole
    /// record.
    pub record: Vec<u8>,
    signature: Signature,
    /// Start and end offsets, in the text, of the keys that have been read of all objects that are not finished yet.
    /// Only strict splitters that read a [`NewForm`] fill this list.
    keys: Vec<(usize, usize)>,
}

/// The state of a splitter at some moment. A splitter that has to read a value in another way goes back to it.
#[derive(Clone, Copy)]
struct Checkpoint {
    /// The next byte to read.
    at: usize,
    /// Length of the skeleton.
    skeleton: usize,
    /// Length of the record.
    record: usize,
    /// [`Splitter::removed`].
    removed: usize,
}

/// The state of splitting one object. See the module's description.
pub(super) struct Splitter<'a> {
    text: &'a [u8],
    /// Offset of the next byte to read.
    at: usize,
    /// The template text, as far as it is known. Only a [`NewForm`] writes to it.
    skeleton: &'a mut Vec<u8>,
    record: &'a mut Vec<u8>,
    signature: &'a mut Signature,
    tables: &'a mut Tables,
    ids: &'a mut IdTable,
    shape: &'a Shape,
    /// The object's own id; 0 until it is found.
    id: u64,
    /// Bytes of the input that decoding will not give back: left-out entries and reduced users. The arithmetic wraps,
    /// because a reduced user can be longer than its input.
    removed: usize,
    keys: &'a mut Vec<(usize, usize)>,
    strict: bool,
}

impl<'a> Splitter<'a> {
    /// Prepares to split the object that begins at offset `at` of `text`. Empties `buffers`.
    pub fn new(
        text: &'a [u8],
        at: usize,
        buffers: &'a mut Buffers,
        tables: &'a mut Tables,
        ids: &'a mut IdTable,
        shape: &'a Shape,
        strict: bool,
    ) -> Self {
        let Buffers { skeleton, record, signature, keys } = buffers;
        skeleton.clear();
        record.clear();
        signature.truncate(0);
        keys.clear();
        Self { text, at, skeleton, record, signature, tables, ids, shape, id: 0, removed: 0, keys, strict }
    }

    /// Describes the object that began at `start`, after the splitter has reached its end.
    pub fn encoded(&self, start: usize) -> Encoded {
        Encoded { id: self.id, length: (self.at - start).wrapping_sub(self.removed), end: self.at }
    }

    #[inline(always)]
    fn peek(&self) -> Result<u8, NoTemplate> {
        self.text.get(self.at).copied().ok_or(NoTemplate)
    }

    #[inline(always)]
    fn expect(&mut self, byte: u8) -> Result<(), NoTemplate> {
        if self.text.get(self.at) == Some(&byte) {
            self.at += 1;
            Ok(())
        } else {
            Err(NoTemplate)
        }
    }

    /// Reads a string and returns the bytes between its quotes, escapes included.
    #[inline(always)]
    fn string(&mut self) -> Result<&'a [u8], NoTemplate> {
        self.expect(b'"')?;
        let start = self.at;
        let end = strict::string_end(self.text, start).ok_or(NoTemplate)?;
        self.at = end + 1;
        Ok(&self.text[start..end])
    }

    /// Reads the byte behind an array element: true for a comma, false for the closing bracket.
    #[inline(always)]
    fn another(&mut self) -> Result<bool, NoTemplate> {
        let next = self.peek()?;
        self.at += 1;
        match next {
            b',' => Ok(true),
            b']' => Ok(false),
            _ => Err(NoTemplate),
        }
    }

    #[inline(always)]
    fn checkpoint(&self) -> Checkpoint {
        let Self { at, removed, .. } = *self;
        Checkpoint { at, skeleton: self.skeleton.len(), record: self.record.len(), removed }
    }

    /// Goes back to `checkpoint`. The object's own [`id`](Self::id) stays if it was found since. The walk truncates the
    /// signature at the end of each object.
    fn roll_back(&mut self, checkpoint: Checkpoint) {
        self.at = checkpoint.at;
        self.skeleton.truncate(checkpoint.skeleton);
        self.record.truncate(checkpoint.record);
        self.removed = checkpoint.removed;
    }

    /// If the key's class says that the value from `start` to `at` is the object's id, and packing the value did not
    /// set [`id`](Self::id) yet, reads the id. That is the case for ids that are JSON numbers or have leading zeros.
    #[inline(always)]
    fn note_id(&mut self, class: KeyClass, start: usize) {
        if class.is(KeyClass::ID) && self.id == 0 {
            self.id = json::parse_id(&self.text[start..self.at]).unwrap_or(0);
        }
    }

    /// Skips a `user` object that is to be reduced to its id, and stores the id in [`id`](Self::id). Returns false, and
    /// skips nothing, when the value is no object or has no id.
    fn skip_bare_user(&mut self) -> Result<bool, NoTemplate> {
        let text = &self.text[self.at..];
        match text.first() {
            Some(b'{') => {}
            Some(b' ' | b'\t' | b'\n' | b'\r') | None => return Err(NoTemplate),
            Some(_) => return Ok(false),
        }
        // Most presences say nothing but the id.
        let bare = text.strip_prefix(b"{\"id\":\"").and_then(|rest| {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let id = parse_canonical(&rest[..digits]).filter(|_| rest[digits..].starts_with(b"\"}"))?;
            Some((id, br#"{"id":""}"#.len() + digits))
        });
        let (id, length) = match bare {
            Some(bare) => bare,
            None => {
                let mut cursor = json::Cursor::new(text);
                let user = cursor.value().map_err(|_| NoTemplate)?;
                (json::get(user, "id").and_then(json::parse_id).unwrap_or(0), user.len())
            }
        };
        if id == 0 {
            return Ok(false);
        }
        if self.id != 0 && self.id != id {
            return Err(NoTemplate);
        }
        self.id = id;
        self.at += length;
        let bare = br#"{"id":""}"#.len() + values::decimal_length(id);
        // The reduced user is at most as long as the input, except when the id was a JSON number, which gets quotes.
        self.removed = self.removed.wrapping_add(length.wrapping_sub(bare));
        Ok(true)
    }
}
