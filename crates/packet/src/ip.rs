//! Views of IPv4 and IPv6 packets.
//!
//! A view holds the bytes from the IP header to the end of the captured frame, at least one
//! minimal header. The slices it hands out follow `spec/detector.md` 4, items 4 and 5.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A captured IPv4 packet: at least 20 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Ipv4<'a> {
    header: &'a [u8; 20],
    captured: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Views `captured`, the bytes from the IPv4 header to the end of the frame.
    ///
    /// `None` when a minimal header does not fit. The version nibble is not examined.
    #[inline]
    pub fn new(captured: &'a [u8]) -> Option<Self> {
        let header = captured.first_chunk()?;
        Some(Self { header, captured })
    }

    /// Version nibble; 4 in a well-formed packet.
    #[inline]
    pub const fn version(&self) -> u8 {
        self.header[0] >> 4
    }

    /// Header length as announced, in bytes (0 to 60; below 20 in a malformed packet).
    #[inline]
    pub const fn announced_header_len(&self) -> usize {
        ((self.header[0] & 0x0f) as usize) * 4
    }

    /// Total length field, in bytes.
    #[inline]
    pub const fn total_length(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// Identification field; the same in all fragments of one packet.
    #[inline]
    pub const fn identification(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Fragment offset in units of 8 bytes.
    #[inline]
    pub const fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]]) & 0x1fff
    }

    /// True when more fragments follow.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.header[6] & 0x20 != 0
    }

    /// True for any fragment, the first included.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.header[6], self.header[7]]) & 0x3fff != 0
    }

    /// IP protocol number of the payload.
    #[inline]
    pub const fn protocol(&self) -> u8 {
        self.header[9]
    }

    /// Source address in network order.
    #[inline]
    pub const fn source(&self) -> [u8; 4] {
        [self.header[12], self.header[13], self.header[14], self.header[15]]
    }

    /// Destination address in network order.
    #[inline]
    pub const fn destination(&self) -> [u8; 4] {
        [self.header[16], self.header[17], self.header[18], self.header[19]]
    }

    /// Source and destination in network order, as they lie in the packet.
    #[inline]
    pub const fn addresses(&self) -> [u8; 8] {
        let h = self.header;
        [h[12], h[13], h[14], h[15], h[16], h[17], h[18], h[19]]
    }

    /// Layer-4 bytes: after the header, up to the announced total length or the end of the capture.
    ///
    /// A total length of 0 gives an empty slice, as the reference does.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let announced = self.announced_header_len();
        let start = 20 + announced.saturating_sub(20);
        let len = usize::from(self.total_length()).saturating_sub(announced);
        let end = self.captured.len().min(start + len);
        self.captured.get(start..end).unwrap_or_default()
    }

    /// As [`Ipv4::payload`], but a total length of 0 (a segmentation offload artefact of some taps)
    /// means "to the end of the capture" when the captured frame is longer than a padded minimal
    /// one (`spec/detector.md` 4, *Design*).
    ///
    /// `frame_len` is the length of the whole captured frame in bytes.
    #[inline]
    pub fn payload_or_capture(&self, frame_len: usize) -> &'a [u8] {
        if self.total_length() == 0 && frame_len > 60 {
            let start = self.announced_header_len().max(20);
            return self.captured.get(start..).unwrap_or_default();
        }
        self.payload()
    }

    /// The bytes from the IP header to the end of the capture, link-layer padding included.
    #[inline]
    pub const fn captured(&self) -> &'a [u8] {
        self.captured
    }
}

/// A captured IPv6 packet: at least 40 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Ipv6<'a> {
    header: &'a [u8; 40],
    captured: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// Views `captured`, the bytes from the IPv6 header to the end of the frame.
    ///
    /// `None` when the fixed header does not fit. The version nibble is not examined.
    #[inline]
    pub fn new(captured: &'a [u8]) -> Option<Self> {
        let header = captured.first_chunk()?;
        Some(Self { header, captured })
    }

    /// Version nibble; 6 in a well-formed packet.
    #[inline]
    pub const fn version(&self) -> u8 {
        self.header[0] >> 4
    }

    /// Payload length field, in bytes.
    #[inline]
    pub const fn payload_length(&self) -> u16 {
        u16::from_be_bytes([self.header[4], self.header[5]])
    }

    /// Next header field of the fixed header.
    #[inline]
    pub const fn next_header(&self) -> u8 {
        self.header[6]
    }

    /// Source address in network order.
    #[inline]
    pub fn source(&self) -> [u8; 16] {
        *self.header[8..].first_chunk().unwrap_or(&[0; 16])
    }

    /// Destination address in network order.
    #[inline]
    pub fn destination(&self) -> [u8; 16] {
        *self.header[24..].first_chunk().unwrap_or(&[0; 16])
    }

    /// Bytes after the fixed header, up to the announced length or the end of the capture.
    /// Extension headers are not walked.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let end = self.captured.len().min(40 + usize::from(self.payload_length()));
        self.captured.get(40..end).unwrap_or_default()
    }

    /// The bytes from the IP header to the end of the capture, link-layer padding included.
    #[inline]
    pub const fn captured(&self) -> &'a [u8] {
        self.captured
    }
}

/// A captured packet of either family.
#[derive(Debug, Clone, Copy)]
pub enum Ip<'a> {
    /// IPv4.
    V4(Ipv4<'a>),
    /// IPv6.
    V6(Ipv6<'a>),
}

impl<'a> Ip<'a> {
    /// Source address.
    #[inline]
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(p) => Ipv4Addr::from(p.source()).into(),
            Self::V6(p) => Ipv6Addr::from(p.source()).into(),
        }
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(p) => Ipv4Addr::from(p.destination()).into(),
            Self::V6(p) => Ipv6Addr::from(p.destination()).into(),
        }
    }

    /// Protocol number of the payload (IPv6: of the fixed header).
    #[inline]
    pub const fn protocol(&self) -> u8 {
        match self {
            Self::V4(p) => p.protocol(),
            Self::V6(p) => p.next_header(),
        }
    }

    /// Layer-4 bytes.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        match self {
            Self::V4(p) => p.payload(),
            Self::V6(p) => p.payload(),
        }
    }

    /// The bytes from the IP header to the end of the capture, as they are written to a tun device.
    #[inline]
    pub const fn captured(&self) -> &'a [u8] {
        match self {
            Self::V4(p) => p.captured(),
            Self::V6(p) => p.captured(),
        }
    }

    /// EtherType of the family, for the four-byte header of a tun device.
    #[inline]
    pub const fn ethertype(&self) -> u16 {
        match self {
            Self::V4(_) => crate::ETHERTYPE_IPV4,
            Self::V6(_) => crate::ETHERTYPE_IPV6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(ihl: u8, total: u16, captured: usize) -> Vec<u8> {
        let mut p = vec![0xaa; captured];
        p[0] = 0x40 | ihl;
        p[2..4].copy_from_slice(&total.to_be_bytes());
        p
    }

    #[test]
    fn layer_4_slice_follows_both_lengths() {
        let len =
            |ihl, total, captured| Ipv4::new(&v4(ihl, total, captured)).map(|p| p.payload().len());
        assert_eq!(len(5, 40, 46), Some(20), "padding is not payload");
        assert_eq!(len(5, 60, 46), Some(26), "capture ends first");
        assert_eq!(len(6, 44, 64), Some(20), "options are skipped");
        assert_eq!(len(0, 40, 60), Some(40), "short IHL counts as 20");
        assert_eq!(len(15, 60, 40), Some(0), "options beyond the capture");
        assert_eq!(len(5, 0, 60), Some(0), "zero total length");
        assert_eq!(len(5, 10, 60), Some(0), "total length below the header");
    }

    #[test]
    fn zero_total_length_means_capture_only_above_minimum_frame() {
        let packet = v4(5, 0, 86);
        let ip = Ipv4::new(&packet).unwrap();
        assert_eq!(ip.payload_or_capture(100).len(), 66);
        assert_eq!(ip.payload_or_capture(60).len(), 0);
    }

    #[test]
    fn too_short_for_a_header() {
        assert!(Ipv4::new(&[0x45; 19]).is_none());
        assert!(Ipv6::new(&[0x60; 39]).is_none());
    }
}
