//! The client libraries that have a bot, and which of these to test.

use std::{env, fs};

use super::root;

/// The libraries that are tested by default.
const DEFAULT: [&str; 8] = ["twilight", "discord.js", "discord.py", "eris", "hikari", "discordeno", "jda", "discordgo"];

/// Says whether a library has to be tested. `CLIENTS` is `all` or a list of names; without it, [`DEFAULT`] is the
/// list.
pub fn chosen(library: &str) -> bool {
    let wanted = match env::var("CLIENTS") {
        Err(_) => DEFAULT.contains(&library),
        Ok(list) => list == "all" || list.split([',', ' ']).any(|name| name == library),
    };
    if !wanted {
        eprintln!("{library} is not among the chosen libraries; CLIENTS=all runs all");
    }
    wanted
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
