//! The subcommands: requests to a running proxy, the check before a start, and secrets for clients.

mod check;
mod estimate;
mod generate;
mod running;
mod secret;
mod status;

use clap::{Args, Subcommand, ValueEnum};
use estimate::Guilds;
use gateway_proxy::{config::Config, placement::Placement};
use running::{Running, RunningError};
use secret::SecretError;
use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// A subcommand.
#[derive(Subcommand)]
pub enum Command {
    /// Check the configuration against Discord and this machine: names, shards, placement, memory, IDENTIFY budget,
    /// limits.
    Check(Guilds),
    /// Show what a running proxy does. Exit code 3: it runs, and not all of its shards are active.
    Status {
        #[command(flatten)]
        proxy: Which,
        /// Show it again every second, until Ctrl-C.
        #[arg(long, conflicts_with = "json")]
        watch: bool,
        /// Print /status.json as it is.
        #[arg(long)]
        json: bool,
    },
    /// Make a running proxy read its configuration again, and say what came of it.
    Reload {
        #[command(flatten)]
        proxy: Which,
    },
    /// Make a secret for a client, and the hash of it for `clients` of the configuration.
    Secret {
        /// What the bot's token has before its first dot, for libraries that read the bot's id from there.
        #[arg(long, value_name = "TEXT")]
        first_part: Option<String>,
    },
    /// Repair or trace one shard of a running proxy (needs `http_token` in its configuration).
    Shard {
        #[command(flatten)]
        proxy: Which,
        /// Id of the shard.
        id: u32,
        /// What to do.
        action: Action,
        /// For `trace`: whether it begins or ends.
        #[arg(required_if_eq("action", "trace"))]
        switch: Option<Switch>,
    },
    /// Write the man pages and the completions of shells into a directory, for packages.
    #[command(hide = true)]
    Generate {
        /// The directory, which exists.
        directory: PathBuf,
    },
}

/// Which running proxy.
#[derive(Args)]
pub struct Which {
    /// Where it is; without this the `host` and `port` of the configuration.
    #[arg(long, value_name = "http://HOST:PORT")]
    url: Option<String>,
}

/// What is done to a shard.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// A new connection, on which the session is resumed.
    Reconnect,
    /// A new session; costs an IDENTIFY, and clients have to identify anew.
    Identify,
    /// Write the payloads between the proxy and Discord to the proxy's log, without tokens and shortened, for ten
    /// minutes at most.
    Trace,
}

/// Whether a trace begins or ends.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// The trace begins.
    On,
    /// The trace ends.
    Off,
}

/// Why a subcommand has failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The running proxy can not be asked, or refuses.
    #[error(transparent)]
    Running(#[from] RunningError),
    /// No secret was made.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The proxy has read its configuration again, and this is wrong with it.
    #[error("nothing has changed: {0}")]
    ConfigRefused(String),
    /// The proxy does not accept the `http_token` with which it was told to read its configuration again.
    #[error("{0}\nIf `http_token` itself has changed, send SIGHUP to the proxy (systemctl reload gateway-proxy)")]
    ReloadRefused(#[source] RunningError),
    /// Another action than `trace` was given `on` or `off`.
    #[error("`on` and `off` belong to `trace`")]
    SwitchWithoutTrace,
    /// The proxy's status is not JSON.
    #[error("/status.json can not be read: {0}")]
    Status(#[source] serde_json::Error),
    /// The man pages and completions can not be written.
    #[error("can not write into {}: {source}", directory.display())]
    Generate {
        /// The directory of the command line.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CliError {
    /// Returns whether the configuration or the command line is wrong, so that no running proxy was asked.
    pub fn is_of_the_caller(&self) -> bool {
        matches!(
            self,
            Self::Running(RunningError::Url(_) | RunningError::Config(_) | RunningError::UnixSocket(_))
                | Self::SwitchWithoutTrace
        )
    }
}

impl Command {
    /// Runs the subcommand. `path` is the configuration file, `program` the definition of the command line.
    pub fn run(self, path: &Path, program: clap::Command) -> Result<ExitCode, CliError> {
        match self {
            Self::Check(_) => unreachable!("it is run with a configuration that is right"),
            Self::Status { proxy, watch, json } => status::run(&Running::find(path, proxy.url)?, watch, json),
            Self::Reload { proxy } => reload(&Running::find(path, proxy.url)?),
            Self::Secret { first_part } => Ok(secret::run(first_part.as_deref())?),
            Self::Shard { proxy, id, action, switch } => act(&Running::find(path, proxy.url)?, id, action, switch),
            Self::Generate { directory } => generate::generate(program, include_str!("manual.man"), &directory)
                .map(|()| ExitCode::SUCCESS)
                .map_err(|source| CliError::Generate { directory, source }),
        }
    }
}

/// Runs `gateway-proxy check` with a configuration that has been loaded. `warnings` are those of the configuration.
pub fn check(config: &Config, placement: &Placement, guilds: Guilds, warnings: Vec<String>) -> ExitCode {
    check::run(config, placement, guilds, warnings)
}

fn reload(running: &Running) -> Result<ExitCode, CliError> {
    let (status, body) = running.post("/admin/reload")?;
    match status {
        200 => {
            let list = |key: &str| {
                let keys = body[key].as_array().map_or(&[][..], Vec::as_slice);
                keys.iter().filter_map(|key| key.as_str()).collect::<Vec<_>>().join(", ")
            };
            for warning in body["warnings"].as_array().into_iter().flatten().filter_map(|warning| warning.as_str()) {
                eprintln!("warning: {warning}");
            }
            match list("applied") {
                keys if keys.is_empty() => {
                    println!("the configuration was read; no key that applies at once has changed");
                }
                keys => println!("these keys apply now: {keys}"),
            }
            match list("needs_restart") {
                keys if keys.is_empty() => {}
                keys => println!("these keys need a restart: {keys}"),
            }
            Ok(ExitCode::SUCCESS)
        }
        422 => {
            let why = body["error"].as_str().unwrap_or("the configuration is wrong");
            Err(CliError::ConfigRefused(why.to_owned()))
        }
        401 => Err(CliError::ReloadRefused(running.refused())),
        _ => Err(running.unexpected(status, &body).into()),
    }
}

fn act(running: &Running, id: u32, action: Action, switch: Option<Switch>) -> Result<ExitCode, CliError> {
    let (path, done) = match (action, switch) {
        (Action::Reconnect, None) => ("reconnect", "reconnects and resumes its session"),
        (Action::Identify, None) => ("identify", "begins a new session as soon as it has a permit to identify"),
        (Action::Trace, Some(Switch::On)) => ("trace/on", "is traced in the proxy's log"),
        (Action::Trace, _) => ("trace/off", "is not traced any more"),
        (_, Some(_)) => return Err(CliError::SwitchWithoutTrace),
    };
    let (status, body) = running.post(&format!("/admin/shards/{id}/{path}"))?;
    match status {
        202 => {
            println!("shard {id} {done}");
            Ok(ExitCode::SUCCESS)
        }
        401 => Err(running.refused().into()),
        _ => Err(running.unexpected(status, &body).into()),
    }
}
