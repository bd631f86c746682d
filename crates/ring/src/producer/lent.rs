//! Frames on loan: how they leave a producer, and how they are sent.

use std::sync::Arc;

use super::{Meta, Producer, SendOutcome, bits, describe};
use crate::abi::{FrameFlags, MAX_FRAGMENTS};
use crate::cycle::SHARED;
use crate::lending::{Loan, Memory, Piece};

impl Producer {
    /// The memory that frames are lent from.
    pub fn memory(&self) -> Memory {
        let frame_size = self.share.frame_size;
        Memory {
            frames: Arc::clone(&self.frames),
            first: self.first() as usize,
            len: self.share.frames as usize * frame_size as usize,
            frame_size,
        }
    }

    /// Offset in the region of the first frame.
    #[inline]
    const fn first(&self) -> u64 {
        self.share.first_frame * self.share.frame_size as u64
    }

    /// Lends frames: `count` of them, or as many as queues never need.
    pub fn lend(&mut self, count: u32) -> Vec<Loan> {
        let (count, first) = (count.min(self.lendable), self.first());
        let loans: Vec<Loan> = std::iter::from_fn(|| self.pool.take())
            .take(count as usize)
            .map(|f| Loan(f - first))
            .collect();
        self.lendable -= u32::try_from(loans.len()).unwrap_or(count);
        loans
    }

    /// Takes a frame back that is not needed any more.
    pub fn settle(&mut self, loan: Loan) {
        self.lendable += 1;
        self.pool.put(self.first() + loan.0);
    }

    /// The bytes of a piece; empty when it leaves its frame.
    #[inline]
    pub fn bytes<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        if !self.is_sound(piece) {
            return &[];
        }
        let address = self.first() + piece.loan.0 + u64::from(piece.start);
        // SAFETY: within a frame of this producer; it is on loan, and who holds the loan writes no more.
        unsafe { self.frames.slice(address as usize, piece.len as usize) }
    }

    /// True when a piece lies in its frame and leaves the head room free.
    #[inline]
    fn is_sound(&self, piece: &Piece) -> bool {
        let end = u64::from(piece.start) + u64::from(piece.len);
        piece.start >= self.share.head_room && end <= u64::from(self.share.frame_size)
    }

    /// Sends the packet that lies in `pieces` to the queues whose bits are set in `targets`, and leaves a
    /// free frame in the place of each that was taken.
    #[inline]
    pub fn send_lent(&mut self, pieces: &mut [Piece], meta: &Meta, targets: u64) -> SendOutcome {
        if let [piece] = pieces
            && targets.is_power_of_two()
            && self.is_sound(piece)
            && let Some(outlet) = &mut self.outlets[targets.trailing_zeros() as usize]
            && outlet.prod < outlet.limit
        {
            let first = self.share.first_frame * u64::from(self.share.frame_size);
            let frame = first + piece.loan.0;
            let address = (frame + u64::from(piece.start)) as usize;
            piece.loan = Loan(outlet.cycle.exchange(outlet.prod, frame) - first);
            outlet.put(describe(&self.frames, address, piece.len as usize, meta));
            self.dirty |= targets;
            return SendOutcome { delivered: 1, dropped: 0 };
        }
        self.send_lent_chain(pieces, meta, targets)
    }

    #[cold]
    fn send_lent_chain(&mut self, pieces: &mut [Piece], meta: &Meta, targets: u64) -> SendOutcome {
        if pieces.len() > MAX_FRAGMENTS || !pieces.iter().all(|piece| self.is_sound(piece)) {
            self.count(targets & self.attached, |c| &c.no_frame);
            self.count(targets & !self.attached, |c| &c.no_consumer);
            return SendOutcome::of(targets, 0);
        }
        let takers = self.takers(targets, pieces.len() as u64);
        let last = pieces.len().saturating_sub(1);
        for (n, piece) in pieces.iter_mut().enumerate() {
            let more = if n < last { FrameFlags::MORE_FRAGMENTS } else { 0 };
            self.place_lent(takers, piece, meta, more);
        }
        for queue in bits(takers) {
            if let Some(outlet) = &mut self.outlets[queue] {
                outlet.chained += last as u64;
            }
        }
        SendOutcome::of(targets, takers)
    }

    /// Puts a filled frame into the rings of all `takers`, which have space.
    fn place_lent(&mut self, takers: u64, piece: &mut Piece, meta: &Meta, more: u16) {
        let first = self.first();
        let frame = first + piece.loan.0;
        let address = (frame + u64::from(piece.start)) as usize;
        let mut descriptor = describe(&self.frames, address, piece.len as usize, meta);
        descriptor.flags |= more;
        let entry = if takers.is_power_of_two() {
            frame
        } else {
            self.pool.share(frame, takers);
            frame | SHARED
        };
        let mut exchanged = None;
        for queue in bits(takers) {
            let Some(outlet) = &mut self.outlets[queue] else { continue };
            let own = outlet.cycle.exchange(outlet.prod, entry);
            outlet.put(descriptor);
            match exchanged {
                None => exchanged = Some(own),
                Some(_) => self.pool.put(own),
            }
        }
        if let Some(own) = exchanged {
            piece.loan = Loan(own - first);
        }
        self.dirty |= takers;
    }
}
