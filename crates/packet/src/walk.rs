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
/// MPLS labels that are skipped at most.
const MAX_LABELS: usize = 16;
/// EtherTypes of MPLS, to one receiver and to several.
const ETHERTYPE_MPLS: u16 = 0x8847;
const ETHERTYPE_MPLS_MULTICAST: u16 = 0x8848;

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

/// An IP header of a frame, by default the outermost.
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
    /// Offset in the frame of what follows the IP header and its extensions; `None` in a fragment and when
    /// the extension headers are cut off.
    pub transport: Option<usize>,
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

/// Walks to the outermost IP header, past VLAN tags and MPLS labels; `None` when there is none or it is cut
/// off.
#[inline]
pub fn outer(frame: &[u8]) -> Option<Outer> {
    outer_at(frame, 0)
}

/// The addresses of the outermost IP header, for which nothing behind it is looked at: those that [`outer`] finds.
#[inline]
pub fn outer_pair(frame: &[u8]) -> Option<Pair> {
    let (offset, ethertype) = network_offset(frame)?;
    match ethertype {
        ETHERTYPE_IPV4 => Some(pair_v4(&v4_at(frame, offset)?)),
        ETHERTYPE_IPV6 => Some(pair_v6(&v6_at(frame, offset)?)),
        other if is_mpls(other) => below_labels(frame, offset).map(|outer| outer.pair),
        _ => None,
    }
}

/// As [`outer`], for an Ethernet frame that begins at `start` of `frame`.
#[inline]
pub(crate) fn outer_at(frame: &[u8], start: usize) -> Option<Outer> {
    let (offset, ethertype) = network_offset(frame.get(start..)?)?;
    header_at(frame, start + offset, ethertype)
}

/// The IP header at `offset`, where `ethertype` says what is there.
#[inline]
pub(crate) fn header_at(frame: &[u8], offset: usize, ethertype: u16) -> Option<Outer> {
    match ethertype {
        ETHERTYPE_IPV4 => outer_v4(frame, offset),
        ETHERTYPE_IPV6 => outer_v6(frame, offset),
        other if is_mpls(other) => below_labels(frame, offset),
        _ => None,
    }
}

/// True for the EtherTypes of MPLS.
#[inline]
pub(crate) const fn is_mpls(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_MPLS | ETHERTYPE_MPLS_MULTICAST)
}

/// The IP header below a stack of labels. Nothing says what is there but its first four bits.
#[cold]
fn below_labels(frame: &[u8], stack: usize) -> Option<Outer> {
    const BOTTOM: u8 = 1;
    let label = |n: usize| frame.get(stack + 4 * n + 2);
    let labels = (0..MAX_LABELS).map_while(label).position(|byte| byte & BOTTOM != 0)? + 1;
    let offset = stack + 4 * labels;
    match frame.get(offset)? >> 4 {
        4 => outer_v4(frame, offset),
        6 => outer_v6(frame, offset),
        _ => None,
    }
}

/// The IPv4 header at `offset`, unless it is none or cut off.
#[inline]
fn v4_at(frame: &[u8], offset: usize) -> Option<Ipv4<'_>> {
    let ip = Ipv4::new(frame.get(offset..)?)?;
    (ip.version() == 4 && ip.announced_header_len() >= 20).then_some(ip)
}

/// The IPv6 header at `offset`, unless it is none or cut off.
#[inline]
fn v6_at(frame: &[u8], offset: usize) -> Option<Ipv6<'_>> {
    let ip = Ipv6::new(frame.get(offset..)?)?;
    (ip.version() == 6).then_some(ip)
}

#[inline]
fn pair_v4(ip: &Ipv4<'_>) -> Pair {
    Pair::V4(ip.source(), ip.destination())
}

#[inline]
fn pair_v6(ip: &Ipv6<'_>) -> Pair {
    Pair::V6(ip.source(), ip.destination())
}

#[inline]
fn outer_v4(frame: &[u8], offset: usize) -> Option<Outer> {
    let ip = v4_at(frame, offset)?;
    let (pair, protocol) = (pair_v4(&ip), ip.protocol());
    if ip.is_fragment() {
        return Some(Outer { offset, pair, protocol, ports: None, transport: None });
    }
    let header = ip.announced_header_len();
    let ports = ports(protocol, &frame[offset..], header);
    Some(Outer { offset, pair, protocol, ports, transport: Some(offset + header) })
}

#[inline]
fn outer_v6(frame: &[u8], offset: usize) -> Option<Outer> {
    let ip = v6_at(frame, offset)?;
    let packet = &frame[offset..];
    let pair = pair_v6(&ip);
    let (protocol, at) = v6_transport(ip.next_header(), packet);
    let ports = at.and_then(|at| ports(protocol, packet, at));
    Some(Outer { offset, pair, protocol, ports, transport: at.map(|at| offset + at) })
}

/// Follows the extension headers to the transport protocol and its offset.
fn v6_transport(first: u8, packet: &[u8]) -> (u8, Option<usize>) {
    let mut next = first;
    let mut at = 40;
    for _ in 0..MAX_EXTENSIONS {
        let step = match next {
            // Hop-by-hop, routing and destination options carry their length in 8-byte units.
            0 | 43 | 60 => packet.get(at + 1).map(|len| (usize::from(*len) + 1) * 8),
            // A fragment header: later fragments have no ports, so none of the packet may use them.
            44 => return (packet.get(at).copied().unwrap_or(next), None),
            _ => return (next, Some(at)),
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
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
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
        let walked = outer(&extended).unwrap();
        assert_eq!(
            (walked.ports, walked.transport),
            (plain.ports, plain.transport.map(|at| at + 24))
        );
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

    #[test]
    fn labels() {
        let frame = udp6();
        let mut labelled = frame[..12].to_vec();
        labelled.extend([0x88, 0x47, 0, 1, 0x20, 64, 0, 1, 0x31, 64]);
        labelled.extend(&frame[14..]);
        let walked = outer(&labelled).unwrap();
        assert_eq!((walked.offset, walked.ports), (22, Some((5, 6))));
        labelled[20] &= !1;
        assert_eq!(outer(&labelled), None, "a stack without bottom");
        labelled[20] |= 1;
        labelled[22] = 0;
        assert_eq!(outer(&labelled), None, "no version of IP");
    }
}
