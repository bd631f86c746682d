//! A UDP socket on which DTLS sessions are served and dialled as byte streams.
//!
//! [`Endpoint::bind`] opens one socket for any number of sessions. A datagram belongs to the session of
//! its peer's and its own local address; a ClientHello from elsewhere is shown to the [`Listener`],
//! which answers with the keys of a registration or not at all. Replies leave from the address that
//! the peer sent to, so that translated connections stay whole on hosts with several addresses.
//!
//! [`Stream`] is the byte stream of an open session: reads end when the peer ends its stream or closes,
//! [`shutdown`](tokio::io::AsyncWriteExt::shutdown) ends our direction alone and waits until all
//! has arrived, dropping closes the session.
//!
//! Each session is driven by a task of its own, so that encryption of many sessions uses many
//! processors. Bulk data leaves in batches (UDP segmentation offload) and arrives in batches. Bounds:
//! [`Limits`], and 256 KiB of datagrams per session that wait to be read.
#![forbid(unsafe_code)]

mod endpoint;
mod handover;
mod link;
mod segments;
mod socket;
mod stream;

pub use endpoint::{Answer, Counters, Endpoint, Hello, Limits, Listener};
pub use stream::Stream;
