//! Rules of this repository that neither rustfmt nor clippy checks: how long functions and files may be, how comments
//! may read, and what must not be left in a file.
//!
//! Owns the rules, the list of known exceptions, and the detectors. Promises: the list of exceptions only shrinks,
//! because an exception that nothing needs any more fails the test too; each detector is tested with samples that it
//! has to find. Never: reads anything but the files of the repository. The rules for the bots of tests/clients/ are in
//! `client_recipes`, those for the modules of src/ in `arrows`, the one for the types of errors in `typed_errors`.

mod arrows;
mod client_recipes;
mod named_in_docs;
mod typed_errors;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

/// Longest function in lines, from `fn` to its closing brace.
const LONGEST_FUNCTION: usize = 80;
/// Longest Rust file in lines.
const LONGEST_FILE: usize = 600;

/// How a comment must not begin: with a pronoun or a question, so that the reader has to guess what it is about.
/// A comment says who does what to which thing.
const OPENINGS: &[&str] = &[
    "And ",
    "Has it ",
    "Is it ",
    "It has ",
    "It is ",
    "It was ",
    "Nobody ",
    "Otherwise it ",
    "So many",
    "Somebody ",
    "The same of",
    "The same, ",
    "The same.",
    "The same;",
    "These.",
    "They ",
    "This.",
    "Those ",
    "Were ",
    "Who ",
    "Whoever ",
    "Whom ",
    "Whose ",
    "With that",
];

/// Phrases that a comment must not contain: each one names no subject, or is a figure of speech.
const PHRASES: &[&str] =
    &["as good as", "by and by", "goodbye", "somebody", "whoever", "without a word", "falls for", "in the eyes of"];

/// Marks of unfinished work. Such a thing belongs into an issue.
const MARKS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:")];

/// Directories that exist on a developer's machine only.
const PRIVATE: &[&str] = &[concat!("/ho", "me/"), concat!("/Us", "ers/"), concat!("/wo", "rk/"), concat!("/ro", "ot/")];

/// A known exception: the rule, the file or folder, the function (empty: any), and why the exception exists.
type Exception = (Rule, &'static str, &'static str, &'static str);

/// The exceptions that exist today. The list may only shrink: mend the code instead of adding a line.
const EXCEPTIONS: &[Exception] = &[
    (Rule::Function, "src/bin/discord-sim/control.rs", "route", "one arm for each route"),
    (Rule::Function, "world/src/tests.rs", "apply", "one arm for each event type"),
    (Rule::Function, "src/control/metrics.rs", "render", "one line or two for each metric"),
    (Rule::Function, "tests/models/cache_model/model.rs", "apply", "one arm for each event type"),
    (Rule::Function, "tests/models/cache_model/random_events.rs", "event", "one arm for each event type"),
    (Rule::Function, "tests/gateway/encodings.rs", "every_client_gets_the_same", "to be parted"),
    (Rule::Function, "tests/load/fan_out.rs", "every_stream_is_complete", "to be parted"),
    (Rule::Function, "tests/gateway/restart.rs", "a_restart_costs_no_identify_and_no_event", "to be parted"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Function,
    File,
    Comment,
    Mark,
    Private,
}

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    rule: Rule,
    /// Path in the repository.
    path: String,
    /// Line, from 1.
    line: usize,
    /// Name of the function for [`Rule::Function`], otherwise empty.
    function: String,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {} ({:?})", self.path, self.line, self.what, self.rule)
    }
}

/// Rust source with its comments and literals separated from the code.
struct Source {
    /// The code. Comments and the contents of literals are blanks, and every line keeps its number.
    code: String,
    /// Each comment with the number of its first line. Line comments on consecutive lines are one comment.
    comments: Vec<(usize, String)>,
}

/// Separates comments and literals from code.
fn lex(text: &str) -> Source {
    let chars: Vec<char> = text.chars().collect();
    let (mut code, mut raw) = (String::with_capacity(text.len()), Vec::new());
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let end = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => line_end(&chars, at),
            '/' if chars.get(at + 1) == Some(&'*') => block_comment_end(&chars, at),
            '"' => string_end(&chars, at + 1),
            'r' | 'b' | 'c' if !is_word(at.checked_sub(1).map(|before| chars[before])) => raw_string_end(&chars, at),
            '\'' => char_end(&chars, at),
            _ => at + 1,
        };
        let piece = &chars[at..end];
        if piece.len() > 1 && piece[0] == '/' {
            let alone = code.lines().last().unwrap_or("").trim().is_empty() || code.ends_with('\n');
            raw.push((line, alone, piece.iter().collect::<String>()));
        }
        if piece.len() == 1 {
            code.push(piece[0]);
        } else {
            code.extend(piece.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        }
        line += piece.iter().filter(|c| **c == '\n').count();
        at = end;
    }
    Source { code, comments: join_lines(raw) }
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

fn line_end(chars: &[char], at: usize) -> usize {
    chars[at..].iter().position(|c| *c == '\n').map_or(chars.len(), |length| at + length)
}

fn block_comment_end(chars: &[char], mut at: usize) -> usize {
    let mut depth = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => depth += 1,
            ('*', Some('/')) => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// The end of a string whose content begins at `at`.
fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of the raw, byte or C string that begins at `at`; the next character when there is none.
fn raw_string_end(chars: &[char], at: usize) -> usize {
    let prefix = chars[at..].iter().take(2).take_while(|c| matches!(c, 'r' | 'b' | 'c')).count();
    let hashes = chars[at + prefix..].iter().take_while(|c| **c == '#').count();
    let open = at + prefix + hashes;
    if chars.get(open) != Some(&'"') {
        return at + 1;
    }
    if !chars[at..at + prefix].contains(&'r') {
        return if hashes == 0 { string_end(chars, open + 1) } else { at + 1 };
    }
    let closing: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let length = chars[open + 1..].windows(closing.len()).position(|window| window == closing);
    length.map_or(chars.len(), |length| open + 1 + length + closing.len())
}

/// The end of the character literal that begins at `at`; the next character when it is a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), Some(_)) => {
            let from = at + 3;
            chars.get(from..).and_then(|rest| rest.iter().position(|c| *c == '\'')).map_or(at + 1, |n| from + n + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

/// Joins line comments of one kind on consecutive lines, and removes the comment markers.
fn join_lines(raw: Vec<(usize, bool, String)>) -> Vec<(usize, String)> {
    let mut comments: Vec<(usize, String)> = Vec::new();
    let mut before: Option<(usize, String)> = None;
    for (line, alone, text) in raw {
        let marker: String = text.chars().take_while(|c| matches!(c, '/' | '!' | '*')).collect();
        let content = text[marker.len()..].trim();
        let joins = alone && before.as_ref().is_some_and(|(last, known)| last + 1 == line && *known == marker);
        match comments.last_mut().filter(|_| joins) {
            Some((_, comment)) => {
                comment.push(' ');
                comment.push_str(content);
            }
            None => comments.push((line, content.to_owned())),
        }
        before = alone.then_some((line, marker));
    }
    comments
}

/// The functions in code without comments and literals: name, first line, number of lines.
fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if is_word(code[..at].chars().next_back()) {
            continue;
        }
        let name: String = code[at + 3..].trim_start().chars().take_while(|c| is_word(Some(*c))).collect();
        let Some(open) = bytes[at..].iter().position(|byte| matches!(byte, b'{' | b';')).map(|length| at + length)
        else {
            continue;
        };
        // A function pointer has no name, and a declaration or a type no body.
        if name.is_empty() || bytes[open] == b';' {
            continue;
        }
        let mut depth = 0;
        let end = bytes[open..].iter().position(|byte| {
            depth += i32::from(*byte == b'{') - i32::from(*byte == b'}');
            depth == 0
        });
        let end = end.map_or(bytes.len(), |length| open + length);
        let line = |offset: usize| code[..offset].matches('\n').count() + 1;
        found.push((name, line(at), line(end) - line(at) + 1));
    }
    found
}

/// Checks a Rust file.
fn check_rust(path: &str, text: &str) -> Vec<Finding> {
    let finding = |rule, line, function: &str, what: String| Finding {
        rule,
        path: path.to_owned(),
        line,
        function: function.to_owned(),
        what,
    };
    let mut findings = Vec::new();
    let lines = text.lines().count();
    if lines > LONGEST_FILE {
        findings.push(finding(Rule::File, lines, "", format!("{lines} lines, at most {LONGEST_FILE}")));
    }
    let source = lex(text);
    for (name, line, length) in functions(&source.code).into_iter().filter(|(.., length)| *length > LONGEST_FUNCTION) {
        let what = format!("`{name}` has {length} lines, at most {LONGEST_FUNCTION}");
        findings.push(finding(Rule::Function, line, &name, what));
    }
    for (line, comment) in &source.comments {
        let opening = OPENINGS.iter().find(|opening| comment.starts_with(**opening));
        let lower = comment.to_lowercase();
        let phrase = PHRASES.iter().find(|phrase| lower.contains(**phrase));
        if let Some(found) = opening.or(phrase) {
            let start: String = comment.chars().take(60).collect();
            findings.push(finding(Rule::Comment, *line, "", format!("{found:?} in the comment {start:?}")));
        }
    }
    findings
}

/// Checks a file of any kind.
fn check_text(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (rule, needles) in [(Rule::Mark, MARKS), (Rule::Private, PRIVATE)] {
            if let Some(found) = needles.iter().find(|needle| line.contains(**needle)) {
                let what = format!("{found} in {:?}", line.trim());
                findings.push(Finding { rule, path: path.into(), line: index + 1, function: String::new(), what });
            }
        }
    }
    findings
}

/// All files of the repository, without what Cargo and git make.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    for path in entries.map(|entry| entry.expect("an entry of a directory").path()) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_symlink() || matches!(&*name, "target" | ".git" | "node_modules") {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

fn covers((rule, path, function, _): &Exception, finding: &Finding) -> bool {
    finding.rule == *rule
        && (finding.path == *path || path.ends_with('/') && finding.path.starts_with(path))
        && (function.is_empty() || finding.function == *function)
}

#[test]
fn the_repository_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    files(root, &mut paths);
    paths.sort();
    let mut findings = Vec::new();
    for path in &paths {
        // A file that is not UTF-8 is not source.
        let Ok(text) = fs::read_to_string(path) else { continue };
        let name = path.strip_prefix(root).expect("a file below the root").to_string_lossy();
        if name.ends_with(".rs") {
            findings.extend(check_rust(&name, &text));
        }
        findings.extend(check_text(&name, &text));
    }
    assert!(paths.len() > 100, "only {} files were found below {}", paths.len(), root.display());
    let new: Vec<String> = findings
        .iter()
        .filter(|finding| !EXCEPTIONS.iter().any(|exception| covers(exception, finding)))
        .map(ToString::to_string)
        .collect();
    assert!(new.is_empty(), "{} findings:\n{}", new.len(), new.join("\n"));
    let stale: Vec<&Exception> =
        EXCEPTIONS.iter().filter(|exception| !findings.iter().any(|finding| covers(exception, finding))).collect();
    assert!(stale.is_empty(), "nothing needs these exceptions any more, remove them: {stale:#?}");
}

/// Most unchanged lines at either end of a hunk that may differ: the fuzz that patch(1) accepts.
const FUZZ: usize = 2;

/// A hunk of a patch as its file has to contain it: the unchanged lines (`true`) and the removed lines (`false`).
struct Hunk {
    path: String,
    lines: Vec<(bool, String)>,
}

impl Hunk {
    /// Says whether patch(1) finds the place of this hunk in `text`.
    fn applies(&self, text: &str) -> bool {
        let all: Vec<&str> = text.lines().collect();
        (0..=FUZZ).any(|fuzz| {
            let context = |lines: &mut dyn Iterator<Item = &(bool, String)>| {
                lines.take(fuzz).take_while(|(unchanged, _)| *unchanged).count()
            };
            let (before, after) = (context(&mut self.lines.iter()), context(&mut self.lines.iter().rev()));
            let wanted = self.lines.get(before..self.lines.len() - after).unwrap_or_default();
            let matches = |window: &[&str]| window.iter().zip(wanted).all(|(line, (_, text))| line == text);
            !wanted.is_empty() && all.windows(wanted.len()).any(matches)
        })
    }
}

/// The hunks of a patch.
fn hunks(patch: &str) -> Vec<Hunk> {
    let (mut hunks, mut path): (Vec<Hunk>, &str) = (Vec::new(), "");
    for line in patch.lines() {
        if let Some(named) = line.strip_prefix("+++ b/") {
            path = named;
        } else if line.starts_with("@@ ") {
            hunks.push(Hunk { path: path.to_owned(), lines: Vec::new() });
        } else if let (Some(hunk), Some(text)) = (hunks.last_mut(), line.strip_prefix([' ', '-']))
            && !line.starts_with("---")
        {
            hunk.lines.push((line.starts_with(' '), text.to_owned()));
        }
    }
    hunks
}

/// `scripts/sim-planted` applies these patches to prove that the simulation can fail. A change of the code around a
/// planted bug has to change the patch too.
#[test]
fn every_planted_bug_still_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut patches = Vec::new();
    files(&root.join("tests/simulation/planted"), &mut patches);
    assert!(patches.len() > 10, "{} planted bugs", patches.len());
    for patch in patches {
        let hunks = hunks(&fs::read_to_string(&patch).expect("a patch"));
        assert!(!hunks.is_empty(), "{} has no hunk", patch.display());
        for hunk in hunks {
            let path = root.join(&hunk.path);
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(hunk.applies(&text), "{} does not apply to {} any more", patch.display(), hunk.path);
        }
    }
}

#[test]
fn a_patch_applies_where_its_removed_lines_are() {
    let patch = "diff --git a/x b/x\nindex 1..2\n--- a/x\n+++ b/x\n@@ -1,6 +1,6 @@ f\n 1\n 2\n 3\n-old\n+new\n 4\n 5\n";
    let hunks = hunks(patch);
    assert_eq!((hunks.len(), &*hunks[0].path), (1, "x"));
    for fine in ["1\n2\n3\nold\n4\n5", "0\n3\nold\n4\nx", "x\n2\n3\nold\n4"] {
        assert!(hunks[0].applies(fine), "{fine:?}");
    }
    for bad in ["", "1\n2\n3\nnew\n4\n5", "1\n2\nx\nold\n4\n5", "3\nold 4"] {
        assert!(!hunks[0].applies(bad), "{bad:?}");
    }
}

fn rules(findings: &[Finding]) -> Vec<Rule> {
    findings.iter().map(|finding| finding.rule).collect()
}

#[test]
fn a_long_function_is_found_and_a_short_one_is_not() {
    let function = |lines: usize| {
        format!("impl X {{\n    fn long<'a>(x: &'a str) {{\n{}    }}\n}}\n", "        y();\n".repeat(lines))
    };
    assert_eq!(check_rust("a.rs", &function(LONGEST_FUNCTION - 2)), []);
    let found = check_rust("a.rs", &function(LONGEST_FUNCTION - 1));
    assert_eq!(rules(&found), [Rule::Function]);
    assert_eq!((&*found[0].function, found[0].line), ("long", 2));
}

#[test]
fn braces_in_literals_and_comments_do_not_count() {
    let code = r##"
fn one() { // }
    let a = '}'; let b = '\''; let c = "}\"}"; let d = r#"}"}"#; let e = b"}"; let f = b'}'; /* } /* } */ } */
    let g: fn(u8) = two; let h = '\u{7d}';
}
fn two(x: u8);
fn three<'a>(x: &'a u8) where u8: Copy { if true {} }
"##;
    assert_eq!(functions(&lex(code).code), [("one".to_owned(), 2, 4), ("three".to_owned(), 7, 1)]);
}

#[test]
fn a_long_file_is_found() {
    assert_eq!(check_rust("a.rs", &"a();\n".repeat(LONGEST_FILE)), []);
    assert_eq!(rules(&check_rust("a.rs", &"a();\n".repeat(LONGEST_FILE + 1))), [Rule::File]);
}

#[test]
fn riddles_are_found_in_every_kind_of_comment() {
    for opening in OPENINGS {
        for comment in [format!("/// {opening} x"), format!("//! {opening} x"), format!("a(); // {opening} x")] {
            assert_eq!(rules(&check_rust("a.rs", &comment)), [Rule::Comment], "{comment}");
        }
    }
    for phrase in PHRASES {
        let split = phrase.replace(' ', "\n// ");
        assert_eq!(rules(&check_rust("a.rs", &format!("// The text {split} goes on."))), [Rule::Comment], "{phrase}");
    }
    // An opening counts at the start of a comment only, and a string is not a comment.
    let fine = "/// The client\n/// It is\n// This is fine.\nlet x = \"// Whoever\";\n";
    assert_eq!(check_rust("a.rs", fine), []);
}

#[test]
fn unfinished_work_and_private_paths_are_found() {
    for mark in MARKS {
        assert_eq!(rules(&check_text("a.md", &format!("x\n# {mark} later"))), [Rule::Mark]);
    }
    for path in PRIVATE {
        assert_eq!(rules(&check_text("a.md", &format!("x\n{path}me/x"))), [Rule::Private]);
    }
    assert_eq!(check_text("a.md", "the homepage, todo lists, and target/work"), []);
}

#[test]
fn an_exception_covers_its_file_folder_or_function_only() {
    let finding = |path: &str, function: &str| Finding {
        rule: Rule::Function,
        path: path.into(),
        line: 1,
        function: function.into(),
        what: String::new(),
    };
    let exception: Exception = (Rule::Function, "src/a.rs", "long", "a reason");
    assert!(covers(&exception, &finding("src/a.rs", "long")));
    assert!(!covers(&exception, &finding("src/a.rs", "longer")) && !covers(&exception, &finding("src/b.rs", "long")));
    let folder: Exception = (Rule::Function, "src/a/", "", "a reason");
    assert!(covers(&folder, &finding("src/a/b.rs", "any")) && !covers(&folder, &finding("src/ab.rs", "any")));
    assert!(!covers(&(Rule::File, "src/a.rs", "", "a reason"), &finding("src/a.rs", "long")));
}
