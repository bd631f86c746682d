//! TCP segments that a large one can stand for.
//!
//! A [`Run`] is a row of segments of one flow that a kernel cuts out of one large segment again, byte
//! by byte: what differs between them is what cutting makes differ. The rules are those of a
//! receiver's offload, without its tolerance (`spec/ingest.md` 10.3; RFC 9293).

use crate::checksum::Sum;
use crate::{PROTOCOL_TCP, PROTOCOL_UDP};

/// Longest IP packet, in bytes.
const MAX_PACKET: usize = 65_535;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// Offset of the checksum in a TCP header.
pub const CHECKSUM_OFFSET: usize = 16;

/// What an IP packet is to its neighbours.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// A segment that only acknowledges and carries data, or carries none. Whether it
    /// [is intact](Segment::is_intact) is not known yet.
    Segment(Segment<'a>, Flow),
    /// Another packet of a TCP flow; it must not change places with segments of the flow.
    Tcp(Flow),
    /// It belongs to no TCP flow.
    Elsewhere,
    /// It may belong to any flow, as a fragment does.
    Anywhere,
}

/// A mark of a flow. Flows of the same mark may still differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow(u64);

impl Flow {
    fn of(addresses: &[u8], ports: &[u8]) -> Self {
        let words = addresses.as_chunks::<4>().0.iter().chain(ports.as_chunks::<4>().0);
        Self(words.fold(0, |mark: u64, word| {
            (mark.rotate_left(5) ^ u64::from(u32::from_ne_bytes(*word)))
                .wrapping_mul(0x517c_c1b7_2722_0a95)
        }))
    }
}

/// A TCP segment in an IP packet without options, fragments and extension headers.
#[derive(Debug, Clone, Copy)]
pub struct Segment<'a> {
    /// The packet, without what follows it in the frame.
    packet: &'a [u8],
    ip_len: usize,
    header_len: usize,
}

impl<'a> Kind<'a> {
    /// Looks at `captured`, an IP packet and perhaps bytes behind it.
    #[inline]
    pub fn of(captured: &'a [u8]) -> Self {
        let (ip_len, protocol, addresses, announced) = match captured {
            [first, ..] if first >> 4 == 4 && captured.len() >= 20 => {
                if captured[6] & 0x3f != 0 || captured[7] != 0 {
                    return Self::Anywhere;
                }
                let total = usize::from(u16::from_be_bytes([captured[2], captured[3]]));
                (usize::from(first & 0xf) * 4, captured[9], 12..20, total)
            }
            [first, ..] if first >> 4 == 6 && captured.len() >= 40 => {
                let payload = usize::from(u16::from_be_bytes([captured[4], captured[5]]));
                (40, captured[6], 8..40, 40 + payload)
            }
            _ => return Self::Anywhere,
        };
        match protocol {
            PROTOCOL_TCP => {}
            PROTOCOL_UDP => return Self::Elsewhere,
            _ => return Self::Anywhere,
        }
        let Some(ports) = captured.get(ip_len..ip_len + 4) else { return Self::Anywhere };
        let flow = Flow::of(&captured[addresses], ports);
        let segment = captured.get(..announced).and_then(|packet| Segment::new(packet, ip_len));
        segment.map_or(Self::Tcp(flow), |segment| Self::Segment(segment, flow))
    }
}

impl<'a> Segment<'a> {
    fn new(packet: &'a [u8], ip_len: usize) -> Option<Self> {
        let tcp = packet.get(ip_len..)?;
        let header = tcp.get(..20)?;
        let header_len = ip_len + usize::from(header[12] >> 4) * 4;
        // Neither options of IPv4, nor reserved bits, nor a flag that is for one segment alone.
        let plain = (ip_len == 20 || packet[0] >> 4 == 6)
            && header[12] & 0x0f == 0
            && header[13] & !PSH == ACK
            && (ip_len + 20..=packet.len()).contains(&header_len);
        plain.then_some(Self { packet, ip_len, header_len })
    }

    /// The same segment again, whose `packet` was one before.
    #[inline]
    pub fn known(packet: &'a [u8]) -> Option<Self> {
        let ip_len = if packet.first()? >> 4 == 4 { 20 } else { 40 };
        let header_len = ip_len + usize::from(packet.get(ip_len + 12)? >> 4) * 4;
        (header_len <= packet.len()).then_some(Self { packet, ip_len, header_len })
    }

    /// Whether both checksums are what a sender computes: another form of zero is not.
    pub fn is_intact(&self) -> bool {
        let (ip, tcp) = self.packet.split_at(self.ip_len);
        if ip[0] >> 4 == 4
            && Sum::default().and(&ip[..10]).and(&ip[12..]).checksum() != [ip[10], ip[11]]
        {
            return false;
        }
        let sum = pseudo_header(ip, tcp.len()).and(&tcp[..CHECKSUM_OFFSET]).and(&tcp[18..]);
        sum.checksum() == [tcp[CHECKSUM_OFFSET], tcp[CHECKSUM_OFFSET + 1]]
    }

    /// Its length in bytes, from the IP header to the end of its data.
    pub const fn len(&self) -> usize {
        self.packet.len()
    }

    /// Whether it carries no data.
    pub const fn is_empty(&self) -> bool {
        self.packet.len() == self.header_len
    }

    /// Length of its IP header in bytes.
    pub const fn ip_len(&self) -> usize {
        self.ip_len
    }

    /// Length of all its headers in bytes.
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    const fn is_v4(&self) -> bool {
        self.packet[0] >> 4 == 4
    }

    const fn identification(&self) -> u16 {
        u16::from_be_bytes([self.packet[4], self.packet[5]])
    }

    fn sequence(&self) -> u32 {
        let at = self.ip_len + 4;
        u32::from_be_bytes(self.packet[at..at + 4].try_into().expect("four bytes"))
    }

    const fn pushes(&self) -> bool {
        self.packet[self.ip_len + 13] & PSH != 0
    }

    /// Whether the headers of both are the same apart from what cutting makes differ: lengths,
    /// identification, sequence number, PSH and checksums.
    fn is_like(&self, other: &Self) -> bool {
        if (self.ip_len, self.header_len) != (other.ip_len, other.header_len) {
            return false;
        }
        let ip: &[std::ops::Range<usize>] =
            if self.is_v4() { &[0..2, 6..10, 12..20] } else { &[0..4, 6..40] };
        let tcp = self.ip_len;
        let rest = [tcp..tcp + 4, tcp + 8..tcp + 13, tcp + 14..tcp + 16, tcp + 18..self.header_len];
        ip.iter().chain(&rest).all(|part| self.packet[part.clone()] == other.packet[part.clone()])
    }
}

/// Segments of one flow, in order and without a gap, that one large segment can stand for.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Data of each but the last.
    size: usize,
    count: u16,
    /// Length of the large segment so far.
    len: usize,
    /// Sequence number of the next.
    sequence: u32,
    /// Identification of the next; of no meaning with IPv6.
    identification: u16,
    pushed: bool,
    ended: bool,
}

impl Run {
    /// A run of one segment.
    #[inline]
    pub fn new(first: &Segment<'_>) -> Self {
        let size = first.len() - first.header_len;
        let pushed = first.pushes();
        Self {
            size,
            count: 1,
            len: first.len(),
            sequence: first.sequence().wrapping_add(size as u32),
            identification: first.identification().wrapping_add(1),
            pushed,
            ended: pushed || size == 0,
        }
    }

    /// Takes `next` in if it goes on where the run of `first` stands; says whether it did.
    #[inline]
    pub fn take(&mut self, first: &Segment<'_>, next: &Segment<'_>) -> bool {
        let data = next.len() - next.header_len;
        let fits = !self.ended
            && (1..=self.size).contains(&data)
            && self.len + data <= if first.is_v4() { MAX_PACKET } else { MAX_PACKET + 40 }
            && next.sequence() == self.sequence
            && (!first.is_v4() || next.identification() == self.identification)
            && first.is_like(next);
        if fits {
            self.count += 1;
            self.len += data;
            self.sequence = self.sequence.wrapping_add(data as u32);
            self.identification = self.identification.wrapping_add(1);
            self.pushed = next.pushes();
            self.ended = self.pushed || data < self.size;
        }
        fits
    }

    /// Ends it: it takes nothing in any more.
    pub const fn end(&mut self) {
        self.ended = true;
    }

    /// Whether it takes nothing in any more.
    pub const fn has_ended(&self) -> bool {
        self.ended
    }

    /// Number of its segments.
    pub const fn count(&self) -> u16 {
        self.count
    }

    /// Bytes of data in each segment but the last.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Makes of the headers of the first segment those of the large one, whose TCP checksum is left
    /// to be completed: the field holds the sum of the pseudo header. `ip_len` is the length of the
    /// IP header in `headers`.
    pub fn write_headers(&self, headers: &mut [u8], ip_len: usize) {
        let (ip, tcp) = headers.split_at_mut(ip_len);
        if ip[0] >> 4 == 4 {
            ip[2..4].copy_from_slice(&(self.len as u16).to_be_bytes());
            let sum = Sum::default().and(&ip[..10]).and(&ip[12..]);
            ip[10..12].copy_from_slice(&sum.checksum());
        } else {
            ip[4..6].copy_from_slice(&((self.len - ip_len) as u16).to_be_bytes());
        }
        if self.pushed {
            tcp[13] |= PSH;
        }
        let sum = pseudo_header(ip, self.len - ip_len).folded();
        tcp[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&sum);
    }
}

/// The sum of the pseudo header of `tcp_len` bytes of TCP under the header `ip`.
fn pseudo_header(ip: &[u8], tcp_len: usize) -> Sum {
    let addresses = if ip[0] >> 4 == 4 { &ip[12..20] } else { &ip[8..40] };
    // A packet has at most 65,535 bytes of TCP.
    Sum::default().and(addresses).and_u16(u16::from(PROTOCOL_TCP)).and_u16(tcp_len as u16)
}
