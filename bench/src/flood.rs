//! Rows of the detector under floods. What must not happen at all, a lost packet of a live session,
//! makes a row fail instead of being its figure.

use crate::measure::{Row, run_on_first_cpu};
use arc_swap::ArcSwap;
use capture::tun::Sent;
use detector::candidates::{Bell, Candidates};
use detector::checker::{Checkers, Inlet};
use detector::clock::{Clock, Millis};
use detector::counters::Counters;
use detector::crew::{Post, Recipe};
use detector::outlets::{Outlets, PacketSink, Passage};
use detector::pending::{Outcome, Pending};
use detector::sessions::{PackedKey, Sessions};
use detector::source::{About, Burst, Each, FrameSource, SourceState};
use detector::worker::{Bounds, Endpoints, Exits, Shared, TestString, Worker};
use etherparse::PacketBuilder;
use parking_lot::Mutex;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use session::{Proto, SessionKey};
use shm::{Consumer, ConsumerOptions, ConsumerState, Meta, Producer, Server, ServerOptions};
use std::collections::VecDeque;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SYN: u8 = 0x02;
const ACK: u8 = 0x18;
const DECOY: [u8; 4] = [198, 51, 100, 1];
const PHANTOM: [u8; 4] = [192, 122, 190, 7];
/// Where a frame of this module has its client address, client port, and TCP flags.
const SOURCE: usize = 26;
const PORT: usize = 34;
const FLAGS: usize = 47;

/// A TCP segment to port 443 with a payload of `len` bytes that starts like an application record.
fn segment(destination: [u8; 4], flags: u8, len: usize) -> Vec<u8> {
    let mut payload = vec![0xa5; len];
    if let Some(body) = len.checked_sub(5) {
        payload[..3].copy_from_slice(&[0x17, 3, 3]);
        payload[3..5].copy_from_slice(&(body as u16).to_be_bytes());
    }
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([0; 4], destination, 64)
        .tcp(4000, 443, 7, 1024)
        .write(&mut frame, &payload)
        .expect("a frame fits a vector");
    frame[FLAGS] = flags;
    frame
}

/// Gives `frame` another client.
fn set_client(frame: &mut [u8], address: u32, port: u16) {
    frame[SOURCE..SOURCE + 4].copy_from_slice(&address.to_be_bytes());
    frame[PORT..PORT + 2].copy_from_slice(&port.to_be_bytes());
}

/// Clients with a session, each on the phantom.
fn live_sessions(clients: u32) -> Arc<Sessions> {
    let sessions = Arc::new(Sessions::new());
    for client in 0..clients {
        let client = Some(live_client(client).into());
        let key = SessionKey { proto: Proto::Tcp, phantom: PHANTOM.into(), client, dst_port: 443 };
        sessions.upsert(&key, Duration::from_secs(3600), Millis(0));
    }
    sessions
}

const fn live_client(number: u32) -> u32 {
    0xcb00_7100 + number
}

/// What left a worker under a flood of SYNs.
#[derive(Default)]
struct Counted {
    forwarded: u64,
    candidates: u64,
}

impl Exits for Counted {
    fn forward(&mut self, _: &[u8]) {
        self.forwarded += 1;
    }

    fn finish(&mut self) -> Sent {
        Sent::default()
    }

    fn candidate(&mut self, _: Endpoints, _: &[u8]) -> bool {
        self.candidates += 1;
        true
    }

    fn hold(&mut self, _: PackedKey, _: &[u8], _: Millis) -> Outcome {
        Outcome::Ignored
    }

    fn test_string(&mut self, _: TestString, _: SocketAddr, _: SocketAddr) {}
}

/// Seconds that the flood of SYNs takes, by the clock of the packets.
const SYN_SECONDS: u64 = 60;
/// Milliseconds from a genuine flow's SYN to its record.
const TO_RECORD: u64 = 200;
/// Packets of live sessions in each millisecond, and genuine flows that begin.
const LIVE: u32 = 5;
const GENUINE: u64 = 1;

/// Sends ten times the table of SYNs every 30 s from random sources to a worker; the share of genuine
/// flows that are missed, in percent. Memory above the worker's bound is an error.
fn syns() -> Result<f64, String> {
    let sessions = live_sessions(LIVE);
    let bounds = Bounds::default();
    let per_30_s = 10 * bounds.flows as u64;
    let counters = Arc::new(Counters::default());
    let shared = Shared { sessions, filter: Arc::default(), counters: Arc::clone(&counters) };
    let live: Vec<Vec<u8>> = (0..LIVE)
        .map(|client| {
            let mut frame = segment(PHANTOM, ACK, 100);
            set_client(&mut frame, live_client(client), 4000);
            frame
        })
        .collect();
    let mut flood = vec![segment(DECOY, SYN, 0); 64];
    let (mut opening, mut record) = (segment(DECOY, SYN, 0), segment(DECOY, ACK, 600));
    let mut rng = ChaCha20Rng::seed_from_u64(10);
    let mut waiting = VecDeque::with_capacity(2 * TO_RECORD as usize);
    let before = resident()?;
    let mut worker = Worker::new(shared, 0, bounds, Counted::default());
    let (mut sent_live, mut genuine, mut flooded) = (0u64, 0u64, 0u64);
    for now in 0..SYN_SECONDS * 1000 {
        let wanted = per_30_s * (now + 1) / 30_000 - flooded;
        flooded += wanted;
        for frame in &mut flood[..wanted as usize] {
            set_client(frame, rng.next_u32(), rng.next_u32() as u16);
        }
        let burst: Vec<&[u8]> =
            flood[..wanted as usize].iter().chain(&live).map(Vec::as_slice).collect();
        worker.packets(&burst, Millis(now));
        sent_live += u64::from(LIVE);
        for _ in 0..GENUINE {
            let client = (rng.next_u32(), rng.next_u32() as u16);
            set_client(&mut opening, client.0, client.1);
            worker.packet(&opening, Millis(now));
            waiting.push_back((now + TO_RECORD, client));
        }
        while let Some((_, client)) = waiting.front().copied().filter(|(due, _)| *due <= now) {
            waiting.pop_front();
            set_client(&mut record, client.0, client.1);
            worker.packet(&record, Millis(now));
            genuine += 1;
        }
        if now % 100 == 0 {
            worker.clean(Millis(now));
        }
    }
    let (grown, bound) = (resident()? - before, worker.memory() as f64);
    if grown > bound {
        return Err(format!("the worker came to {grown} bytes, and its bound is {bound}"));
    }
    let Counted { forwarded, candidates } = *worker.exits();
    if forwarded != sent_live {
        let lost = sent_live - forwarded;
        return Err(format!("{lost} of {sent_live} packets of live sessions were lost"));
    }
    let evicted = counters.evicted.value();
    if evicted < flooded / 2 {
        return Err(format!("{flooded} SYNs were no flood: {evicted} flows made room"));
    }
    Ok(100.0 * (genuine - candidates) as f64 / genuine as f64)
}

/// Resident memory of this process, in bytes.
fn resident() -> Result<f64, String> {
    let text = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0).ok_or_else(|| "/proc/self/status has no VmRSS".to_owned())
}

/// Genuine flows that are missed, by the clock of the packets.
pub(crate) fn missed() -> Result<Row, String> {
    let percent = syns()?;
    Ok(Row {
        unit: "%",
        baseline_name: "of the genuine flows may be missed",
        ours: Box::new(move || percent),
        baseline: Ok(Box::new(|| 1.0)),
        plausible: None,
    })
}

/// How long tags arrive at ten times the rate at which they are checked.
const TAGS: Duration = Duration::from_secs(5);
/// How long that rate is measured.
const MEASURING: Duration = Duration::from_secs(1);
const TIMES: f64 = 10.0;
/// Bytes of a record: long enough for a tag.
const RECORD: usize = 200;
const LIVE_CLIENTS: u32 = 64;
const CLUSTER: u32 = 4243;

/// A queue that notes when a burst was read.
struct Noting {
    consumer: Consumer,
    epoch: Instant,
    read: Arc<AtomicU64>,
}

impl FrameSource for Noting {
    fn burst(&mut self, timeout: Duration, each: &mut Each<'_>) -> std::io::Result<Burst> {
        let burst = self.consumer.receive(timeout);
        self.read.store(self.epoch.elapsed().as_nanos() as u64, Relaxed);
        let frames: Vec<&[u8]> = burst.iter().map(|frame| frame.data).collect();
        each(&frames, About::default());
        Ok(Burst::Frames(frames.len()))
    }

    fn dropped(&mut self) -> u64 {
        self.consumer.statistics().dropped
    }

    fn state(&self) -> SourceState {
        match self.consumer.state() {
            ConsumerState::Attached { .. } => SourceState::Attached,
            ConsumerState::Detached => SourceState::Starting,
        }
    }
}

/// Takes the packets of sessions with one write each, and notes how long after their burst was read.
struct Writing {
    device: std::fs::File,
    epoch: Instant,
    read: Arc<AtomicU64>,
    took: Mutex<Vec<u64>>,
}

impl PacketSink for Writing {
    fn send(&self, packet: &[u8]) -> std::io::Result<()> {
        (&self.device).write_all(packet)?;
        let took = self.epoch.elapsed().as_nanos() as u64 - self.read.load(Relaxed);
        self.took.lock().push(took);
        Ok(())
    }
}

/// A detector's worker and its checker on this thread's CPU, behind a queue.
struct Flooded {
    server: Server,
    producer: Producer,
    writing: Arc<Writing>,
    counters: Arc<Counters>,
    candidates: Arc<Candidates>,
    checkers: Arc<Checkers>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Drop for Flooded {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.checkers.stop.store(true, Relaxed);
        self.checkers.bell.ring_all();
        for thread in self.threads.drain(..) {
            // A thread that failed has said so.
            let _ = thread.join();
        }
    }
}

impl Flooded {
    fn start() -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut options = ServerOptions::new(dir.path().to_owned(), CLUSTER, vec![1]);
        options.slots = 65_536;
        let (server, mut producers) = Server::bind(options, [9; 16]).map_err(|e| e.to_string())?;
        let producer = producers.remove(0);
        let (epoch, read) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let device = std::fs::OpenOptions::new().write(true).open("/dev/null");
        let writing = Arc::new(Writing {
            device: device.map_err(|e| format!("/dev/null: {e}"))?,
            epoch,
            read: Arc::clone(&read),
            took: Mutex::default(),
        });
        let sessions = live_sessions(LIVE_CLIENTS);
        let counters = Arc::new(Counters::default());
        let bell = Arc::new(Bell::default());
        let candidates = Arc::new(Candidates::new(Arc::clone(&bell)));
        let key = keys::StationKey::from_private(&[0x11; 32]).map_err(|e| e.to_string())?;
        // Without vectors a check takes the same everywhere, and ten times its rate can be sent.
        let checker = tag::TagChecker::with_kernel(vec![key], None);
        let inlet = Inlet { candidates: Arc::clone(&candidates), counters: Arc::clone(&counters) };
        let checker = Arc::new(ArcSwap::from_pointee(checker));
        let checkers = Arc::new(Checkers::new(checker, vec![inlet], bell, Box::new(|_| ())));
        let stop = Arc::new(AtomicBool::new(false));
        let folder = dir.path().to_owned();
        let (sink, queue, pending) =
            (Arc::clone(&writing), Arc::clone(&candidates), Arc::new(Pending::default()));
        let table = Arc::clone(&sessions);
        let recipe = Recipe {
            post: Arc::new(Post {
                index: 0,
                queue: 0,
                cpu: 0,
                counters: Arc::clone(&counters),
                restarts: 0.into(),
                state: Mutex::default(),
                beats: 0.into(),
                ended: false.into(),
                packed: Mutex::default(),
            }),
            open: Box::new(move || {
                let options = ConsumerOptions::new(folder.clone(), CLUSTER, 0);
                let consumer = Consumer::detached(options);
                Ok(Box::new(Noting { consumer, epoch, read: Arc::clone(&read) }))
            }),
            outlets: Box::new(move || Outlets {
                worker: 0,
                queue: 0,
                sink: Arc::clone(&sink) as Arc<dyn PacketSink>,
                candidates: Arc::clone(&queue),
                pending: Arc::clone(&pending),
                sessions: Arc::clone(&table),
                patient: false,
                passage: Passage::default(),
            }),
            shared: Shared { sessions, filter: Arc::default(), counters: Arc::clone(&counters) },
            fast_path: Arc::default(),
            tunnel_offset: 0,
            bounds: Bounds::default(),
            clock: Clock::default(),
            stop: Arc::clone(&stop),
            handing: Arc::default(),
        };
        let checking = Arc::clone(&checkers);
        let threads = vec![
            std::thread::spawn(move || {
                recipe.supervise(None);
            }),
            std::thread::spawn(move || checking.run(0)),
        ];
        let mut flooded = Self {
            server,
            producer,
            writing,
            counters,
            candidates,
            checkers,
            stop,
            threads,
            _dir: dir,
        };
        flooded.attach()?;
        Ok(flooded)
    }

    fn attach(&mut self) -> Result<(), String> {
        let limit = Instant::now() + Duration::from_secs(20);
        while self.producer.outstanding(0).is_none() {
            if Instant::now() > limit {
                return Err("the worker did not attach to its queue".to_owned());
            }
            self.server.poll(Duration::from_millis(1), &mut |_| "{}".to_owned());
            self.producer.tick();
        }
        Ok(())
    }

    /// Checks in a second when nothing else is to be done.
    fn capacity(&self) -> f64 {
        let decoy = Ipv4Addr::from(DECOY).into();
        let record = &segment(DECOY, ACK, RECORD)[54..];
        let (start, before) = (Instant::now(), self.counters.checked.value());
        let mut client = 0u32;
        while start.elapsed() < MEASURING {
            for _ in 0..256 {
                client = client.wrapping_add(0x0100_0193);
                let flow = Endpoints { client: IpAddr::V4(client.into()), decoy };
                self.candidates.push(flow, record);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        (self.counters.checked.value() - before) as f64 / start.elapsed().as_secs_f64()
    }

    /// Sends records at ten times `capacity`, and among them packets of live sessions, whose number
    /// comes out beside that of the records.
    fn flood(&mut self, capacity: f64) -> (u64, u64) {
        let mut rng = ChaCha20Rng::seed_from_u64(11);
        let (mut syn, mut record) = (segment(DECOY, SYN, 0), segment(DECOY, ACK, RECORD));
        let mut live = segment(PHANTOM, ACK, 600);
        let (mut sent, mut sent_live) = (0u64, 0u64);
        let meta = Meta::default();
        let start = Instant::now();
        while start.elapsed() < TAGS {
            let due = start.elapsed().as_secs_f64() * capacity * TIMES;
            // A generator that was held up does not make up for it at once.
            for _ in 0..((due - sent as f64) as u64).min(1024) {
                set_client(&mut syn, rng.next_u32(), rng.next_u32() as u16);
                let client: [u8; 10] = syn[SOURCE..SOURCE + 10].try_into().unwrap_or_default();
                record[SOURCE..SOURCE + 10].copy_from_slice(&client);
                self.producer.send(&syn, &meta, 1);
                self.producer.send(&record, &meta, 1);
                sent += 1;
            }
            set_client(&mut live, live_client(sent_live as u32 % LIVE_CLIENTS), 4000);
            self.producer.send(&live, &meta, 1);
            sent_live += 1;
            self.producer.flush();
            self.producer.tick();
            std::thread::sleep(Duration::from_micros(200));
        }
        (sent, sent_live)
    }
}

/// Packets of sessions while tags arrive at ten times the rate at which a checker on the worker's
/// own CPU checks them.
pub(crate) fn tags() -> Result<Row, String> {
    let mut flooded = Flooded::start()?;
    let capacity = flooded.capacity();
    let before = flooded.counters.candidates_dropped.value();
    let sender = std::thread::spawn(move || {
        run_on_first_cpu();
        let sent = flooded.flood(capacity);
        (flooded, sent)
    });
    let (mut flooded, (sent, live)) =
        sender.join().map_err(|_| "the generator failed".to_owned())?;
    let limit = Instant::now() + Duration::from_secs(20);
    while flooded.producer.outstanding(0).is_some_and(|n| n > 0) && Instant::now() < limit {
        flooded.producer.tick();
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut took = std::mem::take(&mut *flooded.writing.took.lock());
    if (took.len() as u64) < live {
        let lost = live - took.len() as u64;
        return Err(format!("{lost} of {live} packets of live sessions were lost"));
    }
    let shed =
        flooded.counters.candidates_dropped.value() - before + flooded.candidates.displaced();
    let times = sent as f64 / TAGS.as_secs_f64() / capacity;
    if shed < sent / 2 || times < TIMES * 0.8 {
        return Err(format!(
            "{sent} tags, {times:.1} times the capacity, of which {shed} were shed, are no flood"
        ));
    }
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100] as f64 / 1000.0;
    Ok(Row {
        unit: "us",
        baseline_name: "p99 from reading a descriptor to writing the packet may take",
        ours: Box::new(move || p99),
        baseline: Ok(Box::new(|| 1000.0)),
        plausible: None,
    })
}
