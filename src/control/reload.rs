//! Reading the configuration again while the proxy runs: on SIGHUP and on POST `/admin/reload`.
//!
//! Promises: a file that is wrong changes nothing, and the reason is in the log and in the answer; what holds at once holds for
//! all shards; what needs a restart is named, and named again at the next reload until there was one.

use super::Control;
use crate::{
    config::{Config, Differences, given_token},
    data_core::{Change, ToCore},
    log::Limits,
};
use std::{path::PathBuf, rc::Rc, time::SystemTime};

/// Applies a `log_level`; an error says what is wrong with it, and nothing was applied.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send>;

/// What the control core needs to read the configuration again.
pub struct Reloading {
    /// The file.
    pub path: PathBuf,
    /// Makes another `log_level` hold.
    pub set_log_level: SetLogLevel,
}

/// Counts for metrics.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reloads {
    /// Files that were good.
    pub good: u64,
    /// Files that were not, and changed nothing.
    pub bad: u64,
    /// When the last good one was read; `None`: at the start.
    pub last_good: Option<SystemTime>,
}

/// What a good file has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Which keys hold now, and which ones after a restart.
    pub differences: Differences,
    /// Warnings about the file.
    pub warnings: Vec<String>,
}

impl Control {
    /// The configuration as it is now. Keys that need a restart have the values of the start.
    pub(super) fn live(&self) -> Rc<Config> {
        self.live.borrow().clone()
    }

    /// Reads the file again. `by` says who wants that, for the log. An error says what is wrong with the file.
    pub(super) fn reload(&self, by: &str) -> Result<Reloaded, String> {
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
                tracing::error!("the configuration is not taken over ({by}), and nothing has changed: {why}");
                self.feed.borrow_mut().note(self.now(), None, "configuration not read: it is wrong, the log says why");
                reloads.bad += 1;
            }
        }
        self.reloads.set(reloads);
        result
    }

    fn try_reload(&self) -> Result<Reloaded, String> {
        let loaded = given_token().and_then(|token| Config::load(&self.reloading.path, token));
        let (new, warnings) = loaded.map_err(|error| error.to_string())?;
        let old = self.live();
        let differences = old.differences(&new);
        if old.log_level != new.log_level {
            (self.reloading.set_log_level)(&new.log_level)
                .map_err(|error| format!("{}: {error}", self.reloading.path.display()))?;
        }
        let mut live = Config::clone(&old);
        live.adopt(&new);
        *self.live.borrow_mut() = Rc::new(live);
        if !differences.live.is_empty() {
            self.tell_cores(differences.live.iter().any(|key| matches!(*key, "activity" | "status")));
        }
        Ok(Reloaded { differences, warnings })
    }

    /// Tells the data cores how the configuration is now. Those that are not started yet begin with it.
    fn tell_cores(&self, presence: bool) {
        let Some(gateway) = &*self.gateway.borrow() else { return };
        let Ok(range) = self.config.shard_range(gateway.shards) else { return };
        let config = self.live();
        for (index, core) in self.cores().iter().enumerate() {
            let own = range.clone().filter(|shard| self.index_of(*shard) == index);
            let change = Change {
                log: Limits { bytes: config.resume_buffer, entries: config.backpressure },
                resume_window: config.resume_window,
                voice_grace: config.voice_grace(),
                honor_client_intents: config.honor_client_intents,
                denied: config.denied.clone(),
                presences: presence.then(|| own.map(|shard| config.presence_for(shard)).collect()),
            };
            if core.send(ToCore::Change(Box::new(change))).is_err() {
                tracing::error!("data core {index} is too busy for the new configuration: read it again later");
            }
        }
    }
}
