//! The entities of one array as they were at one moment.
//!
//! A [`FrozenEntities`] shares the chunks of a store, so making one copies no record, and later changes of the guild do
//! not show in it. It reads the records one after the other, and can stop, go on, and go back.

use super::{
    guild::Guild,
    kind::Kind,
    role_removal::DeletedRoles,
    store::{Chunk, Records, write_record},
};

/// See the module's description.
#[derive(Clone)]
pub(super) struct FrozenEntities {
    pub chunks: Vec<Chunk>,
    /// Number of entities.
    pub len: usize,
    /// Bytes of JSON text of all entities together, without the commas between them. Members are written with fewer
    /// bytes while deleted roles are being taken from them.
    pub text: usize,
    deleted_roles: DeletedRoles,
    /// The chunk, and the offset in it, of the next record.
    chunk: usize,
    at: usize,
}

impl FrozenEntities {
    /// The entities of a kind as they are now.
    pub fn new(guild: &Guild, kind: Kind) -> Self {
        let array = guild.array(kind);
        let deleted_roles = if kind == Kind::Members { guild.deleted_roles() } else { DeletedRoles::default() };
        Self {
            chunks: array.store.share_chunks(),
            len: array.store.len(),
            text: array.text,
            deleted_roles,
            chunk: 0,
            at: 0,
        }
    }

    /// The members that a client may see without the intent for members: the bot itself, `user`, and the users in voice
    /// channels.
    pub fn visible_members(guild: &Guild, user: Option<u64>) -> Self {
        let members = &guild.array(Kind::Members).store;
        let in_voice = guild.array(Kind::VoiceStates).store.iter().map(|(user, _)| user);
        let (mut chunk, mut len, mut text) = (Vec::new(), 0, 0);
        for id in user.into_iter().chain(in_voice.filter(|id| Some(*id) != user)) {
            let Some(location) = members.find(id) else { continue };
            let record = members.record(location);
            write_record(&mut chunk, id, record);
            len += 1;
            text += super::codec::text_length(record).unwrap_or(0);
        }
        let chunks = vec![Chunk::new(&chunk, 0)];
        Self { chunks, len, text, deleted_roles: guild.deleted_roles(), chunk: 0, at: 0 }
    }

    /// Empty records with these ids, `step` of them in each chunk. Serves as a list of ids.
    pub fn of_ids(ids: &[u64], step: usize) -> Self {
        let records = |ids: &[u64]| {
            let mut chunk = Vec::with_capacity(ids.len() * 9);
            ids.iter().for_each(|id| write_record(&mut chunk, *id, &[]));
            Chunk::new(&chunk, 0)
        };
        Self {
            chunks: ids.chunks(step).map(records).collect(),
            len: ids.len(),
            text: 0,
            deleted_roles: DeletedRoles::default(),
            chunk: 0,
            at: 0,
        }
    }

    /// Where the next record is, for [`seek`](Self::seek).
    pub fn position(&self) -> (usize, usize) {
        (self.chunk, self.at)
    }

    /// Goes to a position that [`position`](Self::position) returned.
    pub fn seek(&mut self, position: (usize, usize)) {
        (self.chunk, self.at) = position;
    }

    /// Calls `each` for one record after the other, with the id, the record, and the roles to leave out of it, until
    /// `each` returns false. Returns true when there are no more records.
    pub fn each(&mut self, mut each: impl FnMut(u64, &[u8], &DeletedRoles) -> bool) -> bool {
        while let Some(chunk) = self.chunks.get(self.chunk) {
            let mut records = Records::new(chunk, self.at);
            while let Some((id, record)) = records.next() {
                self.at = records.position();
                if !each(id, record, &self.deleted_roles) {
                    return false;
                }
            }
            self.chunk += 1;
            self.at = 0;
        }
        true
    }
}
