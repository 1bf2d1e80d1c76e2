//! The bot's token: reads it, compares it in constant time, and never shows it.

use super::{ConfigError, TOKEN_VARIABLE, reader::Reader};
use crate::protocol::token::bare;
use std::{env, fs, io::Read, os::unix::fs::MetadataExt, path::Path};
use subtle::ConstantTimeEq;

/// The variable with the directory of systemd's credentials (systemd.exec(5), `LoadCredential=`). The credential with
/// the bot's token is called `token`.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// Bytes of a file with a token that are read at most.
const MAX_FILE: u64 = 4 << 10;
/// The mode bit of a file that every user may read.
const READABLE_BY_ALL: u32 = 0o004;

/// A bot token without its `Bot ` prefix.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Takes a token with or without the `Bot ` prefix.
    pub fn new(token: &str) -> Self {
        Self(bare(token).to_owned())
    }

    /// The token without the prefix. Only for requests and payloads that go to Discord.
    pub fn bare(&self) -> &str {
        &self.0
    }

    /// Says whether `other` is the same token, with or without the prefix. The time that this takes does not tell where
    /// the first difference is.
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(bare(other).as_bytes()).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The token that the process was given outside of the configuration: in the variable `TOKEN`, otherwise as a
/// credential of systemd. `None`: in neither.
pub fn from_environment() -> Result<Option<String>, ConfigError> {
    let variable = env::var(TOKEN_VARIABLE).ok().filter(|token| !token.is_empty());
    let credential = env::var_os(CREDENTIALS_VARIABLE).map(|directory| Path::new(&directory).join("token"));
    match (variable, credential) {
        (None, Some(path)) if path.exists() => {
            read_file(&path).map(|(token, _)| Some(token)).map_err(|source| ConfigError::Credential { path, source })
        }
        (variable, _) => Ok(variable),
    }
}

/// Reads a token from a file, without white space around it, and says whether every user of the machine can read the
/// file.
fn read_file(path: &Path) -> std::io::Result<(String, bool)> {
    let file = fs::File::open(path)?;
    let mode = file.metadata()?.mode();
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    Ok((text.trim().to_owned(), mode & READABLE_BY_ALL != 0))
}

/// Reads `token` and `token_file`. The token that the process was `given` takes precedence over both. The second value
/// is a warning.
pub(super) fn read(
    reader: &mut Reader,
    name: &str,
    given: Option<String>,
) -> Result<(Token, Option<String>), ConfigError> {
    const FILE: &str = "token_file";
    let own = reader.string("token", "the bot's token as a string")?;
    let file = reader.string(FILE, "the path of a file that holds the bot's token and nothing else")?;
    if own.is_some() && file.is_some() {
        return Err(ConfigError::TwoTokens { file: name.into() });
    }
    let mut warning = None;
    let token = match (given.filter(|token| !token.is_empty()).or(own), file) {
        (Some(token), _) => token,
        (None, Some(path)) => {
            let (token, open) = read_file(Path::new(&path)).map_err(|source| ConfigError::TokenFile {
                file: name.into(),
                path: path.clone().into(),
                source,
            })?;
            warning = open.then(|| {
                format!("{name}: `{FILE}` is {path:?}, which every user of this machine can read: `chmod 600` it")
            });
            token
        }
        (None, None) => {
            return Err(ConfigError::TokenMissing { file: name.into() });
        }
    };
    // The token is put into HTTP headers and JSON without escaping.
    let usable = |token: &str| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if usable(bare(&token)) {
        Ok((Token::new(&token), warning))
    } else {
        Err(ConfigError::TokenUnusable { file: name.into() })
    }
}

/// The warning when every user of the machine can read a configuration file that holds the token.
pub(super) fn warn_of_readers(name: &str, path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.mode();
    (mode & READABLE_BY_ALL != 0).then(|| {
        format!(
            "{name}: holds `token`, and every user of this machine can read it (mode {:04o}): `chmod 600` it, or use `token_file`, the variable {TOKEN_VARIABLE} or a credential of systemd",
            mode & 0o7777
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_compared_and_never_shown() {
        let token = Token::new("Bot abc.def");
        assert!(token.matches("abc.def") && token.matches("Bot abc.def"));
        assert!(!token.matches("abc.deg") && !token.matches("abc.de") && !token.matches(""));
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
