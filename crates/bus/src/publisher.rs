//! The publishing side: one listening socket, one bounded queue per subscriber.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;
use tracing::{debug, info, warn};

use crate::backlog::Backlog;
use crate::connection::{Event, Heartbeat, ProtocolError, Role, Settings};
use crate::curve::{Curve, CurveError, CurveServer, Entropy};
use crate::endpoint::{Endpoint, EndpointError, Listener, Stream};
use crate::greeting::GreetingError;
use crate::link::{Link, LinkError};
use crate::subscriptions::Subscriptions;

/// Messages moved from a subscriber's queue to its socket buffer at once.
const BATCH: usize = 64;
/// Unwritten bytes above which messages stay in the queue, where they are counted.
const MAX_BUFFERED: usize = 64 * 1024;

/// Parameters of a [`Publisher`].
#[derive(Debug, Clone)]
pub struct PublisherOptions {
    /// Messages kept per subscriber; what comes on top is dropped for that subscriber.
    pub high_water_mark: usize,
    /// Connections at one time, handshakes included; further ones are closed at once.
    pub max_connections: usize,
    /// Largest frame accepted from a subscriber, in bytes.
    pub max_frame: usize,
    /// Time in which a handshake must be over.
    pub handshake_timeout: Duration,
    /// Heartbeats sent to subscribers; those they send are answered in any case.
    pub heartbeat: Option<Heartbeat>,
    /// Keys of the CURVE mechanism; `None` for NULL.
    pub curve: Option<Arc<CurveServer>>,
    /// ZMTP minor version to announce.
    pub minor: u8,
    /// For this long from the start, a subscriber also gets what was published before it subscribed:
    /// subscribers of a predecessor are about to connect, and what is published meanwhile is theirs.
    pub hold: Duration,
}

impl Default for PublisherOptions {
    fn default() -> Self {
        Self {
            high_water_mark: 1000,
            max_connections: 256,
            max_frame: 4096,
            handshake_timeout: Duration::from_secs(10),
            heartbeat: None,
            curve: None,
            minor: 1,
            hold: Duration::ZERO,
        }
    }
}

/// Why a publisher could not start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The text is not an endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The socket could not be opened.
    #[error("cannot listen on {endpoint}: {source}{}", remedy(.source))]
    Socket {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the other process that listens there",
        io::ErrorKind::PermissionDenied => "; check the permissions of the folder or the port",
        _ => "",
    }
}

/// Where one published message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fanout {
    /// Subscribers whose queue took the message.
    pub queued: u32,
    /// Subscribers whose queue was full.
    pub dropped: u32,
}

/// Counters of a publisher since its start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublisherStats {
    /// Messages published.
    pub published: u64,
    /// Copies put into queues of subscribers.
    pub queued: u64,
    /// Copies dropped because a queue was full.
    pub dropped: u64,
    /// Subscribers whose handshake is over.
    pub subscribers: usize,
    /// Connections that ended with a protocol error, silence, or a failed handshake.
    pub failed: u64,
    /// Connections closed because there were too many.
    pub refused: u64,
    /// Text of the last protocol error.
    pub last_error: Option<String>,
}

/// One connected subscriber.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Number of the connection, from 1.
    pub id: u64,
    /// Address and port, or process of a local peer.
    pub address: String,
    /// Time since its handshake.
    pub connected_for: Duration,
    /// Messages in its queue.
    pub queued: usize,
    /// Messages given to its socket.
    pub sent: u64,
    /// Messages dropped because its queue was full.
    pub dropped: u64,
    /// False while it has not subscribed to anything.
    pub subscribed: bool,
    /// Key it has proved; `None` under NULL.
    pub key: Option<[u8; 32]>,
}

#[derive(Debug)]
struct Peer {
    id: u64,
    address: String,
    since: Instant,
    queue: mpsc::Sender<Bytes>,
    subscriptions: RwLock<Subscriptions>,
    sent: AtomicU64,
    dropped: AtomicU64,
    dropping: AtomicBool,
    key: OnceLock<[u8; 32]>,
    expelled: Notify,
    dismissed: Notify,
}

#[derive(Debug, Default)]
struct Counters {
    published: AtomicU64,
    queued: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    connections: AtomicUsize,
    last_error: Mutex<Option<String>>,
}

#[derive(Debug)]
struct Shared {
    options: PublisherOptions,
    peers: ArcSwap<Vec<Arc<Peer>>>,
    counters: Counters,
    backlog: Backlog,
    /// Where messages go once a successor has the subscribers.
    redirect: ArcSwap<Option<Redirect>>,
}

/// Takes messages in the place of subscribers.
struct Redirect(Box<dyn Fn(Bytes) + Send + Sync>);

impl std::fmt::Debug for Redirect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Redirect")
    }
}

/// A bound PUB socket. Dropping it closes every connection at once; [`Publisher::close`] lets the
/// queues run empty first.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    draining: watch::Sender<bool>,
    accepting: Mutex<AbortHandle>,
    listener: OwnedFd,
}

impl Publisher {
    /// Listens on `endpoint` (`tcp://ADDR:PORT`, `ipc://PATH`, `ipc://@NAME`).
    ///
    /// # Errors
    /// [`BindError`] when the endpoint is not one or cannot be listened on.
    pub async fn bind(endpoint: &str, options: PublisherOptions) -> Result<Self, BindError> {
        let wanted: Endpoint = endpoint.parse()?;
        let (listener, endpoint) = wanted
            .bind()
            .await
            .map_err(|source| BindError::Socket { endpoint: wanted.clone(), source })?;
        let failed = |source| BindError::Socket { endpoint: wanted.clone(), source };
        Self::on(listener, endpoint, options).map_err(failed)
    }

    /// Publishes on a socket that listens on `endpoint` already, as a predecessor passed it on. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// [`BindError`] when the endpoint is none or the descriptor no listening socket.
    pub fn adopt(
        descriptor: OwnedFd,
        endpoint: &str,
        options: PublisherOptions,
    ) -> Result<Self, BindError> {
        let wanted: Endpoint = endpoint.parse()?;
        wanted
            .adopt(descriptor)
            .and_then(|(listener, endpoint)| Self::on(listener, endpoint, options))
            .map_err(|source| BindError::Socket { endpoint: wanted, source })
    }

    fn on(listener: Listener, endpoint: Endpoint, options: PublisherOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            options,
            peers: ArcSwap::default(),
            counters: Counters::default(),
            backlog: Backlog::default(),
            redirect: ArcSwap::from_pointee(None),
        });
        if !shared.options.hold.is_zero() {
            shared.backlog.open(Instant::now() + shared.options.hold);
        }
        let (draining, watching) = watch::channel(false);
        let kept = listener.as_fd().try_clone_to_owned()?;
        let accepting = tokio::spawn(accept(Arc::clone(&shared), listener, watching));
        let accepting = Mutex::new(accepting.abort_handle());
        Ok(Self { shared, endpoint, draining, accepting, listener: kept })
    }

    /// The listening socket, for a successor.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Leaves new subscribers to a successor that has the socket too; those that are connected stay.
    pub fn stop_accepting(&self) {
        self.accepting.lock().abort();
    }

    /// Takes new subscribers again, when no successor came after all. Must be called within a tokio runtime.
    pub fn accept_again(&self) {
        let again = self.listener.try_clone().and_then(|copy| self.endpoint.adopt(copy));
        // Out of descriptors: connected subscribers stay, and the next start opens the socket.
        if let Ok((listener, _)) = again {
            let watching = self.draining.subscribe();
            let accepting = tokio::spawn(accept(Arc::clone(&self.shared), listener, watching));
            let earlier = std::mem::replace(&mut *self.accepting.lock(), accepting.abort_handle());
            earlier.abort();
        }
    }

    /// Gives every further message to `to`: the subscribers are about to be a successor's.
    pub fn redirect(&self, to: impl Fn(Bytes) + Send + Sync + 'static) {
        self.shared.redirect.store(Arc::new(Some(Redirect(Box::new(to)))));
    }

    /// Writes out what is queued for at most `limit`, then closes the connections of all subscribers; a
    /// successor that has the socket takes them.
    pub async fn dismiss(&self, limit: Duration) {
        for peer in self.shared.peers.load().iter() {
            peer.dismissed.notify_one();
        }
        let deadline = tokio::time::Instant::now() + limit;
        while !self.shared.peers.load().is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Closes the connections of subscribers that proved a key which `stays` does not admit any more.
    pub fn expel(&self, stays: impl Fn(&[u8; 32]) -> bool) {
        for peer in self.shared.peers.load().iter() {
            if peer.key.get().is_some_and(|key| !stays(key)) {
                peer.expelled.notify_one();
            }
        }
    }

    /// Where it listens; the port is the real one when the kernel was to choose.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Gives `message` to every subscriber that wants it. Never blocks; callable from any thread.
    pub fn publish(&self, message: Bytes) -> Fanout {
        let mut fanout = Fanout::default();
        if let Some(Redirect(to)) = &**self.shared.redirect.load() {
            to(message);
            self.shared.counters.published.fetch_add(1, Relaxed);
            return fanout;
        }
        // Held until every subscriber of this moment has it, so that none gets it twice.
        let _kept = self.shared.backlog.keep(&message);
        for peer in self.shared.peers.load().iter() {
            if !peer.subscriptions.read().matches(&message) {
                continue;
            }
            if peer.queue.try_send(message.clone()).is_ok() {
                fanout.queued += 1;
                if peer.dropping.load(Relaxed) {
                    peer.dropping.store(false, Relaxed);
                }
            } else {
                fanout.dropped += 1;
                peer.dropped.fetch_add(1, Relaxed);
                if !peer.dropping.swap(true, Relaxed) {
                    warn!(peer = %peer.address, "subscriber does not keep up, dropping messages");
                }
            }
        }
        let counters = &self.shared.counters;
        counters.published.fetch_add(1, Relaxed);
        counters.queued.fetch_add(u64::from(fanout.queued), Relaxed);
        counters.dropped.fetch_add(u64::from(fanout.dropped), Relaxed);
        fanout
    }

    /// Counters since the start.
    pub fn stats(&self) -> PublisherStats {
        let counters = &self.shared.counters;
        PublisherStats {
            published: counters.published.load(Relaxed),
            queued: counters.queued.load(Relaxed),
            dropped: counters.dropped.load(Relaxed),
            subscribers: self.shared.peers.load().len(),
            failed: counters.failed.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            last_error: counters.last_error.lock().clone(),
        }
    }

    /// The connected subscribers.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |peer: &Arc<Peer>| PeerStatus {
            id: peer.id,
            address: peer.address.clone(),
            connected_for: peer.since.elapsed(),
            queued: peer.queue.max_capacity() - peer.queue.capacity(),
            sent: peer.sent.load(Relaxed),
            dropped: peer.dropped.load(Relaxed),
            subscribed: !peer.subscriptions.read().is_empty(),
            key: peer.key.get().copied(),
        };
        self.shared.peers.load().iter().map(status).collect()
    }

    /// Stops listening, writes out what is queued for at most `linger`, and closes.
    pub async fn close(self, linger: Duration) {
        self.draining.send_replace(true);
        // Resolves when no task watches any more, that is when all have ended.
        let _ = tokio::time::timeout(linger, self.draining.closed()).await;
    }
}

async fn accept(shared: Arc<Shared>, listener: Listener, mut draining: watch::Receiver<bool>) {
    let mut id = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.changed() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                id += 1;
                let counters = &shared.counters;
                if counters.connections.load(Relaxed) >= shared.options.max_connections {
                    counters.refused.fetch_add(1, Relaxed);
                    continue;
                }
                counters.connections.fetch_add(1, Relaxed);
                let (shared, draining) = (Arc::clone(&shared), draining.clone());
                tokio::spawn(async move {
                    serve(&shared, stream, id, address, draining).await;
                    shared.counters.connections.fetch_sub(1, Relaxed);
                });
            }
            // Out of descriptors, or the peer left while it waited: the next one may do better.
            Err(error) => {
                debug!(%error, "cannot accept a subscriber");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    shared: &Shared,
    stream: Stream,
    id: u64,
    address: String,
    draining: watch::Receiver<bool>,
) {
    let (queue, messages) = mpsc::channel(shared.options.high_water_mark.max(1));
    let peer = Arc::new(Peer {
        id,
        address,
        since: Instant::now(),
        queue,
        subscriptions: RwLock::default(),
        sent: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        dropping: AtomicBool::new(false),
        key: OnceLock::new(),
        expelled: Notify::new(),
        dismissed: Notify::new(),
    });
    let end = converse(shared, stream, &peer, messages, draining).await;
    shared.peers.rcu(|peers| peers.iter().filter(|p| p.id != id).cloned().collect::<Vec<_>>());
    if let Err(LinkError::Protocol(error)) = &end {
        shared.counters.failed.fetch_add(1, Relaxed);
        *shared.counters.last_error.lock() = Some(error.to_string());
    }
    let reason = end.err().map_or_else(|| "closing".to_owned(), |e| e.to_string());
    debug!(peer = %peer.address, %reason, "subscriber gone");
}

async fn converse(
    shared: &Shared,
    stream: Stream,
    peer: &Arc<Peer>,
    mut messages: mpsc::Receiver<Bytes>,
    mut draining: watch::Receiver<bool>,
) -> Result<(), LinkError> {
    let options = &shared.options;
    let settings = Settings {
        role: Role::Publisher,
        minor: options.minor,
        max_frame: options.max_frame,
        handshake_timeout: options.handshake_timeout,
        heartbeat: options.heartbeat,
    };
    let server = options.curve.as_ref();
    let curve = server.map(|s| Curve::server(Arc::clone(s), Entropy::draw(&mut rand::rng())));
    let mut link = Link::new(stream, settings, curve);
    let mut batch = Vec::with_capacity(BATCH);
    let mut drained = false;
    loop {
        let open = !drained && link.connection.is_ready() && link.unwritten() < MAX_BUFFERED;
        tokio::select! {
            turn = link.turn() => if let Err(error) = turn {
                // The peer learns why from the refusal, or from the mechanism in our greeting.
                if let LinkError::Protocol(
                    ProtocolError::Curve(CurveError::NotAdmitted(_))
                    | ProtocolError::Greeting(GreetingError::Mechanism { .. }),
                ) = &error
                {
                    link.last_words().await;
                }
                return Err(error);
            },
            taken = messages.recv_many(&mut batch, BATCH), if open => {
                drained = taken == 0;
                for message in batch.drain(..) {
                    link.connection.send(&message);
                }
                peer.sent.fetch_add(taken as u64, Relaxed);
            }
            () = peer.expelled.notified() => return Ok(()),
            // What is queued is written out before the connection closes.
            () = peer.dismissed.notified() => messages.close(),
            changed = draining.changed() => {
                if changed.is_err() || !link.connection.is_ready() {
                    return Ok(());
                }
                messages.close();
            }
        }
        if drained && link.unwritten() == 0 {
            link.shutdown().await;
            return Ok(());
        }
        while let Some(event) = link.connection.event() {
            match event {
                Event::Ready => {
                    if let Some(key) = link.connection.peer_key() {
                        peer.key.get_or_init(|| *key);
                    }
                    info!(peer = %peer.address, "subscriber connected");
                    shared
                        .peers
                        .rcu(|peers| peers.iter().chain([peer]).cloned().collect::<Vec<_>>());
                }
                Event::Subscribe(topic) => {
                    let added = shared.backlog.subscribe(|earlier| {
                        let mut subscriptions = peer.subscriptions.write();
                        let missed: Vec<Bytes> =
                            earlier.iter().filter(|m| !subscriptions.matches(m)).cloned().collect();
                        let added = subscriptions.add(topic);
                        for message in missed.into_iter().filter(|m| subscriptions.matches(m)) {
                            if peer.queue.try_send(message).is_err() {
                                peer.dropped.fetch_add(1, Relaxed);
                                shared.counters.dropped.fetch_add(1, Relaxed);
                            }
                        }
                        added
                    });
                    if !added {
                        debug!(peer = %peer.address, "too many subscriptions, one ignored");
                    }
                }
                Event::Cancel(topic) => peer.subscriptions.write().cancel(&topic),
                Event::Message(_) => {}
            }
        }
    }
}
