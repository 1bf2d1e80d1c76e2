//! The client libraries that have a bot, and which of these to test.

use std::{env, fs};

use super::root;

/// The libraries that are tested by default.
const DEFAULT: [&str; 8] = ["twilight", "discord.js", "discord.py", "eris", "hikari", "discordeno", "jda", "discordgo"];

/// Says whether a library has to be tested. `CLIENTS` is `all` or a list of names; without it, [`DEFAULT`] is the
/// list.
pub fn chosen(library: &str) -> bool {
    chosen_to_speak(library, "")
}

/// As [`chosen`], for a bot that is told to use `compress`. Packages of its own ([`packages`]) are installed only for
/// those who have set `CLIENTS`: some have to be compiled.
pub fn chosen_to_speak(library: &str, compress: &str) -> bool {
    let packages = packages(library, compress);
    let wanted = match env::var("CLIENTS") {
        Err(_) => DEFAULT.contains(&packages.as_str()),
        Ok(list) => list == "all" || list.split([',', ' ']).any(|name| name == library || name == packages),
    };
    if !wanted {
        eprintln!("{packages} is not among the chosen libraries; CLIENTS=all runs all");
    }
    wanted
}

/// Returns the name that `scripts/clients-setup` installs for a bot: the library, or, when one way to speak needs other
/// packages, the directory of that name in the library's directory (`discord.js/zlib-stream`).
pub fn packages(library: &str, compress: &str) -> String {
    let own = format!("{library}/{compress}");
    if !compress.is_empty() && root().join("tests/clients").join(&own).is_dir() { own } else { library.to_owned() }
}

/// The names of all directories in tests/clients/ that have a bot.
pub fn libraries() -> Vec<String> {
    let entries = fs::read_dir(root().join("tests/clients")).expect("tests/clients");
    let mut found: Vec<String> = entries
        .map(|entry| entry.expect("an entry of tests/clients"))
        .filter(|entry| entry.path().is_dir() && entry.file_name() != "common")
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    found.sort();
    found
}
