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
pub mod dtls;
pub mod geoip;
pub mod ingest;
pub mod intake;
pub mod listener;
pub mod liveness;
pub mod obfs4;
pub mod pipeline;
pub mod policy;
pub mod registration;
pub mod screen;
pub mod share;
mod sources;
mod station;
pub mod stats;
pub mod store;
mod throttle;
pub mod tunnel;

pub use station::Station;
