//! Reading the configuration again while the proxy runs.

use crate::{HTTP_TOKEN, INTENTS, ask, client, run, start, status, text};
use serde_json::{Value, json};
use std::fs;
use support::{Gateway, Proxy, Transport, scratch_path, wait_until};

/// Changes keys of the configuration file; null removes a key.
fn change(name: &str, changes: &Value) {
    let path = scratch_path(name).join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).expect("the file")).expect("JSON");
    for (key, value) in changes.as_object().expect("an object") {
        config[key] = value.clone();
    }
    fs::write(path, config.to_string()).expect("writing the file");
}

fn log(name: &str) -> String {
    fs::read_to_string(scratch_path(name).join("gateway-proxy.log")).expect("the log")
}

fn wait_for_log(name: &str, what: &str) {
    wait_until(&format!("{what:?} in the log"), || {
        if log(name).contains(what) { Ok(()) } else { Err("it is not there".into()) }
    });
}

fn hang_up(proxy: &Proxy) {
    proxy.signal("HUP");
}

#[test]
fn a_signal_makes_what_can_change_change() {
    const NAME: &str = "reload_signal";
    let (simulator, proxy) = start(NAME, &json!({"log_level": "info"}));
    let mut gateway = client(&proxy, (0, 2), Transport::None);
    change(
        NAME,
        &json!({"status": "dnd", "activity": {"name": "shard {{shard}} anew", "type": 3}, "events": {"deny": ["TYPING_START"]},
                "log_level": "debug", "client_compression": false, "cores": 2}),
    );
    hang_up(&proxy);
    wait_for_log(NAME, "these keys have changed and need a restart: cores");
    assert!(
        log(NAME)
            .contains("configuration read again (SIGHUP): log_level, activity, status, events, client_compression")
    );
    // Each shard sends its new presence to Discord with op 3, without a new session.
    for shard in 0..2 {
        wait_until("the presence", || {
            let presence = &simulator.shard_stats(shard)["last_presence"];
            let name = format!("shard {shard} anew");
            if presence["status"] == "dnd" && presence["activities"][0]["name"] == name.as_str() {
                Ok(())
            } else {
                Err(presence.to_string())
            }
        });
    }
    assert_eq!(simulator.identifies(), 2);
    // A client that was connected before no longer gets the event.
    wait_until("the event to be denied", || {
        simulator.dispatch(0, "TYPING_START", r#"{"channel_id":"1","user_id":"2","timestamp":3}"#);
        match status(proxy.address)["totals"]["events_denied"].as_u64() {
            Some(1..) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    simulator.emit(0, 1);
    while gateway.receive().expect("an event").t.as_deref() != Some("MESSAGE_CREATE") {}
    // With the new log level the log has more lines.
    let mut late =
        Gateway::open_at(proxy.address, "/?v=10&encoding=json&compress=zlib-stream", Default::default(), b"")
            .expect("a connection");
    assert_eq!(late.receive().expect("HELLO as text, because compression is off now").op, 10);
    late.identify((1, 2), INTENTS);
    wait_for_log(NAME, "a client identifies");
    // A new session starts with the new presence.
    simulator.fault("invalid?shard=1&resumable=false");
    wait_until("the next IDENTIFY", || {
        let presence = &simulator.shard_stats(1)["last_identify"]["presence"];
        let name = &presence["activities"][0]["name"];
        if simulator.identifies() == 3 && name == "shard 1 anew" { Ok(()) } else { Err(presence.to_string()) }
    });
    assert_eq!(simulator.stats()["violations"], json!([]));
}

#[test]
fn a_broken_file_changes_nothing_and_is_reported() {
    const NAME: &str = "reload_broken";
    let (simulator, proxy) = start(NAME, &json!({}));
    let good = fs::read_to_string(scratch_path(NAME).join("config.json")).expect("the file");
    let broken = [
        ("{".to_owned(), "config.json: not JSON"),
        (good.replace("\"log_level\":\"debug\"", "\"log_level\":\"==\""), "`log_level` is \\\"==\\\""),
        (good.replace("\"cores\":1", "\"cores\":0,\"status\":\"dnd\""), "`cores` is 0, expected a number of cores"),
    ];
    for (number, (text_of_file, expected)) in broken.iter().enumerate() {
        fs::write(scratch_path(NAME).join("config.json"), text_of_file).expect("writing the file");
        let answer = ask(proxy.address, "POST", "/admin/reload", None);
        assert_eq!(answer.status, 422, "{}", answer.body);
        assert!(answer.body.contains(expected), "{expected}: {}", answer.body);
        hang_up(&proxy);
        wait_until("the signal to be heard", || {
            let count =
                log(NAME).matches("the new configuration was refused (SIGHUP), and nothing has changed").count();
            if count == number + 1 { Ok(()) } else { Err(format!("{count} times")) }
        });
    }
    fs::remove_file(scratch_path(NAME).join("config.json")).expect("removing the file");
    assert!(ask(proxy.address, "POST", "/admin/reload", None).body.contains("can not be read"));
    assert_eq!(simulator.shard_stats(0)["last_presence"]["status"], "online");
    assert_eq!(simulator.shard_stats(0)["commands"]["3"], Value::Null, "no presence was sent");
    let metrics = ask(proxy.address, "GET", "/metrics", None).body;
    assert!(metrics.contains("gateway_config_reloads_total{result=\"failed\"} 7"), "{metrics}");
    assert!(metrics.contains("gateway_config_reloads_total{result=\"ok\"} 0"), "{metrics}");
    client(&proxy, (0, 2), Transport::None);
}

#[test]
fn the_subcommand_says_what_came_of_it() {
    const NAME: &str = "reload_command";
    let (_simulator, proxy) = start(NAME, &json!({}));
    let reload = || {
        let output = run(&scratch_path(NAME), &["reload"]);
        (output.status.code(), text(&output.stdout).to_owned(), text(&output.stderr).to_owned())
    };
    let (code, out, err) = reload();
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out, "the configuration was read; no key that applies at once has changed\n");
    change(
        NAME,
        &json!({"backpressure": 500, "honor_client_intents": false, "resume_window": 60, "intents": 1, "prot": 1}),
    );
    let (code, out, err) = reload();
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(
        out,
        "these keys apply now: backpressure, resume_window, honor_client_intents\nthese keys need a restart: intents\n"
    );
    assert!(err.starts_with("warning: ") && err.contains("unknown key `prot`"), "{err}");
    // Keys that need a restart are named again until the restart.
    let (_, out, _) = reload();
    assert_eq!(
        out,
        "the configuration was read; no key that applies at once has changed\nthese keys need a restart: intents\n"
    );
    // Clients now get all events whatever their intents are: a client without intents gets GUILD_CREATE.
    let mut gateway = Gateway::connect(proxy.address, Transport::None);
    gateway.identify((0, 2), 0);
    let guilds = gateway.receive().expect("READY").data()["guilds"].as_array().expect("guilds").len();
    for _ in 0..guilds {
        assert_eq!(gateway.receive().expect("a guild").t.as_deref(), Some("GUILD_CREATE"));
    }
    // The routes for operators ask for the new token at once. After the next change the subcommand sends a token that
    // the process has not read.
    change(NAME, &json!({"http_token": HTTP_TOKEN}));
    let (code, out, err) = reload();
    assert_eq!((code, out.lines().next()), (Some(0), Some("these keys apply now: http_token")), "{err}");
    assert_eq!(ask(proxy.address, "GET", "/metrics", None).status, 401);
    assert_eq!(ask(proxy.address, "GET", "/metrics", Some(HTTP_TOKEN)).status, 200);
    change(NAME, &json!({"http_token": "another-token-of-the-operator"}));
    let (code, _, err) = reload();
    assert_eq!(code, Some(1));
    assert!(err.contains("If `http_token` itself has changed, send SIGHUP"), "{err}");
    hang_up(&proxy);
    wait_for_log(NAME, "configuration read again (SIGHUP): http_token");
    assert_eq!(ask(proxy.address, "GET", "/metrics", Some(HTTP_TOKEN)).status, 401);
    change(NAME, &json!({"status": "somewhere"}));
    let (code, _, err) = reload();
    assert_eq!((code, err.contains("`status` is \"somewhere\"")), (Some(2), true), "{err}");
}

#[test]
fn clients_need_a_restart_where_everybody_gets_in() {
    const NAME: &str = "reload_open";
    let (_simulator, proxy) = start(NAME, &json!({"validate_token": false}));
    let secret = format!("sha256:{}", "0".repeat(64));
    change(NAME, &json!({"validate_token": true, "clients": [{"name": "reader", "secret": secret}]}));
    let answer = ask(proxy.address, "POST", "/admin/reload", None);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(answer["needs_restart"], json!(["validate_token", "clients"]), "{answer}");
    // The credential is not in force: its metrics are missing.
    let metrics = ask(proxy.address, "GET", "/metrics", None).body;
    assert!(!metrics.contains("reader"), "{metrics}");
}
