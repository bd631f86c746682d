//! Arithmetic modulo `p = 2^255 - 19` on five 51-bit limbs.
//!
//! Only the Elligator map needs it. Every value it handles is public, because a representative is
//! what a client sends in the clear, yet nothing here branches on a value.

use std::ops::{Add, Mul, Neg, Sub};

const LOW_51: u64 = (1 << 51) - 1;

/// An element of the field. Limbs stay below `2^52` between operations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element([u64; 5]);

impl Element {
    pub(crate) const ONE: Self = Self([1, 0, 0, 0, 0]);
    /// The curve constant `A` of Curve25519.
    pub(crate) const CURVE_A: Self = Self([486_662, 0, 0, 0, 0]);

    /// Reads 32 bytes, little-endian; bit 255 is ignored and the value is reduced.
    pub(crate) fn from_bytes(bytes: &[u8; 32]) -> Self {
        let word = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        Self([
            word(0) & LOW_51,
            word(6) >> 3 & LOW_51,
            word(12) >> 6 & LOW_51,
            word(19) >> 1 & LOW_51,
            word(24) >> 12 & LOW_51,
        ])
    }

    /// The canonical form, little-endian, below `p`.
    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut limbs = Self::carried(self.0).0;
        // The quotient by p is 0 or 1: it is what carries out of the top when 19 is added.
        let mut carry = (limbs[0] + 19) >> 51;
        for limb in &limbs[1..] {
            carry = (limb + carry) >> 51;
        }
        limbs[0] += 19 * carry;
        for i in 0..4 {
            limbs[i + 1] += limbs[i] >> 51;
            limbs[i] &= LOW_51;
        }
        limbs[4] &= LOW_51;
        let words = [
            limbs[0] | limbs[1] << 51,
            limbs[1] >> 13 | limbs[2] << 38,
            limbs[2] >> 26 | limbs[3] << 25,
            limbs[3] >> 39 | limbs[4] << 12,
        ];
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    pub(crate) fn is_zero(self) -> bool {
        self.to_bytes() == [0; 32]
    }

    /// Whether the canonical value is at most `(p - 1) / 2`.
    pub(crate) fn is_non_negative(self) -> bool {
        // Twice such a value is below p and therefore stays even.
        (self + self).to_bytes()[0] & 1 == 0
    }

    const fn carried(mut limbs: [u64; 5]) -> Self {
        let mut i = 0;
        while i < 4 {
            limbs[i + 1] += limbs[i] >> 51;
            limbs[i] &= LOW_51;
            i += 1;
        }
        limbs[0] += 19 * (limbs[4] >> 51);
        limbs[4] &= LOW_51;
        limbs[1] += limbs[0] >> 51;
        limbs[0] &= LOW_51;
        Self(limbs)
    }

    #[inline(always)]
    fn reduced(mut wide: [u128; 5]) -> Self {
        let mut limbs = [0; 5];
        for i in 0..4 {
            wide[i + 1] += wide[i] >> 51;
            limbs[i] = wide[i] as u64 & LOW_51;
        }
        limbs[4] = wide[4] as u64 & LOW_51;
        limbs[0] += 19 * (wide[4] >> 51) as u64;
        limbs[1] += limbs[0] >> 51;
        limbs[0] &= LOW_51;
        Self(limbs)
    }

    #[inline(always)]
    pub(crate) fn square(self) -> Self {
        let [a0, a1, a2, a3, a4] = self.0;
        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let (d0, d1, d2, a4_19) = (2 * a0, 2 * a1, 2 * a2, 19 * a4);
        let a3_19 = 19 * a3;
        Self::reduced([
            wide(a0, a0) + wide(d1, a4_19) + wide(d2, a3_19),
            wide(a3, a3_19) + wide(d0, a1) + wide(d2, a4_19),
            wide(a1, a1) + wide(d0, a2) + wide(2 * a3, a4_19),
            wide(a4, a4_19) + wide(d0, a3) + wide(d1, a2),
            wide(a2, a2) + wide(d0, a4) + wide(d1, a3),
        ])
    }

    /// `self^((p - 5) / 8)`, that is `self^(2^252 - 3)`.
    pub(crate) fn pow_p58(self) -> Self {
        let [power] = Self::pow_p58_all([self]);
        power
    }

    /// [`Element::pow_p58`] of each: a chain of squares waits for every one of them, and a second chain fills
    /// the time.
    pub(crate) fn pow_p58_all<const N: usize>(x: [Self; N]) -> [Self; N] {
        let times = |a: [Self; N], b: [Self; N]| std::array::from_fn(|i| a[i] * b[i]);
        let squared = |mut x: [Self; N], count: usize| {
            for _ in 0..count {
                for x in &mut x {
                    *x = x.square();
                }
            }
            x
        };
        let x2 = squared(x, 1);
        let x9 = times(squared(x2, 2), x);
        let x11 = times(x9, x2);
        let ones_5 = times(squared(x11, 1), x9);
        let ones_10 = times(squared(ones_5, 5), ones_5);
        let ones_20 = times(squared(ones_10, 10), ones_10);
        let ones_40 = times(squared(ones_20, 20), ones_20);
        let ones_50 = times(squared(ones_40, 10), ones_10);
        let ones_100 = times(squared(ones_50, 50), ones_50);
        let ones_200 = times(squared(ones_100, 100), ones_100);
        let ones_250 = times(squared(ones_200, 50), ones_50);
        times(squared(ones_250, 2), x)
    }

    /// Square root of `numerator / denominator`, `None` when it has none; zero for `0 / x`.
    pub(crate) fn sqrt_ratio(numerator: Self, denominator: Self) -> Option<Self> {
        let v3 = denominator.square() * denominator;
        let v7 = v3.square() * denominator;
        let root = numerator * v3 * (numerator * v7).pow_p58();
        let check = denominator * root.square();
        if (check - numerator).is_zero() {
            Some(root)
        } else if (check + numerator).is_zero() {
            Some(root * Self::sqrt_minus_one())
        } else {
            None
        }
    }

    /// `2^((p - 1) / 4)`, a square root of -1.
    fn sqrt_minus_one() -> Self {
        Self([
            0x6_1b27_4a0e_a0b0,
            0xd5a5_fc8f_189d,
            0x7_ef5e_9cbd_0c60,
            0x7_8595_a680_4c9e,
            0x2_b832_4804_fc1d,
        ])
    }

    /// `condition` must be 0 or 1; 1 picks `other`.
    pub(crate) fn select(self, other: Self, condition: u8) -> Self {
        let mask = u64::from(condition).wrapping_neg();
        let mut limbs = self.0;
        for (limb, theirs) in limbs.iter_mut().zip(other.0) {
            *limb ^= (*limb ^ theirs) & mask;
        }
        Self(limbs)
    }
}

impl Add for Element {
    type Output = Self;
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        let mut limbs = self.0;
        for (limb, theirs) in limbs.iter_mut().zip(other.0) {
            *limb += theirs;
        }
        Self::carried(limbs)
    }
}

impl Sub for Element {
    type Output = Self;
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        // 4p keeps every limb above zero.
        const FOUR_P: [u64; 5] =
            [4 * (LOW_51 - 18), 4 * LOW_51, 4 * LOW_51, 4 * LOW_51, 4 * LOW_51];
        let mut limbs = [0; 5];
        for i in 0..5 {
            limbs[i] = self.0[i] + FOUR_P[i] - other.0[i];
        }
        Self::carried(limbs)
    }
}

impl Neg for Element {
    type Output = Self;
    fn neg(self) -> Self {
        Self([0; 5]) - self
    }
}

impl Mul for Element {
    type Output = Self;
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        let [a0, a1, a2, a3, a4] = self.0;
        let [b0, b1, b2, b3, b4] = other.0;
        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let (b1_19, b2_19, b3_19, b4_19) = (19 * b1, 19 * b2, 19 * b3, 19 * b4);
        Self::reduced([
            wide(a0, b0) + wide(a4, b1_19) + wide(a3, b2_19) + wide(a2, b3_19) + wide(a1, b4_19),
            wide(a1, b0) + wide(a0, b1) + wide(a4, b2_19) + wide(a3, b3_19) + wide(a2, b4_19),
            wide(a2, b0) + wide(a1, b1) + wide(a0, b2) + wide(a4, b3_19) + wide(a3, b4_19),
            wide(a3, b0) + wide(a2, b1) + wide(a1, b2) + wide(a0, b3) + wide(a4, b4_19),
            wide(a4, b0) + wide(a3, b1) + wide(a2, b2) + wide(a1, b3) + wide(a0, b4),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn element() -> impl Strategy<Value = Element> {
        any::<[u8; 32]>().prop_map(|bytes| Element::from_bytes(&bytes))
    }

    #[test]
    fn the_root_of_minus_one() {
        let i = Element::sqrt_minus_one();
        assert!((i.square() + Element::ONE).is_zero());
    }

    #[test]
    fn values_at_and_above_p_are_reduced() {
        let mut p = [0xff; 32];
        (p[0], p[31]) = (0xed, 0x7f);
        assert!(Element::from_bytes(&p).is_zero());
        p[0] = 0xee;
        assert_eq!(Element::from_bytes(&p).to_bytes(), Element::ONE.to_bytes());
        assert_eq!(Element::from_bytes(&[0xff; 32]).to_bytes()[0], 18);
    }

    proptest! {
        #[test]
        fn a_ring(a in element(), b in element(), c in element()) {
            prop_assert_eq!(((a + b) * c).to_bytes(), (a * c + b * c).to_bytes());
            prop_assert_eq!(((a - b) * c).to_bytes(), (a * c - b * c).to_bytes());
            prop_assert_eq!((a * b).to_bytes(), (b * a).to_bytes());
            prop_assert_eq!(a.square().to_bytes(), (a * a).to_bytes());
            prop_assert!((a + -a).is_zero());
        }

        #[test]
        fn inverses(a in element()) {
            prop_assume!(!a.is_zero());
            // a^(p-2) = (a^((p-5)/8))^8 a^3
            let inverse = a.pow_p58().square().square().square() * a * a.square();
            prop_assert_eq!((inverse * a).to_bytes(), Element::ONE.to_bytes());
        }

        #[test]
        fn roots_square_back(a in element(), b in element()) {
            prop_assume!(!b.is_zero());
            let square = a.square();
            let root = Element::sqrt_ratio(square * b, b).unwrap();
            prop_assert_eq!(root.square().to_bytes(), square.to_bytes());
            if !a.is_zero() {
                prop_assert!(Element::sqrt_ratio(square + square, Element::ONE).is_none());
            }
        }
    }
}
