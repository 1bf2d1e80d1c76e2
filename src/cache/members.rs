//! Request Guild Members (docs: Gateway Events, Request Guild Members) answered from the cache.
//!
//! An answer is the data of one GUILD_MEMBERS_CHUNK after the other, each of at most [`CHUNK`] members. Who is in it is
//! as at the time of the request, so that the chunks can be counted; what is said of them, and who has left since, is as
//! at the time when the chunk is made: its reader has had every event until then, and an older state would undo them.
//! Work for each call is bounded.

use super::{Cache, codec::decode::Decoder, guild::Guild, kind::Kind, roles::Going, snapshot::Frozen};
use crate::protocol::json::{self, write_string};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Members of one chunk (docs: Guild Members Chunk).
pub const CHUNK: usize = 1000;
/// Most members that a request by name or by ids can have.
const MOST_NAMED: usize = 100;
/// Bytes of a nonce; a longer one is ignored.
pub const LONGEST_NONCE: usize = 32;
/// Members that one call looks through.
const SCAN: usize = 500;

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
    /// Is the answer the list of all members, filtered by nothing?
    pub fn is_for_all(&self) -> bool {
        self.whom == Whom::All(0)
    }

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
        let nonce = data["nonce"].as_str().filter(|nonce| nonce.len() <= LONGEST_NONCE).map(str::to_owned);
        Some(Self { guild, whom, presences, nonce })
    }
}

/// An answer on its way: see the module's description.
pub struct MemberAnswer {
    request: MemberRequest,
    /// Who was a member at the request, at the next chunk or where the search goes on. What they were is old.
    members: Frozen,
    /// Members that were found by name.
    found: Vec<u64>,
    searched: bool,
    chunk: usize,
    chunks: usize,
    /// Where each chunk that was made begins.
    starts: Vec<(usize, usize)>,
}

/// Whether the next part of an answer can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It can.
    Now,
    /// The guild is not available; when it has come again.
    Later,
    /// The guild has come again, and now the cache has only a part of its members: Discord has to be asked.
    Never,
}

/// An answer between two processes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedAnswer {
    request: MemberRequest,
    /// All that it is about, in the order of the chunks, or whom the search has not looked at yet.
    members: Vec<u64>,
    found: Vec<u64>,
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

    /// The data of the request that it answers, for Discord.
    pub fn request(&self) -> Vec<u8> {
        let MemberRequest { guild, whom, presences, nonce } = &self.request;
        let mut data = match whom {
            Whom::All(limit) => json!({"query": "", "limit": limit}),
            Whom::Named(name, limit) => json!({"query": name, "limit": limit}),
            Whom::Users(ids) => json!({"user_ids": ids.iter().map(u64::to_string).collect::<Vec<_>>()}),
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
            searched: self.searched,
            chunk: self.chunk,
            chunks: self.chunks,
        }
    }

    /// An answer of another process; `None` when it contradicts itself.
    pub fn restore(saved: SavedAnswer) -> Option<Self> {
        let SavedAnswer { request, members, found, searched, chunk, chunks } = saved;
        let most = if matches!(request.whom, Whom::All(_)) { members.len().div_ceil(CHUNK).max(1) } else { 1 };
        if chunk > chunks || chunks == 0 || chunks > most || (chunk > 0 && !searched) {
            return None;
        }
        let mut members = Frozen::of_ids(&members, CHUNK);
        members.seek((chunk, 0));
        let starts = (0..chunk).map(|chunk| (chunk, 0)).collect();
        Some(Self { request, members, found, searched, chunk, chunks, starts })
    }
}

impl Cache {
    /// Chunk by chunk the answer to a request for all members has been applied: `data` is that of a GUILD_MEMBERS_CHUNK in
    /// answer to `request`, a number that no other request has. When all chunks have come, all members are known.
    pub fn chunk_of_all_members(&mut self, request: u64, data: &[u8]) {
        let numbers = json::get_all(data, ["guild_id", "chunk_index", "chunk_count"]);
        let [Some(guild), Some(index), Some(count)] = numbers.map(|number| number.and_then(json::parse_id)) else {
            return;
        };
        if let Some(guild) = self.guilds.get_mut(&guild).filter(|guild| self.flags.members && guild.is_available()) {
            guild.membership.chunk(request, index, count);
        }
    }

    /// Events have been lost: members may have come and gone of whom nobody has told.
    pub fn doubt_members(&mut self) {
        self.guilds.values_mut().for_each(|guild| guild.membership.doubt());
    }

    /// Can the request be answered from here, because all members of that guild are known?
    pub fn answer(&self, request: MemberRequest) -> Option<MemberAnswer> {
        let guild = self.guilds.get(&request.guild).filter(|_| self.flags.members)?;
        let count = guild.complete_members()?;
        if request.presences && !self.flags.presences {
            return None;
        }
        let mut answer = MemberAnswer {
            members: Frozen::new(guild, Kind::Members),
            found: Vec::new(),
            searched: true,
            chunk: 0,
            chunks: 1,
            starts: Vec::new(),
            request,
        };
        match &answer.request.whom {
            Whom::Users(_) => {}
            Whom::Named(..) => answer.searched = false,
            Whom::All(limit) => {
                let count = if *limit == 0 { count } else { count.min(*limit) };
                answer.chunks = count.div_ceil(CHUNK).max(1);
            }
        }
        Some(answer)
    }

    /// Can the next chunk of an answer be made? What is known of a guild goes with the session or the outage in which it was
    /// told. An answer that has begun is brought to its end; of a guild that was left nobody is told.
    pub fn readiness(&self, answer: &MemberAnswer) -> Readiness {
        match self.guilds.get(&answer.request.guild) {
            Some(guild) if !guild.is_available() => Readiness::Later,
            Some(guild) if answer.chunk == 0 && guild.complete_members().is_none() => Readiness::Never,
            _ => Readiness::Now,
        }
    }

    /// Appends the data of the next chunk to `out`; false when it takes another call, because there is more to search.
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
        // Of a guild that has come anew and is not whole nobody can be said to be missing.
        let all_known = guild.is_some_and(|guild| guild.complete_members().is_some());
        if matches!(answer.request.whom, Whom::Users(_)) && all_known && !missing.is_empty() {
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

    /// Appends an array of the entities with these ids; returns the ids of those that are not there.
    fn write_list(&self, guild: Option<&Guild>, kind: Kind, ids: &[u64], out: &mut Vec<u8>) -> Vec<u64> {
        let mut missing = Vec::new();
        out.push(b'[');
        if let Some(guild) = guild {
            let store = &guild.array(kind).store;
            let (tables, table) = (self.tables.borrow(), guild.ids.borrow());
            let decoder = Decoder { tables: &tables, ids: &table };
            let going = if kind == Kind::Members { guild.going_roles() } else { Going::default() };
            let mut last = None;
            for id in ids {
                let before = out.len();
                if out.last() != Some(&b'[') {
                    out.push(b',');
                }
                let place = store.find_behind(last, *id);
                let found = place.and_then(|place| going.decode(&decoder, *id, store.record(place), out));
                last = place.or(last);
                if found.is_none() {
                    out.truncate(before);
                    missing.push(*id);
                }
            }
        }
        out.push(b']');
        missing
    }

    /// Looks through some members; true when that was the last part.
    fn search(&self, guild: Option<&Guild>, answer: &mut MemberAnswer) -> bool {
        let MemberAnswer { request, members, found, searched, .. } = answer;
        let (Whom::Named(name, limit), Some(guild)) = (&request.whom, guild) else {
            *searched = true;
            return true;
        };
        let store = &guild.array(Kind::Members).store;
        let (tables, ids) = (self.tables.borrow(), guild.ids.borrow());
        let decoder = Decoder { tables: &tables, ids: &ids };
        let (mut text, mut looked_at, mut last) = (Vec::new(), 0, None);
        let complete = members.each(|id, _, _| {
            text.clear();
            let place = store.find_behind(last, id);
            last = place.or(last);
            let read = place.and_then(|place| decoder.decode(id, store.record(place), &mut text));
            if read.is_some() && is_named(&text, name) {
                found.push(id);
            }
            looked_at += 1;
            looked_at < SCAN && found.len() < *limit
        });
        *searched = complete || found.len() >= *limit;
        *searched
    }
}

impl MemberAnswer {
    /// Who belongs into the next chunk.
    fn next_ids(&mut self) -> Vec<u64> {
        let limit = match &self.request.whom {
            Whom::Users(ids) => return ids.clone(),
            Whom::Named(..) => return self.found.clone(),
            Whom::All(limit) => *limit,
        };
        let room = if limit == 0 { CHUNK } else { CHUNK.min(limit - self.chunk * CHUNK) };
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
