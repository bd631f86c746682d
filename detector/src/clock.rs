//! Time of the packet path: milliseconds of a monotonic clock, read once per burst.

use std::time::Instant;

/// Milliseconds since the detector's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

impl Millis {
    /// `self` and `duration`; never wraps.
    pub fn plus(self, duration: std::time::Duration) -> Self {
        let millis = u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

/// The clock of a process.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// Runs since then.
    Running(Instant),
    /// Stands at 0: the recording that is replayed has a time of its own.
    Standing,
}

impl Default for Clock {
    fn default() -> Self {
        Self::Running(Instant::now())
    }
}

impl Clock {
    /// Present time.
    #[inline]
    pub fn now(&self) -> Millis {
        match self {
            Self::Running(start) => Millis(start.elapsed().as_millis() as u64),
            Self::Standing => Millis(0),
        }
    }
}
