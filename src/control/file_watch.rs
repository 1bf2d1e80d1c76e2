//! Notices that the configuration file has changed. Pure: the caller looks at the file and gives what it sees.
//!
//! A file is read again when it differs from what was read last and has not changed for [`SETTLED`]. So a file that is
//! being written is not read in halves. Editors replace files by renaming, which gives the file another identity and
//! leaves a moment without a file; a missing file changes nothing.

use crate::protocol::Time;
use std::{fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

/// How long the file has to stay as it is before it is read.
pub const SETTLED: Duration = Duration::from_millis(1500);

/// The identity and version of a file. A change of the file changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    /// Time of the last change of the content, and of the last change of anything, in nanoseconds since 1970.
    modified: i128,
    changed: i128,
}

impl Stamp {
    /// Looks at the file at `path`, or at the file that a link there leads to. `None`: there is none, or it can not be
    /// looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// See the module's description.
#[derive(Default)]
pub struct FileWatch {
    /// What was read last; `None`: not known yet.
    read: Option<Stamp>,
    /// What was seen last, and since when.
    seen: Option<(Stamp, Time)>,
}

impl FileWatch {
    /// The file was read after it had been seen like this.
    pub fn was_read(&mut self, stamp: Option<Stamp>) {
        self.read = stamp.or(self.read);
    }

    /// The file is seen like this at `now`. Returns whether it has to be read again; the caller then does that.
    pub fn look(&mut self, now: Time, stamp: Option<Stamp>) -> bool {
        let Some(stamp) = stamp else {
            self.seen = None;
            return false;
        };
        let since = match self.seen {
            Some((seen, since)) if seen == stamp => since,
            _ => now,
        };
        self.seen = Some((stamp, since));
        // What was there at the start has been read before.
        let read = *self.read.get_or_insert(stamp);
        read != stamp && now.saturating_sub(since) >= SETTLED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(version: u64) -> Option<Stamp> {
        Some(Stamp { device: 1, inode: version, size: 2, modified: 0, changed: 0 })
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_file_is_read_once_when_it_has_settled() {
        let mut watch = FileWatch::default();
        let at = |second: u32| SECOND * second;
        assert!(!watch.look(at(0), stamp(1)) && !watch.look(at(9), stamp(1)));
        // Three versions a second apart, and a moment without a file in between.
        assert!(!watch.look(at(10), stamp(2)) && !watch.look(at(11), stamp(3)));
        assert!(!watch.look(at(12), None) && !watch.look(at(13), stamp(4)) && !watch.look(at(14), stamp(4)));
        assert!(watch.look(at(15), stamp(4)));
        watch.was_read(stamp(4));
        assert!(!watch.look(at(16), stamp(4)) && !watch.look(at(99), stamp(4)));
        // The file was read for another reason, such as a signal, before it had settled.
        assert!(!watch.look(at(100), stamp(5)));
        watch.was_read(stamp(5));
        assert!(!watch.look(at(109), stamp(5)));
        // The old version comes back.
        assert!(!watch.look(at(110), stamp(4)) && watch.look(at(112), stamp(4)));
    }

    #[test]
    fn a_change_or_a_rename_changes_the_stamp() {
        let directory = std::env::temp_dir().join(format!("file_watch_{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (path, other) = (directory.join("a"), directory.join("b"));
        assert_eq!(Stamp::of(&path), None);
        fs::write(&path, "1").unwrap();
        let first = Stamp::of(&path);
        assert!(first.is_some() && first == Stamp::of(&path));
        fs::write(&path, "12").unwrap();
        let second = Stamp::of(&path);
        assert_ne!(first, second);
        fs::write(&other, "12").unwrap();
        fs::rename(&other, &path).unwrap();
        assert_ne!(Stamp::of(&path), second);
        fs::remove_dir_all(&directory).unwrap();
    }
}
