//! Frames on loan from the producer, while the kernel or this side has them.

use shm::{Loan, Memory};

/// The frames that are not with the producer, one bit each.
#[derive(Debug)]
pub(super) struct Lent {
    bits: Vec<u64>,
    shift: u32,
}

impl Lent {
    pub(super) fn new(memory: &Memory) -> Self {
        let shift = memory.frame_size().trailing_zeros();
        Self { bits: vec![0; (memory.len() >> shift).div_ceil(64)], shift }
    }

    #[inline]
    pub(super) fn insert(&mut self, loan: Loan) -> u64 {
        let offset = loan.into_offset();
        let index = (offset >> self.shift) as usize;
        self.bits[index / 64] |= 1 << (index % 64);
        offset
    }

    /// The frame that `address` lies in, when it is here.
    #[inline]
    pub(super) fn remove(&mut self, address: u64) -> Option<(Loan, u32)> {
        let index = usize::try_from(address >> self.shift).ok()?;
        let (word, bit) = (self.bits.get_mut(index / 64)?, 1 << (index % 64));
        if *word & bit == 0 {
            return None;
        }
        *word &= !bit;
        let offset = (index as u64) << self.shift;
        // SAFETY: the frame was put in by `insert` and is taken out once; the kernel has handed it over, or
        // its sockets are closed.
        let loan = unsafe { Loan::from_offset(offset) };
        Some((loan, u32::try_from(address - offset).ok()?))
    }

    pub(super) fn remove_all(&mut self) -> Vec<Loan> {
        let all = (self.bits.len() * 64) as u64;
        (0..all).filter_map(|index| Some(self.remove(index << self.shift)?.0)).collect()
    }
}
