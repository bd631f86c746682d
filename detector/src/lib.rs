//! The detector: finds registrations in a copy of passing traffic and forwards the packets of
//! registered phantoms into the host.
//!
//! The modules follow the life of a packet. A [`crew`] member reads it from its [`source`] and
//! gives it to its [`worker`], which decides (`spec/detector.md` 5) with the help of the
//! [`sessions`] table and of the [`flows`] it follows, and of records that are [`straddling`]
//! segments. What is to be done leaves through the
//! worker's [`outlets`]: a packet of a session to the tun device, the first packet of a session
//! that is about to be announced to [`pending`], and a copy of a TLS record to [`candidates`], where
//! a [`checker`] looks for a tag and publishes what it finds. The [`feed`] brings sessions in, and
//! [`daemon`] puts the parts together.
#![forbid(unsafe_code)]

pub mod arguments;
mod assembly;
pub mod candidates;
pub mod checker;
pub mod clock;
pub mod counters;
pub mod crew;
pub mod daemon;
pub mod fast_path;
pub mod feed;
pub mod filter;
pub mod flows;
pub mod log;
mod mix;
pub mod opening;
pub mod outlets;
pub mod pending;
pub mod pfring;
mod replay;
pub mod report;
mod segment;
mod service;
pub mod sessions;
pub mod settings;
pub mod source;
pub mod status;
pub mod straddling;
mod succession;
pub mod test_strings;
mod threads;
mod triage;
pub mod worker;
