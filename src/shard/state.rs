//! Writes a shard as a stream of bytes, and reads it in the next process. The stream holds the upstream session, READY,
//! the guilds, the client sessions, the events that they still need, their requests, and their commands that Discord
//! does not have yet.
//!
//! The stream is a list of records, each with its kind and length. The last one marks the end. The caller that stores
//! the stream adds a checksum and a version. Reading trusts nothing: a record of an unexpected form is an error, and
//! the shard then starts without the stream.

use super::{Client, Entropy, Identity, Settings, Shard};
use crate::{
    cache::View,
    downstream::session::{Saved, Session},
    protocol::{
        SessionKey, ShardId, Time,
        event::{EventKind, Meta},
        json::{self, Malformed},
        payload,
    },
    upstream::session::Resumption,
};
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use std::{
    io::{self, Read, Write},
    rc::Rc,
};

/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 512 << 20;
/// The most bytes of a guild in one record; a larger guild is split into several. A guild with 100,000 members has some
/// 15 MB.
const PART: usize = if cfg!(test) { 100 } else { 64 << 20 };

/// Kinds of records.
mod kind {
    pub const HEAD: u8 = 1;
    pub const READY: u8 = 2;
    pub const USER: u8 = 3;
    /// The last part of a guild.
    pub const GUILD: u8 = 4;
    pub const GUILD_DOWN: u8 = 5;
    pub const SESSION: u8 = 6;
    pub const EVENT: u8 = 7;
    pub const GUILD_PENDING: u8 = 8;
    pub const END: u8 = 9;
    pub const ANSWER: u8 = 10;
    pub const REQUEST: u8 = 11;
    pub const COMMAND: u8 = 12;
    /// The tables that guilds refer to.
    pub const TABLES: u8 = 13;
    /// A guild's voice connection.
    pub const VOICE: u8 = 16;
    /// A part of a guild; further parts follow.
    pub const GUILD_PART: u8 = 14;
    /// A command that may not have arrived at Discord.
    pub const IN_FLIGHT: u8 = 15;
}

/// The parts of the state that are neither text from Discord nor events.
#[derive(Serialize, Deserialize)]
struct Head {
    session_id: String,
    resume_url: String,
    sequence: u64,
    /// The key of the newest session.
    #[serde(rename = "next_number")]
    last_key: SessionKey,
    /// Log position of the first event in the stream.
    oldest: u64,
    /// The newest presence update (op 3), which the shard sends again in a new upstream session.
    presence: Option<String>,
    /// The presence update was not sent to Discord yet.
    presence_waits: bool,
    /// The presence update was sent and may not have arrived.
    presence_in_flight: bool,
    /// The highest sequence that a stray was sent: up to this one, a client whose session has ended may come to resume
    /// it by Discord's id.
    strays_until: u64,
}

#[derive(Serialize, Deserialize)]
struct Event {
    name: String,
    #[serde(rename = "state_of")]
    changed_guild: Option<u64>,
    #[serde(rename = "only")]
    recipient: Option<SessionKey>,
}

/// Why a stream can not be used. An [`io::Error`] carries it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum StateError {
    #[error("a record is too long")]
    RecordTooLong,
    #[error("a record is too short")]
    RecordTooShort,
    #[error("a record has an unknown kind")]
    UnknownKind,
    #[error("the head is missing")]
    NoHead,
    #[error("READY is missing")]
    NoReady,
    #[error("a guild is not complete")]
    GuildIncomplete,
    #[error("a guild comes before the tables that it refers to")]
    GuildBeforeTables,
    #[error("a guild can not be read")]
    Guild,
    #[error("a guild has no id")]
    GuildWithoutId,
    #[error("the tables can not be read")]
    Tables,
    #[error("a session whose numbers contradict each other")]
    Session,
    #[error("a session is further than the events of the log")]
    SessionAhead,
    #[error("an answer to a member request that contradicts itself")]
    Answer,
    #[error("an event is too short")]
    EventTooShort,
    #[error("there are too many commands")]
    TooManyCommands,
    #[error("there are too many voice connections")]
    TooManyVoiceConnections,
    #[error("READY can not be read: {0}")]
    Ready(Malformed),
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

fn write_record(out: &mut impl Write, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
    let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
    out.write_all(&[kind])?;
    out.write_all(&length.to_le_bytes())?;
    parts.iter().try_for_each(|part| out.write_all(part))
}

fn read_record(input: &mut impl Read, text: &mut Vec<u8>) -> io::Result<u8> {
    let mut head = [0; 9];
    input.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let length = u64::from_le_bytes(length);
    if length > MAX_RECORD {
        return Err(StateError::RecordTooLong.into());
    }
    text.clear();
    // The buffer grows by the bytes that are there, not by the length that the record claims.
    if input.take(length).read_to_end(text)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(kind)
}

/// Splits a record into the session's key at its beginning and the rest.
fn keyed(text: &[u8]) -> io::Result<(SessionKey, &[u8])> {
    numbered(text).map(|(key, rest)| (SessionKey(key), rest))
}

/// Splits a record into its leading number and the rest.
fn numbered(text: &[u8]) -> io::Result<(u32, &[u8])> {
    let (number, rest) = text.split_first_chunk::<4>().ok_or(StateError::RecordTooShort)?;
    Ok((u32::from_le_bytes(*number), rest))
}

impl Shard {
    /// Writes the shard, after [`Shard::stop`]. Returns `Ok(false)` and writes nothing if there is no session that
    /// could be resumed.
    pub fn save(&mut self, out: &mut impl Write) -> io::Result<bool> {
        let (Some(Resumption { session_id, resume_url, sequence }), Some(ready)) =
            (self.upstream.resumption().cloned(), &self.ready)
        else {
            return Ok(false);
        };
        if self.upstream.fatal().is_some() {
            return Ok(false);
        }
        let saved: Vec<Saved> = self.clients.values().filter_map(|client| client.session.save()).collect();
        let needed = saved.iter().map(|session| session.base.1).min().unwrap_or(self.log.next());
        let oldest = needed.clamp(self.log.oldest(), self.log.next());
        let presence = self.presence.as_ref().and_then(|presence| String::from_utf8(presence.clone()).ok());
        let head = Head {
            session_id,
            resume_url,
            sequence,
            last_key: self.last_key,
            oldest,
            presence,
            presence_waits: self.limiter.presence_waits(),
            presence_in_flight: self.in_flight.has_presence(),
            strays_until: self
                .clients
                .values()
                .filter(|client| !client.session.is_resumable() && client.session.has_upstream_id)
                .map(|client| client.session.sequence())
                .fold(self.strays_until, u64::max),
        };
        write_record(out, kind::HEAD, &[&serde_json::to_vec(&head)?])?;
        write_record(out, kind::READY, &[ready])?;
        let cache = self.cache.up_to_date(&self.log);
        if let Some(user) = cache.user() {
            write_record(out, kind::USER, &[user])?;
        }
        let mut packed = Vec::new();
        cache.write_tables(&mut packed);
        write_record(out, kind::TABLES, &[&packed])?;
        for (guild, _) in cache.guilds() {
            packed.clear();
            if cache.write_guild(guild, &mut packed) {
                let mut parts = packed.chunks(PART).peekable();
                while let Some(part) = parts.next() {
                    let kind = if parts.peek().is_some() { kind::GUILD_PART } else { kind::GUILD };
                    write_record(out, kind, &[part])?;
                }
            } else if let Some(snapshot) = cache.snapshot(guild, View::ALL) {
                let kind = if snapshot.is_down() { kind::GUILD_DOWN } else { kind::GUILD_PENDING };
                write_record(out, kind, &[guild.to_string().as_bytes()])?;
            }
        }
        for session in &saved {
            write_record(out, kind::SESSION, &[&serde_json::to_vec(session)?])?;
            let client = &self.clients[&session.key];
            for answer in client.answers.save() {
                write_record(out, kind::ANSWER, &[&session.key.0.to_le_bytes(), &serde_json::to_vec(&answer)?])?;
            }
        }
        for connection in self.voice.save() {
            write_record(out, kind::VOICE, &[&serde_json::to_vec(&connection)?])?;
        }
        for request in self.requests.save() {
            write_record(out, kind::REQUEST, &[&serde_json::to_vec(&request)?])?;
        }
        for command in self.in_flight.save() {
            write_record(out, kind::IN_FLIGHT, &[&serde_json::to_vec(&command)?])?;
        }
        for (client, command) in self.limiter.waiting() {
            write_record(out, kind::COMMAND, &[&client.0.to_le_bytes(), command])?;
        }
        for entry in self.log.read(oldest).into_iter().flatten() {
            let Meta { changed_guild, recipient, .. } = entry.meta;
            let name = String::from_utf8_lossy(entry.name()).into_owned();
            let head = serde_json::to_vec(&Event { name, changed_guild, recipient })?;
            write_record(out, kind::EVENT, &[&(head.len() as u32).to_le_bytes(), &head, entry.data()])?;
        }
        write_record(out, kind::END, &[])?;
        Ok(true)
    }

    /// Reads a shard that a former process has written. The shard resumes its upstream session, and clients can resume
    /// their sessions. An error means that the stream can not be used.
    pub fn restore(
        id: ShardId,
        settings: Rc<Settings>,
        identity: Identity,
        gateway_url: String,
        entropy: Entropy,
        now: Time,
        input: &mut impl Read,
    ) -> io::Result<Self> {
        let mut text = Vec::new();
        if read_record(input, &mut text)? != kind::HEAD {
            return Err(StateError::NoHead.into());
        }
        let head: Head = serde_json::from_slice(&text)?;
        let resumption =
            Resumption { session_id: head.session_id, resume_url: head.resume_url, sequence: head.sequence };
        let mut shard = Self::new(id, settings, identity, gateway_url, Some(resumption), entropy);
        shard.last_key = head.last_key;
        shard.presence = head.presence.map(String::into_bytes);
        if let Some(presence) = shard.presence.clone().filter(|_| head.presence_waits) {
            shard.limiter.push_presence(presence);
        }
        if head.presence_in_flight {
            shard.in_flight.restore_presence(now);
        }
        shard.log.start_at(head.oldest);
        let mut guilds = HashSet::new();
        let mut tables = None;
        let mut parts = Vec::new();
        loop {
            let kind = read_record(input, &mut text)?;
            if !parts.is_empty() && !matches!(kind, kind::GUILD | kind::GUILD_PART) {
                return Err(StateError::GuildIncomplete.into());
            }
            match kind {
                kind::READY => {
                    shard.cache.up_to_date(&shard.log).ready(&text).map_err(StateError::Ready)?;
                    shard.ready = Some(text.as_slice().into());
                    shard.read_upstream_id();
                    shard.strays_until = head.strays_until;
                }
                kind::USER => drop(shard.cache.up_to_date(&shard.log).apply(EventKind::UserUpdate, &text)),
                kind::TABLES => {
                    let read = shard.cache.up_to_date(&shard.log).read_tables(&text);
                    tables = Some(read.ok_or(StateError::Tables)?);
                }
                kind::GUILD_PART => parts.extend_from_slice(&text),
                kind::GUILD => {
                    let tables = tables.as_ref().ok_or(StateError::GuildBeforeTables)?;
                    let whole = if parts.is_empty() {
                        &text
                    } else {
                        parts.extend_from_slice(&text);
                        &parts
                    };
                    let id = shard.cache.up_to_date(&shard.log).read_guild(tables, whole);
                    guilds.insert(id.ok_or(StateError::Guild)?);
                    parts = Vec::new();
                }
                kind @ (kind::GUILD_DOWN | kind::GUILD_PENDING) => {
                    let id = json::parse_id(&text).ok_or(StateError::GuildWithoutId)?;
                    guilds.insert(id);
                    if kind == kind::GUILD_DOWN {
                        let down = format!(r#"{{"id":"{id}","unavailable":true}}"#);
                        shard.cache.up_to_date(&shard.log).apply(EventKind::GuildCreate, down.as_bytes());
                    }
                }
                kind::SESSION => {
                    let session = Session::restore(serde_json::from_slice(&text)?, now).ok_or(StateError::Session)?;
                    shard.tally.sent_before += session.sequence();
                    shard.sessions.insert(session.id, session.key);
                    shard.clients.insert(session.key, Client::new(session));
                }
                kind::ANSWER => {
                    let (key, answer) = keyed(&text)?;
                    let answer = serde_json::from_slice(answer)?;
                    let client = shard.clients.get_mut(&key);
                    if !client.is_some_and(|client| client.answers.restore(answer)) {
                        return Err(StateError::Answer.into());
                    }
                }
                // These records follow those of the sessions.
                kind::VOICE => {
                    let Shard { voice, clients, .. } = &mut shard;
                    let there = |key| clients.contains_key(&key);
                    if !voice.restore(now, serde_json::from_slice(&text)?, there) {
                        return Err(StateError::TooManyVoiceConnections.into());
                    }
                }
                kind::REQUEST => shard.requests.restore(now, serde_json::from_slice(&text)?),
                kind::IN_FLIGHT => shard.in_flight.restore(now, serde_json::from_slice(&text)?),
                kind::COMMAND => {
                    let (client, command) = keyed(&text)?;
                    shard.limiter.push(client, command.to_vec()).map_err(|_| StateError::TooManyCommands)?;
                }
                kind::EVENT => shard.restore_event(&text)?,
                kind::END => break,
                _ => return Err(StateError::UnknownKind.into()),
            }
        }
        if shard.ready.is_none() {
            return Err(StateError::NoReady.into());
        }
        // READY is as old as the upstream session: it lists guilds that the bot has left since.
        let left: Vec<u64> = shard
            .cache
            .up_to_date(&shard.log)
            .guilds()
            .map(|(guild, _)| guild)
            .filter(|id| !guilds.contains(id))
            .collect();
        for guild in left {
            shard.cache.up_to_date(&shard.log).apply(EventKind::GuildDelete, &payload::guild_delete(guild, false));
        }
        let (oldest, next) = (shard.log.oldest(), shard.log.next());
        if shard.clients.values().any(|client| client.session.cursor() > next) {
            return Err(StateError::SessionAhead.into());
        }
        // The log may be smaller now and have dropped events that a session could be resumed from.
        for client in shard.clients.values_mut() {
            client.session.forget_before(oldest);
        }
        shard.schedule_maintenance(now);
        shard.prefetch_all(now);
        Ok(shard)
    }

    fn restore_event(&mut self, text: &[u8]) -> io::Result<()> {
        let (length, rest) = numbered(text)?;
        let (head, data) = rest.split_at_checked(length as usize).ok_or(StateError::EventTooShort)?;
        let event: Event = serde_json::from_slice(head)?;
        let kind = EventKind::from_name(event.name.as_bytes());
        self.log.append(
            event.name.as_bytes(),
            data,
            Meta { kind, changed_guild: event.changed_guild, recipient: event.recipient },
        );
        Ok(())
    }
}
