//! The running balancer, as threads and operator see it: counters, status, reload.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shm::{MirrorStatus, QueueStatus};
use signalling::station::{
    FileResult, InterfaceStatus, QueueStatus as QueueMessage, ZbalanceStatus, status_reply::Detail,
};
use telemetry::admin::{self, DaemonStatus};
use telemetry::process::Reloads;

use crate::arguments::Arguments;
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
    /// Sources are to drop in the kernel what no detector needs.
    prefilter: bool,
    fast_path: bool,
    pub(crate) latest: Mutex<Counts>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) live: Live,
    pub(crate) reloads: Reloads,
    /// Rises with each round of the control socket.
    pub(crate) beats: AtomicU64,
}

/// Whether every thread, that of the control socket too, has moved since the last time that all of them had:
/// what the service manager's watchdog is told. A thread whose source has ended has nothing to do.
pub(crate) fn all_move(balancer: Arc<Balancer>) -> impl FnMut() -> bool {
    let beats = |balancer: &Balancer| {
        let threads = balancer.sources.iter().map(|(_, c)| (c.beats.load(Ordering::Relaxed), c));
        let running = threads.filter(|(_, c)| !c.ended.load(Ordering::Acquire)).map(|(n, _)| n);
        running.chain([balancer.beats.load(Ordering::Relaxed)]).collect::<Vec<_>>()
    };
    let mut before = Vec::new();
    move || {
        let now = beats(&balancer);
        let alive = now.len() != before.len() || now.iter().zip(&before).all(|(a, b)| a != b);
        if alive {
            before = now;
        }
        alive
    }
}

/// Counters of inputs and queues that were read together, so that they can be compared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    received: u64,
    /// Lost before this program saw them.
    lost: u64,
    /// Dropped in the kernel because no detector needs them.
    prefiltered: u64,
    /// Given to the host in the kernel because their flow is that of a session.
    passed: u64,
    queues: Vec<QueueStatus>,
    mirrors: Vec<MirrorStatus>,
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
    /// A balancer of these sources, which ends with `stop`.
    pub(crate) fn new(
        arguments: &Arguments,
        sources: Vec<String>,
        live: Live,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        Self {
            cluster: arguments.cluster,
            sets: arguments.queues.clone(),
            start: Instant::now(),
            sources: sources.into_iter().map(|name| (name, Counters::default())).collect(),
            prefilter: arguments.prefilter,
            fast_path: arguments.fast_path,
            latest: Mutex::default(),
            stop: Arc::clone(stop),
            live,
            reloads: Reloads::default(),
            beats: AtomicU64::new(0),
        }
    }

    /// Reads the file of options again.
    pub(crate) fn reload_file(&self) -> Vec<FileResult> {
        self.reloads.run("capturing", || live::reload(&self.live))
    }

    /// Reads the counters of the inputs and keeps them with those of the queues and mirrors.
    pub(crate) fn note(&self, queues: Vec<QueueStatus>, mirrors: Vec<MirrorStatus>) {
        let sum = |read: fn(&Counters) -> &AtomicU64| {
            self.sources.iter().map(|(_, c)| read(c).load(Ordering::Relaxed)).sum()
        };
        let (received, lost) = (sum(|c| &c.received), sum(|c| &c.dropped));
        let (prefiltered, passed) = (sum(|c| &c.prefiltered), sum(|c| &c.passed));
        *self.latest.lock() = Counts { received, lost, prefiltered, passed, queues, mirrors };
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
                prefiltered: self.prefilter.then_some(counts.prefiltered),
                passed: self.fast_path.then_some(counts.passed),
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
                    "prefiltered": c.prefiltered.load(Ordering::Relaxed),
                    "passed": c.passed.load(Ordering::Relaxed),
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
            "mirrors": self.latest.lock().mirrors,
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
                        prefiltered: c.prefiltered.load(Ordering::Relaxed),
                        passed: c.passed.load(Ordering::Relaxed),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::Ingest;
    use crate::input::Input;
    use crate::spread::{Distribution, Spread};
    use capture::{Burst, Frame, Source, Statistics};
    use clap::Parser;
    use packet::hash::SymmetricHash;
    use std::io;
    use std::sync::mpsc::{Receiver, channel};

    /// A source without frames whose wait lasts as long as somebody else says.
    #[derive(Debug)]
    struct Held(Receiver<()>);

    impl Source for Held {
        fn burst(
            &mut self,
            _: usize,
            _: Duration,
            _: &mut dyn FnMut(Frame<'_>),
        ) -> io::Result<Burst> {
            // The other end is gone when the test is over.
            let _ = self.0.recv();
            Ok(Burst::Frames(0))
        }

        fn cease(&mut self) {}

        fn statistics(&mut self) -> Statistics {
            Statistics::default()
        }
    }

    #[test]
    fn a_thread_that_hangs_stops_the_watchdog() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = shm::ServerOptions::new(dir.path().to_owned(), 98, vec![1]);
        (options.slots, options.producers) = (64, 2);
        let (_server, producers) = shm::Server::bind(options, [1; 16]).unwrap();
        let arguments = Arguments::parse_from(["zbalance", "-i", "a,b", "-n", "1"]);
        let names = ["a", "b"].map(str::to_owned).into();
        let balancer = Arc::new(Balancer::new(
            &arguments,
            names,
            Live::new(&arguments).unwrap(),
            &Arc::default(),
        ));
        let mut releases = Vec::new();
        let mut threads = Vec::new();
        for (index, producer) in producers.into_iter().enumerate() {
            let (release, held) = channel();
            releases.push(release);
            let distribution = Distribution {
                mode: arguments.mode,
                sets: vec![1],
                hash: SymmetricHash::new(1),
                map: None,
                decapsulate: false,
                filters: Arc::clone(&balancer.live.filters),
            };
            let ingest = Ingest {
                name: String::new(),
                source: Input::Copied(Box::new(Held(held))),
                producer,
                spread: Spread::new(distribution, 0),
                active: false,
            };
            let balancer = Arc::clone(&balancer);
            threads.push(std::thread::spawn(move || {
                let counters = &balancer.sources[index].1;
                ingest.run(counters, &balancer.stop, &AtomicBool::new(false))
            }));
        }
        // A round of the thread and of the control socket, which is not served here.
        let beats = |index: usize| balancer.sources[index].1.beats.load(Ordering::Relaxed);
        let move_on = |index: usize| {
            let before = beats(index);
            releases[index].send(()).unwrap();
            while beats(index) == before {
                std::thread::yield_now();
            }
        };
        while beats(0) == 0 || beats(1) == 0 {
            std::thread::yield_now();
        }
        let mut proof = all_move(Arc::clone(&balancer));
        assert!(proof(), "all have moved since the start");
        for _ in 0..3 {
            move_on(0);
            balancer.beats.fetch_add(1, Ordering::Relaxed);
            assert!(!proof(), "the second thread hangs");
        }
        move_on(1);
        assert!(proof(), "it goes on");
        move_on(0);
        move_on(1);
        assert!(!proof(), "nobody serves the control socket");
        balancer.stop.store(true, Ordering::Relaxed);
        drop(releases);
        for thread in threads {
            assert!(thread.join().unwrap().is_none());
        }
    }
}
