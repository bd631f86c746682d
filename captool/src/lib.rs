//! Captures packets from and to subnets, replaces the clients' addresses, and writes compressed pcapng
//! (`spec/operations.md` 11, `spec/detector.md` 18).
//!
//! A packet is found by [`frame`], chosen by [`select`], given another client by [`anonymize`] and
//! written by [`pcapng`]. It comes from one of the [`sources`]: files, interfaces, or a queue set of a
//! running balancer.
#![forbid(unsafe_code)]

pub mod anonymize;
pub mod arguments;
mod file;
pub mod frame;
pub mod geo;
pub mod pcapng;
mod run;
pub mod select;
mod sources;

pub use run::main;
