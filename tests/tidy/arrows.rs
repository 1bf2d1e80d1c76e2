//! The arrows between the modules of `src/`: which module may name which other one. docs/architecture.md says the same
//! in words, with the reasons.
//!
//! Reads the paths `crate::…` in the code of a file. Tests may name anything, because they put parts together: files
//! of tests and the inline module `tests` are left out. A module that is not in the tables may name any other one.

use super::{files, lex};
use std::{collections::BTreeSet, fs, path::Path};

/// What each of these modules may name.
const MAY_NAME: [(&str, &[&str]); 11] = [
    ("protocol", &[]),
    ("websocket", &[]),
    ("compression", &[]),
    ("upstream", &["protocol"]),
    ("log", &["protocol"]),
    ("cache", &["protocol"]),
    ("watchdog", &["protocol"]),
    ("io", &["protocol"]),
    ("downstream", &["protocol", "websocket", "compression"]),
    ("net", &["io", "websocket"]),
    ("shard", &["protocol", "upstream", "log", "cache", "downstream", "watchdog"]),
];
/// What may name each of these modules: the control core knows data cores, and not the reverse.
const NAMED_BY: [(&str, &[&str]); 2] = [("data_core", &["control"]), ("control", &[])];
/// The control core names this part of `shard` only.
const OF_SHARD: &str = "report";

/// The items of a list `{…}` at the start of `text`, or `text` itself if there is no list.
fn items(text: &str) -> Vec<&str> {
    let Some(list) = text.strip_prefix('{') else { return vec![text] };
    let (mut depth, mut from, mut items) = (0, 0, Vec::new());
    for (at, letter) in list.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                items.push(list[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
        if letter == '}' && from == at + 1 {
            break;
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

/// The first name of a path, and what follows it.
fn first_name(path: &str) -> (&str, &str) {
    path.split_at(path.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(path.len()))
}

/// The modules that code names, each with the item of the module, which is empty if the path ends with the module.
fn named(code: &str) -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    for (at, start) in code.match_indices("crate::") {
        for path in items(&code[at + start.len()..]) {
            let (module, rest) = first_name(path);
            let inner = rest.strip_prefix("::").map_or(vec![""], items);
            found.extend(inner.into_iter().map(|item| (module.to_owned(), first_name(item).0.to_owned())));
        }
    }
    found
}

/// The arrows of a file that must not be.
fn wrong(module: &str, code: &str) -> Vec<String> {
    let code = code.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let allowed = MAY_NAME.iter().find(|(of, _)| *of == module).map(|(_, allowed)| *allowed);
    let is_wrong = |(to, item): &(String, String)| {
        let by = NAMED_BY.iter().find(|(of, _)| of == to).map(|(_, by)| *by);
        to != module
            && (allowed.is_some_and(|allowed| !allowed.contains(&to.as_str()))
                || by.is_some_and(|by| !by.contains(&module))
                || (module == "control" && to == "shard" && item != OF_SHARD))
    };
    named(code).into_iter().filter(is_wrong).map(|(to, item)| format!("{module} names {to}::{item}")).collect()
}

#[test]
fn modules_name_only_what_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut paths, mut modules, mut found) = (Vec::new(), BTreeSet::new(), Vec::new());
    files(&root, &mut paths);
    for path in paths {
        let name = path.strip_prefix(&root).expect("a file below src").to_string_lossy().into_owned();
        let is_test = name.split('/').any(|part| matches!(part, "tests" | "tests.rs"));
        if is_test || !name.ends_with(".rs") || name.starts_with("bin/") {
            continue;
        }
        let module = name.split('/').next().expect("a name").trim_end_matches(".rs");
        modules.insert(module.to_owned());
        let code = lex(&fs::read_to_string(&path).expect("a source file")).code;
        found.extend(wrong(module, &code).into_iter().map(|what| format!("src/{name}: {what}")));
    }
    assert_eq!(found, [""; 0], "docs/architecture.md says which module depends on which");
    for (module, others) in MAY_NAME.iter().chain(&NAMED_BY) {
        let gone: Vec<_> = others.iter().chain([module]).filter(|module| !modules.contains(**module)).collect();
        assert!(gone.is_empty(), "there is no module {gone:?}");
    }
}

#[test]
fn an_arrow_that_must_not_be_is_found() {
    let code = "use crate::{\n    cache::{Cache, View},\n    protocol::Time,\n    shard,\n};\n";
    let all = named(code).into_iter().map(|(module, item)| format!("{module}::{item}")).collect::<Vec<_>>();
    assert_eq!(all, ["cache::Cache", "cache::View", "protocol::Time", "shard::"]);
    assert_eq!(wrong("log", code), ["log names cache::Cache", "log names cache::View", "log names shard::"]);
    assert_eq!(wrong("control", "use crate::shard::{report::Report, Shard};"), ["control names shard::Shard"]);
    assert_eq!(wrong("protocol", "fn f() -> crate::log::Log {}"), ["protocol names log::Log"]);
    assert_eq!(wrong("shard", "use crate::data_core::Core;"), ["shard names data_core::Core"]);
    let tests = "use crate::protocol::Time;\n#[cfg(test)]\nmod tests {\n    use crate::shard::Shard;\n}\n";
    assert_eq!(wrong("log", tests), [""; 0]);
}
