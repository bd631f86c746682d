//! What the detector reads from the TOML file it shares with the application
//! (`spec/detector.md` 3.3).

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use crate::document::{Table, subnet};
use crate::problem::{Loaded, Problems};

/// Settings of the detector.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Detector {
    /// Sources whose packets are left alone.
    pub filter: Vec<IpNet>,
    /// Redis of the session channel; `Some("")` switches it off.
    pub redis_url: Option<String>,
    /// Socket of the gRPC session channel; `Some("")` switches it off.
    pub session_socket: Option<String>,
    /// Destinations to which alone flows are followed; none for all.
    pub decoys: Vec<IpNet>,
    /// Flows over IPv4 that a worker follows, and four times those over IPv6.
    pub max_flows: Option<usize>,
    /// Candidates of a worker that wait to be checked.
    pub max_candidates: Option<usize>,
    /// Records of a worker whose rest is waited for; 0 for none.
    pub max_straddling: Option<usize>,
}

/// Keys that only the detector reads.
pub(crate) const KEYS: &[&str] = &[
    "detector_filter_list",
    "detector_decoys",
    "detector_max_flows",
    "detector_max_candidates",
    "detector_max_straddling",
];

impl Detector {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`Problems`] names every error with its line.
    pub fn load(path: &Path) -> Result<Loaded<Self>, Problems> {
        Self::read(Table::open(path)?)
    }

    /// Reads `text`, which stands in the file at `path`.
    ///
    /// # Errors
    /// As [`Detector::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Loaded<Self>, Problems> {
        Self::read(Table::parse(text, path)?)
    }

    fn read(mut table: Table) -> Result<Loaded<Self>, Problems> {
        const KEY: &str = "detector_filter_list";
        let mut filter = Vec::new();
        let mut junk = Vec::new();
        for text in table.strings(KEY) {
            match subnet(text.trim()) {
                Some(net) => filter.push(unmapped(net)),
                None => junk.push(text),
            }
        }
        // The reference compares texts, so junk has always meant "matches nothing".
        for text in junk {
            table
                .notice(KEY, format!("`{text}` is neither an address nor a subnet and is ignored"));
        }
        // Unknown keys are the business of the application's reader of the same file.
        let redis_url = table.string("redis_url");
        let session_socket = table.string("session_socket");
        let decoys = table.subnets("detector_decoys").into_iter().map(unmapped).collect();
        let max_flows = table.integer("detector_max_flows", 1_024..=16_777_216);
        let max_candidates = table.integer("detector_max_candidates", 16..=8_192);
        let max_straddling = table.integer("detector_max_straddling", 0..=8_192);
        let loaded = table.finish(Self {
            filter,
            redis_url,
            session_socket,
            decoys,
            max_flows,
            max_candidates,
            max_straddling,
        })?;
        let notices = loaded
            .notices
            .into_iter()
            .filter(|notice| !notice.text.starts_with("unknown key"))
            .collect();
        Ok(Loaded { value: loaded.value, notices })
    }
}

/// A mapped address as the IPv4 address it stands for, which is what packets carry.
fn unmapped(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() == 128 => {
            v6.addr().to_ipv4_mapped().map_or(net, |v4| IpNet::from(IpAddr::from(v4)))
        }
        _ => net,
    }
}
