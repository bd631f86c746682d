//! Ways through tunnels to the addresses inside (`spec/ingest.md` 9.1).
//!
//! A tunnel carries many flows between the same two outer addresses, so a balancer that looks at those
//! puts them all into one queue. The walk here goes on to the addresses inside. It stops where a frame
//! is cut off, fragmented or inconsistent and keeps the last IP header that was whole.

use crate::walk::{self, Outer, be16};
use crate::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_GRE, PROTOCOL_UDP};

/// Tunnels within tunnels that are followed at most.
const MAX_DEPTH: usize = 4;
/// Extension headers of a GTP header that are skipped at most.
const MAX_GTP_EXTENSIONS: usize = 8;

/// EtherType of a bridged frame in GRE.
const ETHERTYPE_BRIDGED: u16 = 0x6558;
/// GRE protocol of ERSPAN types I and II.
const ETHERTYPE_ERSPAN: u16 = 0x88be;
/// GRE protocol of ERSPAN type III.
const ETHERTYPE_ERSPAN_III: u16 = 0x22eb;
/// UDP port of GTP's user plane.
const PORT_GTP_U: u16 = 2152;
/// UDP port of VXLAN.
const PORT_VXLAN: u16 = 4789;

/// Which tunnels are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Follow {
    /// GRE that carries IP packets.
    pub gre_ip: bool,
    /// GRE that carries Ethernet frames: bridged, and ERSPAN of every type.
    pub gre_ethernet: bool,
    /// GTP's user plane.
    pub gtp: bool,
    /// VXLAN.
    pub vxlan: bool,
    /// Tunnels within tunnels too.
    pub nested: bool,
}

impl Follow {
    /// GRE, whatever it carries (`-m gre`).
    pub const GRE: Self =
        Self { gre_ip: true, gre_ethernet: true, gtp: false, vxlan: false, nested: false };
    /// GRE that carries frames (`-m erspan`).
    pub const ERSPAN: Self =
        Self { gre_ip: false, gre_ethernet: true, gtp: false, vxlan: false, nested: false };
    /// GTP's user plane (`-m gtp`).
    pub const GTP: Self =
        Self { gre_ip: false, gre_ethernet: false, gtp: true, vxlan: false, nested: false };
    /// Everything (`-m auto`).
    pub const ALL: Self =
        Self { gre_ip: true, gre_ethernet: true, gtp: true, vxlan: true, nested: true };
}

/// Where the inside of a tunnel begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inside {
    /// An Ethernet frame at this offset.
    Frame(usize),
    /// A packet at this offset, of this EtherType.
    Packet(usize, u16),
}

/// The innermost IP header of `frame` that the tunnels of `follow` lead to; the outermost when there is no
/// such tunnel. `None` when there is no IP header at all, or it is cut off.
#[inline]
pub fn inner(frame: &[u8], follow: Follow) -> Option<Outer> {
    let mut found = walk::outer(frame)?;
    for _ in 0..if follow.nested { MAX_DEPTH } else { 1 } {
        let Some(next) = inside(frame, &found, follow).and_then(|at| at.header(frame)) else {
            break;
        };
        found = next;
    }
    Some(found)
}

/// What is left of a frame without its tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bare {
    /// The frame that begins at this offset.
    Frame(usize),
    /// A packet, which needs a link header.
    Packet {
        /// Offset of the nearest Ethernet header, whose addresses it may keep.
        link: usize,
        /// Offset of the IP header.
        network: usize,
        /// EtherType of the packet.
        ethertype: u16,
    },
}

/// What is inside the tunnels and below the MPLS labels of a frame; `None` when there are none that lead to
/// a whole IP header.
pub fn bare(frame: &[u8]) -> Option<Bare> {
    let mut header = walk::outer(frame)?;
    let labelled =
        |at: usize| walk::network_offset(frame.get(at..)?).map(|(_, kind)| walk::is_mpls(kind));
    // The nearest Ethernet header, and whether the IP header follows it directly.
    let (mut link, mut direct) = (0, !labelled(0)?);
    for _ in 0..MAX_DEPTH {
        let Some(at) = inside(frame, &header, Follow::ALL) else { break };
        let Some(next) = at.header(frame) else { break };
        header = next;
        (link, direct) = match at {
            Inside::Frame(at) => (at, !labelled(at)?),
            Inside::Packet(..) => (link, false),
        };
    }
    let ethertype = match header.pair {
        walk::Pair::V4(..) => ETHERTYPE_IPV4,
        walk::Pair::V6(..) => ETHERTYPE_IPV6,
    };
    match (link, direct) {
        (0, true) => None,
        (link, true) => Some(Bare::Frame(link)),
        (link, false) => Some(Bare::Packet { link, network: header.offset, ethertype }),
    }
}

impl Bare {
    /// Writes the frame that remains of `frame`, of which this was said, into `into`.
    pub fn write(self, frame: &[u8], into: &mut Vec<u8>) {
        into.clear();
        match self {
            Self::Frame(at) => into.extend_from_slice(frame.get(at..).unwrap_or_default()),
            Self::Packet { link, network, ethertype } => {
                into.extend_from_slice(frame.get(link..link + 12).unwrap_or(&[0; 12]));
                into.extend_from_slice(&ethertype.to_be_bytes());
                into.extend_from_slice(frame.get(network..).unwrap_or_default());
            }
        }
    }
}

impl Inside {
    #[inline]
    fn header(self, frame: &[u8]) -> Option<Outer> {
        match self {
            Self::Frame(at) => walk::outer_at(frame, at),
            Self::Packet(at, ethertype) => walk::header_at(frame, at, ethertype),
        }
    }
}

/// Where the tunnel that `header` announces carries its load.
#[inline]
fn inside(frame: &[u8], header: &Outer, follow: Follow) -> Option<Inside> {
    match header.protocol {
        PROTOCOL_GRE if follow.gre_ip || follow.gre_ethernet => {
            gre(frame, header.transport?, follow)
        }
        PROTOCOL_UDP if follow.gtp || follow.vxlan => {
            let (from, to) = header.ports?;
            let load = header.transport? + 8;
            match () {
                () if follow.gtp && (to == PORT_GTP_U || from == PORT_GTP_U) => gtp(frame, load),
                () if follow.vxlan && to == PORT_VXLAN => vxlan(frame, load),
                () => None,
            }
        }
        _ => None,
    }
}

fn gre(frame: &[u8], at: usize, follow: Follow) -> Option<Inside> {
    const CHECKSUM: u16 = 0x8000;
    const ROUTING: u16 = 0x4000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    const VERSION: u16 = 0x0007;
    let flags = be16(frame, at)?;
    if flags & (ROUTING | VERSION) != 0 {
        return None;
    }
    let options = [CHECKSUM, KEY, SEQUENCE].into_iter().filter(|bit| flags & bit != 0).count();
    let load = at + 4 + 4 * options;
    match be16(frame, at + 2)? {
        kind @ (ETHERTYPE_IPV4 | ETHERTYPE_IPV6) if follow.gre_ip => {
            Some(Inside::Packet(load, kind))
        }
        ETHERTYPE_BRIDGED if follow.gre_ethernet => Some(Inside::Frame(load)),
        ETHERTYPE_ERSPAN if follow.gre_ethernet => {
            let header = if flags & SEQUENCE != 0 { 8 } else { 0 };
            Some(Inside::Frame(load + header))
        }
        ETHERTYPE_ERSPAN_III if follow.gre_ethernet => {
            let subheader = if frame.get(load + 11)? & 1 != 0 { 8 } else { 0 };
            Some(Inside::Frame(load + 12 + subheader))
        }
        kind if follow.gre_ip && walk::is_mpls(kind) => Some(Inside::Packet(load, kind)),
        _ => None,
    }
}

fn gtp(frame: &[u8], at: usize) -> Option<Inside> {
    const VERSION_AND_TYPE: u8 = 0xf0;
    const VERSION_1_USER: u8 = 0x30;
    const USER_DATA: u8 = 255;
    let flags = *frame.get(at)?;
    if flags & VERSION_AND_TYPE != VERSION_1_USER || *frame.get(at + 1)? != USER_DATA {
        return None;
    }
    let mut load = at + 8;
    if flags & 0x07 != 0 {
        let mut next = *frame.get(load + 3)?;
        load += 4;
        if flags & 0x04 != 0 {
            let mut left = MAX_GTP_EXTENSIONS;
            while next != 0 {
                let len = usize::from(*frame.get(load)?) * 4;
                left = left.checked_sub(1)?;
                next = *frame.get(load + len.checked_sub(1)?)?;
                load += len;
            }
        }
    }
    let ethertype = match frame.get(load)? >> 4 {
        4 => ETHERTYPE_IPV4,
        6 => ETHERTYPE_IPV6,
        _ => return None,
    };
    Some(Inside::Packet(load, ethertype))
}

fn vxlan(frame: &[u8], at: usize) -> Option<Inside> {
    (frame.get(at)? & 0x08 != 0).then_some(Inside::Frame(at + 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn plain() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(5, 443, 6, 7)
            .write(&mut frame, b"hello")
            .unwrap();
        frame
    }

    /// `load` behind an outer IPv4 header and `header`, which `protocol` announces.
    fn outer(protocol: u8, header: &[u8], load: &[u8]) -> Vec<u8> {
        let mut frame = vec![6; 12];
        frame.extend([8, 0, 0x45, 0]);
        frame.extend(u16::try_from(20 + header.len() + load.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend(header);
        frame.extend(load);
        frame
    }

    const VXLAN: [u8; 16] = [0, 9, 0x12, 0xb5, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 7, 0];

    fn remains(frame: &[u8]) -> Option<Vec<u8>> {
        let mut into = Vec::new();
        bare(frame).map(|bare| bare.write(frame, &mut into))?;
        Some(into)
    }

    #[test]
    fn a_tunnel_of_frames_leaves_the_frame() {
        let bridged = outer(47, &[0, 0, 0x65, 0x58], &plain());
        let vxlan = outer(17, &VXLAN, &plain());
        let erspan =
            outer(47, &[0x10, 0, 0x88, 0xbe, 0, 0, 0, 1, 0x10, 0, 0, 0, 0, 0, 0, 0], &plain());
        for frame in [bridged, vxlan, erspan] {
            assert_eq!(remains(&frame), Some(plain()));
            let inside = inner(&frame, Follow::ALL).unwrap();
            assert_eq!((inside.ports, inside.protocol), (Some((5, 443)), 6));
        }
        assert_eq!(remains(&plain()), None);
    }

    #[test]
    fn a_tunnel_of_packets_leaves_a_frame_with_the_outer_addresses() {
        let plain = plain();
        let gre = outer(47, &[0, 0, 8, 0], &plain[14..]);
        let mut labelled = outer(0, &[], &[])[..12].to_vec();
        labelled.extend([0x88, 0x47, 0, 0, 0x11, 64]);
        labelled.extend(&plain[14..]);
        let expected: Vec<u8> = [&[6; 12], &plain[12..]].concat();
        for frame in [gre, labelled] {
            assert_eq!(remains(&frame), Some(expected.clone()));
        }
    }

    #[test]
    fn tunnels_in_tunnels_are_followed_to_a_bound() {
        let mut frame = plain();
        for depth in 1..=MAX_DEPTH + 1 {
            frame = outer(17, &VXLAN, &frame);
            let found = remains(&frame).unwrap();
            assert_eq!(found == plain(), depth <= MAX_DEPTH);
            let once = inner(&frame, Follow { nested: false, ..Follow::ALL }).unwrap();
            assert_eq!(once.offset, 50 + 14);
        }
    }

    #[test]
    fn a_fragment_of_a_tunnel_stays_with_the_others() {
        let mut first = outer(47, &[0, 0, 0x65, 0x58], &plain());
        first[20] |= 0x20;
        let mut later = first.clone();
        later[21] = 9;
        for frame in [first, later] {
            assert_eq!(inner(&frame, Follow::ALL).unwrap().offset, 14);
            assert_eq!(remains(&frame), None);
        }
    }

    #[test]
    fn what_is_cut_off_or_inconsistent_stays_outside() {
        let frames = [
            outer(47, &[0x40, 0, 0x65, 0x58], &plain()),
            outer(47, &[0, 1, 0x65, 0x58], &plain()),
            outer(47, &[0, 0, 0x65, 0x58], &plain()[..30]),
            outer(
                17,
                &[0, 9, 8, 0x68, 0, 0, 0, 0, 0x34, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
                &plain(),
            ),
        ];
        for frame in frames {
            assert_eq!(inner(&frame, Follow::ALL).unwrap().offset, 14);
            assert_eq!(bare(&frame), None);
        }
    }
}
