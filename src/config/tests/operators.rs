//! Tests of the keys for operators and of reading a changed file.

use super::*;
use crate::protocol::event::EventKind;

#[test]
fn keys_for_operators_are_read() {
    let (config, warnings) = with(
        r#","host":"0.0.0.0","http_token":"0123456789abcdef","client_compression":false,"events":{"deny":["TYPING_START"]},"watchdog":"reconnect""#,
    )
    .unwrap();
    assert_eq!(warnings, Vec::<String>::new());
    assert!(config.http_token.unwrap().matches("0123456789abcdef"));
    assert!(!config.client_compression);
    assert_eq!(config.watchdog, Watchdog::Reconnect);
    assert!(config.denied.covers(EventKind::TypingStart, b"TYPING_START"));
    let (config, _) = with("").unwrap();
    assert!(config.http_token.is_none() && config.client_compression && config.denied == Denied::default());
    assert_eq!((config.watchdog, with(r#","watchdog":"off""#).unwrap().0.watchdog), (Watchdog::Warn, Watchdog::Off));
}

#[test]
fn errors_name_key_and_expectation_and_never_the_token() {
    for (keys, expected) in [
        (r#","events":["TYPING_START"]"#, "`events` is [\"TYPING_START\"], expected an object such as"),
        (r#","events":{"deny":"TYPING_START"}"#, "`events.deny` is \"TYPING_START\", expected a list of event types"),
        (r#","events":{"deny":["typing"]}"#, "`events.deny` is \"typing\", expected a list of event types"),
        (
            r#","events":{"deny":["READY"]}"#,
            "`events.deny` is \"READY\", expected event types that clients can do without",
        ),
        (r#","client_compression":"no""#, "`client_compression` is \"no\", expected true or false"),
        (r#","http_token":"short""#, "`http_token` is the given value, expected 16 to 256 letters"),
        (r#","http_token":"0123456789 abcdef""#, "`http_token` is the given value"),
        (r#","log_format":"xml""#, "`log_format` is \"xml\", expected \"text\" or \"json\""),
        (
            r#","shard_group":{"index":0,"of":2},"shard_end":1"#,
            "`shard_start` and `shard_end` must not be set beside it",
        ),
        (r#","prefetch_members":true"#, "`prefetch_members` is true, expected `cache.members` to be true"),
        (r#","prefetch_members":true,"cache":{"members":true}"#, "expected `intents` with GUILD_MEMBERS (2)"),
        (r#","prefetch_members":1"#, "`prefetch_members` is 1, expected true or false"),
        (r#","watchdog":true"#, "`watchdog` is true, expected \"warn\", \"reconnect\" or \"off\""),
        (r#","watchdog":"on""#, "`watchdog` is \"on\", expected \"warn\", \"reconnect\" or \"off\""),
        (r#","http_token":true"#, "`http_token` is the given value"),
    ] {
        let error = error(keys);
        assert!(error.contains(expected), "{keys}: {error}");
        assert!(!error.contains("0123456789 abcdef") && !error.contains("short"), "{error}");
    }
}

#[test]
fn a_misspelt_event_type_is_warned_of() {
    let (config, warnings) = with(r#","host":"::1","events":{"deny":["TYPING_STRT"],"allow":[]}"#).unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("`events.deny` names TYPING_STRT"), "{warnings:?}");
    assert!(warnings[1].contains("unknown key `events.allow`"), "{warnings:?}");
    assert!(config.denied.covers(EventKind::Other, b"TYPING_STRT"));
}

#[test]
fn an_open_port_without_a_token_is_warned_of() {
    for (keys, warned) in [
        (r#","host":"0.0.0.0""#, true),
        (r#","host":"192.0.2.1""#, true),
        ("", true),
        (r#","host":"127.0.0.1""#, false),
        (r#","host":"::1""#, false),
        (r#","host":"0.0.0.0","http_token":"0123456789abcdef""#, false),
    ] {
        let (_, warnings) = with(keys).unwrap();
        assert_eq!(warnings.iter().any(|warning| warning.contains("`http_token`")), warned, "{keys}: {warnings:?}");
    }
}

/// Every key that the reader knows is in one of the two lists of differences, and only there.
#[test]
fn each_key_holds_at_once_or_needs_a_restart() {
    let changes = [
        r#""token":"other""#,
        r#""intents":1"#,
        r#""log_level":"warn""#,
        r#""activity":{"name":"x","type":0}"#,
        r#""status":"dnd""#,
        r#""backpressure":7"#,
        r#""resume_buffer":70000"#,
        r#""voice_grace":7"#,
        r#""voice_after_loss":"rejoin""#,
        r#""resume_window":7"#,
        r#""honor_client_intents":false"#,
        r#""events":{"deny":["TYPING_START"]}"#,
        r#""client_compression":false"#,
        r#""http_token":"0123456789abcdef""#,
        r#""watchdog":"off""#,
        r#""reload_on_change":false"#,
        r#""host":"127.0.0.2""#,
        r#""port":1"#,
        r#""log_format":"json""#,
        r#""shard_group":{"index":0,"of":2}"#,
        r#""identify_queue":"http://queue""#,
        r#""shards":8"#,
        r#""shard_start":1"#,
        r#""shard_end":3"#,
        r#""validate_token":false"#,
        r#""twilight_http_proxy":"a:1""#,
        r#""rest_proxy":"a:1""#,
        r#""rest_proxy_without_token":true"#,
        r#""trust_network":true"#,
        r#""allowed_origins":["https://a"]"#,
        r#""allowed_hosts":["a"]"#,
        r#""externally_accessible_url":"ws://a""#,
        r#""cache":{}"#,
        r#""prefetch_members":true"#,
        r#""cores":2"#,
        r#""control_core":0"#,
        r#""upstream_compression":"none""#,
        r#""state_dir":"a""#,
        r#""trust_state_dir":true"#,
        r#""gateway_hosts":["discord.gg"]"#,
        r#""forward_opcodes":[44]"#,
        r#""client_memory":100000000"#,
        r#""client_memory_per_address":100000000"#,
        r#""clients":[{"name":"a","secret":"sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}]"#,
        r#""admin_listen":"127.0.0.1:9""#,
        r#""proxy_protocol_from":["10.0.0.0/8"]"#,
        r#""forwarded_for_from":["::1"]"#,
    ];
    let base = r#"{"token":"secret","intents":515,"shards":4,"host":"127.0.0.1","port":7878,"cache":{"members":true},
                   "externally_accessible_url":"ws://localhost:7878"}"#;
    let running = parse(base).unwrap().0;
    assert_eq!(running.differences(&running), Differences::default());
    for change in changes {
        let mut object: Map<String, Value> = serde_json::from_str(base).unwrap();
        let changed: Map<String, Value> = serde_json::from_str(&format!("{{{change}}}")).unwrap();
        let key = changed.keys().next().unwrap().clone();
        object.extend(changed);
        let new = parse(&Value::Object(object).to_string()).unwrap().0;
        let Differences { live, restart } = running.differences(&new);
        assert_eq!(live.iter().chain(&restart).collect::<Vec<_>>(), [&key], "{change}");
        let mut adopted = running.clone();
        adopted.adopt(&new);
        // Keys that were adopted do not differ any more; keys that need a restart still do.
        assert_eq!(adopted.differences(&new), Differences { live: Vec::new(), restart }, "{change}");
    }
}
