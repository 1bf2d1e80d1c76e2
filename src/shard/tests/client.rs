//! [`Client`]: a client that reads what the shard sends it, and checks the order. Shared by the tests of this folder.

use super::*;
use crate::{
    compression::Transport,
    downstream::{
        outbox::Outbox,
        session::{Claim, session_in},
    },
    protocol::Encoding,
    websocket::{FrameDecoder, Message, Role},
};
use std::collections::BTreeMap;

impl Progress {
    /// Returns whether the client has to be served again as soon as its outbox has room.
    pub(super) fn has_more(self) -> bool {
        matches!(self, Self::More | Self::Snapshot { .. })
    }
}

/// A client with a connection, and its state from the payloads that it was sent.
pub(super) struct Client {
    pub(super) key: SessionKey,
    pub(super) connection: ConnectionId,
    pub(super) outbox: Outbox,
    inbound: FrameDecoder,
    pub(super) sequence: u64,
    pub(super) session: String,
    /// The `resume_gateway_url` of READY.
    pub(super) url: String,
    pub(super) announced: Vec<u64>,
    /// The members and the member count of each guild.
    pub(super) guilds: BTreeMap<u64, (Vec<u64>, u64)>,
    pub(super) messages: Vec<u64>,
    /// Guilds for which the client gets a GUILD_DELETE although this session never had them; the session before may
    /// have.
    pub(super) left_before: Vec<u64>,
    /// Opcodes of the payloads that are no events.
    pub(super) ops: Vec<u64>,
    pub(super) resumed: bool,
    pub(super) end: Option<Progress>,
}

impl Client {
    /// Identifies on this connection.
    pub(super) fn identify(world: &mut World, connection: u64, intents: Intents) -> Self {
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
    pub(super) fn produce(&mut self, world: &mut World) -> Progress {
        let progress = world.shard.produce(world.now, self.key, self.connection, &mut self.outbox);
        if matches!(progress, Progress::Close { .. } | Progress::Return) {
            self.end = Some(progress);
        }
        progress
    }

    /// Reads everything that is in the outbox.
    pub(super) fn read(&mut self) {
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

    /// Takes a payload into the state, and checks that the client may get it now.
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
    pub(super) fn catch_up(&mut self, world: &mut World) {
        while self.produce(world).has_more() {
            self.read();
        }
        self.read();
    }

    /// Resumes on this connection, at the URL of READY. Returns false if the shard refuses.
    pub(super) fn resume(&mut self, world: &mut World, connection: u64, sequence: u64) -> bool {
        let url = self.url.clone();
        self.resume_at(world, connection, &url, sequence)
    }

    /// Resumes on this connection, at this URL. Returns false if the shard refuses.
    pub(super) fn resume_at(&mut self, world: &mut World, connection: u64, url: &str, sequence: u64) -> bool {
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

/// The payloads of one type that a client has been sent since the last call.
pub(super) fn payloads(client: &mut Client, world: &mut World, kind: &str) -> Vec<Value> {
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

/// The client sends Request Guild Members (op 8) with this data.
pub(super) fn request(world: &mut World, client: &mut Client, data: &Value) {
    let text = json!({"op": 8, "d": data}).to_string();
    world.shard.command(world.now, client.key, client.connection, text.as_bytes(), &mut client.outbox).unwrap();
}
