//! Phantom subnets and the selection of phantoms for every client version (`spec/core.md` 3 to 5).
//!
//! Station, registrar and client must arrive at the same address from the same seed, so the
//! pseudo-random generator and the sort of the deployed software are reproduced exactly
//! ([`prng`], [`order`]). Everything that does not depend on the seed is computed once, when a
//! [`PhantomTable`] is read.
#![forbid(unsafe_code)]

pub mod client;
mod file;
mod generation;
pub mod order;
pub mod prng;
mod prng_table;
mod select;
mod subnet;

pub use file::{FileError, Loaded, PhantomTable, Warning};
pub use generation::{Generation, Group, Problem};
pub use select::{Phantom, Pick, SelectError};
pub use subnet::{Family, Subnet};
