//! The session table as the channels from the application see it.

use crate::clock::Clock;
use crate::counters::Counters;
use crate::outlets::PacketSink;
use crate::pending::Pending;
use crate::sessions::Sessions;
use session::{SessionKey, SessionSink};
use std::sync::Arc;
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
}

impl Feed {
    /// A feed for `sessions`; `holders` are the workers by index.
    pub const fn new(
        sessions: Arc<Sessions>,
        pending: Arc<Pending>,
        clock: Clock,
        holders: Vec<Holder>,
    ) -> Self {
        Self { sessions, pending, clock, holders }
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
}
