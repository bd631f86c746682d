//! Finds addresses, ports and flags in a captured packet of TCP or UDP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What stands before the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header, with any VLAN tags.
    Ethernet,
    /// Nothing.
    Ip,
}

impl Link {
    /// Of the number in a capture file (`LINKTYPE_*`).
    pub const fn of_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Ethernet),
            // Raw IP under its three numbers, IPv4, IPv6.
            12 | 14 | 101 | 228 | 229 => Some(Self::Ip),
            _ => None,
        }
    }
}

/// A packet of TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Where the IP header begins and the packet ends, without what Ethernet filled up.
    pub ip: (usize, usize),
    /// Where the ports are, from the IP header on.
    pub ports: usize,
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// TCP, otherwise UDP.
    pub tcp: bool,
    /// A TCP segment that opens a connection.
    pub syn: bool,
    /// Length on the wire, from the IP header on.
    pub length: usize,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Reads a captured frame; `None` for anything else than a whole packet, or first fragment, of TCP or UDP.
pub fn parse(frame: &[u8], link: Link) -> Option<Packet> {
    let start = match link {
        Link::Ip => 0,
        Link::Ethernet => network_layer(frame)?,
    };
    let ip = frame.get(start..)?;
    match ip.first()? >> 4 {
        4 => v4(ip, start),
        6 => v6(ip, start),
        _ => None,
    }
}

/// Where the IP header begins: behind the EtherType, which comes after any VLAN tags of four bytes.
fn network_layer(frame: &[u8]) -> Option<usize> {
    let mut at = 12;
    // More tags than that are no traffic.
    for _ in 0..4 {
        match u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?) {
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            0x0800 | 0x86dd => return Some(at + 2),
            _ => return None,
        }
    }
    None
}

fn v4(ip: &[u8], start: usize) -> Option<Packet> {
    let header = ip.get(..20)?;
    let ports = usize::from(header[0] & 0xf) * 4;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    if ports < 20 || fragment != 0 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 4] = ip.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes).into())
    };
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // Offloading leaves the length empty.
    let length = if total == 0 { ip.len() } else { total };
    transport(ip, start, (header[9], ports), length, (address(12)?, address(16)?))
}

fn v6(ip: &[u8], start: usize) -> Option<Packet> {
    let header = ip.get(..40)?;
    let address = |at: usize| -> Option<IpAddr> {
        let bytes: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(bytes).into())
    };
    let (mut next, mut at) = (header[6], 40);
    while !matches!(next, TCP | UDP) {
        let extension = ip.get(at..at + 8)?;
        let length = match next {
            0 | 43 | 60 => (usize::from(extension[1]) + 1) * 8,
            44 if u16::from_be_bytes([extension[2], extension[3]]) >> 3 == 0 => 8,
            _ => return None,
        };
        next = extension[0];
        at += length;
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let length = if payload == 0 { ip.len() } else { payload + 40 };
    transport(ip, start, (next, at), length, (address(8)?, address(24)?))
}

fn transport(
    ip: &[u8],
    start: usize,
    (protocol, ports): (u8, usize),
    length: usize,
    (source, destination): (IpAddr, IpAddr),
) -> Option<Packet> {
    let tcp = match protocol {
        TCP => true,
        UDP => false,
        _ => return None,
    };
    let captured = length.min(ip.len());
    let port = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes(ip[..captured].get(at..at + 2)?.try_into().ok()?))
    };
    let flags = if tcp { *ip[..captured].get(ports + 13)? } else { 0 };
    Some(Packet {
        ip: (start, start + captured),
        ports,
        source: SocketAddr::new(source, port(ports)?),
        destination: SocketAddr::new(destination, port(ports + 2)?),
        tcp,
        syn: flags & (SYN | ACK) == SYN,
        length,
    })
}

/// Writes another address and port into a packet that begins with its IP header, and for IPv6 another
/// flow label. Checksums stay, as the reference leaves them.
pub fn rewrite(ip: &mut [u8], packet: &Packet, upload: bool, to: &crate::anonymize::Pseudonym) {
    match to.address {
        IpAddr::V4(address) => {
            let at = if upload { 12 } else { 16 };
            ip[at..at + 4].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            let at = if upload { 8 } else { 24 };
            ip[at..at + 16].copy_from_slice(&address.octets());
            let label = to.flow_label.to_be_bytes();
            ip[1] = ip[1] & 0xf0 | label[1] & 0x0f;
            ip[2..4].copy_from_slice(&label[2..4]);
        }
    }
    let at = packet.ports + if upload { 0 } else { 2 };
    ip[at..at + 2].copy_from_slice(&to.port.to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A TCP segment with these flags from 198.51.100.7:5000 to 192.0.2.1:443.
    pub(crate) fn segment(flags: u8) -> Vec<u8> {
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1];
        ip.extend_from_slice(&[0x13, 0x88, 0x01, 0xbb]);
        ip.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
        ip
    }

    fn ethernet(tags: &[u16], ip: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in tags {
            frame.extend_from_slice(&tag.to_be_bytes());
            frame.extend_from_slice(&[0, 7]);
        }
        frame.extend_from_slice(&[0x08, 0x00]);
        frame.extend_from_slice(ip);
        frame
    }

    #[test]
    fn tagged_frames_are_read_at_the_right_byte() {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let mut frame = ethernet(tags, &segment(SYN));
            // Ethernet fills short frames up.
            frame.extend_from_slice(&[0xee; 6]);
            let packet = parse(&frame, Link::Ethernet).unwrap();
            let start = 14 + 4 * tags.len();
            assert_eq!(packet.ip, (start, start + 40), "{tags:x?}");
            assert_eq!(packet.source, "198.51.100.7:5000".parse().unwrap());
            assert_eq!(packet.destination, "192.0.2.1:443".parse().unwrap());
            assert!(packet.tcp && packet.syn);
        }
    }

    #[test]
    fn only_whole_packets_of_tcp_and_udp() {
        assert!(!parse(&segment(SYN | ACK), Link::Ip).unwrap().syn);
        let mut fragment = segment(SYN);
        fragment[7] = 1;
        assert_eq!(parse(&fragment, Link::Ip), None);
        let mut icmp = segment(SYN);
        icmp[9] = 1;
        assert_eq!(parse(&icmp, Link::Ip), None);
        let whole = ethernet(&[0x8100], &segment(SYN));
        for length in 0..whole.len() - 6 {
            // No length makes it read beyond the end.
            let _ = parse(&whole[..length], Link::Ethernet);
        }
        assert_eq!(parse(&ethernet(&[0x8100; 9], &segment(SYN)), Link::Ethernet), None);
    }

    #[test]
    fn extension_headers_are_walked() {
        let mut ip = vec![0x60, 0, 0, 0, 0, 24, 0, 64];
        ip.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        ip.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        ip.extend_from_slice(&[44, 0, 0, 0, 0, 0, 0, 0]);
        ip.extend_from_slice(&[UDP, 0, 0, 1, 0, 0, 0, 0]);
        ip.extend_from_slice(&[0, 53, 0, 54, 0, 8, 0, 0]);
        let packet = parse(&ip, Link::Ip).unwrap();
        assert_eq!((packet.source.port(), packet.ports, packet.tcp), (53, 56, false));
        ip[50] = 1;
        assert_eq!(parse(&ip, Link::Ip), None, "not the first fragment");
    }

    #[test]
    fn the_client_is_replaced_and_nothing_else() {
        let to = crate::anonymize::Pseudonym {
            address: "198.51.100.99".parse().unwrap(),
            port: 0xabcd,
            flow_label: 0,
        };
        let mut ip = segment(SYN);
        let packet = parse(&ip, Link::Ip).unwrap();
        rewrite(&mut ip, &packet, true, &to);
        let now = parse(&ip, Link::Ip).unwrap();
        assert_eq!(now.source, SocketAddr::new(to.address, to.port));
        assert_eq!(now.destination, packet.destination);
        rewrite(&mut ip, &packet, false, &to);
        assert_eq!(parse(&ip, Link::Ip).unwrap().destination, SocketAddr::new(to.address, to.port));
    }
}
