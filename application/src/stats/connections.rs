//! Transitions of phantom connections on their way to identification
//! (`spec/application.md` 11.4, 16.4).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Gauge, Window};
use crate::geoip::Origin;

/// Networks kept apart per period.
const MAX_NETWORKS: usize = 4096;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Accepted, nothing read.
    Created,
    /// Something read, undecided.
    Reading,
    /// Being judged.
    Checking,
    /// Given up: read and thrown away until the deadline.
    Discard,
    /// Identified.
    Found,
    /// Reset by the peer.
    Reset,
    /// The deadline passed.
    Timeout,
    /// Another error.
    Error,
    /// Closed by the peer.
    Closed,
}

/// Every transition that can happen, in the order of the verbose line.
pub const TRANSITIONS: [(State, State); 19] = {
    use State::{Checking, Closed, Created, Discard, Error, Found, Reading, Reset, Timeout};
    [
        (Created, Discard),
        (Created, Checking),
        (Created, Reset),
        (Created, Timeout),
        (Created, Error),
        (Created, Closed),
        (Reading, Checking),
        (Reading, Timeout),
        (Reading, Reset),
        (Reading, Error),
        (Checking, Created),
        (Checking, Reading),
        (Checking, Found),
        (Checking, Error),
        (Checking, Discard),
        (Discard, Reset),
        (Discard, Timeout),
        (Discard, Error),
        (Discard, Closed),
    ]
};

/// Index of created→closed, which has no ratio in the verbose line.
pub(super) const CREATED_CLOSED: usize = 5;

/// Transitions of one connection, counted without any lock.
#[derive(Debug, Clone, Copy, Default)]
pub struct Path([u16; TRANSITIONS.len()]);

/// Counters of one network since the last line.
#[derive(Debug, Clone, Default)]
pub(super) struct Network {
    pub(super) country: String,
    pub(super) transitions: [u64; TRANSITIONS.len()],
    pub(super) new: u64,
    pub(super) resolved: u64,
}

/// Counters of one family.
#[derive(Debug, Default)]
pub struct Family {
    pub(super) created: Gauge,
    pub(super) reading: Gauge,
    pub(super) checking: Gauge,
    pub(super) discarding: Gauge,
    pub(super) found: Window,
    pub(super) reset: Window,
    pub(super) timeout: Window,
    pub(super) error: Window,
    pub(super) closed: Window,
    pub(super) new: Window,
    pub(super) resolved: Window,
    pub(super) networks: Mutex<BTreeMap<u32, Network>>,
}

impl Family {
    fn gauge(&self, state: State) -> Option<&Gauge> {
        match state {
            State::Created => Some(&self.created),
            State::Reading => Some(&self.reading),
            State::Checking => Some(&self.checking),
            State::Discard => Some(&self.discarding),
            _ => None,
        }
    }

    fn end(&self, state: State) -> Option<&Window> {
        match state {
            State::Found => Some(&self.found),
            State::Reset => Some(&self.reset),
            State::Timeout => Some(&self.timeout),
            State::Error => Some(&self.error),
            State::Closed => Some(&self.closed),
            _ => None,
        }
    }
}

/// Counters of both families and the older counters of the summary line.
#[derive(Debug, Default)]
pub struct ConnectionStats {
    /// IPv4.
    pub v4: Family,
    /// IPv6.
    pub v6: Family,
    /// Phantom connections that are open.
    pub active: Gauge,
    /// Phantom connections accepted.
    pub accepted: Window,
    /// Connections that ended with an error before they were identified.
    pub failed: Window,
    /// Connections to phantoms without any registration.
    pub missed: Window,
    /// Accept calls that failed.
    pub accept_errors: AtomicU64,
}

impl ConnectionStats {
    /// Counters of the family of a phantom.
    pub const fn family(&self, v6: bool) -> &Family {
        if v6 { &self.v6 } else { &self.v4 }
    }

    /// Counts a new connection.
    pub fn begin(&self, v6: bool) -> Progress<'_> {
        let family = self.family(v6);
        self.active.up();
        self.accepted.count();
        family.created.up();
        family.new.count();
        Progress { family, state: State::Created, path: Path::default() }
    }

    /// Connections since the start: name and number.
    pub fn totals(&self) -> Vec<(String, u64)> {
        let sum = |f: fn(&Family) -> &Window| f(&self.v4).total() + f(&self.v6).total();
        [
            ("accepted", self.accepted.total()),
            ("found", sum(|f| &f.found)),
            ("reset", sum(|f| &f.reset)),
            ("timeout", sum(|f| &f.timeout)),
            ("error", sum(|f| &f.error)),
            ("closed", sum(|f| &f.closed)),
            ("missed", self.missed.total()),
            ("accept_errors", self.accept_errors.load(Ordering::Relaxed)),
        ]
        .map(|(name, n)| (name.to_owned(), n))
        .to_vec()
    }
}

/// One connection on its way.
#[derive(Debug)]
pub struct Progress<'a> {
    family: &'a Family,
    state: State,
    path: Path,
}

impl Progress<'_> {
    /// Present state.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Moves to `next`.
    pub fn go(&mut self, next: State) {
        if let Some(at) = TRANSITIONS.iter().position(|t| *t == (self.state, next)) {
            self.path.0[at] = self.path.0[at].saturating_add(1);
        }
        if let Some(gauge) = self.family.gauge(self.state) {
            gauge.down();
        }
        if let Some(gauge) = self.family.gauge(next) {
            gauge.up();
        }
        if let Some(end) = self.family.end(next) {
            end.count();
            self.family.resolved.count();
        }
        self.state = next;
    }

    /// Adds the whole way of the connection to the counters of its network; one lock per
    /// connection, and none when the country is unknown.
    pub fn finish(self, origin: &Origin) {
        if origin.country.is_none() {
            return;
        }
        let mut networks = self.family.networks.lock();
        if networks.len() >= MAX_NETWORKS && !networks.contains_key(&origin.asn) {
            return;
        }
        let network = networks.entry(origin.asn).or_default();
        network.country = origin.country().to_owned();
        network.new += 1;
        network.resolved += 1;
        for (sum, n) in network.transitions.iter_mut().zip(self.path.0) {
            *sum += u64::from(n);
        }
    }
}
