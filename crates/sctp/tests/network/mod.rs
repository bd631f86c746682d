//! Two associations, a virtual clock, and a network that loses, repeats, delays and reorders.
#![allow(dead_code, unreachable_pub)] // Each test file uses its part.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use sctp::{Association, Config, Role};

pub const MS: Duration = Duration::from_millis(1);

/// What the path does to packets.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// Packets of a thousand that are lost.
    pub loss: u32,
    /// Packets of a thousand that arrive twice.
    pub twice: u32,
    /// Packets of a thousand that take up to `late` longer.
    pub reordered: u32,
    /// Time that every packet takes.
    pub delay: Duration,
    /// Most time that a reordered packet takes in addition.
    pub late: Duration,
}

impl Default for Path {
    fn default() -> Self {
        Self { loss: 0, twice: 0, reordered: 0, delay: 20 * MS, late: 30 * MS }
    }
}

/// Time since the start, sender, packet.
type Filter = Box<dyn FnMut(Duration, usize, &[u8]) -> bool>;

/// A packet under way: when it arrives, its number, whom it reaches.
type Flight = Reverse<(Instant, u64, usize, Vec<u8>)>;

pub struct Network {
    pub now: Instant,
    pub start: Instant,
    pub sides: [Association; 2],
    pub path: Path,
    pub rng: ChaCha20Rng,
    /// Decides over a packet of a side before the path does: false drops it.
    pub filter: Filter,
    pub sent: [u64; 2],
    flights: BinaryHeap<Flight>,
    number: u64,
}

impl Network {
    pub fn new(seed: u64, path: Path, config: &Config) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let now = Instant::now();
        Self {
            now,
            start: now,
            sides: [Role::Client, Role::Server]
                .map(|role| Association::new(role, config.clone(), &mut rng)),
            path,
            rng,
            filter: Box::new(|_, _, _| true),
            sent: [0; 2],
            flights: BinaryHeap::new(),
            number: 0,
        }
    }

    pub fn client(&mut self) -> &mut Association {
        &mut self.sides[0]
    }

    pub fn server(&mut self) -> &mut Association {
        &mut self.sides[1]
    }

    fn chance(&mut self, of_thousand: u32) -> bool {
        self.rng.next_u32() % 1000 < of_thousand
    }

    /// Sends what both sides have to send, and checks the rules of timers.
    pub fn transmit(&mut self) {
        for side in 0..2 {
            loop {
                let mut packet = Vec::new();
                if self.sides[side].poll_transmit(self.now, &mut packet).is_none() {
                    break;
                }
                assert!(packet.len() <= self.sides[side].mtu());
                self.sent[side] += 1;
                self.inject(1 - side, packet);
            }
            let association = &self.sides[side];
            if association.is_established() && association.unacknowledged() > 0 {
                assert!(association.poll_timeout().is_some(), "data under way and no timer");
            }
        }
    }

    /// Puts a packet for `to` onto the path.
    pub fn inject(&mut self, to: usize, packet: Vec<u8>) {
        if !(self.filter)(self.now - self.start, 1 - to, &packet) || self.chance(self.path.loss) {
            return;
        }
        let copies = if self.chance(self.path.twice) { 2 } else { 1 };
        for _ in 0..copies {
            let mut at = self.now + self.path.delay;
            if self.chance(self.path.reordered) {
                at += self.path.late * (self.rng.next_u32() % 1000) / 1000;
            }
            self.number += 1;
            self.flights.push(Reverse((at, self.number, to, packet.clone())));
        }
    }

    /// Goes on to the next event; false when nothing will ever happen again.
    pub fn step(&mut self) -> bool {
        self.transmit();
        let packet = self.flights.peek().map(|Reverse((at, ..))| *at);
        let timers = self.sides.iter().map(Association::poll_timeout);
        let Some(next) = timers.chain([packet]).flatten().min() else { return false };
        self.now = self.now.max(next);
        while self.flights.peek().is_some_and(|Reverse((at, ..))| *at <= self.now) {
            if let Some(Reverse((_, _, to, bytes))) = self.flights.pop() {
                self.sides[to].handle_packet(self.now, &bytes);
            }
        }
        for side in &mut self.sides {
            if side.poll_timeout().is_some_and(|at| at <= self.now) {
                side.handle_timeout(self.now);
            }
        }
        true
    }

    /// Runs until `done`, at most for `limit` of virtual time.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now + limit;
        let mut idle = 0;
        loop {
            if done(self) {
                self.transmit();
                return;
            }
            idle = if self.step() { 0 } else { idle + 1 };
            // What `done` does may start something.
            assert!(idle < 99, "nothing left to happen after {:?}", self.now - self.start);
            let waited = self.now - self.start;
            assert!(self.now <= end, "not done after {waited:?}: {:?}", self.sides);
        }
    }

    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step() && self.now < end {}
        self.now = self.now.max(end);
    }

    pub fn establish(&mut self) {
        self.run_until(Duration::from_secs(600), |n| n.sides.iter().all(|s| s.is_established()));
    }

    /// Moves `bytes` from a side to the other; what arrived, and how long it took.
    pub fn transfer(&mut self, from: usize, bytes: &[u8], limit: Duration) -> (Vec<u8>, Duration) {
        let began = self.now;
        let (mut written, mut read) = (0, Vec::with_capacity(bytes.len()));
        self.run_until(limit, |network| {
            written += network.sides[from].write(&bytes[written..]);
            let reader = &mut network.sides[1 - from];
            loop {
                let n = reader.readable().len();
                if n == 0 {
                    break;
                }
                read.extend_from_slice(reader.readable());
                reader.consume(n);
            }
            read.len() >= bytes.len()
        });
        (read, self.now - began)
    }
}

pub fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha20Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Kinds of the chunks of a packet.
pub fn kinds(packet: &[u8]) -> Vec<u8> {
    let (mut kinds, mut at) = (Vec::new(), 12);
    while at + 4 <= packet.len() {
        kinds.push(packet[at]);
        let length = usize::from(u16::from_be_bytes([packet[at + 2], packet[at + 3]]));
        at += length.next_multiple_of(4).max(4);
    }
    kinds
}
