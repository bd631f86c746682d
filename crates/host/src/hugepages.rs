//! Huge pages: pools per NUMA node and what PF_RING ZC needs of them.

use std::path::{Path, PathBuf};

use crate::Root;

/// Size of the pages that are used, KiB.
pub const PAGE_KIB: u64 = 2048;
/// Fewest pages with which the start script of the reference lets its balancer start.
const FLOOR: u64 = 512;
/// Part of the pool that is not for frames: rings, head and tail of each region.
const SPARE: u64 = 4;

/// Pages of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The file with their number.
    pub file: PathBuf,
    /// NUMA node, where the host has any.
    pub node: Option<u32>,
    /// Pages reserved.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
}

/// Pages that are wanted on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// NUMA node of the interface; `None` where the host has no nodes.
    pub node: Option<u32>,
    /// How many.
    pub pages: u64,
}

/// Pools of 2 MiB pages of `root`, one per NUMA node.
pub fn pools(root: &Root) -> Vec<Pool> {
    let read = |folder: &Path, node| {
        let folder = folder.join(format!("hugepages-{PAGE_KIB}kB"));
        let total = root.number(folder.join("nr_hugepages"))?;
        let free = root.number(folder.join("free_hugepages")).unwrap_or(0);
        Some(Pool { file: root.path(folder.join("nr_hugepages")), node, total, free })
    };
    let nodes: Vec<Pool> = root
        .list("/sys/devices/system/node")
        .iter()
        .filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok())
        .filter_map(|node| {
            let folder = format!("/sys/devices/system/node/node{node}/hugepages");
            read(Path::new(&folder), Some(node))
        })
        .collect();
    if nodes.is_empty() {
        read(Path::new("/sys/kernel/mm/hugepages"), None).into_iter().collect()
    } else {
        nodes
    }
}

/// Folders where a file system of huge pages is mounted for this process.
pub fn mount_points(root: &Root) -> Vec<PathBuf> {
    let mounts = root.read("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let place = fields.nth(1)?;
            (fields.next() == Some("hugetlbfs")).then(|| PathBuf::from(place))
        })
        .collect()
}

/// NUMA node of an interface, where it has one.
pub fn node_of(root: &Root, interface: &str) -> Option<u32> {
    root.number(format!("/sys/class/net/{interface}/device/numa_node"))
}

/// Bytes that the balancer takes for frames (`spec/ingest.md` 3.4): `devices` inputs and `queues`
/// queues, frames of `slot` bytes each.
pub fn buffers_memory(devices: u64, queues: u64, slot: u64) -> u64 {
    const PER_DEVICE: u64 = 32_768;
    const PER_QUEUE: u64 = 8_192 + 16;
    let buffers = devices * PER_DEVICE + queues * PER_QUEUE + 8;
    buffers * (slot + 64).next_multiple_of(64)
}

/// Pages for a station, by the node of its first interface.
pub fn needed(root: &Root, interfaces: &[String], queues: u64) -> HugePages {
    let bare = |name: &String| name.strip_prefix("zc:").unwrap_or(name).to_owned();
    let first = interfaces.first().map(bare);
    let slot = first.as_ref().and_then(|name| {
        let info = root.read(format!("/proc/net/pf_ring/dev/{name}/info")).ok()?;
        let line = info.lines().find(|line| line.starts_with("RX Slot Size"))?;
        line.split(':').nth(1)?.trim().parse::<u64>().ok()
    });
    let bytes = buffers_memory(interfaces.len().max(1) as u64, queues, slot.unwrap_or(1536));
    let pages = bytes.div_ceil(PAGE_KIB * 1024);
    let nodes = pools(root).iter().filter_map(|pool| pool.node).collect::<Vec<_>>();
    let node = first.and_then(|name| node_of(root, &name)).or(nodes.first().copied());
    HugePages { node, pages: (pages + pages.div_ceil(SPARE)).max(FLOOR) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_documented_example() {
        // One device, four queues: 65,608 buffers.
        assert_eq!(buffers_memory(1, 4, 1536), 65_608 * 1600);
    }

    #[test]
    fn pages_follow_the_interface_and_the_queues() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::at(dir.path());
        let write = |path: &str, text: &str| {
            let path = root.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        for node in 0..2 {
            let folder = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB");
            write(&format!("{folder}/nr_hugepages"), "7\n");
            write(&format!("{folder}/free_hugepages"), "5\n");
        }
        write("/sys/class/net/eth1/device/numa_node", "1\n");
        write("/proc/net/pf_ring/dev/eth1/info", "Name: eth1\nRX Slot Size:      9200\n");
        write(
            "/proc/self/mounts",
            "proc /proc proc rw 0 0\nnone /dev/hugepages hugetlbfs rw 0 0\n",
        );
        assert_eq!(
            pools(&root).iter().map(|p| (p.node, p.total, p.free)).collect::<Vec<_>>(),
            [(Some(0), 7, 5), (Some(1), 7, 5)]
        );
        let need = needed(&root, &["zc:eth1".to_owned()], 16);
        assert_eq!(need.node, Some(1));
        assert!(need.pages > 700, "{need:?}");
        assert_eq!(needed(&root, &["eth0".to_owned()], 1), HugePages { node: Some(0), pages: 512 });
        assert_eq!(mount_points(&root), [PathBuf::from("/dev/hugepages")]);
    }
}
