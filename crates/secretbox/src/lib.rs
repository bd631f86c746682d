//! The two halves of NaCl's secretbox, fast on frames of a network packet's size: the key stream of
//! Salsa20 and the authenticator Poly1305.
//!
//! Neither branches or looks anything up by what is secret. `unsafe` is only the choice of a kernel
//! that the processor has instructions for.

mod poly1305;
mod salsa20;

pub use poly1305::{TAG, authenticate};
pub use salsa20::{BLOCK, STRIDE, keystream};
