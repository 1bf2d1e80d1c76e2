//! Voice through the proxy, up to a complete connection to the simulator's voice server, which refuses what Discord
//! refuses: one owner for each guild, bots that restart, restarts of the proxy, and changes that Discord makes.

use std::{net::TcpListener, process::Command, thread, time::Duration};

use serde_json::{Value, json};
use support::{
    Credentials, Gateway, Options, Payload, Proxy, Simulator, Transport, Voice, free_port, get, scratch, wait_until,
};

const WORLD: &str = "--shards 1 --identify-interval-ms 100 --guilds 3 --members 20 --seed 4 --rate 0";
const INTENTS: u64 = 53_608_447;
/// The close code for a session that is not in the channel, or no longer.
const NO_LONGER_VALID: u16 = 4006;
/// The close code of a voice connection after the bot has left its channel.
const DISCONNECTED: u16 = 4014;

/// A guild and two of its voice channels.
struct Place {
    guild: String,
    channels: [String; 2],
}

fn place(simulator: &Simulator) -> Place {
    let found = simulator.guilds(0).into_keys().find_map(|guild| {
        let truth = simulator.guild(&guild);
        let channels = truth["channels"].as_array()?.iter().filter(|channel| channel["type"] == 2);
        let mut ids = channels.map(|channel| channel["id"].as_str().expect("an id").to_owned());
        Some(Place { guild, channels: [ids.next()?, ids.next()?] })
    });
    found.expect("a guild with two voice channels")
}

/// A client that behaves like a library: it keeps the bot's own voice states that it has been sent.
struct Client {
    gateway: Gateway,
    session: String,
    resume_url: String,
    user: String,
    sequence: u64,
    /// The bot's own voice states from GUILD_CREATE and VOICE_STATE_UPDATE, in order: guild and channel.
    states: Vec<(String, Option<String>)>,
    /// Data of each VOICE_SERVER_UPDATE.
    servers: Vec<Value>,
    /// Session id in the newest own voice state.
    voice_session: String,
}

impl Client {
    fn identify(proxy: &Proxy) -> Self {
        let mut gateway = Gateway::connect(proxy.address, Transport::None);
        gateway.identify((0, 1), INTENTS);
        let ready = gateway.receive().expect("READY").data();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let mut client = Self {
            gateway,
            session: text(&ready["session_id"]),
            resume_url: text(&ready["resume_gateway_url"]),
            user: text(&ready["user"]["id"]),
            sequence: 1,
            states: Vec::new(),
            servers: Vec::new(),
            voice_session: String::new(),
        };
        for _ in ready["guilds"].as_array().expect("guilds") {
            client.next();
        }
        client
    }

    fn next(&mut self) -> Payload {
        let payload = self.gateway.receive().expect("a payload");
        let Some(sequence) = payload.s else { return payload };
        assert_eq!(sequence, self.sequence + 1, "numbers without gaps");
        self.sequence = sequence;
        let data = payload.data();
        let mut own = |guild: &Value, state: &Value| {
            if state["user_id"] == *self.user {
                let channel = state["channel_id"].as_str().map(str::to_owned);
                self.states.push((guild.as_str().expect("an id").to_owned(), channel));
                self.voice_session = state["session_id"].as_str().expect("a session").to_owned();
            }
        };
        match payload.t.as_deref() {
            Some("VOICE_STATE_UPDATE") => own(&data["guild_id"], &data),
            Some("GUILD_CREATE") => {
                data["voice_states"].as_array().expect("a list").iter().for_each(|state| own(&data["id"], state));
            }
            Some("VOICE_SERVER_UPDATE") => self.servers.push(data),
            _ => {}
        }
        payload
    }

    fn until(&mut self, mut enough: impl FnMut(&Payload) -> bool) -> Payload {
        loop {
            let payload = self.next();
            if enough(&payload) {
                return payload;
            }
        }
    }

    /// Reads until everything that Discord has sent so far has come.
    fn catch_up(&mut self, simulator: &Simulator) {
        let (_, last) = simulator.emit(0, 1);
        self.until(|payload| payload.number() == Some(last));
    }

    fn ask(&mut self, place: &Place, channel: Option<&String>) {
        let data = json!({"guild_id": place.guild, "channel_id": channel, "self_mute": false, "self_deaf": true});
        self.gateway.send(4, &data);
    }

    /// Joins a channel, waits for a voice server, and returns the credentials of a voice connection.
    fn join(&mut self, place: &Place, channel: &String) -> Credentials {
        let before = self.states.len();
        self.ask(place, Some(channel));
        self.server(place);
        let wanted = (place.guild.clone(), Some(channel.clone()));
        assert_eq!(self.states[before..], [wanted], "the asker sees itself come, and nothing else");
        self.credentials()
    }

    /// Waits for a VOICE_SERVER_UPDATE that has an endpoint.
    fn server(&mut self, place: &Place) {
        let update = |payload: &Payload| payload.t.as_deref() == Some("VOICE_SERVER_UPDATE");
        let data = self.until(|payload| update(payload) && !payload.data()["endpoint"].is_null()).data();
        assert_eq!(data["guild_id"], *place.guild);
    }

    /// The credentials from the newest voice state and voice server.
    fn credentials(&self) -> Credentials {
        let server = self.servers.last().expect("a voice server");
        let text = |key: &str| server[key].as_str().unwrap_or_default().to_owned();
        let (user, session) = (self.user.clone(), self.voice_session.clone());
        Credentials { guild: text("guild_id"), user, session, token: text("token"), endpoint: text("endpoint") }
    }

    /// Resumes at the URL of READY, and reads up to RESUMED.
    fn resume(&mut self, proxy: &Proxy) {
        let path = self.resume_url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        let target = format!("/{}?v=10&encoding=json", path.map_or("", |(_, path)| path));
        let connect = || Gateway::open_at(proxy.address, &target, Options::default(), b"").map_err(|e| e.to_string());
        self.gateway = wait_until("a connection", connect);
        assert_eq!(self.gateway.receive().expect("HELLO").op, 10);
        self.gateway.resume(&self.session, self.sequence);
        self.until(|payload| {
            assert_ne!(payload.op, 9, "the session has ended");
            payload.t.as_deref() == Some("RESUMED")
        });
    }

    fn channel(&self, place: &Place) -> Option<&String> {
        self.states.iter().rfind(|(guild, _)| *guild == place.guild).and_then(|(_, channel)| channel.as_ref())
    }
}

/// The guild's voice grant in `/sim/stats`.
fn grant(simulator: &Simulator, place: &Place) -> Option<Value> {
    let stats = simulator.stats();
    let guilds = stats["voice"]["guilds"].as_array().expect("a list");
    guilds.iter().find(|grant| grant["guild"] == *place.guild).cloned()
}

fn sent_op_4(simulator: &Simulator) -> u64 {
    simulator.shard_stats(0)["commands"]["4"].as_u64().unwrap_or(0)
}

/// Waits until a metric has a value. The values in `/metrics` can be one second old.
fn wait_for_metric(proxy: &Proxy, name: &str, expected: f64) {
    wait_until(name, || {
        let text = get(proxy.address, "/metrics")?.body;
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).ok_or("it is not there")?;
        if line.ends_with(&format!(" {expected}")) { Ok(()) } else { Err(line.to_owned()) }
    });
}

#[test]
fn a_client_is_connected_and_another_one_gets_no_token() {
    let directory = scratch("voice-connected");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let place = place(&simulator);
    let (mut client, mut other) = (Client::identify(&proxy), Client::identify(&proxy));
    let credentials = client.join(&place, &place.channels[0]);
    // Some libraries take the session id from READY. It is the same one, which is Discord's.
    assert_eq!(credentials.session, client.session);
    assert_eq!(simulator.shard_stats(0)["session_id"], *client.session);
    let mut voice = Voice::connect(&credentials).expect("a connection");
    voice.beat().expect("it stays");
    other.catch_up(&simulator);
    assert_eq!(other.channel(&place), Some(&place.channels[0]), "everyone sees the bot there");
    assert_eq!(other.servers, Vec::<Value>::new());
    // The voice server refuses the proxy's own session ids, invented tokens, and the old token after a change of the
    // channel.
    let forged = Credentials { session: other.session.clone(), ..credentials.clone() };
    assert_eq!(Voice::connect(&forged).err(), Some(NO_LONGER_VALID));
    let wrong = Credentials { token: "x".into(), ..credentials.clone() };
    assert_eq!(Voice::connect(&wrong).err(), Some(4004));
    client.join(&place, &place.channels[1]);
    assert_eq!(voice.closed(), DISCONNECTED);
    assert_eq!(Voice::connect(&credentials).err(), Some(NO_LONGER_VALID));
    Voice::connect(&client.credentials()).expect("a connection").beat().expect("it stays");
    client.ask(&place, None);
    client.until(|payload| payload.t.as_deref() == Some("VOICE_STATE_UPDATE"));
    assert_eq!(client.channel(&place), None);
    wait_for_metric(&proxy, "gateway_voice_connections", 0.0);
}

/// In one run the old process closes with 1000. In the other one it is killed, and could still resume.
#[test]
fn a_bot_that_restarts_gets_its_voice_back() {
    for goodbye in [true, false] {
        let directory = scratch(&format!("voice-restart-{goodbye}"));
        let simulator = Simulator::start(&directory, WORLD);
        let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
        let place = place(&simulator);
        let (mut old, mut other) = (Client::identify(&proxy), Client::identify(&proxy));
        let stale = old.join(&place, &place.channels[0]);
        let voice = Voice::connect(&stale).expect("a connection");
        let (session, url, sequence) = (old.session.clone(), old.resume_url.clone(), old.sequence);
        if goodbye {
            old.gateway.close(1000);
        } else {
            drop(old.gateway);
        }
        let mut new = Client::identify(&proxy);
        assert_eq!(
            new.channel(&place),
            Some(&place.channels[0]),
            "the bot is still in the channel, and the guild says so"
        );
        // The shard detects later that the old connection has ended.
        let credentials = new.join(&place, &place.channels[0]);
        assert_eq!(voice.closed(), DISCONNECTED);
        assert_eq!(Voice::connect(&stale).err(), Some(NO_LONGER_VALID), "the old token");
        Voice::connect(&credentials).expect("a connection").beat().expect("it stays");
        assert_eq!(credentials.session, new.session, "the id of READY is Discord's again");
        other.catch_up(&simulator);
        let all: Vec<_> = other.states.iter().map(|(_, channel)| channel.as_deref()).collect();
        assert_eq!(all, [Some(&*place.channels[0]); 2], "others see no flicker");
        assert_eq!(other.servers, Vec::<Value>::new());
        wait_for_metric(&proxy, "gateway_voice_takeovers_total", 1.0);
        if !goodbye {
            // The killed process was only disconnected. It is told that it has left the channel, and gets no token.
            let mut back = Client {
                gateway: Gateway::connect(proxy.address, Transport::None),
                session,
                resume_url: url,
                sequence,
                states: Vec::new(),
                servers: Vec::new(),
                user: new.user.clone(),
                voice_session: String::new(),
            };
            back.resume(&proxy);
            back.catch_up(&simulator);
            let all: Vec<_> = back.states.iter().map(|(_, channel)| channel.as_deref()).collect();
            assert_eq!(all, [None, Some(&*place.channels[0])]);
            assert_eq!(back.servers, Vec::<Value>::new());
            // Its library leaves the channel, which must not remove the new process.
            back.ask(&place, None);
            wait_for_metric(&proxy, "gateway_voice_refused_total", 1.0);
            assert_eq!(grant(&simulator, &place).expect("a voice server")["connected"], false, "the test has hung up");
        }
    }
}

#[test]
fn the_owner_keeps_its_voice_over_a_restart_of_the_proxy_and_of_the_connection_to_discord() {
    let directory = scratch("voice-proxy-restart");
    let simulator = Simulator::start(&directory, WORLD);
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = json!({"shards": 1, "state_dir": directory.join("state")});
    let proxy = Proxy::start_on(&socket, &directory, &simulator, &config);
    let place = place(&simulator);
    let mut other = Client::identify(&proxy);
    let mut client = Client::identify(&proxy);
    let credentials = client.join(&place, &place.channels[0]);
    let mut voice = Voice::connect(&credentials).expect("a connection");
    // Discord drops the connection of the shard.
    let (commands, resumes) = (sent_op_4(&simulator), simulator.resumes());
    simulator.drop_connection(0);
    wait_until("the shard to resume", || (simulator.resumes() > resumes).then_some(()).ok_or_else(String::new));
    client.catch_up(&simulator);
    voice.beat().expect("it stays");
    // The proxy restarts.
    proxy.stop();
    let proxy = Proxy::start_on(&socket, &directory, &simulator, &config);
    client.resume(&proxy);
    other.resume(&proxy);
    client.catch_up(&simulator);
    other.catch_up(&simulator);
    voice.beat().expect("it stays");
    assert_eq!(sent_op_4(&simulator), commands, "nobody had to ask again");
    assert_eq!((client.servers.len(), other.servers.len()), (1, 0));
    // The client is still the owner: it gets the new voice server.
    simulator.fault(&format!("voice-server?guild={}", place.guild));
    client.server(&place);
    assert_eq!(client.servers[1]["endpoint"], Value::Null, "first the old one goes");
    assert_eq!(voice.closed(), DISCONNECTED);
    Voice::connect(&client.credentials()).expect("a connection").beat().expect("it stays");
    other.catch_up(&simulator);
    assert_eq!(other.servers, Vec::<Value>::new());
    assert_eq!(client.channel(&place), Some(&place.channels[0]));
}

#[test]
fn moderators_move_the_bot_and_take_it_out() {
    let directory = scratch("voice-moved");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1}));
    let place = place(&simulator);
    let mut client = Client::identify(&proxy);
    let voice = Voice::connect(&client.join(&place, &place.channels[0])).expect("a connection");
    simulator.fault(&format!("voice-move?guild={}&channel={}", place.guild, place.channels[1]));
    client.server(&place);
    assert_eq!((voice.closed(), client.channel(&place)), (DISCONNECTED, Some(&place.channels[1])));
    let voice = Voice::connect(&client.credentials()).expect("a connection");
    simulator.fault(&format!("voice-move?guild={}", place.guild));
    client.until(|payload| payload.t.as_deref() == Some("VOICE_STATE_UPDATE"));
    assert_eq!((voice.closed(), client.channel(&place)), (DISCONNECTED, None));
    Voice::connect(&client.join(&place, &place.channels[1])).expect("a connection").beat().expect("it stays");
}

#[test]
fn a_channel_is_left_when_nobody_comes_back() {
    // Seconds, and long enough for a client on a busy machine to come back in time.
    const GRACE: u64 = 4;
    let directory = scratch("voice-grace");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1, "voice_grace": GRACE}));
    let place = place(&simulator);
    let mut client = Client::identify(&proxy);
    client.join(&place, &place.channels[0]);
    client.gateway.close(1000);
    wait_until("the bot to leave", || grant(&simulator, &place).map_or(Ok(()), |grant| Err(grant.to_string())));
    // A client that joins within `voice_grace` keeps the bot in the channel.
    let mut client = Client::identify(&proxy);
    assert_eq!(client.channel(&place), None);
    client.join(&place, &place.channels[0]);
    client.gateway.close(1000);
    let mut next = Client::identify(&proxy);
    next.join(&place, &place.channels[0]);
    let number = grant(&simulator, &place).expect("a voice server")["number"].clone();
    thread::sleep(Duration::from_secs(GRACE + 1));
    next.catch_up(&simulator);
    assert_eq!(grant(&simulator, &place).expect("a voice server")["number"], number);
}

#[test]
fn when_discords_session_is_lost_the_owner_is_told() {
    for after_loss in ["leave", "rejoin"] {
        let directory = scratch(&format!("voice-lost-{after_loss}"));
        let simulator = Simulator::start(&directory, WORLD);
        let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 1, "voice_after_loss": after_loss}));
        let place = place(&simulator);
        let mut client = Client::identify(&proxy);
        let stale = client.join(&place, &place.channels[0]);
        simulator.fault("lose?shard=0");
        client.until(|payload| payload.op == 9);
        assert_eq!(client.channel(&place), None, "told before the session ends");
        if after_loss == "rejoin" {
            wait_until("the channel to be joined again", || {
                grant(&simulator, &place).map(drop).ok_or_else(String::new)
            });
        }
        let mut client = Client::identify(&proxy);
        client.catch_up(&simulator);
        assert_eq!(client.channel(&place).is_some(), after_loss == "rejoin");
        assert_eq!(client.servers, Vec::<Value>::new(), "nobody gets what a new session was not given");
        assert_eq!(Voice::connect(&stale).err(), Some(NO_LONGER_VALID));
        Voice::connect(&client.join(&place, &place.channels[0])).expect("a connection").beat().expect("it stays");
    }
}

/// At most one connected client has Discord's session id. Whatever ids and URLs the libraries combine, no client gets
/// the session of another client.
#[test]
fn two_clients_resume_their_own() {
    let directory = scratch("voice-ids");
    let simulator = Simulator::start(&directory, WORLD);
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = json!({"shards": 1, "state_dir": directory.join("state")});
    let mut proxy = Proxy::start_on(&socket, &directory, &simulator, &config);
    let (mut first, mut second) = (Client::identify(&proxy), Client::identify(&proxy));
    let discords = simulator.shard_stats(0)["session_id"].as_str().expect("an id").to_owned();
    assert_eq!(first.session, discords);
    assert_ne!(second.session, discords);
    let key = first.resume_url.rsplit_once("/r/").expect("a key").1.to_owned();
    assert!(!second.resume_url.contains("/r/"), "{}", second.resume_url);
    // The clients resume at READY's URL, as most libraries do, or at the URL that they were first given, as py-cord and
    // serenity do.
    for bare in [false, true] {
        for restart in [false, true] {
            if restart {
                proxy.stop();
                proxy = Proxy::start_on(&socket, &directory, &simulator, &config);
            }
            for client in [&mut first, &mut second] {
                if bare {
                    client.resume_url = format!("ws://{}", proxy.address);
                }
                client.resume(&proxy);
                client.catch_up(&simulator);
            }
        }
    }
    let refused = |path: &str, session: &str, sequence: u64| {
        let target = format!("{path}?v=10&encoding=json");
        let mut gateway = Gateway::open_at(proxy.address, &target, Options::default(), b"").expect("a connection");
        gateway.receive().expect("HELLO");
        gateway.resume(session, sequence);
        assert_eq!(gateway.receive().expect("a refusal").op, 9, "{path} {session} {sequence}");
    };
    refused(&format!("/r/{key}"), "0123456789abcdef0123456789abcdef", 1);
    refused("/", &discords, u64::MAX);
    // The first process is killed, and the next one gets Discord's session id. The old session can still be resumed,
    // with a much higher sequence number. A RESUME without the key that could mean either session is refused.
    drop(first.gateway);
    let mut third = wait_until("a client with Discord's id", || {
        let client = Client::identify(&proxy);
        if client.session == discords { Ok(client) } else { Err("the old connection is not gone yet".into()) }
    });
    third.catch_up(&simulator);
    refused("/", &discords, third.sequence);
    first.gateway = Gateway::connect(proxy.address, Transport::None);
    first.resume(&proxy);
    third.catch_up(&simulator);
    first.resume_url = format!("ws://{}/r/{key}", proxy.address);
    first.resume(&proxy);
    third.resume(&proxy);
    second.resume(&proxy);
    for client in [&mut first, &mut second, &mut third] {
        client.catch_up(&simulator);
        client.gateway.heartbeat(client.sequence);
        assert_eq!(client.next().op, 11, "nobody took it over");
    }
}

#[test]
fn check_config_says_what_voice_states_cost() {
    let directory = scratch("voice-check-config");
    let check = |config: Value| {
        let path = directory.join("config.json");
        std::fs::write(&path, config.to_string()).expect("writing the config");
        let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
        let output = command.arg("--config").arg(&path).arg("--check-config").output().expect("it runs");
        assert!(output.status.success());
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let base = json!({"token": "t", "intents": INTENTS, "host": "127.0.0.1", "port": free_port()});
    let with = |key: &str, value: Value| {
        let mut config = base.clone();
        config[key] = value;
        config
    };
    assert!(check(base.clone()).contains("`cache.voice_states` is off"));
    let on = check(with("cache", json!({"voice_states": true})));
    assert!(on.contains("voice: a channel is kept for 120 s after its client is gone\n"), "{on}");
    assert!(check(with("intents", json!(1))).contains("voice: not possible"));
}
