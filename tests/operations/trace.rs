//! The trace of one shard's payloads, and lines of the log that repeat.

use crate::{HTTP_TOKEN, ask, client, run, start, text};
use serde_json::{Value, json};
use std::fs;
use support::{TOKEN, Transport, scratch_path, wait_until};

/// The complete lines of the proxy's log, which is JSON.
fn lines(name: &str) -> Vec<Value> {
    let path = scratch_path(name).join("gateway-proxy.log");
    let log = fs::read_to_string(path).expect("the log");
    let complete = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    complete.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))).collect()
}

fn traced(name: &str) -> Vec<Value> {
    lines(name).into_iter().filter(|line| line["target"] == "gateway_proxy::trace").collect()
}

#[test]
fn the_payloads_of_one_shard_are_written_without_secrets() {
    const NAME: &str = "trace";
    let (simulator, proxy) = start(NAME, &json!({"http_token": HTTP_TOKEN, "log_format": "json", "log_level": "info"}));
    let directory = scratch_path(NAME);
    let _clients = [0, 1].map(|shard| client(&proxy, (shard, 2), Transport::None));
    simulator.emit(1, 1);
    assert_eq!(ask(proxy.address, "POST", "/admin/shards/1/trace/on", None).status, 401);
    let output = run(&directory, &["shard", "1", "trace", "on"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), "shard 1 is traced in the proxy's log\n");
    // The core may handle the events of a shard before the message of the control core.
    wait_until("a traced event", || {
        for shard in 0..2 {
            simulator.emit(shard, 1);
            simulator.dispatch(
                shard,
                "INTERACTION_CREATE",
                r#"{"token":"of an interaction","data":{"custom_id":"x"}}"#,
            );
        }
        let all = traced(NAME);
        if all.iter().any(|line| line["message"].as_str().is_some_and(|text| text.contains("INTERACTION_CREATE"))) {
            Ok(())
        } else {
            Err(format!("{all:?}"))
        }
    });
    // A new connection is a RESUME, which has the bot's token and the session id.
    simulator.fault("drop?shard=1&code=4000");
    let resume = wait_until("the RESUME", || {
        let all = traced(NAME);
        all.into_iter()
            .find(|line| {
                line["way"] == "sent" && line["message"].as_str().is_some_and(|text| text.contains("\"op\":6"))
            })
            .ok_or_else(|| "it is not there".to_owned())
    });
    let shown: Value =
        serde_json::from_str(resume["message"].as_str().expect("a text")).expect("a short payload is JSON");
    assert_eq!((&shown["d"]["token"], &shown["d"]["session_id"]), (&json!("…"), &json!("…")));
    for line in traced(NAME) {
        let text = line.to_string();
        assert_eq!(line["shard"], 1, "{text}");
        assert!(!text.contains(TOKEN) && !text.contains("of an interaction") && text.len() < 4000, "{text}");
    }
    let output = run(&directory, &["shard", "1", "trace", "off"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for arguments in [&["shard", "1", "trace"][..], &["shard", "1", "reconnect", "on"]] {
        assert_eq!(run(&directory, arguments).status.code(), Some(2), "{arguments:?}");
    }
    // The payloads of later connections are not traced. The line about the loss of the third one follows them in the log.
    let resumes = |all: &[Value]| all.iter().filter(|line| line["message"].to_string().contains(r#"\"op\":6"#)).count();
    for number in 2..=3 {
        simulator.fault("drop?shard=1&code=4000");
        wait_until("the next RESUME", || match simulator.shard_stats(1)["resumes"].as_u64() {
            Some(resumes) if resumes >= number => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    wait_until("the loss of the third connection", || {
        let losses = |line: &&Value| {
            line["message"].as_str().is_some_and(|text| text.contains("lost its connection to Discord"))
        };
        let count = lines(NAME).iter().filter(losses).count();
        if count >= 3 { Ok(()) } else { Err(format!("{count}")) }
    });
    assert_eq!(resumes(&traced(NAME)), 1);
}
