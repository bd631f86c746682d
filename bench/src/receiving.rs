//! Rows of receiving: zbalance's ingest thread against the least that reading the same rings takes.
//!
//! Everything happens in a process inside namespaces, on two veth pairs. The kernel itself makes the frames
//! (`spec/ingest.md` 16.2), half a million in a second, on the first CPU, where a consumer takes them out of the queue. The
//! thread that receives has the last CPU for itself; what it costs is its whole processor time, system calls
//! included, because how often it sleeps is part of how it reads. The first round of a row lasts ten seconds,
//! the others one; frames that reached the interface and not the consumer are counted over all of them.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use capture::{BarePacket, BareXdp, Generator, Pace, PassThrough, XdpName, XdpOptions};
use packet::distribution::Mode;
use packet::hash::SymmetricHash;
use shm::{Consumer, ConsumerOptions, ConsumerState, Region, Server, ServerOptions};
use zbalance::ingest::{Counters, Ingest};
use zbalance::input::{Input, Plan};
use zbalance::spread::{Distribution, Spread};
use zbalance::stages::Stages;

use crate::host::{self, Host};
use crate::loopback::tool;
use crate::measure::{Row, Side, run_on_first_cpu};

/// Word that makes this program the host of the rows.
pub(crate) const HOST: &str = "--receiving-host";
/// Word that makes it send frames to one of them.
pub(crate) const GENERATOR: &str = "--receiving-generator";

/// Frames in a second.
const RATE: u64 = 500_000;
/// Frames that come together: a poll of the interface takes as many.
const GROUP: u16 = 64;
/// How long the first round lasts, and each of the others.
const FIRST: Duration = Duration::from_secs(10);
const ROUND: Duration = Duration::from_secs(1);
const CLUSTER: u32 = 4245;
/// Queues of the balancer; all frames are of one flow, so they go to one of them.
const QUEUES: u32 = 4;
const PATIENCE: Duration = Duration::from_secs(5);

/// AF_XDP against a loop that only reads and refills its rings.
pub(crate) fn afxdp() -> Result<Row, String> {
    row("afxdp-user", "xdp", "a loop that only reads and refills the rings")
}

/// `TPACKET_V3` against a loop that copies each frame to a buffer of its own.
pub(crate) fn afpacket() -> Result<Row, String> {
    row("afpacket-user", "packet", "a loop that copies each frame to a buffer of its own")
}

fn row(name: &'static str, kind: &str, baseline_name: &'static str) -> Result<Row, String> {
    let host = Host::start(&[HOST, kind])?;
    let mut watch = Watch { name, host: host.clone() };
    // Both once, so that what is missing is said before anything is measured.
    host.ask("bare")?;
    let ours: Side = Box::new(move || watch.round());
    let baseline = Ok(host.side("bare"));
    Ok(Row { unit: "ns", baseline_name, ours, baseline, plausible: None })
}

/// Our side of a row, and what was lost meanwhile.
struct Watch {
    name: &'static str,
    host: Host,
}

impl Watch {
    fn round(&mut self) -> f64 {
        self.host.ask("ours").unwrap_or_else(|why| panic!("{}: {why}", self.name))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let questions = ["lost", "queue", "frames", "rate", "bare-lost", "bare-frames"];
        let numbers = questions.map(|what| self.host.ask(what));
        if let [Ok(lost), Ok(queue), Ok(frames), Ok(rate), Ok(other), Ok(of)] = numbers {
            let (name, rate) = (self.name, rate / 1e6);
            // Nobody may be listening any more: beside another build the reader ends first.
            let _ = writeln!(
                std::io::stdout(),
                "bench {name} lost={lost} of={frames} queue-full={queue} rate={rate:.2}Mpps \
                 baseline-lost={other} of={of}"
            );
        }
    }
}

/// Answers the questions of a row until there are no more.
pub(crate) fn host(kind: &str) -> Result<(), String> {
    lab::isolate::enter().map_err(|e| e.to_string())?;
    for scope in ["all", "default"] {
        let file = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        // Without IPv6 the kernel sends nothing by itself.
        if Path::new(&file).exists() {
            std::fs::write(&file, "1").map_err(|e| format!("{file}: {e}"))?;
        }
    }
    let mut links = Vec::new();
    for (from, to) in [("gen0", "tap0"), ("gen1", "tap1")] {
        let pair = format!(
            "link add {from} numrxqueues 1 numtxqueues 1 type veth peer name {to} numrxqueues 1 numtxqueues 1"
        );
        for line in [pair, format!("link set {from} up"), format!("link set {to} up")] {
            tool("ip", &line.split(' ').collect::<Vec<_>>(), "")?;
        }
        links.push(Link { from, to });
    }
    let (mut ours, mut bare, _through) = match kind {
        "xdp" => (Balancer::start("xdp:tap0")?, Bare::xdp("tap1")?, None),
        "packet" => {
            let through = |interface| PassThrough::new(interface).map_err(|e| e.to_string());
            let through = [through("tap0")?, through("tap1")?];
            (Balancer::start("afp:tap0")?, Bare::packet("tap1")?, Some(through))
        }
        other => return Err(format!("{HOST} {other}: unknown kind of rings")),
    };
    run_on_first_cpu();
    let mut first = true;
    host::answer(|question| match question {
        "ours" => {
            let length = if std::mem::take(&mut first) { FIRST } else { ROUND };
            ours.measured.round(&links[0], length)
        }
        "bare" => bare.measured.round(&links[1], ROUND),
        "lost" => Ok(ours.measured.lost as f64),
        "queue" => Ok(ours.refused() as f64),
        "bare-lost" => Ok(bare.measured.lost as f64),
        "bare-frames" => Ok(bare.measured.frames as f64),
        "frames" => Ok(ours.measured.frames as f64),
        "rate" => Ok(ours.measured.frames as f64 / ours.measured.took.as_secs_f64()),
        unknown => Err(format!("{HOST}: unknown question {unknown}")),
    })
}

/// The smallest frame with a TCP segment.
fn frame() -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([203, 0, 113, 9, 192, 122, 190, 7]);
    frame.extend([0x9c, 0x41, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 4, 0, 0, 0, 0, 0]);
    frame.resize(60, 0);
    frame
}

/// Makes frames until the process is killed.
pub(crate) fn generate(interface: &str) -> Result<(), String> {
    let period = Duration::from_nanos(u64::from(GROUP) * 1_000_000_000 / RATE);
    let generator = Generator::new(interface, frame(), GROUP, period).map_err(|e| e.to_string())?;
    generator.run().map_err(|e| format!("frames of the kernel: {e}"))
}

/// The process that makes frames.
struct Generating(Child);

impl Drop for Generating {
    fn drop(&mut self) {
        // It may have failed by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A veth pair.
struct Link {
    from: &'static str,
    to: &'static str,
}

impl Link {
    /// Sends `wanted` frames or a few more; how long it took.
    fn send(&self, wanted: u64) -> Result<Duration, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let child =
            Command::new(program).args([GENERATOR, self.from]).stdout(Stdio::null()).spawn();
        let mut child = Generating(child.map_err(|e| e.to_string())?);
        let before = self.arrived()?;
        self.wait(&mut child, before + 1, Duration::from_micros(500))?;
        let start = Instant::now();
        self.wait(&mut child, before + wanted, Duration::from_millis(5))?;
        Ok(start.elapsed())
    }

    /// Looks every `pause` whether as many frames have reached the other end.
    fn wait(&self, child: &mut Generating, frames: u64, pause: Duration) -> Result<(), String> {
        while self.arrived()? < frames {
            if let Some(status) = child.0.try_wait().map_err(|e| e.to_string())? {
                return Err(format!("{GENERATOR}: {status}"));
            }
            std::thread::sleep(pause);
        }
        Ok(())
    }

    /// Frames that have reached the other end.
    fn arrived(&self) -> Result<u64, String> {
        let table =
            std::fs::read_to_string("/proc/thread-self/net/dev").map_err(|e| e.to_string())?;
        let line =
            table.lines().find_map(|line| line.trim().strip_prefix(self.to)?.strip_prefix(':'));
        let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        packets.ok_or_else(|| format!("/proc/net/dev: no counters of {}", self.to))
    }
}

/// A thread that receives, as others see it.
struct Measured {
    /// `schedstat` of the thread.
    time: File,
    /// Frames that came through.
    through: Arc<AtomicU64>,
    lost: u64,
    frames: u64,
    took: Duration,
}

impl Measured {
    fn new(time: File, through: Arc<AtomicU64>) -> Self {
        Self { time, through, lost: 0, frames: 0, took: Duration::ZERO }
    }

    /// Sends frames for as long as `length`; processor time of the thread for each, in nanoseconds.
    fn round(&mut self, link: &Link, length: Duration) -> Result<f64, String> {
        let (time, arrived) = (self.processor_time()?, link.arrived()?);
        let through = self.through.load(Relaxed);
        self.took += link.send(RATE * length.as_secs())?;
        let came = link.arrived()? - arrived;
        let got = || self.through.load(Relaxed) - through;
        let (mut last, mut since) = (got(), Instant::now());
        while got() < came && since.elapsed() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(5));
            if got() != last {
                (last, since) = (got(), Instant::now());
            }
        }
        if got() == 0 {
            return Err(format!("none of {came} frames on {} came through", link.to));
        }
        self.lost += came.saturating_sub(got());
        self.frames += came;
        Ok((self.processor_time()? - time) as f64 / came as f64)
    }

    /// Nanoseconds that the thread has run.
    fn processor_time(&self) -> Result<u64, String> {
        let mut text = [0; 80];
        let len = self.time.read_at(&mut text, 0).map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&text[..len]);
        let time = text.split(' ').next().and_then(|word| word.parse().ok());
        time.ok_or_else(|| format!("schedstat of a thread: {text}"))
    }
}

/// Runs `work` on a thread of its own, on the CPU of the caller; with the thread's `schedstat`.
fn thread(work: impl FnOnce() + Send + 'static) -> Result<(File, JoinHandle<()>), String> {
    let (say, said) = channel();
    let handle = std::thread::spawn(move || {
        if say.send(File::open("/proc/thread-self/schedstat")).is_ok() {
            work();
        }
    });
    let file = said.recv().map_err(|e| e.to_string())?;
    Ok((file.map_err(|e| format!("schedstat of a thread: {e}"))?, handle))
}

/// Threads that end with this.
#[derive(Default)]
struct Threads {
    stop: Arc<AtomicBool>,
    handles: Vec<JoinHandle<()>>,
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for handle in self.handles.drain(..) {
            // One that panicked has said so.
            let _ = handle.join();
        }
    }
}

/// zbalance as it is, with its queues and their consumers.
struct Balancer {
    measured: Measured,
    server: Server,
    _threads: Threads,
    _dir: tempfile::TempDir,
}

impl Balancer {
    fn start(source: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut options = ServerOptions::new(dir.path().to_owned(), CLUSTER, vec![QUEUES]);
        let said = |e: capture::OpenError| e.to_string();
        let distribution = Distribution {
            mode: Mode::Ip,
            sets: vec![QUEUES],
            hash: SymmetricHash::new(1),
            map: None,
            decapsulate: false,
            filters: Arc::default(),
        };
        let stages = Stages { sorting: distribution.sorting(64), ..Stages::default() };
        let plan = Plan::new(source, false, Pace::default(), &stages).map_err(said)?;
        options.working_set += plan.frames();
        let region = Region::new(&options).map_err(|e| e.to_string())?;
        let input: Input = plan.open(&region.memory(0)).map_err(said)?;
        let (mut server, mut producers) =
            Server::succeed(options, [5; 16], None, Some(region)).map_err(|e| e.to_string())?;
        let mut ingest = Ingest {
            name: source.to_owned(),
            source: input,
            producer: producers.remove(0),
            spread: Spread::new(distribution, 0),
            active: false,
        };
        let mut threads = Threads::default();
        let (through, attached) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let mut consuming = Consuming {
            consumers: (0..QUEUES as u16)
                .map(|queue| ConsumerOptions::new(dir.path().to_owned(), CLUSTER, queue))
                .map(Consumer::detached)
                .collect(),
            through: Arc::clone(&through),
            attached: Arc::clone(&attached),
            stop: Arc::clone(&threads.stop),
        };
        threads.handles.push(std::thread::spawn(move || consuming.run()));
        let deadline = Instant::now() + PATIENCE;
        while !attached.load(Relaxed) {
            server.poll(Duration::from_millis(1), &mut |_| "{}".to_owned());
            ingest.producer.tick();
            if Instant::now() > deadline {
                return Err("the consumers did not attach".to_owned());
            }
        }
        ingest.supply();
        let stop = Arc::clone(&threads.stop);
        let (time, handle) = thread(move || {
            ingest.run(&Counters::default(), &stop, &AtomicBool::new(false));
        })?;
        threads.handles.push(handle);
        let measured = Measured::new(time, through);
        Ok(Self { measured, server, _threads: threads, _dir: dir })
    }

    /// Frames for which the queue had no space.
    fn refused(&self) -> u64 {
        self.server.queues().iter().map(|q| q.dropped_full + q.dropped_quota + q.no_frame).sum()
    }
}

/// Consumers that read nothing of the frames.
struct Consuming {
    consumers: Vec<Consumer>,
    through: Arc<AtomicU64>,
    attached: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Consuming {
    fn run(&mut self) {
        run_on_first_cpu();
        // The frames that come are made on this CPU too, and a consumer that keeps up has one for itself.
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), -20);
        while !self.stop.load(Relaxed) {
            let mut count = 0;
            for consumer in &mut self.consumers {
                count += consumer.receive(Duration::ZERO).len();
            }
            self.through.fetch_add(count as u64, Relaxed);
            if count == 0 {
                let is = |consumer: &Consumer| {
                    matches!(consumer.state(), ConsumerState::Attached { .. })
                };
                self.attached.store(self.consumers.iter().all(is), Relaxed);
                // Under load a consumer does not sleep on the queue, so nobody has to wake it.
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }
}

/// A loop that does the least.
struct Bare {
    measured: Measured,
    _threads: Threads,
    _server: Option<(Server, tempfile::TempDir)>,
}

impl Bare {
    fn start(
        mut turn: impl FnMut(Duration) -> std::io::Result<u32> + Send + 'static,
        server: Option<(Server, tempfile::TempDir)>,
    ) -> Result<Self, String> {
        let mut threads = Threads::default();
        let through = Arc::new(AtomicU64::new(0));
        let (stop, counter) = (Arc::clone(&threads.stop), Arc::clone(&through));
        let (time, handle) = thread(move || {
            while !stop.load(Relaxed) {
                match turn(Duration::from_millis(50)) {
                    Ok(count) => counter.store(counter.load(Relaxed) + u64::from(count), Relaxed),
                    Err(error) => return eprintln!("bench: {error}"),
                }
            }
        })?;
        threads.handles.push(handle);
        Ok(Self { measured: Measured::new(time, through), _threads: threads, _server: server })
    }

    fn xdp(interface: &str) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let name = XdpName { interface: interface.to_owned(), queue: None };
        let sizes = XdpOptions::for_queues(name.queues().map_err(|e| e.to_string())?);
        let mut options = ServerOptions::new(dir.path().to_owned(), CLUSTER + 1, vec![1]);
        options.working_set += sizes.frames(1);
        let (server, mut producers) = Server::bind(options, [6; 16]).map_err(|e| e.to_string())?;
        let mut producer = producers.remove(0);
        let loans = producer.lend(u32::MAX);
        let mut bare = BareXdp::open(interface, sizes, &producer.memory(), loans)
            .map_err(|e| e.to_string())?;
        Self::start(move |timeout| bare.turn(timeout), Some((server, dir)))
    }

    fn packet(interface: &str) -> Result<Self, String> {
        let mut bare = BarePacket::open(interface).map_err(|e| e.to_string())?;
        Self::start(move |timeout| bare.turn(timeout), None)
    }
}
