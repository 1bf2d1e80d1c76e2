//! The subcommands `status` and `check`: their output and their exit codes.

use crate::{HTTP_TOKEN, WORLD, client, run, start, text};
use serde_json::{Value, json};
use std::{fs, process::Command};
use support::{Proxy, Simulator, TOKEN, Transport, free_port, scratch, scratch_path, wait_until};

#[test]
fn status_shows_the_running_proxy() {
    let (simulator, proxy) = start("command_status", &json!({"http_token": HTTP_TOKEN}));
    let _client = client(&proxy, (1, 2), Transport::None);
    let directory = scratch_path("command_status");
    let output = run(&directory, &["status"]);
    let table = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(table.contains(": 2 of 2 shards active\n"), "{table}");
    assert!(table.contains("IDENTIFY: 998 of 1000 left, 2 at a time, 0 waiting"), "{table}");
    assert!(table.contains("data core 0 on CPU "), "{table}");
    assert!(table.contains("to 1 clients") && table.contains("guilds 8"), "{table}");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let row = rows.iter().find(|row| row.first() == Some(&"1")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(row[1], "active", "{table}");
    assert!(!table.contains(TOKEN) && !table.contains(HTTP_TOKEN));
    let output = run(&directory, &["status", "--json"]);
    let document: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(document["states"]["active"], 2);
    // The exit code is 3 while a shard is not active.
    simulator.fault("drop?shard=0&code=4014");
    let table = wait_until("a shard that is closed for good", || {
        let output = run(&directory, &["status"]);
        let table = text(&output.stdout).to_owned();
        if output.status.code() == Some(3) { Ok(table) } else { Err(table) }
    });
    let rows: Vec<&str> = table.lines().filter(|line| line.contains(" fatal ") || line.contains(" active ")).collect();
    assert!(rows.len() == 2 && rows[0].contains("fatal"), "what is wrong comes first: {table}");
}

#[test]
fn a_proxy_that_can_not_be_asked_is_named_with_what_to_do() {
    let (_simulator, proxy) = start("command_token", &json!({"http_token": HTTP_TOKEN}));
    let elsewhere = scratch("command_elsewhere");
    let url = format!("http://{}", proxy.address);
    let fails = |code: i32, arguments: &[&str], expected: &str| {
        let output = run(&elsewhere, arguments);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        assert!(err.contains(expected), "{arguments:?}: {err}");
    };
    fails(2, &["status"], "config.json: can not be read");
    fails(
        1,
        &["status", "--url", &url],
        "wants an `http_token`: name its configuration with --config, or set HTTP_TOKEN",
    );
    fails(1, &["reload", "--url", &url], "send SIGHUP");
    fails(2, &["shard", "0", "reconnect", "on", "--url", &url], "belong to `trace`");
    fails(2, &["status", "--url", "ftp://x"], "expected http://HOST:PORT");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    fails(1, &["status", "--url", &nobody], "no proxy answers at");
    // With the token in the environment the subcommand needs no configuration.
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
    let output = command
        .args(["status", "--json", "--url", &url])
        .current_dir(&elsewhere)
        .env("HTTP_TOKEN", HTTP_TOKEN)
        .output()
        .expect("a program that runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for (arguments, expected) in
        [(&["shard", "17"][..], "<ACTION>"), (&["shard", "x", "identify"], "x"), (&["explode"], "explode")]
    {
        let output = run(&elsewhere, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
}

fn check(name: &str, config: &Value, token: &str) -> (Option<i32>, String) {
    let directory = scratch(name);
    fs::write(directory.join("config.json"), config.to_string()).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
    let output = command.arg("check").current_dir(directory).env("TOKEN", token).output().expect("a program that runs");
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

#[test]
fn check_asks_discord_and_the_machine() {
    let options = "--shards 40 --max-concurrency 2 --guilds 8 --members 10 --rate 0 --remaining 30";
    let simulator = Simulator::start(&scratch("command_check_sim"), options);
    let discord = simulator.address.to_string();
    let good = json!({"intents": 513, "host": "127.0.0.1", "twilight_http_proxy": discord, "cores": 1, "control_core": 0,
                      "cache": {"channels": true, "current_member": true, "members": true}});
    let (code, said) = check("command_check", &good, TOKEN);
    assert_eq!(code, Some(0), "{said}");
    for expected in [
        "configuration    right".to_owned(),
        "io_uring         usable".to_owned(),
        format!("REST             {discord} is 127.0.0.1"),
        "token            accepted by Discord".to_owned(),
        "shards           0 to 39 of 40; Discord recommends 40".to_owned(),
        "data core 0      CPU ".to_owned(),
        ", 40 shards".to_owned(),
        "IDENTIFY budget  30 of 1000 left, renewed in ".to_owned(),
        ", 2 at a time".to_owned(),
        // 40 shards at two in 5.2 s need 20 turns, of which the first has no wait.
        "start            1 min 39 s for 40 shards without state files".to_owned(),
        // Members are 69 bytes each, and the simulator says how many guilds there are.
        " for 8 guilds of this proxy (8 of the bot, says Discord) with 200 members each, 30 % of them not offline"
            .to_owned(),
        "                 channels         ".to_owned(),
        "                 members          107.8 KiB, 69 bytes a member".to_owned(),
        "                 events           0 to 640.0 MiB".to_owned(),
        "locked memory    ".to_owned(),
        "warning          30 IDENTIFYs are left and 40 shards would need one".to_owned(),
        "warning          `state_dir` is missing: each restart of the proxy costs 40 of 1000 IDENTIFYs a day"
            .to_owned(),
        "warning          `cache.members` is true without the intent GUILD_MEMBERS".to_owned(),
    ] {
        assert!(said.contains(&expected), "{expected} in\n{said}");
    }
    assert!(!said.contains(TOKEN));
    assert_eq!(simulator.identifies(), 0, "nothing was spent");
    let (code, said) = check("command_check_token", &good, "wrong");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("token            ERROR: Discord refuses it (401)"), "{said}");
    let mut away = good.clone();
    away["twilight_http_proxy"] = format!("127.0.0.1:{}", free_port()).into();
    let (code, said) = check("command_check_away", &away, TOKEN);
    assert_eq!((code, said.contains("/gateway/bot     ERROR: GET http://127.0.0.1")), (Some(1), true), "{said}");
    away["twilight_http_proxy"] = "name.invalid:80".into();
    let (code, said) = check("command_check_name", &away, TOKEN);
    assert_eq!((code, said.contains("name.invalid:80 can not be resolved")), (Some(1), true), "{said}");
    away["shards"] = "x".into();
    let (code, said) = check("command_check_wrong", &away, TOKEN);
    assert_eq!((code, said.contains("`shards` is \"x\"")), (Some(2), true), "{said}");
}

/// The command line without subcommands still works.
#[test]
fn a_subcommand_is_no_need() {
    let directory = scratch("command_old");
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, &json!({}));
    proxy.stop();
    let output = run(&directory, &["--check-config", "--config", "config.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).starts_with("the configuration is right\n"));
}
