//! Gives registrations of the detector to other stations, through the API of a registrar
//! (`spec/application.md` 15).

mod body;
mod post;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use telemetry::log::Logger;
use tokio::sync::{Mutex, mpsc};
use tokio::time::timeout;

pub use body::body;
pub use post::{Endpoint, EndpointError, PostError};

use crate::stats::Window;
use crate::throttle::Throttle;

/// Bounds of sharing.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Registrations that wait to be posted; the next are dropped.
    pub queue: usize,
    /// Requests at one time.
    pub requests: usize,
    /// Time of one attempt, the connection included.
    pub attempt: Duration,
}

impl Default for Limits {
    /// A client gives its registration up after a few seconds; what waits longer is of no use.
    fn default() -> Self {
        Self { queue: 1024, requests: 8, attempt: Duration::from_secs(5) }
    }
}

/// Attempts of one registration.
const ATTEMPTS: usize = 2;

/// Where Debian keeps trust anchors; `SSL_CERT_FILE` names another file.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What became of registrations to share.
#[derive(Debug, Default)]
pub struct Counters {
    /// Taken by the registrar.
    pub shared: Window,
    /// Given up.
    pub failed: Window,
    /// Dropped because too many were waiting.
    pub dropped: Window,
}

/// A registration to share.
#[derive(Debug)]
struct Shared {
    /// Name of the registration in logs.
    id: String,
    body: Bytes,
}

/// Posts registrations in the background.
#[derive(Debug)]
pub struct Sharer {
    queue: mpsc::Sender<Shared>,
    /// What became of them.
    pub counters: Arc<Counters>,
}

impl Sharer {
    /// Shares with the registrar at `url`. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the URL is none, or needs trust anchors and there are none.
    pub fn start(url: &str, limits: Limits, log: Logger) -> Result<Self, EndpointError> {
        let roots = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty());
        let roots = roots.map_or_else(|| PathBuf::from(ROOTS), PathBuf::from);
        let endpoint = Arc::new(Endpoint::new(url, &roots)?);
        let (queue, waiting) = mpsc::channel(limits.queue);
        let waiting = Arc::new(Mutex::new(waiting));
        let counters = Arc::<Counters>::default();
        let (log, throttle) = (Arc::new(log), Arc::new(Throttle::default()));
        for _ in 0..limits.requests {
            let worker = Worker {
                waiting: Arc::clone(&waiting),
                endpoint: Arc::clone(&endpoint),
                counters: Arc::clone(&counters),
                attempt: limits.attempt,
                log: Arc::clone(&log),
                throttle: Arc::clone(&throttle),
            };
            // It ends when the queue's other end is dropped.
            tokio::spawn(worker.run());
        }
        Ok(Self { queue, counters })
    }

    /// Queues the registration with this name in logs; returns at once.
    pub fn offer(&self, id: String, body: Bytes) {
        if self.queue.try_send(Shared { id, body }).is_err() {
            self.counters.dropped.count();
        }
    }
}

struct Worker {
    waiting: Arc<Mutex<mpsc::Receiver<Shared>>>,
    endpoint: Arc<Endpoint>,
    counters: Arc<Counters>,
    attempt: Duration,
    log: Arc<Logger>,
    throttle: Arc<Throttle>,
}

impl Worker {
    async fn run(self) {
        let mut connection = None;
        loop {
            let next = self.waiting.lock().await.recv().await;
            let Some(Shared { id, body }) = next else { return };
            match self.post(&mut connection, &body).await {
                Ok(()) => self.counters.shared.count(),
                Err(error) => {
                    self.counters.failed.count();
                    self.complain(&id, &error);
                }
            }
        }
    }

    async fn post(
        &self,
        connection: &mut Option<post::Connection>,
        body: &Bytes,
    ) -> Result<(), PostError> {
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            let attempt = self.endpoint.post(connection, body.clone());
            result = match timeout(self.attempt, attempt).await {
                Ok(result) => result,
                Err(_) => Err(PostError::Slow(self.attempt)),
            };
            match &result {
                Ok(()) => break,
                // It will not like the same message any better.
                Err(PostError::Refused(status)) if status.is_client_error() => break,
                // What the connection is good for is not known.
                Err(_) => *connection = None,
            }
        }
        result
    }

    fn complain(&self, id: &str, error: &PostError) {
        let Some(left_out) = self.throttle.take(Instant::now()) else { return };
        let more = if left_out > 0 { format!(" ({left_out} more before)") } else { String::new() };
        self.log.error(format_args!(
            "{id} failed to share Registration over API: {error} on {}{more}",
            self.endpoint.url()
        ));
    }
}
