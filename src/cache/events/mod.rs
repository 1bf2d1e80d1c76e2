//! What each event changes in the cache (docs: Gateway Events, Receive Events), by Discord's rules: a partial object is
//! merged over the stored one, an entity takes along what belongs to it, and what GUILD_CREATE does not carry is not
//! stored.
//!
//! Some keys of GUILD_CREATE change by events that do not name them. The cache derives them as a client would:
//! `member_count` and with it `large`, `last_message_id`, `message_count` and `total_message_sent` of threads,
//! `user_count` of scheduled events, and the roles of members when a role is deleted.
//!
//! An event that is not handled here changes nothing that GUILD_CREATE shows: reactions, typing, bans, invites,
//! integrations, webhooks, the audit log, auto moderation, entitlements and so on. A message changes only the keys
//! above. CHANNEL_INFO and SOUNDBOARD_SOUNDS repeat what other events have said.

mod channels;
mod guild_id;
mod people;
mod resources;

use super::{
    Cache, Flags, Ignored, Outcome,
    codec::EncodeError,
    guild::{
        Context, Guild,
        create::{Created, create},
    },
    kind::Kind,
};
use crate::protocol::{
    edit,
    event::EventKind,
    json::{self, Malformed},
};

/// Whether an event of this type can change anything that is cached with these flags.
pub(super) fn wants(flags: &Flags, event: EventKind) -> bool {
    use EventKind as E;
    match event {
        E::GuildCreate | E::GuildUpdate | E::GuildDelete | E::UserUpdate => true,
        // Joins and leaves change `member_count`, whatever the flags are.
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
        // The members who had the role lose it.
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

/// Whether an event of this type can be applied to data whose spelling has not been checked, as long as the data has no
/// needless escapes. The code for these events finds keys in any other spelling, and leaves it to the strict encoder to
/// notice objects that are not in plain spelling. These events are frequent or large, so checking the spelling of the
/// whole data first would be slow.
pub(super) fn can_skip_spelling_check(event: EventKind) -> bool {
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
    /// The event changed the guild, and a snapshot shows all that it says.
    Changed,
    /// A snapshot does not show all that the event says. A client has to get the event even if its snapshot is newer.
    Unchanged,
    /// The event is about an entity that the cache does not know.
    Unknown,
}

impl From<bool> for Effect {
    fn from(known: bool) -> Self {
        if known { Self::Changed } else { Self::Unknown }
    }
}

type Result<T = Effect> = std::result::Result<T, EncodeError>;

/// Applies an event that the cache [wants].
///
/// # Errors
///
/// [`EncodeError::NotPlain`] when a strict encoder finds that the data is not in plain spelling. A part of the event
/// may have been applied then; the caller has to apply the whole event again in plain spelling.
pub(super) fn apply(cache: &mut Cache, event: EventKind, data: &[u8]) -> Result<Outcome> {
    match event {
        EventKind::GuildCreate => guild_create(cache, data),
        EventKind::GuildDelete => Ok(guild_delete(cache, data)),
        EventKind::UserUpdate => user_update(cache, data),
        _ => in_guild(cache, event, data),
    }
}

fn guild_create(cache: &mut Cache, data: &[u8]) -> Result<Outcome> {
    let created = create(&mut cache.split().1, data)?;
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

/// The bot has left a guild, or the guild has an outage.
fn guild_delete(cache: &mut Cache, data: &[u8]) -> Outcome {
    let Some(id) = edit::id_at(data, &["id"]) else { return Outcome::ignored(None, Ignored::NoGuild) };
    if !cache.guilds.contains_key(&id) {
        return Outcome::ignored(Some(id), Ignored::UnknownGuild);
    }
    if json::get(data, "unavailable") == Some(b"true") {
        cache.guild_is_down(id);
    } else {
        cache.remove(id);
    }
    Outcome::changed(id)
}

/// The bot's own user has changed. This changes what READY says, and no guild: for the bot's members there are
/// GUILD_MEMBER_UPDATEs (docs: Gateway, Caveats).
fn user_update(cache: &mut Cache, data: &[u8]) -> Result<Outcome> {
    let merged = edit::merge(cache.user.as_deref().unwrap_or(b"{}"), data, &[])?;
    if serde_json::from_slice::<serde::de::IgnoredAny>(&merged).is_err() {
        return Err(Malformed { what: "not JSON", at: 0 }.into());
    }
    cache.user = Some(merged.into());
    Ok(Outcome::unchanged(None))
}

/// The id of the guild that an event is about.
fn guild_of(event: EventKind, data: &[u8]) -> Option<u64> {
    let key = if event == EventKind::GuildUpdate { "id" } else { "guild_id" };
    let guess = if key == "guild_id" { guild_id::outer_guild_id(data) } else { None };
    guess.or_else(|| json::get(data, key).and_then(json::parse_id))
}

/// Applies an event that is about one guild.
fn in_guild(cache: &mut Cache, event: EventKind, data: &[u8]) -> Result<Outcome> {
    use EventKind as E;
    let Some(id) = guild_of(event, data) else {
        return Ok(match event {
            // In direct messages these events have no guild.
            E::MessageCreate | E::MessageDelete | E::MessageDeleteBulk | E::ChannelPinsUpdate | E::VoiceStateUpdate => {
                Outcome::unchanged(None)
            }
            _ => Outcome::ignored(None, Ignored::NoGuild),
        });
    };
    let (guilds, mut context) = cache.split();
    let Some(guild) = guilds.get_mut(&id).filter(|guild| guild.is_available()) else {
        return Ok(match event {
            E::MessageCreate | E::MessageDelete | E::MessageDeleteBulk => Outcome::unchanged(Some(id)),
            _ => Outcome::ignored(Some(id), Ignored::UnknownGuild),
        });
    };
    guild.continue_role_removal(&mut context);
    let mut change = Change { guild, context: &mut context, data };
    let effect = match event {
        E::GuildUpdate => change.guild.update(change.context, data).map(|()| Effect::Changed),
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
        E::MessageCreate => change.message_create(),
        E::MessageDelete => change.message_delete(),
        E::MessageDeleteBulk => change.message_delete_bulk(),
        E::ThreadCreate => change.thread_create(),
        E::ThreadUpdate => change.thread_update(),
        E::ThreadDelete => change.remove(Kind::Threads, "id"),
        E::ThreadListSync => change.thread_list_sync(),
        E::ThreadMemberUpdate => change.thread_member_update(),
        E::ThreadMembersUpdate => change.thread_members_update(),
        E::GuildRoleCreate | E::GuildRoleUpdate => change.role(),
        E::GuildRoleDelete => change.role_delete(),
        E::GuildEmojisUpdate => change.replace_all(Kind::Emojis),
        E::GuildStickersUpdate => change.replace_all(Kind::Stickers),
        E::GuildScheduledEventCreate | E::GuildScheduledEventUpdate => change.scheduled_event(),
        E::GuildScheduledEventDelete => change.remove(Kind::ScheduledEvents, "id"),
        E::GuildScheduledEventUserAdd => change.scheduled_event_users(1),
        E::GuildScheduledEventUserRemove => change.scheduled_event_users(-1),
        E::StageInstanceCreate | E::StageInstanceUpdate => change.merge(Kind::StageInstances, &[]),
        E::StageInstanceDelete => change.remove(Kind::StageInstances, "id"),
        E::GuildSoundboardSoundCreate | E::GuildSoundboardSoundUpdate => change.merge(Kind::SoundboardSounds, &[]),
        E::GuildSoundboardSoundDelete => change.remove(Kind::SoundboardSounds, "sound_id"),
        E::GuildSoundboardSoundsUpdate => change.sounds_update(),
        _ => Ok(Effect::Unchanged),
    };
    Ok(match effect {
        Ok(Effect::Changed) => Outcome::changed(id),
        Ok(Effect::Unchanged) => Outcome::unchanged(Some(id)),
        Ok(Effect::Unknown) => Outcome::ignored(Some(id), Ignored::UnknownEntity),
        Err(EncodeError::NotPlain) => return Err(EncodeError::NotPlain),
        Err(EncodeError::Malformed(malformed)) => {
            if matches!(event, E::GuildMemberAdd | E::GuildMemberRemove) {
                // A member has joined or left, and the cache cannot tell which.
                guild.membership.doubt();
            }
            Outcome::ignored(Some(id), Ignored::Malformed(malformed.what))
        }
    })
}

/// An event that is being applied to a guild.
struct Change<'a, 'c> {
    guild: &'a mut Guild,
    context: &'a mut Context<'c>,
    data: &'a [u8],
}

impl<'a> Change<'a, '_> {
    /// The value of a top-level key of the event.
    fn get(&self, key: &str) -> Option<&'a [u8]> {
        json::get(self.data, key)
    }

    /// The id at a top-level key of the event.
    fn id(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(json::parse_id)
    }

    /// The elements of an array at a top-level key; none when the event does not have the key.
    fn elements(&self, key: &str) -> Result<Vec<&'a [u8]>> {
        Ok(self.get(key).map_or(Ok(Vec::new()), json::elements)?)
    }

    /// Merges the event's data, which is an entity, over the stored entity. `leave_out` names keys that the event has,
    /// and that entities in GUILD_CREATE do not have.
    fn merge(&mut self, kind: Kind, leave_out: &'static [&'static str]) -> Result {
        self.merge_entity(kind, self.data, leave_out)
    }

    /// Merges an entity over the stored one.
    fn merge_entity(&mut self, kind: Kind, entity: &[u8], leave_out: &'static [&'static str]) -> Result {
        let shape = self.context.shape(kind, leave_out);
        Ok(self.guild.merge(self.context, kind, &shape, entity)?.is_some().into())
    }

    /// Removes the entity whose id is at a key of the event.
    fn remove(&mut self, kind: Kind, key: &str) -> Result {
        Ok(self.id(key).is_some_and(|id| self.guild.remove(self.context, kind, id)).into())
    }

    /// Replaces all entities of a kind by those of the event.
    fn replace_all(&mut self, kind: Kind) -> Result {
        let Some(array) = self.get(kind.name()) else { return Ok(Effect::Unknown) };
        self.guild.replace_all(self.context, kind, array)?;
        Ok(Effect::Changed)
    }
}
