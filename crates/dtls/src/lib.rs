//! DTLS 1.2 (RFC 6347) as the DTLS transport uses it (`spec/transports.md` 8): a value that is fed
//! datagrams and time and asked what to send. No socket, no clock, no runtime.
//!
//! The engine is our own because no crate lets a client choose the random of its ClientHello, and
//! that random is how a station recognises the registration.
//!
//! What it speaks: ECDHE-ECDSA with AES-128-GCM and AES-256-GCM; X25519, P-256 and P-384; extended
//! master secret, always; a certificate of both sides, always. No resumption, no renegotiation.
//!
//! # Use
//!
//! ```
//! use dtls::{Config, Connection, Event, Peek, peek};
//! use keys::SharedSecret;
//! use std::time::Instant;
//! # use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
//! # let mut rng = ChaCha20Rng::seed_from_u64(1);
//!
//! let secret = SharedSecret::new(&[7; 32]);
//! let unix_time = 1_795_600_000; // seconds
//! let now = Instant::now();
//! let mut client = Connection::new(Config::client(&secret, unix_time), now, &mut rng);
//!
//! let mut datagram = Vec::new();
//! assert!(client.poll_transmit(&mut datagram));
//!
//! // The listener looks the registration up before anything is computed.
//! let Peek::Hello(random) = peek(&datagram) else { panic!() };
//! assert_eq!(random.tag(), &keys::dtls::client_hello_random(&secret));
//! let mut server = Connection::new(Config::server(&secret, unix_time), now, &mut rng);
//!
//! // Both ends are driven alike: datagrams in, datagrams out, until nothing is left to send.
//! let mut received = Vec::new();
//! server.handle_datagram(now, &mut datagram, |data| received.extend_from_slice(data));
//! while server.poll_transmit(&mut datagram) {
//!     client.handle_datagram(now, &mut datagram, |_| {});
//! }
//! while client.poll_transmit(&mut datagram) {
//!     server.handle_datagram(now, &mut datagram, |_| {});
//! }
//! while server.poll_transmit(&mut datagram) {
//!     client.handle_datagram(now, &mut datagram, |_| {});
//! }
//! assert_eq!(client.poll_event(), Some(Event::Connected));
//! assert_eq!(server.poll_event(), Some(Event::Connected));
//!
//! // One record per call, appended; no allocation when `out` has room.
//! let mut out = Vec::with_capacity(1500);
//! client.seal(b"an SCTP packet", &mut out).unwrap();
//! server.handle_datagram(now, &mut out, |data| received.extend_from_slice(data));
//! assert_eq!(received, b"an SCTP packet");
//! ```
//!
//! # Driving a connection
//!
//! * [`Connection::handle_datagram`] for everything that arrives from the peer's address; application data
//!   is handed to the closure in place, record by record.
//! * then [`Connection::poll_event`] until `None`, and [`Connection::poll_transmit`] until `false`:
//!   each call gives one datagram;
//! * [`Connection::handle_timeout`] when [`Connection::poll_timeout`] has come; once connected there
//!   is no timer any more.
//! * [`Connection::seal`] or [`Connection::seal_with`] for application data: appends one record of
//!   [`OVERHEAD`] more bytes, to be sent as one datagram.
//! * [`Connection::close`] queues the close_notify alert; [`Event::Closed`] ends a connection for
//!   good.
//!
//! A listener calls [`peek`] for a datagram from an address without a connection, looks the tag up,
//! asks a [`ReplayFilter`], and only then makes a server. A hello from an address that has a connection
//! goes to that connection, which ignores it: anyone can forge one in the client's name.
//!
//! Whatever is malformed, out of place, forged, replayed or in the clear where it must not be is
//! dropped without an answer, and the connection lives on ([`Connection::discarded`] counts).
#![forbid(unsafe_code)]

pub mod certificate;
mod channel;
mod config;
mod connection;
mod der;
mod filter;
mod flight;
mod group;
mod handshake;
pub mod hello;
pub mod message;
mod nonce;
pub mod protection;
mod reassembly;
pub mod record;
mod refusal;
mod replay;
pub mod schedule;
mod wire;

pub use certificate::{Identity, KeyError, PeerKey};
pub use config::{Config, DATAGRAM_LIMIT, HANDSHAKE_LIMIT, RETRANSMIT_INTERVAL, Role};
pub use connection::{Closed, Connection, Event, SealError};
pub use filter::ReplayFilter;
pub use hello::{ClientRandom, Peek, peek};
pub use protection::OVERHEAD;
pub use refusal::{Discards, Refusal};
