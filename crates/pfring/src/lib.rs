//! PF_RING's library as the station uses it (`spec/ingest.md` 4 and 5): a [`Cluster`] that a balancer makes and
//! fills, a [`Consumer`] that a detector attaches to one of its queues, and a [`Ring`] without ZC.
//!
//! The library is loaded at run time ([`Library`], [`Ring`]), belongs to ntop and is never shipped with the station.
//! What it hands out are pointers without a lifetime; the types here own them, give back what they took in the
//! order that the library asks for, and never hand a pointer on.

mod cluster;
mod consumer;
mod library;
mod ring;
pub mod system;

pub use cluster::{Cluster, ClusterError, ReceiveError, Settings, WORKING_SET};
pub use consumer::{AttachError, BURST, Consumer};
pub use library::{LIBRARY, Library, LoadError};
pub use ring::{Ring, RingError};

/// Counters of a queue, a device or a ring since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Packets received from it.
    pub received: u64,
    /// Packets sent to it.
    pub sent: u64,
    /// Packets that were dropped because there was no room.
    pub dropped: u64,
}
