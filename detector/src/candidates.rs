//! Records that may carry a tag, on their way from a worker to the checkers.
//!
//! Each worker fills a queue of its own, whose length is its budget: checkers take from all workers in
//! turn. The queue is divided into lanes chosen by a keyed hash of the client's network, which are
//! served in turn. When the budget is spent, a newcomer takes the place of the oldest record of the
//! longest lane, unless its own lane is as long, so that a flood of candidates from one network, or
//! from a few, is dropped where it comes from.

use crate::mix::Mixer;
use crate::worker::Endpoints;
use crossbeam_queue::ArrayQueue;
use parking_lot::{Condvar, Mutex};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Lanes of one queue.
const LANES: usize = 128;
/// Candidates that wait in one lane.
const LANE_LEN: usize = 64;
/// Candidates of a worker that wait by default: 4 MiB.
pub const DEFAULT_BUDGET: usize = 2048;
/// Most that a worker can be told to let wait.
pub const MAX_BUDGET: usize = LANES * LANE_LEN;
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
    /// Candidates in each lane, side by side, so that the longest is found quickly.
    lengths: Box<[AtomicUsize]>,
    total: AtomicUsize,
    budget: usize,
    displaced: AtomicU64,
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
        Self::with_budget(bell, DEFAULT_BUDGET)
    }

    /// The same, in which up to `budget` candidates wait.
    pub fn with_budget(bell: Arc<Bell>, budget: usize) -> Self {
        let budget = budget.clamp(1, MAX_BUDGET);
        let spare = ArrayQueue::new(budget);
        for _ in 0..FIRST_BUFFERS.min(budget) {
            // There is room: the queue was just made.
            let _ = spare.push(Vec::with_capacity(BUFFER));
        }
        Self {
            lanes: (0..LANES).map(|_| ArrayQueue::new(LANE_LEN)).collect(),
            lengths: (0..LANES).map(|_| AtomicUsize::new(0)).collect(),
            total: AtomicUsize::new(0),
            budget,
            displaced: AtomicU64::new(0),
            spare,
            mixer: Mixer::random(),
            turn: AtomicUsize::new(0),
            bell,
        }
    }

    /// Copies a record into the lane of its client's network; false when it is not let in. Only the
    /// worker calls this.
    pub fn push(&self, flow: Endpoints, payload: &[u8]) -> bool {
        let network = match flow.client {
            IpAddr::V4(client) => u64::from(client.to_bits() >> 8),
            IpAddr::V6(client) => (client.to_bits() >> 80) as u64 | 1 << 63,
        };
        let lane = self.mixer.one(network) as usize % LANES;
        let own = self.lengths[lane].load(Ordering::Relaxed);
        if own >= LANE_LEN || !self.has_room(own) {
            return false;
        }
        let mut buffer = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER));
        buffer.extend_from_slice(payload);
        // Counted before it is there, so that whoever takes it never counts below zero.
        self.lengths[lane].fetch_add(1, Ordering::Relaxed);
        self.total.fetch_add(1, Ordering::Relaxed);
        let pushed = self.lanes[lane].push(Candidate { flow, payload: buffer }).is_ok();
        if !pushed {
            self.uncount(lane);
        }
        self.bell.ring();
        pushed
    }

    /// Whether the budget has room for one more of a lane with `own` candidates, perhaps because the
    /// longest lane gave way.
    fn has_room(&self, own: usize) -> bool {
        if self.total.load(Ordering::Relaxed) < self.budget {
            return true;
        }
        let lengths = self.lengths.iter().map(|length| length.load(Ordering::Relaxed));
        let Some((longest, length)) = lengths.enumerate().max_by_key(|(_, length)| *length) else {
            return false;
        };
        if length <= own + 1 {
            return false;
        }
        // A checker may have emptied it meanwhile, which is room as well.
        if let Some(candidate) = self.take(longest) {
            self.recycle(candidate.payload);
            self.displaced.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    fn take(&self, lane: usize) -> Option<Candidate> {
        let candidate = self.lanes[lane].pop()?;
        self.uncount(lane);
        Some(candidate)
    }

    fn uncount(&self, lane: usize) {
        self.lengths[lane].fetch_sub(1, Ordering::Relaxed);
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes one candidate, each time from the next lane that has any.
    pub fn pop(&self) -> Option<Candidate> {
        if self.is_empty() {
            return None;
        }
        let first = self.turn.load(Ordering::Relaxed);
        (0..LANES).map(|i| (first + i) % LANES).find_map(|lane| {
            if self.lengths[lane].load(Ordering::Relaxed) == 0 {
                return None;
            }
            let candidate = self.take(lane)?;
            self.turn.store(lane + 1, Ordering::Relaxed);
            Some(candidate)
        })
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
        self.total.load(Ordering::SeqCst)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// Candidates that gave way to one of another network.
    pub fn displaced(&self) -> u64 {
        self.displaced.load(Ordering::Relaxed)
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
        assert!(others >= 190, "{others}");
        let early: Vec<_> = (0..LANES / 2).filter_map(|_| candidates.pop()).collect();
        let flood = early.iter().filter(|c| c.payload == b"flood").count();
        assert!(flood <= 2, "the flood gets its turn only: {flood}");
        while candidates.pop().is_some() {}
        assert!(candidates.is_empty());
    }

    #[test]
    fn networks_share_a_budget_that_is_spent() {
        const BUDGET: usize = 256;
        let candidates = Candidates::with_budget(Arc::default(), BUDGET);
        // Eight networks fill it: at most 64 of a lane, so all of it is theirs.
        for i in 0..10_000u32 {
            candidates.push(flow([203, 0, i as u8 % 8, 1]), b"flood");
        }
        assert_eq!(candidates.waiting(), BUDGET);
        // Where two of them share a lane, one has made room for another before.
        let before = candidates.displaced();
        let others = (0..100u8).filter(|i| candidates.push(flow([10, 0, *i, 1]), b"x")).count();
        assert!(
            others >= 85,
            "only those that share a lane with the flood are not let in: {others}"
        );
        assert_eq!(candidates.waiting(), BUDGET);
        assert_eq!(candidates.displaced() - before, others as u64);
        let all: Vec<_> = std::iter::from_fn(|| candidates.pop()).collect();
        assert_eq!(all.len(), BUDGET);
        assert_eq!(all.iter().filter(|c| c.payload == b"x").count(), others);
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
