//! The detector's end of the Redis channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::watch as signal;
use tokio::time::timeout;

use crate::command::{self, Command};
use crate::redis_out::LinkState;
use crate::watch::Watch;
use crate::{HELLO_CHANNEL, SESSION_CHANNEL, SessionSink};

/// How often the connection is probed, and how long an answer may take.
const PROBE: Duration = Duration::from_secs(5);
/// First and longest pause between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Counters and state of a subscription.
#[derive(Debug)]
pub struct Subscription {
    state: signal::Receiver<LinkState>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    refused: AtomicU64,
}

impl Subscription {
    /// Present state of the link.
    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// A receiver that sees each change of the state.
    pub fn changes(&self) -> signal::Receiver<LinkState> {
        self.state.clone()
    }

    /// Messages received.
    pub fn received(&self) -> u64 {
        self.counters.received.load(Ordering::Relaxed)
    }

    /// Messages that had no effect.
    pub fn refused(&self) -> u64 {
        self.counters.refused.load(Ordering::Relaxed)
    }
}

/// Subscribes to the session channel at `url` for the life of the runtime, reconnecting for ever,
/// and says hello under `detector_id` after each subscription.
pub fn subscribe(
    url: String,
    detector_id: String,
    watch: Watch,
    sink: Arc<dyn SessionSink>,
) -> Subscription {
    let (set, state) = signal::channel(LinkState::Connecting);
    let counters = Arc::new(Counters::default());
    let subscription = Subscription { state, counters: Arc::clone(&counters) };
    tokio::spawn(async move {
        let mut backoff = BACKOFF.0;
        loop {
            let reason = match session(&url, &detector_id, &watch, &*sink, &set, &counters).await {
                Ok(()) => "connection closed".to_owned(),
                Err(e) => e.to_string(),
            };
            if matches!(*set.borrow(), LinkState::Connected) {
                backoff = BACKOFF.0;
            }
            set.send_replace(LinkState::Absent(reason));
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    });
    subscription
}

async fn session(
    url: &str,
    detector_id: &str,
    watch: &Watch,
    sink: &dyn SessionSink,
    set: &signal::Sender<LinkState>,
    counters: &Counters,
) -> redis::RedisResult<()> {
    let client = redis::Client::open(url)?;
    let expired = |_| redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let mut pubsub = timeout(PROBE, client.get_async_pubsub()).await.map_err(expired)??;
    timeout(PROBE, pubsub.subscribe(SESSION_CHANNEL)).await.map_err(expired)??;
    set.send_replace(LinkState::Connected);
    hello(&client, detector_id).await;
    let (mut control, mut messages) = pubsub.split();
    let mut probe = tokio::time::interval(PROBE);
    probe.tick().await;
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                counters.received.fetch_add(1, Ordering::Relaxed);
                match command::decode(message.get_payload_bytes()) {
                    Ok(Command::Upsert(key, remaining)) => sink.upsert(key, remaining),
                    Ok(Command::Clear) => watch.clear(sink),
                    Err(reason) => {
                        counters.refused.fetch_add(1, Ordering::Relaxed);
                        sink.refused(reason);
                    }
                }
            }
            _ = probe.tick() => {
                timeout(PROBE, control.ping::<redis::Value>()).await.map_err(expired)??;
            }
        }
    }
}

/// Asks an application of ours to publish its sessions again; a peer of the reference ignores it.
async fn hello(client: &redis::Client, detector_id: &str) {
    let greet = async {
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PUBLISH")
            .arg(HELLO_CHANNEL)
            .arg(detector_id)
            .query_async::<redis::Value>(&mut connection)
            .await
    };
    // Without an answer the table fills as registrations come, as in the reference.
    let _ = timeout(PROBE, greet).await;
}
