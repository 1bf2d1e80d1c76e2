//! Events about roles, scheduled events and sounds (docs: Gateway Events, Guilds).

use super::{Change, Effect, Kind, Result};
use crate::protocol::{edit, json};

/// `status` of a scheduled event that is over: completed or cancelled (docs: Guild Scheduled Event).
const OVER: [&[u8]; 2] = [b"3", b"4"];

impl Change<'_, '_> {
    pub(super) fn role(&mut self) -> Result {
        match self.get("role") {
            Some(role) => self.merge_entity(Kind::Roles, role, &[]),
            None => Ok(Effect::Unknown),
        }
    }

    /// Members lose it too, for which there are no events.
    pub(super) fn role_delete(&mut self) -> Result {
        let Some(role) = self.id("role_id") else { return Ok(Effect::Unknown) };
        self.guild.begin_sweep(self.kit, role);
        if !self.kit.flags.roles {
            return Ok(Effect::Unchanged);
        }
        self.forget(Kind::Roles, "role_id")
    }

    /// One that is over is in no GUILD_CREATE any more.
    pub(super) fn scheduled_event(&mut self) -> Result {
        if self.get("status").is_some_and(|status| OVER.contains(&status)) {
            if let Some(id) = self.id("id") {
                self.guild.remove(self.kit, Kind::ScheduledEvents, id);
            }
            return Ok(Effect::Changed);
        }
        self.merge(Kind::ScheduledEvents, &[])
    }

    /// `user_count` moves where the guild came with it. Otherwise a snapshot does not show the event.
    pub(super) fn scheduled_event_users(&mut self, by: i64) -> Result {
        let Some(id) = self.id("guild_scheduled_event_id") else { return Ok(Effect::Unknown) };
        let mut counted = false;
        let known = self.guild.edit(self.kit, Kind::ScheduledEvents, id, |event| {
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

    /// Sounds that were changed together; those that went have an event each.
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
