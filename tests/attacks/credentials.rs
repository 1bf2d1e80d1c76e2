//! Clients with a secret of their own (config key `clients`) that try to see or do more than their credential permits.

use super::*;
use gateway_proxy::downstream::credential::SecretHash;
use std::{net::TcpListener, path::PathBuf, process::Command};
use support::{Gone, Payload, TOKEN, wait_until};

const TWO_SHARDS: &str =
    "--shards 2 --max-concurrency 2 --identify-interval-ms 100 --guilds 8 --members 10 --seed 3 --rate 0";
/// GUILDS and GUILD_MESSAGES.
const READING: u64 = 513;
/// The sequence number of the last of the four guilds of [`WORLD`]; READY has the number 1.
const SYNCED: u64 = 5;

fn credential(name: &str, secret: &str, rights: &Value) -> Value {
    let mut all = rights.clone();
    all["name"] = name.into();
    all["secret"] = SecretHash::of(secret).to_string().into();
    all
}

fn identify_on(gateway: &mut Gateway, token: &str, shard: (u32, u32)) {
    let data = json!({"token": token, "intents": INTENTS, "shard": [shard.0, shard.1], "properties": {}});
    gateway.send(2, &data);
}

/// Identifies with a token on a connection of its own. Returns the connection after READY, and READY.
fn ready(proxy: &Proxy, token: &str, shard: (u32, u32)) -> (Gateway, Value) {
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    identify_on(&mut gateway, token, shard);
    let ready = gateway.receive().expect("READY");
    assert_eq!(ready.t.as_deref(), Some("READY"));
    (gateway, ready.data())
}

/// What a client gets that identifies with a token and has no session.
fn refusal(proxy: &Proxy, token: &str, shard: (u32, u32)) -> Gone {
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    identify_on(&mut gateway, token, shard);
    gateway.receive().expect_err("a refusal")
}

fn code(gone: &Gone) -> Option<u16> {
    match gone {
        Gone::Closed(code, _) => *code,
        _ => None,
    }
}

/// As [`ready`], after all guilds: then the session can be resumed from [`SYNCED`].
fn synced(proxy: &Proxy, token: &str) -> (Gateway, Value) {
    let (mut gateway, ready) = ready(proxy, token, (0, 1));
    for _ in 0..ready["guilds"].as_array().expect("guilds").len() {
        guild(&mut gateway, None);
    }
    (gateway, ready)
}

/// The payload with which a RESUME after [`SYNCED`] is answered, or the code of the close.
fn resumed(proxy: &Proxy, token: &str, session: &str) -> Result<Payload, Option<u16>> {
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    gateway.send(6, &json!({"token": token, "session_id": session, "seq": SYNCED}));
    gateway.receive().map_err(|gone| code(&gone))
}

fn id_of(ready: &Value) -> String {
    ready["session_id"].as_str().expect("an id").to_owned()
}

/// Reads guilds until one with this id has come; any when `id` is `None`.
fn guild(gateway: &mut Gateway, id: Option<&str>) -> Value {
    loop {
        let payload = gateway.receive().expect("a guild");
        let data = payload.data();
        if payload.t.as_deref() == Some("GUILD_CREATE") && id.is_none_or(|id| data["id"] == id) {
            return data;
        }
    }
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// Replaces `clients` of the configuration, and makes the proxy read it.
fn reload(name: &str, proxy: &Proxy, clients: &Value) {
    const DONE: &str = "configuration read again (SIGHUP): clients";
    let path = directory(name).join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).expect("the file")).expect("JSON");
    config["clients"] = clients.clone();
    fs::write(path, config.to_string()).expect("writing the file");
    let before = log(name).matches(DONE).count();
    proxy.signal("HUP");
    wait_until("the reload", || if log(name).matches(DONE).count() > before { Ok(()) } else { Err(log(name)) });
}

fn labelled(proxy: &Proxy, name: &str, client: &str) -> f64 {
    metric(proxy, &format!("{name}{{client=\"{client}\"}}"))
}

fn counted(proxy: &Proxy, name: &str, client: &str, expected: f64) {
    wait_until(name, || match labelled(proxy, name, client) {
        value if value == expected => Ok(()),
        value => Err(format!("{value}")),
    });
}

/// The subcommand makes a secret that opens the gateway, and a hash that does not. Neither is in the log.
#[test]
fn a_secret_opens_the_gateway_and_its_hash_does_not() {
    let output = Command::new(env!("CARGO_BIN_EXE_gateway-proxy")).arg("secret").output().expect("a program that runs");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let words: Vec<&str> = text.split_whitespace().collect();
    let ["secret", secret, "hash", hash] = words[..] else { panic!("{text}") };
    assert!(output.status.success() && secret.len() >= 64, "{text}");
    let name = "secret_made";
    let clients = json!([{"name": "dashboard", "secret": hash}]);
    let (simulator, proxy) = start_with(name, &json!({"clients": clients, "log_level": "debug"}));
    for token in [secret.to_owned(), format!("Bot {secret}")] {
        let (mut gateway, _) = ready(&proxy, &token, (0, 1));
        let (first, _) = simulator.emit(0, 1);
        while gateway.receive().expect("an event").number() != Some(first) {}
    }
    bot_is_served(&simulator, &proxy, 1);
    for wrong in [hash, &hash["sha256:".len()..], &secret[..secret.len() - 1], "", "dashboard"] {
        assert_eq!(code(&refusal(&proxy, wrong, (0, 1))), Some(4004), "{wrong}");
    }
    counted(&proxy, "gateway_client_authentications_total", "dashboard", 2.0);
    assert!(metric(&proxy, "gateway_wrong_tokens_total") >= 5.0);
    let log = logged(name, "a client identifies");
    assert!(log.contains("dashboard"), "{log}");
    assert!(!log.contains(secret) && !log.contains(&hash["sha256:".len()..]), "{log}");
}

/// A library reads the number of shards before it identifies. Discord's API is not for clients with a secret.
#[test]
fn a_secret_reads_the_number_of_shards_and_nothing_else_by_http() {
    let api = TcpListener::bind("127.0.0.1:0").expect("a port");
    let clients = json!([credential("dashboard", "s3cret", &json!({}))]);
    let changes = json!({"clients": clients, "rest_proxy": api.local_addr().expect("an address").to_string()});
    let (_simulator, proxy) = start_with("secret_http", &changes);
    let asked = |path: &str, token: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bot {token}\r\n\r\n");
        ask(proxy.address, &request)
    };
    let bot = asked("/api/v10/gateway/bot", "s3cret");
    assert!(bot.starts_with("HTTP/1.1 200 ") && bot.contains("\"shards\":1"), "{bot}");
    assert!(asked("/api/v10/gateway/bot", "s3cre").starts_with("HTTP/1.1 401 "));
    let answer = asked("/api/v10/users/@me", "s3cret");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    api.set_nonblocking(true).expect("a socket option");
    assert!(api.accept().is_err(), "the request has reached Discord's API");
}

/// A client that only reads asks for everything. It gets what its credential has, also where the intents of other
/// clients are not honored.
#[test]
fn a_reader_sees_what_its_intents_select_and_sends_nothing() {
    for (name, honors) in [("reader_honored", true), ("reader_not_honored", false)] {
        let reader = credential("reader", "s3cret", &json!({"intents": READING, "ops": []}));
        let changes = json!({"clients": [reader], "honor_client_intents": honors});
        let (simulator, proxy) = start_with(name, &changes);
        let (mut bot, _) = ready(&proxy, TOKEN, (0, 1));
        let (mut reader, seen) = ready(&proxy, "s3cret", (0, 1));
        let count = seen["guilds"].as_array().expect("guilds").len();
        let (mut all, mut few) = (Vec::new(), Vec::new());
        for _ in 0..count {
            all.push(guild(&mut bot, None));
            few.push(guild(&mut reader, None));
        }
        let entries = |guilds: &[Value], key: &str| -> usize {
            guilds.iter().map(|guild| guild[key].as_array().expect("a list").len()).sum()
        };
        for key in ["members", "presences"] {
            assert!(entries(&all, key) > entries(&few, key), "{key}: {} {}", entries(&all, key), entries(&few, key));
        }
        assert_eq!((entries(&few, "presences"), entries(&few, "voice_states")), (0, 0));
        assert_eq!(entries(&few, "channels"), entries(&all, "channels"));
        // A guild that the bot joins while the client is connected.
        let joined = simulator.join_guild(0);
        let (whole, narrow) = (guild(&mut bot, Some(&joined)), guild(&mut reader, Some(&joined)));
        let list = |guild: &Value, key: &str| guild[key].as_array().expect("a list").clone();
        let mut shown: Vec<Value> = list(&whole, "voice_states").iter().map(|state| state["user_id"].clone()).collect();
        shown.push(seen["user"]["id"].clone());
        let (members, narrow_members) = (list(&whole, "members"), list(&narrow, "members"));
        let expected: Vec<&Value> = members.iter().filter(|member| shown.contains(&member["user"]["id"])).collect();
        assert_eq!(narrow_members.iter().collect::<Vec<_>>(), expected);
        assert!(narrow_members.len() < members.len(), "{whole}");
        assert_eq!((&narrow["presences"], &narrow["voice_states"]), (&json!([]), &json!([])));
        assert_eq!(narrow["channels"], whole["channels"]);
        // The events of other intents, and those that carry tokens with which a client could act as the bot.
        let (guild_id, user) = (&joined, "123456789012345678");
        simulator.dispatch(0, "TYPING_START", r#"{"channel_id":"1","user_id":"2","timestamp":3}"#);
        simulator.dispatch(0, "INTERACTION_CREATE", r#"{"id":"5","token":"an-interaction","type":2}"#);
        simulator.dispatch(
            0,
            "PRESENCE_UPDATE",
            &json!({"guild_id": guild_id, "user": {"id": user}, "status": "online", "activities": []}).to_string(),
        );
        let (first, _) = simulator.emit(0, 1);
        let until = |gateway: &mut Gateway| {
            let mut types = Vec::new();
            loop {
                let payload = gateway.receive().expect("an event");
                if payload.number() == Some(first) {
                    return types;
                }
                types.extend(payload.t);
            }
        };
        assert_eq!(until(&mut bot), ["TYPING_START", "INTERACTION_CREATE", "PRESENCE_UPDATE"]);
        assert_eq!(until(&mut reader), [""; 0]);
        // The commands of a client that only reads go nowhere, and the client stays connected.
        for (op, data) in [
            (3, json!({"activities": [], "status": "invisible", "afk": false, "since": null})),
            (4, json!({"guild_id": guild_id, "channel_id": "1", "self_mute": false, "self_deaf": false})),
            (8, json!({"guild_id": guild_id, "query": "", "limit": 0})),
            (31, json!({"guild_ids": [guild_id]})),
        ] {
            reader.send(op, &data);
        }
        reader.heartbeat(1);
        assert_eq!(reader.receive().expect("an acknowledgement").op, 11);
        counted(&proxy, "gateway_client_commands_refused_total", "reader", 4.0);
        bot.send(3, &json!({"activities": [], "status": "dnd", "afk": false, "since": null}));
        wait_until("the presence of the bot", || match &simulator.shard_stats(0)["last_presence"]["status"] {
            status if *status == "dnd" => Ok(()),
            status => Err(status.to_string()),
        });
        let commands = simulator.shard_stats(0)["commands"].clone();
        assert_eq!((&commands["3"], &commands["4"]), (&json!(1), &Value::Null), "{commands}");
        assert_eq!((&commands["8"], &commands["31"]), (&Value::Null, &Value::Null), "{commands}");
        counted(&proxy, "gateway_client_connections", "reader", 1.0);
        logged(name, "a client's command is not passed on, because its credential in `clients` does not permit it");
    }
}

/// Without the intent GUILD_MEMBERS a client may look members up, and may not request all of them.
#[test]
fn all_members_are_for_those_with_the_intent() {
    let looks = credential("looks", "one", &json!({"intents": READING, "ops": [8]}));
    let all = credential("all", "two", &json!({"intents": READING | 2, "ops": [8]}));
    let (_simulator, proxy) = start_with("members_credential", &json!({"clients": [looks, all]}));
    for (secret, nonces) in [("one", vec!["some"]), ("two", vec!["all", "some"])] {
        let (mut gateway, _) = ready(&proxy, secret, (0, 1));
        let one = guild(&mut gateway, None);
        let member = one["members"][0]["user"]["id"].clone();
        gateway.send(8, &json!({"guild_id": one["id"], "query": "", "limit": 0, "nonce": "all"}));
        gateway.send(8, &json!({"guild_id": one["id"], "user_ids": [member], "limit": 0, "nonce": "some"}));
        for nonce in nonces {
            let chunk = loop {
                let payload = gateway.receive().expect("members");
                if payload.t.as_deref() == Some("GUILD_MEMBERS_CHUNK") {
                    break payload.data();
                }
            };
            assert_eq!(chunk["nonce"], nonce, "{secret}");
        }
    }
    counted(&proxy, "gateway_client_commands_refused_total", "looks", 1.0);
    assert_eq!(labelled(&proxy, "gateway_client_commands_refused_total", "all"), 0.0);
}

/// A client may identify for the shards of its credential only.
#[test]
fn a_client_gets_the_shards_of_its_credential() {
    let name = "shards_credential";
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, TWO_SHARDS);
    let clients = json!([credential("second", "s3cret", &json!({"shards": [1, "7-9"]}))]);
    let proxy = Proxy::start(&directory, &simulator, &json!({"shards": 2, "log_level": "info", "clients": clients}));
    let gone = refusal(&proxy, "s3cret", (0, 2));
    assert!(matches!(&gone, Gone::Closed(Some(4010), reason) if reason.contains("does not cover")), "{gone:?}");
    let log = logged(name, "asks for a shard that its credential in `clients` does not cover");
    assert!(log.contains("second"), "{log}");
    let (_gateway, ready) = ready(&proxy, "s3cret", (1, 2));
    assert_eq!(ready["shard"], json!([1, 2]));
}

/// A client that knows the id of a session and has another secret can not take the session over. Only the bot gets
/// Discord's own id of the session, unless the credential is for voice, too.
#[test]
fn a_session_is_resumed_with_the_secret_that_began_it() {
    let clients = json!([credential("one", "first", &json!({"ops": []})), credential("other", "second", &json!({})),]);
    let (_simulator, proxy) = start_with("credential_sessions", &json!({"clients": clients}));
    let (one, of_one) = synced(&proxy, "first");
    let (bot, of_bot) = synced(&proxy, TOKEN);
    let (other, of_other) = synced(&proxy, "second");
    let is_own = |ready: &Value| !ready["resume_gateway_url"].as_str().expect("a URL").contains("/r/");
    assert!(is_own(&of_one) && !is_own(&of_bot) && is_own(&of_other), "only the bot has the id of Discord's session");
    let sessions = [("first", id_of(&of_one)), (TOKEN, id_of(&of_bot)), ("second", id_of(&of_other))];
    for gateway in [one, bot, other] {
        drop(gateway);
    }
    for (owner, session) in &sessions {
        for token in ["first", TOKEN, "second"].iter().filter(|token| *token != owner) {
            let answer = resumed(&proxy, token, session).expect("an answer");
            assert_eq!((answer.op, &*answer.d), (9, "false"), "{owner}'s session by {token}");
        }
        assert_eq!(resumed(&proxy, "wrong", session), Err(Some(4004)));
    }
    for (owner, session) in &sessions {
        let answer = resumed(&proxy, owner, session).expect("an answer");
        assert_eq!(answer.op, 0, "{owner}'s own session: {answer:?}");
    }
}

/// A reload closes the clients of a credential that is gone or has another secret, and tells those whose credential has
/// become narrower to start over. All others go on.
#[test]
fn a_credential_that_is_revoked_ends_its_sessions() {
    let name = "revoked_credential";
    let of = |names: &[(&str, &str, u64)]| {
        names
            .iter()
            .map(|(name, secret, intents)| credential(name, secret, &json!({"intents": intents})))
            .collect::<Value>()
    };
    let clients =
        of(&[("gone", "1", INTENTS), ("stays", "2", INTENTS), ("narrow", "3", INTENTS), ("new", "4", INTENTS)]);
    let (simulator, proxy) = start_with(name, &json!({"clients": clients}));
    let (mut bot, _) = ready(&proxy, TOKEN, (0, 1));
    let (mut gone, of_gone) = synced(&proxy, "1");
    let (mut stays, _) = ready(&proxy, "2", (0, 1));
    let (mut narrow, of_narrow) = ready(&proxy, "3", (0, 1));
    let (mut new, _) = ready(&proxy, "4", (0, 1));
    // A session without a connection, which the client could resume.
    let (detached, of_detached) = synced(&proxy, "1");
    drop(detached);
    wait_until("the end of its connection", || match metric(&proxy, "gateway_shard_sessions_detached{shard=\"0\"}") {
        1.0 => Ok(()),
        other => Err(format!("{other}")),
    });
    reload(name, &proxy, &of(&[("stays", "2", INTENTS), ("narrow", "3", READING), ("new", "5", INTENTS)]));
    let end = |gateway: &mut Gateway| loop {
        match gateway.receive() {
            Ok(payload) if payload.op == 9 => return Ok(payload.d),
            Ok(_) => {}
            Err(gone) => return Err(code(&gone)),
        }
    };
    assert_eq!(end(&mut gone), Err(Some(4004)));
    assert_eq!(end(&mut new), Err(Some(4004)), "its secret is another one now");
    assert_eq!(end(&mut narrow), Ok("false".to_owned()));
    for (token, session) in [("1", &of_gone), ("1", &of_detached), ("4", &of_gone)] {
        assert_eq!(resumed(&proxy, token, &id_of(session)), Err(Some(4004)), "{token}");
        assert_eq!(code(&refusal(&proxy, token, (0, 1))), Some(4004), "{token}");
    }
    // A session that is over stays over, also for a client with the bot's token.
    assert_eq!(resumed(&proxy, TOKEN, &id_of(&of_detached)).expect("an answer").op, 9);
    assert_eq!(resumed(&proxy, "3", &id_of(&of_narrow)).expect("an answer").op, 9);
    // The narrower client identifies on the connection that it has.
    identify_on(&mut narrow, "3", (0, 1));
    assert_eq!(narrow.receive().expect("READY").t.as_deref(), Some("READY"));
    assert_eq!(guild(&mut narrow, None)["presences"], json!([]));
    drop(ready(&proxy, "5", (0, 1)));
    let (first, _) = simulator.emit(0, 1);
    for gateway in [&mut bot, &mut stays, &mut narrow] {
        while gateway.receive().expect("an event").number() != Some(first) {}
    }
    wait_until("the end of its series", || {
        let metrics = get(proxy.address, "/metrics").expect("metrics").body;
        if metrics.contains("client=\"gone\"") { Err(metrics) } else { Ok(()) }
    });
    let closed = "gateway_shard_clients_closed_total{reason=\"revoked\",shard=\"0\"}";
    wait_until("the closes to be counted", || match metric(&proxy, closed) {
        2.0 => Ok(()),
        other => Err(format!("{other}")),
    });
    assert_eq!(simulator.identifies(), 1, "Discord has noticed nothing");
}

/// The state that one process leaves for the next one says whose each session is.
#[test]
fn a_restart_keeps_sessions_for_their_own_secrets() {
    let name = "credential_restart";
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let of = |clients: &[(&str, u64)]| {
        clients.iter().map(|(name, intents)| credential(name, name, &json!({"intents": intents}))).collect::<Value>()
    };
    let changes = |clients: &[(&str, u64)], port: u16| json!({"shards": 1, "log_level": "info", "state_dir": "state", "clients": of(clients), "port": port});
    let all = [("one", READING), ("two", READING), ("gone", READING)];
    let proxy = Proxy::start(&directory, &simulator, &changes(&all, support::free_port()));
    let port = proxy.address.port();
    let mut sessions = Vec::new();
    for secret in ["one", "two", "gone"] {
        let (gateway, ready) = synced(&proxy, secret);
        sessions.push((id_of(&ready), gateway));
    }
    proxy.stop();
    // Between the two processes the operator takes an intent from the second client.
    let proxy = Proxy::start(&directory, &simulator, &changes(&[("one", READING), ("two", 1)], port));
    let resume = |token: &str, session: &str| {
        let mut gateway = Gateway::connect(proxy.address, Transport::None);
        gateway.send(6, &json!({"token": token, "session_id": session, "seq": SYNCED}));
        (gateway.receive().map(|payload| (payload.op, payload.t)).map_err(|gone| code(&gone)), gateway)
    };
    assert_eq!(resume("two", &sessions[0].0).0, Ok((9, None)));
    assert_eq!(resume(TOKEN, &sessions[0].0).0, Ok((9, None)));
    assert_eq!(resume("gone", &sessions[2].0).0, Err(Some(4004)));
    assert_eq!(resume(TOKEN, &sessions[2].0).0, Ok((9, None)));
    assert_eq!(resume("two", &sessions[1].0).0, Ok((9, None)), "its session has more intents than it may have now");
    let (answer, mut gateway) = resume("one", &sessions[0].0);
    assert_eq!(answer, Ok((0, Some("RESUMED".to_owned()))));
    // Its rights are still those of the credential: these intents, interactions and commands.
    simulator.dispatch(0, "TYPING_START", r#"{"channel_id":"1","user_id":"2","timestamp":3}"#);
    simulator.dispatch(0, "INTERACTION_CREATE", r#"{"id":"5","token":"an-interaction","type":2}"#);
    assert_eq!(gateway.receive().expect("an event").t.as_deref(), Some("INTERACTION_CREATE"));
    simulator.emit(0, 1);
    assert_eq!(gateway.receive().expect("an event").t.as_deref(), Some("MESSAGE_CREATE"));
    gateway.send(3, &json!({"since": null, "activities": [], "status": "dnd", "afk": false}));
    wait_until("the presence", || match simulator.shard_stats(0)["last_presence"]["status"].as_str() {
        Some("dnd") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!((simulator.identifies(), simulator.resumes()), (1, 1));
}
