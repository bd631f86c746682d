//! TLS connections on the way to their first application record (`spec/detector.md` 6).
//!
//! The table of a worker has a fixed size. It is divided into small buckets chosen by a keyed hash.
//! When a bucket is full, a newcomer replaces, in this order: an expired flow; a flow from the
//! newcomer's own network that showed nothing but its SYN; any such flow; then the same two without
//! that condition, the oldest first. A flood from one network so eats itself, and a flood from
//! forged sources, which never get past their SYN, does not drive out flows that did.

use crate::clock::Millis;
use crate::mix::Mixer;

/// A flow is forgotten this long after its (last) SYN.
const LIFETIME: u64 = 30_000;
/// Unit of the stored deadlines, milliseconds.
const TICK: u64 = 100;
const WAYS: usize = 4;
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

/// One slot, `K` being the addresses.
#[derive(Debug, Clone, Copy)]
struct Slot<K> {
    key: K,
    port: u16,
    /// More than the SYN was seen.
    advanced: bool,
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

/// Where a flow is, or would be.
#[derive(Debug, Clone, Copy)]
struct Place {
    bucket: usize,
    mark: u8,
}

impl<K: Addresses> Table<K> {
    /// At least `capacity` slots.
    fn new(capacity: usize) -> Self {
        let empty = Slot { key: K::default(), port: 0, advanced: false, deadline: 0 };
        let buckets = capacity.div_ceil(WAYS).next_power_of_two().max(SWEEP_STEPS);
        Self {
            marks: vec![[0; WAYS]; buckets].into_boxed_slice(),
            buckets: vec![Bucket([empty; WAYS]); buckets].into_boxed_slice(),
            mixer: Mixer::random(),
            swept: 0,
        }
    }

    #[inline(always)]
    fn place(&self, key: &K, port: u16) -> Place {
        let hash = key.hash(port, &self.mixer);
        Place { bucket: hash as usize & (self.buckets.len() - 1), mark: (hash >> 56) as u8 | 1 }
    }

    /// The way of `place`'s bucket in which the flow is.
    #[inline(always)]
    fn find(&self, place: Place, key: &K, port: u16, now: u32) -> Option<usize> {
        const ONES: u32 = 0x0101_0101;
        // A byte that equals the mark becomes zero, and a word with a zero byte shows it here.
        let differ = u32::from_le_bytes(self.marks[place.bucket]) ^ (u32::from(place.mark) * ONES);
        if differ.wrapping_sub(ONES) & !differ & (ONES << 7) == 0 {
            return None;
        }
        self.buckets[place.bucket]
            .0
            .iter()
            .position(|slot| slot.deadline > now && slot.port == port && slot.key == *key)
    }

    fn insert(&mut self, key: K, port: u16, now: u32, deadline: u32) -> Inserted {
        let place = self.place(&key, port);
        let found = self.find(place, &key, port, now);
        let slots = &mut self.buckets[place.bucket].0;
        if let Some(way) = found {
            slots[way].deadline = deadline;
            slots[way].advanced = false;
            return Inserted::Known;
        }
        let network = key.network();
        let rank = |slot: &Slot<K>| {
            let own = slot.key.network() == network;
            let class = match (slot.deadline <= now, slot.advanced, own) {
                (true, ..) => 0,
                (_, false, true) => 1,
                (_, false, false) => 2,
                (_, true, true) => 3,
                (_, true, false) => 4,
            };
            (class, slot.deadline)
        };
        let victim = (0..WAYS).min_by_key(|&way| rank(&slots[way])).unwrap_or(0);
        let former = slots[victim].deadline;
        slots[victim] = Slot { key, port, advanced: false, deadline };
        self.marks[place.bucket][victim] = place.mark;
        match former {
            0 => Inserted::New,
            expired if expired <= now => Inserted::Replacing,
            _ => Inserted::Evicting,
        }
    }

    /// Notes that the flow went beyond its SYN; false when it is not followed.
    #[inline(always)]
    fn advance(&mut self, key: &K, port: u16, now: u32) -> bool {
        let place = self.place(key, port);
        let Some(way) = self.find(place, key, port, now) else { return false };
        self.buckets[place.bucket].0[way].advanced = true;
        true
    }

    /// Removes the flow; false when it is not followed.
    #[inline(always)]
    fn remove(&mut self, key: &K, port: u16, now: u32) -> bool {
        let place = self.place(key, port);
        let Some(way) = self.find(place, key, port, now) else { return false };
        self.free(place.bucket, way);
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

    /// Whether `flow` is followed; it then counts as advanced beyond its SYN.
    #[inline]
    pub fn advance(&mut self, flow: &Flow, now: Millis) -> bool {
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
        assert!(flows.advance(&flow, Millis(29_900)));
        flows.start(&flow, Millis(20_000));
        assert_eq!(flows.tracked(), 1);
        assert!(flows.advance(&flow, Millis(49_900)));
        assert!(!flows.advance(&flow, Millis(50_100)));
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
        assert!(flows.advance(&flow, Millis(31_000)));
        assert_eq!(flows.tracked(), 1);
    }

    #[test]
    fn families_are_apart() {
        let mut flows = Flows::new(1024);
        let v6 = Flow::V6 { source: [1; 16], destination: [2; 16], port: 7 };
        flows.start(&v6, Millis(0));
        assert!(flows.advance(&v6, Millis(1)));
        assert!(!flows.advance(&flow([1; 4], 7), Millis(1)));
        flows.stop(&v6, Millis(2));
        assert!(!flows.advance(&v6, Millis(3)));
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
            genuine.iter().filter(|flow| flows.advance(flow, Millis(2))).count()
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
            assert!(flows.advance(genuine, Millis(0)));
        }
        for i in 0..200_000u32 {
            flows.start(&flow((i.wrapping_mul(2_654_435_761)).to_be_bytes(), i as u16), Millis(1));
        }
        let alive = genuine.iter().filter(|flow| flows.advance(flow, Millis(2))).count();
        assert_eq!(alive, 64);
    }
}
