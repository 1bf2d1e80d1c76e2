//! Finds how much memory the process may use: the memory of the machine, or less when a cgroup (of a container or
//! unit) limits it.

use std::{fs, path::Path};

/// Divisor of the default share of memory for the connections of clients: a quarter. The cache and the logs need the
/// rest.
const PART: u64 = 4;
/// Smallest default for the connections of clients, in bytes.
const LEAST: u64 = 64 << 20;

/// Default memory in bytes for the connections of all clients, when the process may use `memory` bytes.
pub fn default_client_memory(memory: u64) -> u64 {
    (memory / PART).max(LEAST)
}

/// Returns how many bytes of memory the process may use.
pub fn memory() -> u64 {
    let of_machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| of_meminfo(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let of_group = of_cgroup(Path::new("/sys/fs/cgroup"), &groups);
    of_machine.into_iter().chain(of_group).min().unwrap_or(u64::MAX)
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
    fn this_machine_has_memory() {
        assert!((64 << 20..1 << 50).contains(&memory()), "{}", memory());
        assert_eq!(default_client_memory(8 << 30), 2 << 30);
        assert_eq!(default_client_memory(1 << 20), LEAST);
    }
}
