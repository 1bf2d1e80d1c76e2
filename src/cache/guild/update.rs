//! Replacing whole arrays of a guild, and applying GUILD_UPDATE (docs: Gateway Events, Guild Update).

use super::{Context, Guild, create::fill_array};
use crate::{
    cache::{
        codec::{Decoder, EncodeError},
        kind::Kind,
    },
    protocol::{
        edit,
        json::{self, Malformed},
    },
};

/// Checks that `array` is a well-formed JSON array of objects.
fn check_array(array: &[u8]) -> Result<(), Malformed> {
    let valid = serde_json::from_slice::<serde::de::IgnoredAny>(array).is_ok()
        && json::elements(array)?.iter().all(|element| element.starts_with(b"{"));
    if valid { Ok(()) } else { Err(Malformed { what: "expected an array of objects", at: 0 }) }
}

impl Guild {
    /// Replaces all entities of a kind by those of a JSON array. When the array is malformed, nothing changes.
    pub fn replace_all(&mut self, context: &mut Context<'_>, kind: Kind, array: &[u8]) -> Result<(), EncodeError> {
        check_array(array)?;
        self.replace_with_checked(context, kind, array)
    }

    fn replace_with_checked(&mut self, context: &mut Context<'_>, kind: Kind, array: &[u8]) -> Result<(), EncodeError> {
        if !kind.is_on(&context.flags) {
            return Ok(());
        }
        fill_array(self, context, kind, array)?;
        self.array_mut(kind).store.shrink_to_fit();
        Ok(())
    }

    /// Whether a JSON array has exactly the text of the stored entities of a kind.
    fn equals_stored(&self, context: &mut Context<'_>, kind: Kind, array: &[u8]) -> bool {
        let stored = self.array(kind);
        let count = stored.store.len();
        // The text has two brackets, and a comma between any two entities.
        if !kind.is_on(&context.flags) || array.len() != stored.text + count.saturating_sub(1) + 2 {
            return false;
        }
        let ids = self.ids.borrow();
        let decoder = Decoder { tables: &context.tables, ids: &ids };
        let mut rest = array;
        for (index, (id, record)) in stored.store.iter().enumerate() {
            context.scratch.clear();
            context.scratch.push(if index == 0 { b'[' } else { b',' });
            let same = decoder
                .decode(id, record, context.scratch)
                .and_then(|()| rest.strip_prefix(context.scratch.as_slice()));
            let Some(behind) = same else { return false };
            rest = behind;
        }
        rest == if count == 0 { &b"[]"[..] } else { b"]" }
    }

    /// Applies the data of a GUILD_UPDATE, which has to be in plain spelling. The fields that it names replace the old
    /// ones, and its roles, emojis and stickers replace all of theirs. When a part of it is malformed, nothing changes.
    pub fn update(&mut self, context: &mut Context<'_>, data: &[u8]) -> Result<(), EncodeError> {
        let Some(old) = self.fields_text(&context.tables) else { return Ok(()) };
        let mut fields = edit::ObjectWriter::new(data.len());
        let mut arrays = Vec::new();
        json::for_each_entry(data, |key, value| {
            match Kind::from_name(key) {
                Some(kind) if value.starts_with(b"[") => {
                    if kind.is_of_guild_object() {
                        arrays.push((kind, value));
                        fields.entry(key, b"[]");
                    }
                }
                // The cache keeps the first three current by other events; GUILD_CREATE does not have the last one.
                _ if matches!(key, b"unavailable" | b"member_count" | b"large" | b"guild_id") => {}
                _ => fields.entry(key, value),
            }
            true
        })?;
        let merged = edit::merge(&old, &fields.finish(), &[])?;
        if serde_json::from_slice::<serde::de::IgnoredAny>(&merged).is_err() {
            return Err(Malformed { what: "not JSON", at: 0 }.into());
        }
        // Discord repeats all roles, emojis and stickers in every GUILD_UPDATE, and mostly they are as before.
        arrays.retain(|(kind, array)| !self.equals_stored(context, *kind, array));
        for (_, array) in &arrays {
            check_array(array)?;
        }
        for (kind, array) in arrays {
            self.replace_with_checked(context, kind, array)?;
        }
        self.set_fields(context, &merged).map(drop)
    }
}
