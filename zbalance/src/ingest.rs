//! One ingest thread: from a source into the queues.

use crate::log;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use capture::{Burst, Handed, Source};
use packet::distribution::{Mode, Spreader, Target, frame_hash};
use packet::hash::SymmetricHash;
use shm::{Meta, Producer};

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
    pub source: Box<dyn Source>,
    /// Number of the source.
    pub interface: u16,
    /// Where frames go.
    pub producer: Producer,
    /// How they are spread.
    pub mode: Mode,
    /// Queues of each set.
    pub sets: Vec<u32>,
    /// The hash, the same for all threads.
    pub hash: SymmetricHash,
    /// Which frames are spread at all; a reload replaces it.
    pub vlans: Arc<ArcSwap<VlanFilter>>,
    /// Never sleep.
    pub active: bool,
}

/// The VLANs whose frames are taken (`-x`).
#[derive(Debug, Clone, Default)]
pub struct VlanFilter(Option<Box<[u64; 64]>>);

impl VlanFilter {
    /// Takes frames with one of `ids` among their tags; without ids it takes all.
    pub fn new(ids: &[u16]) -> Self {
        if ids.is_empty() {
            return Self(None);
        }
        let mut bits = Box::new([0; 64]);
        for id in ids {
            bits[usize::from(id >> 6) % 64] |= 1 << (id & 63);
        }
        Self(Some(bits))
    }

    /// Whether `frame` is taken.
    #[inline]
    pub fn takes(&self, frame: &[u8]) -> bool {
        let Some(bits) = &self.0 else { return true };
        packet::walk::vlan_ids(frame)
            .any(|id| bits[usize::from(id >> 6) % 64] & 1 << (id & 63) != 0)
    }
}

impl Ingest {
    /// Reads and spreads until `stop` is set or the source ends. With `handing` set as well, returns where a
    /// successor goes on with the source.
    pub fn run(
        mut self,
        counters: &Counters,
        stop: &AtomicBool,
        handing: &AtomicBool,
    ) -> Option<Handed> {
        let mut sets = Sets::new(self.mode, &self.sets);
        let mut lost_before = 0;
        let mut counted = Instant::now();
        let timeout = if self.active { Duration::ZERO } else { IDLE };
        while !stop.load(Ordering::Relaxed) {
            counters.beat();
            let (mode, hash, interface) = (self.mode, &self.hash, self.interface);
            let producer = &mut self.producer;
            let (mut first, mut filtered) = (true, 0);
            let vlans = self.vlans.load();
            let burst = self.source.burst(BURST, timeout, &mut |frame| {
                // A consumer that attached while this thread slept must get the first frame too.
                if std::mem::take(&mut first) {
                    producer.flush();
                }
                if !vlans.takes(frame.data) {
                    filtered += 1;
                    return;
                }
                let hashed = frame_hash(mode, hash, frame.data);
                let meta = Meta {
                    timestamp: Some(frame.timestamp),
                    hash: Some(hashed),
                    flags: 0,
                    interface,
                };
                producer.send(frame.data, &meta, sets.targets(hashed, interface));
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
                Err(error) => {
                    log::notice(format_args!("{}: {error}; trying again", self.name));
                    if !self.reopen(counters, &mut lost_before, stop) {
                        return None;
                    }
                }
            }
            if counted.elapsed() >= COUNT {
                counted = Instant::now();
                let dropped = lost_before + self.source.statistics().dropped;
                counters.dropped.store(dropped, Ordering::Relaxed);
            }
        }
        let handed = handing.load(Ordering::Relaxed).then(|| self.hand_over(&mut sets, counters));
        self.producer.flush();
        handed.flatten()
    }

    /// Spreads what was begun, and lets go of the source.
    fn hand_over(&mut self, sets: &mut Sets, counters: &Counters) -> Option<Handed> {
        let (mode, hash, interface) = (self.mode, &self.hash, self.interface);
        let (producer, vlans) = (&mut self.producer, self.vlans.load());
        let mut count = 0;
        let handed = self.source.hand_over(&mut |frame| {
            count += 1;
            if vlans.takes(frame.data) {
                let hashed = frame_hash(mode, hash, frame.data);
                let (timestamp, hash) = (Some(frame.timestamp), Some(hashed));
                let meta = Meta { timestamp, hash, flags: 0, interface };
                producer.send(frame.data, &meta, sets.targets(hashed, interface));
            }
            // Consumers take their frames while this thread goes on.
            if count % BURST as u64 == 0 {
                producer.flush();
            }
        });
        counters.received.fetch_add(count, Ordering::Relaxed);
        // Out of descriptors: the successor opens the source itself.
        handed?.ok()
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

    /// Tries once. A packet socket goes on with the interface that has its name now, which takes no
    /// privilege; what cannot do that is opened anew and counts from zero.
    fn resume(&mut self, counters: &Counters, lost_before: &mut u64) -> bool {
        match self.source.resume() {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                let Ok(source) = capture::open(&self.name) else { return false };
                *lost_before = counters.dropped.load(Ordering::Relaxed);
                self.source = source;
                true
            }
            Err(_) => false,
        }
    }
}

/// The queue sets, each with its place among all queues.
struct Sets(Vec<(u32, u64, Spreader)>);

impl Sets {
    fn new(mode: Mode, sizes: &[u32]) -> Self {
        let mut first = 0;
        let set = |size: &u32| {
            let every = (u64::MAX >> (64 - size.clamp(&1, &64))) << first;
            let set = (first, every, Spreader::new(mode, *size));
            first += size;
            set
        };
        Self(sizes.iter().map(set).collect())
    }

    /// Queues of a frame, one bit each: one target in every set.
    #[inline]
    fn targets(&mut self, hash: u32, interface: u16) -> u64 {
        let mut targets = 0;
        for (first, every, spreader) in &mut self.0 {
            targets |= match spreader.target(hash, interface) {
                Target::One(queue) => 1 << (*first + queue),
                Target::Every => *every,
                Target::FirstAnd(queue) => 1 << *first | 1 << (*first + queue),
            };
        }
        targets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_up_to_4094_are_taken_anywhere_among_the_tags() {
        let frame = |tags: &[u16]| {
            let mut frame = vec![0; 12];
            for tag in tags {
                frame.extend([0x81, 0]);
                frame.extend(tag.to_be_bytes());
            }
            frame.extend([8, 0]);
            frame
        };
        let filter = VlanFilter::new(&[0, 100, 1024, 4094]);
        for tags in [&[0u16][..], &[100], &[0xe000 | 1024], &[7, 4094], &[1, 2, 3, 100]] {
            assert!(filter.takes(&frame(tags)), "{tags:?}");
        }
        for tags in [&[][..], &[1], &[36], &[4095], &[101, 1025]] {
            assert!(!filter.takes(&frame(tags)), "{tags:?}");
        }
        assert!(!filter.takes(&[]) && VlanFilter::new(&[]).takes(&[]));
    }

    #[test]
    fn every_set_gets_each_frame_once() {
        let mut sets = Sets::new(Mode::Ip, &[2, 3]);
        for hash in (0..u32::MAX).step_by(99_999_989) {
            let targets = sets.targets(hash, 0);
            assert_eq!((targets & 0b11).count_ones(), 1);
            assert_eq!((targets >> 2).count_ones(), 1);
            assert!(targets < 1 << 5);
        }
        assert_eq!(Sets::new(Mode::All, &[2, 3]).targets(0, 0), 0b11111);
        assert_eq!(Sets::new(Mode::All, &[64]).targets(0, 0), u64::MAX);
        let mut all_rr = Sets::new(Mode::AllRoundRobin, &[3]);
        assert_eq!((all_rr.targets(0, 0), all_rr.targets(0, 0)), (0b011, 0b101));
    }
}
