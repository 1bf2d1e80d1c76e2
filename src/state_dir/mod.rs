//! The directory `state_dir`: files that one process leaves for the next one.
//!
//! Owns the names, the permissions and the seals of these files; never interprets their contents.
//!
//! Promises: a file is complete or does not exist. Only its owner may read and write it (mode 0600). No symbolic link
//! is followed, and no existing file is written to. The content of a file is accepted only if its seal is right. The
//! seal is an HMAC-SHA256 over the name and the content, with a key that is derived from the bot's token. So a user who
//! can write to the directory, but does not know the token, can remove a file or restore an old one, and can not forge
//! one.

mod permissions;

use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, BufWriter, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};
use subtle::ConstantTimeEq;

/// Length of the seal at the end of each file, in bytes.
pub const SEAL: u64 = 32;
/// The purpose that goes into the derivation of the seals' key, so that the key is used for nothing else.
const PURPOSE: &[u8] = b"gateway-proxy state files";
/// The ending of a file that is being written.
const UNFINISHED: &str = ".new";
/// A file with this ending is stale when it was last written longer ago than this. A process has 90 s to stop.
const UNFINISHED_LIFE: Duration = Duration::from_secs(10 * 60);
/// A complete file is stale when it was last written longer ago than this. Discord keeps a session for some minutes.
const LIFE: Duration = Duration::from_secs(3600);
/// Bytes that are read at a time to check a seal.
const CHUNK: usize = 256 << 10;

/// A directory with state files, and the key of their seals.
pub struct StateDir {
    path: PathBuf,
    key: hmac::Key,
}

/// A file that is being written. The bytes written to it go into its seal too.
pub struct Sealing {
    file: BufWriter<File>,
    seal: hmac::Context,
}

impl Write for Sealing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        self.seal.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// An existing file. Its content must not be used before [`Sealed::verify`] has succeeded.
#[derive(Debug)]
pub struct Sealed {
    /// The file, at its beginning.
    pub file: File,
    seal: hmac::Context,
}

/// Why an existing file must not be used. An [`io::Error`] carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The file is shorter than what it must have.
    #[error("it is cut off")]
    CutOff,
    /// The seal is wrong.
    #[error("its keyed checksum is wrong: it is damaged, or was changed by somebody who does not know the token")]
    Seal,
    /// The name is that of a symbolic link.
    #[error("it is a symbolic link")]
    Link,
    /// The name is not that of a regular file, or the file has a second name.
    #[error("it is no file of its own")]
    Shared,
    /// Another user owns the file.
    #[error("it belongs to another user")]
    Owner,
    /// Other users may write to the file.
    #[error("others can write to it")]
    Writable,
    /// The first line is not the expected one.
    #[error("it is of another version, bot or configuration")]
    OtherHead,
}

impl From<Unusable> for io::Error {
    fn from(unusable: Unusable) -> Self {
        Self::new(io::ErrorKind::InvalidData, unusable)
    }
}

/// Why the directory can not keep state files. `path` is the directory.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say what the fields are
pub enum StateDirError {
    /// A file can not be written there.
    #[error(
        "`state_dir` is {path:?}, where no file can be written ({source}): choose another directory, or let the user that runs the proxy write there"
    )]
    NotWritable { path: PathBuf, source: io::Error },
    /// Other users could change the files. `weakness` says who may do what.
    #[error(
        "`state_dir` is {path:?}, and {weakness}: take that permission away (`chmod go-w`), choose another directory, or, when nobody else is on this machine, set `trust_state_dir` to true"
    )]
    Weak { path: PathBuf, weakness: String },
}

impl Sealed {
    /// Checks the seal. Returns the length of the content in bytes, and leaves the file at its beginning. The error
    /// says that the file is too short or that its seal is wrong.
    pub fn verify(&mut self) -> io::Result<u64> {
        let length = self.file.metadata()?.len().checked_sub(SEAL).ok_or(Unusable::CutOff)?;
        self.file.rewind()?;
        let mut rest = length;
        let mut buffer = vec![0; CHUNK];
        while rest > 0 {
            let n = rest.min(CHUNK as u64) as usize;
            self.file.read_exact(&mut buffer[..n])?;
            self.seal.update(&buffer[..n]);
            rest -= n as u64;
        }
        let mut stored = [0; SEAL as usize];
        self.file.read_exact(&mut stored)?;
        self.file.rewind()?;
        if bool::from(self.seal.clone().sign().as_ref().ct_eq(&stored)) {
            Ok(length)
        } else {
            Err(Unusable::Seal.into())
        }
    }
}

impl StateDir {
    /// The directory at `path` with the seals of the bot that has this token. Does not access the file system.
    pub fn new(path: &Path, token: &str) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes()), PURPOSE);
        Self { path: path.to_owned(), key: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) }
    }

    fn seal_of(&self, name: &str) -> hmac::Context {
        let mut seal = hmac::Context::with_key(&self.key);
        seal.update(name.as_bytes());
        seal.update(&[0]);
        seal
    }

    /// Writes a file and replaces an existing one of that name. `fill` writes the content. If `fill` returns `false` or
    /// an error, no file is written and an existing one stays. Returns what `fill` has returned.
    pub fn write(&self, name: &str, fill: impl FnOnce(&mut Sealing) -> io::Result<bool>) -> io::Result<bool> {
        make(&self.path)?;
        let (temporary, file) = create(&self.path, name)?;
        let written = self.fill(name, file, fill).and_then(|filled| {
            if filled {
                fs::rename(&temporary, self.path.join(name))?;
                // The directory is synced so that the new name is on the disk too.
                File::open(&self.path)?.sync_all()?;
            }
            Ok(filled)
        });
        if !matches!(written, Ok(true)) {
            // The rename may have happened already. A temporary file that can not be removed here is removed by a later
            // start.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    fn fill(&self, name: &str, file: File, fill: impl FnOnce(&mut Sealing) -> io::Result<bool>) -> io::Result<bool> {
        let mut sealing = Sealing { file: BufWriter::new(file), seal: self.seal_of(name) };
        if !fill(&mut sealing)? {
            return Ok(false);
        }
        let Sealing { mut file, seal } = sealing;
        file.write_all(seal.sign().as_ref())?;
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        Ok(true)
    }

    /// Opens a file. `Ok(None)`: there is no file. An error: it is a link, or not a regular file with one name, or
    /// other users own it or can write to it, or it can not be opened.
    pub fn open(&self, name: &str) -> io::Result<Option<Sealed>> {
        // With `O_NONBLOCK`, opening a pipe does not wait for a writer.
        let opened =
            File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(self.path.join(name));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(Unusable::Link.into()),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            return Err(Unusable::Shared.into());
        }
        if metadata.uid() != permissions::own_user() {
            return Err(Unusable::Owner.into());
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(Unusable::Writable.into());
        }
        Ok(Some(Sealed { file, seal: self.seal_of(name) }))
    }

    /// Removes a file or link of that name. Does nothing when there is none.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes the directory, with mode 0700, when it is missing.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a new file with mode 0600 and an unpredictable name. Returns its path and the file.
fn create(directory: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("the system has no random numbers"))?;
    let path = directory.join(format!("{name}.{:016x}{UNFINISHED}", u64::from_ne_bytes(random)));
    // `create_new` is O_EXCL: opening fails if a file or link of that name exists.
    let file = File::options().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path)?;
    Ok((path, file))
}

/// Prepares the directory at the start of the proxy. Returns how many stale files of former processes it has removed.
///
/// It makes the directory if it is missing, and tries whether a file can be written there, because when the proxy stops
/// it is too late to find that out. Unless the directory is `trusted`, it is an error if other users can write to it or
/// put another directory in its place. An error says what to do.
pub fn prepare(directory: &Path, trusted: bool) -> Result<usize, StateDirError> {
    let not_writable = |source| StateDirError::NotWritable { path: directory.to_owned(), source };
    make(directory).map_err(not_writable)?;
    if !trusted && let Some(weakness) = permissions::weakness(directory).map_err(not_writable)? {
        return Err(StateDirError::Weak { path: directory.to_owned(), weakness });
    }
    create(directory, "probe").and_then(|(path, _)| fs::remove_file(path)).map_err(not_writable)?;
    Ok(sweep(directory, SystemTime::now()))
}

/// Removes stale files whose names are ones that the proxy gives. Returns how many it has removed.
fn sweep(directory: &Path, now: SystemTime) -> usize {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let is_stale = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let life = match &*name {
            name if name.ends_with(UNFINISHED)
                && ["shard-", "gateway.json", "probe"].iter().any(|own| name.starts_with(own)) =>
            {
                UNFINISHED_LIFE
            }
            "gateway.json" => LIFE,
            name if name.starts_with("shard-") && name.ends_with(".state") => LIFE,
            _ => return false,
        };
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        modified.is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > life))
    };
    entries.filter(|entry| is_stale(entry) && fs::remove_file(entry.path()).is_ok()).count()
}

#[cfg(test)]
mod tests;
