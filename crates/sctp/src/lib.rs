//! One SCTP association with one stream, as a value without sockets or clock.
//!
//! The subset of RFC 9260 that a tunnel inside DTLS needs (`spec/transports.md` 8.3), in both roles:
//! set-up, DATA in fragments, ordered and unordered, SACK with gap blocks and duplicates, delayed
//! acknowledgement, retransmission by loss detection and by timer, congestion control, receive
//! window, HEARTBEAT, ABORT, SHUTDOWN, stream reset (RFC 6525), and FORWARD TSN (RFC 3758, taken,
//! never sent). CRC32c is written and checked always.
//!
//! The stream is one of bytes: messages are a way to carry them, and one message, that of
//! [`Config::keepalive`], may be silent. Data on a second stream is acknowledged and thrown away.
//!
//! ```
//! # use std::time::{Duration, Instant};
//! # use rand_chacha::{ChaCha20Rng, rand_core::SeedableRng};
//! use sctp::{Association, Config, Role};
//! let rng = &mut ChaCha20Rng::seed_from_u64(1);
//! let mut client = Association::new(Role::Client, Config::default(), rng);
//! let mut server = Association::new(Role::Server, Config::default(), rng);
//! client.write(b"hello");
//! let now = Instant::now();
//! let mut packet = Vec::new();
//! while server.readable().is_empty() {
//!     for (from, to) in [(0, 1), (1, 0)] {
//!         let sides = [&mut client, &mut server];
//!         let [a, b] = sides;
//!         let (from, to) = if from < to { (a, b) } else { (b, a) };
//!         packet.clear();
//!         while from.poll_transmit(now, &mut packet).is_some() {
//!             to.handle_packet(now, &packet);
//!             packet.clear();
//!         }
//!     }
//! }
//! assert_eq!(server.readable(), b"hello");
//! ```
//!
//! The owner calls [`Association::handle_packet`], [`Association::handle_timeout`],
//! [`Association::write`] and [`Association::consume`] as things happen, and after any of them
//! [`Association::poll_transmit`] until it answers `None`, then [`Association::poll_timeout`].
//!
//! Bounds: the receiving half holds at most two receive windows whatever the peer sends, the sending
//! half at most [`Config::send_buffer`] and a message's slack. An association that holds nothing
//! takes less than 8 KiB.
#![forbid(unsafe_code)]

mod association;
mod buffer;
pub mod chunk;
mod config;
mod congestion;
mod inbound;
mod outbound;
pub mod packet;
mod rto;

pub use association::{Association, Counters, End, Role};
pub use config::Config;
pub use packet::{BadPacket, Packet};
