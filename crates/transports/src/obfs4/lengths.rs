//! The distributions from which burst lengths and pauses are drawn (`spec/transports.md` 7.6).

use super::{Drbg, SEED_LEN, frame::MAX_SEGMENT, uniform};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::time::Duration;

/// Most values that a table holds.
const MOST_VALUES: u32 = 100;
/// Longest pause, in steps of 100 microseconds.
const LONGEST_PAUSE: u16 = 100;

/// One value of a table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: u16,
    /// Index of the entry that is drawn instead of this one.
    pub alias: u16,
    /// Chance that this one is kept.
    pub keep: f64,
}

/// A weighted table of a few values, drawn by the alias method.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    entries: Box<[Entry]>,
}

impl Distribution {
    /// The table over burst lengths, `0..=1448` bytes, that `seed` stands for.
    pub fn lengths(seed: &[u8; SEED_LEN]) -> Self {
        Self::over(MAX_SEGMENT as u16, seed)
    }

    /// The table over pauses that a client keeps to, in steps of 100 microseconds, that goes with
    /// the length table of `seed`.
    pub fn pauses(seed: &[u8; SEED_LEN]) -> Self {
        let digest: [u8; 32] = Sha256::digest(seed).into();
        Self::over(LONGEST_PAUSE, digest.first_chunk().expect("a digest is longer than a seed"))
    }

    fn over(max: u16, seed: &[u8; SEED_LEN]) -> Self {
        let mut drbg = Drbg::new(seed);
        let mut values = drbg.permutation(usize::from(max) + 1);
        let count = drbg.int(MOST_VALUES) as usize + 1;
        values.truncate(count);
        let weights: Vec<f64> = values.iter().map(|_| drbg.unit()).collect();
        Self::weighted(&values, &weights)
    }

    /// Vose's construction; the work lists are first in, first out.
    fn weighted(values: &[u16], weights: &[f64]) -> Self {
        let sum: f64 = weights.iter().sum();
        let count = weights.len() as f64;
        let mut scaled: Vec<f64> = weights.iter().map(|weight| weight * count / sum).collect();
        let mut entries: Box<[Entry]> =
            values.iter().map(|&value| Entry { value, alias: 0, keep: 1.0 }).collect();
        let (mut small, mut large): (VecDeque<usize>, VecDeque<usize>) =
            (0..scaled.len()).partition(|&i| scaled[i] < 1.0);
        while let (Some(&less), Some(&more)) = (small.front(), large.front()) {
            small.pop_front();
            large.pop_front();
            entries[less].keep = scaled[less];
            entries[less].alias = more as u16;
            scaled[more] = (scaled[more] + scaled[less]) - 1.0;
            if scaled[more] < 1.0 { &mut small } else { &mut large }.push_back(more);
        }
        Self { entries }
    }

    /// The table.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Draws a value.
    pub fn sample<R: CryptoRng + ?Sized>(&self, rng: &mut R) -> u16 {
        let entry = self.entries[uniform(self.entries.len() as u32 - 1, rng) as usize];
        let unit = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        if unit < entry.keep { entry.value } else { self.entries[usize::from(entry.alias)].value }
    }

    /// Draws a pause.
    pub(super) fn sample_pause<R: CryptoRng + ?Sized>(&self, rng: &mut R) -> Duration {
        Duration::from_micros(100) * u32::from(self.sample(rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};

    #[test]
    fn samples_follow_the_weights() {
        let table = Distribution::weighted(&[10, 20, 30], &[1.0, 2.0, 5.0]);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut counts = [0u32; 3];
        for _ in 0..80_000 {
            counts[usize::from(table.sample(&mut rng) / 10 - 1)] += 1;
        }
        for (count, expected) in counts.into_iter().zip([10_000, 20_000, 50_000]) {
            assert!(count.abs_diff(expected) < 800, "{counts:?}");
        }
    }

    #[test]
    fn tables_stay_within_their_range() {
        for byte in 0..50 {
            let lengths = Distribution::lengths(&[byte; 24]);
            assert!((1..=100).contains(&lengths.entries().len()));
            assert!(lengths.entries().iter().all(|entry| entry.value <= 1448));
            let pauses = Distribution::pauses(&[byte; 24]);
            assert!(pauses.entries().iter().all(|entry| entry.value <= 100));
        }
    }
}
