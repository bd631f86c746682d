//! Where a successor goes on with a source.

/// Where reading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At a block of the ring of a packet socket.
    Block(Block),
    /// The interface is gone; a packet socket waits for it.
    Absent,
    /// In the rings of AF_XDP sockets, which say themselves how far they were read.
    Rings(Rings),
}

/// A block of the ring of a packet socket, and of what kind that ring is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    pub(crate) number: u32,
    pub(crate) blocks: Blocks,
}

/// The blocks of a ring of a packet socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// Bytes of each, a power of two.
    pub(crate) size: u32,
    pub(crate) count: u32,
}

impl Blocks {
    /// What rings were made of before their blocks were named.
    const UNNAMED: Self = Self { size: 1 << 20, count: 64 };
    /// Bytes that a ring may have.
    const MOST: u64 = 1 << 30;

    /// Bytes of the ring.
    pub(crate) const fn bytes(self) -> usize {
        self.size as usize * self.count as usize
    }

    fn is_sound(self) -> bool {
        let len = u64::from(self.size) * u64::from(self.count);
        self.size.is_power_of_two() && self.size >= 4096 && (1..=Self::MOST).contains(&len)
    }
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
    /// Sockets of each receive queue; all of them take frames from the ring of its first.
    pub(crate) sockets: u32,
    /// What the program does before its sockets, and for how many processors it has places to count that.
    pub(crate) stages: Option<(Stages, u32)>,
}

/// Stages of a program before its sockets, one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stages {
    /// It drops frames that no detector needs.
    pub(crate) prefilter: bool,
    /// It gives packets of the flows of a table to the host.
    pub(crate) fast_path: bool,
}

impl Stages {
    /// These stages; `None` when there is none.
    pub(crate) fn of(prefilter: bool, fast_path: bool) -> Option<Self> {
        (prefilter || fast_path).then_some(Self { prefilter, fast_path })
    }
}

impl Rings {
    fn kind(self) -> u8 {
        match self.stages {
            Some((Stages { fast_path: true, prefilter: false }, _)) => Position::FAST_RINGS,
            Some((Stages { fast_path: true, prefilter: true }, _)) => Position::FAST_FILTERED_RINGS,
            _ if self.sockets != 1 => Position::SORTED_RINGS,
            Some(_) => Position::FILTERED_RINGS,
            None => Position::RINGS,
        }
    }

    fn encode(self) -> Vec<u8> {
        let kind = self.kind();
        let tally = self.stages.map_or(0, |(_, tally)| tally).to_be_bytes();
        let sockets = self.sockets.to_be_bytes();
        let end: &[&[u8]] = match kind {
            Position::RINGS => &[],
            Position::FILTERED_RINGS => &[&tally],
            _ => &[&sockets, &tally],
        };
        let begin = [
            &[kind][..],
            &self.entries.to_be_bytes(),
            &self.frame_size.to_be_bytes(),
            &self.offset.to_be_bytes(),
            &self.len.to_be_bytes(),
        ];
        [&begin[..], end].concat().concat()
    }

    fn decode(kind: u8, rest: &[u8]) -> Option<Self> {
        let (entries, rest) = rest.split_first_chunk()?;
        let (frame_size, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let number = |rest: &[u8]| rest.try_into().ok().map(u32::from_be_bytes);
        let (sockets, tally) = match kind {
            Position::RINGS => (1, rest.is_empty().then_some(0)?),
            Position::FILTERED_RINGS => (1, number(rest)?),
            _ => {
                let (sockets, rest) = rest.split_first_chunk::<4>()?;
                (number(sockets)?, number(rest)?)
            }
        };
        let stages = match kind {
            Position::RINGS => None,
            Position::FAST_RINGS => Stages::of(false, true),
            Position::FAST_FILTERED_RINGS => Stages::of(true, true),
            _ => Stages::of(kind == Position::FILTERED_RINGS || tally != 0, false),
        };
        let rings = Self {
            entries: u32::from_be_bytes(*entries),
            frame_size: u32::from_be_bytes(*frame_size),
            offset: u64::from_be_bytes(*offset),
            len: u64::from_be_bytes(*len),
            sockets,
            stages: stages.map(|stages| (stages, tally)),
        };
        let sound = rings.entries.is_power_of_two()
            && rings.frame_size.is_power_of_two()
            && rings.sockets > 0;
        sound.then_some(rings)
    }
}

impl Position {
    const BLOCK: u8 = 1;
    const ABSENT: u8 = 2;
    const RINGS: u8 = 3;
    const BLOCK_OF: u8 = 4;
    /// Rings behind a prefilter.
    const FILTERED_RINGS: u8 = 5;
    /// Rings with several sockets for each receive queue, whose number follows, and then that of the processors, or 0.
    /// Builds that know only one would fill the shared rings twice; they open the source anew.
    const SORTED_RINGS: u8 = 6;
    /// The same behind a fast path.
    const FAST_RINGS: u8 = 7;
    /// The same behind a fast path and a prefilter.
    const FAST_FILTERED_RINGS: u8 = 8;

    /// Whether a program in the kernel drops frames that no detector needs.
    pub fn is_prefiltered(self) -> bool {
        self.stages().is_some_and(|stages| stages.prefilter)
    }

    /// Whether a program in the kernel gives packets of live sessions to the host.
    pub fn has_fast_path(self) -> bool {
        self.stages().is_some_and(|stages| stages.fast_path)
    }

    fn stages(self) -> Option<Stages> {
        match self {
            Self::Rings(rings) => Some(rings.stages?.0),
            Self::Block(_) | Self::Absent => None,
        }
    }

    /// The position as bytes: its kind, then its numbers in network byte order.
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Block(Block { number, blocks: Blocks::UNNAMED }) => {
                [&[Self::BLOCK][..], &number.to_be_bytes()].concat()
            }
            Self::Block(Block { number, blocks }) => [
                &[Self::BLOCK_OF][..],
                &number.to_be_bytes(),
                &blocks.size.to_be_bytes(),
                &blocks.count.to_be_bytes(),
            ]
            .concat(),
            Self::Absent => vec![Self::ABSENT],
            Self::Rings(rings) => rings.encode(),
        }
    }

    /// The position that [`Position::encode`] made these bytes of.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            Self::BLOCK => Self::block(u32::from_be_bytes(rest.try_into().ok()?), Blocks::UNNAMED),
            Self::BLOCK_OF => {
                let (number, rest) = rest.split_first_chunk()?;
                let (size, rest) = rest.split_first_chunk()?;
                let blocks = Blocks {
                    size: u32::from_be_bytes(*size),
                    count: u32::from_be_bytes(rest.try_into().ok()?),
                };
                Self::block(u32::from_be_bytes(*number), blocks)
            }
            Self::ABSENT => rest.is_empty().then_some(Self::Absent),
            kind @ (Self::RINGS
            | Self::FILTERED_RINGS
            | Self::SORTED_RINGS
            | Self::FAST_RINGS
            | Self::FAST_FILTERED_RINGS) => Rings::decode(kind, rest).map(Self::Rings),
            _ => None,
        }
    }

    fn block(number: u32, blocks: Blocks) -> Option<Self> {
        let sound = blocks.is_sound() && number < blocks.count;
        sound.then_some(Self::Block(Block { number, blocks }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_round_trip_and_nothing_else_is_one() {
        let rings = Rings {
            entries: 64,
            frame_size: 2048,
            offset: 1 << 40,
            len: 3 << 33,
            sockets: 1,
            stages: None,
        };
        let filtered = Rings { stages: Some((Stages::of(true, false).unwrap(), 16)), ..rings };
        let sorted = Rings { sockets: 5, ..rings };
        let both = Rings { sockets: 64, ..filtered };
        let fast = |prefilter| {
            let stages = Stages::of(prefilter, true).unwrap();
            Position::Rings(Rings { sockets: 3, stages: Some((stages, 16)), ..rings })
        };
        let block =
            |number, size, count| Position::Block(Block { number, blocks: Blocks { size, count } });
        let blocks = [block(63, 1 << 20, 64), block(255, 1 << 18, 256)];
        // As builds read it that know no other ring.
        assert_eq!(blocks[0].encode(), [1, 0, 0, 0, 63]);
        for position in [
            blocks[0],
            blocks[1],
            Position::Absent,
            Position::Rings(rings),
            Position::Rings(filtered),
            Position::Rings(sorted),
            Position::Rings(both),
            fast(false),
            fast(true),
        ] {
            let bytes = position.encode();
            assert_eq!(Position::decode(&bytes), Some(position));
            assert_eq!(Position::decode(&bytes[..bytes.len() - 1]), None);
            assert_eq!(Position::decode(&[&bytes[..], &[0]].concat()), None);
        }
        for odd in [Rings { entries: 63, ..rings }, Rings { sockets: 0, ..rings }] {
            assert_eq!(Position::decode(&Position::Rings(odd).encode()), None);
        }
        // Builds that know one socket for each receive queue know neither of these.
        for rings in [sorted, both] {
            assert_eq!(Position::Rings(rings).encode()[0], 6);
        }
        for unsound in [
            block(64, 1 << 20, 64),
            block(256, 1 << 18, 256),
            block(0, 3 << 17, 16),
            block(0, 1 << 11, 16),
            block(0, 1 << 18, 0),
            block(0, 1 << 31, 1 << 31),
        ] {
            assert_eq!(Position::decode(&unsound.encode()), None, "{unsound:?}");
        }
        assert_eq!(Position::decode(&[9]), None);
        assert!(
            Position::Rings(filtered).is_prefiltered() && Position::Rings(both).is_prefiltered()
        );
        assert!(!Position::Rings(rings).is_prefiltered() && !blocks[0].is_prefiltered());
        assert!(fast(true).has_fast_path() && fast(true).is_prefiltered());
        assert!(fast(false).has_fast_path() && !fast(false).is_prefiltered());
        assert!(!Position::Rings(filtered).has_fast_path());
    }
}
