//! Events about channels and threads (docs: Gateway Events, Channels; Threads).

use super::{Change, Effect, Kind, Result};
use crate::{
    cache::codec::{
        decode::Decoder,
        kind::Slot,
        template::Name,
        values::{Reader, decimal_length, varint},
    },
    protocol::{edit, json},
};
use smallvec::SmallVec;

/// Types of channels whose newest "message" is their newest thread (docs: Channel, Channel Types).
const OF_THREADS: [&[u8]; 2] = [b"15", b"16"];
/// Type of the message that a thread starts with (docs: Message, Message Types).
const THREAD_STARTER: &[u8] = b"21";
/// Threads with a lower id were made before July 2022: their `message_count` ends at [`MOST_COUNTED`] (docs: Channel).
const COUNTS_ON: u64 = 236_563_200_000 << 22;
/// See [`COUNTS_ON`].
const MOST_COUNTED: u64 = 50;
/// The keys of a thread that count its messages: those that are there, and those that were ever sent.
const COUNTS: [&str; 2] = ["message_count", "total_message_sent"];

impl Change<'_, '_> {
    /// Its threads go with it.
    pub(super) fn channel_delete(&mut self) -> Result {
        let Some(id) = self.id("id") else { return Ok(Effect::Unknown) };
        self.guild.remove_threads(self.kit, |parent| parent == Some(id));
        Ok(self.guild.remove(self.kit, Kind::Channels, id).into())
    }

    /// Sets a key of a channel or thread. False: it is not known.
    fn set_key(&mut self, id: u64, key: &str, value: &[u8], only_if_there: bool) -> Result<bool> {
        for kind in [Kind::Channels, Kind::Threads] {
            let known = self.guild.edit(self.kit, kind, id, |channel| match json::get(channel, key) {
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

    /// Without a timestamp no message is pinned any more.
    pub(super) fn pins_update(&mut self) -> Result {
        let Some(id) = self.id("channel_id") else { return Ok(Effect::Unknown) };
        let (value, only_if_there) = match self.get("last_pin_timestamp") {
            Some(value) => (value, false),
            None => (&b"null"[..], true),
        };
        Ok(self.set_key(id, "last_pin_timestamp", value, only_if_there)?.into())
    }

    /// The event is about data that is no part of the channel object (docs: Change Log, Voice Channel Status). Where
    /// GUILD_CREATE had it nevertheless, it has to stay right.
    pub(super) fn channel_info(&mut self, key: &str) -> Result {
        let Some(id) = self.id("id") else { return Ok(Effect::Unknown) };
        let value = self.get(key).unwrap_or(b"null");
        let mut shown = false;
        let known = self.guild.edit(self.kit, Kind::Channels, id, |channel| {
            shown = json::get(channel, key).is_some();
            if shown { edit::with(channel, key, value).map(Some) } else { Ok(None) }
        })?;
        Ok(match (known, shown) {
            (false, _) => Effect::Unknown,
            (true, true) => Effect::Changed,
            (true, false) => Effect::Unchanged,
        })
    }

    /// Keeps `last_message_id` of the channel, and of a thread the counts of its messages but the first one, for which there
    /// are no other events. The message itself is no state, and clients whose snapshot counts it get it nevertheless.
    pub(super) fn message(&mut self) -> Result {
        let [channel, message, kind] = json::get_all(self.data, ["channel_id", "id", "type"]);
        if let (Some(channel), Some(message)) = (channel.and_then(json::parse_id), message.and_then(json::parse_id)) {
            let counts = message != channel && kind != Some(THREAD_STARTER);
            self.newest(channel, message, counts)?;
        }
        Ok(Effect::Unchanged)
    }

    /// `counts`: in a thread, it is counted.
    fn newest(&mut self, channel: u64, message: u64, counts: bool) -> Result<()> {
        for kind in [Kind::Channels, Kind::Threads] {
            let Some(place) = self.guild.array(kind).store.find(channel) else { continue };
            let counts = counts && kind == Kind::Threads;
            // Mostly each value follows another of as many digits, and its place in the record is known.
            let mut patches = SmallVec::<[(usize, SmallVec<[u8; 8]>); 3]>::new();
            {
                let record = self.guild.array(kind).store.record(place);
                let ids = self.guild.ids.borrow();
                Decoder { tables: self.kit.tables, ids: &ids }.named(record, |name, slot, packed| {
                    let new = match (name, slot) {
                        (Name::LastMessage, Slot::Snowflake) => {
                            let old = packed.try_into().map_or(0, u64::from_le_bytes);
                            let new = SmallVec::from_slice(&message.to_le_bytes());
                            Some(new).filter(|_| decimal_length(old) == decimal_length(message))
                        }
                        (Name::MessageCount | Name::TotalMessages, Slot::Integer) if counts => {
                            let old = Reader { bytes: packed }.varint().unwrap_or(0);
                            let new = one_more(channel, name == Name::MessageCount, old);
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
                patches.iter().for_each(|(at, new)| self.guild.patch(kind, place, *at, new));
                return Ok(());
            }
            self.guild.edit(self.kit, kind, channel, |text| {
                let text = edit::with(text, "last_message_id", format!("\"{message}\"").as_bytes())?;
                if counts { count(text, COUNTS, |key, old| one_more(channel, key == COUNTS[0], old)) } else { Ok(text) }
                    .map(Some)
            })?;
            return Ok(());
        }
        Ok(())
    }

    /// One message was deleted. Unless it is the one that a thread begins with, it does not count any more.
    pub(super) fn message_deleted(&mut self) -> Result {
        let [channel, message] = json::get_all(self.data, ["channel_id", "id"]);
        self.messages_gone(channel, message.into_iter().collect())
    }

    /// The same of several.
    pub(super) fn messages_deleted(&mut self) -> Result {
        let [channel, messages] = json::get_all(self.data, ["channel_id", "ids"]);
        self.messages_gone(channel, messages.map_or(Ok(Vec::new()), json::elements)?)
    }

    fn messages_gone(&mut self, channel: Option<&[u8]>, messages: Vec<&[u8]>) -> Result {
        let Some(channel) = channel.and_then(json::parse_id) else { return Ok(Effect::Unknown) };
        let gone = messages.into_iter().filter(|message| json::parse_id(message) != Some(channel)).count() as u64;
        self.guild.edit(self.kit, Kind::Threads, channel, |thread| {
            count(thread.to_vec(), [COUNTS[0]], |_, old| old.saturating_sub(gone)).map(Some)
        })?;
        Ok(Effect::Unchanged)
    }

    fn is_archived(&self) -> bool {
        self.get("thread_metadata").and_then(|metadata| json::get(metadata, "archived")) == Some(b"true")
    }

    /// Sent for new threads, and when the bot is added to an old one. A new one is the newest "message" of its forum.
    pub(super) fn thread_create(&mut self) -> Result {
        if self.is_archived() {
            return self.thread_update();
        }
        if self.get("newly_created") == Some(b"true")
            && let (Some(id), Some(parent)) = (self.id("id"), self.id("parent_id"))
        {
            let forum = self.guild.read(self.kit, Kind::Channels, parent).and_then(|parent| json::get(parent, "type"));
            if forum.is_some_and(|kind| OF_THREADS.contains(&kind)) {
                self.newest(parent, id, false)?;
            }
        }
        self.thread(self.data)
    }

    /// A thread, with the bot's own membership as GUILD_CREATE has it.
    fn thread(&mut self, thread: &[u8]) -> Result {
        match json::get(thread, "member").filter(|member| member.starts_with(b"{")) {
            Some(member) => {
                let id = edit::id_at(thread, &["id"]).unwrap_or(0);
                let old = self.guild.read(self.kit, Kind::Threads, id).and_then(|old| json::get(old, "member"));
                let member = as_in_guild_create(old, member)?;
                self.merge_entity(Kind::Threads, &edit::with(thread, "member", &member)?, &["newly_created"])
            }
            None => self.merge_entity(Kind::Threads, thread, &["newly_created"]),
        }
    }

    /// GUILD_CREATE lists active threads only.
    pub(super) fn thread_update(&mut self) -> Result {
        if self.is_archived() {
            if let Some(id) = self.id("id") {
                self.guild.remove(self.kit, Kind::Threads, id);
            }
            return Ok(Effect::Changed);
        }
        self.thread(self.data)
    }

    /// The bot gained access to channels: their active threads, or those of the whole guild.
    pub(super) fn thread_list_sync(&mut self) -> Result {
        let parents: Option<Vec<u64>> = match self.get("channel_ids") {
            Some(ids) => Some(json::elements(ids)?.into_iter().filter_map(json::parse_id).collect()),
            None => None,
        };
        let threads = self.elements("threads")?;
        let members = self.elements("members")?;
        self.guild.remove_threads(self.kit, |parent| match (&parents, parent) {
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

    pub(super) fn thread_member_update(&mut self) -> Result {
        Ok(self.own_thread_member(self.data)?.into())
    }

    /// The bot's own membership stands in the thread's `member`. False: the thread is not known.
    fn own_thread_member(&mut self, member: &[u8]) -> Result<bool> {
        let Some(id) = edit::id_at(member, &["id"]) else { return Ok(false) };
        self.guild.edit(self.kit, Kind::Threads, id, |thread| set_member(thread, member).map(Some))
    }

    pub(super) fn thread_members_update(&mut self) -> Result {
        let Some(id) = self.id("id") else { return Ok(Effect::Unknown) };
        let own = self.kit.user;
        let count = self.get("member_count");
        let added = self.elements("added_members")?;
        let joined =
            added.into_iter().find(|member| edit::id_at(member, &["user_id"]).is_some_and(|id| Some(id) == own));
        let removed = self.elements("removed_member_ids")?;
        let left = removed.into_iter().any(|id| json::parse_id(id).is_some_and(|id| Some(id) == own));
        let known = self.guild.edit(self.kit, Kind::Threads, id, |thread| {
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

/// A count of a thread's messages after one more. `is_bounded`: it is the one that ends early in old threads.
fn one_more(thread: u64, is_bounded: bool, old: u64) -> u64 {
    if is_bounded && thread < COUNTS_ON && old >= MOST_COUNTED { old } else { old.saturating_add(1) }
}

/// The text of an object with new numbers at these keys, where it has some.
fn count<const N: usize>(mut text: Vec<u8>, keys: [&str; N], new: impl Fn(&str, u64) -> u64) -> Result<Vec<u8>> {
    for key in keys {
        if let Some(old) = json::get(&text, key).filter(|old| !old.starts_with(b"\"")).and_then(json::parse_id) {
            text = edit::with(&text, key, itoa::Buffer::new().format(new(key, old)).as_bytes())?;
        }
    }
    Ok(text)
}

fn set_member(thread: &[u8], member: &[u8]) -> Result<Vec<u8>> {
    let old = json::get(thread, "member");
    edit::with(thread, "member", &as_in_guild_create(old, member)?)
}

/// A thread member without what only events have. GUILD_CREATE leaves out the ids too (docs: Channel, Thread Member
/// Structure), unless it has shown otherwise.
fn as_in_guild_create(old: Option<&[u8]>, member: &[u8]) -> Result<Vec<u8>> {
    const OF_EVENTS: [&str; 5] = ["guild_id", "member", "presence", "id", "user_id"];
    let with_ids = old.is_some_and(|old| json::get(old, "id").is_some());
    edit::without(member, if with_ids { &OF_EVENTS[..3] } else { &OF_EVENTS })
}
