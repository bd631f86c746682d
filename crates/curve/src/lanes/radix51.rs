//! Eight lanes: five limbs of 51 bits each, and the multiply-add of 52-bit numbers that AVX-512 IFMA has.
//!
//! A limb is *tight* below 2^51 + 2^14; every operation takes tight limbs and gives tight limbs, and the
//! multiply-add takes numbers below 2^52.

/// Twice the prime, limb by limb: more than any tight limb.
const TWICE_PRIME: [u64; 5] =
    [(1 << 52) - 38, (1 << 52) - 2, (1 << 52) - 2, (1 << 52) - 2, (1 << 52) - 2];

/// The arithmetic, over the operations on vectors of the module that uses this.
macro_rules! arithmetic {
    ($(#[$attribute:meta])*) => {
        use super::TWICE_PRIME;
        use crate::lanes::{MASK, canonical, limbs};

        crate::lanes::ladder!(8; $(#[$attribute])*);
        crate::lanes::in_place!($(#[$attribute])*);

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

        $(#[$attribute])*
        #[inline]
        fn square_times(a: &Element, times: usize) -> Element {
            let mut r = *a;
            for _ in 0..times {
                r = square(&r);
            }
            r
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

        /// Sums and differences are settled already.
        $(#[$attribute])*
        #[inline]
        fn settle(a: &Element) -> Element {
            *a
        }
    };
}

/// Over plain integers.
pub(crate) mod plain {
    type Vector = [u64; 8];

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
