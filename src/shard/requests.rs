//! Request Guild Members. The cache answers a request if it knows all members of the guild, otherwise Discord does. In
//! both cases only the client that sent the request gets the answer.
//!
//! Two clients may use the same nonce, so a request goes to Discord with a nonce of the proxy's own, and the answer
//! gets the client's nonce back. A request that was lost with the connection to Discord is sent again, once, after the
//! RESUME: by then Discord has sent all that it had, so a request whose answer has not begun was probably lost. If
//! Discord answers both, the client gets one answer.
//!
//! Answers from Discord are events in the log for one session. [`answers`](super::answers) has those from the cache.
//! Requests survive a restart of the proxy.

use super::Shard;
use crate::{
    cache::{LONGEST_NONCE, MemberRequest},
    protocol::{
        SessionKey, Time,
        close::Close,
        edit,
        event::EventKind,
        intents::Intents,
        json::{self, write_string},
    },
    upstream::limiter::QueuedCommand,
};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The most requests of a shard that wait for Discord's answer. A further request keeps its own nonce, and all clients
/// get the answer.
pub const MAX_PENDING: usize = 4096;
/// The shard stops waiting for Discord's answer to a request after this time.
pub const PENDING_LIMIT: Duration = Duration::from_secs(300);
/// The start of the proxy's nonces. Discord accepts nonces of up to 32 bytes.
const NONCE: &str = "gateway-proxy-";
/// The start of every request that goes to Discord.
pub(super) const PREFIX: &[u8] = br#"{"op":8,"d":"#;
/// The most bytes that the proxy's nonce adds to a request.
pub(super) const NONCE_BYTES: usize = br#","nonce":"""#.len() + LONGEST_NONCE;

/// A request that waits for Discord's answer.
struct Pending {
    since: Time,
    request: SavedRequest,
}

/// A request that Discord has to answer, also in the state that one process hands to the next.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SavedRequest {
    /// The id of the request, which its nonce has after [`NONCE`].
    #[serde(rename = "number")]
    id: u64,
    session: SessionKey,
    /// The client's nonce.
    nonce: Option<String>,
    /// The request is for all members of a guild, without a filter. The cache only learns all members from a run of
    /// chunks within one process; after a restart this serves a run that begins in the new process.
    for_all: bool,
    /// The payload that went to Discord.
    payload: String,
    /// The index of the first chunk that the client was not sent.
    next_chunk: u64,
    /// The request was sent a second time.
    repeated: bool,
    /// The answers that may still come or end: one, or two if the request was sent a second time.
    awaited: u8,
    /// The client was sent the whole answer. Further chunks belong to a second answer to the same request.
    answered: bool,
}

/// The receiver of an answer from Discord.
pub(super) enum Recipient {
    /// The session that sent the request, with the data that its client gets.
    Session(SessionKey, Vec<u8>),
    /// No client, because this is the second answer to a request.
    Nobody,
    /// The proxy itself, which has asked for the members to be cached.
    Proxy,
}

/// All requests of a shard that wait for Discord's answer.
pub(super) struct Requests {
    pending: HashMap<u64, Pending>,
    next: u64,
}

impl Requests {
    /// Starts without requests. `first` should differ from process to process, because answers to requests of the
    /// former process may still come.
    pub fn new(first: u64) -> Self {
        // [`NONCE`] and 15 digits are 29 bytes, less than the 32 that Discord accepts.
        Self { pending: HashMap::new(), next: first % 1_000_000_000_000_000 }
    }

    /// A command of a client goes to Discord now. Returns its payload. A request for members gets a nonce of the
    /// proxy's own, unless [`MAX_PENDING`] is reached.
    pub fn register_sent(&mut self, now: Time, next: QueuedCommand) -> Vec<u8> {
        let QueuedCommand { client, command, is_resend, .. } = next;
        let data = command.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(b"}"));
        let (Some(session), Some(data)) = (client, data) else { return command };
        if is_resend {
            let id = json::get(data, "nonce").and_then(request_id);
            if let Some(pending) = id.and_then(|id| self.pending.get_mut(&id)) {
                (pending.request.repeated, pending.request.awaited, pending.since) = (true, 2, now);
            }
            return command;
        }
        if self.pending.len() >= MAX_PENDING {
            return command;
        }
        let nonce: Option<String> = json::get(data, "nonce").and_then(|nonce| serde_json::from_slice(nonce).ok());
        let nonce = nonce.filter(|nonce| nonce.len() <= LONGEST_NONCE);
        let id = self.next + 1;
        let for_all = MemberRequest::parse(data).is_some_and(|request| request.is_for_all());
        let Ok(data) = edit::with(data, "nonce", format!("\"{NONCE}{id}\"").as_bytes()) else { return command };
        self.next = id;
        let payload = [PREFIX, &data, b"}"].concat();
        let text = String::from_utf8_lossy(&payload).into_owned();
        let request = SavedRequest {
            id,
            session,
            nonce,
            for_all,
            payload: text,
            next_chunk: 0,
            repeated: false,
            awaited: 1,
            answered: false,
        };
        self.pending.insert(id, Pending { since: now, request });
        payload
    }

    /// The requests that were sent once and whose answer has not begun, each with its client, in the order of sending.
    pub fn unanswered(&self) -> Vec<(SessionKey, Vec<u8>)> {
        let lost = |request: &&SavedRequest| request.next_chunk == 0 && !request.repeated && !request.answered;
        let mut lost: Vec<&SavedRequest> = self.pending.values().map(|pending| &pending.request).filter(lost).collect();
        lost.sort_unstable_by_key(|request| request.id);
        lost.into_iter().map(|request| (request.session, request.payload.clone().into_bytes())).collect()
    }

    /// The requests, for the next process.
    pub fn save(&self) -> impl Iterator<Item = SavedRequest> {
        self.pending.values().map(|pending| pending.request.clone())
    }

    /// Adds a request of a former process.
    pub fn restore(&mut self, now: Time, saved: SavedRequest) {
        self.next = self.next.max(saved.id);
        self.pending.insert(saved.id, Pending { since: now, request: saved });
    }

    /// When [`Requests::expire`] next has something to do.
    pub fn deadline(&self) -> Option<Time> {
        self.pending.values().map(|pending| pending.since + PENDING_LIMIT).min()
    }

    /// Returns whether fewer than [`MAX_PENDING`] requests wait for an answer.
    pub fn has_room(&self) -> bool {
        self.pending.len() < MAX_PENDING
    }

    /// Drops all requests, because Discord has begun a new session.
    pub fn forget_all(&mut self) {
        self.pending.clear();
    }

    /// Drops the requests that are older than [`PENDING_LIMIT`].
    pub fn expire(&mut self, now: Time) {
        self.pending.retain(|_, pending| now.saturating_sub(pending.since) < PENDING_LIMIT);
    }

    /// Returns the id of the request if the event is a chunk of the answer to a request for all members.
    pub fn all_members_request(&self, kind: EventKind, data: &[u8]) -> Option<u64> {
        if kind != EventKind::GuildMembersChunk {
            return None;
        }
        let id = request_id(json::get(data, "nonce")?)?;
        self.pending.get(&id).filter(|pending| pending.request.for_all).map(|_| id)
    }

    /// Returns the receiver if the event answers a request of a client.
    pub fn resolve(&mut self, kind: EventKind, data: &[u8]) -> Option<Recipient> {
        match kind {
            EventKind::GuildMembersChunk => {
                let id = request_id(json::get(data, "nonce")?)?;
                let request = &mut self.pending.get_mut(&id)?.request;
                let at = |key| json::get(data, key).and_then(json::parse_id);
                let index = at("chunk_index");
                let is_last = index.map(|index| index + 1) >= at("chunk_count");
                let had = request.repeated && index.is_some_and(|index| index < request.next_chunk);
                let told = request.answered || had;
                let recipient = if request.session == SessionKey::NONE {
                    Recipient::Proxy
                } else if told {
                    Recipient::Nobody
                } else {
                    Recipient::Session(request.session, restore(data, request.nonce.as_deref())?)
                };
                if !told {
                    request.next_chunk = index.unwrap_or(0).saturating_add(1);
                }
                if is_last {
                    request.answered = true;
                    self.end_one_answer(id);
                }
                Some(recipient)
            }
            EventKind::RateLimited => {
                let meta = json::get(data, "meta")?;
                let id = request_id(json::get(meta, "nonce")?)?;
                let request = &mut self.pending.get_mut(&id)?.request;
                let meta = restore(meta, request.nonce.as_deref())?;
                let recipient = match request.answered || request.next_chunk > 0 {
                    _ if request.session == SessionKey::NONE => Recipient::Proxy,
                    true => Recipient::Nobody,
                    false => Recipient::Session(request.session, edit::with(data, "meta", &meta).ok()?),
                };
                self.end_one_answer(id);
                Some(recipient)
            }
            _ => None,
        }
    }

    /// An answer to this request has ended. The request is kept until its last answer has.
    fn end_one_answer(&mut self, id: u64) {
        let awaited = self.pending.get_mut(&id).map(|pending| &mut pending.request.awaited);
        if let Some(awaited) = awaited.filter(|awaited| **awaited > 1) {
            *awaited -= 1;
        } else {
            self.pending.remove(&id);
        }
    }
}

/// The id of a request, from its nonce. `None`: the nonce is not one of the proxy's.
fn request_id(nonce: &[u8]) -> Option<u64> {
    let digits = nonce.strip_prefix(b"\"")?.strip_suffix(b"\"")?.strip_prefix(NONCE.as_bytes())?;
    json::parse_id(digits)
}

/// Replaces the nonce of `object` by the client's, or removes it if the client gave none.
fn restore(object: &[u8], nonce: Option<&str>) -> Option<Vec<u8>> {
    match nonce {
        Some(nonce) => {
            let mut text = Vec::with_capacity(nonce.len() + 2);
            write_string(&mut text, nonce);
            edit::with(object, "nonce", &text).ok()
        }
        None => edit::without(object, &["nonce"]).ok(),
    }
}

impl Shard {
    /// A client requests members with this data. Returns `Ok(None)` if the cache answers, otherwise the command for
    /// Discord.
    ///
    /// Without GUILD_MEMBERS among the shard's own intents Discord does not say who joins and leaves, so the cache can
    /// not answer. Presences go only to a client that has GUILD_PRESENCES (docs: Request Guild Members).
    pub(super) fn request_members(
        &mut self,
        now: Time,
        key: SessionKey,
        data: &[u8],
    ) -> Result<Option<Vec<u8>>, Close> {
        let client = self.clients.get_mut(&key);
        let ours = Intents(self.settings.intents);
        let theirs = client.as_ref().map_or(Intents(0), |client| client.session.options.intents);
        let presences = [ours, theirs].iter().all(|intents| intents.intersects(Intents::GUILD_PRESENCES));
        let bare = edit::without(data, &["presences"]);
        let data = match &bare {
            Ok(bare) if !presences => bare,
            _ => data,
        };
        let request = MemberRequest::parse(data).filter(|_| ours.intersects(Intents::GUILD_MEMBERS));
        let answer = request.and_then(|request| self.cache.up_to_date(&self.log).answer(request));
        match (answer, client) {
            (Some(_), Some(client)) if client.answers.is_full() => {
                return Err(Close::RequestsWaiting);
            }
            (Some(answer), Some(client)) => {
                client.answers.push(answer);
                self.wake.clients = true;
                return Ok(None);
            }
            _ => {}
        }
        Ok(if self.holds(now, key, data) { None } else { Some([PREFIX, data, b"}"].concat()) })
    }
}
