//! Protobuf messages of the station: registrations, ClientConf, session and administration channels.
//!
//! The schemas are our own text in `proto/`, wire-identical with deployed software
//! (`spec/signalling.md`). Beside the generated types this crate holds what they cannot say:
//! the original bytes of nested messages ([`raw`]), the three-way type URL rule of transport
//! parameters ([`params`]), required fields ([`client_conf`]) and enum names as they appear in logs
//! ([`names`]).
#![forbid(unsafe_code)]

pub mod client_conf;
pub mod names;
pub mod params;
pub mod raw;

/// Messages of package `proto`, shared with clients and reference peers.
#[allow(missing_docs, clippy::all)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/proto.rs"));
}

/// Messages of package `conjure.station.v1`: this station's own channels.
#[allow(missing_docs, clippy::all)]
pub mod station {
    include!(concat!(env!("OUT_DIR"), "/conjure.station.v1.rs"));
}

/// Messages of package `conjure.registration.v1`: registration over gRPC.
#[allow(missing_docs, clippy::all)]
pub mod registration {
    include!(concat!(env!("OUT_DIR"), "/conjure.registration.v1.rs"));

    /// The schema with what it imports, as a serialized `FileDescriptorSet`.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/registration.bin"));
}

pub use prost::{DecodeError, Message};
pub use prost_types::Any;
pub use wire::*;
