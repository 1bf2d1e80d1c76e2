//! Finds how much memory the process may use: the memory of the machine, or less when a cgroup (of a container or
//! unit) limits it. Warns when `/sys` is hidden, because then a limit of a cgroup can not be seen.

use std::{fs, path::Path};

/// Divisor of the default share of memory for the connections of clients: a quarter. The cache and the logs need the
/// rest.
const PART: u64 = 4;
/// Smallest default for the connections of clients, in bytes.
const LEAST: u64 = 64 << 20;

/// Where the kernel shows the cgroups (cgroups(7)).
const CGROUPS: &str = "/sys/fs/cgroup";

/// Default memory in bytes for the connections of all clients, when the process may use `memory` bytes.
pub fn default_client_memory(memory: u64) -> u64 {
    (memory / PART).max(LEAST)
}

/// Returns how many bytes of memory the process may use.
pub fn memory() -> u64 {
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_group = of_cgroup(Path::new(CGROUPS), &groups);
    of_machine.into_iter().chain(of_group).min().unwrap_or(u64::MAX)
}

/// A warning when the process may use less memory than [`memory`] says: it is in a cgroup, and the directory that
/// shows the limits of cgroups is hidden.
pub fn unknown_limit() -> Option<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    hidden(Path::new(CGROUPS), &groups)
}

/// See [`unknown_limit`]. `root` is the directory of the cgroups, `groups` the text of `/proc/self/cgroup`.
fn hidden(root: &Path, groups: &str) -> Option<String> {
    let is_shown = fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some());
    (!groups.is_empty() && !is_shown).then(|| {
        format!(
            "{} can not be read, so a memory limit of the container or unit is not known, and the default of `client_memory` \
             is a quarter of the whole machine's memory: set `client_memory`, or let the container see /sys",
            root.display()
        )
    })
}

fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// Returns the lowest memory limit of the process's cgroup (v2, cgroups(7)) and of the cgroups above it.
fn of_cgroup(root: &Path, groups: &str) -> Option<u64> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = |group: &Path| fs::read_to_string(root.join(group).join("memory.max")).ok()?.trim().parse::<u64>().ok();
    Path::new(path).ancestors().filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_and_the_group_say_how_much() {
        assert_eq!(of_meminfo("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16 << 20));
        assert_eq!(of_meminfo("MemFree: 1 kB\n"), None);
        let root = std::env::temp_dir().join(format!("gateway-proxy-cgroup-{}", std::process::id()));
        let group = root.join("system.slice/proxy.service");
        fs::create_dir_all(&group).unwrap();
        let here = "0::/system.slice/proxy.service\n";
        assert_eq!(of_cgroup(&root, here), None);
        fs::write(group.join("memory.max"), "max\n").unwrap();
        assert_eq!(of_cgroup(&root, here), None);
        fs::write(root.join("system.slice/memory.max"), "2000\n").unwrap();
        assert_eq!(of_cgroup(&root, here), Some(2000));
        fs::write(group.join("memory.max"), "1000\n").unwrap();
        assert_eq!(of_cgroup(&root, here), Some(1000));
        assert_eq!(of_cgroup(&root, "1:memory:/x\n"), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn a_hidden_cgroup_is_told() {
        let root = std::env::temp_dir().join(format!("gateway-proxy-no-cgroup-{}", std::process::id()));
        let here = "0::/\n";
        for exists in [false, true] {
            if exists {
                // A container that hides /sys shows an empty directory, or none.
                fs::create_dir_all(&root).unwrap();
            }
            let warning = hidden(&root, here).unwrap();
            assert!(warning.contains("`client_memory`") && warning.contains(root.to_str().unwrap()), "{warning}");
            assert_eq!(hidden(&root, ""), None, "the kernel has no cgroups");
        }
        fs::write(root.join("memory.max"), "max\n").unwrap();
        assert_eq!(hidden(&root, here), None);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn this_machine_has_memory() {
        assert!((64 << 20..1 << 50).contains(&memory()), "{}", memory());
        assert_eq!(default_client_memory(8 << 30), 2 << 30);
        assert_eq!(default_client_memory(1 << 20), LEAST);
    }
}
