//! Request Guild Members (docs: Gateway Events, Request Guild Members) answered from the cache.
//!
//! An answer is the data of one GUILD_MEMBERS_CHUNK after the other, each of at most [`CHUNK`] members, made when it is
//! asked for; all of them show the members of one moment. Work for each call is bounded.

use super::{
    Cache,
    codec::{Shared, decode::Decoder, ids::Ids},
    guild::Guild,
    kind::Kind,
    snapshot::Frozen,
};
use crate::protocol::json::{self, write_string};
use serde_json::Value;
use std::{cell::RefCell, rc::Rc};

/// Members of one chunk (docs: Guild Members Chunk).
pub const CHUNK: usize = 1000;
/// Most members that a request by name or by ids can have.
const MOST_NAMED: usize = 100;
/// Members that one call looks through.
const SCAN: usize = 1000;

/// Whom a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Whom {
    /// Everybody, up to a limit if it is not 0.
    All(usize),
    /// Whose name begins so, in small letters, and how many of them.
    Named(String, usize),
    /// These.
    Users(Vec<u64>),
}

/// The data of an op 8, read leniently: ids may be numbers or strings, `guild_id` an array of one.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Where it goes on: the next chunk, or the search.
    members: Frozen,
    tables: Shared,
    ids: Rc<RefCell<Ids>>,
    /// Members that were found by name or id: each id, and the text.
    found: Vec<(u64, Box<[u8]>)>,
    not_found: Vec<u64>,
    searched: bool,
    chunk: usize,
    chunks: usize,
    /// Where each chunk that was made begins.
    starts: Vec<(usize, usize)>,
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
            tables: self.tables.clone(),
            ids: guild.ids.clone(),
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
                for id in ids {
                    let mut text = Vec::new();
                    match self.read(guild, Kind::Members, *id, &mut text) {
                        Some(()) => answer.found.push((*id, text.into())),
                        None => answer.not_found.push(*id),
                    }
                }
            }
            Whom::Named(..) => answer.searched = false,
            Whom::All(limit) => {
                let count = if *limit == 0 { count } else { count.min(*limit) };
                answer.chunks = count.div_ceil(CHUNK).max(1);
            }
        }
        Some(answer)
    }

    /// Appends the text of an entity.
    fn read(&self, guild: &Guild, kind: Kind, id: u64, out: &mut Vec<u8>) -> Option<()> {
        let store = &guild.array(kind).store;
        let place = store.find(id)?;
        let (tables, ids) = (self.tables.borrow(), guild.ids.borrow());
        Decoder { tables: &tables, ids: &ids }.decode(id, store.record(place), out)
    }

    /// Appends the data of the next chunk to `out`; false when it takes another call, because there is more to search.
    pub fn next_chunk(&self, answer: &mut MemberAnswer, out: &mut Vec<u8>) -> bool {
        debug_assert!(!answer.is_complete());
        if !answer.searched && !answer.search() {
            return false;
        }
        answer.starts.push(answer.members.position());
        out.extend_from_slice(format!(r#"{{"guild_id":"{}","members":["#, answer.request.guild).as_bytes());
        let mut shown = Vec::new();
        match answer.request.whom {
            Whom::All(limit) => {
                let room = if limit == 0 { CHUNK } else { CHUNK.min(limit - answer.chunk * CHUNK) };
                answer.write_members(room, &mut shown, out);
            }
            _ => {
                write_list(out, answer.found.iter().map(|(_, member)| &**member));
                shown.extend(answer.found.iter().map(|(id, _)| *id));
            }
        }
        self.write_rest(answer, &shown, out);
        answer.chunk += 1;
        true
    }

    fn write_rest(&self, answer: &MemberAnswer, shown: &[u64], out: &mut Vec<u8>) {
        out.extend_from_slice(
            format!(r#"],"chunk_index":{},"chunk_count":{}"#, answer.chunk, answer.chunks).as_bytes(),
        );
        if !answer.not_found.is_empty() {
            let ids: Vec<String> = answer.not_found.iter().map(|id| format!("\"{id}\"")).collect();
            out.extend_from_slice(format!(r#","not_found":[{}]"#, ids.join(",")).as_bytes());
        }
        if answer.request.presences {
            out.extend_from_slice(br#","presences":["#);
            let mut first = true;
            if let Some(guild) = self.guilds.get(&answer.request.guild) {
                for id in shown {
                    let before = out.len();
                    if !first {
                        out.push(b',');
                    }
                    match self.read(guild, Kind::Presences, *id, out) {
                        Some(()) => first = false,
                        None => out.truncate(before),
                    }
                }
            }
            out.push(b']');
        }
        if let Some(nonce) = &answer.request.nonce {
            out.extend_from_slice(br#","nonce":"#);
            write_string(out, nonce);
        }
        out.push(b'}');
    }
}

impl MemberAnswer {
    /// Looks through some members; true when that was the last part.
    fn search(&mut self) -> bool {
        let Whom::Named(name, limit) = &self.request.whom else { return true };
        let (tables, ids) = (self.tables.borrow(), self.ids.borrow());
        let decoder = Decoder { tables: &tables, ids: &ids };
        let (found, mut text, mut looked_at) = (&mut self.found, Vec::new(), 0);
        let complete = self.members.each(|id, record, _| {
            text.clear();
            if decoder.decode(id, record, &mut text).is_some() && is_named(&text, name) {
                found.push((id, text.as_slice().into()));
            }
            looked_at += 1;
            looked_at < SCAN && found.len() < *limit
        });
        self.searched = complete || self.found.len() >= *limit;
        self.searched
    }

    /// Appends the next members, `room` at most, and their ids.
    fn write_members(&mut self, room: usize, shown: &mut Vec<u64>, out: &mut Vec<u8>) {
        let (tables, ids) = (self.tables.borrow(), self.ids.borrow());
        let decoder = Decoder { tables: &tables, ids: &ids };
        self.members.each(|id, record, _| {
            if !shown.is_empty() {
                out.push(b',');
            }
            let before = out.len();
            match decoder.decode(id, record, out) {
                Some(()) => shown.push(id),
                None => out.truncate(before),
            }
            shown.len() < room
        });
    }
}

fn write_list<'a>(out: &mut Vec<u8>, items: impl Iterator<Item = &'a [u8]>) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
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
