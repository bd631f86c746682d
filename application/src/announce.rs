//! Tells detectors which sessions live, over both channels (`spec/channels.md` 1).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use session::hub::{Hub, Snapshot};
use session::redis_out::{Announcement, RedisPublisher, Registrations};
use session::{Proto, SessionKey};
use signalling::StationOperations;
use tokio::time::Instant;

use crate::registration::{Registration, UNUSED_LIFETIME, USED_LIFETIME};
use crate::store::Store;

/// A tunnel outlives its registration; detectors hear at least this much for it.
const TUNNEL_REMAINING: Duration = Duration::from_secs(300);

/// What holds a session open.
#[derive(Debug, Default)]
struct Holders {
    registrations: u32,
    tunnels: u32,
    /// Latest end of its registrations.
    until: Option<Instant>,
}

impl Holders {
    fn remaining(&self, now: Instant) -> Duration {
        let left = self.until.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        if self.tunnels > 0 { left.max(TUNNEL_REMAINING) } else { left }
    }
}

/// Every session that lives, by its key: what a snapshot is made of.
#[derive(Debug, Default)]
struct Ledger(Mutex<HashMap<SessionKey, Holders>>);

impl Snapshot for Ledger {
    fn sessions(&self) -> Vec<(SessionKey, Duration)> {
        let now = Instant::now();
        self.0.lock().iter().map(|(key, held)| (*key, held.remaining(now))).collect()
    }
}

/// Valid registrations of the store, for Redis.
struct StoreRegistrations(Arc<Store>);

impl Registrations for StoreRegistrations {
    fn valid(&self) -> Vec<(Announcement, Duration)> {
        let now = Instant::now();
        let remaining = |r: &Registration| r.expires().saturating_duration_since(now);
        let valid = self.0.valid();
        valid.iter().filter_map(|r| Some((r.announcement()?, remaining(r)))).collect()
    }
}

/// Publishes the life of sessions on both channels and never waits for either.
#[derive(Debug)]
pub struct Announcer {
    ledger: Arc<Ledger>,
    hub: Arc<Hub>,
    redis: RedisPublisher,
}

impl Announcer {
    /// An announcer for the registrations of `store`. `source_id` is random per start; an empty
    /// `redis_url` turns Redis off. Must be called within a tokio runtime.
    pub fn new(store: Arc<Store>, source_id: [u8; 16], queue: usize, redis_url: &str) -> Arc<Self> {
        let ledger = Arc::new(Ledger::default());
        Arc::new(Self {
            hub: Hub::new(source_id, queue, Arc::clone(&ledger) as Arc<dyn Snapshot>),
            ledger,
            redis: RedisPublisher::start(redis_url, Arc::new(StoreRegistrations(store))),
        })
    }

    /// The gRPC end.
    pub const fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// The Redis end.
    pub const fn redis(&self) -> &RedisPublisher {
        &self.redis
    }

    /// Sessions that live now.
    pub fn sessions(&self) -> usize {
        self.ledger.0.lock().len()
    }

    /// A liveness probe runs for `registration` and ends within `deadline`.
    pub fn pending(&self, registration: &Registration, deadline: Duration) {
        if let Some(key) = registration.session_key() {
            self.hub.pending(key, deadline);
        }
    }

    /// `registration` became valid.
    pub fn valid(&self, registration: &Registration) {
        self.extend(registration, UNUSED_LIFETIME, StationOperations::New, 1);
    }

    /// `registration` was valid at a predecessor and is valid here.
    pub fn resumed(&self, registration: &Registration) {
        let left = registration.expires().saturating_duration_since(Instant::now());
        self.extend(registration, left, StationOperations::New, 1);
    }

    /// A connection was matched to `registration`.
    pub fn used(&self, registration: &Registration) {
        self.extend(registration, USED_LIFETIME, StationOperations::Update, 0);
    }

    fn extend(
        &self,
        registration: &Registration,
        lifetime: Duration,
        operation: StationOperations,
        added: u32,
    ) {
        let Some(what) = registration.announcement() else { return };
        {
            // The stream must see changes of one key in their order.
            let mut ledger = self.ledger.0.lock();
            let held = ledger.entry(what.key).or_default();
            held.registrations += added;
            held.until = held.until.max(Some(Instant::now() + lifetime));
            self.hub.upsert(what.key, lifetime);
        }
        self.redis.publish(operation, &what, lifetime);
    }

    /// A valid registration has ended.
    pub fn ended(&self, registration: &Registration) {
        if let Some(key) = registration.session_key() {
            self.release(key, |held| held.registrations = held.registrations.saturating_sub(1));
        }
    }

    fn release(&self, key: SessionKey, release: impl FnOnce(&mut Holders)) {
        let mut ledger = self.ledger.0.lock();
        let Some(held) = ledger.get_mut(&key) else { return };
        release(held);
        if held.registrations == 0 && held.tunnels == 0 {
            ledger.remove(&key);
            self.hub.remove(key);
        }
    }

    /// Holds the session of one open tunnel until the guard is dropped. `None` for addresses that
    /// make no session.
    pub fn tunnel(
        self: &Arc<Self>,
        proto: Proto,
        phantom: IpAddr,
        client: IpAddr,
        dst_port: u16,
    ) -> Option<TunnelGuard> {
        let key = SessionKey::new(proto, phantom, client, dst_port)?;
        self.ledger.0.lock().entry(key).or_default().tunnels += 1;
        Some(TunnelGuard { announcer: Arc::clone(self), key })
    }
}

/// Keeps the session of an open tunnel alive in snapshots.
#[derive(Debug)]
pub struct TunnelGuard {
    announcer: Arc<Announcer>,
    key: SessionKey,
}

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        self.announcer.release(self.key, |held| held.tunnels = held.tunnels.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::parts;

    #[tokio::test(start_paused = true)]
    async fn a_session_lives_as_long_as_anything_holds_it() {
        let announcer = Announcer::new(Arc::new(Store::new(10)), [0; 16], 10, "");
        let (first, second) = (Registration::new(parts(1, 1)), Registration::new(parts(1, 2)));
        announcer.valid(&first);
        announcer.valid(&second);
        assert_eq!(announcer.sessions(), 1, "same client, phantom and port");
        let tunnel = announcer.tunnel(Proto::Tcp, first.phantom, first.client, 443).unwrap();
        announcer.ended(&first);
        announcer.ended(&second);
        tokio::time::advance(USED_LIFETIME).await;
        assert_eq!(announcer.ledger.sessions()[0].1, TUNNEL_REMAINING);
        drop(tunnel);
        assert_eq!(announcer.sessions(), 0);
    }
}
