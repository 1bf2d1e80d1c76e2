//! What CONTRIBUTING.md and the architecture name in the code must exist, because a newcomer looks for it.
//!
//! A name in backticks is checked when it is a path (`src/log.rs`, `parse.rs`) or a name of Rust (`Config::parse`,
//! `can_wait`). Other text in backticks, such as commands and headers, is not. This module never says whether the
//! sentence around a name is true.

use super::files;
use std::{collections::HashSet, fs, path::Path};

/// Documents that lead a reader into the code.
const DOCUMENTS: [&str; 2] = ["CONTRIBUTING.md", "docs/architecture.md"];

/// Files whose words are the names of the code.
const SOURCES: [&str; 5] = ["rs", "py", "json", "toml", "yml"];

/// The texts in backticks, without blocks of code.
fn quoted(document: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    document
        .lines()
        .filter(move |line| {
            let is_fence = line.trim_start().starts_with("```");
            in_block ^= is_fence;
            !in_block && !is_fence
        })
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Whether the text is a path of a source file.
fn is_path(text: &str) -> bool {
    let is_file = text.rsplit_once('.').is_some_and(|(_, ending)| SOURCES.contains(&ending) || ending == "md");
    is_file && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-./".contains(letter))
}

/// The words of a name of Rust: one with `::`, `_` or a capital letter inside, and nothing else.
fn words(text: &str) -> Option<Vec<&str>> {
    let words: Vec<&str> = text.trim_end_matches("!").split("::").collect();
    let is_word = |word: &&str| {
        word.starts_with(|first: char| first.is_ascii_alphabetic())
            && word.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    let is_name = words.iter().all(is_word) && (words.len() > 1 || text.contains('_'));
    is_name.then_some(words)
}

/// What a document names that does not exist.
fn missing(document: &str, paths: &HashSet<String>, known: &HashSet<String>) -> Vec<String> {
    let exists = |text: &str| {
        let text = text.trim_start_matches("./");
        paths.iter().any(|path| path == text || path.ends_with(&format!("/{text}")))
    };
    quoted(document)
        .filter(|text| match (is_path(text), words(text)) {
            (true, _) => !exists(text),
            (false, Some(words)) => !words.iter().all(|word| known.contains(*word)),
            (false, None) => false,
        })
        .map(str::to_owned)
        .collect()
}

#[test]
fn what_the_documents_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut paths, mut known, mut all) = (HashSet::new(), HashSet::new(), Vec::new());
    files(root, &mut all);
    for path in all {
        let name = path.strip_prefix(root).expect("a path below the root").to_string_lossy().into_owned();
        if SOURCES.iter().any(|ending| name.ends_with(&format!(".{ending}"))) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            known
                .extend(text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').map(str::to_owned));
        }
        paths.insert(name);
    }
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).expect("a document");
        assert_eq!(missing(&text, &paths, &known), [""; 0], "{document} names what does not exist");
    }
}

#[test]
fn a_name_that_is_gone_is_found() {
    let paths = HashSet::from(["src/log.rs".to_owned()]);
    let known = HashSet::from(["Log".to_owned(), "append".to_owned()]);
    let document = "`src/log.rs` and `log.rs`, `Log::append`, `cargo test`, `Log`\n```\n`gone.rs`\n```\n";
    assert_eq!(missing(document, &paths, &known), [""; 0]);
    let document = "`src/gone.rs`, `Log::gone` and `is_gone`";
    assert_eq!(missing(document, &paths, &known), ["src/gone.rs", "Log::gone", "is_gone"]);
}
