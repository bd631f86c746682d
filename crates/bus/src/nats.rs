//! Registrations over NATS JetStream, for a fleet of stations that must not miss one: the server keeps
//! what a station did not hear, and hands it over when the station comes back.
//!
//! One stream holds the messages of all registrars for [`KEPT`]; each station reads it under a
//! durable name of its own. Both sides go on for ever: a server that is away is a state, and what is
//! offered meanwhile waits in a bounded queue whose newest messages are dropped and counted.

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::State;

/// How long the server keeps a message. A registration is of no use for longer.
pub const KEPT: Duration = Duration::from_secs(6 * 60 * 60);
/// Most bytes that the stream may take on the server.
const STREAM_BYTES: i64 = 1 << 30;
/// Name of the stream, and its subject where none is configured.
const STREAM: &str = "CONJURE";
/// Subject of registrations where none is configured.
pub const SUBJECT: &str = "conjure.registrations";
/// Messages that wait for the server, and for the station.
const QUEUE: usize = 65_536;
/// Messages that are under way to the server at one time.
const BATCH: usize = 256;
/// Limit of an answer of the server.
const ANSWER: Duration = Duration::from_secs(5);
/// First and longest pause before the server is asked again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// After this long without its station the server forgets a durable name.
const FORGOTTEN: Duration = Duration::from_secs(24 * 60 * 60);

/// Where and under which subject registrations are exchanged.
#[derive(Clone, PartialEq, Eq)]
pub struct NatsOptions {
    /// Server: `nats://HOST:PORT`, or `tls://…`; several separated by commas.
    pub url: String,
    /// Subject; [`SUBJECT`] where none is configured.
    pub subject: String,
    /// User and password, where the server wants them.
    pub credentials: Option<(String, Zeroizing<String>)>,
}

/// Why the options of a NATS server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The file of credentials cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} does not hold USER:PASSWORD", .0.display())]
    Form(PathBuf),
}

impl NatsOptions {
    /// Options of the server at `url`; `subject` empty for [`SUBJECT`]; `credentials` a file that
    /// holds `USER:PASSWORD`.
    ///
    /// # Errors
    /// When the file cannot be read, or holds something else.
    pub fn new(url: &str, subject: &str, credentials: Option<&Path>) -> Result<Self, NatsError> {
        let subject = if subject.is_empty() { SUBJECT } else { subject };
        let credentials = credentials.map(read_credentials).transpose()?;
        Ok(Self { url: url.to_owned(), subject: subject.to_owned(), credentials })
    }
}

fn read_credentials(path: &Path) -> Result<(String, Zeroizing<String>), NatsError> {
    let text = std::fs::read_to_string(path)
        .map(Zeroizing::new)
        .map_err(|source| NatsError::Read { path: path.to_owned(), source })?;
    match text.trim_end().split_once(':') {
        Some((user, password)) if !user.is_empty() && !password.is_empty() => {
            Ok((user.to_owned(), Zeroizing::new(password.to_owned())))
        }
        _ => Err(NatsError::Form(path.to_owned())),
    }
}

impl fmt::Debug for NatsOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.credentials.as_ref().map(|(user, _)| user);
        write!(
            f,
            "NatsOptions {{ url: {:?}, subject: {:?}, user: {user:?} }}",
            self.url, self.subject
        )
    }
}

/// Why a step with the server failed.
#[derive(Debug)]
struct Failure(String);

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl NatsOptions {
    /// Connects and makes sure that the stream is there.
    async fn open(&self) -> Result<(jetstream::Context, stream::Stream), Failure> {
        let servers: Vec<async_nats::ServerAddr> =
            self.url.split(',').map(|url| url.trim().parse()).collect::<Result<_, _>>()?;
        let connect = match &self.credentials {
            None => async_nats::ConnectOptions::new(),
            Some((user, password)) => async_nats::ConnectOptions::with_user_and_password(
                user.clone(),
                password.to_string(),
            ),
        };
        let connect = connect.name("conjure").connection_timeout(ANSWER);
        let client = connect.request_timeout(Some(ANSWER)).connect(servers).await?;
        let context = jetstream::new(client);
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![self.subject.clone()],
            max_age: KEPT,
            max_bytes: STREAM_BYTES,
            discard: stream::DiscardPolicy::Old,
            ..stream::Config::default()
        };
        let stream = context.get_or_create_stream(config).await?;
        if !stream.cached_info().config.subjects.contains(&self.subject) {
            return Err(Failure(format!(
                "stream {STREAM} has no subject {}; give the stream that subject, or name one of its own",
                self.subject
            )));
        }
        Ok((context, stream))
    }
}

/// Pauses that double.
struct Pauses(Duration);

impl Pauses {
    const fn new() -> Self {
        Self(PAUSES.0)
    }

    async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(PAUSES.1);
    }
}

/// Counters of a publisher since its start.
#[derive(Debug, Default)]
struct Counters {
    taken: AtomicU64,
    published: AtomicU64,
    dropped: AtomicU64,
}

/// Hands registrations to the server. Offering one never waits.
#[derive(Debug)]
pub struct NatsPublisher {
    queue: mpsc::Sender<Bytes>,
    counters: Arc<Counters>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl NatsPublisher {
    /// Starts; the server may be away. Must be called within a runtime.
    pub fn start(options: NatsOptions) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE);
        let (state_in, state) = watch::channel(State::Connecting);
        let counters = Arc::<Counters>::default();
        let task = tokio::spawn(deliver(options, messages, Arc::clone(&counters), state_in));
        Self { queue, counters, state, task }
    }

    /// Offers one message; false when the queue is full and it was dropped.
    pub fn publish(&self, message: Bytes) -> bool {
        let taken = self.queue.try_send(message).is_ok();
        let counter = if taken { &self.counters.taken } else { &self.counters.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        taken
    }

    /// Messages that the server has confirmed.
    pub fn published(&self) -> u64 {
        self.counters.published.load(Ordering::Relaxed)
    }

    /// Messages dropped because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.counters.dropped.load(Ordering::Relaxed)
    }

    /// Messages that were taken and that the server has not confirmed yet.
    pub fn pending(&self) -> u64 {
        let taken = self.counters.taken.load(Ordering::Relaxed);
        taken.saturating_sub(self.published())
    }

    /// What the connection is doing.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

impl Drop for NatsPublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Delivers for ever. What the server has not confirmed is delivered again, under the same id, by
/// which the server knows it.
async fn deliver(
    options: NatsOptions,
    mut messages: mpsc::Receiver<Bytes>,
    counters: Arc<Counters>,
    state: watch::Sender<State>,
) {
    let mut batch: VecDeque<(String, Bytes)> = VecDeque::new();
    let mut pauses = Pauses::new();
    loop {
        let failure = match options.open().await {
            Err(failure) => failure,
            Ok((context, _)) => {
                // The receivers may all be gone; the connection matters all the same.
                let _ = state.send(State::Connected);
                pauses = Pauses::new();
                loop {
                    if batch.is_empty() {
                        let Some(first) = messages.recv().await else { return };
                        batch.push_back((id(), first));
                        while batch.len() < BATCH
                            && let Ok(more) = messages.try_recv()
                        {
                            batch.push_back((id(), more));
                        }
                    }
                    match hand_over(&context, &options.subject, &mut batch, &counters).await {
                        Ok(()) => {}
                        Err(failure) => break failure,
                    }
                }
            }
        };
        let _ = state.send(State::Disconnected(failure.0));
        pauses.pause().await;
    }
}

/// An id that no other message has.
fn id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Publishes the batch and takes out what the server confirms, in order.
async fn hand_over(
    context: &jetstream::Context,
    subject: &str,
    batch: &mut VecDeque<(String, Bytes)>,
    counters: &Counters,
) -> Result<(), Failure> {
    let mut confirmations = Vec::with_capacity(batch.len());
    for (id, message) in &*batch {
        let mut headers = HeaderMap::new();
        headers.insert(async_nats::header::NATS_MESSAGE_ID, id.as_str());
        confirmations.push(
            context.publish_with_headers(subject.to_owned(), headers, message.clone()).await?,
        );
    }
    for confirmation in confirmations {
        tokio::time::timeout(ANSWER, confirmation.into_future()).await??;
        batch.pop_front();
        counters.published.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Hears every registration of the stream from the moment its durable name was first used, also
/// those of times when it was away.
#[derive(Debug)]
pub struct NatsSubscriber {
    messages: mpsc::Receiver<Bytes>,
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl NatsSubscriber {
    /// Starts; the server may be away. Stations with different `name`s each hear everything. Must be
    /// called within a runtime.
    pub fn start(options: NatsOptions, name: &str) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE);
        let (state_in, state) = watch::channel(State::Connecting);
        let task = tokio::spawn(hear(options, durable(name), queue, state_in));
        Self { messages, state, task }
    }

    /// The next message.
    pub async fn recv(&mut self) -> Bytes {
        match self.messages.recv().await {
            Some(message) => message,
            // The task never ends by itself.
            None => std::future::pending().await,
        }
    }

    /// What the connection is doing.
    pub fn watch(&self) -> watch::Receiver<State> {
        self.state.clone()
    }
}

impl Drop for NatsSubscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `name` with what JetStream allows in a durable name.
fn durable(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    name.chars().map(allowed).collect()
}

async fn hear(
    options: NatsOptions,
    name: String,
    queue: mpsc::Sender<Bytes>,
    state: watch::Sender<State>,
) {
    let mut pauses = Pauses::new();
    loop {
        let failure = match listen(&options, &name, &queue, &state, &mut pauses).await {
            Ok(()) => return,
            Err(failure) => failure,
        };
        let _ = state.send(State::Disconnected(failure.0));
        pauses.pause().await;
    }
}

/// Hands messages over until something fails; `Ok` when nobody takes them any more.
async fn listen(
    options: &NatsOptions,
    name: &str,
    queue: &mpsc::Sender<Bytes>,
    state: &watch::Sender<State>,
    pauses: &mut Pauses,
) -> Result<(), Failure> {
    let (_, stream) = options.open().await?;
    let config = pull::Config {
        durable_name: Some(name.to_owned()),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::Explicit,
        // What was under way to a process that died comes again this much later.
        ack_wait: ANSWER,
        filter_subject: options.subject.clone(),
        inactive_threshold: FORGOTTEN,
        ..pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer(name, config).await?;
    let mut messages = consumer.stream().heartbeat(ANSWER / 2).messages().await?;
    let _ = state.send(State::Connected);
    *pauses = Pauses::new();
    while let Some(message) = messages.next().await {
        let message = message?;
        if queue.send(message.payload.clone()).await.is_err() {
            return Ok(());
        }
        // Confirmed only when it is in the station's queue: a station that dies before hears it again.
        message.ack().await.map_err(|error| Failure(error.to_string()))?;
    }
    Err(Failure("the server ended the delivery".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_fit() {
        assert_eq!(durable("station.example/1"), "station_example_1");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_a_state_and_the_newest_are_dropped() {
        let options = NatsOptions {
            url: "nats://127.0.0.1:9".to_owned(),
            subject: SUBJECT.to_owned(),
            credentials: None,
        };
        let publisher = NatsPublisher::start(options.clone());
        for _ in 0..QUEUE {
            assert!(publisher.publish(Bytes::from_static(b"x")));
        }
        assert!(!publisher.publish(Bytes::from_static(b"x")));
        assert_eq!(publisher.dropped(), 1);
        let mut state = publisher.watch();
        let disconnected = |state: &State| matches!(state, State::Disconnected(_));
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, state.wait_for(disconnected)).await.unwrap().unwrap();
        let subscriber = NatsSubscriber::start(options, "s");
        let mut state = subscriber.watch();
        tokio::time::timeout(limit, state.wait_for(disconnected)).await.unwrap().unwrap();
    }
}
