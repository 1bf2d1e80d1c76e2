//! The patches in tests/simulation/planted/ fit the code.

use crate::files;
use std::{collections::HashSet, fs, path::Path};

/// Most unchanged lines at either end of a hunk that may differ: the fuzz that patch(1) accepts.
const FUZZ: usize = 2;

/// A hunk of a patch as its file has to contain it: the unchanged lines (`true`) and the removed lines (`false`).
struct Hunk {
    path: String,
    lines: Vec<(bool, String)>,
    /// The lines that the patch adds.
    added: Vec<String>,
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
            hunks.push(Hunk { path: path.to_owned(), lines: Vec::new(), added: Vec::new() });
        } else if let (Some(hunk), Some(text)) = (hunks.last_mut(), line.strip_prefix([' ', '-']))
            && !line.starts_with("---")
        {
            hunk.lines.push((line.starts_with(' '), text.to_owned()));
        } else if let (Some(hunk), Some(text)) = (hunks.last_mut(), line.strip_prefix('+')) {
            hunk.added.push(text.to_owned());
        }
    }
    hunks
}

/// The fields and methods that a line of code names: `b` and `c` in `a.b.c()`.
fn members(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or_default();
    code.split('.')
        .skip(1)
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
        .filter(|name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'))
        .collect()
}

/// `scripts/sim-planted` applies these patches to prove that the simulation can fail. A change of the code around a
/// planted bug has to change the patch too.
#[test]
fn every_planted_bug_still_applies() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut patches = Vec::new();
    files(&root.join("tests/simulation/planted"), &mut patches);
    assert!(patches.len() > 10, "{} planted bugs", patches.len());
    let mut sources = Vec::new();
    files(&root.join("src"), &mut sources);
    let sources: String = sources.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let known: HashSet<&str> = sources.lines().flat_map(members).collect();
    for patch in patches {
        let hunks = hunks(&fs::read_to_string(&patch).expect("a patch"));
        assert!(!hunks.is_empty(), "{} has no hunk", patch.display());
        for hunk in hunks {
            let path = root.join(&hunk.path);
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert!(hunk.applies(&text), "{} does not apply to {} any more", patch.display(), hunk.path);
            // A patch that still applies does not compile if it uses a field that has another name now.
            let unknown: Vec<&str> =
                hunk.added.iter().flat_map(|line| members(line)).filter(|name| !known.contains(name)).collect();
            assert!(unknown.is_empty(), "{} names {unknown:?}, which no code in src/ does", patch.display());
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

#[test]
fn members_of_a_line() {
    assert_eq!(members("self.mail |= woken && self.dirty.is_empty(); // a.b"), ["mail", "dirty", "is_empty"]);
    assert_eq!(members("(0..=2).map(|x| x.0)"), ["map"]);
    assert!(members("fn main() {}").is_empty());
}
