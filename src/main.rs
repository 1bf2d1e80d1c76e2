//! The command line: runs the proxy (the default), checks the configuration (`--check-config`), or runs a subcommand
//! (`cli`).
//!
//! Owns the order of start-up: configuration, logging, checks of the machine, listening socket. Everything else is in
//! the library.

mod cli;

use clap::{CommandFactory, Parser};
use gateway_proxy::{
    config::{Config, LogFormat, token_from_environment},
    control::{self, Listeners, Reloading, SetLogLevel},
    listener::Listener,
    logging::{Ending, Held, Limited},
    placement::{Placement, allowed_cpus},
    preflight,
    protocol::intents::Intents,
    state_dir,
};
use std::{io::IsTerminal, path::PathBuf, process::ExitCode};
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

/// The exit code for an error in the configuration.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    give_large_memory_back();
    let Arguments { config: path, check_config, command } = Arguments::parse();
    let check = match command {
        Some(cli::Command::Check(guilds)) => Some(guilds),
        None => None,
        Some(command) => return command.run(&path, Arguments::command()),
    };
    let loaded = token_from_environment().and_then(|token| Config::load(&path, token));
    let (config, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return complain(WRONG, &error),
    };
    let placement = Placement::decide(&allowed_cpus(), &config.cores, config.control_core);
    let placement = match placement {
        Ok(placement) => placement,
        Err(error) => return complain(WRONG, &format!("{}: {error}", path.display())),
    };
    let filter = match filter_of(&config.log_level) {
        Ok(filter) => filter,
        Err(error) => return complain(WRONG, &format!("{}: {error}", path.display())),
    };
    if let Some(guilds) = check {
        return cli::check(&config, &placement, guilds, warnings);
    }
    if check_config {
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        println!("{}", summary(&config, &placement));
        return ExitCode::SUCCESS;
    }
    let (set_log_level, held_lines) = start_log(filter, config.log_format);
    let reloading = Reloading { path, set_log_level, held_lines: held_lines.clone() };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let listeners = match preflight(&config, &placement) {
        Ok(listeners) => listeners,
        Err(error) => return complain(1, &error),
    };
    // The port is open, so clients that connect from now on are served. Without a service manager this does nothing.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!("the service manager (NOTIFY_SOCKET) can not be told that the proxy is ready: {error}");
    }
    let result = control::run(config, &placement, listeners, reloading);
    held_lines.write_all();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => complain(1, &failure),
    }
}

/// Starts the log on standard error. Lines that repeat are held back. Returns what makes another `log_level` hold, and
/// the lines that are held back.
fn start_log(filter: EnvFilter, format: LogFormat) -> (SetLogLevel, Held) {
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            let held = Held::new(Ending::Text);
            let log = log.with_ansi(std::io::stderr().is_terminal());
            let log = log.map_event_format(|format| Limited::new(format, held.clone())).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            (Box::new(move |level| handle.reload(filter_of(level)?).map_err(|error| error.to_string())), held)
        }
        LogFormat::Json => {
            let held = Held::new(Ending::Json);
            let log = log.json().flatten_event(true).with_current_span(false).with_span_list(false);
            let log = log.map_event_format(|format| Limited::new(format, held.clone())).with_filter_reloading();
            let handle = log.reload_handle();
            log.init();
            (Box::new(move |level| handle.reload(filter_of(level)?).map_err(|error| error.to_string())), held)
        }
    }
}

/// The filter of the log for a `log_level`.
fn filter_of(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(level)
        .map_err(|error| format!("`log_level` is {level:?}, expected error, warn, info, debug or trace ({error})"))
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

fn complain(code: u8, what: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("gateway-proxy: {what}");
    ExitCode::from(code)
}

fn preflight(config: &Config, placement: &Placement) -> Result<Listeners, String> {
    preflight::hide_memory().map_err(|error| format!("the memory of the process can not be hidden: {error}"))?;
    preflight::io_uring()?;
    if let Some(warning) = preflight::limits(placement.most() + 1)? {
        tracing::warn!("{warning}");
    }
    if let (None, Some(warning)) = (config.client_memory, preflight::unknown_limit()) {
        tracing::warn!("{warning}");
    }
    if let Some(directory) = &config.state_dir {
        let stale = state_dir::prepare(directory, config.trust_state_dir).map_err(|error| error.to_string())?;
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
