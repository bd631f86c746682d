//! The balancer's walk to the outermost IP addresses of a frame (`spec/ingest.md` 9.1).

use crate::ip::{Ipv4, Ipv6};
use crate::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_QINQ, ETHERTYPE_QINQ_OLD,
    ETHERTYPE_VLAN, PROTOCOL_TCP, PROTOCOL_UDP,
};

/// VLAN tags that are skipped at most.
const MAX_TAGS: usize = 4;
/// IPv6 extension headers that are skipped at most.
const MAX_EXTENSIONS: usize = 8;

const PROTOCOL_DCCP: u8 = 33;
const PROTOCOL_SCTP: u8 = 132;
const PROTOCOL_UDP_LITE: u8 = 136;

/// Source and destination address of one family, in network order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// IPv4 source and destination.
    V4([u8; 4], [u8; 4]),
    /// IPv6 source and destination.
    V6([u8; 16], [u8; 16]),
}

/// The outermost IP header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outer {
    /// Offset of the IP header in the frame, in bytes.
    pub offset: usize,
    /// Its addresses.
    pub pair: Pair,
    /// Protocol after IPv6 extension headers; for a fragment the protocol of the whole packet.
    pub protocol: u8,
    /// Source and destination port; `None` in a fragment, for a protocol without ports and in a
    /// truncated packet.
    pub ports: Option<(u16, u16)>,
}

/// Finds the IP header after at most four VLAN tags: its offset and EtherType.
///
/// The EtherType may be that of another protocol. `None` when the link header is cut off.
#[inline]
pub fn network_offset(frame: &[u8]) -> Option<(usize, u16)> {
    let mut offset = ETHERNET_LEN;
    let mut ethertype = be16(frame, 12)?;
    for _ in 0..MAX_TAGS {
        if !is_tag(ethertype) {
            break;
        }
        ethertype = be16(frame, offset + 2)?;
        offset += 4;
    }
    Some((offset, ethertype))
}

/// The VLAN ids (0 to 4095) in the chain of tags of a frame, outermost first, at most four.
pub fn vlan_ids(frame: &[u8]) -> impl Iterator<Item = u16> + '_ {
    (0..MAX_TAGS).map_while(move |i| {
        let at = 12 + 4 * i;
        let ethertype = be16(frame, at)?;
        is_tag(ethertype).then(|| be16(frame, at + 2)).flatten().map(|tci| tci & 0x0fff)
    })
}

/// Walks to the outermost IP header; `None` when there is none or it is cut off.
#[inline]
pub fn outer(frame: &[u8]) -> Option<Outer> {
    let (offset, ethertype) = network_offset(frame)?;
    let packet = frame.get(offset..)?;
    match ethertype {
        ETHERTYPE_IPV4 => outer_v4(offset, packet),
        ETHERTYPE_IPV6 => outer_v6(offset, packet),
        _ => None,
    }
}

#[inline]
fn outer_v4(offset: usize, packet: &[u8]) -> Option<Outer> {
    let ip = Ipv4::new(packet)?;
    if ip.version() != 4 || ip.announced_header_len() < 20 {
        return None;
    }
    let protocol = ip.protocol();
    let ports =
        if ip.is_fragment() { None } else { ports(protocol, packet, ip.announced_header_len()) };
    let pair = Pair::V4(ip.source(), ip.destination());
    Some(Outer { offset, pair, protocol, ports })
}

#[inline]
fn outer_v6(offset: usize, packet: &[u8]) -> Option<Outer> {
    let ip = Ipv6::new(packet)?;
    if ip.version() != 6 {
        return None;
    }
    let pair = Pair::V6(ip.source(), ip.destination());
    let (protocol, ports) = v6_transport(ip.next_header(), packet);
    Some(Outer { offset, pair, protocol, ports })
}

/// Follows the extension headers to the transport protocol and its ports.
fn v6_transport(first: u8, packet: &[u8]) -> (u8, Option<(u16, u16)>) {
    let mut next = first;
    let mut at = 40;
    for _ in 0..MAX_EXTENSIONS {
        let step = match next {
            // Hop-by-hop, routing and destination options carry their length in 8-byte units.
            0 | 43 | 60 => packet.get(at + 1).map(|len| (usize::from(*len) + 1) * 8),
            // A fragment header: later fragments have no ports, so none of the packet may use them.
            44 => return (packet.get(at).copied().unwrap_or(next), None),
            _ => return (next, ports(next, packet, at)),
        };
        let (Some(step), Some(&following)) = (step, packet.get(at)) else {
            return (next, None);
        };
        next = following;
        at += step;
    }
    (next, None)
}

#[inline]
fn ports(protocol: u8, packet: &[u8], at: usize) -> Option<(u16, u16)> {
    match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP | PROTOCOL_DCCP | PROTOCOL_UDP_LITE => {
            Some((be16(packet, at)?, be16(packet, at + 2)?))
        }
        _ => None,
    }
}

#[inline]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD)
}

#[inline]
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*pair))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp6() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv6([1; 16], [2; 16], 64)
            .udp(5, 6)
            .write(&mut frame, b"x")
            .unwrap();
        frame
    }

    #[test]
    fn extension_headers_are_walked() {
        let frame = udp6();
        let mut extended = frame[..54].to_vec();
        extended[20] = 0;
        extended.extend([60, 0, 0, 0, 0, 0, 0, 0]);
        extended.extend([17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        extended.extend(&frame[54..]);
        let plain = outer(&frame).unwrap();
        assert_eq!(plain.ports, Some((5, 6)));
        assert_eq!(outer(&extended), Some(plain));
    }

    #[test]
    fn fragments_have_no_ports() {
        let frame = udp6();
        let mut fragment = frame[..54].to_vec();
        fragment[20] = 44;
        fragment.extend([17, 0, 0, 1, 0, 0, 0, 9]);
        fragment.extend(&frame[54..]);
        let walked = outer(&fragment).unwrap();
        assert_eq!((walked.protocol, walked.ports), (17, None));
    }

    #[test]
    fn endless_extension_headers_stop() {
        let mut frame = udp6()[..54].to_vec();
        frame[20] = 0;
        frame.extend([0; 8 * 20]);
        assert_eq!(outer(&frame).unwrap().ports, None);
    }

    #[test]
    fn vlan_chain() {
        let frame = udp6();
        let mut tagged = frame[..12].to_vec();
        tagged.extend([0x88, 0xa8, 0xf0, 0x01, 0x81, 0x00, 0x0f, 0xfe]);
        tagged.extend(&frame[12..]);
        assert_eq!(vlan_ids(&tagged).collect::<Vec<_>>(), [1, 4094]);
        assert_eq!(vlan_ids(&frame).count(), 0);
        assert_eq!(outer(&tagged).unwrap().offset, 22);
    }
}
