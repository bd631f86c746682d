//! Source addresses whose packets are not forwarded (`spec/detector.md` 3.3).

use ipnet::IpNet;
use std::net::IpAddr;

/// The list, of addresses and prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(Vec<IpNet>);

impl Filter {
    /// A list of `nets`.
    pub const fn new(nets: Vec<IpNet>) -> Self {
        Self(nets)
    }

    /// Whether `source` is listed.
    pub fn contains(&self, source: IpAddr) -> bool {
        self.0.iter().any(|net| net.contains(&source))
    }

    /// Addresses of this host that are not listed: its own probes of phantoms would be forwarded
    /// like the packets of a client. Loopback, link-local and tun addresses do not cross a tap.
    ///
    /// # Errors
    /// When the system does not tell its addresses.
    pub fn own_addresses_missing(&self) -> std::io::Result<Vec<IpAddr>> {
        let own = if_addrs::get_if_addrs()?.into_iter().filter(|interface| {
            !interface.is_loopback()
                && !interface.is_link_local()
                && !interface.name.starts_with("tun")
        });
        Ok(own.map(|interface| interface.ip()).filter(|ip| !self.contains(*ip)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_prefixes() {
        let list = ["127.0.0.1/32", "2001:db8::/48"].map(|net| net.parse().unwrap());
        let filter = Filter::new(list.to_vec());
        let listed = |text: &str| filter.contains(text.parse().unwrap());
        assert!(listed("127.0.0.1") && listed("2001:db8::9"));
        assert!(!listed("127.0.0.2") && !listed("::ffff:127.0.0.1"));
    }
}
