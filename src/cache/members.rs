//! Answers to Request Guild Members from the cache (docs: Gateway Events, Request Guild Members, Guild Members Chunk).
//!
//! An answer is a sequence of chunks, each the data of one GUILD_MEMBERS_CHUNK with at most [`CHUNK`] members. Which
//! members it lists is decided at the time of the request, because every chunk says how many chunks there are. What a
//! chunk says about a member is the state at the time when the chunk is made, and it leaves out members who have left
//! since the request: the client has got all events up to that time, and an older state would undo them.
//!
//! Bounds: a chunk has at most [`CHUNK`] members, and one call searches at most [`SEARCH_STEP`] members for a name.

use super::{
    Cache,
    codec::Decoder,
    guild::Guild,
    kind::Kind,
    role_removal::DeletedRoles,
    store::{Position, SharedRecords},
};
use crate::protocol::json::{self, write_string};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Maximum number of members in one chunk, as Discord has it (docs: Guild Members Chunk).
const CHUNK: usize = 1000;
/// Maximum number of members that a request by name or by user ids can get.
const MAX_NAMED: usize = 100;
/// Maximum length of a nonce in bytes. A longer nonce is ignored (docs: Request Guild Members).
pub const LONGEST_NONCE: usize = 32;
/// Number of members that one call of [`Cache::next_chunk`] searches for a name.
const SEARCH_STEP: usize = 500;

/// Which members a request asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Filter {
    /// All members, but at most this many if the limit is not 0.
    All(usize),
    /// The first members whose name begins with this, in lower case, and the limit.
    Named(String, usize),
    /// The members with these user ids.
    Users(Vec<u64>),
}

/// The data of a Request Guild Members (op 8). Read leniently: an id can be a number or a string, and `guild_id` can be
/// an array of one id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRequest {
    /// The guild's id.
    pub guild: u64,
    // State files call this field `whom`.
    #[serde(rename = "whom")]
    filter: Filter,
    presences: bool,
    /// The nonce that the answer has to repeat.
    pub nonce: Option<String>,
}

impl MemberRequest {
    /// Whether the request asks for all members without any limit.
    pub fn is_for_all(&self) -> bool {
        self.filter == Filter::All(0)
    }

    /// Parses a request. `None` when it does not have the documented form; such a request is left to Discord to answer.
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
        let filter = match (&data["user_ids"], data["query"].as_str()) {
            (Value::Array(ids), _) if ids.len() <= MAX_NAMED => {
                Filter::Users(ids.iter().map(id).collect::<Option<_>>()?)
            }
            (one @ (Value::String(_) | Value::Number(_)), _) => Filter::Users(vec![id(one)?]),
            (Value::Null, Some("")) => Filter::All(data["limit"].as_u64()? as usize),
            (Value::Null, Some(name)) => {
                let limit = data["limit"].as_u64().filter(|limit| *limit > 0).unwrap_or(MAX_NAMED as u64) as usize;
                Filter::Named(name.to_lowercase(), limit.min(MAX_NAMED))
            }
            _ => return None,
        };
        let presences = data["presences"].as_bool().unwrap_or(false);
        let nonce = data["nonce"].as_str().filter(|nonce| nonce.len() <= LONGEST_NONCE).map(str::to_owned);
        Some(Self { guild, filter, presences, nonce })
    }
}

/// An answer that is being made, chunk by chunk. See the module's description.
pub struct MemberAnswer {
    request: MemberRequest,
    /// The members at the time of the request, positioned at the next chunk, or where the search goes on. Only their
    /// ids are used.
    members: SharedRecords,
    /// Ids of the members whose name matches, as far as the search has come.
    found: Vec<u64>,
    /// Whether the search by name is finished. True for all other requests.
    searched: bool,
    /// Index of the next chunk.
    chunk: usize,
    /// Number of chunks.
    chunks: usize,
    /// The position in `members` where each chunk that was made begins.
    starts: Vec<Position>,
}

/// Whether the next chunk of an answer can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The chunk can be made now.
    Now,
    /// The guild is unavailable. The chunk can be made when the guild has come again.
    Later,
    /// The guild has come again, and the cache knows only a part of its members now. Discord has to be asked instead.
    Never,
}

/// An answer in a state file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedAnswer {
    request: MemberRequest,
    /// Ids of the members of all chunks in order; for a search, the ids of the members that it has not looked at yet.
    members: Vec<u64>,
    found: Vec<u64>,
    searched: bool,
    chunk: usize,
    chunks: usize,
}

impl MemberAnswer {
    /// Number of chunks made so far.
    pub fn made(&self) -> usize {
        self.chunk
    }

    /// Whether all chunks have been made.
    pub fn is_complete(&self) -> bool {
        self.chunk == self.chunks
    }

    /// The data of the request, to be sent to Discord instead of answering it here.
    pub fn request(&self) -> Vec<u8> {
        let MemberRequest { guild, filter, presences, nonce } = &self.request;
        let mut data = match filter {
            Filter::All(limit) => json!({"query": "", "limit": limit}),
            Filter::Named(name, limit) => json!({"query": name, "limit": limit}),
            Filter::Users(ids) => json!({"user_ids": ids.iter().map(u64::to_string).collect::<Vec<_>>()}),
        };
        data["guild_id"] = guild.to_string().into();
        if *presences {
            data["presences"] = true.into();
        }
        if let Some(nonce) = nonce {
            data["nonce"] = nonce.as_str().into();
        }
        data.to_string().into_bytes()
    }

    /// Goes back, so that the next chunk is `chunk` again. Does nothing when that chunk has not been made yet.
    pub fn rewind(&mut self, chunk: usize) {
        if chunk < self.chunk {
            self.members.seek(self.starts[chunk]);
            self.starts.truncate(chunk);
            self.chunk = chunk;
        }
    }

    /// The answer for a state file.
    pub fn save(&self) -> SavedAnswer {
        let mut members = self.members.clone();
        if let Some(first) = self.starts.first() {
            members.seek(*first);
        }
        let mut ids = Vec::new();
        members.each(|id, _| {
            ids.push(id);
            true
        });
        SavedAnswer {
            request: self.request.clone(),
            members: ids,
            found: self.found.clone(),
            searched: self.searched,
            chunk: self.chunk,
            chunks: self.chunks,
        }
    }

    /// An answer from a state file. `None` when its numbers contradict each other.
    pub fn restore(saved: SavedAnswer) -> Option<Self> {
        let SavedAnswer { request, members, found, searched, chunk, chunks } = saved;
        let most = if matches!(request.filter, Filter::All(_)) { members.len().div_ceil(CHUNK).max(1) } else { 1 };
        if chunk > chunks || chunks == 0 || chunks > most || (chunk > 0 && !searched) {
            return None;
        }
        let mut members = SharedRecords::of_ids(&members, CHUNK);
        members.seek(Position::at_chunk(chunk));
        let starts = (0..chunk).map(Position::at_chunk).collect();
        Some(Self { request, members, found, searched, chunk, chunks, starts })
    }
}

impl Cache {
    /// Notes that a GUILD_MEMBERS_CHUNK with this data, which answers an unfiltered request for all members, has been
    /// applied. `request` is a number that no other request has. After the last chunk the cache knows all members of
    /// the guild.
    pub fn chunk_of_all_members(&mut self, request: u64, data: &[u8]) {
        let numbers = json::get_all(data, ["guild_id", "chunk_index", "chunk_count"]);
        let [Some(guild), Some(index), Some(count)] = numbers.map(|number| number.and_then(json::parse_id)) else {
            return;
        };
        if let Some(guild) = self.guilds.get_mut(&guild).filter(|guild| self.flags.members && guild.is_available()) {
            guild.membership.chunk(request, index, count);
        }
    }

    /// Handles a gap in the events: no guild counts as completely known any more, because joins and leaves may have
    /// been lost.
    pub fn doubt_members(&mut self) {
        self.guilds.values_mut().for_each(|guild| guild.membership.doubt());
    }

    /// Whether the guild is available and the cache does not know all of its members.
    pub fn lacks_members(&self, guild: u64) -> bool {
        let guild = self.guilds.get(&guild).filter(|guild| self.flags.members && guild.is_available());
        guild.is_some_and(|guild| guild.complete_members().is_none())
    }

    /// Begins an answer. `None` when the cache cannot answer the request: it does not know all members of the guild, or
    /// the request is for presences and they are not cached.
    pub fn answer(&self, request: MemberRequest) -> Option<MemberAnswer> {
        let guild = self.guilds.get(&request.guild).filter(|_| self.flags.members)?;
        let count = guild.complete_members()?;
        if request.presences && !self.flags.presences {
            return None;
        }
        let mut answer = MemberAnswer {
            members: SharedRecords::of(&guild.array(Kind::Members).store),
            found: Vec::new(),
            searched: true,
            chunk: 0,
            chunks: 1,
            starts: Vec::new(),
            request,
        };
        match &answer.request.filter {
            Filter::Users(_) => {}
            Filter::Named(..) => answer.searched = false,
            Filter::All(limit) => {
                let count = if *limit == 0 { count } else { count.min(*limit) };
                answer.chunks = count.div_ceil(CHUNK).max(1);
            }
        }
        Some(answer)
    }

    /// Whether the next chunk of an answer can be made. A new session of the shard and an outage make a guild
    /// unavailable, so it has to come again first. An answer whose first chunk was made is finished with the members
    /// that the cache has. For a guild that the bot has left, the remaining chunks are empty.
    pub fn readiness(&self, answer: &MemberAnswer) -> Readiness {
        match self.guilds.get(&answer.request.guild) {
            Some(guild) if !guild.is_available() => Readiness::Later,
            Some(guild) if answer.chunk == 0 && guild.complete_members().is_none() => Readiness::Never,
            _ => Readiness::Now,
        }
    }

    /// Appends the data of the next chunk to `out`. Returns false, and appends nothing, when the search by name needs
    /// another call. The answer must not be complete.
    pub fn next_chunk(&self, answer: &mut MemberAnswer, out: &mut Vec<u8>) -> bool {
        debug_assert!(!answer.is_complete());
        let guild = self.guilds.get(&answer.request.guild);
        if !answer.searched && !self.search(guild, answer) {
            return false;
        }
        answer.starts.push(answer.members.position());
        let wanted = answer.next_ids();
        out.extend_from_slice(format!(r#"{{"guild_id":"{}","members":"#, answer.request.guild).as_bytes());
        let missing = self.write_list(guild, Kind::Members, &wanted, out);
        out.extend_from_slice(format!(r#","chunk_index":{},"chunk_count":{}"#, answer.chunk, answer.chunks).as_bytes());
        // If the guild came again with a part of its members, a member that is not in the cache may still be in the
        // guild.
        let all_known = guild.is_some_and(|guild| guild.complete_members().is_some());
        if matches!(answer.request.filter, Filter::Users(_)) && all_known && !missing.is_empty() {
            let ids: Vec<String> = missing.iter().map(|id| format!("\"{id}\"")).collect();
            out.extend_from_slice(format!(r#","not_found":[{}]"#, ids.join(",")).as_bytes());
        }
        if answer.request.presences {
            out.extend_from_slice(br#","presences":"#);
            self.write_list(guild, Kind::Presences, &wanted, out);
        }
        if let Some(nonce) = &answer.request.nonce {
            out.extend_from_slice(br#","nonce":"#);
            write_string(out, nonce);
        }
        out.push(b'}');
        answer.chunk += 1;
        true
    }

    /// Appends an array of the entities with these ids. Returns the ids of those that the cache does not have.
    fn write_list(&self, guild: Option<&Guild>, kind: Kind, ids: &[u64], out: &mut Vec<u8>) -> Vec<u64> {
        let mut missing = Vec::new();
        out.push(b'[');
        if let Some(guild) = guild {
            let store = &guild.array(kind).store;
            let (tables, table) = (self.tables.borrow(), guild.ids.borrow());
            let decoder = Decoder { tables: &tables, ids: &table };
            let deleted_roles = if kind == Kind::Members { guild.deleted_roles() } else { DeletedRoles::default() };
            let mut last = None;
            for id in ids {
                let before = out.len();
                if out.last() != Some(&b'[') {
                    out.push(b',');
                }
                let location = store.find_after(last, *id);
                let found = location
                    .and_then(|location| deleted_roles.decode_member(&decoder, *id, store.record(location), out));
                last = location.or(last);
                if found.is_none() {
                    out.truncate(before);
                    missing.push(*id);
                }
            }
        }
        out.push(b']');
        missing
    }

    /// Searches the next members for the name of the request. Returns true when the search is finished.
    fn search(&self, guild: Option<&Guild>, answer: &mut MemberAnswer) -> bool {
        let MemberAnswer { request, members, found, searched, .. } = answer;
        let (Filter::Named(name, limit), Some(guild)) = (&request.filter, guild) else {
            *searched = true;
            return true;
        };
        let store = &guild.array(Kind::Members).store;
        let (tables, ids) = (self.tables.borrow(), guild.ids.borrow());
        let decoder = Decoder { tables: &tables, ids: &ids };
        let (mut text, mut looked_at, mut last) = (Vec::new(), 0, None);
        let complete = members.each(|id, _| {
            text.clear();
            let location = store.find_after(last, id);
            last = location.or(last);
            let read = location.and_then(|location| decoder.decode(id, store.record(location), &mut text));
            if read.is_some() && is_named(&text, name) {
                found.push(id);
            }
            looked_at += 1;
            looked_at < SEARCH_STEP && found.len() < *limit
        });
        *searched = complete || found.len() >= *limit;
        *searched
    }
}

impl MemberAnswer {
    /// The ids of the members of the next chunk.
    fn next_ids(&mut self) -> Vec<u64> {
        let limit = match &self.request.filter {
            Filter::Users(ids) => return ids.clone(),
            Filter::Named(..) => return self.found.clone(),
            Filter::All(limit) => *limit,
        };
        let room = if limit == 0 { CHUNK } else { CHUNK.min(limit - self.chunk * CHUNK) };
        let mut ids = Vec::with_capacity(room);
        self.members.each(|id, _| {
            ids.push(id);
            ids.len() < room
        });
        ids
    }
}

/// Whether the user name, the display name or the nickname of a member begins with `prefix`, which is in lower case.
fn is_named(member: &[u8], prefix: &str) -> bool {
    let user = json::get(member, "user").unwrap_or_default();
    let names = [json::get(user, "username"), json::get(user, "global_name"), json::get(member, "nick")];
    names
        .into_iter()
        .flatten()
        .filter(|name| name.starts_with(b"\""))
        .any(|name| serde_json::from_slice::<String>(name).is_ok_and(|name| name.to_lowercase().starts_with(prefix)))
}
