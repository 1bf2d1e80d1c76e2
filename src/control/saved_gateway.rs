//! Stores what `/gateway/bot` told the last process, so that the proxy can start while Discord's REST API is away:
//! shards that have a state file resume their sessions and need no IDENTIFY.
//!
//! The file lies beside the state files and is sealed as they are ([`StateDir`]). It is written when the proxy stops
//! and removed when the shards start. It never contains the budget of IDENTIFYs: that is known only when Discord has
//! told it again. A new answer of Discord replaces what the file says.

use super::Control;
use crate::state_dir::StateDir;
use serde::{Deserialize, Serialize};
use std::io::{self, Read, Write};

/// Longest content that is read, in bytes.
const MAX_BYTES: u64 = 4 << 10;
const NAME: &str = "gateway.json";

/// The stored part of an answer of `/gateway/bot`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedGateway {
    /// The gateway URL that shards connect to.
    pub url: String,
    /// How many shards Discord recommended.
    pub shards: u32,
}

impl SavedGateway {
    /// Writes the file.
    pub fn store(&self, directory: &StateDir) -> io::Result<()> {
        let text = serde_json::to_vec(self)?;
        directory.write(NAME, |out| out.write_all(&text).map(|()| true)).map(drop)
    }

    /// Reads the file, and leaves it in the directory. `Ok(None)`: there is no file. The error says why the file can
    /// not be used.
    pub fn load(directory: &StateDir) -> io::Result<Option<Self>> {
        let Some(mut sealed) = directory.open(NAME)? else { return Ok(None) };
        let length = sealed.verify()?.min(MAX_BYTES);
        let mut text = Vec::new();
        sealed.file.take(length).read_to_end(&mut text)?;
        Ok(Some(serde_json::from_slice(&text)?))
    }

    /// Removes the file. It is of use only together with state files, and those are read once.
    pub fn forget(directory: &StateDir) {
        if let Err(error) = directory.remove(NAME) {
            tracing::warn!("{NAME} of `state_dir` can not be removed: {error}");
        }
    }
}

impl Control {
    pub(super) fn state_dir(&self) -> Option<StateDir> {
        self.config.state_dir.as_deref().map(|path| StateDir::new(path, self.config.token.bare()))
    }

    /// The answer of `/gateway/bot` that the last process stored; `None`: there is no file, or it can not be used.
    pub(super) fn saved_gateway(&self) -> Option<SavedGateway> {
        SavedGateway::load(&self.state_dir()?).unwrap_or_else(|error| {
            tracing::warn!("gateway.json, which the last process wrote, is not used: {error}");
            None
        })
    }

    /// Stores the gateway URL and the number of shards for the next process, in the directory of the state files.
    pub(super) fn save_gateway(&self) {
        let (Some(directory), Some(gateway)) = (self.state_dir(), &*self.gateway.borrow()) else { return };
        if let Err(error) = gateway.store(&directory) {
            tracing::error!("gateway.json can not be written to `state_dir`: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn it_is_read_whole_or_not_at_all_until_it_is_forgotten() {
        let path = std::env::temp_dir().join(format!("gateway-proxy-saved-{}", std::process::id()));
        let directory = StateDir::new(&path, "token");
        let saved = SavedGateway { url: "wss://gateway.discord.gg".into(), shards: 16 };
        saved.store(&directory).unwrap();
        for _ in 0..2 {
            assert_eq!(SavedGateway::load(&directory).unwrap(), Some(saved.clone()));
        }
        let file = path.join(NAME);
        let whole = fs::read(&file).unwrap();
        for length in 0..whole.len() {
            fs::write(&file, &whole[..length]).unwrap();
            assert!(SavedGateway::load(&directory).is_err());
        }
        saved.store(&directory).unwrap();
        assert!(SavedGateway::load(&StateDir::new(&path, "of another bot")).is_err());
        SavedGateway::forget(&directory);
        assert_eq!(SavedGateway::load(&directory).unwrap(), None);
        fs::remove_dir_all(&path).unwrap();
    }
}
