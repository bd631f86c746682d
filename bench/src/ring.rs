//! Row of the shared-memory queues.

use crate::measure::{Row, Side};
use shm::{Consumer, ConsumerOptions, ConsumerState, Meta, Server, ServerOptions};
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
/// Time in which the other side empties the ring between two rounds.
const PAUSE: Duration = Duration::from_millis(2);
const CLUSTER: u32 = 4242;
const PACKET: usize = 60;

/// The producer is pinned to the last CPU, so its consumer takes the first.
fn take_first_cpu() {
    let mut first = rustix::thread::CpuSet::new();
    first.set(0);
    // Where that is refused the scheduler separates the two.
    let _ = rustix::thread::sched_setaffinity(None, &first);
}

/// Consumes the queue in `dir` until its balancer is gone.
pub(crate) fn consume(dir: PathBuf) {
    take_first_cpu();
    let mut consumer = Consumer::detached(ConsumerOptions::new(dir, CLUSTER, 0));
    let mut attached = false;
    loop {
        let burst = consumer.receive(Duration::from_millis(100));
        black_box(burst.iter().map(|frame| frame.data.len()).sum::<usize>());
        match consumer.state() {
            ConsumerState::Attached { .. } => attached = true,
            ConsumerState::Detached if attached => return,
            ConsumerState::Detached => {}
        }
    }
}

/// A side that sends rounds of packets with `burst` and rests between them.
fn rounds(mut burst: impl FnMut() + 'static) -> Side {
    Box::new(move || {
        let mut spent = Duration::ZERO;
        for _ in 0..ROUNDS {
            let start = Instant::now();
            (0..ROUND / BURST).for_each(|_| burst());
            spent += start.elapsed();
            std::thread::sleep(PAUSE);
        }
        spent.as_nanos() as f64 / (ROUND * ROUNDS) as f64
    })
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
    let (mut server, mut producers) =
        Server::bind(options, [7; 16]).expect("a socket in the temporary folder");
    let consumer = start_consumer(dir.path()).expect("this program starts again");
    let mut producer = producers.remove(0);
    while server.queues()[0].consumer.is_none() {
        server.poll(Duration::from_millis(5), &mut |_| "{}".to_owned());
        producer.tick();
    }
    let meta = Meta::default();
    rounds(move || {
        let _alive = (&server, &consumer, &dir);
        let mut dropped = 0;
        for _ in 0..BURST {
            dropped += producer
                .send_with(PACKET, &meta, 1, |frame| {
                    black_box(frame);
                })
                .dropped;
        }
        producer.flush();
        assert_eq!(dropped, 0, "the consumer has time to empty the ring");
    })
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
    let stopping = Stopping(ring);
    let mut at = 0u64;
    rounds(move || {
        let ring = &stopping.0;
        for i in 0..BURST as u64 {
            let [address, len] = &ring.entries[(at + i) as usize % SLOTS];
            address.store(at + i, Ordering::Relaxed);
            len.store(PACKET as u64, Ordering::Relaxed);
        }
        at += BURST as u64;
        let room = at - ring.consumed.0.load(Ordering::Acquire);
        assert!(room <= SLOTS as u64, "the consumer has time to empty the ring");
        ring.produced.0.store(at, Ordering::Release);
    })
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
