//! The directory `state_dir`: files that one process leaves for the next one, and that nobody else can have written.
//!
//! Owns the names, the permissions and the seals of these files; never looks at what is in them.
//!
//! Promises: a file is there whole or not at all; it is for its owner only (mode 0600); no symbolic link is followed, and no
//! file that was there before is written to; a file is read only if its seal is right. The seal is an HMAC-SHA256 over the
//! name and the content, with a key that is made of the bot's token. So who can write to the directory, but does not know
//! the token, can take a file away or put an old one back, and can not make one.

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

/// Bytes of the seal, which is the end of each file.
pub const SEAL: u64 = 32;
/// What the key of the seals is derived for.
const PURPOSE: &[u8] = b"gateway-proxy state files";
/// The ending of a file that is being written.
const UNFINISHED: &str = ".new";
/// Such a file is of no use when nobody has written to it for this long: a process has 90 s to stop.
const UNFINISHED_LIFE: Duration = Duration::from_secs(10 * 60);
/// Any other file is of no use when it is older than this: Discord keeps a session for some minutes.
const LIFE: Duration = Duration::from_secs(3600);
/// Bytes that are read at a time to check a seal.
const CHUNK: usize = 256 << 10;

/// See the module's description.
pub struct StateDir {
    path: PathBuf,
    key: hmac::Key,
}

/// A file while it is written: what passes goes into its seal, too.
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

/// A file that is there. What it says is not to be believed before [`Sealed::verify`].
#[derive(Debug)]
pub struct Sealed {
    /// The file, from its beginning.
    pub file: File,
    seal: hmac::Context,
}

fn unusable(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Sealed {
    /// Checks the seal. Returns how many bytes there are before it; the file is at its beginning again.
    pub fn verify(&mut self) -> io::Result<u64> {
        let length = self.file.metadata()?.len().checked_sub(SEAL).ok_or_else(|| unusable("it is cut off"))?;
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
            Err(unusable(
                "its keyed checksum is wrong: it is damaged, or was changed by somebody who does not know the token",
            ))
        }
    }
}

impl StateDir {
    /// The directory of the bot with this token. Touches nothing.
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

    /// Writes a file, in place of one that was there. `fill` writes its content; when that returns `false`, there is no file.
    pub fn write(&self, name: &str, fill: impl FnOnce(&mut Sealing) -> io::Result<bool>) -> io::Result<bool> {
        make(&self.path)?;
        let (temporary, file) = create(&self.path, name)?;
        let written = self.fill(name, file, fill).and_then(|filled| {
            if filled {
                fs::rename(&temporary, self.path.join(name))?;
                // The name has to be on the disk, too.
                File::open(&self.path)?.sync_all()?;
            }
            Ok(filled)
        });
        if !matches!(written, Ok(true)) {
            // It may have its name already; what can not be removed is removed by the next start.
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

    /// Opens a file. `Ok(None)`: there is none. An error: there is something that no proxy of this user has written.
    pub fn open(&self, name: &str) -> io::Result<Option<Sealed>> {
        // A pipe, which an open would wait for, is no more welcome than a link.
        let opened =
            File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(self.path.join(name));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(unusable("it is a symbolic link")),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.nlink() > 1 {
            return Err(unusable("it is no file of its own"));
        }
        if metadata.uid() != permissions::own_user() {
            return Err(unusable("it belongs to another user"));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(unusable("others can write to it"));
        }
        Ok(Some(Sealed { file, seal: self.seal_of(name) }))
    }

    /// Takes a file away, or a link of that name. It is no error when there is none.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Makes the directory, for its owner only, when it is missing.
fn make(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a new file with a name that nobody could know, for its owner only.
fn create(directory: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("the system has no random numbers"))?;
    let path = directory.join(format!("{name}.{:016x}{UNFINISHED}", u64::from_ne_bytes(random)));
    // `create_new` is O_EXCL: neither a file that is there nor a link is written to.
    let file = File::options().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path)?;
    Ok((path, file))
}

/// Makes the directory if it is missing, tries whether a file can be written there (when the proxy stops it is too late to find
/// out), and removes files of former processes that are of no use any more; returns how many. Unless it is `trusted`, a
/// directory that other users can write to, or put another one in place of, is an error. An error says what to do.
pub fn prepare(directory: &Path, trusted: bool) -> Result<usize, String> {
    let unusable = |error: io::Error| {
        format!(
            "`state_dir` is {directory:?}, where no file can be written ({error}): choose another directory, or let the user that runs the proxy write there"
        )
    };
    make(directory).map_err(unusable)?;
    if !trusted && let Some(what) = permissions::weakness(directory).map_err(unusable)? {
        return Err(format!(
            "`state_dir` is {directory:?}, and {what}: take that permission away (`chmod go-w`), choose another directory, or, when nobody else is on this machine, set `trust_state_dir` to true"
        ));
    }
    create(directory, "probe").and_then(|(path, _)| fs::remove_file(path)).map_err(unusable)?;
    Ok(sweep(directory, SystemTime::now()))
}

/// Removes what is too old to be of use, by the names that the proxy gives.
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
