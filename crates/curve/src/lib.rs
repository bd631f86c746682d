//! Curve25519 for many points at a time.
//!
//! A detector multiplies every candidate's point by the same station key, so that eight of them can go
//! through one Montgomery ladder side by side: the scalar decides the same in every lane. Nothing branches
//! or looks anything up by what is secret.
//!
//! The arithmetic is written once, over eight lanes of 64 bits and the multiply-add of 52-bit numbers that
//! AVX-512 IFMA has. `unsafe` is only the choice of that kernel on a processor that has the instructions;
//! everywhere the same code runs over plain integers, as the reference of its tests.

mod lanes;

/// Points that go through together.
pub const LANES: usize = 8;

/// A coordinate or scalar, 32 bytes, little-endian.
pub type Bytes = [u8; 32];

/// Code for a kind of processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// AVX-512 with the multiply-add of 52-bit integers.
    Ifma,
    /// Plain integers: slower than one multiplication after the other, for tests.
    Plain,
}

impl Kernel {
    /// The fastest that this processor has; `None` when multiplying one by one is faster.
    pub fn detect() -> Option<Self> {
        Self::Ifma.is_available().then_some(Self::Ifma)
    }

    /// Whether this processor has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Ifma => {
                std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512ifma")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Ifma => false,
            Self::Plain => true,
        }
    }

    /// `X25519(scalar, point)` for every point, in place. A point of low order gives all zeros.
    ///
    /// # Panics
    /// When this processor does not have the instructions.
    pub fn multiply(self, scalar: &Bytes, points: &mut [Bytes; LANES]) {
        assert!(self.is_available(), "{self:?} is not available");
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has the instructions, as was just asserted.
            Self::Ifma => unsafe { lanes::ifma::multiply(scalar, points) },
            _ => lanes::plain::multiply(scalar, points),
        }
    }

    /// The u-coordinate that each Elligator 2 representative stands for, in place, with non-square 2. The two
    /// top bits of a representative are ignored; every input decodes.
    ///
    /// # Panics
    /// When this processor does not have the instructions.
    pub fn decode(self, representatives: &mut [Bytes; LANES]) {
        assert!(self.is_available(), "{self:?} is not available");
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the processor has the instructions, as was just asserted.
            Self::Ifma => unsafe { lanes::ifma::decode(representatives) },
            _ => lanes::plain::decode(representatives),
        }
    }
}
