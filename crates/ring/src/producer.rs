//! The balancer's end of the rings: one per ingest thread.

mod lent;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::mpsc::Receiver;

use crate::abi::{Descriptor, FrameFlags, MAX_FRAGMENTS, MAX_QUEUES, ring};
use crate::chain;
use crate::clock::coarse_now;
use crate::cycle::{Cycle, Pool, SHARED};
use crate::frames::{CELL, CELL_HEAD, CELL_ROOM, OwnedFrames};
use crate::lending::HEAD_ROOM_USED;
use crate::queue::{QueueMap, Ring, claim};
use crate::status::{QueueCounters, bump};

/// Publications between two signs of life under load; [`Producer::tick`] gives one without load.
const HEARTBEAT_EVERY: u32 = 64;
/// Packets to a queue between two looks for returned frames. Looking waits for cache lines that the
/// consumer is writing, so it should fetch many frames at once; few enough that the same frames stay
/// in the cache.
const DRAIN_EVERY: u64 = 512;
/// Descriptors at least whose cache lines are claimed at every publication, and how far ahead: the stores of
/// the next bursts then need not wait for the consumer's processor. After a longer burst, as many as it had.
const CLAIM: u64 = 32;
const CLAIM_AHEAD: u64 = 32;
/// How many packets ahead the frame is asked for that a packet is copied into.
const FRAMES_AHEAD: u64 = 8;
/// Cache lines at which a short packet may start, and their length in bytes.
const COLOURS: u64 = 8;
const LINE: u64 = 64;

/// What the server asks of an ingest thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// A consumer attached to the queue.
    Attach(usize, Arc<QueueMap>),
    /// The consumer of the queue, or the reader of the mirror, is gone.
    Detach(usize),
    /// Somebody reads the mirror with this number, and sees the packets of these queues, one bit each.
    Mirror(usize, Arc<QueueMap>, u64),
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
    /// Something of it stands in the head room.
    #[inline]
    const fn is_written(&self) -> bool {
        self.timestamp.is_some() || self.hash.is_some()
    }

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

impl SendOutcome {
    const fn of(targets: u64, takers: u64) -> Self {
        let delivered = takers.count_ones();
        Self { delivered, dropped: targets.count_ones() - delivered }
    }
}

/// The ring to one attached consumer, with the producer's own copies of its indices.
#[derive(Debug)]
struct Outlet {
    ring: Ring,
    cycle: Cycle,
    prod: u64,
    rcons: u64,
    /// The quota: `rcons` and the length of the cycle, at most the number of slots. Frames enqueued
    /// and not returned never exceed the slots, so a consumer that returns nothing starves only
    /// itself.
    limit: u64,
    /// `prod` as the consumer knows it.
    published: u64,
    /// Descriptors since the last flush that go on with the packet of the one before.
    chained: u64,
    /// `prod` from which on returned frames are looked for.
    drain_at: u64,
}

impl Outlet {
    fn new(ring: Ring, cycle: Cycle) -> Self {
        let limit = cycle.len();
        let (published, chained, drain_at) = (0, 0, DRAIN_EVERY);
        Self { ring, cycle, prod: 0, rcons: 0, limit, published, chained, drain_at }
    }

    /// Numbers of the packets that were not returned.
    #[inline]
    const fn held(&self) -> Range<u64> {
        self.rcons..self.prod
    }

    /// Takes back what the consumer returned: how many frames it was, or an error when it broke the
    /// rules, with the number of returns that were refused.
    #[inline]
    fn take_back(&mut self, queue: usize, pool: &mut Pool) -> Result<u64, u64> {
        self.drain_at = self.prod + DRAIN_EVERY;
        let returned = self.ring.word(ring::RPROD).load(Ordering::Acquire);
        let count = returned.wrapping_sub(self.rcons);
        if count > self.outstanding() {
            return Err(0);
        }
        if self.ring.queue().returns_in_order() {
            self.cycle.pass(self.rcons..returned, queue, pool);
            self.rcons = returned;
        } else {
            self.ring.prefetch_returns(self.rcons, returned);
        }
        while self.rcons != returned {
            let entries = self.ring.returns(self.rcons, (returned - self.rcons) as usize);
            let in_order = self.cycle.in_order(self.rcons, entries);
            self.rcons += in_order;
            if in_order != 0 {
                continue;
            }
            let frame = self.ring.return_entry(self.rcons).load(Ordering::Relaxed);
            if !self.cycle.take_back(self.held(), queue, frame, pool) {
                return Err(1);
            }
            self.rcons += 1;
        }
        if count != 0 {
            self.cycle.settle(self.held(), pool);
            self.limit = self.rcons + self.cycle.len();
            self.ring.word(ring::RCONS).store(returned, Ordering::Relaxed);
        }
        Ok(count)
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

/// Where packets lie in a producer's frames.
#[derive(Debug, Clone, Copy)]
struct Geometry {
    /// Offsets in the region of the first frame and of its cell.
    first: u64,
    cells: u64,
    /// Shift that makes the number of a frame of its distance from the first.
    number: u32,
    head_room: u64,
    /// Bytes of a frame after its head room.
    room: usize,
    /// Longest packet that may start at any colour.
    short: usize,
    /// Shift that brings the number of a frame, as colour, to the place of a cache line's number.
    colour: u32,
}

impl Geometry {
    fn new(share: Share) -> Self {
        let room = (share.frame_size - share.head_room) as usize;
        Self {
            first: share.first_frame * u64::from(share.frame_size),
            cells: share.cells,
            number: share.frame_size.trailing_zeros(),
            head_room: u64::from(share.head_room),
            room,
            short: room.saturating_sub((COLOURS - 1) as usize * LINE as usize),
            colour: share.frame_size.trailing_zeros() - LINE.trailing_zeros(),
        }
    }

    /// Address of the packet of `len` bytes in `frame`, or with `cells` in its cell, if that is long enough.
    ///
    /// Packets that leave room start at various cache lines: all frames have the same alignment, so that
    /// their first lines would compete for a few sets of every cache.
    ///
    /// # Panics
    /// When the packet does not fit.
    #[inline]
    fn address(&self, frame: u64, len: usize, cells: bool) -> u64 {
        if cells && len <= CELL_ROOM {
            return self.cells + ((frame - self.first) >> self.number) * CELL + CELL_HEAD;
        }
        let start = frame + self.head_room;
        if len <= self.short {
            return start + (frame >> self.colour) % (COLOURS * LINE) / LINE * LINE;
        }
        if len > self.room {
            too_long(len);
        }
        start
    }
}

#[cold]
fn too_long(len: usize) -> ! {
    panic!("packet of {len} bytes in one frame");
}

/// Writes a packet into the free frame at `address`.
#[inline]
fn fill_frame(
    frames: &OwnedFrames,
    address: usize,
    len: usize,
    meta: &Meta,
    fill: impl FnOnce(&mut [u8]),
) -> Descriptor {
    // SAFETY: the frame was free: nobody refers to its bytes or those of its cell, and they become visible to a
    // consumer only at the next flush.
    fill(unsafe { frames.slice(address, len) });
    describe(frames, address, len, meta)
}

/// Writes what is known of the packet at `address` into its head room. The frame is nobody else's, and
/// `address` leaves room for it.
#[inline]
fn describe(frames: &OwnedFrames, address: usize, len: usize, meta: &Meta) -> Descriptor {
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
    /// Entry q is the ring to queue q; those of mirrors follow.
    outlets: Box<[Option<Outlet>; MAX_QUEUES]>,
    attached: u64,
    /// Those of them whose consumers name no frame that they return: packets may lie in cells.
    in_order: u64,
    /// Those whose readers want to know time and hash of packets.
    described: u64,
    /// Queues whose packets a mirror sees, one bit each.
    watched: u64,
    /// The mirrors, each as its bit and the queues that it sees.
    mirrors: Vec<(u64, u64)>,
    dirty: u64,
    publications: u32,
    /// Time of the last sign of life.
    beaten: u64,
    counters: Arc<[QueueCounters]>,
    commands: Receiver<Command>,
    pending: Arc<AtomicBool>,
    share: Share,
    /// Frames that may still be lent.
    lendable: u32,
}

/// Which frames of the region a producer owns, and their geometry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub(crate) index: u32,
    pub(crate) first_frame: u64,
    /// Offset in the region of the cell of the first frame.
    pub(crate) cells: u64,
    pub(crate) frames: u32,
    /// Frames of these that queues never need.
    pub(crate) spare: u32,
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
            pool: Pool::new(
                share.first_frame << share.frame_size.trailing_zeros(),
                share.frames,
                share.frame_size.trailing_zeros(),
            ),
            outlets: Box::new([const { None }; MAX_QUEUES]),
            attached: 0,
            in_order: 0,
            described: 0,
            watched: 0,
            mirrors: Vec::new(),
            dirty: 0,
            publications: 0,
            beaten: 0,
            counters,
            commands,
            pending,
            share,
            lendable: share.spare,
        }
    }

    /// The queues `targets`, and the mirrors that see what goes to one of them.
    #[inline]
    pub fn mirrored(&self, targets: u64) -> u64 {
        if targets & self.watched == 0 { targets } else { self.with_mirrors(targets) }
    }

    /// Somebody wants to know time and hash of packets: a consumer that says so, or who looks on through a mirror.
    #[inline]
    pub const fn describes(&self) -> bool {
        self.described != 0
    }

    #[cold]
    fn with_mirrors(&self, targets: u64) -> u64 {
        let sees = |(bit, watched): &(u64, u64)| if targets & watched == 0 { 0 } else { *bit };
        self.mirrors.iter().map(sees).fold(targets, |targets, bit| targets | bit)
    }

    /// Longest packet that fits one frame, in bytes. Longer ones are chained.
    pub const fn room(&self) -> usize {
        self.geometry.room
    }

    /// Copies `packet` and sends it to the queues whose bits are set in `targets`.
    #[inline]
    pub fn send(&mut self, packet: &[u8], meta: &Meta, targets: u64) -> SendOutcome {
        if packet.len() <= self.geometry.room {
            if targets.is_power_of_two() {
                self.expect(targets.trailing_zeros() as usize, packet.len(), meta);
            }
            self.send_with(packet.len(), meta, targets, |frame| frame.copy_from_slice(packet))
        } else {
            self.send_chain(packet, meta, targets)
        }
    }

    /// Asks the processor for the first lines of a frame that `queue` will get soon, when that packet is like this
    /// one: writing into frames that are not in the cache, one after the other, would fill the processor's
    /// queue of stores.
    #[inline]
    fn expect(&self, queue: usize, len: usize, meta: &Meta) {
        let Some(outlet) = &self.outlets[queue] else { return };
        let frame = outlet.cycle.entry(outlet.prod + FRAMES_AHEAD) & !SHARED;
        let address = self.geometry.address(frame, len, self.in_order >> queue & 1 != 0);
        let packet = self.frames.base().wrapping_add(address as usize);
        if meta.is_written() {
            claim(packet.wrapping_sub(HEAD_ROOM_USED));
        }
        claim(packet);
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
        {
            let cells = targets & self.in_order != 0;
            let address = self.geometry.address(outlet.cycle.entry(outlet.prod), len, cells);
            outlet.put(fill_frame(&self.frames, address as usize, len, meta, fill));
            self.dirty |= targets;
            return SendOutcome { delivered: 1, dropped: 0 };
        }
        let takers = self.takers(targets, 1);
        self.place(takers, len, meta, 0, fill);
        SendOutcome::of(targets, takers)
    }

    /// Sends a packet that needs several frames.
    #[cold]
    fn send_chain(&mut self, packet: &[u8], meta: &Meta, targets: u64) -> SendOutcome {
        let room = self.geometry.room;
        let needed = packet.len().div_ceil(room);
        if needed > MAX_FRAGMENTS {
            self.count(targets & self.attached, |c| &c.no_frame);
            self.count(targets & !self.attached, |c| &c.no_consumer);
            return SendOutcome::of(targets, 0);
        }
        let takers = self.takers(targets, needed as u64);
        for (start, len) in chain::pieces(packet.len(), room) {
            let more = if start + len < packet.len() { FrameFlags::MORE_FRAGMENTS } else { 0 };
            let copy = |into: &mut [u8]| into.copy_from_slice(&packet[start..start + len]);
            self.place(takers, len, meta, more, copy);
        }
        for queue in bits(takers) {
            if let Some(outlet) = &mut self.outlets[queue] {
                outlet.chained += needed as u64 - 1;
            }
        }
        SendOutcome::of(targets, takers)
    }

    /// Those of `targets` that have space for `needed` descriptors; counts the packet as dropped for
    /// the others.
    fn takers(&mut self, targets: u64, needed: u64) -> u64 {
        let absent = targets & !self.attached;
        if absent != 0 {
            self.count(absent, |c| &c.no_consumer);
        }
        let mut takers = 0;
        for queue in bits(targets & self.attached) {
            if self.has_space(queue, needed) {
                takers |= 1 << queue;
            }
        }
        takers
    }

    /// Puts one descriptor into the rings of all `takers`, which have space.
    #[inline]
    fn place(
        &mut self,
        takers: u64,
        len: usize,
        meta: &Meta,
        more: u16,
        fill: impl FnOnce(&mut [u8]),
    ) {
        let mut queues = bits(takers);
        let Some(outlet) = queues.next().and_then(|lead| self.outlets[lead].as_mut()) else {
            return;
        };
        let frame = outlet.cycle.entry(outlet.prod);
        let address = self.geometry.address(frame, len, takers & !self.in_order == 0);
        let mut descriptor = fill_frame(&self.frames, address as usize, len, meta, fill);
        descriptor.flags |= more;
        if !takers.is_power_of_two() {
            self.pool.share(frame, takers);
            outlet.cycle.set(outlet.prod, frame | SHARED);
        }
        outlet.put(descriptor);
        for queue in queues {
            if let Some(outlet) = &mut self.outlets[queue] {
                self.pool.put(outlet.cycle.entry(outlet.prod));
                outlet.cycle.set(outlet.prod, frame | SHARED);
                outlet.put(descriptor);
            }
        }
        self.dirty |= takers;
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
            let begun = outlet.published;
            let packets = outlet.publish();
            let claimed = (outlet.prod - begun).max(CLAIM);
            outlet.ring.claim_descriptors(outlet.prod + CLAIM_AHEAD, claimed);
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
    fn beat(&mut self) {
        let now = coarse_now();
        if std::mem::replace(&mut self.beaten, now) == now {
            // The word says so already, and consumers look at its cache line for new packets.
            return;
        }
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

    /// A consumer of a queue, as of the last look, has half of its ring or more to read or to give back.
    pub fn is_crowded(&self) -> bool {
        let queues = self.attached & !self.mirrors.iter().fold(0, |all, (bit, _)| all | bit);
        let crowded = |o: &Outlet| o.outstanding() >= o.ring.slots() / 2;
        bits(queues).any(|queue| self.outlets[queue].as_ref().is_some_and(crowded))
    }

    /// Does what must be done regularly when no packets come: call it at least every 100 ms.
    pub fn tick(&mut self) {
        self.flush();
        for queue in bits(self.attached) {
            self.drain(queue);
        }
        self.beat();
    }

    /// Counts a packet that queues did not get.
    fn count(&self, queues: u64, counter: impl Fn(&QueueCounters) -> &AtomicU64) {
        for queue in bits(queues) {
            if let Some(counters) = self.counters.get(queue) {
                bump(counter(counters), 1);
            }
        }
    }

    /// True when `needed` descriptors fit into a queue, after taking returned frames back and
    /// letting its cycle grow; otherwise counts the packet as dropped.
    #[inline]
    fn has_space(&mut self, queue: usize, needed: u64) -> bool {
        let fits = |outlet: &Outlet| outlet.prod + needed <= outlet.limit;
        self.outlets[queue].as_ref().is_some_and(fits) || self.make_space(queue, needed)
    }

    #[cold]
    fn make_space(&mut self, queue: usize, needed: u64) -> bool {
        self.drain(queue);
        while let Some(outlet) = &mut self.outlets[queue] {
            if outlet.prod + needed <= outlet.limit {
                return true;
            }
            if !outlet.cycle.grow(outlet.held(), &mut self.pool) {
                break;
            }
            outlet.limit = outlet.rcons + outlet.cycle.len();
        }
        self.count_full(queue);
        false
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
        let counters = &self.counters[queue];
        match outlet.take_back(queue, &mut self.pool) {
            Ok(0) => {}
            Ok(_) => counters.outstanding.store(outlet.outstanding(), Ordering::Relaxed),
            Err(bad) => {
                bump(&counters.bad_returns, bad);
                self.part_with(queue);
            }
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
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Detach(queue) => self.detach(queue),
                Command::Attach(queue, map) => self.attach(queue, map),
                Command::Mirror(mirror, map, watched) => {
                    self.attach(mirror, map);
                    self.mirrors.push((1 << mirror, watched));
                    self.watched |= watched;
                }
            }
        }
    }

    fn attach(&mut self, queue: usize, map: Arc<QueueMap>) {
        self.detach(queue);
        let ring = Ring::new(map, self.index);
        let (in_order, described) = (ring.queue().returns_in_order(), ring.queue().is_described());
        if let Some(cycle) = Cycle::new(ring.slots(), &mut self.pool) {
            self.outlets[queue] = Some(Outlet::new(ring, cycle));
            self.attached |= 1 << queue;
            self.in_order |= u64::from(in_order) << queue;
            self.described |= u64::from(described) << queue;
            // The new ring has no sign of life yet, whatever the others have.
            self.beaten = 0;
        }
    }

    /// True when no consumer holds a frame and none is missing but those on loan.
    #[cfg(test)]
    pub(crate) fn all_free(&self) -> bool {
        let outlets = || self.outlets.iter().flatten();
        let frames = u64::from(self.share.frames - (self.share.spare - self.lendable));
        let mut known = crate::cycle::known(&self.pool, outlets().map(|o| &o.cycle));
        known.dedup();
        outlets().all(|o| o.held().is_empty()) && known.len() as u64 == frames
    }

    fn detach(&mut self, queue: usize) {
        if let Some(outlet) = self.outlets[queue].take() {
            outlet.cycle.dissolve(outlet.rcons..outlet.prod, queue, &mut self.pool);
            self.counters[queue].outstanding.store(0, Ordering::Relaxed);
        }
        for queues in [&mut self.attached, &mut self.in_order, &mut self.described, &mut self.dirty]
        {
            *queues &= !(1 << queue);
        }
        self.mirrors.retain(|(bit, _)| *bit != 1 << queue);
        self.watched = self.mirrors.iter().fold(0, |all, (_, watched)| all | watched);
    }
}

/// Numbers of the bits that are set.
#[inline]
pub(crate) fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
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
}
