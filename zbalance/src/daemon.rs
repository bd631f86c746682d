//! From start to end: sources, queues, control socket, statistics, signals.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use packet::hash::SymmetricHash;
use parking_lot::Mutex;
use shm::{Event, QueueStatus, Server, ServerError, ServerOptions};
use signalling::station::{
    FileResult, InterfaceStatus, QueueStatus as QueueMessage, ZbalanceStatus, status_reply::Detail,
};
use telemetry::admin::{self, DaemonStatus, Identification};
use telemetry::process::{self, Exit, Signal, Signals};

use crate::arguments::Arguments;
use crate::format::{Details, Snapshot, count, rate};
use crate::ingest::{Counters, Ingest, VlanFilter};
use crate::terminal::{self, READY};

/// Longest wait on the control socket.
const POLL: Duration = Duration::from_millis(50);
/// Time that consumers have to read what is queued at the end.
const DRAIN: Duration = Duration::from_millis(200);
/// Time that consumers have to attach before a capture file is played.
const ATTACH: Duration = Duration::from_secs(10);

/// Why the balancer cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A source cannot be opened.
    #[error(transparent)]
    Source(#[from] capture::OpenError),
    /// The queues cannot be made.
    #[error(transparent)]
    Queues(#[from] ServerError),
    /// The pid file cannot be written.
    #[error("pid file {path}: {cause}", path = path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// An ingest thread cannot have its CPU.
    #[error(
        "cannot bind the ingest thread of {source_name} to CPU {core} ({cause}); this process may \
         use CPUs {allowed}: choose with -g, or -g -1 to leave it unbound"
    )]
    Cpu {
        /// The thread's source.
        source_name: String,
        /// The CPU.
        core: usize,
        /// CPUs that the process may use.
        allowed: String,
        /// Why.
        cause: io::Error,
    },
    /// The log file cannot be made.
    #[error("log file {path}: {cause}", path = path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The operating system refuses something every process has.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    const fn exit(&self) -> Exit {
        match self {
            Self::Source(capture::OpenError::Permission { .. }) => Exit::NoPerm,
            Self::Source(capture::OpenError::Name(_)) => Exit::Usage,
            Self::Source(_) => Exit::Unavailable,
            Self::Queues(ServerError::InUse { .. }) => Exit::Unavailable,
            Self::Queues(_) | Self::Cpu { .. } | Self::System(_) => Exit::OsErr,
            Self::PidFile { .. } | Self::Log { .. } => Exit::CantCreat,
        }
    }
}

/// Runs the balancer until it is told to end.
pub fn main(mut arguments: Arguments) -> Exit {
    // In the background this process is in another folder when it removes the file.
    arguments.pid_file = arguments.pid_file.map(|path| std::path::absolute(&path).unwrap_or(path));
    if !terminal::is_background() {
        for notice in arguments.foreign.notices() {
            eprintln!("zbalance: {notice}");
        }
        if arguments.daemon && !arguments.check_config {
            return terminal::start_background().unwrap_or_else(|error| {
                eprintln!("zbalance: ERROR: cannot go into the background: {error}");
                Exit::OsErr
            });
        }
    }
    if let Err(error) = telemetry::metrics::check_environment("zbalance") {
        eprintln!("zbalance: ERROR: {error}");
        return Exit::Config;
    }
    match run(&arguments) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            eprintln!("zbalance: ERROR: {error}");
            error.exit()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), StartError> {
    let sources = arguments
        .interfaces
        .iter()
        .map(|name| Ok((name.clone(), capture::open(name)?)))
        .collect::<Result<Vec<_>, capture::OpenError>>()?;
    let online = online();
    check_cores(arguments, online)?;
    if arguments.check_config {
        println!("zbalance: {} source(s) open, configuration good", sources.len());
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = Arc::new(AtomicBool::new(false));
    runtime.spawn(obey(runtime.block_on(async { Signals::install() })?, Arc::clone(&stop)));

    let mut options =
        ServerOptions::new(admin::ipc_dir(), arguments.cluster, arguments.queues.clone());
    options.slots = arguments.slots.next_power_of_two();
    options.producers = u32::try_from(sources.len()).unwrap_or(u32::MAX);
    let (server, producers) = Server::bind(options, rand::random())?;
    // Now the cluster is this process's, and so are its files.
    let log = match &arguments.log {
        Some(path) => Some(
            terminal::open_log(path)
                .map_err(|cause| StartError::Log { path: path.clone(), cause })?,
        ),
        None => None,
    };
    if let Some(path) = &arguments.pid_file {
        std::fs::write(path, format!("{}\n", std::process::id()))
            .map_err(|cause| StartError::PidFile { path: path.clone(), cause })?;
    }
    let balancer = Arc::new(Balancer {
        sets: arguments.queues.clone(),
        cluster: arguments.cluster,
        per_queue: arguments.per_queue,
        start: Instant::now(),
        sources: sources.iter().map(|(name, _)| (name.clone(), Counters::default())).collect(),
        latest: Mutex::default(),
        stop: Arc::clone(&stop),
    });
    {
        let _runtime = runtime.enter();
        let path = admin::socket_path(&admin::ipc_dir(), "zbalance", 0);
        let command_line: Vec<String> = std::env::args().collect();
        let who = Identification::new(
            "zbalance",
            env!("CARGO_PKG_VERSION"),
            command_line.join(" ").as_bytes(),
        );
        if let Err(error) = admin::serve(&path, Arc::clone(&balancer), who) {
            eprintln!("zbalance: WARNING: no admin service: {error}");
        }
    }
    let queues: u32 = arguments.queues.iter().sum();
    println!("zbalance: Starting balancer with {queues} consumer queues..");
    let hash = SymmetricHash::new(rand::random());
    let go = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for (index, ((name, source), producer)) in sources.into_iter().zip(producers).enumerate() {
        let ingest = Ingest {
            name,
            source,
            interface: u16::try_from(index).unwrap_or(u16::MAX),
            producer,
            mode: arguments.mode,
            sets: arguments.queues.clone(),
            hash,
            vlans: VlanFilter::new(&arguments.vlans),
            active: arguments.active,
        };
        let core = arguments.core(index, online);
        let (balancer, stop, go) = (Arc::clone(&balancer), Arc::clone(&stop), Arc::clone(&go));
        let thread = std::thread::Builder::new().name(format!("ingest-{index}"));
        threads.push(thread.spawn(move || {
            if let Err(error) = pin(core) {
                // It was possible a moment ago: somebody has just taken the CPU away.
                eprintln!("zbalance: WARNING: {}: no longer bound: {error}", ingest.name);
            }
            let mut ingest = ingest;
            while !go.load(Ordering::Acquire) && !stop.load(Ordering::Relaxed) {
                ingest.producer.tick();
                std::thread::sleep(Duration::from_millis(5));
            }
            ingest.run(&balancer.sources[index].1, &stop);
        })?);
    }
    process::notify("READY=1");
    let ready = format!("{READY}, cluster {}, mode {}", arguments.cluster, arguments.mode);
    println!("{ready}");
    // What could go wrong with the start was said where it was started.
    if terminal::is_background() {
        terminal::leave(log.as_ref())?;
    } else if let Some(log) = &log {
        terminal::print_to(log)?;
    }
    if log.is_some() {
        println!("{ready}");
    }
    let server = serve(server, arguments, &balancer, &go, &stop);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        // A thread that panicked has said so; the others still have to end.
        let _ = thread.join();
    }
    finish(server, arguments, &balancer);
    Ok(())
}

/// Turns signals into the end of the process. SIGHUP changes nothing: there is nothing to reload.
async fn obey(mut signals: Signals, stop: Arc<AtomicBool>) {
    while signals.next().await == Signal::Reload {}
    stop.store(true, Ordering::Relaxed);
}

/// Binds the calling thread to a CPU.
fn pin(core: Option<usize>) -> io::Result<()> {
    let Some(core) = core else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// CPUs that the scheduler may give to this process, as the kernel writes them.
fn allowed() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    list.map_or_else(|| "unknown".to_owned(), |list| list.trim().to_owned())
}

/// Binds a thread that does nothing else to each CPU, to know now whether it will be possible.
fn check_cores(arguments: &Arguments, online: usize) -> Result<(), StartError> {
    for (index, name) in arguments.interfaces.iter().enumerate() {
        let Some(core) = arguments.core(index, online) else { continue };
        let tried = std::thread::spawn(move || pin(Some(core))).join();
        if let Err(cause) = tried.unwrap_or_else(|_| Err(io::ErrorKind::Other.into())) {
            let (source_name, allowed) = (name.clone(), allowed());
            return Err(StartError::Cpu { source_name, core, allowed, cause });
        }
    }
    Ok(())
}

/// CPUs that are online, over which `-g` wraps around.
fn online() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?)
    };
    let counted: Option<usize> = text.trim().split(',').map(count).sum();
    counted
        .filter(|count| *count > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Serves the control socket until it is time to stop or all capture files have ended.
fn serve(
    mut server: Server,
    arguments: &Arguments,
    balancer: &Balancer,
    go: &AtomicBool,
    stop: &AtomicBool,
) -> Server {
    let files = arguments.interfaces.iter().any(|name| name.starts_with("pcap:"));
    let earliest = Instant::now() + Duration::from_secs(arguments.wait.min(10));
    let latest = Instant::now() + if files { ATTACH } else { Duration::ZERO };
    let stats = admin::ipc_dir().join("stats").join(arguments.cluster.to_string());
    let mut tick = Instant::now();
    let mut before = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        for event in server.poll(POLL, &mut |queues| balancer.json(queues)) {
            report(&event);
        }
        let queues = server.queues();
        let attached = queues.iter().all(|queue| queue.consumer.is_some());
        let now = Instant::now();
        if now >= earliest && (now >= latest || attached) {
            go.store(true, Ordering::Release);
        }
        balancer.note(queues);
        if balancer.sources.iter().all(|(_, c)| c.ended.load(Ordering::Acquire)) {
            break;
        }
        if tick.elapsed() >= Duration::from_secs(1) {
            tick = now;
            let snapshot = balancer.snapshot();
            write_statistics(&stats, &snapshot.text());
            if arguments.verbose && !arguments.silent {
                let seconds = (now - before.0).as_secs_f64();
                let pps = (snapshot.received - before.1) as f64 / seconds;
                println!("zbalance: {} pkts, {} pps", count(snapshot.received as f64), rate(pps));
                before = (now, snapshot.received);
            }
        }
    }
    server
}

fn report(event: &Event) {
    match event {
        Event::Attached { queue, pid, .. } => {
            println!("zbalance: queue {queue}: consumer {pid} attached");
        }
        Event::Detached { queue, pid, corrupt } => {
            let why = if *corrupt { " (it broke the ring)" } else { "" };
            println!("zbalance: queue {queue}: consumer {pid} is gone{why}");
        }
        other => println!("zbalance: {other:?}"),
    }
}

/// Replaces the statistics file at once, so that no reader sees half of it.
fn write_statistics(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    let written = path
        .parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| std::fs::write(&fresh, text))
        .and_then(|()| std::fs::rename(&fresh, path));
    // The same numbers are on the control and admin sockets.
    drop(written);
}

/// Lets consumers read what is queued and prints the final statistics.
fn finish(mut server: Server, arguments: &Arguments, balancer: &Balancer) {
    server.drain(DRAIN);
    balancer.note(server.queues());
    let text = balancer.snapshot().text();
    let stats = admin::ipc_dir().join("stats").join(arguments.cluster.to_string());
    write_statistics(&stats, &text);
    print!("{text}");
    if let Some(path) = &arguments.pid_file {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(path);
    }
}

/// What is shared between threads, and shown to the operator.
#[derive(Debug)]
struct Balancer {
    cluster: u32,
    sets: Vec<u32>,
    per_queue: bool,
    start: Instant,
    sources: Vec<(String, Counters)>,
    latest: Mutex<Counts>,
    stop: Arc<AtomicBool>,
}

/// Counters of inputs and queues that were read together, so that they can be compared.
#[derive(Debug, Clone, Default)]
struct Counts {
    received: u64,
    /// Lost before this program saw them.
    lost: u64,
    queues: Vec<QueueStatus>,
}

impl Counts {
    fn forwarded(&self) -> u64 {
        self.queues.iter().map(|q| q.enqueued).sum()
    }
}

/// Frames that a queue did not get.
const fn dropped(queue: &QueueStatus) -> u64 {
    queue.dropped_full + queue.dropped_quota + queue.no_frame
}

impl Balancer {
    /// Reads the counters of the inputs and keeps them with those of the queues.
    fn note(&self, queues: Vec<QueueStatus>) {
        let sum = |read: fn(&Counters) -> &AtomicU64| {
            self.sources.iter().map(|(_, c)| read(c).load(Ordering::Relaxed)).sum()
        };
        let (received, lost) = (sum(|c| &c.received), sum(|c| &c.dropped));
        *self.latest.lock() = Counts { received, lost, queues };
    }

    fn snapshot(&self) -> Snapshot {
        let counts = self.latest.lock();
        Snapshot {
            cluster: self.cluster,
            sets: self.sets.clone(),
            duration: self.start.elapsed(),
            received: counts.received,
            forwarded: counts.forwarded(),
            processed: counts.queues.iter().map(|q| q.processed).sum(),
            details: self.per_queue.then(|| Details {
                interface: (counts.received, counts.lost),
                queues: counts.queues.iter().map(|q| (q.processed, dropped(q))).collect(),
            }),
        }
    }

    /// The answer to a monitor of the control socket.
    fn json(&self, queues: &[QueueStatus]) -> String {
        let interfaces: Vec<_> = self
            .sources
            .iter()
            .map(|(name, c)| {
                serde_json::json!({
                    "name": name,
                    "received": c.received.load(Ordering::Relaxed),
                    "dropped": c.dropped.load(Ordering::Relaxed),
                    "filtered": c.filtered.load(Ordering::Relaxed),
                    "reopened": c.reopened.load(Ordering::Relaxed),
                    "down": c.down.load(Ordering::Relaxed),
                })
            })
            .collect();
        let queues: Vec<_> = queues
            .iter()
            .map(|q| {
                serde_json::json!({
                    "queue": q.queue,
                    "set": q.set,
                    "consumer": q.consumer,
                    "enqueued": q.enqueued,
                    "processed": q.processed,
                    "outstanding": q.outstanding,
                    "dropped_full": q.dropped_full,
                    "dropped_quota": q.dropped_quota,
                    "no_consumer": q.no_consumer,
                    "no_frame": q.no_frame,
                    "heartbeat_age_ms": q.heartbeat_age_ms,
                    "hung": q.hung,
                })
            })
            .collect();
        serde_json::json!({
            "cluster": self.cluster,
            "uptime_ms": u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            "interfaces": interfaces,
            "queues": queues,
        })
        .to_string()
    }
}

impl admin::Daemon for Balancer {
    fn status(&self) -> DaemonStatus {
        let counts = self.latest.lock().clone();
        let down = self.sources.iter().filter(|(_, c)| c.down.load(Ordering::Relaxed));
        let notes: Vec<String> = down.map(|(name, _)| format!("{name}: down, retrying")).collect();
        DaemonStatus {
            state: if notes.is_empty() { "ready" } else { "degraded" }.to_owned(),
            notes,
            detail: Some(Detail::Zbalance(ZbalanceStatus {
                received: counts.received,
                forwarded: counts.forwarded(),
                dropped: counts.lost + counts.queues.iter().map(dropped).sum::<u64>(),
                queues: counts
                    .queues
                    .iter()
                    .map(|q| QueueMessage {
                        set: q.set,
                        queue: q.queue,
                        attached: q.consumer.is_some(),
                        enqueued: q.enqueued,
                        dropped: dropped(q),
                        processed: q.processed,
                        outstanding: q.outstanding,
                        dropped_full: q.dropped_full,
                        dropped_quota: q.dropped_quota,
                        no_consumer: q.no_consumer,
                        no_frame: q.no_frame,
                        heartbeat_age_seconds: q.heartbeat_age_ms.unwrap_or(0) as f64 / 1000.0,
                        hung: q.hung,
                    })
                    .collect(),
                cluster: self.cluster,
                interfaces: self
                    .sources
                    .iter()
                    .map(|(name, c)| InterfaceStatus {
                        interface: name.clone(),
                        received: c.received.load(Ordering::Relaxed),
                        dropped: c.dropped.load(Ordering::Relaxed),
                        filtered: c.filtered.load(Ordering::Relaxed),
                        reopened: c.reopened.load(Ordering::Relaxed),
                        down: c.down.load(Ordering::Relaxed),
                    })
                    .collect(),
            })),
        }
    }

    async fn reload(&self) -> Vec<FileResult> {
        Vec::new()
    }

    fn drain(&self, _: Duration) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_that_is_not_there_is_refused() {
        let online = online();
        assert!(online > 0);
        for core in [rustix::thread::CpuSet::MAX_CPU - 1, usize::MAX] {
            let cause = std::thread::spawn(move || pin(Some(core))).join().unwrap().unwrap_err();
            let source_name = "afp:tap0".to_owned();
            let error = StartError::Cpu { source_name, core, allowed: allowed(), cause };
            assert!(error.to_string().contains("-g"), "{error}");
            assert!(!allowed().is_empty() && allowed() != "unknown");
        }
    }
}
