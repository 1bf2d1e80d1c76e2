//! The command line: runs the proxy (the default), checks the configuration (`--check-config`), or runs a subcommand
//! (`cli`).
//!
//! Owns the order of start-up: configuration, logging, checks of the machine, listening socket. Everything else is in
//! the library.

mod cli;

use clap::{CommandFactory, Parser};
use cli::CliError;
use gateway_proxy::{
    config::{Config, ConfigError, LogFormat, token_from_environment},
    control::{self, Listeners, Reloading, SetLogLevel},
    listener::{AdminListenError, ListenError, Listener},
    logging::{self, Ending, Held, Limited, LogLevelError},
    placement::{Placement, PlacementError, allowed_cpus},
    preflight::{self, LimitError, RingError},
    protocol::intents::Intents,
    state_dir::{self, StateDirError},
};
use std::{
    error::Error,
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};
use tracing_subscriber::EnvFilter;

const EXAMPLES: &str = "Examples:
  TOKEN=... gateway-proxy                        run with config.json in this directory
  gateway-proxy --config /etc/gateway-proxy.json  run with another configuration
  gateway-proxy --check-config                   check the configuration
  gateway-proxy check                            check it against Discord and this machine, too
  gateway-proxy status --watch                   show what the running proxy does

Exit codes: 0 stopped by SIGTERM or SIGINT, 1 an error while starting or running, 2 an error in the configuration.
Subcommands: 0 done, 1 an error, 2 an error in the configuration or command line, 3 (status) not all shards are active.";

/// Keeps the Gateway sessions of a Discord bot open, so that the bot can restart at any time.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = "config.json", value_name = "FILE", global = true)]
    config: PathBuf,
    /// Check the configuration, print a summary of it, and exit.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<cli::Command>,
}

/// Why the process ends with an error.
#[derive(Debug, thiserror::Error)]
enum MainError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration asks for CPUs that the process can not have.
    #[error("{}: {source}", path.display())]
    Placement { path: PathBuf, source: PlacementError },
    /// The configuration has no usable `log_level`.
    #[error("{}: {source}", path.display())]
    LogLevel { path: PathBuf, source: LogLevelError },
    /// A subcommand has failed.
    #[error(transparent)]
    Subcommand(#[from] CliError),
    /// The kernel does not hide the memory, which contains the token, from other processes.
    #[error("the memory of the process can not be hidden: {0}")]
    HideMemory(#[source] io::Error),
    /// The kernel does not do what the data cores need.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The limits of the process are too low.
    #[error(transparent)]
    Limits(#[from] LimitError),
    /// State files can not be kept.
    #[error(transparent)]
    StateDir(#[from] StateDirError),
    /// Bots can not connect.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Operators can not connect.
    #[error(transparent)]
    AdminListen(#[from] AdminListenError),
    /// The proxy could not start, or ended by itself.
    #[error(transparent)]
    Run(#[from] control::Failure),
}

impl MainError {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Placement { .. } | Self::LogLevel { .. } => ExitCode::from(2),
            Self::Subcommand(error) if error.is_of_the_caller() => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

fn main() -> ExitCode {
    give_large_memory_back();
    run(Arguments::parse()).unwrap_or_else(|error| {
        eprintln!("gateway-proxy: {}", chain(&error));
        error.exit_code()
    })
}

/// The text of an error and of its sources, each once: a source whose text is part of what was written before it adds
/// nothing.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = source.source();
    }
    text
}

fn run(Arguments { config: path, check_config, command }: Arguments) -> Result<ExitCode, MainError> {
    let check = match command {
        Some(cli::Command::Check(guilds)) => Some(guilds),
        None => None,
        Some(command) => return Ok(command.run(&path, Arguments::command())?),
    };
    let (config, warnings) = token_from_environment().and_then(|token| Config::load(&path, token))?;
    let placement = Placement::decide(&allowed_cpus(), &config.cores, config.control_core)
        .map_err(|source| MainError::Placement { path: path.clone(), source })?;
    let filter =
        logging::filter(&config.log_level).map_err(|source| MainError::LogLevel { path: path.clone(), source })?;
    if let Some(guilds) = check {
        return Ok(cli::check(&config, &placement, guilds, warnings));
    }
    if check_config {
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        println!("{}", summary(&config, &placement));
        return Ok(ExitCode::SUCCESS);
    }
    let (set_log_level, held_lines) = start_log(filter, config.log_format);
    let reloading = Reloading { path, set_log_level, held_lines: held_lines.clone() };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let listeners = preflight(&config, &placement)?;
    // The port is open, so clients that connect from now on are served. Without a service manager this does nothing.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("the service manager (NOTIFY_SOCKET) can not be told that the proxy is ready: {error}");
    }
    let result = control::run(config, &placement, listeners, reloading);
    held_lines.write_all();
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the log on standard error. Lines that repeat are held back. Returns what makes another `log_level` hold, and
/// the lines that are held back.
fn start_log(filter: EnvFilter, format: LogFormat) -> (SetLogLevel, Held) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => {
            let held = Held::new(Ending::Text);
            let log = log.with_ansi(io::stderr().is_terminal());
            let log = log.map_event_format(|format| Limited::new(format, held.clone())).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            (Box::new(move |level| Ok(handle.reload(logging::filter(level)?)?)), held)
        }
        LogFormat::Json => {
            let held = Held::new(Ending::Json);
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let log = log.map_event_format(|format| Limited::new(format, held.clone())).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            (Box::new(move |level| Ok(handle.reload(logging::filter(level)?)?)), held)
        }
    }
}

/// Makes the allocator map each large block separately, so that the memory goes back to the system when the block is
/// freed. By default, freeing the first such block makes the allocator keep large blocks in its heap, and after a
/// crowd of slow clients the heap stays large. The limit is half of a segment of the log: growing buffers pass
/// through that size, and such blocks between others would keep the heap from shrinking.
fn give_large_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE: libc::c_int = 32 << 10;
        // SAFETY: mallopt only sets a number of the allocator; no other thread has been started.
        let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
        debug_assert_eq!(set, 1, "mallopt takes a documented option");
    }
}

/// Checks and prepares what the machine has to have, and opens the ports.
fn preflight(config: &Config, placement: &Placement) -> Result<Listeners, MainError> {
    preflight::hide_memory().map_err(MainError::HideMemory)?;
    preflight::io_uring()?;
    if let Some(warning) = preflight::limits(placement.most() + 1)? {
        tracing::warn!("{warning}");
    }
    if let (None, Some(warning)) = (config.client_memory, preflight::unknown_limit()) {
        tracing::warn!("{warning}");
    }
    if let Some(directory) = &config.state_dir {
        let stale = state_dir::prepare(directory, config.trust_state_dir)?;
        if stale > 0 {
            tracing::info!("removed {stale} files of `state_dir` that are too old to be of use");
        }
    }
    let admin = config.admin_listen.as_ref().map(Listener::for_operators).transpose()?;
    Ok(Listeners { bots: Listener::obtain(config.listen)?, admin })
}

fn summary(config: &Config, placement: &Placement) -> String {
    let shards = match config.shards {
        Some(count) => format!("{count}"),
        None => "as many as Discord recommends".into(),
    };
    let cores = match (config.shards, config.shards.map(|count| config.shard_range(count))) {
        (Some(_), Some(Ok(range))) => format!("data cores on CPUs {:?}", placement.data(range.len())),
        _ => format!("data cores on CPUs {:?} as far as the shards need them", placement.data(usize::MAX)),
    };
    let names: Vec<&str> = config.clients.iter().map(|credential| &*credential.name).collect();
    let clients =
        if names.is_empty() { String::new() } else { format!("\nclients with a secret: {}", names.join(", ")) };
    let operators = config.admin_listen.as_ref().map(|address| format!("\nlisten for operators: {address}"));
    format!(
        "the configuration is right\nshards: {shards}\nlisten: {}{}\nclients resume at: {}\ncontrol core on CPU {}, {cores}\nintents: {}\ncache: {:?}\nvoice: {}{clients}",
        config.listen,
        operators.unwrap_or_default(),
        config.externally_accessible_url,
        placement.control,
        config.intents,
        config.cache,
        voice(config)
    )
}

/// Describes what clients can do with voice channels.
fn voice(config: &Config) -> String {
    let grace = config.voice_grace().as_secs();
    let kept = format!("a channel is kept for {grace} s after its client is gone");
    if config.intents & Intents::GUILD_VOICE_STATES.0 == 0 {
        return "not possible: `intents` lacks GUILD_VOICE_STATES (128), and most libraries then never learn that they are connected"
            .into();
    }
    if config.cache.voice_states {
        return kept;
    }
    format!(
        "{kept}; `cache.voice_states` is off, so a client that has just connected is shown nobody in voice channels, the bot itself \
         included, until somebody moves: a music bot can not see that it is still in a channel, or alone there"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_of_an_error_are_shown_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the outer part")]
        struct Outer(#[source] MainError);
        let source = io::Error::other("no room");
        let inner = MainError::HideMemory(source);
        assert_eq!(chain(&inner), "the memory of the process can not be hidden: no room");
        assert_eq!(chain(&Outer(inner)), "the outer part: the memory of the process can not be hidden: no room");
    }

    #[test]
    fn an_error_in_the_configuration_has_its_own_exit_code() {
        let path = PathBuf::from("config.json");
        let wrong = MainError::Placement { path: path.clone(), source: PlacementError::NoCpu };
        assert_eq!(format!("{:?}", wrong.exit_code()), format!("{:?}", ExitCode::from(2)));
        assert_eq!(wrong.to_string(), "config.json: the process may use no CPU at all");
        let level = logging::filter("x=loud").unwrap_err();
        let wrong = MainError::LogLevel { path, source: level };
        assert_eq!(format!("{:?}", wrong.exit_code()), format!("{:?}", ExitCode::from(2)));
        assert!(
            wrong.to_string().starts_with("config.json: `log_level` is \"x=loud\", expected error, warn"),
            "{wrong}"
        );
        let other = MainError::HideMemory(io::Error::other("x"));
        assert_eq!(format!("{:?}", other.exit_code()), format!("{:?}", ExitCode::FAILURE));
    }
}
