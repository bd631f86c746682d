//! zbalance: captures packets and spreads them over shared-memory queues.
//!
//! One pinned thread per source ([`input`]) reads bursts ([`ingest`]), hashes each frame once and sends it to
//! one queue of every set ([`spread`]); the main thread serves the control socket and the operator
//! ([`daemon`]). The frames themselves and the queues are the business of the `shm` crate.
#![forbid(unsafe_code)]

pub mod arguments;
mod balancer;
mod cpu;
pub mod daemon;
pub mod file;
pub mod filters;
mod foreign;
pub mod format;
pub mod ingest;
pub mod input;
pub mod live;
mod log;
pub mod monitor;
#[cfg(feature = "pfring")]
mod pfring;
pub mod playback;
pub mod spread;
pub mod stages;
mod succession;
pub mod terminal;
