//! The application's end of the gRPC session channel.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use signalling::station::{
    Heartbeat, Pending, Remove, SessionEvent, SnapshotBegin, SnapshotEnd, Upsert, WatchRequest,
    session_event::Event,
};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

use crate::SessionKey;
use crate::service::sessions_server::{Sessions, SessionsServer};

/// Events that may wait for one detector before it is cut off and has to take a new snapshot.
pub const DEFAULT_QUEUE: usize = 65_536;

/// Time without an event after which a heartbeat is sent.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Every session that lives now, asked for at the start of a stream.
pub trait Snapshot: Send + Sync + 'static {
    /// Keys of all valid registrations and open tunnels with their remaining lifetime.
    fn sessions(&self) -> Vec<(SessionKey, Duration)>;
}

/// A change of the set of sessions.
#[derive(Debug, Clone, Copy)]
enum Change {
    Upsert(SessionKey, Duration),
    Pending(SessionKey, Duration),
    Remove(SessionKey),
}

impl Change {
    fn event(self) -> Event {
        match self {
            Self::Upsert(key, remaining) => Event::Upsert(Upsert {
                key: Some(key.to_message()),
                remaining_ms: u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX),
            }),
            Self::Pending(key, deadline) => Event::Pending(Pending {
                key: Some(key.to_message()),
                deadline_ms: u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX),
            }),
            Self::Remove(key) => Event::Remove(Remove { key: Some(key.to_message()) }),
        }
    }
}

/// Sends sessions to every detector that watches.
pub struct Hub {
    source_id: [u8; 16],
    queue: usize,
    snapshot: Arc<dyn Snapshot>,
    watchers: Mutex<Vec<mpsc::Sender<Change>>>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("watchers", &self.watchers()).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub whose streams begin with what `snapshot` says. `source_id` is random per start,
    /// `queue` is the number of events that may wait for one detector.
    pub fn new(source_id: [u8; 16], queue: usize, snapshot: Arc<dyn Snapshot>) -> Arc<Self> {
        Arc::new(Self { source_id, queue: queue.max(1), snapshot, watchers: Mutex::default() })
    }

    /// Number of detectors that watch now.
    pub fn watchers(&self) -> usize {
        self.watchers.lock().iter().filter(|w| !w.is_closed()).count()
    }

    /// A session is valid for `remaining` from now.
    pub fn upsert(&self, key: SessionKey, remaining: Duration) {
        self.send(Change::Upsert(key, remaining));
    }

    /// A liveness probe for `key` ends within `deadline`.
    pub fn pending(&self, key: SessionKey, deadline: Duration) {
        self.send(Change::Pending(key, deadline));
    }

    /// Registration and tunnels of `key` are gone.
    pub fn remove(&self, key: SessionKey) {
        self.send(Change::Remove(key));
    }

    /// Hands a change to every watcher; one whose queue is full is dropped, which ends its stream.
    fn send(&self, change: Change) {
        self.watchers.lock().retain(|watcher| watcher.try_send(change).is_ok());
    }

    /// Binds the socket at `path` (mode 0660, replacing what is there by rename) and serves
    /// detectors of root, of this user or of this group until the runtime ends.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn serve(self: &Arc<Self>, path: &Path) -> io::Result<tokio::task::JoinHandle<()>> {
        let listener = telemetry::admin::bind_by_rename(path, 0o660)?;
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let incoming = UnixListenerStream::new(listener).filter(move |stream| {
            let allowed = match stream {
                Ok(stream) => may_watch(stream, uid, gid),
                Err(_) => true,
            };
            std::future::ready(allowed)
        });
        let server = tonic::transport::Server::builder()
            .add_service(SessionsServer::new(Service(Arc::clone(self))));
        Ok(tokio::spawn(async move {
            // Ends only with the runtime: accept errors are the stream's own.
            let _ = server.serve_with_incoming(incoming).await;
        }))
    }

    /// Begins a stream: the queue is attached before the snapshot is taken, so no change is lost
    /// between the two, and changes that the snapshot already holds do no harm.
    fn open(self: &Arc<Self>) -> mpsc::Receiver<SessionEvent> {
        let (changes_in, changes) = mpsc::channel(self.queue);
        self.watchers.lock().push(changes_in);
        let sessions = self.snapshot.sessions();
        let (out, events) = mpsc::channel(256);
        tokio::spawn(pump(self.source_id, sessions, changes, out));
        events
    }
}

fn may_watch(stream: &UnixStream, uid: u32, gid: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == uid || peer.gid() == gid)
}

/// Writes one stream: snapshot, changes, heartbeats. Returns when either side is gone.
async fn pump(
    source_id: [u8; 16],
    sessions: Vec<(SessionKey, Duration)>,
    mut changes: mpsc::Receiver<Change>,
    out: mpsc::Sender<SessionEvent>,
) {
    let mut seq = 0;
    let mut number = |event| {
        seq += 1;
        SessionEvent { seq, event: Some(event) }
    };
    let begin = SnapshotBegin { source_id: source_id.to_vec(), count: sessions.len() as u64 };
    if out.send(number(Event::SnapshotBegin(begin))).await.is_err() {
        return;
    }
    for (key, remaining) in sessions {
        if out.send(number(Change::Upsert(key, remaining).event())).await.is_err() {
            return;
        }
    }
    if out.send(number(Event::SnapshotEnd(SnapshotEnd {}))).await.is_err() {
        return;
    }
    loop {
        let event = tokio::select! {
            change = changes.recv() => match change {
                Some(change) => change.event(),
                // Cut off: the queue was full. The stream ends and the detector comes again.
                None => return,
            },
            () = tokio::time::sleep(HEARTBEAT) => Event::Heartbeat(Heartbeat {}),
            () = out.closed() => return,
        };
        if out.send(number(event)).await.is_err() {
            return;
        }
    }
}

struct Service(Arc<Hub>);

#[tonic::async_trait]
impl Sessions for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<SessionEvent, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let events = ReceiverStream::new(self.0.open()).map(Ok);
        Ok(Response::new(Box::pin(events)))
    }
}
