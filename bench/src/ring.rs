//! Row of the shared-memory queues.

use crate::measure::{Row, Side};
use shm::{Consumer, ConsumerOptions, Meta, Producer, Server, ServerOptions};
use std::hint::{black_box, spin_loop};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Word that makes this program the consumer of the row.
pub(crate) const CONSUMER: &str = "--ring-consumer";

/// Packets between two publications of the producer's index.
const BURST: usize = 32;
/// Descriptors of a ring; a round sends half as many packets, so nothing is ever dropped.
const SLOTS: usize = 8192;
const ROUND: usize = SLOTS / 2;
/// Rounds of one measurement.
const ROUNDS: usize = 16;
/// Sleep while the other side empties the ring between two rounds.
const PAUSE: Duration = Duration::from_micros(500);
/// A consumer does not fall asleep within a round, but does between repetitions.
const SPIN: Duration = Duration::from_micros(200);
const CLUSTER: u32 = 4242;
const PACKET: usize = 60;

/// The producer is pinned to the last CPU, so its consumer takes the first.
fn take_first_cpu() {
    let mut first = rustix::thread::CpuSet::new();
    first.set(0);
    // Where that is refused the scheduler separates the two.
    let _ = rustix::thread::sched_setaffinity(None, &first);
}

/// Consumes the queue in `dir` as long as the process that started this one lives.
pub(crate) fn consume(dir: PathBuf) {
    take_first_cpu();
    let parent = rustix::process::getppid();
    let mut options = ConsumerOptions::new(dir, CLUSTER, 0);
    options.spin = SPIN;
    let mut consumer = Consumer::detached(options);
    while rustix::process::getppid() == parent {
        let burst = consumer.receive(Duration::from_millis(100));
        black_box(burst.iter().map(|frame| frame.data.len()).sum::<usize>());
    }
}

/// A sending side of a ring.
trait Sending {
    /// Sends a burst and publishes it.
    fn burst(&mut self);
    /// Whether there is a consumer that has given everything back.
    fn is_idle(&mut self) -> bool;
}

/// Sends rounds of packets to a consumer that is awake, as it is under load, and waits for the consumer between them, outside of the measurement.
fn rounds(mut sending: impl Sending + 'static) -> Side {
    Box::new(move || {
        // While the other side of the row ran, this one gave no sign of life: its consumer may
        // have to attach again, and may notice that late.
        for _ in 0..2 {
            std::thread::sleep(PAUSE);
            wait_until_idle(&mut sending);
        }
        let mut spent = Duration::ZERO;
        for _ in 0..ROUNDS {
            sending.burst();
            while !sending.is_idle() {
                spin_loop();
            }
            let start = Instant::now();
            (0..ROUND / BURST).for_each(|_| sending.burst());
            spent += start.elapsed();
            wait_until_idle(&mut sending);
        }
        spent.as_nanos() as f64 / (ROUND * ROUNDS) as f64
    })
}

fn wait_until_idle(sending: &mut impl Sending) {
    while !sending.is_idle() {
        std::thread::sleep(PAUSE);
    }
}

/// A child that ends with the row.
struct Consuming(Child);

impl Drop for Consuming {
    fn drop(&mut self) {
        // It may have left by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_consumer(dir: &Path) -> std::io::Result<Consuming> {
    let program = std::env::current_exe()?;
    let child = Command::new(program).arg(CONSUMER).arg(dir).stdout(Stdio::null()).spawn()?;
    Ok(Consuming(child))
}

/// The queue of `spec/ingest.md` 10, its consumer in a process of its own.
fn queue() -> Side {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut options = ServerOptions::new(dir.path().to_owned(), CLUSTER, vec![1]);
    options.slots = SLOTS as u32;
    let (server, mut producers) =
        Server::bind(options, [7; 16]).expect("a socket in the temporary folder");
    let consumer = start_consumer(dir.path()).expect("this program starts again");
    let producer = producers.remove(0);
    rounds(Queue { producer, server, _consumer: consumer, _dir: dir })
}

/// Both ends of a queue that belong to the balancer.
struct Queue {
    producer: Producer,
    server: Server,
    _consumer: Consuming,
    _dir: tempfile::TempDir,
}

impl Sending for Queue {
    fn burst(&mut self) {
        let meta = Meta::default();
        let mut dropped = 0;
        for _ in 0..BURST {
            let write = |frame: &mut [u8]| {
                black_box(frame);
            };
            dropped += self.producer.send_with(PACKET, &meta, 1, write).dropped;
        }
        self.producer.flush();
        assert_eq!(dropped, 0, "a round fits into the ring");
    }

    fn is_idle(&mut self) -> bool {
        self.server.poll(Duration::ZERO, &mut |_| "{}".to_owned());
        self.producer.tick();
        let queue = &self.server.queues()[0];
        queue.consumer.is_some() && queue.outstanding == 0
    }
}

/// An index on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Index(AtomicU64);

/// A ring with one producer and one consumer, and nothing else.
struct Bare {
    entries: Box<[[AtomicU64; 2]]>,
    produced: Index,
    consumed: Index,
    stop: AtomicBool,
}

/// Ends the consumer's thread with the row.
struct Stopping(Arc<Bare>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn bare() -> Side {
    let ring = Arc::new(Bare {
        entries: (0..SLOTS).map(|_| Default::default()).collect(),
        produced: Index::default(),
        consumed: Index::default(),
        stop: AtomicBool::new(false),
    });
    let consumer = Arc::clone(&ring);
    std::thread::spawn(move || {
        take_first_cpu();
        let mut at = 0;
        while !consumer.stop.load(Ordering::Relaxed) {
            let produced = consumer.produced.0.load(Ordering::Acquire);
            if produced == at {
                spin_loop();
                // The other row has the CPU as well.
                std::thread::yield_now();
                continue;
            }
            for i in at..produced {
                let [address, len] = &consumer.entries[i as usize % SLOTS];
                black_box(address.load(Ordering::Relaxed) + len.load(Ordering::Relaxed));
            }
            at = produced;
            consumer.consumed.0.store(at, Ordering::Release);
        }
    });
    rounds(BareSide { ring: Stopping(ring), at: 0 })
}

/// The producer of a bare ring.
struct BareSide {
    ring: Stopping,
    at: u64,
}

impl Sending for BareSide {
    fn burst(&mut self) {
        let ring = &self.ring.0;
        for i in self.at..self.at + BURST as u64 {
            let [address, len] = &ring.entries[i as usize % SLOTS];
            address.store(i, Ordering::Relaxed);
            len.store(PACKET as u64, Ordering::Relaxed);
        }
        self.at += BURST as u64;
        let used = self.at - ring.consumed.0.load(Ordering::Acquire);
        assert!(used <= SLOTS as u64, "a round fits into the ring");
        ring.produced.0.store(self.at, Ordering::Release);
    }

    fn is_idle(&mut self) -> bool {
        self.ring.0.consumed.0.load(Ordering::Acquire) == self.at
    }
}

/// One packet, on the producer's side, in bursts of 32.
pub(crate) fn handover() -> Row {
    Row {
        unit: "ns",
        baseline_name: "a bare single-producer ring of 16-byte entries",
        ours: queue(),
        baseline: bare(),
        plausible: None,
    }
}
