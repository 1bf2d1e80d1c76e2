//! Voice: states, channel status and stages.

use super::{Dice, Event, Guild, World, entities, names};
use crate::clock;
use crate::json::{self, Fields, Object};

type Events = Vec<Event>;

/// Maximum number of users that traffic puts into the voice channels of one guild.
const MAX_IN_VOICE: usize = 80;

/// The result of an op 4 that puts the bot into a voice channel or takes it out.
pub struct Joined {
    /// The VOICE_STATE_UPDATE.
    pub state: Event,
    /// Whether the session needs a voice server: the bot was not in this channel, or another session had brought it
    /// there.
    pub moved: bool,
}

/// Says whether a voice state or a stage is in this channel.
pub(super) fn in_channel(object: &str, channel: u64) -> bool {
    Fields::parse(object).is_some_and(|object| object.id("channel_id") == Some(channel))
}

/// A VOICE_STATE_UPDATE: the voice state with its guild and member.
fn event(guild: &Guild, user: u64, state: &str) -> Event {
    let text = Object::with_capacity(state.len() + 800)
        .id("guild_id", guild.id)
        .raw("member", guild.members.get(user).unwrap_or("null"))
        .spread(state)
        .finish();
    Event::json("VOICE_STATE_UPDATE", guild.id, text)
}

/// Removes a user from the voice channel that the user is in, if any.
pub(super) fn leave(guild: &mut Guild, user: u64, events: &mut Events) {
    let Some(state) = guild.voice_states.get(user) else {
        return;
    };
    let state = json::with_field(state, "channel_id", "null");
    guild.voice_states.remove(user);
    events.push(event(guild, user, &state));
}

pub(super) fn voice_state_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let present = guild
        .voice_states
        .pick(&mut dice.rng)
        .map(|(user, state)| (user, state.to_owned()))
        .filter(|(user, _)| *user != dice.bot);
    let full = guild.voice_states.len() >= MAX_IN_VOICE;
    match present {
        Some((user, _)) if full || dice.one_in(3) => leave(guild, user, events),
        Some((user, state)) if dice.one_in(2) => {
            let mute = if state.contains("\"self_mute\":true") { "false" } else { "true" };
            let state = json::with_field(&state, "self_mute", mute);
            guild.voice_states.set(user, state.clone());
            events.push(event(guild, user, &state));
        }
        _ if !full && !guild.voice_channels.is_empty() => {
            let Some((user, _)) = guild.random_member(dice) else {
                return;
            };
            let channel = guild.voice_channels[dice.rng.usize(..guild.voice_channels.len())];
            let session = names::hex(&mut dice.rng, 32);
            let state = entities::voice_state(dice, user, channel, &session);
            guild.voice_states.set(user, state.clone());
            events.push(event(guild, user, &state));
        }
        _ => {}
    }
}

pub(super) fn channel_status(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    if guild.voice_channels.is_empty() {
        return;
    }
    let id = guild.voice_channels[dice.rng.usize(..guild.voice_channels.len())];
    let status = names::text(&mut dice.rng, 2);
    let text = Object::new().id("id", id).id("guild_id", guild.id).str("status", &status).finish();
    guild.voice_status.insert(id, status);
    events.push(Event::json("VOICE_CHANNEL_STATUS_UPDATE", guild.id, text));
}

pub(super) fn stage_create(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let free = guild.channels.iter().find(|(id, text)| {
        json::field(text, "type") == Some("13")
            && !guild.stage_instances.iter().any(|(_, stage)| in_channel(stage, *id))
    });
    let Some((channel, _)) = free else { return };
    let id = dice.live_id();
    let text = entities::stage_instance(dice, id, guild.id, channel);
    guild.stage_instances.set(id, text.clone());
    events.push(Event::json("STAGE_INSTANCE_CREATE", guild.id, text));
}

pub(super) fn stage_update(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, text)) = guild.stage_instances.pick(&mut dice.rng) else {
        return;
    };
    let topic = json::string(&names::text(&mut dice.rng, 3));
    let text = json::with_field(text, "topic", &topic);
    guild.stage_instances.set(id, text.clone());
    events.push(Event::json("STAGE_INSTANCE_UPDATE", guild.id, text));
}

pub(super) fn stage_delete(guild: &mut Guild, dice: &mut Dice, events: &mut Events) {
    let Some((id, text)) = guild.stage_instances.pick(&mut dice.rng) else {
        return;
    };
    let text = text.to_owned();
    guild.stage_instances.remove(id);
    events.push(Event::json("STAGE_INSTANCE_DELETE", guild.id, text));
}

impl World {
    /// Changes the bot's voice state: the bot joins, moves or leaves (Gateway Events: "Update Voice State"). `None` if
    /// the guild or channel does not exist or the guild is unavailable. The state has the id of the gateway session
    /// that sent the op 4, as Discord does it for bots.
    pub fn bot_voice(
        &mut self,
        guild: u64,
        channel: Option<u64>,
        self_mute: bool,
        self_deaf: bool,
        session: &str,
    ) -> Option<Joined> {
        let bot = self.dice.bot;
        let guild = self.guilds.get_mut(&guild).filter(|guild| guild.available)?;
        let before = guild.voice_states.get(bot).map(str::to_owned);
        let Some(channel) = channel else {
            let mut events = Vec::new();
            leave(guild, bot, &mut events);
            return Some(Joined { state: events.pop()?, moved: false });
        };
        if !guild.channels.contains(channel) {
            return None;
        }
        let moved = before.as_deref().is_none_or(|state| {
            !in_channel(state, channel) || json::field(state, "session_id") != Some(&json::string(session))
        });
        let state = entities::voice_state(&mut self.dice, bot, channel, session);
        let boolean = |value| if value { "true" } else { "false" };
        let state = json::with_field(&state, "self_mute", boolean(self_mute));
        let state = json::with_field(&state, "self_deaf", boolean(self_deaf));
        let state = json::with_field(&state, "self_stream", "false");
        let state = json::with_field(&state, "self_video", "false");
        guild.voice_states.set(bot, state.clone());
        Some(Joined { state: event(guild, bot, &state), moved })
    }

    /// Takes the bot out of all voice channels that a gateway session has joined, because that session has ended.
    pub fn end_voice(&mut self, shard: usize, session: &str) -> Vec<Event> {
        let bot = self.dice.bot;
        let session = json::string(session);
        let mut events = Vec::new();
        let ids = self.shards.get(shard).map_or(&[][..], |shard| &shard.ids);
        for id in ids {
            let Some(guild) = self.guilds.get_mut(id) else {
                continue;
            };
            let mine =
                guild.voice_states.get(bot).is_some_and(|state| json::field(state, "session_id") == Some(&session));
            if mine {
                leave(guild, bot, &mut events);
            }
        }
        events
    }

    /// The data of CHANNEL_INFO (Gateway Events: "Channel Info").
    pub fn channel_info(&self, guild: u64, status: bool, start_time: bool) -> Option<String> {
        let guild = self.guilds.get(&guild).filter(|guild| guild.available)?;
        let channels = guild.voice_channels.iter().map(|id| {
            let mut channel = Object::new().id("id", *id);
            if status {
                channel = channel.opt_str("status", guild.voice_status.get(id).map(String::as_str));
            }
            if start_time {
                let busy = guild.voice_states.iter().any(|(_, state)| in_channel(state, *id));
                channel = if busy {
                    channel.int("voice_start_time", clock::GENERATED_UNTIL_MS / 1_000)
                } else {
                    channel.null("voice_start_time")
                };
            }
            channel.finish()
        });
        Some(Object::new().id("guild_id", guild.id).raw("channels", &json::array(channels)).finish())
    }
}
