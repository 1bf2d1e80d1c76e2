//! A client as libraries are: it identifies, resumes whenever its connection is gone, and checks every payload against what
//! the proxy was given.

use crate::{
    host::Host,
    trace::{Coverage, Event, note},
};
use fastrand::Rng;
use gateway_proxy::{
    protocol::Time,
    websocket::{Inbound, Message, Role},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const HEARTBEAT: Duration = Duration::from_millis(41_250);

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Bytes that it reads at most in a step.
    pub appetite: usize,
    pub heartbeats: bool,
}

/// A session, in the client's eyes.
struct Session {
    id: String,
    sequence: u64,
    /// The guilds of READY, and those of them that have been told of since. As long as they are not the same the session
    /// may be incomplete, and then it can not be resumed.
    announced: Vec<u64>,
    answered: BTreeSet<u64>,
    /// Members and count of each guild that has been shown.
    guilds: BTreeMap<u64, (BTreeSet<u64>, u64)>,
    /// Where in what the proxy was given it stands.
    at: usize,
    synced_at: Option<usize>,
    /// Upstream sessions when it began.
    renewals: u64,
    /// The process that it began in.
    generation: u64,
}

/// See the module's description.
pub struct Client {
    pub name: usize,
    pub manner: Manner,
    connection: Option<u64>,
    inbound: Inbound,
    session: Option<Session>,
    /// When it connects again.
    back_at: Time,
    /// When it lost its connection, by its own clock.
    gone_since: Option<Time>,
    next_beat: Time,
    resuming: bool,
    generation: u64,
}

impl Client {
    pub fn new(name: usize, manner: Manner) -> Self {
        Self {
            name,
            manner,
            connection: None,
            inbound: Inbound::new(Role::Client, 1 << 24),
            session: None,
            back_at: Time::ZERO,
            gone_since: None,
            next_beat: Time::ZERO,
            resuming: false,
            generation: 0,
        }
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// Connects if it is time to, beats, reads.
    pub fn run(&mut self, now: Time, host: &mut Host, window: Duration, roomy: bool, coverage: &mut Coverage) {
        if self.connection.is_some()
            && (host.generation != self.generation || !host.connections.contains_key(&self.number()))
        {
            self.lost(now, host, "the proxy ended it");
        }
        if self.connection.is_none() {
            if now >= self.back_at {
                self.connect(now, host, window, roomy, coverage);
            }
            return;
        }
        if self.manner.heartbeats && now >= self.next_beat {
            self.next_beat = now + HEARTBEAT;
            let sequence = self.session.as_ref().map_or("null".into(), |session| session.sequence.to_string());
            host.command(now, self.number(), &format!(r#"{{"op":1,"d":{sequence}}}"#));
        }
        self.read(now, host, coverage);
    }

    fn number(&self) -> u64 {
        self.connection.expect("a connection")
    }

    fn connect(&mut self, now: Time, host: &mut Host, window: Duration, roomy: bool, coverage: &mut Coverage) {
        self.inbound = Inbound::new(Role::Client, 1 << 24);
        self.next_beat = now + HEARTBEAT / 2;
        self.generation = host.generation;
        self.back_at = now + Duration::from_secs(1);
        if let Some(session) = self.session.as_mut().filter(|session| !session.id.is_empty()) {
            let gone = self.gone_since.map(|since| now.saturating_sub(since));
            let gone_here = self.gone_since.map(|since| now.saturating_sub(since.max(host.started_at)));
            match host.resume(now, &session.id, session.sequence) {
                Some(number) => {
                    // The shard looks at its clock four times a second.
                    let expired = gone_here.is_some_and(|gone| gone > window + Duration::from_secs(1));
                    assert!(!expired, "P4: client {} could resume after {gone:?}", self.name);
                    assert!(session.generation >= host.clean_start, "P4: a session outlived a kill");
                    note(|| format!("client {}: resumes at {} on {number}", self.name, session.sequence));
                    coverage.count(Event::Resumes);
                    // What can be resumed is complete, at some time before now if nobody has seen when.
                    session.synced_at.get_or_insert(host.fed.len());
                    if session.generation != host.generation {
                        coverage.count(Event::RestartResumes);
                    }
                    self.connection = Some(number);
                    self.resuming = true;
                    self.gone_since = None;
                    return;
                }
                None => {
                    coverage.count(Event::Refused);
                    let expired = gone.is_some_and(|gone| gone + Duration::from_secs(1) > window);
                    if expired {
                        coverage.count(Event::Expired);
                    }
                    let synced = session.announced.iter().all(|guild| session.answered.contains(guild));
                    let known = session.generation >= host.clean_start;
                    note(|| format!("client {}: its RESUME at {} is refused", self.name, session.sequence));
                    assert!(
                        expired || !synced || !known || !roomy,
                        "P3: client {} could not resume at {} after {gone:?}",
                        self.name,
                        session.sequence
                    );
                    self.session = None;
                    // It identifies on the same connection.
                }
            }
        }
        let Ok(number) = host.identify(now) else { return };
        note(|| format!("client {}: identifies on {number}", self.name));
        self.connection = Some(number);
        self.gone_since = None;
        self.resuming = false;
        self.session = Some(Session {
            id: String::new(),
            sequence: 0,
            announced: Vec::new(),
            answered: BTreeSet::new(),
            guilds: BTreeMap::new(),
            at: 0,
            synced_at: None,
            renewals: 0,
            generation: host.generation,
        });
    }

    fn lost(&mut self, now: Time, host: &Host, why: &str) {
        note(|| format!("client {}: lost its connection, {why}", self.name));
        self.take_over_marks(host);
        self.connection = None;
        self.gone_since = Some(now);
        self.back_at = self.back_at.max(now);
    }

    /// What the host knows of where the session began.
    fn take_over_marks(&mut self, host: &Host) {
        if let (Some(number), Some(session)) = (self.connection, &mut self.session)
            && let Some(connection) = host.connections.get(&number)
            && session.synced_at.is_none()
        {
            session.synced_at = connection.synced_at;
        }
    }

    /// Ends its connection. `code`: as a close frame says; `None`: without a word.
    pub fn leave(&mut self, now: Time, host: &mut Host, code: Option<u16>, away: Duration, coverage: &mut Coverage) {
        let Some(number) = self.connection else { return };
        self.take_over_marks(host);
        let gives_up = matches!(code, Some(1000 | 1001));
        note(|| format!("client {}: leaves {number} with {code:?} for {away:?}", self.name));
        host.hang_up(now, number, gives_up);
        if self.session.as_ref().is_some_and(|session| session.synced_at.is_none()) {
            coverage.count(Event::SnapshotsCut);
        }
        self.connection = None;
        self.gone_since = Some(now);
        self.back_at = now + away;
        if gives_up {
            coverage.count(Event::GivenUp);
            self.session = None;
        }
    }

    /// Comes back over a new connection while the old one still looks alive.
    pub fn reconnect(&mut self, now: Time, host: &mut Host, window: Duration, roomy: bool, coverage: &mut Coverage) {
        self.take_over_marks(host);
        if self.connection.take().is_some() && self.session.as_ref().is_some_and(|session| session.synced_at.is_some())
        {
            coverage.count(Event::ResumesOverLiving);
            self.connect(now, host, window, roomy, coverage);
        } else {
            self.gone_since = Some(now);
            self.session = None;
        }
    }

    fn read(&mut self, now: Time, host: &mut Host, coverage: &mut Coverage) {
        let number = self.number();
        let mut room = self.manner.appetite;
        while room > 0 {
            let Some(connection) = host.connections.get_mut(&number) else { return };
            let space = self.inbound.space();
            let n = connection.wire.len().min(room).min(space.len());
            if n == 0 {
                break;
            }
            for (byte, from) in space.iter_mut().zip(connection.wire.drain(..n)) {
                *byte = from;
            }
            room -= n;
            self.inbound.filled(n);
            let mut payloads: Vec<Value> = Vec::new();
            let mut closed = None;
            while let Some(message) = self.inbound.next().expect("frames") {
                match message {
                    Message::Text(text) => payloads.push(serde_json::from_slice(text).expect("JSON")),
                    Message::Close(close) => closed = Some(close.map(|(code, _)| code)),
                    other => panic!("{other:?}"),
                }
            }
            payloads.iter().for_each(|payload| self.take(payload, host, coverage));
            if let Some(code) = closed {
                host.hang_up(now, number, false);
                self.lost(now, host, &format!("closed with {code:?}"));
                assert_eq!(code, Some(4000), "P3: a close that lets it resume");
                return;
            }
        }
        if host.is_over(number) {
            host.hang_up(now, number, false);
            self.lost(now, host, "it is over");
        }
    }

    fn take(&mut self, payload: &Value, host: &Host, coverage: &mut Coverage) {
        match payload["op"].as_u64() {
            Some(0) => {}
            Some(7 | 11) => return,
            other => panic!("op {other:?}"),
        }
        let name = self.name;
        let connection = &host.connections[&self.connection.expect("a connection")];
        let session = self.session.as_mut().expect("a session");
        assert_eq!(payload["s"], session.sequence + 1, "P3: client {name} gets {payload}");
        session.sequence += 1;
        note(|| format!("client {name}: gets {:.110}", payload.to_string()));
        if self.resuming {
            coverage.count(Event::Replayed);
        }
        session.synced_at = session.synced_at.or(connection.synced_at);
        let data = &payload["d"];
        let id = |value: &Value| value.as_str().and_then(|id| id.parse::<u64>().ok()).unwrap_or(0);
        let (guild, user) = (id(&data["guild_id"]), id(&data["user"]["id"]));
        let of_guild = id(&data["id"]);
        match payload["t"].as_str().expect("a type") {
            "READY" => {
                session.id = data["session_id"].as_str().expect("an id").to_owned();
                session.announced =
                    data["guilds"].as_array().expect("guilds").iter().map(|guild| id(&guild["id"])).collect();
                session.at = connection.begun_at.expect("it has begun");
                session.renewals = connection.renewals;
            }
            "GUILD_CREATE" => {
                session.answered.insert(of_guild);
                let members: BTreeSet<u64> = data["members"]
                    .as_array()
                    .expect("members")
                    .iter()
                    .map(|member| id(&member["user"]["id"]))
                    .collect();
                let count = data["member_count"].as_u64().expect("a count");
                assert_eq!(count, members.len() as u64, "P5: members of guild {of_guild} for client {name}");
                let before = session.guilds.insert(of_guild, (members, count));
                let renewed = host.renewals > session.renewals;
                assert!(before.is_none() || renewed, "P5: guild {of_guild} twice for client {name}");
            }
            "GUILD_DELETE" => {
                session.answered.insert(of_guild);
                let known = session.guilds.remove(&of_guild).is_some() || session.announced.contains(&of_guild);
                let renewed = host.renewals > session.renewals;
                assert!(known || renewed, "P5: client {name} has never heard of guild {of_guild}");
            }
            "GUILD_MEMBER_ADD" => {
                let shown = session.guilds.get_mut(&guild);
                let (members, count) = shown.unwrap_or_else(|| panic!("P5: client {name}: {payload} before the guild"));
                assert!(members.insert(user), "P5: {user} joined twice for client {name}");
                *count += 1;
            }
            "GUILD_MEMBER_REMOVE" => {
                let shown = session.guilds.get_mut(&guild);
                let (members, count) = shown.unwrap_or_else(|| panic!("P5: client {name}: {payload} before the guild"));
                assert!(members.remove(&user), "P5: {user} leaves without having been there for client {name}");
                *count -= 1;
            }
            "MESSAGE_CREATE" => {
                coverage.count(Event::Messages);
                assert!(
                    session.guilds.contains_key(&guild),
                    "P5: a message of a guild that client {name} does not see"
                );
                let number = data["number"].as_u64().expect("a number");
                session.skip_to(Some(number), host, name);
            }
            "RESUMED" => {
                assert!(self.resuming, "P3: RESUMED out of nowhere");
                assert!(data.is_object());
                self.resuming = false;
            }
            other => panic!("{other}"),
        }
    }

    /// Has it everything? Said in the end, when nothing is on its way any more.
    pub fn check(&mut self, host: &Host, truth: &BTreeMap<u64, crate::discord::Guild>) {
        let name = self.name;
        let connection =
            &host.connections[&self.connection.unwrap_or_else(|| panic!("client {name} is not connected"))];
        let session = self.session.as_mut().expect("a session");
        session.synced_at = session.synced_at.or(connection.synced_at);
        session.skip_to(None, host, name);
        let ids = |guilds: Vec<&u64>| guilds.into_iter().copied().collect::<Vec<_>>();
        assert_eq!(
            ids(session.guilds.keys().collect()),
            ids(truth.keys().collect()),
            "P5: the guilds of client {name}"
        );
        for (id, (members, count)) in &session.guilds {
            assert_eq!(*members, truth[id].members, "P5: the members of guild {id} for client {name}");
            assert_eq!(*count, members.len() as u64);
        }
    }
}

impl Session {
    /// Goes on to a message, or to the end: nothing in between may be for this client.
    fn skip_to(&mut self, number: Option<u64>, host: &Host, name: usize) {
        loop {
            let Some(fed) = host.fed.get(self.at) else {
                assert_eq!(number, None, "P3: client {name} gets a message that it had, or that nobody has sent");
                return;
            };
            self.at += 1;
            if fed.number.is_none() {
                continue;
            }
            if fed.number == number {
                return;
            }
            // A guild that was left, or went with the upstream session, before it could be shown takes its messages along.
            let syncing = self.synced_at.is_none_or(|synced| self.at <= synced);
            let left = host.fed[self.at..].iter().any(|later| later.guild == fed.guild && later.number.is_none());
            let renewed = host.renewals > self.renewals;
            assert!(
                syncing && (left || renewed),
                "P3: client {name} has not been sent message {:?} of guild {}, but {number:?}",
                fed.number,
                fed.guild
            );
        }
    }
}

/// A manner by chance.
pub fn manner(rng: &mut Rng) -> Manner {
    let appetite = match rng.u8(0..6) {
        0 => 40,
        1 => 400,
        _ => 1 << 20,
    };
    Manner { appetite, heartbeats: rng.u8(0..8) > 0 }
}
