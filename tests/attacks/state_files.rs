//! Attacks by other users of the machine, who change or plant state files.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use support::{free_port, wait_until};

fn config(directory: &Path, port: u16) -> Value {
    json!({"shards": 1, "port": port, "log_level": "info", "state_dir": directory.join("state")})
}

/// The directory, the simulator and the configuration of a proxy that has run and has left its state files.
fn stopped(name: &str) -> (std::path::PathBuf, Simulator, Value) {
    let directory = scratch(name);
    let simulator = Simulator::start(&directory, WORLD);
    let config = config(&directory, free_port());
    Proxy::start(&directory, &simulator, &config).stop();
    (directory, simulator, config)
}

/// An earlier version accepted a changed file with a matching checksum. Such a file could send the RESUME and its token
/// to any host.
#[test]
fn a_file_with_a_checksum_of_somebody_else_is_ignored() {
    let (directory, simulator, config) = stopped("edited_state");
    let path = directory.join("state/shard-0.state");
    let mut bytes = fs::read(&path).expect("a state file");
    assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o777, 0o600);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // An attacker without the token can compute only the old, unkeyed checksum of the changed file.
    let mut sum = flate2::Crc::new();
    sum.update(&bytes[..bytes.len() - 4]);
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&sum.sum().to_le_bytes());
    fs::write(&path, bytes).expect("writing");
    let _proxy = Proxy::start(&directory, &simulator, &config);
    assert_eq!((simulator.identifies(), simulator.resumes()), (2, 0));
    let log = logged("edited_state", "the shard's state of the last process is not used");
    let line = log.lines().find(|line| line.contains("the shard's state of the last process is not used"));
    assert!(line.is_some_and(|line| line.contains("keyed checksum is wrong")), "{log}");
}

/// In an earlier version a planted `gateway.json` sent all shards to another gateway while REST was down.
#[test]
fn a_planted_gateway_is_ignored() {
    let (directory, _simulator, config) = stopped("planted_gateway");
    let trap = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    trap.set_nonblocking(true).expect("a mode");
    let planted = json!({"url": format!("ws://{}", trap.local_addr().expect("an address")), "shards": 1});
    fs::write(directory.join("state/gateway.json"), planted.to_string()).expect("writing");
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let proxy = Proxy::spawn_before(&directory, nobody, &config, &[]);
    wait_until("two attempts at REST", || {
        let attempts = log("planted_gateway").matches("trying again in").count();
        if attempts >= 2 { Ok(()) } else { Err(format!("{attempts}")) }
    });
    logged("planted_gateway", "gateway.json, which the last process wrote, is not used: ");
    assert!(trap.accept().is_err(), "the planted gateway was asked");
    assert_eq!(get(proxy.address, "/health").expect("an answer").status, 503);
}

/// A new answer of Discord replaces the URL from the state file.
#[test]
fn a_fresh_answer_wins_over_the_remembered_one() {
    let directory = scratch("fresh_gateway");
    let old = Simulator::start(&directory, WORLD);
    let mut config = config(&directory, free_port());
    config["twilight_http_proxy"] = Value::Null;
    let rest = SocketAddr::from(([127, 0, 0, 1], free_port()));
    config["twilight_http_proxy"] = json!(old.address.to_string());
    Proxy::start(&directory, &old, &config).stop();
    // REST is down, so the shard connects to the gateway from the state file.
    config["twilight_http_proxy"] = json!(rest.to_string());
    let proxy = Proxy::spawn(&directory, &old, &config);
    wait_until("the RESUME", || if old.resumes() == 1 { Ok(()) } else { Err(format!("{}", old.resumes())) });
    // REST is up again, and names another gateway.
    let new = Simulator::start(&directory, WORLD);
    let _rest = Simulator::start_at(&directory, rest.port(), &format!("{WORLD} --public-url ws://{}", new.address));
    wait_until("the answer", || {
        let told = log("fresh_gateway").contains(&format!("gateway is at ws://{} now", new.address));
        if told { Ok(()) } else { Err(log("fresh_gateway")) }
    });
    // A shard whose session ends connects to the new gateway.
    old.fault("invalid?shard=0");
    wait_until("an IDENTIFY at the new gateway", || match new.identifies() {
        1 => Ok(()),
        identifies => Err(format!("{identifies}, {} at the old one", old.identifies())),
    });
    assert_eq!(get(proxy.address, "/health").expect("an answer").status, 200);
}

/// An earlier version wrote through a symbolic link in the place of a state file.
#[test]
fn links_are_not_followed() {
    let directory = scratch("linked_state");
    let simulator = Simulator::start(&directory, WORLD);
    let config = config(&directory, free_port());
    let state = directory.join("state");
    fs::create_dir(&state).expect("a directory");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("a mode");
    let victim = directory.join("victim");
    fs::write(&victim, "precious").expect("a file");
    for name in ["shard-0.state", "shard-0.state.new", "gateway.json", "probe.new"] {
        symlink(&victim, state.join(name)).expect("a link");
    }
    Proxy::start(&directory, &simulator, &config).stop();
    assert_eq!(fs::read_to_string(&victim).expect("a file"), "precious");
    let metadata = fs::symlink_metadata(state.join("shard-0.state")).expect("a state file");
    assert!(metadata.is_file() && metadata.mode() & 0o777 == 0o600, "{metadata:?}");
}

/// An earlier version accepted a state directory in which all users can create files.
#[test]
fn a_directory_that_others_can_write_to_is_refused() {
    let directory = scratch("open_state");
    let simulator = Simulator::start(&directory, WORLD);
    let mut config = config(&directory, free_port());
    let state = directory.join("state");
    fs::create_dir(&state).expect("a directory");
    for (path, mode) in [(&state, 0o777), (&directory, 0o757)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        let mut proxy = Proxy::spawn(&directory, &simulator, &config);
        let status = wait_until("the refusal", || proxy.ended().ok_or("it runs".to_owned()));
        assert_eq!(status.code(), Some(1));
        logged("open_state", &format!("other users can write to {path:?} (mode {mode:04o})"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("a mode");
    config["trust_state_dir"] = json!(true);
    Proxy::start(&directory, &simulator, &config).stop();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).expect("a mode");
}
