//! Tests of a whole shard without sockets: payloads go in, and the tests read what clients receive.

mod known_members;

use super::*;
use crate::{cache::Flags, log::Limits};
use crate::{
    compression::Transport,
    downstream::{
        outbox::Outbox,
        session::{Claim, session_in},
    },
    protocol::{Encoding, close, intents::Intents},
    websocket::{FrameDecoder, Message, Role},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

mod culprit;
mod heartbeats;
mod in_flight;
mod prefetch;
mod renewal;
mod voice;

const SECOND: Duration = Duration::from_secs(1);

impl Progress {
    /// Returns whether the client has to be served again as soon as its outbox has room.
    fn has_more(self) -> bool {
        matches!(self, Self::More | Self::Snapshot { .. })
    }
}

fn settings(log: Limits) -> Rc<Settings> {
    Rc::new(Settings {
        public_url: "ws://proxy".into(),
        log,
        resume_window: SECOND * 120,
        cache: Flags::ALL,
        prefetch_members: false,
        honor_client_intents: true,
        voice_grace: Duration::from_secs(60),
        voice_rejoin: false,
        intents: u64::MAX,
        denied: Default::default(),
        forward_opcodes: vec![44],
    })
}

fn entropy() -> Entropy {
    let mut random = fastrand::Rng::with_seed(1);
    Box::new(move |bytes| random.fill(bytes))
}

/// A shard whose upstream connection works, and the sequence of its last event.
struct World {
    shard: Shard,
    sequence: u64,
    now: Time,
}

impl World {
    fn new(log: Limits) -> Self {
        let identity = Identity { identify: b"{}".to_vec(), token: "t".into() };
        let id = ShardId { id: 0, count: 1 };
        let shard = Shard::new(id, settings(log), identity, "ws://discord".into(), None, entropy());
        Self { shard, sequence: 0, now: SECOND }
    }

    /// A connected shard with these guilds.
    fn ready(guilds: &[u64]) -> Self {
        let mut world = Self::new(Limits { bytes: 1 << 20, entries: 100 });
        world.connect(guilds);
        for &guild in guilds {
            world.guild_create(guild, 1);
        }
        world
    }

    fn connect(&mut self, guilds: &[u64]) {
        self.shard.tick(self.now);
        while self.shard.poll_upstream(self.now).is_some() {}
        self.shard.upstream_connected(self.now);
        self.feed(r#"{"op":10,"d":{"heartbeat_interval":40000}}"#);
        self.shard.upstream_permitted(self.now);
        let guilds: Vec<Value> = guilds.iter().map(|id| json!({"id": id.to_string(), "unavailable": true})).collect();
        self.sequence = 0;
        let ready = json!({
            "v": 10, "user": {"id": "77", "username": "bot"}, "guilds": guilds, "session_id": "up",
            "resume_gateway_url": "ws://resume", "application": {"id": "1", "flags": 0}, "new_key": [1],
        });
        self.dispatch("READY", &ready);
    }

    /// Saves the shard and restores it, as a restart of the proxy does.
    fn restart(&mut self) {
        self.shard.stop();
        while self.shard.poll_upstream(self.now).is_some() {}
        let mut stream = Vec::new();
        assert!(self.shard.save(&mut stream).unwrap());
        let identity = Identity { identify: b"{}".to_vec(), token: "t".into() };
        let settings = self.shard.settings.clone();
        let (id, url, now) = (self.shard.id, "ws://discord".into(), self.now);
        self.shard = Shard::restore(id, settings, identity, url, entropy(), now, &mut &stream[..]).unwrap();
        self.shard.tick(now);
        assert_eq!(self.shard.poll_upstream(now), Some(Action::Connect("ws://resume".into())));
        self.shard.upstream_connected(now);
        self.feed(r#"{"op":10,"d":{"heartbeat_interval":40000}}"#);
        let resume = sent_upstream(self);
        assert_eq!(resume.iter().map(|sent| sent["op"].as_u64().unwrap()).collect::<Vec<_>>(), [6]);
    }

    fn feed(&mut self, payload: &str) {
        self.shard.upstream_payload(self.now, payload.as_bytes()).unwrap();
    }

    fn dispatch(&mut self, name: &str, data: &Value) {
        self.sequence += 1;
        self.feed(&format!(r#"{{"t":"{name}","s":{},"op":0,"d":{data}}}"#, self.sequence));
    }

    fn guild_create(&mut self, guild: u64, members: u64) {
        let members: Vec<Value> =
            (0..members).map(|id| json!({"user": {"id": (guild * 1000 + id).to_string()}})).collect();
        self.dispatch(
            "GUILD_CREATE",
            &json!({"id": guild.to_string(), "member_count": members.len(), "members": members, "channels": [], "unavailable": false}),
        );
    }

    fn join(&mut self, guild: u64, user: u64) {
        self.dispatch("GUILD_MEMBER_ADD", &json!({"guild_id": guild.to_string(), "user": {"id": user.to_string()}}));
    }

    fn leave(&mut self, guild: u64, user: u64) {
        self.dispatch("GUILD_MEMBER_REMOVE", &json!({"guild_id": guild.to_string(), "user": {"id": user.to_string()}}));
    }

    fn message(&mut self, guild: u64, number: u64) {
        self.dispatch(
            "MESSAGE_CREATE",
            &json!({"guild_id": guild.to_string(), "channel_id": "1", "id": "2", "number": number}),
        );
    }
}

/// A client with a connection, and its state from the payloads that it was sent.
struct Client {
    key: SessionKey,
    connection: ConnectionId,
    outbox: Outbox,
    inbound: FrameDecoder,
    sequence: u64,
    session: String,
    /// The `resume_gateway_url` of READY.
    url: String,
    announced: Vec<u64>,
    /// The members and the member count of each guild.
    guilds: BTreeMap<u64, (Vec<u64>, u64)>,
    messages: Vec<u64>,
    /// Guilds for which the client gets a GUILD_DELETE although this session never had them; the session before may
    /// have.
    left_before: Vec<u64>,
    /// Opcodes of the payloads that are no events.
    ops: Vec<u64>,
    resumed: bool,
    end: Option<Progress>,
}

impl Client {
    fn identify(world: &mut World, connection: u64, intents: Intents) -> Self {
        let options = Options { intents, version: 10, compress: false, library: Default::default() };
        let connection = ConnectionId(connection);
        let key = world.shard.identify(world.now, connection, options).unwrap();
        Self {
            key,
            connection,
            outbox: Outbox::new(Transport::None, Encoding::Json),
            inbound: FrameDecoder::new(Role::Client, 1 << 24),
            sequence: 0,
            session: String::new(),
            url: String::new(),
            announced: Vec::new(),
            guilds: BTreeMap::new(),
            messages: Vec::new(),
            left_before: Vec::new(),
            ops: Vec::new(),
            resumed: false,
            end: None,
        }
    }

    /// Lets the shard fill the outbox once.
    fn produce(&mut self, world: &mut World) -> Progress {
        let progress = world.shard.produce(world.now, self.key, self.connection, &mut self.outbox);
        if matches!(progress, Progress::Close { .. } | Progress::Return) {
            self.end = Some(progress);
        }
        progress
    }

    /// Reads everything that is in the outbox.
    fn read(&mut self) {
        while !self.outbox.pending().is_empty() {
            let space = self.inbound.space();
            let n = space.len().min(self.outbox.pending().len());
            space[..n].copy_from_slice(&self.outbox.pending()[..n]);
            self.outbox.wrote(n);
            self.inbound.filled(n);
            let mut texts = Vec::new();
            while let Some(message) = self.inbound.next().unwrap() {
                let Message::Text(text) = message else { panic!("{message:?}") };
                texts.push(serde_json::from_slice::<Value>(text).unwrap());
            }
            texts.into_iter().for_each(|payload| self.take(&payload));
        }
    }

    fn take(&mut self, payload: &Value) {
        if payload["op"] != 0 {
            self.ops.push(payload["op"].as_u64().unwrap());
            return;
        }
        assert_eq!(payload["s"], self.sequence + 1, "{payload}");
        self.sequence += 1;
        let data = &payload["d"];
        let id = |value: &Value| value.as_str().map_or(0, |id| id.parse().unwrap());
        let guild = id(&data["guild_id"]);
        let user = id(&data["user"]["id"]);
        match payload["t"].as_str().unwrap() {
            "READY" => {
                self.session = data["session_id"].as_str().unwrap().into();
                self.url = data["resume_gateway_url"].as_str().unwrap().into();
                self.announced = data["guilds"].as_array().unwrap().iter().map(|guild| id(&guild["id"])).collect();
            }
            "GUILD_CREATE" => {
                let members = data["members"].as_array().unwrap().iter().map(|member| id(&member["user"]["id"]));
                let guild = (members.collect(), data["member_count"].as_u64().unwrap());
                assert!(self.guilds.insert(id(&data["id"]), guild).is_none(), "twice: {payload}");
            }
            "GUILD_DELETE" => {
                let (gone, known) = (id(&data["id"]), self.announced.contains(&id(&data["id"])));
                let told = self.guilds.remove(&gone).is_some() || known;
                assert!(told || self.left_before.contains(&gone), "{payload}");
            }
            "GUILD_MEMBER_ADD" => {
                let (members, count) = self.guilds.get_mut(&guild).expect("an event of a guild after it");
                assert!(!members.contains(&user), "joined twice: {payload}");
                members.push(user);
                *count += 1;
            }
            "GUILD_MEMBER_REMOVE" => {
                let (members, count) = self.guilds.get_mut(&guild).expect("an event of a guild after it");
                let at = members.iter().position(|member| *member == user).expect("whoever leaves was there");
                members.remove(at);
                *count -= 1;
            }
            "MESSAGE_CREATE" => {
                assert!(self.guilds.contains_key(&guild), "a message of a guild that was never shown");
                self.messages.push(data["number"].as_u64().unwrap());
            }
            "RESUMED" => self.resumed = true,
            _ => {}
        }
    }

    /// Fills and reads the outbox until nothing is left to send.
    fn catch_up(&mut self, world: &mut World) {
        while self.produce(world).has_more() {
            self.read();
        }
        self.read();
    }

    fn resume(&mut self, world: &mut World, connection: u64, sequence: u64) -> bool {
        let url = self.url.clone();
        self.resume_at(world, connection, &url, sequence)
    }

    /// Resumes at this URL.
    fn resume_at(&mut self, world: &mut World, connection: u64, url: &str, sequence: u64) -> bool {
        let claim = match SessionId::parse(&self.session) {
            Some(id) => Claim::Own(id),
            None => Claim::Upstream { id: self.session.clone(), resume_key: session_in(url) },
        };
        let (connection, id) = (ConnectionId(connection), world.shard.claimed(&claim, sequence));
        match id.and_then(|id| world.shard.resume(world.now, connection, &id, sequence)) {
            Some(key) => {
                assert_eq!(key, self.key);
                self.connection = connection;
                self.outbox = Outbox::new(Transport::None, Encoding::Json);
                self.inbound = FrameDecoder::new(Role::Client, 1 << 24);
                self.resumed = false;
                self.end = None;
                true
            }
            None => false,
        }
    }
}

#[test]
fn ready_is_discords_with_the_proxys_own_in_it() {
    let mut world = World::ready(&[10, 20]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.produce(&mut world);
    let text = String::from_utf8_lossy(client.outbox.pending());
    let ready: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
    assert!(text.contains(r#"{"t":"READY","s":1,"op":0,"d":{"v":10,"#));
    let data = &ready["d"];
    // The client is the only one, so its READY has Discord's id of the session.
    assert_eq!(data["session_id"], "up");
    let url = data["resume_gateway_url"].as_str().unwrap();
    assert!(url.starts_with("ws://proxy/r/") && session_in(url).is_some(), "{url}");
    assert_eq!(data["shard"], json!([0, 1]));
    assert_eq!(data["guilds"], json!([{"id": "10", "unavailable": true}, {"id": "20", "unavailable": true}]));
    assert_eq!((&data["user"]["username"], &data["new_key"]), (&json!("bot"), &json!([1])));
    assert_eq!((&data["private_channels"], &data["application"]["id"]), (&json!([]), &json!("1")));
    assert_eq!(data.as_object().unwrap().keys().filter(|key| *key == "session_id").count(), 1);
}

#[test]
fn nothing_is_kept_for_nobody() {
    let mut world = World::ready(&[10]);
    for number in 0..100 {
        world.message(10, number);
    }
    assert_eq!((world.shard.report().log_events, world.shard.report().log_bytes), (0, 0));
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    for number in 0..100 {
        world.message(10, number);
    }
    client.catch_up(&mut world);
    assert_eq!(client.messages, (0..100).collect::<Vec<_>>());
    assert_eq!(world.shard.report().log_events, 100);
    // The client has acknowledged the events, so the log drops them. It drops the segment that it is filling as a
    // whole.
    let beat = format!(r#"{{"op":1,"d":{}}}"#, client.sequence);
    world.shard.command(world.now, client.key, client.connection, beat.as_bytes(), &mut client.outbox).unwrap();
    world.now += time::MAINTENANCE_INTERVAL;
    world.shard.tick(world.now);
    assert_eq!(world.shard.report().log_events, 0);
}

#[test]
fn a_client_waits_for_the_first_ready() {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    assert_eq!(client.produce(&mut world), Progress::Idle);
    world.connect(&[10]);
    client.catch_up(&mut world);
    assert_eq!((client.announced.clone(), client.guilds.len()), (vec![10], 0));
    world.guild_create(10, 3);
    client.catch_up(&mut world);
    assert_eq!(client.guilds[&10].1, 3);
}

#[test]
fn nobody_is_closed_for_silence_before_ready() {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    world.now += 10 * HEARTBEAT_TIMEOUT;
    world.shard.tick(world.now);
    assert_eq!(client.produce(&mut world), Progress::Idle);
    world.connect(&[]);
    client.catch_up(&mut world);
    world.now += HEARTBEAT_TIMEOUT - SECOND;
    world.shard.tick(world.now);
    assert_eq!(client.produce(&mut world), Progress::Idle, "it counts from READY on");
}

#[test]
fn a_guild_that_is_down_is_answered() {
    let mut world = World::ready(&[10, 20]);
    world.dispatch("GUILD_DELETE", &json!({"id": "20", "unavailable": true}));
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    assert_eq!((client.announced.clone(), client.sequence), (vec![10, 20], 3), "READY, GUILD_CREATE, GUILD_DELETE");
    world.guild_create(20, 2);
    client.catch_up(&mut world);
    assert_eq!(client.guilds[&20].1, 2);
}

#[test]
fn a_client_that_falls_off_is_told() {
    let mut world = World::new(Limits { bytes: 0, entries: 10 });
    world.connect(&[10]);
    world.guild_create(10, 1);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    // Each event is larger than a segment, so each has its own segment and the limit is exact.
    let big = json!({"guild_id": "10", "number": 0, "text": "x".repeat(100_000)});
    for _ in 0..10 {
        world.dispatch("MESSAGE_CREATE", &big);
    }
    client.catch_up(&mut world);
    assert_eq!(client.messages.len(), 10, "the newest ten are always kept");
    for _ in 0..30 {
        world.dispatch("MESSAGE_CREATE", &big);
    }
    assert_eq!(client.produce(&mut world), Progress::Close { close: Close::Lagged, reconnect: true });
    assert!(!{
        let sequence = client.sequence;
        client.resume(&mut world, 2, sequence)
    });
    assert_eq!(world.shard.report().fell_off, 1);
}

#[test]
fn sessions_expire_and_memory_returns() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    world.message(10, 1);
    world.shard.detach(world.now, client.key, ConnectionId(1), false);
    world.message(10, 2);
    assert_eq!(world.shard.report().detached, 1);
    world.now += SECOND * 119;
    world.shard.tick(world.now);
    let sequence = client.sequence;
    assert!(client.resume(&mut world, 2, sequence));
    client.catch_up(&mut world);
    assert_eq!((client.messages.clone(), client.resumed), (vec![1, 2], true));
    world.shard.detach(world.now, client.key, ConnectionId(2), false);
    world.now += SECOND * 120;
    world.shard.tick(world.now);
    let sequence = client.sequence;
    assert!(!client.resume(&mut world, 3, sequence));
    let report = world.shard.report();
    assert_eq!((report.detached, report.clients, report.log_events, report.log_bytes), (0, 0, 0, 0));
}

#[test]
fn a_client_that_gives_up_or_is_not_synced_leaves_nothing() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    world.shard.detach(world.now, client.key, ConnectionId(1), true);
    let sequence = client.sequence;
    assert!(!client.resume(&mut world, 2, sequence));
    let mut client = Client::identify(&mut world, 3, Intents::ALL);
    client.produce(&mut world);
    client.read();
    world.shard.detach(world.now, client.key, ConnectionId(3), false);
    assert!(!client.resume(&mut world, 4, 1));
    assert_eq!(world.shard.report().detached, 0);
}

/// The last guild fills the outbox, and the connection is lost before the shard writes anything more.
#[test]
fn a_client_that_has_read_all_its_guilds_can_resume() {
    let mut world = World::ready(&[10]);
    world.guild_create(10, 5_000);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    while client.guilds.is_empty() {
        assert!(client.produce(&mut world).has_more());
        client.read();
    }
    world.shard.detach(world.now, client.key, ConnectionId(1), false);
    let sequence = client.sequence;
    assert!(client.resume(&mut world, 2, sequence));
    client.catch_up(&mut world);
    assert!(client.resumed);
}

#[test]
fn detached_sessions_are_bounded() {
    let mut world = World::ready(&[10]);
    let mut clients = Vec::new();
    for connection in 0..MAX_DETACHED as u64 + 10 {
        let mut client = Client::identify(&mut world, connection, Intents::ALL);
        client.catch_up(&mut world);
        world.now += SECOND / 1000;
        world.shard.detach(world.now, client.key, ConnectionId(connection), false);
        clients.push(client);
    }
    assert_eq!(world.shard.report().detached, MAX_DETACHED);
    let sequence = clients[0].sequence;
    assert!(!clients[0].resume(&mut world, 9_999, sequence), "the oldest went first");
    let last = clients.last_mut().unwrap();
    let sequence = last.sequence;
    assert!(last.resume(&mut world, 9_998, sequence));
}

#[test]
fn a_silent_client_is_closed_resumably() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    world.now += HEARTBEAT_TIMEOUT - SECOND;
    world.shard.tick(world.now);
    assert_eq!(client.produce(&mut world), Progress::Idle);
    world.now += SECOND;
    world.shard.tick(world.now);
    assert!(matches!(client.produce(&mut world), Progress::Close { close: Close::Silent, .. }));
    world.shard.detach(world.now, client.key, ConnectionId(1), false);
    let sequence = client.sequence;
    assert!(client.resume(&mut world, 2, sequence));
}

#[test]
fn a_client_that_reads_nothing_is_closed_all_the_same() {
    let mut world = World::ready(&[10]);
    let (mut old, mut silent) =
        (Client::identify(&mut world, 1, Intents::ALL), Client::identify(&mut world, 2, Intents::ALL));
    for client in [&mut old, &mut silent] {
        client.catch_up(&mut world);
        client.outbox.message(&[&vec![b' '; 1 << 20]]);
        assert!(client.produce(&mut world).has_more());
    }
    let id = session_in(&old.url).unwrap();
    assert!(world.shard.resume(world.now, ConnectionId(3), &id, old.sequence).is_some());
    assert_eq!(old.produce(&mut world), Progress::Close { close: Close::Superseded, reconnect: false });
    world.now += HEARTBEAT_TIMEOUT;
    world.shard.tick(world.now);
    assert!(matches!(silent.produce(&mut world), Progress::Close { reconnect: true, .. }));
}

#[test]
fn an_old_connection_has_no_say_any_more() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    let seen = client.sequence;
    for number in 0..10 {
        world.message(10, number);
    }
    client.catch_up(&mut world);
    let beat = json!({"op": 1, "d": client.sequence}).to_string();
    // The client has lost the last events, and resumes. Then a heartbeat arrives that it had sent on its old
    // connection.
    client.sequence = seen;
    client.messages.clear();
    assert!(client.resume(&mut world, 2, seen));
    assert_eq!(client.produce(&mut world), Progress::Idle);
    let late = world.shard.command(world.now, client.key, ConnectionId(1), beat.as_bytes(), &mut client.outbox);
    assert_eq!(late, Err(Close::Superseded));
    // The new connection is lost, too, before the client reads anything.
    assert!(client.resume(&mut world, 3, seen));
    client.catch_up(&mut world);
    assert_eq!((client.messages.len(), client.resumed), (10, true));
}

#[test]
fn commands_are_limited_and_passed_on() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    let mut send = |world: &mut World, text: &str| {
        world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox)
    };
    send(&mut world, r#"{"op":8,"d":{"guild_id":99,"query":"","limit":0}}"#).unwrap();
    send(&mut world, r#"{"op":3,"d":{"activities":null,"status":"idle"}}"#).unwrap();
    let sent: Vec<Value> = std::iter::from_fn(|| world.shard.poll_upstream(world.now))
        .map(|action| match action {
            Action::Send(payload) => serde_json::from_slice(&payload).unwrap(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sent[0]["d"]["activities"], json!([]));
    assert_eq!(sent[1]["d"]["guild_id"], 99);
    assert_eq!(send(&mut world, r#"{"op":2,"d":{}}"#).unwrap_err().code(), close::ALREADY_AUTHENTICATED);
    assert_eq!(send(&mut world, "[").unwrap_err().code(), close::DECODE_ERROR);
    let flood = (0..200).map(|_| send(&mut world, r#"{"op":31,"d":{"guild_ids":[]}}"#)).find_map(Result::err);
    assert_eq!(flood.unwrap().code(), close::RATE_LIMITED);
}

#[test]
fn intents_filter_without_gaps() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::GUILDS.union(Intents::GUILD_MESSAGES));
    client.catch_up(&mut world);
    for number in 0..20 {
        world.dispatch("TYPING_START", &json!({"guild_id": "10"}));
        world.message(10, number);
        world.dispatch("MESSAGE_CREATE", &json!({"channel_id": "1", "number": 1000, "id": "1"}));
    }
    client.catch_up(&mut world);
    assert_eq!(client.messages, (0..20).collect::<Vec<_>>());
    assert_eq!(client.sequence, 22);
}

#[test]
fn nothing_that_is_too_long_goes_to_discord() {
    let mut world = World::ready(&[10]);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    // Each command has the greatest length that is allowed, before the proxy adds the nonce and the missing keys.
    for (start, end) in
        [(r#"{"op":8,"d":{"guild_id":"99","query":"","x":""#, r#""}}"#), (r#"{"op":3,"d":{"x":""#, r#""}}"#)]
    {
        let text = format!("{start}{}{end}", "x".repeat(4096 - start.len() - end.len()));
        let refused =
            world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox);
        assert_eq!(refused.unwrap_err().code(), close::DECODE_ERROR);
        assert_eq!(world.shard.poll_upstream(world.now), None);
    }
}

/// The payloads of one type that a client has been sent since the last call.
fn payloads(client: &mut Client, world: &mut World, kind: &str) -> Vec<Value> {
    let mut found = Vec::new();
    loop {
        let more = client.produce(world).has_more();
        let bytes = client.outbox.pending().to_vec();
        let mut inbound = FrameDecoder::new(Role::Client, 1 << 24);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let space = inbound.space();
            let n = space.len().min(rest.len());
            space[..n].copy_from_slice(&rest[..n]);
            inbound.filled(n);
            rest = &rest[n..];
            while let Some(message) = inbound.next().unwrap() {
                let Message::Text(text) = message else { panic!("{message:?}") };
                let payload: Value = serde_json::from_slice(text).unwrap();
                let is_it = |name: &str| name == kind || (kind.ends_with('_') && name.starts_with(kind));
                found.extend(payload["t"].as_str().is_some_and(is_it).then_some(payload));
            }
        }
        client.read();
        if !more {
            return found;
        }
    }
}

fn request(world: &mut World, client: &mut Client, data: &Value) {
    let text = json!({"op": 8, "d": data}).to_string();
    world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox).unwrap();
}

#[test]
fn members_are_answered_to_the_asker_alone() {
    let mut world = World::ready(&[10]);
    world.guild_create(10, 2500);
    let (mut asker, mut other) =
        (Client::identify(&mut world, 1, Intents::ALL), Client::identify(&mut world, 2, Intents::ALL));
    asker.catch_up(&mut world);
    other.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    request(&mut world, &mut asker, &json!({"guild_id": 10, "query": "", "limit": 0, "nonce": "a"}));
    world.message(10, 1);
    assert!(world.shard.poll_upstream(world.now).is_none(), "Discord is not asked");
    let chunks = payloads(&mut asker, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!(
        chunks.iter().map(|chunk| chunk["d"]["members"].as_array().unwrap().len()).collect::<Vec<_>>(),
        [1000, 1000, 500]
    );
    assert!(chunks.iter().all(|chunk| chunk["d"]["nonce"] == "a"));
    assert!(payloads(&mut other, &mut world, "GUILD_MEMBERS_CHUNK").is_empty());
    assert_eq!((asker.messages.clone(), other.messages.clone()), (vec![1], vec![1]));
    // The last two chunks got lost. The client gets them again, after the events that it has lost.
    world.message(10, 2);
    let seen = chunks[0]["s"].as_u64().unwrap();
    world.shard.detach(world.now, asker.key, ConnectionId(1), false);
    asker.sequence = seen;
    assert!(asker.resume(&mut world, 3, seen));
    let again = payloads(&mut asker, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!(again.iter().map(|chunk| &chunk["d"]["chunk_index"]).collect::<Vec<_>>(), [1, 2]);
    assert!(asker.resumed);
    let beat = format!(r#"{{"op":1,"d":{}}}"#, asker.sequence);
    world.shard.command(world.now, asker.key, asker.connection, beat.as_bytes(), &mut asker.outbox).unwrap();
    world.shard.detach(world.now, asker.key, ConnectionId(3), false);
    let sequence = asker.sequence;
    assert!(asker.resume(&mut world, 4, sequence));
    assert!(payloads(&mut asker, &mut world, "GUILD_MEMBERS_CHUNK").is_empty(), "acknowledged");
}

#[test]
fn an_answer_outlives_an_outage_of_its_guild() {
    let mut world = World::ready(&[10, 11]);
    world.guild_create(10, 3);
    world.guild_create(11, 3);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    for guild in ["10", "11"] {
        request(&mut world, &mut client, &json!({"guild_id": guild, "query": "", "limit": 0, "nonce": guild}));
    }
    for guild in ["10", "11"] {
        world.dispatch("GUILD_DELETE", &json!({"id": guild, "unavailable": true}));
    }
    assert!(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK").is_empty());
    // One guild comes back with all members, the other one without, as Discord sends large guilds.
    world.guild_create(10, 2);
    let chunks = payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!((chunks.len(), chunks[0]["d"]["members"].as_array().unwrap().len()), (1, 2));
    world.dispatch("GUILD_CREATE", &json!({"id": "11", "member_count": 3, "members": []}));
    assert!(payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK").is_empty());
    let asked = sent_upstream(&mut world);
    assert_eq!((asked.len(), &asked[0]["op"], &asked[0]["d"]["guild_id"]), (1, &json!(8), &json!("11")));
}

/// The payloads that go to Discord now.
fn sent_upstream(world: &mut World) -> Vec<Value> {
    let sent = std::iter::from_fn(|| world.shard.poll_upstream(world.now));
    let text = |action| match action {
        Action::Send(payload) => serde_json::from_slice(&payload).unwrap(),
        other => panic!("{other:?}"),
    };
    sent.map(text).collect()
}

#[test]
fn requests_and_commands_survive_a_restart() {
    let mut world = World::ready(&[10, 11]);
    world.guild_create(10, 2500);
    world.dispatch("GUILD_CREATE", &json!({"id": "11", "member_count": 9000, "members": []}));
    let (mut asker, mut other) =
        (Client::identify(&mut world, 1, Intents::ALL), Client::identify(&mut world, 2, Intents::ALL));
    asker.catch_up(&mut world);
    other.catch_up(&mut world);
    while world.shard.poll_upstream(world.now).is_some() {}
    // Discord is asked for one guild; the cache answers for the other, and the client gets the first chunk only.
    request(&mut world, &mut asker, &json!({"guild_id": "11", "query": "", "limit": 0, "nonce": "far"}));
    let nonce = sent_upstream(&mut world)[0]["d"]["nonce"].clone();
    request(&mut world, &mut asker, &json!({"guild_id": "10", "query": "", "limit": 0, "nonce": "near"}));
    assert!(asker.produce(&mut world).has_more());
    asker.read();
    // The next commands wait for a connection to Discord.
    world.shard.upstream_closed(world.now, Some(4000));
    for command in [r#"{"op":4,"d":{"guild_id":"10"}}"#, r#"{"op":3,"d":{"status":"idle"}}"#] {
        world.shard.command(world.now, other.key, other.connection, command.as_bytes(), &mut other.outbox).unwrap();
    }
    world.restart();
    world.leave(10, 10_000 + 2_400);
    world.dispatch("RESUMED", &json!({}));
    let commands: Vec<Value> = sent_upstream(&mut world).iter().map(|sent| sent["op"].clone()).collect();
    // The request was sent before, and its answer is not in the replay.
    assert_eq!(commands, [8, 3, 4]);
    world.dispatch(
        "GUILD_MEMBERS_CHUNK",
        &json!({"guild_id": "11", "members": [], "chunk_index": 0, "chunk_count": 1, "nonce": nonce}),
    );
    for (client, connection) in [(&mut asker, 3), (&mut other, 4)] {
        let sequence = client.sequence;
        assert!(client.resume(&mut world, connection, sequence));
    }
    let chunks = payloads(&mut asker, &mut world, "GUILD_MEMBERS_CHUNK");
    let told: Vec<Value> = chunks
        .iter()
        .map(|chunk| {
            json!([chunk["d"]["nonce"], chunk["d"]["chunk_index"], chunk["d"]["members"].as_array().unwrap().len()])
        })
        .collect();
    assert_eq!(json!(told), json!([["far", 0, 0], ["near", 1, 1000], ["near", 2, 499]]));
    assert!(payloads(&mut other, &mut world, "GUILD_MEMBERS_CHUNK").is_empty());
    assert!(asker.resumed && other.resumed);
    assert_eq!(asker.guilds[&10].0.len(), 2499);
}

#[test]
fn what_the_cache_does_not_have_discord_answers_to_the_asker_alone() {
    let mut world = World::ready(&[10]);
    world.dispatch("GUILD_CREATE", &json!({"id": "10", "member_count": 9000, "members": []}));
    let mut clients = [1, 2].map(|connection| Client::identify(&mut world, connection, Intents::ALL));
    clients.iter_mut().for_each(|client| client.catch_up(&mut world));
    while world.shard.poll_upstream(world.now).is_some() {}
    for client in &mut clients {
        // Both clients use the same nonce.
        request(&mut world, client, &json!({"guild_id": "10", "query": "", "limit": 0, "nonce": "same"}));
    }
    let nonces: Vec<Value> = std::iter::from_fn(|| world.shard.poll_upstream(world.now))
        .map(|action| match action {
            Action::Send(payload) => serde_json::from_slice::<Value>(&payload).unwrap()["d"]["nonce"].clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_ne!(nonces[0], nonces[1]);
    for chunk in 0..2 {
        world.dispatch(
            "GUILD_MEMBERS_CHUNK",
            &json!({"guild_id": "10", "members": [], "chunk_index": chunk, "chunk_count": 2, "nonce": nonces[1]}),
        );
    }
    world.dispatch(
        "RATE_LIMITED",
        &json!({"opcode": 8, "retry_after": 3, "meta": {"guild_id": "10", "nonce": nonces[0]}}),
    );
    let [first, second] = &mut clients;
    let limited = payloads(first, &mut world, "RATE_LIMITED");
    assert_eq!(limited[0]["d"]["meta"]["nonce"], "same");
    assert_eq!(payloads(first, &mut world, "GUILD_MEMBERS_CHUNK").len(), 0);
    let chunks = payloads(second, &mut world, "GUILD_MEMBERS_CHUNK");
    assert_eq!(chunks.iter().map(|chunk| &chunk["d"]["nonce"]).collect::<Vec<_>>(), ["same", "same"]);
    // An answer to no known request goes to all clients.
    world.dispatch("GUILD_MEMBERS_CHUNK", &json!({"guild_id": "10", "members": [], "nonce": nonces[1]}));
    for client in &mut clients {
        assert_eq!(payloads(client, &mut world, "GUILD_MEMBERS_CHUNK").len(), 1);
    }
}

/// The requests for members that go to Discord now.
fn asked(world: &mut World) -> Vec<Value> {
    std::iter::from_fn(|| world.shard.poll_upstream(world.now))
        .filter_map(|action| match action {
            Action::Send(payload) => {
                serde_json::from_slice::<Value>(&payload).ok().filter(|payload| payload["op"] == 8)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn presences_are_for_who_has_the_intent() {
    let mut world = World::ready(&[10]);
    world.dispatch("PRESENCE_UPDATE", &json!({"guild_id": "10", "user": {"id": "10000"}, "status": "idle"}));
    world.dispatch("GUILD_CREATE", &json!({"id": "11", "member_count": 9000, "members": []}));
    for (connection, intents, has) in
        [(1, Intents::ALL, true), (2, Intents::ALL.without(Intents::GUILD_PRESENCES), false)]
    {
        let mut client = Client::identify(&mut world, connection, intents);
        client.catch_up(&mut world);
        asked(&mut world);
        request(&mut world, &mut client, &json!({"guild_id": "10", "query": "", "limit": 0, "presences": true}));
        let chunks = payloads(&mut client, &mut world, "GUILD_MEMBERS_CHUNK");
        assert_eq!(chunks[0]["d"].get("presences").is_some(), has, "{intents:?}");
        request(&mut world, &mut client, &json!({"guild_id": "11", "query": "", "limit": 0, "presences": true}));
        assert_eq!(asked(&mut world)[0]["d"].get("presences").is_some(), has, "{intents:?}");
    }
}

#[test]
fn without_the_intent_for_members_discord_is_asked() {
    let mut world = World::new(Limits { bytes: 1 << 20, entries: 100 });
    let settings = Rc::get_mut(&mut world.shard.settings).unwrap();
    settings.intents = Intents::ALL.without(Intents::GUILD_MEMBERS).0;
    world.connect(&[10]);
    world.guild_create(10, 3);
    let mut client = Client::identify(&mut world, 1, Intents::ALL);
    client.catch_up(&mut world);
    asked(&mut world);
    // Discord does not say who has left, so the cache can not answer.
    request(&mut world, &mut client, &json!({"guild_id": "10", "user_ids": ["10000"]}));
    assert_eq!(asked(&mut world).len(), 1);
}

#[test]
fn a_nonce_is_not_that_of_another_process() {
    let nonces = [1, 2].map(|seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        let entropy = Box::new(move |bytes: &mut [u8]| random.fill(bytes));
        let identity = Identity { identify: b"{}".to_vec(), token: "t".into() };
        let settings = settings(Limits { bytes: 1 << 20, entries: 100 });
        let id = ShardId { id: 0, count: 1 };
        let shard = Shard::new(id, settings, identity, "ws://discord".into(), None, entropy);
        let mut world = World { shard, sequence: 0, now: SECOND };
        world.connect(&[10]);
        let mut client = Client::identify(&mut world, 1, Intents::ALL);
        client.catch_up(&mut world);
        request(&mut world, &mut client, &json!({"guild_id": "10", "query": "", "limit": 0}));
        asked(&mut world)[0]["d"]["nonce"].as_str().unwrap().to_owned()
    });
    assert_ne!(nonces[0], nonces[1]);
    assert!(nonces.iter().all(|nonce| nonce.len() <= 32), "{nonces:?}");
}

proptest! {
    /// Events go on while a client reads its snapshot, at any pace. In the end the client has the state of the guilds,
    /// and no message of a guild is missing, doubled or out of order.
    #[test]
    fn a_snapshot_and_the_events_are_one_story(
        steps in prop::collection::vec((0u8..12, 1u64..5, 0u64..6), 1..120), resume_after in 0usize..120,
    ) {
        let guilds = [1, 2, 3, 4];
        let mut world = World::ready(&guilds);
        let mut truth: BTreeMap<u64, Vec<u64>> = guilds.iter().map(|&guild| (guild, vec![guild * 1000])).collect();
        let mut client = Client::identify(&mut world, 1, Intents::ALL);
        let mut number = 0;
        // Messages since the client's READY, which comes with the first call, and whether the bot has left a guild
        // since.
        let (mut begun, mut sent, mut left) = (false, Vec::new(), false);
        let mut connection = 1;
        for (index, (what, guild, user)) in steps.into_iter().enumerate() {
            let user = guild * 1000 + 1 + user;
            let known = truth.contains_key(&guild);
            match what {
                0..=2 if known && !truth[&guild].contains(&user) => {
                    world.join(guild, user);
                    truth.get_mut(&guild).unwrap().push(user);
                }
                3 | 4 if known && truth[&guild].contains(&user) => {
                    world.leave(guild, user);
                    truth.get_mut(&guild).unwrap().retain(|member| *member != user);
                }
                5 if known => {
                    world.dispatch("GUILD_DELETE", &json!({"id": guild.to_string()}));
                    truth.remove(&guild);
                    left = true;
                }
                6 if !known => {
                    world.guild_create(guild, 2);
                    truth.insert(guild, vec![guild * 1000, guild * 1000 + 1]);
                }
                7 | 8 if known => {
                    number += 1;
                    world.message(guild, number);
                    sent.push(number);
                }
                10 => client.read(),
                9 | 11 => {
                    if !std::mem::replace(&mut begun, true) {
                        (sent, left) = (Vec::new(), false);
                    }
                    client.produce(&mut world);
                    if what == 11 { client.read(); }
                }
                _ => {}
            }
            if index == resume_after && !client.session.is_empty() {
                world.shard.detach(world.now, client.key, ConnectionId(connection), false);
                connection += 1;
                let sequence = client.sequence;
                if !client.resume(&mut world, connection, sequence) {
                    // The session was in the middle of its snapshot. The client starts over, and gets no earlier
                    // events.
                    client = Client::identify(&mut world, connection, Intents::ALL);
                    begun = false;
                }
            }
        }
        client.catch_up(&mut world);
        prop_assert!(client.end.is_none());
        prop_assert_eq!(client.guilds.len(), truth.len());
        for (guild, members) in &mut truth {
            let (seen, count) = client.guilds.get_mut(guild).expect("a guild that is there");
            seen.sort_unstable();
            members.sort_unstable();
            prop_assert_eq!(*count, members.len() as u64);
            prop_assert_eq!(&*seen, &*members);
        }
        // The client gets no message of a guild that the bot left before the client was sent the guild. It gets all
        // others.
        prop_assert!(client.messages.is_sorted_by(|a, b| a < b));
        if begun && !left {
            prop_assert_eq!(client.messages, sent);
        } else if begun {
            prop_assert!(client.messages.iter().all(|message| sent.contains(message)));
        }
    }
}
