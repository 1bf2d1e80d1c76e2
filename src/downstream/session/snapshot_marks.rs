//! Which events a client must not get because of its snapshot.
//!
//! A snapshot shows the guilds one by one, while events go on. So for each guild that READY named there is a mark: the
//! log position at which the guild was shown. Events of the guild before that position are in what the client was sent,
//! or are about a state that it has never seen. Bounded by the guilds of the shard.

use crate::protocol::{
    event::{EventKind, Meta},
    json,
};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

/// What the snapshot for a client told about a guild that READY names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shown {
    /// The whole guild, in a GUILD_CREATE.
    Whole,
    /// Nothing, because the guild is unavailable or Discord has not sent it yet. Its GUILD_CREATE will follow. The
    /// events of the guild before that are about a state that the client has never seen.
    Unavailable,
    /// Nothing, because the bot has left the guild meanwhile. The GUILD_DELETE that says so follows.
    Left,
}

#[derive(Clone, Copy)]
struct Mark {
    /// The snapshot covers the events of the guild before this log position.
    before: u64,
    shown: Shown,
}

/// The marks of one session. See the module's description.
#[derive(Default)]
pub(super) struct SnapshotMarks {
    guilds: HashMap<u64, Mark>,
    /// The highest [`Mark::before`]. From this position on every event is new to the client.
    until: u64,
}

impl SnapshotMarks {
    /// Notes what the client was sent of `guild`: its state before the event at log position `position`.
    pub fn set(&mut self, guild: u64, position: u64, shown: Shown) {
        self.guilds.insert(guild, Mark { before: position, shown });
        self.until = self.until.max(position);
    }

    /// Says whether the client must not get the event at `position` because of its snapshot: the snapshot has the
    /// change already, or the event is about a guild that the snapshot did not show.
    pub fn cover(&self, position: u64, meta: Meta, data: &[u8]) -> bool {
        position < self.until && self.cover_early(position, meta, data)
    }

    fn cover_early(&self, position: u64, meta: Meta, data: &[u8]) -> bool {
        let before = |guild: u64| self.guilds.get(&guild).filter(|mark| position < mark.before);
        match meta.changed_guild {
            Some(guild) => match before(guild) {
                // READY named the guild, so the client needs the GUILD_DELETE.
                Some(mark) if mark.shown == Shown::Left => meta.kind != EventKind::GuildDelete,
                mark => mark.is_some(),
            },
            // A snapshot does not have events that change no state, such as messages. The client does not get those of
            // a guild that it was not shown.
            None => json::get(data, "guild_id")
                .and_then(json::parse_id)
                .and_then(before)
                .is_some_and(|mark| mark.shown != Shown::Whole),
        }
    }

    /// The session never reads events before `position` again: frees the marks when all of them are before it.
    pub fn release(&mut self, position: u64) {
        if position >= self.until && !self.guilds.is_empty() {
            self.guilds = HashMap::new();
        }
    }

    /// Each guild with its position and what the client was sent of it, for a state file.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, Shown)> {
        self.guilds.iter().map(|(guild, mark)| (*guild, mark.before, mark.shown))
    }
}
