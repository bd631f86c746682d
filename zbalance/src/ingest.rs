//! One ingest thread: from a source into the queues.

use std::io::ErrorKind::{InvalidData, UnexpectedEof};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use capture::{Burst, Position};
use shm::Producer;

use crate::input::Input;
use crate::log;
use crate::spread::Spread;

/// Frames of one burst.
const BURST: usize = 64;
/// Longest sleep without a frame; consumers get a sign of life as often.
const IDLE: Duration = Duration::from_millis(50);
/// How often the kernel's drop counters are read.
const COUNT: Duration = Duration::from_millis(500);
/// Time that consumers have for what is left in a source at the end, and for making space in their queues.
const REST: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_millis(500);
/// Frames of one burst then: together they fit into half of a queue, in which there is space.
const SMALL_BURST: usize = 16;
/// Pause before a source that failed is opened again.
const REOPEN: Duration = Duration::from_millis(500);

/// Counters of one source, written by its thread alone.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames read.
    pub received: AtomicU64,
    /// Frames that the kernel dropped before they were read.
    pub dropped: AtomicU64,
    /// Frames read and left out because of a filter.
    pub filtered: AtomicU64,
    /// Frames that the kernel dropped because no detector needs them.
    pub prefiltered: AtomicU64,
    /// Frames that the kernel gave to the host because their flow is that of a session.
    pub passed: AtomicU64,
    /// Times that the source was opened again.
    pub reopened: AtomicU64,
    /// The source has ended or stands still.
    pub down: AtomicBool,
    /// The source has no more frames, for ever.
    pub ended: AtomicBool,
    /// Rises as long as the thread runs.
    pub beats: AtomicU64,
}

impl Counters {
    /// The thread is alive.
    #[inline]
    pub fn beat(&self) {
        // One writer.
        self.beats.store(self.beats.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

/// What the kernel counted before a source was opened again.
#[derive(Debug, Default)]
struct Before {
    dropped: u64,
    prefiltered: u64,
    passed: u64,
}

/// What an ingest thread works with.
pub struct Ingest {
    /// Name of the source, to open it again.
    pub name: String,
    /// The open source.
    pub source: Input,
    /// Where frames go.
    pub producer: Producer,
    /// How they are spread.
    pub spread: Spread,
    /// Never sleep.
    pub active: bool,
}

impl Ingest {
    /// Gives the source its frames: from now on none is lost, although nobody reads yet.
    pub fn supply(&mut self) {
        self.source.supply(&mut self.producer);
    }

    /// Reads and spreads until `stop` is set or the source ends; what has come until then is spread as well.
    /// With `handing` set too, that is left to a successor, and where it goes on is returned.
    pub fn run(
        mut self,
        counters: &Counters,
        stop: &AtomicBool,
        handing: &AtomicBool,
    ) -> Option<Position> {
        let mut before = Before::default();
        let mut counted = Instant::now();
        let mut is_away = false;
        let timeout = if self.active { Duration::ZERO } else { IDLE };
        while !stop.load(Ordering::Relaxed) {
            counters.beat();
            match self.burst(BURST, timeout, counters) {
                Ok(Burst::Frames(_)) => {}
                Ok(Burst::Ended) => {
                    self.producer.flush();
                    counters.ended.store(true, Ordering::Release);
                    return None;
                }
                // Only recordings have such errors, and reading them again does not mend them.
                Err(error) if matches!(error.kind(), InvalidData | UnexpectedEof) => {
                    log::notice(format_args!("{}: {error}; it ends here", self.name));
                    self.producer.flush();
                    counters.ended.store(true, Ordering::Release);
                    return None;
                }
                Err(error) => {
                    log::notice(format_args!("{}: {error}; trying again", self.name));
                    is_away = !self.reopen(counters, &mut before, stop);
                }
            }
            if counted.elapsed() >= COUNT {
                counted = Instant::now();
                self.count(counters, &before);
            }
        }
        let handed = match handing.load(Ordering::Relaxed) {
            true if is_away => None,
            true => self.hand_over(counters),
            false => {
                self.drain(counters);
                None
            }
        };
        self.producer.flush();
        self.count(counters, &before);
        handed
    }

    /// Spreads one burst of at most `max` frames and counts it.
    fn burst(
        &mut self,
        max: usize,
        timeout: Duration,
        counters: &Counters,
    ) -> std::io::Result<Burst> {
        let (producer, spread) = (&mut self.producer, &mut self.spread);
        let (mut first, mut filtered) = (true, 0);
        let mut reads = spread.reads(producer);
        let burst = self.source.burst(max, timeout, reads, &mut |arrival| {
            // A consumer that attached while this thread slept must get the first frame too, and what it wants to
            // know.
            if std::mem::take(&mut first) {
                producer.flush();
                reads = spread.reads(producer);
            }
            filtered += u64::from(!spread.send(arrival, producer, reads));
        });
        if filtered > 0 {
            counters.filtered.fetch_add(filtered, Ordering::Relaxed);
        }
        match burst {
            Ok(Burst::Frames(0)) => self.producer.tick(),
            Ok(Burst::Frames(n)) => {
                self.producer.flush();
                counters.received.fetch_add(n as u64, Ordering::Relaxed);
            }
            Ok(Burst::Ended) | Err(_) => {}
        }
        burst
    }

    /// Spreads what the source has received before its end, no faster than consumers read it; those that take
    /// too long lose packets, as ever.
    fn drain(&mut self, counters: &Counters) {
        self.source.cease();
        let until = Instant::now() + REST;
        let (mut is_late, mut crowded_since) = (false, None);
        loop {
            counters.beat();
            self.producer.tick();
            is_late |= Instant::now() >= until;
            if self.producer.is_crowded() && !is_late {
                is_late = crowded_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            crowded_since = None;
            match self.burst(SMALL_BURST, IDLE, counters) {
                Ok(Burst::Frames(0)) if is_late => return,
                Ok(Burst::Frames(_)) => {}
                Ok(Burst::Ended) | Err(_) => return,
            }
        }
    }

    /// Reads the kernel's counters.
    fn count(&mut self, counters: &Counters, before: &Before) {
        let now = self.source.statistics();
        counters.dropped.store(before.dropped + now.dropped, Ordering::Relaxed);
        counters.prefiltered.store(before.prefiltered + now.prefiltered, Ordering::Relaxed);
        counters.passed.store(before.passed + now.passed, Ordering::Relaxed);
    }

    /// Spreads what was begun, and lets go of the source.
    fn hand_over(&mut self, counters: &Counters) -> Option<Position> {
        let (producer, spread) = (&mut self.producer, &mut self.spread);
        let mut count = 0;
        let handed = self.source.hand_over(&mut |arrival| {
            count += 1;
            let reads = spread.reads(producer);
            spread.send(arrival, producer, reads);
            // Consumers take their frames while this thread goes on.
            if count % BURST as u64 == 0 {
                producer.flush();
            }
        });
        counters.received.fetch_add(count, Ordering::Relaxed);
        handed
    }

    /// Brings the source back, however long it takes; false when it is time to stop.
    fn reopen(&mut self, counters: &Counters, before: &mut Before, stop: &AtomicBool) -> bool {
        self.count(counters, before);
        counters.down.store(true, Ordering::Relaxed);
        while !stop.load(Ordering::Relaxed) {
            let until = Instant::now() + REOPEN;
            while Instant::now() < until {
                self.producer.tick();
                counters.beat();
                std::thread::sleep(IDLE);
            }
            if self.resume(counters, before) {
                counters.down.store(false, Ordering::Relaxed);
                counters.reopened.fetch_add(1, Ordering::Relaxed);
                log::notice(format_args!("{}: open again", self.name));
                return true;
            }
        }
        false
    }

    /// Tries once.
    fn resume(&mut self, counters: &Counters, before: &mut Before) -> bool {
        let Ok(anew) = self.source.resume(&self.name, &mut self.producer) else { return false };
        if anew {
            before.dropped = counters.dropped.load(Ordering::Relaxed);
            before.prefiltered = counters.prefiltered.load(Ordering::Relaxed);
            before.passed = counters.passed.load(Ordering::Relaxed);
        }
        true
    }
}
