//! Which resources are cached (config key `cache`).

/// A flag that is off costs neither memory nor parsing, and its array in GUILD_CREATE is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `channels` and `threads`.
    pub channels: bool,
    /// `presences`.
    pub presences: bool,
    /// `emojis`.
    pub emojis: bool,
    /// The bot's own entry in `members`; `members` includes it.
    pub current_member: bool,
    /// `members`.
    pub members: bool,
    /// `roles`.
    pub roles: bool,
    /// `guild_scheduled_events`.
    pub scheduled_events: bool,
    /// `stage_instances`.
    pub stage_instances: bool,
    /// `stickers`.
    pub stickers: bool,
    /// The user objects of members; without, they are reduced to `{"id":…}`.
    pub users: bool,
    /// `voice_states`.
    pub voice_states: bool,
}

impl Flags {
    /// Everything.
    pub const ALL: Self = Self {
        channels: true,
        presences: true,
        emojis: true,
        current_member: true,
        members: true,
        roles: true,
        scheduled_events: true,
        stage_instances: true,
        stickers: true,
        users: true,
        voice_states: true,
    };
}
