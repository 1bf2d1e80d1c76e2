//! Reads a shard from the stream that a former process has written ([`super`]).
//!
//! Promises: the shard resumes its upstream session, and clients can resume their sessions. Reading trusts nothing: a
//! record of an unexpected form is an error, and the shard then starts without the stream. Bounded: a record has at most
//! [`MAX_RECORD`] bytes, and a buffer grows by the bytes that are there.

use super::{
    super::{Client, Entropy, Identity, Settings, Shard},
    Event, Head, kind,
};
use crate::{
    cache::{Cache, Origin},
    downstream::session::Session,
    protocol::{
        SessionKey, ShardId, Time,
        event::{EventKind, Meta},
        json::{self, Malformed},
        payload,
    },
    upstream::session::Resumption,
};
use hashbrown::HashSet;
use std::{
    io::{self, Read},
    rc::Rc,
};

/// The longest record that is read, in bytes.
const MAX_RECORD: u64 = 512 << 20;

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

/// A shard that is being read, and what the records so far mean for the next ones.
struct Restoring {
    shard: Shard,
    now: Time,
    /// [`Head::strays_until`]. It goes to the shard with READY.
    strays_until: u64,
    /// What guilds refer to; `None`: its record has not come yet.
    tables: Option<Origin>,
    /// The parts of a guild whose last part has not come yet.
    parts: Vec<u8>,
    /// The guilds of the stream.
    guilds: HashSet<u64>,
}

impl Restoring {
    /// A shard with the state of the head.
    fn new(mut shard: Shard, head: Head, now: Time) -> Self {
        shard.last_key = head.last_key;
        shard.presence = head.presence.map(String::into_bytes);
        if let Some(presence) = shard.presence.clone().filter(|_| head.presence_waits) {
            shard.limiter.push_presence(presence);
        }
        if head.presence_in_flight {
            shard.in_flight.restore_presence(now);
        }
        shard.log.start_at(head.oldest);
        shard.departed.add(head.departed, now, now + shard.settings.resume_window);
        let strays_until = head.strays_until;
        Self { shard, now, strays_until, tables: None, parts: Vec::new(), guilds: HashSet::new() }
    }

    fn cache(&mut self) -> &mut Cache {
        self.shard.cache.up_to_date(&self.shard.log)
    }

    /// Takes a record.
    fn take(&mut self, kind: u8, text: &[u8]) -> io::Result<()> {
        if !self.parts.is_empty() && !matches!(kind, kind::GUILD | kind::GUILD_PART) {
            return Err(StateError::GuildIncomplete.into());
        }
        match kind {
            kind::READY => self.take_ready(text)?,
            kind::USER => drop(self.cache().apply(EventKind::UserUpdate, text)),
            kind::TABLES => self.tables = Some(self.cache().read_tables(text).ok_or(StateError::Tables)?),
            kind::GUILD_PART => self.parts.extend_from_slice(text),
            kind::GUILD => self.take_guild(text)?,
            kind::GUILD_DOWN | kind::GUILD_PENDING => self.take_guild_without_content(kind, text)?,
            kind::SESSION => self.take_session(text)?,
            // The records of these kinds follow those of the sessions.
            kind::ANSWER => self.take_answer(text)?,
            kind::VOICE => self.take_voice(text)?,
            kind::REQUEST => self.shard.requests.restore(self.now, serde_json::from_slice(text)?),
            kind::HELD => {
                let (client, request) = keyed(text)?;
                self.shard.hold_again(self.now, client, request);
            }
            kind::IN_FLIGHT => self.shard.in_flight.restore(self.now, serde_json::from_slice(text)?),
            kind::COMMAND => {
                let (client, command) = keyed(text)?;
                self.shard.limiter.push(client, command.to_vec()).map_err(|_| StateError::TooManyCommands)?;
            }
            kind::EVENT => self.take_event(text)?,
            kind::END => {}
            _ => return Err(StateError::UnknownKind.into()),
        }
        Ok(())
    }

    fn take_ready(&mut self, text: &[u8]) -> io::Result<()> {
        self.cache().ready(text).map_err(StateError::Ready)?;
        self.shard.ready = Some(text.into());
        self.shard.read_upstream_id();
        self.shard.strays_until = self.strays_until;
        Ok(())
    }

    /// Takes a guild, or its last part.
    fn take_guild(&mut self, text: &[u8]) -> io::Result<()> {
        let tables = self.tables.as_ref().ok_or(StateError::GuildBeforeTables)?;
        let mut parts = std::mem::take(&mut self.parts);
        let whole: &[u8] = if parts.is_empty() {
            text
        } else {
            parts.extend_from_slice(text);
            &parts
        };
        let id = self.shard.cache.up_to_date(&self.shard.log).read_guild(tables, whole);
        self.guilds.insert(id.ok_or(StateError::Guild)?);
        Ok(())
    }

    /// Takes a guild that Discord has called unavailable, or has not sent since READY.
    fn take_guild_without_content(&mut self, kind: u8, text: &[u8]) -> io::Result<()> {
        let id = json::parse_id(text).ok_or(StateError::GuildWithoutId)?;
        self.guilds.insert(id);
        if kind == kind::GUILD_DOWN {
            let down = format!(r#"{{"id":"{id}","unavailable":true}}"#);
            self.cache().apply(EventKind::GuildCreate, down.as_bytes());
        }
        Ok(())
    }

    fn take_session(&mut self, text: &[u8]) -> io::Result<()> {
        let session = Session::restore(serde_json::from_slice(text)?, self.now).ok_or(StateError::Session)?;
        self.shard.tally.sent_before += session.sequence();
        self.shard.sessions.insert(session.id, session.key);
        self.shard.clients.insert(session.key, Client::new(session));
        Ok(())
    }

    fn take_answer(&mut self, text: &[u8]) -> io::Result<()> {
        let (key, answer) = keyed(text)?;
        let answer = serde_json::from_slice(answer)?;
        let client = self.shard.clients.get_mut(&key);
        if !client.is_some_and(|client| client.answers.restore(answer)) {
            return Err(StateError::Answer.into());
        }
        Ok(())
    }

    fn take_voice(&mut self, text: &[u8]) -> io::Result<()> {
        let Shard { voice, clients, .. } = &mut self.shard;
        let there = |key| clients.contains_key(&key);
        if !voice.restore(self.now, serde_json::from_slice(text)?, there) {
            return Err(StateError::TooManyVoiceConnections.into());
        }
        Ok(())
    }

    fn take_event(&mut self, text: &[u8]) -> io::Result<()> {
        let (length, rest) = numbered(text)?;
        let (head, data) = rest.split_at_checked(length as usize).ok_or(StateError::EventTooShort)?;
        let event: Event = serde_json::from_slice(head)?;
        let kind = EventKind::from_name(event.name.as_bytes());
        self.shard.log.append(
            event.name.as_bytes(),
            data,
            Meta { kind, changed_guild: event.changed_guild, recipient: event.recipient },
        );
        Ok(())
    }

    /// The shard, after the last record.
    fn finish(mut self) -> io::Result<Shard> {
        if self.shard.ready.is_none() {
            return Err(StateError::NoReady.into());
        }
        // READY is as old as the upstream session: it lists guilds that the bot has left since.
        let known: Vec<u64> = self.cache().guilds().map(|(guild, _)| guild).collect();
        for guild in known.into_iter().filter(|id| !self.guilds.contains(id)) {
            let cache = self.shard.cache.up_to_date(&self.shard.log);
            cache.apply(EventKind::GuildDelete, &payload::guild_delete(guild, false));
        }
        let mut shard = self.shard;
        let (oldest, next) = (shard.log.oldest(), shard.log.next());
        if shard.clients.values().any(|client| client.session.cursor() > next) {
            return Err(StateError::SessionAhead.into());
        }
        // The log may be smaller now and have dropped events that a session could be resumed from.
        for client in shard.clients.values_mut() {
            client.session.forget_before(oldest);
        }
        shard.schedule_maintenance(self.now);
        shard.prefetch_all(self.now);
        shard.release_held_without_prefetch(self.now);
        Ok(shard)
    }
}

impl Shard {
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
        let mut head: Head = serde_json::from_slice(&text)?;
        let resumption = Resumption {
            session_id: std::mem::take(&mut head.session_id),
            resume_url: std::mem::take(&mut head.resume_url),
            sequence: head.sequence,
        };
        let shard = Self::new(id, settings, identity, gateway_url, Some(resumption), entropy);
        let mut restoring = Restoring::new(shard, head, now);
        loop {
            let kind = read_record(input, &mut text)?;
            restoring.take(kind, &text)?;
            if kind == kind::END {
                return restoring.finish();
            }
        }
    }
}
