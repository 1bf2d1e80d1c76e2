//! The watchdog: finds shards that are connected and acknowledge heartbeats, and yet get no events any more, or none of
//! one kind that they usually get.
//!
//! Time is counted in slots ([`SLOT`]). For each shard and each kind of event, a [`Habit`] says how regularly the kind
//! is heard. A kind that is usual on the shard and stays away for many slots makes the shard sick. The shard is compared
//! with the other shards: a slot counts as missed only as far as the others got the kind in that slot. So a quiet night
//! and a failure of Discord that makes all shards quiet make none of them sick. While more than half of the others are
//! quiet, nothing is missed at all.
//!
//! | rule | bound |
//! |---|---|
//! | a shard is judged | after an hour ([`habit::MEMORY`]), if it has [`ENOUGH_GUILDS`] guilds; with fewer guilds, for a kind that was never away for half an hour within a day ([`STEADY`]) |
//! | no event at all | [`MISSED_ANY`] missed slots: five minutes |
//! | no event of one kind | [`MISSED_KIND`] missed slots: ten minutes, and [`OTHERS_FOR_KIND`] other shards that usually get the kind |
//! | the only shard of a proxy | [`MISSED_ALONE`] slots: half an hour, after two days ([`STEADY_ALONE`]) without such a silence; only if it gets no event at all |
//! | every silence that ended by itself | the next one has to be [`PATIENCE`] times as long |
//!
//! Kinds that answer the proxy or begin a session (READY, GUILD_CREATE, GUILD_MEMBERS_CHUNK and the like) are not
//! watched, because they say nothing about whether Discord sends what happens.
//!
//! Pure: counts go in once in a slot, findings come out. Cost: nothing for an event, because a shard counts its events
//! by kind anyway; 2 KiB for a shard, and some 300 ns for a shard in each slot.

pub mod habit;

use crate::protocol::event::EventKind;
use habit::Habit;
use std::time::Duration;

/// The length of a slot.
pub const SLOT: Duration = Duration::from_secs(15);
/// Missed slots after which a shard without any event is sick.
pub const MISSED_ANY: f32 = 20.0;
/// Missed slots after which a shard without events of one usual kind is sick.
pub const MISSED_KIND: f32 = 40.0;
/// Silent slots after which a shard without others to compare it with is sick.
pub const MISSED_ALONE: f32 = 120.0;
/// How much longer a silence has to be than the longest one that ended by itself.
pub const PATIENCE: f32 = 2.0;
/// Guilds of a shard with which its events are regular enough to be judged after an hour. The habits of one guild are
/// those of few people.
pub const ENOUGH_GUILDS: usize = 25;
/// Slots without a long silence after which a kind is judged on a shard with few guilds: a day.
pub const STEADY: u32 = 5760;
/// Slots without a long silence after which a shard without others to compare it with is judged: two days.
pub const STEADY_ALONE: u32 = 11_520;
/// The least number of other shards on which a kind has to be usual for a shard to be judged by that kind.
pub const OTHERS_FOR_KIND: u32 = 3;
/// The least part of the other shards that has to be heard in a slot for the slot to count as missed.
pub const MOST_OTHERS: f32 = 0.5;
/// A shard that has lost a larger part of its guilds within [`habit::FORGET`] is not judged: guilds that are down, or
/// that the bot has left, send nothing.
pub const MOST_LOST: f32 = 0.1;

/// Number of kinds of events.
pub const KINDS: usize = EventKind::ALL.len();
/// Number of things that are watched: each kind, and at last events of any kind.
const WATCHED: usize = KINDS + 1;
/// Index of events of any kind.
const ANY: usize = KINDS;

/// One bit for each thing that is watched.
type Bits = u128;
const _: () = assert!(WATCHED <= Bits::BITS as usize);

/// Says whether events of this kind tell that Discord sends the shard what happens.
fn is_watched(kind: EventKind) -> bool {
    !matches!(
        kind,
        EventKind::Ready
            | EventKind::Resumed
            | EventKind::GuildCreate
            | EventKind::GuildDelete
            | EventKind::GuildMembersChunk
            | EventKind::SoundboardSounds
            | EventKind::ChannelInfo
            | EventKind::RateLimited
            | EventKind::Other
    )
}

/// How many shards usually get each kind, and how many of them got it in one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Number of shards.
    shards: u32,
    usual: [u32; WATCHED],
    heard: [u32; WATCHED],
}

impl Default for Pulse {
    fn default() -> Self {
        Self { shards: 0, usual: [0; WATCHED], heard: [0; WATCHED] }
    }
}

impl Pulse {
    /// Adds the shards of another pulse of the same slot.
    pub fn add(&mut self, other: &Self) {
        self.shards += other.shards;
        for index in 0..WATCHED {
            self.usual[index] += other.usual[index];
            self.heard[index] += other.heard[index];
        }
    }

    fn add_shard(&mut self, part: Part) {
        self.shards += 1;
        for index in bits(part.usual) {
            self.usual[index] += 1;
        }
        for index in bits(part.usual & part.heard) {
            self.heard[index] += 1;
        }
    }

    /// How likely a shard was to get the kind, judged by the shards other than the one with this part in the pulse.
    fn of_others(&self, index: usize, own: Part) -> Others {
        let is_in = |set: Bits| u32::from(set >> index & 1 == 1);
        let usual = self.usual[index].saturating_sub(is_in(own.usual));
        let heard = self.heard[index].saturating_sub(is_in(own.usual & own.heard));
        Others { usual, share: if usual == 0 { 0.0 } else { heard as f32 / usual as f32 } }
    }
}

/// The indices of the bits that are set.
fn bits(mut set: Bits) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(index)
    })
}

/// The other shards and one kind.
struct Others {
    /// Number of other shards on which the kind is usual.
    usual: u32,
    /// The part of them that got the kind.
    share: f32,
}

/// A shard's part in the pulse of a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    usual: Bits,
    heard: Bits,
}

/// What a shard shows at the end of a slot.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Events by kind since the process has started.
    pub events: &'a [u64; KINDS],
    /// Whether the session with Discord is active.
    pub active: bool,
    /// Number of connections to Discord so far.
    pub connects: u64,
    /// Guilds that the bot is in, also those that are down.
    pub guilds: usize,
}

/// What is wrong with a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// The shard gets no events.
    NoEvents,
    /// The shard gets no events of this kind, which is usual on it.
    None(EventKind),
}

/// A shard is sick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub ailment: Ailment,
    /// How long it has lasted.
    pub silent: Duration,
}

/// Watches one shard. See the module's description.
pub struct ShardWatch {
    habits: Box<[Habit; WATCHED]>,
    /// Counts at the end of the last slot.
    events: [u64; KINDS],
    connects: u64,
    was_active: bool,
    /// Slots in which the shard was active and kept its connection.
    slots: u32,
    /// Guilds that have gone (GUILD_DELETE) and have not come back. A part of them is forgotten in each slot.
    lost: f32,
    part: Part,
    sick: Option<Finding>,
}

impl Default for ShardWatch {
    fn default() -> Self {
        Self {
            habits: Box::new([Habit::default(); WATCHED]),
            events: [0; KINDS],
            connects: 0,
            was_active: false,
            slots: 0,
            lost: 0.0,
            part: Part::default(),
            sick: None,
        }
    }
}

impl ShardWatch {
    /// What is wrong with the shard; `None`: nothing that the watchdog has found.
    pub fn finding(&self) -> Option<Finding> {
        self.sick
    }

    /// Slots were left out, so the next one is not compared with the last one.
    pub fn interrupt(&mut self) {
        self.was_active = false;
    }

    /// Handles the end of a slot. `before` is the pulse of all shards in the slot before, with this shard's own part.
    /// Adds this shard's part in this slot to `pulse`.
    pub fn end_slot(&mut self, seen: Seen<'_>, before: &Pulse, pulse: &mut Pulse) {
        let heard = self.heard(seen);
        self.lost = self.lost(seen);
        let same = self.connects == seen.connects && self.was_active && seen.active;
        let own = self.part;
        if self.connects != seen.connects {
            self.habits.iter_mut().for_each(Habit::disturb);
        }
        (self.events, self.connects, self.was_active) = (*seen.events, seen.connects, seen.active);
        if same {
            self.slots = self.slots.saturating_add(1);
            if self.slots.is_multiple_of(habit::PERIOD) {
                self.habits.iter_mut().for_each(Habit::turn_period);
            }
            self.judge(seen, heard, before, own);
        }
        // A shard that is not active counts as one that was not heard: an outage makes others be judged less.
        let heard = if same { heard } else { 0 };
        let usual = (0..WATCHED).filter(|index| self.habits[*index].is_usual(self.slots));
        self.part = Part { usual: usual.fold(0, |set, index| set | 1 << index), heard };
        pulse.add_shard(self.part);
    }

    /// The kinds that were heard in this slot.
    fn heard(&self, seen: Seen<'_>) -> Bits {
        let mut heard = 0;
        for (index, (now, then)) in seen.events.iter().zip(&self.events).enumerate() {
            if now > then && is_watched(EventKind::ALL[index]) {
                heard |= 1 << index | 1 << ANY;
            }
        }
        heard
    }

    /// The number of guilds that have gone and have not come back, after this slot.
    fn lost(&self, seen: Seen<'_>) -> f32 {
        let count = |kind: EventKind| seen.events[kind as usize].saturating_sub(self.events[kind as usize]) as f32;
        let kept = self.lost * (1.0 - 1.0 / habit::FORGET as f32);
        (kept + count(EventKind::GuildDelete) - count(EventKind::GuildCreate)).max(0.0)
    }

    fn judge(&mut self, seen: Seen<'_>, heard: Bits, before: &Pulse, own: Part) {
        let guilds_are_there = self.lost <= MOST_LOST * seen.guilds as f32;
        for index in 0..WATCHED {
            let others = before.of_others(index, own);
            let habit = &mut self.habits[index];
            if heard >> index & 1 == 1 {
                habit.heard(self.slots);
                continue;
            }
            let alone = before.shards.saturating_sub(1) == 0;
            let likely = match others {
                _ if !guilds_are_there => None,
                _ if alone => Some(1.0),
                Others { usual: 0, .. } => Some(0.0),
                Others { share, .. } if share >= MOST_OTHERS => Some(share),
                Others { .. } => None,
            };
            habit.not_heard(likely);
            let (least, may_judge) = match (alone, index) {
                (true, ANY) => (MISSED_ALONE, habit.unbroken() >= STEADY_ALONE),
                (true, _) => (MISSED_ALONE, false),
                (false, ANY) => (MISSED_ANY, others.usual > 0),
                (false, _) => (MISSED_KIND, others.usual >= OTHERS_FOR_KIND),
            };
            let regular = alone || seen.guilds >= ENOUGH_GUILDS || habit.unbroken() >= STEADY;
            let missed = habit.missed() >= least.max(PATIENCE * habit.worst());
            if may_judge && regular && guilds_are_there && missed && habit.is_usual(self.slots) {
                habit.call_sick();
            }
        }
        self.sick =
            std::iter::once(ANY).chain(0..KINDS).find(|index| self.habits[*index].is_sick()).map(|index| Finding {
                ailment: if index == ANY { Ailment::NoEvents } else { Ailment::None(EventKind::ALL[index]) },
                silent: SLOT * self.habits[index].silent(),
            });
    }
}

#[cfg(test)]
mod tests;
