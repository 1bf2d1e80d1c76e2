//! The crates that the programs are made of: their licences and sources are those that `deny.toml` allows, and the list
//! of parts (`scripts/sbom`) has all of them.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};
use support::{root, scratch};

/// Says whether an expression of licences (SPDX) can be satisfied with the allowed ones. An old form has `/` for OR.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> Result<bool, String> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let result = any(&words, &mut at, allowed)?;
    if at == words.len() { Ok(result) } else { Err(format!("{expression:?} goes on after its end")) }
}

fn any(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Result<bool, String> {
    let mut result = all(words, at, allowed)?;
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        result |= all(words, at, allowed)?;
    }
    Ok(result)
}

fn all(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Result<bool, String> {
    let mut result = one(words, at, allowed)?;
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        result &= one(words, at, allowed)?;
    }
    Ok(result)
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> Result<bool, String> {
    let word = words.get(*at).ok_or("an expression ends too early")?;
    *at += 1;
    if *word == "(" {
        let result = any(words, at, allowed)?;
        if words.get(*at) != Some(&")") {
            return Err("a parenthesis is not closed".into());
        }
        *at += 1;
        return Ok(result);
    }
    if matches!(*word, ")" | "OR" | "AND" | "WITH") {
        return Err(format!("{word} where a licence is expected"));
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).ok_or("an exception is missing")?);
        *at += 2;
    }
    // An old form of "or later".
    Ok(allowed.contains(name.trim_end_matches('+')))
}

/// The strings of `allow` in deny.toml.
fn allowed() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    let list = text.split("\nallow = [").nth(1).and_then(|rest| rest.split(']').next()).expect("the list");
    let names = list
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split('"').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

/// What Cargo knows of the crates of this platform.
fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

#[test]
fn all_crates_have_allowed_licences_and_come_from_the_registry() {
    let allowed = allowed();
    assert!(allowed.contains("MIT") && allowed.len() > 5, "{allowed:?}");
    let mut wrong = BTreeMap::new();
    let packages = packages();
    assert!(packages.len() > 50, "{}", packages.len());
    for package in &packages {
        let name = format!("{} {}", package["name"], package["version"]);
        // The package itself has no source.
        if !package["source"].is_null() && package["source"] != "registry+https://github.com/rust-lang/crates.io-index"
        {
            wrong.insert(name.clone(), format!("comes from {}", package["source"]));
        }
        match package["license"].as_str().map(|licence| (licence, satisfied(licence, &allowed))) {
            Some((_, Ok(true))) => {}
            Some((licence, result)) => drop(wrong.insert(name, format!("{licence}: {result:?}"))),
            None => drop(wrong.insert(name, format!("no licence but the file {}", package["license_file"]))),
        }
    }
    assert!(wrong.is_empty(), "deny.toml does not allow these: {wrong:#?}");
}

#[test]
fn expressions_of_licences() {
    let allowed: BTreeSet<String> = ["MIT", "A WITH x"].map(str::to_owned).into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(MIT OR GPL-3.0) AND MIT", true),
        ("MIT AND (GPL-3.0 OR LGPL-2.1)", false),
        ("A", false),
        ("A WITH x", true),
        ("MIT+", true),
        ("GPL-3.0+", false),
        ("GPL-3.0 OR MIT AND LGPL-2.1", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), Ok(expected), "{expression}");
    }
    for wrong in ["", "MIT OR", "(MIT", "MIT)", "MIT MIT", "A WITH"] {
        assert!(satisfied(wrong, &allowed).is_err(), "{wrong}");
    }
}

#[test]
fn the_list_of_parts_has_what_the_programs_are_made_of() {
    let path = scratch("sbom").join("sbom.json");
    let output = Command::new(root().join("scripts/sbom")).arg(&path).env("CARGO", env!("CARGO")).output();
    let output = output.expect("scripts/sbom runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sbom: Value = serde_json::from_slice(&fs::read(&path).expect("the list")).expect("JSON");
    assert_eq!((&sbom["bomFormat"], &sbom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    assert_eq!(sbom["metadata"]["component"]["name"], "gateway-proxy");
    let components = sbom["components"].as_array().expect("components");
    let names: BTreeSet<&str> = components.iter().filter_map(|component| component["name"].as_str()).collect();
    for dependency in ["rustls", "glommio", "zstd-sys", "ring"] {
        assert!(names.contains(dependency), "{dependency} in {names:?}");
    }
    for only_for_tests in ["criterion", "proptest"] {
        assert!(!names.contains(only_for_tests), "{only_for_tests} is in no program");
    }
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    for component in components {
        let text = |key: &str| component[key].as_str().unwrap_or_else(|| panic!("no {key} in {component}"));
        assert_eq!(text("purl"), format!("pkg:cargo/{}@{}", text("name"), text("version")));
        assert!(component["licenses"][0]["expression"].is_string(), "{component}");
        // The parts of this repository have no checksum.
        if text("name") != "discord-sim-world" {
            let hash = component["hashes"][0]["content"].as_str().expect("a hash");
            assert!(lock.contains(hash), "{component}");
        }
    }
    // What depends on what refers to parts that are there.
    let parts = components.iter().chain([&sbom["metadata"]["component"]]);
    let known: BTreeSet<&str> = parts.map(|part| part["bom-ref"].as_str().expect("a name")).collect();
    let dependencies = sbom["dependencies"].as_array().expect("dependencies");
    assert_eq!(dependencies.len(), known.len());
    for dependency in dependencies {
        let on = dependency["dependsOn"].as_array().expect("a list");
        let mut parts = on.iter().chain([&dependency["ref"]]).map(|part| part.as_str().expect("a name"));
        assert!(parts.all(|part| known.contains(part)), "{dependency}");
    }
}
