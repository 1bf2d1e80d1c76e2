//! What the end-to-end tests share: child processes that never outlive their test, a small HTTP client, the
//! simulator, the proxy, and the bots of tests/clients/.
//!
//! Every wait has a limit, and its failure says what it waited for. The limits are generous, because they end tests
//! that hang and do not judge speed. When a test fails, it prints the end of the log of each child, with the path of
//! the whole log.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part of this")]

mod bot;
pub mod etf;
mod faulty_relay;
mod gateway;
mod http;
mod kernel;
mod libraries;
mod process;
mod proxy;
mod seccomp;
mod simulator;
mod truth;
mod view;
mod voice;

pub use bot::{Bot, DEFAULT_INTENTS, Guild, Settings, Shard, install};
pub use faulty_relay::{Fault, FaultyRelay};
pub use gateway::{Gateway, Gone, Options, Payload};
pub use http::{Response, get, get_json, post, post_body};
pub use kernel::memory_of_connections;
pub use libraries::{chosen, chosen_to_speak, libraries, packages};
pub use process::Process;
pub use proxy::Proxy;
pub use seccomp::confine;
pub use simulator::{Simulator, TOKEN};
pub use truth::{compare_guilds, guilds_of, wait_for_events};
pub use view::View;
pub use voice::{Credentials, Voice};

use std::{
    net::TcpListener,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

/// Longest time for anything that normally takes up to a few seconds, on a machine that runs other tests at the same
/// time.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Calls `attempt` until it returns `Ok`.
///
/// # Panics After [`PATIENCE`], with `what` and the last reason.
pub fn wait_until<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(answer) => return answer,
            Err(reason) if start.elapsed() > PATIENCE => panic!("waited {PATIENCE:?} for {what}: {reason}"),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Returns a free TCP port of the loopback interface, outside of the range that the system uses for outgoing
/// connections: a process that is restarted finds it free again.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The directory of the package.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Makes a new, empty directory in Cargo's directory for test files. It is kept, because it has the logs.
pub fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("removing what an earlier run left");
    }
    std::fs::create_dir_all(&path).expect("making a directory for the test");
    path
}
