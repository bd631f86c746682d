//! Which frames the packets of a ring lie in.
//!
//! Packet number p of a ring lies in entry p of its cycle, modulo the cycle's length. Consumers
//! return frames in the order in which they got them, so a frame keeps its entry and neither sending
//! a packet nor taking it back writes anything here. Only a frame that goes to several queues
//! changes places. All of this is private memory of the balancer: a consumer cannot reach it.

use std::ops::Range;

/// Set in an entry whose frame other queues hold too.
pub(crate) const SHARED: u32 = 1 << 31;
/// Entries of a new cycle. Short, so that its frames stay in the cache; it grows when a consumer
/// falls behind.
const FIRST: usize = 512;
/// Looks in a row that found most of a cycle unused, after which it is halved.
const CALM: u32 = 64;
/// Packets within which a consumer may return frames in another order.
const DISORDER: u64 = 256;

/// The free frames of one ingest thread, and who holds the shared ones.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Vec<u32>,
    /// Bit q of entry i: queue q holds frame i. Kept for shared frames only.
    holders: Vec<u64>,
}

impl Pool {
    pub(crate) fn new(frames: u32) -> Self {
        Self { free: (0..frames).rev().collect(), holders: vec![0; frames as usize] }
    }

    #[inline]
    pub(crate) fn put(&mut self, frame: u32) {
        self.free.push(frame);
    }

    #[inline]
    pub(crate) fn share(&mut self, frame: u32, holders: u64) {
        if let Some(entry) = self.holders.get_mut(frame as usize) {
            *entry = holders;
        }
    }

    /// Ends the part of `queue` in a shared frame; true when it was the last.
    #[inline]
    fn leave(&mut self, frame: u32, queue: usize) -> bool {
        let Some(holders) = self.holders.get_mut(frame as usize) else {
            return false;
        };
        *holders &= !(1 << queue);
        *holders == 0
    }
}

/// The frames of one ring.
#[derive(Debug)]
pub(crate) struct Cycle {
    /// A power of two of them.
    entries: Vec<u32>,
    /// Length that it never exceeds: the slots of the ring.
    most: usize,
    calm: u32,
}

impl Cycle {
    /// A cycle for a ring of `slots` descriptors, a power of two; `None` without free frames.
    pub(crate) fn new(slots: u64, pool: &mut Pool) -> Option<Self> {
        let most = slots as usize;
        let from = pool.free.len().checked_sub(most.min(FIRST))?;
        Some(Self { entries: pool.free.split_off(from), most, calm: 0 })
    }

    /// Packets that may be outstanding.
    #[inline]
    pub(crate) const fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    #[inline]
    const fn index(&self, packet: u64) -> usize {
        packet as usize & (self.entries.len() - 1)
    }

    /// The frame of a packet, with [`SHARED`].
    #[inline]
    pub(crate) fn entry(&self, packet: u64) -> u32 {
        self.entries[self.index(packet)]
    }

    #[inline]
    pub(crate) fn set(&mut self, packet: u64, entry: u32) {
        let index = self.index(packet);
        self.entries[index] = entry;
    }

    /// Doubles the cycle; false when the ring has no more slots.
    #[cold]
    pub(crate) fn grow(&mut self, outstanding: Range<u64>, pool: &mut Pool) -> bool {
        let len = self.entries.len();
        if 2 * len > self.most || pool.free.len() < len {
            return false;
        }
        self.resize(2 * len, outstanding, pool);
        true
    }

    /// Notes how much of the cycle is in use and halves it when it has long been too long.
    #[inline]
    pub(crate) fn settle(&mut self, outstanding: Range<u64>, pool: &mut Pool) {
        if self.entries.len() <= FIRST || outstanding.end - outstanding.start > self.len() / 4 {
            self.calm = 0;
            return;
        }
        self.calm += 1;
        if self.calm >= CALM {
            self.resize(self.entries.len() / 2, outstanding, pool);
        }
    }

    /// Changes the length, keeping the frames of the outstanding packets.
    #[cold]
    fn resize(&mut self, len: usize, outstanding: Range<u64>, pool: &mut Pool) {
        let spare = (outstanding.end..outstanding.start + self.len()).map(|p| self.entry(p));
        pool.free.extend(spare);
        let mut entries = vec![0; len];
        for packet in outstanding.clone() {
            entries[packet as usize & (len - 1)] = self.entry(packet);
        }
        for packet in outstanding.end..outstanding.start + len as u64 {
            // There are enough: `grow` looked, and a shorter cycle needs fewer than it had.
            let frame = pool.free.pop().unwrap_or_default();
            entries[packet as usize & (len - 1)] = frame;
        }
        self.entries = entries;
        self.calm = 0;
    }

    /// Takes packet `outstanding.start` back from `queue`, which returned the frame that `is` knows.
    /// False when the queue does not hold that frame.
    pub(crate) fn take_back(
        &mut self,
        outstanding: Range<u64>,
        queue: usize,
        is: impl Fn(u32) -> bool,
        pool: &mut Pool,
    ) -> bool {
        let first = outstanding.start;
        let end = outstanding.end.min(first + DISORDER);
        let Some(found) = (first..end).find(|p| is(self.entry(*p) & !SHARED)) else {
            return false;
        };
        let entry = self.entry(found);
        self.set(found, self.entry(first));
        self.set(first, entry);
        if entry & SHARED == 0 {
            return true;
        }
        let frame = entry & !SHARED;
        if pool.leave(frame, queue) {
            self.set(first, frame);
            return true;
        }
        // Every frame that is not free is in a cycle, and this one is now in one cycle less, so
        // there is a free one.
        pool.free.pop().inspect(|own| self.set(first, *own)).is_some()
    }

    /// Gives everything up for `queue`, the outstanding packets too.
    pub(crate) fn dissolve(self, outstanding: Range<u64>, queue: usize, pool: &mut Pool) {
        for packet in outstanding.start..outstanding.start + self.len() {
            let entry = self.entry(packet);
            if entry & SHARED == 0 || pool.leave(entry & !SHARED, queue) {
                pool.put(entry & !SHARED);
            }
        }
    }
}

/// Numbers of the frames that are free or in one of the cycles, each once.
#[cfg(test)]
pub(crate) fn known<'a>(pool: &Pool, cycles: impl Iterator<Item = &'a Cycle>) -> Vec<u32> {
    let mut all = pool.free.clone();
    let mut shared = std::collections::BTreeSet::new();
    for entry in cycles.flat_map(|c| &c.entries) {
        if entry & SHARED == 0 {
            all.push(*entry);
        } else if shared.insert(entry & !SHARED) {
            all.push(entry & !SHARED);
        }
    }
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u64 = 4096;

    fn all(pool: &Pool, cycles: &[&Cycle]) {
        let frames = pool.holders.len() as u32;
        assert_eq!(known(pool, cycles.iter().copied()), (0..frames).collect::<Vec<_>>());
    }

    #[test]
    fn frames_keep_their_entries() {
        let mut pool = Pool::new(SLOTS as u32);
        let mut cycle = Cycle::new(SLOTS, &mut pool).unwrap();
        for packet in 0..2000 {
            let frame = cycle.entry(packet);
            assert!(cycle.take_back(packet..packet + 1, 0, |f| f == frame, &mut pool));
            assert_eq!(cycle.entry(packet + cycle.len()), frame);
        }
        all(&pool, &[&cycle]);
    }

    #[test]
    fn growing_and_shrinking_keep_outstanding_frames() {
        let mut pool = Pool::new(SLOTS as u32);
        let mut cycle = Cycle::new(SLOTS, &mut pool).unwrap();
        let held = 300..700;
        let frames: Vec<u32> = held.clone().map(|p| cycle.entry(p)).collect();
        let kept = |cycle: &Cycle| held.clone().map(|p| cycle.entry(p)).collect::<Vec<_>>();
        while cycle.grow(held.clone(), &mut pool) {
            assert_eq!(kept(&cycle), frames);
            all(&pool, &[&cycle]);
        }
        assert_eq!(cycle.len(), SLOTS);
        for _ in 0..10 * CALM {
            cycle.settle(held.clone(), &mut pool);
            assert_eq!(kept(&cycle), frames);
        }
        assert_eq!(cycle.len(), 1024, "400 packets are more than a quarter of 1024");
        all(&pool, &[&cycle]);
        cycle.dissolve(held, 0, &mut pool);
        assert_eq!(pool.free.len(), SLOTS as usize);
    }

    #[test]
    fn a_shared_frame_is_free_when_its_last_holder_returns_it() {
        let mut pool = Pool::new(2 * FIRST as u32 + 1);
        let mut a = Cycle::new(SLOTS, &mut pool).unwrap();
        let mut b = Cycle::new(SLOTS, &mut pool).unwrap();
        let frame = a.entry(0);
        pool.share(frame, 0b11);
        a.set(0, frame | SHARED);
        pool.put(b.entry(0));
        b.set(0, frame | SHARED);
        all(&pool, &[&a, &b]);
        assert!(a.take_back(0..1, 0, |f| f == frame, &mut pool));
        assert_ne!(a.entry(0), frame, "still held by the other queue");
        all(&pool, &[&a, &b]);
        assert!(b.take_back(0..1, 1, |f| f == frame, &mut pool));
        assert_eq!(b.entry(0), frame);
        all(&pool, &[&a, &b]);
    }

    #[test]
    fn another_order_is_accepted_and_another_frame_is_not() {
        let mut pool = Pool::new(SLOTS as u32);
        let mut cycle = Cycle::new(SLOTS, &mut pool).unwrap();
        let frames: Vec<u32> = (0..4).map(|p| cycle.entry(p)).collect();
        for (done, frame) in [frames[2], frames[0], frames[3], frames[1]].into_iter().enumerate() {
            assert!(cycle.take_back(done as u64..4, 0, |f| f == frame, &mut pool));
            let again = cycle.take_back(done as u64 + 1..4, 0, |f| f == frame, &mut pool);
            assert!(!again, "returned twice");
        }
        let never = cycle.entry(5);
        assert!(!cycle.take_back(4..5, 0, |f| f == never, &mut pool), "not outstanding");
        all(&pool, &[&cycle]);
    }
}
