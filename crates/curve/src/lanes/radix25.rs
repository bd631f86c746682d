//! Four lanes: ten limbs of 26 and 25 bits in turn, and the product of 32-bit numbers that AVX2 has.
//!
//! A limb is *settled* when an even one is below 2^26 + 2^14 and an odd one below 2^25 + 2^14. Sums of two and
//! differences of settled elements may be multiplied, which gives settled ones; so that no column of a
//! product reaches 2^64 and no factor 2^32.

/// Twice the prime, limb by limb: more than any settled limb.
const TWICE_PRIME: [u64; 10] = {
    const EVEN: u64 = (1 << 27) - 2;
    const ODD: u64 = (1 << 26) - 2;
    [EVEN - 36, ODD, EVEN, ODD, EVEN, ODD, EVEN, ODD, EVEN, ODD]
};
const MASK_26: u64 = (1 << 26) - 1;
const MASK_25: u64 = (1 << 25) - 1;

/// An element, limb by limb; without a loop, so that limbs stay in registers.
macro_rules! ten {
    ($i:ident => $limb:expr) => {
        ten!($i => $limb; 0 1 2 3 4 5 6 7 8 9)
    };
    ($i:ident => $limb:expr; $($n:literal)*) => {
        [$({
            const N: usize = $n;
            let $i = N;
            $limb
        }),*]
    };
}

/// The arithmetic, over the operations on vectors of the module that uses this.
macro_rules! arithmetic {
    ($(#[$attribute:meta])*) => {
        use crate::lanes::radix25::{MASK_25, MASK_26, TWICE_PRIME};
        use crate::lanes::{canonical, limbs};

        crate::lanes::ladder!(4; $(#[$attribute])*);

        type Element = [Vector; 10];

        $(#[$attribute])*
        #[inline]
        fn constant(value: u64) -> Element {
            let mut element = [splat(0); 10];
            element[0] = splat(value);
            element
        }

        $(#[$attribute])*
        #[inline]
        fn load(bytes: &[Bytes; LANES]) -> Element {
            let lanes: [[u64; 5]; LANES] = std::array::from_fn(|lane| limbs(&bytes[lane]));
            let mut element = [splat(0); 10];
            for (i, pair) in element.chunks_exact_mut(2).enumerate() {
                pair[0] = vector(std::array::from_fn(|lane| lanes[lane][i] & MASK_26));
                pair[1] = vector(std::array::from_fn(|lane| lanes[lane][i] >> 26));
            }
            element
        }

        $(#[$attribute])*
        #[inline]
        fn store(element: &Element, bytes: &mut [Bytes; LANES]) {
            let mut limbs = [[0; LANES]; 10];
            for (to, from) in limbs.iter_mut().zip(element) {
                *to = array(*from);
            }
            for (lane, bytes) in bytes.iter_mut().enumerate() {
                *bytes = canonical(std::array::from_fn(|i| {
                    limbs[2 * i][lane] + (limbs[2 * i + 1][lane] << 26)
                }));
            }
        }

        $(#[$attribute])*
        #[inline]
        fn settle(a: &Element) -> Element {
            let (even, odd) = (splat(MASK_26), splat(MASK_25));
            let mut r = *a;
            // Two chains side by side, from limbs 0 and 4.
            carry_even(&mut r, 0, even);
            carry_even(&mut r, 4, even);
            carry_odd(&mut r, 1, odd);
            carry_odd(&mut r, 5, odd);
            carry_even(&mut r, 2, even);
            carry_even(&mut r, 6, even);
            carry_odd(&mut r, 3, odd);
            carry_odd(&mut r, 7, odd);
            carry_even(&mut r, 4, even);
            carry_even(&mut r, 8, even);
            let over = over_25(r[9]);
            r[9] = and(r[9], odd);
            r[0] = add(r[0], times_19(over));
            carry_even(&mut r, 0, even);
            r
        }

        $(#[$attribute])*
        #[inline]
        fn carry_even(r: &mut Element, i: usize, mask: Vector) {
            r[i + 1] = add(r[i + 1], over_26(r[i]));
            r[i] = and(r[i], mask);
        }

        $(#[$attribute])*
        #[inline]
        fn carry_odd(r: &mut Element, i: usize, mask: Vector) {
            r[i + 1] = add(r[i + 1], over_25(r[i]));
            r[i] = and(r[i], mask);
        }

        /// For numbers of any size, unlike a product.
        $(#[$attribute])*
        #[inline]
        fn times_19(v: Vector) -> Vector {
            add(add(double(v), v), shift_left_4(v))
        }

        $(#[$attribute])*
        #[inline]
        fn plus(a: &Element, b: &Element) -> Element {
            ten!(i => add(a[i], b[i]))
        }

        $(#[$attribute])*
        #[inline]
        fn minus(a: &Element, b: &Element) -> Element {
            ten!(i => add(a[i], sub(splat(TWICE_PRIME[i]), b[i])))
        }

        /// Adds the products of limb `I` of f. A product of two odd limbs weighs twice as much, one beyond the
        /// last column 19 times.
        $(#[$attribute])*
        #[inline]
        fn product_row<const I: usize>(
            h: &mut Element,
            [f, f2]: [&Element; 2],
            [g, g19]: [&Element; 2],
        ) {
            for column in 0..10 {
                let j = (10 + column - I) % 10;
                let a = if I % 2 == 1 && j % 2 == 1 { f2[I] } else { f[I] };
                let b = if column < I { g19[j] } else { g[j] };
                h[column] = add(h[column], wide(a, b));
            }
        }

        $(#[$attribute])*
        #[inline]
        fn times(f: &Element, g: &Element) -> Element {
            let nineteen = splat(19);
            let f2 = ten!(i => double(f[i]));
            let g19 = ten!(i => wide(g[i], nineteen));
            let (f, g) = ([f, &f2], [g, &g19]);
            let mut h = [splat(0); 10];
            product_row::<0>(&mut h, f, g);
            product_row::<1>(&mut h, f, g);
            product_row::<2>(&mut h, f, g);
            product_row::<3>(&mut h, f, g);
            product_row::<4>(&mut h, f, g);
            product_row::<5>(&mut h, f, g);
            product_row::<6>(&mut h, f, g);
            product_row::<7>(&mut h, f, g);
            product_row::<8>(&mut h, f, g);
            product_row::<9>(&mut h, f, g);
            settle(&h)
        }

        /// Adds the products of limb `I` with itself and those above; two different limbs count twice.
        $(#[$attribute])*
        #[inline]
        fn square_row<const I: usize>(h: &mut Element, [f, f2, f19, f38]: [&Element; 4]) {
            for j in I..10 {
                let column = (I + j) % 10;
                let a = if j == I { f[I] } else { f2[I] };
                let b = match (I + j >= 10, I % 2 == 1 && j % 2 == 1) {
                    (false, false) => f[j],
                    (false, true) => f2[j],
                    (true, false) => f19[j],
                    (true, true) => f38[j],
                };
                h[column] = add(h[column], wide(a, b));
            }
        }

        $(#[$attribute])*
        #[inline]
        fn square(f: &Element) -> Element {
            square_times(f, 1)
        }

        /// `a` squared so many times, at least once; one function, so that limbs stay where they are.
        $(#[$attribute])*
        #[inline]
        fn square_times(a: &Element, times: usize) -> Element {
            let nineteen = splat(19);
            let mut r = *a;
            for _ in 0..times {
                let f2 = ten!(i => double(r[i]));
                let f19 = ten!(i => wide(r[i], nineteen));
                let f38 = ten!(i => double(f19[i]));
                let f = [&r, &f2, &f19, &f38];
                let mut h = [splat(0); 10];
                square_row::<0>(&mut h, f);
                square_row::<1>(&mut h, f);
                square_row::<2>(&mut h, f);
                square_row::<3>(&mut h, f);
                square_row::<4>(&mut h, f);
                square_row::<5>(&mut h, f);
                square_row::<6>(&mut h, f);
                square_row::<7>(&mut h, f);
                square_row::<8>(&mut h, f);
                square_row::<9>(&mut h, f);
                r = settle(&h);
            }
            r
        }

        /// The product with a number below 2^20.
        $(#[$attribute])*
        #[inline]
        fn times_small(a: &Element, small: u64) -> Element {
            let small = splat(small);
            settle(&ten!(i => wide(a[i], small)))
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;

/// Over plain integers.
pub(crate) mod plain {
    type Vector = [u64; 4];

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
        each(|i| a[i].checked_add(b[i]).expect("a column overflows"))
    }

    fn sub(a: Vector, b: Vector) -> Vector {
        each(|i| a[i].checked_sub(b[i]).expect("a limb is not settled"))
    }

    fn and(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] & b[i])
    }

    fn xor(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] ^ b[i])
    }

    /// What is above 26 bits.
    fn over_26(a: Vector) -> Vector {
        each(|i| a[i] >> 26)
    }

    /// What is above 25 bits.
    fn over_25(a: Vector) -> Vector {
        each(|i| a[i] >> 25)
    }

    fn double(a: Vector) -> Vector {
        add(a, a)
    }

    fn shift_left_4(a: Vector) -> Vector {
        each(|i| {
            assert!(a[i] < 1 << 60, "a carry is too large");
            a[i] << 4
        })
    }

    /// The product of numbers below 2^32.
    fn wide(a: Vector, b: Vector) -> Vector {
        each(|i| {
            // f38 is made of even limbs too, which no product takes.
            assert!(a[i] < 1 << 32 && b[i] < 1 << 32, "a factor is too large");
            a[i] * b[i]
        })
    }

    arithmetic!();
    crate::lanes::in_place!();
}
