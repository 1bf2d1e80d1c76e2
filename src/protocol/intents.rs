//! Gateway intents: the groups of events that a session subscribes to (docs: Gateway, Gateway Intents).
//!
//! Bits without a name here are kept as they are, so intents that Discord adds later work too.

use twilight_model::gateway::Intents as Known;

/// A set of intent bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Intents(pub u64);

impl Intents {
    /// Guilds, channels, roles, threads, stages.
    pub const GUILDS: Self = Self(Known::GUILDS.bits());
    /// Members (privileged).
    pub const GUILD_MEMBERS: Self = Self(Known::GUILD_MEMBERS.bits());
    /// Bans and the audit log.
    pub const GUILD_MODERATION: Self = Self(Known::GUILD_MODERATION.bits());
    /// Emojis, stickers, soundboard.
    pub const GUILD_EXPRESSIONS: Self = Self(Known::GUILD_EMOJIS_AND_STICKERS.bits());
    /// Integrations.
    pub const GUILD_INTEGRATIONS: Self = Self(Known::GUILD_INTEGRATIONS.bits());
    /// Webhooks.
    pub const GUILD_WEBHOOKS: Self = Self(Known::GUILD_WEBHOOKS.bits());
    /// Invites.
    pub const GUILD_INVITES: Self = Self(Known::GUILD_INVITES.bits());
    /// Voice states.
    pub const GUILD_VOICE_STATES: Self = Self(Known::GUILD_VOICE_STATES.bits());
    /// Presences (privileged).
    pub const GUILD_PRESENCES: Self = Self(Known::GUILD_PRESENCES.bits());
    /// Messages in guilds.
    pub const GUILD_MESSAGES: Self = Self(Known::GUILD_MESSAGES.bits());
    /// Reactions in guilds.
    pub const GUILD_MESSAGE_REACTIONS: Self = Self(Known::GUILD_MESSAGE_REACTIONS.bits());
    /// Typing in guilds.
    pub const GUILD_MESSAGE_TYPING: Self = Self(Known::GUILD_MESSAGE_TYPING.bits());
    /// Messages in DMs.
    pub const DIRECT_MESSAGES: Self = Self(Known::DIRECT_MESSAGES.bits());
    /// Reactions in DMs.
    pub const DIRECT_MESSAGE_REACTIONS: Self = Self(Known::DIRECT_MESSAGE_REACTIONS.bits());
    /// Typing in DMs.
    pub const DIRECT_MESSAGE_TYPING: Self = Self(Known::DIRECT_MESSAGE_TYPING.bits());
    /// Scheduled events.
    pub const GUILD_SCHEDULED_EVENTS: Self = Self(Known::GUILD_SCHEDULED_EVENTS.bits());
    /// Rules of auto moderation.
    pub const AUTO_MODERATION_CONFIGURATION: Self = Self(Known::AUTO_MODERATION_CONFIGURATION.bits());
    /// Actions of auto moderation.
    pub const AUTO_MODERATION_EXECUTION: Self = Self(Known::AUTO_MODERATION_EXECUTION.bits());
    /// Polls in guilds.
    pub const GUILD_MESSAGE_POLLS: Self = Self(Known::GUILD_MESSAGE_POLLS.bits());
    /// Polls in DMs.
    pub const DIRECT_MESSAGE_POLLS: Self = Self(Known::DIRECT_MESSAGE_POLLS.bits());
    /// Every bit. A session with these intents receives every event.
    pub const ALL: Self = Self(u64::MAX);

    /// Says whether the two sets have a bit in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The union of both sets.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits that both sets have.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The bits of this set that `other` does not have.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}
