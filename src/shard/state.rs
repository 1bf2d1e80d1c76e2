//! Writes a shard as a stream of bytes, which [`restore`] reads in the next process. The stream holds the upstream
//! session, READY, the guilds, the client sessions, the events that they still need, their requests, and their commands
//! that Discord does not have yet.
//!
//! The stream is a list of records, each with its kind and length. The last one marks the end. The caller that stores
//! the stream adds a checksum and a version.

mod restore;

use super::Shard;
use crate::{
    cache::View,
    downstream::session::Saved,
    protocol::{SessionKey, event::Meta},
    upstream::session::Resumption,
};
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

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
    /// A client's member request that waits for the answer to the proxy's own request.
    pub const HELD: u8 = 17;
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
    /// Guilds that the clients of former upstream sessions may know and that are gone.
    #[serde(default)]
    departed: Vec<u64>,
}

/// What a record of an event has before the event's data.
#[derive(Serialize, Deserialize)]
struct Event {
    name: String,
    #[serde(rename = "state_of")]
    changed_guild: Option<u64>,
    #[serde(rename = "only")]
    recipient: Option<SessionKey>,
}

fn write_record(out: &mut impl Write, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
    let length: u64 = parts.iter().map(|part| part.len() as u64).sum();
    out.write_all(&[kind])?;
    out.write_all(&length.to_le_bytes())?;
    parts.iter().try_for_each(|part| out.write_all(part))
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
            strays_until: self.strays_until_restart(),
            departed: self.departed.save(),
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
        for (client, request) in self.prefetch.held() {
            write_record(out, kind::HELD, &[&client.0.to_le_bytes(), request])?;
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
}
