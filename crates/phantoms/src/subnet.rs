//! Phantom subnets: CIDR blocks with Go's reading of their text (`spec/core.md` 4.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address family of a phantom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Bits of an address.
    pub const fn bits(self) -> u32 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A CIDR block, host bits masked off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subnet {
    base: IpAddr,
    prefix_len: u8,
}

impl Subnet {
    /// Reads `address/length`. Host bits are masked off, the length may have leading zeros, octets
    /// may not. IPv4-mapped IPv6 blocks are refused: the reference counts one address for them.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let address: IpAddr = address.parse().ok()?;
        if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let significant = length.trim_start_matches('0');
        let prefix_len: u8 = if significant.is_empty() { 0 } else { significant.parse().ok()? };
        let base = match address {
            IpAddr::V4(address) => {
                let shift = 32u32.checked_sub(prefix_len.into())?;
                let bits = u64::from(address.to_bits()) >> shift << shift;
                IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
            }
            IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => return None,
            IpAddr::V6(address) => {
                let shift = 128u32.checked_sub(prefix_len.into())?;
                let kept = address.to_bits().checked_shr(shift).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(kept.checked_shl(shift).unwrap_or(0)))
            }
        };
        Some(Self { base, prefix_len })
    }

    /// First address of the block.
    pub const fn base(&self) -> IpAddr {
        self.base
    }

    /// Family of its addresses.
    pub const fn family(&self) -> Family {
        match self.base {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// Bits below the prefix.
    pub const fn host_bits(&self) -> u32 {
        self.family().bits() - self.prefix_len as u32
    }

    /// Number of addresses; `None` for `::/0`, whose count does not fit.
    pub const fn size(&self) -> Option<u128> {
        1u128.checked_shl(self.host_bits())
    }

    /// The address `offset` behind the base, wrapping inside the family.
    pub fn address(&self, offset: u128) -> IpAddr {
        match self.base {
            IpAddr::V4(base) => {
                IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(offset as u32)))
            }
            IpAddr::V6(base) => {
                IpAddr::V6(Ipv6Addr::from_bits(base.to_bits().wrapping_add(offset)))
            }
        }
    }

    /// Whether `address` lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let differ = match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(other)) => u128::from(base.to_bits() ^ other.to_bits()),
            (IpAddr::V6(base), IpAddr::V6(other)) => base.to_bits() ^ other.to_bits(),
            _ => return false,
        };
        differ.checked_shr(self.host_bits()).unwrap_or(0) == 0
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_go_reads_them() {
        let shown = |text| Subnet::parse(text).map(|subnet| subnet.to_string());
        assert_eq!(shown("2001:48a8:7fff:b::2/64").as_deref(), Some("2001:48a8:7fff:b::/64"));
        assert_eq!(shown("10.1.2.3/08").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(shown("::/0").as_deref(), Some("::/0"));
        assert_eq!(shown("1.2.3.4/0").as_deref(), Some("0.0.0.0/0"));
        for bad in [
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "010.0.0.0/8",
            "::/129",
            "fe80::1%eth0/64",
            "::ffff:10.0.0.0/104",
            "",
            "/",
            "10.0.0.0/8/8",
            "10.0.0.0/1000",
        ] {
            assert_eq!(shown(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes_and_membership() {
        let net = Subnet::parse("192.0.2.0/24").unwrap();
        assert_eq!(net.size(), Some(256));
        assert!(net.contains("192.0.2.255".parse().unwrap()));
        assert!(!net.contains("192.0.3.0".parse().unwrap()));
        assert!(!net.contains("2001:db8::1".parse().unwrap()));
        let all = Subnet::parse("::/0").unwrap();
        assert_eq!(all.size(), None);
        assert!(all.contains("ffff::".parse().unwrap()));
    }
}
