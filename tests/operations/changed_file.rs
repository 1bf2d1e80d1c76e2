//! The configuration file changes while the proxy runs, and the proxy reads it without being told.

use crate::{ask, start, status};
use serde_json::{Value, json};
use std::fs;
use support::{scratch_path, wait_until};

const NAME: &str = "changed_file";

/// How often the configuration was read again: well, and in vain.
fn reloads(address: std::net::SocketAddr) -> (u64, u64) {
    let metrics = ask(address, "GET", "/metrics", None).body;
    let count = |result: &str| {
        let series = format!("gateway_config_reloads_total{{result=\"{result}\"}} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&series)).expect("the series");
        value.parse().expect("a number")
    };
    (count("ok"), count("failed"))
}

#[test]
fn a_changed_file_is_read_and_a_wrong_one_is_reported_once() {
    let (simulator, proxy) = start(NAME, &json!({"reload_on_change": true, "log_level": "info"}));
    let directory = scratch_path(NAME);
    let path = directory.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).expect("the file")).expect("JSON");
    let wait_for = |expected: (u64, u64)| {
        wait_until("the file to be read", || match reloads(proxy.address) {
            counts if counts == expected => Ok(()),
            other => Err(format!("{other:?}")),
        });
    };
    // As editors do it: the new file gets another name first.
    config["status"] = json!("dnd");
    fs::write(directory.join("config.new"), config.to_string()).expect("writing the file");
    fs::rename(directory.join("config.new"), &path).expect("renaming the file");
    wait_for((1, 0));
    wait_until("the presence", || match &simulator.shard_stats(0)["last_presence"]["status"] {
        status if status == "dnd" => Ok(()),
        other => Err(other.to_string()),
    });
    // In place, and wrong: that is reported once.
    fs::write(&path, &config.to_string()[1..]).expect("writing the file");
    wait_for((1, 1));
    config["status"] = json!("idle");
    fs::write(&path, config.to_string()).expect("writing the file");
    wait_until("the presence", || match &simulator.shard_stats(0)["last_presence"]["status"] {
        status if status == "idle" => Ok(()),
        other => Err(other.to_string()),
    });
    assert_eq!(status(proxy.address)["states"]["active"], 2);
    wait_for((2, 1));
}
