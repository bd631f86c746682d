//! Logging with privacy types, admin service, metrics and process life cycle.
//!
//! Every daemon of the station writes its log through [`log`], names clients only through
//! [`privacy::ClientAddr`], answers the operator through [`admin`] and [`metrics`] and starts, signals readiness
//! and leaves through [`process`].
#![forbid(unsafe_code)]

pub mod admin;
pub mod doctor;
mod journal;
pub mod log;
pub mod metrics;
pub mod output;
pub mod privacy;
pub mod process;
mod usage;
