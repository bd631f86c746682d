//! Packets of TCP flows for tests, and what a kernel cuts large ones into, by a plain model.

use std::net::IpAddr;

/// Offset of the transport header.
pub(crate) fn ip_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { usize::from(packet[0] & 15) * 4 } else { 40 }
}

/// RFC 1071, word by word.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum as u16
}

fn pseudo(packet: &[u8], tcp_len: usize) -> Vec<u8> {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    [addresses, &[0, 6], &(tcp_len as u16).to_be_bytes()].concat()
}

/// Sets both checksums right.
pub(crate) fn complete(packet: &mut [u8]) {
    let at = ip_len(packet);
    if packet[0] >> 4 == 4 {
        packet[10..12].fill(0);
        let checksum = !sum(&[&packet[..at]]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet[at + 16..at + 18].fill(0);
    let checksum = !sum(&[&pseudo(packet, packet.len() - at), &packet[at..]]);
    packet[at + 16..at + 18].copy_from_slice(&checksum.to_be_bytes());
}

/// A flow, and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) port: u16,
    pub(crate) sequence: u32,
    pub(crate) ack: u32,
    pub(crate) identification: u16,
    pub(crate) options: Vec<u8>,
    pub(crate) window: u16,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
}

impl Flow {
    /// A flow to port 443 that stands just before every number that wraps.
    pub(crate) fn new(from: IpAddr, to: IpAddr, port: u16) -> Self {
        let options = vec![1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9];
        let (sequence, identification) = (u32::MAX - 3000, u16::MAX - 5);
        let (window, ttl, tos) = (501, 64, 0);
        Self { from, to, port, sequence, ack: 77, identification, options, window, ttl, tos }
    }

    /// The next segment, both checksums right.
    pub(crate) fn segment(&mut self, flags: u8, data: &[u8]) -> Vec<u8> {
        let tcp_len = (20 + self.options.len() + data.len()) as u16;
        let mut packet = Vec::new();
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                packet.extend([0x45, self.tos]);
                packet.extend((tcp_len + 20).to_be_bytes());
                packet.extend(self.identification.to_be_bytes());
                packet.extend([0x40, 0, self.ttl, 6, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                packet.extend([0x60 | self.tos >> 4, self.tos << 4, 0x12, 0x34]);
                packet.extend(tcp_len.to_be_bytes());
                packet.extend([6, self.ttl]);
                packet.extend(from.octets());
                packet.extend(to.octets());
            }
            _ => panic!("a flow has one family"),
        }
        packet.extend(self.port.to_be_bytes());
        packet.extend(443u16.to_be_bytes());
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.ack.to_be_bytes());
        packet.extend([((20 + self.options.len()) * 4) as u8, flags]);
        packet.extend(self.window.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(&self.options);
        packet.extend(data);
        complete(&mut packet);
        self.sequence = self.sequence.wrapping_add(data.len() as u32);
        self.identification = self.identification.wrapping_add(1);
        packet
    }
}

/// What a kernel makes of one write: `header` as `struct virtio_net_hdr`, then a packet.
#[allow(dead_code)]
pub(crate) fn cut(write: &[u8]) -> Vec<Vec<u8>> {
    let (header, packet) = write.split_at(10);
    let number = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    if header[0] == 0 {
        assert!(header.iter().all(|byte| *byte == 0), "{header:?}");
        return vec![packet.to_vec()];
    }
    let at = ip_len(packet);
    assert_eq!((header[0], number(6), number(8)), (1, at, 16), "{header:?}");
    let start = at + usize::from(packet[at + 12] >> 4) * 4;
    let (headers, data) = packet.split_at(start);
    let partial = u16::from_be_bytes([packet[at + 16], packet[at + 17]]);
    assert_eq!(partial, sum(&[&pseudo(packet, packet.len() - at)]), "sum of the pseudo header");
    let size = match header[1] {
        0 => {
            assert_eq!((number(2), number(4)), (0, 0));
            data.len().max(1)
        }
        kind => {
            assert_eq!(kind, if packet[0] >> 4 == 4 { 1 } else { 4 });
            assert_eq!(number(2), start, "length of the headers");
            assert!(data.len() > number(4) && number(4) > 0, "more than one segment");
            number(4)
        }
    };
    let announced =
        if packet[0] >> 4 == 4 { [packet[2], packet[3]] } else { [packet[4], packet[5]] };
    let announced = usize::from(u16::from_be_bytes(announced));
    assert_eq!(announced, if packet[0] >> 4 == 4 { packet.len() } else { packet.len() - 40 });
    if packet[0] >> 4 == 4 {
        assert_eq!(sum(&[&packet[..at]]), 0xffff, "checksum of the header");
    }
    let pieces: Vec<&[u8]> = if data.is_empty() { vec![data] } else { data.chunks(size).collect() };
    let last = pieces.len() - 1;
    let piece = |(number, piece): (usize, &&[u8])| {
        let mut cut = [headers, piece].concat();
        let len = cut.len();
        if packet[0] >> 4 == 4 {
            cut[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            let first = u16::from_be_bytes([packet[4], packet[5]]);
            cut[4..6].copy_from_slice(&first.wrapping_add(number as u16).to_be_bytes());
        } else {
            cut[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        }
        let first = u32::from_be_bytes(packet[at + 4..at + 8].try_into().unwrap());
        let sequence = first.wrapping_add((number * size) as u32);
        cut[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
        if number < last {
            cut[at + 13] &= !0x09;
        }
        complete(&mut cut);
        cut
    };
    pieces.iter().enumerate().map(piece).collect()
}
