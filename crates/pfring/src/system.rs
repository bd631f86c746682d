//! What the kernel's module says of itself in `/proc/net/pf_ring` (`spec/ingest.md` 7.3).

use std::path::Path;

/// Where the module writes its version.
pub const INFO: &str = "/proc/net/pf_ring/info";
/// Its folder.
const FOLDER: &str = "/proc/net/pf_ring";
/// Where licences are, one file for each card, named by its address.
const LICENCES: &str = "/etc/pf_ring";

/// Version of the loaded module, e.g. `8.9.0`; `None` when it is not loaded.
pub fn module_version() -> Option<String> {
    let text = std::fs::read_to_string(INFO).ok()?;
    value(&text, "PF_RING Version")?.split_whitespace().next().map(str::to_owned)
}

/// An interface, as the module knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// How its driver is read, e.g. `NAPI/ZC`.
    pub polling: String,
    /// Bytes of a receive slot, for a ZC driver.
    pub slot: Option<u32>,
    /// Its hardware address.
    pub address: Option<String>,
}

impl Device {
    /// Looks the interface `name` up; `None` when the module does not know it.
    pub fn of(name: &str) -> Option<Self> {
        let path = Path::new(FOLDER).join("dev").join(name).join("info");
        Some(Self::parse(&std::fs::read_to_string(path).ok()?))
    }

    fn parse(text: &str) -> Self {
        Self {
            polling: value(text, "Polling Mode").unwrap_or("not given").to_owned(),
            slot: value(text, "RX Slot Size").and_then(|size| size.parse().ok()),
            address: value(text, "Address").map(str::to_owned),
        }
    }

    /// Whether it runs with a ZC driver.
    pub fn is_zero_copy(&self) -> bool {
        self.polling.contains("ZC")
    }

    /// Whether there is a licence for it. Without one capture ends after five minutes.
    pub fn is_licensed(&self) -> bool {
        let Some(address) = &self.address else { return false };
        let files = std::fs::read_dir(LICENCES).into_iter().flatten().flatten();
        files.into_iter().any(|file| file.file_name().eq_ignore_ascii_case(address))
    }
}

/// The entry of the process that made the cluster, e.g. `4711-none.3`; another one after its balancer was started
/// again. `None` when there is no such cluster.
pub fn cluster(id: u32) -> Option<String> {
    entry(id).map(|(name, _)| name)
}

/// The queues of a cluster that have a consumer.
pub fn attached(cluster: u32) -> Vec<u32> {
    entry(cluster).map_or_else(Vec::new, |(_, text)| locked(&text))
}

fn locked(text: &str) -> Vec<u32> {
    let of = |line: &str| {
        let (number, status) =
            line.trim_start().strip_prefix("ZC-Queue-")?.split_once("-Status")?;
        let status = status.trim_start_matches([' ', ':']);
        (status.trim() == "locked").then(|| number.parse().ok())?
    };
    text.lines().filter_map(of).collect()
}

/// Name and text of the entry of a cluster.
fn entry(id: u32) -> Option<(String, String)> {
    let wanted = format!("pfring-zc-cluster-{id}");
    let entries = std::fs::read_dir(FOLDER).ok()?.flatten();
    entries.into_iter().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        if !name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let text = std::fs::read_to_string(entry.path()).ok()?;
        (value(&text, "Appl. Name")? == wanted).then_some((name, text))
    })
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.trim_start().starts_with(key))?;
    Some(line.split_once(':')?.1.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_with_a_consumer_are_locked() {
        let text = "Appl. Name         : pfring-zc-cluster-98\nZC-Queue-0-Status  : locked\n";
        assert_eq!(locked(text), [0]);
        let text = "ZC-Queue-0-Status: locked\nZC-Pool-1-Status: locked\nZC-Queue-1-Status: available\n\
                    ZC-Queue-12-Status: locked\n";
        assert_eq!(locked(text), [0, 12]);
    }

    #[test]
    fn only_the_line_of_the_polling_mode_tells_whether_a_driver_is_zero_copy() {
        let zero_copy = "Name:         eth1\nIndex:        4\nAddress:      02:00:00:00:00:01\n\
                         Polling Mode: NAPI/ZC\nType:         Ethernet\nRX Slot Size: 1536\n";
        let device = Device::parse(zero_copy);
        assert!(device.is_zero_copy());
        assert_eq!(device.slot, Some(1536));
        assert_eq!(device.address.as_deref(), Some("02:00:00:00:00:01"));
        assert!(Device::parse("Polling Mode: ZC/NAPI\n").is_zero_copy());
        let plain = Device::parse("Name: ZC0\nPolling Mode: NAPI\nFamily: ZC\n");
        assert!(!plain.is_zero_copy());
        assert_eq!((plain.slot, plain.address), (None, None));
        assert_eq!(Device::parse("").polling, "not given");
    }
}
