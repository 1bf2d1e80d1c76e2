//! Checks whether another user could write to a directory, or could put another directory in its place.
//!
//! A directory is only as safe as the directories on the path to it: a user who can write to one of those can rename
//! its entries. In a directory with the sticky bit, such as `/tmp`, a user can rename only the entries that he owns.

use std::{
    ffi::OsString,
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

/// Most symbolic links on the path; Linux follows as many.
const MAX_LINKS: u32 = 40;
const STICKY: u32 = 0o1000;

/// The effective user id of the process.
pub fn own_user() -> u32 {
    // SAFETY: geteuid has no preconditions and can not fail.
    unsafe { libc::geteuid() }
}

/// The reason, in words, why a user other than root and the process's own can change what is in the directory; `None`:
/// no such user can.
pub fn weakness(directory: &Path) -> io::Result<Option<String>> {
    let mut place = PathBuf::from("/");
    let mut rest = parts(&std::path::absolute(directory)?);
    if let Some(what) = weakness_of(&place, &place.symlink_metadata()?, rest.is_empty()) {
        return Ok(Some(what));
    }
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == ".." {
            // The directories above have been checked already.
            place.pop();
            continue;
        }
        place.push(part);
        let metadata = place.symlink_metadata()?;
        if let Some(what) = weakness_of(&place, &metadata, rest.is_empty()) {
            return Ok(Some(what));
        }
        if metadata.is_symlink() {
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = place.read_link()?;
            place.pop();
            if target.is_absolute() {
                place = PathBuf::from("/");
            }
            rest.extend(parts(&target));
        }
    }
    Ok(None)
}

/// The names of a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    names.collect()
}

/// The reason why another user can change this directory or link on the path; `None`: none can. `is_last`: it is the
/// directory itself.
fn weakness_of(place: &Path, metadata: &Metadata, is_last: bool) -> Option<String> {
    let (owner, mode) = (metadata.uid(), metadata.mode());
    if owner != 0 && owner != own_user() {
        return Some(format!("{place:?} belongs to another user (number {owner})"));
    }
    // A link has no permissions of its own.
    if metadata.is_symlink() {
        return None;
    }
    // Many systems give each user a group of the same number with no other member, and make files writable by the group
    // by default.
    let group_writes = mode & 0o020 != 0 && metadata.gid() != owner;
    let others_write = group_writes || mode & 0o002 != 0;
    (others_write && (is_last || mode & STICKY == 0))
        .then(|| format!("other users can write to {place:?} (mode {:04o})", mode & 0o7777))
}
