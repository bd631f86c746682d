//! Arithmetic modulo 2^255 - 19 in several lanes, and what is made of it.

pub(crate) mod radix25;
pub(crate) mod radix51;

use crate::Bytes;

/// Most scalars whose multiplications share an inversion.
pub(crate) const SHARING: usize = 4;
/// A of the curve.
const CURVE_A: u64 = 486_662;
/// (A - 2) / 4.
const A24: u64 = 121_665;
const MASK: u64 = (1 << 51) - 1;

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

/// X25519 and Elligator over the `Element`s of the module that uses this, and its functions `constant`, `load`,
/// `store`, `settle`, `plus`, `minus`, `times`, `square`, `set_times`, `set_square`, `square_times`, `times_small`, `splat`,
/// `vector`, `and` and `xor`.
///
/// Sums and differences need not be settled before they are multiplied; sums of sums do.
macro_rules! ladder {
    ($lanes:literal; $(#[$attribute:meta])*) => {
        use crate::lanes::{A24, CURVE_A, SHARING, bits};
        use crate::Bytes;
        use std::hint::black_box;
        use zeroize::Zeroize;

        /// Points that go through together.
        pub(crate) const LANES: usize = $lanes;

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
            let mut picked = *a;
            for (to, from) in picked.iter_mut().zip(b) {
                *to = xor(*to, and(mask, xor(*to, *from)));
            }
            picked
        }

        /// All ones in the lanes where `a` is 0.
        $(#[$attribute])*
        #[inline]
        fn zeros(a: &Element) -> Vector {
            let mut bytes = [[0; 32]; LANES];
            store(a, &mut bytes);
            // No branch: which byte is the first that is not 0 depends on secrets.
            let masks = bytes.map(|bytes| {
                let any = bytes.iter().fold(0, |any, byte| any | byte);
                0u64.wrapping_sub(u64::from(any).wrapping_sub(1) >> 63)
            });
            bytes.zeroize();
            vector(masks)
        }

        /// The product of the scalar and the points with u-coordinates `x1`, as a fraction. Not inlined: the
        /// ladder needs all registers. Few places, each used for one thing after another: a frame of less than a page,
        /// in which no load waits for a store to the same place of another page.
        $(#[$attribute])*
        #[inline(never)]
        fn climb(scalar: &Bytes, x1: &Element) -> (Element, Element) {
            let mut bits = bits(scalar);
            let (mut x2, mut z2) = (constant(1), constant(0));
            let (mut x3, mut z3) = (*x1, constant(1));
            let mut swapped = 0;
            for bit in bits {
                // The same in every lane, and no branch: the scalar is secret.
                let mask = splat(0u64.wrapping_sub(u64::from(swapped ^ bit)));
                swapped = bit;
                let mut a = plus(&x2, &z2);
                let mut b = minus(&x2, &z2);
                let mut c = plus(&x3, &z3);
                let mut d = minus(&x3, &z3);
                // A swap of the points would change only which of them is doubled: their sum is made of the same two
                // products, and of the square of their difference.
                x2 = select(mask, &a, &c);
                z2 = select(mask, &b, &d);
                set_times(&mut x3, &d, &a);
                set_times(&mut z3, &c, &b);
                a = plus(&x3, &z3);
                b = minus(&x3, &z3);
                set_square(&mut x3, &a);
                set_square(&mut c, &b);
                set_times(&mut z3, x1, &c);
                set_square(&mut a, &x2);
                set_square(&mut b, &z2);
                c = minus(&a, &b);
                d = plus(&a, &times_small(&c, A24));
                set_times(&mut x2, &a, &b);
                set_times(&mut z2, &c, &d);
            }
            // The last bit of a clamped scalar is 0, so that nothing is left to swap.
            bits.zeroize();
            (x2, z2)
        }

        /// `X25519(scalar, point)` for each of at most [`SHARING`] scalars and every point.
        $(#[$attribute])*
        pub(crate) fn multiply(
            scalars: &[&Bytes],
            points: &[Bytes; LANES],
            products: &mut [[Bytes; LANES]],
        ) {
            let x1 = load(points);
            let (zero, one) = (constant(0), constant(1));
            // Of each scalar: numerator, denominator, and the product of the denominators before.
            let mut fractions = [[zero; 3]; SHARING];
            let mut masks = [splat(0); SHARING];
            let mut all = one;
            for ((scalar, fraction), mask) in scalars.iter().zip(&mut fractions).zip(&mut masks) {
                let (x, z) = climb(scalar, &x1);
                // A point of low order must not make the others' products 0.
                *mask = zeros(&z);
                let z = select(*mask, &z, &one);
                *fraction = [x, z, all];
                all = times(&all, &z);
            }
            let mut inverted = inverse(&all);
            let done = products.iter_mut().zip(&fractions).zip(&masks).take(scalars.len());
            for ((products, [x, z, before]), mask) in done.rev() {
                let quotient = times(x, &times(&inverted, before));
                store(&select(*mask, &quotient, &zero), products);
                inverted = times(&inverted, z);
            }
            fractions = [[zero; 3]; SHARING];
            // Otherwise nobody would need what was just written.
            black_box(&fractions);
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
            let d = settle(&plus(&one, &plus(&r2, &r2)));
            let a = constant(CURVE_A);
            let a2 = square(&a);
            let sum = settle(&plus(&minus(&a2, &times(&a2, &d)), &square(&d)));
            let n = minus(&zero, &times(&a, &sum));
            let n = settle(&n);
            let x = times(&n, &d);
            let s = power_p58(&x);
            let s4 = square_times(&s, 2);
            let x2 = square(&x);
            let character = times(&s4, &x2);
            let inverse_d = times(&times(&n, &square(&s4)), &times(&x2, &x));
            let v = settle(&minus(&zero, &times(&a, &inverse_d)));
            let other = minus(&settle(&minus(&zero, &v)), &a);
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
pub(crate) use ladder;

/// `set_times` and `set_square` for arithmetic that makes values as well.
macro_rules! in_place {
    ($(#[$attribute:meta])*) => {
        /// Sets `h` to the product.
        $(#[$attribute])*
        #[inline]
        fn set_times(h: &mut Element, f: &Element, g: &Element) {
            *h = times(f, g);
        }

        /// Sets `h` to the square.
        $(#[$attribute])*
        #[inline]
        fn set_square(h: &mut Element, f: &Element) {
            *h = square(f);
        }
    };
}
pub(crate) use in_place;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kernel;
    use proptest::prelude::*;

    /// The kernels of this processor; those over plain integers check the bounds of every limb.
    fn kernels() -> Vec<Kernel> {
        let all = [Kernel::IfmaPlain, Kernel::Avx2Plain, Kernel::Ifma, Kernel::Avx2];
        all.into_iter().filter(|kernel| kernel.is_available()).collect()
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

    /// All products of a kernel, those of one scalar after those of another.
    fn products(kernel: Kernel, scalars: &[Bytes], points: &[Bytes]) -> Vec<Bytes> {
        let mut all = vec![[1; 32]; scalars.len() * points.len()];
        let scalars: Vec<&Bytes> = scalars.iter().collect();
        kernel.multiply(&scalars, points, |scalar, point, product| {
            all[scalar * points.len() + point] = *product;
        });
        all
    }

    fn products_elsewhere(scalars: &[Bytes], points: &[Bytes]) -> Vec<Bytes> {
        let of = |scalar| points.iter().map(move |point| x25519_dalek::x25519(scalar, *point));
        scalars.iter().copied().flat_map(of).collect()
    }

    /// Among the edges are points of low order.
    #[test]
    fn edges_multiply_as_elsewhere() {
        println!("measured kernels: {:?}", kernels());
        let expected = products_elsewhere(&edges(), &edges());
        assert!(expected.contains(&[0; 32]));
        for kernel in kernels() {
            assert_eq!(products(kernel, &edges(), &edges()), expected, "{kernel:?}");
        }
    }

    #[test]
    fn edges_decode_alike() {
        let mut expected = edges();
        Kernel::IfmaPlain.decode(&mut expected);
        for kernel in kernels() {
            let mut points = edges();
            kernel.decode(&mut points);
            assert_eq!(points, expected, "{kernel:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn points_multiply_as_elsewhere(
            scalars in proptest::collection::vec(any::<Bytes>(), 0..6),
            points in proptest::collection::vec(any::<Bytes>(), 0..11),
        ) {
            let expected = products_elsewhere(&scalars, &points);
            for kernel in kernels() {
                prop_assert_eq!(&products(kernel, &scalars, &points), &expected);
            }
        }

        #[test]
        fn kernels_decode_alike(representatives in proptest::collection::vec(any::<Bytes>(), 0..11)) {
            let mut expected = representatives.clone();
            Kernel::IfmaPlain.decode(&mut expected);
            for kernel in kernels() {
                let mut lanes = representatives.clone();
                kernel.decode(&mut lanes);
                prop_assert_eq!(&lanes, &expected);
            }
        }
    }
}
