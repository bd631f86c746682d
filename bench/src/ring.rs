//! Row of the shared-memory queues.

use crate::measure::{Row, Side, median};
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
/// Descriptors of a ring.
const SLOTS: usize = 8192;
/// Packets that may be under way: the consumer follows closely, as one that keeps up does.
const UNDER_WAY: usize = 1024;
/// Bursts of one measurement: few, so that some are not disturbed by other programs.
const BURSTS: usize = 2048;
/// Measurements of one repetition, of which the median counts.
const MEASUREMENTS: usize = 9;
/// A consumer does not fall asleep within a measurement, but does between repetitions.
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
    // The first packets are looked at, so that the pages of their frames are there.
    let mut first = 1u32 << 16;
    loop {
        let burst = consumer.receive(Duration::from_millis(100));
        if burst.is_empty() && rustix::process::getppid() != parent {
            break;
        }
        if first > 0 {
            first = first.saturating_sub(burst.len() as u32);
            black_box(burst.iter().map(|frame| u64::from(frame.data[0])).sum::<u64>());
        }
        black_box(burst.iter().map(|frame| frame.data.len()).sum::<usize>());
    }
}

/// A sending side of a ring.
trait Sending {
    /// Sends a burst and publishes it.
    fn burst(&mut self);
    /// Packets that the consumer had not given back at the last look; `None` without a consumer.
    fn outstanding(&self) -> Option<u64>;
    /// Looks what the consumer has given back.
    fn look(&mut self);
}

/// Streams packets to the consumer until it has given back the last. Both sides are at work all the
/// time, each on a CPU of its own, so the time per packet is what one packet costs one side.
fn stream(mut sending: impl Sending + 'static) -> Side {
    Box::new(move || {
        // While the other side of the row ran, this one gave no sign of life: its consumer sleeps
        // and may even have to attach again.
        loop {
            std::thread::sleep(SPIN);
            sending.look();
            if sending.outstanding().is_some() {
                break;
            }
        }
        sending.burst();
        wait(&mut sending, 0);
        let measurements = (0..MEASUREMENTS).map(|_| {
            let start = Instant::now();
            for _ in 0..BURSTS {
                sending.burst();
                wait(&mut sending, UNDER_WAY - BURST);
            }
            start.elapsed().as_nanos() as f64 / (BURST * BURSTS) as f64
        });
        let median = median(measurements.collect());
        wait(&mut sending, 0);
        median
    })
}

/// Waits until at most `most` packets are outstanding.
fn wait(sending: &mut impl Sending, most: usize) {
    while sending.outstanding().is_some_and(|n| n > most as u64) {
        spin_loop();
        sending.look();
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
    stream(Queue { producer, server, _consumer: consumer, _dir: dir })
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
        let mut delivered = 0;
        for _ in 0..BURST {
            // The packet is in its frame already, as after a receiver that writes in place.
            let write = |_: &mut [u8]| ();
            delivered += self.producer.send_with(PACKET, &meta, 1, write).delivered;
        }
        self.producer.flush();
        assert!(delivered == BURST as u32, "what is under way fits into the ring");
    }

    fn outstanding(&self) -> Option<u64> {
        self.producer.outstanding(0)
    }

    fn look(&mut self) {
        self.producer.tick();
        if self.outstanding().is_none() {
            self.server.poll(Duration::ZERO, &mut |_| "{}".to_owned());
        }
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
        let mut last = Instant::now();
        while !consumer.stop.load(Ordering::Relaxed) {
            let produced = consumer.produced.0.load(Ordering::Acquire);
            if produced == at {
                spin_loop();
                if last.elapsed() > SPIN {
                    // The other side of the row has this CPU now.
                    std::thread::sleep(SPIN);
                }
                continue;
            }
            let upto = produced.min(at + 2 * BURST as u64);
            for i in at..upto {
                let [address, len] = &consumer.entries[i as usize % SLOTS];
                black_box(address.load(Ordering::Relaxed) + len.load(Ordering::Relaxed));
            }
            at = upto;
            consumer.consumed.0.store(at, Ordering::Release);
            last = Instant::now();
        }
    });
    stream(BareSide { ring: Stopping(ring), at: 0, consumed: 0 })
}

/// The producer of a bare ring.
struct BareSide {
    ring: Stopping,
    at: u64,
    consumed: u64,
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
        ring.produced.0.store(self.at, Ordering::Release);
    }

    fn outstanding(&self) -> Option<u64> {
        Some(self.at - self.consumed)
    }

    fn look(&mut self) {
        self.consumed = self.ring.0.consumed.0.load(Ordering::Acquire);
    }
}

/// One packet, one side, in bursts of 32, while both sides are at work.
pub(crate) fn handover() -> Row {
    Row {
        unit: "ns",
        baseline_name: "a bare single-producer ring of 16-byte entries",
        ours: queue(),
        baseline: Ok(bare()),
        plausible: None,
    }
}
