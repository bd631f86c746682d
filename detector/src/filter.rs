//! Which addresses matter: sources whose packets are not forwarded (`spec/detector.md` 3.3), and
//! decoys, to which alone flows are followed when the operator lists any.

use ipnet::IpNet;
use std::net::IpAddr;

/// Both lists, of addresses and prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    sources: Vec<IpNet>,
    decoys: Ranges,
}

/// A set of addresses as ranges of their numbers, in order and apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl Ranges {
    fn new(nets: &[IpNet]) -> Self {
        let mut ranges = Self::default();
        // Prefixes overlap only by containing each other.
        for net in IpNet::aggregate(&nets.to_vec()) {
            match net {
                IpNet::V4(net) => {
                    ranges.v4.push((net.network().to_bits(), net.broadcast().to_bits()));
                }
                IpNet::V6(net) => {
                    ranges.v6.push((net.network().to_bits(), net.broadcast().to_bits()));
                }
            }
        }
        ranges.v4.sort_unstable();
        ranges.v6.sort_unstable();
        ranges
    }

    const fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn contains(&self, address: IpAddr) -> bool {
        fn within<T: Ord + Copy>(ranges: &[(T, T)], number: T) -> bool {
            let after = ranges.partition_point(|(first, _)| *first <= number);
            ranges[..after].last().is_some_and(|(_, last)| number <= *last)
        }
        match address {
            IpAddr::V4(address) => within(&self.v4, address.to_bits()),
            IpAddr::V6(address) => within(&self.v6, address.to_bits()),
        }
    }
}

impl Filter {
    /// Lists of these `sources` and `decoys`. Without decoys, every destination is followed.
    pub fn new(sources: Vec<IpNet>, decoys: &[IpNet]) -> Self {
        Self { sources, decoys: Ranges::new(decoys) }
    }

    /// Whether `source` is listed.
    pub fn contains(&self, source: IpAddr) -> bool {
        self.sources.iter().any(|net| net.contains(&source))
    }

    /// Whether flows to `destination` are followed.
    pub fn follows(&self, destination: IpAddr) -> bool {
        self.decoys.is_empty() || self.decoys.contains(destination)
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
        let filter = Filter::new(list.to_vec(), &[]);
        let listed = |text: &str| filter.contains(text.parse().unwrap());
        assert!(listed("127.0.0.1") && listed("2001:db8::9"));
        assert!(!listed("127.0.0.2") && !listed("::ffff:127.0.0.1"));
    }

    #[test]
    fn decoys_when_there_are_any() {
        let any: IpAddr = [8, 8, 8, 8].into();
        assert!(Filter::default().follows(any));
        let list = ["198.51.100.0/25", "198.51.100.7/32", "192.0.2.9/32", "2001:db8::/48"];
        let list = list.map(|net| net.parse().unwrap());
        let filter = Filter::new(Vec::new(), &list);
        let follows = |text: &str| filter.follows(text.parse().unwrap());
        for decoy in ["198.51.100.0", "198.51.100.127", "192.0.2.9", "2001:db8:0:ff::1"] {
            assert!(follows(decoy), "{decoy}");
        }
        for other in ["8.8.8.8", "198.51.100.128", "192.0.2.8", "192.0.2.10", "2001:db8:1::"] {
            assert!(!follows(other), "{other}");
        }
        // A list of one family says that nothing of the other is a decoy.
        assert!(!Filter::new(Vec::new(), &list[..1]).follows("2001:db8::1".parse().unwrap()));
    }
}
