//! Counters since the start, and the line that prints them (`spec/registrar.md` 2.7).

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use conf::RegistrarLogLevel as Level;
use registration::http::Endpoint;

use crate::log;

/// Counters; a counter appears once it is above zero.
#[derive(Debug, Default)]
pub struct Metrics {
    api_requests: AtomicU64,
    bidirectional_requests: AtomicU64,
    conf_updated: AtomicU64,
    processed: AtomicU64,
    processed_bidirectional: AtomicU64,
    refused: AtomicU64,
    refused_connections: AtomicU64,
    timeouts: AtomicU64,
}

impl Metrics {
    /// A request to `endpoint`, before any check.
    pub fn request(&self, endpoint: Endpoint) {
        match endpoint {
            Endpoint::Unidirectional => &self.api_requests,
            Endpoint::Bidirectional => &self.bidirectional_requests,
        }
        .fetch_add(1, Relaxed);
    }

    /// A message that was long enough to be published.
    pub fn processed(&self, endpoint: Endpoint) {
        match endpoint {
            Endpoint::Unidirectional => &self.processed,
            Endpoint::Bidirectional => &self.processed_bidirectional,
        }
        .fetch_add(1, Relaxed);
    }

    /// A bidirectional request of an older generation.
    pub fn conf_updated(&self) {
        self.conf_updated.fetch_add(1, Relaxed);
    }

    /// A request that was refused, for whatever reason.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// A connection closed because there were too many.
    pub fn refused_connection(&self) {
        self.refused_connections.fetch_add(1, Relaxed);
    }

    /// A connection closed because its peer was too slow.
    pub fn timeout(&self) {
        self.timeouts.fetch_add(1, Relaxed);
    }

    /// Every counter above zero, by the name operators know.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        [
            ("api_requests_total", &self.api_requests),
            ("bdapi_requests_total", &self.bidirectional_requests),
            ("cc_updated", &self.conf_updated),
            ("connections_refused", &self.refused_connections),
            ("connections_timed_out", &self.timeouts),
            ("reg_processed_API", &self.processed),
            ("reg_processed_BidirectionalAPI", &self.processed_bidirectional),
            ("requests_refused", &self.refused),
        ]
        .into_iter()
        .map(|(name, counter)| (name, counter.load(Relaxed)))
        .filter(|&(_, count)| count > 0)
        .collect()
    }

    /// Prints the line.
    pub fn print(&self) {
        let counts = self.counts();
        let fields: Vec<(&str, &dyn Display)> =
            counts.iter().map(|(name, count)| (*name, count as &dyn Display)).collect();
        log::line(Level::Info, "current metrics", &fields);
    }
}
