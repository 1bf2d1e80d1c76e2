//! What each event does to the state (docs: Gateway Events, Receive Events), with Discord's semantics: partial objects
//! are merged, what belongs to something goes with it, and what GUILD_CREATE does not carry is not kept.
//!
//! Some keys of GUILD_CREATE are changed by events that do not name them, and have to be derived as a client would:
//! `member_count` and with it `large`, `last_message_id`, `message_count` and `total_message_sent` of threads, `user_count` of
//! scheduled events, and the roles of members when a role is deleted.
//!
//! Events that are not here change nothing that GUILD_CREATE says: messages but for these keys, reactions,
//! typing, bans, invites, integrations, webhooks, audit log, auto moderation, entitlements and so on. CHANNEL_INFO and
//! SOUNDBOARD_SOUNDS say what is known.

mod channels;
mod people;
mod things;

use super::{
    Cache, Flags, Outcome,
    guild::{self, Created, Guild, Kit},
    kind::Kind,
    scan,
};
use crate::protocol::{
    edit,
    event::EventKind,
    json::{self, Malformed},
    spelling::NOT_PLAIN,
};

/// Can the event change anything that is kept?
pub fn wants(flags: &Flags, event: EventKind) -> bool {
    use EventKind as E;
    match event {
        E::GuildCreate | E::GuildUpdate | E::GuildDelete | E::UserUpdate => true,
        // They move `member_count`.
        E::GuildMemberAdd | E::GuildMemberRemove => true,
        E::GuildMemberUpdate => Kind::Members.is_on(flags),
        E::GuildMembersChunk => flags.members,
        E::PresenceUpdate => flags.presences,
        E::ChannelCreate
        | E::ChannelUpdate
        | E::ChannelDelete
        | E::ChannelPinsUpdate
        | E::VoiceChannelStatusUpdate
        | E::VoiceChannelStartTimeUpdate
        | E::MessageCreate
        | E::MessageDelete
        | E::MessageDeleteBulk => flags.channels,
        E::ThreadCreate
        | E::ThreadUpdate
        | E::ThreadDelete
        | E::ThreadListSync
        | E::ThreadMemberUpdate
        | E::ThreadMembersUpdate => flags.channels,
        E::GuildRoleCreate | E::GuildRoleUpdate => flags.roles,
        // Members lose it.
        E::GuildRoleDelete => flags.roles || Kind::Members.is_on(flags),
        E::GuildEmojisUpdate => flags.emojis,
        E::GuildStickersUpdate => flags.stickers,
        E::GuildScheduledEventCreate
        | E::GuildScheduledEventUpdate
        | E::GuildScheduledEventDelete
        | E::GuildScheduledEventUserAdd
        | E::GuildScheduledEventUserRemove => flags.scheduled_events,
        E::StageInstanceCreate | E::StageInstanceUpdate | E::StageInstanceDelete => flags.stage_instances,
        E::GuildSoundboardSoundCreate
        | E::GuildSoundboardSoundUpdate
        | E::GuildSoundboardSoundDelete
        | E::GuildSoundboardSoundsUpdate => true,
        E::VoiceStateUpdate => flags.voice_states || flags.members,
        _ => false,
    }
}

/// Is what is read of the event found in any spelling without needless escapes, except for what is packed? These are
/// frequent, or large; all others are brought into plain spelling before.
pub fn is_read_as_it_is(event: EventKind) -> bool {
    use EventKind as E;
    matches!(
        event,
        E::GuildCreate
            | E::GuildMemberAdd
            | E::GuildMemberUpdate
            | E::GuildMemberRemove
            | E::GuildMembersChunk
            | E::PresenceUpdate
            | E::VoiceStateUpdate
            | E::MessageCreate
            | E::MessageDelete
            | E::MessageDeleteBulk
    )
}

/// What an event did to a guild.
enum Effect {
    /// A snapshot shows it.
    Changed,
    /// A snapshot need not show it, or the event is more than a change of state: clients must get it in any case.
    Unchanged,
    /// It is about something that is not known.
    Unknown,
}

impl From<bool> for Effect {
    fn from(known: bool) -> Self {
        if known { Self::Changed } else { Self::Unknown }
    }
}

type Result<T = Effect> = std::result::Result<T, Malformed>;

/// Applies one event, which is one that is [wanted](wants). [`NOT_PLAIN`]: a part of it may have been applied, and all of it
/// has to be in plain spelling.
pub fn apply(cache: &mut Cache, event: EventKind, data: &[u8]) -> Result<Outcome> {
    match event {
        EventKind::GuildCreate => create(cache, data),
        EventKind::GuildDelete => Ok(delete(cache, data)),
        EventKind::UserUpdate => user_update(cache, data),
        _ => in_guild(cache, event, data),
    }
}

fn create(cache: &mut Cache, data: &[u8]) -> Result<Outcome> {
    let created = {
        let (_, mut parts) = cache.parts();
        guild::create(&mut parts.kit(), data)?
    };
    Ok(Outcome::changed(match created {
        Created::Guild(id, guild) => {
            cache.insert(id, *guild);
            id
        }
        Created::Down(id) => {
            cache.guild_is_down(id);
            id
        }
    }))
}

fn delete(cache: &mut Cache, data: &[u8]) -> Outcome {
    let Some(id) = edit::id_at(data, &["id"]) else { return Outcome::ignored(None, "a guild without id") };
    if !cache.guilds.contains_key(&id) {
        return Outcome::ignored(Some(id), "an unknown guild");
    }
    if json::get(data, "unavailable") == Some(b"true") {
        cache.guild_is_down(id);
    } else {
        cache.remove(id);
    }
    Outcome::changed(id)
}

/// Changes what READY says, not any guild: its members have their own events for it (docs: Gateway, Caveats).
fn user_update(cache: &mut Cache, data: &[u8]) -> Result<Outcome> {
    let merged = edit::merge(cache.user.as_deref().unwrap_or(b"{}"), data, &[])?;
    if serde_json::from_slice::<serde::de::IgnoredAny>(&merged).is_err() {
        return Err(Malformed { what: "not JSON", at: 0 });
    }
    cache.user = Some(merged.into());
    Ok(Outcome::unchanged(None))
}

/// The guild that an event is about.
fn guild_of(event: EventKind, data: &[u8]) -> Option<u64> {
    let key = if event == EventKind::GuildUpdate { "id" } else { "guild_id" };
    let guess = if key == "guild_id" { scan::outer_guild_id(data) } else { None };
    guess.or_else(|| json::get(data, key).and_then(json::parse_id))
}

fn in_guild(cache: &mut Cache, event: EventKind, data: &[u8]) -> Result<Outcome> {
    use EventKind as E;
    let Some(id) = guild_of(event, data) else {
        return Ok(match event {
            // Those of direct messages belong to no guild.
            E::MessageCreate | E::MessageDelete | E::MessageDeleteBulk | E::ChannelPinsUpdate | E::VoiceStateUpdate => {
                Outcome::unchanged(None)
            }
            _ => Outcome::ignored(None, "an event of no guild"),
        });
    };
    let (guilds, mut parts) = cache.parts();
    let Some(guild) = guilds.get_mut(&id).filter(|guild| guild.is_available()) else {
        return Ok(match event {
            E::MessageCreate | E::MessageDelete | E::MessageDeleteBulk => Outcome::unchanged(Some(id)),
            _ => Outcome::ignored(Some(id), "an unknown or unavailable guild"),
        });
    };
    let mut kit = parts.kit();
    guild.continue_sweep(&mut kit);
    let mut change = Change { guild, kit: &mut kit, data };
    let effect = match event {
        E::GuildUpdate => change.guild.update(change.kit, data).map(|()| Effect::Changed),
        E::GuildMemberAdd => change.member_add(),
        E::GuildMemberUpdate => change.member_update(),
        E::GuildMemberRemove => change.member_remove(),
        E::GuildMembersChunk => change.members_chunk(),
        E::PresenceUpdate => change.presence_update(),
        E::VoiceStateUpdate => change.voice_state(),
        E::ChannelCreate | E::ChannelUpdate => change.merge(Kind::Channels, &["guild_id"]),
        E::ChannelDelete => change.channel_delete(),
        E::ChannelPinsUpdate => change.pins_update(),
        E::VoiceChannelStatusUpdate => change.channel_info("status"),
        E::VoiceChannelStartTimeUpdate => change.channel_info("voice_start_time"),
        E::MessageCreate => change.message(),
        E::MessageDelete => change.message_deleted(),
        E::MessageDeleteBulk => change.messages_deleted(),
        E::ThreadCreate => change.thread_create(),
        E::ThreadUpdate => change.thread_update(),
        E::ThreadDelete => change.forget(Kind::Threads, "id"),
        E::ThreadListSync => change.thread_list_sync(),
        E::ThreadMemberUpdate => change.thread_member_update(),
        E::ThreadMembersUpdate => change.thread_members_update(),
        E::GuildRoleCreate | E::GuildRoleUpdate => change.role(),
        E::GuildRoleDelete => change.role_delete(),
        E::GuildEmojisUpdate => change.replace_all(Kind::Emojis),
        E::GuildStickersUpdate => change.replace_all(Kind::Stickers),
        E::GuildScheduledEventCreate | E::GuildScheduledEventUpdate => change.scheduled_event(),
        E::GuildScheduledEventDelete => change.forget(Kind::ScheduledEvents, "id"),
        E::GuildScheduledEventUserAdd => change.scheduled_event_users(1),
        E::GuildScheduledEventUserRemove => change.scheduled_event_users(-1),
        E::StageInstanceCreate | E::StageInstanceUpdate => change.merge(Kind::StageInstances, &[]),
        E::StageInstanceDelete => change.forget(Kind::StageInstances, "id"),
        E::GuildSoundboardSoundCreate | E::GuildSoundboardSoundUpdate => change.merge(Kind::SoundboardSounds, &[]),
        E::GuildSoundboardSoundDelete => change.forget(Kind::SoundboardSounds, "sound_id"),
        E::GuildSoundboardSoundsUpdate => change.sounds_update(),
        _ => Ok(Effect::Unchanged),
    };
    if matches!(effect, Err(Malformed { what: NOT_PLAIN, .. })) {
        return effect.map(|_| Outcome::unchanged(None));
    }
    if matches!(event, E::GuildMemberAdd | E::GuildMemberRemove) && effect.is_err() {
        guild.membership.doubt();
    }
    Ok(match effect {
        Ok(Effect::Changed) => Outcome::changed(id),
        Ok(Effect::Unchanged) => Outcome::unchanged(Some(id)),
        Ok(Effect::Unknown) => Outcome::ignored(Some(id), "about something unknown"),
        Err(malformed) => Outcome::ignored(Some(id), malformed.what),
    })
}

/// An event, and the guild that it changes.
struct Change<'a, 'k> {
    guild: &'a mut Guild,
    kit: &'a mut Kit<'k>,
    data: &'a [u8],
}

impl<'a> Change<'a, '_> {
    fn get(&self, key: &str) -> Option<&'a [u8]> {
        json::get(self.data, key)
    }

    fn id(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(json::parse_id)
    }

    /// The elements of an array of the event; none when it is not there.
    fn elements(&self, key: &str) -> Result<Vec<&'a [u8]>> {
        self.get(key).map_or(Ok(Vec::new()), json::elements)
    }

    /// The event is an entity, which goes over what is known of it.
    fn merge(&mut self, kind: Kind, leave_out: &'static [&'static str]) -> Result {
        self.merge_entity(kind, self.data, leave_out)
    }

    fn merge_entity(&mut self, kind: Kind, entity: &[u8], leave_out: &'static [&'static str]) -> Result {
        let shape = self.kit.shape(kind, leave_out);
        Ok(self.guild.merge(self.kit, kind, &shape, entity)?.is_some().into())
    }

    /// The event names an entity that is no more.
    fn forget(&mut self, kind: Kind, key: &str) -> Result {
        Ok(self.id(key).is_some_and(|id| self.guild.remove(self.kit, kind, id)).into())
    }

    /// The event brings all entities of a kind anew.
    fn replace_all(&mut self, kind: Kind) -> Result {
        let Some(array) = self.get(kind.name()) else { return Ok(Effect::Unknown) };
        self.guild.replace_all(self.kit, kind, array)?;
        Ok(Effect::Changed)
    }
}
