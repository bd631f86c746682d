//! Where a successor goes on with a source.

/// Where reading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At this block of the ring of a packet socket.
    Block(u32),
    /// The interface is gone; a packet socket waits for it.
    Absent,
    /// In the rings of AF_XDP sockets, which say themselves how far they were read.
    Rings(Rings),
}

/// Where the frames of AF_XDP sockets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rings {
    /// Entries of the rings of each socket.
    pub(crate) entries: u32,
    /// Size of a frame in bytes, a power of two.
    pub(crate) frame_size: u32,
    /// Where the frames begin in their file.
    pub(crate) offset: u64,
    /// Bytes of frames.
    pub(crate) len: u64,
}

impl Position {
    const BLOCK: u8 = 1;
    const ABSENT: u8 = 2;
    const RINGS: u8 = 3;

    /// The position as bytes: its kind, then its numbers in network byte order.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Block(block) => [&[Self::BLOCK][..], &block.to_be_bytes()].concat(),
            Self::Absent => vec![Self::ABSENT],
            Self::Rings(rings) => [
                &[Self::RINGS][..],
                &rings.entries.to_be_bytes(),
                &rings.frame_size.to_be_bytes(),
                &rings.offset.to_be_bytes(),
                &rings.len.to_be_bytes(),
            ]
            .concat(),
        }
    }

    /// The position that [`Position::encode`] made these bytes of.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            Self::BLOCK => Some(Self::Block(u32::from_be_bytes(rest.try_into().ok()?))),
            Self::ABSENT => rest.is_empty().then_some(Self::Absent),
            Self::RINGS => {
                let (entries, rest) = rest.split_first_chunk()?;
                let (frame_size, rest) = rest.split_first_chunk()?;
                let (offset, rest) = rest.split_first_chunk()?;
                let rings = Rings {
                    entries: u32::from_be_bytes(*entries),
                    frame_size: u32::from_be_bytes(*frame_size),
                    offset: u64::from_be_bytes(*offset),
                    len: u64::from_be_bytes(rest.try_into().ok()?),
                };
                let sound = rings.entries.is_power_of_two() && rings.frame_size.is_power_of_two();
                sound.then_some(Self::Rings(rings))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_and_nothing_else_is_one() {
        let rings = Rings { entries: 64, frame_size: 2048, offset: 1 << 40, len: 3 << 33 };
        for position in [Position::Block(77), Position::Absent, Position::Rings(rings)] {
            let bytes = position.encode();
            assert_eq!(Position::decode(&bytes), Some(position));
            assert_eq!(Position::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Position::decode(&[&bytes[..], &[0]].concat()), None);
        }
        let odd = Rings { entries: 63, ..rings };
        assert_eq!(Position::decode(&Position::Rings(odd).encode()), None);
        assert_eq!(Position::decode(&[4]), None);
    }
}
