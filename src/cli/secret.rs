//! `gateway-proxy secret`: makes the secret of a client and the hash of it that the configuration wants (`clients`).
//! Reads no configuration and asks no running proxy.

use gateway_proxy::downstream::credential::{NoRandomNumbers, SecretHash, new_secret};
use std::process::ExitCode;

/// Longest first part of a token, in characters.
const MAX_FIRST_PART: usize = 64;

/// Why no secret was made.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The text can not be the first part of a token. The error does not hold the text, because it may be the whole
    /// token.
    #[error("--first-part has to be what the bot's token has before its first dot, and no more")]
    FirstPart,
    /// There is nothing to make a secret of.
    #[error(transparent)]
    Random(#[from] NoRandomNumbers),
}

/// Prints a new secret and its hash, one a line.
pub fn run(first_part: Option<&str>) -> Result<ExitCode, SecretError> {
    if let Some(text) = first_part {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=');
        if text.is_empty() || text.len() > MAX_FIRST_PART || !text.bytes().all(plain) {
            return Err(SecretError::FirstPart);
        }
    }
    let secret = new_secret(first_part)?;
    println!("secret  {secret}");
    println!("hash    {}", SecretHash::of(&secret));
    eprintln!("The client shows the secret as its token. The hash belongs into `clients` of the configuration.");
    Ok(ExitCode::SUCCESS)
}
