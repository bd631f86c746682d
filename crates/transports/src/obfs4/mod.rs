//! Obfs4: an authenticated handshake that looks like random bytes, then encrypted frames of hidden
//! lengths (`spec/transports.md` 7).
//!
//! The identity that a client must know belongs to its registration, so the station first has to
//! find out which registration a connection belongs to: [`MarkSearch`]. [`Server::accept`] then
//! answers the handshake or says how long the connection is drained. [`Client`] is the other side.
//! Time is a [`Duration`](std::time::Duration) since the Unix epoch.

mod client;
mod drain;
mod drbg;
mod frame;
pub mod handshake;
mod identity;
mod lengths;
mod marks;
mod ntor;
pub mod packet;
mod replay;
mod server;
mod stream;

pub use client::{Client, ClientError, Progress};
pub use drain::{Drain, Drained, Thresholds};
pub use drbg::Drbg;
pub use frame::{FRAME_OVERHEAD, FrameError, MAX_FRAME_PAYLOAD, MAX_SEGMENT, Opener, Sealer};
pub use identity::{ClientIdentity, ServerIdentity};
pub use lengths::{Distribution, Entry};
pub use marks::{MarkSearch, MarkVerdict};
pub use ntor::{LinkKeys, LinkSecret, LowOrder};
pub use replay::{Freshness, IN_ALL, PER_IDENTITY, REMEMBERED, ReplayFilter};
pub use server::{Choices, Failure, Refused, Server};
pub use stream::StreamError;

use rand_core::CryptoRng;

/// Longest handshake of either side, in bytes.
pub const MAX_HANDSHAKE: usize = 8192;
/// Length of marks and MACs.
pub const MARK_LEN: usize = 16;
/// Padding of a client's handshake, in bytes.
pub const CLIENT_PADDING: std::ops::RangeInclusive<usize> = 77..=8128;
/// Padding of a server's handshake, in bytes.
pub const SERVER_PADDING: std::ops::RangeInclusive<usize> = 0..=8051;
/// Shortest handshake of a client.
pub const MIN_CLIENT_HANDSHAKE: usize = REPRESENTATIVE + 77 + 2 * MARK_LEN;
/// Length of the seed of a length distribution.
pub const SEED_LEN: usize = 24;

const REPRESENTATIVE: usize = 32;
const AUTH: usize = 32;

/// A uniform integer in `0..=max`.
fn uniform<R: CryptoRng + ?Sized>(max: u32, rng: &mut R) -> u32 {
    let mask = u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
    loop {
        let drawn = rng.next_u32() & mask;
        if drawn <= max {
            return drawn;
        }
    }
}

/// The hour in which `now` lies, as handshakes name it.
const fn epoch_hour(now: std::time::Duration) -> u64 {
    now.as_secs() / 3600
}
