//! The cache of a shard, which may lag a few events behind the shard's log.
//!
//! Most events change one small thing, such as a presence or the newest message of a channel. If the cache applied each
//! such event at once, its code and tables would no longer be in the CPU's caches each time. So these events wait in
//! the log, where they are in any case, and the cache applies several at a time, after the clients have got them.
//!
//! Promises: a reader of the cache always sees every event of the log, because [`LazyCache::up_to_date`] applies the
//! waiting ones and is the only access. At most [`MAX_BEHIND`] events wait, and none longer than
//! [`MAINTENANCE_INTERVAL`](super::time::MAINTENANCE_INTERVAL). Never: holds an event itself.

use crate::{
    cache::{Cache, Outcome},
    log::Log,
    protocol::event::EventKind,
};

/// The most log entries that the cache can be behind, with those that do not change it.
const MAX_BEHIND: u64 = 64;
/// [`LazyCache::apply_deferred`] applies the waiting events when the cache is at least this many log entries behind.
const MIN_BATCH: u64 = 16;

/// Returns whether an event of this kind can wait. These kinds are frequent, and their events are small.
fn can_wait(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::PresenceUpdate
            | EventKind::MessageCreate
            | EventKind::MessageDelete
            | EventKind::MessageDeleteBulk
            | EventKind::GuildMemberUpdate
            | EventKind::VoiceStateUpdate
            | EventKind::GuildMemberAdd
            | EventKind::GuildMemberRemove
    )
}

/// Returns whether the error with this number, from 1, is logged: each of the first eight, then every power of two.
fn should_log(number: u64) -> bool {
    number <= 8 || number.is_power_of_two()
}

/// See the module's description.
pub(super) struct LazyCache {
    /// Id of the shard, for the log.
    shard: u32,
    cache: Cache,
    /// Log position of the oldest event that waits. From there on, every event in the log whose kind can wait does
    /// wait.
    behind: Option<u64>,
    /// The most log entries that the cache can be behind.
    most: u64,
}

impl LazyCache {
    /// Wraps a cache that is up to date. The log keeps its newest `kept` events, as long as [`Log::keeps_newest`].
    pub fn new(shard: u32, cache: Cache, kept: usize) -> Self {
        Self { shard, cache, behind: None, most: MAX_BEHIND.min(kept as u64) }
    }

    /// Sets how many log entries the cache can be behind, because the log keeps its newest `kept` events from now on.
    /// This call does not change the log. The caller calls it when no event waits.
    pub fn set_kept(&mut self, kept: usize) {
        self.most = MAX_BEHIND.min(kept as u64);
    }

    /// Returns whether an event of this kind can change the cache.
    pub fn wants(&self, kind: EventKind) -> bool {
        self.cache.wants(kind)
    }

    /// The cache, after it has applied every event that is in the log.
    pub fn up_to_date(&mut self, log: &Log) -> &mut Cache {
        if let Some(position) = self.behind {
            let waiting = log.read(position).expect("the log keeps what waits");
            for entry in waiting.filter(|entry| can_wait(entry.meta.kind)) {
                self.cache.apply(entry.meta.kind, entry.data());
            }
            // Cleared last: if an event panics while a client is served, the next call panics too. When the shard's own
            // task makes that call, the data core restarts the shard.
            self.behind = None;
        }
        &mut self.cache
    }

    /// The bot's own user. No event that can wait changes it.
    pub fn user(&self) -> Option<&[u8]> {
        self.cache.user()
    }

    /// The number of guilds that the bot is in, also those that are down. No event that can wait changes it.
    pub fn guild_count(&self) -> usize {
        self.cache.guild_count()
    }

    /// The log is about to get an event of this kind. Returns whether the event waits there; with false the caller
    /// applies it now.
    pub fn defer(&mut self, kind: EventKind, log: &Log) -> bool {
        let waits = can_wait(kind);
        if waits {
            self.behind.get_or_insert(log.next());
        }
        waits
    }

    /// Applies an event that is not in the log yet, after those that wait. A GUILD_CREATE that the cache can not keep
    /// is logged as an error: connected clients get the event as it came, clients that identify later do not get that
    /// guild.
    pub fn apply(&mut self, kind: EventKind, data: &[u8], log: &Log) -> Outcome {
        let shard = self.shard;
        let cache = self.up_to_date(log);
        let outcome = cache.apply(kind, data);
        if let (EventKind::GuildCreate, Some(why)) = (kind, outcome.ignored) {
            let refused = cache.counts().refused_guilds;
            if should_log(refused) {
                tracing::error!(
                    shard,
                    guild = outcome.guild,
                    refused,
                    "a GUILD_CREATE from Discord can not be kept ({why}): clients that identify from now on will not be shown \
                     this guild"
                );
            }
        }
        outcome
    }

    /// The caller is about to append a dispatch to the log whose type and data have this many bytes together. Applies the
    /// waiting events if the log could drop one of them otherwise.
    pub fn apply_before_append(&mut self, bytes: usize, log: &Log) {
        self.catch_up_from(if log.keeps_newest(bytes) { self.most } else { 0 }, log);
    }

    /// Applies the waiting events if the cache is at least [`MIN_BATCH`] log entries behind. The caller has time for
    /// it now.
    pub fn apply_deferred(&mut self, log: &Log) {
        self.catch_up_from(MIN_BATCH, log);
    }

    fn catch_up_from(&mut self, bound: u64, log: &Log) {
        if self.behind.is_some_and(|position| log.next() - position >= bound) {
            self.up_to_date(log);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{Flags, View},
        log::{Limits, MOST_BYTES},
        protocol::event::Meta,
    };
    use proptest::prelude::*;

    const GUILD: &str = r#"{"id":"1","member_count":2,"unavailable":false,"channels":[{"id":"10"}],"members":[{"user":{"id":"2"}},{"user":{"id":"3"}}],"presences":[],"voice_states":[]}"#;

    /// An event of one of several kinds. The last kinds can not wait, or do not change the cache.
    fn event(what: u8, user: u64, number: u64, padding: usize) -> (EventKind, String) {
        let padding = "x".repeat(padding);
        let of_user = format!(r#""guild_id":"1","user":{{"id":"{user}"}},"n":{number},"padding":"{padding}""#);
        match what {
            0..=3 => (EventKind::PresenceUpdate, format!(r#"{{{of_user},"status":"idle"}}"#)),
            4..=6 => (
                EventKind::MessageCreate,
                format!(r#"{{"guild_id":"1","channel_id":"10","id":"{number}","content":"{padding}"}}"#),
            ),
            7 | 8 => (EventKind::GuildMemberUpdate, format!("{{{of_user}}}")),
            9 => (EventKind::GuildMemberAdd, format!("{{{of_user}}}")),
            10 => (EventKind::GuildMemberRemove, format!("{{{of_user}}}")),
            11 => {
                let channel = if number.is_multiple_of(3) { "null" } else { r#""10""# };
                (
                    EventKind::VoiceStateUpdate,
                    format!(r#"{{"guild_id":"1","user_id":"{user}","channel_id":{channel}}}"#),
                )
            }
            12 | 13 => (EventKind::TypingStart, format!("{{{of_user}}}")),
            14 => (EventKind::ChannelUpdate, format!(r#"{{"guild_id":"1","id":"10","name":"{number}"}}"#)),
            15 if number.is_multiple_of(2) => (EventKind::GuildDelete, r#"{"id":"1","unavailable":true}"#.into()),
            _ => (EventKind::GuildCreate, GUILD.into()),
        }
    }

    fn shown(cache: &Cache) -> Vec<u8> {
        let mut text = Vec::new();
        let mut snapshot = cache.snapshot(1, View::ALL).expect("the guild");
        while !snapshot.write(&mut text, 1 << 20) {}
        text
    }

    #[test]
    fn an_event_that_waits_is_applied_before_larger_ones_displace_it() {
        let mut log = Log::new(Limits { bytes: 0, entries: 100 });
        let (mut plain, mut lazy) = (Cache::new(Flags::ALL), LazyCache::new(0, Cache::new(Flags::ALL), 100));
        plain.apply(EventKind::GuildCreate, GUILD.as_bytes());
        lazy.up_to_date(&log).apply(EventKind::GuildCreate, GUILD.as_bytes());
        let half = MOST_BYTES / 2;
        for (what, padding) in [(0, 0), (12, half), (12, half), (5, half), (0, half), (7, half), (12, half)] {
            let (kind, data) = event(what, 2, 1, padding);
            plain.apply(kind, data.as_bytes());
            lazy.apply_before_append(kind.name().len() + data.len(), &log);
            if lazy.wants(kind) {
                assert!(lazy.defer(kind, &log));
            }
            let meta = Meta { kind, changed_guild: None, recipient: None };
            log.append(kind.name().as_bytes(), data.as_bytes(), meta);
            assert!(lazy.behind.is_none_or(|position| log.read(position).is_some()), "{}", kind.name());
        }
        assert_eq!(shown(lazy.up_to_date(&log)), shown(&plain));
    }

    proptest! {
        /// The cache shows the same as one that applies each event at once, and every event that waits is in the log,
        /// even if the log keeps few events.
        #[test]
        fn nobody_sees_that_it_is_behind(
            steps in prop::collection::vec((0u8..20, 1u64..6, any::<u64>(), prop_oneof![4 => 0usize..9, 1 => 20_000usize..70_000]), 1..300),
            bytes in 0usize..200_000, entries in 0usize..80,
        ) {
            let mut log = Log::new(Limits { bytes, entries });
            let (mut plain, mut lazy) = (Cache::new(Flags::ALL), LazyCache::new(0, Cache::new(Flags::ALL), entries));
            plain.apply(EventKind::GuildCreate, GUILD.as_bytes());
            lazy.up_to_date(&log).apply(EventKind::GuildCreate, GUILD.as_bytes());
            for (what, user, number, padding) in steps {
                match what {
                    16..=18 => lazy.apply_deferred(&log),
                    19 => prop_assert_eq!(shown(lazy.up_to_date(&log)), shown(&plain)),
                    _ => {
                        let (kind, data) = event(what, user, number, padding);
                        plain.apply(kind, data.as_bytes());
                        lazy.apply_before_append(kind.name().len() + data.len(), &log);
                        if lazy.wants(kind) {
                            if !lazy.defer(kind, &log) {
                                lazy.apply(kind, data.as_bytes(), &log);
                            }
                            prop_assert_eq!(lazy.behind.is_some(), can_wait(kind));
                        }
                        log.append(kind.name().as_bytes(), data.as_bytes(), Meta { kind, changed_guild: None, recipient: None });
                    }
                }
                if let Some(position) = lazy.behind {
                    prop_assert!(log.read(position).is_some(), "{position} is gone");
                    prop_assert!(log.next() - position <= lazy.most.max(1));
                }
            }
            let (counts, expected) = (lazy.up_to_date(&log).counts(), plain.counts());
            prop_assert_eq!(shown(lazy.up_to_date(&log)), shown(&plain));
            prop_assert_eq!((counts.members, counts.ignored_events), (expected.members, expected.ignored_events));
        }
    }
}
