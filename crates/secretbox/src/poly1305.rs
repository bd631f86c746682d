//! Poly1305 (RFC 8439, 2.5), in limbs of 64 bits.

/// Length of a tag.
pub const TAG: usize = 16;

/// Accumulator: a number below 2^131 in three limbs, least significant first.
struct Accumulator {
    h: [u64; 3],
    /// The clamped multiplier, and its upper limb times 5/4: what overflows 2^130 comes back
    /// multiplied by 5, and clamping leaves the two bits free that the division by 4 needs.
    r: [u64; 2],
    s: u64,
}

/// The tag of `message` under a key that is used for no other message.
pub fn authenticate(key: &[u8; 32], message: &[u8]) -> [u8; TAG] {
    let [r0, r1, pad0, pad1] = words(key);
    let r = [r0 & 0x0fff_fffc_0fff_ffff, r1 & 0x0fff_fffc_0fff_fffc];
    let mut sum = Accumulator { h: [0; 3], r, s: r[1] + (r[1] >> 2) };
    let (blocks, rest) = message.as_chunks::<16>();
    for block in blocks {
        sum.block(block, 1);
    }
    if !rest.is_empty() {
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        last[rest.len()] = 1;
        sum.block(&last, 0);
    }
    let [h0, h1] = sum.reduced();
    let (low, carry) = h0.overflowing_add(pad0);
    let high = h1.wrapping_add(pad1).wrapping_add(u64::from(carry));
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

impl Accumulator {
    /// Adds a block, with `top` as its bit 128, and multiplies. Afterwards the upper limb is small.
    #[inline(always)]
    fn block(&mut self, block: &[u8; 16], top: u64) {
        let message = u128::from_le_bytes(*block);
        let low = u128::from(self.h[0]) + u128::from(message as u64);
        let high = u128::from(self.h[1]) + (message >> 64) + (low >> 64);
        let (h0, h1) = (low as u64, high as u64);
        let h2 = self.h[2] + top + (high >> 64) as u64;

        // The upper limb is below 8, and r below 2^60: no sum overflows.
        let [r0, r1] = self.r;
        let d0 = wide(h0, r0) + wide(h1, self.s);
        let d1 = wide(h0, r1) + wide(h1, r0) + wide(h2, self.s);
        let d2 = h2 * r0;

        let d1 = d1 + (d0 >> 64);
        let d2 = d2 + (d1 >> 64) as u64;
        // Above 2^130 every 1 counts 5: the part that is a multiple of 4, and its quarter.
        let back = u128::from((d2 >> 2) + (d2 & !3));
        let low = u128::from(d0 as u64) + back;
        let high = u128::from(d1 as u64) + (low >> 64);
        self.h = [low as u64, high as u64, (d2 & 3) + (high >> 64) as u64];
    }

    /// The accumulator modulo 2^130 - 5, without what lies beyond 128 bits.
    fn reduced(&self) -> [u64; 2] {
        let [h0, h1, h2] = self.h;
        // h + 5 reaches 2^130 exactly when h is not below the prime.
        let low = u128::from(h0) + 5;
        let high = u128::from(h1) + (low >> 64);
        let beyond = (h2 + (high >> 64) as u64) >> 2;
        // All ones when the prime has to be taken away once; twice is never needed.
        let mask = 0u64.wrapping_sub(u64::from(beyond != 0));
        [(low as u64 & mask) | (h0 & !mask), (high as u64 & mask) | (h1 & !mask)]
    }
}

#[inline(always)]
const fn wide(a: u64, b: u64) -> u128 {
    a as u128 * b as u128
}

fn words(key: &[u8; 32]) -> [u64; 4] {
    let (words, _) = key.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_le_bytes(words[at]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::poly1305::universal_hash::KeyInit;
    use proptest::prelude::*;

    fn expected(key: &[u8; 32], message: &[u8]) -> [u8; TAG] {
        ::poly1305::Poly1305::new(key.into()).compute_unpadded(message).into()
    }

    /// RFC 8439, 2.5.2.
    #[test]
    fn the_example_of_the_standard() {
        let key = [
            0x85, 0xd6, 0xbe, 0x78, 0x57, 0x55, 0x6d, 0x33, 0x7f, 0x44, 0x52, 0xfe, 0x42, 0xd5,
            0x06, 0xa8, 0x01, 0x03, 0x80, 0x8a, 0xfb, 0x0d, 0xb2, 0xfd, 0x4a, 0xbf, 0xf6, 0xaf,
            0x41, 0x49, 0xf5, 0x1b,
        ];
        let tag = [
            0xa8, 0x06, 0x1d, 0xc1, 0x30, 0x51, 0x36, 0xc6, 0xc2, 0x2b, 0x8b, 0xaf, 0x0c, 0x01,
            0x27, 0xa9,
        ];
        assert_eq!(authenticate(&key, b"Cryptographic Forum Research Group"), tag);
    }

    /// Sums at the edge of the prime and limbs that carry all the way.
    #[test]
    fn extreme_messages() {
        for r in [0, 1, 2, 4, 0xff] {
            for pad in [0, 0xff] {
                let key: [u8; 32] = std::array::from_fn(|at| if at < 16 { r } else { pad });
                let mut one = [0; 32];
                one[0] = r;
                for byte in [0, 0xfa, 0xfb, 0xfc, 0xfe, 0xff] {
                    for len in 0..200 {
                        let mut message = vec![0xff; len];
                        if let Some(first) = message.first_mut() {
                            *first = byte;
                        }
                        for key in [&key, &one] {
                            let tag = authenticate(key, &message);
                            assert_eq!(tag, expected(key, &message), "{r} {pad} {byte} {len}");
                        }
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn tags_are_those_of_another_implementation(
            key in any::<[u8; 32]>(),
            message in proptest::collection::vec(any::<u8>(), 0..1600),
        ) {
            prop_assert_eq!(authenticate(&key, &message), expected(&key, &message));
        }
    }
}
