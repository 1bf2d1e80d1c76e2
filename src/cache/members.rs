//! Request Guild Members (docs: Gateway Events, Request Guild Members) answered from the cache.
//!
//! An answer is the data of one GUILD_MEMBERS_CHUNK after the other, each of at most [`CHUNK`] members. Whom it is about is
//! decided when the request is made; what a chunk says of them is how they are when it is made, because the client has been
//! told everything up to then: an older picture would undo the updates that it has. Who has left since is left out, and who
//! has joined since was told by an event. Work for each call is bounded.

use super::{Cache, codec::decode::Decoder, guild::Guild, kind::Kind, snapshot::Frozen};
use crate::protocol::json::{self, write_string};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Members of one chunk (docs: Guild Members Chunk).
pub const CHUNK: usize = 1000;
/// Most members that a request by name or by ids can have.
const MOST_NAMED: usize = 100;
/// Members that one call looks through.
const SCAN: usize = 1000;

/// Whom a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Whom {
    /// Everybody, up to a limit if it is not 0.
    All(usize),
    /// Whose name begins so, in small letters, and how many of them.
    Named(String, usize),
    /// These.
    Users(Vec<u64>),
}

/// The data of an op 8, read leniently: ids may be numbers or strings, `guild_id` an array of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRequest {
    /// The guild.
    pub guild: u64,
    whom: Whom,
    presences: bool,
    /// What the answer has to carry.
    pub nonce: Option<String>,
}

impl MemberRequest {
    /// Reads a request; `None` when it is not of the documented form, which is for Discord to judge.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let data: Value = serde_json::from_slice(data).ok()?;
        let id = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let guild = match &data["guild_id"] {
            Value::Array(ids) => match &ids[..] {
                [one] => id(one)?,
                _ => return None,
            },
            one => id(one)?,
        };
        let whom = match (&data["user_ids"], data["query"].as_str()) {
            (Value::Array(ids), _) if ids.len() <= MOST_NAMED => {
                Whom::Users(ids.iter().map(id).collect::<Option<_>>()?)
            }
            (one @ (Value::String(_) | Value::Number(_)), _) => Whom::Users(vec![id(one)?]),
            (Value::Null, Some("")) => Whom::All(data["limit"].as_u64()? as usize),
            (Value::Null, Some(name)) => {
                let limit = data["limit"].as_u64().filter(|limit| *limit > 0).unwrap_or(MOST_NAMED as u64) as usize;
                Whom::Named(name.to_lowercase(), limit.min(MOST_NAMED))
            }
            _ => return None,
        };
        let presences = data["presences"].as_bool().unwrap_or(false);
        let nonce = data["nonce"].as_str().map(str::to_owned);
        Some(Self { guild, whom, presences, nonce })
    }
}

/// An answer on its way: see the module's description.
pub struct MemberAnswer {
    request: MemberRequest,
    /// Who was a member at the request, at the next chunk or where the search goes on. The records are old.
    members: Frozen,
    /// Who was found by name or id.
    found: Vec<u64>,
    not_found: Vec<u64>,
    searched: bool,
    chunk: usize,
    chunks: usize,
    /// Where each chunk that was made begins.
    starts: Vec<(usize, usize)>,
}

/// An answer between two processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedAnswer {
    request: MemberRequest,
    /// All that it is about, in the order of the chunks, or who is still to be looked at by the search.
    members: Vec<u64>,
    found: Vec<u64>,
    not_found: Vec<u64>,
    searched: bool,
    chunk: usize,
    chunks: usize,
}

impl MemberAnswer {
    /// Chunks made so far.
    pub fn made(&self) -> usize {
        self.chunk
    }

    /// Are all chunks made?
    pub fn is_complete(&self) -> bool {
        self.chunk == self.chunks
    }

    /// Goes back, so that chunk `chunk` is the next one again.
    pub fn rewind(&mut self, chunk: usize) {
        if chunk < self.chunk {
            self.members.seek(self.starts[chunk]);
            self.starts.truncate(chunk);
            self.chunk = chunk;
        }
    }

    /// The answer for another process.
    pub fn save(&self) -> SavedAnswer {
        let mut members = self.members.clone();
        if let Some(first) = self.starts.first() {
            members.seek(*first);
        }
        let mut ids = Vec::new();
        members.each(|id, _, _| {
            ids.push(id);
            true
        });
        SavedAnswer {
            request: self.request.clone(),
            members: ids,
            found: self.found.clone(),
            not_found: self.not_found.clone(),
            searched: self.searched,
            chunk: self.chunk,
            chunks: self.chunks,
        }
    }

    /// An answer of another process; `None` when it contradicts itself.
    pub fn restore(saved: SavedAnswer) -> Option<Self> {
        let SavedAnswer { request, members, found, not_found, searched, chunk, chunks } = saved;
        let most = if matches!(request.whom, Whom::All(_)) { members.len().div_ceil(CHUNK).max(1) } else { 1 };
        if chunk > chunks || chunks == 0 || chunks > most || (chunk > 0 && !searched) {
            return None;
        }
        let mut members = Frozen::of_ids(&members, CHUNK);
        members.seek((chunk, 0));
        let starts = (0..chunk).map(|chunk| (chunk, 0)).collect();
        Some(Self { request, members, found, not_found, searched, chunk, chunks, starts })
    }
}

impl Cache {
    /// Can the request be answered from here, because all members of that guild are known?
    pub fn answer(&self, request: MemberRequest) -> Option<MemberAnswer> {
        let guild = self.guilds.get(&request.guild).filter(|_| self.flags.members && self.flags.users)?;
        let count = guild.complete_members()?;
        if request.presences && !self.flags.presences {
            return None;
        }
        let mut answer = MemberAnswer {
            members: Frozen::new(guild, Kind::Members),
            found: Vec::new(),
            not_found: Vec::new(),
            searched: true,
            chunk: 0,
            chunks: 1,
            starts: Vec::new(),
            request,
        };
        match &answer.request.whom {
            Whom::Users(ids) => {
                let store = &guild.array(Kind::Members).store;
                (answer.found, answer.not_found) = ids.iter().partition(|id| store.find(**id).is_some());
            }
            Whom::Named(..) => answer.searched = false,
            Whom::All(limit) => {
                let count = if *limit == 0 { count } else { count.min(*limit) };
                answer.chunks = count.div_ceil(CHUNK).max(1);
            }
        }
        Some(answer)
    }

    /// Appends the text of an entity; false when there is none.
    fn read(&self, guild: &Guild, kind: Kind, id: u64, out: &mut Vec<u8>) -> bool {
        let store = &guild.array(kind).store;
        let Some(place) = store.find(id) else { return false };
        let (tables, ids) = (self.tables.borrow(), guild.ids.borrow());
        let before = out.len();
        let complete = Decoder { tables: &tables, ids: &ids }.decode(id, store.record(place), out).is_some();
        if !complete {
            out.truncate(before);
        }
        complete
    }

    /// Appends those of `ids` that are there as a list; returns them.
    fn write_list(
        &self,
        guild: Option<&Guild>,
        kind: Kind,
        ids: impl Iterator<Item = u64>,
        out: &mut Vec<u8>,
    ) -> Vec<u64> {
        let mut shown = Vec::new();
        out.push(b'[');
        for id in ids {
            let comma = usize::from(!shown.is_empty());
            out.extend_from_slice(&b","[..comma]);
            if guild.is_some_and(|guild| self.read(guild, kind, id, out)) {
                shown.push(id);
            } else {
                out.truncate(out.len() - comma);
            }
        }
        out.push(b']');
        shown
    }

    /// Appends the data of the next chunk to `out`; false when it takes another call, because there is more to search.
    pub fn next_chunk(&self, answer: &mut MemberAnswer, out: &mut Vec<u8>) -> bool {
        debug_assert!(!answer.is_complete());
        let guild = self.guilds.get(&answer.request.guild);
        if !answer.searched && !self.search(guild, answer) {
            return false;
        }
        answer.starts.push(answer.members.position());
        let ids = match answer.request.whom {
            Whom::All(0) => answer.next_members(CHUNK),
            Whom::All(limit) => answer.next_members(CHUNK.min(limit - answer.chunk * CHUNK)),
            _ => answer.found.clone(),
        };
        out.extend_from_slice(format!(r#"{{"guild_id":"{}","members":"#, answer.request.guild).as_bytes());
        let shown = self.write_list(guild, Kind::Members, ids.into_iter(), out);
        self.write_rest(guild, answer, shown, out);
        answer.chunk += 1;
        true
    }

    /// Looks through some members; true when that was the last part.
    fn search(&self, guild: Option<&Guild>, answer: &mut MemberAnswer) -> bool {
        let MemberAnswer { request, members, found, searched, .. } = answer;
        let (Whom::Named(name, limit), Some(guild)) = (&request.whom, guild) else {
            *searched = true;
            return true;
        };
        let (mut text, mut looked_at) = (Vec::new(), 0);
        let complete = members.each(|id, _, _| {
            text.clear();
            if self.read(guild, Kind::Members, id, &mut text) && is_named(&text, name) {
                found.push(id);
            }
            looked_at += 1;
            looked_at < SCAN && found.len() < *limit
        });
        *searched = complete || found.len() >= *limit;
        *searched
    }

    fn write_rest(&self, guild: Option<&Guild>, answer: &MemberAnswer, shown: Vec<u64>, out: &mut Vec<u8>) {
        out.extend_from_slice(format!(r#","chunk_index":{},"chunk_count":{}"#, answer.chunk, answer.chunks).as_bytes());
        if !answer.not_found.is_empty() {
            let ids: Vec<String> = answer.not_found.iter().map(|id| format!("\"{id}\"")).collect();
            out.extend_from_slice(format!(r#","not_found":[{}]"#, ids.join(",")).as_bytes());
        }
        if answer.request.presences {
            out.extend_from_slice(br#","presences":"#);
            self.write_list(guild, Kind::Presences, shown.into_iter(), out);
        }
        if let Some(nonce) = &answer.request.nonce {
            out.extend_from_slice(br#","nonce":"#);
            write_string(out, nonce);
        }
        out.push(b'}');
    }
}

impl MemberAnswer {
    /// The next ones that it is about, `room` at most.
    fn next_members(&mut self, room: usize) -> Vec<u64> {
        let mut ids = Vec::with_capacity(room);
        self.members.each(|id, _, _| {
            ids.push(id);
            ids.len() < room
        });
        ids
    }
}

/// Does the user's name, display name or nickname begin with `prefix`, which is in small letters?
fn is_named(member: &[u8], prefix: &str) -> bool {
    let user = json::get(member, "user").unwrap_or_default();
    let names = [json::get(user, "username"), json::get(user, "global_name"), json::get(member, "nick")];
    names.into_iter().flatten().filter(|name| name.starts_with(b"\"")).any(|name| {
        // Most differ in the first letter; only a name that may match is unescaped.
        serde_json::from_slice::<String>(name).is_ok_and(|name| name.to_lowercase().starts_with(prefix))
    })
}
