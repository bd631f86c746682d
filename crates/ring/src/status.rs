//! What the balancer tells about its queues.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::Serialize;

/// State and counters of one queue, over all ingest threads, since the balancer started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// Global queue id.
    pub queue: u32,
    /// Queue set that it belongs to.
    pub set: u32,
    /// Process id of the consumer; 0 when it lives in another PID namespace.
    pub consumer: Option<u32>,
    /// Number of times that a consumer attached.
    pub generation: u64,
    /// Packets put into the queue.
    pub enqueued: u64,
    /// Packets dropped because the ring was full.
    pub dropped_full: u64,
    /// Packets dropped because the consumer holds too many frames.
    pub dropped_quota: u64,
    /// Packets that came while nobody consumed the queue.
    pub no_consumer: u64,
    /// Packets dropped because no frame was free, or longer than a chain of frames.
    pub no_frame: u64,
    /// Frames that the consumer holds now.
    pub outstanding: u64,
    /// Packets that consumers have processed.
    pub processed: u64,
    /// Return entries that were refused.
    pub bad_returns: u64,
    /// Times that a sleeping consumer was woken, current consumer only.
    pub wakes: u32,
    /// Age of the consumer's heartbeat in milliseconds.
    pub heartbeat_age_ms: Option<u64>,
    /// The consumer neither reads nor gives a sign of life.
    pub hung: bool,
}

/// A mirror, which sees the packets of queues without taking them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MirrorStatus {
    /// Process id of its reader; 0 when it lives in another PID namespace.
    pub pid: u32,
    /// Global ids of the queues whose packets it sees.
    pub queues: Vec<u32>,
    /// Packets shown to readers of this mirror since the balancer started.
    pub enqueued: u64,
    /// Packets not shown because its ring was full, its reader held too many, or they were too long.
    pub dropped: u64,
}

impl QueueStatus {
    /// Packets that did not reach the queue, whatever the cause.
    pub const fn dropped(&self) -> u64 {
        self.dropped_full + self.dropped_quota + self.no_consumer + self.no_frame
    }
}

/// Sums over queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Packets put into queues.
    pub enqueued: u64,
    /// Packets that consumers have processed.
    pub processed: u64,
    /// Packets that did not reach a queue.
    pub dropped: u64,
}

impl Totals {
    /// Sums `queues`.
    pub fn of(queues: &[QueueStatus]) -> Self {
        queues.iter().fold(Self::default(), |sum, q| Self {
            enqueued: sum.enqueued + q.enqueued,
            processed: sum.processed + q.processed,
            dropped: sum.dropped + q.dropped(),
        })
    }
}

/// Counters of one queue in one ingest thread. That thread alone writes them.
#[derive(Debug, Default)]
pub(crate) struct QueueCounters {
    pub(crate) enqueued: AtomicU64,
    pub(crate) dropped_full: AtomicU64,
    pub(crate) dropped_quota: AtomicU64,
    pub(crate) no_consumer: AtomicU64,
    pub(crate) no_frame: AtomicU64,
    pub(crate) outstanding: AtomicU64,
    pub(crate) bad_returns: AtomicU64,
    /// The consumer broke the rules of the ring; the server must part with it.
    pub(crate) corrupt: AtomicBool,
}

/// Adds to a counter that only the calling thread writes.
#[inline]
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    let value = counter.load(Ordering::Relaxed).wrapping_add(by);
    counter.store(value, Ordering::Relaxed);
}
