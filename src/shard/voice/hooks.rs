//! Passes op 4s and voice events of the shard to its [table](super::Table) of voice connections, and carries out the
//! table's decisions.

use super::{Audience, DueAction, OwnState, Verdict, VoiceCommand, payloads};
use crate::{
    downstream::{outbox::Outbox, session::Session},
    protocol::{
        SessionKey, Time,
        event::{EventKind, Meta},
        intents::Intents,
        json,
    },
    shard::{Shard, outgoing::write_synthetic},
    upstream::{limiter::QueuedCommand, session::Status},
};

impl Audience {
    /// The audience as the log stores it.
    fn recipient(self) -> Option<SessionKey> {
        match self {
            Self::All => None,
            Self::Only(session) => Some(session),
            Self::Nobody => Some(SessionKey::NONE),
        }
    }
}

impl Shard {
    /// Returns the command that goes to Discord in place of `next`, whose turn it is; `None` if none does.
    pub(in crate::shard) fn check_voice(&mut self, now: Time, next: QueuedCommand) -> Option<QueuedCommand> {
        let asks = next.client.filter(|_| !next.is_resend && !next.is_second_half);
        let (Some(client), Some(ask)) = (asks, VoiceCommand::parse(&next.command)) else { return Some(next) };
        // The command is the proxy's own. It is dropped if a client owns the connection now.
        if client == SessionKey::NONE && self.voice.owner(ask.guild).is_some() {
            return None;
        }
        if client == SessionKey::NONE && ask.channel.is_some() {
            return Some(next);
        }
        let clients = &self.clients;
        let attached = |key| clients.get(&key).is_some_and(|client| client.session.connection.is_some());
        let verdict = self.voice.send(now, client, ask, attached);
        self.schedule_voice_maintenance();
        match verdict {
            Verdict::Send => Some(next),
            Verdict::LeaveFirst => {
                self.limiter.push_second_half(client, next.command);
                Some(QueuedCommand { command: VoiceCommand::command(ask.guild, None, false, false), ..next })
            }
            Verdict::Refuse => {
                tracing::debug!(
                    shard = self.id.id,
                    client = client.0,
                    guild = ask.guild,
                    "a client's op 4 was not sent to Discord: another connected client owns the guild's voice connection, or the table of voice connections is full"
                );
                None
            }
        }
    }

    /// An op 4 was lost with the connection to Discord and is sent again. Returns the leave that has to go before it,
    /// if one has to.
    pub(in crate::shard) fn leave_again(&mut self, now: Time, client: SessionKey, command: &[u8]) -> Option<Vec<u8>> {
        let ask = VoiceCommand::parse(command).filter(|ask| ask.channel.is_some() && client != SessionKey::NONE)?;
        let leave = self.voice.send_again(now, client, ask);
        self.schedule_voice_maintenance();
        leave.then(|| VoiceCommand::command(ask.guild, None, false, false))
    }

    /// Applies an event, which will be at the end of the log, to the table. Returns the session that alone gets it;
    /// `None`: all sessions.
    pub(in crate::shard) fn voice_audience(&mut self, now: Time, kind: EventKind, data: &[u8]) -> Option<SessionKey> {
        match kind {
            EventKind::VoiceStateUpdate => {
                let user = self.own_user()?;
                let state = OwnState::parse(data, None, user, self.upstream_id.as_deref())?;
                let audience = self.voice.own_state(now, state, data);
                if !self.voice.awaits_answer(state.guild) {
                    self.in_flight.voice_answered(state.guild);
                }
                self.schedule_voice_maintenance();
                audience.recipient()
            }
            EventKind::VoiceServerUpdate => {
                let guild = json::get(data, "guild_id").and_then(json::parse_id);
                let audience = guild.map(|guild| self.voice.server_update(guild, self.log.next(), data));
                audience.unwrap_or(Audience::Nobody).recipient()
            }
            EventKind::GuildCreate | EventKind::GuildDelete if !self.voice.is_empty() => {
                if let Some(guild) =
                    json::get(data, "id").and_then(json::parse_id).filter(|id| self.voice.contains(*id))
                {
                    self.voice_guild(kind, guild, data);
                }
                None
            }
            _ => None,
        }
    }

    fn voice_guild(&mut self, kind: EventKind, guild: u64, data: &[u8]) {
        let down = json::get(data, "unavailable") == Some(b"true");
        match kind {
            EventKind::GuildDelete if !down => self.voice.guild_left(guild),
            EventKind::GuildCreate if !down => {
                let user = self.own_user();
                let state = user.and_then(|user| OwnState::in_guild(data, guild, user, self.upstream_id.as_deref()));
                if let Some((channel, mute, deaf)) = self.voice.guild_available(guild, state) {
                    self.push_own_voice(VoiceCommand::command(guild, Some(channel), mute, deaf));
                }
            }
            _ => {}
        }
    }

    /// Queues an op 4 of the proxy's own.
    fn push_own_voice(&mut self, command: Vec<u8>) {
        // If too many commands wait, the table repeats a leave later. A join is dropped; no client has asked for it.
        if self.limiter.push(SessionKey::NONE, command).is_err() {
            tracing::warn!(shard = self.id.id, "an op 4 of the proxy was dropped: too many commands wait for Discord");
        }
        self.wake.upstream = true;
    }

    /// Discord has begun a new session, in which the bot is in no voice channel. Keeps a voice state for each owner.
    pub(in crate::shard) fn voice_lost(&mut self, now: Time) {
        let (user, session) = (self.own_user().unwrap_or_default(), self.upstream_id.as_deref().unwrap_or_default());
        for (owner, guild) in self.voice.session_lost(now, self.settings.voice_rejoin) {
            if let Some(client) = self.clients.get_mut(&owner) {
                client.voice_lost.push(payloads::left_state(guild, user, session));
            }
        }
        self.schedule_voice_maintenance();
    }

    /// Sends these voice states to a client whose session is over. They say that its voice connections are over, too.
    pub(in crate::shard) fn tell_voice_lost(states: &mut Vec<Vec<u8>>, session: &mut Session, outbox: &mut Outbox) {
        let hears = session.options.intents.intersects(Intents::GUILD_VOICE_STATES);
        for state in states.drain(..).filter(|_| hears) {
            write_synthetic(outbox, EventKind::VoiceStateUpdate, session.next_sequence(), &state);
        }
    }

    /// Carries out the actions of the table that are due.
    pub(in crate::shard) fn tick_voice(&mut self, now: Time) {
        if self.voice.is_empty() {
            return;
        }
        let active = self.upstream.status() == Status::Active;
        for due in self.voice.tick(now, active) {
            match due {
                DueAction::Leave(guild) => {
                    tracing::info!(
                        shard = self.id.id,
                        guild,
                        "the bot leaves a voice channel: the client that joined it did not come back in time"
                    );
                    self.push_own_voice(VoiceCommand::command(guild, None, false, false));
                }
                DueAction::TellState(data) => {
                    let meta = Meta { kind: EventKind::VoiceStateUpdate, changed_guild: None, recipient: None };
                    let name = EventKind::VoiceStateUpdate.name().as_bytes();
                    self.cache.apply_before_append(name.len() + data.len(), &self.log);
                    self.append(name, &data, meta);
                }
                DueAction::TellServer(guild, data) => {
                    let recipient = self.voice.server_update(guild, self.log.next(), &data).recipient();
                    let meta = Meta { kind: EventKind::VoiceServerUpdate, changed_guild: None, recipient };
                    let name = EventKind::VoiceServerUpdate.name().as_bytes();
                    self.cache.apply_before_append(name.len() + data.len(), &self.log);
                    self.append(name, &data, meta);
                }
            }
        }
        self.schedule_voice_maintenance();
    }

    /// Schedules the next maintenance of the voice connections.
    pub(in crate::shard) fn schedule_voice_maintenance(&mut self) {
        if let Some(at) = self.voice.deadline() {
            self.schedule_maintenance(at);
        }
    }
}

/// Returns whether the event at this position of the log may still be sent to session `client`. Only a
/// VOICE_SERVER_UPDATE can become invalid.
pub(in crate::shard) fn is_fresh(
    table: &super::Table,
    kind: EventKind,
    position: u64,
    client: SessionKey,
    data: &[u8],
) -> bool {
    kind != EventKind::VoiceServerUpdate || {
        let guild = json::get(data, "guild_id").and_then(json::parse_id);
        guild.is_some_and(|guild| table.is_fresh(guild, position, client))
    }
}

#[cfg(test)]
impl Shard {
    /// Queues a leave of the proxy's own.
    pub(in crate::shard) fn push_own_voice_for_a_test(&mut self, guild: u64) {
        self.push_own_voice(VoiceCommand::command(guild, None, false, false));
    }
}
