//! The application's end of the Redis channel.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use signalling::StationOperations;
use tokio::sync::{mpsc, oneshot, watch as signal};
use tokio::time::{Instant, timeout};

use crate::command;
use crate::{HELLO_CHANNEL, SESSION_CHANNEL, SessionKey};

/// Messages that may wait for the connection.
const QUEUE: usize = 65_536;
/// Messages written in one go.
const BATCH: usize = 256;
/// Limit of one exchange with the server.
const ANSWER: Duration = Duration::from_secs(3);
/// First and longest pause between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Republishing on request happens at most this often.
const REPUBLISH: Duration = Duration::from_secs(1);

/// State of a link to Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// No attempt has ended yet.
    Connecting,
    /// The link works.
    Connected,
    /// The link does not work and is retried; the reason of the last failure.
    Absent(String),
    /// Turned off by configuration.
    Off,
}

impl std::fmt::Display for LinkState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connecting => f.write_str("connecting"),
            Self::Connected => f.write_str("connected"),
            Self::Absent(reason) => write!(f, "absent, retrying ({reason})"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// A session with the registrant's address, which Redis messages carry for both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announcement {
    /// Key of the session.
    pub key: SessionKey,
    /// Address of the registrant, `::` when unknown.
    pub client: IpAddr,
}

/// Every valid registration with its remaining lifetime, for republishing.
pub trait Registrations: Send + Sync + 'static {
    /// All that are valid now.
    fn valid(&self) -> Vec<(Announcement, Duration)>;
}

enum Job {
    Publish(Vec<u8>),
    Flush(oneshot::Sender<bool>),
}

/// Publishes sessions on Redis from a task of its own. Nothing here ever waits for the server.
#[derive(Debug)]
pub struct RedisPublisher {
    jobs: Option<mpsc::Sender<Job>>,
    state: signal::Receiver<LinkState>,
    dropped: AtomicU64,
}

impl RedisPublisher {
    /// Starts the publisher; an empty `url` turns it off.
    pub fn start(url: &str, registrations: Arc<dyn Registrations>) -> Self {
        if url.is_empty() {
            let state = signal::channel(LinkState::Off).1;
            return Self { jobs: None, state, dropped: AtomicU64::new(0) };
        }
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (set, state) = signal::channel(LinkState::Connecting);
        tokio::spawn(run(url.to_owned(), queue, set, registrations));
        Self { jobs: Some(jobs), state, dropped: AtomicU64::new(0) }
    }

    /// Present state of the link.
    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// A receiver that sees each change of the state.
    pub fn changes(&self) -> signal::Receiver<LinkState> {
        self.state.clone()
    }

    /// Messages dropped because the queue was full; a reconnect publishes all again.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Queues New or Update.
    pub fn publish(&self, operation: StationOperations, what: &Announcement, timeout: Duration) {
        if self.jobs.is_some() {
            self.queue(command::encode(operation, &what.key, what.client, timeout));
        }
    }

    fn queue(&self, payload: Vec<u8>) {
        if let Some(jobs) = &self.jobs
            && jobs.try_send(Job::Publish(payload)).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Publishes Clear in the form that every detector honours.
    pub fn clear(&self) {
        self.queue(command::encode_clear());
    }

    /// Waits until all that was queued before has been written, at most `limit`; false when it was
    /// not.
    pub async fn flush(&self, limit: Duration) -> bool {
        let Some(jobs) = &self.jobs else { return true };
        let (done, written) = oneshot::channel();
        let exchange =
            async { jobs.send(Job::Flush(done)).await.is_ok() && written.await.unwrap_or(false) };
        timeout(limit, exchange).await.unwrap_or(false)
    }
}

async fn run(
    url: String,
    mut queue: mpsc::Receiver<Job>,
    set: signal::Sender<LinkState>,
    registrations: Arc<dyn Registrations>,
) {
    let mut backoff = BACKOFF.0;
    loop {
        let Err(reason) = session(&url, &mut queue, &set, &*registrations).await else { return };
        if matches!(*set.borrow(), LinkState::Connected) {
            backoff = BACKOFF.0;
        }
        set.send_replace(LinkState::Absent(reason.to_string()));
        // What waits now is part of what the next connection publishes again.
        let pause = tokio::time::sleep(backoff);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                job = queue.recv() => match job {
                    Some(Job::Publish(_)) => {}
                    Some(Job::Flush(done)) => drop(done.send(false)),
                    None => return,
                },
            }
        }
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// One connection; returns `Ok` when the application is gone, `Err` when the connection is.
async fn session(
    url: &str,
    queue: &mut mpsc::Receiver<Job>,
    set: &signal::Sender<LinkState>,
    registrations: &dyn Registrations,
) -> redis::RedisResult<()> {
    let client = redis::Client::open(url)?;
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(ANSWER))
        .set_response_timeout(Some(ANSWER));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let expired = |_| redis::RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let mut hellos = timeout(ANSWER, client.get_async_pubsub()).await.map_err(expired)??;
    timeout(ANSWER, hellos.subscribe(HELLO_CHANNEL)).await.map_err(expired)??;
    // Letting go of the first half would end the subscription.
    let (_subscribed, mut hellos) = hellos.split();
    republish(&mut connection, registrations).await?;
    // Not earlier: whoever sees it may rely on detectors knowing everything.
    set.send_replace(LinkState::Connected);
    let mut last_republish = Instant::now();
    let mut republish_due = false;
    let mut jobs = Vec::with_capacity(BATCH);
    let mut probe = tokio::time::interval(Duration::from_secs(5));
    loop {
        tokio::select! {
            n = queue.recv_many(&mut jobs, BATCH) => {
                if n == 0 {
                    return Ok(());
                }
                write(&mut connection, &mut jobs).await?;
            }
            hello = hellos.next() => match hello {
                Some(_) => republish_due = true,
                None => return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
            },
            () = tokio::time::sleep_until(last_republish + REPUBLISH), if republish_due => {
                republish(&mut connection, registrations).await?;
                last_republish = Instant::now();
                republish_due = false;
            }
            _ = probe.tick() => {
                redis::cmd("PING").query_async::<redis::Value>(&mut connection).await?;
            }
        }
    }
}

/// Publishes all valid registrations as New with what remains of their lifetime.
async fn republish(
    connection: &mut redis::aio::MultiplexedConnection,
    registrations: &dyn Registrations,
) -> redis::RedisResult<()> {
    for chunk in registrations.valid().chunks(BATCH) {
        let mut pipe = redis::pipe();
        for (what, remaining) in chunk {
            let new = StationOperations::New;
            let payload = command::encode(new, &what.key, what.client, *remaining);
            pipe.publish(SESSION_CHANNEL, payload).ignore();
        }
        pipe.query_async::<()>(connection).await?;
    }
    Ok(())
}

async fn write(
    connection: &mut redis::aio::MultiplexedConnection,
    jobs: &mut Vec<Job>,
) -> redis::RedisResult<()> {
    let mut pipe = redis::pipe();
    let mut waiting = Vec::new();
    for job in jobs.drain(..) {
        match job {
            Job::Publish(payload) => {
                pipe.publish(SESSION_CHANNEL, payload).ignore();
            }
            Job::Flush(done) => waiting.push(done),
        }
    }
    if !pipe.is_empty() {
        pipe.query_async::<()>(connection).await?;
    }
    for done in waiting {
        let _ = done.send(true);
    }
    Ok(())
}
