//! Tests with files that another user has changed, and with directories that another user could change.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

/// A directory of a test. Dropping it removes the directory.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gateway-proxy-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        set_mode(&path, 0o700);
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn content(directory: &StateDir, name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(mut sealed) = directory.open(name)? else { return Ok(None) };
    let length = sealed.verify()?;
    let mut bytes = Vec::new();
    sealed.file.take(length).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

fn put(directory: &StateDir, name: &str, bytes: &[u8]) {
    assert!(directory.write(name, |out| out.write_all(bytes).map(|()| true)).unwrap());
}

#[test]
fn a_file_comes_back_whole_and_is_for_its_owner_only() {
    let scratch = Scratch::new("sealed");
    let directory = StateDir::new(&scratch.0, "token");
    assert_eq!(content(&directory, "shard-0.state").unwrap(), None);
    let long = vec![7; 3 * CHUNK + 5];
    for bytes in [&b"first"[..], b"", &long] {
        put(&directory, "shard-0.state", bytes);
        assert_eq!(content(&directory, "shard-0.state").unwrap().as_deref(), Some(bytes));
    }
    assert_eq!(fs::metadata(scratch.path("shard-0.state")).unwrap().mode() & 0o777, 0o600);
    assert!(!directory.write("shard-1.state", |_| Ok(false)).unwrap());
    directory.write("shard-1.state", |_| Err(io::Error::other("full"))).unwrap_err();
    assert_eq!(scratch.names(), ["shard-0.state"], "nothing unfinished stays");
    directory.remove("shard-0.state").unwrap();
    directory.remove("shard-0.state").unwrap();
    assert_eq!(scratch.names(), [""; 0]);
}

#[test]
fn a_file_of_somebody_who_does_not_know_the_token_is_refused() {
    let scratch = Scratch::new("seals");
    let directory = StateDir::new(&scratch.0, "token");
    put(&directory, "gateway.json", b"{\"url\":\"wss://a\"}");
    let path = scratch.path("gateway.json");
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        content(&directory, "gateway.json").unwrap_err().to_string()
    };
    for at in 0..good.len() {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(refused(&changed).contains("keyed checksum is wrong"), "byte {at}");
        let error = refused(&good[..at]);
        assert!(error.contains("keyed checksum is wrong") || error.contains("cut off"), "{at}: {error}");
    }
    assert!(refused(&[&good[..], b"x"].concat()).contains("keyed checksum"));
    // A file of another bot is refused, and so is a file under another name.
    put(&StateDir::new(&scratch.0, "other"), "gateway.json", b"{\"url\":\"wss://a\"}");
    assert!(content(&directory, "gateway.json").unwrap_err().to_string().contains("keyed checksum"));
    put(&directory, "shard-0.state", b"x");
    fs::rename(scratch.path("shard-0.state"), scratch.path("shard-1.state")).unwrap();
    assert!(content(&directory, "shard-1.state").unwrap_err().to_string().contains("keyed checksum"));
}

#[test]
fn links_and_files_of_others_are_neither_read_nor_written_to() {
    let scratch = Scratch::new("links");
    let directory = StateDir::new(&scratch.0, "token");
    let victim = scratch.path("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, scratch.path("shard-0.state")).unwrap();
    assert_eq!(directory.open("shard-0.state").unwrap_err().to_string(), "it is a symbolic link");
    put(&directory, "shard-0.state", b"new");
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(content(&directory, "shard-0.state").unwrap().as_deref(), Some(&b"new"[..]));
    // Removing a link does not remove its target.
    symlink(&victim, scratch.path("shard-1.state")).unwrap();
    directory.remove("shard-1.state").unwrap();
    assert!(victim.exists());
    fs::hard_link(scratch.path("shard-0.state"), scratch.path("second")).unwrap();
    assert!(directory.open("shard-0.state").unwrap_err().to_string().contains("no file of its own"));
    fs::remove_file(scratch.path("second")).unwrap();
    set_mode(&scratch.path("shard-0.state"), 0o666);
    assert!(directory.open("shard-0.state").unwrap_err().to_string().contains("others can write"));
    // Opening a pipe must not block.
    let pipe = std::ffi::CString::new(scratch.path("shard-2.state").to_str().unwrap()).unwrap();
    // SAFETY: the pointer is to a string that ends with a zero and lives as long as the call.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    assert!(directory.open("shard-2.state").unwrap_err().to_string().contains("no file of its own"));
}

#[test]
fn a_directory_that_others_can_write_to_is_refused_wherever_on_the_way() {
    let scratch = Scratch::new("permissions");
    let directory = scratch.path("a/b/state");
    assert_eq!(prepare(&directory, false).unwrap(), 0);
    assert_eq!(fs::metadata(&directory).unwrap().mode() & 0o777, 0o700);
    let error = |directory: &Path| prepare(directory, false).unwrap_err().to_string();
    for (path, mode) in [("a/b/state", 0o777), ("a/b/state", 0o1777), ("a/b", 0o702), ("a", 0o777)] {
        let path = scratch.path(path);
        set_mode(&path, mode);
        let error = error(&directory);
        assert!(error.contains(&format!("other users can write to {path:?} (mode {mode:04o})")), "{error}");
        assert!(error.contains("`trust_state_dir`"), "{error}");
        assert_eq!(prepare(&directory, true).unwrap(), 0, "when told so");
        set_mode(&path, 0o700);
    }
    // In a directory with the sticky bit, other users can not rename the entries of this user.
    set_mode(&scratch.path("a"), 0o1777);
    assert_eq!(prepare(&directory, false).unwrap(), 0);
    set_mode(&scratch.path("a"), 0o700);
    // The directories on the path of a link's target are checked too.
    fs::create_dir_all(scratch.path("open/state")).unwrap();
    set_mode(&scratch.path("open"), 0o777);
    symlink("../open/state", scratch.path("a/link")).unwrap();
    assert!(error(&scratch.path("a/link")).contains("open\" (mode 0777)"));
    symlink(scratch.path("open/state"), scratch.path("a/absolute")).unwrap();
    assert!(error(&scratch.path("a/absolute")).contains("open\" (mode 0777)"));
    set_mode(&scratch.path("open"), 0o700);
    assert_eq!(prepare(&scratch.path("a/link"), false).unwrap(), 0);
    symlink("loop", scratch.path("loop")).unwrap();
    assert!(error(&scratch.path("loop")).contains("no file can be written"));
}

#[test]
fn a_directory_of_another_user_is_refused() {
    // SAFETY: geteuid has no preconditions. Only root can give a directory away.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let scratch = Scratch::new("owner");
    std::os::unix::fs::chown(&scratch.0, Some(12_345), None).unwrap();
    let error = prepare(&scratch.path("state"), false).unwrap_err().to_string();
    assert!(error.contains("belongs to another user (number 12345)"), "{error}");
}

#[test]
fn a_private_group_may_write_and_a_shared_one_not() {
    let scratch = Scratch::new("groups");
    let owner = permissions::own_user();
    let set_group = |group| std::os::unix::fs::chown(&scratch.0, None, Some(group)).is_ok();
    set_mode(&scratch.0, 0o770);
    if set_group(owner) {
        assert_eq!(prepare(&scratch.0, false).unwrap(), 0);
    }
    if set_group(owner + 1) {
        set_mode(&scratch.0, 0o770);
        assert!(prepare(&scratch.0, false).unwrap_err().to_string().contains("(mode 0770)"));
    }
}

#[test]
fn what_is_too_old_is_removed() {
    let scratch = Scratch::new("stale");
    let now = SystemTime::now();
    for (name, age) in [
        ("shard-0.state", 3_500),
        ("shard-1.state", 3_700),
        ("shard-0.state.0123456789abcdef.new", 500),
        ("shard-2.state.0123456789abcdef.new", 700),
        ("gateway.json", 3_700),
        ("probe.0123456789abcdef.new", 700),
        ("notes.new", 1_000_000),
        ("shard-notes", 1_000_000),
    ] {
        let file = File::create(scratch.path(name)).unwrap();
        file.set_modified(now - Duration::from_secs(age)).unwrap();
    }
    assert_eq!(prepare(&scratch.0, false).unwrap(), 4);
    assert_eq!(
        scratch.names(),
        ["notes.new", "shard-0.state", "shard-0.state.0123456789abcdef.new", "shard-notes"],
        "what is young, and what is not the proxy's"
    );
}

#[test]
fn a_place_where_nothing_can_be_written_is_named() {
    let scratch = Scratch::new("unwritable");
    let file = scratch.path("file");
    fs::write(&file, "").unwrap();
    let error = prepare(&file, false).unwrap_err().to_string();
    assert!(error.contains("`state_dir` is") && error.contains("choose another directory"), "{error}");
}
