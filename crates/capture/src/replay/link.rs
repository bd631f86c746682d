//! Link types of recordings, and how their packets become Ethernet frames.

use packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6};

/// Link types (`LINKTYPE_*`) that are understood.
const NULL: u32 = 0;
const ETHERNET: u32 = 1;
const RAW: [u32; 5] = [12, 14, 101, 228, 229];
const LOOP: u32 = 108;
const COOKED: u32 = 113;
const COOKED_2: u32 = 276;

/// Bytes of the two addresses of an Ethernet header.
const ADDRESSES: usize = 12;

pub(super) fn is_known(link: u32) -> bool {
    matches!(link, NULL | ETHERNET | LOOP | COOKED | COOKED_2) || RAW.contains(&link)
}

/// What is said of a link type that is not understood.
pub(super) fn unknown(link: u32) -> String {
    format!(
        "found link type {link}, expected Ethernet (1), raw IP (12, 101, 228, 229), Linux cooked (113, 276) or \
         null (0, 108)"
    )
}

/// Appends the frame of a packet with this link type to `out`; false when the type is unknown. A packet that is
/// too short for its header, or neither IPv4 nor IPv6 where that must be known, has the EtherType 0.
pub(super) fn write_ethernet(link: u32, data: &[u8], out: &mut Vec<u8>) -> bool {
    let (ether_type, start) = match link {
        ETHERNET => {
            out.extend_from_slice(data);
            return true;
        }
        NULL | LOOP => (version(data.get(4..)), 4),
        COOKED => (ether_type(data, 14), 16),
        COOKED_2 => (ether_type(data, 0), 20),
        link if RAW.contains(&link) => (version(Some(data)), 0),
        _ => return false,
    };
    out.resize(out.len() + ADDRESSES, 0);
    out.extend(ether_type.to_be_bytes());
    out.extend_from_slice(data.get(start..).unwrap_or_default());
    true
}

fn ether_type(data: &[u8], at: usize) -> u16 {
    data.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// EtherType of a packet of IP. The address family of NULL has another number on every system.
fn version(ip: Option<&[u8]>) -> u16 {
    match ip.and_then(<[u8]>::first).map(|byte| byte >> 4) {
        Some(4) => ETHERTYPE_IPV4,
        Some(6) => ETHERTYPE_IPV6,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let frame = |link, data: &[u8]| {
            let mut out = Vec::new();
            assert!(write_ethernet(link, data, &mut out) && is_known(link));
            out
        };
        let with =
            |ether_type: u16, rest: &[u8]| [&[0; 12][..], &ether_type.to_be_bytes(), rest].concat();
        assert_eq!(frame(1, b"as it is"), b"as it is");
        for link in RAW {
            assert_eq!(frame(link, &[0x45, 1, 2]), with(0x0800, &[0x45, 1, 2]));
        }
        assert_eq!(frame(0, &[30, 0, 0, 0, 0x60, 9]), with(0x86dd, &[0x60, 9]));
        let cooked = [&[0; 14][..], &[0x86, 0xdd, 0x60]].concat();
        assert_eq!(frame(113, &cooked), with(0x86dd, &[0x60]));
        let cooked = [&[8, 0][..], &[0; 18], &[0x45, 7]].concat();
        assert_eq!(frame(276, &cooked), with(0x0800, &[0x45, 7]));
        for link in [0, 108, 113, 276, 101] {
            assert_eq!(frame(link, &[]), with(0, &[]));
        }
        assert!(!write_ethernet(105, b"radio", &mut Vec::new()) && !is_known(105));
        assert!(unknown(105).contains("105"));
    }
}
