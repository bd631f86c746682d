//! Packets inside frames: typed payload and padding (`spec/transports.md` 7.5).

use super::{SEED_LEN, frame::MAX_FRAME_PAYLOAD};

/// Type and length in front of each packet.
pub(super) const HEADER: usize = 3;
/// Most payload that one packet carries.
pub const MAX_PACKET_PAYLOAD: usize = MAX_FRAME_PAYLOAD - HEADER;

/// Type of a packet with payload.
pub const PAYLOAD: u8 = 0;
/// Type of the packet with the seed of the server's length distribution.
pub const PRNG_SEED: u8 = 1;

/// A packet that its sender cannot have made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet is shorter than its header or its payload")]
pub struct BadPacket;

/// A packet that was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// Bytes of the tunnel; none in pure padding.
    Payload(&'a [u8]),
    /// Seed of a length distribution.
    Seed(&'a [u8; SEED_LEN]),
    /// A type that this side does not know, or a seed of another length.
    Ignored,
}

impl<'a> Packet<'a> {
    /// Takes the payload of a frame apart.
    ///
    /// # Errors
    /// When it is shorter than its header says.
    pub fn parse(frame: &'a [u8]) -> Result<Self, BadPacket> {
        let (&[kind, high, low], rest) = frame.split_first_chunk().ok_or(BadPacket)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let payload = rest.get(..length).ok_or(BadPacket)?;
        Ok(match kind {
            PAYLOAD => Self::Payload(payload),
            PRNG_SEED => payload.try_into().map_or(Self::Ignored, Self::Seed),
            _ => Self::Ignored,
        })
    }
}

/// Appends a packet; payload and padding together have at most [`MAX_PACKET_PAYLOAD`] bytes.
pub fn write(out: &mut Vec<u8>, kind: u8, payload: &[u8], padding: usize) {
    debug_assert!(payload.len() + padding <= MAX_PACKET_PAYLOAD);
    out.push(kind);
    out.extend((payload.len() as u16).to_be_bytes());
    out.extend_from_slice(payload);
    out.resize(out.len() + padding, 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn packets_read_back(
            kind in any::<u8>(),
            payload in proptest::collection::vec(any::<u8>(), 0..1000),
            padding in 0usize..400,
        ) {
            let mut out = Vec::new();
            write(&mut out, kind, &payload, padding);
            prop_assert_eq!(out.len(), 3 + payload.len() + padding);
            let expected = match kind {
                0 => Packet::Payload(&payload),
                1 => payload.as_slice().try_into().map_or(Packet::Ignored, Packet::Seed),
                _ => Packet::Ignored,
            };
            prop_assert_eq!(Packet::parse(&out), Ok(expected));
        }

        #[test]
        fn any_bytes_are_survived(frame in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(Packet::Payload(payload)) = Packet::parse(&frame) {
                prop_assert!(payload.len() + HEADER <= frame.len());
            }
        }
    }

    #[test]
    fn a_packet_shorter_than_it_says_is_refused() {
        assert_eq!(Packet::parse(&[0, 0]), Err(BadPacket));
        assert_eq!(Packet::parse(&[7, 0, 2, 1]), Err(BadPacket));
        assert_eq!(Packet::parse(&[0, 0, 0]), Ok(Packet::Payload(&[])));
    }
}
