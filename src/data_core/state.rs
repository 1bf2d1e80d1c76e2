//! State files: one for each shard in `state_dir`, written when the proxy stops, read when it starts.
//!
//! A file is a line that says what it is and for whom, then the compressed stream of [`Shard::save`], sealed as
//! [`StateDir`] does it. It is taken away as soon as it has been opened: what it says is true only once. A file that is old,
//! damaged, changed by somebody, or for another bot or configuration is reported and ignored. No token is ever in it.

use super::Plan;
use crate::{shard::Shard, state_dir::StateDir};
use std::{
    io::{self, BufReader, Read, Seek, Write},
    path::PathBuf,
};

/// Changes with everything that makes older files unreadable, which includes any change of how the cache packs a guild:
/// the codec, the tables, the stores, the list of kinds.
const VERSION: u32 = 7;
/// Packed guilds do not get much smaller, whatever the level, so it should not cost time either; logs do.
const ZSTD_LEVEL: i32 = -5;
/// Changes with what is around the stream of the shard: the first line and the seal.
const CONTAINER: u32 = 2;
/// Longest first line.
const MAX_HEAD: usize = 1024;

fn name(shard: u32) -> String {
    format!("shard-{shard}.state")
}

/// Where shards are kept between two processes.
pub trait States {
    /// Reads the state of a shard and takes it away. `Ok(None)`: there is none. `make` makes a shard of the stream.
    fn load(
        &self,
        plan: &Plan,
        shard: u32,
        make: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
    ) -> io::Result<Option<Shard>>;

    /// Keeps a shard. `Ok(false)`: it has nothing to go on from.
    fn store(&self, plan: &Plan, shard: &mut Shard) -> io::Result<bool>;
}

/// Nothing is kept.
pub struct NoStates;

impl States for NoStates {
    fn load(
        &self,
        _: &Plan,
        _: u32,
        _: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
    ) -> io::Result<Option<Shard>> {
        Ok(None)
    }

    fn store(&self, _: &Plan, _: &mut Shard) -> io::Result<bool> {
        Ok(false)
    }
}

/// Files in this directory; see the module's description.
pub struct StateFiles(pub PathBuf);

impl States for StateFiles {
    fn load(
        &self,
        plan: &Plan,
        shard: u32,
        make: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
    ) -> io::Result<Option<Shard>> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.0.display()));
        load(&StateDir::new(&self.0, &plan.token), plan, shard, make).map_err(named)
    }

    fn store(&self, plan: &Plan, shard: &mut Shard) -> io::Result<bool> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.0.display()));
        store(&StateDir::new(&self.0, &plan.token), plan, shard).map_err(named)
    }
}

/// What has to be the same for a file to be of use. The token is in it as a digest only.
fn head(plan: &Plan, shard: u32) -> String {
    let token = ring::digest::digest(&ring::digest::SHA256, plan.token.as_bytes());
    let token: String = token.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "gateway-proxy state {CONTAINER}.{VERSION} shard {shard} of {} bot {token} intents {} cache {:?}\n",
        plan.shard_count, plan.intents, plan.cache
    )
}

/// Writes the file of a shard. `Ok(false)`: it has nothing to go on from.
fn store(directory: &StateDir, plan: &Plan, shard: &mut Shard) -> io::Result<bool> {
    let id = shard.id().id;
    directory.write(&name(id), |out| {
        out.write_all(head(plan, id).as_bytes())?;
        let mut stream = zstd::Encoder::new(out, ZSTD_LEVEL)?;
        let saved = shard.save(&mut stream)?;
        if saved {
            stream.finish()?;
        }
        Ok(saved)
    })
}

/// Reads the file of a shard and takes it away. `Ok(None)`: there is none. `make` makes a shard of the stream.
fn load(
    directory: &StateDir,
    plan: &Plan,
    shard: u32,
    make: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
) -> io::Result<Option<Shard>> {
    let opened = directory.open(&name(shard));
    // From here on it is gone, whatever it says.
    directory.remove(&name(shard))?;
    let Some(mut sealed) = opened? else { return Ok(None) };
    let expected = head(plan, shard);
    let mut first = vec![0; expected.len().min(MAX_HEAD)];
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    sealed.file.read_exact(&mut first).map_err(|_| wrong("it is cut off"))?;
    if first != expected.as_bytes() {
        return Err(wrong("it is of another version, bot or configuration"));
    }
    let length = sealed.verify()?.checked_sub(first.len() as u64).ok_or_else(|| wrong("it is cut off"))?;
    sealed.file.seek(io::SeekFrom::Start(first.len() as u64))?;
    let mut stream = zstd::Decoder::new(BufReader::new(sealed.file.take(length)))?;
    make(&mut stream).map(Some)
}
