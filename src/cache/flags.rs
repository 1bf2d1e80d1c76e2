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
    /// `members`, always with their users: no library can read a member without.
    pub members: bool,
    /// `roles`.
    pub roles: bool,
    /// `guild_scheduled_events`.
    pub scheduled_events: bool,
    /// `stage_instances`.
    pub stage_instances: bool,
    /// `stickers`.
    pub stickers: bool,
    /// What GUILD_CREATE says of users in `presences`; without, they are reduced to `{"id":…}`, which is all that Discord
    /// promises there. Members keep their users in any case.
    pub users: bool,
    /// `voice_states`, and those of `members` who are in a voice channel: some libraries look each of them up there.
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
