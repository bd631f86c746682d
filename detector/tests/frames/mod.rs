//! Frames for tests.

use etherparse::PacketBuilder;

/// A TCP segment over IPv4 in an Ethernet frame; `flags` as in the TCP header.
pub(crate) fn tcp4(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
    let mut frame = Vec::new();
    builder.tcp(from.1, to.1, 7, 1024).write(&mut frame, payload).unwrap();
    frame[14 + 20 + 13] = flags;
    frame
}

/// The same over IPv6.
pub(crate) fn tcp6(
    from: ([u8; 16], u16),
    to: ([u8; 16], u16),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6(from.0, to.0, 64);
    let mut frame = Vec::new();
    builder.tcp(from.1, to.1, 7, 1024).write(&mut frame, payload).unwrap();
    frame[14 + 40 + 13] = flags;
    frame
}

/// A UDP datagram over IPv4.
pub(crate) fn udp4(from: ([u8; 4], u16), to: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from.0, to.0, 64);
    let mut frame = Vec::new();
    builder.udp(from.1, to.1).write(&mut frame, payload).unwrap();
    frame
}
