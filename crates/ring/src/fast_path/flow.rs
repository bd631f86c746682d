//! Which flow a frame belongs to, as the program in the kernel reads it.

use std::net::IpAddr;

use super::BUCKETS;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// FIN, SYN and RST: what begins or ends a flow concerns the detector.
const BEGINS_OR_ENDS: u8 = 0b111;

/// A direction of a flow: addresses, ports and protocol, in the form of the table.
///
/// IPv4: the addresses are the first word, source high; IPv6: source and destination have two words each. The last
/// word has the ports, the protocol and the family (4 or 6). Addresses and ports are as the processor loads them
/// from a packet, whatever its byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey([u64; FlowKey::WORDS]);

impl FlowKey {
    /// Words of a key.
    pub const WORDS: usize = 5;
    /// What mixes the words.
    pub const MULTIPLIER: u64 = 0xff51_afd7_ed55_8ccd;
    /// What of a mixed word is not the number of a bucket.
    pub const SHIFT: u32 = 64 - BUCKETS.trailing_zeros();

    /// The flow of an Ethernet frame, when it is one that may pass: TCP or UDP right behind an IPv4 header without
    /// options or an IPv6 header without extensions, without VLAN tag, no fragment, and no segment that begins or
    /// ends a connection.
    pub fn of(frame: &[u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_first_chunk::<14>()?;
        match [ethernet[12], ethernet[13]] {
            [0x08, 0x00] => {
                let (header, transport) = packet.split_first_chunk::<20>()?;
                let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
                if header[0] != 0x45 || fragment != 0 {
                    return None;
                }
                let word = |at: usize| u64::from(half_word(&header[at..]));
                let addresses = word(12) << 32 | word(16);
                Some(Self([addresses, 0, 0, 0, tail(transport, header[9], 4)?]))
            }
            [0x86, 0xdd] => {
                let (header, transport) = packet.split_first_chunk::<40>()?;
                if header[0] >> 4 != 6 {
                    return None;
                }
                let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|n| header[at + n]));
                Some(Self([word(8), word(16), word(24), word(32), tail(transport, header[6], 6)?]))
            }
            _ => None,
        }
    }

    /// The words, as they stand in the table.
    pub const fn words(&self) -> &[u64; Self::WORDS] {
        &self.0
    }

    /// Number of the bucket that the flow may stand in. Not keyed: who fills a bucket keeps others of it on the way
    /// by the detector, which is what every flow takes without the table.
    pub fn bucket(&self) -> u32 {
        let mix = |hash: u64, word: &u64| {
            let hash = hash.wrapping_mul(Self::MULTIPLIER);
            hash ^ hash >> 32 ^ word
        };
        let [first, rest @ ..] = &self.0;
        let hash = rest.iter().chain([&0]).fold(*first, mix);
        (hash.wrapping_mul(Self::MULTIPLIER) >> Self::SHIFT) as u32
    }

    /// Who sends.
    pub fn source(&self) -> IpAddr {
        let [first, second, .., tail] = self.0;
        if tail & 0xff == 4 {
            ((first >> 32) as u32).to_ne_bytes().into()
        } else {
            let bytes = [first.to_ne_bytes(), second.to_ne_bytes()].concat();
            <[u8; 16]>::try_from(bytes).unwrap_or_default().into()
        }
    }
}

fn half_word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// The last word of a key.
fn tail(transport: &[u8], protocol: u8, family: u64) -> Option<u64> {
    let ports = u32::from_ne_bytes(*transport.first_chunk()?);
    let may_pass = match protocol {
        TCP => transport.get(13)? & BEGINS_OR_ENDS == 0,
        UDP => true,
        _ => false,
    };
    may_pass.then(|| u64::from(ports) << 16 | u64::from(protocol) << 8 | family)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame of a client to a phantom over IPv4 or IPv6.
    pub(crate) fn frame(v6: bool, protocol: u8, port: u16, flags: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        if v6 {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, protocol, 64]);
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
            frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 5]);
        } else {
            frame.extend([0x08, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend([203, 0, 113, 9, 192, 122, 190, 5]);
        }
        frame.extend(port.to_be_bytes());
        frame.extend([1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 4, 0, 0, 0, 0, 0]);
        frame
    }

    #[test]
    fn flows_of_frames() {
        for v6 in [false, true] {
            let key = |protocol, port, flags| FlowKey::of(&frame(v6, protocol, port, flags));
            let flow = key(TCP, 40_001, 0x10).unwrap();
            let client = if v6 { "2001:db8::9" } else { "203.0.113.9" };
            assert_eq!(flow.source(), client.parse::<IpAddr>().unwrap());
            assert!(flow.bucket() < BUCKETS);
            assert_eq!(key(TCP, 40_001, 0x18), Some(flow), "data");
            assert_ne!(key(TCP, 40_002, 0x10), Some(flow), "another port");
            assert_ne!(key(UDP, 40_001, 0x10), Some(flow), "another protocol");
            assert!(key(UDP, 40_001, 0x10).is_some());
            for flags in [0x01, 0x02, 0x04, 0x11, 0x12] {
                assert_eq!(key(TCP, 40_001, flags), None, "flags {flags:#x}");
            }
            assert_eq!(key(47, 40_001, 0x10), None);
            let whole = frame(v6, TCP, 40_001, 0x10);
            let flags = if v6 { 68 } else { 48 };
            assert_eq!(FlowKey::of(&whole[..flags]), Some(flow), "that much is enough");
            assert!((0..flags).all(|len| FlowKey::of(&whole[..len]).is_none()));
            for (at, value) in [(12, 0x81), (14, 0x46), (14, 0x55)] {
                let mut other = whole.clone();
                other[at] = value;
                let same_version = v6 && value == 0x46;
                assert!(same_version || FlowKey::of(&other).is_none(), "byte {at} {value:#x}");
            }
        }
        for fragment in [0x20, 0x1f, 0x60] {
            let mut first = frame(false, UDP, 1, 0);
            first[20] = fragment;
            assert_eq!(FlowKey::of(&first), None);
        }
    }

    #[test]
    fn flows_spread_over_the_buckets() {
        for v6 in [false, true] {
            let mut buckets = std::collections::HashSet::new();
            for port in 0..1000 {
                buckets.insert(FlowKey::of(&frame(v6, UDP, port, 0)).unwrap().bucket());
            }
            // 1,000 of 16,384 at random meet in 30.
            assert!(buckets.len() > 900, "{}", buckets.len());
        }
    }
}
