//! Tokens in the two dresses that libraries give them.

/// The token without the optional `Bot ` prefix.
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
        for dressed in ["abc", "Bot abc", "bot abc", " Bot  abc "] {
            assert_eq!(super::bare(dressed), "abc");
        }
        assert_eq!(super::bare("Botabc"), "Botabc");
        assert_eq!(super::bare("éé"), "éé");
    }
}
