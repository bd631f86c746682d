//! The session table as the channels from the application see it.

use crate::clock::Clock;
use crate::counters::Counters;
use crate::log::{self, Level};
use crate::outlets::PacketSink;
use crate::pending::Pending;
use crate::sessions::Sessions;
use session::command::Refused;
use session::{SessionKey, SessionSink};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One worker, as far as a packet that it holds is concerned.
pub struct Holder {
    /// Where its packets go.
    pub sink: Arc<dyn PacketSink>,
    /// Its counters.
    pub counters: Arc<Counters>,
}

impl std::fmt::Debug for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holder").finish_non_exhaustive()
    }
}

/// Writes what the channels bring into the table, and releases packets that waited for it.
#[derive(Debug)]
pub struct Feed {
    sessions: Arc<Sessions>,
    pending: Arc<Pending>,
    clock: Clock,
    holders: Vec<Holder>,
    refusals: Refusals,
}

/// Refused messages of the session channel. Whoever can publish there could fill the disk, so only
/// the first of each second is written down, with the number of those that were not.
#[derive(Debug)]
struct Refusals {
    /// Second of the last line, by the feed's clock, and one more; 0 before the first.
    written: AtomicU64,
    silent: AtomicU64,
}

impl Refusals {
    /// The line to write at `second`, if any.
    fn line(&self, reason: Refused, second: u64) -> Option<String> {
        if self.written.swap(second + 1, Ordering::Relaxed) == second + 1 {
            self.silent.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let text = match reason {
            Refused::Malformed => "failed to parse StationToDetector message",
            Refused::UnrecognizedProto => {
                "Error converting S2D to SD: Unknown IP next header protocol provided"
            }
            Refused::InvalidPhantom => "Error converting S2D to SD: Invalid phantom address",
            Refused::InvalidClient => "Error converting S2D to SD: Invalid client address",
            Refused::MixedFamilies => "Error converting S2D to SD: Client/Phantom v4/v6 mismatch",
            Refused::UnknownOperation => "unknown operation requested by application",
        };
        Some(match self.silent.swap(0, Ordering::Relaxed) {
            0 => text.to_owned(),
            n => format!("{text} ({n} more refused since the last line)"),
        })
    }
}

impl Feed {
    /// A feed for `sessions`; `holders` are the workers by index.
    pub const fn new(
        sessions: Arc<Sessions>,
        pending: Arc<Pending>,
        clock: Clock,
        holders: Vec<Holder>,
    ) -> Self {
        let refusals = Refusals { written: AtomicU64::new(0), silent: AtomicU64::new(0) };
        Self { sessions, pending, clock, holders, refusals }
    }
}

impl SessionSink for Feed {
    fn upsert(&self, key: SessionKey, remaining: Duration) {
        self.sessions.upsert(&key, remaining, self.clock.now());
        let Some(held) = self.pending.take(&key) else { return };
        let holder = &self.holders[held.worker];
        if holder.sink.send(&held.packet).is_ok() {
            holder.counters.released.add_shared(1);
        }
    }

    fn pending(&self, key: SessionKey, deadline: Duration) {
        let deadline = deadline.as_millis().try_into().unwrap_or(u64::MAX);
        self.pending.expect(&self.sessions, &key, deadline, self.clock.now());
    }

    fn remove(&self, key: SessionKey) {
        self.sessions.remove(&key);
    }

    fn clear(&self, confirmed: &dyn Fn(&SessionKey) -> bool) {
        self.sessions.retain(confirmed);
    }

    fn refused(&self, reason: Refused) {
        // The channel belongs to no worker; the reference's reader runs in the first.
        if let Some(line) = self.refusals.line(reason, self.clock.now().0 / 1000) {
            log::line(0, Level::Error, line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_written_once_a_second() {
        let refusals = Refusals { written: AtomicU64::new(0), silent: AtomicU64::new(0) };
        let first = refusals.line(Refused::InvalidClient, 0);
        assert_eq!(first.as_deref(), Some("Error converting S2D to SD: Invalid client address"));
        assert_eq!(refusals.line(Refused::InvalidPhantom, 0), None);
        assert_eq!(refusals.line(Refused::Malformed, 0), None);
        assert_eq!(
            refusals.line(Refused::UnknownOperation, 1).as_deref(),
            Some("unknown operation requested by application (2 more refused since the last line)")
        );
    }
}
