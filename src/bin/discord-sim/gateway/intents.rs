//! The intent that each event needs (Gateway: "List of Intents").
//!
//! The table repeats the proxy's own table on purpose: tests check the proxy against the simulator.

/// GUILDS
pub const GUILDS: u64 = 1;
/// GUILD_MEMBERS
pub const GUILD_MEMBERS: u64 = 1 << 1;
/// GUILD_VOICE_STATES
pub const GUILD_VOICE_STATES: u64 = 1 << 7;
/// GUILD_PRESENCES
pub const GUILD_PRESENCES: u64 = 1 << 8;
/// MESSAGE_CONTENT
pub const MESSAGE_CONTENT: u64 = 1 << 15;

/// Every bit that is an intent. An IDENTIFY with another bit is refused with 4013.
pub const KNOWN: u64 = 0x1_ffff | 1 << 20 | 1 << 21 | 1 << 24 | 1 << 25;

/// The intent that an event of a guild needs; 0 if every session gets the event.
pub fn of(event: &str) -> u64 {
    match event {
        "GUILD_MEMBER_ADD" | "GUILD_MEMBER_UPDATE" | "GUILD_MEMBER_REMOVE" => GUILD_MEMBERS,
        "GUILD_AUDIT_LOG_ENTRY_CREATE" | "GUILD_BAN_ADD" | "GUILD_BAN_REMOVE" => 1 << 2,
        "GUILD_EMOJIS_UPDATE" | "GUILD_STICKERS_UPDATE" => 1 << 3,
        name if name.starts_with("GUILD_SOUNDBOARD") => 1 << 3,
        name if name.contains("INTEGRATION") => 1 << 4,
        "WEBHOOKS_UPDATE" => 1 << 5,
        "INVITE_CREATE" | "INVITE_DELETE" => 1 << 6,
        "VOICE_STATE_UPDATE" | "VOICE_CHANNEL_EFFECT_SEND" => GUILD_VOICE_STATES,
        "PRESENCE_UPDATE" => GUILD_PRESENCES,
        "MESSAGE_CREATE" | "MESSAGE_UPDATE" | "MESSAGE_DELETE" | "MESSAGE_DELETE_BULK" => 1 << 9,
        name if name.starts_with("MESSAGE_REACTION") => 1 << 10,
        "TYPING_START" => 1 << 11,
        name if name.starts_with("GUILD_SCHEDULED_EVENT") => 1 << 16,
        name if name.starts_with("AUTO_MODERATION_RULE") => 1 << 20,
        "AUTO_MODERATION_ACTION_EXECUTION" => 1 << 21,
        name if name.starts_with("MESSAGE_POLL") => 1 << 24,
        name if name.starts_with("GUILD_") || name.starts_with("CHANNEL_") => GUILDS,
        name if name.starts_with("THREAD_") || name.starts_with("STAGE_") => GUILDS,
        name if name.starts_with("VOICE_CHANNEL_") => GUILDS,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_bits_are_those_of_the_reference() {
        assert_eq!(KNOWN, 53_608_447);
    }

    #[test]
    fn some_events_of_each_intent() {
        for (event, intent) in [
            ("GUILD_CREATE", GUILDS),
            ("CHANNEL_PINS_UPDATE", GUILDS),
            ("THREAD_LIST_SYNC", GUILDS),
            ("STAGE_INSTANCE_DELETE", GUILDS),
            ("VOICE_CHANNEL_STATUS_UPDATE", GUILDS),
            ("GUILD_ROLE_DELETE", GUILDS),
            ("GUILD_MEMBER_UPDATE", GUILD_MEMBERS),
            ("GUILD_BAN_ADD", 4),
            ("GUILD_SOUNDBOARD_SOUND_CREATE", 8),
            ("GUILD_INTEGRATIONS_UPDATE", 16),
            ("VOICE_STATE_UPDATE", GUILD_VOICE_STATES),
            ("PRESENCE_UPDATE", GUILD_PRESENCES),
            ("MESSAGE_DELETE_BULK", 512),
            ("MESSAGE_REACTION_ADD", 1024),
            ("TYPING_START", 2048),
            ("GUILD_SCHEDULED_EVENT_UPDATE", 1 << 16),
            ("INTERACTION_CREATE", 0),
            ("RESUMED", 0),
            ("VOICE_SERVER_UPDATE", 0),
            ("GUILD_MEMBERS_CHUNK", GUILDS),
        ] {
            assert_eq!(of(event), intent, "{event}");
        }
    }
}
