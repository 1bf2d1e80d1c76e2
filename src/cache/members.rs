//! Request Guild Members (docs: Gateway Events, Request Guild Members) answered from the cache.
//!
//! An answer is the data of one GUILD_MEMBERS_CHUNK after the other, each of at most [`CHUNK`] members, made when it is
//! asked for; all of them show the members of one moment. Work for each call is bounded.

use super::{
    Cache,
    guild::Kind,
    list::{Slots, Text},
};
use crate::protocol::{
    edit,
    json::{self, write_string},
};
use serde_json::Value;
use std::rc::Rc;

/// Members of one chunk (docs: Guild Members Chunk).
pub const CHUNK: usize = 1000;
/// Most members that a request by name or by ids can have.
const MOST_NAMED: usize = 100;
/// Members that one call looks through.
const SCAN: usize = 2000;

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
    members: Rc<Slots>,
    /// Members that were found by name or id.
    found: Vec<Text>,
    not_found: Vec<u64>,
    /// Where in `members` the next chunk, or the search, goes on.
    at: usize,
    searched: bool,
    chunk: usize,
    chunks: usize,
    /// Where each chunk that was made begins.
    starts: Vec<usize>,
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
            self.at = self.starts[chunk];
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
        let (mut found, mut not_found) = (Vec::new(), Vec::new());
        let mut chunks = 1;
        let mut searched = true;
        match &request.whom {
            Whom::Users(ids) => {
                for id in ids {
                    match guild.get(Kind::Members, *id) {
                        Some(member) => found.push(member.clone()),
                        None => not_found.push(*id),
                    }
                }
            }
            Whom::Named(..) => searched = false,
            Whom::All(limit) => {
                let count = if *limit == 0 { count } else { count.min(*limit) };
                chunks = count.div_ceil(CHUNK).max(1);
            }
        }
        let members = guild.share(Kind::Members);
        Some(MemberAnswer { request, members, found, not_found, at: 0, searched, chunk: 0, chunks, starts: Vec::new() })
    }

    /// Appends the data of the next chunk to `out`; false when it takes another call, because there is more to search.
    pub fn next_chunk(&self, answer: &mut MemberAnswer, out: &mut Vec<u8>) -> bool {
        debug_assert!(!answer.is_complete());
        if let (Whom::Named(name, limit), false) = (&answer.request.whom, answer.searched) {
            let end = (answer.at + SCAN).min(answer.members.len());
            let matching = answer.members[answer.at..end].iter().flatten().filter(|member| is_named(member, name));
            answer.found.extend(matching.take(limit - answer.found.len()).cloned());
            answer.at = end;
            if answer.found.len() < *limit && end < answer.members.len() {
                return false;
            }
            answer.searched = true;
        }
        answer.starts.push(answer.at);
        let chunk: Vec<Text> = match answer.request.whom {
            Whom::All(limit) => {
                let room = if limit == 0 { CHUNK } else { CHUNK.min(limit - answer.chunk * CHUNK) };
                let mut chunk = Vec::with_capacity(room);
                while chunk.len() < room && answer.at < answer.members.len() {
                    chunk.extend(answer.members[answer.at].clone());
                    answer.at += 1;
                }
                chunk
            }
            _ => std::mem::take(&mut answer.found),
        };
        self.write_chunk(answer, &chunk, out);
        if !matches!(answer.request.whom, Whom::All(_)) {
            // For the case that it has to be sent again.
            answer.found = chunk;
        }
        answer.chunk += 1;
        true
    }

    fn write_chunk(&self, answer: &MemberAnswer, members: &[Text], out: &mut Vec<u8>) {
        out.extend_from_slice(format!(r#"{{"guild_id":"{}","members":["#, answer.request.guild).as_bytes());
        write_list(out, members.iter().map(|member| &**member));
        out.extend_from_slice(
            format!(r#"],"chunk_index":{},"chunk_count":{}"#, answer.chunk, answer.chunks).as_bytes(),
        );
        if !answer.not_found.is_empty() {
            let ids: Vec<String> = answer.not_found.iter().map(|id| format!("\"{id}\"")).collect();
            out.extend_from_slice(format!(r#","not_found":[{}]"#, ids.join(",")).as_bytes());
        }
        if answer.request.presences {
            out.extend_from_slice(br#","presences":["#);
            let guild = self.guilds.get(&answer.request.guild);
            let presences = members.iter().filter_map(|member| {
                let id = edit::id_at(member, &["user", "id"])?;
                guild?.get(Kind::Presences, id).map(|presence| &**presence)
            });
            write_list(out, presences);
            out.push(b']');
        }
        if let Some(nonce) = &answer.request.nonce {
            out.extend_from_slice(br#","nonce":"#);
            write_string(out, nonce);
        }
        out.push(b'}');
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
