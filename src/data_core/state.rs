//! State files: one for each shard in `state_dir`, written when the proxy stops, read when it starts.
//!
//! A file is a line that says what it is and for whom, then the compressed stream of [`Shard::save`], then a checksum.
//! It is written beside its final name, flushed to the disk and renamed, so there is either the whole file or none. It
//! is taken away as soon as it has been read: what it says is true only once. A file that is old, damaged or for another
//! bot or configuration is reported and ignored. No token is ever in it.

use super::Plan;
use crate::shard::Shard;
use flate2::Crc;
use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// Changes with everything that makes older files unreadable, which includes any change of how the cache packs a guild:
/// the codec, the tables, the stores, the list of kinds.
const VERSION: u32 = 7;
/// Packed guilds do not get much smaller, whatever the level, so it should not cost time either; logs do.
const ZSTD_LEVEL: i32 = -5;
/// Bytes of the checksum at the end.
const CHECKSUM: u64 = 4;
/// Longest first line.
const MAX_HEAD: usize = 1024;

fn path(directory: &Path, shard: u32) -> PathBuf {
    directory.join(format!("shard-{shard}.state"))
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
        load(&self.0, plan, shard, make).map_err(named)
    }

    fn store(&self, plan: &Plan, shard: &mut Shard) -> io::Result<bool> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.0.display()));
        store(&self.0, plan, shard).map_err(named)
    }
}

/// What has to be the same for a file to be of use. The token is in it as a digest only.
fn head(plan: &Plan, shard: u32) -> String {
    let token = ring::digest::digest(&ring::digest::SHA256, plan.token.as_bytes());
    let token: String = token.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "gateway-proxy state {VERSION} shard {shard} of {} bot {token} intents {} cache {:?}\n",
        plan.shard_count, plan.intents, plan.cache
    )
}

/// Counts what passes into the checksum.
struct Summed<T> {
    inner: T,
    sum: Crc,
}

impl<T: Write> Write for Summed<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.sum.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes the file of a shard. `Ok(false)`: it has nothing to go on from.
fn store(directory: &Path, plan: &Plan, shard: &mut Shard) -> io::Result<bool> {
    fs::create_dir_all(directory)?;
    let path = path(directory, shard.id().id);
    let temporary = path.with_extension("state.new");
    let mut file = Summed { inner: BufWriter::new(create_private(&temporary)?), sum: Crc::new() };
    file.write_all(head(plan, shard.id().id).as_bytes())?;
    let mut stream = zstd::Encoder::new(file, ZSTD_LEVEL)?;
    if !shard.save(&mut stream)? {
        drop(stream);
        fs::remove_file(&temporary)?;
        return Ok(false);
    }
    let Summed { mut inner, sum } = stream.finish()?;
    inner.write_all(&sum.sum().to_le_bytes())?;
    inner.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    fs::rename(&temporary, &path)?;
    // The name has to be on the disk too.
    File::open(directory)?.sync_all()?;
    Ok(true)
}

/// It holds what the bot can see: for its owner only.
fn create_private(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Reads the file of a shard and takes it away. `Ok(None)`: there is none. `make` makes a shard of the stream.
fn load(
    directory: &Path,
    plan: &Plan,
    shard: u32,
    make: &mut dyn FnMut(&mut dyn Read) -> io::Result<Shard>,
) -> io::Result<Option<Shard>> {
    let path = path(directory, shard);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // From here on it is gone, whatever it says.
    fs::remove_file(&path)?;
    let expected = head(plan, shard);
    let mut first = vec![0; expected.len().min(MAX_HEAD)];
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    file.read_exact(&mut first).map_err(|_| wrong("it is cut off"))?;
    if first != expected.as_bytes() {
        return Err(wrong("it is of another version, bot or configuration"));
    }
    check(&mut file)?;
    let length = file.metadata()?.len() - CHECKSUM - first.len() as u64;
    file.seek(io::SeekFrom::Start(first.len() as u64))?;
    let mut stream = zstd::Decoder::new(BufReader::new(file.take(length)))?;
    make(&mut stream).map(Some)
}

/// The checksum at the end has to be that of all before.
fn check(file: &mut File) -> io::Result<()> {
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let length = file.metadata()?.len().checked_sub(CHECKSUM).ok_or_else(|| wrong("it is cut off"))?;
    file.seek(io::SeekFrom::Start(0))?;
    let mut sum = Crc::new();
    let mut rest = length;
    let mut buffer = vec![0; 1 << 20];
    while rest > 0 {
        let n = rest.min(buffer.len() as u64) as usize;
        file.read_exact(&mut buffer[..n])?;
        sum.update(&buffer[..n]);
        rest -= n as u64;
    }
    let mut stored = [0; CHECKSUM as usize];
    file.read_exact(&mut stored)?;
    if u32::from_le_bytes(stored) == sum.sum() { Ok(()) } else { Err(wrong("its checksum is wrong")) }
}
