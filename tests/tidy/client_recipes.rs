//! Checks of the bots in tests/clients/: each has a recipe that shows how to point the library at the proxy, a test
//! that runs it, and lock files that pin all packages without naming a registry.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Maximum length of a recipe in lines.
const LONGEST_RECIPE: usize = 45;

/// The lock files that pin the packages of a bot, one name for each kind of registry.
const LOCKS: [&str; 5] = ["package-lock.json", "requirements.txt", "Cargo.lock", "maven.sha256", "go.sum"];

#[test]
fn every_bot_has_a_short_recipe() {
    for (library, directory) in libraries() {
        let program = read(&program(&directory));
        let recipe = recipe(&library, &program);
        assert!(!recipe.is_empty(), "{library}: no lines between recipe:start and recipe:end");
        assert!(recipe.len() <= LONGEST_RECIPE, "{library}: a recipe of {} lines", recipe.len());
        let named = recipe.iter().any(|line| line.to_lowercase().replace('_', "").contains("gatewayurl"));
        assert!(named, "{library}: the recipe does not say where the proxy is");
        let test_only = recipe.iter().find(|line| line.contains("API_URL") || line.contains("COMPRESS =="));
        assert_eq!(test_only, None, "{library}: what only the test needs is in the recipe");
    }
}

#[test]
fn every_bot_is_run_by_a_test() {
    let tests = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libraries/real_clients.rs"));
    for (library, _) in libraries() {
        assert!(tests.contains(&format!("exercise(\"{library}\"")), "no test of {library}");
    }
}

/// A directory inside a library's directory pins the packages that one compression or encoding needs besides.
#[test]
fn every_way_to_speak_with_packages_of_its_own_is_run_by_a_test() {
    let tests = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libraries/real_clients.rs"));
    let ways = ways();
    assert!(!ways.is_empty(), "no directory with a lock file in that of a library");
    for (way, _) in ways {
        let (library, compress) = way.split_once('/').expect("a library and its way");
        assert!(tests.contains(&format!("exercise(\"{library}\", \"{compress}\")")), "no test of {way}");
    }
}

#[test]
fn lock_files_pin_everything_and_name_no_registry() {
    for (library, directory) in libraries().into_iter().chain(ways()) {
        let node = directory.join("package-lock.json");
        if node.exists() {
            let lock: serde_json::Value = serde_json::from_str(&read(&node)).expect("a lock file is JSON");
            let packages = lock["packages"].as_object().expect("a lock file lists packages");
            for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
                assert!(package["integrity"].is_string(), "{library}: {path} is not pinned");
                assert!(package["resolved"].is_null(), "{library}: {path} names a registry");
            }
        }
        let python = directory.join("requirements.txt");
        if python.exists() {
            let requirements = read(&python).replace("\\\n", " ");
            for line in requirements.lines().filter(|line| !line.trim().is_empty()) {
                assert!(line.contains("==") && line.contains("--hash=sha256:"), "{library}: not pinned: {line}");
                assert!(!line.contains("://"), "{library}: names a registry: {line}");
            }
        }
        let java = directory.join("maven.sha256");
        if java.exists() {
            let pins = read(&java);
            assert!(pins.lines().count() > 1, "{library}: no files are pinned");
            for line in pins.lines() {
                let (sum, file) = line.split_once("  ").unwrap_or_default();
                let hex = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
                assert!(hex && file.ends_with(".jar"), "{library}: not pinned: {line}");
            }
            let pom = read(&directory.join("pom.xml"));
            assert!(!pom.contains("<repositor"), "{library}: names a registry");
            let versions = pom.split("<version>").skip(2).filter_map(|rest| rest.split('<').next());
            for version in versions {
                assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{library}: not pinned: {version}");
            }
        }
        let go = directory.join("go.sum");
        if go.exists() {
            let pins = read(&go);
            assert!(pins.lines().all(|line| line.contains(" h1:")), "{library}: go.sum has a line without a checksum");
            assert!(!read(&directory.join("go.mod")).contains("replace"), "{library}: go.mod replaces a module");
        }
    }
}

/// The directories below tests/clients/ with a lock file, and the names of their libraries.
fn libraries() -> Vec<(String, PathBuf)> {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
    let found = with_lock_files(&clients);
    assert!(found.len() > 1, "bots in {}", clients.display());
    found
}

/// The directories with a lock file inside the libraries' directories, named `LIBRARY/DIRECTORY`.
fn ways() -> Vec<(String, PathBuf)> {
    let of = |(library, directory): (String, PathBuf)| {
        let named = move |(way, path)| (format!("{library}/{way}"), path);
        with_lock_files(&directory).into_iter().map(named)
    };
    libraries().into_iter().flat_map(of).collect()
}

/// The subdirectories that have a lock file, with their names.
fn with_lock_files(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut found: Vec<_> = entries
        .map(|entry| entry.expect("an entry of a directory").path())
        .filter(|path| LOCKS.iter().any(|lock| path.join(lock).exists()))
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path))
        .collect();
    found.sort();
    found
}

/// The source file that contains the recipe.
fn program(directory: &Path) -> PathBuf {
    ["bot.js", "bot.py", "src/main.rs", "Bot.java", "Bot.kt", "bot.go"]
        .map(|name| directory.join(name))
        .into_iter()
        .find(|path| path.exists())
        .expect("a bot")
}

/// The lines between the marks. A recipe may have several such parts.
fn recipe<'a>(library: &str, program: &'a str) -> Vec<&'a str> {
    let mut inside = false;
    let mut lines = Vec::new();
    for line in program.lines() {
        if line.contains("recipe:start") || line.contains("recipe:end") {
            let start = line.contains("recipe:start");
            assert_ne!(inside, start, "{library}: two marks of the same kind follow each other");
            inside = start;
        } else if inside {
            lines.push(line);
        }
    }
    assert!(!inside, "{library}: the recipe does not end");
    lines
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
