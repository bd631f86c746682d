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
