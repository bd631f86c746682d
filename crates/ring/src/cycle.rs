//! Which frames the packets of a ring lie in.
//!
//! Packet number p of a ring lies in entry p of its cycle, modulo the cycle's length. Consumers
//! return frames in the order in which they got them, so a frame keeps its entry and neither sending
//! a packet nor taking it back writes anything here. Only a frame that goes to several queues
//! changes places. All of this is private memory of the balancer: a consumer cannot reach it.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Set in an entry whose frame other queues hold too. Frames are aligned, so no address has it.
pub(crate) const SHARED: u64 = 1;
/// Entries of a new cycle. Short, so that its frames stay in the cache; it grows when a consumer
/// falls behind.
pub(crate) const CYCLE: usize = 1024;
/// Looks in a row that found most of a cycle unused, after which it is halved.
const CALM: u32 = 64;
/// Packets within which a consumer may return frames in another order.
const DISORDER: u64 = 256;

/// The free frames of one ingest thread, and who holds the shared ones. A frame is named by the
/// offset of its first byte in the region.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Vec<u64>,
    /// Bit q of entry i: queue q holds the i-th frame. Kept for shared frames only.
    holders: Vec<u64>,
    first: u64,
    shift: u32,
}

impl Pool {
    /// A pool of `frames` frames of 2^`shift` bytes, the first of them at offset `first`.
    pub(crate) fn new(first: u64, frames: u32, shift: u32) -> Self {
        let free = (0..u64::from(frames)).rev().map(|frame| first + (frame << shift)).collect();
        Self { free, holders: vec![0; frames as usize], first, shift }
    }

    #[inline]
    pub(crate) fn put(&mut self, frame: u64) {
        self.free.push(frame);
    }

    /// A free frame.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u64> {
        self.free.pop()
    }

    #[inline]
    fn holders(&mut self, frame: u64) -> Option<&mut u64> {
        self.holders.get_mut((frame.wrapping_sub(self.first) >> self.shift) as usize)
    }

    #[inline]
    pub(crate) fn share(&mut self, frame: u64, holders: u64) {
        if let Some(entry) = self.holders(frame) {
            *entry = holders;
        }
    }

    /// Ends the part of `queue` in a shared frame; true when it was the last.
    #[inline]
    fn leave(&mut self, frame: u64, queue: usize) -> bool {
        let Some(holders) = self.holders(frame) else {
            return false;
        };
        *holders &= !(1 << queue);
        *holders == 0
    }
}

/// The frames of one ring.
#[derive(Debug)]
pub(crate) struct Cycle {
    /// A power of two of them, each with [`SHARED`] or without.
    entries: Vec<u64>,
    /// Length that it never exceeds: the slots of the ring.
    most: usize,
    calm: u32,
}

impl Cycle {
    /// A cycle for a ring of `slots` descriptors, a power of two; `None` without free frames.
    pub(crate) fn new(slots: u64, pool: &mut Pool) -> Option<Self> {
        let most = slots as usize;
        let from = pool.free.len().checked_sub(most.min(CYCLE))?;
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
    pub(crate) fn entry(&self, packet: u64) -> u64 {
        self.entries[self.index(packet)]
    }

    /// Puts `entry` in the place of the frame of a packet that is not sent yet, and returns that frame.
    #[inline]
    pub(crate) fn exchange(&mut self, packet: u64, entry: u64) -> u64 {
        let index = self.index(packet);
        std::mem::replace(&mut self.entries[index], entry)
    }

    #[inline]
    pub(crate) fn set(&mut self, packet: u64, entry: u64) {
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
        if self.entries.len() <= CYCLE || outstanding.end - outstanding.start > self.len() / 4 {
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

    /// How many of the packets from `from` on are back, when `returned` is what was returned for each:
    /// those of frames that were not shared, in order. The cycle's end ends them too, but not before
    /// the first.
    #[inline]
    pub(crate) fn in_order(&self, from: u64, returned: &[AtomicU64]) -> u64 {
        let entries = &self.entries[self.index(from)..];
        // The consumer may have written anything, an address with SHARED too.
        let is_back = |(entry, back): &(&u64, &AtomicU64)| {
            **entry & SHARED == 0 && **entry == back.load(Ordering::Relaxed)
        };
        entries.iter().zip(returned).take_while(is_back).count() as u64
    }

    /// Takes `packets` back from `queue`, which returned their frames in order. They are outstanding.
    pub(crate) fn pass(&mut self, packets: Range<u64>, queue: usize, pool: &mut Pool) {
        let first = self.index(packets.start);
        let count = (packets.end - packets.start) as usize;
        let upto = self.entries.len().min(first + count);
        let rest = &self.entries[..count - (upto - first)];
        let any = |entries: &[u64]| entries.iter().fold(0, |all, entry| all | entry);
        if (any(&self.entries[first..upto]) | any(rest)) & SHARED == 0 {
            return;
        }
        for packet in packets {
            let entry = self.entry(packet);
            if entry & SHARED != 0 {
                self.part(packet, queue, entry & !SHARED, pool);
            }
        }
    }

    /// Ends the part of `queue` in the shared `frame` of a packet; false when there is no other frame for its
    /// entry.
    fn part(&mut self, packet: u64, queue: usize, frame: u64, pool: &mut Pool) -> bool {
        if pool.leave(frame, queue) {
            self.set(packet, frame);
            return true;
        }
        // Every frame that is not free is in a cycle, and this one is now in one cycle less, so
        // there is a free one.
        pool.free.pop().inspect(|own| self.set(packet, *own)).is_some()
    }

    /// Takes packet `outstanding.start` back from `queue`, which returned `frame`. False when the
    /// queue does not hold that frame.
    pub(crate) fn take_back(
        &mut self,
        outstanding: Range<u64>,
        queue: usize,
        frame: u64,
        pool: &mut Pool,
    ) -> bool {
        let first = outstanding.start;
        let end = outstanding.end.min(first + DISORDER);
        let held = |packet: &u64| self.entry(*packet) & !SHARED == frame;
        let Some(found) = (first..end).find(held) else {
            return false;
        };
        let entry = self.entry(found);
        self.set(found, self.entry(first));
        self.set(first, entry);
        entry & SHARED == 0 || self.part(first, queue, frame, pool)
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

/// The frames that are free or in one of the cycles, each once.
#[cfg(test)]
pub(crate) fn known<'a>(pool: &Pool, cycles: impl Iterator<Item = &'a Cycle>) -> Vec<u64> {
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
    const FRAME: u64 = 2048;

    fn pool(frames: usize) -> Pool {
        Pool::new(3 * FRAME, frames as u32, FRAME.trailing_zeros())
    }

    fn all(pool: &Pool, cycles: &[&Cycle]) {
        let frames: Vec<u64> = (0..pool.holders.len() as u64).map(|f| FRAME * (f + 3)).collect();
        assert_eq!(known(pool, cycles.iter().copied()), frames);
    }

    #[test]
    fn frames_keep_their_entries() {
        let mut pool = pool(SLOTS as usize);
        let cycle = Cycle::new(SLOTS, &mut pool).unwrap();
        for packet in 0..2000 {
            let frame = cycle.entry(packet);
            assert_eq!(cycle.in_order(packet, &[frame.into()]), 1);
            assert_eq!(cycle.in_order(packet, &[(frame + FRAME).into()]), 0);
            assert_eq!(cycle.entry(packet + cycle.len()), frame);
        }
        all(&pool, &[&cycle]);
    }

    #[test]
    fn growing_and_shrinking_keep_outstanding_frames() {
        let mut pool = pool(SLOTS as usize);
        let mut cycle = Cycle::new(SLOTS, &mut pool).unwrap();
        let held = 300..700;
        let frames: Vec<u64> = held.clone().map(|p| cycle.entry(p)).collect();
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
        assert_eq!(cycle.len(), 1024, "a cycle never gets shorter than it began");
        all(&pool, &[&cycle]);
        cycle.dissolve(held, 0, &mut pool);
        assert_eq!(pool.free.len(), SLOTS as usize);
    }

    #[test]
    fn a_shared_frame_is_free_when_its_last_holder_returns_it() {
        let mut pool = pool(2 * CYCLE + 1);
        let mut a = Cycle::new(SLOTS, &mut pool).unwrap();
        let mut b = Cycle::new(SLOTS, &mut pool).unwrap();
        let frame = a.entry(0);
        pool.share(frame, 0b11);
        a.set(0, frame | SHARED);
        pool.put(b.entry(0));
        b.set(0, frame | SHARED);
        all(&pool, &[&a, &b]);
        assert_eq!(a.in_order(0, &[(frame | SHARED).into()]), 0);
        assert!(!a.take_back(0..1, 0, frame | SHARED, &mut pool));
        assert_eq!(a.in_order(0, &[frame.into()]), 0);
        assert!(a.take_back(0..1, 0, frame, &mut pool));
        assert_ne!(a.entry(0), frame, "still held by the other queue");
        all(&pool, &[&a, &b]);
        assert!(b.take_back(0..1, 1, frame, &mut pool));
        assert_eq!(b.entry(0), frame);
        all(&pool, &[&a, &b]);
    }

    #[test]
    fn what_comes_back_by_number_leaves_every_shared_frame() {
        let mut pool = pool(2 * CYCLE + 1);
        let mut a = Cycle::new(SLOTS, &mut pool).unwrap();
        let mut b = Cycle::new(SLOTS, &mut pool).unwrap();
        // Across the end of the cycles, every third packet shared.
        let packets = CYCLE as u64 - 50..CYCLE as u64 + 50;
        let mut shared = Vec::new();
        for packet in packets.clone().step_by(3) {
            let frame = a.entry(packet);
            pool.share(frame, 0b11);
            a.set(packet, frame | SHARED);
            pool.put(b.entry(packet));
            b.set(packet, frame | SHARED);
            shared.push((packet, frame));
        }
        a.pass(packets.clone(), 0, &mut pool);
        assert!(a.entries.iter().all(|entry| entry & SHARED == 0));
        assert!(shared.iter().all(|(packet, frame)| a.entry(*packet) != *frame), "b holds it");
        all(&pool, &[&a, &b]);
        let half = packets.start + 50;
        b.pass(packets.start..half, 1, &mut pool);
        b.pass(half..packets.end, 1, &mut pool);
        assert!(shared.iter().all(|(packet, frame)| b.entry(*packet) == *frame));
        all(&pool, &[&a, &b]);
    }

    #[test]
    fn another_order_is_accepted_and_another_frame_is_not() {
        let mut pool = pool(SLOTS as usize);
        let mut cycle = Cycle::new(SLOTS, &mut pool).unwrap();
        let frames: Vec<u64> = (0..4).map(|p| cycle.entry(p)).collect();
        for (done, frame) in [frames[2], frames[0], frames[3], frames[1]].into_iter().enumerate() {
            assert!(cycle.take_back(done as u64..4, 0, frame, &mut pool));
            let again = cycle.take_back(done as u64 + 1..4, 0, frame, &mut pool);
            assert!(!again, "returned twice");
        }
        let never = cycle.entry(5);
        assert!(!cycle.take_back(4..5, 0, never, &mut pool), "not outstanding");
        all(&pool, &[&cycle]);
    }
}
