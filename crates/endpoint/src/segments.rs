//! Whether the kernel cuts datagrams rightly.
//!
//! UDP segmentation offload saves most of the cost of sending. Since Linux 6.11 it is offered on devices
//! without checksum offload too, and there the segments of a translated connection leave with wrong
//! checksums (seen on 6.18: veth with `tx off`, DNAT), so that all of them are lost, while single
//! datagrams pass. Each session therefore tries it once: when nothing of its first batch arrives it goes
//! on without, and when that happens to several sessions and to none that it works, later ones do not
//! try any more.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sctp::Counters;

use crate::socket::Socket;

/// Failed trials after which no more are made.
const FAILURES: u32 = 2;

/// What the sessions of a socket have found out.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    /// Failed trials since the last that went well.
    failed: AtomicU32,
    passed: AtomicBool,
}

/// One session's trial.
#[derive(Debug, Default)]
pub(crate) enum Trial {
    /// Nothing was sent in segments.
    #[default]
    Open,
    /// A first batch is under way: the bytes whose arrival proves that it arrived, and waits before.
    Running { proof: u64, waits: u64 },
    /// Segments arrive.
    Passed,
    /// They do not.
    Failed,
}

/// Times that the peer was silent for too long.
const fn waits(counters: &Counters) -> u64 {
    counters.timeouts + counters.probes
}

impl Trial {
    /// Datagrams that one send may hold now; a session that `tries` may be the first to find out.
    pub(crate) fn allowed(
        &mut self,
        tries: bool,
        counters: &Counters,
        segments: &Segments,
        socket: &Socket,
    ) -> usize {
        if let Self::Running { proof, waits: before } = *self {
            if counters.acknowledged >= proof {
                segments.failed.store(0, Ordering::Relaxed);
                segments.passed.store(true, Ordering::Relaxed);
                *self = Self::Passed;
            } else if waits(counters) > before {
                segments.failed.fetch_add(1, Ordering::Relaxed);
                *self = Self::Failed;
            }
        }
        match self {
            Self::Failed => 1,
            Self::Open if segments.failed.load(Ordering::Relaxed) >= FAILURES => 1,
            Self::Open if !tries && !segments.passed.load(Ordering::Relaxed) => 1,
            _ => socket.max_segments(),
        }
    }

    /// A batch of `length` bytes is about to be sent; what is in it counts as sent already.
    pub(crate) fn begin(&mut self, length: usize, counters: impl FnOnce() -> Counters) {
        if matches!(self, Self::Open) {
            let counters = counters();
            // Half of it is more than anything that was under way before.
            let proof = counters.sent.saturating_sub(length as u64 / 2).max(1);
            *self = Self::Running { proof, waits: waits(&counters) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn two_failures_end_the_trials_and_a_success_brings_them_back() {
        let socket = Socket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let most = socket.max_segments();
        let segments = Segments::default();
        let before = Counters::default();
        let sent = Counters { sent: 2500, ..before };
        let silent = Counters { probes: 1, acknowledged: 100, ..sent };
        let answered = Counters { acknowledged: 2400, ..silent };
        assert_eq!(Trial::default().allowed(false, &before, &segments, &socket), 1);
        let mut first = Trial::default();
        for trial in [&mut first, &mut Trial::default()] {
            assert_eq!(trial.allowed(true, &before, &segments, &socket), most);
            trial.begin(2600, || sent);
            assert_eq!(trial.allowed(true, &before, &segments, &socket), most);
            assert_eq!(trial.allowed(true, &silent, &segments, &socket), 1);
            assert_eq!(trial.allowed(true, &answered, &segments, &socket), 1, "it had failed");
        }
        assert_eq!(Trial::default().allowed(true, &before, &segments, &socket), 1);
        let mut under_way = Trial::Running { proof: 1200, waits: 0 };
        assert_eq!(under_way.allowed(true, &answered, &segments, &socket), most);
        assert_eq!(Trial::default().allowed(true, &before, &segments, &socket), most);
        assert_eq!(Trial::default().allowed(false, &before, &segments, &socket), most);
    }
}
