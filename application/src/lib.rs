//! The application: takes registrations from the bus, tells detectors which sessions to forward,
//! answers connections to phantoms and relays them to their coverts.
//!
//! A registration is read by [`intake`], goes through [`pipeline`] into the [`store`], and is
//! announced by [`announce`]. A connection comes to one [`group`] of sockets, is accepted by
//! [`listener`] on one of the threads of [`acceptors`], recognised in [`connection`] and relayed by [`tunnel`].
#![forbid(unsafe_code)]

pub mod acceptors;
pub mod announce;
pub mod arguments;
pub mod bound;
mod change_over;
mod chores;
pub mod connection;
pub mod covert;
pub mod daemon;
pub mod decisions;
pub mod dtls;
pub mod geoip;
pub mod group;
pub mod ingest;
pub mod intake;
pub mod lines;
pub mod listener;
pub mod liveness;
pub mod obfs4;
pub mod opening;
pub mod pipeline;
pub mod policy;
pub mod record;
pub mod registration;
mod reload;
pub mod screen;
mod setup;
pub mod share;
mod sources;
mod station;
pub mod stats;
mod status;
pub mod store;
pub mod succession;
mod throttle;
pub mod tunnel;

pub use station::Station;
