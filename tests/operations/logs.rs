//! The log as JSON.

use crate::{client, start};
use serde_json::{Value, json};
use std::fs;
use support::{Transport, scratch_path, wait_until};

#[test]
fn each_line_is_an_object() {
    let (simulator, proxy) = start("log_json", &json!({"log_format": "json"}));
    let _client = client(&proxy, (1, 2), Transport::None);
    simulator.fault("drop?shard=0&code=4000");
    let path = scratch_path("log_json").join("gateway-proxy.log");
    let find = |message: &str| {
        wait_until(message, || {
            let text = fs::read_to_string(&path).expect("the log");
            // The last line may be incomplete while the proxy writes it.
            let lines: Vec<&str> = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).collect();
            let parsed = lines
                .iter()
                .map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error} in {line}")));
            let all: Vec<Value> = parsed.collect();
            for line in &all {
                for key in ["timestamp", "level", "target", "message"] {
                    assert!(line[key].is_string(), "{key} in {line}");
                }
            }
            all.into_iter()
                .find(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message)))
                .ok_or_else(|| "no such line".to_owned())
        })
    };
    let line = find("the shard lost its connection to Discord");
    assert_eq!((&line["level"], &line["code"]), (&json!("INFO"), &json!(4000)), "{line}");
    assert_eq!(line["shard"], 0, "{line}");
    let line = find("a client identifies");
    assert_eq!((&line["shard"], &line["library"]), (&json!(1), &json!("discord.py")), "{line}");
}
