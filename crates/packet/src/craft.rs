//! Making packets: the datagram that primes a NAT entry (`spec/application.md` 13.3).

use crate::checksum::Sum;
use std::net::{IpAddr, SocketAddr};

/// Protocol number of UDP.
const UDP: u8 = 17;
/// Hop limit of made packets.
const TTL: u8 = 64;

/// An IP packet with one UDP datagram from `source` to `destination`, checksums included. `None`
/// when the addresses are of different families or the payload does not fit.
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(payload.len().checked_add(8)?).ok()?;
    let mut datagram = Vec::with_capacity(usize::from(length));
    datagram.extend_from_slice(&source.port().to_be_bytes());
    datagram.extend_from_slice(&destination.port().to_be_bytes());
    datagram.extend_from_slice(&length.to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(payload);
    let (mut packet, addresses) = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = length.checked_add(20)?.to_be_bytes();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, TTL, UDP, 0, 0];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let sum = Sum::default().and(&header);
            header[10..12].copy_from_slice(&sum.checksum());
            (header, [from.octets(), to.octets()].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = length.to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, length[0], length[1], UDP, TTL];
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            (header, [from.octets(), to.octets()].concat())
        }
        _ => return None,
    };
    let pseudo = [&addresses[..], &[0, UDP], &length.to_be_bytes()].concat();
    let sum = match Sum::default().and(&pseudo).and(&datagram).checksum() {
        // Zero would mean that there is none.
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    datagram[6..8].copy_from_slice(&sum);
    packet.extend_from_slice(&datagram);
    Some(packet)
}
