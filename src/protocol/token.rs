//! Bot tokens, which libraries send with or without the prefix `Bot `.

/// Removes white space and the optional prefix `Bot ` from a token.
pub fn bare(token: &str) -> &str {
    let token = token.trim();
    match token.get(..4) {
        Some(prefix) if prefix.eq_ignore_ascii_case("bot ") => token[4..].trim_start(),
        _ => token,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_prefix_is_optional() {
        for token in ["abc", "Bot abc", "bot abc", " Bot  abc "] {
            assert_eq!(super::bare(token), "abc");
        }
        assert_eq!(super::bare("Botabc"), "Botabc");
        assert_eq!(super::bare("éé"), "éé");
    }
}
