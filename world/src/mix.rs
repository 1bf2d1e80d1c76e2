//! How often each type of event happens: the mix of events of a large bot.
//!
//! Presences are the most frequent, then messages, typing, voice and members. Everything else is rare. Weights are per
//! 10,000 events.

use super::{Body, Dice, Event, Guild, MAX_MESSAGES, World, chatter, mutate, threads, voice};

/// Length of an outage, counted in changes on the guild's shard.
const OUTAGE: u32 = 200;

/// A function that changes a guild and appends the events of the change. It appends nothing if the guild lacks what the
/// change needs.
type Change = fn(&mut Guild, &mut Dice, &mut Vec<Event>);

enum Act {
    /// A change in a guild.
    In(Change),
    /// A numbered message.
    Message,
    /// The bot joins a guild.
    Join,
    /// The bot leaves a guild.
    Leave,
    /// An outage begins, or the current one ends.
    Outage,
}

struct Kind {
    name: &'static str,
    weight: u32,
    /// Whether an event of this kind changes the guild's GUILD_CREATE.
    state: bool,
    act: Act,
}

const fn kind(name: &'static str, weight: u32, state: bool, act: Act) -> Kind {
    Kind { name, weight, state, act }
}

const MIX: &[Kind] = &[
    kind("PRESENCE_UPDATE", 4_000, true, Act::In(mutate::presence_update)),
    kind("MESSAGE_CREATE", 2_200, false, Act::Message),
    kind("TYPING_START", 900, false, Act::In(chatter::typing_start)),
    kind("VOICE_STATE_UPDATE", 600, true, Act::In(voice::voice_state_update)),
    kind("MESSAGE_REACTION_ADD", 500, false, Act::In(chatter::reaction_add)),
    kind("GUILD_MEMBER_UPDATE", 450, true, Act::In(mutate::member_update)),
    kind("MESSAGE_UPDATE", 400, false, Act::In(chatter::message_update)),
    kind("INTERACTION_CREATE", 200, false, Act::In(chatter::interaction_create)),
    kind("MESSAGE_DELETE", 180, false, Act::In(chatter::message_delete)),
    kind("GUILD_MEMBER_ADD", 120, true, Act::In(mutate::member_add)),
    kind("GUILD_MEMBER_REMOVE", 100, true, Act::In(mutate::member_remove)),
    kind("MESSAGE_REACTION_REMOVE", 80, false, Act::In(chatter::reaction_remove)),
    kind("THREAD_CREATE", 40, true, Act::In(threads::create)),
    kind("THREAD_UPDATE", 40, true, Act::In(threads::update)),
    kind("THREAD_DELETE", 30, true, Act::In(threads::delete)),
    kind("THREAD_MEMBERS_UPDATE", 20, true, Act::In(threads::members_update)),
    kind("THREAD_MEMBER_UPDATE", 4, true, Act::In(threads::member_update)),
    kind("THREAD_LIST_SYNC", 4, true, Act::In(threads::list_sync)),
    kind("CHANNEL_UPDATE", 30, true, Act::In(mutate::channel_update)),
    kind("GUILD_ROLE_UPDATE", 25, true, Act::In(mutate::role_update)),
    kind("GUILD_UPDATE", 15, true, Act::In(mutate::guild_update)),
    kind("CHANNEL_CREATE", 10, true, Act::In(mutate::channel_create)),
    kind("CHANNEL_DELETE", 8, true, Act::In(mutate::channel_delete)),
    kind("GUILD_ROLE_CREATE", 8, true, Act::In(mutate::role_create)),
    kind("GUILD_ROLE_DELETE", 6, true, Act::In(mutate::role_delete)),
    kind("CHANNEL_PINS_UPDATE", 8, true, Act::In(mutate::pins_update)),
    kind("GUILD_EMOJIS_UPDATE", 8, true, Act::In(mutate::emojis_update)),
    kind("GUILD_STICKERS_UPDATE", 4, true, Act::In(mutate::stickers_update)),
    kind("GUILD_SCHEDULED_EVENT_CREATE", 4, true, Act::In(mutate::scheduled_event_create)),
    kind("GUILD_SCHEDULED_EVENT_UPDATE", 3, true, Act::In(mutate::scheduled_event_update)),
    kind("GUILD_SCHEDULED_EVENT_DELETE", 3, true, Act::In(mutate::scheduled_event_delete)),
    kind("STAGE_INSTANCE_CREATE", 3, true, Act::In(voice::stage_create)),
    kind("STAGE_INSTANCE_UPDATE", 3, true, Act::In(voice::stage_update)),
    kind("STAGE_INSTANCE_DELETE", 3, true, Act::In(voice::stage_delete)),
    kind("GUILD_SOUNDBOARD_SOUND_CREATE", 2, true, Act::In(mutate::sound_create)),
    kind("GUILD_SOUNDBOARD_SOUND_UPDATE", 2, true, Act::In(mutate::sound_update)),
    kind("GUILD_SOUNDBOARD_SOUND_DELETE", 2, true, Act::In(mutate::sound_delete)),
    kind("VOICE_CHANNEL_STATUS_UPDATE", 4, false, Act::In(voice::channel_status)),
    kind("GUILD_BAN_ADD", 3, true, Act::In(mutate::ban_add)),
    kind("INVITE_CREATE", 3, false, Act::In(chatter::invite_create)),
    kind("GUILD_CREATE", 1, true, Act::Join),
    kind("GUILD_DELETE", 1, true, Act::Leave),
    kind("GUILD_OUTAGE", 1, true, Act::Outage),
];

/// Whether [`World::happen`] can make events of this type.
pub fn known(name: &str) -> bool {
    MIX.iter().any(|kind| kind.name == name)
}

/// The names of all types.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    MIX.iter().map(|kind| kind.name)
}

/// Which events [`World::happen`] may make.
#[derive(Clone, Copy)]
pub enum Wish<'a> {
    /// Any event of the mix.
    Any,
    /// Any event of the mix, except that no guild is added or removed and no outage begins or ends.
    Steady,
    /// Any event that changes a guild's state.
    State,
    /// This type of event. `GUILD_OUTAGE` is the beginning or the end of an outage.
    Only(&'a str),
}

impl World {
    /// Makes one random change or message on a shard. The result can be several events (a member who leaves the guild
    /// leaves the voice channel first), or none if the shard has no guild in which the change is possible.
    pub fn happen(&mut self, shard: usize, wish: Wish<'_>) -> Vec<Event> {
        let mut events = Vec::new();
        for _ in 0..32 {
            let before = events.len();
            let Some(kind) = self.choose(wish) else { break };
            match kind.act {
                Act::Message => events.extend(self.message(shard, None, None)),
                Act::Join => events.push(self.join(shard)),
                Act::Leave => events.extend(self.leave_one(shard)),
                Act::Outage => events.extend(self.outage(shard)),
                Act::In(change) => {
                    let Some(id) = self.pick(shard) else { break };
                    if let Some(guild) = self.guilds.get_mut(&id) {
                        change(guild, &mut self.dice, &mut events);
                    }
                }
            }
            if events.len() > before {
                break;
            }
        }
        // The last event, because the data of GUILD_CREATE is made when it is published: after a change of this guild
        // the data would have the change already, whose event follows.
        events.extend(self.pass(shard));
        events
    }

    /// Makes each kind of change of a guild's state `times` times on a shard: channels, roles, members, voice states,
    /// threads and so on. No guild is added or removed.
    pub fn change_everything(&mut self, shard: usize, times: u64) -> Vec<Event> {
        let kinds = MIX.iter().filter(|kind| kind.state && matches!(kind.act, Act::In(_)));
        let mut events = Vec::new();
        for kind in kinds {
            for _ in 0..times {
                events.extend(self.happen(shard, Wish::Only(kind.name)));
            }
        }
        events
    }

    fn choose(&mut self, wish: Wish<'_>) -> Option<&'static Kind> {
        let wanted = |kind: &&Kind| match wish {
            Wish::Any => true,
            Wish::Steady => !matches!(kind.act, Act::Join | Act::Leave | Act::Outage),
            Wish::State => kind.state,
            Wish::Only(name) => kind.name == name,
        };
        let total: u32 = MIX.iter().filter(wanted).map(|kind| kind.weight).sum();
        if total == 0 {
            return None;
        }
        let mut point = self.dice.rng.u32(..total);
        MIX.iter().filter(wanted).find(|kind| {
            let found = point < kind.weight;
            point = point.saturating_sub(kind.weight);
            found
        })
    }

    /// The next numbered MESSAGE_CREATE of a shard, in the given guild or a random one. `None` without an available
    /// guild. `size` pads the content so that the data has at least this many bytes.
    pub fn message(&mut self, shard: usize, guild: Option<u64>, size: Option<usize>) -> Option<Event> {
        let id = match guild {
            Some(id) => id,
            None => self.pick(shard)?,
        };
        let guild = self.guilds.get_mut(&id)?;
        let entry = self.shards.get_mut(shard)?;
        entry.last_number += 1;
        if entry.message_guilds.len() == MAX_MESSAGES {
            entry.message_guilds.pop_front();
        }
        entry.message_guilds.push_back(id);
        Some(chatter::message_create(guild, &mut self.dice, entry.last_number, size))
    }

    /// Adds a guild that the bot joins.
    pub fn join(&mut self, shard: usize) -> Event {
        let guild = self.new_guild(shard);
        Event { name: "GUILD_CREATE", guild, body: Body::Guild { joined: true } }
    }

    /// Removes a guild that the bot leaves. `None` if there is no such guild.
    pub fn leave(&mut self, guild: u64) -> Option<Event> {
        self.guilds.remove(&guild)?;
        self.reindex(self.shard_of(guild));
        let text = format!(r#"{{"id":"{guild}"}}"#);
        Some(Event::json("GUILD_DELETE", guild, text))
    }

    /// Begins or ends an outage of a guild. `None` if the guild does not exist or the state stays the same.
    pub fn set_available(&mut self, id: u64, available: bool) -> Option<Event> {
        let guild = self.guilds.get_mut(&id)?;
        if guild.available == available {
            return None;
        }
        guild.available = available;
        Some(if available {
            Event { name: "GUILD_CREATE", guild: id, body: Body::Guild { joined: false } }
        } else {
            let text = format!(r#"{{"id":"{id}","unavailable":true}}"#);
            Event::json("GUILD_DELETE", id, text)
        })
    }

    fn leave_one(&mut self, shard: usize) -> Option<Event> {
        if self.shards.get(shard)?.ids.len() < 3 {
            return None;
        }
        let guild = self.pick(shard)?;
        self.leave(guild)
    }

    /// Begins an outage of a random guild, or ends the current one.
    fn outage(&mut self, shard: usize) -> Option<Event> {
        let entry = self.shards.get_mut(shard)?;
        if let Some((guild, _)) = entry.down.take() {
            return self.set_available(guild, true);
        }
        if entry.ids.len() < 3 {
            return None;
        }
        let guild = self.pick(shard)?;
        self.shards.get_mut(shard)?.down = Some((guild, OUTAGE));
        self.set_available(guild, false)
    }

    /// Counts down the outage that the traffic started, and ends it at 0.
    fn pass(&mut self, shard: usize) -> Option<Event> {
        let (_, left) = self.shards.get_mut(shard)?.down.as_mut()?;
        *left = left.saturating_sub(1);
        if *left == 0 { self.outage(shard) } else { None }
    }
}
