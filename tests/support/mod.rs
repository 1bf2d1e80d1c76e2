//! What the end-to-end tests share: child processes that never outlive their test, a small HTTP client, the simulator,
//! the proxy, and the bots of tests/clients/.
//!
//! Every wait has a bound and says what it waited for; the bounds are generous, because they are there to end a test
//! that hangs, not to judge speed. When a test fails, the end of each child's log is printed, with the path of the rest.

#![allow(dead_code, unused_imports, reason = "each test file uses its own part of this")]

mod bot;
pub mod etf;
mod gateway;
mod http;
mod kernel;
mod libraries;
mod meddler;
mod process;
mod proxy;
mod simulator;
mod truth;
mod view;
mod voice;

pub use bot::{Bot, DEFAULT_INTENTS, Guild, Settings, Shard, install};
pub use gateway::{Gateway, Gone, Options, Payload};
pub use http::{Response, get, get_json, post, post_body};
pub use kernel::memory_of_connections;
pub use libraries::{chosen, libraries};
pub use meddler::{Meddler, Way};
pub use process::Process;
pub use proxy::Proxy;
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

/// How long anything may take that normally takes up to a few seconds, on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks `attempt` until it has an answer.
///
/// # Panics
/// With `what` and the last reason, when there is none after [`PATIENCE`].
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

/// A TCP port of the loopback interface that was free just now, and that the system gives to no outgoing connection: a
/// process that is started again finds it free again.
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

/// A new, empty directory below Cargo's directory for test files. It is left there, for the logs in it.
pub fn scratch(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("removing what an earlier run left");
    }
    std::fs::create_dir_all(&path).expect("making a directory for the test");
    path
}
