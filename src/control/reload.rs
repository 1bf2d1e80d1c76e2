//! Reads the configuration again while the proxy runs: on SIGHUP, on POST `/admin/reload`, and when the file has changed.
//!
//! Promises: a wrong file changes nothing, and the log and the answer say why it is wrong. A changed key that does not
//! need a restart takes effect for all shards. A changed key that needs a restart is named in the log and in the
//! answer, at each reload until the restart.

use super::{Control, file_watch::Stamp};
use crate::{
    config::{Config, ConfigError, Differences, token_from_environment},
    data_core::{ConfigChange, ToCore},
    log::Limits,
    logging::{Held, LogLevelError},
};
use std::{path::PathBuf, rc::Rc, time::SystemTime};

/// Applies a `log_level`. With an error nothing was changed.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), LogLevelError> + Send>;

/// What the control core needs to read the configuration again.
pub struct Reloading {
    /// Path of the configuration file.
    pub path: PathBuf,
    /// Applies another `log_level`.
    pub set_log_level: SetLogLevel,
    /// The lines of the log that are held back because they repeat.
    pub held_lines: Held,
}

/// Counts of reloads, for the metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reloads {
    /// Reloads that were applied.
    pub good: u64,
    /// Reloads that changed nothing, because the file was wrong.
    pub bad: u64,
    /// When the last applied one was read; `None`: there was none since the start.
    pub last_good: Option<SystemTime>,
    /// The last reload changed nothing, because the file was wrong.
    pub last_was_bad: bool,
}

/// The result of a reload that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The changed keys: those that are in force now, and those that need a restart.
    pub differences: Differences,
    /// Warnings about the file.
    pub warnings: Vec<String>,
}

/// Whether a configuration that a data core was not told has other presences than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presences {
    /// The presences are the same.
    Same,
    /// Discord has to be told other presences.
    Changed,
}

/// Why a changed configuration was refused.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{}: {source}", path.display())]
    LogLevel { path: PathBuf, source: LogLevelError },
}

impl Control {
    /// The configuration in force. Keys that need a restart have their values of the start.
    pub(super) fn live(&self) -> Rc<Config> {
        self.live.borrow().clone()
    }

    /// Reads the file again and applies it. `by` names the cause, for the log. The error says what is wrong with the
    /// file.
    pub(super) fn reload(&self, by: &str) -> Result<Reloaded, ReloadError> {
        self.tell_reloading();
        let mut reloads = self.reloads.get();
        let result = self.try_reload();
        match &result {
            Ok(Reloaded { differences: Differences { live, restart }, warnings }) => {
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
                let changed = if live.is_empty() { "nothing new".to_owned() } else { live.join(", ") };
                tracing::info!("configuration read again ({by}): {changed}");
                self.feed.borrow_mut().note(self.now(), None, format!("configuration read again: {changed}"));
                if !restart.is_empty() {
                    tracing::warn!("these keys have changed and need a restart: {}", restart.join(", "));
                }
                (reloads.good, reloads.last_good) = (reloads.good + 1, Some(SystemTime::now()));
            }
            Err(why) => {
                tracing::error!("the new configuration was refused ({by}), and nothing has changed: {why}");
                self.feed.borrow_mut().note(self.now(), None, "the new configuration was refused: the log says why");
                reloads.bad += 1;
            }
        }
        reloads.last_was_bad = result.is_err();
        self.reloads.set(reloads);
        self.tell_reloaded();
        result
    }

    fn try_reload(&self) -> Result<Reloaded, ReloadError> {
        // The stamp is taken before the file is read: a change while it is read makes it be read again.
        self.file_watch.borrow_mut().was_read(Stamp::of(&self.reloading.path));
        let loaded = token_from_environment().and_then(|token| Config::load(&self.reloading.path, token));
        let (mut new, warnings) = loaded?;
        let old = self.live();
        let mut differences = old.differences(&new);
        // Until `validate_token` holds, a client without a secret may do more than those of `clients`.
        if !old.validate_token && !new.clients.is_empty() {
            new.clients = old.clients.clone();
            differences.live.retain(|key| *key != "clients");
            differences.restart.push("clients");
        }
        if old.log_level != new.log_level {
            (self.reloading.set_log_level)(&new.log_level)
                .map_err(|source| ReloadError::LogLevel { path: self.reloading.path.clone(), source })?;
        }
        let mut live = Config::clone(&old);
        live.adopt(&new);
        *self.live.borrow_mut() = Rc::new(live);
        self.noted.keep(&new.clients);
        // A core that was too busy for an earlier configuration is told the one in force now, also if nothing has
        // changed since. Presences are not sent again without need, because Discord limits them.
        let untold = self.untold.take();
        if untold.is_some() || !differences.live.is_empty() {
            let presence = differences.live.iter().any(|key| matches!(*key, "activity" | "status"));
            self.tell_cores(presence || untold == Some(Presences::Changed));
        }
        Ok(Reloaded { differences, warnings })
    }

    /// Sends the configuration in force to the data cores, with new presences if `presence` is set. Data cores that are
    /// not started yet start with it.
    fn tell_cores(&self, presence: bool) {
        let Some(gateway) = &*self.gateway.borrow() else { return };
        let Ok(range) = self.config.shard_range(gateway.shards) else { return };
        let config = self.live();
        for (index, core) in self.cores().iter().enumerate() {
            let own = range.clone().filter(|shard| self.index_of(*shard) == index);
            let change = ConfigChange {
                log: Limits { bytes: config.resume_buffer, entries: config.backpressure },
                resume_window: config.resume_window,
                voice_grace: config.voice_grace(),
                honor_client_intents: config.honor_client_intents,
                denied: config.denied.clone(),
                credentials: config.clients.clone(),
                presences: presence.then(|| own.map(|shard| config.presence_for(shard)).collect()),
            };
            if core.send(ToCore::ConfigChanged(Box::new(change))).is_err() {
                tracing::error!(
                    "the mailbox of data core {index} is full, so it did not get the new configuration: read it again later"
                );
                self.untold.set(Some(if presence { Presences::Changed } else { Presences::Same }));
            }
        }
    }
}
