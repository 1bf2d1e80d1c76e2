//! Events about users in a guild: members, presences and voice states (docs: Gateway Events, Guilds, Presence, Voice).

use super::{Change, Effect, Kind, Result};
use crate::{
    cache::codec::Shape,
    protocol::{edit, json},
};
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// Searches a presence for the text `"offline"`. Few presences have it, so most need not be searched for their
/// `status`.
static OFFLINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"offline\""));

impl Change<'_, '_> {
    /// GUILD_MEMBER_ADD. Raises `member_count`, except for a guest, and for a member who was counted already: Discord
    /// can send the event for users who are members of the guild already.
    pub(super) fn member_add(&mut self) -> Result {
        if !Kind::Members.is_on(&self.context.flags) {
            if self.get("joined_at") != Some(b"null") {
                self.guild.adjust_member_count(1);
            }
            return Ok(Effect::Changed);
        }
        let shape = self.context.shape(Kind::Members, &["guild_id"]);
        let encoded = self.guild.encode(self.context, &shape, self.data, 0)?;
        if encoded.id == 0 {
            self.guild.membership.doubt();
            return Ok(Effect::Unknown);
        }
        let is_guest = self.guild.is_guest(self.context, self.context.encoder.record());
        if !is_guest && !self.guild.has_counted_member(self.context, encoded.id) {
            self.guild.adjust_member_count(1);
        }
        if self.guild.is_cached(self.context, Kind::Members, encoded.id) {
            self.guild.store_encoded(self.context, Kind::Members, encoded);
        }
        Ok(Effect::Changed)
    }

    /// GUILD_MEMBER_UPDATE. The event can lack keys, which then stay as they are. It can therefore not add a member.
    pub(super) fn member_update(&mut self) -> Result {
        if !self.context.flags.members {
            // Only a few members are cached, and most updates are about others. So look at the id before encoding the
            // event.
            let Some(user) = edit::id_at(self.data, &["user", "id"]) else { return Ok(Effect::Unknown) };
            if !self.guild.is_cached(self.context, Kind::Members, user) {
                return Ok(Effect::Unchanged);
            }
        }
        let shape = self.context.shape(Kind::Members, &["guild_id"]);
        let known = self.guild.merge_if_known(self.context, Kind::Members, &shape, self.data)?;
        if !known {
            // This member was missing from the list of all members.
            self.guild.membership.doubt();
        }
        Ok(known.into())
    }

    /// GUILD_MEMBER_REMOVE. Removes the member, its presence and its voice state. Lowers `member_count`, except for a
    /// guest, and except for an unknown user in a guild of which the cache knows all members.
    pub(super) fn member_remove(&mut self) -> Result {
        let Some(user) = edit::id_at(self.data, &["user", "id"]) else { return Ok(Effect::Unknown) };
        let all_known = self.context.flags.members && self.guild.complete_members().is_some();
        if all_known && !self.guild.contains(Kind::Members, user) {
            return Ok(Effect::Unknown);
        }
        if !self.guild.contains(Kind::Members, user) || self.guild.has_counted_member(self.context, user) {
            self.guild.adjust_member_count(-1);
        }
        for kind in [Kind::Members, Kind::Presences, Kind::VoiceStates] {
            self.guild.remove(self.context, kind, user);
        }
        Ok(Effect::Changed)
    }

    /// GUILD_MEMBERS_CHUNK. The event answers a request, so a client must get it even if its snapshot shows these
    /// members.
    pub(super) fn members_chunk(&mut self) -> Result {
        let members = self.elements("members")?;
        for member in &members {
            self.merge_entity(Kind::Members, member, &[])?;
        }
        if self.context.flags.presences {
            for presence in self.elements("presences")? {
                self.presence(presence)?;
            }
        }
        Ok(Effect::Unchanged)
    }

    /// PRESENCE_UPDATE.
    pub(super) fn presence_update(&mut self) -> Result {
        self.presence(self.data)
    }

    /// Stores a presence. An offline user's presence is removed instead, because GUILD_CREATE does not list it. The
    /// user is reduced to its id: the event can lack all its other keys.
    fn presence(&mut self, presence: &[u8]) -> Result {
        let shape = Shape { bare_user: true, ..self.context.shape(Kind::Presences, &["guild_id"]) };
        if OFFLINE.find(presence).is_some() && json::get(presence, "status") == Some(b"\"offline\"") {
            let Some(user) = edit::id_at(presence, &["user", "id"]) else { return Ok(Effect::Unknown) };
            self.guild.remove(self.context, Kind::Presences, user);
            return Ok(Effect::Changed);
        }
        Ok(self.guild.set(self.context, Kind::Presences, &shape, presence)?.is_some().into())
    }

    /// VOICE_STATE_UPDATE. Voice states in GUILD_CREATE have neither `guild_id` nor `member`, because the member of
    /// each voice state is in `members`. So a member who is not cached yet is taken from the event, and removed with
    /// the voice state if it is cached only for that.
    pub(super) fn voice_state(&mut self) -> Result {
        let [user, channel, member] = json::get_all(self.data, ["user_id", "channel_id", "member"]);
        let Some(user) = user.and_then(json::parse_id) else { return Ok(Effect::Unknown) };
        let kept = self.context.flags.voice_states;
        if channel.is_none_or(|channel| channel == b"null") {
            self.guild.remove(self.context, Kind::VoiceStates, user);
            let is_guest =
                self.guild.contains(Kind::Members, user) && !self.guild.has_counted_member(self.context, user);
            if is_guest || !self.guild.is_cached(self.context, Kind::Members, user) {
                self.guild.remove(self.context, Kind::Members, user);
            }
            return Ok(if kept { Effect::Changed } else { Effect::Unchanged });
        }
        let mut effect = Effect::Unchanged;
        if kept {
            let shape = self.context.shape(Kind::VoiceStates, &["guild_id", "member"]);
            effect = self.guild.set(self.context, Kind::VoiceStates, &shape, self.data)?.is_some().into();
        }
        if let Some(member) = member {
            self.member_in_voice(user, member)?;
        }
        Ok(effect)
    }

    /// Merges the member of a voice state over the stored one, if the flags say that this member is cached. Does nothing
    /// for a member that GUILD_MEMBER_UPDATE keeps current: a known one with the flag `members`, and the bot itself. For any
    /// other member, VOICE_STATE_UPDATE may be the only event. A member who was unknown, and is no guest, also ends the
    /// completeness of the member list.
    fn member_in_voice(&mut self, user: u64, member: &[u8]) -> Result<()> {
        let flags = self.context.flags;
        let is_own = flags.current_member && Some(user) == self.context.user;
        let known = self.guild.contains(Kind::Members, user);
        let is_kept_current = known && (flags.members || is_own);
        if !self.guild.is_cached(self.context, Kind::Members, user)
            || is_kept_current
            || edit::id_at(member, &["user", "id"]) != Some(user)
        {
            return Ok(());
        }
        let shape = self.context.shape(Kind::Members, &[]);
        self.guild.merge(self.context, Kind::Members, &shape, member)?;
        if !known && self.guild.has_counted_member(self.context, user) {
            // This member was missing from the list of all members.
            self.guild.membership.doubt();
        }
        Ok(())
    }
}
