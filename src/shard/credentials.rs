//! What the credential of a client (config key `clients`) means for the client's session: which commands it may send,
//! what it is shown of a guild, who may resume it, and what happens to it when the operator changes or revokes the
//! credential.
//!
//! A client with the bot's token has no credential, and nothing here concerns it.
//!
//! Promises: a session of a revoked credential gets nothing more and can not be resumed. A session never goes on with
//! intents or on a shard that its credential no longer permits.

use super::Shard;
use crate::{
    cache::{MemberRequest, View},
    downstream::{
        credential::{Credential, Credentials},
        session::{Phase, Session, SessionId},
    },
    protocol::{
        SessionKey, Time,
        close::Close,
        command::Command,
        edit::{ObjectWriter, id_at},
        intents::Intents,
        json::{self, string::spells},
        opcode,
    },
};
use hashbrown::HashMap;
use serde_json::value::RawValue;
use std::sync::Arc;

/// How the clients of one credential use a shard, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The name of the credential.
    pub name: Arc<str>,
    /// Connected clients.
    pub clients: usize,
    /// Commands that were not passed on because the credential does not permit them.
    pub refused: u64,
}

/// The number of commands of each credential that were not passed on, by its name. Bounded by the number of
/// credentials: [`Shard::set_credentials`] drops the names that are gone.
#[derive(Default)]
pub(super) struct Refusals(HashMap<Arc<str>, u64>);

impl Shard {
    /// The client of session `key` has shown the secret of this credential. To be called before the client is
    /// served.
    pub fn bind(&mut self, key: SessionKey, credential: Arc<Credential>) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.session.bind(credential);
        }
    }

    /// Says whether the session with this id was begun with the same secret as `credential`, or with the bot's token if
    /// `credential` is `None`.
    pub fn belongs_to(&self, id: &SessionId, credential: Option<&Credential>) -> bool {
        let client = self.sessions.get(id).and_then(|key| self.clients.get(key));
        let hash = |credential: &Credential| credential.hash;
        client.is_some_and(|client| client.session.credential.as_deref().map(hash) == credential.map(hash))
    }

    /// Says whether the client of session `key` may send this command. A command that it may not send is counted,
    /// and the log names the first such command of a credential, the second, the fourth and so on.
    ///
    /// Without the intent GUILD_MEMBERS a client may not request all members of a guild (docs: Gateway Events, Request
    /// Guild Members).
    pub(super) fn permits(&mut self, key: SessionKey, command: &Command<'_>) -> bool {
        let session = self.clients.get(&key).map(|client| &client.session);
        let Some((session, credential)) = session.and_then(|session| Some((session, session.credential.as_ref()?)))
        else {
            return true;
        };
        let asks_for_all = || {
            let data = command.d.map_or("null", RawValue::get);
            MemberRequest::parse(data.as_bytes()).is_none_or(|request| request.is_for_all())
        };
        let needs_members = command.op == opcode::REQUEST_GUILD_MEMBERS
            && !session.options.intents.intersects(Intents::GUILD_MEMBERS)
            && asks_for_all();
        if credential.permits(command.op) && !needs_members {
            return true;
        }
        let count = self.refusals.0.entry(credential.name.clone()).or_default();
        *count += 1;
        if count.is_power_of_two() {
            tracing::warn!(
                shard = self.id.id,
                client = key.0,
                credential = &*credential.name,
                op = command.op,
                so_far = *count,
                "a client's command is not passed on, because its credential in `clients` does not permit it"
            );
        }
        false
    }

    /// The operator has changed the credentials, or a former process has left sessions with credentials. Clients of
    /// revoked credentials are closed with [`Close::Revoked`]. Clients whose credential no longer has their intents or this
    /// shard are told that their session is over (op 9). For all others the changed credential holds at once, except
    /// that more intents need a new IDENTIFY.
    pub fn set_credentials(&mut self, now: Time, credentials: &Credentials) {
        let (mut revoked, mut narrowed) = (Vec::new(), Vec::new());
        for client in self.clients.values_mut() {
            let session = &mut client.session;
            let Some(own) = session.credential.as_ref() else { continue };
            let Some(current) = credentials.with_hash(own.hash) else {
                revoked.push(session.key);
                continue;
            };
            let beyond = session.options.intents.without(current.intents) != Intents::default();
            if current.covers(self.id.id) && (!beyond || session.phase == Phase::Waiting) {
                session.bind(current.clone());
            } else {
                narrowed.push(session.key);
            }
        }
        for key in revoked {
            if self.end(now, key)
                && let Some(client) = self.clients.get_mut(&key)
            {
                client.pending_close = Some(Close::Revoked);
            }
        }
        for key in narrowed {
            self.end(now, key);
        }
        self.wake.clients = true;
        self.refusals.0.retain(|name, _| credentials.iter().any(|credential| credential.name == *name));
    }

    /// Ends a session so that it can not be resumed. Returns whether its client is connected and has to be told.
    fn end(&mut self, now: Time, key: SessionKey) -> bool {
        let connected = self.clients.get(&key).is_some_and(|client| client.session.connection.is_some());
        if connected {
            self.invalidate(key, now);
        } else {
            self.remove(now, key, false);
        }
        connected
    }

    /// How the clients of each credential use the shard. Credentials that nobody uses here are left out.
    pub(super) fn usage(&self) -> Vec<Usage> {
        let mut all: Vec<Usage> = Vec::new();
        let mut of =
            |name: &Arc<str>, clients: usize, refused: u64| match all.iter_mut().find(|use_| use_.name == *name) {
                Some(known) => (known.clients, known.refused) = (known.clients + clients, known.refused + refused),
                None => all.push(Usage { name: name.clone(), clients, refused }),
            };
        for client in self.clients.values().filter(|client| client.session.connection.is_some()) {
            if let Some(credential) = &client.session.credential {
                of(&credential.name, 1, 0);
            }
        }
        for (name, refused) in &self.refusals.0 {
            of(name, 0, *refused);
        }
        all
    }
}

/// The `d` of a GUILD_CREATE that came from Discord, as the client of `session` gets it: without the arrays that its
/// intents do not select, and of the members only the bot and those in voice channels. `None`: the client gets what
/// Discord has sent, because it has no credential or its intents select all.
///
/// The snapshot of a guild is narrowed when it is written. A GUILD_CREATE that comes while a client is connected is the
/// same text for all clients, so it is narrowed here, for those whose intents are not their own choice.
pub(super) fn narrowed_guild(session: &Session, view: View, data: &[u8]) -> Option<Vec<u8>> {
    if session.credential.is_none() || view == View::ALL {
        return None;
    }
    let voice_states = json::get(data, "voice_states").and_then(|states| json::elements(states).ok());
    let mut shown: Vec<u64> =
        voice_states.unwrap_or_default().iter().filter_map(|state| id_at(state, &["user_id"])).collect();
    shown.extend(session.user());
    let mut writer = ObjectWriter::new(data.len());
    let read = json::for_each_spelled_entry(data, |key, escaped, value| {
        let is = |name: &str| spells(key, escaped, name.as_bytes());
        let is_hidden = is("presences") && !view.presences
            || is("voice_states") && !view.voice_states
            || is("guild_scheduled_events") && !view.scheduled_events;
        if is_hidden {
            writer.entry(key, b"[]");
        } else if is("members") && !view.members {
            let members = json::elements(value).unwrap_or_default();
            let is_shown = |member: &&&[u8]| id_at(member, &["user", "id"]).is_some_and(|id| shown.contains(&id));
            let members: Vec<&[u8]> = members.iter().filter(is_shown).copied().collect();
            writer.entry(key, &[&b"["[..], &members.join(&b','), b"]"].concat());
        } else {
            writer.entry(key, value);
        }
        true
    });
    // What is no object is shown to no client with a credential.
    Some(read.map_or_else(|_| b"{}".to_vec(), |()| writer.finish()))
}
