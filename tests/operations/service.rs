//! What the proxy tells a service manager (sd_notify(3)): readiness, status, reload, stop, and the watchdog.

use crate::WORLD;
use serde_json::json;
use std::{
    fs,
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use support::{Hang, PATIENCE, Proxy, Simulator, Transport, free_port, program, scratch, wait_until};

/// What feeds the watchdog.
const FED: &str = "WATCHDOG=1\n";

/// A service manager: the socket of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Manager {
    fn new(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, path }
    }

    /// Starts the proxy below this service manager, with the simulator at `simulator`.
    fn start(&self, directory: &Path, discord: std::net::SocketAddr, watchdog: &str) -> Proxy {
        let path = self.path.to_str().expect("UTF-8");
        let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", watchdog)];
        Proxy::spawn_before(directory, discord, &json!({}), &variables)
    }

    /// The next message.
    fn next(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).expect("a message of the proxy");
        String::from_utf8(bytes[..length].to_vec()).expect("UTF-8")
    }

    /// Reads all messages until none has come for this time.
    fn wait_for_silence(&self, time: Duration) {
        self.socket.set_read_timeout(Some(time)).expect("a timeout");
        wait_until("the proxy to be silent", || match self.socket.recv(&mut [0; 4096]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        self.socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }

    /// The messages up to the first that `is` accepts, with this one.
    fn until(&self, is: impl Fn(&str) -> bool) -> Vec<String> {
        let mut messages = Vec::new();
        loop {
            messages.push(self.next());
            if is(messages.last().expect("one was added")) {
                return messages;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_everything() {
    let directory = scratch("service");
    let manager = Manager::new(&directory);
    let simulator = Simulator::start(&directory, WORLD);
    let proxy = manager.start(&directory, simulator.address, "2000000");
    assert_eq!(manager.next(), "READY=1\n");
    let up = "STATUS=2 of 2 shards up\n";
    manager.until(|message| message == up);
    // The data core answers, so the watchdog is fed again and again. Nothing else happens meanwhile.
    for _ in 0..5 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    let told = |message: &str| message != "WATCHDOG=1\n";
    simulator.fault("drop?shard=1&code=4014");
    assert_eq!(manager.until(told).last().map(String::as_str), Some("STATUS=1 of 2 shards up\n"));
    // systemd's `Type=notify-reload` wants the time of the message, and READY when the reload is over.
    fs::write(directory.join("config.json"), "{").expect("a file");
    proxy.signal("HUP");
    let reloading = manager.until(told).pop().expect("a message");
    let at = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|time| time.trim().parse::<u64>().ok());
    assert!(at.is_some_and(|at| at > 0), "{reloading}");
    assert_eq!(manager.until(told).pop().as_deref(), Some("READY=1\n"));
    let wrong = "STATUS=1 of 2 shards up; the changed configuration is wrong and not in force, the log says why\n";
    assert_eq!(manager.until(told).pop().as_deref(), Some(wrong));
    proxy.stop();
    assert_eq!(manager.until(told).pop().as_deref(), Some("STOPPING=1\n"));
    let last = manager.until(told).pop().expect("a message");
    assert!(last.starts_with("STATUS=stopping: "), "{last}");
}

/// The proxy is alive while Discord can not be reached: a restart would not help.
#[test]
fn the_watchdog_is_fed_while_discord_is_away() {
    let directory = scratch("service_away");
    let manager = Manager::new(&directory);
    let nobody = ([127, 0, 0, 1], free_port()).into();
    let _proxy = manager.start(&directory, nobody, "2000000");
    let failed = |message: &str| message.contains("shards; GET /gateway/bot has failed (");
    manager.until(failed);
    for _ in 0..3 {
        manager.until(|message| message == "WATCHDOG=1\n");
    }
}

/// A service manager restarts a proxy of which one data core hangs, because it is not fed then, though the control core
/// and the other data core work.
#[test]
fn the_watchdog_is_not_fed_while_a_data_core_hangs() {
    const LIMIT: Duration = Duration::from_secs(1);
    let directory = scratch("service_hang");
    let manager = Manager::new(&directory);
    let simulator = Simulator::start(&directory, WORLD);
    let mut command = Command::new(program("gateway-proxy"));
    command.env("NOTIFY_SOCKET", &manager.path).env("WATCHDOG_USEC", LIMIT.as_micros().to_string());
    let hang = Hang::prepare(&mut command);
    let proxy = Proxy::spawn_by(command, &directory, simulator.address, &json!({"cores": 2})).wait_until_ready();
    let mut gateway = crate::client(&proxy, (1, 2), Transport::None);
    manager.until(|message| message == "STATUS=2 of 2 shards up\n");
    (0..3).for_each(|_| drop(manager.until(|message| message == FED)));
    hang.hold("data-1-");
    wait_until("data core 1 to hang", || if hang.hanging() > 0 { Ok(()) } else { Err("it turns".into()) });
    // An answer of the data core may have been on its way. The service manager would wait for `LIMIT`.
    manager.wait_for_silence(4 * LIMIT);
    simulator.emit(1, 1);
    // Shard 0 is on the other data core. What happens to it is told as ever.
    simulator.fault("drop?shard=0&code=4014");
    assert_eq!(manager.next(), "STATUS=1 of 2 shards up\n");
    hang.release();
    (0..3).for_each(|_| assert_eq!(manager.next(), FED));
    assert_eq!(gateway.receive().expect("the event of the meantime").t.as_deref(), Some("MESSAGE_CREATE"));
}

/// Without a watchdog the status alone is told.
#[test]
fn without_a_watchdog_it_is_not_fed() {
    let directory = scratch("service_no_watchdog");
    let manager = Manager::new(&directory);
    let simulator = Simulator::start(&directory, WORLD);
    // A watchdog of another process.
    let path = manager.path.to_str().expect("UTF-8");
    let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "2000000"), ("WATCHDOG_PID", "1")];
    let proxy = Proxy::spawn_before(&directory, simulator.address, &json!({}), &variables).wait_until_ready();
    let mut messages = manager.until(|message| message == "STATUS=2 of 2 shards up\n");
    proxy.stop();
    messages.extend(manager.until(|message| message.starts_with("STATUS=stopping")));
    assert!(!messages.iter().any(|message| message.contains("WATCHDOG")), "{messages:?}");
}
