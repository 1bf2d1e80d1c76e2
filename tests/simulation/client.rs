//! A client as libraries are: it identifies, resumes whenever its connection is gone, and checks every payload against what
//! the proxy was given.

use crate::{
    discord::Discord,
    host::Host,
    request::Request,
    trace::{Coverage, Event, note},
    voice::Heard,
};
use fastrand::Rng;
use gateway_proxy::{
    protocol::{Time, intents::Intents},
    websocket::{Inbound, Message, Role},
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

const HEARTBEAT: Duration = Duration::from_millis(41_250);
/// Whoever has read everything there was for this long has its answers.
const ANSWER: Duration = Duration::from_secs(3);

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
    /// Where READY has told it to resume.
    url: String,
    sequence: u64,
    /// The guilds of READY, and those of them that have been told of since. As long as they are not the same the session
    /// may be incomplete, and then it can not be resumed.
    announced: Vec<u64>,
    answered: BTreeSet<u64>,
    /// It has got something that is in no snapshot.
    live: bool,
    /// Members and count of each guild that has been shown.
    guilds: BTreeMap<u64, (BTreeSet<u64>, u64)>,
    /// Where in what the proxy was given it stands.
    at: usize,
    synced_at: Option<usize>,
    /// Upstream sessions when it began.
    renewals: u64,
    /// The upstream session that everything is told from: nothing of another one may come.
    era: u64,
    /// The process that it began in.
    generation: u64,
    voice: Heard,
    /// Requests for members that are not answered, by nonce.
    requests: BTreeMap<u64, Request>,
}

/// See the module's description.
pub struct Client {
    pub name: usize,
    pub manner: Manner,
    /// Without GUILD_MESSAGES it hears of everything but messages.
    intents: Intents,
    /// It resumes where READY has told it to.
    uses_url: bool,
    next_nonce: u64,
    connection: Option<u64>,
    inbound: Inbound,
    /// Bytes read from its connection.
    read: u64,
    session: Option<Session>,
    /// When it connects again.
    back_at: Time,
    /// When it lost its connection, by its own clock.
    gone_since: Option<Time>,
    /// Since when there has been nothing to read.
    quiet_since: Option<Time>,
    next_beat: Time,
    resuming: bool,
    generation: u64,
}

impl Client {
    pub fn new(name: usize, rng: &mut Rng) -> Self {
        let all = Intents::ALL.0;
        Self {
            name,
            manner: manner(rng),
            intents: Intents(if rng.u8(0..4) == 0 { all & !Intents::GUILD_MESSAGES.0 } else { all }),
            uses_url: rng.bool(),
            next_nonce: 0,
            connection: None,
            inbound: Inbound::new(Role::Client, 1 << 24),
            read: 0,
            session: None,
            back_at: Time::ZERO,
            gone_since: None,
            quiet_since: None,
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
            host.command(self.number(), &format!(r#"{{"op":1,"d":{sequence}}}"#));
        }
        self.read(now, host, coverage);
        self.expect_answers(now, host);
    }

    /// Nothing is on its way any more, so no answer is missing.
    fn expect_answers(&mut self, now: Time, host: &Host) {
        let heard = self.connection.is_some_and(|number| host.is_quiet(number)) && !self.resuming;
        // What the cache does not know Discord has to answer.
        let quiet = heard && host.active;
        let Some(session) = self.session.as_ref().filter(|session| quiet && session.synced_at.is_some()) else {
            self.quiet_since = None;
            return;
        };
        let since = *self.quiet_since.get_or_insert(now);
        for (nonce, request) in &session.requests {
            let overdue = now.saturating_sub(since.max(request.asked_at)) > ANSWER;
            let missing = overdue && !request.is_excused(host);
            assert!(!missing, "P3: client {} has no answer {nonce} about guild {}", self.name, request.guild);
        }
    }

    /// Asks for the members of a guild that it sees.
    pub fn ask(&mut self, now: Time, host: &mut Host, rng: &mut Rng, coverage: &mut Coverage) {
        let (Some(connection), Some(session)) = (self.connection, &mut self.session) else { return };
        let chosen = rng.usize(0..session.guilds.len().max(1));
        let Some((&guild, (members, _))) = session.guilds.iter().nth(chosen) else { return };
        self.next_nonce += 1;
        let nonce = self.next_nonce;
        let command = format!(r#"{{"op":8,"d":{{"guild_id":"{guild}","query":"","limit":0,"nonce":"{nonce}"}}}}"#);
        // Of a guild that is down since before the newest session the client may not know that.
        let disturbed = host.report().cache.unavailable_guilds > 0;
        if host.generation == self.generation
            && let Some(end) = host.command(connection, &command)
        {
            let request = Request {
                guild,
                known: members.clone(),
                told: BTreeSet::new(),
                chunks: 0,
                renewals: host.renewals,
                sent: (connection, end),
                disturbed,
                asked_at: now,
            };
            note(|| format!("client {}: asks for the members of {guild}, {nonce}", self.name));
            coverage.count(Event::Asked);
            session.requests.insert(nonce, request);
        }
    }

    /// Asks for a voice channel of a guild that it sees.
    pub fn ask_voice(&mut self, host: &mut Host, rng: &mut Rng, coverage: &mut Coverage) {
        let (Some(connection), Some(session)) = (self.connection, &self.session) else { return };
        if host.generation == self.generation {
            let guilds: Vec<u64> = session.guilds.keys().copied().collect();
            session.voice.ask(connection, &guilds, host, rng, coverage);
        }
    }

    fn number(&self) -> u64 {
        self.connection.expect("a connection")
    }

    fn connect(&mut self, now: Time, host: &mut Host, window: Duration, roomy: bool, coverage: &mut Coverage) {
        if !host.is_listening() {
            return;
        }
        self.inbound = Inbound::new(Role::Client, 1 << 24);
        self.read = 0;
        self.next_beat = now + HEARTBEAT / 2;
        self.generation = host.generation;
        self.back_at = now + Duration::from_secs(1);
        if let Some(session) = self.session.as_mut().filter(|session| !session.id.is_empty()) {
            let gone = self.gone_since.map(|since| now.saturating_sub(since));
            let gone_here = self.gone_since.map(|since| now.saturating_sub(since.max(host.started_at)));
            let url = if self.uses_url { &*session.url } else { "ws://proxy" };
            // With Discord's id alone it may not be clear whose session is meant.
            let bare = session.id.starts_with("upstream") && !self.uses_url;
            if bare {
                coverage.count(Event::BareResumes);
            }
            match host.resume(now, &session.id, url, session.sequence) {
                Some(number) => {
                    // The shard looks at its clock four times a second.
                    let expired = gone_here.is_some_and(|gone| gone > window + Duration::from_secs(1));
                    assert!(!expired, "P4: client {} could resume after {gone:?}", self.name);
                    assert!(session.generation >= host.clean_start, "P4: a session outlived a kill");
                    assert_eq!(session.renewals, host.renewals, "P5: a session outlived the upstream session");
                    note(|| format!("client {}: resumes at {} on {number}", self.name, session.sequence));
                    coverage.count(Event::Resumes);
                    // What can be resumed is complete, at some time before now if nobody has seen when.
                    session.synced_at.get_or_insert(host.fed.len());
                    if session.generation != host.generation {
                        coverage.count(Event::RestartResumes);
                    }
                    session.voice.connects(host);
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
                    let answered = session.announced.iter().all(|guild| session.answered.contains(guild));
                    // After the loss of a session there may be guilds to tell of that are in no READY.
                    let synced = answered && (session.live || session.renewals <= 1);
                    let known = session.generation >= host.clean_start && session.renewals == host.renewals;
                    note(|| format!("client {}: its RESUME at {} is refused", self.name, session.sequence));
                    assert!(
                        expired || !synced || !known || !roomy || bare,
                        "P3: client {} could not resume at {} after {gone:?}",
                        self.name,
                        session.sequence
                    );
                    self.session = None;
                    // It identifies on the same connection.
                }
            }
        }
        let Ok(number) = host.identify(self.intents) else { return };
        note(|| format!("client {}: identifies on {number}", self.name));
        self.connection = Some(number);
        self.gone_since = None;
        self.resuming = false;
        self.session = Some(Session::new(host));
    }

    /// It has been told that its session is invalid: it starts over, on the same connection or on another one.
    fn start_over(&mut self, now: Time, host: &mut Host, coverage: &mut Coverage) {
        let (number, name) = (self.number(), self.name);
        coverage.count(Event::Dismissed);
        let session = self.session.take().expect("a session");
        let renewals = host.renewals;
        assert!(session.id.is_empty() || session.renewals < renewals, "P3: client {name} had a valid session");
        self.resuming = false;
        if number.is_multiple_of(2) && host.identify_again(number, self.intents) {
            note(|| format!("client {name}: identifies again on {number}"));
            coverage.count(Event::IdentifiedAgain);
            self.session = Some(Session::new(host));
        } else {
            host.hang_up(number, Some(1000));
            self.lost(now, host, "to start over");
        }
    }

    fn lost(&mut self, now: Time, host: &mut Host, why: &str) {
        note(|| format!("client {}: lost its connection, {why}", self.name));
        self.take_over_marks(host);
        self.connection = None;
        self.gone_since = Some(now);
        self.back_at = self.back_at.max(now);
    }

    /// What the host knows of where the session began, and what it has not heard of it.
    fn take_over_marks(&mut self, host: &mut Host) {
        let (Some(number), Some(session)) = (self.connection, &mut self.session) else { return };
        if session.synced_at.is_none() && !session.id.is_empty() {
            session.synced_at = host.synced_at(number);
        }
        let unheard = |request: &&mut Request| request.sent.0 == number && !host.has_heard(number, request.sent.1);
        session.requests.values_mut().filter(unheard).for_each(|request| request.disturbed = true);
    }

    /// Ends its connection. `code`: as a close frame says; `None`: without a word.
    pub fn leave(&mut self, now: Time, host: &mut Host, code: Option<u16>, away: Duration, coverage: &mut Coverage) {
        let Some(number) = self.connection else { return };
        self.take_over_marks(host);
        let gives_up = matches!(code, Some(1000 | 1001));
        note(|| format!("client {}: leaves {number} with {code:?} for {away:?}", self.name));
        host.hang_up(number, code);
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
            self.gone_since = Some(now);
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
            let space = self.inbound.space();
            let most = room.min(space.len());
            let n = host.read(number, &mut space[..most]);
            if n == 0 {
                break;
            }
            room -= n;
            self.read += n as u64;
            self.inbound.filled(n);
            let mut payloads: Vec<(Value, u64)> = Vec::new();
            let mut closed = None;
            loop {
                match self.inbound.next().expect("frames") {
                    None => break,
                    Some(Message::Text(text)) => {
                        let payload = serde_json::from_slice(text).expect("JSON");
                        payloads.push((payload, self.read - self.inbound.pending() as u64));
                    }
                    Some(Message::Close(close)) => {
                        let (code, reason) = close.map_or((None, ""), |(code, reason)| (Some(code), reason));
                        match reason {
                            _ if reason.starts_with("too slow") => coverage.count(Event::FellOff),
                            _ if reason.starts_with("no heartbeat") => coverage.count(Event::Silent),
                            _ => {}
                        }
                        closed = Some(code);
                    }
                    Some(other) => panic!("{other:?}"),
                }
            }
            for (payload, offset) in &payloads {
                if payload["op"] == 9 {
                    assert_eq!(payload["d"], false, "P3: a session that can not be resumed");
                    self.start_over(now, host, coverage);
                    if self.connection.is_none() {
                        return;
                    }
                } else {
                    self.take(payload, *offset, host, coverage);
                }
            }
            if let Some(code) = closed {
                host.hang_up(number, None);
                self.lost(now, host, &format!("closed with {code:?}"));
                assert_eq!(code, Some(4000), "P3: a close that lets it resume");
                return;
            }
        }
        if host.is_over(number) {
            host.hang_up(number, None);
            self.lost(now, host, "it is over");
        }
    }

    /// A payload that ends at this byte of the connection.
    fn take(&mut self, payload: &Value, offset: u64, host: &mut Host, coverage: &mut Coverage) {
        match payload["op"].as_u64() {
            Some(0) => {}
            Some(7 | 11) => return,
            other => panic!("op {other:?}"),
        }
        let name = self.name;
        let number = self.number();
        let session = self.session.as_mut().expect("a session");
        assert_eq!(payload["s"], session.sequence + 1, "P3: client {name} gets {payload}");
        session.sequence += 1;
        note(|| format!("client {name}: gets {:.110}", payload.to_string()));
        if self.resuming {
            coverage.count(Event::Replayed);
        }
        if session.synced_at.is_none() && !session.id.is_empty() {
            session.synced_at = host.synced_at(number);
        }
        let data = &payload["d"];
        let id = |value: &Value| value.as_str().and_then(|id| id.parse::<u64>().ok()).unwrap_or(0);
        let (guild, user) = (id(&data["guild_id"]), id(&data["user"]["id"]));
        let of_guild = id(&data["id"]);
        let kind = payload["t"].as_str().expect("a type");
        if matches!(kind, "GUILD_CREATE" | "GUILD_MEMBER_ADD" | "GUILD_MEMBER_REMOVE" | "MESSAGE_CREATE") {
            assert_eq!(data["era"], session.era, "P5: client {name} gets {kind} of another session than its READY");
        }
        session.live |= !matches!(kind, "READY" | "GUILD_CREATE" | "GUILD_DELETE");
        match kind {
            "READY" => {
                session.id = data["session_id"].as_str().expect("an id").to_owned();
                session.url = data["resume_gateway_url"].as_str().expect("a URL").to_owned();
                session.announced =
                    data["guilds"].as_array().expect("guilds").iter().map(|guild| id(&guild["id"])).collect();
                (session.at, session.renewals) = host.began(number, offset);
                session.era = data["era"].as_u64().expect("an era");
            }
            "GUILD_MEMBERS_CHUNK" => {
                if session.chunk(data, guild, name) {
                    coverage.count(Event::Answered);
                }
            }
            "GUILD_CREATE" => {
                session.answered.insert(of_guild);
                session.disturb(of_guild);
                let members: BTreeSet<u64> = data["members"]
                    .as_array()
                    .expect("members")
                    .iter()
                    .map(|member| id(&member["user"]["id"]))
                    .collect();
                let count = data["member_count"].as_u64().expect("a count");
                assert_eq!(count, members.len() as u64, "P5: members of guild {of_guild} for client {name}");
                let before = session.guilds.insert(of_guild, (members, count));
                assert!(before.is_none(), "P5: guild {of_guild} twice for client {name}");
                session.voice.guild(of_guild, data);
            }
            "GUILD_DELETE" => {
                session.answered.insert(of_guild);
                session.voice.guild_left(of_guild);
                session.disturb(of_guild);
                let known = session.guilds.remove(&of_guild).is_some() || session.announced.contains(&of_guild);
                // The proxy itself tells of guilds that were left while it had no session, and the client may be a new one.
                let left_before = data["era"].is_null() && data["unavailable"].is_null() && session.renewals > 1;
                assert!(known || left_before, "P5: client {name} has never heard of guild {of_guild}");
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
                    self.intents.intersects(Intents::GUILD_MESSAGES),
                    "P3: client {name} has not asked for messages"
                );
                assert!(
                    session.guilds.contains_key(&guild),
                    "P5: a message of a guild that client {name} does not see"
                );
                let number = data["number"].as_u64().expect("a number");
                session.skip_to(Some(number), host, name);
            }
            "VOICE_STATE_UPDATE" => session.voice.state(guild, data),
            "VOICE_SERVER_UPDATE" => session.voice.server(guild, data, host, coverage),
            "RESUMED" => {
                assert!(self.resuming, "P3: RESUMED out of nowhere");
                assert!(data.is_object());
                self.resuming = false;
            }
            other => panic!("{other}"),
        }
    }

    /// Has it everything? Said in the end, when nothing is on its way any more.
    pub fn check(&mut self, host: &mut Host, discord: &Discord) {
        let (name, truth) = (self.name, &discord.guilds);
        let number = self.connection.unwrap_or_else(|| panic!("client {name} is not connected"));
        let session = self.session.as_mut().expect("a session");
        assert_eq!(session.era, discord.era, "P5: client {name} knows an upstream session that is over");
        session.synced_at = session.synced_at.or_else(|| host.synced_at(number));
        if self.intents.intersects(Intents::GUILD_MESSAGES) {
            session.skip_to(None, host, name);
        }
        for (nonce, request) in &session.requests {
            assert!(request.is_excused(host), "P3: client {name} has no answer {nonce} about guild {}", request.guild);
        }
        let ids = |guilds: Vec<&u64>| guilds.into_iter().copied().collect::<Vec<_>>();
        assert_eq!(
            ids(session.guilds.keys().collect()),
            ids(truth.keys().collect()),
            "P5: the guilds of client {name}"
        );
        session.voice.check(name, host, discord);
        for (id, (members, count)) in &session.guilds {
            assert_eq!(*members, truth[id].members, "P5: the members of guild {id} for client {name}");
            assert_eq!(*count, members.len() as u64);
        }
    }
}

impl Session {
    /// One that has received nothing yet.
    fn new(host: &mut Host) -> Self {
        let mut voice = Heard::default();
        voice.connects(host);
        Self {
            id: String::new(),
            url: String::new(),
            voice,
            sequence: 0,
            announced: Vec::new(),
            answered: BTreeSet::new(),
            live: false,
            guilds: BTreeMap::new(),
            at: 0,
            synced_at: None,
            renewals: 0,
            era: 0,
            generation: host.generation,
            requests: BTreeMap::new(),
        }
    }

    /// A guild is gone, or here again: what was asked about it may have no answer.
    fn disturb(&mut self, guild: u64) {
        self.requests
            .values_mut()
            .filter(|request| request.guild == guild)
            .for_each(|request| request.disturbed = true);
    }

    /// A chunk of an answer; is it the last one?
    fn chunk(&mut self, data: &Value, guild: u64, name: usize) -> bool {
        let nonce = data["nonce"].as_str().and_then(|nonce| nonce.parse().ok()).expect("a nonce of its own");
        let request = self.requests.get_mut(&nonce);
        let request = request.unwrap_or_else(|| panic!("P3: client {name} waits for no answer {nonce}"));
        let nobody = BTreeSet::new();
        let shown = self.guilds.get(&guild).map_or(&nobody, |(members, _)| members);
        let last = request.take(data, guild, shown, &format!("answer {nonce} for client {name}"));
        if last {
            self.requests.remove(&nonce);
        }
        last
    }

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
            // A guild that was left before it could be shown takes its messages along.
            let syncing = self.synced_at.is_none_or(|synced| self.at <= synced);
            let left = host.fed[self.at..].iter().any(|later| later.guild == fed.guild && later.number.is_none());
            assert!(
                syncing && left,
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
