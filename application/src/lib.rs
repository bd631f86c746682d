//! The application: takes registrations from the bus, tells detectors which sessions to forward,
//! answers connections to phantoms and relays them to their coverts.
//!
//! A registration is read by [`intake`], goes through [`pipeline`] into the [`store`], and is
//! announced by [`announce`]. A connection is accepted by [`listener`], recognised in
//! [`connection`] and relayed by [`tunnel`].
#![forbid(unsafe_code)]

pub mod announce;
pub mod arguments;
pub mod connection;
pub mod covert;
pub mod daemon;
pub mod geoip;
pub mod ingest;
pub mod intake;
pub mod listener;
pub mod liveness;
pub mod obfs4;
pub mod pipeline;
pub mod policy;
pub mod registration;
mod sources;
pub mod stats;
pub mod store;
pub mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use keys::StationKey;

/// What a phantom connection needs.
#[derive(Debug)]
pub struct Station {
    /// Registrations and what belongs to them.
    pub pipeline: Arc<pipeline::Pipeline>,
    /// Station keys, in the order in which tags are tried.
    pub keys: Vec<StationKey>,
    /// When a silent tunnel is closed.
    pub stall: relay::StallLimits,
    /// How tunnels are relayed.
    pub relay_mode: relay::Mode,
    /// Longest time that a covert may take to accept.
    pub dial_timeout: Duration,
    /// Range of the deadline of connections that are not identified, in milliseconds, end excluded.
    pub deadline_ms: std::ops::Range<u64>,
    /// Obfs4 handshakes that were accepted.
    pub replays: obfs4::Replays,
}
