//! A complete Conjure client: registers and connects.
//!
//! [`Client::register`] makes a registration over one channel and returns a [`Session`];
//! [`Session::connect`] opens a connection through one of the session's phantoms. [`listen`]
//! serves local programs that way, as the released command-line client does.
#![forbid(unsafe_code)]

mod amp;
mod api;
mod arguments;
mod channel_arguments;
mod connect;
mod decoy;
mod dns;
mod dns_resolver;
mod dtls;
mod grpc;
mod https;
mod listen;
mod message;
pub mod obfs4;
mod options;
mod register;
mod stream;
mod stun;

pub use amp::{AmpChannel, AmpError};
pub use arguments::{Arguments, run};
pub use connect::{ConnectError, Connection};
pub use dns::{DnsChannel, DnsError};
pub use dns_resolver::{Resolver, ResolverError};
pub use dtls::DoorsError;
pub use grpc::GrpcError;
pub use listen::{Keeper, listen};
pub use options::{Channel, ClientConf, ConfError, Families, Options, Transport};
pub use register::{Client, RegisterError, Session};
pub use stream::Stream;
pub use stun::{ClientAddress, StunError};
