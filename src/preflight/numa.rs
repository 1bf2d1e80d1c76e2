//! Finds the NUMA nodes of the machine: groups of CPUs that share memory which is near to them.

use std::{fs, path::Path};

/// Where the kernel shows the nodes (Documentation/admin-guide/mm/numaperf.rst).
const NODES: &str = "/sys/devices/system/node";

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Number of the node.
    pub id: u32,
    /// Its CPUs, in order.
    pub cpus: Vec<usize>,
}

/// The nodes that have CPUs, in order. Empty when the kernel does not show any.
pub fn nodes() -> Vec<Node> {
    read(Path::new(NODES))
}

/// The number of the node that has this CPU.
pub fn node_of(nodes: &[Node], cpu: usize) -> Option<u32> {
    nodes.iter().find(|node| node.cpus.contains(&cpu)).map(|node| node.id)
}

fn read(directory: &Path) -> Vec<Node> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut nodes: Vec<Node> = entries
        .filter_map(|entry| {
            let id = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            let cpus = parse(&fs::read_to_string(entry.path().join("cpulist")).ok()?)?;
            (!cpus.is_empty()).then_some(Node { id, cpus })
        })
        .collect();
    nodes.sort_by_key(|node| node.id);
    nodes
}

/// Parses a list of CPUs such as `0-3,8`. `None`: the text is no such list.
fn parse(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse("5"), Some(vec![5]));
        assert_eq!(parse("\n"), Some(vec![]));
        assert_eq!(parse("a-b"), None);
    }

    #[test]
    fn nodes_without_cpus_do_not_count() {
        let root = std::env::temp_dir().join(format!("gateway-proxy-numa-{}", std::process::id()));
        for (node, cpus) in [("node0", "0-1\n"), ("node10", "2,3\n"), ("node2", "\n")] {
            fs::create_dir_all(root.join(node)).unwrap();
            fs::write(root.join(node).join("cpulist"), cpus).unwrap();
        }
        fs::create_dir_all(root.join("power")).unwrap();
        let nodes = read(&root);
        assert_eq!(nodes, [Node { id: 0, cpus: vec![0, 1] }, Node { id: 10, cpus: vec![2, 3] }]);
        assert_eq!((node_of(&nodes, 3), node_of(&nodes, 4)), (Some(10), None));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(read(&root), []);
    }
}
