//! At most one log line per second of a kind that strangers can cause.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const PAUSE: Duration = Duration::from_secs(1);

/// Counts what is not said.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<(Option<Instant>, u64)>);

impl Throttle {
    /// Whether a line may be written at `now`, and how many were left out since the last.
    pub(crate) fn take(&self, now: Instant) -> Option<u64> {
        let (last, left_out) = &mut *self.0.lock();
        if last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_second_and_a_count_of_the_others() {
        let (throttle, start) = (Throttle::default(), Instant::now());
        assert_eq!(throttle.take(start), Some(0));
        for ms in 0..10 {
            assert_eq!(throttle.take(start + Duration::from_millis(ms * 99)), None);
        }
        assert_eq!(throttle.take(start + PAUSE), Some(10));
        assert_eq!(throttle.take(start + 2 * PAUSE), Some(0));
    }
}
