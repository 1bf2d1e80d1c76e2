//! The Kubernetes manifests: valid by the schemas of Kubernetes, and right for the proxy.

use serde_json::Value;
use std::{fs, process::Command};
use support::{TOKEN, root, scratch};

const MANIFEST: &str = "config/kubernetes/gateway-proxy.yaml";

fn manifest() -> String {
    fs::read_to_string(root().join(MANIFEST)).expect("the manifests")
}

/// The block of text under `key: |`.
fn block(manifest: &str, key: &str) -> String {
    let (_, rest) = manifest.split_once(&format!("{key}: |\n")).expect("the key");
    let indent = rest.len() - rest.trim_start_matches(' ').len();
    let is_inside = |line: &&str| line.len() - line.trim_start_matches(' ').len() >= indent;
    rest.lines().take_while(is_inside).map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_manifests_are_valid() {
    let validator = root().join("target/tools/kubernetes/bin/kubernetes-validate");
    match Command::new(validator).args(["--strict", "--no-warn"]).arg(root().join(MANIFEST)).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            let passed = said.lines().filter(|line| line.contains(" passed for resource ")).count();
            assert_eq!(passed, manifest().lines().filter(|line| line.starts_with("kind: ")).count(), "{said}");
        }
        Err(error) => {
            eprintln!("SKIPPED: kubernetes-validate is not there ({error}); scripts/operations-setup gets it");
        }
    }
}

#[test]
fn the_proxy_accepts_the_configuration_in_the_manifests() {
    let text = block(&manifest(), "config.json");
    let directory = scratch("kubernetes");
    fs::write(directory.join("config.json"), &text).expect("a file");
    let output = Command::new(env!("CARGO_BIN_EXE_gateway-proxy"))
        .arg("--check-config")
        .current_dir(&directory)
        .env("TOKEN", TOKEN)
        .env("SHARD_GROUP_INDEX", "1")
        .output()
        .expect("a program that runs");
    let (said, warned) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{warned}");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    assert!(said.contains(&format!("clients resume at: ws://{}.gateway-proxy:7878\n", host.trim())), "{said}");
    // Unknown keys are warned of. The port is open to the cluster, which is warned of, too.
    assert!(!warned.contains("unknown key"), "{warned}");
    let config: Value = serde_json::from_str(&text).expect("JSON");
    let replicas = manifest().lines().find_map(|line| line.strip_prefix("  replicas: ")?.parse::<u64>().ok());
    assert_eq!(config["shard_group"]["of"].as_u64(), replicas, "as many parts as proxies");
}

/// A proxy that waits for Discord is unhealthy and must not be restarted for it.
#[test]
fn health_decides_about_readiness_alone() {
    let manifest = manifest();
    let probe = |name: &str| block_of_probe(&manifest, name);
    assert!(probe("readinessProbe").contains("/health"));
    assert!(!probe("livenessProbe").contains("/health"));
}

/// The lines of a probe: those that are indented deeper than its name.
fn block_of_probe(manifest: &str, name: &str) -> String {
    let (_, rest) = manifest.split_once(&format!("          {name}:\n")).expect("the probe");
    rest.lines().take_while(|line| line.starts_with("            ")).collect()
}
