//! The visible half of each record's GCM nonce.

/// A keyed permutation of 64-bit numbers: Speck64/128 (Beaulieu et al., 2013).
///
/// Existing peers draw the eight explicit bytes at random. The record's number in its place, as most
/// libraries put it, would tell our records from theirs at a glance; a random draw would repeat one
/// day. A permutation of the number looks random and never repeats. Nothing secret depends on it.
#[derive(Clone)]
pub(crate) struct NonceSequence([u32; ROUNDS]);

const ROUNDS: usize = 27;

const fn round(x: u32, y: u32, key: u32) -> (u32, u32) {
    let x = x.rotate_right(8).wrapping_add(y) ^ key;
    (x, y.rotate_left(3) ^ x)
}

impl NonceSequence {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        let (words, _) = key.as_chunks::<4>();
        let mut a = u32::from_le_bytes(words[0]);
        let mut l = [words[1], words[2], words[3]].map(u32::from_le_bytes);
        let mut keys = [0; ROUNDS];
        for (i, slot) in keys.iter_mut().enumerate() {
            *slot = a;
            (l[i % 3], a) = round(l[i % 3], a, i as u32);
        }
        Self(keys)
    }

    /// The explicit nonce of record `number`.
    pub(crate) fn nonce(&self, number: u64) -> [u8; 8] {
        let (mut x, mut y) = ((number >> 32) as u32, number as u32);
        for &key in &self.0 {
            (x, y) = round(x, y, key);
        }
        (u64::from(x) << 32 | u64::from(y)).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vector_of_the_paper() {
        let mut key = [0; 16];
        for (chunk, word) in key.as_chunks_mut::<4>().0.iter_mut().zip([
            0x0302_0100u32,
            0x0b0a_0908,
            0x1312_1110,
            0x1b1a_1918,
        ]) {
            *chunk = word.to_le_bytes();
        }
        let nonce = NonceSequence::new(&key).nonce(0x3b72_6574_7475_432d);
        assert_eq!(u64::from_be_bytes(nonce), 0x8c6f_a548_454e_028b);
    }
}
