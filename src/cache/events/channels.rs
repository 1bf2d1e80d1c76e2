//! Events about channels and threads (docs: Gateway Events, Channels; Threads).

use super::{Change, Effect, Kind, Result};
use crate::{
    cache::codec::{Decoder, KnownKey, Reader, Slot, decimal_length, varint},
    protocol::{
        edit,
        json::{self, Malformed},
    },
};
use smallvec::SmallVec;

/// The `type` of forum and media channels. In `last_message_id` they have the id of their newest thread (docs: Channel,
/// Channel Types).
const FORUM_TYPES: [&[u8]; 2] = [b"15", b"16"];
/// The `type` of the message that a thread starts with (docs: Message, Message Types).
const THREAD_STARTER: &[u8] = b"21";
/// Threads with a lower id were made before the first of July 2022. Their `message_count` stops at [`OLD_COUNT_LIMIT`]
/// (docs: Channel).
const FIRST_UNLIMITED_THREAD: u64 = 236_563_200_000 << 22;
/// Highest `message_count` of an old thread (see [`FIRST_UNLIMITED_THREAD`]).
const OLD_COUNT_LIMIT: u64 = 50;
/// The keys of a thread that count its messages: those that exist, and all that were ever sent.
const COUNT_KEYS: [&str; 2] = ["message_count", "total_message_sent"];

impl Change<'_, '_> {
    /// CHANNEL_DELETE. Removes the channel and its threads.
    pub(super) fn channel_delete(&mut self) -> Result {
        let Some(id) = self.id("id") else { return Ok(Effect::Unknown) };
        self.guild.remove_threads(self.context, |parent| parent == Some(id));
        Ok(self.guild.remove(self.context, Kind::Channels, id).into())
    }

    /// Sets a key of a channel or thread, or, with `only_if_there`, only if it has the key already. Returns whether the
    /// cache has the channel.
    fn set_key(&mut self, id: u64, key: &str, value: &[u8], only_if_there: bool) -> Result<bool> {
        for kind in [Kind::Channels, Kind::Threads] {
            let known = self.guild.edit(self.context, kind, id, |channel| match json::get(channel, key) {
                Some(old) if old == value => Ok(None),
                None if only_if_there => Ok(None),
                _ => edit::with(channel, key, value).map(Some),
            })?;
            if known {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// CHANNEL_PINS_UPDATE. It has no timestamp when no message is pinned any more.
    pub(super) fn pins_update(&mut self) -> Result {
        let Some(id) = self.id("channel_id") else { return Ok(Effect::Unknown) };
        let (value, only_if_there) = match self.get("last_pin_timestamp") {
            Some(value) => (value, false),
            None => (&b"null"[..], true),
        };
        Ok(self.set_key(id, "last_pin_timestamp", value, only_if_there)?.into())
    }

    /// VOICE_CHANNEL_STATUS_UPDATE and VOICE_CHANNEL_START_TIME_UPDATE. The documented channel object does not have
    /// `key` (docs: Change Log, Voice Channel Status). If GUILD_CREATE had it, it is kept current.
    pub(super) fn channel_info(&mut self, key: &str) -> Result {
        let Some(id) = self.id("id") else { return Ok(Effect::Unknown) };
        let value = self.get(key).unwrap_or(b"null");
        let mut shown = false;
        let known = self.guild.edit(self.context, Kind::Channels, id, |channel| {
            shown = json::get(channel, key).is_some();
            if shown { edit::with(channel, key, value).map(Some) } else { Ok(None) }
        })?;
        Ok(match (known, shown) {
            (false, _) => Effect::Unknown,
            (true, true) => Effect::Changed,
            (true, false) => Effect::Unchanged,
        })
    }

    /// MESSAGE_CREATE. Sets `last_message_id` of the channel, and raises the counts of a thread. The message that a
    /// thread starts with is not counted. The cache does not store the message, so a client must get the event even if
    /// its snapshot counts it.
    pub(super) fn message_create(&mut self) -> Result {
        let [channel, message, kind] = json::get_all(self.data, ["channel_id", "id", "type"]);
        if let (Some(channel), Some(message)) = (channel.and_then(json::parse_id), message.and_then(json::parse_id)) {
            let counts = message != channel && kind != Some(THREAD_STARTER);
            self.set_last_message(channel, message, counts)?;
        }
        Ok(Effect::Unchanged)
    }

    /// Sets `last_message_id` of a channel or thread. With `counts`, also raises the counts of a thread by one.
    ///
    /// Messages are frequent, so the packed values are overwritten in place when that keeps the length of the record
    /// and of its text. Otherwise the text is edited.
    fn set_last_message(&mut self, channel: u64, message: u64, counts: bool) -> Result<()> {
        for kind in [Kind::Channels, Kind::Threads] {
            let Some(location) = self.guild.array(kind).store.find(channel) else { continue };
            let counts = counts && kind == Kind::Threads;
            // Offsets in the record, and the bytes to write there.
            let mut patches = SmallVec::<[(usize, SmallVec<[u8; 8]>); 3]>::new();
            {
                let record = self.guild.array(kind).store.record(location);
                let ids = self.guild.ids.borrow();
                Decoder { tables: &self.context.tables, ids: &ids }.for_each_known_key(record, |key, slot, packed| {
                    let new = match (key, slot) {
                        (KnownKey::LastMessageId, Slot::Snowflake) => {
                            let old = packed.try_into().map_or(0, u64::from_le_bytes);
                            let new = SmallVec::from_slice(&message.to_le_bytes());
                            Some(new).filter(|_| decimal_length(old) == decimal_length(message))
                        }
                        (KnownKey::MessageCount | KnownKey::TotalMessageSent, Slot::Integer) if counts => {
                            let old = Reader { bytes: packed }.varint().unwrap_or(0);
                            let new = incremented(channel, key == KnownKey::MessageCount, old);
                            let (bytes, length) = varint(new);
                            Some(SmallVec::from_slice(&bytes[..length]))
                                .filter(|_| length == packed.len() && decimal_length(old) == decimal_length(new))
                        }
                        _ => None,
                    };
                    patches.extend(new.map(|new| (packed.as_ptr() as usize - record.as_ptr() as usize, new)));
                });
            }
            if patches.len() == if counts { 3 } else { 1 } {
                patches.iter().for_each(|(at, new)| self.guild.overwrite(kind, location, *at, new));
                return Ok(());
            }
            self.guild.edit(self.context, kind, channel, |text| {
                let text = edit::with(text, "last_message_id", format!("\"{message}\"").as_bytes())?;
                if counts {
                    edit_counts(text, COUNT_KEYS, |key, old| incremented(channel, key == COUNT_KEYS[0], old))
                } else {
                    Ok(text)
                }
                .map(Some)
            })?;
            return Ok(());
        }
        Ok(())
    }

    /// MESSAGE_DELETE. Lowers `message_count` of a thread, except for the message that the thread starts with.
    pub(super) fn message_delete(&mut self) -> Result {
        let [channel, message] = json::get_all(self.data, ["channel_id", "id"]);
        self.messages_deleted(channel, message.into_iter().collect())
    }

    /// MESSAGE_DELETE_BULK: the same for several messages.
    pub(super) fn message_delete_bulk(&mut self) -> Result {
        let [channel, messages] = json::get_all(self.data, ["channel_id", "ids"]);
        self.messages_deleted(channel, messages.map_or(Ok(Vec::new()), json::elements)?)
    }

    /// Lowers `message_count` of the thread with the id `channel` by the number of `messages`, without the starting
    /// message, which has the id of the thread.
    fn messages_deleted(&mut self, channel: Option<&[u8]>, messages: Vec<&[u8]>) -> Result {
        let Some(channel) = channel.and_then(json::parse_id) else { return Ok(Effect::Unknown) };
        let deleted = messages.into_iter().filter(|message| json::parse_id(message) != Some(channel)).count() as u64;
        self.guild.edit(self.context, Kind::Threads, channel, |thread| {
            edit_counts(thread.to_vec(), [COUNT_KEYS[0]], |_, old| old.saturating_sub(deleted)).map(Some)
        })?;
        Ok(Effect::Unchanged)
    }

    /// Whether the event's thread is archived.
    fn is_archived(&self) -> bool {
        self.get("thread_metadata").and_then(|metadata| json::get(metadata, "archived")) == Some(b"true")
    }

    /// THREAD_CREATE. Discord sends it for new threads, and when the bot is added to an existing private thread. A new
    /// thread in a forum becomes the forum's `last_message_id`.
    pub(super) fn thread_create(&mut self) -> Result {
        if self.is_archived() {
            return self.thread_update();
        }
        if self.get("newly_created") == Some(b"true")
            && let (Some(id), Some(parent)) = (self.id("id"), self.id("parent_id"))
        {
            let forum =
                self.guild.read(self.context, Kind::Channels, parent).and_then(|parent| json::get(parent, "type"));
            if forum.is_some_and(|kind| FORUM_TYPES.contains(&kind)) {
                self.set_last_message(parent, id, false)?;
            }
        }
        self.thread(self.data)
    }

    /// Merges a thread over the stored one. The bot's own thread member gets the form that it has in GUILD_CREATE.
    fn thread(&mut self, thread: &[u8]) -> Result {
        match json::get(thread, "member").filter(|member| member.starts_with(b"{")) {
            Some(member) => {
                let id = edit::id_at(thread, &["id"]).unwrap_or(0);
                let old = self.guild.read(self.context, Kind::Threads, id).and_then(|old| json::get(old, "member"));
                let member = as_in_guild_create(old, member)?;
                self.merge_entity(Kind::Threads, &edit::with(thread, "member", &member)?, &["newly_created"])
            }
            None => self.merge_entity(Kind::Threads, thread, &["newly_created"]),
        }
    }

    /// THREAD_UPDATE. An archived thread is removed, because GUILD_CREATE lists active threads only.
    pub(super) fn thread_update(&mut self) -> Result {
        if self.is_archived() {
            if let Some(id) = self.id("id") {
                self.guild.remove(self.context, Kind::Threads, id);
            }
            return Ok(Effect::Changed);
        }
        self.thread(self.data)
    }

    /// THREAD_LIST_SYNC. The bot has got access to the channels of `channel_ids`, or without that key to the whole
    /// guild. The event has all active threads there, which replace the stored ones.
    pub(super) fn thread_list_sync(&mut self) -> Result {
        let parents: Option<Vec<u64>> = match self.get("channel_ids") {
            Some(ids) => Some(json::elements(ids)?.into_iter().filter_map(json::parse_id).collect()),
            None => None,
        };
        let threads = self.elements("threads")?;
        let members = self.elements("members")?;
        self.guild.remove_threads(self.context, |parent| match (&parents, parent) {
            (Some(parents), Some(parent)) => parents.contains(&parent),
            (Some(_), None) => false,
            (None, _) => true,
        });
        for thread in threads {
            self.thread(thread)?;
        }
        for member in members {
            self.own_thread_member(member)?;
        }
        Ok(Effect::Changed)
    }

    /// THREAD_MEMBER_UPDATE.
    pub(super) fn thread_member_update(&mut self) -> Result {
        Ok(self.own_thread_member(self.data)?.into())
    }

    /// Sets `member` of a thread, which is the bot's own thread member. Returns whether the cache has the thread.
    fn own_thread_member(&mut self, member: &[u8]) -> Result<bool> {
        let Some(id) = edit::id_at(member, &["id"]) else { return Ok(false) };
        self.guild.edit(self.context, Kind::Threads, id, |thread| set_member(thread, member).map(Some))
    }

    /// THREAD_MEMBERS_UPDATE. Sets `member_count`, and sets or removes `member` when the bot itself has joined or left.
    pub(super) fn thread_members_update(&mut self) -> Result {
        let Some(id) = self.id("id") else { return Ok(Effect::Unknown) };
        let own = self.context.user;
        let count = self.get("member_count");
        let added = self.elements("added_members")?;
        let joined =
            added.into_iter().find(|member| edit::id_at(member, &["user_id"]).is_some_and(|id| Some(id) == own));
        let removed = self.elements("removed_member_ids")?;
        let left = removed.into_iter().any(|id| json::parse_id(id).is_some_and(|id| Some(id) == own));
        let known = self.guild.edit(self.context, Kind::Threads, id, |thread| {
            let mut text = thread.to_vec();
            if let Some(count) = count {
                text = edit::with(&text, "member_count", count)?;
            }
            if let Some(member) = joined {
                text = set_member(&text, member)?;
            }
            if left {
                text = edit::without(&text, &["member"])?;
            }
            Ok(Some(text))
        })?;
        Ok(known.into())
    }
}

/// A count of a thread after one more message. `is_message_count` says that it is `message_count`, which in old threads
/// stays at [`OLD_COUNT_LIMIT`] once it is that high.
fn incremented(thread: u64, is_message_count: bool, old: u64) -> u64 {
    if is_message_count && thread < FIRST_UNLIMITED_THREAD && old >= OLD_COUNT_LIMIT {
        old
    } else {
        old.saturating_add(1)
    }
}

/// The text of an object in which the numbers at these keys are replaced by what `new` makes of them. Keys that are
/// missing, or whose values are no unsigned integers, stay as they are.
fn edit_counts<const N: usize>(
    mut text: Vec<u8>,
    keys: [&str; N],
    new: impl Fn(&str, u64) -> u64,
) -> std::result::Result<Vec<u8>, Malformed> {
    for key in keys {
        if let Some(old) = json::get(&text, key).filter(|old| !old.starts_with(b"\"")).and_then(json::parse_id) {
            text = edit::with(&text, key, itoa::Buffer::new().format(new(key, old)).as_bytes())?;
        }
    }
    Ok(text)
}

/// The text of a thread with this thread member.
fn set_member(thread: &[u8], member: &[u8]) -> std::result::Result<Vec<u8>, Malformed> {
    let old = json::get(thread, "member");
    edit::with(thread, "member", &as_in_guild_create(old, member)?)
}

/// The text of a thread member in the form of GUILD_CREATE, without the keys that only events have. GUILD_CREATE leaves
/// out the ids too (docs: Channel, Thread Member Structure). If `old`, the stored thread member, has an id, they are
/// kept.
fn as_in_guild_create(old: Option<&[u8]>, member: &[u8]) -> std::result::Result<Vec<u8>, Malformed> {
    const EVENT_KEYS: [&str; 5] = ["guild_id", "member", "presence", "id", "user_id"];
    let with_ids = old.is_some_and(|old| json::get(old, "id").is_some());
    edit::without(member, if with_ids { &EVENT_KEYS[..3] } else { &EVENT_KEYS })
}
