//! The balancer's walk through headers, with the hash of what it finds.

use crate::{Round, frames};
use packet::distribution::{Mode, frame_hash};
use packet::hash::SymmetricHash;
use std::hint::black_box;

/// Frames of one round.
pub(crate) const FRAMES: u64 = 4096;

/// The outermost addresses of plain frames.
pub(crate) fn ip() -> Result<Round, String> {
    Ok(round(Mode::Ip, frames::plain))
}

/// The innermost addresses of a mix of tunnels.
pub(crate) fn auto() -> Result<Round, String> {
    Ok(round(Mode::Auto, frames::tunnelled))
}

fn round(mode: Mode, frame: impl Fn(u8) -> Vec<u8>) -> Round {
    let hash = SymmetricHash::new(7);
    let frames: Vec<Vec<u8>> = (0..=u8::MAX).map(frame).collect();
    Box::new(move || {
        for frame in frames.iter().cycle().take(FRAMES as usize) {
            black_box(frame_hash(mode, &hash, black_box(frame)));
        }
    })
}
