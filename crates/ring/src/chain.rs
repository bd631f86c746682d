//! Packets longer than a frame, chained over several descriptors.

use crate::abi::{Descriptor, FrameFlags, MAX_FRAGMENTS};

/// Lengths of the pieces of a packet of `len` bytes when a frame has room for `room`.
pub(crate) fn pieces(len: usize, room: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len.max(1)).step_by(room).map(move |start| (start, room.min(len - start)))
}

/// Number of descriptors of the packet that starts `descriptors`.
///
/// `None` when the chain has no end within [`MAX_FRAGMENTS`] descriptors.
pub(crate) fn length(descriptors: &[Descriptor]) -> Option<usize> {
    descriptors
        .iter()
        .take(MAX_FRAGMENTS)
        .position(|d| d.flags & FrameFlags::MORE_FRAGMENTS == 0)
        .map(|last| last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_packet() {
        for (len, room) in [(1, 10), (10, 10), (11, 10), (65_535, 1984), (0, 10)] {
            let all: Vec<_> = pieces(len, room).collect();
            assert!(all.len() <= MAX_FRAGMENTS);
            assert_eq!(all.iter().map(|p| p.1).sum::<usize>(), len);
            assert!(all.windows(2).all(|w| w[0].0 + w[0].1 == w[1].0));
        }
    }

    #[test]
    fn endless_chain() {
        let more = Descriptor { flags: FrameFlags::MORE_FRAGMENTS, ..Descriptor::default() };
        assert_eq!(length(&[more, Descriptor::default()]), Some(2));
        assert_eq!(length(&[more; 60]), None);
        assert_eq!(length(&[more]), None);
    }
}
