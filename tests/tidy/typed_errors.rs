//! No function of the proxy or of the simulator returns a text, a tuple or a boxed error as its error. An error is a
//! type with a variant for each situation, so that callers decide by the variant and no text can slip in that holds a
//! token.
//!
//! The rule reads the types in the code of src/ without its tests, aliases included. Errors whose type the compiler
//! infers, as in closures, are not seen.

use super::{files, lex};
use std::{collections::HashSet, fs, path::Path};

/// Files with such errors, and why. The list may only shrink.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("src/control/body.rs", "the parser of forwarded bodies, whose texts become the text of a 400 or 502"),
    ("src/control/forward.rs", "the forwarding of REST requests, whose texts become the text of a 400 or 502"),
];

/// A function signature, field or alias whose error has no type of its own.
#[derive(Debug, PartialEq, Eq)]
struct Untyped {
    line: usize,
    error: String,
}

/// Blanks the items under `#[cfg(test)]`, and keeps the lines.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let end = at + end_of_item(&rest[at..]);
        kept.extend(rest[at..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    kept + rest
}

/// The end of the item at the start of `code`: after its braces, or after its semicolon if it has none.
fn end_of_item(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 && matches!(c, '}' | ';') {
            return at + 1;
        }
    }
    code.len()
}

/// The arguments of the generic type whose `<` is the first character of `code`.
fn arguments(code: &str) -> Vec<&str> {
    let (mut depth, mut from, mut found) = (0, 1, Vec::new());
    let mut before = ' ';
    for (at, c) in code.char_indices() {
        match c {
            '<' | '(' | '[' | '{' => depth += 1,
            // An arrow ends no list of arguments.
            '>' if before == '-' => {}
            '>' | ')' | ']' | '}' => depth -= 1,
            ',' if depth == 1 => {
                found.push(code[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
        if depth == 0 {
            found.push(code[from..at].trim());
            break;
        }
        before = c;
    }
    found.retain(|argument| !argument.is_empty());
    found
}

/// Says whether a type is a text, a tuple, or an error in a box.
fn is_untyped(error: &str) -> bool {
    let is_text = error == "String" || error.starts_with('&') && error.ends_with("str") || error.ends_with("str>");
    is_text || error.starts_with('(') || error.contains("dyn ") || error.starts_with("anyhow")
}

/// The names of the aliases of such types.
fn aliases(code: &str) -> Vec<String> {
    let declarations = code.match_indices("type ").filter_map(|(at, word)| {
        let (name, rest) = code[at + word.len()..].split_once('=')?;
        let target = rest.split_once(';')?.0.trim();
        // A tuple without a text is no error.
        (is_untyped(target) && (target.contains("str") || target.contains("String")))
            .then(|| name.trim().split('<').next().unwrap_or("").to_owned())
    });
    declarations.filter(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_')).collect()
}

/// The errors in `code` without a type of their own; `aliases` are names of such types. A name that `code` itself
/// defines as a type is not the one of an alias elsewhere.
fn untyped(code: &str, aliases: &HashSet<String>) -> Vec<Untyped> {
    const RESULT: &str = "Result<";
    let results = code.match_indices(RESULT).filter_map(|(at, _)| {
        let all = arguments(&code[at + RESULT.len() - 1..]);
        let error = all.get(1)?;
        let name = error.rsplit("::").next().unwrap_or(error);
        let own = ["enum", "struct"].iter().any(|kind| code.contains(&format!("{kind} {name} ")));
        let named = aliases.contains(name) && !own;
        (is_untyped(error) || named)
            .then(|| Untyped { line: code[..at].matches('\n').count() + 1, error: (*error).to_owned() })
    });
    results.collect()
}

#[test]
fn every_error_has_a_type() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(&root.join("src"), &mut paths);
    paths.sort();
    let is_source = |name: &str| name.ends_with(".rs") && !name.ends_with("tests.rs") && !name.contains("/tests/");
    let sources: Vec<(String, String)> = paths
        .iter()
        .map(|path| (path.strip_prefix(root).expect("a file below the root").to_string_lossy().into_owned(), path))
        .filter(|(name, _)| is_source(name))
        .map(|(name, path)| (name, without_tests(&lex(&fs::read_to_string(path).expect("source")).code)))
        .collect();
    assert!(sources.len() > 100, "only {} files of source", sources.len());
    let aliases: HashSet<String> = sources.iter().flat_map(|(_, code)| aliases(code)).collect();
    let (mut new, mut needed) = (Vec::new(), HashSet::new());
    for (name, code) in &sources {
        for Untyped { line, error } in untyped(code, &aliases) {
            match EXCEPTIONS.iter().find(|(path, _)| path == name) {
                Some((path, _)) => drop(needed.insert(*path)),
                None => new.push(format!("{name}:{line}: the error is `{error}`")),
            }
        }
    }
    assert!(new.is_empty(), "{} errors without a type of their own:\n{}", new.len(), new.join("\n"));
    let stale: Vec<_> = EXCEPTIONS.iter().filter(|(path, _)| !needed.contains(path)).collect();
    assert!(stale.is_empty(), "nothing needs these exceptions any more, remove them: {stale:#?}");
}

#[test]
fn an_error_without_a_type_is_found() {
    let found = |code: &str| {
        let code = without_tests(&lex(code).code);
        let aliases = aliases(&code).into_iter().collect();
        untyped(&code, &aliases).into_iter().map(|untyped| (untyped.line, untyped.error)).collect::<Vec<_>>()
    };
    for error in [
        "String",
        "&'static str",
        "&str",
        "Cow<'static, str>",
        "Box<str>",
        "(u16, &'static str)",
        "()",
        "Box<dyn Error>",
        "anyhow::Error",
    ] {
        for code in [
            format!("\nfn a() -> Result<(), {error}> {{}}"),
            format!("\nfn a() -> Result<Option<(u8, Vec<u8>)>, {error}>;"),
            format!("\ntype A = Box<dyn Fn(&str) -> Result<fn(u8) -> u8,\n {error},\n> + Send>;"),
        ] {
            assert_eq!(found(&code), [(2, error.to_owned())], "{code}");
        }
    }
    let alias = "type Close = (u16, &'static str);\nfn a() -> Result<u8, Close> {}\nfn b() -> Result<u8, x::Close>;";
    assert_eq!(found(alias), [(2, "Close".to_owned()), (3, "x::Close".to_owned())]);
    let own = "enum Close { A }\nfn a() -> Result<u8, Close> {}";
    assert_eq!(untyped(own, &HashSet::from(["Close".to_owned()])), []);
    for fine in [
        "fn a() -> Result<String, ListenError> {}",
        "fn a() -> io::Result<String> {}",
        "fn a() -> Result<(u8, String), Fault<'_>> {}",
        "type Pair = (u8, u8);\nfn a() -> Result<Pair, Error> {}",
        "// Result<(), String>\nlet a = \"Result<(), String>\";",
        "#[cfg(test)]\nmod tests {\n fn a() -> Result<(), String> { {} }\n}",
        "#[cfg(test)]\nuse a::Result<(), String>;\nfn b() {}",
    ] {
        assert_eq!(found(fine), [], "{fine}");
    }
    assert_eq!(found("#[cfg(test)]\nmod a { }\nfn b() -> Result<(), String>;"), [(3, "String".to_owned())]);
}
