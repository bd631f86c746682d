//! A fast keyed hash for the small fixed-size keys of the packet path.
//!
//! Whoever can choose addresses and ports must not be able to choose table slots, so every table
//! draws its own key. The strength needed is that of a hash table, not of a MAC.

/// Key of one table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mixer {
    key: [u64; 2],
}

impl Mixer {
    pub(crate) const fn new(key: [u64; 2]) -> Self {
        // An even multiplier would lose high bits.
        Self { key: [key[0], key[1] | 1] }
    }

    pub(crate) fn random() -> Self {
        Self::new([rand::random(), rand::random()])
    }

    #[inline(always)]
    const fn fold(a: u64, b: u64) -> u64 {
        let wide = (a as u128).wrapping_mul(b as u128);
        wide as u64 ^ (wide >> 64) as u64
    }

    /// Hash of one word for a filter, in which a collision costs no more than a closer look.
    #[inline(always)]
    pub(crate) const fn word(&self, a: u64) -> u64 {
        Self::fold(a ^ self.key[0], self.key[1])
    }

    /// Hash of one word.
    #[inline(always)]
    pub(crate) const fn one(&self, a: u64) -> u64 {
        Self::fold(Self::fold(a ^ self.key[0], self.key[1]) ^ self.key[0], self.key[1])
    }

    /// Hash of two words.
    #[inline(always)]
    pub(crate) const fn two(&self, a: u64, b: u64) -> u64 {
        Self::fold(
            Self::fold(a ^ self.key[0], self.key[1]) ^ b,
            self.key[1] ^ 0x9e37_79b9_7f4a_7c15,
        )
    }

    /// Hash of four words.
    #[inline(always)]
    pub(crate) const fn four(&self, words: [u64; 4]) -> u64 {
        self.two(self.two(words[0], words[1]), self.two(words[2], words[3]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_spread_and_keys_matter() {
        let mixer = Mixer::new([0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3211]);
        let mut buckets = vec![0u32; 1024];
        for i in 0..65_536u64 {
            buckets[(mixer.two(i << 16, 0x01bb) >> 54) as usize] += 1;
        }
        let (least, most) = (buckets.iter().min(), buckets.iter().max());
        assert!(*least.unwrap() > 20 && *most.unwrap() < 130, "{least:?} {most:?}");
        let other = Mixer::new([1, 2]);
        assert_ne!(mixer.one(5), other.one(5));
        assert_ne!(mixer.four([1, 2, 3, 4]), mixer.four([1, 2, 4, 3]));
    }
}
