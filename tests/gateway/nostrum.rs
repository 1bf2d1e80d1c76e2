//! A shard with the behaviour of nostrum, written after its source (0.11.0-dev, `lib/nostrum/shard/`): ETF in both
//! directions over zstd-stream, on connections that end without a close frame. The library itself needs Elixir, and TLS
//! on port 443.

use serde_json::{Value, json};
use support::{Encoding, Gateway, Options, Proxy, Simulator, TOKEN, Transport, etf, scratch, wait_until};

const WORLD: &str =
    "--shards 2 --max-concurrency 2 --identify-interval-ms 0 --guilds 8 --members 300 --seed 5 --rate 0";
const INTENTS: u64 = 53_608_447;

/// One connection of a shard, with the state that nostrum keeps.
struct Shard {
    gateway: Gateway,
    /// The newest sequence number; `nil` before the first dispatch.
    seq: Value,
}

impl Shard {
    /// Connects and reads HELLO. nostrum reads the interval by an atom as the key.
    fn connect(proxy: &Proxy, seq: Value) -> Self {
        let options = Options { transport: Transport::Zstd, encoding: Encoding::Etf, compress: false };
        let target = "/?encoding=etf&v=10&compress=zstd-stream";
        let gateway = Gateway::open_at(proxy.address, target, options, &[]).expect("a connection to the gateway");
        let mut shard = Self { gateway, seq };
        let hello = shard.receive();
        assert_eq!(hello[":op"], 10);
        let interval = hello[":d"][":heartbeat_interval"].as_u64();
        assert!(interval.is_some_and(|interval| interval > 0), "{hello}");
        shard
    }

    /// Receives the next payload. Its four keys have to be atoms, because nostrum reads `payload.op` before it converts
    /// keys to atoms.
    fn receive(&mut self) -> Value {
        let term = self.gateway.receive_bytes().expect("a payload");
        let payload = etf::read_with_atoms(&term).expect("a term");
        let keys: Vec<&String> = payload.as_object().expect("a map").keys().collect();
        assert_eq!(keys, [":d", ":op", ":s", ":t"], "{payload:.300}");
        if !payload[":s"].is_null() {
            self.seq = payload[":s"].clone();
        }
        payload
    }

    /// Receives the next payload, which must be a dispatch of this type. Returns its data.
    fn dispatch(&mut self, name: &str) -> Value {
        let mut payload = self.receive();
        assert_eq!((&payload[":op"], &payload[":t"]), (&json!(0), &json!(format!(":{name}"))), "{payload:.300}");
        payload[":d"].take()
    }

    fn send(&mut self, op: u64, data: &Value) {
        let term = etf::write(&json!({"op": op, "d": data}), etf::Style::Elixir);
        self.gateway.send_binary(&term).expect("an open connection");
    }

    fn identify(&mut self) {
        let properties = json!({"os": "unix linux", "browser": "Nostrum", "device": "Nostrum"});
        self.send(
            2,
            &json!({"token": TOKEN, "properties": properties, "compress": false, "large_threshold": 250, "shard": [0, 2],
                    "intents": INTENTS}),
        );
    }

    fn resume(&mut self, session: &Value) {
        self.send(6, &json!({"token": TOKEN, "session_id": session, "seq": self.seq}));
    }

    /// Receives READY and the guilds after it. Returns the data of READY.
    fn starts(&mut self, guilds: usize) -> Value {
        let ready = self.dispatch("READY");
        assert_eq!(ready["guilds"].as_array().map(Vec::len), Some(guilds));
        for _ in 0..guilds {
            self.dispatch("GUILD_CREATE");
        }
        ready
    }
}

#[test]
fn a_shard_of_nostrum() {
    let directory = scratch("nostrum");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({}));
    let guilds = simulator.guilds(0);
    let mut shard = Shard::connect(&proxy, Value::Null);
    shard.identify();
    let ready = shard.starts(guilds.len());
    assert!(ready["resume_gateway_url"].is_string(), "{ready:.300}");

    // nostrum sends ids as integers.
    let (id, guild) = guilds.iter().max_by_key(|(_, guild)| guild.members).expect("a guild");
    let id: u64 = id.parse().expect("an id");
    shard.send(8, &json!({"guild_id": id, "query": "", "limit": 0}));
    let mut members = 0;
    loop {
        let chunk = shard.dispatch("GUILD_MEMBERS_CHUNK");
        members += chunk["members"].as_array().expect("members").len() as u64;
        if chunk["chunk_index"].as_u64().expect("an index") + 1 == chunk["chunk_count"].as_u64().expect("a count") {
            break;
        }
    }
    assert_eq!(Some(members), guild.members);
    let presence = json!({"since": 0, "afk": false, "status": "dnd", "activities": [{"type": 0, "name": "the tests"}]});
    shard.send(3, &presence);
    wait_until("the presence", || {
        let found = simulator.shard_stats(0)["last_presence"].clone();
        if found == presence { Ok(()) } else { Err(found.to_string()) }
    });
    let seq = shard.seq.clone();
    shard.send(1, &seq);
    assert_eq!(shard.receive(), json!({":t": null, ":s": null, ":op": 11, ":d": null}));

    // `:gun.close` ends the connection without a close frame.
    let before = simulator.last_number(0);
    drop(shard);
    simulator.emit(0, 20);
    let mut shard = Shard::connect(&proxy, seq);
    shard.resume(&ready["session_id"]);
    for number in before + 1..=before + 20 {
        let content = shard.dispatch("MESSAGE_CREATE")["content"].clone();
        assert!(content.as_str().is_some_and(|text| text.starts_with(&format!("n:{number}"))), "{content}");
    }
    shard.dispatch("RESUMED");

    // The session is unknown to the proxy. Invalid Session has to have `false`, not `nil`; nostrum then identifies
    // again.
    let mut shard = Shard::connect(&proxy, json!(7));
    shard.resume(&json!("unknown"));
    let invalid = shard.receive();
    assert_eq!((&invalid[":op"], &invalid[":d"]), (&json!(9), &json!(false)));
    drop(shard);
    let mut shard = Shard::connect(&proxy, Value::Null);
    shard.identify();
    shard.starts(guilds.len());
    assert_eq!(simulator.identifies(), 2, "one for each shard of the proxy");
    assert_eq!(simulator.stats()["violations"], json!([]));
}
