//! Rows of the way of a registration from the bus to the detectors.

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use application::Station;
use application::ingest::{self, IngestQueue};
use bytes::Bytes;
use keys::{ClientVersion, SharedSecret};
use phantoms::{Family, PhantomTable};
use session::watch::DetectorId;
use session::{SessionKey, SessionSink};
use signalling::{C2sWrapper, Message};
use tokio::runtime::Runtime;

use crate::measure::{Row, Side, run_on_first_cpu, thread_time};
use crate::station;

/// Registrations of one repetition.
const COUNT: usize = 4096;
/// Messages that come in together, as from a busy bus.
const BURST: usize = 64;
/// Workers of the shipped configuration.
const WORKERS: usize = 100;

/// The application with its bus queue, on one thread.
struct Ingest {
    runtime: Runtime,
    station: Arc<Station>,
    queue: IngestQueue,
}

impl Ingest {
    fn start(redis_url: &str, sessions: Option<&Path>) -> Result<Self, String> {
        let failed = |e: std::io::Error| e.to_string();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let inside = runtime.enter();
        let station = station::start(redis_url)?;
        if let Some(path) = sessions {
            station.pipeline.announcer.hub().serve(path).map_err(failed)?;
        }
        let pipeline = Arc::clone(&station.pipeline);
        let (queue, messages) = IngestQueue::new(Arc::clone(&pipeline.stats));
        runtime.spawn(ingest::distribute(messages, Arc::new(ingest::places(WORKERS)), pipeline));
        drop(inside);
        Ok(Self { runtime, station, queue })
    }

    /// Thread time per registration of `frames`, all of which must be accepted, until `delivered`.
    fn cost(&self, frames: Vec<Bytes>, delivered: impl AsyncFnOnce(&Station)) -> f64 {
        let count = frames.len();
        let accepted = || self.station.pipeline.stats.registrations.new.total();
        let wanted = accepted() + count as u64;
        let mut frames = frames.into_iter();
        let start = thread_time();
        self.runtime.block_on(async {
            while frames.len() > 0 {
                for frame in frames.by_ref().take(BURST) {
                    assert!(self.queue.offer(frame), "the bus queue is full");
                }
                while self.station.pipeline.stats.ingest.waiting.value() > 0 {
                    tokio::task::yield_now().await;
                }
            }
            tokio::task::yield_now().await;
            delivered(&self.station).await;
        });
        let spent = thread_time() - start;
        assert_eq!(accepted(), wanted, "every registration is new and accepted");
        spent.as_nanos() as f64 / count as f64
    }
}

/// Messages that no repetition has seen before.
#[derive(Clone, Default)]
struct Fresh(Rc<Cell<u64>>);

impl Fresh {
    fn frames(&self) -> Vec<Bytes> {
        let first = self.0.replace(self.0.get() + COUNT as u64);
        (first..first + COUNT as u64)
            .map(|number| station::frame(transports::Transport::Min, number).into())
            .collect()
    }
}

/// What nobody can do without: reading the message, and deriving its keys and its phantom.
fn baseline(fresh: Fresh) -> Result<Side, String> {
    let table = PhantomTable::parse(station::PHANTOMS).map_err(|e| e.to_string())?.table;
    Ok(Box::new(move || {
        let frames = fresh.frames();
        let start = thread_time();
        for frame in &frames {
            let wrapper = C2sWrapper::decode(&**frame).expect("an encoded message");
            let payload = wrapper.registration_payload.as_ref().expect("it has a payload");
            let version = ClientVersion(payload.client_lib_version());
            let secret = SharedSecret::new(wrapper.shared_secret());
            let keys = secret.session_keys(version);
            black_box(secret.min_identifier());
            let pick = table.pick(payload.decoy_list_generation(), keys.seed.expose(), version);
            black_box(pick.and_then(|pick| pick.phantom(Family::V4)).expect("a phantom"));
        }
        (thread_time() - start).as_nanos() as f64 / frames.len() as f64
    }))
}

/// One accepted registration from the bus to where the channels begin, with no channel attached.
pub(crate) fn alone() -> Result<Row, String> {
    let ingest = Ingest::start("", None)?;
    let fresh = Fresh::default();
    Ok(Row {
        unit: "ns",
        baseline_name: "decoding it and deriving its keys and phantom",
        baseline: Ok(baseline(fresh.clone())?),
        ours: Box::new(move || ingest.cost(fresh.frames(), async |_| ())),
        plausible: None,
    })
}

/// Counts what reaches a detector.
#[derive(Default)]
struct Reached(AtomicU64);

impl SessionSink for Reached {
    fn upsert(&self, _: SessionKey, _: Duration) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn pending(&self, _: SessionKey, _: Duration) {}

    fn remove(&self, _: SessionKey) {}

    fn clear(&self, _: &dyn Fn(&SessionKey) -> bool) {}
}

/// A Redis that ends with the row.
struct Redis(Child);

impl Redis {
    fn start(dir: &Path) -> Result<Self, String> {
        let needed = |e| format!("redis-server: {e} (apt-get install redis-server)");
        let socket = dir.join("redis.sock");
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(dir)
            .stdout(Stdio::null());
        let started = std::thread::spawn(move || {
            run_on_first_cpu();
            command.spawn()
        });
        let redis = Self(started.join().expect("spawning does not panic").map_err(needed)?);
        wait("redis-server listens", || socket.exists())?;
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(what: &str, holds: impl Fn() -> bool) -> Result<(), String> {
    for _ in 0..1000 {
        if holds() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(format!("after 10 s still not: {what}"))
}

/// The same until a detector has it over the gRPC channel and Redis has published it.
pub(crate) fn with_sinks() -> Result<Row, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let redis = Redis::start(dir.path())?;
    let url = format!("redis+unix://{}/redis.sock", dir.path().display());
    let socket = dir.path().join("session.sock");
    let ingest = Ingest::start(&url, Some(&socket))?;
    let reached = Arc::new(Reached::default());
    let sink = Arc::clone(&reached);
    std::thread::spawn(move || {
        run_on_first_cpu();
        let detector = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let id = DetectorId { name: "bench".to_owned(), boot_id: [1; 16] };
        detector.expect("a runtime").block_on(async {
            let _watch = session::watch::watch(socket, id, sink);
            std::future::pending::<()>().await;
        });
    });
    let announcer = Arc::clone(&ingest.station.pipeline.announcer);
    let attached = async {
        while announcer.hub().watchers() == 0
            || announcer.redis().state() != session::redis_out::LinkState::Connected
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(10);
    ingest
        .runtime
        .block_on(async { tokio::time::timeout(limit, attached).await })
        .map_err(|_| "after 10 s not attached to both channels")?;
    let fresh = Fresh::default();
    let baseline = baseline(fresh.clone())?;
    let ours: Side = Box::new(move || {
        let _lives_as_long = (&redis, &dir);
        let frames = fresh.frames();
        let wanted = reached.0.load(Ordering::Relaxed) + frames.len() as u64;
        ingest.cost(frames, async |station| {
            let redis = station.pipeline.announcer.redis();
            assert!(redis.flush(limit).await && redis.dropped() == 0, "Redis has taken all");
            while reached.0.load(Ordering::Relaxed) < wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    });
    let baseline_name = "decoding it and deriving its keys and phantom";
    Ok(Row { unit: "ns", baseline_name, ours, baseline: Ok(baseline), plausible: None })
}
