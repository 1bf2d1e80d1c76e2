//! The alert rules: `promtool test rules` runs their unit tests, and each rule has one.

use std::{collections::BTreeSet, fs, process::Command};
use support::root;

/// The values of a key in a YAML file, one from each line that has it.
fn values(path: &str, key: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(path)).expect("a file of the repository");
    let values =
        text.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key)?.strip_prefix(": "));
    values.map(str::to_owned).collect()
}

/// The names of the alerts in the first column of the table in docs/operations.md whose rows have three columns.
fn runbook() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("docs/operations.md")).expect("a file of the repository");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `Gateway"));
    rows.map(|row| {
        let columns: Vec<&str> = row.trim_end_matches('|').split(" | ").map(str::trim).collect();
        assert!(
            columns.len() == 3 && columns.iter().all(|column| !column.is_empty()),
            "what it means, what to do: {row}"
        );
        format!("Gateway{}", columns[0].trim_end_matches('`'))
    })
    .collect()
}

#[test]
fn the_documentation_says_what_to_do_about_each_alert() {
    assert_eq!(runbook(), values("config/alerts.yml", "alert"));
}

#[test]
fn each_alert_fires_when_it_has_to() {
    const TESTS: &str = "tests/operations/alerts.test.yml";
    let alerts = values("config/alerts.yml", "alert");
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(values(TESTS, "alertname"), alerts, "each rule of config/alerts.yml has a test in {TESTS}");
    let local = root().join("target/tools/promtool");
    let promtool = if local.exists() { local.into_os_string() } else { "promtool".into() };
    match Command::new(promtool).args(["test", "rules"]).arg(root().join(TESTS)).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
        }
        Err(error) => eprintln!("SKIPPED: promtool is not there ({error}); scripts/operations-setup gets it"),
    }
}
