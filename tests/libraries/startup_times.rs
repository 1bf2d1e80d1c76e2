//! Sharded bots start through the proxy when only a URL is changed, and spend no IDENTIFY. `scripts/startup-times`
//! measures this with 64 shards, and fails when a bot does not start or an IDENTIFY is spent. This test runs the script
//! with two shards, without the bots that have long waits of their own.

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use support::{chosen, root, scratch};

/// The bots of the script, each with the library in tests/clients/ that it needs.
const BOTS: [(&str, &str); 4] = [
    ("jda", "jda"),
    ("discord.js", "discord.js"),
    ("hybrid-sharding", "discord.js"),
    ("discord.py-cluster", "discord.py"),
];

#[test]
fn sharded_bots_start_with_another_url_alone() {
    let bots: Vec<&str> = BOTS.iter().filter(|(_, library)| chosen(library)).map(|(bot, _)| *bot).collect();
    if bots.is_empty() {
        return;
    }
    let output = scratch("startup_times").join("result.json");
    let binaries = Path::new(env!("CARGO_BIN_EXE_gateway-proxy")).parent().expect("a directory");
    let run = Command::new(root().join("scripts/startup-times"))
        .args(["--shards", "2", "--identify-interval", "0", "--only", &bots.join(",")])
        .arg("--binaries")
        .arg(binaries)
        .arg("--output")
        .arg(&output)
        .output()
        .expect("running scripts/startup-times");
    assert!(run.status.success(), "{}: {}", run.status, String::from_utf8_lossy(&run.stderr));
    let result: Value = serde_json::from_slice(&fs::read(&output).expect("the result")).expect("JSON");
    let rows = result["results"].as_array().expect("rows");
    assert_eq!(rows.len(), bots.len());
    for row in rows {
        for key in ["direct", "url"] {
            assert!(row[key].as_f64().is_some_and(|seconds| seconds > 0.0), "{key} of {row}");
        }
    }
}
