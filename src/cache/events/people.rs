//! Events about people: members, presences, voice states (docs: Gateway Events, Guilds, Presence, Voice).

use super::{Change, Effect, Kind, Result};
use crate::{
    cache::codec::encode::Shape,
    protocol::{edit, json},
};
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Few presences have it, and then it is mostly their status.
static OFFLINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"offline\""));

impl Change<'_, '_> {
    /// "This event may also be sent for users who are already members of the guild": those are counted already, as far
    /// as they are known. Guests are not counted.
    pub(super) fn member_add(&mut self) -> Result {
        if !Kind::Members.is_on(&self.kit.flags) {
            if self.get("joined_at") != Some(b"null") {
                self.guild.move_member_count(1);
            }
            return Ok(Effect::Changed);
        }
        let shape = self.kit.shape(Kind::Members, &["guild_id"]);
        let encoded = self.guild.encode(self.kit, &shape, self.data, 0)?;
        if encoded.key == 0 {
            self.guild.membership.doubt();
            return Ok(Effect::Unknown);
        }
        let is_guest = self.guild.is_guest(self.kit, self.kit.encoder.record());
        if !is_guest && !self.guild.counts(self.kit, encoded.key) {
            self.guild.move_member_count(1);
        }
        if self.guild.keeps(self.kit, Kind::Members, encoded.key) {
            self.guild.keep(self.kit, Kind::Members, encoded);
        }
        Ok(Effect::Changed)
    }

    /// It may leave keys out; then they are as before. Of somebody who is not known it says too little to begin with.
    pub(super) fn member_update(&mut self) -> Result {
        if !self.kit.flags.members {
            // Most are not about the bot itself, which is all that is kept.
            let Some(user) = edit::id_at(self.data, &["user", "id"]) else { return Ok(Effect::Unknown) };
            if !self.guild.keeps(self.kit, Kind::Members, user) {
                return Ok(Effect::Unchanged);
            }
        }
        let shape = self.kit.shape(Kind::Members, &["guild_id"]);
        let known = self.guild.merge_known(self.kit, Kind::Members, &shape, self.data)?;
        if !known {
            // There is a member of whom nobody has told.
            self.guild.membership.doubt();
        }
        Ok(known.into())
    }

    /// Presence and voice state go with the member. Where all members are known, others are not counted; guests never are.
    pub(super) fn member_remove(&mut self) -> Result {
        let Some(user) = edit::id_at(self.data, &["user", "id"]) else { return Ok(Effect::Unknown) };
        let all_known = self.kit.flags.members && self.guild.complete_members().is_some();
        if all_known && !self.guild.has(Kind::Members, user) {
            return Ok(Effect::Unknown);
        }
        if !self.guild.has(Kind::Members, user) || self.guild.counts(self.kit, user) {
            self.guild.move_member_count(-1);
        }
        for kind in [Kind::Members, Kind::Presences, Kind::VoiceStates] {
            self.guild.remove(self.kit, kind, user);
        }
        Ok(Effect::Changed)
    }

    /// More than a change of state: somebody has asked for it.
    pub(super) fn members_chunk(&mut self) -> Result {
        let members = self.elements("members")?;
        for member in &members {
            self.merge_entity(Kind::Members, member, &[])?;
        }
        if self.kit.flags.presences {
            for presence in self.elements("presences")? {
                self.presence(presence)?;
            }
        }
        Ok(Effect::Unchanged)
    }

    pub(super) fn presence_update(&mut self) -> Result {
        self.presence(self.data)
    }

    /// Of the user only the id is certain, and the only thing that GUILD_CREATE has. It lists only who is not offline.
    fn presence(&mut self, presence: &[u8]) -> Result {
        let shape = Shape { bare_user: true, ..self.kit.shape(Kind::Presences, &["guild_id"]) };
        if OFFLINE.find(presence).is_some() && json::get(presence, "status") == Some(b"\"offline\"") {
            let Some(user) = edit::id_at(presence, &["user", "id"]) else { return Ok(Effect::Unknown) };
            self.guild.remove(self.kit, Kind::Presences, user);
            return Ok(Effect::Changed);
        }
        Ok(self.guild.set(self.kit, Kind::Presences, &shape, presence)?.is_some().into())
    }

    /// The array in GUILD_CREATE has neither `guild_id` nor `member`: whoever is in a voice channel is among the members
    /// there. So a member that is new here is taken in, and goes with the voice state if it is kept only for that.
    pub(super) fn voice_state(&mut self) -> Result {
        let [user, channel, member] = json::get_all(self.data, ["user_id", "channel_id", "member"]);
        let Some(user) = user.and_then(json::parse_id) else { return Ok(Effect::Unknown) };
        let kept = self.kit.flags.voice_states;
        if channel.is_none_or(|channel| channel == b"null") {
            self.guild.remove(self.kit, Kind::VoiceStates, user);
            let is_guest = self.guild.has(Kind::Members, user) && !self.guild.counts(self.kit, user);
            if is_guest || !self.guild.keeps(self.kit, Kind::Members, user) {
                self.guild.remove(self.kit, Kind::Members, user);
            }
            return Ok(if kept { Effect::Changed } else { Effect::Unchanged });
        }
        let mut effect = Effect::Unchanged;
        if kept {
            let shape = self.kit.shape(Kind::VoiceStates, &["guild_id", "member"]);
            effect = self.guild.set(self.kit, Kind::VoiceStates, &shape, self.data)?.is_some().into();
        }
        if let Some(member) = member {
            self.member_in_voice(user, member)?;
        }
        Ok(effect)
    }

    /// The member of a voice state. Of those who are kept as members there are events of their own, but of the others there
    /// may be no other, because those need an intent.
    fn member_in_voice(&mut self, user: u64, member: &[u8]) -> Result<()> {
        let flags = self.kit.flags;
        let is_own = flags.current_member && Some(user) == self.kit.user;
        let known = self.guild.has(Kind::Members, user);
        let is_told_of_otherwise = known && (flags.members || is_own);
        if !self.guild.keeps(self.kit, Kind::Members, user)
            || is_told_of_otherwise
            || edit::id_at(member, &["user", "id"]) != Some(user)
        {
            return Ok(());
        }
        let shape = self.kit.shape(Kind::Members, &[]);
        self.guild.merge(self.kit, Kind::Members, &shape, member)?;
        if !known && self.guild.counts(self.kit, user) {
            // There is a member of whom nobody has told.
            self.guild.membership.doubt();
        }
        Ok(())
    }
}
