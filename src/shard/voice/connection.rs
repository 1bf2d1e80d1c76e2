//! The bot's voice connection in one guild: its owner, its channel, and the op 4s that Discord has not answered.
//!
//! Discord answers op 4s in order, but not each of them. So a connection keeps the changes of the channel that are not
//! answered, and matches each voice state with the oldest change to its channel. The [table](super::Table) decides with
//! this which client an answer is for. Bounded: [`MAX_UNANSWERED`] changes. Never: sends anything.

use super::{ANSWER_LIMIT, DueAction};
use crate::protocol::{SessionKey, Time};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The most unanswered changes of the channel that the table keeps for a guild; for one more the oldest counts as
/// answered. Discord would have to ignore more op 4s than the limiter lets through in a minute
/// ([`COMMANDS_PER_WINDOW`](crate::upstream::limiter::COMMANDS_PER_WINDOW)).
const MAX_UNANSWERED: usize = 128;

/// An op 4 with a channel that was sent to Discord and that Discord has not answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct PendingJoin {
    pub(super) channel: u64,
    /// The op 4 came from another session than the owner at that time.
    pub(super) takeover: bool,
    /// The session for whose op 4 the bot is in its channel. This session gets the connection back if the op 4 fails.
    #[serde(rename = "before")]
    pub(super) previous_owner: Option<SessionKey>,
    /// How many of [`Connection::unanswered`] were sent before this op 4.
    #[serde(rename = "behind")]
    pub(super) changes_before: usize,
    /// The op 4 needed a leave. Only a client that has to know of the leave gets its voice state.
    pub(super) rejoin: bool,
    /// The bot has come into the channel of an op 4 of this owner since it became the owner. The table may still wait
    /// for an answer, because it can not tell the answers to two op 4s for the same channel apart.
    #[serde(default)]
    pub(super) reached: bool,
    /// The session that has to get the voice state of the leave, because it does not know that its connection is over.
    #[serde(rename = "bereaved")]
    pub(super) leave_recipient: Option<SessionKey>,
    /// The voice state of the leave, which goes to every client if the join fails.
    pub(super) held_state: Option<Vec<u8>>,
    /// A VOICE_SERVER_UPDATE that may be the answer to an op 4 before this one.
    pub(super) held_server: Option<Vec<u8>>,
    #[serde(skip)]
    pub(super) until: Time,
}

/// A change of the channel that was sent to Discord and that Discord has not answered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct ChannelChange {
    /// The channel after the change; `None`: the bot leaves.
    pub(super) channel: Option<u64>,
    /// The session that asked for it; `None` if it has ended.
    pub(super) client: Option<SessionKey>,
}

/// Positions in the log of the VOICE_SERVER_UPDATEs that the owner may be sent.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Server {
    /// The newest update with a server, as long as its token is valid.
    #[serde(rename = "good")]
    pub(super) valid: Option<u64>,
    /// The newest update that says that the server is gone (`endpoint: null`). Such an update has no token that could
    /// be used.
    pub(super) gone: Option<u64>,
}

/// The bot's voice connection in one guild.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Connection {
    /// The owner; `None` if no session has the voice connection.
    pub(super) owner: Option<SessionKey>,
    /// The channel of the shard's session, by the newest voice state from Discord.
    pub(super) channel: Option<u64>,
    /// The changes whose voice states have not come, the oldest first. At most [`MAX_UNANSWERED`]. Discord answers in
    /// order, but not everything: not a join of a channel that is full, and no op 4 for a guild that is down.
    #[serde(default)]
    pub(super) unanswered: VecDeque<ChannelChange>,
    /// When the newest op 4 was sent.
    #[serde(skip)]
    pub(super) sent_at: Time,
    pub(super) self_mute: bool,
    pub(super) self_deaf: bool,
    #[serde(rename = "asked")]
    pub(super) pending_join: Option<PendingJoin>,
    /// The VOICE_SERVER_UPDATEs that the owner may be sent.
    pub(super) server: Server,
    /// The channel to join again, because Discord's session was lost.
    #[serde(rename = "again")]
    pub(super) rejoin_channel: Option<u64>,
    /// When the bot leaves the channel, if it has to.
    #[serde(skip)]
    pub(super) leave_at: Option<Time>,
}

impl Connection {
    pub(super) fn is_unused(&self) -> bool {
        self.channel.is_none() && self.pending_join.is_none() && self.rejoin_channel.is_none()
    }

    /// The channel of the shard's session after everything that was sent to Discord, if nothing fails.
    pub(super) fn expected(&self) -> Option<u64> {
        self.unanswered.back().map_or(self.channel, |change| change.channel)
    }

    /// The session that has the voice connection if the pending join fails: the newest session with an unanswered op 4 for
    /// a channel that was sent before the join, otherwise the join's [`PendingJoin::previous_owner`]. `None` if no join is
    /// pending, if the pending one was answered or needed a leave, or if these sessions have ended.
    pub(super) fn owner_without_pending_join(&self) -> Option<SessionKey> {
        let join = self.pending_join.as_ref().filter(|join| !join.rejoin && !join.reached)?;
        let mut before = self.unanswered.iter().take(join.changes_before).rev();
        before.find_map(|change| change.client.filter(|_| change.channel.is_some())).or(join.previous_owner)
    }

    /// The owner's session has ended. The connection passes to [`Connection::owner_without_pending_join`], or to nobody;
    /// then the bot leaves its channel at `leave_at`.
    pub(super) fn pass_on(&mut self, leave_at: Time) {
        (self.owner, self.server) = (self.owner_without_pending_join(), Server::default());
        self.leave_at = self.owner.is_none().then_some(leave_at);
    }

    /// A change of the channel is sent for this session.
    pub(super) fn expect(&mut self, channel: Option<u64>, client: SessionKey) {
        if self.unanswered.len() >= MAX_UNANSWERED {
            self.drop_unanswered(1);
        }
        self.unanswered.push_back(ChannelChange { channel, client: Some(client) });
    }

    /// The oldest changes are answered, or Discord will not answer them any more.
    pub(super) fn drop_unanswered(&mut self, count: usize) {
        self.unanswered.drain(..count);
        if let Some(join) = &mut self.pending_join {
            join.changes_before = join.changes_before.saturating_sub(count);
        }
    }

    /// Notes the bot's channel by a voice state; `None`: the bot has left. If the channel is another one than before, the
    /// oldest unanswered changes are dropped, up to the oldest one to this channel, and a held VOICE_SERVER_UPDATE is
    /// discarded. Returns true if this voice state answers at most a change that was sent before the pending join. False
    /// does not mean that the join was answered.
    pub(super) fn apply_channel(&mut self, channel: Option<u64>) -> bool {
        let behind = self.pending_join.as_ref().map_or(0, |join| join.changes_before);
        if std::mem::replace(&mut self.channel, channel) == channel {
            return behind > 0;
        }
        // Changes before the one that is answered were ignored. If none is answered, a user has moved the bot.
        let index = self.unanswered.iter().position(|change| change.channel == channel);
        let answered = index.map_or(0, |index| index + 1);
        let client = index.and_then(|index| self.unanswered[index].client);
        self.drop_unanswered(answered);
        if let Some(join) = &mut self.pending_join {
            if (1..=behind).contains(&answered) && channel.is_some() {
                (join.previous_owner, join.reached) = (client, false);
            }
            join.reached |= channel == Some(join.channel);
            // A server for the former channel is of no use.
            join.held_server = None;
        }
        behind > 0 && answered <= behind
    }

    /// Another op 4 is sent now. Changes that Discord has not answered within [`ANSWER_LIMIT`] are no longer expected.
    pub(super) fn note_sent(&mut self, now: Time) {
        if now.saturating_sub(self.sent_at) > ANSWER_LIMIT && self.pending_join.is_none() {
            self.unanswered.clear();
        }
        self.sent_at = now;
    }
}

/// Stops waiting for Discord's answer to an op 4. If a takeover has failed and the session of the owner before has ended,
/// the bot leaves its channel at `leave_at`.
pub(super) fn give_up_join(guild: u64, connection: &mut Connection, leave_at: Time, due: &mut Vec<DueAction>) {
    connection.unanswered.clear();
    let Some(join) = connection.pending_join.take() else { return };
    if connection.channel.is_none() {
        // The bot left the channel, and could not join it again.
        due.extend(join.held_state.map(DueAction::TellState));
        return;
    }
    // Discord may send a voice server for the wanted channel although the bot did not leave it.
    let answered = join.reached || (join.held_server.is_some() && connection.channel == Some(join.channel));
    if join.takeover && !answered {
        // The owner before still has the voice connection, if its session has not ended.
        connection.owner = join.previous_owner;
        connection.leave_at = connection.owner.is_none().then_some(leave_at);
    }
    due.extend(join.held_server.map(|server| DueAction::TellServer(guild, server)));
}
