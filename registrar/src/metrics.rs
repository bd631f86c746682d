//! Counters since the start, and the line that prints them (`spec/registrar.md` 2.7).

use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use conf::RegistrarLogLevel as Level;
use registration::channel::Channel;

use crate::log;

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// What is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counter {
            $($(#[$doc])* $variant,)*
        }

        /// Names in the order of [`Counter`].
        const NAMES: &[&str] = &[$($name,)*];
    };
}

counters! {
    /// Requests to `/register`, before any check.
    ApiRequests "api_requests_total",
    /// Requests to `/register-bidirectional`, before any check.
    BidirectionalApiRequests "bdapi_requests_total",
    /// Requests to `/amp/register/`.
    AmpRequests "ampcache_requests_total",
    /// Requests to `/amp/register-bidirectional/`.
    BidirectionalAmpRequests "bdampcache_requests_total",
    /// Registrations over DNS that are whole.
    DnsRequests "dns_requests_total",
    /// Calls of `Announce`.
    GrpcRequests "grpc_requests_total",
    /// Calls of `Register`.
    BidirectionalGrpcRequests "bdgrpc_requests_total",
    /// Bidirectional requests of an older generation.
    ConfUpdated "cc_updated",
    /// Messages long enough to be published, by the channel that took them.
    ProcessedApi "reg_processed_API",
    /// As above.
    ProcessedBidirectionalApi "reg_processed_BidirectionalAPI",
    /// As above.
    ProcessedDns "reg_processed_DNS",
    /// As above.
    ProcessedBidirectionalDns "reg_processed_BidirectionalDNS",
    /// As above.
    ProcessedAmp "reg_processed_AMPCache",
    /// As above.
    ProcessedBidirectionalAmp "reg_processed_BidirectionalAMP",
    /// Requests that were refused, for whatever reason.
    Refused "requests_refused",
    /// Requests above the rate of one client.
    RateLimited "requests_rate_limited",
    /// Claims that only stations can make, of others.
    ClaimsRefused "station_claims_refused",
    /// Connections closed because there were too many.
    ConnectionsRefused "connections_refused",
    /// Connections closed because the peer was too slow.
    ConnectionsTimedOut "connections_timed_out",
    /// Connections without a request that made room for newer ones.
    ConnectionsEvicted "connections_evicted",
    /// Queries over UDP.
    DnsUdp "dns_queries_udp",
    /// Queries over TCP.
    DnsTcp "dns_queries_tcp",
    /// Queries answered with an error.
    DnsErrors "dns_queries_refused",
    /// Errors not sent because too many went to the same network.
    DnsErrorsLimited "dns_errors_rate_limited",
    /// Queries that were responses.
    DnsResponses "dns_dropped_response",
    /// Queries whose names hold no frame.
    DnsFrames "dns_dropped_frame",
    /// Queries not sealed for our key.
    DnsSealed "dns_dropped_sealed",
    /// Queries that hold neither a part nor a registration.
    DnsMessages "dns_dropped_message",
    /// Parts without a usable number or total.
    DnsPartsMalformed "dns_parts_malformed",
    /// Parts that contradict an earlier one.
    DnsPartsContradicting "dns_parts_contradicting",
    /// Registrations that were never whole in time.
    DnsPartsExpired "dns_parts_expired",
    /// Registrations that made room for newer ones.
    DnsPartsEvicted "dns_parts_evicted",
}

/// The counters; one appears once it is above zero.
#[derive(Debug)]
pub struct Metrics([AtomicU64; NAMES.len()]);

impl Default for Metrics {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Metrics {
    /// Counts one.
    pub fn add(&self, counter: Counter) {
        self.add_many(counter, 1);
    }

    /// Counts `n`.
    pub fn add_many(&self, counter: Counter, n: u64) {
        if n > 0 {
            self.0[counter as usize].fetch_add(n, Relaxed);
        }
    }

    /// A message of `channel` that was long enough to be published.
    pub fn processed(&self, channel: Channel) {
        self.add(match channel {
            Channel::Api => Counter::ProcessedApi,
            Channel::BidirectionalApi => Counter::ProcessedBidirectionalApi,
            Channel::Dns => Counter::ProcessedDns,
            Channel::BidirectionalDns => Counter::ProcessedBidirectionalDns,
            Channel::AmpCache => Counter::ProcessedAmp,
            Channel::BidirectionalAmp => Counter::ProcessedBidirectionalAmp,
        });
    }

    /// The present value of `counter`.
    pub fn value(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Relaxed)
    }

    /// Every counter, by the name operators know.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let values = self.0.iter().map(|counter| counter.load(Relaxed));
        NAMES.iter().copied().zip(values)
    }

    /// Every counter above zero.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        self.all().filter(|&(_, count)| count > 0).collect()
    }

    /// Prints the line.
    pub fn print(&self) {
        let counts = self.counts();
        let fields: Vec<(&str, &dyn Display)> =
            counts.iter().map(|(name, count)| (*name, count as &dyn Display)).collect();
        log::line(Level::Info, "current metrics", &fields);
    }
}
