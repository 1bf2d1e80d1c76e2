//! Chooses the session id in a client's READY, and finds the session that a RESUME means.
//!
//! Some libraries (eris, detritus) send the id of READY to Discord's voice servers, which only know Discord's id. So a
//! client gets the id of the shard's session with Discord, unless another connected client has it. All other clients
//! get an id of the proxy's own. Those of them that use voice take the id from their VOICE_STATE_UPDATE, which always
//! has Discord's.
//!
//! Discord's id does not say which client's session a RESUME means. So a client with that id is told to resume at a URL
//! that ends with `/r/` and the proxy's own id, which is random. Libraries that resume at another URL send Discord's id
//! alone. Such a RESUME is served if only one session can be meant: a client can not have seen a sequence that its
//! session was never sent, so if only one session has reached the sequence, it is the session of that client. Any other
//! such RESUME is refused.
//!
//! A client that may not send op 4 (config key `clients`) does not use voice, so it never gets Discord's id and never
//! keeps it from the bot.
//!
//! Promise: no RESUME leads to a session of another client, whatever ids and URLs libraries keep and mix. One case is
//! excepted: a client ends its session itself (close code 1000 or 1001), and resumes it by Discord's id alone all the
//! same. Such sessions are not noted as strays. If they were, a bot that was restarted in order could not resume by
//! Discord's id before its new session has reached the sequence of the former one.

use super::Shard;
use crate::{
    downstream::session::{Claim, Session, SessionId},
    protocol::{SessionKey, json, opcode::VOICE_STATE_UPDATE},
};

impl Shard {
    /// The id of the shard's session with Discord, if it has changed since the last call; the inner `None` means that
    /// there is no session. The first call always returns a value.
    pub fn take_new_upstream_id(&mut self) -> Option<Option<String>> {
        let id = || self.upstream_id.as_deref().map(str::to_owned);
        std::mem::take(&mut self.upstream_id_is_new).then(id)
    }

    /// Reads Discord's id of the session from its READY.
    pub(super) fn read_upstream_id(&mut self) {
        let id = self.ready.as_deref().and_then(|ready| json::get(ready, "session_id"));
        let id: Option<Box<str>> = id.and_then(|id| serde_json::from_slice(id).ok());
        if id != self.upstream_id {
            (self.upstream_id, self.upstream_id_is_new, self.strays_until) = (id, true, 0);
            // The sessions that had the former id can not be resumed, and none of them has the new one.
            self.clients.values_mut().for_each(|client| client.session.has_upstream_id = false);
        }
    }

    /// The client of this session is about to get READY. Decides whether its session id is Discord's.
    pub(super) fn choose_session_id(&mut self, key: SessionKey) {
        let has_it = |session: &Session| session.has_upstream_id && session.connection.is_some() && session.key != key;
        let taken = self.clients.values().any(|client| has_it(&client.session));
        if let Some(client) = self.clients.get_mut(&key) {
            let uses_voice = client.session.credential.as_ref().is_none_or(|own| own.permits(VOICE_STATE_UPDATE));
            client.session.has_upstream_id = self.upstream_id.is_some() && !taken && uses_voice;
        }
    }

    /// Notes a stray: a session that has ended although its client may not know it. If the client knows it by Discord's
    /// id, [`Shard::claimed`] from now on refuses a RESUME with that id alone and a sequence that the session had reached.
    pub(super) fn note_stray(&mut self, session: &Session) {
        if session.has_upstream_id {
            self.strays_until = self.strays_until.max(session.sequence());
        }
    }

    /// What `strays_until` is after a restart of the proxy, which ends the sessions that can not be resumed.
    pub(super) fn strays_until_restart(&self) -> u64 {
        let sessions = self.clients.values().map(|client| &client.session);
        let strays = sessions.filter(|session| !session.is_resumable() && session.has_upstream_id);
        strays.map(Session::sequence).fold(self.strays_until, u64::max)
    }

    /// The session that a RESUME with this claim and `sequence` means; `None` if there is none, or more than one is
    /// possible.
    pub fn claimed(&self, claim: &Claim, sequence: u64) -> Option<SessionId> {
        let (id, resume_key) = match claim {
            Claim::Own(id) => return Some(*id),
            Claim::Upstream { id, resume_key } => (id, resume_key),
        };
        if let Some(own) = SessionId::parse(id).filter(|own| self.sessions.contains_key(own)) {
            return Some(own);
        }
        if self.upstream_id.as_deref() != Some(id) {
            return None;
        }
        let mut candidates =
            self.clients.values().map(|client| &client.session).filter(|session| session.has_upstream_id);
        if let Some(resume_key) = resume_key {
            return candidates.find(|session| session.id == *resume_key).map(|session| session.id);
        }
        if sequence <= self.strays_until {
            return None;
        }
        let mut reached = candidates.filter(|session| session.sequence() >= sequence);
        let session = reached.next()?;
        reached.next().is_none().then_some(session.id)
    }
}
