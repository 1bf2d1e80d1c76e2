//! Deterministic simulation: the real data core with a virtual clock and virtual sockets, between a model of Discord
//! and model clients. Faults are random: faults of Discord, of clients, of processes, and of the kernel at the seam
//! [`gateway_proxy::io::Io`]. `make sim SEEDS=2000` runs many seeds; `make sim SEED=17` runs one and prints
//! everything that happens.
//!
//! After every step the simulation checks the promises of the proxy:
//! P1 every event that Discord sends reaches the proxy once and in order, except those that no session could receive;
//! P2 the shard identifies only when it can not resume, never too early, and recovers from every fault by itself;
//! P3 every client receives everything once, in order, with a sequence without gaps, over any number of connections;
//! P4 memory is bounded, sessions end when they should, and nothing is left of clients that are gone;
//! P5 the state that a client builds from its guilds and the events since is the true state, and voice tokens reach
//!    only the session that they are for;
//! P6 the core does no work without a reason.

mod client;
mod connection;
mod discord;
mod host;
mod io;
mod net;
mod process;
mod run;
mod session;
mod trace;
mod upstream;
mod voice;

use std::{
    env, panic,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Instant,
};
use trace::Coverage;

/// Number of seeds that `cargo test` runs.
const SEEDS: u64 = 2_000;
/// Number of lines of the trace that are printed for a failing seed.
const SHOWN: usize = 60;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().filter(|value| !value.is_empty())?.parse().ok()
}

/// A seed that broke a promise, and the message of the panic.
struct Failure {
    seed: u64,
    what: String,
}

fn message(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().cloned();
    text.or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

fn attempt(seed: u64) -> Result<Coverage, Failure> {
    panic::catch_unwind(|| run::run(seed)).map_err(|cause| Failure { seed, what: message(&*cause) })
}

fn tell(seed: u64) -> ExitCode {
    trace::begin();
    let result = attempt(seed);
    for line in trace::end() {
        println!("{line}");
    }
    match result {
        Ok(coverage) => {
            coverage.all().for_each(|(what, count)| println!("{count:8} {what}"));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("seed {seed} fails: {}", failure.what);
            ExitCode::FAILURE
        }
    }
}

fn main() -> ExitCode {
    // A failing seed is run again for its trace, so panics go to the trace instead of the terminal.
    panic::set_hook(Box::new(|panic| trace::note(|| panic.to_string())));
    if let Some(seed) = number("SEED") {
        return tell(seed);
    }
    let (from, count) = (number("FROM").unwrap_or(0), number("SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(from);
    let (coverage, failures) = (Mutex::new(Coverage::default()), Mutex::new(Vec::new()));
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, |cpus| cpus.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= from + count || !failures.lock().expect("no panic here").is_empty() {
                        return;
                    }
                    match attempt(seed) {
                        Ok(seen) => coverage.lock().expect("no panic here").add(&seen),
                        Err(failure) => failures.lock().expect("no panic here").push(failure),
                    }
                }
            });
        }
    });
    if let Some(failure) = failures.into_inner().expect("no panic").first() {
        trace::begin();
        let _ = attempt(failure.seed);
        let lines = trace::end();
        for line in &lines[lines.len().saturating_sub(SHOWN)..] {
            println!("{line}");
        }
        println!("seed {0} fails: {1}\nmake sim SEED={0} prints the whole trace", failure.seed, failure.what);
        return ExitCode::FAILURE;
    }
    let coverage = coverage.into_inner().expect("no panic");
    coverage.all().for_each(|(what, count)| println!("{count:12} {what}"));
    println!("{count} seeds, no promise broken, {:.0} s", start.elapsed().as_secs_f64());
    // With this many seeds every event has to happen at least once.
    match coverage.all().find(|(_, happened)| *happened == 0) {
        Some((what, _)) if count >= SEEDS => {
            println!("the simulation no longer covers: {what}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}
