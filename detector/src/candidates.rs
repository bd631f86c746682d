//! Records that may carry a tag, on their way from a worker to the checkers.
//!
//! Each worker fills a queue of its own. The queue is divided into lanes chosen by the client's
//! network, which checkers serve in turn, so a flood of candidates from one network waits in its
//! own lane and is dropped there.

use crate::mix::Mixer;
use crate::worker::Endpoints;
use crossbeam_queue::ArrayQueue;
use parking_lot::{Condvar, Mutex};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Lanes of one queue.
const LANES: usize = 32;
/// Candidates that wait in one lane.
const LANE_LEN: usize = 64;
/// Room of a payload buffer. Longer payloads, which only merged segments have, get their own.
const BUFFER: usize = 2048;
/// Buffers made at the start, enough for what waits at an ordinary moment.
const FIRST_BUFFERS: usize = 64;

/// A copied record and the flow that it was seen on.
#[derive(Debug)]
pub struct Candidate {
    /// The flow.
    pub flow: Endpoints,
    /// The TCP payload.
    pub payload: Vec<u8>,
}

/// Candidates of one worker.
#[derive(Debug)]
pub struct Candidates {
    lanes: Box<[ArrayQueue<Candidate>]>,
    /// Buffers to use again.
    spare: ArrayQueue<Vec<u8>>,
    mixer: Mixer,
    /// Lane that is served first next time.
    turn: AtomicUsize,
    bell: Arc<Bell>,
}

impl Candidates {
    /// An empty queue that rings `bell` when it gets something.
    pub fn new(bell: Arc<Bell>) -> Self {
        let spare = ArrayQueue::new(LANES * LANE_LEN);
        for _ in 0..FIRST_BUFFERS {
            // There is room: the queue was just made.
            let _ = spare.push(Vec::with_capacity(BUFFER));
        }
        Self {
            lanes: (0..LANES).map(|_| ArrayQueue::new(LANE_LEN)).collect(),
            spare,
            mixer: Mixer::random(),
            turn: AtomicUsize::new(0),
            bell,
        }
    }

    /// Copies a record into the lane of its client's network; false when that is full.
    pub fn push(&self, flow: Endpoints, payload: &[u8]) -> bool {
        let network = match flow.client {
            IpAddr::V4(client) => u64::from(client.to_bits() >> 8),
            IpAddr::V6(client) => (client.to_bits() >> 80) as u64 | 1 << 63,
        };
        let lane = &self.lanes[self.mixer.one(network) as usize % LANES];
        if lane.is_full() {
            return false;
        }
        let mut buffer = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER));
        buffer.extend_from_slice(payload);
        let pushed = lane.push(Candidate { flow, payload: buffer }).is_ok();
        self.bell.ring();
        pushed
    }

    /// Takes one candidate, each time from the next lane.
    pub fn pop(&self) -> Option<Candidate> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..LANES).find_map(|i| self.lanes[(first + i) % LANES].pop())
    }

    /// Takes the buffer of a checked candidate back.
    pub fn recycle(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= BUFFER {
            buffer.clear();
            // When there are enough, this one goes back to the allocator.
            let _ = self.spare.push(buffer);
        }
    }

    /// Candidates that wait.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(ArrayQueue::len).sum()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.iter().all(ArrayQueue::is_empty)
    }
}

/// Wakes checkers that have nothing to do.
#[derive(Debug, Default)]
pub struct Bell {
    asleep: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Bell {
    /// Wakes one sleeper, if there is any.
    pub fn ring(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) > 0 {
            let _lock = self.lock.lock();
            self.wake.notify_one();
        }
    }

    /// Wakes every sleeper.
    pub fn ring_all(&self) {
        let _lock = self.lock.lock();
        self.wake.notify_all();
    }

    /// Sleeps until the bell rings, at most `limit`, unless `ready` says that there is work.
    pub fn wait(&self, limit: Duration, ready: impl Fn() -> bool) {
        let mut lock = self.lock.lock();
        self.asleep.fetch_add(1, Ordering::SeqCst);
        std::sync::atomic::fence(Ordering::SeqCst);
        if !ready() {
            self.wake.wait_for(&mut lock, limit);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(client: [u8; 4]) -> Endpoints {
        Endpoints { client: client.into(), decoy: [192, 0, 2, 1].into() }
    }

    #[test]
    fn a_flood_fills_one_lane_only() {
        let candidates = Candidates::new(Arc::default());
        let accepted = (0..1000u32)
            .filter(|i| candidates.push(flow([203, 0, 113, *i as u8]), b"flood"))
            .count();
        assert_eq!(accepted, LANE_LEN);
        let others = (0..200u8).filter(|i| candidates.push(flow([10, 0, *i, 1]), b"x")).count();
        assert!(others >= 180, "{others}");
        let early: Vec<_> = (0..LANES).filter_map(|_| candidates.pop()).collect();
        let flood = early.iter().filter(|c| c.payload == b"flood").count();
        assert!(flood <= 2, "the flood gets its turn only: {flood}");
        while candidates.pop().is_some() {}
        assert!(candidates.is_empty());
    }

    #[test]
    fn buffers_are_used_again_unless_they_grew() {
        let candidates = Candidates::new(Arc::default());
        for len in [100, 4 * BUFFER] {
            assert!(candidates.push(flow([1; 4]), &vec![7; len]));
            let candidate = candidates.pop().unwrap();
            assert_eq!(candidate.payload.len(), len);
            candidates.recycle(candidate.payload);
        }
        assert_eq!(candidates.spare.len(), FIRST_BUFFERS - 1);
    }

    #[test]
    fn a_sleeper_hears_the_bell() {
        let bell = Arc::new(Bell::default());
        let candidates = Arc::new(Candidates::new(Arc::clone(&bell)));
        let seen = std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                loop {
                    bell.wait(Duration::from_secs(60), || !candidates.is_empty());
                    if let Some(candidate) = candidates.pop() {
                        return candidate.payload;
                    }
                }
            });
            assert!(candidates.push(flow([1; 4]), b"record"));
            sleeper.join().unwrap()
        });
        assert_eq!(seen, b"record");
    }
}
