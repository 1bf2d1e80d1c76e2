//! The threads of the cores: each runs on its CPU, also in a container that hides `/sys`.

use crate::{WORLD, client, status};
use serde_json::json;
use std::{fs, path::PathBuf, process::Command};
use support::{Proxy, Simulator, Transport, program, scratch, scratch_path};

/// Two data cores, also on a machine with one CPU.
const CORES: u32 = 2;

/// The name of each thread of a process, and the CPUs on which the thread may run, as the kernel lists them. A helper
/// thread of glommio has the name of the core that has started it.
fn cpus_of_threads(process: u32) -> Vec<(String, String)> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the threads of the proxy");
    let one = |path: PathBuf| {
        let (name, status) = (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("status")));
        // A thread may end at any time.
        let (name, status) = (name.ok()?, status.ok()?);
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
        Some((name.trim().to_owned(), cpus.trim().to_owned()))
    };
    threads.filter_map(|thread| one(thread.ok()?.path())).collect()
}

/// Checks that the threads of the control core and of all data cores may run on one CPU each: the one that
/// `/status.json` shows.
fn check_pinned(proxy: &Proxy) {
    let document = status(proxy.address);
    let cores = document["cores"].as_array().expect("data cores");
    assert_eq!(cores.len(), CORES as usize, "{document}");
    let data = cores.iter().map(|core| (format!("data-{}-", core["core"]), core["cpu"].to_string()));
    let control = ("control-".to_owned(), document["control_core"]["cpu"].to_string());
    let threads = cpus_of_threads(proxy.id());
    for (name, cpu) in data.chain([control]) {
        let pinned = threads.iter().any(|(of, cpus)| of.starts_with(&name) && *cpus == cpu);
        assert!(pinned, "{name} is not pinned to CPU {cpu}: {threads:?}");
    }
}

#[test]
fn each_core_runs_on_its_cpu() {
    let (_simulator, proxy) = crate::start("cores", &json!({"cores": CORES}));
    check_pinned(&proxy);
}

/// A command that runs the command which its further arguments are, with an empty `/sys`: in a mount namespace of its
/// own, as root of the machine or of a user namespace. `None`: this machine allows neither.
fn without_sys() -> Option<Command> {
    const HIDE: &str = r#"mount -t tmpfs none /sys && exec "$0" "$@""#;
    [&["--mount"][..], &["--user", "--map-root-user", "--mount"]].into_iter().find_map(|namespaces| {
        let command = || {
            let mut command = Command::new("unshare");
            command.args(namespaces).args(["sh", "-c", HIDE]);
            command
        };
        command().arg("true").status().is_ok_and(|status| status.success()).then(command)
    })
}

#[test]
fn a_hidden_sys_does_not_keep_the_proxy_from_starting() {
    let Some(mut command) = without_sys() else {
        eprintln!("SKIPPED: /sys can not be hidden from a process here (unshare, mount)");
        return;
    };
    let directory = scratch("cores_without_sys");
    let simulator = Simulator::start(&directory, WORLD);
    command.arg(program("gateway-proxy"));
    let changes = json!({"cores": CORES});
    let proxy = Proxy::spawn_by(command, &directory, simulator.address, &changes).wait_until_ready();
    check_pinned(&proxy);
    let mut gateway = client(&proxy, (0, 2), Transport::None);
    simulator.emit(0, 1);
    assert_eq!(gateway.receive().expect("an event").t.as_deref(), Some("MESSAGE_CREATE"));
    // The memory limit of the container is hidden too.
    let log = fs::read_to_string(scratch_path("cores_without_sys").join("gateway-proxy.log")).expect("the log");
    assert!(log.contains("/sys/fs/cgroup can not be read") && log.contains("`client_memory`"), "{log}");
}
