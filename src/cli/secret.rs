//! `gateway-proxy secret`: makes the secret of a client and the hash of it that the configuration wants (`clients`).
//! Reads no configuration and asks no running proxy.

use gateway_proxy::downstream::credential::{SecretHash, new_secret};
use std::process::ExitCode;

/// Longest first part of a token, in characters.
const MAX_FIRST_PART: usize = 64;

/// Prints a new secret and its hash, one a line.
pub fn run(first_part: Option<&str>) -> Result<ExitCode, String> {
    if let Some(text) = first_part {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=');
        // The text is not repeated in the error, because it may be the whole token.
        if text.is_empty() || text.len() > MAX_FIRST_PART || !text.bytes().all(plain) {
            return Err("--first-part has to be what the bot's token has before its first dot, and no more".into());
        }
    }
    let secret = new_secret(first_part)?;
    println!("secret  {secret}");
    println!("hash    {}", SecretHash::of(&secret));
    eprintln!("The client shows the secret as its token. The hash belongs into `clients` of the configuration.");
    Ok(ExitCode::SUCCESS)
}
