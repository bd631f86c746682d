//! How a connection that failed is kept open (`spec/transports.md` 7.3): what it sends is thrown
//! away until a threshold that only the station knows.

use super::{Drbg, SEED_LEN};
use std::time::Duration;

/// Added to the drawn time.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// What the shell does with a connection that is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Read on and throw away.
    Read,
    /// Close the connection.
    Close,
}

/// When a connection that failed is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// After this many more bytes, below 8,192.
    pub bytes: u32,
    /// After this many seconds, below 60, and the 30 of a handshake.
    pub seconds: u32,
}

impl Thresholds {
    /// Those that `seed` stands for.
    pub fn new(seed: &[u8; SEED_LEN]) -> Self {
        let mut drbg = Drbg::new(seed);
        Self { bytes: drbg.int(8192), seconds: drbg.int(60) }
    }
}

/// A failed connection: feed it what arrives and the time.
///
/// An application that drains all connections until a deadline of its own, so that this kind of
/// failure looks like any other, takes [`Drain::until`] instead of the thresholds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    left: u64,
    deadline: Duration,
}

impl Drain {
    /// Drains by `thresholds` a connection whose handshake arrived at `start`.
    pub fn new(thresholds: Thresholds, start: Duration) -> Self {
        let wait = Duration::from_secs(thresholds.seconds.into()) + HANDSHAKE_TIMEOUT;
        Self { left: thresholds.bytes.into(), deadline: start.saturating_add(wait) }
    }

    /// Drains any number of bytes until `deadline`.
    pub const fn until(deadline: Duration) -> Self {
        Self { left: u64::MAX, deadline }
    }

    /// When the connection is closed at the latest.
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// `count` bytes arrived, or none and time went by.
    pub fn discard(&mut self, count: usize, now: Duration) -> Drained {
        self.left = self.left.saturating_sub(count as u64);
        if self.left == 0 || now >= self.deadline { Drained::Close } else { Drained::Read }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_or_time_end_it() {
        let start = Duration::from_secs(1000);
        let thresholds = Thresholds { bytes: 100, seconds: 7 };
        let mut drain = Drain::new(thresholds, start);
        assert_eq!(drain.discard(99, start), Drained::Read);
        assert_eq!(drain.clone().discard(1, start), Drained::Close);
        assert_eq!(drain.discard(0, Duration::from_millis(1_036_999)), Drained::Read);
        assert_eq!(drain.discard(0, Duration::from_secs(1037)), Drained::Close);
        let mut drain = Drain::until(start);
        assert_eq!(drain.discard(usize::MAX / 2, Duration::ZERO), Drained::Read);
        assert_eq!(drain.discard(0, start), Drained::Close);
    }
}
