//! The running balancer, as threads and operator see it: counters, status, reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shm::QueueStatus;
use signalling::station::{
    FileResult, InterfaceStatus, QueueStatus as QueueMessage, ZbalanceStatus, status_reply::Detail,
};
use telemetry::admin::{self, DaemonStatus};
use telemetry::process::Reloads;

use crate::format::{Details, Snapshot};
use crate::ingest::Counters;
use crate::live::{self, Live};

/// What is shared between threads, and shown to the operator.
#[derive(Debug)]
pub(crate) struct Balancer {
    pub(crate) cluster: u32,
    pub(crate) sets: Vec<u32>,
    pub(crate) start: Instant,
    pub(crate) sources: Vec<(String, Counters)>,
    pub(crate) latest: Mutex<Counts>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) live: Live,
    pub(crate) reloads: Reloads,
    /// Rises with each round of the control socket.
    pub(crate) beats: AtomicU64,
}

/// Counters of inputs and queues that were read together, so that they can be compared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    received: u64,
    /// Lost before this program saw them.
    lost: u64,
    queues: Vec<QueueStatus>,
}

impl Counts {
    fn forwarded(&self) -> u64 {
        self.queues.iter().map(|q| q.enqueued).sum()
    }
}

/// Frames that a queue did not get.
const fn dropped(queue: &QueueStatus) -> u64 {
    queue.dropped_full + queue.dropped_quota + queue.no_frame
}

impl Balancer {
    /// Reads the file of options again.
    pub(crate) fn reload_file(&self) -> Vec<FileResult> {
        self.reloads.run("capturing", || live::reload(&self.live))
    }

    /// Reads the counters of the inputs and keeps them with those of the queues.
    pub(crate) fn note(&self, queues: Vec<QueueStatus>) {
        let sum = |read: fn(&Counters) -> &AtomicU64| {
            self.sources.iter().map(|(_, c)| read(c).load(Ordering::Relaxed)).sum()
        };
        let (received, lost) = (sum(|c| &c.received), sum(|c| &c.dropped));
        *self.latest.lock() = Counts { received, lost, queues };
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let counts = self.latest.lock();
        Snapshot {
            cluster: self.cluster,
            sets: self.sets.clone(),
            duration: self.start.elapsed(),
            received: counts.received,
            forwarded: counts.forwarded(),
            processed: counts.queues.iter().map(|q| q.processed).sum(),
            details: self.live.per_queue().then(|| Details {
                interface: (counts.received, counts.lost),
                queues: counts.queues.iter().map(|q| (q.processed, dropped(q))).collect(),
            }),
        }
    }

    /// The answer to a monitor of the control socket.
    pub(crate) fn json(&self, queues: &[QueueStatus]) -> String {
        let interfaces: Vec<_> = self
            .sources
            .iter()
            .map(|(name, c)| {
                serde_json::json!({
                    "name": name,
                    "received": c.received.load(Ordering::Relaxed),
                    "dropped": c.dropped.load(Ordering::Relaxed),
                    "filtered": c.filtered.load(Ordering::Relaxed),
                    "reopened": c.reopened.load(Ordering::Relaxed),
                    "down": c.down.load(Ordering::Relaxed),
                })
            })
            .collect();
        let queues: Vec<_> = queues
            .iter()
            .map(|q| {
                serde_json::json!({
                    "queue": q.queue,
                    "set": q.set,
                    "consumer": q.consumer,
                    "enqueued": q.enqueued,
                    "processed": q.processed,
                    "outstanding": q.outstanding,
                    "dropped_full": q.dropped_full,
                    "dropped_quota": q.dropped_quota,
                    "no_consumer": q.no_consumer,
                    "no_frame": q.no_frame,
                    "heartbeat_age_ms": q.heartbeat_age_ms,
                    "hung": q.hung,
                })
            })
            .collect();
        serde_json::json!({
            "cluster": self.cluster,
            "uptime_ms": u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            "interfaces": interfaces,
            "queues": queues,
        })
        .to_string()
    }
}

impl admin::Daemon for Balancer {
    fn status(&self) -> DaemonStatus {
        let counts = self.latest.lock().clone();
        let down = self.sources.iter().filter(|(_, c)| c.down.load(Ordering::Relaxed));
        let mut notes: Vec<String> =
            down.map(|(name, _)| format!("{name}: down, retrying")).collect();
        let state = if notes.is_empty() { "ready" } else { "degraded" };
        notes.extend(self.reloads.notes());
        DaemonStatus {
            state: state.to_owned(),
            notes,
            detail: Some(Detail::Zbalance(ZbalanceStatus {
                received: counts.received,
                forwarded: counts.forwarded(),
                dropped: counts.lost + counts.queues.iter().map(dropped).sum::<u64>(),
                queues: counts
                    .queues
                    .iter()
                    .map(|q| QueueMessage {
                        set: q.set,
                        queue: q.queue,
                        attached: q.consumer.is_some(),
                        enqueued: q.enqueued,
                        dropped: dropped(q),
                        processed: q.processed,
                        outstanding: q.outstanding,
                        dropped_full: q.dropped_full,
                        dropped_quota: q.dropped_quota,
                        no_consumer: q.no_consumer,
                        no_frame: q.no_frame,
                        heartbeat_age_seconds: q.heartbeat_age_ms.unwrap_or(0) as f64 / 1000.0,
                        hung: q.hung,
                    })
                    .collect(),
                cluster: self.cluster,
                interfaces: self
                    .sources
                    .iter()
                    .map(|(name, c)| InterfaceStatus {
                        interface: name.clone(),
                        received: c.received.load(Ordering::Relaxed),
                        dropped: c.dropped.load(Ordering::Relaxed),
                        filtered: c.filtered.load(Ordering::Relaxed),
                        reopened: c.reopened.load(Ordering::Relaxed),
                        down: c.down.load(Ordering::Relaxed),
                    })
                    .collect(),
            })),
        }
    }

    async fn reload(&self) -> Vec<FileResult> {
        self.reload_file()
    }

    fn drain(&self, _: Duration) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
