//! Request Guild Members: answered from the cache where that has everybody, otherwise by Discord, and in either case only
//! to the client that asked.
//!
//! Two clients may use the same nonce, so what goes to Discord carries one of our own, and the client's comes back in the
//! answer. A request that was lost with the connection to Discord is sent again, once, after the RESUME: then everything
//! that Discord had to say has come, and a request whose answer has not begun was probably lost. Should both be
//! answered, the client gets one answer. Answers of Discord are events of the log for one session; answers from the cache are made at the client's pace
//! and are never in the log, so that a large one pushes nothing off it. Both survive a restart of the proxy.

use super::{Close, Shard, deliver::write_own};
use crate::upstream::limiter::{Limiter, Next};
use crate::{
    cache::{Cache, LONGEST_NONCE, MemberAnswer, MemberRequest, Readiness, SavedAnswer},
    downstream::{outbox::Outbox, session::Session},
    protocol::{
        Time, close, edit,
        event::EventKind,
        intents::Intents,
        json::{self, write_string},
    },
};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, time::Duration};

/// Answers from the cache that one client can have waiting or unacknowledged; with more it is closed with 4008.
pub const MAX_ANSWERS: usize = 512;
/// Requests of a shard that Discord has not answered yet; beyond it the answer goes to all clients.
pub const MAX_PENDING: usize = 4096;
/// Discord has answered, or never will, after this time.
pub const PENDING_LIMIT: Duration = Duration::from_secs(300);
/// What our nonces begin with. Discord takes up to 32 bytes.
const NONCE: &str = "gateway-proxy-";
/// What every request begins with on its way to Discord.
const PREFIX: &[u8] = br#"{"op":8,"d":"#;
/// Bytes by which a nonce of ours can make a request longer.
pub(super) const ROOM: usize = br#","nonce":"""#.len() + LONGEST_NONCE;

/// An answer from the cache and the numbers under which its chunks were sent.
pub(super) struct Answer {
    answer: MemberAnswer,
    sent: Vec<u64>,
}

/// An [`Answer`] between two processes.
#[derive(Serialize, Deserialize)]
pub(super) struct SavedWithNumbers {
    answer: SavedAnswer,
    sent: Vec<u64>,
}

/// The answers of one client, oldest first.
#[derive(Default)]
pub(super) struct Answers(VecDeque<Answer>);

impl Answers {
    /// Is there no room for another?
    pub fn is_full(&self) -> bool {
        self.0.len() >= MAX_ANSWERS
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The client will get none of them.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn push(&mut self, answer: MemberAnswer) {
        self.0.push_back(Answer { answer, sent: Vec::new() });
    }

    /// For another process.
    pub fn save(&self) -> Vec<SavedWithNumbers> {
        self.0.iter().map(|one| SavedWithNumbers { answer: one.answer.save(), sent: one.sent.clone() }).collect()
    }

    /// Takes over one of another process; false when it contradicts itself.
    pub fn restore(&mut self, saved: SavedWithNumbers) -> bool {
        let Some(answer) = MemberAnswer::restore(saved.answer) else { return false };
        let fits = saved.sent.len() == answer.made() && saved.sent.is_sorted() && !self.is_full();
        if fits {
            self.0.push_back(Answer { answer, sent: saved.sent });
        }
        fits
    }

    /// The oldest one that has a chunk to send now.
    fn next(&mut self, cache: &Cache) -> Option<&mut Answer> {
        self.0.iter_mut().find(|one| !one.answer.is_complete() && cache.readiness(&one.answer) == Readiness::Now)
    }

    /// Takes one out that the cache can not give any more.
    fn take_lost(&mut self, cache: &Cache) -> Option<MemberAnswer> {
        let lost = |one: &Answer| !one.answer.is_complete() && cache.readiness(&one.answer) == Readiness::Never;
        let index = self.0.iter().position(lost)?;
        self.0.remove(index).map(|one| one.answer)
    }

    /// The client has everything up to `sequence`.
    pub fn acknowledge(&mut self, sequence: u64) {
        self.0.retain(|one| !one.answer.is_complete() || one.sent.last().is_some_and(|last| *last > sequence));
    }

    /// The client has nothing after `sequence`: chunks that it did not get are made again.
    pub fn rewind(&mut self, sequence: u64) {
        for answer in &mut self.0 {
            let kept = answer.sent.partition_point(|sent| *sent <= sequence);
            answer.sent.truncate(kept);
            answer.answer.rewind(kept);
        }
    }
}

/// A request that Discord has to answer.
struct Pending {
    since: Time,
    request: SavedRequest,
}

/// What is known of a request, here and between two processes.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct SavedRequest {
    number: u64,
    session: u32,
    /// The client's.
    nonce: Option<String>,
    /// It is for all members, filtered by nothing. A run of chunks does not go on in another process, so there this is only good
    /// for a run that begins there.
    for_all: bool,
    /// As it was sent to Discord.
    payload: String,
    /// Index of the next chunk that the client has not got.
    next_chunk: u64,
    /// It was sent a second time.
    repeated: bool,
    /// Answers that may come, and have not ended: one, or two when it was sent a second time.
    awaited: u8,
    /// The client has the whole answer; what else comes is another one to the same request.
    answered: bool,
}

/// For whom an answer of Discord is.
pub(super) enum Addressee {
    /// A session, with the data as its client has to see it.
    Session(u32, Vec<u8>),
    /// Nobody: it is the second answer to a request.
    Nobody,
}

/// All of a shard's.
pub(super) struct Requests {
    pending: HashMap<u64, Pending>,
    next: u64,
}

impl Requests {
    /// None yet. `first` should differ from process to process: the answer to a request of the last one may still come.
    pub fn new(first: u64) -> Self {
        // 15 digits behind the name make 29 bytes.
        Self { pending: HashMap::new(), next: first % 1_000_000_000_000_000 }
    }

    /// A command of a client is sent to Discord now. A request for members gets a nonce of ours, if not too many wait for
    /// their answers already.
    pub fn on_its_way(&mut self, now: Time, next: Next) -> Vec<u8> {
        let Next { client, command, again, .. } = next;
        let data = command.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(b"}"));
        let (Some(session), Some(data)) = (client, data) else { return command };
        if again {
            let number = json::get(data, "nonce").and_then(number_of);
            if let Some(pending) = number.and_then(|number| self.pending.get_mut(&number)) {
                (pending.request.repeated, pending.request.awaited, pending.since) = (true, 2, now);
            }
            return command;
        }
        if self.pending.len() >= MAX_PENDING {
            return command;
        }
        let nonce: Option<String> = json::get(data, "nonce").and_then(|nonce| serde_json::from_slice(nonce).ok());
        let nonce = nonce.filter(|nonce| nonce.len() <= LONGEST_NONCE);
        let number = self.next + 1;
        let for_all = MemberRequest::parse(data).is_some_and(|request| request.is_for_all());
        let Ok(data) = edit::with(data, "nonce", format!("\"{NONCE}{number}\"").as_bytes()) else { return command };
        self.next = number;
        let payload = [PREFIX, &data, b"}"].concat();
        let text = String::from_utf8_lossy(&payload).into_owned();
        let request = SavedRequest {
            number,
            session,
            nonce,
            for_all,
            payload: text,
            next_chunk: 0,
            repeated: false,
            awaited: 1,
            answered: false,
        };
        self.pending.insert(number, Pending { since: now, request });
        payload
    }

    /// The requests whose answer has not begun and that have been sent once only, in their order, with whose they are.
    pub fn unanswered(&self) -> Vec<(u32, Vec<u8>)> {
        let lost = |request: &&SavedRequest| request.next_chunk == 0 && !request.repeated && !request.answered;
        let mut lost: Vec<&SavedRequest> = self.pending.values().map(|pending| &pending.request).filter(lost).collect();
        lost.sort_unstable_by_key(|request| request.number);
        lost.into_iter().map(|request| (request.session, request.payload.clone().into_bytes())).collect()
    }

    /// For another process.
    pub fn save(&self) -> impl Iterator<Item = SavedRequest> {
        self.pending.values().map(|pending| pending.request.clone())
    }

    /// Takes over one of another process.
    pub fn restore(&mut self, now: Time, saved: SavedRequest) {
        self.next = self.next.max(saved.number);
        self.pending.insert(saved.number, Pending { since: now, request: saved });
    }

    /// When [`Requests::expire`] has something to do.
    pub fn deadline(&self) -> Option<Time> {
        self.pending.values().map(|pending| pending.since + PENDING_LIMIT).min()
    }

    /// Discord has a new session, in which nothing was asked yet.
    pub fn forget_all(&mut self) {
        self.pending.clear();
    }

    /// Forgets what will not be answered any more.
    pub fn expire(&mut self, now: Time) {
        self.pending.retain(|_, pending| now.saturating_sub(pending.since) < PENDING_LIMIT);
    }

    /// If the event is a chunk of the answer to a request for all members: the number of the request.
    pub fn for_all(&self, kind: EventKind, data: &[u8]) -> Option<u64> {
        if kind != EventKind::GuildMembersChunk {
            return None;
        }
        let number = number_of(json::get(data, "nonce")?)?;
        self.pending.get(&number).filter(|pending| pending.request.for_all).map(|_| number)
    }

    /// If the event answers a request of a client: for whom it is.
    pub fn resolve(&mut self, kind: EventKind, data: &[u8]) -> Option<Addressee> {
        match kind {
            EventKind::GuildMembersChunk => {
                let number = number_of(json::get(data, "nonce")?)?;
                let request = &mut self.pending.get_mut(&number)?.request;
                let at = |key| json::get(data, key).and_then(json::parse_id);
                let index = at("chunk_index");
                let is_last = index.map(|index| index + 1) >= at("chunk_count");
                let had = request.repeated && index.is_some_and(|index| index < request.next_chunk);
                let told = request.answered || had;
                let addressee = if told {
                    Addressee::Nobody
                } else {
                    Addressee::Session(request.session, restore(data, request.nonce.as_deref())?)
                };
                if !told {
                    request.next_chunk = index.unwrap_or(0).saturating_add(1);
                }
                if is_last {
                    request.answered = true;
                    self.one_answer_less(number);
                }
                Some(addressee)
            }
            EventKind::RateLimited => {
                let meta = json::get(data, "meta")?;
                let number = number_of(json::get(meta, "nonce")?)?;
                let request = &mut self.pending.get_mut(&number)?.request;
                let meta = restore(meta, request.nonce.as_deref())?;
                let addressee = match request.answered || request.next_chunk > 0 {
                    true => Addressee::Nobody,
                    false => Addressee::Session(request.session, edit::with(data, "meta", &meta).ok()?),
                };
                self.one_answer_less(number);
                Some(addressee)
            }
            _ => None,
        }
    }

    /// An answer to this request has ended. Until the last one has, it is known as answered.
    fn one_answer_less(&mut self, number: u64) {
        let awaited = self.pending.get_mut(&number).map(|pending| &mut pending.request.awaited);
        if let Some(awaited) = awaited.filter(|awaited| **awaited > 1) {
            *awaited -= 1;
        } else {
            self.pending.remove(&number);
        }
    }
}

/// The number in a nonce of ours.
fn number_of(nonce: &[u8]) -> Option<u64> {
    let digits = nonce.strip_prefix(b"\"")?.strip_suffix(b"\"")?.strip_prefix(NONCE.as_bytes())?;
    json::parse_id(digits)
}

/// `object` with the nonce that the client gave, or without one.
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
    /// A client asks for members with this data: `Ok(None)` when the cache will answer, otherwise the command for Discord.
    ///
    /// Without the intent for members of ours nobody tells who has come and gone, so the cache can not know. Presences are for
    /// who has asked for them (docs: Request Guild Members).
    pub(super) fn request_members(&mut self, number: u32, data: &[u8]) -> Result<Option<Vec<u8>>, Close> {
        let client = self.clients.get_mut(&number);
        let ours = Intents(self.settings.intents);
        let theirs = client.as_ref().map_or(Intents(0), |client| client.session.options.intents);
        let presences = [ours, theirs].iter().all(|intents| intents.intersects(Intents::GUILD_PRESENCES));
        let bare = edit::without(data, &["presences"]);
        let data = match &bare {
            Ok(bare) if !presences => bare,
            _ => data,
        };
        let request = MemberRequest::parse(data).filter(|_| ours.intersects(Intents::GUILD_MEMBERS));
        let answer = request.and_then(|request| self.cached.now(&self.log).answer(request));
        match (answer, client) {
            (Some(_), Some(client)) if client.answers.is_full() => {
                Err((close::RATE_LIMITED, "too many requests for members are not answered yet"))
            }
            (Some(answer), Some(client)) => {
                client.answers.push(answer);
                self.wake.clients = true;
                Ok(None)
            }
            _ => Ok(Some([PREFIX, data, b"}"].concat())),
        }
    }
}

/// Puts the next chunk of an answer into the outbox; false when there is none.
pub(super) fn send_chunk(cache: &Cache, answers: &mut Answers, session: &mut Session, outbox: &mut Outbox) -> bool {
    let Some(one) = answers.next(cache) else { return false };
    let mut data = Vec::new();
    if cache.next_chunk(&mut one.answer, &mut data) {
        let sequence = session.record();
        one.sent.push(sequence);
        write_own(outbox, EventKind::GuildMembersChunk, sequence, &data);
    }
    true
}

/// Asks Discord where the cache has lost what it was to answer; true when there was something.
pub(super) fn ask_anew(cache: &Cache, answers: &mut Answers, client: u32, limiter: &mut Limiter) -> bool {
    let mut any = false;
    while let Some(lost) = answers.take_lost(cache) {
        // Where too many commands wait the client would have been closed for this one; now it is only left out.
        any |= limiter.push(client, [PREFIX, &lost.request(), b"}"].concat()).is_ok();
    }
    any
}
