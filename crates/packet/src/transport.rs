//! Views of TCP segments and UDP datagrams.

use crate::ip::Ip;
use crate::{PROTOCOL_TCP, PROTOCOL_UDP};

/// Flag byte of a TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN bit.
    pub const FIN: u8 = 0x01;
    /// SYN bit.
    pub const SYN: u8 = 0x02;
    /// RST bit.
    pub const RST: u8 = 0x04;
    /// ACK bit.
    pub const ACK: u8 = 0x10;

    /// SYN set and ACK clear: the client opens a connection.
    #[inline]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN
    }

    /// RST or FIN set: one side ends the connection.
    #[inline]
    pub const fn ends(self) -> bool {
        self.0 & (Self::RST | Self::FIN) != 0
    }
}

/// A TCP segment with at least 20 captured bytes.
#[derive(Debug, Clone, Copy)]
pub struct Tcp<'a> {
    header: &'a [u8; 20],
    segment: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Views the layer-4 bytes of a packet; `None` when a minimal header does not fit.
    #[inline]
    pub fn new(segment: &'a [u8]) -> Option<Self> {
        let header = segment.first_chunk()?;
        Some(Self { header, segment })
    }

    /// Source port.
    #[inline]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Sequence number.
    #[inline]
    pub const fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.header[4], self.header[5], self.header[6], self.header[7]])
    }

    /// Flag byte.
    #[inline]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(self.header[13])
    }

    /// Payload bytes after header and options; empty when the options pass the end of the slice.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let start = usize::from(self.header[12] >> 4).max(5) * 4;
        self.segment.get(start..).unwrap_or_default()
    }
}

/// A UDP datagram with at least 8 captured bytes.
#[derive(Debug, Clone, Copy)]
pub struct Udp<'a> {
    header: &'a [u8; 8],
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Views the layer-4 bytes of a packet; `None` when the header does not fit.
    #[inline]
    pub fn new(datagram: &'a [u8]) -> Option<Self> {
        let (header, payload) = datagram.split_first_chunk()?;
        Some(Self { header, payload })
    }

    /// Source port.
    #[inline]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// Destination port.
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Everything after the header. The UDP length field is not examined (`spec/detector.md` 4).
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// The transport of a packet, as far as the detector distinguishes it.
#[derive(Debug, Clone, Copy)]
pub enum Transport<'a> {
    /// TCP with a complete minimal header.
    Tcp(Tcp<'a>),
    /// UDP with a complete header.
    Udp(Udp<'a>),
    /// Another protocol, or a header that does not fit.
    Other,
}

impl<'a> Transport<'a> {
    /// Reads the transport of `ip` from `payload`, its layer-4 bytes.
    #[inline]
    pub fn new(protocol: u8, payload: &'a [u8]) -> Self {
        match protocol {
            PROTOCOL_TCP => Tcp::new(payload).map_or(Self::Other, Self::Tcp),
            PROTOCOL_UDP => Udp::new(payload).map_or(Self::Other, Self::Udp),
            _ => Self::Other,
        }
    }

    /// Reads the transport of `ip`.
    #[inline]
    pub fn of(ip: &Ip<'a>) -> Self {
        Self::new(ip.protocol(), ip.payload())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_payload_follows_the_data_offset() {
        let mut segment = [0u8; 40];
        for (doff, len) in [(5u8, 20), (8, 8), (10, 0), (15, 0), (0, 20), (4, 20)] {
            segment[12] = doff << 4;
            assert_eq!(Tcp::new(&segment).unwrap().payload().len(), len, "doff {doff}");
        }
        assert!(Tcp::new(&segment[..19]).is_none());
    }

    #[test]
    fn flags() {
        assert!(TcpFlags(0x02).opens());
        assert!(TcpFlags(0x02 | 0xc0 | 0x01).opens(), "SYN with FIN, ECE and CWR");
        assert!(!TcpFlags(0x12).opens());
        assert!(TcpFlags(0x11).ends() && TcpFlags(0x04).ends() && !TcpFlags(0x18).ends());
    }

    #[test]
    fn udp_length_field_is_ignored() {
        let datagram = [0, 53, 1, 187, 0, 0, 0, 0, 9, 9];
        let udp = Udp::new(&datagram).unwrap();
        assert_eq!((udp.source_port(), udp.destination_port()), (53, 443));
        assert_eq!(udp.payload(), [9, 9]);
    }
}
