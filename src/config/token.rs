//! The bot's token: compared in constant time, never shown.

use crate::protocol::token::bare;
use subtle::ConstantTimeEq;

/// A bot token without its `Bot ` prefix.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// From either dress.
    pub fn new(token: &str) -> Self {
        Self(bare(token).to_owned())
    }

    /// Without prefix. Only for what goes to Discord.
    pub fn bare(&self) -> &str {
        &self.0
    }

    /// Is this the same token? Takes equally long wherever the first difference is.
    pub fn matches(&self, other: &str) -> bool {
        self.0.as_bytes().ct_eq(bare(other).as_bytes()).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
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
