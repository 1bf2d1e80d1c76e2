//! A model of Discord's Gateway and of the REST routes that libraries call at login. It also has a bot that checks
//! event streams, and a null relay as a yardstick. See `discord-sim --help`.

mod bot;
mod cli;
mod client;
mod control;
mod gateway;
#[path = "../../cli/generate.rs"]
mod generate;
mod http;
mod link;
mod relay;
mod rest;
mod serve;
mod server;
mod signals;
mod start;
mod tls;
mod voice;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use gateway_proxy::placement::pin_thread;
use glommio::LocalExecutorBuilder;
use std::io;
use std::process::{ExitCode, exit};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Bytes of memory that the executor reserves for direct I/O, which the simulator does not use.
const IO_MEMORY: usize = 64 << 10;

/// Maximum time that busy tasks can delay the handling of completions from the kernel.
const PREEMPT: Duration = Duration::from_millis(2);

/// Runs a future on an executor of its own, in this thread.
fn run<F: Future<Output = io::Result<ExitCode>> + 'static>(cpu: Option<usize>, future: F) -> io::Result<ExitCode> {
    let executor =
        LocalExecutorBuilder::default().io_memory(IO_MEMORY).preempt_timer(PREEMPT).make().map_err(|error| {
            io::Error::other(format!("{error} (is `ulimit -l` at least 512 KiB, and io_uring allowed?)"))
        })?;
    start::run(&executor, async move {
        pin(cpu)?;
        future.await
    })?
}

/// Pins this thread to a CPU, if one is given.
fn pin(cpu: Option<usize>) -> io::Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    pin_thread(cpu).map_err(|error| io::Error::new(error.kind(), format!("can not run on CPU {cpu}: {error}")))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(options) => signals::on_end(|| exit(0))
            .and_then(|()| run(options.cpu, async move { serve::run(*options).await.map(|()| ExitCode::SUCCESS) })),
        Command::Bot(options) => signals::on_end(|| bot::END.store(true, Ordering::Relaxed))
            .and_then(|()| run(options.cpu, bot::run(options))),
        Command::Relay(options) => signals::on_end(|| exit(0)).and_then(|()| {
            pin(options.cpu)?;
            relay::run(&options).map(|()| ExitCode::SUCCESS)
        }),
        Command::Generate { directory } => {
            generate::generate(Cli::command(), "", &directory).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("discord-sim: {error}");
        ExitCode::from(2)
    })
}
