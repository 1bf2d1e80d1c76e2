//! Decides which client has the bot's voice connection in each guild (docs: Voice Connections; Gateway Events, Update
//! Voice State).
//!
//! The bot has one voice state in a guild, but a shard can have many clients. So each guild's voice connection has one
//! owner: the client session whose op 4 for that guild went to Discord last. The table here knows the owners and the
//! channels, and decides
//!
//! * what happens to an op 4 when its turn to go to Discord has come ([`Table::send`]),
//! * which client gets a VOICE_SERVER_UPDATE and a voice state of the bot itself ([`Table::server_update`],
//!   [`Table::own_state`]),
//! * when the bot leaves a channel because its owner's session has ended ([`Table::tick`]).
//!
//! Promises: only the owner gets a voice server's token, and only until another token, another owner or the end of the
//! connection makes the token void ([`Table::is_fresh`]). At most [`MAX_CONNECTIONS`] guilds are in the table. The
//! table stops waiting for Discord's answer about a guild after [`ANSWER_LIMIT`]. Never: keeps a token for a later
//! session.
//!
//! Pure: numbers, texts and the time go in, decisions come out. `hooks` carries the decisions out in the shard.

mod connection;
mod hooks;
mod payloads;

#[cfg(test)]
mod tests;

use crate::protocol::{SessionKey, Time, json};
use connection::{Connection, PendingJoin, Server, give_up_join};
use hashbrown::HashMap;
pub(super) use hooks::is_fresh;
pub use payloads::{OwnState, VoiceCommand};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most guilds of a shard in the table. The table refuses an op 4 for one more. Discord allows a shard 2,500
/// guilds.
pub const MAX_CONNECTIONS: usize = 4096;
/// The table waits this long for Discord's answer to an op 4. Discord does not answer if the channel is full, or the
/// bot may not join it.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The table waits this long for the answer to an op 4 that had to leave the channel first. hikari waits 5 s for its
/// answer.
pub const REJOIN_LIMIT: Duration = Duration::from_secs(4);
/// The table repeats a leave after this time until Discord has answered it, because too many commands may have been
/// waiting.
const LEAVE_RETRY: Duration = Duration::from_secs(5);

/// The decision about an op 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The op 4 goes to Discord.
    Send,
    /// An op 4 with `channel_id: null` goes to Discord, and then this one. The bot is in the wanted channel already,
    /// and Discord sends a new voice server only after a change of the channel.
    LeaveFirst,
    /// The op 4 does not go to Discord.
    Refuse,
}

/// The sessions that are sent an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every session whose intents cover the event.
    All,
    /// One session.
    Only(SessionKey),
    /// No session.
    Nobody,
}

/// An action that is due because time has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DueAction {
    /// The bot has to leave its channel in this guild: the owner's session has ended, and no other session has become
    /// the owner.
    Leave(u64),
    /// A VOICE_STATE_UPDATE that was held back has to go to every client after all.
    TellState(Vec<u8>),
    /// A VOICE_SERVER_UPDATE of this guild that was held back has to go to its owner after all.
    TellServer(u64, Vec<u8>),
}

/// A guild's connection in the state that one process hands to the next.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    guild: u64,
    connection: Connection,
}

/// See the module's description.
#[derive(Clone, Default)]
pub struct Table {
    guilds: HashMap<u64, Connection>,
    /// How long the bot stays in the channel after the connection of its owner has ended.
    grace: Duration,
    takeovers: u64,
    refused: u64,
}

impl Table {
    /// An empty table.
    pub fn new(grace: Duration) -> Self {
        Self { grace, ..Self::default() }
    }

    /// Changes the grace for channels whose owner's session ends from now on.
    pub fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Returns whether the table has no guild.
    pub fn is_empty(&self) -> bool {
        self.guilds.is_empty()
    }

    /// Returns whether the guild is in the table.
    pub fn contains(&self, guild: u64) -> bool {
        self.guilds.contains_key(&guild)
    }

    /// The number of guilds in which the bot is in a voice channel.
    pub fn connections(&self) -> usize {
        self.guilds.values().filter(|connection| connection.channel.is_some()).count()
    }

    /// The number of takeovers.
    pub fn takeovers(&self) -> u64 {
        self.takeovers
    }

    /// The number of op 4s that the table refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Returns whether an op 4 about this guild was sent to Discord and is not answered.
    pub fn awaits_answer(&self, guild: u64) -> bool {
        self.guilds
            .get(&guild)
            .is_some_and(|connection| connection.pending_join.is_some() || !connection.unanswered.is_empty())
    }

    /// The owner of a guild's voice connection.
    pub fn owner(&self, guild: u64) -> Option<SessionKey> {
        self.guilds.get(&guild)?.owner
    }

    // ---- op 4 ----

    /// Decides about an op 4 of session `client` whose turn has come. `attached` says whether a session has a
    /// connection.
    ///
    /// The session that asks last becomes the owner. A session that is not the owner can not leave while the owner is
    /// connected: a library that has lost its voice connection to another client sends such an op 4 to clean up, and
    /// would end that client's voice connection.
    pub fn send(
        &mut self,
        now: Time,
        client: SessionKey,
        ask: VoiceCommand,
        attached: impl Fn(SessionKey) -> bool,
    ) -> Verdict {
        let full = self.guilds.len() >= MAX_CONNECTIONS;
        let Some(channel) = ask.channel else {
            let owner = self.owner(ask.guild);
            let refuse = owner.is_some_and(|owner| owner != client && attached(owner));
            self.refused += u64::from(refuse);
            if refuse {
                return Verdict::Refuse;
            }
            if let Some(connection) = self.guilds.get_mut(&ask.guild) {
                connection.note_sent(now);
                if connection.expected().is_some() {
                    connection.expect(None, client);
                }
            }
            return Verdict::Send;
        };
        if full && !self.contains(ask.guild) {
            self.refused += 1;
            return Verdict::Refuse;
        }
        let is_new = !self.contains(ask.guild);
        let connection = self.guilds.entry(ask.guild).or_default();
        connection.note_sent(now);
        let before = connection.owner.replace(client);
        let takeover = before != Some(client);
        self.takeovers += u64::from(takeover && !is_new);
        // A token of the owner before is of no use to this one.
        if takeover {
            connection.server = Server::default();
        }
        (connection.rejoin_channel, connection.leave_at) = (None, None);
        let rejoin = takeover && connection.expected() == Some(channel);
        if rejoin {
            connection.expect(None, client);
        }
        let moves = connection.expected() != Some(channel);
        if moves {
            connection.expect(Some(channel), client);
        }
        let changes_before = connection.unanswered.len() - usize::from(moves);
        let last = connection.pending_join.take();
        // As long as a join is pending, its session is the owner, but only has the connection if the bot came into the
        // channel.
        let previous_owner =
            last.as_ref().map_or(before, |last| if last.reached { before } else { last.previous_owner });
        let last = last.unwrap_or_default();
        let until = now + if rejoin { REJOIN_LIMIT } else { ANSWER_LIMIT };
        connection.pending_join = Some(PendingJoin {
            channel,
            takeover: takeover || last.takeover,
            previous_owner,
            changes_before,
            rejoin: rejoin || last.rejoin,
            reached: last.reached && !takeover,
            leave_recipient: last
                .leave_recipient
                .or(before.filter(|_| rejoin))
                .filter(|recipient| *recipient != client),
            held_state: last.held_state,
            held_server: last.held_server,
            until,
        });
        if rejoin { Verdict::LeaveFirst } else { Verdict::Send }
    }

    /// An op 4 with a channel of session `client` is sent once more, because it was lost with the connection to Discord.
    /// Returns whether a leave has to go before it.
    ///
    /// The table may have stopped waiting for the answer, because the connection hung for longer than [`ANSWER_LIMIT`]
    /// before it broke. Then the connection belongs to the owner before again, and the op 4 is decided as a new one.
    pub fn send_again(&mut self, now: Time, client: SessionKey, ask: VoiceCommand) -> bool {
        let Some(connection) = self.guilds.get_mut(&ask.guild) else { return false };
        // Everything that was on its way is lost, so Discord will only answer what is sent now.
        connection.unanswered.clear();
        let Some(join) = &mut connection.pending_join else {
            return self.send(now, client, ask, |_| true) == Verdict::LeaveFirst;
        };
        let leave = (join.rejoin || join.changes_before > 0) && connection.channel == Some(join.channel);
        if leave && !join.rejoin {
            // The op 4 had no leave of its own. The voice state of this one must not reach the client that asks.
            join.rejoin = true;
            join.leave_recipient = join.previous_owner.filter(|before| *before != client);
        }
        join.until = now + if join.rejoin { REJOIN_LIMIT } else { ANSWER_LIMIT };
        join.changes_before = usize::from(leave);
        let channel = Some(join.channel);
        connection.sent_at = now;
        if leave {
            connection.expect(None, client);
        }
        if connection.expected() != channel {
            connection.expect(channel, client);
        }
        leave
    }

    /// Discord has answered every op 4 that reached it before the connection broke. `again`: the guilds for which an op
    /// 4 is sent once more. For every other guild the table stops counting on changes of the channel that were sent
    /// before. An op 4 of such a guild that has no answer stays in the table until [`Table::tick`] gives it up.
    pub fn expect_answers_only_for(&mut self, again: &[u64]) {
        for (_, connection) in self.guilds.iter_mut().filter(|(guild, _)| !again.contains(guild)) {
            connection.drop_unanswered(connection.unanswered.len());
        }
    }

    // ---- what Discord says ----

    /// Discord has sent a voice state of the bot itself, in `text`. Returns which sessions get it.
    pub fn own_state(&mut self, now: Time, state: OwnState, text: &[u8]) -> Audience {
        let Some(channel) = state.channel else { return self.own_state_left(state.guild, text) };
        if !state.ours {
            // The voice state is of another Gateway session of the bot, outside of this proxy.
            if let Some(connection) = self.guilds.get_mut(&state.guild) {
                (connection.channel, connection.server) = (None, Server::default());
                self.remove_if_unused(state.guild);
            }
            return Audience::All;
        }
        if !self.contains(state.guild) && self.guilds.len() >= MAX_CONNECTIONS {
            return Audience::All;
        }
        let grace = self.grace;
        let connection = self.guilds.entry(state.guild).or_insert_with(|| {
            // No client has asked for this connection, so no client can use it.
            Connection { leave_at: Some(now + grace), ..Connection::default() }
        });
        let waits = connection.apply_channel(Some(channel));
        (connection.self_mute, connection.self_deaf) = (state.self_mute, state.self_deaf);
        // After a leave, any channel is the answer: if it is not the wanted one, a user has moved the bot. With a held
        // server the answer is not certain, and the table gives the op 4 up later.
        connection.pending_join = connection
            .pending_join
            .take()
            .filter(|join| waits || join.held_server.is_some() || (join.channel != channel && !join.rejoin));
        Audience::All
    }

    /// The bot has left its channel in the guild.
    fn own_state_left(&mut self, guild: u64, text: &[u8]) -> Audience {
        let Some(connection) = self.guilds.get_mut(&guild) else { return Audience::All };
        let waits = connection.apply_channel(None);
        connection.server = Server::default();
        let Some(join) = connection.pending_join.as_mut().filter(|join| waits && join.rejoin) else {
            self.remove_if_unused(guild);
            return Audience::All;
        };
        join.held_state = Some(text.to_vec());
        join.leave_recipient.take().map_or(Audience::Nobody, Audience::Only)
    }

    /// Discord has sent a VOICE_SERVER_UPDATE, in `text`, which will be at this position of the log. Returns which
    /// session gets the update now, and then remembers the position for [`Table::is_fresh`]. Nobody gets the update if
    /// the guild has no owner. During a takeover, an update that may answer an op 4 of the owner before is held back,
    /// and [`Table::tick`] returns it if the table gives the op 4 of the new owner up.
    pub fn server_update(&mut self, guild: u64, position: u64, text: &[u8]) -> Audience {
        let Some(connection) = self.guilds.get_mut(&guild) else { return Audience::Nobody };
        let Some(owner) = connection.owner else { return Audience::Nobody };
        if let Some(join) = connection.pending_join.as_mut().filter(|join| join.takeover) {
            let elsewhere = connection.channel.is_some_and(|channel| channel != join.channel);
            if elsewhere || join.changes_before > 0 {
                // This update answers an op 4 of the owner before, and a later one makes its token void. If none comes,
                // the op 4 of the new owner has failed, or this update was its answer.
                join.held_server = Some(text.to_vec());
                return Audience::Nobody;
            }
            join.held_server = None;
        }
        connection.server = match json::get(text, "endpoint") {
            Some(b"null") => Server { valid: None, gone: Some(position) },
            _ => Server { valid: Some(position), ..connection.server },
        };
        Audience::Only(owner)
    }

    /// Returns whether the VOICE_SERVER_UPDATE at this position of the log is still valid for session `client`.
    pub fn is_fresh(&self, guild: u64, position: u64, client: SessionKey) -> bool {
        let connection = self.guilds.get(&guild);
        connection.is_some_and(|connection| {
            let Server { valid, gone } = connection.server;
            connection.owner == Some(client) && [valid, gone].contains(&Some(position))
        })
    }

    /// A GUILD_CREATE of a guild in the table has come, with the bot's voice state in the guild. Returns the channel to
    /// join again, with the mute and deaf states.
    pub fn guild_available(&mut self, guild: u64, state: Option<OwnState>) -> Option<(u64, bool, bool)> {
        let connection = self.guilds.get_mut(&guild)?;
        let channel = state.filter(|state| state.ours).and_then(|state| state.channel);
        connection.channel = channel;
        if channel.is_none() {
            connection.server = Server::default();
        }
        let again = connection.rejoin_channel.take().filter(|_| channel.is_none());
        let again = again.map(|channel| (channel, connection.self_mute, connection.self_deaf));
        if again.is_none() {
            self.remove_if_unused(guild);
        }
        again
    }

    /// The bot has left the guild.
    pub fn guild_left(&mut self, guild: u64) {
        self.guilds.remove(&guild);
    }

    fn remove_if_unused(&mut self, guild: u64) {
        if self.guilds.get(&guild).is_some_and(Connection::is_unused) {
            self.guilds.remove(&guild);
        }
    }

    /// Discord has given the shard a new session, in which the bot is in no channel. Returns the owners with their
    /// guilds, in order. `rejoin`: the bot joins the channels again when their guilds come; they have no owner until
    /// then.
    pub fn session_lost(&mut self, now: Time, rejoin: bool) -> Vec<(SessionKey, u64)> {
        let was_in =
            |connection: &Connection| connection.channel.or(connection.pending_join.as_ref().map(|join| join.channel));
        let mut told = Vec::new();
        let leave_at = Some(now + self.grace);
        self.guilds.retain(|guild, connection| {
            let again = was_in(connection).or(connection.rejoin_channel);
            told.extend(connection.owner.filter(|_| again.is_some()).map(|owner| (owner, *guild)));
            let Connection { self_mute, self_deaf, .. } = *connection;
            *connection = Connection { self_mute, self_deaf, rejoin_channel: again, leave_at, ..Connection::default() };
            rejoin && again.is_some()
        });
        told.sort_unstable();
        told
    }

    // ---- sessions and time ----

    /// A session has ended for good. Its connection ended at `since`.
    pub fn session_ended(&mut self, now: Time, client: SessionKey, since: Time) {
        let leave_at = (since + self.grace).max(now);
        self.guilds.retain(|_, connection| {
            for change in connection.unanswered.iter_mut().filter(|change| change.client == Some(client)) {
                change.client = None;
            }
            if let Some(join) = &mut connection.pending_join {
                join.previous_owner = join.previous_owner.filter(|before| *before != client);
                join.leave_recipient = join.leave_recipient.filter(|recipient| *recipient != client);
            }
            if connection.owner == Some(client) {
                connection.pass_on(leave_at);
            }
            !connection.is_unused()
        });
    }

    /// When [`Table::tick`] next has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let times = |connection: &Connection| {
            let join = connection.pending_join.as_ref().map(|join| join.until);
            join.into_iter().chain(connection.leave_at).min()
        };
        self.guilds.values().filter_map(times).min()
    }

    /// Does what is due, and returns the actions for it, ordered by guild. The table gives up op 4s whose answers have not
    /// come, and has the bot leave channels that have no owner, again every [`LEAVE_RETRY`] until Discord answers.
    /// `active`: the upstream session is live. While it is not, Discord can not answer: the table gives no op 4 up and
    /// returns no leave.
    pub fn tick(&mut self, now: Time, active: bool) -> Vec<DueAction> {
        let mut due = Vec::new();
        let mut guilds: Vec<u64> = self.guilds.keys().copied().collect();
        guilds.sort_unstable();
        for guild in guilds {
            let Some(connection) = self.guilds.get_mut(&guild) else { continue };
            let over = connection.pending_join.as_ref().is_some_and(|join| now >= join.until);
            match connection.pending_join.as_mut() {
                Some(join) if over && !active => join.until = now + REJOIN_LIMIT,
                Some(_) if over => give_up_join(guild, connection, now + self.grace, &mut due),
                _ => {}
            }
            if connection.leave_at.is_some_and(|at| now >= at) {
                connection.rejoin_channel = None;
                // The leave is repeated until Discord has answered it.
                connection.leave_at = Some(now + LEAVE_RETRY);
                if connection.channel.is_some() && active {
                    due.push(DueAction::Leave(guild));
                }
            }
            self.remove_if_unused(guild);
        }
        due
    }

    // ---- between two processes ----

    /// The connections, for the next process.
    pub fn save(&self) -> impl Iterator<Item = Saved> {
        self.guilds.iter().map(|(guild, connection)| Saved { guild: *guild, connection: connection.clone() })
    }

    /// Adds a guild's connection of a former process. `there` says whether a session still exists. If the owner's does
    /// not, the connection passes on as in [`Table::session_ended`], with the grace from `now` on. A pending op 4 is
    /// waited for anew from `now` on. Returns false, and adds nothing, if [`MAX_CONNECTIONS`] is reached.
    pub fn restore(&mut self, now: Time, saved: Saved, there: impl Fn(SessionKey) -> bool) -> bool {
        let Saved { guild, mut connection } = saved;
        if self.guilds.len() >= MAX_CONNECTIONS {
            return false;
        }
        if let Some(join) = &mut connection.pending_join {
            join.previous_owner = join.previous_owner.filter(|before| there(*before));
            join.leave_recipient = join.leave_recipient.filter(|recipient| there(*recipient));
            for change in &mut connection.unanswered {
                change.client = change.client.filter(|client| there(*client));
            }
            // Files of older builds have no list of changes.
            join.changes_before = join.changes_before.min(connection.unanswered.len());
            join.until = now + ANSWER_LIMIT;
        } else {
            connection.unanswered.clear();
        }
        if !connection.owner.is_some_and(there) {
            connection.pass_on(now + self.grace);
        }
        self.guilds.insert(guild, connection);
        true
    }
}
