//! Writes the man pages and the completions of shells, made from the definition of the command line. Packages and
//! `make install` call it, so that no copy in the repository can become out of date.

use clap::Command;
use clap_complete::Shell;
use std::{fs::OpenOptions, io, io::Write, path::Path};

/// Writes `<name>.1` with a page for each subcommand, and the completions of bash, zsh and fish, into a directory.
/// `more` is added to the page of the program itself, in the language of man(7).
pub fn generate(command: Command, more: &str, directory: &Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    // This adds the subcommand `help`, for which there shall be no pages: each page says what it would.
    let mut for_shells = command.clone();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut for_shells, &name, directory)?;
    }
    clap_mangen::generate_to(command.disable_help_subcommand(true), directory)?;
    let mut page = OpenOptions::new().append(true).open(directory.join(format!("{name}.1")))?;
    page.write_all(more.as_bytes())
}
