//! The subscribing side: one endpoint, connected again and again for as long as it lives.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use crate::connection::{Event, Heartbeat, Role, Settings};
use crate::curve::{Curve, CurveClient, Entropy};
use crate::endpoint::{Endpoint, EndpointError};
use crate::link::{Link, LinkError};

/// Parameters of a [`Subscriber`].
#[derive(Debug, Clone)]
pub struct SubscriberOptions {
    /// Topic prefixes; the empty prefix, which is the default, means everything.
    pub topics: Vec<Bytes>,
    /// Messages kept for the reader; when full, nothing more is read from the socket.
    pub high_water_mark: usize,
    /// Largest frame accepted, in bytes.
    pub max_frame: usize,
    /// Heartbeats; `None` finds out about silent path loss only from the kernel.
    pub heartbeat: Option<Heartbeat>,
    /// Time in which a connection must be established, and again its handshake be over.
    pub handshake_timeout: Duration,
    /// Wait before the first reconnection; doubled for each further one.
    pub reconnect_min: Duration,
    /// Longest wait before a reconnection.
    pub reconnect_max: Duration,
    /// Keys of the CURVE mechanism; `None` for NULL.
    pub curve: Option<Arc<CurveClient>>,
    /// ZMTP minor version to announce.
    pub minor: u8,
}

impl Default for SubscriberOptions {
    fn default() -> Self {
        Self {
            topics: vec![Bytes::new()],
            high_water_mark: 1000,
            max_frame: 256 * 1024,
            heartbeat: None,
            handshake_timeout: Duration::from_secs(10),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(1),
            curve: None,
            minor: 1,
        }
    }
}

/// What a subscriber is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// No connection has been established yet.
    Connecting,
    /// Connected and subscribed.
    Connected,
    /// Not connected, for the stated reason; trying again.
    Disconnected(String),
    /// The peer was reached but the two sides could not agree to talk; trying again.
    HandshakeFailed(String),
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected => f.write_str("connected"),
            Self::Disconnected(reason) => write!(f, "disconnected: {reason}"),
            Self::HandshakeFailed(reason) => write!(f, "handshake failed: {reason}"),
        }
    }
}

/// Counters of a subscriber since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscriberStats {
    /// Messages received.
    pub received: u64,
    /// Bytes of those messages.
    pub received_bytes: u64,
    /// Completed handshakes.
    pub connected: u64,
    /// Attempts and connections that ended with an error.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    received: AtomicU64,
    received_bytes: AtomicU64,
    connected: AtomicU64,
    failed: AtomicU64,
}

/// A connecting SUB socket. Dropping it ends the connection.
#[derive(Debug)]
pub struct Subscriber {
    endpoint: Endpoint,
    messages: mpsc::Receiver<Bytes>,
    state: watch::Receiver<State>,
    counters: Arc<Counters>,
}

impl Subscriber {
    /// Starts connecting to `endpoint`; the peer need not be there yet. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`EndpointError`] when the text is not an endpoint.
    pub fn connect(endpoint: &str, options: SubscriberOptions) -> Result<Self, EndpointError> {
        let endpoint: Endpoint = endpoint.parse()?;
        let (sender, messages) = mpsc::channel(options.high_water_mark.max(1));
        let (report, state) = watch::channel(State::Connecting);
        let counters = Arc::new(Counters::default());
        let reader = Reader {
            endpoint: endpoint.clone(),
            options,
            sender,
            report,
            counters: Arc::clone(&counters),
        };
        tokio::spawn(reader.run());
        Ok(Self { endpoint, messages, state, counters })
    }

    /// Next message. Waits through disconnections. Safe to cancel.
    pub async fn recv(&mut self) -> Bytes {
        match self.messages.recv().await {
            Some(message) => message,
            // The reading task lives as long as this value; only a runtime that shuts down ends it.
            None => std::future::pending().await,
        }
    }

    /// Next message, if one is waiting.
    pub fn try_recv(&mut self) -> Option<Bytes> {
        self.messages.try_recv().ok()
    }

    /// Where it connects to.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What it is doing now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// A receiver of every change of state.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Waits until it is connected and has sent its subscriptions.
    pub async fn connected(&self) {
        // An error means the reading task is gone, which only a runtime that shuts down does.
        if self.state.clone().wait_for(|s| *s == State::Connected).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Counters since the start.
    pub fn stats(&self) -> SubscriberStats {
        SubscriberStats {
            received: self.counters.received.load(Relaxed),
            received_bytes: self.counters.received_bytes.load(Relaxed),
            connected: self.counters.connected.load(Relaxed),
            failed: self.counters.failed.load(Relaxed),
        }
    }
}

struct Reader {
    endpoint: Endpoint,
    options: SubscriberOptions,
    sender: mpsc::Sender<Bytes>,
    report: watch::Sender<State>,
    counters: Arc<Counters>,
}

impl Reader {
    async fn run(self) {
        let mut wait = self.options.reconnect_min;
        loop {
            let before = self.counters.connected.load(Relaxed);
            match self.session().await {
                Ok(()) => return,
                Err(error) => self.failed(&error),
            }
            if self.counters.connected.load(Relaxed) > before {
                wait = self.options.reconnect_min;
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.sender.closed() => return,
            }
            wait = (wait * 2).min(self.options.reconnect_max);
        }
    }

    fn failed(&self, error: &LinkError) {
        self.counters.failed.fetch_add(1, Relaxed);
        let state = match error {
            LinkError::Protocol(e) if e.is_handshake() => State::HandshakeFailed(e.to_string()),
            other => State::Disconnected(other.to_string()),
        };
        // One line per change, not one per attempt.
        if *self.report.borrow() == state {
            debug!(endpoint = %self.endpoint, %state, "publisher");
        } else if matches!(state, State::HandshakeFailed(_)) {
            warn!(endpoint = %self.endpoint, %state, "publisher");
        } else {
            info!(endpoint = %self.endpoint, %state, "publisher");
        }
        self.report.send_if_modified(|s| {
            let changed = *s != state;
            *s = state;
            changed
        });
    }

    /// One connection from its start to its end; `Ok` when nobody listens to messages any more.
    async fn session(&self) -> Result<(), LinkError> {
        let options = &self.options;
        let connect = tokio::time::timeout(options.handshake_timeout, self.endpoint.connect());
        let stream = tokio::select! {
            stream = connect => stream.map_err(std::io::Error::from)??,
            () = self.sender.closed() => return Ok(()),
        };
        let settings = Settings {
            role: Role::Subscriber,
            minor: options.minor,
            max_frame: options.max_frame,
            handshake_timeout: options.handshake_timeout,
            heartbeat: options.heartbeat,
        };
        let client = options.curve.as_ref();
        let curve = client.map(|c| Curve::client(Arc::clone(c), Entropy::draw(&mut rand::rng())));
        let mut link = Link::new(stream, settings, curve);
        let mut subscribed = false;
        loop {
            tokio::select! {
                turn = link.turn() => turn?,
                () = self.sender.closed() => return Ok(()),
            }
            while let Some(event) = link.connection.event() {
                match event {
                    Event::Ready => {
                        for topic in &options.topics {
                            link.connection.subscribe(topic);
                        }
                        subscribed = true;
                    }
                    Event::Message(message) => {
                        if self.deliver(message, &mut link).await.is_err() {
                            return Ok(());
                        }
                    }
                    Event::Subscribe(_) | Event::Cancel(_) => {}
                }
            }
            if subscribed && link.unwritten() == 0 {
                subscribed = false;
                self.counters.connected.fetch_add(1, Relaxed);
                info!(endpoint = %self.endpoint, "connected to publisher");
                self.report.send_replace(State::Connected);
            }
        }
    }

    async fn deliver(&self, message: Bytes, link: &mut Link) -> Result<(), ()> {
        if !self.options.topics.iter().any(|topic| message.starts_with(topic)) {
            return Ok(());
        }
        self.counters.received.fetch_add(1, Relaxed);
        self.counters.received_bytes.fetch_add(message.len() as u64, Relaxed);
        match self.sender.try_send(message) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(()),
            Err(mpsc::error::TrySendError::Full(message)) => {
                self.sender.send(message).await.map_err(|_| ())?;
                link.connection.was_not_reading(Instant::now());
                Ok(())
            }
        }
    }
}
