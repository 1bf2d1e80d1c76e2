//! State files: one for each shard in `state_dir`, written when the proxy stops and read when it starts.
//!
//! The first line of a file says which shard, bot and configuration it is for. The compressed stream of [`Shard::save`]
//! follows, sealed by [`StateDir`]. A file is removed as soon as it has been opened, because its content is valid only
//! once. A file that is damaged, altered, too old, or of another version, bot or configuration is reported and ignored.
//! No file contains a token.

use super::CoreConfig;
use crate::{
    shard::Shard,
    state_dir::{StateDir, Unusable},
};
use std::{
    io::{self, BufReader, Read, Seek, Write},
    path::PathBuf,
};

/// Version of the content. It changes with everything that makes older files unreadable. That includes every change of
/// how the cache packs a guild: the codec, the tables, the stores, the list of kinds.
const VERSION: u32 = 7;
/// The compression level. Packed guilds hardly shrink at any level, so a fast level is enough. The log shrinks at this
/// one too.
const ZSTD_LEVEL: i32 = -5;
/// Version of the container: the first line and the seal.
const CONTAINER: u32 = 2;
/// Longest first line in bytes.
const MAX_HEAD: usize = 1024;

fn name(shard: u32) -> String {
    format!("shard-{shard}.state")
}

/// Storage for the states of shards between two processes.
pub trait States {
    /// Reads the state of a shard and removes it. `make` makes a shard of the stream. `Ok(None)`: there is no state.
    /// `Err`: the state can not be read or used.
    fn load(
        &self,
        config: &CoreConfig,
        shard: u32,
        make: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
    ) -> io::Result<Option<Shard>>;

    /// Stores the state of a shard. `Ok(false)`: the shard has no session to go on with, and nothing is stored.
    fn store(&self, config: &CoreConfig, shard: &mut Shard) -> io::Result<bool>;
}

/// Stores nothing.
pub struct NoStates;

impl States for NoStates {
    fn load(
        &self,
        _: &CoreConfig,
        _: u32,
        _: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
    ) -> io::Result<Option<Shard>> {
        Ok(None)
    }

    fn store(&self, _: &CoreConfig, _: &mut Shard) -> io::Result<bool> {
        Ok(false)
    }
}

/// State files in this directory. See the module's description.
pub struct StateFiles(pub PathBuf);

/// A state file of `directory` can not be read or written. An [`io::Error`] of the same kind carries it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", directory.display())]
struct StateFileError {
    directory: PathBuf,
    source: io::Error,
}

impl StateFiles {
    /// Adds the directory to an error.
    fn named(&self, source: io::Error) -> io::Error {
        io::Error::new(source.kind(), StateFileError { directory: self.0.clone(), source })
    }
}

impl States for StateFiles {
    fn load(
        &self,
        config: &CoreConfig,
        shard: u32,
        make: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
    ) -> io::Result<Option<Shard>> {
        load(&StateDir::new(&self.0, &config.token), config, shard, make).map_err(|error| self.named(error))
    }

    fn store(&self, config: &CoreConfig, shard: &mut Shard) -> io::Result<bool> {
        store(&StateDir::new(&self.0, &config.token), config, shard).map_err(|error| self.named(error))
    }
}

/// The first line of a file. A file is of use only if its first line is exactly this one. The token is in it as a
/// digest only.
fn head(config: &CoreConfig, shard: u32) -> String {
    let token = ring::digest::digest(&ring::digest::SHA256, config.token.as_bytes());
    let token: String = token.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "gateway-proxy state {CONTAINER}.{VERSION} shard {shard} of {} bot {token} intents {} cache {:?}\n",
        config.shard_count, config.intents, config.cache
    )
}

/// Writes the file of a shard. `Ok(false)`: the shard has no session to go on with, and no file is written.
fn store(directory: &StateDir, config: &CoreConfig, shard: &mut Shard) -> io::Result<bool> {
    let id = shard.id().id;
    directory.write(&name(id), |out| {
        out.write_all(head(config, id).as_bytes())?;
        let mut stream = zstd::Encoder::new(out, ZSTD_LEVEL)?;
        let saved = shard.save(&mut stream)?;
        if saved {
            stream.finish()?;
        }
        Ok(saved)
    })
}

/// Reads the file of a shard and removes it. `make` makes a shard of the stream. `Ok(None)`: there is no file.
fn load(
    directory: &StateDir,
    config: &CoreConfig,
    shard: u32,
    make: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
) -> io::Result<Option<Shard>> {
    let opened = directory.open(&name(shard));
    // The file is removed before its content is looked at.
    directory.remove(&name(shard))?;
    let Some(mut sealed) = opened? else { return Ok(None) };
    let expected = head(config, shard);
    let mut first = vec![0; expected.len().min(MAX_HEAD)];
    sealed.file.read_exact(&mut first).map_err(|_| Unusable::CutOff)?;
    if first != expected.as_bytes() {
        return Err(Unusable::OtherHead.into());
    }
    let length = sealed.verify()?.checked_sub(first.len() as u64).ok_or(Unusable::CutOff)?;
    sealed.file.seek(io::SeekFrom::Start(first.len() as u64))?;
    let mut stream = zstd::Decoder::new(BufReader::new(sealed.file.take(length)))?;
    make(&mut stream).map(Some)
}
