//! Shared-memory packet queues between zbalance and its consumers ("CJ ingest ABI 1",
//! `spec/ingest.md` 10).
//!
//! zbalance owns one sealed memfd of frames, which consumers can only read, and one small memfd per
//! attached queue with descriptor rings. A Unix socket hands the descriptors over and its end of
//! file tells each side that the other is gone.
//!
//! * The balancer binds a [`Server`], which also makes one [`Producer`] per ingest thread.
//! * A detector worker makes a [`Consumer`] and reads bursts of frames from it; the consumer
//!   attaches again by itself when the balancer restarts.
//!
//! * Behind a balancer with a kernel fast path, a detector also has the [`fast_path::Table`] of flows that need not come
//!   to it.
//!
//! Role 3 of a HELLO, which asks for that table, and two flags go beyond the design: a monitor's bit 0 asks for packets (a mirror), and bit 1 says
//! that frames will come back in the order in which they were handed out. A balancer that knows bit 1 sets
//! feature bit 0 of the queue region, and then the index of returns alone says which frames are back;
//! otherwise each is named in the ring of returns.
//!
//! Neither side trusts an index that the other wrote: every one is checked before it is used.

pub mod abi;
mod chain;
mod clock;
mod consumer;
mod cycle;
mod error;
pub mod fast_path;
mod frames;
mod handshake;
#[cfg(test)]
mod hostile;
mod lending;
mod map;
mod monitor;
mod packed;
mod peer;
mod producer;
mod queue;
mod server;
mod status;

pub use abi::FrameFlags;
pub use consumer::{
    Burst, Consumer, ConsumerOptions, ConsumerState, ConsumerStatistics, Frame, Reads,
};
pub use error::{AttachError, ServerError};
pub use lending::{Loan, Memory, Piece};
pub use monitor::monitor;
pub use packed::Packed;
pub use producer::{Meta, Producer, SendOutcome};
pub use server::{Claim, Event, Region, Server, ServerOptions, Unread};
pub use status::{MirrorStatus, QueueStatus, Totals};

/// Path of the control socket of `cluster` in the folder `dir` (default `/run/conjure`).
pub fn socket_path(dir: &std::path::Path, cluster: u32) -> std::path::PathBuf {
    dir.join(format!("ingest-{cluster}.sock"))
}
