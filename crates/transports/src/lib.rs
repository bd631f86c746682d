//! Transports: how a connection to a phantom shows that it belongs to a registration.
//!
//! Server and client side as values without sockets or clock: bytes that were received go in, a
//! verdict or bytes to send come out (`spec/transports.md` 1 to 8). Identification asks the
//! caller's index at most once per transport and read.
#![forbid(unsafe_code)]

pub mod dtls;
mod identify;
pub mod min;
pub mod obfs4;
pub mod obfuscator;
mod params;
mod port;
pub mod prefix;
mod transport;

pub use identify::{Burnt, Found, Identification, Index, Registered, Verdict};
pub use params::{Params, ParamsError};
pub use port::{DEFAULT_PORT, PortError, destination_port, requested_port};
pub use transport::{Protocol, Transport, UnknownTransport};
