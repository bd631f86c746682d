//! Arithmetic modulo 2^255 - 19 in eight lanes, and what is made of it.
//!
//! An element is five limbs of 51 bits, each a vector of eight lanes. A limb is *tight* below 2^51 + 2^14;
//! every operation takes tight limbs and gives tight limbs, and the multiply-add takes numbers below 2^52.

use crate::Bytes;

const MASK: u64 = (1 << 51) - 1;
/// Twice the prime, limb by limb: more than any tight limb.
const TWICE_PRIME: [u64; 5] =
    [(1 << 52) - 38, (1 << 52) - 2, (1 << 52) - 2, (1 << 52) - 2, (1 << 52) - 2];
/// A of the curve.
const CURVE_A: u64 = 486_662;
/// (A - 2) / 4.
const A24: u64 = 121_665;

/// The five limbs of 255 bits.
fn limbs(bytes: &Bytes) -> [u64; 5] {
    let word = |at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(eight)
    };
    [
        word(0) & MASK,
        word(6) >> 3 & MASK,
        word(12) >> 6 & MASK,
        word(19) >> 1 & MASK,
        word(24) >> 12 & MASK,
    ]
}

/// The one number below the prime that tight limbs stand for.
fn canonical(limbs: [u64; 5]) -> Bytes {
    let mut l = limbs;
    // Two rounds bring the limbs below 2^51, but for a value between the prime and 2^255.
    for _ in 0..2 {
        for i in 0..5 {
            let carry = l[i] >> 51;
            l[i] &= MASK;
            if i == 4 { l[0] += 19 * carry } else { l[i + 1] += carry }
        }
    }
    // 1 when the value is at least the prime.
    let mut quotient = (l[0] + 19) >> 51;
    for limb in &l[1..] {
        quotient = (limb + quotient) >> 51;
    }
    l[0] += 19 * quotient;
    let mut carry = 0;
    for limb in &mut l {
        *limb += carry;
        carry = *limb >> 51;
        *limb &= MASK;
    }
    let words = [
        l[0] | l[1] << 51,
        l[1] >> 13 | l[2] << 38,
        l[2] >> 26 | l[3] << 25,
        l[3] >> 39 | l[4] << 12,
    ];
    let mut bytes = [0; 32];
    for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The scalar as X25519 uses it, bit 254 first, one byte for each bit.
fn bits(scalar: &Bytes) -> [u8; 255] {
    let mut clamped = *scalar;
    clamped[0] &= 248;
    clamped[31] &= 127;
    clamped[31] |= 64;
    let bits = std::array::from_fn(|i| clamped[(254 - i) / 8] >> ((254 - i) % 8) & 1);
    zeroize::Zeroize::zeroize(&mut clamped);
    bits
}

/// The code, for one kind of vector: its operations come from `super`-visible functions of the module that
/// this is used in, each with the attributes given.
macro_rules! arithmetic {
    ($(#[$attribute:meta])*) => {
        use super::{A24, CURVE_A, MASK, TWICE_PRIME, bits, canonical, limbs};
        use crate::{Bytes, LANES};
        use zeroize::Zeroize;

        type Element = [Vector; 5];

        $(#[$attribute])*
        #[inline]
        fn constant(value: u64) -> Element {
            let zero = splat(0);
            [splat(value), zero, zero, zero, zero]
        }

        $(#[$attribute])*
        #[inline]
        fn load(bytes: &[Bytes; LANES]) -> Element {
            let lanes: [[u64; 5]; LANES] = std::array::from_fn(|lane| limbs(&bytes[lane]));
            let limb = |i: usize| -> [u64; LANES] { std::array::from_fn(|lane| lanes[lane][i]) };
            [vector(limb(0)), vector(limb(1)), vector(limb(2)), vector(limb(3)), vector(limb(4))]
        }

        $(#[$attribute])*
        #[inline]
        fn store(element: &Element, bytes: &mut [Bytes; LANES]) {
            let [a, b, c, d, e] = *element;
            let limbs = [array(a), array(b), array(c), array(d), array(e)];
            for (lane, bytes) in bytes.iter_mut().enumerate() {
                *bytes = canonical(std::array::from_fn(|i| limbs[i][lane]));
            }
        }

        /// Brings limbs below 2^61 to tight ones.
        $(#[$attribute])*
        #[inline]
        fn tighten(r: Element) -> Element {
            let mask = splat(MASK);
            let [c0, c1, c2, c3, c4] = [over(r[0]), over(r[1]), over(r[2]), over(r[3]), over(r[4])];
            [
                add(and(r[0], mask), times_19(c4)),
                add(and(r[1], mask), c0),
                add(and(r[2], mask), c1),
                add(and(r[3], mask), c2),
                add(and(r[4], mask), c3),
            ]
        }

        $(#[$attribute])*
        #[inline]
        fn times_19(v: Vector) -> Vector {
            add(add(double(v), v), shift_left_4(v))
        }

        $(#[$attribute])*
        #[inline]
        fn plus(a: &Element, b: &Element) -> Element {
            tighten([
                add(a[0], b[0]),
                add(a[1], b[1]),
                add(a[2], b[2]),
                add(a[3], b[3]),
                add(a[4], b[4]),
            ])
        }

        $(#[$attribute])*
        #[inline]
        fn minus(a: &Element, b: &Element) -> Element {
            let p = TWICE_PRIME;
            tighten([
                add(a[0], sub(splat(p[0]), b[0])),
                add(a[1], sub(splat(p[1]), b[1])),
                add(a[2], sub(splat(p[2]), b[2])),
                add(a[3], sub(splat(p[3]), b[3])),
                add(a[4], sub(splat(p[4]), b[4])),
            ])
        }

        /// Folds the nine columns of a product: the low halves of its terms, and the high ones, which weigh
        /// 2^52 and so twice as much as a limb more.
        $(#[$attribute])*
        #[inline]
        fn fold(lo: &[Vector; 9], hi: &[Vector; 9]) -> Element {
            let z5 = add(lo[5], double(hi[4]));
            let z6 = add(lo[6], double(hi[5]));
            let z7 = add(lo[7], double(hi[6]));
            let z8 = add(lo[8], double(hi[7]));
            let z9 = double(hi[8]);
            tighten([
                add(lo[0], times_19(z5)),
                add(add(lo[1], double(hi[0])), times_19(z6)),
                add(add(lo[2], double(hi[1])), times_19(z7)),
                add(add(lo[3], double(hi[2])), times_19(z8)),
                add(add(lo[4], double(hi[3])), times_19(z9)),
            ])
        }

        $(#[$attribute])*
        #[inline]
        fn times(a: &Element, b: &Element) -> Element {
            let zero = splat(0);
            let (mut lo, mut hi) = ([zero; 9], [zero; 9]);
            for i in 0..5 {
                for j in 0..5 {
                    lo[i + j] = multiply_add_low(lo[i + j], a[i], b[j]);
                    hi[i + j] = multiply_add_high(hi[i + j], a[i], b[j]);
                }
            }
            fold(&lo, &hi)
        }

        $(#[$attribute])*
        #[inline]
        fn square(a: &Element) -> Element {
            let zero = splat(0);
            let (mut lo, mut hi) = ([zero; 9], [zero; 9]);
            // Each product of two different limbs counts twice.
            for i in 0..5 {
                for j in i + 1..5 {
                    lo[i + j] = multiply_add_low(lo[i + j], a[i], a[j]);
                    hi[i + j] = multiply_add_high(hi[i + j], a[i], a[j]);
                }
            }
            for column in 1..8 {
                lo[column] = double(lo[column]);
                hi[column] = double(hi[column]);
            }
            for i in 0..5 {
                lo[2 * i] = multiply_add_low(lo[2 * i], a[i], a[i]);
                hi[2 * i] = multiply_add_high(hi[2 * i], a[i], a[i]);
            }
            fold(&lo, &hi)
        }

        /// The product with a number below 2^20.
        $(#[$attribute])*
        #[inline]
        fn times_small(a: &Element, small: u64) -> Element {
            let (zero, small) = (splat(0), splat(small));
            let (mut lo, mut hi) = ([zero; 5], [zero; 5]);
            for i in 0..5 {
                lo[i] = multiply_add_low(zero, a[i], small);
                hi[i] = double(multiply_add_high(zero, a[i], small));
            }
            tighten([
                add(lo[0], times_19(hi[4])),
                add(lo[1], hi[0]),
                add(lo[2], hi[1]),
                add(lo[3], hi[2]),
                add(lo[4], hi[3]),
            ])
        }

        $(#[$attribute])*
        #[inline]
        fn square_times(a: &Element, times: usize) -> Element {
            let mut r = *a;
            for _ in 0..times {
                r = square(&r);
            }
            r
        }

        /// `a` to the power 2^250 - 1, and to the power 11.
        $(#[$attribute])*
        #[inline]
        fn power_250(a: &Element) -> (Element, Element) {
            let a2 = square(a);
            let a9 = times(&square_times(&a2, 2), a);
            let a11 = times(&a9, &a2);
            let p5 = times(&square(&a11), &a9);
            let p10 = times(&square_times(&p5, 5), &p5);
            let p20 = times(&square_times(&p10, 10), &p10);
            let p40 = times(&square_times(&p20, 20), &p20);
            let p50 = times(&square_times(&p40, 10), &p10);
            let p100 = times(&square_times(&p50, 50), &p50);
            let p200 = times(&square_times(&p100, 100), &p100);
            (times(&square_times(&p200, 50), &p50), a11)
        }

        /// The inverse; that of 0 is 0.
        $(#[$attribute])*
        #[inline]
        fn inverse(a: &Element) -> Element {
            let (p250, a11) = power_250(a);
            times(&square_times(&p250, 5), &a11)
        }

        /// `a` to the power (p - 5) / 8.
        $(#[$attribute])*
        #[inline]
        fn power_p58(a: &Element) -> Element {
            let (p250, _) = power_250(a);
            times(&square_times(&p250, 2), a)
        }

        /// `b` in the lanes where `mask` is all ones, `a` in those where it is 0.
        $(#[$attribute])*
        #[inline]
        fn select(mask: Vector, a: &Element, b: &Element) -> Element {
            let pick = |i: usize| xor(a[i], and(mask, xor(a[i], b[i])));
            [pick(0), pick(1), pick(2), pick(3), pick(4)]
        }

        /// `X25519(scalar, point)` for every point, in place.
        $(#[$attribute])*
        pub(crate) fn multiply(scalar: &Bytes, points: &mut [Bytes; LANES]) {
            let mut bits = bits(scalar);
            let x1 = load(points);
            let (mut x2, mut z2) = (constant(1), constant(0));
            let (mut x3, mut z3) = (x1, constant(1));
            let mut swapped = 0;
            for bit in bits {
                // The same in every lane, and no branch: the scalar is secret.
                let mask = splat(0u64.wrapping_sub(u64::from(swapped ^ bit)));
                swapped = bit;
                (x2, x3) = (select(mask, &x2, &x3), select(mask, &x3, &x2));
                (z2, z3) = (select(mask, &z2, &z3), select(mask, &z3, &z2));
                let (a, b) = (plus(&x2, &z2), minus(&x2, &z2));
                let (c, d) = (plus(&x3, &z3), minus(&x3, &z3));
                let (aa, bb) = (square(&a), square(&b));
                let (da, cb) = (times(&d, &a), times(&c, &b));
                let e = minus(&aa, &bb);
                x3 = square(&plus(&da, &cb));
                z3 = times(&x1, &square(&minus(&da, &cb)));
                x2 = times(&aa, &bb);
                z2 = times(&e, &plus(&aa, &times_small(&e, A24)));
            }
            // The last bit of a clamped scalar is 0, so that nothing is left to swap.
            store(&times(&x2, &inverse(&z2)), points);
            bits.zeroize();
        }

        /// The u-coordinates of Elligator 2 representatives, in place.
        $(#[$attribute])*
        pub(crate) fn decode(representatives: &mut [Bytes; LANES]) {
            const FREE_BITS: u8 = 0xc0;
            for bytes in representatives.iter_mut() {
                bytes[31] &= !FREE_BITS;
            }
            let (zero, one) = (constant(0), constant(1));
            let r = load(representatives);
            let r2 = square(&r);
            // With v = -A/d the curve equation is N/d^3 at v, whose quadratic character is that of N d. One
            // exponentiation of N d gives both that character and 1/d.
            let d = plus(&one, &plus(&r2, &r2));
            let a = constant(CURVE_A);
            let a2 = square(&a);
            let n = minus(&zero, &times(&a, &plus(&minus(&a2, &times(&a2, &d)), &square(&d))));
            let x = times(&n, &d);
            let s = power_p58(&x);
            let s4 = square_times(&s, 2);
            let x2 = square(&x);
            let character = times(&s4, &x2);
            let inverse_d = times(&times(&n, &square(&s4)), &times(&x2, &x));
            let v = minus(&zero, &times(&a, &inverse_d));
            let other = minus(&minus(&zero, &v), &a);
            let mut kept = [[0; 32]; LANES];
            store(&character, &mut kept);
            let square_lanes = kept.map(|bytes| {
                let mut one = [0; 32];
                one[0] = 1;
                if bytes == one { u64::MAX } else { 0 }
            });
            store(&select(vector(square_lanes), &other, &v), representatives);
        }
    };
}

/// Over plain integers.
pub(crate) mod plain {
    type Vector = [u64; LANES];

    fn each(f: impl Fn(usize) -> u64) -> Vector {
        std::array::from_fn(f)
    }

    fn splat(value: u64) -> Vector {
        [value; LANES]
    }

    fn vector(lanes: [u64; LANES]) -> Vector {
        lanes
    }

    fn array(v: Vector) -> [u64; LANES] {
        v
    }

    fn add(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] + b[i])
    }

    fn sub(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] - b[i])
    }

    fn and(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] & b[i])
    }

    fn xor(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] ^ b[i])
    }

    /// What is above 51 bits.
    fn over(a: Vector) -> Vector {
        each(|i| a[i] >> 51)
    }

    fn double(a: Vector) -> Vector {
        add(a, a)
    }

    fn shift_left_4(a: Vector) -> Vector {
        each(|i| {
            assert!(a[i] < 1 << 60);
            a[i] << 4
        })
    }

    fn product(a: u64, b: u64) -> u128 {
        assert!(a < 1 << 52 && b < 1 << 52, "a limb is not tight");
        u128::from(a) * u128::from(b)
    }

    fn multiply_add_low(c: Vector, a: Vector, b: Vector) -> Vector {
        each(|i| c[i] + (product(a[i], b[i]) as u64 & ((1 << 52) - 1)))
    }

    fn multiply_add_high(c: Vector, a: Vector, b: Vector) -> Vector {
        each(|i| c[i] + (product(a[i], b[i]) >> 52) as u64)
    }

    arithmetic!();
}

/// Over the registers of AVX-512.
#[cfg(target_arch = "x86_64")]
pub(crate) mod ifma {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
        _mm512_set1_epi64, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_sub_epi64,
        _mm512_xor_si512,
    };

    type Vector = __m512i;

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn splat(value: u64) -> Vector {
        _mm512_set1_epi64(value.cast_signed())
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn vector(lanes: [u64; LANES]) -> Vector {
        // SAFETY: both are 64 bytes without invalid values.
        unsafe { std::mem::transmute(lanes) }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn array(v: Vector) -> [u64; LANES] {
        // SAFETY: both are 64 bytes without invalid values.
        unsafe { std::mem::transmute(v) }
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn add(a: Vector, b: Vector) -> Vector {
        _mm512_add_epi64(a, b)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn sub(a: Vector, b: Vector) -> Vector {
        _mm512_sub_epi64(a, b)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn and(a: Vector, b: Vector) -> Vector {
        _mm512_and_si512(a, b)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn xor(a: Vector, b: Vector) -> Vector {
        _mm512_xor_si512(a, b)
    }

    /// What is above 51 bits.
    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn over(a: Vector) -> Vector {
        _mm512_srli_epi64::<51>(a)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn double(a: Vector) -> Vector {
        _mm512_add_epi64(a, a)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn shift_left_4(a: Vector) -> Vector {
        _mm512_slli_epi64::<4>(a)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn multiply_add_low(c: Vector, a: Vector, b: Vector) -> Vector {
        _mm512_madd52lo_epu64(c, a, b)
    }

    #[target_feature(enable = "avx512f,avx512ifma")]
    #[inline]
    fn multiply_add_high(c: Vector, a: Vector, b: Vector) -> Vector {
        _mm512_madd52hi_epu64(c, a, b)
    }

    arithmetic!(#[target_feature(enable = "avx512f,avx512ifma")]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kernel, LANES};
    use proptest::prelude::*;

    /// The kernels of this processor; the one over plain integers checks the bounds of every limb.
    fn kernels() -> Vec<Kernel> {
        let kernels: Vec<_> = [Kernel::Plain, Kernel::Ifma]
            .into_iter()
            .filter(|kernel| kernel.is_available())
            .collect();
        println!("measured kernels: {kernels:?}");
        kernels
    }

    /// Encodings that hit every carry.
    fn edges() -> Vec<Bytes> {
        let mut prime: Bytes = [0xff; 32];
        prime[0] = 0xed;
        prime[31] = 0x7f;
        // The prime, and numbers near it: only the lowest byte differs.
        let near = |delta: i8| -> Bytes {
            let mut bytes = prime;
            bytes[0] = 0xed_u8.wrapping_add_signed(delta);
            bytes
        };
        let mut nine = [0; 32];
        nine[0] = 9;
        let mut one = [0; 32];
        one[0] = 1;
        vec![[0; 32], one, nine, near(-1), near(0), near(1), near(18), [0xff; 32], [0x7f; 32]]
    }

    fn lanes_of(points: &[Bytes]) -> [Bytes; LANES] {
        std::array::from_fn(|i| points[i % points.len()])
    }

    #[test]
    fn limbs_and_back() {
        for bytes in edges() {
            let mut expected = bytes;
            expected[31] &= 0x7f;
            let value = canonical(limbs(&bytes));
            assert_eq!(canonical(limbs(&value)), value);
            let is_small = expected[31] < 0x7f || expected[1..31].iter().any(|byte| *byte != 0xff);
            assert!(!is_small || value == expected);
        }
        assert_eq!(canonical([(MASK + 1) << 1, 0, 0, 0, 0])[6], 0b0001_0000);
        assert_eq!(canonical([(1 << 51) - 19, MASK, MASK, MASK, MASK]), [0; 32]);
        let tight = (1 << 51) + (1 << 14) - 1;
        assert_eq!(canonical([tight; 5]), canonical(limbs(&canonical([tight; 5]))));
    }

    #[test]
    fn edges_multiply_as_elsewhere() {
        for kernel in kernels() {
            for scalar in edges() {
                for points in edges().chunks(LANES) {
                    let mut lanes = lanes_of(points);
                    let expected = lanes.map(|point| x25519_dalek::x25519(scalar, point));
                    kernel.multiply(&scalar, &mut lanes);
                    assert_eq!(lanes, expected, "{kernel:?}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn points_multiply_as_elsewhere(scalar: Bytes, points: [Bytes; LANES]) {
            let expected = points.map(|point| x25519_dalek::x25519(scalar, point));
            for kernel in kernels() {
                let mut lanes = points;
                kernel.multiply(&scalar, &mut lanes);
                prop_assert_eq!(lanes, expected);
            }
        }

        #[test]
        fn kernels_decode_alike(representatives: [Bytes; LANES]) {
            let mut expected = representatives;
            Kernel::Plain.decode(&mut expected);
            for kernel in kernels() {
                let mut lanes = representatives;
                kernel.decode(&mut lanes);
                prop_assert_eq!(lanes, expected);
            }
        }
    }
}
