//! What was published while subscribers of a predecessor are on their way.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

/// Messages kept at most; the oldest go first.
const MAX_MESSAGES: usize = 65_536;

/// Messages of a limited time, for subscribers that come late.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    is_open: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
pub(crate) struct Kept {
    until: Option<Instant>,
    messages: VecDeque<Bytes>,
}

impl Kept {
    fn is_over(&self) -> bool {
        self.until.is_none_or(|until| until <= Instant::now())
    }
}

impl Backlog {
    /// Keeps what is published until `until`.
    pub(crate) fn open(&self, until: Instant) {
        self.kept.lock().until = Some(until);
        self.is_open.store(true, Ordering::Release);
    }

    /// Keeps `message`, if it is time to. The guard keeps subscribers out until it has been given to those
    /// of this moment.
    pub(crate) fn keep(&self, message: &Bytes) -> Option<MutexGuard<'_, Kept>> {
        if !self.is_open.load(Ordering::Acquire) {
            return None;
        }
        let mut kept = self.kept.lock();
        if kept.is_over() {
            self.is_open.store(false, Ordering::Release);
            kept.messages = VecDeque::new();
        } else {
            if kept.messages.len() == MAX_MESSAGES {
                kept.messages.pop_front();
            }
            kept.messages.push_back(message.clone());
        }
        Some(kept)
    }

    /// Lets `subscribe` see what a new subscriber has missed; nothing is published meanwhile.
    pub(crate) fn subscribe<T>(&self, subscribe: impl FnOnce(&VecDeque<Bytes>) -> T) -> T {
        let mut kept = self.kept.lock();
        if kept.is_over() {
            kept.messages = VecDeque::new();
        }
        subscribe(&kept.messages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_late_subscriber_sees_what_was_published_in_time() {
        let backlog = Backlog::default();
        let seen = |backlog: &Backlog| backlog.subscribe(VecDeque::len);
        assert!(backlog.keep(&Bytes::from_static(b"before")).is_none());
        assert_eq!(seen(&backlog), 0);
        backlog.open(Instant::now() + Duration::from_secs(60));
        drop(backlog.keep(&Bytes::from_static(b"one")));
        drop(backlog.keep(&Bytes::from_static(b"two")));
        assert_eq!(seen(&backlog), 2);
        backlog.open(Instant::now());
        assert_eq!(seen(&backlog), 0, "the time is over");
        drop(backlog.keep(&Bytes::from_static(b"three")));
        assert!(backlog.keep(&Bytes::from_static(b"four")).is_none());
    }
}
