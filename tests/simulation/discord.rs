//! A model of Discord: the guilds of one shard, its session with the events to replay, and its connection, if there
//! is one.
//!
//! It knows the true state of the guilds, numbers the messages, remembers which messages can not have reached any
//! session, and panics when the proxy identifies without need or too early.

use crate::{
    net::Payload,
    trace::{Coverage, Event, note},
    voice::Servers,
};
use fastrand::Rng;
use gateway_proxy::{
    protocol::Time,
    upstream::reconnect::{RESUME_ATTEMPTS, RESUME_REFUSALS},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

/// How long a session without a connection can be resumed.
const SESSION_LIFE: Duration = Duration::from_secs(180);
/// Most events that a session can replay.
const REPLAY: usize = 2_000;
/// Shortest time between two IDENTIFYs.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(5);
/// Largest event in bytes.
pub const LARGEST: usize = 250_000;
/// Number of members of a guild that needs several chunks.
const MANY_MEMBERS: u64 = 2_300;
/// Most members of one chunk (docs: Guild Members Chunk).
const CHUNK: usize = 1_000;
/// Largest content of a message in bytes.
const LARGEST_CONTENT: usize = 30_000;
/// Most RESUMEs in a row without a result: at least a second lies between two of them, and mostly many more.
const MOST_FRUITLESS: u32 = 30;
/// The users of guild g have ids from g times this number on.
const FIRST_USER: u64 = 1_000_000;
/// The id of the bot's user.
pub const BOT: u64 = 77;

/// The true state of a guild.
#[derive(Clone, Debug, PartialEq)]
pub struct Guild {
    pub available: bool,
    pub members: BTreeSet<u64>,
}

struct Session {
    id: String,
    /// The number of this session: how many there have been up to it.
    era: u64,
    sequence: u64,
    /// The payloads to replay, each with its sequence and, for a message, its number.
    sent: VecDeque<(u64, String, Option<u64>)>,
    /// Since when the session has no connection.
    alone_since: Option<Time>,
}

/// How Discord fails to answer a RESUME although the session exists.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// With a close code that is no longer documented.
    Code,
    /// By ending the connection without a close frame.
    End,
    /// With an Invalid Session that says that the session can be resumed.
    Invalid,
    /// Not at all; it only acknowledges heartbeats.
    Silence,
}

/// What Discord sends over the connection.
pub enum Frame {
    Text { text: String, number: Option<u64>, guild: Option<u64>, left: bool },
    Close(u16),
}

struct Link {
    number: u64,
    /// Frames on the way to the proxy, with their time of new_client.
    frames: VecDeque<(Time, Frame)>,
    session: bool,
    /// The connection looks open, but nothing is delivered.
    frozen: bool,
    latency: u64,
}

/// The model. See the module's description.
pub struct Discord {
    pub guilds: BTreeMap<u64, Guild>,
    /// The session of the shard, if there is one.
    session: Option<Session>,
    /// Number of sessions so far.
    pub era: u64,
    link: Option<Link>,
    next: u64,
    last_identify: Option<Time>,
    /// Until this time Discord fails to answer RESUMEs in this way.
    stubborn: Option<(Refusal, Time)>,
    /// Number of RESUMEs of this proxy process in a row that have had no result.
    pub fruitless: u32,
    /// Whether the proxy knows the session, so that it has to resume instead of identify.
    pub known: bool,
    /// Number of the newest message.
    pub number: u64,
    /// Numbers of the messages that no session could receive.
    pub lost: BTreeSet<u64>,
    /// Number of the newest message that the proxy has received.
    fed: u64,
    user: u64,
    /// Many messages are large, so that a small log holds few of them.
    heavy: bool,
    /// Bytes that are added to each GUILD_CREATE, so that clients receive their guilds over several turns.
    bulk: usize,
    pub voice: Servers,
}

impl Discord {
    pub fn new(rng: &mut Rng, heavy: bool) -> Self {
        let large = rng.u8(0..12) == 0;
        let guilds = (1..=rng.u64(1..6)).map(|id| {
            let count = if large && id == 1 { MANY_MEMBERS } else { rng.u64(1..20) };
            let members = (0..count).map(|user| id * FIRST_USER + user).collect();
            (id, Guild { available: rng.u8(0..8) > 0, members })
        });
        Self {
            guilds: guilds.collect(),
            session: None,
            era: 0,
            link: None,
            next: 0,
            last_identify: None,
            stubborn: None,
            fruitless: 0,
            known: false,
            number: 0,
            lost: BTreeSet::new(),
            fed: 0,
            user: MANY_MEMBERS + 100,
            heavy,
            voice: Servers::default(),
            bulk: if rng.u8(0..3) == 0 { rng.usize(10_000..80_000) } else { 0 },
        }
    }

    /// The proxy opens a connection. Returns its number.
    pub fn connect(&mut self, now: Time, rng: &mut Rng) -> u64 {
        self.disconnect(now);
        self.next += 1;
        let latency = rng.u64(1..60);
        self.link = Some(Link { number: self.next, frames: VecDeque::new(), session: false, frozen: false, latency });
        self.say(now, json!({"t": null, "s": null, "op": 10, "d": {"heartbeat_interval": 41_250}}).to_string());
        self.next
    }

    /// The connection ends, and everything on the way is lost.
    pub fn disconnect(&mut self, now: Time) {
        if self.link.take().is_some_and(|link| link.session)
            && let Some(session) = &mut self.session
        {
            session.alone_since = Some(now);
        }
    }

    pub fn is_linked(&self) -> bool {
        self.link.is_some()
    }

    fn send(&mut self, now: Time, frame: Frame) {
        if let Some(link) = self.link.as_mut().filter(|link| !link.frozen) {
            link.frames.push_back((now + Duration::from_millis(link.latency), frame));
        }
    }

    fn say(&mut self, now: Time, text: String) {
        self.send(now, Frame::Text { text, number: None, guild: None, left: false });
    }

    /// The number of the open connection, and whether it is frozen.
    pub fn link(&self) -> Option<(u64, bool)> {
        self.link.as_ref().map(|link| (link.number, link.frozen))
    }

    /// When the next frame arrives at the proxy.
    pub fn next_arrival(&self) -> Option<Time> {
        let link = self.link.as_ref().filter(|link| !link.frozen)?;
        link.frames.front().map(|(at, _)| *at)
    }

    /// Takes the next frame that has arrived at the proxy by now.
    pub fn arrived(&mut self, now: Time) -> Option<Frame> {
        self.next_arrival().filter(|at| *at <= now)?;
        let (_, frame) = self.link.as_mut()?.frames.pop_front()?;
        if matches!(&frame, Frame::Text { text, .. } if text.contains(r#""op":0"#)) {
            self.fruitless = 0;
        }
        Some(frame)
    }

    /// The shard has processed an event, so a RESUME must not ask for it again.
    pub fn taken(&mut self, payload: &Payload) {
        if payload.ready {
            self.known = self.session.is_some();
        }
        if let Some(number) = payload.number {
            assert!(number > self.fed, "P1: message {number} came a second time to the proxy, after {}", self.fed);
            let missing = (self.fed + 1..number).find(|missing| !self.lost.contains(missing));
            assert_eq!(missing, None, "P1: the proxy has not been sent a message before {number}");
            self.fed = number;
        }
    }

    /// Ends the session. Its messages that have not arrived are lost.
    fn end_session(&mut self) {
        if let Some(session) = self.session.take() {
            let numbers = session.sent.iter().filter_map(|(_, _, number)| *number);
            self.lost.extend(numbers.filter(|number| *number > self.fed));
            if let Some(link) = &mut self.link {
                link.session = false;
                link.frames.retain(|(_, frame)| !matches!(frame, Frame::Text { number: Some(_), .. }));
            }
        }
        self.known = false;
        self.voice.guilds.clear();
    }

    /// Discord's id of the session.
    pub fn session_id(&self) -> Option<&str> {
        self.session.as_ref().map(|session| &*session.id)
    }

    /// Ends the session when it has been without a connection for too long.
    pub fn pass(&mut self, now: Time) {
        let over =
            |session: &Session| session.alone_since.is_some_and(|since| now.saturating_sub(since) > SESSION_LIFE);
        if self.session.as_ref().is_some_and(over) {
            note(|| "discord: the session has expired".into());
            self.end_session();
        }
    }

    /// Receives a payload of the proxy on connection `link`.
    pub fn receive(&mut self, now: Time, link: u64, payload: &[u8], coverage: &mut Coverage) {
        let payload: Value = serde_json::from_slice(payload).expect("the proxy sends JSON");
        if payload["op"] == 6 {
            self.fruitless += 1;
            assert!(self.fruitless <= MOST_FRUITLESS, "P2: {} RESUMEs that bring nothing", self.fruitless);
        }
        if self.link.as_ref().is_none_or(|own| own.number != link || own.frozen) {
            return;
        }
        match payload["op"].as_u64() {
            Some(1) => self.say(now, r#"{"t":null,"s":null,"op":11,"d":null}"#.into()),
            Some(2) => self.identify(now, coverage),
            Some(6) => self.resume(now, &payload["d"], coverage),
            Some(4) => self.voice_state(now, &payload["d"], coverage),
            Some(8) => self.members(now, &payload["d"], coverage),
            _ => {}
        }
    }

    fn identify(&mut self, now: Time, coverage: &mut Coverage) {
        coverage.count(Event::Identifies);
        let resumable = self.session.is_some() && self.known;
        assert!(
            !resumable || self.fruitless >= RESUME_ATTEMPTS.min(RESUME_REFUSALS),
            "P2: an IDENTIFY though the session could be resumed"
        );
        if resumable {
            coverage.count(Event::SessionsGivenUp);
        }
        let early = self.last_identify.is_some_and(|last| now.saturating_sub(last) < IDENTIFY_INTERVAL);
        assert!(
            !early,
            "P2: an IDENTIFY {:?} after the last one",
            now.saturating_sub(self.last_identify.unwrap_or(now))
        );
        self.last_identify = Some(now);
        self.end_session();
        self.next += 1;
        let id = format!("upstream-{}", self.next);
        note(|| format!("discord: {id} begins"));
        self.era += 1;
        let (era, sent) = (self.era, VecDeque::new());
        self.session = Some(Session { id: id.clone(), era, sequence: 0, sent, alone_since: None });
        if let Some(link) = &mut self.link {
            link.session = true;
        }
        let guilds: Vec<Value> =
            self.guilds.keys().map(|id| json!({"id": id.to_string(), "unavailable": true})).collect();
        let ready = json!({
            "v": 10, "user": {"id": BOT.to_string(), "username": "bot"}, "guilds": guilds, "session_id": id,
            "resume_gateway_url": "ws://resume", "application": {"id": "1", "flags": 0}, "shard": [0, 1],
        });
        self.dispatch(now, "READY", &ready, None, None, false);
        for id in self.guilds.keys().copied().collect::<Vec<_>>() {
            if self.guilds[&id].available {
                self.guild_create(now, id, Some(false));
            }
        }
    }

    fn resume(&mut self, now: Time, data: &Value, coverage: &mut Coverage) {
        if let Some((refusal, _)) = self.stubborn.filter(|(_, until)| now < *until) {
            coverage.count(Event::UpstreamStubborn);
            return match refusal {
                Refusal::Code => self.send(now, Frame::Close(4006)),
                Refusal::End => self.disconnect(now),
                Refusal::Invalid => self.say(now, r#"{"t":null,"s":null,"op":9,"d":true}"#.into()),
                Refusal::Silence => {}
            };
        }
        let sequence = data["seq"].as_u64().unwrap_or(0);
        let found = self.session.as_mut().filter(|session| {
            let first = session.sent.front().map_or(session.sequence + 1, |(first, ..)| *first);
            data["session_id"] == *session.id && sequence <= session.sequence && sequence + 1 >= first
        });
        let Some(session) = found else {
            coverage.count(Event::UpstreamRefused);
            self.end_session();
            return self.say(now, r#"{"t":null,"s":null,"op":9,"d":false}"#.into());
        };
        coverage.count(Event::UpstreamResumes);
        session.alone_since = None;
        let missed: Vec<_> = session.sent.iter().filter(|(at, ..)| *at > sequence).cloned().collect();
        note(|| format!("discord: resumes at {sequence}, {} events", missed.len()));
        if let Some(link) = &mut self.link {
            link.session = true;
        }
        for (_, text, number) in missed {
            let (guild, left) = about(&text);
            self.send(now, Frame::Text { text, number, guild, left });
        }
        self.dispatch(now, "RESUMED", &json!({}), None, None, false);
    }

    /// Answers a Request Guild Members.
    fn members(&mut self, now: Time, data: &Value, coverage: &mut Coverage) {
        let id: u64 = data["guild_id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        let Some(guild) = self.guilds.get(&id).filter(|guild| guild.available) else { return };
        coverage.count(Event::AnsweredByDiscord);
        let members: Vec<Value> = guild.members.iter().map(|user| member(*user)).collect();
        let chunks: Vec<&[Value]> = members.chunks(CHUNK).collect();
        let answer = |(index, members): (usize, &&[Value])| {
            json!({
                "guild_id": data["guild_id"], "members": members, "chunk_index": index, "chunk_count": chunks.len(),
                "nonce": data["nonce"],
            })
        };
        let answers: Vec<Value> = chunks.iter().enumerate().map(answer).collect();
        for answer in answers {
            self.dispatch(now, "GUILD_MEMBERS_CHUNK", &answer, None, Some(id), false);
        }
    }

    pub fn dispatch(
        &mut self,
        now: Time,
        name: &str,
        data: &Value,
        number: Option<u64>,
        guild: Option<u64>,
        left: bool,
    ) {
        let Some(session) = &mut self.session else {
            self.lost.extend(number);
            return;
        };
        session.sequence += 1;
        // The data names the upstream session, so that clients can check it.
        let mut data = data.clone();
        data["era"] = session.era.into();
        let text = format!(r#"{{"t":"{name}","s":{},"op":0,"d":{data}}}"#, session.sequence);
        session.sent.push_back((session.sequence, text.clone(), number));
        if session.sent.len() > REPLAY {
            session.sent.pop_front();
        }
        if self.link.as_ref().is_some_and(|link| link.session) {
            self.send(now, Frame::Text { text, number, guild, left });
        }
    }

    fn guild_create(&mut self, now: Time, id: u64, unavailable: Option<bool>) {
        let members: Vec<Value> = self.guilds[&id].members.iter().map(|user| member(*user)).collect();
        let mut data = json!({"id": id.to_string(), "name": "g", "member_count": members.len(), "members": members});
        data["voice_states"] = self.voice_states(id);
        if self.bulk > 0 {
            data["bulk"] = "b".repeat(self.bulk).into();
        }
        if let Some(unavailable) = unavailable {
            data["unavailable"] = unavailable.into();
        }
        self.dispatch(now, "GUILD_CREATE", &data, None, Some(id), false);
    }

    /// Makes one random change, with its event.
    pub fn happen(&mut self, now: Time, rng: &mut Rng, coverage: &mut Coverage) {
        let up: Vec<u64> = self.guilds.iter().filter(|(_, guild)| guild.available).map(|(id, _)| *id).collect();
        let any = |rng: &mut Rng| (!up.is_empty()).then(|| up[rng.usize(0..up.len())]);
        match rng.u8(0..40) {
            0..=9 => {
                if let Some(id) = any(rng) {
                    self.user += 1;
                    let user = id * FIRST_USER + self.user;
                    self.guilds.get_mut(&id).expect("it is there").members.insert(user);
                    let data = json!({"guild_id": id.to_string(), "user": {"id": user.to_string(), "username": "u"}});
                    self.dispatch(now, "GUILD_MEMBER_ADD", &data, None, Some(id), false);
                }
            }
            10..=17 => {
                if let Some(id) = any(rng) {
                    let members = &mut self.guilds.get_mut(&id).expect("it is there").members;
                    let chosen = members.iter().nth(rng.usize(0..members.len().max(1))).copied();
                    if let Some(user) = chosen.filter(|user| members.remove(user)) {
                        let data = json!({"guild_id": id.to_string(), "user": {"id": user.to_string()}});
                        self.dispatch(now, "GUILD_MEMBER_REMOVE", &data, None, Some(id), false);
                    }
                }
            }
            18 => {
                if let Some(id) = any(rng) {
                    coverage.count(Event::Outages);
                    self.guilds.get_mut(&id).expect("it is there").available = false;
                    self.voice.guilds.remove(&id);
                    let data = json!({"id": id.to_string(), "unavailable": true});
                    self.dispatch(now, "GUILD_DELETE", &data, None, Some(id), true);
                }
            }
            19 | 20 => {
                let down = self.guilds.iter().find(|(_, guild)| !guild.available).map(|(id, _)| *id);
                if let Some(id) = down {
                    self.guilds.get_mut(&id).expect("it is there").available = true;
                    self.guild_create(now, id, Some(false));
                }
            }
            21 => {
                if let Some(id) = any(rng).filter(|_| self.guilds.len() > 1) {
                    self.guilds.remove(&id);
                    self.voice.guilds.remove(&id);
                    self.dispatch(now, "GUILD_DELETE", &json!({"id": id.to_string()}), None, Some(id), true);
                }
            }
            22 => {
                let id = (1..9).find(|id| !self.guilds.contains_key(id));
                if let Some(id) = id {
                    let members = (0..rng.u64(1..9)).map(|user| id * FIRST_USER + user).collect();
                    self.guilds.insert(id, Guild { available: true, members });
                    self.guild_create(now, id, None);
                }
            }
            23 => self.disturb_voice(now, rng, coverage),
            _ => {
                if let Some(id) = any(rng) {
                    self.number += 1;
                    let content = match rng.u8(0..10) {
                        0..=3 if self.heavy => rng.usize(1_000..LARGEST_CONTENT),
                        0 => 3_000,
                        _ => rng.usize(0..100),
                    };
                    let content = "x".repeat(content);
                    let data = json!({
                        "guild_id": id.to_string(), "channel_id": "5", "id": "6", "number": self.number, "content": content,
                    });
                    self.dispatch(now, "MESSAGE_CREATE", &data, Some(self.number), Some(id), false);
                }
            }
        }
    }

    // ---- faults ----

    /// Freezes the connection: it looks open, but nothing is delivered. Returns whether there is one.
    pub fn freeze(&mut self) -> bool {
        let link = self.link.as_mut();
        link.map(|link| link.frozen = true).is_some()
    }

    /// Closes the connection with a code; some codes end the session (docs: Opcodes and Status Codes, Gateway Close
    /// Event Codes).
    pub fn close(&mut self, now: Time, code: u16) {
        if matches!(code, 1000 | 1001 | 4003 | 4007 | 4009) {
            self.end_session();
        }
        self.send(now, Frame::Close(code));
    }

    /// Fails to answer RESUMEs until a time.
    pub fn be_stubborn(&mut self, how: Refusal, until: Time) {
        self.stubborn = Some((how, until));
    }

    pub fn ask_to_reconnect(&mut self, now: Time) {
        self.say(now, r#"{"t":null,"s":null,"op":7,"d":null}"#.into());
    }

    pub fn ask_for_heartbeat(&mut self, now: Time) {
        self.say(now, r#"{"t":null,"s":null,"op":1,"d":null}"#.into());
    }

    pub fn invalidate(&mut self, now: Time, resumable: bool) {
        if !resumable {
            self.end_session();
        }
        self.say(now, format!(r#"{{"t":null,"s":null,"op":9,"d":{resumable}}}"#));
    }
}

fn member(user: u64) -> Value {
    json!({"user": {"id": user.to_string(), "username": "u"}})
}

/// The guild that a payload is about, and whether the payload deletes it.
fn about(text: &str) -> (Option<u64>, bool) {
    let payload: Value = serde_json::from_str(text).expect("its own payload");
    let data = &payload["d"];
    let of_guild = matches!(payload["t"].as_str(), Some("GUILD_CREATE" | "GUILD_DELETE"));
    let id = if of_guild { &data["id"] } else { &data["guild_id"] };
    (id.as_str().and_then(|id| id.parse().ok()), payload["t"] == "GUILD_DELETE")
}
