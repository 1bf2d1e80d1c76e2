//! The cache flags: which resources are cached (config key `cache`).

/// Which resources are cached. A flag that is off costs neither memory nor parsing, and its array in GUILD_CREATE is
/// empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The arrays `channels` and `threads`.
    pub channels: bool,
    /// The array `presences`.
    pub presences: bool,
    /// The array `emojis`.
    pub emojis: bool,
    /// The bot's own entry in `members`. The flag `members` includes it.
    pub current_member: bool,
    /// The array `members`. Members always have their users, because no library can read a member without its user.
    pub members: bool,
    /// The array `roles`.
    pub roles: bool,
    /// The array `guild_scheduled_events`.
    pub scheduled_events: bool,
    /// The array `stage_instances`.
    pub stage_instances: bool,
    /// The array `stickers`.
    pub stickers: bool,
    /// What GUILD_CREATE says about the users in `presences`. Without the flag these users are reduced to `{"id":…}`,
    /// which is all that Discord guarantees there.
    pub users: bool,
    /// The array `voice_states`, and the `members` who are in a voice channel: some libraries look up the member of
    /// each voice state.
    pub voice_states: bool,
}

impl Flags {
    /// All flags on.
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
