//! Which client has the bot's voice connection in each guild (docs: Voice Connections; Gateway Events, Update Voice State).
//!
//! The account has one voice state in a guild, but a shard can have many clients. So each guild's voice connection has one
//! owner: the client session whose op 4 for that guild went to Discord last. The table here knows the owners and the channels,
//! and decides
//!
//! * what becomes of an op 4 when its turn to go to Discord has come ([`Table::send`]),
//! * who is sent a VOICE_SERVER_UPDATE and a voice state of the bot itself ([`Table::server_update`], [`Table::own_state`]),
//! * when a channel is left because its owner's session has ended ([`Table::tick`]).
//!
//! Promises: a voice server's token goes to the owner alone, and not any more once another token, another owner or the end of
//! the connection has made it void ([`Table::is_fresh`]); at most [`MAX_CONNECTIONS`] guilds are in the table, and one about
//! which Discord says nothing is forgotten after [`ASK_LIMIT`]. Never: keeps a token for a later session.
//!
//! Pure: numbers, texts and the time go in, decisions come out. What the shard does with them is in `hooks`.

mod hooks;
mod payloads;

#[cfg(test)]
mod tests;

use crate::protocol::{Time, json};
use hashbrown::HashMap;
pub(super) use hooks::is_fresh;
pub use payloads::{Ask, OwnState};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Guilds of one shard whose voice connections are known; an op 4 for one more is refused. Discord allows a shard 2,500 guilds.
pub const MAX_CONNECTIONS: usize = 4096;
/// Discord has answered an op 4 after this time, or it never will: the channel is full, or the bot may not join it.
pub const ASK_LIMIT: Duration = Duration::from_secs(10);
/// The same for an op 4 that had to leave the channel first. hikari waits 5 s for its answer.
pub const REJOIN_LIMIT: Duration = Duration::from_secs(4);
/// When the channel could not be left, because too many commands wait for Discord, it is tried again after this time.
const LEAVE_RETRY: Duration = Duration::from_secs(5);

/// What becomes of an op 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to Discord.
    Send,
    /// An op 4 with `channel_id: null` goes to Discord, and then this one. The account is in the wanted channel already, and
    /// Discord gives a new voice server only to who comes from elsewhere.
    LeaveFirst,
    /// It does not go to Discord.
    Refuse,
}

/// Who is sent an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every session whose intents cover it.
    All,
    /// One session.
    Only(u32),
    /// Nobody.
    Nobody,
}

/// What has to be done because time has passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// The channel of this guild has to be left: nobody has taken over from an owner whose session has ended.
    Leave(u64),
    /// A VOICE_STATE_UPDATE that was held back is to be told to everyone after all.
    TellState(Vec<u8>),
    /// A VOICE_SERVER_UPDATE of this guild that was held back is to be told to its owner after all.
    TellServer(u64, Vec<u8>),
}

/// An op 4 with a channel that Discord has been sent and has not answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Asked {
    channel: u64,
    /// It came from another session than the owner before.
    takeover: bool,
    /// Who was the owner before. Gets the connection back if nothing comes of this.
    before: Option<u32>,
    /// Of the changes that were sent before it, so many are not answered.
    behind: u32,
    /// It needed a leave, which is told to nobody who need not know.
    rejoin: bool,
    /// The session that has to be told of the leave, because it does not know that its connection is over.
    bereaved: Option<u32>,
    /// The voice state of the leave, to be told to everyone should the join fail.
    held_state: Option<Vec<u8>>,
    /// A voice server that came before the leave was answered.
    held_server: Option<Vec<u8>>,
    #[serde(skip)]
    until: Time,
}

/// Positions in the log of the VOICE_SERVER_UPDATEs that the owner may be sent.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Server {
    /// The newest one with a server, as long as its token is good.
    good: Option<u64>,
    /// The newest one that says that the server has gone away (`endpoint: null`). It has no token that could be used.
    gone: Option<u64>,
}

/// The bot's voice connection in one guild.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Connection {
    /// `None`: the session whose it was has ended.
    owner: Option<u32>,
    /// The channel in which Discord has the shard's session, by what it has said so far.
    channel: Option<u64>,
    /// The channel in which it will have it after everything that it was sent, if nothing fails.
    expected: Option<u64>,
    /// Changes of the channel that it was sent, and whose voice states have not come.
    changes: u32,
    /// When the newest op 4 was sent.
    #[serde(skip)]
    sent_at: Time,
    self_mute: bool,
    self_deaf: bool,
    asked: Option<Asked>,
    /// The VOICE_SERVER_UPDATEs that the owner may be sent.
    server: Server,
    /// The channel to be joined again, because Discord's session was lost.
    again: Option<u64>,
    /// When the channel is left.
    #[serde(skip)]
    leave_at: Option<Time>,
}

impl Connection {
    fn is_void(&self) -> bool {
        self.channel.is_none() && self.asked.is_none() && self.again.is_none()
    }

    /// The bot is in this channel now. Returns whether changes that were sent before the newest op 4 were still to come.
    fn changes_to(&mut self, channel: Option<u64>) -> bool {
        let changed = u32::from(std::mem::replace(&mut self.channel, channel) != channel);
        self.changes = self.changes.saturating_sub(changed);
        let Some(asked) = &mut self.asked else { return false };
        let behind = asked.behind;
        asked.behind = behind.saturating_sub(changed);
        // A server for the channel before is of no use.
        asked.held_server.take_if(|_| changed > 0);
        behind > 0
    }

    /// Another op 4 is sent: what is not answered by now never will be.
    fn stop_waiting_in_vain(&mut self, now: Time) {
        if now.saturating_sub(self.sent_at) > ASK_LIMIT && self.asked.is_none() {
            (self.changes, self.expected) = (0, self.channel);
        }
        self.sent_at = now;
    }

    /// Once Discord has answered everything, what it has said is what will be.
    fn expect_what_is(&mut self) {
        if self.asked.is_none() && self.changes == 0 {
            self.expected = self.channel;
        }
    }
}

/// A guild's connection between two processes.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    guild: u64,
    connection: Connection,
}

/// See the module's description.
#[derive(Clone, Default)]
pub struct Table {
    guilds: HashMap<u64, Connection>,
    /// How long the channel of an owner is kept whose connection has ended and who does not come back.
    grace: Duration,
    takeovers: u64,
    refused: u64,
}

impl Table {
    /// An empty one.
    pub fn new(grace: Duration) -> Self {
        Self { grace, ..Self::default() }
    }

    /// Changes the grace of the channels whose clients go from now on.
    pub fn set_grace(&mut self, grace: Duration) {
        self.grace = grace;
    }

    /// Is nothing known?
    pub fn is_empty(&self) -> bool {
        self.guilds.is_empty()
    }

    /// Is there anything to know of this guild?
    pub fn knows(&self, guild: u64) -> bool {
        self.guilds.contains_key(&guild)
    }

    /// Guilds in which the shard is in a voice channel.
    pub fn connections(&self) -> usize {
        self.guilds.values().filter(|connection| connection.channel.is_some()).count()
    }

    /// Connections that passed from one session of a client to another.
    pub fn takeovers(&self) -> u64 {
        self.takeovers
    }

    /// Op 4s that did not go to Discord.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Is there an op 4 about this guild that Discord has been sent and has not answered?
    pub fn waits(&self, guild: u64) -> bool {
        self.guilds.get(&guild).is_some_and(|connection| connection.asked.is_some() || connection.changes > 0)
    }

    /// The owner of a guild's connection.
    pub fn owner(&self, guild: u64) -> Option<u32> {
        self.guilds.get(&guild)?.owner
    }

    // ---- op 4 ----

    /// An op 4 of session `client` has its turn. `attached` says whether a session has a connection.
    ///
    /// The owner is who has asked last. A session that is not the owner can not leave while the owner is there: a library
    /// that has lost its connection to another client tidies up with such an op 4, and would throw that client out.
    pub fn send(&mut self, now: Time, client: u32, ask: Ask, attached: impl Fn(u32) -> bool) -> Verdict {
        let full = self.guilds.len() >= MAX_CONNECTIONS;
        let Some(channel) = ask.channel else {
            let owner = self.owner(ask.guild);
            let refuse = owner.is_some_and(|owner| owner != client && attached(owner));
            self.refused += u64::from(refuse);
            if refuse {
                return Verdict::Refuse;
            }
            if let Some(connection) = self.guilds.get_mut(&ask.guild) {
                connection.stop_waiting_in_vain(now);
                connection.changes += u32::from(connection.expected.take().is_some());
            }
            return Verdict::Send;
        };
        if full && !self.knows(ask.guild) {
            self.refused += 1;
            return Verdict::Refuse;
        }
        let is_new = !self.knows(ask.guild);
        let connection = self.guilds.entry(ask.guild).or_default();
        connection.stop_waiting_in_vain(now);
        let before = connection.owner.replace(client);
        let takeover = before != Some(client);
        self.takeovers += u64::from(takeover && !is_new);
        // A token of the owner before is of no use to this one.
        if takeover {
            connection.server = Server::default();
        }
        (connection.again, connection.leave_at) = (None, None);
        let rejoin = takeover && connection.expected == Some(channel);
        connection.changes += u32::from(rejoin);
        let last = connection.asked.take().unwrap_or_default();
        let until = now + if rejoin { REJOIN_LIMIT } else { ASK_LIMIT };
        connection.asked = Some(Asked {
            channel,
            takeover: takeover || last.takeover,
            before: if takeover { before } else { last.before.or(before) },
            behind: connection.changes,
            rejoin: rejoin || last.rejoin,
            bereaved: last.bereaved.or(before.filter(|_| rejoin)).filter(|bereaved| *bereaved != client),
            held_state: last.held_state,
            held_server: None,
            until,
        });
        connection.changes += u32::from(rejoin || connection.expected != Some(channel));
        connection.expected = Some(channel);
        if rejoin { Verdict::LeaveFirst } else { Verdict::Send }
    }

    /// An op 4 with this channel is sent once more, because it was lost with the connection to Discord: does it need the
    /// leave again?
    pub fn send_again(&mut self, now: Time, guild: u64) -> bool {
        let Some(connection) = self.guilds.get_mut(&guild) else { return false };
        connection.changes = 0;
        let Some(asked) = &mut connection.asked else { return false };
        // Whatever was on its way is lost, so only what is sent now will be answered.
        let leave = (asked.rejoin || asked.behind > 0) && connection.channel == Some(asked.channel);
        asked.until = now + if asked.rejoin { REJOIN_LIMIT } else { ASK_LIMIT };
        asked.behind = u32::from(leave);
        (connection.changes, connection.sent_at) = (1 + u32::from(leave), now);
        leave
    }

    /// Discord has answered everything that reached it before the connection broke. `again`: guilds about which something is
    /// sent once more; about the others no answer is to come.
    pub fn expect_answers_about(&mut self, again: &[u64]) {
        for (_, connection) in self.guilds.iter_mut().filter(|(guild, _)| !again.contains(guild)) {
            (connection.changes, connection.expected) = (0, connection.channel);
            if let Some(asked) = &mut connection.asked {
                asked.behind = 0;
            }
        }
    }

    // ---- what Discord says ----

    /// A voice state of the bot itself, in `text`.
    pub fn own_state(&mut self, now: Time, state: OwnState, text: &[u8]) -> Audience {
        let Some(channel) = state.channel else { return self.left(state.guild, text) };
        if !state.ours {
            // Another session of the bot has the connection, which is not this proxy's.
            if let Some(connection) = self.guilds.get_mut(&state.guild) {
                (connection.channel, connection.server) = (None, Server::default());
                connection.expect_what_is();
                self.forget_if_void(state.guild);
            }
            return Audience::All;
        }
        if !self.knows(state.guild) && self.guilds.len() >= MAX_CONNECTIONS {
            return Audience::All;
        }
        let grace = self.grace;
        let connection = self.guilds.entry(state.guild).or_insert_with(|| {
            // Nobody has asked for it, so nobody can use it.
            Connection { leave_at: Some(now + grace), ..Connection::default() }
        });
        let waits = connection.changes_to(Some(channel));
        (connection.self_mute, connection.self_deaf) = (state.self_mute, state.self_deaf);
        // After a leave any channel will do: somebody has moved the bot.
        connection.asked = connection.asked.take().filter(|asked| waits || (asked.channel != channel && !asked.rejoin));
        connection.expect_what_is();
        Audience::All
    }

    /// The bot is in no channel of the guild any more.
    fn left(&mut self, guild: u64, text: &[u8]) -> Audience {
        let Some(connection) = self.guilds.get_mut(&guild) else { return Audience::All };
        let waits = connection.changes_to(None);
        connection.server = Server::default();
        connection.expect_what_is();
        let Some(asked) = connection.asked.as_mut().filter(|asked| waits && asked.rejoin) else {
            self.forget_if_void(guild);
            return Audience::All;
        };
        asked.held_state = Some(text.to_vec());
        asked.bereaved.take().map_or(Audience::Nobody, Audience::Only)
    }

    /// A VOICE_SERVER_UPDATE, in `text`, that will stand at this position of the log.
    pub fn server_update(&mut self, guild: u64, position: u64, text: &[u8]) -> Audience {
        let Some(connection) = self.guilds.get_mut(&guild) else { return Audience::Nobody };
        let Some(owner) = connection.owner else { return Audience::Nobody };
        if let Some(asked) = connection.asked.as_mut().filter(|asked| asked.takeover) {
            let elsewhere = connection.channel.is_some_and(|channel| channel != asked.channel);
            if elsewhere {
                // It answers what the owner before has asked for.
                return Audience::Nobody;
            }
            if asked.behind > 0 {
                // What follows makes its token void. Should nothing follow, it was the answer.
                asked.held_server = Some(text.to_vec());
                return Audience::Nobody;
            }
            asked.held_server = None;
        }
        connection.server = match json::get(text, "endpoint") {
            Some(b"null") => Server { good: None, gone: Some(position) },
            _ => Server { good: Some(position), ..connection.server },
        };
        Audience::Only(owner)
    }

    /// Is the VOICE_SERVER_UPDATE at this position of the log still good for session `client`?
    pub fn is_fresh(&self, guild: u64, position: u64, client: u32) -> bool {
        let connection = self.guilds.get(&guild);
        connection.is_some_and(|connection| {
            let Server { good, gone } = connection.server;
            connection.owner == Some(client) && [good, gone].contains(&Some(position))
        })
    }

    /// A GUILD_CREATE of a guild that is in the table, with the bot's voice state there. Returns the channel that has to be
    /// joined again, with the mute and deaf states.
    pub fn guild_came(&mut self, guild: u64, state: Option<OwnState>) -> Option<(u64, bool, bool)> {
        let connection = self.guilds.get_mut(&guild)?;
        let channel = state.filter(|state| state.ours).and_then(|state| state.channel);
        connection.channel = channel;
        connection.expect_what_is();
        if channel.is_none() {
            connection.server = Server::default();
        }
        let again = connection.again.take().filter(|_| channel.is_none());
        let again = again.map(|channel| (channel, connection.self_mute, connection.self_deaf));
        if again.is_none() {
            self.forget_if_void(guild);
        }
        again
    }

    /// The bot is no longer in the guild.
    pub fn guild_left(&mut self, guild: u64) {
        self.guilds.remove(&guild);
    }

    fn forget_if_void(&mut self, guild: u64) {
        if self.guilds.get(&guild).is_some_and(Connection::is_void) {
            self.guilds.remove(&guild);
        }
    }

    /// Discord has a new session for the shard, in which the bot is in no channel. Returns the owners with their guilds, in
    /// order. `rejoin`: the channels are joined again as soon as their guilds come; nobody owns them until then.
    pub fn session_lost(&mut self, now: Time, rejoin: bool) -> Vec<(u32, u64)> {
        let was_in =
            |connection: &Connection| connection.channel.or(connection.asked.as_ref().map(|asked| asked.channel));
        let mut told = Vec::new();
        let leave_at = Some(now + self.grace);
        self.guilds.retain(|guild, connection| {
            let again = was_in(connection).or(connection.again);
            told.extend(connection.owner.filter(|_| again.is_some()).map(|owner| (owner, *guild)));
            let Connection { self_mute, self_deaf, .. } = *connection;
            *connection = Connection { self_mute, self_deaf, again, leave_at, ..Connection::default() };
            rejoin && again.is_some()
        });
        told.sort_unstable();
        told
    }

    // ---- sessions and time ----

    /// A session has ended for good. It has had no connection since `since`.
    pub fn session_ended(&mut self, now: Time, client: u32, since: Time) {
        let leave_at = (since + self.grace).max(now);
        self.guilds.retain(|_, connection| {
            if let Some(asked) = &mut connection.asked {
                asked.before = asked.before.filter(|before| *before != client);
                asked.bereaved = asked.bereaved.filter(|bereaved| *bereaved != client);
            }
            if connection.owner == Some(client) {
                // As long as Discord has not answered, the one before may still have the connection.
                let before = connection.asked.as_ref().and_then(|asked| asked.before.filter(|_| !asked.rejoin));
                (connection.owner, connection.server) = (before, Server::default());
                connection.leave_at = before.is_none().then_some(leave_at);
            }
            !connection.is_void()
        });
    }

    /// When [`Table::tick`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        let times = |connection: &Connection| {
            let asked = connection.asked.as_ref().map(|asked| asked.until);
            asked.into_iter().chain(connection.leave_at).min()
        };
        self.guilds.values().filter_map(times).min()
    }

    /// What has to be done now, by guild. `active`: Discord can answer; as long as it can not, nothing is decided.
    pub fn tick(&mut self, now: Time, active: bool) -> Vec<Due> {
        let mut due = Vec::new();
        let mut guilds: Vec<u64> = self.guilds.keys().copied().collect();
        guilds.sort_unstable();
        for guild in guilds {
            let Some(connection) = self.guilds.get_mut(&guild) else { continue };
            let over = connection.asked.as_ref().is_some_and(|asked| now >= asked.until);
            match connection.asked.as_mut() {
                Some(asked) if over && !active => asked.until = now + REJOIN_LIMIT,
                Some(_) if over => give_up_waiting(guild, connection, &mut due),
                _ => {}
            }
            if connection.leave_at.is_some_and(|at| now >= at) {
                connection.again = None;
                // Said again until Discord has answered.
                connection.leave_at = Some(now + LEAVE_RETRY);
                if connection.channel.is_some() && active {
                    due.push(Due::Leave(guild));
                }
            }
            self.forget_if_void(guild);
        }
        due
    }

    // ---- between two processes ----

    /// For another process.
    pub fn save(&self) -> impl Iterator<Item = Saved> {
        self.guilds.iter().map(|(guild, connection)| Saved { guild: *guild, connection: connection.clone() })
    }

    /// Takes over a guild of another process; false when there are too many. `there` says whether a session goes on.
    pub fn restore(&mut self, now: Time, saved: Saved, there: impl Fn(u32) -> bool) -> bool {
        let Saved { guild, mut connection } = saved;
        if self.guilds.len() >= MAX_CONNECTIONS {
            return false;
        }
        connection.owner = connection.owner.filter(|owner| there(*owner));
        if connection.owner.is_none() {
            (connection.server, connection.leave_at) = (Server::default(), Some(now + self.grace));
        }
        if let Some(asked) = &mut connection.asked {
            asked.before = asked.before.filter(|before| there(*before));
            asked.bereaved = asked.bereaved.filter(|bereaved| there(*bereaved));
            asked.until = now + ASK_LIMIT;
        } else {
            (connection.changes, connection.expected) = (0, connection.channel);
        }
        self.guilds.insert(guild, connection);
        true
    }
}

/// Discord has not answered an op 4.
fn give_up_waiting(guild: u64, connection: &mut Connection, due: &mut Vec<Due>) {
    let Some(asked) = connection.asked.take() else { return };
    (connection.changes, connection.expected) = (0, connection.channel);
    match asked {
        // It left, and could not join any more.
        Asked { held_state: Some(state), .. } if connection.channel.is_none() => due.push(Due::TellState(state)),
        // It did not leave, and was given a voice server anyway.
        Asked { held_server: Some(server), .. } => due.push(Due::TellServer(guild, server)),
        // Nothing has changed, so the one who had the connection still has it.
        Asked { before: Some(before), takeover: true, .. } if connection.channel.is_some() => {
            connection.owner = Some(before);
        }
        _ => {}
    }
}
