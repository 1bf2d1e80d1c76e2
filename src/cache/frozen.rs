//! The entities of one array as they were at one moment, with what it takes to write their texts.
//!
//! Later changes of the guild do not show in them.

use super::{
    codec,
    guild::Guild,
    kind::Kind,
    role_removal::DeletedRoles,
    store::{Chunk, SharedRecords, write_record},
};

/// See the module's description.
pub(super) struct FrozenEntities {
    records: SharedRecords,
    /// Number of entities.
    pub len: usize,
    /// Bytes of JSON text of all entities together, without the commas between them. Members are written with fewer
    /// bytes while deleted roles are being taken from them.
    pub text: usize,
    /// The roles to leave out of members.
    deleted_roles: DeletedRoles,
}

impl FrozenEntities {
    /// The entities of a kind as they are now.
    pub fn new(guild: &Guild, kind: Kind) -> Self {
        let array = guild.array(kind);
        let deleted_roles = if kind == Kind::Members { guild.deleted_roles() } else { DeletedRoles::default() };
        Self { records: SharedRecords::of(&array.store), len: array.store.len(), text: array.text, deleted_roles }
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
            text += codec::text_length(record).unwrap_or(0);
        }
        let records = SharedRecords::of_chunk(Chunk::new(&chunk, 0));
        Self { records, len, text, deleted_roles: guild.deleted_roles() }
    }

    /// Calls `each` for one entity after the other, with the id, the record, and the roles to leave out of the text,
    /// until `each` returns false. The next call goes on behind the last entity.
    pub fn each(&mut self, mut each: impl FnMut(u64, &[u8], &DeletedRoles) -> bool) {
        let Self { records, deleted_roles, .. } = self;
        records.each(|id, record| each(id, record, deleted_roles));
    }
}
