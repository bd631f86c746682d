//! What the kernel says of each daemon of a running station.

use std::path::PathBuf;

use crate::load;

/// The station as it looks from the client's node.
pub(crate) fn inside(dir: PathBuf) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for daemon in ["zbalance", "detector", "application", "registrar"] {
        let pid = runtime.block_on(load::pid(&dir, daemon));
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap();
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
            line.unwrap_or_else(|| panic!("{daemon}: no {name}")).trim().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(field(set), "0000000000000000", "{daemon}: {set}");
        }
        assert_eq!(field("NoNewPrivs"), "1", "{daemon}");
        assert_eq!(field("Seccomp"), "2", "{daemon}: filters");
        let filters: u32 = field("Seccomp_filters").parse().unwrap();
        assert!(filters >= 3, "{daemon}: {filters} filters");
        // Every thread, not only the first.
        for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
                assert!(status.contains(line), "{daemon}: a thread without {line}");
            }
        }
        let limits = read("limits");
        let cores = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let sizes: Vec<&str> = cores.split_whitespace().filter(|word| *word == "0").collect();
        assert_eq!(sizes.len(), 2, "{daemon}: {cores}");
        println!("measured {daemon}: no capability, {filters} seccomp filters, no core dumps");
    }
}
