//! What `make install` and packages put on a machine.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use support::{root, scratch};

/// Runs `scripts/install` with the programs of this build. Returns the prefix in the new tree.
fn install(name: &str, prefix: &str) -> PathBuf {
    let destination = scratch(name);
    let binaries = Path::new(env!("CARGO_BIN_EXE_gateway-proxy")).parent().expect("a directory");
    let output = Command::new(root().join("scripts/install"))
        .env("DESTDIR", &destination)
        .env("PREFIX", prefix)
        .env("BINARIES", binaries)
        .output()
        .expect("scripts/install runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    destination.join(prefix.trim_start_matches('/'))
}

/// The subcommands that `--help` names.
fn subcommands(program: &str) -> BTreeSet<String> {
    let output = Command::new(program).arg("--help").output().expect("a program that runs");
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let list = help.split("Commands:\n").nth(1).expect("a list of commands").split("\n\n").next().expect("its end");
    let names = list.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn everything_is_installed() {
    let prefix = install("install", "/opt/proxy");
    let read = |path: &str| fs::read_to_string(prefix.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    for (path, mode) in [
        ("bin/gateway-proxy", 0o755),
        ("bin/discord-sim", 0o755),
        ("lib/systemd/system/gateway-proxy.service", 0o644),
        ("lib/systemd/system/gateway-proxy@.service", 0o644),
        ("lib/systemd/system/gateway-proxy.socket", 0o644),
        ("lib/sysusers.d/gateway-proxy.conf", 0o644),
        ("lib/tmpfiles.d/gateway-proxy.conf", 0o644),
        ("share/bash-completion/completions/gateway-proxy", 0o644),
        ("share/zsh/site-functions/_gateway-proxy", 0o644),
        ("share/fish/vendor_completions.d/gateway-proxy.fish", 0o644),
        ("share/doc/gateway-proxy/config.example.json", 0o644),
        ("share/doc/gateway-proxy/docs/operations.md", 0o644),
    ] {
        let metadata = fs::metadata(prefix.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(metadata.permissions().mode() & 0o777, mode, "{path}");
    }
    // The programs that units start are the installed ones.
    for unit in ["gateway-proxy.service", "gateway-proxy@.service"] {
        let unit = read(&format!("lib/systemd/system/{unit}"));
        let programs: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("ExecStart")).collect();
        assert_eq!(programs.len(), 2, "{unit}");
        assert!(programs.iter().all(|line| line.contains("=/opt/proxy/bin/gateway-proxy ")), "{programs:?}");
    }
    // Each subcommand has a man page and a completion, and nothing else has a page.
    for program in ["gateway-proxy", "discord-sim"] {
        let binary = if program == "gateway-proxy" {
            env!("CARGO_BIN_EXE_gateway-proxy")
        } else {
            env!("CARGO_BIN_EXE_discord-sim")
        };
        let subcommands = subcommands(binary);
        assert!(subcommands.len() >= 3, "{subcommands:?}");
        let pages: BTreeSet<String> = fs::read_dir(prefix.join("share/man/man1"))
            .expect("man pages")
            .map(|page| page.expect("an entry").file_name().into_string().expect("UTF-8"))
            .filter_map(|page| page.strip_prefix(program)?.strip_suffix(".1").map(str::to_owned))
            .collect();
        let expected = subcommands.iter().map(|name| format!("-{name}")).chain([String::new()]).collect();
        assert_eq!(pages, expected, "{program}");
        let completion = read(&format!("share/bash-completion/completions/{program}"));
        assert!(subcommands.iter().all(|name| completion.contains(&**name)), "{program}");
    }
    let page = read("share/man/man1/gateway-proxy.1");
    for part in ["\\-\\-check\\-config", "SHARD_GROUP_INDEX", "SIGHUP", ".SH FILES"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    assert!(read("share/man/man1/gateway-proxy-status.1").contains("\\-\\-watch"));
}

/// The shells, where their completions are installed, and a script that prints what the shell offers for the last word of a
/// line. The arguments of a script are the file of the completion, the program, and the word.
const SHELLS: [(&str, &str, &str); 3] = [
    (
        "bash",
        "share/bash-completion/completions/{}",
        r#"source "$1" && COMP_WORDS=("$2" "$3") COMP_CWORD=1
           function=$(complete -p "$2" | sed 's/.*-F \([^ ]*\).*/\1/') && "$function" "$2" "$3" "$2"; echo "${COMPREPLY[@]}""#,
    ),
    // A shell on a terminal of its own completes the word at a tabulator, and then runs the line, which prints the word.
    (
        "zsh",
        "share/zsh/site-functions/_{}",
        r#"zmodload zsh/zpty && zpty shell zsh -f -i || exit
           zpty -w shell "PS1= fpath=(${(q)1:h} \$fpath); autoload -Uz compinit && compinit -u -D; $2() { print -r \"offered:\$1:\" }; print rea''dy:"
           zpty -r -m shell output '*ready:*' || exit
           zpty -w -n shell "$2 $3"$'\t\n'
           zpty -r -m shell output '*offered:[a-z]*:*' || exit
           print -r -- ${${output##*offered:}%%:*}"#,
    ),
    (
        "fish",
        "share/fish/vendor_completions.d/{}.fish",
        r#"source $argv[1]; and complete --do-complete "$argv[2] $argv[3]" | string split --fields 1 \t"#,
    ),
];

/// Longest time in seconds for a shell to answer.
const SHELL_LIMIT: &str = "80";

#[test]
fn shells_complete_subcommands() {
    let prefix = install("install_shells", "/usr");
    let home = scratch("install_shells_home");
    for (shell, place, script) in SHELLS {
        if Command::new(shell).args(["-c", "exit"]).status().is_err() {
            eprintln!("SKIPPED: there is no {shell}, so its completions are not tried (apt-get install {shell})");
            continue;
        }
        for (program, word, expected) in [("gateway-proxy", "rel", "reload"), ("discord-sim", "rela", "relay")] {
            let file = prefix.join(place.replace("{}", program));
            let mut command = Command::new("timeout");
            command.args([SHELL_LIMIT, shell]);
            match shell {
                "bash" => command.args(["--norc", "-c", script, shell]),
                "zsh" => command.args(["-f", "-c", script, shell]),
                _ => command.args(["--no-config", "--command", script]),
            };
            let output = command.arg(&file).args([program, word]).env("HOME", &home).env("TERM", "dumb").output();
            let output = output.expect("timeout is a program");
            let (offered, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            println!("{shell}, {program} {word}: {offered}");
            assert_eq!(offered.split_whitespace().collect::<Vec<_>>(), [expected], "{shell} {program}: {said}");
            assert!(output.status.success() && said.is_empty(), "{shell} {program}: {}: {said}", output.status);
        }
    }
}

#[test]
fn what_was_not_built_is_named() {
    let directory = scratch("install_missing");
    let mut command = Command::new(root().join("scripts/install"));
    command.env("DESTDIR", &directory).env("BINARIES", directory.join("nothing"));
    let output = command.output().expect("scripts/install runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("run 'make release' first"), "{said}");
    let output = command.env("PREFIX", "usr").output().expect("scripts/install runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("PREFIX is 'usr', expected an absolute path"));
}

/// The template unit is the unit with the place in the group besides.
#[test]
fn the_template_unit_differs_from_the_unit_in_its_instance_only() {
    let read = |name: &str| fs::read_to_string(root().join("config").join(name)).expect("a unit");
    let (unit, template) = (read("gateway-proxy.service"), read("gateway-proxy@.service"));
    let settings = |text: &str| -> Vec<String> {
        text.lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with("Description="))
            .map(str::to_owned)
            .collect()
    };
    let expected: Vec<String> = settings(&unit)
        .into_iter()
        .flat_map(|line| match line.as_str() {
            "[Service]" => vec![line, "Environment=SHARD_GROUP_INDEX=%i".into()],
            "StateDirectory=gateway-proxy" | "WorkingDirectory=%S/gateway-proxy" => vec![format!("{line}/%i")],
            _ => vec![line],
        })
        .collect();
    assert_eq!(settings(&template), expected);
}

/// systemd reads the units without a complaint.
#[test]
fn systemd_understands_the_units() {
    let prefix = install("install_units", "/usr");
    let units = prefix.join("lib/systemd/system");
    for unit in ["gateway-proxy.service", "gateway-proxy@.service"] {
        // The programs are where the test has installed them, and the user does not exist.
        let path = units.join(unit);
        let text = fs::read_to_string(&path).expect("a unit");
        fs::write(&path, text.replace("=/usr/bin/", &format!("={}/bin/", prefix.display()))).expect("a unit");
    }
    let mut command = Command::new("systemd-analyze");
    let instance = units.join("gateway-proxy@1.service");
    fs::copy(units.join("gateway-proxy@.service"), &instance).expect("an instance");
    command.arg("verify").arg("--man=no").arg(units.join("gateway-proxy.service")).arg(instance);
    let Ok(output) = command.output() else {
        eprintln!("SKIPPED: there is no systemd-analyze");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("gateway-proxy")).collect();
    assert!(output.status.success() && ours.is_empty(), "{said}");
}
