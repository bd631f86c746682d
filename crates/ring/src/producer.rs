//! The balancer's end of the rings: one per ingest thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::Receiver;

use crate::abi::{Descriptor, FrameFlags, MAX_FRAGMENTS, MAX_QUEUES, ring};
use crate::chain;
use crate::clock::coarse_now;
use crate::frames::OwnedFrames;
use crate::queue::{QueueMap, Ring};
use crate::status::{QueueCounters, bump};

/// Publications between two signs of life under load; [`Producer::tick`] gives one without load.
const HEARTBEAT_EVERY: u32 = 64;
/// Packets to a queue between two looks for returned frames. Looking waits for cache lines that the
/// consumer is writing, so it should fetch many frames at once; few enough that the same frames stay
/// in the cache.
const DRAIN_EVERY: u64 = 256;
/// Cache lines at which a short packet may start, and their length in bytes.
const COLOURS: usize = 8;
const LINE: usize = 64;

/// What the server asks of an ingest thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// A consumer attached to the queue.
    Attach(usize, Arc<QueueMap>),
    /// The consumer of the queue is gone.
    Detach(usize),
}

/// What is known of a packet besides its bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meta {
    /// Time of reception in nanoseconds since the epoch.
    pub timestamp: Option<u64>,
    /// Distribution hash.
    pub hash: Option<u32>,
    /// Further [`FrameFlags`]; those for time stamp and hash are set by the fields above.
    pub flags: u16,
    /// Index of the input interface.
    pub interface: u16,
}

impl Meta {
    #[inline]
    const fn descriptor_flags(&self) -> u16 {
        let mut flags =
            self.flags & !(FrameFlags::MORE_FRAGMENTS | FrameFlags::TIMESTAMP | FrameFlags::HASH);
        if self.timestamp.is_some() {
            flags |= FrameFlags::TIMESTAMP;
        }
        if self.hash.is_some() {
            flags |= FrameFlags::HASH;
        }
        flags
    }
}

/// How many queues took a packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SendOutcome {
    /// Queues that took it.
    pub delivered: u32,
    /// Queues that did not; each counted its cause.
    pub dropped: u32,
}

/// The ring to one attached consumer, with the producer's own copies of its indices.
#[derive(Debug)]
struct Outlet {
    ring: Ring,
    prod: u64,
    rcons: u64,
    /// The quota: `rcons` and the number of slots. Frames enqueued and not returned never exceed the
    /// slots, so a consumer that returns nothing starves only itself.
    limit: u64,
    /// `prod` as the consumer knows it.
    published: u64,
    /// Descriptors since the last flush that go on with the packet of the one before.
    chained: u64,
    /// `prod` from which on returned frames are looked for.
    drain_at: u64,
}

impl Outlet {
    fn new(ring: Ring) -> Self {
        let limit = ring.slots();
        Self { ring, prod: 0, rcons: 0, limit, published: 0, chained: 0, drain_at: DRAIN_EVERY }
    }

    /// Makes the descriptors visible; how many packets they are.
    #[inline]
    fn publish(&mut self) -> u64 {
        self.ring.word(ring::PROD).store(self.prod, Ordering::Release);
        let descriptors = self.prod - std::mem::replace(&mut self.published, self.prod);
        descriptors - std::mem::take(&mut self.chained)
    }

    #[inline]
    const fn outstanding(&self) -> u64 {
        self.prod - self.rcons
    }

    #[inline]
    fn put(&mut self, descriptor: Descriptor) {
        self.ring.put(self.prod, descriptor);
        self.prod += 1;
    }
}

/// Where a producer's frames lie.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    /// Number of this thread's first frame in the region.
    first_frame: u64,
    /// Address of the first packet byte in that frame.
    base: usize,
    /// Logarithm of the frame size.
    shift: u32,
    /// Bytes of a frame after its head room.
    room: usize,
    /// Longest packet that may start at any colour.
    short: usize,
}

impl Geometry {
    fn new(share: Share) -> Self {
        let shift = share.frame_size.trailing_zeros();
        let room = (share.frame_size - share.head_room) as usize;
        Self {
            first_frame: share.first_frame,
            base: ((share.first_frame as usize) << shift) + share.head_room as usize,
            shift,
            room,
            short: room.saturating_sub((COLOURS - 1) * LINE),
        }
    }

    /// Address of the packet of `len` bytes in `frame`.
    ///
    /// Short packets start at various cache lines: all frames have the same alignment, so that
    /// their first lines would compete for a few sets of every cache.
    ///
    /// # Panics
    /// When the packet does not fit.
    #[inline]
    fn address(&self, frame: u32, len: usize) -> usize {
        let start = self.base + ((frame as usize) << self.shift);
        if len <= self.short {
            return start + (frame as usize % COLOURS) * LINE;
        }
        assert!(len <= self.room, "packet of {len} bytes in one frame");
        start
    }
}

/// Writes a packet into a free frame.
#[inline]
fn fill_frame(
    frames: &OwnedFrames,
    geometry: &Geometry,
    frame: u32,
    len: usize,
    meta: &Meta,
    fill: impl FnOnce(&mut [u8]),
) -> Descriptor {
    let address = geometry.address(frame, len);
    // SAFETY: the frame was free: nobody refers to its bytes, and it becomes visible to a consumer
    // only at the next flush.
    fill(unsafe { frames.slice(address, len) });
    if let Some(hash) = meta.hash {
        // SAFETY: the head room belongs to the frame.
        unsafe { frames.slice(address - 12, 4) }.copy_from_slice(&hash.to_le_bytes());
    }
    if let Some(timestamp) = meta.timestamp {
        // SAFETY: as above.
        unsafe { frames.slice(address - 8, 8) }.copy_from_slice(&timestamp.to_le_bytes());
    }
    Descriptor {
        address: address as u64,
        len: len as u32,
        flags: meta.descriptor_flags(),
        interface: meta.interface,
    }
}

/// The frames of one ingest thread and who holds them. Private memory: a consumer cannot reach it.
#[derive(Debug)]
struct Pool {
    /// Bit q of entry i: queue q holds frame i.
    holders: Vec<u64>,
    /// Free frames; the one returned last is used first, while it is in the cache.
    free: Vec<u32>,
}

impl Pool {
    fn new(frames: u32) -> Self {
        Self { holders: vec![0; frames as usize], free: (0..frames).rev().collect() }
    }

    /// Gives `frame` to the queues of the mask; it is free again when there is none.
    #[inline]
    fn hand_out(&mut self, frame: u32, holders: u64) {
        if holders == 0 {
            self.free.push(frame);
        } else if let Some(entry) = self.holders.get_mut(frame as usize) {
            *entry = holders;
        }
    }

    /// Takes the frame back from `queue`; false when that queue does not hold it.
    #[inline]
    fn give_back(&mut self, frame: u64, queue: usize) -> bool {
        let bit = 1 << queue;
        let Some(holders) = self.holders.get_mut(frame as usize) else {
            return false;
        };
        if *holders & bit == 0 {
            return false;
        }
        *holders &= !bit;
        if *holders == 0 {
            self.free.push(frame as u32);
        }
        true
    }

    /// Takes back everything that `queue` holds.
    fn reclaim(&mut self, queue: usize) {
        for frame in 0..self.holders.len() as u64 {
            self.give_back(frame, queue);
        }
    }
}

/// Sends packets of one ingest thread to the queues.
///
/// Packets become visible to consumers at [`Producer::flush`]. Nothing here ever waits for a
/// consumer: a queue that is full or without consumer loses the packet, and only that queue.
#[derive(Debug)]
pub struct Producer {
    index: u32,
    frames: Arc<OwnedFrames>,
    geometry: Geometry,
    pool: Pool,
    /// Entry q is the ring to queue q.
    outlets: Box<[Option<Outlet>; MAX_QUEUES]>,
    attached: u64,
    dirty: u64,
    publications: u32,
    counters: Arc<[QueueCounters]>,
    commands: Receiver<Command>,
    pending: Arc<AtomicBool>,
}

/// Which frames of the region a producer owns, and their geometry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) index: u32,
    pub(crate) first_frame: u64,
    pub(crate) frames: u32,
    pub(crate) frame_size: u32,
    pub(crate) head_room: u32,
}

impl Producer {
    pub(crate) fn new(
        frames: Arc<OwnedFrames>,
        share: Share,
        counters: Arc<[QueueCounters]>,
        commands: Receiver<Command>,
        pending: Arc<AtomicBool>,
    ) -> Self {
        Self {
            index: share.index,
            frames,
            geometry: Geometry::new(share),
            pool: Pool::new(share.frames),
            outlets: Box::new([const { None }; MAX_QUEUES]),
            attached: 0,
            dirty: 0,
            publications: 0,
            counters,
            commands,
            pending,
        }
    }

    /// Longest packet that fits one frame, in bytes. Longer ones are chained.
    pub const fn room(&self) -> usize {
        self.geometry.room
    }

    /// Copies `packet` and sends it to the queues whose bits are set in `targets`.
    #[inline]
    pub fn send(&mut self, packet: &[u8], meta: &Meta, targets: u64) -> SendOutcome {
        if packet.len() <= self.geometry.room {
            self.send_with(packet.len(), meta, targets, |frame| frame.copy_from_slice(packet))
        } else {
            self.send_chain(packet, meta, targets)
        }
    }

    /// Sends a packet of `len` bytes (at most [`Producer::room`]) that `fill` writes in place.
    ///
    /// # Panics
    /// When `len` is more than the room of a frame.
    #[inline]
    pub fn send_with(
        &mut self,
        len: usize,
        meta: &Meta,
        targets: u64,
        fill: impl FnOnce(&mut [u8]),
    ) -> SendOutcome {
        if targets.is_power_of_two()
            && let Some(outlet) = &mut self.outlets[targets.trailing_zeros() as usize]
            && outlet.prod < outlet.limit
            && let Some(frame) = self.pool.free.pop()
        {
            let descriptor = fill_frame(&self.frames, &self.geometry, frame, len, meta, fill);
            outlet.put(descriptor);
            self.dirty |= targets;
            self.pool.hand_out(frame, targets);
            return SendOutcome { delivered: 1, dropped: 0 };
        }
        self.send_to_many(len, meta, targets, fill)
    }

    /// Sends to several queues, or to one that may have no space or no consumer.
    fn send_to_many(
        &mut self,
        len: usize,
        meta: &Meta,
        targets: u64,
        fill: impl FnOnce(&mut [u8]),
    ) -> SendOutcome {
        let ready = targets & self.attached;
        let mut outcome = SendOutcome::default();
        if ready != targets {
            outcome.dropped = self.count_no_consumer(targets & !ready);
        }
        if ready == 0 {
            return outcome;
        }
        let Some(frame) = self.take_frame() else {
            outcome.dropped += self.count_no_frame(ready);
            return outcome;
        };
        let descriptor = fill_frame(&self.frames, &self.geometry, frame, len, meta, fill);
        let mut holders = 0;
        for queue in bits(ready) {
            if self.enqueue(queue, &[descriptor]) {
                holders |= 1 << queue;
                outcome.delivered += 1;
            } else {
                outcome.dropped += 1;
            }
        }
        self.pool.hand_out(frame, holders);
        outcome
    }

    /// Sends a packet that needs several frames.
    #[cold]
    fn send_chain(&mut self, packet: &[u8], meta: &Meta, targets: u64) -> SendOutcome {
        let ready = targets & self.attached;
        let mut outcome =
            SendOutcome { delivered: 0, dropped: self.count_no_consumer(targets & !ready) };
        if ready == 0 {
            return outcome;
        }
        let needed = packet.len().div_ceil(self.geometry.room);
        let mut frames = Vec::with_capacity(needed.min(MAX_FRAGMENTS));
        while needed <= MAX_FRAGMENTS && frames.len() < needed {
            match self.take_frame() {
                Some(frame) => frames.push(frame),
                None => break,
            }
        }
        if frames.len() < needed {
            self.pool.free.append(&mut frames);
            outcome.dropped += self.count_no_frame(ready);
            return outcome;
        }
        let mut descriptors = Vec::with_capacity(needed);
        for ((start, len), &frame) in chain::pieces(packet.len(), self.geometry.room).zip(&frames) {
            let copy = |into: &mut [u8]| into.copy_from_slice(&packet[start..start + len]);
            let mut piece = fill_frame(&self.frames, &self.geometry, frame, len, meta, copy);
            if start + len < packet.len() {
                piece.flags |= FrameFlags::MORE_FRAGMENTS;
            }
            descriptors.push(piece);
        }
        let mut holders = 0;
        for queue in bits(ready) {
            if self.enqueue(queue, &descriptors) {
                holders |= 1 << queue;
                outcome.delivered += 1;
            } else {
                outcome.dropped += 1;
            }
        }
        for frame in frames {
            self.pool.hand_out(frame, holders);
        }
        outcome
    }

    /// Makes everything sent visible, wakes sleeping consumers and takes returned frames back.
    #[inline]
    pub fn flush(&mut self) {
        if self.dirty != 0 {
            self.publish();
        }
        if self.pending.load(Ordering::Relaxed) {
            self.obey();
        }
    }

    fn publish(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        self.publications = self.publications.wrapping_add(1);
        if self.publications.is_multiple_of(HEARTBEAT_EVERY) {
            self.beat();
        }
        for queue in bits(dirty) {
            let Some(outlet) = &mut self.outlets[queue] else {
                continue;
            };
            let packets = outlet.publish();
            let counters = &self.counters[queue];
            counters.outstanding.store(outlet.outstanding(), Ordering::Relaxed);
            bump(&counters.enqueued, packets);
        }
        // Orders the new indices before the look at `waiting`; the consumer does the reverse.
        fence(Ordering::SeqCst);
        for queue in bits(dirty) {
            if let Some(outlet) = &self.outlets[queue] {
                outlet.ring.queue().wake();
                if outlet.prod >= outlet.drain_at {
                    self.drain(queue);
                }
            }
        }
    }

    /// Writes the sign of life of this thread into every ring.
    #[cold]
    fn beat(&self) {
        let now = coarse_now();
        for queue in bits(self.attached) {
            if let Some(outlet) = &self.outlets[queue] {
                outlet.ring.word(ring::HEARTBEAT).store(now, Ordering::Relaxed);
            }
        }
    }

    /// Packets in `queue` that its consumer has not given back, as of the last look; `None` when
    /// nobody consumes it.
    pub fn outstanding(&self, queue: usize) -> Option<u64> {
        self.outlets.get(queue)?.as_ref().map(Outlet::outstanding)
    }

    /// Does what must be done regularly when no packets come: call it at least every 100 ms.
    pub fn tick(&mut self) {
        self.flush();
        for queue in bits(self.attached) {
            self.drain(queue);
        }
        self.beat();
    }

    /// Counts a packet for queues that nobody consumes; how many they are.
    fn count_no_consumer(&self, queues: u64) -> u32 {
        for queue in bits(queues) {
            if let Some(counters) = self.counters.get(queue) {
                bump(&counters.no_consumer, 1);
            }
        }
        queues.count_ones()
    }

    #[cold]
    fn count_no_frame(&self, queues: u64) -> u32 {
        for queue in bits(queues) {
            bump(&self.counters[queue].no_frame, 1);
        }
        queues.count_ones()
    }

    #[inline]
    fn take_frame(&mut self) -> Option<u32> {
        if let Some(frame) = self.pool.free.pop() {
            return Some(frame);
        }
        for queue in bits(self.attached) {
            self.drain(queue);
        }
        self.pool.free.pop()
    }

    /// Puts one packet into one queue, wholly or not at all.
    #[inline]
    fn enqueue(&mut self, queue: usize, descriptors: &[Descriptor]) -> bool {
        let needed = descriptors.len() as u64;
        loop {
            let Some(outlet) = &mut self.outlets[queue] else {
                return false;
            };
            if outlet.prod + needed <= outlet.limit {
                for &descriptor in descriptors {
                    outlet.put(descriptor);
                }
                outlet.chained += needed - 1;
                self.dirty |= 1 << queue;
                return true;
            }
            if !self.make_space(queue, needed) {
                return false;
            }
        }
    }

    /// Takes returned frames back until `needed` descriptors fit, or counts the packet as dropped.
    #[cold]
    fn make_space(&mut self, queue: usize, needed: u64) -> bool {
        self.drain(queue);
        let fits =
            self.outlets[queue].as_ref().is_some_and(|outlet| outlet.prod + needed <= outlet.limit);
        if !fits {
            self.count_full(queue);
        }
        fits
    }

    #[cold]
    fn count_full(&self, queue: usize) {
        let Some(outlet) = &self.outlets[queue] else {
            return;
        };
        let consumed = outlet.ring.word(ring::CONS).load(Ordering::Acquire);
        let counters = &self.counters[queue];
        if outlet.prod.wrapping_sub(consumed) >= outlet.ring.slots() {
            bump(&counters.dropped_full, 1);
            bump(outlet.ring.word(ring::DROPPED), 1);
        } else {
            bump(&counters.dropped_quota, 1);
            bump(outlet.ring.word(ring::DROPPED_QUOTA), 1);
        }
    }

    /// Takes back the frames that the consumer of `queue` returned.
    #[inline]
    fn drain(&mut self, queue: usize) {
        let Some(outlet) = &mut self.outlets[queue] else {
            return;
        };
        outlet.drain_at = outlet.prod + DRAIN_EVERY;
        let returned = outlet.ring.word(ring::RPROD).load(Ordering::Acquire);
        let count = returned.wrapping_sub(outlet.rcons);
        if count == 0 {
            return;
        }
        if count > outlet.outstanding() {
            self.part_with(queue);
            return;
        }
        let Geometry { first_frame, shift, .. } = self.geometry;
        let alignment = (1u64 << shift) - 1;
        let mut bad = 0;
        for index in outlet.rcons..returned {
            let address = outlet.ring.return_entry(index).load(Ordering::Relaxed);
            let frame = (address >> shift).wrapping_sub(first_frame);
            if address & alignment != 0 || !self.pool.give_back(frame, queue) {
                bad += 1;
            }
        }
        outlet.rcons = returned;
        outlet.limit = returned + outlet.ring.slots();
        outlet.ring.word(ring::RCONS).store(returned, Ordering::Relaxed);
        let counters = &self.counters[queue];
        counters.outstanding.store(outlet.outstanding(), Ordering::Relaxed);
        if bad != 0 {
            bump(&counters.bad_returns, bad);
            self.part_with(queue);
        }
    }

    /// Stops serving a consumer that broke the rules; the server will close its connection.
    #[cold]
    fn part_with(&mut self, queue: usize) {
        self.counters[queue].corrupt.store(true, Ordering::Relaxed);
        self.detach(queue);
    }

    #[cold]
    fn obey(&mut self) {
        self.pending.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Detach(queue) => self.detach(queue),
                Command::Attach(queue, map) => {
                    self.detach(queue);
                    self.outlets[queue] = Some(Outlet::new(Ring::new(map, self.index)));
                    self.attached |= 1 << queue;
                }
            }
        }
    }

    /// True when no queue holds a frame.
    #[cfg(test)]
    pub(crate) fn all_free(&self) -> bool {
        let distinct: std::collections::BTreeSet<_> = self.pool.free.iter().collect();
        distinct.len() == self.pool.holders.len() && distinct.len() == self.pool.free.len()
    }

    fn detach(&mut self, queue: usize) {
        if self.outlets[queue].take().is_some() {
            self.pool.reclaim(queue);
            self.counters[queue].outstanding.store(0, Ordering::Relaxed);
        }
        self.attached &= !(1 << queue);
        self.dirty &= !(1 << queue);
    }
}

/// Numbers of the bits that are set.
#[inline]
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if mask == 0 {
            return None;
        }
        let bit = mask.trailing_zeros();
        mask &= mask - 1;
        Some(bit as usize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_in_order() {
        assert_eq!(bits(0b1010_0001).collect::<Vec<_>>(), [0, 5, 7]);
        assert_eq!(bits(1 << 63).collect::<Vec<_>>(), [63]);
    }

    #[test]
    fn a_frame_is_free_when_its_last_holder_returns_it() {
        let mut pool = Pool::new(2);
        let frame = pool.free.pop().unwrap();
        pool.holders[frame as usize] = 0b11;
        assert!(pool.give_back(u64::from(frame), 0));
        assert!(!pool.give_back(u64::from(frame), 0), "returned twice");
        assert!(!pool.give_back(u64::from(frame), 5), "never held");
        assert!(!pool.give_back(99, 0), "not a frame");
        assert_eq!(pool.free.len(), 1);
        pool.reclaim(1);
        assert_eq!(pool.free.len(), 2);
    }
}
