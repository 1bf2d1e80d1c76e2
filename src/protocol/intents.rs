//! Gateway intents: the groups of events that a session subscribes to (docs: Gateway, Gateway Intents).
//!
//! Bits without a name here are kept as they are, so intents that Discord adds later work too.

/// A set of intent bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Intents(pub u64);

impl Intents {
    /// Guilds, channels, roles, threads, stages.
    pub const GUILDS: Self = Self(1 << 0);
    /// Members (privileged).
    pub const GUILD_MEMBERS: Self = Self(1 << 1);
    /// Bans and the audit log.
    pub const GUILD_MODERATION: Self = Self(1 << 2);
    /// Emojis, stickers, soundboard.
    pub const GUILD_EXPRESSIONS: Self = Self(1 << 3);
    /// Integrations.
    pub const GUILD_INTEGRATIONS: Self = Self(1 << 4);
    /// Webhooks.
    pub const GUILD_WEBHOOKS: Self = Self(1 << 5);
    /// Invites.
    pub const GUILD_INVITES: Self = Self(1 << 6);
    /// Voice states.
    pub const GUILD_VOICE_STATES: Self = Self(1 << 7);
    /// Presences (privileged).
    pub const GUILD_PRESENCES: Self = Self(1 << 8);
    /// Messages in guilds.
    pub const GUILD_MESSAGES: Self = Self(1 << 9);
    /// Reactions in guilds.
    pub const GUILD_MESSAGE_REACTIONS: Self = Self(1 << 10);
    /// Typing in guilds.
    pub const GUILD_MESSAGE_TYPING: Self = Self(1 << 11);
    /// Messages in DMs.
    pub const DIRECT_MESSAGES: Self = Self(1 << 12);
    /// Reactions in DMs.
    pub const DIRECT_MESSAGE_REACTIONS: Self = Self(1 << 13);
    /// Typing in DMs.
    pub const DIRECT_MESSAGE_TYPING: Self = Self(1 << 14);
    /// Scheduled events.
    pub const GUILD_SCHEDULED_EVENTS: Self = Self(1 << 16);
    /// Rules of auto moderation.
    pub const AUTO_MODERATION_CONFIGURATION: Self = Self(1 << 20);
    /// Actions of auto moderation.
    pub const AUTO_MODERATION_EXECUTION: Self = Self(1 << 21);
    /// Polls in guilds.
    pub const GUILD_MESSAGE_POLLS: Self = Self(1 << 24);
    /// Polls in DMs.
    pub const DIRECT_MESSAGE_POLLS: Self = Self(1 << 25);
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

    /// The bits of this set that `other` does not have.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}
