//! Which packets of a burst certainly lead to nothing: nearly all of them.
//!
//! A packet is dull when it is plain TCP or UDP over IP, its phantom address is in no session, it is
//! no datagram to port 53 and, if it is a segment to port 443, opens and ends nothing and is of no
//! followed flow. That takes one word of the session bitmap and one of the flow table. Both may lie
//! far from the processor, so a group of packets goes through short loops, in each of which as many
//! of these reads are under way as the processor can have (`spec/detector.md` 16.5). Everything
//! else, and whatever looks odd, is left to [`Worker::packet`](crate::worker::Worker::packet), which
//! decides by itself.

use crate::counters::Counters;
use crate::flows::{Flow, Flows, Glimpse};
use crate::sessions::{PackedKey, Sessions, Spot};
use packet::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_TCP, PROTOCOL_UDP, TcpFlags};
use session::Proto;

/// Packets that are looked at together.
pub(crate) const GROUP: usize = 32;
const DNS: u16 = 53;
const HTTPS: u16 = 443;
/// Flags with which a segment opens or ends a flow.
const TURNING: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST;

/// Counts of packets, four of 16 bits each: all, IPv4, TCP, and those to port 443.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally(u64);

impl Tally {
    /// Counts nothing: the packet is not dull.
    const NONE: Self = Self(0);
    const ONE: u64 = 1;
    const V4: u64 = 1 << 16;
    const TCP: u64 = 1 << 32;
    const TLS: u64 = 1 << 48;

    /// A packet by its protocol and port, unless it needs a closer look.
    #[inline(always)]
    const fn of(protocol: u8, port: u16, flags: u8) -> Self {
        match (protocol, port) {
            (PROTOCOL_TCP, HTTPS) if flags & TURNING != 0 => Self::NONE,
            (PROTOCOL_TCP, HTTPS) => Self(Self::ONE | Self::TCP | Self::TLS),
            (PROTOCOL_TCP, _) => Self(Self::ONE | Self::TCP),
            (PROTOCOL_UDP, DNS) => Self::NONE,
            (PROTOCOL_UDP, HTTPS) => Self(Self::ONE | Self::TLS),
            (PROTOCOL_UDP, _) => Self(Self::ONE),
            _ => Self::NONE,
        }
    }

    /// Whether this one packet is a segment to port 443.
    #[inline(always)]
    const fn is_segment(self) -> bool {
        self.0 & (Self::TCP | Self::TLS) == Self::TCP | Self::TLS
    }

    #[inline(always)]
    const fn field(self, one: u64) -> u64 {
        (self.0 / one) & 0xffff
    }
}

/// A packet, as far as the tables.
#[derive(Debug, Clone, Copy, Default)]
struct Look {
    tally: Tally,
    spot: Spot,
    glimpse: Glimpse,
}

/// A group of packets, and the counts of those that led to nothing.
#[derive(Debug)]
pub(crate) struct Group {
    looks: [Look; GROUP],
    sum: Tally,
    bytes: u64,
    tls_bytes: u64,
}

impl Group {
    /// Looks at the headers of up to [`GROUP`] `frames`, whose first `offset` bytes are skipped, and
    /// at both tables.
    #[inline(always)]
    pub(crate) fn look(
        frames: &[&[u8]],
        offset: usize,
        sessions: &Sessions,
        flows: &Flows,
    ) -> Self {
        let mut looks = [Look::default(); GROUP];
        let used = &mut looks[..frames.len().min(GROUP)];
        for (look, frame) in used.iter_mut().zip(frames) {
            let Some(frame) = frame.get(offset..) else { continue };
            if let Some(header) = plain_v4(frame) {
                v4(header, sessions, flows, look);
            } else if let Some(header) = plain_v6(frame) {
                v6(header, sessions, flows, look);
            }
        }
        for look in used.iter_mut() {
            if sessions.is_set(look.spot) {
                look.tally = Tally::NONE;
            }
        }
        let mut touched = 0;
        for look in used.iter() {
            touched ^= flows.touch(look.glimpse);
        }
        std::hint::black_box(touched);
        Self { looks, sum: Tally::NONE, bytes: 0, tls_bytes: 0 }
    }

    /// Whether the packet with this `number`, of `len` bytes, leads to nothing; it is counted then.
    /// Packets before it may have changed `flows`.
    #[inline(always)]
    pub(crate) fn is_dull(&mut self, number: usize, len: usize, flows: &Flows) -> bool {
        let Look { tally, glimpse, .. } = self.looks[number];
        if tally == Tally::NONE || tally.is_segment() && flows.may_follow(glimpse) {
            return false;
        }
        self.sum.0 += tally.0;
        self.bytes += len as u64;
        self.tls_bytes += if tally.0 & Tally::TLS != 0 { len as u64 } else { 0 };
        true
    }

    /// Adds the dull packets to a worker's counters. `offset` bytes of every frame do not count as
    /// its own.
    #[inline(always)]
    pub(crate) fn count(&self, counters: &Counters, offset: usize) {
        let packets = self.sum.field(Tally::ONE);
        let v4 = self.sum.field(Tally::V4);
        counters.packets.add(packets);
        counters.bytes.add(self.bytes - packets * offset as u64);
        counters.v4.add(v4);
        counters.v6.add(packets - v4);
        counters.tcp.add(self.sum.field(Tally::TCP));
        counters.tls.add(self.sum.field(Tally::TLS));
        counters.tls_bytes.add(self.tls_bytes);
    }
}

/// Headers of a frame with IPv4 without options, and room for a TCP header in what the packet says
/// of its length; most UDP datagrams have that too.
#[inline(always)]
fn plain_v4(frame: &[u8]) -> Option<&[u8; 54]> {
    let header: &[u8; 54] = frame.first_chunk()?;
    let start = u32::from_be_bytes(chunk(header, 12));
    let plain = start & 0xffff_0f00 == u32::from(ETHERTYPE_IPV4) << 16 | 0x0500;
    (plain && u16::from_be_bytes(chunk(header, 16)) >= 40).then_some(header)
}

/// The same for IPv6.
#[inline(always)]
fn plain_v6(frame: &[u8]) -> Option<&[u8; 74]> {
    let header: &[u8; 74] = frame.first_chunk()?;
    let plain = u16::from_be_bytes(chunk(header, 12)) == ETHERTYPE_IPV6;
    (plain && u16::from_be_bytes(chunk(header, 18)) >= 20).then_some(header)
}

#[inline(always)]
fn v4(header: &[u8; 54], sessions: &Sessions, flows: &Flows, look: &mut Look) {
    let (source, destination) = (chunk(header, 26), chunk(header, 30));
    let port = u16::from_be_bytes(chunk(header, 36));
    let tally = Tally::of(header[23], port, header[47]);
    look.tally = if tally == Tally::NONE { tally } else { Tally(tally.0 | Tally::V4) };
    // The bitmap knows phantoms only, so that the transport does not matter.
    look.spot = sessions.spot(PackedKey::v4(Proto::Tcp, source, destination, port));
    if tally.is_segment() {
        let port = u16::from_be_bytes(chunk(header, 34));
        look.glimpse = flows.glimpse(&Flow::V4 { source, destination, port });
    }
}

#[inline(always)]
fn v6(header: &[u8; 74], sessions: &Sessions, flows: &Flows, look: &mut Look) {
    let (source, destination) = (chunk(header, 22), chunk(header, 38));
    let port = u16::from_be_bytes(chunk(header, 56));
    look.tally = Tally::of(header[20], port, header[67]);
    look.spot = sessions.spot(PackedKey::v6(Proto::Tcp, destination, port));
    if look.tally.is_segment() {
        let port = u16::from_be_bytes(chunk(header, 54));
        look.glimpse = flows.glimpse(&Flow::V6 { source, destination, port });
    }
}

/// The `N` bytes of `header` from `at` on.
#[inline(always)]
fn chunk<const N: usize>(header: &[u8], at: usize) -> [u8; N] {
    header[at..].first_chunk().copied().unwrap_or([0; N])
}
