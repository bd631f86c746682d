//! Registrar: takes registrations over HTTP, AMP caches, DNS and gRPC, completes them and publishes them to every station
//! (`spec/registrar.md`). Stateless; everything a request needs is one immutable snapshot.
#![forbid(unsafe_code)]

pub mod api;
pub mod arguments;
pub mod auth;
pub mod buckets;
mod connection;
pub mod daemon;
pub mod delivery;
pub mod dns;
pub mod gate;
pub mod grpc;
pub mod health;
pub mod log;
pub mod metrics;
pub mod pipeline;
pub mod processor;
mod reload;
mod seats;
pub mod setup;
pub mod snapshot;
pub mod sockets;
pub mod stop;
mod succession;
