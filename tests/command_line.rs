//! The command line as a user meets it: what it prints, and how it ends.

mod support;

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output},
};

use support::scratch;

fn run(name: &str, config: &str, arguments: &[&str], token: Option<&str>) -> Output {
    let directory = scratch(name);
    fs::write(directory.join("config.json"), config).expect("a file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
    command.args(arguments).current_dir(directory).env_remove("TOKEN");
    command.envs(token.map(|token| ("TOKEN", token)));
    command.output().expect("a program that runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn a_good_configuration_is_summed_up_without_the_token() {
    let output = run("good", r#"{"intents":513,"shards":4,"prot":1}"#, &["--check-config"], Some("very-secret"));
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(out.contains("shards: 4") && out.contains("listen: 0.0.0.0:7878"), "{out}");
    assert!(err.contains("unknown key `prot`") && err.contains("`port`"), "{err}");
    assert!(!out.contains("very-secret") && !err.contains("very-secret"));
}

#[test]
fn a_bad_configuration_ends_with_2_and_says_why() {
    for (config, arguments, expected) in [
        (r#"{"intents":513}"#, &[][..], "`token` is missing, and so is the variable TOKEN"),
        (r#"{"intents":"x","token":"t"}"#, &["--check-config"], "config.json: `intents` is \"x\""),
        ("{", &[], "config.json: not JSON"),
        ("{}", &["--config", "elsewhere.json"], "elsewhere.json: can not be read"),
        (r#"{"intents":1,"token":"t","cores":[9999]}"#, &[], "config.json: `cores` names CPU 9999"),
        (r#"{"intents":1,"token":"t","log_level":"=="}"#, &[], "config.json: `log_level` is \"==\""),
    ] {
        let output = run("bad", config, arguments, None);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(expected), "{err}");
    }
}

#[test]
fn a_busy_port_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    let config = format!(r#"{{"intents":1,"token":"t","host":"127.0.0.1","port":{port}}}"#);
    let output = run("busy", &config, &[], None);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("127.0.0.1:{port} is in use")), "{err}");
}

#[test]
fn help_and_version() {
    let help = text(&run("help", "{}", &["--help"], None).stdout);
    for part in ["--config", "--check-config", "Examples:", "Exit codes:"] {
        assert!(help.contains(part), "{help}");
    }
    let version = text(&run("version", "{}", &["--version"], None).stdout);
    assert_eq!(version.trim(), concat!("gateway-proxy ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_example_is_right() {
    let example = fs::read_to_string(support::root().join("config/config.example.json")).expect("the example");
    let output = run("example", &example, &["--check-config"], Some("t"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "", "no warning");
}
