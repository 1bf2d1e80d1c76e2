//! What `/gateway/bot` told the last process, for a start while REST is away: shards that have a state file need no
//! IDENTIFY, so there is nothing that they would have to ask for.
//!
//! A file beside the state files, written when the proxy stops and taken away, as they are, when the shards start. Never says
//! anything of the budget of IDENTIFYs: that is known only when Discord has told it anew.

use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Longest file that is read, in bytes.
const MAX_BYTES: u64 = 4 << 10;

/// See the module's description.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// Where shards connect.
    pub url: String,
    /// How many shards Discord recommended.
    pub shards: u32,
}

fn path(directory: &Path) -> PathBuf {
    directory.join("gateway.json")
}

impl Remembered {
    /// Writes it. A file that is cut off by a crash is none.
    pub fn store(&self, directory: &Path) -> io::Result<()> {
        fs::File::create(path(directory))?.write_all(&serde_json::to_vec(self)?)
    }

    /// Reads it. `None`: there is none that can be read.
    pub fn load(directory: &Path) -> Option<Self> {
        let mut text = Vec::new();
        fs::File::open(path(directory)).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Takes it away: what it says is of use only together with state files, and those are read once.
    pub fn forget(directory: &Path) {
        // Mostly there is none; one that can not be removed is read once more, and does no harm.
        let _ = fs::remove_file(path(directory));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_whole_or_not_at_all_until_it_is_forgotten() {
        let directory = std::env::temp_dir().join(format!("gateway-proxy-remembered-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let remembered = Remembered { url: "wss://gateway.discord.gg".into(), shards: 16 };
        remembered.store(&directory).unwrap();
        for _ in 0..2 {
            assert_eq!(Remembered::load(&directory), Some(remembered.clone()));
        }
        let whole = fs::read(path(&directory)).unwrap();
        for length in 0..whole.len() {
            fs::write(path(&directory), &whole[..length]).unwrap();
            assert_eq!(Remembered::load(&directory), None);
        }
        remembered.store(&directory).unwrap();
        Remembered::forget(&directory);
        assert_eq!(Remembered::load(&directory), None);
        fs::remove_dir_all(&directory).unwrap();
    }
}
