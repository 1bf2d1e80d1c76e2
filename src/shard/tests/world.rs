//! [`World`]: a shard, and the test in the place of Discord and of the clock. Shared by the tests of this folder.

use super::*;
use crate::cache::Flags;

/// HELLO as Discord sends it, without the keys that the shard does not read.
pub(super) const HELLO: &str = r#"{"op":10,"d":{"heartbeat_interval":40000}}"#;

/// The settings of a shard with the whole cache, and a log of this size.
pub(super) fn settings(log: Limits) -> Rc<Settings> {
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

/// Random bytes that are the same in every run.
fn entropy() -> Entropy {
    let mut random = fastrand::Rng::with_seed(1);
    Box::new(move |bytes| random.fill(bytes))
}

/// A shard, the sequence of the last event that Discord has sent it, and the time.
pub(super) struct World {
    pub(super) shard: Shard,
    pub(super) sequence: u64,
    pub(super) now: Time,
    /// Sessions that Discord has given the shard. The first one has the id `up`, the second one `up2`.
    sessions: u64,
}

impl World {
    /// A shard that has no connection to Discord yet.
    pub(super) fn new(log: Limits) -> Self {
        let identity = Identity { identify: b"{}".to_vec(), token: "t".into() };
        let id = ShardId { id: 0, count: 1 };
        let shard = Shard::new(id, settings(log), identity, "ws://discord".into(), None, entropy());
        Self::of(shard)
    }

    /// This shard, which has no connection to Discord yet.
    pub(super) fn of(shard: Shard) -> Self {
        Self { shard, sequence: 0, now: SECOND, sessions: 0 }
    }

    /// A connected shard with these guilds.
    pub(super) fn ready(guilds: &[u64]) -> Self {
        let mut world = Self::new(Limits { bytes: 1 << 20, entries: 100 });
        world.connect(guilds);
        for &guild in guilds {
            world.guild_create(guild, 1);
        }
        world
    }

    /// Connects the shard to Discord, which sends READY with these guilds.
    pub(super) fn connect(&mut self, guilds: &[u64]) {
        self.shard.tick(self.now);
        while self.shard.poll_upstream(self.now).is_some() {}
        self.shard.upstream_connected(self.now);
        self.feed(HELLO);
        self.shard.upstream_permitted(self.now);
        let guilds: Vec<Value> = guilds.iter().map(|id| json!({"id": id.to_string(), "unavailable": true})).collect();
        self.sequence = 0;
        self.sessions += 1;
        let id = if self.sessions == 1 { "up".to_owned() } else { format!("up{}", self.sessions) };
        let ready = json!({
            "v": 10, "user": {"id": "77", "username": "bot"}, "guilds": guilds, "session_id": id,
            "resume_gateway_url": "ws://resume", "application": {"id": "1", "flags": 0}, "new_key": [1],
        });
        self.dispatch("READY", &ready);
    }

    /// Saves the shard and restores it, as a restart of the proxy does.
    pub(super) fn restart(&mut self) {
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
        self.feed(HELLO);
        let resume = sent_upstream(self);
        assert_eq!(resume.iter().map(|sent| sent["op"].as_u64().unwrap()).collect::<Vec<_>>(), [6]);
    }

    /// The connection breaks, and the shard sends its RESUME on another one.
    pub(super) fn break_connection(&mut self) {
        self.now += SECOND * 10;
        self.shard.upstream_closed(self.now, None);
        self.shard.tick(self.now);
        assert_eq!(self.shard.poll_upstream(self.now), Some(Action::Connect("ws://resume".into())));
        self.shard.upstream_connected(self.now);
        self.feed(HELLO);
        let sent = sent_upstream(self);
        assert_eq!(sent.iter().map(|sent| &sent["op"]).collect::<Vec<_>>(), [6]);
    }

    /// Discord ends the session with Invalid Session (op 9).
    pub(super) fn lose_session(&mut self) {
        self.feed(r#"{"op":9,"d":false}"#);
        while self.shard.poll_upstream(self.now).is_some() {}
        self.now += SECOND * 6;
    }

    /// Discord ends the session, and the shard gets a new one with these guilds, whose GUILD_CREATEs have not come.
    pub(super) fn renew(&mut self, guilds: &[u64]) {
        self.lose_session();
        self.connect(guilds);
    }

    /// Discord sends this payload.
    pub(super) fn feed(&mut self, payload: &str) {
        self.shard.upstream_payload(self.now, payload.as_bytes()).unwrap();
    }

    /// Discord sends this event with the next sequence.
    pub(super) fn dispatch(&mut self, name: &str, data: &Value) {
        self.sequence += 1;
        self.feed(&format!(r#"{{"t":"{name}","s":{},"op":0,"d":{data}}}"#, self.sequence));
    }

    pub(super) fn guild_create(&mut self, guild: u64, members: u64) {
        let members: Vec<Value> =
            (0..members).map(|id| json!({"user": {"id": (guild * 1000 + id).to_string()}})).collect();
        self.dispatch(
            "GUILD_CREATE",
            &json!({"id": guild.to_string(), "member_count": members.len(), "members": members, "channels": [], "unavailable": false}),
        );
    }

    pub(super) fn join(&mut self, guild: u64, user: u64) {
        self.dispatch("GUILD_MEMBER_ADD", &json!({"guild_id": guild.to_string(), "user": {"id": user.to_string()}}));
    }

    pub(super) fn leave(&mut self, guild: u64, user: u64) {
        self.dispatch("GUILD_MEMBER_REMOVE", &json!({"guild_id": guild.to_string(), "user": {"id": user.to_string()}}));
    }

    pub(super) fn message(&mut self, guild: u64, number: u64) {
        self.dispatch(
            "MESSAGE_CREATE",
            &json!({"guild_id": guild.to_string(), "channel_id": "1", "id": "2", "number": number}),
        );
    }
}

/// The payloads that go to Discord now.
pub(super) fn sent_upstream(world: &mut World) -> Vec<Value> {
    let sent = std::iter::from_fn(|| world.shard.poll_upstream(world.now));
    let text = |action| match action {
        Action::Send(payload) => serde_json::from_slice(&payload).unwrap(),
        other => panic!("{other:?}"),
    };
    sent.map(text).collect()
}
