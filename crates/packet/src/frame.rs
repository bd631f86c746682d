//! The detector's reading of a frame (`spec/detector.md` 3.4 and 4).

use crate::ip::{Ip, Ipv4, Ipv6};
use crate::transport::Transport;
use crate::{ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_VLAN};

/// Why a frame holds nothing for the detector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Shorter than the configured tunnel offset (`PARSE_GRE_OFFSET`).
    #[error("frame is shorter than PARSE_GRE_OFFSET")]
    ShorterThanOffset,
    /// The Ethernet header, or the 802.1Q tag, is cut off.
    #[error("Ethernet header is cut off")]
    Truncated,
    /// Another protocol than IP, or more than one VLAN tag.
    #[error("not IP below at most one 802.1Q tag")]
    NotIp,
    /// The IP header is cut off.
    #[error("IP header is cut off")]
    TruncatedIp,
}

/// A frame that carries an IP packet.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// The IP packet.
    pub ip: Ip<'a>,
    /// Length of the frame after the tunnel offset, in bytes.
    len: usize,
}

impl<'a> Frame<'a> {
    /// Reads `captured`, skipping the first `offset` bytes without inspecting them.
    ///
    /// # Errors
    /// The reason why the frame is of no interest, for a counter.
    #[inline]
    pub fn parse(captured: &'a [u8], offset: usize) -> Result<Self, Ignored> {
        let frame = captured.get(offset..).ok_or(Ignored::ShorterThanOffset)?;
        let header: &[u8; ETHERNET_LEN] = frame.first_chunk().ok_or(Ignored::Truncated)?;
        let mut ethertype = u16::from_be_bytes([header[12], header[13]]);
        let mut packet = &frame[ETHERNET_LEN..];
        if ethertype == ETHERTYPE_VLAN {
            let (tag, rest) = packet.split_first_chunk::<4>().ok_or(Ignored::Truncated)?;
            ethertype = u16::from_be_bytes([tag[2], tag[3]]);
            packet = rest;
        }
        let ip = match ethertype {
            ETHERTYPE_IPV4 => Ip::V4(Ipv4::new(packet).ok_or(Ignored::TruncatedIp)?),
            ETHERTYPE_IPV6 => Ip::V6(Ipv6::new(packet).ok_or(Ignored::TruncatedIp)?),
            _ => return Err(Ignored::NotIp),
        };
        let len = frame.len();
        Ok(Self { ip, len })
    }

    /// The transport below the IP header, read as the reference does.
    #[inline]
    pub fn transport(&self) -> Transport<'a> {
        Transport::of(&self.ip)
    }

    /// As [`Frame::transport`], but an IPv4 total length of 0 extends to the end of the capture
    /// ([`Ipv4::payload_or_capture`]).
    #[inline]
    pub fn transport_or_capture(&self) -> Transport<'a> {
        let payload = match &self.ip {
            Ip::V4(p) => p.payload_or_capture(self.len),
            Ip::V6(p) => p.payload(),
        };
        Transport::new(self.ip.protocol(), payload)
    }

    /// Length of the frame after the tunnel offset, in bytes.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a frame has a header, it is never empty")]
    pub const fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn tcp_frame() -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [192, 0, 2, 9], 64)
            .tcp(4000, 443, 7, 1024)
            .write(&mut frame, b"hello")
            .unwrap();
        frame
    }

    fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
        let mut out = frame[..12].to_vec();
        for _ in 0..tags {
            out.extend([0x81, 0x00, 0x00, 0x64]);
        }
        out.extend(&frame[12..]);
        out
    }

    #[test]
    fn tcp_with_tag_padding_and_offset() {
        for tags in [0, 1] {
            for padding in [0usize, 6] {
                for offset in [0usize, 42] {
                    let mut frame = vec![0x55; offset];
                    frame.extend(tagged(&tcp_frame(), tags));
                    frame.extend(vec![0; padding]);
                    let parsed = Frame::parse(&frame, offset).unwrap();
                    let Transport::Tcp(tcp) = parsed.transport() else { panic!("not TCP") };
                    assert_eq!(tcp.payload(), b"hello");
                    assert_eq!((tcp.source_port(), tcp.destination_port()), (4000, 443));
                    assert_eq!(parsed.ip.captured().len(), 45 + padding);
                    assert_eq!(parsed.ip.source().to_string(), "10.0.0.1");
                }
            }
        }
    }

    #[test]
    fn reasons() {
        let frame = tcp_frame();
        let reason = |f: &[u8], o| Frame::parse(f, o).err();
        assert_eq!(reason(&frame, 1000), Some(Ignored::ShorterThanOffset));
        assert_eq!(reason(&frame[..13], 0), Some(Ignored::Truncated));
        assert_eq!(reason(&tagged(&frame, 1)[..17], 0), Some(Ignored::Truncated));
        assert_eq!(reason(&tagged(&frame, 2), 0), Some(Ignored::NotIp));
        assert_eq!(reason(&frame[..33], 0), Some(Ignored::TruncatedIp));
    }
}
