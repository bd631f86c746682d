//! The detector's end of the gRPC session channel.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use signalling::station::{SessionEvent, WatchRequest, session_event::Event};
use tokio::sync::watch as signal;
use tokio::time::{Instant, timeout};

use crate::service::sessions_client::SessionsClient;
use crate::{SessionKey, SessionSink};

/// Silence after which a stream counts as dead; the server sends a heartbeat every second.
const SILENCE: Duration = Duration::from_secs(3);
/// How often the socket's file is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// First and longest pause between attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Sources (application starts) whose sessions are remembered; the oldest is forgotten first.
const MAX_SOURCES: usize = 8;

/// How the channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelState {
    /// The socket file exists.
    pub socket: bool,
    /// Streams that have delivered a whole snapshot and are alive.
    pub streams: usize,
    /// A whole snapshot has been taken at least once.
    pub snapshot_taken: bool,
}

/// What the streams have confirmed, by source.
#[derive(Debug, Default)]
struct Confirmed {
    /// Oldest first.
    sources: Vec<([u8; 16], HashSet<SessionKey>)>,
    streams: usize,
}

impl Confirmed {
    fn source(&mut self, id: [u8; 16]) -> &mut HashSet<SessionKey> {
        if let Some(at) = self.sources.iter().position(|(source, _)| *source == id) {
            return &mut self.sources[at].1;
        }
        if self.sources.len() == MAX_SOURCES {
            self.sources.remove(0);
        }
        self.sources.push((id, HashSet::new()));
        let last = self.sources.len() - 1;
        &mut self.sources[last].1
    }

    fn confirms(&self, key: &SessionKey) -> bool {
        self.sources.iter().any(|(_, keys)| keys.contains(key))
    }
}

/// Handle of a running watch, shared with the Redis subscriber.
#[derive(Clone)]
pub struct Watch {
    state: signal::Receiver<ChannelState>,
    confirmed: Arc<Mutex<Confirmed>>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Watch {
    /// A channel that is turned off: nothing is ever confirmed.
    pub fn off() -> Self {
        Self { state: signal::channel(ChannelState::default()).1, confirmed: Arc::default() }
    }

    /// Present state.
    pub fn state(&self) -> ChannelState {
        *self.state.borrow()
    }

    /// One line for the operator.
    pub fn describe(&self) -> String {
        let state = self.state();
        match (state.socket, state.streams) {
            (false, 0) => "absent: no session socket".to_owned(),
            (true, 0) => "connecting".to_owned(),
            (_, n) => format!("{n} stream(s), snapshot taken"),
        }
    }

    /// Waits for the first whole snapshot, at most `limit`; returns at once when no socket exists
    /// (`spec/channels.md` 1, rule 4). True when a snapshot was taken.
    pub async fn first_snapshot(&self, limit: Duration) -> bool {
        let mut state = self.state.clone();
        let taken = state.wait_for(|s| s.snapshot_taken || !s.socket);
        match timeout(limit, taken).await {
            Ok(Ok(state)) => state.snapshot_taken,
            _ => false,
        }
    }

    /// Empties the table of all that no live stream confirms, as a Redis Clear asks.
    pub fn clear(&self, sink: &dyn SessionSink) {
        let confirmed = self.confirmed.lock();
        if confirmed.streams == 0 {
            sink.clear(&|_| false);
        } else {
            sink.clear(&|key| confirmed.confirms(key));
        }
    }
}

/// Identity that a detector shows to the application.
#[derive(Debug, Clone)]
pub struct DetectorId {
    /// Name of the detector.
    pub name: String,
    /// 16 random bytes per start.
    pub boot_id: [u8; 16],
}

/// Watches the session socket at `path` for the life of the runtime. A new file at that path is
/// another application: its stream is opened beside the ones that are still alive.
pub fn watch(path: PathBuf, id: DetectorId, sink: Arc<dyn SessionSink>) -> Watch {
    let start = ChannelState { socket: path.exists(), ..ChannelState::default() };
    let (set, state) = signal::channel(start);
    let confirmed = Arc::new(Mutex::new(Confirmed::default()));
    let handle = Watch { state, confirmed: Arc::clone(&confirmed) };
    let shared = Shared { sink, confirmed, state: Arc::new(set), id };
    tokio::spawn(follow(path, shared));
    handle
}

#[derive(Clone)]
struct Shared {
    sink: Arc<dyn SessionSink>,
    confirmed: Arc<Mutex<Confirmed>>,
    state: Arc<signal::Sender<ChannelState>>,
    id: DetectorId,
}

/// Identity of a socket file: device, inode and change time.
fn identity(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

async fn follow(path: PathBuf, shared: Shared) {
    let mut streams = tokio::task::JoinSet::new();
    let mut open = HashMap::new();
    let mut backoff = BACKOFF.0;
    let mut not_before = Instant::now();
    loop {
        let file = identity(&path);
        shared
            .state
            .send_if_modified(|s| std::mem::replace(&mut s.socket, file.is_some()) != s.socket);
        if let Some(file) = file
            && !open.values().any(|known| *known == file)
            && Instant::now() >= not_before
        {
            let task = streams.spawn(stream(path.clone(), shared.clone()));
            open.insert(task.id(), file);
        }
        tokio::select! {
            Some(ended) = streams.join_next_with_id() => {
                let (id, had_snapshot) = match ended {
                    Ok((id, had_snapshot)) => (id, had_snapshot),
                    Err(e) => (e.id(), false),
                };
                open.remove(&id);
                backoff = if had_snapshot { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
                not_before = Instant::now() + backoff;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Follows one stream to its end; true when it delivered a whole snapshot.
async fn stream(path: PathBuf, shared: Shared) -> bool {
    let Ok(Ok(channel)) = timeout(SILENCE, telemetry::admin::channel(&path)).await else {
        return false;
    };
    let request =
        WatchRequest { detector_id: shared.id.name.clone(), boot_id: shared.id.boot_id.to_vec() };
    let mut client = SessionsClient::new(channel);
    let Ok(Ok(reply)) = timeout(SILENCE, client.watch(request)).await else { return false };
    let mut events = reply.into_inner();
    let mut reader = Reader { shared, seq: 0, source: None, snapshot: None, counted: false };
    while let Ok(Ok(Some(event))) = timeout(SILENCE, events.message()).await {
        if reader.take(event).is_none() {
            break;
        }
    }
    reader.counted
}

/// State of one stream.
struct Reader {
    shared: Shared,
    seq: u64,
    source: Option<[u8; 16]>,
    /// Keys of the snapshot that is being received.
    snapshot: Option<HashSet<SessionKey>>,
    counted: bool,
}

impl Reader {
    /// Applies one event; `None` when the stream cannot be trusted further.
    fn take(&mut self, event: SessionEvent) -> Option<()> {
        if event.seq != self.seq + 1 {
            return None;
        }
        self.seq = event.seq;
        match event.event? {
            Event::SnapshotBegin(begin) => {
                self.source = Some(begin.source_id.as_slice().try_into().ok()?);
                self.snapshot = Some(HashSet::new());
            }
            Event::Upsert(upsert) => {
                let key = SessionKey::from_message(&upsert.key?)?;
                let source = self.source?;
                match &mut self.snapshot {
                    Some(keys) => {
                        keys.insert(key);
                    }
                    None => {
                        self.shared.confirmed.lock().source(source).insert(key);
                    }
                }
                self.shared.sink.upsert(key, Duration::from_millis(upsert.remaining_ms));
            }
            Event::Pending(pending) => {
                let key = SessionKey::from_message(&pending.key?)?;
                let deadline = Duration::from_millis(pending.deadline_ms.into());
                self.shared.sink.pending(key, deadline);
            }
            Event::Remove(remove) => {
                let key = SessionKey::from_message(&remove.key?)?;
                let mut confirmed = self.shared.confirmed.lock();
                confirmed.source(self.source?).remove(&key);
                // Another application, e.g. a draining predecessor, may still need it.
                if !confirmed.confirms(&key) {
                    self.shared.sink.remove(key);
                }
            }
            Event::SnapshotEnd(_) => self.end_snapshot()?,
            Event::Heartbeat(_) => {}
        }
        Some(())
    }

    fn end_snapshot(&mut self) -> Option<()> {
        let keys = self.snapshot.take()?;
        let mut confirmed = self.shared.confirmed.lock();
        let former = std::mem::replace(confirmed.source(self.source?), keys);
        let gone: Vec<_> = former.into_iter().filter(|key| !confirmed.confirms(key)).collect();
        if !self.counted {
            self.counted = true;
            confirmed.streams += 1;
        }
        let streams = confirmed.streams;
        drop(confirmed);
        for key in gone {
            self.shared.sink.remove(key);
        }
        self.shared.state.send_modify(|s| {
            s.snapshot_taken = true;
            s.streams = streams;
        });
        Some(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.counted {
            let mut confirmed = self.shared.confirmed.lock();
            confirmed.streams -= 1;
            let streams = confirmed.streams;
            drop(confirmed);
            self.shared.state.send_modify(|s| s.streams = streams);
        }
    }
}
