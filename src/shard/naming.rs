//! Which session id a client is given in READY, and which session a RESUME with an id means.
//!
//! Some libraries (eris, detritus) hand the id of READY to Discord's voice servers, which know no id but Discord's. So a client
//! gets the id of the shard's session with Discord, unless another client that is connected has it. Everyone else gets an id
//! of the proxy's own; those of them that do voice take the id from their VOICE_STATE_UPDATE, which is Discord's in any case.
//!
//! Discord's id says nothing of which client's session is meant. So a client that has it is told to resume at a URL that ends
//! with `/r/` and the proxy's own id, which nobody can guess. Libraries that resume elsewhere give Discord's id alone. Then a
//! session is meant if no other one can be: a client can not have seen a number that its session was never sent, so a RESUME
//! with a number that one session alone has reached is of that session's client. Any other such RESUME is refused.
//!
//! Promise: no RESUME leads to a session of another client, whatever ids and URLs libraries keep and mix.

use super::Shard;
use crate::{
    downstream::session::{Claim, Session, SessionId},
    protocol::json,
};

/// What stands between the proxy's URL and the id of a session in the URL that its client resumes at.
pub const RESUME_PATH: &str = "/r/";

/// The session that the path of a URL names, if it does.
pub fn session_in(path: &str) -> Option<SessionId> {
    let (_, id) = path.rsplit_once(RESUME_PATH)?;
    SessionId::parse(id.trim_end_matches('/'))
}

impl Shard {
    /// The id of the shard's session with Discord, when it has changed since the last call; the first call always has one.
    pub fn take_new_name(&mut self) -> Option<Option<String>> {
        let name = || self.upstream_id.as_deref().map(str::to_owned);
        std::mem::take(&mut self.name_is_new).then(name)
    }

    /// Reads Discord's id of the session from its READY.
    pub(super) fn read_name(&mut self) {
        let id = self.ready.as_deref().and_then(|ready| json::get(ready, "session_id"));
        let id: Option<Box<str>> = id.and_then(|id| serde_json::from_slice(id).ok());
        if id != self.upstream_id {
            (self.upstream_id, self.name_is_new, self.strays_until) = (id, true, 0);
        }
    }

    /// The client of this session is about to get READY: does it get Discord's id there?
    pub(super) fn choose_name(&mut self, number: u32) {
        let has_it = |session: &Session| session.named && session.connection.is_some() && session.number != number;
        let taken = self.clients.values().any(|client| has_it(&client.session));
        if let Some(client) = self.clients.get_mut(&number) {
            client.session.named = self.upstream_id.is_some() && !taken;
        }
    }

    /// A session with Discord's id has ended, and its client may not know: it may still come to resume.
    pub(super) fn note_stray(&mut self, session: &Session) {
        if session.named {
            self.strays_until = self.strays_until.max(session.sequence());
        }
    }

    /// The session that a client means who wants to resume it behind this number.
    pub fn claimed(&self, claim: &Claim, sequence: u64) -> Option<SessionId> {
        let (id, key) = match claim {
            Claim::Own(id) => return Some(*id),
            Claim::Upstream { id, key } => (id, key),
        };
        if let Some(own) = SessionId::parse(id).filter(|own| self.sessions.contains_key(own)) {
            return Some(own);
        }
        if self.upstream_id.as_deref() != Some(id) {
            return None;
        }
        let mut named = self.clients.values().map(|client| &client.session).filter(|session| session.named);
        if let Some(key) = key {
            return named.find(|session| session.id == *key).map(|session| session.id);
        }
        if sequence <= self.strays_until {
            return None;
        }
        let mut reached = named.filter(|session| session.sequence() >= sequence);
        let session = reached.next()?;
        reached.next().is_none().then_some(session.id)
    }
}
