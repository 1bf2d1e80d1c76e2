//! Reading and changing single entities of a guild.
//!
//! Every change keeps three things in step: the record in the store, the bytes of text of the array, and the totals of
//! the cache.

use super::{Array, Context, Guild};
use crate::{
    cache::{
        codec::{Decoder, EncodeError, Encoded, Shape, text_length},
        kind::Kind,
        store::Location,
    },
    protocol::{edit, json::Malformed},
};

impl Guild {
    /// The JSON text of an entity; `None` when the cache does not have it. The text is in the context's scratch buffer.
    pub fn read<'c>(&self, context: &'c mut Context<'_>, kind: Kind, id: u64) -> Option<&'c [u8]> {
        let location = self.array(kind).store.find(id)?;
        self.read_at(context, kind, id, location)?;
        Some(context.scratch)
    }

    /// Decodes the entity at a location into the scratch buffer.
    fn read_at(&self, context: &mut Context<'_>, kind: Kind, id: u64, location: Location) -> Option<()> {
        context.scratch.clear();
        let ids = self.ids.borrow();
        let decoder = Decoder { tables: &context.tables, ids: &ids };
        decoder.decode(id, self.array(kind).store.record(location), context.scratch)
    }

    /// Encodes the object that begins at offset `at` of `text`. The record is in the context's encoder.
    pub fn encode(
        &self,
        context: &mut Context<'_>,
        shape: &Shape,
        text: &[u8],
        at: usize,
    ) -> Result<Encoded, EncodeError> {
        context.encoder.encode(&mut context.tables, &mut self.ids.borrow_mut(), shape, text, at)
    }

    /// Encodes a text that is in plain spelling because it was made of texts that are. Saves the check.
    fn encode_plain(&self, context: &mut Context<'_>, shape: &Shape, text: &[u8]) -> Result<Encoded, EncodeError> {
        let strict = std::mem::replace(&mut context.encoder.strict, false);
        let encoded = self.encode(context, shape, text, 0);
        context.encoder.strict = strict;
        encoded
    }

    /// Stores the record that was just encoded: in place of the entity with the same id, or at the end.
    pub fn store_encoded(&mut self, context: &mut Context<'_>, kind: Kind, encoded: Encoded) {
        match self.array(kind).store.find(encoded.id) {
            Some(location) => self.store_at(context, kind, encoded, location),
            None => {
                let array = self.array_mut(kind);
                array.store.push(encoded.id, context.encoder.record());
                array.text += encoded.length;
                context.totals[kind as usize] += 1;
            }
        }
    }

    fn store_at(&mut self, context: &mut Context<'_>, kind: Kind, encoded: Encoded, location: Location) {
        let old = self.text_length(kind, location);
        let array = self.array_mut(kind);
        array.store.replace(location, context.encoder.record());
        array.text = array.text + encoded.length - old;
    }

    fn text_length(&self, kind: Kind, location: Location) -> usize {
        text_length(self.array(kind).store.record(location)).unwrap_or(0)
    }

    /// Stores an entity, in place of the one with the same id if there is one, unless the flags say that it is not
    /// cached. Returns the entity's id; `None`, and nothing stored, when it has none.
    pub fn set(
        &mut self,
        context: &mut Context<'_>,
        kind: Kind,
        shape: &Shape,
        text: &[u8],
    ) -> Result<Option<u64>, EncodeError> {
        let encoded = self.encode(context, shape, text, 0)?;
        if encoded.id == 0 {
            return Ok(None);
        }
        if self.is_cached(context, kind, encoded.id) {
            self.store_encoded(context, kind, encoded);
        }
        Ok(Some(encoded.id))
    }

    /// As [`set`](Self::set), but merges the entity over the stored one: keys that only the stored one has stay.
    pub fn merge(
        &mut self,
        context: &mut Context<'_>,
        kind: Kind,
        shape: &Shape,
        text: &[u8],
    ) -> Result<Option<u64>, EncodeError> {
        let new = self.encode(context, shape, text, 0)?;
        if new.id == 0 {
            return Ok(None);
        }
        if self.is_cached(context, kind, new.id) {
            match self.array(kind).store.find(new.id) {
                Some(location) => self.merge_at(context, kind, shape, text, new, location)?,
                None => self.store_encoded(context, kind, new),
            }
        }
        Ok(Some(new.id))
    }

    /// As [`merge`](Self::merge), but only if the cache has the entity already. Returns whether it has.
    pub fn merge_if_known(
        &mut self,
        context: &mut Context<'_>,
        kind: Kind,
        shape: &Shape,
        text: &[u8],
    ) -> Result<bool, EncodeError> {
        let new = self.encode(context, shape, text, 0)?;
        let Some(location) = self.array(kind).store.find(new.id) else { return Ok(false) };
        self.merge_at(context, kind, shape, text, new, location)?;
        Ok(true)
    }

    /// Merges the entity that was just encoded from `text` over the one at `location`: as records if the codec can,
    /// else as texts.
    fn merge_at(
        &mut self,
        context: &mut Context<'_>,
        kind: Kind,
        shape: &Shape,
        text: &[u8],
        new: Encoded,
        location: Location,
    ) -> Result<(), EncodeError> {
        let old = self.array(kind).store.record(location);
        let merged = context.encoder.merge(&mut context.tables, &self.ids.borrow(), new, old);
        if let Some(merged) = merged {
            self.store_at(context, kind, merged, location);
        } else if self.read_at(context, kind, new.id, location).is_some() {
            let merged = edit::merge(context.scratch, text, shape.leave_out)?;
            let merged = self.encode_plain(context, &Shape { leave_out: &[], ..*shape }, &merged)?;
            self.store_at(context, kind, Encoded { id: new.id, ..merged }, location);
        }
        Ok(())
    }

    /// Changes the text of an entity. `change` gets the text and returns the new one, which has to be in plain spelling
    /// too, or `None` to leave the entity as it is. Returns whether the cache has the entity.
    pub fn edit(
        &mut self,
        context: &mut Context<'_>,
        kind: Kind,
        id: u64,
        change: impl FnOnce(&[u8]) -> Result<Option<Vec<u8>>, Malformed>,
    ) -> Result<bool, EncodeError> {
        let Some(location) = self.array(kind).store.find(id) else { return Ok(false) };
        if self.read_at(context, kind, id, location).is_none() {
            return Ok(false);
        }
        if let Some(text) = change(context.scratch)? {
            let shape = kind.shape(&context.flags);
            let encoded = self.encode_plain(context, &shape, &text)?;
            self.store_at(context, kind, Encoded { id, ..encoded }, location);
        }
        Ok(true)
    }

    /// Overwrites packed bytes of an entity. The entity's text must keep its length.
    pub fn overwrite(&mut self, kind: Kind, location: Location, at: usize, bytes: &[u8]) {
        self.array_mut(kind).store.overwrite(location, at, bytes);
    }

    /// Removes an entity. Returns whether the cache had it.
    pub fn remove(&mut self, context: &mut Context<'_>, kind: Kind, id: u64) -> bool {
        let Some(location) = self.array(kind).store.find(id) else { return false };
        let length = self.text_length(kind, location);
        let array = self.array_mut(kind);
        array.store.remove(location);
        array.text -= length;
        context.totals[kind as usize] -= 1;
        true
    }

    /// Removes all entities of a kind.
    pub fn clear(&mut self, context: &mut Context<'_>, kind: Kind) {
        context.totals[kind as usize] -= self.count(kind);
        *self.array_mut(kind) = Array::default();
    }

    /// Removes the threads for whose parent `matches` is true. It gets the id of the parent channel, if the thread has
    /// one.
    pub fn remove_threads(&mut self, context: &mut Context<'_>, matches: impl Fn(Option<u64>) -> bool) {
        let mut removed = Vec::new();
        {
            let ids = self.ids.borrow();
            let decoder = Decoder { tables: &context.tables, ids: &ids };
            for (id, record) in self.array(Kind::Threads).store.iter() {
                context.scratch.clear();
                let decoded = decoder.decode(id, record, context.scratch);
                if decoded.is_some() && matches(edit::id_at(context.scratch, &["parent_id"])) {
                    removed.push(id);
                }
            }
        }
        for id in removed {
            self.remove(context, Kind::Threads, id);
        }
    }
}
