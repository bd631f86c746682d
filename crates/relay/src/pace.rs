//! How fast a direction is, and when its source may wake the relay.
//!
//! A source that sends at a gigabit per second or more would wake the relay for every few segments.
//! It is let gather [`BATCH`] bytes instead, but never longer than [`PAUSE`] and the millisecond to
//! which the runtime's clock is exact, so that what was sent before a sender pauses, or before the direction
//! becomes interactive, is not held back. Every byte of a slower direction is passed on at once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Bytes that a fast source gathers before it wakes the relay.
pub(crate) const BATCH: i32 = 1024 * 1024;
/// A direction is fast when it moves this much, in bytes, ...
const MUCH: u64 = 256 * 1024;
/// ... in this time.
const FAST: Duration = Duration::from_millis(2);
/// What waits in a fast source is looked at after this time.
const PAUSE: Duration = Duration::from_millis(1);

/// The pace of one direction.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Start of the batch that is being counted, and what had been moved by then.
    start: (Instant, u64),
    fast: bool,
    pause: Pin<Box<Sleep>>,
}

impl Pace {
    /// The pace of a direction that has moved `moved` bytes so far.
    pub(crate) fn new(moved: u64) -> Self {
        Self { start: (Instant::now(), moved), fast: false, pause: Box::pin(sleep(PAUSE)) }
    }

    /// The source has nothing more, after `moved` bytes in all: whether it may gather a batch.
    pub(crate) fn drained(&mut self, moved: u64) -> bool {
        let now = Instant::now();
        let (bytes, time) = (moved - self.start.1, now - self.start.0);
        if bytes >= MUCH || time > FAST {
            self.fast = time <= FAST;
            self.start = (now, moved);
        }
        if self.fast {
            self.pause.as_mut().reset(now + PAUSE);
        }
        self.fast
    }

    /// Ready when the source has gathered long enough.
    pub(crate) fn poll_pause(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.pause.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_direction_gathers_only_while_it_is_fast() {
        let mut pace = Pace::new(0);
        assert!(!pace.drained(MUCH - 1), "that little says nothing yet");
        assert!(pace.drained(MUCH));
        advance(FAST).await;
        assert!(pace.drained(MUCH + 1), "the time is not over");
        advance(PAUSE).await;
        assert!(!pace.drained(MUCH + 2));
        advance(FAST + PAUSE).await;
        assert!(!pace.drained(2 * MUCH + 2), "as much in a longer time");
    }

    #[tokio::test(start_paused = true)]
    async fn every_drain_of_a_fast_direction_starts_a_pause() {
        let mut pace = Pace::new(0);
        for moved in 1..4 {
            let start = Instant::now();
            assert!(pace.drained(moved * MUCH));
            poll_fn(|cx| pace.poll_pause(cx)).await;
            assert!(start.elapsed() >= PAUSE && start.elapsed() <= 2 * PAUSE);
        }
    }
}
