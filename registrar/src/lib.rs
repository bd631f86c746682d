//! Registrar: takes registrations over HTTP, completes them and publishes them to every station
//! (`spec/registrar.md`). Stateless; everything a request needs is one immutable snapshot.
#![forbid(unsafe_code)]

pub mod api;
pub mod arguments;
pub mod auth;
mod connection;
pub mod daemon;
pub mod log;
pub mod metrics;
pub mod pipeline;
pub mod snapshot;
