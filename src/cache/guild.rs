//! One guild: its own fields, and the arrays of what it has.

use super::{
    Counts, Flags,
    list::{List, Slots, Text},
    snapshot::{GuildSnapshot, View},
};
use crate::protocol::{
    edit,
    json::{self, Malformed},
};
use std::rc::Rc;

/// The arrays of a GUILD_CREATE that are kept by entity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
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
    pub const ALL: [Self; 11] = [
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
    pub fn name(self) -> &'static str {
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

    fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().as_bytes() == name)
    }

    /// Where the id of an entity stands in it.
    pub fn id_path(self) -> &'static [&'static str] {
        match self {
            Self::Members | Self::Presences => &["user", "id"],
            Self::VoiceStates => &["user_id"],
            Self::SoundboardSounds => &["sound_id"],
            _ => &["id"],
        }
    }

    /// Is it cached? There is no flag for soundboard sounds: they are part of the guild.
    pub fn is_on(self, flags: &Flags) -> bool {
        match self {
            Self::Channels | Self::Threads => flags.channels,
            Self::Members => flags.members || flags.current_member,
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
}

/// What of members is kept.
#[derive(Clone, Copy)]
pub struct Keeper {
    pub flags: Flags,
    /// The bot itself.
    pub user: Option<u64>,
}

impl Keeper {
    /// Is this entity kept?
    fn keeps(&self, kind: Kind, id: u64) -> bool {
        kind.is_on(&self.flags) && (kind != Kind::Members || self.flags.members || Some(id) == self.user)
    }
}

/// Keys and values in order; shared with snapshots.
pub type Fields = Rc<Vec<(Box<[u8]>, Text)>>;

/// See the module's description.
#[derive(Default)]
pub struct Guild {
    /// Its own fields in Discord's order, without those that are kept elsewhere. `None`: it is not available.
    fields: Option<Fields>,
    /// GUILD_DELETE has said that it is down.
    down: bool,
    /// `member_count`, which joins and leaves move.
    member_count: Option<u64>,
    lists: [List; Kind::ALL.len()],
}

impl Guild {
    /// One that READY has named.
    pub fn unavailable() -> Self {
        Self::default()
    }

    /// Reads the data of a GUILD_CREATE.
    pub fn create(data: &[u8], keeper: Keeper) -> Result<Self, Malformed> {
        let mut guild = Self::default();
        let mut fields = Vec::new();
        let mut failure = None;
        json::for_each_entry(data, |key, value| {
            match Kind::from_name(key) {
                Some(kind) if value.starts_with(b"[") => {
                    failure = failure.or(guild.replace(kind, value, keeper).err());
                }
                _ if key == b"unavailable" => {}
                _ if key == b"member_count" => guild.member_count = json::parse_id(value),
                _ => fields.push((key.into(), value.into())),
            }
            failure.is_none()
        })?;
        match failure {
            Some(malformed) => Err(malformed),
            None => {
                guild.fields = Some(Rc::new(fields));
                Ok(guild)
            }
        }
    }

    /// The data of a GUILD_UPDATE: fields and whole arrays that it names replace the old ones.
    pub fn update(&mut self, data: &[u8], keeper: Keeper) -> Result<(), Malformed> {
        let mut failure = None;
        json::for_each_entry(data, |key, value| {
            match Kind::from_name(key) {
                Some(kind) if value.starts_with(b"[") => failure = self.replace(kind, value, keeper).err(),
                _ if matches!(key, b"unavailable" | b"member_count") => {}
                _ => self.set_field(key, value),
            }
            failure.is_none()
        })?;
        failure.map_or(Ok(()), Err)
    }

    fn set_field(&mut self, key: &[u8], value: &[u8]) {
        if let Some(fields) = &mut self.fields {
            let fields = Rc::make_mut(fields);
            match fields.iter_mut().find(|(name, _)| **name == *key) {
                Some((_, old)) => *old = value.into(),
                None => fields.push((key.into(), value.into())),
            }
        }
    }

    /// Replaces a whole array.
    pub fn replace(&mut self, kind: Kind, array: &[u8], keeper: Keeper) -> Result<(), Malformed> {
        self.lists[kind as usize].clear();
        if !kind.is_on(&keeper.flags) {
            return Ok(());
        }
        for element in json::elements(array)? {
            if let Some(id) = edit::id_at(element, kind.id_path()) {
                self.set(kind, id, element, keeper)?;
            }
        }
        Ok(())
    }

    /// Sets an entity, if it is one that is kept.
    pub fn set(&mut self, kind: Kind, id: u64, entity: &[u8], keeper: Keeper) -> Result<(), Malformed> {
        if !keeper.keeps(kind, id) {
            return Ok(());
        }
        if kind == Kind::Members && !keeper.flags.users {
            let user = format!(r#"{{"id":"{id}"}}"#);
            self.lists[kind as usize].set(id, &edit::with(entity, "user", user.as_bytes())?);
        } else {
            self.lists[kind as usize].set(id, entity);
        }
        Ok(())
    }

    pub fn get(&self, kind: Kind, id: u64) -> Option<&Text> {
        self.lists[kind as usize].get(id)
    }

    pub fn remove(&mut self, kind: Kind, id: u64) -> bool {
        self.lists[kind as usize].remove(id).is_some()
    }

    /// The array as it is now.
    pub fn share(&self, kind: Kind) -> Rc<Slots> {
        self.lists[kind as usize].share()
    }

    /// How many members there are, if all of them are known.
    pub fn complete_members(&self) -> Option<usize> {
        let known = self.lists[Kind::Members as usize].len();
        self.member_count.filter(|count| self.is_available() && *count == known as u64).map(|_| known)
    }

    pub fn retain(&mut self, kind: Kind, keep: impl FnMut(u64, &[u8]) -> bool) {
        self.lists[kind as usize].retain(keep);
    }

    pub fn is_available(&self) -> bool {
        self.fields.is_some()
    }

    /// An outage: everything but the id is forgotten, as clients do.
    pub fn go_down(&mut self) {
        *self = Self { down: true, ..Self::default() };
    }

    pub fn move_member_count(&mut self, by: i64) {
        if let Some(count) = &mut self.member_count {
            *count = count.saturating_add_signed(by);
        }
    }

    pub fn count(&self, counts: &mut Counts) {
        counts.unavailable_guilds += usize::from(!self.is_available());
        let length = |kind: Kind| self.lists[kind as usize].len();
        counts.channels += length(Kind::Channels) + length(Kind::Threads);
        counts.members += length(Kind::Members);
        counts.presences += length(Kind::Presences);
        counts.roles += length(Kind::Roles);
        counts.emojis += length(Kind::Emojis);
        counts.voice_states += length(Kind::VoiceStates);
    }

    pub fn snapshot(&self, view: View, user: Option<u64>) -> GuildSnapshot {
        let lists = Kind::ALL.map(|kind| match kind {
            Kind::Presences if !view.presences => None,
            Kind::VoiceStates if !view.voice_states => None,
            Kind::ScheduledEvents if !view.scheduled_events => None,
            Kind::Members if !view.members => {
                // Without the intent a bot sees itself.
                let own = user.and_then(|user| self.get(kind, user)).cloned();
                Some(Rc::new(vec![own]))
            }
            _ => Some(self.lists[kind as usize].share()),
        });
        GuildSnapshot::new(self.fields.clone(), self.down, self.member_count, lists)
    }
}
