//! The wanted state of a host, computed from the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use conf::{IngestBackend, Station};

use crate::Root;
use crate::firewall::Route;
use crate::hugepages::{self, HugePages};
use crate::route::{self, RouteError, addresses};
use crate::user::uid_of;

/// User that runs the daemons where the configuration names none.
const SERVICE_USER: &str = "conjure";
/// Folder of the daemons' sockets where the configuration names none.
const SOCKETS: &str = "/run/conjure";
/// Drivers that PF_RING has a zero-copy version of and that the reference's set-up takes.
const DRIVERS: [&str; 4] = ["e1000e", "i40e", "ixgbe", "ice"];

/// Which packet filter gets the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Rules {
    /// One table of nftables, with the leak guard and the closed port.
    Nftables,
    /// Exactly the chains of the reference.
    Iptables,
}

/// What PF_RING needs of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PfRing {
    /// Huge pages for the frames.
    pub pages: HugePages,
    /// Driver to configure and reload, when that was asked for.
    pub driver: Option<String>,
}

/// The wanted state of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Number of the station on this host (`OFFSET`).
    pub offset: u32,
    /// Tun devices and where their traffic goes.
    pub route: Route,
    /// The only user who may open the devices, beside administrators.
    pub owner: Option<u32>,
    /// Whose rules.
    pub rules: Rules,
    /// Folder of the daemons' sockets, when it is to be made.
    pub sockets: Option<PathBuf>,
    /// What PF_RING needs, when it is the capture back end.
    pub pf_ring: Option<PfRing>,
    /// What an operator should know of how this was computed.
    pub remarks: Vec<String>,
}

/// Why no plan can be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Routes or addresses cannot be read.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// There is no address for phantom traffic.
    #[error(
        "IP4_ADDR={v4} and IP6_ADDR=[{v6}] are loopback addresses, which cannot receive phantom traffic, \
         and no default route names an interface with another address; set IP4_ADDR or IP6_ADDR to an \
         address of this host"
    )]
    NoTarget {
        /// As configured.
        v4: Ipv4Addr,
        /// As configured.
        v6: Ipv6Addr,
    },
    /// A device name that cannot be used.
    #[error("CJ_DNAT_TUN: found `{0}`, expected 1 to 15 letters, digits, `-`, `_` or `.`")]
    Name(String),
    /// The chains of the reference beside a fast path.
    #[error(
        "CJ_FAST_PATH=true with --iptables: nothing would keep this host from forwarding what comes by its taps; \
         leave --iptables out, or set CJ_FAST_PATH=false"
    )]
    Chains,
    /// A driver that PF_RING has no version of.
    #[error("PF_DRIVER: found `{0}`, expected e1000e, i40e, ixgbe or ice")]
    Driver(String),
}

impl Plan {
    /// A plan for one station whose addresses are known.
    pub fn new(offset: u32, route: Route, owner: Option<u32>) -> Self {
        Self {
            offset,
            route,
            owner,
            rules: Rules::Nftables,
            sockets: None,
            pf_ring: None,
            remarks: Vec::new(),
        }
    }

    /// The plan for the host `root` with the configuration `station`; `driver` asks for the PF_RING
    /// driver too.
    ///
    /// # Errors
    /// When the configuration and the host do not go together.
    pub fn of_station(
        root: &Root,
        station: &Station,
        rules: Rules,
        driver: bool,
    ) -> Result<Self, PlanError> {
        if station.fast_path && rules == Rules::Iptables {
            return Err(PlanError::Chains);
        }
        let mut remarks = Vec::new();
        let placement = &station.placement;
        let mut tuns = placement.prepared_tuns();
        if tuns.last() != Some(&station.dnat_tun) {
            let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !(1..=15).contains(&station.dnat_tun.len()) || !station.dnat_tun.chars().all(fits) {
                return Err(PlanError::Name(station.dnat_tun.clone()));
            }
            tuns.pop();
            if !tuns.contains(&station.dnat_tun) {
                tuns.push(station.dnat_tun.clone());
            }
        }
        let v4 = target(station.ip4.into(), "IP4_ADDR", &mut remarks)?;
        let v6 = target(station.ip6.into(), "IP6_ADDR", &mut remarks)?;
        if v4.is_none() && v6.is_none() {
            return Err(PlanError::NoTarget { v4: station.ip4, v6: station.ip6 });
        }
        let only_v4 = |address| if let Some(IpAddr::V4(v4)) = address { Some(v4) } else { None };
        let only_v6 = |address| if let Some(IpAddr::V6(v6)) = address { Some(v6) } else { None };
        let owner = station.tun_owner.or_else(|| uid_of(root, SERVICE_USER));
        if owner.is_none() {
            remarks.push(format!(
                "CJ_TUN_OWNER is not set and there is no user {SERVICE_USER}: whoever can open \
                 /dev/net/tun can open the tun devices"
            ));
        }
        let pf_ring = match station.backend {
            IngestBackend::PfRing => Some(pf_ring(root, station, driver)?),
            _ if driver => {
                remarks.push("--driver does nothing: CJ_INGEST_BACKEND is not pfring".to_owned());
                None
            }
            _ => None,
        };
        let offset = u32::try_from(placement.tun_offset).unwrap_or(u32::MAX);
        let taps = if station.fast_path { taps(station) } else { Vec::new() };
        let route = Route { tuns, v4: only_v4(v4), v6: only_v6(v6), taps };
        let sockets = station.ipc_dir.clone().unwrap_or_else(|| PathBuf::from(SOCKETS));
        Ok(Self { offset, route, owner, rules, sockets: Some(sockets), pf_ring, remarks })
    }
}

/// Interfaces that AF_XDP may read, without which no packets pass in the kernel; a receive queue is left out.
pub fn taps(station: &Station) -> Vec<String> {
    if !matches!(station.backend, IngestBackend::Auto | IngestBackend::Xdp) {
        return Vec::new();
    }
    let of_source = |source: &String| {
        let name = match source.split_once(':') {
            Some(("xdp", name)) => name,
            Some(_) => return None,
            None => source,
        };
        Some(name.split_once('@').map_or(name, |(name, _)| name).to_owned())
    };
    station.interfaces.iter().filter_map(of_source).collect()
}

/// Loopback never receives what came in by another interface (`spec/operations.md` 7.4).
fn target(
    wanted: IpAddr,
    name: &str,
    remarks: &mut Vec<String>,
) -> Result<Option<IpAddr>, PlanError> {
    if !wanted.is_loopback() && !wanted.is_unspecified() {
        if !addresses()?.contains(&wanted) {
            remarks.push(format!(
                "{name}={wanted} is no address of this host: phantom traffic will be lost until it is"
            ));
        }
        return Ok(Some(wanted));
    }
    let found = route::primary_address(wanted.is_ipv6())?;
    remarks.push(match &found {
        Some((interface, address)) => format!(
            "{name}={wanted} is replaced by {address}, the address of {interface} with the default \
             route: loopback receives no phantom traffic"
        ),
        None => format!(
            "{name}={wanted} is a loopback address and this host has no default route of that family: \
             phantoms of that family are not served"
        ),
    });
    Ok(found.map(|(_, address)| address))
}

fn pf_ring(root: &Root, station: &Station, driver: bool) -> Result<PfRing, PlanError> {
    let sets = if station.two_queue_sets { 2 } else { 1 };
    let queues = station.placement.core_count as u64 * sets;
    let pages = hugepages::needed(root, &station.interfaces, queues);
    let name = station.variables.filled("PF_DRIVER").unwrap_or_default();
    if driver && !DRIVERS.contains(&name) {
        return Err(PlanError::Driver(name.to_owned()));
    }
    Ok(PfRing { pages, driver: driver.then(|| name.to_owned()) })
}
