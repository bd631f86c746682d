//! Session channel from the application to the detector: gRPC stream and Redis.
//!
//! The application owns a [`hub::Hub`] (gRPC server, `spec/channels.md` 1) and a
//! [`redis_out::RedisPublisher`]; a detector runs [`watch::watch`] and [`redis_in::subscribe`],
//! which feed one [`SessionSink`].
#![forbid(unsafe_code)]

pub mod command;
pub mod hub;
mod key;
pub mod redis_in;
pub mod redis_out;
pub mod watch;

#[allow(missing_docs, clippy::all, unreachable_pub)]
mod service {
    include!(concat!(env!("OUT_DIR"), "/conjure.station.v1.rs"));
}

pub use key::{Proto, SessionKey};

use std::time::Duration;

/// Redis channel that carries `StationToDetector` messages (`spec/application.md` 10.1).
pub const SESSION_CHANNEL: &str = "dark_decoy_map";

/// Redis channel on which a detector of ours says that it has subscribed; the payload is its id.
pub const HELLO_CHANNEL: &str = "dark_decoy_hello";

/// Name of the session socket in the IPC folder; `offset` 0 has no suffix.
pub fn socket_name(offset: u32) -> String {
    if offset == 0 { "session.sock".to_owned() } else { format!("session-{offset}.sock") }
}

/// The detector's table as the channels see it. Calls come from one task at a time per channel
/// and must not block.
pub trait SessionSink: Send + Sync + 'static {
    /// Inserts `key`, or extends it to `remaining` from now; never shortens.
    fn upsert(&self, key: SessionKey, remaining: Duration);

    /// A liveness probe runs for `key` and ends within `deadline`.
    fn pending(&self, key: SessionKey, deadline: Duration);

    /// Removes `key`: its registration is gone and no tunnel is open.
    fn remove(&self, key: SessionKey);

    /// Removes every session for which `confirmed` says no.
    fn clear(&self, confirmed: &dyn Fn(&SessionKey) -> bool);

    /// A message of the Redis channel had no effect.
    fn refused(&self, reason: command::Refused) {
        let _ = reason;
    }
}
