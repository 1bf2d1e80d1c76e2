//! A model client that behaves as client libraries do: it identifies, resumes whenever it has lost its connection,
//! and compares every payload with the events that the proxy was sent.
//!
//! It panics when the proxy breaks one of the promises P3 to P5 of the simulation (see `main.rs`).

use crate::{
    discord::Discord,
    host::Host,
    session::{Request, Session, id},
    trace::{Coverage, Event, note},
};
use fastrand::Rng;
use gateway_proxy::{
    protocol::{Time, intents::Intents},
    websocket::{FrameDecoder, Message, Role},
};
use serde_json::Value;
use std::{collections::BTreeSet, time::Duration};

const HEARTBEAT: Duration = Duration::from_millis(41_250);
/// A client whose connection has had nothing to read for this long must have its answers.
const ANSWER: Duration = Duration::from_secs(3);

/// How the client behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Most bytes that the client reads in one step.
    pub appetite: usize,
    /// Whether the client sends heartbeats.
    pub heartbeats: bool,
}

/// A model client. See the module's description.
pub struct Client {
    pub name: usize,
    pub manner: Manner,
    /// Some clients lack the intent GUILD_MESSAGES. They receive everything but messages.
    intents: Intents,
    /// It resumes where READY has told it to.
    uses_url: bool,
    next_nonce: u64,
    /// Whether it has sent a command that may have gone to Discord.
    commanded: bool,
    connection: Option<u64>,
    inbound: FrameDecoder,
    /// Number of bytes read from the connection.
    read: u64,
    session: Option<Session>,
    /// When the client connects again.
    back_at: Time,
    /// When the client lost its connection.
    gone_since: Option<Time>,
    /// Since when the connection has had nothing to read.
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
            commanded: false,
            connection: None,
            inbound: FrameDecoder::new(Role::Client, 1 << 24),
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

    /// Runs one step: connects if it is time to, sends a heartbeat if one is due, and reads.
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

    /// Checks that no answer is missing once the client has read everything.
    fn expect_answers(&mut self, now: Time, host: &Host) {
        let heard = self.connection.is_some_and(|number| host.is_quiet(number)) && !self.resuming;
        // Requests that the cache can not answer need the upstream session.
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

    /// Requests all members of a random guild that the client has received.
    pub fn ask(&mut self, now: Time, host: &mut Host, rng: &mut Rng, coverage: &mut Coverage) {
        let (Some(connection), Some(session)) = (self.connection, &mut self.session) else { return };
        let chosen = rng.usize(0..session.guilds.len().max(1));
        let Some((&guild, (members, _))) = session.guilds.iter().nth(chosen) else { return };
        self.next_nonce += 1;
        self.commanded = true;
        let nonce = self.next_nonce;
        let command = format!(r#"{{"op":8,"d":{{"guild_id":"{guild}","query":"","limit":0,"nonce":"{nonce}"}}}}"#);
        // A guild may have been unavailable since before the newest session, without the client knowing.
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
            self.commanded = true;
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
        self.inbound = FrameDecoder::new(Role::Client, 1 << 24);
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
                    // The shard checks its timers four times a second.
                    let expired = gone_here.is_some_and(|gone| gone > window + Duration::from_secs(1));
                    assert!(!expired, "P4: client {} could resume after {gone:?}", self.name);
                    assert!(session.generation >= host.clean_start, "P4: a session outlived a kill");
                    assert_eq!(session.renewals, host.renewals, "P5: a session outlived the upstream session");
                    note(|| format!("client {}: resumes at {} on {number}", self.name, session.sequence));
                    coverage.count(Event::Resumes);
                    // A session that can be resumed has all its guilds. If the moment of completion is unknown, it
                    // was before now.
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
                    // After an upstream session was lost, the client may still have to be told of guilds that are in
                    // no READY.
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
                    // The client identifies on the same connection.
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

    /// The proxy has sent Invalid Session: the client identifies anew, on the same connection or on another one.
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

    /// Excuses the proxy from answering what the client has requested so far.
    fn disturb_requests(&mut self) {
        let requests = self.session.iter_mut().flat_map(|session| session.requests.values_mut());
        requests.for_each(|request| request.disturbed = true);
    }

    /// Stores what the host knows about the connection before it goes: when the snapshots were complete, and which
    /// requests the proxy has not read.
    fn take_over_marks(&mut self, host: &mut Host) {
        let (Some(number), Some(session)) = (self.connection, &mut self.session) else { return };
        if session.synced_at.is_none() && !session.id.is_empty() {
            session.synced_at = host.synced_at(number);
        }
        let unheard = |request: &&mut Request| request.sent.0 == number && !host.has_heard(number, request.sent.1);
        session.requests.values_mut().filter(unheard).for_each(|request| request.disturbed = true);
    }

    /// Ends the connection: with a close frame if there is a `code`, otherwise by closing the socket.
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

    /// Connects again while the old connection still looks alive.
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
                match code {
                    // Discord has closed the connection of the shard after a command. The proxy closes the sender of
                    // the last command with the same code, and does not send the sender's requests again.
                    Some(code) if host.takes_blame(code) => {
                        coverage.count(Event::Blamed);
                        assert!(self.commanded, "P3: client {} has sent no command", self.name);
                        self.disturb_requests();
                    }
                    _ => assert_eq!(code, Some(4000), "P3: a close that lets it resume"),
                }
                return;
            }
        }
        if host.is_over(number) {
            host.hang_up(number, None);
            self.lost(now, host, "it is over");
        }
    }

    /// Checks a payload that ends at this offset of the connection's stream.
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
            "GUILD_CREATE" => session.guild_create(data, of_guild, name),
            "GUILD_DELETE" => session.guild_delete(data, of_guild, name),
            "GUILD_MEMBER_ADD" | "GUILD_MEMBER_REMOVE" => session.member(kind, guild, user, name),
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

    /// Checks at the end of a run that the client has received everything.
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

/// Chooses a random manner.
pub fn manner(rng: &mut Rng) -> Manner {
    let appetite = match rng.u8(0..6) {
        0 => 40,
        1 => 400,
        _ => 1 << 20,
    };
    Manner { appetite, heartbeats: rng.u8(0..8) > 0 }
}
