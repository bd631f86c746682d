//! Keys of a station and of its sessions.
//!
//! Station key files, Elligator representatives, and the whole key schedule that turns a shared
//! secret into seeds, identifiers and transport keys for every client version (`spec/core.md` 7 to
//! 8). Randomness is an argument; secrets are wiped when dropped and have no printable form.
#![deny(unsafe_code)]

pub mod dtls;
pub mod elligator;
mod field;
mod locked;
mod pair;
pub mod path;
mod port;
mod secret;
mod station;
mod stream;
mod version;

pub use curve::Kernel;
pub use pair::{KeyPair, z85};
pub use port::{OBFS4_PORTS, PORTS, seeded_port};
pub use secret::{
    AeadKey, ConjureSeed, DECOY_WIDTH, DTLS_LABEL, DecoyKeys, MIN_LABEL, Obfs4Keys, PREFIX_LABEL,
    SessionKeys, SharedSecret,
};
pub use station::{
    EphemeralKey, StationKey, StationKeyError, agree_all, clamp, public_key, x25519,
};
pub use stream::{HkdfStream, StreamError};
pub use version::{ClientVersion, PhantomSelection};
