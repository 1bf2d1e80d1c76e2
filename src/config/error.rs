//! What can be wrong with the configuration. The text of each error names the file, the key, the value, and what is
//! expected or what to do. No text contains a token.

use super::{INDEX_VARIABLE, TOKEN_VARIABLE};
use serde_json::Value;
use std::{fmt, io, net::IpAddr, path::PathBuf};

/// Longest value that an error shows, in characters. A longer one is cut.
const LONGEST_SHOWN: usize = 60;

/// An error in the configuration: what is wrong, and what is expected. `file` is the name of the configuration file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the texts say what the fields are
pub enum ConfigError {
    /// The configuration file can not be read.
    #[error("{file}: can not be read: {source}; name another file with --config")]
    Unreadable { file: String, source: io::Error },
    /// The file is encoded as UTF-16.
    #[error("{file}: is written in UTF-16: save it as UTF-8")]
    Utf16 { file: String },
    /// The file is not encoded as UTF-8. `byte` counts from 1.
    #[error("{file}: is not UTF-8 (the first wrong byte is number {byte}): save it as UTF-8")]
    NotUtf8 { file: String, byte: usize },
    /// The file is not JSON. The text of `source` has the line and the column.
    #[error("{file}: not JSON: {source}")]
    NotJson { file: String, source: serde_json::Error },
    /// The file is JSON, but not an object.
    #[error("{file}: expected a JSON object, as in {{\"intents\": 513}}")]
    NotObject { file: String },
    /// A key has a wrong value.
    #[error("{file}: `{key}` is {value}, expected {expected}")]
    Value { file: String, key: String, value: ShownValue, expected: String },
    /// A key that has no default is missing.
    #[error("{file}: `{key}` is missing, expected {expected}")]
    Missing { file: String, key: &'static str, expected: &'static str },
    /// No source names the bot's token.
    #[error(
        "{file}: `token` is missing, and so is the variable {TOKEN_VARIABLE}: set one of them to the bot's token, or `token_file` to a file that holds it"
    )]
    TokenMissing { file: String },
    /// Both keys that give the token are set.
    #[error("{file}: both `token` and `token_file` are set: remove one of them")]
    TwoTokens { file: String },
    /// The token is empty, or no bot can have it.
    #[error(
        "{file}: `token` (or `token_file`, the variable {TOKEN_VARIABLE}, or the credential) is empty or has characters that no token has"
    )]
    TokenUnusable { file: String },
    /// The file of `token_file` can not be read.
    #[error("{file}: `token_file` is {path:?}, which can not be read ({source})")]
    TokenFile { file: String, path: PathBuf, source: io::Error },
    /// The credential of systemd can not be read.
    #[error("the credential {}: can not be read ({source})", path.display())]
    Credential { path: PathBuf, source: io::Error },
    /// `shard_start` and `shard_end` do not fit together, or not to `shards`.
    #[error(
        "{file}: `shard_start` is {start} and `shard_end` is {end}, expected `shard_start` < `shard_end` <= `shards` ({})",
        shards.map_or_else(|| "what Discord recommends".to_owned(), |count| count.to_string())
    )]
    ShardRange { file: String, start: u32, end: u32, shards: Option<u32> },
    /// Two ways to say which shards are served are used together.
    #[error(
        "{file}: `shard_group` decides which shards are served, so `shard_start` and `shard_end` must not be set beside it"
    )]
    GroupAndRange { file: String },
    /// The variable with the index in the group has a wrong value. Indices go up to `last`.
    #[error("{INDEX_VARIABLE} is {value:?}, expected a number from 0 to {last}")]
    IndexVariable { value: String, last: u64 },
    /// The index in the group is to come from the host name, and the host name has none.
    #[error(
        "{file}: `shard_group.index` is \"hostname\", and the host name {host_name:?} does not end with a number from 0 to {last} behind a hyphen"
    )]
    HostName { file: String, host_name: String, last: u64 },
    /// No source names the index in the group.
    #[error("{file}: `shard_group.index` is missing, and so is the variable {INDEX_VARIABLE}: expected {expected}")]
    IndexMissing { file: String, expected: &'static str },
    /// Every host that reaches the port could use the bot.
    #[error(
        "{file}: `validate_token` is false and `host` is {host}, so whoever reaches the port has the bot: set `host` to \"127.0.0.1\", `validate_token` to true, or, when only you reach it, `trust_network` to true"
    )]
    OpenToAll { file: String, host: IpAddr },
    /// Clients have secrets, and a client without one could do more.
    #[error(
        "{file}: `validate_token` is false, so a client without a secret may do more than those of `clients`: remove one of the two keys"
    )]
    ClientsOfAll { file: String },
    /// The secret of a client is the bot's token.
    #[error(
        "{file}: the secret of `{name}` in `clients` is the bot's token: make another one with `gateway-proxy secret`"
    )]
    ClientWithToken { file: String, name: String },
}

/// Why a proxy serves no shard with the number of shards that the bot has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the texts say what the fields are
pub enum ShardRangeError {
    /// The group has more proxies than the bot has shards.
    #[error("`shard_group` has {of} parts and the bot only {count} shards, so there is none for part {index}")]
    EmptyPart { of: u32, count: u32, index: u32 },
    /// `shard_start` and `shard_end` do not fit to the number of shards.
    #[error(
        "`shard_start` {start} to `shard_end` {end} is no range of shards within 0 to {count}, which is how many the bot has"
    )]
    NoRange { start: u32, end: u32, count: u32 },
}

/// The value of a key as an error shows it. Nothing but [`ShownValue::new`] makes one, so no error can hold the value
/// of a key that has a token or a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownValue(String);

impl ShownValue {
    /// The text for the value of `key`. A token or a secret is not shown, even if it is not a string or has other
    /// characters than expected.
    pub(super) fn new(key: &str, value: &Value) -> Self {
        if matches!(key, "token" | "http_token" | "secret" | "clients") {
            return Self("the given value".into());
        }
        let text = value.to_string();
        Self(match text.char_indices().nth(LONGEST_SHOWN) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        })
    }
}

impl fmt::Display for ShownValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_of_a_secret_key_is_not_in_the_error() {
        for key in ["token", "http_token", "secret", "clients"] {
            for value in [Value::from("MTIz.abc"), Value::from(vec!["MTIz.abc"])] {
                let shown = ShownValue::new(key, &value);
                assert!(!format!("{shown} {shown:?}").contains("MTIz"), "{key}: {shown}");
            }
        }
        assert_eq!(ShownValue::new("port", &Value::from(7)).to_string(), "7");
        let long = ShownValue::new("host", &"x".repeat(100).into()).to_string();
        assert_eq!(long.chars().count(), LONGEST_SHOWN + 1);
    }
}
