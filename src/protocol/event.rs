//! The types of dispatch events, and the intents that a session needs to receive each of them (docs: Gateway, List of
//! Intents).
//!
//! Owns one table: for each event type its name, the intents of which any one suffices for an event of a guild, and
//! the intents for an event outside of guilds. An event type that is not in the table is one that Discord has added
//! since; every session receives it, because a surplus event does less harm than a lost one.

use super::{SessionKey, intents::Intents, json::string};

/// The intents that entitle a session to an event type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audience {
    /// Any one of these suffices for an event of a guild. Empty: every session receives it.
    pub guild: Intents,
    /// Any one of these suffices for an event outside of guilds. Empty: every session receives it.
    pub direct: Intents,
}

/// Whether events of one type are sent to one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Every event of the type is sent.
    Always,
    /// No event of the type is sent.
    Never,
    /// Only events with a `guild_id` are sent.
    InGuild,
    /// Only events without a `guild_id` are sent.
    Direct,
}

impl Audience {
    /// Decides for a session with these intents. The caller has to look for a `guild_id` in the event only when the
    /// answer is [`Delivery::InGuild`] or [`Delivery::Direct`].
    pub fn delivery(self, intents: Intents) -> Delivery {
        let has = |needed: Intents| needed.0 == 0 || intents.intersects(needed);
        match (has(self.guild), has(self.direct)) {
            (true, true) => Delivery::Always,
            (false, false) => Delivery::Never,
            (true, false) => Delivery::InGuild,
            (false, true) => Delivery::Direct,
        }
    }
}

/// What the log stores about an event besides its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The event type.
    pub kind: EventKind,
    /// The guild whose cached state the event changed. A snapshot of that guild that is taken later already contains
    /// the change.
    pub changed_guild: Option<u64>,
    /// The key of the only session that receives the event; `None`: all sessions whose intents cover it.
    pub recipient: Option<SessionKey>,
}

macro_rules! events {
    ($($variant:ident $name:literal [$($guild:ident)*] $([$($direct:ident)*])?;)*) => {
        /// The type of a dispatch event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        #[allow(missing_docs)] // each is the event of that name in Discord's docs
        pub enum EventKind {
            $($variant,)*
            /// An event type that this table does not have.
            Other,
        }

        impl EventKind {
            /// Every type, in the order of the discriminants.
            pub const ALL: &[Self] = &[$(Self::$variant,)* Self::Other];

            /// Finds the type for the text of `t`, which may contain escapes.
            pub fn from_name(name: &[u8]) -> Self {
                match std::str::from_utf8(name).unwrap_or_default() {
                    $($name => Self::$variant,)*
                    // JSON may escape any letter of a string.
                    _ if name.contains(&b'\\') => {
                        let plain = string::unescape(name).unwrap_or_default();
                        if plain.contains('\\') { Self::Other } else { Self::from_name(plain.as_bytes()) }
                    }
                    _ => Self::Other,
                }
            }

            /// The name of the event type as Discord writes it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other => "OTHER",
                }
            }

            /// The intents that entitle a session to events of this type.
            pub fn audience(self) -> Audience {
                match self {
                    $(Self::$variant => {
                        let guild = Intents(0 $(| Intents::$guild.0)*);
                        #[allow(unused_variables)]
                        let direct = guild;
                        $(let direct = Intents(0 $(| Intents::$direct.0)*);)?
                        Audience { guild, direct }
                    })*
                    Self::Other => Audience { guild: Intents(0), direct: Intents(0) },
                }
            }
        }
    };
}

events! {
    Ready "READY" [];
    Resumed "RESUMED" [];
    ApplicationCommandPermissionsUpdate "APPLICATION_COMMAND_PERMISSIONS_UPDATE" [];
    AutoModerationRuleCreate "AUTO_MODERATION_RULE_CREATE" [AUTO_MODERATION_CONFIGURATION];
    AutoModerationRuleUpdate "AUTO_MODERATION_RULE_UPDATE" [AUTO_MODERATION_CONFIGURATION];
    AutoModerationRuleDelete "AUTO_MODERATION_RULE_DELETE" [AUTO_MODERATION_CONFIGURATION];
    AutoModerationActionExecution "AUTO_MODERATION_ACTION_EXECUTION" [AUTO_MODERATION_EXECUTION];
    ChannelCreate "CHANNEL_CREATE" [GUILDS];
    ChannelUpdate "CHANNEL_UPDATE" [GUILDS];
    ChannelDelete "CHANNEL_DELETE" [GUILDS];
    ChannelInfo "CHANNEL_INFO" [GUILDS];
    ChannelPinsUpdate "CHANNEL_PINS_UPDATE" [GUILDS] [DIRECT_MESSAGES];
    ThreadCreate "THREAD_CREATE" [GUILDS];
    ThreadUpdate "THREAD_UPDATE" [GUILDS];
    ThreadDelete "THREAD_DELETE" [GUILDS];
    ThreadListSync "THREAD_LIST_SYNC" [GUILDS];
    ThreadMemberUpdate "THREAD_MEMBER_UPDATE" [GUILDS];
    ThreadMembersUpdate "THREAD_MEMBERS_UPDATE" [GUILDS GUILD_MEMBERS];
    EntitlementCreate "ENTITLEMENT_CREATE" [];
    EntitlementUpdate "ENTITLEMENT_UPDATE" [];
    EntitlementDelete "ENTITLEMENT_DELETE" [];
    GuildCreate "GUILD_CREATE" [GUILDS];
    GuildUpdate "GUILD_UPDATE" [GUILDS];
    GuildDelete "GUILD_DELETE" [GUILDS];
    GuildAuditLogEntryCreate "GUILD_AUDIT_LOG_ENTRY_CREATE" [GUILD_MODERATION];
    GuildBanAdd "GUILD_BAN_ADD" [GUILD_MODERATION];
    GuildBanRemove "GUILD_BAN_REMOVE" [GUILD_MODERATION];
    GuildEmojisUpdate "GUILD_EMOJIS_UPDATE" [GUILD_EXPRESSIONS];
    GuildStickersUpdate "GUILD_STICKERS_UPDATE" [GUILD_EXPRESSIONS];
    GuildIntegrationsUpdate "GUILD_INTEGRATIONS_UPDATE" [GUILD_INTEGRATIONS];
    GuildMemberAdd "GUILD_MEMBER_ADD" [GUILD_MEMBERS];
    GuildMemberRemove "GUILD_MEMBER_REMOVE" [GUILD_MEMBERS];
    // Without the intent a bot still receives the updates of its own member: the shard reads the member's id in the
    // event.
    GuildMemberUpdate "GUILD_MEMBER_UPDATE" [GUILD_MEMBERS];
    GuildMembersChunk "GUILD_MEMBERS_CHUNK" [];
    GuildRoleCreate "GUILD_ROLE_CREATE" [GUILDS];
    GuildRoleUpdate "GUILD_ROLE_UPDATE" [GUILDS];
    GuildRoleDelete "GUILD_ROLE_DELETE" [GUILDS];
    GuildScheduledEventCreate "GUILD_SCHEDULED_EVENT_CREATE" [GUILD_SCHEDULED_EVENTS];
    GuildScheduledEventUpdate "GUILD_SCHEDULED_EVENT_UPDATE" [GUILD_SCHEDULED_EVENTS];
    GuildScheduledEventDelete "GUILD_SCHEDULED_EVENT_DELETE" [GUILD_SCHEDULED_EVENTS];
    GuildScheduledEventUserAdd "GUILD_SCHEDULED_EVENT_USER_ADD" [GUILD_SCHEDULED_EVENTS];
    GuildScheduledEventUserRemove "GUILD_SCHEDULED_EVENT_USER_REMOVE" [GUILD_SCHEDULED_EVENTS];
    GuildSoundboardSoundCreate "GUILD_SOUNDBOARD_SOUND_CREATE" [GUILD_EXPRESSIONS];
    GuildSoundboardSoundUpdate "GUILD_SOUNDBOARD_SOUND_UPDATE" [GUILD_EXPRESSIONS];
    GuildSoundboardSoundDelete "GUILD_SOUNDBOARD_SOUND_DELETE" [GUILD_EXPRESSIONS];
    GuildSoundboardSoundsUpdate "GUILD_SOUNDBOARD_SOUNDS_UPDATE" [GUILD_EXPRESSIONS];
    SoundboardSounds "SOUNDBOARD_SOUNDS" [];
    IntegrationCreate "INTEGRATION_CREATE" [GUILD_INTEGRATIONS];
    IntegrationUpdate "INTEGRATION_UPDATE" [GUILD_INTEGRATIONS];
    IntegrationDelete "INTEGRATION_DELETE" [GUILD_INTEGRATIONS];
    InteractionCreate "INTERACTION_CREATE" [];
    InviteCreate "INVITE_CREATE" [GUILD_INVITES];
    InviteDelete "INVITE_DELETE" [GUILD_INVITES];
    MessageCreate "MESSAGE_CREATE" [GUILD_MESSAGES] [DIRECT_MESSAGES];
    MessageUpdate "MESSAGE_UPDATE" [GUILD_MESSAGES] [DIRECT_MESSAGES];
    MessageDelete "MESSAGE_DELETE" [GUILD_MESSAGES] [DIRECT_MESSAGES];
    MessageDeleteBulk "MESSAGE_DELETE_BULK" [GUILD_MESSAGES];
    MessageReactionAdd "MESSAGE_REACTION_ADD" [GUILD_MESSAGE_REACTIONS] [DIRECT_MESSAGE_REACTIONS];
    MessageReactionRemove "MESSAGE_REACTION_REMOVE" [GUILD_MESSAGE_REACTIONS] [DIRECT_MESSAGE_REACTIONS];
    MessageReactionRemoveAll "MESSAGE_REACTION_REMOVE_ALL" [GUILD_MESSAGE_REACTIONS] [DIRECT_MESSAGE_REACTIONS];
    MessageReactionRemoveEmoji "MESSAGE_REACTION_REMOVE_EMOJI" [GUILD_MESSAGE_REACTIONS] [DIRECT_MESSAGE_REACTIONS];
    MessagePollVoteAdd "MESSAGE_POLL_VOTE_ADD" [GUILD_MESSAGE_POLLS] [DIRECT_MESSAGE_POLLS];
    MessagePollVoteRemove "MESSAGE_POLL_VOTE_REMOVE" [GUILD_MESSAGE_POLLS] [DIRECT_MESSAGE_POLLS];
    PresenceUpdate "PRESENCE_UPDATE" [GUILD_PRESENCES];
    RateLimited "RATE_LIMITED" [];
    StageInstanceCreate "STAGE_INSTANCE_CREATE" [GUILDS];
    StageInstanceUpdate "STAGE_INSTANCE_UPDATE" [GUILDS];
    StageInstanceDelete "STAGE_INSTANCE_DELETE" [GUILDS];
    SubscriptionCreate "SUBSCRIPTION_CREATE" [];
    SubscriptionUpdate "SUBSCRIPTION_UPDATE" [];
    SubscriptionDelete "SUBSCRIPTION_DELETE" [];
    TypingStart "TYPING_START" [GUILD_MESSAGE_TYPING] [DIRECT_MESSAGE_TYPING];
    UserUpdate "USER_UPDATE" [];
    VoiceChannelEffectSend "VOICE_CHANNEL_EFFECT_SEND" [GUILD_VOICE_STATES];
    VoiceChannelStartTimeUpdate "VOICE_CHANNEL_START_TIME_UPDATE" [GUILDS];
    VoiceChannelStatusUpdate "VOICE_CHANNEL_STATUS_UPDATE" [GUILDS];
    VoiceServerUpdate "VOICE_SERVER_UPDATE" [];
    VoiceStateUpdate "VOICE_STATE_UPDATE" [GUILD_VOICE_STATES];
    WebhooksUpdate "WEBHOOKS_UPDATE" [GUILD_WEBHOOKS];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds_agree() {
        for &kind in EventKind::ALL {
            assert_eq!(EventKind::from_name(kind.name().as_bytes()), kind);
            assert_eq!(EventKind::ALL[kind as usize], kind);
        }
        assert_eq!(EventKind::from_name(b"SOMETHING_NEW"), EventKind::Other);
        assert_eq!(EventKind::from_name(br"READ\u0059"), EventKind::Ready);
        assert_eq!(EventKind::from_name(br"READ\\u0059"), EventKind::Other);
    }

    #[test]
    fn the_split_of_guild_and_direct_messages() {
        let message = EventKind::MessageCreate.audience();
        assert_eq!(message.delivery(Intents::GUILD_MESSAGES), Delivery::InGuild);
        assert_eq!(message.delivery(Intents::DIRECT_MESSAGES), Delivery::Direct);
        assert_eq!(message.delivery(Intents::GUILD_MESSAGES.union(Intents::DIRECT_MESSAGES)), Delivery::Always);
        assert_eq!(message.delivery(Intents::GUILDS), Delivery::Never);
        assert_eq!(EventKind::PresenceUpdate.audience().delivery(Intents::GUILDS), Delivery::Never);
        assert_eq!(EventKind::Other.audience().delivery(Intents(0)), Delivery::Always);
        assert_eq!(EventKind::ThreadMembersUpdate.audience().delivery(Intents::GUILD_MEMBERS), Delivery::Always);
    }
}
