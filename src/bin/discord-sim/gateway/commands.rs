//! Commands that clients send (Gateway Events: "Send Events"), and how Discord answers them.

use super::refusal::Refusal;
use super::session::{Chunks, Session};
use super::{Ending, Gateway, MAX_SESSIONS, intents, payload};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use world::World;
use world::json::{self, Fields, Object};

/// Largest payload that a client may send, in bytes (Gateway: "Sending Events").
pub const MAX_BYTES: usize = 4_096;

/// Maximum number of payloads that a connection may send in [`RATE_WINDOW`] (Gateway: "Rate Limiting").
const RATE_LIMIT: usize = 120;
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// Maximum number of presence updates in [`PRESENCE_WINDOW`]; further ones are dropped (Gateway: "Rate Limiting").
const PRESENCE_LIMIT: usize = 5;
const PRESENCE_WINDOW: Duration = Duration::from_secs(20);

/// Maximum number of members in one GUILD_MEMBERS_CHUNK.
const CHUNK: usize = 1_000;

/// Maximum number of members that a request with `query` or `user_ids` can get.
const MAX_SEARCHED: usize = 100;

/// Maximum number of REQUEST_GUILD_MEMBERS of one session that are not answered completely.
const MAX_REQUESTS: usize = 4_096;

/// Longest nonce in bytes. A longer one is ignored.
const LONGEST_NONCE: usize = 32;

#[derive(Deserialize)]
struct Command<'a> {
    op: u64,
    #[serde(borrow, default)]
    d: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Identify<'a> {
    token: String,
    intents: Option<Ids>,
    shard: Option<(u64, u64)>,
    large_threshold: Option<u64>,
    /// `true` asks for payload compression. Any other value asks for none: oceanic.js sends the name of a compression
    /// here.
    compress: Option<serde_json::Value>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Resume {
    token: String,
    session_id: String,
    seq: u64,
}

/// Ids as clients send them: a snowflake is a string or a number, alone or in an array. Also `intents`, which is a
/// number, or a string of digits.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    Text(String),
    Number(u64),
    Many(Vec<Ids>),
}

impl Ids {
    fn list(&self) -> Vec<u64> {
        match self {
            Self::Text(text) => text.parse().ok().into_iter().collect(),
            Self::Number(id) => vec![*id],
            Self::Many(many) => many.iter().flat_map(Self::list).collect(),
        }
    }

    fn first(&self) -> Option<u64> {
        self.list().first().copied()
    }
}

#[derive(Deserialize)]
struct VoiceState {
    guild_id: Ids,
    channel_id: Option<Ids>,
    #[serde(default)]
    self_mute: bool,
    #[serde(default)]
    self_deaf: bool,
}

#[derive(Deserialize)]
struct RequestMembers {
    guild_id: Ids,
    query: Option<String>,
    limit: Option<u64>,
    presences: Option<bool>,
    user_ids: Option<Ids>,
    nonce: Option<String>,
}

#[derive(Deserialize)]
struct RequestSounds {
    guild_ids: Ids,
}

#[derive(Deserialize)]
struct RequestChannelInfo {
    guild_id: Ids,
    fields: Vec<String>,
}

/// Compares a client's token with the bot's. The client may send the prefix of the HTTP header too.
fn same_token(sent: &str, token: &str) -> bool {
    sent.strip_prefix("Bot ").unwrap_or(sent) == token
}

fn malformed(what: &str) -> Refusal {
    Refusal::Malformed(what.to_owned())
}

fn parse<'a, T: Deserialize<'a>>(data: Option<&'a RawValue>, name: &str) -> Result<T, Refusal> {
    let data = data.map_or("null", RawValue::get);
    serde_json::from_str(data).map_err(|error| malformed(&format!("malformed {name}: {error}")))
}

impl Gateway {
    /// Handles one message of the connection `key`.
    pub fn receive(&mut self, key: u64, message: &[u8], now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if peer.ending.is_some() {
            return;
        }
        while peer.commands.front().is_some_and(|first| now.duration_since(*first) >= RATE_WINDOW) {
            peer.commands.pop_front();
        }
        peer.commands.push_back(now);
        let result = if peer.commands.len() > RATE_LIMIT {
            Err(Refusal::RateLimited { limit: RATE_LIMIT })
        } else if message.len() > MAX_BYTES {
            Err(malformed(&format!("a payload of {} bytes", message.len())))
        } else {
            match serde_json::from_slice::<Command<'_>>(message) {
                Ok(command) => self.command(key, command.op, command.d, now),
                Err(error) => Err(malformed(&format!("not a payload: {error}"))),
            }
        };
        if let Err(refusal) = result {
            let (code, reason) = refusal.close();
            self.refuse(key, code, reason, &refusal.to_string(), now);
        }
    }

    fn command(&mut self, key: u64, op: u64, data: Option<&RawValue>, now: Instant) -> Result<(), Refusal> {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let session = peer.session;
        match (op, session) {
            (1, _) => {
                self.heartbeat(key, data, now);
                return Ok(());
            }
            (2 | 6, Some(_)) => {
                return Err(Refusal::AlreadyAuthenticated(op));
            }
            (2, None) => return self.identify(key, data, now),
            (6, None) => return self.resume(key, data, now),
            (3 | 4 | 8 | 31 | 43, None) => {
                return Err(Refusal::NotAuthenticated(op));
            }
            (3 | 4 | 8 | 31 | 43, Some(_)) => {}
            _ => return Err(Refusal::UnknownOpcode(op)),
        }
        let Some(session) = session else { return Ok(()) };
        let Some(shard) = self.sessions.get(&session).map(|session| session.shard) else { return Ok(()) };
        let record = &mut self.shards[shard];
        *record.commands.entry(op).or_default() += 1;
        let text = data.map_or("null", RawValue::get);
        match op {
            3 => {
                if Fields::parse(text).is_none() {
                    return Err(malformed("malformed op 3"));
                }
                while peer.presences.front().is_some_and(|first| now.duration_since(*first) >= PRESENCE_WINDOW) {
                    peer.presences.pop_front();
                }
                peer.presences.push_back(now);
                if peer.presences.len() > PRESENCE_LIMIT {
                    self.violate(Some(shard), format!("more than {PRESENCE_LIMIT} presence updates in 20 s"));
                } else {
                    record.last_presence = Some(text.to_owned());
                }
                Ok(())
            }
            _ => {
                record.last_commands.insert(op, text.to_owned());
                match op {
                    4 => self.update_voice_state(session, shard, &parse(data, "op 4")?),
                    8 => self.request_members(session, shard, &parse(data, "op 8")?, now)?,
                    31 => self.request_sounds(session, shard, &parse(data, "op 31")?),
                    _ => self.request_channel_info(session, shard, &parse(data, "op 43")?),
                }
                if let Some(peer) = self.peers.get_mut(&key) {
                    peer.wake();
                }
                Ok(())
            }
        }
    }

    fn heartbeat(&mut self, key: u64, data: Option<&RawValue>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.last_heartbeat = now;
        peer.say(payload(11, "null"));
        let Some(session) = peer.session.and_then(|session| self.sessions.get_mut(&session)) else { return };
        if let Some(sequence) = data.and_then(|data| data.get().parse().ok()) {
            session.acknowledge(sequence);
        }
        self.shards[session.shard].heartbeats += 1;
    }

    fn identify(&mut self, key: u64, data: Option<&RawValue>, now: Instant) -> Result<(), Refusal> {
        let identify: Identify<'_> = parse(data, "IDENTIFY")?;
        if !same_token(&identify.token, &self.options.token) {
            return Err(Refusal::WrongToken("IDENTIFY"));
        }
        let count = self.shards.len();
        let shard = match identify.shard {
            Some((shard, of)) if of == count as u64 && shard < of => usize::try_from(shard).unwrap_or(0),
            Some((shard, of)) => {
                return Err(Refusal::InvalidShard { shard, of, count });
            }
            None if count == 1 => 0,
            None => return Err(Refusal::ShardingRequired(count)),
        };
        let Some(wanted) = identify.intents.as_ref().and_then(Ids::first) else {
            return Err(Refusal::NoIntents);
        };
        if wanted & !intents::KNOWN != 0 {
            return Err(Refusal::InvalidIntents(wanted));
        }
        if wanted & self.options.disallowed_intents != 0 {
            return Err(Refusal::DisallowedIntents(wanted));
        }
        if self.budget.exhausted() {
            return Err(Refusal::NoStartLeft);
        }
        if !self.budget.spend(shard, now) {
            self.violate(Some(shard), "IDENTIFY too early for its bucket".to_owned());
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.say(payload(9, "false"));
            }
            return Ok(());
        }
        let threshold = identify.large_threshold.unwrap_or(self.options.large_threshold).clamp(50, 250);
        self.evict(shard, now);
        let id = format!("{:032x}", self.rng.u128(..));
        let mut session = Session::new(id, shard, wanted, threshold, self.options.replay_bytes);
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let guilds = self.world.guilds_of(shard).map(|guild| guild.id());
        if wanted & intents::GUILDS != 0 {
            session.pending = self.world.guilds_of(shard).filter(|guild| guild.available()).map(|g| g.id()).collect();
        }
        let guilds = guilds.map(|id| Object::new().id("id", id).bool("unavailable", true).finish());
        let guilds = json::array(guilds);
        let ready = ready(&self.world, &session.id, peer.version, &self.options.resume_url, (shard, count), &guilds);
        session.push("READY", ready);
        session.connection = Some(key);
        let session_key = self.next_key;
        self.next_key += 1;
        peer.session = Some(session_key);
        peer.cursor = 1;
        peer.compress_payloads = identify.compress == Some(true.into());
        let record = &mut self.shards[shard];
        record.sessions.push(session_key);
        record.identifies += 1;
        record.compress = peer.transport;
        record.path.clone_from(&peer.path);
        record.last_presence = identify.presence.map(|presence| presence.get().to_owned());
        let whole = data.map_or("{}", RawValue::get);
        record.last_identify = Fields::parse(whole).map(|fields| fields.without("token").text());
        peer.wake();
        self.sessions.insert(session_key, session);
        Ok(())
    }

    /// Ends a session if the shard has [`MAX_SESSIONS`]: the oldest one without a connection, or the oldest of all.
    fn evict(&mut self, shard: usize, now: Instant) {
        let sessions = &self.shards[shard].sessions;
        if sessions.len() < MAX_SESSIONS {
            return;
        }
        let detached = |key: &&u64| self.sessions.get(key).is_none_or(|session| session.connection.is_none());
        let Some(victim) = sessions.iter().find(detached).or_else(|| sessions.first()).copied() else { return };
        let connection = self.sessions.get(&victim).and_then(|session| session.connection);
        self.end_session(victim);
        if let Some(peer) = connection.and_then(|key| self.peers.get_mut(&key)) {
            peer.end(Ending::Close(4000, "Unknown error."), now);
        }
    }

    fn resume(&mut self, key: u64, data: Option<&RawValue>, now: Instant) -> Result<(), Refusal> {
        let resume: Resume = parse(data, "RESUME")?;
        if !same_token(&resume.token, &self.options.token) {
            return Err(Refusal::WrongToken("RESUME"));
        }
        let found = self.sessions.iter().find(|(_, session)| session.id == resume.session_id).map(|(key, _)| *key);
        let Some(session_key) = found else {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.say(payload(9, "false"));
            }
            return Ok(());
        };
        let Some(session) = self.sessions.get_mut(&session_key) else { return Ok(()) };
        if let Some(code) = self.shards[session.shard].refusals.pop_front() {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.end(Ending::Close(code, "Refused."), now);
            }
            return Ok(());
        }
        if resume.seq > session.sequence() {
            let newest = session.sequence();
            self.end_session(session_key);
            return Err(Refusal::InvalidSequence { seq: resume.seq, newest });
        }
        if !session.can_replay(resume.seq) {
            self.end_session(session_key);
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.say(payload(9, "false"));
            }
            return Ok(());
        }
        let before = session.connection.replace(key);
        session.detached = None;
        session.mute.take_if(|mute| mute.until_resume);
        session.push("RESUMED", r#"{"_trace":["[\"gateway-sim-1\",{\"micros\":0.0}]"]}"#);
        let shard = session.shard;
        if let Some(old) = before.and_then(|key| self.peers.get_mut(&key)) {
            old.session = None;
            old.end(Ending::Close(4000, "Unknown error."), now);
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.session = Some(session_key);
            peer.cursor = resume.seq + 1;
            let record = &mut self.shards[shard];
            record.resumes += 1;
            record.compress = peer.transport;
            record.path.clone_from(&peer.path);
            peer.wake();
        }
        Ok(())
    }

    fn update_voice_state(&mut self, session: u64, shard: usize, wanted: &VoiceState) {
        let Some(guild) = wanted.guild_id.first().filter(|guild| self.world.shard_of(*guild) == shard) else { return };
        let channel = wanted.channel_id.as_ref().and_then(Ids::first);
        self.voice_state(session, guild, channel, wanted.self_mute, wanted.self_deaf);
    }

    fn request_members(
        &mut self,
        key: u64,
        shard: usize,
        request: &RequestMembers,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Some(id) = request.guild_id.first() else { return Err(malformed("op 8 without guild_id")) };
        if request.query.is_none() && request.user_ids.is_none() {
            return Err(malformed("op 8 with neither query nor user_ids"));
        }
        let Some(session) = self.sessions.get_mut(&key) else { return Ok(()) };
        let guild = self.world.guild(id).filter(|guild| guild.available() && self.world.shard_of(id) == shard);
        let Some(guild) = guild else { return Ok(()) };
        if session.chunks.len() >= MAX_REQUESTS {
            return Ok(());
        }
        let limit = usize::try_from(request.limit.unwrap_or(0)).unwrap_or(usize::MAX);
        let nonce = request.nonce.as_deref().filter(|nonce| nonce.len() <= LONGEST_NONCE).map(json::string);
        let (users, not_found) = if let Some(ids) = &request.user_ids {
            let ids: Vec<u64> = ids.list().into_iter().take(MAX_SEARCHED).collect();
            let (users, missing): (Vec<u64>, Vec<u64>) =
                ids.into_iter().partition(|user| guild.member(*user).is_some());
            (users, (!missing.is_empty()).then(|| json::ids(missing)))
        } else {
            let query = request.query.as_deref().unwrap_or("");
            if query.is_empty() && session.intents & intents::GUILD_MEMBERS == 0 {
                let shard = session.shard;
                self.violate(Some(shard), "op 8 for all members without the GUILD_MEMBERS intent".to_owned());
                return Ok(());
            }
            let last = self.member_requests.get(&id).map(|last| now.duration_since(*last));
            let wait = self.options.member_request_interval.saturating_sub(last.unwrap_or(Duration::MAX));
            if query.is_empty() && limit == 0 {
                if !wait.is_zero() {
                    let meta = Object::new().id("guild_id", id);
                    let meta = nonce.iter().fold(meta, |meta, nonce| meta.raw("nonce", nonce)).finish();
                    let retry_after = format!("{:.3}", wait.as_secs_f64());
                    let data =
                        Object::new().int("opcode", 8).raw("retry_after", &retry_after).raw("meta", &meta).finish();
                    self.push_to(key, "RATE_LIMITED", &data);
                    return Ok(());
                }
                self.member_requests.insert(id, now);
            }
            let limit = if query.is_empty() { limit } else { limit.clamp(1, MAX_SEARCHED) };
            (guild.search(query, limit), None)
        };
        session.chunks.push_back(Chunks {
            guild: id,
            count: users.len().div_ceil(CHUNK).max(1),
            users: users.into(),
            not_found,
            presences: request.presences == Some(true) && session.intents & intents::GUILD_PRESENCES != 0,
            nonce,
            index: 0,
        });
        Ok(())
    }

    fn request_sounds(&mut self, session: u64, shard: usize, request: &RequestSounds) {
        for id in request.guild_ids.list() {
            let guild = self.world.guild(id).filter(|guild| guild.available() && self.world.shard_of(id) == shard);
            let Some(sounds) = guild.map(|guild| guild.sounds()) else { continue };
            let data = Object::new().raw("soundboard_sounds", &sounds).id("guild_id", id).finish();
            self.push_to(session, "SOUNDBOARD_SOUNDS", &data);
        }
    }

    fn request_channel_info(&mut self, session: u64, shard: usize, request: &RequestChannelInfo) {
        let Some(id) = request.guild_id.first().filter(|id| self.world.shard_of(*id) == shard) else { return };
        let wants = |name: &str| request.fields.iter().any(|field| field == name);
        if let Some(data) = self.world.channel_info(id, wants("status"), wants("voice_start_time")) {
            self.push_to(session, "CHANNEL_INFO", &data);
        }
    }
}

fn ready(world: &World, id: &str, version: u64, url: &str, shard: (usize, usize), guilds: &str) -> String {
    let application = Object::new().id("id", world.application()).int("flags", 27_828_224).finish();
    Object::with_capacity(1_200 + guilds.len())
        .int("v", version)
        .raw("user_settings", "{}")
        .raw("user", &world.current_user())
        .str("session_type", "normal")
        .str("session_id", id)
        .str("resume_gateway_url", url)
        .raw("shard", &format!("[{},{}]", shard.0, shard.1))
        .raw("relationships", "[]")
        .raw("private_channels", "[]")
        .raw("presences", "[]")
        .raw("guilds", guilds)
        .raw("guild_join_requests", "[]")
        .raw("geo_ordered_rtc_regions", r#"["rotterdam","madrid","milan"]"#)
        .raw("game_relationships", "[]")
        .raw("auth", "{}")
        .raw("application", &application)
        .raw("_trace", r#"["[\"gateway-sim-1\",{\"micros\":0.0}]"]"#)
        .finish()
}

/// The data of the next GUILD_MEMBERS_CHUNK. `None` when all chunks have been sent, or the bot is no longer in the
/// guild.
pub fn next_chunk(world: &World, chunks: &mut Chunks) -> Option<String> {
    if chunks.index == chunks.count {
        return None;
    }
    let guild = world.guild(chunks.guild)?;
    let count = chunks.users.len().min(CHUNK);
    let users: VecDeque<u64> = chunks.users.drain(..count).collect();
    let members = json::array(users.iter().filter_map(|user| guild.member(*user)));
    let mut chunk = Object::with_capacity(members.len() + 200)
        .id("guild_id", chunks.guild)
        .raw("members", &members)
        .int("chunk_index", chunks.index as u64)
        .int("chunk_count", chunks.count as u64);
    if let Some(not_found) = &chunks.not_found {
        chunk = chunk.raw("not_found", not_found);
    }
    if chunks.presences {
        let presences = json::array(users.iter().filter_map(|user| guild.presence(*user)));
        chunk = chunk.raw("presences", &presences);
    }
    if let Some(nonce) = &chunks.nonce {
        chunk = chunk.raw("nonce", nonce);
    }
    chunks.index += 1;
    Some(chunk.finish())
}
