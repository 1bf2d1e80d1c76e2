//! Clients with different encodings and compressions get the same payloads, and their commands have the same effect.

use serde_json::{Value, json};
use support::{Encoding, Gateway, Gone, Options, Payload, Proxy, Simulator, TOKEN, Transport, scratch, wait_until};

const WORLD: &str =
    "--shards 2 --max-concurrency 2 --identify-interval-ms 100 --guilds 8 --members 300 --seed 3 --rate 0";
const INTENTS: u64 = 53_608_447;
const SHARD: (u32, u32) = (0, 2);

/// All combinations of encoding and compression. The first one is the reference for the others.
fn all() -> Vec<Options> {
    let mut all = Vec::new();
    for encoding in [Encoding::Json, Encoding::Etf] {
        for transport in [Transport::None, Transport::Zlib, Transport::Zstd] {
            for compress in [false, true] {
                all.push(Options { transport, encoding, compress });
            }
        }
    }
    all
}

/// Whether the proxy compresses single payloads: only for JSON, and only if the URL asks for no transport compression.
fn packs(options: Options) -> bool {
    options.compress && options.transport == Transport::None && options.encoding == Encoding::Json
}

struct Client {
    options: Options,
    gateway: Gateway,
    session: String,
    sequence: u64,
}

impl Client {
    /// Receives the next dispatch. Returns its type and its data.
    fn event(&mut self) -> (String, Value) {
        let payload = self.gateway.receive().expect("an event");
        assert_eq!(payload.op, 0, "{payload:?}");
        self.sequence += 1;
        assert_eq!(payload.s, Some(self.sequence));
        let data = payload.data();
        (payload.t.expect("a name"), data)
    }

    fn events(&mut self, count: usize) -> Vec<(String, Value)> {
        (0..count).map(|_| self.event()).collect()
    }
}

#[test]
fn every_client_gets_the_same() {
    let directory = scratch("encodings");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({}));
    let guilds = simulator.guilds(0);
    let (largest, _) = guilds.iter().max_by_key(|(_, guild)| guild.members).expect("a guild");
    let mut clients = all_get_the_same_ready_and_guilds(&proxy, guilds.len());
    all_get_the_same_events(&simulator, &mut clients);
    all_are_answered_with_the_same_members(largest, &mut clients);
    presences_of_every_encoding_reach_discord(&simulator, &mut clients);
    all_resume_and_get_what_they_missed(&proxy, &simulator, &mut clients);
    all_read_on_after_their_resume(&simulator, &mut clients);
    for client in clients {
        assert_eq!(client.gateway.close(4000), Some(4000), "{:?}", client.options);
    }
    assert_eq!(simulator.identifies(), 2);
    assert_eq!(simulator.stats()["violations"], json!([]));
}

/// Connects a client with each combination. Heartbeats and RESUMEs before the IDENTIFY are answered, and READY and the
/// guilds are those of the first client.
fn all_get_the_same_ready_and_guilds(proxy: &Proxy, guilds: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    let mut snapshot = Vec::new();
    for options in all() {
        let mut gateway = Gateway::connect(proxy.address, options);
        gateway.heartbeat(0);
        assert_eq!(gateway.receive().expect("an ACK before IDENTIFY").op, 11, "{options:?}");
        gateway.resume("nonsense", 1);
        let refused = gateway.receive().expect("Invalid Session");
        assert_eq!((refused.op, refused.d.as_str()), (9, "false"), "{options:?}");
        gateway.identify(SHARD, INTENTS);
        let mut client = Client { options, gateway, session: String::new(), sequence: 0 };
        let mut events = client.events(1 + guilds);
        let session = events[0].1["session_id"].take();
        client.session = session.as_str().expect("an id").to_owned();
        // Only the first client has Discord's session id, so only its URL ends in a key of its session. The URL is left
        // out of the comparison.
        let url = events[0].1["resume_gateway_url"].take();
        assert!(url.as_str().is_some_and(|url| url.starts_with("ws://")), "{options:?}: {url}");
        events[1..].sort_by_key(|(_, data)| data["id"].as_str().expect("an id").to_owned());
        if snapshot.is_empty() {
            snapshot = events;
        } else {
            assert!(events == snapshot, "{options:?} gets another READY or another guild");
        }
        assert_eq!(client.gateway.packed > 0, packs(options), "{options:?}");
        clients.push(client);
    }
    assert_eq!((snapshot[0].0.as_str(), snapshot[1].0.as_str()), ("READY", "GUILD_CREATE"));
    clients
}

/// Discord sends events of all types.
fn all_get_the_same_events(simulator: &Simulator, clients: &mut [Client]) {
    simulator.emit(0, 3);
    simulator.mutate(0, 40);
    simulator.emit(0, 1);
    let last = simulator.last_number(0);
    let mut events = Vec::new();
    let [first, others @ ..] = clients else { panic!("no client") };
    while events.len() < 4 || number(&events) != Some(last) {
        events.push(first.event());
    }
    for client in others {
        assert!(client.events(events.len()) == events, "{:?} gets other events", client.options);
    }
}

/// Each client requests the members of this guild, which the proxy answers.
fn all_are_answered_with_the_same_members(guild: &str, clients: &mut [Client]) {
    let mut members = Value::Null;
    for client in clients {
        let command = json!({"guild_id": guild, "query": "", "limit": 0, "nonce": "n", "presences": true});
        client.gateway.send(8, &command);
        let (name, mut chunk) = client.event();
        assert_eq!((name.as_str(), &chunk["nonce"]), ("GUILD_MEMBERS_CHUNK", &json!("n")));
        for (list, id) in [("members", "/user/id"), ("presences", "/user/id")] {
            let id = |value: &Value| value.pointer(id).and_then(Value::as_str).expect("an id").to_owned();
            chunk[list].as_array_mut().expect("a list").sort_by_key(id);
        }
        if members.is_null() {
            members = chunk.clone();
            assert!(members["members"].as_array().expect("members").len() > 100);
        }
        assert!(
            chunk == members,
            "{:?} gets other members: {:.3000} {:.3000}",
            client.options,
            chunk.to_string(),
            members.to_string()
        );
    }
}

/// Some clients send a presence, which goes to Discord: at least one client for each encoding, because Discord allows
/// five presences in 20 s.
fn presences_of_every_encoding_reach_discord(simulator: &Simulator, clients: &mut [Client]) {
    for (index, client) in clients.iter_mut().enumerate().step_by(3) {
        let name = format!("client {index} ü");
        // The number needs more precision than a float of 32 bits, which erlpack writes.
        let presence = json!({"status": "dnd", "afk": true, "since": 1_700_000_000_001u64, "activities": [{"name": name, "type": 0}]});
        client.gateway.send(3, &presence);
        wait_until("the presence", || {
            let found = simulator.shard_stats(0)["last_presence"].clone();
            if found == presence { Ok(()) } else { Err(found.to_string()) }
        });
        client.gateway.heartbeat(client.sequence - 2);
        assert_eq!(client.gateway.receive().expect("an ACK").op, 11, "{:?}", client.options);
    }
}

/// Each client loses 20 events, resumes on another connection, and gets them again.
fn all_resume_and_get_what_they_missed(proxy: &Proxy, simulator: &Simulator, clients: &mut [Client]) {
    simulator.emit(0, 20);
    for client in clients {
        let missed = client.events(20);
        client.gateway = Gateway::connect(proxy.address, client.options);
        client.gateway.resume(&client.session, client.sequence - 20);
        client.sequence -= 20;
        assert!(client.events(20) == missed, "{:?}", client.options);
        assert_eq!(client.event().0, "RESUMED");
    }
}

/// The resumed connections bring each client the events up to the newest message.
fn all_read_on_after_their_resume(simulator: &Simulator, clients: &mut [Client]) {
    simulator.mutate(0, 200);
    simulator.emit(0, 1);
    let last = simulator.last_number(0);
    for client in clients {
        let mut events = Vec::new();
        while number(&events) != Some(last) {
            events.push(client.event());
        }
        assert_eq!(client.gateway.packed > 0, packs(client.options), "{:?}: RESUME has no `compress`", client.options);
    }
}

/// The number of the newest message in the events.
fn number(events: &[(String, Value)]) -> Option<u64> {
    let (name, data) = events.last()?;
    let payload = Payload { op: 0, s: None, t: Some(name.clone()), d: data.to_string() };
    payload.number()
}

/// A session can resume in another encoding, because the encoding belongs to the connection.
#[test]
fn a_session_changes_its_encoding() {
    let directory = scratch("encodings_change");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({}));
    let mut gateway = Gateway::connect(proxy.address, Options { compress: true, ..Options::default() });
    gateway.identify(SHARD, INTENTS);
    let session = gateway.receive().expect("READY").data()["session_id"].as_str().expect("an id").to_owned();
    let mut sequence = 1;
    for _ in 0..simulator.guilds(0).len() {
        sequence = gateway.receive().expect("a guild").s.expect("a sequence");
    }
    for options in all() {
        gateway = Gateway::connect(proxy.address, options);
        gateway.resume(&session, sequence);
        let resumed = gateway.receive().expect("RESUMED");
        assert_eq!((resumed.t.as_deref(), resumed.s), (Some("RESUMED"), Some(sequence + 1)), "{options:?}");
        simulator.emit(0, 2);
        for number in 2..4 {
            assert_eq!(gateway.receive().expect("a message").s, Some(sequence + number), "{options:?}");
        }
        sequence += 3;
    }
}

#[test]
fn commands_that_are_no_terms_are_refused() {
    let directory = scratch("encodings_refused");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({}));
    let etf = Options { encoding: Encoding::Etf, ..Options::default() };
    let identify = json!({"op": 2, "d": {"token": TOKEN, "intents": INTENTS, "shard": SHARD, "properties": {}}});
    let identify = support::etf::write(&identify, support::etf::Style::Elixir);
    let atom_key = b"\x83t\0\0\0\x01s\x02opa\x01";
    // The term is short enough, but its JSON text is longer than Discord allows.
    let long = [&b"\x83t\0\0\0\x02m\0\0\0\x02opa\x08m\0\0\0\x01dk\x0f\x00"[..], &[200; 0xf00]].concat();
    let bad: [&[u8]; 7] = [b"", b"\x83", b"{\"op\":1}", b"\x82a\x01", atom_key, &long, &[131; 5000]];
    for identified in [false, true] {
        for bytes in bad {
            let mut gateway = Gateway::connect(proxy.address, etf);
            if identified {
                gateway.send_binary(&identify).expect("an open connection");
                assert_eq!(gateway.receive().expect("READY").t.as_deref(), Some("READY"));
            }
            gateway.send_binary(bytes).expect("an open connection");
            let (code, reason) = loop {
                match gateway.receive() {
                    Ok(_) => {}
                    Err(Gone::Closed(code, reason)) => break (code, reason),
                    Err(gone) => panic!("{gone:?} instead of a close"),
                }
            };
            assert_eq!(code, Some(4002), "{bytes:.9?}: {reason}");
            assert!(!reason.is_empty());
        }
    }
    // An ETF term on a connection with JSON.
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    gateway.send_binary(&identify).expect("an open connection");
    assert!(matches!(gateway.receive(), Err(Gone::Closed(Some(4002), _))));
    assert_eq!(simulator.stats()["violations"], json!([]));
}
