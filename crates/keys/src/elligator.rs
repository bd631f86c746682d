//! Elligator 2 over Curve25519 with non-square 2 (`spec/core.md` 7.1, `spec/detector.md` 8.2).

use crate::field::Element;
use curve::Kernel;

/// The two top bits of byte 31 of a representative are free: senders draw them at random.
pub const FREE_BITS: u8 = 0xc0;

/// The curve's u-coordinate that `representative` stands for, 32 bytes, little-endian.
///
/// The two top bits are ignored. Every input decodes; the result is always on the curve, but may
/// have a low-order component or be of low order itself.
pub fn decode(representative: &[u8; 32]) -> [u8; 32] {
    let mut one = [*representative];
    decode_together(&mut one);
    let [u] = one;
    u
}

/// [`decode`] in place, for some whose exponentiations run side by side.
fn decode_together<const N: usize>(representatives: &mut [[u8; 32]; N]) {
    let a = Element::CURVE_A;
    // With v = -A/d the curve equation is N/d^3 at v, whose quadratic character is that of N d.
    // One exponentiation of N d gives both that character and 1/d.
    let products: [(Element, Element); N] = std::array::from_fn(|i| {
        let mut bytes = representatives[i];
        bytes[31] &= !FREE_BITS;
        let r2 = Element::from_bytes(&bytes).square();
        let d = Element::ONE + r2 + r2;
        let n = -(a * (a.square() - a.square() * d + d.square()));
        (n, n * d)
    });
    let powers = Element::pow_p58_all(products.map(|(_, x)| x));
    for ((u, (n, x)), s) in representatives.iter_mut().zip(products).zip(powers) {
        let s4 = s.square().square();
        let x2 = x.square();
        let character = s4 * x2;
        let inverse_d = n * s4.square() * x2 * x;
        let v = -(a * inverse_d);
        let non_square = u8::from(!(character - Element::ONE).is_zero());
        *u = v.select(-v - a, non_square).to_bytes();
    }
}

/// [`decode`] for every representative, in place, several at a time where `kernel` is faster than one after
/// the other.
pub fn decode_all(kernel: Option<Kernel>, representatives: &mut [[u8; 32]]) {
    match kernel {
        Some(kernel) if representatives.len() > 1 => kernel.decode(representatives),
        _ => {
            let (pairs, rest) = representatives.as_chunks_mut::<2>();
            pairs.iter_mut().for_each(decode_together);
            rest.iter_mut().for_each(|r| *r = decode(r));
        }
    }
}

/// The two representatives of the u-coordinate `u`, the roots of `-u/(2(u+A))` and of
/// `-(u+A)/(2u)` that are at most `(p-1)/2`; `None` for the half of all points that have none.
/// Both decode to `u`, and their two top bits are clear.
pub fn encode(u: &[u8; 32]) -> Option<[[u8; 32]; 2]> {
    let u = Element::from_bytes(u);
    let sum = u + Element::CURVE_A;
    if u.is_zero() || sum.is_zero() {
        return None;
    }
    let first = Element::sqrt_ratio(-u, sum + sum)?;
    let second = Element::sqrt_ratio(-sum, u + u)?;
    Some(
        [first, second]
            .map(|root| if root.is_non_negative() { root.to_bytes() } else { (-root).to_bytes() }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_decodes_encodes_back(representative in any::<[u8; 32]>()) {
            let u = decode(&representative);
            prop_assume!(u != [0; 32]);
            let found = encode(&u).expect("a decoded point has representatives");
            for preimage in found {
                prop_assert_eq!(decode(&preimage), u);
                prop_assert_eq!(preimage[31] & FREE_BITS, 0);
            }
            let mut bare = representative;
            bare[31] &= !FREE_BITS;
            let r = Element::from_bytes(&bare);
            let canonical = if r.is_non_negative() { r } else { -r }.to_bytes();
            prop_assert!(found.contains(&canonical));
        }

        #[test]
        fn many_decode_as_one_after_the_other(
            representatives in proptest::collection::vec(any::<[u8; 32]>(), 0..20),
        ) {
            let one_by_one: Vec<[u8; 32]> = representatives.iter().map(decode).collect();
            for kernel in [None, Kernel::detect(), Some(Kernel::Avx2Plain), Some(Kernel::IfmaPlain)] {
                let mut all = representatives.clone();
                decode_all(kernel, &mut all);
                prop_assert_eq!(&all, &one_by_one);
            }
        }

        #[test]
        fn the_free_bits_do_not_matter(representative in any::<[u8; 32]>(), bits in 0u8..4) {
            let mut other = representative;
            other[31] = other[31] & !FREE_BITS | bits << 6;
            prop_assert_eq!(decode(&representative), decode(&other));
        }
    }
}
