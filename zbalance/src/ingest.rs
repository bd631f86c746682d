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
/// Pause before a source that failed is opened again.
const REOPEN: Duration = Duration::from_millis(500);

/// Counters of one source, written by its thread alone.
#[derive(Debug, Default)]
pub struct Counters {
    /// Frames read.
    pub received: AtomicU64,
    /// Frames that the kernel dropped before they were read.
    pub dropped: AtomicU64,
    /// Frames read and left out because of their VLAN.
    pub filtered: AtomicU64,
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

    /// Reads and spreads until `stop` is set or the source ends. With `handing` set as well, returns where a
    /// successor goes on with the source.
    pub fn run(
        mut self,
        counters: &Counters,
        stop: &AtomicBool,
        handing: &AtomicBool,
    ) -> Option<Position> {
        let mut lost_before = 0;
        let mut counted = Instant::now();
        let timeout = if self.active { Duration::ZERO } else { IDLE };
        while !stop.load(Ordering::Relaxed) {
            counters.beat();
            let (producer, spread) = (&mut self.producer, &mut self.spread);
            let (mut first, mut filtered) = (true, 0);
            let burst = self.source.burst(BURST, timeout, &mut |arrival| {
                // A consumer that attached while this thread slept must get the first frame too.
                if std::mem::take(&mut first) {
                    producer.flush();
                }
                filtered += u64::from(!spread.send(arrival, producer));
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
                    if !self.reopen(counters, &mut lost_before, stop) {
                        return None;
                    }
                }
            }
            if counted.elapsed() >= COUNT {
                counted = Instant::now();
                let dropped = lost_before + self.source.dropped();
                counters.dropped.store(dropped, Ordering::Relaxed);
            }
        }
        let handed = handing.load(Ordering::Relaxed).then(|| self.hand_over(counters));
        self.producer.flush();
        handed.flatten()
    }

    /// Spreads what was begun, and lets go of the source.
    fn hand_over(&mut self, counters: &Counters) -> Option<Position> {
        let (producer, spread) = (&mut self.producer, &mut self.spread);
        let mut count = 0;
        let handed = self.source.hand_over(&mut |arrival| {
            count += 1;
            spread.send(arrival, producer);
            // Consumers take their frames while this thread goes on.
            if count % BURST as u64 == 0 {
                producer.flush();
            }
        });
        counters.received.fetch_add(count, Ordering::Relaxed);
        handed
    }

    /// Brings the source back, however long it takes; false when it is time to stop.
    fn reopen(&mut self, counters: &Counters, lost_before: &mut u64, stop: &AtomicBool) -> bool {
        counters.down.store(true, Ordering::Relaxed);
        while !stop.load(Ordering::Relaxed) {
            let until = Instant::now() + REOPEN;
            while Instant::now() < until {
                self.producer.tick();
                counters.beat();
                std::thread::sleep(IDLE);
            }
            if self.resume(counters, lost_before) {
                counters.down.store(false, Ordering::Relaxed);
                counters.reopened.fetch_add(1, Ordering::Relaxed);
                log::notice(format_args!("{}: open again", self.name));
                return true;
            }
        }
        false
    }

    /// Tries once.
    fn resume(&mut self, counters: &Counters, lost_before: &mut u64) -> bool {
        let Ok(anew) = self.source.resume(&self.name, &mut self.producer) else { return false };
        if anew {
            *lost_before = counters.dropped.load(Ordering::Relaxed);
        }
        true
    }
}
