//! The DTLS transport: DTLS, SCTP in it, and a byte stream in that (`spec/transports.md` 8).
//!
//! [`Session`] is one tunnel, of the station or of its client, as DTLS client or as DTLS server: the
//! client of the tunnel always opens the SCTP association, whichever side it has in DTLS.

mod session;

pub use session::{Ended, Party, Session};

use std::time::Duration;

/// The client's sign of life, an SCTP message of its own (`spec/transports.md` 8.4).
pub const HEARTBEAT: &[u8; 32] = b"6v3jyM521GkBo1lsMyVLcRyzdZ7FKEM3";
/// Time between two heartbeats of a client.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Time in which a station must hear one.
pub const HEARTBEAT_WINDOW: Duration = Duration::from_secs(30);
/// Time for DTLS, SCTP and the first message together.
pub const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// Longest datagram of an open session; bulk data is made of datagrams of exactly this length.
pub const MAX_DATAGRAM: usize = 1228 + ::dtls::OVERHEAD;
