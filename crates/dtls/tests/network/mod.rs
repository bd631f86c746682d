//! Two connections and a network between them, on a virtual clock.
#![allow(dead_code, reason = "each test file uses a part")]

use dtls::{Config, Connection, Event, record};
use keys::SharedSecret;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::time::{Duration, Instant};

const UNIX_TIME: u64 = 1_795_600_000;

pub(crate) fn rng(seed: u64) -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(seed)
}

pub(crate) fn secret(seed: u64) -> SharedSecret {
    SharedSecret::new(&seed.to_be_bytes())
}

pub(crate) fn configs(secret: &SharedSecret) -> (Config, Config) {
    (Config::client(secret, UNIX_TIME), Config::server(secret, UNIX_TIME))
}

/// An established pair in fine weather.
pub(crate) fn connected(seed: u64) -> Network {
    let (client, server) = configs(&secret(seed));
    let mut network = Network::new(client, server, Weather::FINE, seed);
    assert!(network.run_until(Network::both_open));
    network
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Server,
}

impl End {
    pub(crate) const fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What happens to datagrams; percentages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) loss: u32,
    pub(crate) repeat: u32,
    pub(crate) jitter: Duration,
}

impl Weather {
    pub(crate) const FINE: Self = Self { loss: 0, repeat: 0, jitter: Duration::ZERO };
}

#[derive(Debug)]
struct Flying {
    at: Instant,
    to: End,
    bytes: Vec<u8>,
}

pub(crate) struct Network {
    start: Instant,
    now: Instant,
    ends: [Connection; 2],
    events: [Vec<Event>; 2],
    received: [Vec<Vec<u8>>; 2],
    flying: Vec<Flying>,
    log: Vec<(End, Vec<u8>)>,
    weather: Weather,
    backwards: bool,
    rng: ChaCha20Rng,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sent = self.log.len();
        write!(f, "{:?} after {:?}, {sent} sent, {:?}", self.ends, self.elapsed(), self.events)
    }
}

impl Network {
    pub(crate) fn new(client: Config, server: Config, weather: Weather, seed: u64) -> Self {
        let (start, mut rng) = (Instant::now(), rng(seed));
        let ends = [client, server].map(|config| Connection::new(config, start, &mut rng));
        Self {
            start,
            now: start,
            ends,
            events: Default::default(),
            received: Default::default(),
            flying: vec![],
            log: vec![],
            weather,
            backwards: false,
            rng,
        }
    }

    /// From now on each record travels by itself, the last of a datagram first.
    pub(crate) fn split_and_reverse(&mut self) {
        self.backwards = true;
    }

    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub(crate) fn end(&self, end: End) -> &Connection {
        &self.ends[end as usize]
    }

    pub(crate) fn end_mut(&mut self, end: End) -> &mut Connection {
        &mut self.ends[end as usize]
    }

    pub(crate) fn events(&self, end: End) -> &[Event] {
        &self.events[end as usize]
    }

    pub(crate) fn received(&self, end: End) -> &[Vec<u8>] {
        &self.received[end as usize]
    }

    /// Everything that was sent, in order.
    pub(crate) fn log(&self) -> &[(End, Vec<u8>)] {
        &self.log
    }

    pub(crate) fn both_open(&self) -> bool {
        self.ends.iter().all(Connection::is_open)
    }

    /// One record with `payload`, not sent.
    pub(crate) fn seal(&mut self, from: End, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        self.end_mut(from).seal(payload, &mut out).expect("it is open");
        out
    }

    pub(crate) fn send(&mut self, from: End, payload: &[u8]) {
        let datagram = self.seal(from, payload);
        self.launch(from, datagram);
    }

    pub(crate) fn close(&mut self, end: End) {
        self.end_mut(end).close();
        self.collect(end);
    }

    /// What is on its way is lost.
    pub(crate) fn drop_everything(&mut self) {
        self.flying.clear();
    }

    /// What is on its way, taken off it.
    pub(crate) fn take_pending(&mut self) -> Vec<Vec<u8>> {
        self.flying.drain(..).map(|flying| flying.bytes).collect()
    }

    /// `bytes` arrive at `to` now, from nobody knows whom.
    pub(crate) fn inject(&mut self, to: End, bytes: &[u8]) {
        self.arrive(to, bytes.to_vec());
    }

    /// Runs until `done` holds; `false` when nothing can happen any more.
    pub(crate) fn run_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        self.collect(End::Client);
        self.collect(End::Server);
        while !done(self) {
            if !self.step() {
                return false;
            }
        }
        true
    }

    /// Runs until nothing can happen any more.
    pub(crate) fn settle(&mut self) {
        self.run_until(|_| false);
    }

    /// The next thing happens.
    fn step(&mut self) -> bool {
        let datagram = (0..self.flying.len()).min_by_key(|&i| self.flying[i].at);
        let arrival = datagram.map(|i| self.flying[i].at);
        let timeout = self.ends.iter().filter_map(Connection::poll_timeout).min();
        match (datagram, arrival, timeout) {
            (Some(i), Some(at), timeout) if timeout.is_none_or(|timeout| at <= timeout) => {
                self.now = self.now.max(at);
                let Flying { to, bytes, .. } = self.flying.remove(i);
                self.arrive(to, bytes);
            }
            (_, _, Some(at)) => {
                self.now = self.now.max(at);
                for end in [End::Client, End::Server] {
                    let now = self.now;
                    self.end_mut(end).handle_timeout(now);
                    self.collect(end);
                }
            }
            _ => return false,
        }
        true
    }

    fn arrive(&mut self, to: End, mut bytes: Vec<u8>) {
        let received = &mut self.received[to as usize];
        self.ends[to as usize]
            .handle_datagram(self.now, &mut bytes, |data| received.push(data.to_vec()));
        self.collect(to);
    }

    /// Takes what `end` has to say.
    fn collect(&mut self, end: End) {
        let mut datagram = vec![];
        while self.end_mut(end).poll_transmit(&mut datagram) {
            self.launch(end, datagram.clone());
        }
        while let Some(event) = self.end_mut(end).poll_event() {
            self.events[end as usize].push(event);
        }
    }

    fn percent(&mut self) -> u32 {
        self.rng.next_u32() % 100
    }

    fn launch(&mut self, from: End, datagram: Vec<u8>) {
        self.log.push((from, datagram.clone()));
        let mut pieces = vec![datagram];
        if self.backwards {
            pieces = records(&pieces[0]);
            pieces.reverse();
        }
        for bytes in pieces {
            let copies = 1 + u32::from(self.percent() < self.weather.repeat);
            for _ in 0..copies {
                if self.percent() < self.weather.loss {
                    continue;
                }
                let jitter = self.weather.jitter.as_micros() as u64;
                let delay = Duration::from_micros(self.rng.next_u64() % (jitter + 1));
                let (at, bytes) = (self.now + delay, bytes.clone());
                self.flying.push(Flying { at, to: from.peer(), bytes });
            }
        }
    }
}

/// The records of a datagram, each by itself.
pub(crate) fn records(datagram: &[u8]) -> Vec<Vec<u8>> {
    let mut copy = datagram.to_vec();
    let mut rest = &mut copy[..];
    let mut records = vec![];
    let mut start = 0;
    while let Some((_, body)) = record::next(&mut rest) {
        let end = start + record::HEADER_LEN + body.len();
        records.push(datagram[start..end].to_vec());
        start = end;
    }
    records
}
