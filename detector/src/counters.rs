//! Counters of a worker. One thread writes them, others read.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of one worker since the detector's start.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        /// Values of [`Counters`] at one time.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Present values.
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($name: self.$name.value(),)* }
            }
        }

        impl Snapshot {
            /// Adds those of another worker.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Names and values, for reports.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

counters! {
    /// Frames, ignored ones included.
    packets,
    /// Their bytes, tunnel offset excluded.
    bytes,
    /// IPv4 packets.
    v4,
    /// IPv6 packets.
    v6,
    /// TCP segments.
    tcp,
    /// Packets to port 443 that belong to no session, UDP included.
    tls,
    /// Their bytes, tunnel offset included.
    tls_bytes,
    /// SYNs to port 443.
    syns,
    /// Of these, SYNs to addresses that the list of decoys does not have.
    syns_elsewhere,
    /// Frames shorter than the tunnel offset, or with a truncated header.
    truncated,
    /// First application records of followed flows; the statistics line calls them tags checked.
    candidates,
    /// Candidates that are too short for a tag and were not checked.
    candidates_short,
    /// Candidates dropped because too many of their network waited.
    candidates_dropped,
    /// First application records that did not end with their segment and were kept.
    straddling,
    /// Of these, records whose rest came.
    joined,
    /// Kept records that were given up: they took too many segments, or made room for others.
    straddling_lost,
    /// Followed flows that turned out to be TLS 1.3, which cannot carry a tag.
    tls13,
    /// Flows followed now.
    tracked,
    /// Flows that had to make room for others.
    evicted,
    /// Packets written to the tun device.
    forwarded,
    /// Their bytes.
    forwarded_bytes,
    /// Of these packets, acknowledgements that the kernel took in together (live frames).
    forwarded_together,
    /// Packets that the tun device refused.
    forward_errors,
    /// First packets held for a session that is about to be announced.
    held,
    /// Held packets that were forwarded when the session came.
    released,
    /// Candidates checked for a tag.
    checked,
    /// Registrations found and published.
    tags,
    /// Records whose sender knew the station's key and that hold no registration all the same, and
    /// points of low order.
    malformed_tags,
    /// Flows of sessions that pass in the kernel now.
    passing,
    /// Flows that have begun to.
    passing_entered,
    /// Times that one could not, because its place in the table was full.
    passing_refused,
    /// Packets that the source dropped before this worker.
    source_drops,
}

/// A counter that one thread writes.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the worker's thread may: a plain load and store costs no bus lock.
    #[inline(always)]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds `n` from any thread.
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Present value.
    pub fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
