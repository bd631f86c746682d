//! Checksums that a sender left to its network card (`spec/ingest.md` 10.3, flag 7).

use crate::checksum::Sum;
use crate::{PROTOCOL_TCP, PROTOCOL_UDP};

/// Length of the shortest header of TCP and of UDP, and where the checksum stands in it.
const TCP: (usize, usize) = (20, 16);
const UDP: (usize, usize) = (8, 6);

/// Computes the checksum of TCP or UDP in `packet`, an IP packet and perhaps bytes behind it, whatever stands in its
/// place. False, and nothing is changed, for fragments, other protocols, IPv6 with extension headers, and packets that
/// are cut off.
pub fn complete(packet: &mut [u8]) -> bool {
    let (ip_len, end, protocol, addresses) = match &*packet {
        [first, ..] if first >> 4 == 4 && packet.len() >= 20 => {
            if packet[6] & 0x3f != 0 || packet[7] != 0 {
                return false;
            }
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            (usize::from(first & 0xf) * 4, total, packet[9], 12..20)
        }
        [first, ..] if first >> 4 == 6 && packet.len() >= 40 => {
            let payload = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            (40, 40 + payload, packet[6], 8..40)
        }
        _ => return false,
    };
    let (shortest, at) = match protocol {
        PROTOCOL_TCP => TCP,
        PROTOCOL_UDP => UDP,
        _ => return false,
    };
    if ip_len < 20 || end > packet.len() || end < ip_len + shortest {
        return false;
    }
    let pseudo = Sum::default()
        .and(&packet[addresses])
        .and_u16(u16::from(protocol))
        // What IP announces is no longer.
        .and_u16((end - ip_len) as u16);
    let segment = &mut packet[ip_len..end];
    let mut checksum = pseudo.and(&segment[..at]).and(&segment[at + 2..]).checksum();
    if protocol == PROTOCOL_UDP && checksum == [0, 0] {
        // Zero says that there is none.
        checksum = [0xff, 0xff];
    }
    segment[at..at + 2].copy_from_slice(&checksum);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The sum of RFC 1071 word by word over pseudo header and segment, which is all ones when the checksum is right.
    fn sum(packet: &[u8], ip_len: usize) -> u16 {
        let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
        let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
        let segment = &packet[ip_len..];
        let length = u32::try_from(segment.len()).unwrap().to_be_bytes();
        let mut bytes = [addresses, &length, &[0, 0, 0, protocol], segment].concat();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes.chunks(2).fold(0u16, |sum, word| {
            let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
            sum + u16::from(carry)
        })
    }

    fn packet(v6: bool, options: usize, protocol: u8, segment: &[u8]) -> (Vec<u8>, usize) {
        let len = segment.len() as u16;
        let mut packet = if v6 {
            let mut ip = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            ip.extend((0..32).map(|n| n * 7 + 1));
            ip[4..6].copy_from_slice(&len.to_be_bytes());
            ip
        } else {
            let ihl = 5 + options as u8;
            let total = (len + u16::from(ihl) * 4).to_be_bytes();
            let mut ip = vec![0x40 | ihl, 0, total[0], total[1], 0, 7, 0x40, 0, 64, protocol, 9, 9];
            ip.extend([203, 0, 113, 9, 192, 122, 190, 7]);
            ip.resize(usize::from(ihl) * 4, 1);
            ip
        };
        let ip_len = packet.len();
        packet.extend(segment);
        (packet, ip_len)
    }

    proptest! {
        #[test]
        fn the_sum_is_all_ones_afterwards(
            v6: bool,
            udp: bool,
            options in 0usize..=10,
            segment in prop::collection::vec(any::<u8>(), 20..3000),
            behind in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let (protocol, at) = if udp { (17, 6) } else { (6, 16) };
            let (before, ip_len) = packet(v6, options, protocol, &segment);
            let mut after = [&before[..], &behind].concat();
            prop_assert!(complete(&mut after));
            prop_assert_eq!(sum(&after[..before.len()], ip_len), 0xffff);
            prop_assert!(!udp || after[ip_len + at..ip_len + at + 2] != [0, 0]);
            // Nothing else has changed.
            after[ip_len + at..ip_len + at + 2].copy_from_slice(&segment[at..at + 2]);
            prop_assert!(after == [&before[..], &behind].concat());
        }

        #[test]
        fn any_bytes_are_survived(mut bytes in prop::collection::vec(any::<u8>(), 0..100), first: bool) {
            if let Some(byte) = bytes.first_mut() {
                *byte = *byte & 0xf | if first { 0x40 } else { 0x60 };
            }
            let before = bytes.clone();
            prop_assert!(complete(&mut bytes) || bytes == before);
        }
    }

    #[test]
    fn what_cannot_be_completed_stays() {
        let (tcp, _) = packet(false, 0, 6, &[3; 40]);
        let (icmp, _) = packet(false, 0, 1, &[3; 40]);
        let (extended, _) = packet(true, 0, 0, &[3; 40]);
        let (short, _) = packet(false, 0, 6, &[3; 19]);
        let fragment = |byte: usize, bit: u8| {
            let mut fragment = tcp.clone();
            fragment[byte] |= bit;
            fragment
        };
        let cut = tcp[..59].to_vec();
        for mut packet in [icmp, extended, short, fragment(6, 0x20), fragment(7, 1), cut] {
            let before = packet.clone();
            assert!(!complete(&mut packet) && packet == before, "{before:02x?}");
        }
    }

    /// A datagram whose checksum would be zero: that field says that there is none.
    #[test]
    fn a_zero_of_udp_is_written_as_all_ones() {
        let (mut datagram, ip_len) = packet(false, 0, 17, &[0; 12]);
        datagram[ip_len + 8..ip_len + 10].fill(0);
        assert!(complete(&mut datagram));
        let checksum = [datagram[ip_len + 6], datagram[ip_len + 7]];
        // As a payload the checksum makes the sum all ones, and its complement zero.
        let mut zero = datagram.clone();
        zero[ip_len + 8..ip_len + 10].copy_from_slice(&checksum);
        assert!(complete(&mut zero));
        assert_eq!(zero[ip_len + 6..ip_len + 8], [0xff, 0xff]);
    }
}
