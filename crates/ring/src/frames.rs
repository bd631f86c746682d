//! The frames region: packets, written by the balancer and read by every consumer.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use crate::abi::{Descriptor, Header};
use crate::map::{Map, is_fixed, memory_file, seal_read_only};

/// Size in bytes of the cell that belongs to each frame and holds a short packet in its place. Cells lie close
/// together: a burst of short packets touches few pages, each of whose addresses the processor has to look up.
pub(crate) const CELL: u64 = 256;
/// Bytes of a cell before the packet. It begins at a cache line of its own.
pub(crate) const CELL_HEAD: u64 = 64;
/// Longest packet that a cell holds.
pub(crate) const CELL_ROOM: usize = (CELL - CELL_HEAD) as usize;

/// The owner's writable view of the frames region.
#[derive(Debug)]
pub(crate) struct OwnedFrames {
    pub(crate) fd: OwnedFd,
    map: Map,
}

impl OwnedFrames {
    /// Makes a region of `len` bytes and seals it against every other writer.
    pub(crate) fn new(len: usize) -> rustix::io::Result<Self> {
        let fd = memory_file("conjure-frames", len)?;
        let map = Map::new(&fd, len, true)?;
        seal_read_only(&fd)?;
        Ok(Self { fd, map })
    }

    /// Length in bytes.
    pub(crate) const fn len(&self) -> usize {
        self.map.len()
    }

    /// Address of the first byte, for hints.
    #[inline]
    pub(crate) const fn base(&self) -> *const u8 {
        self.map.base().as_ptr().cast_const()
    }

    /// Address of byte `offset`, for `len` bytes.
    ///
    /// # Panics
    /// When the range leaves the region.
    pub(crate) fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        self.map.at(offset, len)
    }

    /// The bytes `offset..offset + len`, for writing.
    ///
    /// # Safety
    /// The range lies in the region. No other reference to these bytes may live in this process. The
    /// caller holds the frame that they belong to, and no consumer does.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the caller owns the frame, not the region")]
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &mut [u8] {
        debug_assert!(offset + len <= self.map.len());
        // SAFETY: mapped, writable, initialised bytes; in range and exclusive by the caller's
        // promise.
        unsafe { std::slice::from_raw_parts_mut(self.map.base().as_ptr().add(offset), len) }
    }
}

/// What packets reach from and to, in offsets of the frames region.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    low: u64,
    high: u64,
}

impl Span {
    /// The span of no packet.
    pub(crate) const NONE: Self = Self { low: u64::MAX, high: 0 };

    /// Takes a packet in.
    #[inline]
    pub(crate) fn add(&mut self, address: u64, len: u32) {
        self.low = self.low.min(address);
        self.high = self.high.max(address.saturating_add(u64::from(len)));
    }
}

/// A consumer's read-only view of the frames region.
#[derive(Debug)]
pub(crate) struct Frames {
    map: Map,
    head_room: u64,
}

impl Frames {
    /// Maps the region that `fd` refers to.
    ///
    /// `None` when the file can be made shorter than announced, so that reading it could fault.
    pub(crate) fn open(fd: &OwnedFd, header: &Header) -> rustix::io::Result<Option<Self>> {
        let Ok(len) = usize::try_from(header.frames_len) else {
            return Ok(None);
        };
        if !is_fixed(fd, len)? {
            return Ok(None);
        }
        Ok(Some(Self { map: Map::new(fd, len, false)?, head_room: u64::from(header.head_room) }))
    }

    /// True when the packet and its head room lie in the region.
    #[inline]
    pub(crate) fn holds(&self, descriptor: &Descriptor) -> bool {
        let len = self.map.len() as u64;
        descriptor.address >= self.head_room
            && descriptor.address <= len
            && u64::from(descriptor.len) <= len - descriptor.address
    }

    /// True when all packets of `span` and their head room lie in the region.
    #[inline]
    pub(crate) const fn spans(&self, span: &Span) -> bool {
        span.low >= self.head_room && span.high <= self.map.len() as u64
    }

    /// The bytes of a packet.
    ///
    /// # Safety
    /// The descriptor has passed [`Frames::holds`] or [`Frames::spans`].
    #[inline]
    pub(crate) unsafe fn packet(&self, descriptor: &Descriptor) -> &[u8] {
        debug_assert!(self.holds(descriptor));
        // SAFETY: the range lies in the region by the caller's promise; the rest as for `bytes`.
        unsafe {
            let start = self.map.base().add(descriptor.address as usize);
            std::slice::from_raw_parts(start.as_ptr(), descriptor.len as usize)
        }
    }

    /// `N` bytes of head room that end `before` bytes before a packet.
    #[inline]
    pub(crate) fn head_room<const N: usize>(
        &self,
        descriptor: &Descriptor,
        before: usize,
    ) -> [u8; N] {
        let start = descriptor.address as usize - before;
        *self.bytes(start, N).first_chunk().unwrap_or(&[0; N])
    }

    #[inline]
    fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        let start = self.map.at(offset, len);
        // SAFETY: mapped, initialised bytes that outlive `self`. The balancer does not write a
        // frame that this consumer has not returned; should a faulty one do so, the reader sees
        // other bytes, which its parsers accept like any bytes.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// Where a packet starts, for a prefetch: the address need not lie in the region.
    #[inline]
    pub(crate) fn base(&self) -> *const u8 {
        self.map.base().as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = 8192;

    fn frames() -> Frames {
        let owned = OwnedFrames::new(LEN as usize).unwrap();
        let header = Header {
            instance: [0; 16],
            cluster: 1,
            queue: 0,
            producers: 1,
            slots: 4,
            frames_len: LEN,
            frame_size: 2048,
            head_room: 64,
            link_type: 1,
            features: 0,
        };
        Frames::open(&owned.fd, &header).unwrap().unwrap()
    }

    fn descriptor() -> impl Strategy<Value = Descriptor> {
        let address = prop_oneof![0..=LEN + 1, Just(63), Just(64), Just(u64::MAX), any::<u64>()];
        let len = prop_oneof![0..=64u32, 0..=LEN as u32 + 1, any::<u32>()];
        (address, len).prop_map(|(address, len)| Descriptor { address, len, ..Default::default() })
    }

    proptest! {
        #[test]
        fn a_span_lies_in_the_region_when_every_packet_does(
            descriptors in proptest::collection::vec(descriptor(), 1..4),
        ) {
            let frames = frames();
            let mut span = Span::NONE;
            descriptors.iter().for_each(|d| span.add(d.address, d.len));
            let expected = descriptors.iter().all(|d| frames.holds(d));
            prop_assert_eq!(frames.spans(&span), expected);
        }
    }
}
