//! The kinds of entities: which arrays of a GUILD_CREATE the cache stores object by object (docs: Gateway Events, Guild
//! Create Extra Fields; Guild, Guild Structure).

use super::{
    codec::{IdPath, Shape},
    flags::Flags,
};

/// One of these arrays. Its objects are the *entities* of that kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Channels,
    Threads,
    Members,
    Presences,
    Roles,
    Emojis,
    Stickers,
    VoiceStates,
    ScheduledEvents,
    StageInstances,
    SoundboardSounds,
}

impl Kind {
    /// Number of kinds.
    pub const COUNT: usize = 11;

    /// All kinds.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Channels,
        Self::Threads,
        Self::Members,
        Self::Presences,
        Self::Roles,
        Self::Emojis,
        Self::Stickers,
        Self::VoiceStates,
        Self::ScheduledEvents,
        Self::StageInstances,
        Self::SoundboardSounds,
    ];

    /// The name of the array in GUILD_CREATE.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Channels => "channels",
            Self::Threads => "threads",
            Self::Members => "members",
            Self::Presences => "presences",
            Self::Roles => "roles",
            Self::Emojis => "emojis",
            Self::Stickers => "stickers",
            Self::VoiceStates => "voice_states",
            Self::ScheduledEvents => "guild_scheduled_events",
            Self::StageInstances => "stage_instances",
            Self::SoundboardSounds => "soundboard_sounds",
        }
    }

    /// The kind whose array has this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    /// Where an entity carries its id.
    pub const fn id(self) -> IdPath {
        match self {
            Self::Members | Self::Presences => IdPath::User,
            Self::VoiceStates => IdPath::At("user_id"),
            Self::SoundboardSounds => IdPath::At("sound_id"),
            _ => IdPath::At("id"),
        }
    }

    /// Whether any entity of this kind is cached. Soundboard sounds have no flag: they are few, and always cached.
    pub fn is_on(self, flags: &Flags) -> bool {
        match self {
            Self::Channels | Self::Threads => flags.channels,
            Self::Members => flags.members || flags.current_member || flags.voice_states,
            Self::Presences => flags.presences,
            Self::Roles => flags.roles,
            Self::Emojis => flags.emojis,
            Self::Stickers => flags.stickers,
            Self::VoiceStates => flags.voice_states,
            Self::ScheduledEvents => flags.scheduled_events,
            Self::StageInstances => flags.stage_instances,
            Self::SoundboardSounds => true,
        }
    }

    /// Whether GUILD_UPDATE carries the whole array, because it is part of the guild object.
    pub const fn is_of_guild_object(self) -> bool {
        matches!(self, Self::Roles | Self::Emojis | Self::Stickers)
    }

    /// How to encode an entity of this kind as it stands in GUILD_CREATE.
    pub fn shape(self, flags: &Flags) -> Shape {
        let bare_user = !flags.users && self == Self::Presences;
        Shape { bare_user, ..Shape::of(self.id()) }
    }
}
