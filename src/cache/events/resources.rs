//! Events about roles, scheduled events and soundboard sounds (docs: Gateway Events, Guilds).

use super::{Change, Effect, Kind, Result};
use crate::protocol::{edit, json};

/// The `status` of a scheduled event that is over: completed and cancelled (docs: Guild Scheduled Event).
const ENDED: [&[u8]; 2] = [b"3", b"4"];

impl Change<'_, '_> {
    /// GUILD_ROLE_CREATE and GUILD_ROLE_UPDATE.
    pub(super) fn role(&mut self) -> Result {
        match self.get("role") {
            Some(role) => self.merge_entity(Kind::Roles, role, &[]),
            None => Ok(Effect::Unknown),
        }
    }

    /// GUILD_ROLE_DELETE. The members who had the role lose it, for which Discord sends no events.
    pub(super) fn role_delete(&mut self) -> Result {
        let Some(role) = self.id("role_id") else { return Ok(Effect::Unknown) };
        self.guild.remove_role_from_members(self.context, role);
        if !self.context.flags.roles {
            return Ok(Effect::Unchanged);
        }
        self.remove(Kind::Roles, "role_id")
    }

    /// GUILD_SCHEDULED_EVENT_CREATE and GUILD_SCHEDULED_EVENT_UPDATE. GUILD_CREATE does not list scheduled events that
    /// are over.
    pub(super) fn scheduled_event(&mut self) -> Result {
        if self.get("status").is_some_and(|status| ENDED.contains(&status)) {
            if let Some(id) = self.id("id") {
                self.guild.remove(self.context, Kind::ScheduledEvents, id);
            }
            return Ok(Effect::Changed);
        }
        self.merge(Kind::ScheduledEvents, &[])
    }

    /// GUILD_SCHEDULED_EVENT_USER_ADD and GUILD_SCHEDULED_EVENT_USER_REMOVE. Adds `by` to `user_count`, if the stored
    /// scheduled event has that key. If it does not, a snapshot does not show what the event says.
    pub(super) fn scheduled_event_users(&mut self, by: i64) -> Result {
        let Some(id) = self.id("guild_scheduled_event_id") else { return Ok(Effect::Unknown) };
        let mut counted = false;
        let known = self.guild.edit(self.context, Kind::ScheduledEvents, id, |event| {
            let Some(count) = json::get(event, "user_count").and_then(json::parse_id) else { return Ok(None) };
            counted = true;
            let count = count.saturating_add_signed(by).to_string();
            edit::with(event, "user_count", count.as_bytes()).map(Some)
        })?;
        Ok(match (known, counted) {
            (false, _) => Effect::Unknown,
            (true, true) => Effect::Changed,
            (true, false) => Effect::Unchanged,
        })
    }

    /// GUILD_SOUNDBOARD_SOUNDS_UPDATE: several sounds were changed together. Deleted sounds have an event each.
    pub(super) fn sounds_update(&mut self) -> Result {
        if self.get("soundboard_sounds").is_none() {
            return Ok(Effect::Unknown);
        }
        for sound in self.elements("soundboard_sounds")? {
            self.merge_entity(Kind::SoundboardSounds, sound, &[])?;
        }
        Ok(Effect::Changed)
    }
}
