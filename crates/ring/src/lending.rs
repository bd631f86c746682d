//! Frames that a source has the kernel write into, so that nothing is copied on the way to consumers
//! (`spec/ingest.md` 10.1).
//!
//! A [`Producer`](crate::Producer) lends free frames. A source gives them to the kernel and gets them back
//! filled; sending a filled frame exchanges it for a free one, which goes to the kernel in its place. So
//! the number of frames on loan never changes, and whatever consumers do, the kernel has frames.

use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

use crate::frames::OwnedFrames;
use crate::queue::{claim, prefetch};

/// Bytes of head room that sending a packet writes.
pub(crate) const HEAD_ROOM_USED: usize = 12;

/// The part of the frames region that a producer lends from, as one piece of memory.
#[derive(Debug, Clone)]
pub struct Memory {
    pub(crate) frames: Arc<OwnedFrames>,
    pub(crate) first: usize,
    pub(crate) len: usize,
    pub(crate) frame_size: u32,
}

impl Memory {
    /// Address of the first byte, aligned to a page. Only frames on loan may be written.
    pub fn base(&self) -> NonNull<u8> {
        self.frames.at(self.first, self.len)
    }

    /// Length in bytes.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True without any frame.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file that it lies in, which another process may map to read.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.frames.fd.as_fd()
    }

    /// Where in the file it begins, in bytes.
    pub const fn offset(&self) -> usize {
        self.first
    }

    /// Asks the processor to load the packet at offset `address`, and what is before it for writing: a hint
    /// without effect, whatever the address.
    #[inline]
    pub fn expect(&self, address: u64) {
        let packet = self.frames.base().wrapping_add(self.first).wrapping_add(address as usize);
        prefetch(packet);
        claim(packet.wrapping_sub(HEAD_ROOM_USED));
    }

    /// Size of a frame in bytes, a power of two. A frame begins at every multiple of it.
    pub const fn frame_size(&self) -> u32 {
        self.frame_size
    }
}

/// A frame that the producer does not use until it gets it back.
#[derive(Debug, PartialEq, Eq)]
pub struct Loan(pub(crate) u64);

impl Loan {
    /// Offset of the frame in the [`Memory`], for whoever writes into it.
    pub fn into_offset(self) -> u64 {
        self.0
    }

    /// The frame at `offset`, which nobody writes into any more.
    ///
    /// # Safety
    /// `offset` is of a [`Loan::into_offset`] of the same producer, and was not used here since.
    pub const unsafe fn from_offset(offset: u64) -> Self {
        Self(offset)
    }
}

/// What was received into a frame: a packet, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// The frame.
    pub loan: Loan,
    /// Offset of the first byte in the frame.
    pub start: u32,
    /// Number of bytes.
    pub len: u32,
}
