//! What a reload replaces: one immutable snapshot behind an atomic pointer
//! (`spec/application.md` 3.6).

use std::net::IpAddr;
use std::path::Path;

use conf::Application;
use ipnet::IpNet;
use phantoms::PhantomTable;
use transports::prefix::PrefixTable;

use crate::covert::CovertPolicy;
use crate::geoip::GeoIp;

/// Phantoms, covert rules and databases of one configuration.
#[derive(Debug)]
pub struct Policy {
    /// Phantom subnets of all generations.
    pub phantoms: PhantomTable,
    /// Which coverts may be dialled.
    pub covert: CovertPolicy,
    /// Phantoms that this station does not serve.
    pub phantom_blocklist: Vec<IpNet>,
    /// Prefixes of the Prefix transport.
    pub prefixes: PrefixTable,
    /// Country and network databases.
    pub geoip: GeoIp,
}

/// Why a policy could not be built.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The phantom file.
    #[error("failed to load phantom subnets: {0}")]
    Phantoms(#[from] phantoms::FileError),
    /// The supplemental prefix file.
    #[error("supplemental_prefix_path: {0}")]
    Prefixes(#[from] conf::Problems),
    /// A GeoIP database.
    #[error(transparent)]
    GeoIp(#[from] crate::geoip::GeoIpError),
    /// The addresses of this host, which `covert_blocklist_public_addrs` asks for.
    #[error("covert_blocklist_public_addrs: the interfaces of this host cannot be listed: {0}")]
    Interfaces(std::io::Error),
}

impl Policy {
    /// Builds the snapshot and what is worth saying about it.
    ///
    /// # Errors
    /// When any part is unusable; nothing of the former snapshot is touched.
    pub fn build(
        settings: &Application,
        phantom_file: &Path,
    ) -> Result<(Self, Vec<String>), PolicyError> {
        let loaded = PhantomTable::load(phantom_file)?;
        let mut notes: Vec<String> =
            loaded.warnings.iter().map(|w| format!("{}: {w}", phantom_file.display())).collect();
        let prefixes = conf::prefix_table(
            settings.supplemental_prefix_path.as_deref(),
            settings.disable_default_prefixes,
        )?;
        notes.extend(prefixes.notices.iter().map(ToString::to_string));
        let mut blocked = settings.covert_blocklist_subnets.clone();
        if settings.covert_blocklist_public_addrs {
            blocked.extend(interface_subnets().map_err(PolicyError::Interfaces)?);
        }
        let empty = Path::new("");
        let country = settings.geoip_cc_db_path.as_deref().unwrap_or(empty);
        let asn = settings.geoip_asn_db_path.as_deref().unwrap_or(empty);
        let geoip = GeoIp::open(country, asn)?;
        if let Some(missing) = geoip.missing() {
            notes.push(format!("missing one or more geoip DBs: {missing}"));
        }
        let policy = Self {
            phantoms: loaded.table,
            covert: CovertPolicy {
                blocked_domains: settings.covert_blocklist_domains.clone(),
                blocked,
                allowed: settings.covert_allowlist_subnets.clone(),
                reject_special: settings.covert_reject_special,
            },
            prefixes: prefixes.value,
            phantom_blocklist: settings.phantom_blocklist.clone(),
            geoip,
        };
        Ok((policy, notes))
    }

    /// Whether another station serves `phantom`.
    pub fn is_blocked_phantom(&self, phantom: IpAddr) -> bool {
        self.phantom_blocklist.iter().any(|net| net.contains(&phantom))
    }
}

/// The connected subnet of every address of every interface.
fn interface_subnets() -> std::io::Result<Vec<IpNet>> {
    let subnet = |interface: if_addrs::Interface| {
        let prefix_len = match &interface.addr {
            if_addrs::IfAddr::V4(v4) => u32::from(v4.netmask).count_ones() as u8,
            if_addrs::IfAddr::V6(v6) => u128::from(v6.netmask).count_ones() as u8,
        };
        IpNet::new(interface.ip(), prefix_len).map(|net| net.trunc()).ok()
    };
    Ok(if_addrs::get_if_addrs()?.into_iter().filter_map(subnet).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_subnet_is_among_the_interfaces() {
        let subnets = interface_subnets().unwrap();
        assert!(subnets.contains(&"127.0.0.0/8".parse().unwrap()), "{subnets:?}");
    }
}
