//! The table of the kernel fast path (`spec/ingest.md` 9.3): flows of live sessions whose packets the balancer's XDP
//! program gives to the host, past queue and detector.
//!
//! The table is an array map of BPF that the balancer makes, and whose memory its consumers map: neither needs a
//! system call to change it. A detector enters a flow ([`Table::enter`]); the program lets its packets pass as long
//! as the entry holds, and notes when it saw the last one ([`Table::seen`]), from which the detector knows that the
//! session lives. Nobody has to remove an entry in time: it holds for [`LIFE`] at most and only while packets keep
//! coming, so that what a dead detector leaves behind ends by itself, and conntrack still knows a flow that passes.

mod ask;
mod flow;
mod table;

pub use ask::FastPath;
pub use flow::FlowKey;
pub use table::{Entered, Slot, Table};

use std::time::Duration;

/// Buckets of the table, entries of the map.
pub const BUCKETS: u32 = 1 << 14;
/// Flows of one bucket.
pub const SLOTS: u32 = 4;
/// Bytes of a flow in its bucket: [`FlowKey::WORDS`] of its key, then the words at these offsets.
pub const SLOT_BYTES: u32 = 64;
/// Offset of the time until which the entry holds, in nanoseconds of `CLOCK_MONOTONIC`; 0 for none.
pub const UNTIL: u32 = 40;
/// Offset of the time of the last packet, in the same unit.
pub const SEEN: u32 = 48;
/// Offset of the number of the worker that has the entry; 0 for a free one.
const OWNER: u32 = 56;

/// How long an entry holds; the flow's next packet goes by the detector, which enters it again.
pub const LIFE: Duration = Duration::from_secs(30);
/// How long after its last packet a flow may pass: far less than conntrack keeps one of UDP.
pub const IDLE: Duration = Duration::from_secs(10);
/// How long after its end an entry is left to its owner.
const ABANDONED: Duration = Duration::from_secs(30);

/// Present time of the table, in nanoseconds of `CLOCK_MONOTONIC` at the resolution of a kernel tick.
pub fn now() -> u64 {
    crate::clock::coarse_now()
}

/// Number of this process's network namespace; 0 when the system does not tell it.
pub(crate) fn namespace() -> u64 {
    let status = rustix::fs::stat("/proc/self/ns/net");
    status.map_or(0, |status| status.st_ino)
}
