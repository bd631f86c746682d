//! Counters, and the periodic lines that are made of them (`spec/application.md` 16).
//!
//! A [`Window`] counts since the last line; gauges count what is there now.

pub mod connections;
mod funnel;
mod lines;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use signalling::RegistrationSource;

use crate::registration::Registration;

pub use funnel::Funnel;
pub(crate) use lines::BUS_QUEUE;
pub use lines::{every_five_seconds, every_minute};

/// Keys of one per-key line and period; what clients invent beyond them is counted as a whole
/// elsewhere and not by key.
const MAX_KEYS: usize = 256;

/// A counter with a total and a part since the last line.
#[derive(Debug, Default)]
pub struct Window {
    total: AtomicU64,
    printed: AtomicU64,
}

impl Window {
    /// Counts `n`.
    pub fn add(&self, n: u64) {
        self.total.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts one.
    pub fn count(&self) {
        self.add(1);
    }

    /// Everything since the start.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// What came since the last call.
    pub fn take(&self) -> u64 {
        let total = self.total();
        total - self.printed.swap(total, Ordering::Relaxed)
    }
}

/// Something that is there now.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Present value.
    pub fn value(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// One more.
    pub fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn down(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts per number, e.g. per generation, since the last line.
#[derive(Debug, Default)]
pub struct PerKey(Mutex<BTreeMap<u32, u64>>);

impl PerKey {
    /// Counts one of `key`.
    pub fn count(&self, key: u32) {
        let mut keys = self.0.lock();
        if keys.len() < MAX_KEYS || keys.contains_key(&key) {
            *keys.entry(key).or_default() += 1;
        }
    }

    /// What came since the last call, by key.
    pub fn take(&self) -> BTreeMap<u32, u64> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Messages on their way from the bus to the workers.
#[derive(Debug, Default)]
pub struct IngestStats {
    /// Messages from the bus.
    pub received: Window,
    /// Dropped because the first queue was full.
    pub dropped: Window,
    /// Messages offered to the workers.
    pub offered: Window,
    /// Dropped because all workers were busy.
    pub busy: Window,
    /// Messages waiting for the workers.
    pub waiting: Gauge,
}

/// Registrations by outcome and kind.
#[derive(Debug, Default)]
pub struct RegistrationStats {
    /// Valid registrations that have not expired.
    pub active: Gauge,
    /// Became valid.
    pub new: Window,
    /// Of these, IPv4.
    pub new_v4: Window,
    /// Of these, IPv6.
    pub new_v6: Window,
    /// Accepted from the detector.
    pub local: Window,
    /// Accepted from the API.
    pub api: Window,
    /// Accepted from another station.
    pub shared: Window,
    /// Accepted over DNS.
    pub dns: Window,
    /// Accepted over the AMP cache.
    pub amp: Window,
    /// Accepted from a source that is not known.
    pub unknown: Window,
    /// Refused.
    pub errors: Window,
    /// Copies of known ones.
    pub duplicates: Window,
    /// Phantoms that another station serves.
    pub blocked: Window,
    /// Phantoms at which a host answers.
    pub live: Window,
    /// Refused because the store is full.
    pub full: Window,
    /// By generation.
    pub generations: PerKey,
    /// By transport number.
    pub transports: PerKey,
    /// By client library version.
    pub versions: PerKey,
    /// Accepted since the start, by source number.
    by_source: [AtomicU64; 9],
}

impl RegistrationStats {
    /// Counts a registration that was valid at a predecessor.
    pub fn resumed(&self, _: &Registration) {
        self.active.up();
    }

    /// Counts a registration that became valid.
    pub fn accepted(&self, registration: &Registration) {
        use RegistrationSource as S;
        self.active.up();
        self.new.count();
        if registration.phantom.is_ipv4() {
            self.new_v4.count()
        } else {
            self.new_v6.count()
        };
        match RegistrationSource::try_from(registration.source) {
            Ok(S::Detector) => self.local.count(),
            Ok(S::Api | S::BidirectionalApi) => self.api.count(),
            Ok(S::DetectorPrescan) => self.shared.count(),
            Ok(S::Dns | S::BidirectionalDns) => self.dns.count(),
            Ok(S::AmpCache | S::BidirectionalAmp) => self.amp.count(),
            Ok(S::Unspecified) | Err(_) => self.unknown.count(),
        }
        let at = usize::try_from(registration.source).unwrap_or(0);
        self.by_source[if at < 9 { at } else { 0 }].fetch_add(1, Ordering::Relaxed);
        self.generations.count(registration.generation);
        self.transports.count(registration.transport.number().unsigned_abs());
        self.versions.count(registration.lib_version);
    }

    /// Accepted since the start: name of the source and number.
    pub fn by_source(&self) -> Vec<(String, u64)> {
        let named = |(at, n): (usize, &AtomicU64)| {
            (signalling::names::source(at as i32), n.load(Ordering::Relaxed))
        };
        self.by_source.iter().enumerate().map(named).filter(|(_, n)| *n > 0).collect()
    }
}

/// Tunnels and what they carried.
#[derive(Debug, Default)]
pub struct ProxyStats {
    /// Open tunnels.
    pub open: Gauge,
    /// Ended tunnels.
    pub completed: Window,
    /// Ended tunnels that carried nothing to the covert.
    pub zero_up: Window,
    /// Ended tunnels that carried nothing to the client.
    pub zero_down: Window,
    /// Bytes to the covert of ended tunnels.
    pub completed_up: Window,
    /// Bytes to the client of ended tunnels.
    pub completed_down: Window,
    /// Bytes of all tunnels, as they are written.
    pub traffic: relay::Traffic,
    printed_up: AtomicU64,
    printed_down: AtomicU64,
    by_transport: Mutex<BTreeMap<&'static str, u64>>,
}

impl ProxyStats {
    /// Counts the start of a tunnel over `transport`.
    pub fn opened(&self, transport: &'static str) {
        self.open.up();
        *self.by_transport.lock().entry(transport).or_default() += 1;
    }

    /// Counts the end of a tunnel.
    pub fn closed(&self, up: u64, down: u64) {
        self.open.down();
        self.completed.count();
        self.completed_up.add(up);
        self.completed_down.add(down);
        if up == 0 {
            self.zero_up.count();
        }
        if down == 0 {
            self.zero_down.count();
        }
    }

    /// Tunnels since the start, by transport.
    pub fn by_transport(&self) -> Vec<(String, u64)> {
        self.by_transport.lock().iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
    }

    /// Bytes up and down since the last call.
    fn take_traffic(&self) -> (u64, u64) {
        let (up, down) = (self.traffic.up(), self.traffic.down());
        (
            up - self.printed_up.swap(up, Ordering::Relaxed),
            down - self.printed_down.swap(down, Ordering::Relaxed),
        )
    }
}

/// All counters of the application.
#[derive(Debug)]
pub struct Stats {
    /// Bus and queues.
    pub ingest: IngestStats,
    /// What of the messages was believed.
    pub screened: Arc<crate::screen::Counters>,
    /// Registrations.
    pub registrations: RegistrationStats,
    /// How far registrations come.
    pub funnel: Funnel,
    /// Phantom connections until they are identified.
    pub connections: connections::ConnectionStats,
    /// Sessions of the DTLS transport.
    pub connecting: crate::dtls::Counters,
    /// Tunnels.
    pub proxy: ProxyStats,
    last: Mutex<Instant>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            ingest: IngestStats::default(),
            screened: Arc::default(),
            registrations: RegistrationStats::default(),
            funnel: Funnel::default(),
            connections: connections::ConnectionStats::default(),
            connecting: crate::dtls::Counters::default(),
            proxy: ProxyStats::default(),
            last: Mutex::new(Instant::now()),
        }
    }
}

impl Stats {
    /// Time since the last call, at least a millisecond.
    fn period(&self) -> Duration {
        let now = Instant::now();
        let since = now - std::mem::replace(&mut *self.last.lock(), now);
        since.max(Duration::from_millis(1))
    }
}
