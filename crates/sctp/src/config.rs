//! What both ends of an association agree on.

use std::time::Duration;

/// Settings of an association; the defaults are those of existing peers (`spec/transports.md` 8.3)
/// where a peer can see them.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port of both sides.
    pub port: u16,
    /// Most bytes of a packet.
    pub mtu: usize,
    /// Receive window in bytes: what is held for the reader, and out of order, at most.
    pub receive_window: u32,
    /// Bytes that are kept for sending at most, acknowledged ones excluded.
    pub send_buffer: usize,
    /// Bytes at which no more is taken that was not sent yet.
    pub unsent: usize,
    /// Messages are not ordered among each other.
    pub unordered: bool,
    /// A message that is counted instead of delivered; empty for none.
    pub keepalive: &'static [u8],
    /// Retransmission time-out before the first measurement.
    pub rto_initial: Duration,
    /// Shortest retransmission time-out.
    pub rto_min: Duration,
    /// Longest retransmission time-out.
    pub rto_max: Duration,
    /// Longest time that an acknowledgement is held back.
    pub ack_delay: Duration,
    /// Retransmissions of INIT and COOKIE ECHO, each.
    pub init_retransmissions: u32,
    /// Time-outs in a row after which the peer is given up.
    pub retransmissions: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 5000,
            mtu: 1228,
            receive_window: 1 << 20,
            send_buffer: 1 << 20,
            unsent: 128 << 10,
            unordered: false,
            keepalive: b"",
            rto_initial: Duration::from_secs(1),
            rto_min: Duration::from_secs(1),
            rto_max: Duration::from_secs(60),
            ack_delay: Duration::from_millis(200),
            init_retransmissions: 8,
            retransmissions: 10,
        }
    }
}

/// Packets of an unordered stream under way at most. A loss costs such a stream its order, and a
/// socket with the kernel's default buffer holds about 90.
const UNORDERED_PACKETS: usize = 64;

impl Config {
    /// Bytes under way at most.
    pub(crate) const fn most_in_flight(&self) -> usize {
        if self.unordered { UNORDERED_PACKETS * self.mtu } else { self.send_buffer }
    }

    /// Most payload bytes of one DATA chunk.
    pub const fn max_payload(&self) -> usize {
        self.mtu - crate::packet::HEADER - crate::chunk::DATA_HEADER
    }
}
