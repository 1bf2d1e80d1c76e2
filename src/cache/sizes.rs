//! What each cache flag takes, in bytes of heap, for estimates before a start (`gateway-proxy check`).
//!
//! The figures are measurements of `cargo bench --bench cache_size`, on guilds like Discord's: 30 channels, 25 roles
//! and 20 emojis on average, with a long tail. The bench fails when a measurement is more than a tenth away from its
//! figure here.

use super::Flags;

/// The thing that a [`Size`] is the size of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Each {
    /// A guild.
    Guild,
    /// A member with its user.
    Member,
    /// A presence of a member who is not offline.
    Presence,
}

/// What a flag takes.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Name of the flag in the configuration (`cache`).
    pub flag: &'static str,
    /// What the bytes are counted for.
    pub each: Each,
    /// Bytes of heap for each of them.
    pub bytes: f64,
    /// The flags with this one alone.
    pub alone: Flags,
}

/// Bytes of a guild's own fields, which are cached with any flags.
pub const GUILD: f64 = 2061.0;
/// Bytes of the tables of the codec, which all guilds of a data core share.
pub const TABLES: u64 = 1 << 20;

/// No flag is on.
const NONE: Flags = Flags {
    channels: false,
    presences: false,
    emojis: false,
    current_member: false,
    members: false,
    roles: false,
    scheduled_events: false,
    stage_instances: false,
    stickers: false,
    users: false,
    voice_states: false,
};

/// The sizes of all flags that take memory worth to speak of. `users` takes none of its own, and `current_member` that of
/// one member for each guild.
pub static SIZES: [Size; 9] = [
    Size { flag: "channels", each: Each::Guild, bytes: 2290.0, alone: Flags { channels: true, ..NONE } },
    Size { flag: "roles", each: Each::Guild, bytes: 690.0, alone: Flags { roles: true, ..NONE } },
    Size { flag: "emojis", each: Each::Guild, bytes: 409.0, alone: Flags { emojis: true, ..NONE } },
    Size { flag: "stickers", each: Each::Guild, bytes: 90.0, alone: Flags { stickers: true, ..NONE } },
    Size { flag: "voice_states", each: Each::Guild, bytes: 544.0, alone: Flags { voice_states: true, ..NONE } },
    Size { flag: "scheduled_events", each: Each::Guild, bytes: 163.0, alone: Flags { scheduled_events: true, ..NONE } },
    Size { flag: "stage_instances", each: Each::Guild, bytes: 18.0, alone: Flags { stage_instances: true, ..NONE } },
    Size { flag: "members", each: Each::Member, bytes: 69.0, alone: Flags { members: true, users: true, ..NONE } },
    Size { flag: "presences", each: Each::Presence, bytes: 78.1, alone: Flags { presences: true, ..NONE } },
];

/// The guilds of an estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Number of guilds.
    pub guilds: f64,
    /// Members of a guild, on average.
    pub members: f64,
    /// Share of the members who are not offline, from 0 to 1.
    pub online: f64,
}

impl Load {
    /// Bytes that a flag takes for these guilds.
    pub fn bytes(&self, size: &Size) -> f64 {
        let of_guild = match size.each {
            Each::Guild => 1.0,
            Each::Member => self.members,
            Each::Presence => self.members * self.online,
        };
        self.guilds * of_guild * size.bytes
    }

    /// The flags that are on and what each takes, in the order of [`SIZES`].
    pub fn by_flag(&self, flags: Flags) -> Vec<(&'static Size, f64)> {
        let is_on = |size: &&Size| match size.flag {
            "channels" => flags.channels,
            "roles" => flags.roles,
            "emojis" => flags.emojis,
            "stickers" => flags.stickers,
            "voice_states" => flags.voice_states,
            "scheduled_events" => flags.scheduled_events,
            "stage_instances" => flags.stage_instances,
            "members" => flags.members,
            _ => flags.presences,
        };
        SIZES.iter().filter(is_on).map(|size| (size, self.bytes(size))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_cost_by_guild_member_or_presence() {
        let load = Load { guilds: 10.0, members: 200.0, online: 0.5 };
        let bytes = |flag: &str| load.bytes(SIZES.iter().find(|size| size.flag == flag).unwrap());
        let of = |flag: &str| SIZES.iter().find(|size| size.flag == flag).unwrap().bytes;
        assert_eq!(bytes("channels"), 10.0 * of("channels"));
        assert_eq!(bytes("members"), 2_000.0 * of("members"));
        assert_eq!(bytes("presences"), 1_000.0 * of("presences"));
    }

    #[test]
    fn each_flag_is_found_by_its_name() {
        for size in &SIZES {
            let load = Load { guilds: 1.0, members: 1.0, online: 1.0 };
            let found: Vec<&str> = load.by_flag(size.alone).iter().map(|(size, _)| size.flag).collect();
            assert_eq!(found, [size.flag]);
        }
        let load = Load { guilds: 1.0, members: 1.0, online: 1.0 };
        assert_eq!(load.by_flag(Flags::ALL).len(), SIZES.len());
    }
}
