//! The DTLS transport on sockets (`spec/transports.md` 8.5 to 8.7, `spec/application.md` 13).
//!
//! One UDP socket serves all sessions. For a new registration the station dials the client, so that a
//! client behind a NAT which kept its mapping is reached, and listens at the same time; it goes on
//! listening for as long as the registration lives. A hello is looked up by its random before anything
//! is computed; what is not of a registration, and what was answered before, gets no answer.

mod counters;
mod entries;
mod material;
mod service;

pub use counters::Counters;
pub use entries::{NatEntries, TunEntries, WARM_UP};
pub use material::Material;
pub use service::{Service, Sockets, StartError};
