//! TLS connections on the way to their first application record (`spec/detector.md` 6).
//!
//! The table of a worker has a fixed size. It is divided into small buckets chosen by a keyed hash.
//! When a bucket is full, a newcomer replaces an expired flow; or else the oldest of its own network,
//! where that has two already; or else the oldest, where flows that showed more than their SYN count
//! as half a second younger. A flood from one network so eats itself. In a flood from forged sources
//! a flow lives for as long as the flood takes to fill the table once, which is far longer than a
//! client takes from its SYN to its record.

use crate::clock::Millis;
use crate::mix::Mixer;
use crate::straddling::Place;

/// A flow is forgotten this long after its (last) SYN, in milliseconds.
pub(crate) const LIFETIME: u64 = 30_000;
/// Unit of the stored deadlines, milliseconds.
const TICK: u64 = 100;
const WAYS: usize = 4;
/// Slots of a bucket that one network takes from others.
const SHARE: usize = 2;
/// How much longer, in ticks, a flow that showed more than its SYN is kept than one that did not: it
/// cost its sender more, but whoever forges SYNs can forge that too.
const CREDIT: u32 = 5;
/// Cleanups in which the whole table is swept once.
const SWEEP_STEPS: usize = 64;

/// Client-to-decoy direction of a TCP connection to port 443.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Over IPv4.
    V4 {
        /// Client address, network order.
        source: [u8; 4],
        /// Decoy address, network order.
        destination: [u8; 4],
        /// Client port.
        port: u16,
    },
    /// Over IPv6.
    V6 {
        /// Client address, network order.
        source: [u8; 16],
        /// Decoy address, network order.
        destination: [u8; 16],
        /// Client port.
        port: u16,
    },
}

impl Flow {
    /// The client's network, for fairness: its /24 or /48, and which of the two it is.
    pub(crate) fn network(&self) -> u64 {
        match self {
            Self::V4 { source, .. } => u64::from(u32::from_be_bytes(*source) >> 8),
            Self::V6 { source, .. } => (u128::from_be_bytes(*source) >> 80) as u64 | 1 << 63,
        }
    }
}

/// How far a followed flow has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stage(u16);

impl Stage {
    const ADVANCED: u16 = 1 << 15;
    const CHECKED: u16 = 1 << 14;
    /// One more than the place of a record, or 0.
    const KEPT: u16 = Self::CHECKED - 1;

    /// More than its SYN was seen.
    const fn is_advanced(self) -> bool {
        self.0 & Self::ADVANCED != 0
    }

    /// Its first application record was seen; only the rest of that one is waited for.
    pub const fn is_checked(self) -> bool {
        self.0 & Self::CHECKED != 0
    }

    /// Where the start of its record is kept.
    pub const fn kept(self) -> Option<Place> {
        (self.0 & Self::KEPT).checked_sub(1)
    }

    /// The same flow, whose first application record was seen.
    #[must_use]
    pub const fn checked(self) -> Self {
        Self(self.0 | Self::CHECKED)
    }

    /// The same flow, whose record is kept there.
    #[must_use]
    pub const fn with_kept(self, place: Option<Place>) -> Self {
        let kept = match place {
            Some(place) => place + 1,
            None => 0,
        };
        Self(self.0 & !Self::KEPT | kept)
    }
}

/// One slot, `K` being the addresses.
#[derive(Debug, Clone, Copy)]
struct Slot<K> {
    key: K,
    port: u16,
    stage: Stage,
    /// Tick at which the flow is forgotten; 0 marks a free slot.
    deadline: u32,
}

/// Addresses as a table stores them.
trait Addresses: Copy + Eq + Default {
    fn hash(&self, port: u16, mixer: &Mixer) -> u64;
    /// Network of the source, for fairness: /24 or /48.
    fn network(&self) -> u64;
}

impl Addresses for [u32; 2] {
    #[inline(always)]
    fn hash(&self, port: u16, mixer: &Mixer) -> u64 {
        mixer.two(u64::from(self[0]) << 32 | u64::from(self[1]), port.into())
    }

    fn network(&self) -> u64 {
        u64::from(self[0] >> 8)
    }
}

impl Addresses for [u64; 4] {
    #[inline(always)]
    fn hash(&self, port: u16, mixer: &Mixer) -> u64 {
        mixer.two(mixer.four(*self), port.into())
    }

    fn network(&self) -> u64 {
        self[0] >> 16
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Bucket<K>([Slot<K>; WAYS]);

/// What became of a new flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inserted {
    New,
    Known,
    /// The place of an expired flow, which is still counted.
    Replacing,
    Evicting,
}

/// Marks of the slots of a bucket: a byte of the hash, never 0, or 0 for a free slot. All marks of
/// a table stay in a near cache, so that a packet of no flow does not touch the slots.
type Marks = [u8; WAYS];

#[derive(Debug)]
struct Table<K> {
    marks: Box<[Marks]>,
    buckets: Box<[Bucket<K>]>,
    mixer: Mixer,
    swept: usize,
}

/// Where a flow may be; see [`Flows::glimpse`]. A bucket, above it the mark, and above that whether
/// the flow is one over IPv6.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Glimpse(u64);

impl Glimpse {
    const SIX: u64 = 1 << 40;

    #[inline(always)]
    const fn new(home: Home) -> Self {
        Self(home.bucket as u64 | (home.mark as u64) << 32)
    }

    #[inline(always)]
    const fn home(self) -> Home {
        Home { bucket: self.0 as u32, mark: (self.0 >> 32) as u8 }
    }
}

/// Where a flow is, or would be.
#[derive(Debug, Clone, Copy, Default)]
struct Home {
    bucket: u32,
    mark: u8,
}

impl<K: Addresses> Table<K> {
    /// At least `capacity` slots.
    fn new(capacity: usize) -> Self {
        let empty = Slot { key: K::default(), port: 0, stage: Stage(0), deadline: 0 };
        let buckets = capacity.div_ceil(WAYS).next_power_of_two().max(SWEEP_STEPS);
        Self {
            marks: vec![[0; WAYS]; buckets].into_boxed_slice(),
            buckets: vec![Bucket([empty; WAYS]); buckets].into_boxed_slice(),
            mixer: Mixer::random(),
            swept: 0,
        }
    }

    #[inline(always)]
    fn home(&self, key: &K, port: u16) -> Home {
        let hash = key.hash(port, &self.mixer);
        Home { bucket: hash as u32 & (self.buckets.len() as u32 - 1), mark: (hash >> 56) as u8 | 1 }
    }

    /// Whether a slot of `home`'s bucket has its mark.
    #[inline(always)]
    fn is_marked(&self, home: Home) -> bool {
        const ONES: u32 = 0x0101_0101;
        // A byte that equals the mark becomes zero, and a word with a zero byte shows it here.
        let differ =
            u32::from_le_bytes(self.marks[home.bucket as usize]) ^ (u32::from(home.mark) * ONES);
        differ.wrapping_sub(ONES) & !differ & (ONES << 7) != 0
    }

    /// The way of `home`'s bucket in which the flow is.
    #[inline(always)]
    fn find(&self, home: Home, key: &K, port: u16, now: u32) -> Option<usize> {
        if !self.is_marked(home) {
            return None;
        }
        self.buckets[home.bucket as usize]
            .0
            .iter()
            .position(|slot| slot.deadline > now && slot.port == port && slot.key == *key)
    }

    fn insert(&mut self, key: K, port: u16, now: u32, deadline: u32) -> Inserted {
        let home = self.home(&key, port);
        let found = self.find(home, &key, port, now);
        let slots = &mut self.buckets[home.bucket as usize].0;
        if let Some(way) = found {
            slots[way].deadline = deadline;
            slots[way].stage = Stage::default();
            return Inserted::Known;
        }
        let network = key.network();
        let is_own = |slot: &Slot<K>| slot.deadline > now && slot.key.network() == network;
        let crowded = slots.iter().filter(|slot| is_own(slot)).count() >= SHARE;
        let rank = |slot: &Slot<K>| {
            let own = is_own(slot);
            let class = match (slot.deadline <= now, own && crowded) {
                (true, _) => 0,
                (_, true) => 1,
                (_, false) => 2,
            };
            let credit = if slot.stage.is_advanced() && !own { CREDIT } else { 0 };
            (class, slot.deadline + credit)
        };
        let victim = (0..WAYS).min_by_key(|&way| rank(&slots[way])).unwrap_or(0);
        let former = slots[victim].deadline;
        slots[victim] = Slot { key, port, stage: Stage::default(), deadline };
        self.marks[home.bucket as usize][victim] = home.mark;
        match former {
            0 => Inserted::New,
            expired if expired <= now => Inserted::Replacing,
            _ => Inserted::Evicting,
        }
    }

    /// Notes that the flow went beyond its SYN, and tells how far; `None` when it is not followed.
    #[inline(always)]
    fn advance(&mut self, key: &K, port: u16, now: u32) -> Option<Stage> {
        let home = self.home(key, port);
        let way = self.find(home, key, port, now)?;
        let stage = &mut self.buckets[home.bucket as usize].0[way].stage;
        stage.0 |= Stage::ADVANCED;
        Some(*stage)
    }

    fn set_stage(&mut self, key: &K, port: u16, stage: Stage, now: u32) {
        let home = self.home(key, port);
        if let Some(way) = self.find(home, key, port, now) {
            self.buckets[home.bucket as usize].0[way].stage = stage;
        }
    }

    /// Removes the flow; false when it is not followed.
    #[inline(always)]
    fn remove(&mut self, key: &K, port: u16, now: u32) -> bool {
        let home = self.home(key, port);
        let Some(way) = self.find(home, key, port, now) else { return false };
        self.free(home.bucket as usize, way);
        true
    }

    fn free(&mut self, bucket: usize, way: usize) {
        self.buckets[bucket].0[way].deadline = 0;
        self.marks[bucket][way] = 0;
    }

    /// Frees expired slots of the next `buckets` buckets; their number.
    fn sweep(&mut self, buckets: usize, now: u32) -> usize {
        let mut freed = 0;
        for _ in 0..buckets {
            for way in 0..WAYS {
                let deadline = self.buckets[self.swept].0[way].deadline;
                if deadline != 0 && deadline <= now {
                    self.free(self.swept, way);
                    freed += 1;
                }
            }
            self.swept = (self.swept + 1) & (self.buckets.len() - 1);
        }
        freed
    }
}

/// The flows of one worker.
#[derive(Debug)]
pub struct Flows {
    v4: Table<[u32; 2]>,
    v6: Table<[u64; 4]>,
    tracked: usize,
    evicted: u64,
}

/// Flows of each family that a worker follows by default.
pub const DEFAULT_CAPACITY: usize = 131_072;

impl Flows {
    /// A table for `capacity` flows over IPv4 and a quarter of that over IPv6.
    pub fn new(capacity: usize) -> Self {
        Self { v4: Table::new(capacity), v6: Table::new(capacity / 4), tracked: 0, evicted: 0 }
    }

    #[inline(always)]
    const fn tick(now: Millis) -> u32 {
        // The first tick is 1, so that 0 can mark a free slot.
        (now.0 / TICK) as u32 + 1
    }

    /// Starts following `flow` for 30 s, or does so again.
    pub fn start(&mut self, flow: &Flow, now: Millis) {
        let deadline = Self::tick(Millis(now.0 + LIFETIME + TICK - 1));
        let now = Self::tick(now);
        let inserted = match flow {
            Flow::V4 { source, destination, port } => {
                self.v4.insert(key_v4(source, destination), *port, now, deadline)
            }
            Flow::V6 { source, destination, port } => {
                self.v6.insert(key_v6(source, destination), *port, now, deadline)
            }
        };
        match inserted {
            Inserted::New => self.tracked += 1,
            Inserted::Known | Inserted::Replacing => {}
            Inserted::Evicting => self.evicted += 1,
        }
    }

    /// Where `flow` would be.
    #[inline(always)]
    pub(crate) fn glimpse(&self, flow: &Flow) -> Glimpse {
        match flow {
            Flow::V4 { source, destination, port } => {
                Glimpse::new(self.v4.home(&key_v4(source, destination), *port))
            }
            Flow::V6 { source, destination, port } => {
                let home = self.v6.home(&key_v6(source, destination), *port);
                Glimpse(Glimpse::new(home).0 | Glimpse::SIX)
            }
        }
    }

    /// Reads what [`may_follow`](Self::may_follow) will look at, so that it is near by then.
    #[inline(always)]
    pub(crate) fn touch(&self, glimpse: Glimpse) -> u8 {
        let bucket = glimpse.home().bucket as usize;
        if glimpse.0 & Glimpse::SIX != 0 {
            return self.v6.marks[bucket][0];
        }
        self.v4.marks[bucket][0]
    }

    /// Whether the flow that `glimpse` was of may be followed. False is certain.
    #[inline(always)]
    pub(crate) fn may_follow(&self, glimpse: Glimpse) -> bool {
        if glimpse.0 & Glimpse::SIX != 0 {
            self.v6.is_marked(glimpse.home())
        } else {
            self.v4.is_marked(glimpse.home())
        }
    }

    /// How far `flow` has come, when it is followed; it then counts as advanced beyond its SYN.
    #[inline]
    pub fn advance(&mut self, flow: &Flow, now: Millis) -> Option<Stage> {
        let now = Self::tick(now);
        match flow {
            Flow::V4 { source, destination, port } => {
                self.v4.advance(&key_v4(source, destination), *port, now)
            }
            Flow::V6 { source, destination, port } => {
                self.v6.advance(&key_v6(source, destination), *port, now)
            }
        }
    }

    /// Notes how far `flow` has come.
    pub fn set_stage(&mut self, flow: &Flow, stage: Stage, now: Millis) {
        let now = Self::tick(now);
        match flow {
            Flow::V4 { source, destination, port } => {
                self.v4.set_stage(&key_v4(source, destination), *port, stage, now);
            }
            Flow::V6 { source, destination, port } => {
                self.v6.set_stage(&key_v6(source, destination), *port, stage, now);
            }
        }
    }

    /// Stops following `flow`.
    #[inline]
    pub fn stop(&mut self, flow: &Flow, now: Millis) {
        let now = Self::tick(now);
        let removed = match flow {
            Flow::V4 { source, destination, port } => {
                self.v4.remove(&key_v4(source, destination), *port, now)
            }
            Flow::V6 { source, destination, port } => {
                self.v6.remove(&key_v6(source, destination), *port, now)
            }
        };
        self.tracked -= usize::from(removed);
    }

    /// Frees a part of what has expired; all of it within 64 calls.
    pub fn sweep(&mut self, now: Millis) {
        let now = Self::tick(now);
        let (v4, v6) = (self.v4.buckets.len(), self.v6.buckets.len());
        self.tracked -= self.v4.sweep(v4 / SWEEP_STEPS, now);
        self.tracked -= self.v6.sweep(v6 / SWEEP_STEPS, now);
    }

    /// Frees all that has expired.
    pub fn sweep_all(&mut self, now: Millis) {
        for _ in 0..SWEEP_STEPS {
            self.sweep(now);
        }
    }

    /// Bytes that the tables take.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.v4.marks)
            + size_of_val(&*self.v4.buckets)
            + size_of_val(&*self.v6.marks)
            + size_of_val(&*self.v6.buckets)
    }

    /// Flows followed now, expired ones that await the sweep included.
    pub const fn tracked(&self) -> usize {
        self.tracked
    }

    /// Flows that had to make room for others.
    pub const fn evicted(&self) -> u64 {
        self.evicted
    }
}

#[inline(always)]
fn key_v4(source: &[u8; 4], destination: &[u8; 4]) -> [u32; 2] {
    [u32::from_be_bytes(*source), u32::from_be_bytes(*destination)]
}

#[inline(always)]
fn key_v6(source: &[u8; 16], destination: &[u8; 16]) -> [u64; 4] {
    let (source, destination) = (u128::from_be_bytes(*source), u128::from_be_bytes(*destination));
    [(source >> 64) as u64, source as u64, (destination >> 64) as u64, destination as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: [u8; 4], port: u16) -> Flow {
        Flow::V4 { source, destination: [198, 51, 100, 1], port }
    }

    #[test]
    fn slots_fill_one_cache_line() {
        assert_eq!(size_of::<Bucket<[u32; 2]>>(), 64);
    }

    #[test]
    fn a_flow_lives_30_seconds_from_its_last_syn() {
        let mut flows = Flows::new(1024);
        let flow = flow([10, 0, 0, 1], 4000);
        flows.start(&flow, Millis(0));
        assert!(flows.advance(&flow, Millis(29_900)).is_some());
        flows.start(&flow, Millis(20_000));
        assert_eq!(flows.tracked(), 1);
        assert!(flows.advance(&flow, Millis(49_900)).is_some());
        assert!(flows.advance(&flow, Millis(50_100)).is_none());
        assert_eq!(flows.tracked(), 1, "until the sweep");
        flows.sweep_all(Millis(50_100));
        assert_eq!(flows.tracked(), 0);
    }

    #[test]
    fn the_end_of_an_earlier_flow_does_not_touch_its_successor() {
        let mut flows = Flows::new(1024);
        let flow = flow([10, 0, 0, 1], 4000);
        flows.start(&flow, Millis(0));
        flows.stop(&flow, Millis(1));
        flows.start(&flow, Millis(29_000));
        flows.sweep_all(Millis(31_000));
        assert!(flows.advance(&flow, Millis(31_000)).is_some());
        assert_eq!(flows.tracked(), 1);
    }

    #[test]
    fn families_are_apart() {
        let mut flows = Flows::new(1024);
        let v6 = Flow::V6 { source: [1; 16], destination: [2; 16], port: 7 };
        flows.start(&v6, Millis(0));
        assert!(flows.advance(&v6, Millis(1)).is_some());
        assert!(flows.advance(&flow([1; 4], 7), Millis(1)).is_none());
        flows.stop(&v6, Millis(2));
        assert!(flows.advance(&v6, Millis(3)).is_none());
    }

    #[test]
    fn a_flood_from_one_network_eats_itself() {
        let mut flows = Flows::new(256);
        let genuine: Vec<Flow> = (0..32).map(|i| flow([10, 1, i, 1], 5000)).collect();
        for genuine in &genuine {
            flows.start(genuine, Millis(0));
        }
        for i in 0..100_000u32 {
            flows.start(&flow([203, 0, 113, i as u8], (i >> 8) as u16), Millis(1));
        }
        let alive = |flows: &mut Flows| {
            genuine.iter().filter(|flow| flows.advance(flow, Millis(2)).is_some()).count()
        };
        // Only where a bucket had no flood flow yet can a genuine one go.
        assert!(alive(&mut flows) >= 24, "{}", alive(&mut flows));
        assert!(flows.evicted() > 90_000);
        assert!(flows.tracked() <= 256 + 256);
    }

    #[test]
    fn a_flood_of_forged_sources_spares_flows_that_advanced() {
        let mut flows = Flows::new(4096);
        let genuine: Vec<Flow> = (0..64).map(|i| flow([10, 1, i, 1], 5000)).collect();
        for genuine in &genuine {
            flows.start(genuine, Millis(0));
            assert!(flows.advance(genuine, Millis(0)).is_some());
        }
        for i in 0..200_000u32 {
            flows.start(&flow((i.wrapping_mul(2_654_435_761)).to_be_bytes(), i as u16), Millis(1));
        }
        let alive = genuine.iter().filter(|flow| flows.advance(flow, Millis(2)).is_some()).count();
        assert_eq!(alive, 64);
    }

    /// Genuine flows, one every 10 ms, that are not found 200 ms after their SYN, in percent, while ten
    /// times the table comes in 30 s from random sources, each `forged` further packets long.
    fn missed(forged: usize) -> f64 {
        let mut flows = Flows::new(4096);
        let mut random = 1u64;
        let mut waiting = std::collections::VecDeque::new();
        let (mut genuine, mut missed) = (0u32, 0u32);
        for now in (0..60_000).map(Millis) {
            // 40,960 in 30 s are somewhat less than three in two milliseconds.
            for _ in 0..1 + now.0 % 2 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let flood = flow(((random >> 32) as u32).to_be_bytes(), (random >> 16) as u16);
                flows.start(&flood, now);
                for _ in 0..forged {
                    flows.advance(&flood, now);
                }
            }
            if now.0.is_multiple_of(10) {
                let client =
                    flow([10, (genuine >> 16) as u8, (genuine >> 8) as u8, genuine as u8], 7);
                flows.start(&client, now);
                waiting.push_back((now.0 + 200, client));
                genuine += 1;
            }
            let due = waiting.front().copied().filter(|(due, _)| *due <= now.0);
            if let Some((_, client)) = due {
                waiting.pop_front();
                missed += u32::from(flows.advance(&client, now).is_none());
                flows.stop(&client, now);
            }
            if now.0.is_multiple_of(100) {
                flows.sweep(now);
            }
        }
        assert!(flows.tracked() <= 4096 + 1024 && flows.evicted() > 60_000);
        100.0 * f64::from(missed) / f64::from(genuine)
    }

    #[test]
    fn a_flood_of_forged_sources_does_not_starve_genuine_flows() {
        let (plain, pretending) = (missed(0), missed(1));
        assert!(plain <= 0.5, "{plain} % and {pretending} %");
        // Not even when the flood pretends to go on.
        assert!(pretending <= 5.0, "{pretending} %");
    }
}
