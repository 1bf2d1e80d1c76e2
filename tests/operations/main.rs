//! What operators use: the live page (`page`), metrics (`metrics`), the command line (`command_line`) and its
//! subcommands (`commands`), reading the configuration again (`reload`), repairing a shard (`repair`), events and
//! compression that clients do not get (`wire`), several proxies of one bot (`queue`), the log (`logs`), the CPUs of the
//! threads (`cores`), and what Discord sends that can not be read (`unreadable`).

mod alerts;
mod browser;
mod changed_file;
mod command_line;
mod commands;
mod cores;
mod dashboard;
mod images;
mod install;
mod kubernetes;
mod licences;
mod logs;
mod metrics;
mod page;
mod queue;
mod reload;
mod repair;
mod service;
mod trace;
mod unreadable;
mod wire;

use serde_json::Value;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output},
    time::Duration,
};
use support::{Gateway, Proxy, Simulator, TOKEN, scratch};

/// A token for the routes of operators.
const HTTP_TOKEN: &str = "token-of-the-operator-0123456789";
/// All intents of the proxy in these tests.
const INTENTS: u64 = 53_608_447;

/// A small world without traffic.
const WORLD: &str =
    "--shards 2 --max-concurrency 2 --identify-interval-ms 100 --guilds 8 --members 10 --seed 3 --rate 0";

/// Starts the simulator with [`WORLD`], and a proxy in front of it.
fn start(name: &str, changes: &Value) -> (Simulator, Proxy) {
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = Proxy::start(&directory, &simulator, changes);
    (simulator, proxy)
}

/// An HTTP response: status, header, body.
struct Answer {
    status: u16,
    header: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends one request, with the Bearer token if there is one.
fn ask(address: SocketAddr, method: &str, path: &str, token: Option<&str>) -> Answer {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    let (header, body) = text.split_once("\r\n\r\n").expect("a header");
    let status = header.strip_prefix("HTTP/1.1 ").and_then(|rest| rest[..3].parse().ok()).expect("a status");
    Answer { status, header: header.to_owned(), body: body.to_owned() }
}

/// The document of `/status.json`, requested without a token.
fn status(address: SocketAddr) -> Value {
    let answer = ask(address, "GET", "/status.json", None);
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

/// A client that says that it is discord.py. It has got READY and all guilds.
fn client(proxy: &Proxy, shard: (u32, u32), options: impl Into<support::Options>) -> Gateway {
    let mut gateway = Gateway::connect(proxy.address, options);
    let properties = serde_json::json!({"os": "linux", "browser": "discord.py", "device": "discord.py"});
    let identify =
        serde_json::json!({"token": TOKEN, "intents": INTENTS, "shard": [shard.0, shard.1], "properties": properties});
    gateway.send(2, &identify);
    let ready = gateway.receive().expect("READY");
    assert_eq!(ready.t.as_deref(), Some("READY"));
    for _ in 0..ready.data()["guilds"].as_array().expect("guilds").len() {
        assert_eq!(gateway.receive().expect("a guild").t.as_deref(), Some("GUILD_CREATE"));
    }
    gateway
}

/// Runs a subcommand in a directory that has the proxy's configuration.
fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"));
    command.args(arguments).current_dir(directory).env_remove("TOKEN").env_remove("HTTP_TOKEN");
    command.output().expect("a program that runs")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}
