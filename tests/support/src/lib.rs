//! What the end-to-end tests share: child processes that never outlive their test, a small HTTP client, the
//! simulator, the proxy, and the bots of tests/clients/.
//!
//! Every wait has a limit, and its failure says what it waited for. The limits are generous, because they end tests
//! that hang and do not judge speed. When a test fails, it prints the end of the log of each child, with the path of
//! the whole log.
//!
//! The crate does not depend on the proxy. It runs the programs that Cargo has built for the test.

mod bot;
mod encoding;
pub mod etf;
mod faulty_relay;
mod gateway;
mod hang;
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
mod websocket;

pub use bot::{Bot, DEFAULT_INTENTS, Guild, Settings, Shard, install};
pub use encoding::{Encoding, Transport};
pub use faulty_relay::{Fault, FaultyRelay};
pub use gateway::{Gateway, Gone, Options, Payload};
pub use hang::Hang;
pub use http::{Response, get, get_json, post, post_body};
pub use kernel::memory_of_connections;
pub use libraries::{chosen, chosen_to_speak, libraries, packages};
pub use process::Process;
pub use proxy::Proxy;
pub use seccomp::confine;
pub use simulator::{Simulator, TOKEN};
pub use truth::{compare_guilds, guilds_of, wait_for_events, wait_for_sequence};
pub use view::View;
pub use voice::{Credentials, Voice};

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Mutex,
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
/// connections: a process that is restarted finds it free again. Never returns a port twice, because a process that
/// was given the port may not listen on it yet.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = fastrand::u16(10_000..30_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && GIVEN.lock().expect("nobody panics with it").insert(port) {
            return port;
        }
    }
}

/// The directory of the repository.
pub fn root() -> PathBuf {
    let support = Path::new(env!("CARGO_MANIFEST_DIR"));
    support.ancestors().nth(2).expect("tests/support is in the repository").to_owned()
}

/// The directory in which Cargo puts the programs of a profile, such as `target/debug`. The test is in `deps` there.
fn built() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    test.ancestors().nth(2).expect("the test is in target/<profile>/deps").to_owned()
}

/// The path of one of the package's programs. Cargo builds them before it runs a test of the package.
///
/// # Panics When the program is not there.
pub fn program(name: &str) -> PathBuf {
    let path = built().join(name);
    assert!(path.exists(), "{} is missing: run the tests by `cargo test`, which builds it", path.display());
    path
}

/// The path of the directory that [`scratch`] makes for a name.
pub fn scratch_path(name: &str) -> PathBuf {
    built().parent().expect("a profile is in target/").join("tmp").join(name)
}

/// Makes a new, empty directory in Cargo's directory for test files. It is kept, because it has the logs.
pub fn scratch(name: &str) -> PathBuf {
    let path = scratch_path(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("removing what an earlier run left");
    }
    std::fs::create_dir_all(&path).expect("making a directory for the test");
    path
}
