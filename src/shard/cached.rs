//! The cache of a shard, which may be a few events behind its log.
//!
//! Most events change one small thing: who is online, the newest message of a channel. Applied one by one, each finds the
//! code and the tables of the cache gone from the CPU's caches and waits for them; so they are left in the log, where
//! they are anyway, and applied some at a time, after the clients have got them.
//!
//! Promises: whoever looks at the cache sees every event of the log ([`Cached::now`] is the only way in); at most
//! [`MAX_BEHIND`] events wait, and none longer than a tick. Never: holds an event itself.

use crate::{
    cache::{Cache, Outcome},
    log::Log,
    protocol::event::EventKind,
};

/// Events that the cache can be behind, those counted that do not concern it.
const MAX_BEHIND: u64 = 64;
/// From so many on it is worth while to catch up when there is nothing more urgent.
const WORTH_WHILE: u64 = 16;

/// Can an event of this kind wait? These are frequent, and small.
fn can_wait(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::PresenceUpdate
            | EventKind::MessageCreate
            | EventKind::GuildMemberUpdate
            | EventKind::VoiceStateUpdate
            | EventKind::GuildMemberAdd
            | EventKind::GuildMemberRemove
    )
}

/// See the module's description.
pub(super) struct Cached {
    cache: Cache,
    /// Position of the oldest event that waits. Of those behind it, all of the kinds that can wait do.
    behind: Option<u64>,
    /// So many can wait.
    most: u64,
}

impl Cached {
    /// A cache that has seen everything, beside a log that keeps its newest `kept` events in any case.
    pub fn new(cache: Cache, kept: usize) -> Self {
        Self { cache, behind: None, most: MAX_BEHIND.min(kept as u64) }
    }

    /// Can an event of this kind change the cache?
    pub fn wants(&self, kind: EventKind) -> bool {
        self.cache.wants(kind)
    }

    /// The cache with everything that is in the log.
    pub fn now(&mut self, log: &Log) -> &mut Cache {
        if let Some(position) = self.behind {
            let waiting = log.read(position).expect("the log keeps what waits");
            for entry in waiting.filter(|entry| can_wait(entry.meta.kind)) {
                self.cache.apply(entry.meta.kind, entry.data());
            }
            // Not before: should one of them panic while a client is served, the next who comes panics too, and when that is
            // the shard's own task, the shard starts anew.
            self.behind = None;
        }
        &mut self.cache
    }

    /// The bot's own user, which no event changes that can wait.
    pub fn user(&self) -> Option<&[u8]> {
        self.cache.user()
    }

    /// The event of this kind that the log is about to get may wait there. False: it can not.
    pub fn put_off(&mut self, kind: EventKind, log: &Log) -> bool {
        let waits = can_wait(kind);
        if waits {
            self.behind.get_or_insert(log.next());
        }
        waits
    }

    /// Applies an event that is not in the log yet.
    pub fn apply(&mut self, kind: EventKind, data: &[u8], log: &Log) -> Outcome {
        self.now(log).apply(kind, data)
    }

    /// Something will be added to the log: no more may wait than it keeps.
    pub fn make_room(&mut self, log: &Log) {
        self.catch_up_from(self.most, log);
    }

    /// There is time to catch up, if that is worth while.
    pub fn settle(&mut self, log: &Log) {
        self.catch_up_from(WORTH_WHILE, log);
    }

    fn catch_up_from(&mut self, bound: u64, log: &Log) {
        if self.behind.is_some_and(|position| log.next() - position >= bound) {
            self.now(log);
        }
    }
}
