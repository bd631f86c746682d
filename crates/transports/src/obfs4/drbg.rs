//! The generator behind hidden lengths and length tables (`spec/transports.md` 7.6).

use super::SEED_LEN;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// SipHash-2-4 of everything it has put out so far, block after block.
#[derive(Clone)]
pub struct Drbg {
    // The message is never reset, so the hasher's running state stands for all of it.
    history: SipHasher24,
    last: [u8; 8],
}

impl Drbg {
    /// A generator at its start.
    pub fn new(seed: &[u8; SEED_LEN]) -> Self {
        let (key, last) = seed.split_first_chunk().expect("the seed has 24 bytes");
        let last = last.try_into().expect("the seed has 24 bytes");
        Self { history: SipHasher24::new_with_key(key), last }
    }

    /// The next block.
    pub fn block(&mut self) -> [u8; 8] {
        self.history.write(&self.last);
        self.last = self.history.finish().to_le_bytes();
        self.last
    }

    /// The next mask of a frame length.
    pub(super) fn mask(&mut self) -> u16 {
        let [high, low, ..] = self.block();
        u16::from_be_bytes([high, low])
    }

    fn int63(&mut self) -> u64 {
        u64::from_be_bytes(self.block()) & (u64::MAX >> 1)
    }

    /// A uniform integer in `0..n`; `n` is at least 1 and at most 2^31 - 1.
    pub fn int(&mut self, n: u32) -> u32 {
        debug_assert!((1..1 << 31).contains(&n));
        let limit = (1u32 << 31) - 1 - (1u32 << 31) % n;
        loop {
            let drawn = (self.int63() >> 32) as u32;
            if n.is_power_of_two() {
                return drawn & (n - 1);
            }
            if drawn <= limit {
                return drawn % n;
            }
        }
    }

    /// A number in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        loop {
            let drawn = self.int63() as f64 / (1u64 << 63) as f64;
            if drawn < 1.0 {
                return drawn;
            }
        }
    }

    /// A permutation of `0..n`; `n` is at most 65,536.
    pub fn permutation(&mut self, n: usize) -> Vec<u16> {
        let mut values = vec![0; n];
        for i in 0..n {
            let j = self.int(i as u32 + 1) as usize;
            values[i] = values[j];
            values[j] = i as u16;
        }
        values
    }
}

impl std::fmt::Debug for Drbg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Drbg(_)")
    }
}
