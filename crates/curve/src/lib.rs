//! Curve25519 for many points at a time.
//!
//! A detector multiplies every candidate's point by the same station key, so that several of them can go
//! through one Montgomery ladder side by side: the scalar decides the same in every lane. Nothing branches
//! or looks anything up by what is secret. Several station keys share the inversion at the end of their
//! ladders.
//!
//! The ladder is written once, over two kinds of arithmetic: eight lanes for the 52-bit multiply-add of
//! AVX-512 IFMA, and four lanes for the 32-bit product of AVX2. The same code runs over plain integers in the
//! tests, where it checks that nothing overflows; the products of the AVX2 ladder are assembly besides, with the same
//! limbs as that code. `unsafe` is that assembly and the choice of code that the processor has the instructions for.

mod lanes;

use lanes::{SHARING, radix25, radix51};
use zeroize::{Zeroize, Zeroizing};

/// A coordinate or scalar, 32 bytes, little-endian.
pub type Bytes = [u8; 32];

/// Code for a kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// AVX-512 with the multiply-add of 52-bit integers, eight points at a time.
    Ifma,
    /// AVX2, four points at a time.
    Avx2,
    /// The code of [`Kernel::Ifma`] over plain integers: slow, for tests.
    IfmaPlain,
    /// The code of [`Kernel::Avx2`] over plain integers: slow, for tests.
    Avx2Plain,
}

impl Kernel {
    /// The fastest that this processor has; `None` when multiplying one by one is faster.
    pub fn detect() -> Option<Self> {
        [Self::Ifma, Self::Avx2].into_iter().find(|kernel| kernel.is_available())
    }

    /// Whether this processor has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512ifma")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => std::arch::is_x86_feature_detected!("avx2"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Ifma | Self::Avx2 => false,
            Self::IfmaPlain | Self::Avx2Plain => true,
        }
    }

    /// Points that go through together.
    pub const fn lanes(self) -> usize {
        match self {
            Self::Ifma | Self::IfmaPlain => radix51::plain::LANES,
            Self::Avx2 | Self::Avx2Plain => radix25::plain::LANES,
        }
    }

    /// Points from which on [`Kernel::multiply`] is faster than one multiplication after the other, as measured
    /// against s2n-bignum's.
    pub const fn worthwhile(self) -> usize {
        match self {
            Self::Ifma | Self::IfmaPlain => 3,
            Self::Avx2 | Self::Avx2Plain => 4,
        }
    }

    /// `X25519(scalar, point)` for every scalar and point, handed to `each` with the numbers of both. A point
    /// of low order gives all zeros. The last points cost as much as a full set of lanes, and all scalars
    /// after the first a little less than the first, with which they share an inversion.
    ///
    /// # Panics
    /// When this processor does not have the instructions.
    pub fn multiply(
        self,
        scalars: &[&Bytes],
        points: &[Bytes],
        each: impl FnMut(usize, usize, &Bytes),
    ) {
        assert!(self.is_available(), "{self:?} is not available");
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma => all_products(scalars, points, each, |scalars, lanes, products| {
                // SAFETY: the processor has the instructions, as was just asserted.
                unsafe { radix51::ifma::multiply(scalars, lanes, products) }
            }),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => all_products(scalars, points, each, |scalars, lanes, products| {
                // SAFETY: the processor has the instructions, as was just asserted.
                unsafe { radix25::avx2::multiply(scalars, lanes, products) }
            }),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Ifma | Self::Avx2 => {}
            Self::IfmaPlain => all_products(scalars, points, each, radix51::plain::multiply),
            Self::Avx2Plain => all_products(scalars, points, each, radix25::plain::multiply),
        }
    }

    /// The u-coordinate that each Elligator 2 representative stands for, in place, with non-square 2. The two
    /// top bits of a representative are ignored; every input decodes.
    ///
    /// # Panics
    /// When this processor does not have the instructions.
    pub fn decode(self, representatives: &mut [Bytes]) {
        assert!(self.is_available(), "{self:?} is not available");
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma => in_lanes(representatives, |lanes| {
                // SAFETY: the processor has the instructions, as was just asserted.
                unsafe { radix51::ifma::decode(lanes) }
            }),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => in_lanes(representatives, |lanes| {
                // SAFETY: the processor has the instructions, as was just asserted.
                unsafe { radix25::avx2::decode(lanes) }
            }),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Ifma | Self::Avx2 => {}
            Self::IfmaPlain => in_lanes(representatives, radix51::plain::decode),
            Self::Avx2Plain => in_lanes(representatives, radix25::plain::decode),
        }
    }
}

/// Hands scalars and points to `work` in sets, the last set of points filled up, and every product to `each`.
fn all_products<const N: usize>(
    scalars: &[&Bytes],
    points: &[Bytes],
    mut each: impl FnMut(usize, usize, &Bytes),
    work: impl Fn(&[&Bytes], &[Bytes; N], &mut [[Bytes; N]]),
) {
    let mut products = Zeroizing::new([[[0; 32]; N]; SHARING]);
    for (set, points) in points.chunks(N).enumerate() {
        let mut lanes = [[0; 32]; N];
        lanes[..points.len()].copy_from_slice(points);
        for (part, scalars) in scalars.chunks(SHARING).enumerate() {
            work(scalars, &lanes, &mut products[..scalars.len()]);
            for (scalar, products) in products.iter().take(scalars.len()).enumerate() {
                for (point, product) in products.iter().take(points.len()).enumerate() {
                    each(part * SHARING + scalar, set * N + point, product);
                }
            }
        }
    }
}

/// Hands `all` to `work` in sets of `N`, the last of them filled up.
fn in_lanes<const N: usize>(all: &mut [Bytes], work: impl Fn(&mut [Bytes; N])) {
    let (sets, rest) = all.as_chunks_mut::<N>();
    sets.iter_mut().for_each(&work);
    if !rest.is_empty() {
        let mut lanes = [[0; 32]; N];
        lanes[..rest.len()].copy_from_slice(rest);
        work(&mut lanes);
        rest.copy_from_slice(&lanes[..rest.len()]);
        lanes.zeroize();
    }
}
