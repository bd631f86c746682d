//! The daemon: parts, threads, signals.

use crate::arguments::{self, Arguments, Request};
use crate::candidates::{Bell, Candidates};
use crate::checker::{Checkers, Inlet};
use crate::clock::Clock;
use crate::counters::Counters;
use crate::crew::{self, End, OpenSource, Post, Recipe};
use crate::feed::{Feed, Holder};
use crate::log::{self, Level};
use crate::opening::{Opened, confine};
use crate::outlets::{Outlets, PacketSink};
use crate::pending::Pending;
use crate::replay::{Progress, Summary};
use crate::report::{FIFO_DIR, Reporter};
use crate::sessions::Sessions;
use crate::settings::{Environment, Settings};
use crate::source::{self, FrameSource, SourceState};
use crate::status::Desk;
use crate::succession;
use crate::worker::Shared;
use arc_swap::ArcSwap;
use bus::{Publisher, PublisherOptions};
use handover::{Channel, Host, Inherited};
use session::watch::{DetectorId, Watch};
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use telemetry::admin::{self, Identification};
use telemetry::output::{self, Priority, Stream};
use telemetry::process::{self, Exit, Reloads, Signal, Signals};
use tokio::sync::{Notify, mpsc};

/// How long readiness waits for the sources of packets.
const FIRST_SOURCES: Duration = Duration::from_millis(500);
/// How often is looked whether they are there.
const LOOK: Duration = Duration::from_millis(2);
/// How long the first packet waits for the first snapshot (`spec/channels.md` 1, rule 4).
const FIRST_SNAPSHOT: Duration = Duration::from_millis(500);
/// How often expired sessions are removed.
const SWEEP: Duration = Duration::from_millis(100);
/// A killed predecessor may hold its sockets for this long.
const PREDECESSOR: Duration = Duration::from_secs(2);
/// How long what is published may take to leave at the end.
const LINGER: Duration = Duration::from_secs(1);

/// Why the daemon ends, other than well.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    text: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl ToString) -> Self {
        Self { exit, text: text.to_string() }
    }
}

/// Runs the detector with the `words` of its command line to its end.
pub fn main(words: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments = match arguments::parse(words) {
        Ok(Request::Run(arguments)) => *arguments,
        Ok(Request::Help) => {
            print!("{}", arguments::HELP);
            return Exit::Ok;
        }
        Ok(Request::Version) => {
            println!("detector {}", env!("CARGO_PKG_VERSION"));
            return Exit::Ok;
        }
        Err(error) => {
            eprintln!("detector: {error}");
            return Exit::Usage;
        }
    };
    match start(arguments) {
        Ok(()) => Exit::Ok,
        Err(Failure { exit, text }) => {
            log::problem(Priority::Critical, format_args!("detector: {text}"));
            exit
        }
    }
}

/// Asks the detector that runs with these `words` for its state.
pub fn health(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words = words.into_iter().filter(|word| word != "--health" && word != "-health");
    let offset = match arguments::parse(words) {
        Ok(Request::Run(arguments)) => u32::try_from(arguments.queue_offset).unwrap_or(u32::MAX),
        // Nothing else is needed to find it.
        _ => 0,
    };
    let path = admin::socket_path(&admin::ipc_dir(), "detector", offset);
    Exit::of_health("detector", process::health(&path))
}

fn start(arguments: Arguments) -> Result<(), Failure> {
    let format =
        output::Format::of_environment().map_err(|error| Failure::new(Exit::Config, error))?;
    output::start("detector", format);
    let environment = Environment::of_process();
    let settings = Settings::load(&arguments, &environment)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    telemetry::metrics::check_environment("detector")
        .map_err(|error| Failure::new(Exit::Config, error))?;
    for notice in arguments.notices.iter().chain(&settings.notices) {
        log::problem(Priority::Warning, format_args!("detector: {notice}"));
    }
    if arguments.recording().is_none() {
        report_own_addresses(&settings);
    }
    let cpus = cpus(&arguments)?;
    if arguments.check_config {
        println!("configuration is good");
        return Ok(());
    }
    telemetry::privacy::set_log_client_ip(settings.log_client_ip);
    telemetry::process::raise_nofile_limit();
    announce_keys(&settings);
    let (mut inherited, predecessor) = if arguments.take_over {
        let socket = succession::socket(arguments.queue_offset);
        let taken = handover::take_over("detector", &socket).and_then(|(inherited, channel)| {
            handover::steps::begin(&channel)?;
            Ok((inherited, Some(channel)))
        });
        taken.map_err(|error| Failure::new(Exit::Unavailable, error))?
    } else {
        (Inherited::of_manager(), None)
    };
    let opened = Opened::open(&arguments, &mut inherited)?;
    inherited.dismiss();
    confine(&arguments, &settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::OsErr, error))?;
    runtime.block_on(async {
        let config_named = environment.config.is_some();
        Detector::build(arguments, settings, config_named, &cpus, opened, predecessor)
            .await?
            .run(cpus)
            .await
    })
}

/// Warns about addresses of this host that the filter list does not have.
fn report_own_addresses(settings: &Settings) {
    // Without the addresses there is nothing to compare; packets flow all the same.
    for address in settings.filter.own_addresses_missing().unwrap_or_default() {
        eprintln!(
            "detector: {}: detector_filter_list lacks {address}, an address of this host: its \
             probes of phantoms would be forwarded like a client's; add it",
            settings.config.display()
        );
    }
}

fn announce_keys(settings: &Settings) {
    let keys = settings.checker.keys();
    log::plain(format_args!("{} private keys", keys.len()));
    log::plain("Using public keys: ");
    for (i, key) in keys.iter().enumerate() {
        let hex: String = key.public().iter().map(|byte| format!("{byte:02x}")).collect();
        log::plain(format_args!("Key {i}: {hex}"));
    }
    log::plain("");
}

/// CPU of each worker; none at all for a replay, which takes what it gets.
fn cpus(arguments: &Arguments) -> Result<Vec<usize>, Failure> {
    let placement = conf::Placement {
        core_base: arguments.core_base,
        core_count: arguments.workers,
        skip_core: arguments.skip_core,
        queue_offset: arguments.queue_offset,
        tun_offset: arguments.queue_offset,
    };
    let wanted = placement.cores();
    if arguments.recording().is_some() || arguments.allow_unpinned {
        return Ok(wanted);
    }
    let allowed = crew::allowed_cpus();
    let missing: Vec<usize> = wanted.iter().copied().filter(|cpu| !allowed.contains(cpu)).collect();
    if missing.is_empty() {
        return Ok(wanted);
    }
    Err(Failure::new(
        Exit::Config,
        format_args!(
            "workers need the CPUs {wanted:?}, and {missing:?} are not available here \
             (available: {allowed:?}); change -o, -n or -s, or give --allow-unpinned"
        ),
    ))
}

/// The parts of a running detector.
struct Detector {
    desk: Arc<Desk>,
    checkers: Arc<Checkers>,
    pending: Arc<Pending>,
    sinks: Vec<Arc<dyn PacketSink>>,
    /// The source of the first worker, when it is not a queue.
    source: Option<Box<dyn FrameSource>>,
    /// The running detector, when this one is its successor.
    predecessor: Option<Channel>,
    /// Devices and sockets for a successor, by name.
    devices: Vec<(String, OwnedFd)>,
    tunnel_offset: usize,
    clock: Clock,
    stop: Arc<AtomicBool>,
}

impl Detector {
    async fn build(
        arguments: Arguments,
        settings: Settings,
        config_named: bool,
        cpus: &[usize],
        opened: Opened,
        predecessor: Option<Channel>,
    ) -> Result<Self, Failure> {
        let replay = arguments.recording().is_some();
        let clock = if replay { Clock::Standing } else { Clock::default() };
        let sessions = Arc::new(Sessions::new());
        let pending = Arc::new(Pending::default());
        let bell = Arc::new(Bell::default());
        let queues = arguments.queue_offset..arguments.queue_offset + arguments.workers;
        let Opened { sinks, source, mut devices, publisher: socket } = opened;
        let publisher = match arguments.endpoint() {
            Some(endpoint) => Some(bind(endpoint, socket, predecessor.is_some()).await?),
            None => None,
        };
        let publisher = publisher.map(Arc::new);
        if let Some(publisher) = &publisher {
            // Out of descriptors: the successor binds it itself.
            let copy = publisher.listener().try_clone_to_owned();
            devices.extend(copy.map(|copy| ("zmq".to_owned(), copy)));
        }
        let post = |(index, queue): (usize, usize)| {
            Arc::new(Post {
                index,
                queue,
                cpu: cpus[index],
                counters: Arc::default(),
                restarts: 0.into(),
                state: SourceState::default().into(),
                beats: 0.into(),
                ended: false.into(),
                packed: parking_lot::Mutex::default(),
            })
        };
        let posts: Vec<Arc<Post>> = queues.enumerate().map(post).collect();
        let inlet = |post: &Arc<Post>| Inlet {
            candidates: Arc::new(Candidates::new(Arc::clone(&bell))),
            counters: Arc::clone(&post.counters),
        };
        let inlets: Vec<Inlet> = posts.iter().map(inlet).collect();
        let holders = posts
            .iter()
            .zip(&sinks)
            .map(|(post, sink)| Holder {
                sink: Arc::clone(sink),
                counters: Arc::clone(&post.counters),
            })
            .collect();
        let feed = Arc::new(Feed::new(Arc::clone(&sessions), Arc::clone(&pending), clock, holders));
        let (watch, redis) = channels(&arguments, &settings, replay, &feed);
        let checker = Arc::new(ArcSwap::from_pointee(settings.checker));
        let bus = publisher.clone();
        let publish = Box::new(move |message: Vec<u8>| {
            if let Some(publisher) = &bus {
                publisher.publish(message.into());
            }
        });
        let checkers = Arc::new(Checkers::new(Arc::clone(&checker), inlets.clone(), bell, publish));
        let desk = Arc::new(Desk {
            arguments,
            config: settings.config,
            config_named,
            posts,
            inlets,
            sessions,
            filter: Arc::new(ArcSwap::from_pointee(settings.filter)),
            checker,
            watch,
            redis,
            publisher,
            leave: Arc::new(Notify::new()),
            handing: Arc::default(),
            reloads: Reloads::default(),
            channels: settings.channels,
        });
        let stop = Arc::new(AtomicBool::new(false));
        let tunnel_offset = settings.tunnel_offset;
        Ok(Self {
            desk,
            checkers,
            pending,
            sinks,
            source,
            predecessor,
            devices,
            tunnel_offset,
            clock,
            stop,
        })
    }

    async fn run(mut self, cpus: Vec<usize>) -> Result<(), Failure> {
        let mut signals = Signals::install().map_err(|e| Failure::new(Exit::OsErr, e))?;
        let _admin = self.serve_admin();
        let replay = self.desk.arguments.recording().is_some();
        if !replay && !self.desk.watch.first_snapshot(FIRST_SNAPSHOT).await {
            let state = self.desk.watch.describe();
            log::plain(format_args!("session channel: {state}"));
        }
        let mut sources = match self.predecessor.take() {
            Some(channel) => succession::follow(&self.desk, channel)?,
            None => HashMap::new(),
        };
        let started = Instant::now();
        let checkers = self.start_checkers();
        let (ends_in, mut ends) = mpsc::unbounded_channel();
        let mut workers = Vec::new();
        for (post, cpu) in self.desk.posts.iter().zip(cpus) {
            let first = self.source.take().or_else(|| sources.remove(&post.queue));
            workers.push(self.start_worker(post, cpu, first, ends_in.clone())?);
        }
        drop(ends_in);
        let sweeper = tokio::spawn(sweep(Arc::clone(&self.desk.sessions), self.clock));
        let reporter = tokio::spawn(report(Arc::clone(&self.desk)));
        let desk = Arc::clone(&self.desk);
        let progress = self.desk.arguments.recording().and_then(|recording| {
            Progress::show(recording, move || desk.posts[0].counters.snapshot())
        });
        if !replay {
            self.sources_attached().await;
        }
        let guard = tokio::spawn(process::watchdog(crew::all_move(self.desk.posts.clone())));
        let mut superseded = self.wait_for_successor();
        if output::is_reference() {
            tokio::spawn(tell_of_broken_pipes());
        }
        process::ready("detecting");
        let outcome = self.attend(&mut signals, &mut ends, &mut superseded).await;
        process::stopping();
        guard.abort();
        log::reference(Stream::Err, "PF_RING Tapdance shutting down...");
        self.stop.store(true, Ordering::Relaxed);
        sweeper.abort();
        reporter.abort();
        self.finish(workers, checkers, replay).await;
        drop(progress);
        if replay {
            let counters = self.desk.posts[0].counters.snapshot();
            println!("{}", Summary { counters, seconds: started.elapsed().as_secs_f64() });
        }
        log::reference(Stream::Err, "PF_RING Tapdance done shutting down!");
        outcome
    }

    /// Waits until every worker has its source, so that being ready means seeing packets; a source
    /// that is not there yet holds the start up only for a moment.
    async fn sources_attached(&self) {
        let limit = Instant::now() + FIRST_SOURCES;
        let attached =
            || self.desk.posts.iter().all(|post| *post.state.lock() == SourceState::Attached);
        while !attached() && Instant::now() < limit {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The admin socket is a convenience; without it the detector does its work.
    fn serve_admin(&self) -> Option<tokio::task::JoinHandle<()>> {
        if self.desk.arguments.recording().is_some() {
            return None;
        }
        let offset = u32::try_from(self.desk.arguments.queue_offset).unwrap_or(u32::MAX);
        let path = admin::socket_path(&admin::ipc_dir(), "detector", offset);
        let configuration = std::fs::read(&self.desk.config).unwrap_or_default();
        let who = Identification::new("detector", env!("CARGO_PKG_VERSION"), &configuration);
        match admin::serve(&path, Arc::clone(&self.desk), who) {
            Ok(task) => Some(task),
            Err(error) => {
                log::problem(Priority::Warning, format_args!("detector: {error}"));
                None
            }
        }
    }

    fn start_checkers(&self) -> Vec<JoinHandle<()>> {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.desk.posts.len();
        let count = self.desk.arguments.checkers.unwrap_or(workers.min(cpus)).max(1);
        (0..count)
            .filter_map(|index| {
                let checkers = Arc::clone(&self.checkers);
                let thread = std::thread::Builder::new().name(format!("checker-{index}"));
                let run = move || {
                    while catch_unwind(AssertUnwindSafe(|| checkers.run(index))).is_err() {
                        let text =
                            format_args!("detector: checker {index} failed, starting it again");
                        log::problem(Priority::Error, text);
                        std::thread::sleep(SWEEP);
                    }
                };
                thread.spawn(run).ok()
            })
            .collect()
    }

    fn start_worker(
        &self,
        post: &Arc<Post>,
        cpu: usize,
        first: Option<Box<dyn FrameSource>>,
        ends: mpsc::UnboundedSender<(usize, End)>,
    ) -> Result<JoinHandle<()>, Failure> {
        let arguments = &self.desk.arguments;
        let open = opener(arguments, post.queue);
        let recipe = Recipe {
            post: Arc::clone(post),
            open,
            outlets: self.outlets(post),
            shared: Shared {
                sessions: Arc::clone(&self.desk.sessions),
                filter: Arc::clone(&self.desk.filter),
                counters: Arc::clone(&post.counters),
            },
            tunnel_offset: self.tunnel_offset,
            clock: self.clock,
            stop: Arc::clone(&self.stop),
            handing: Arc::clone(&self.desk.handing),
        };
        let ended = Arc::clone(post);
        let pinned = arguments.recording().is_none();
        let (index, queue, allow) = (post.index, post.queue, arguments.allow_unpinned);
        log::plain(format_args!("Starting process {index}..."));
        // In the reference a worker without zero copy is one that has an interface of its own.
        let (kind, tapdance) = match &arguments.source {
            None => ("zero-copy", "Zero-copy TapDance"),
            Some(_) => ("NON-zero-copy", "NON-zero-copy TapDance"),
        };
        let run = move || {
            if let (true, Err(error)) = (pinned, crew::pin(cpu)) {
                let text = format_args!("Error binding to core {cpu}: {error}");
                log::line(queue, if allow { Level::Warn } else { Level::Error }, text);
                if !allow {
                    let _ = ends.send((index, End::GivenUp));
                    return;
                }
            }
            let pid = std::process::id();
            log::reference(Stream::Out, format_args!(">>> Child proc {cpu} created"));
            log::plain(format_args!("Core {queue}: PID {pid}, lcore {cpu}"));
            log::reference(Stream::Out, format_args!(">>>> starting core {queue}"));
            let started = format_args!("{tapdance} child proc started on core {queue}!");
            log::reference(Stream::Out, started);
            log::line(queue, Level::Debug, "reset");
            log::line(queue, Level::Debug, format_args!("gre_offset: {}", recipe.tunnel_offset));
            log::line(queue, Level::Debug, format_args!("Initialized rust core {queue}"));
            let end = recipe.supervise(first);
            ended.ended.store(true, Ordering::Release);
            log::reference(
                Stream::Err,
                format_args!("PF_RING {kind} Tapdance child process shut down"),
            );
            let how = if end == End::GivenUp { "killed by signal 6" } else { "exited, status=0" };
            log::reference(Stream::Out, format_args!("...child proc {index} {how}"));
            // The receiver is gone when the daemon leaves for another reason.
            let _ = ends.send((index, end));
        };
        std::thread::Builder::new()
            .name(format!("worker-{queue}"))
            .spawn(run)
            .map_err(|error| Failure::new(Exit::OsErr, error))
    }

    /// A maker of exits; a worker that is started again gets new ones.
    fn outlets(&self, post: &Post) -> Box<dyn Fn() -> Outlets + Send + Sync> {
        let (worker, queue) = (post.index, post.queue);
        let sink = Arc::clone(&self.sinks[worker]);
        let candidates = Arc::clone(&self.desk.inlets[worker].candidates);
        let (pending, sessions) = (Arc::clone(&self.pending), Arc::clone(&self.desk.sessions));
        let patient = self.desk.arguments.recording().is_some();
        Box::new(move || Outlets {
            worker,
            queue,
            sink: Arc::clone(&sink),
            candidates: Arc::clone(&candidates),
            pending: Arc::clone(&pending),
            sessions: Arc::clone(&sessions),
            patient,
            failing: false,
        })
    }

    /// Waits for a reason to leave.
    async fn attend(
        &self,
        signals: &mut Signals,
        ends: &mut mpsc::UnboundedReceiver<(usize, End)>,
        superseded: &mut mpsc::Receiver<std::io::Result<()>>,
    ) -> Result<(), Failure> {
        let broken = |error| {
            let text =
                format_args!("the successor broke off, and the workers have stopped: {error}");
            Failure::new(Exit::Software, text)
        };
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Reload => self.reload(),
                    Signal::Interrupt | Signal::Terminate => return Ok(()),
                },
                () = self.desk.leave.notified() => return Ok(()),
                Some(given) = superseded.recv() => return given.map_err(broken),
                end = ends.recv(), if !self.desk.handing.load(Ordering::Relaxed) => match end {
                    Some((index, End::GivenUp)) => {
                        let text = format_args!("worker {index} could not be kept alive");
                        return Err(Failure::new(Exit::Software, text));
                    }
                    Some(_) => {}
                    None if self.desk.handing.load(Ordering::Relaxed) => {}
                    // All workers have come to the end of their source.
                    None => return Ok(()),
                },
            }
        }
    }

    /// Offers devices and queues to a successor, and the devices to the service manager. What comes out is how
    /// that went.
    fn wait_for_successor(&mut self) -> mpsc::Receiver<std::io::Result<()>> {
        let (tell, told) = mpsc::channel(1);
        if self.desk.arguments.recording().is_some() {
            return told;
        }
        let devices = std::mem::take(&mut self.devices);
        handover::store(&devices);
        let host = match Host::bind(&succession::socket(self.desk.arguments.queue_offset), devices)
        {
            Ok(host) => host,
            Err(error) => {
                let text = format_args!("detector: no upgrade without restart: {error}");
                log::problem(Priority::Warning, text);
                return told;
            }
        };
        let (desk, stop) = (Arc::clone(&self.desk), Arc::clone(&self.stop));
        let runtime = tokio::runtime::Handle::current();
        let wait = move || {
            let _context = runtime.enter();
            while let Ok((channel, pid)) = host.wait() {
                if let Ok(given) = succession::serve(&desk, &stop, channel, pid) {
                    // The receiver is gone when this process leaves for another reason.
                    let _ = tell.blocking_send(given);
                    return;
                }
            }
        };
        // A process without threads left does not hand over.
        let _ = std::thread::Builder::new().name("handover".to_owned()).spawn(wait);
        told
    }

    fn reload(&self) {
        for result in self.desk.reload_now() {
            if result.applied && result.error.is_empty() {
                log::plain(format_args!("reloaded {}", result.file));
            } else if result.applied {
                log::plain(format_args!("reloaded {}; {}", result.file, result.error));
            } else {
                let (file, error) = (&result.file, &result.error);
                let text = format_args!("detector: {file}: kept the old: {error}");
                log::problem(Priority::Error, text);
            }
        }
    }

    async fn finish(
        &self,
        workers: Vec<JoinHandle<()>>,
        checkers: Vec<JoinHandle<()>>,
        patient: bool,
    ) {
        let join = |threads: Vec<JoinHandle<()>>| {
            // Panics were caught inside the threads.
            threads.into_iter().for_each(|thread| drop(thread.join()));
        };
        let _ = tokio::task::spawn_blocking(move || join(workers)).await;
        let end = Instant::now() + LINGER;
        while !self.checkers.is_idle() && (patient || Instant::now() < end) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.checkers.stop.store(true, Ordering::Relaxed);
        self.checkers.bell.ring_all();
        let _ = tokio::task::spawn_blocking(move || join(checkers)).await;
        if let Some(publisher) = &self.desk.publisher {
            while publisher.peers().iter().any(|peer| peer.queued > 0) && Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Opens the publishing socket; `inherited` is used when there is one. A successor keeps what it publishes
/// until the subscribers have come over.
async fn bind(
    endpoint: &str,
    inherited: Option<OwnedFd>,
    succeeds: bool,
) -> Result<Publisher, Failure> {
    log::plain(format_args!("binding zmq socket to {endpoint}"));
    // Nobody is bound there: workers and publisher share one process.
    log::reference(Stream::Out, "binding zmq worker socket to ipc://@detector-workers");
    let hold = if succeeds { succession::HELD } else { Duration::ZERO };
    let options = PublisherOptions { hold, ..PublisherOptions::default() };
    if let Some(socket) = inherited {
        return Publisher::adopt(socket, endpoint, options)
            .map_err(|error| Failure::new(Exit::Unavailable, error));
    }
    let end = Instant::now() + PREDECESSOR;
    loop {
        match Publisher::bind(endpoint, options.clone()).await {
            Ok(publisher) => return Ok(publisher),
            Err(bus::BindError::Socket { .. }) if Instant::now() < end => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => return Err(Failure::new(Exit::Unavailable, error)),
        }
    }
}

/// Starts the channels that bring sessions in.
fn channels(
    arguments: &Arguments,
    settings: &Settings,
    replay: bool,
    feed: &Arc<Feed>,
) -> (Watch, Option<session::redis_in::Subscription>) {
    if replay {
        return (Watch::off(), None);
    }
    let cluster = arguments.cluster.map_or_else(|| "alone".to_owned(), |id| id.to_string());
    let name = format!("detector-{cluster}-{}", arguments.queue_offset);
    let sink = || Arc::clone(feed) as Arc<dyn session::SessionSink>;
    let watch = match &settings.session_socket {
        Some(path) => {
            let id = DetectorId { name: name.clone(), boot_id: rand::random() };
            session::watch::watch(path.clone(), id, sink())
        }
        None => Watch::off(),
    };
    let redis = settings
        .redis_url
        .clone()
        .map(|url| session::redis_in::subscribe(url, name, watch.clone(), sink()));
    (watch, redis)
}

/// How the worker of `queue` opens its source.
fn opener(arguments: &Arguments, queue: usize) -> Box<OpenSource> {
    match &arguments.source {
        Some(name) => {
            let name = name.clone();
            Box::new(move || source::open(&name))
        }
        None => {
            let cluster = arguments.cluster.unwrap_or_default();
            // Looking without sleeping is only fair on a CPU of one's own.
            let spin = !arguments.allow_unpinned;
            Box::new(move || Ok(source::queue(cluster, queue, spin)))
        }
    }
}

/// The reference's line about a reader that went away; nothing else comes of the signal.
async fn tell_of_broken_pipes() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut signals) = signal(SignalKind::pipe()) else { return };
    while signals.recv().await.is_some() {
        log::reference(Stream::Out, "received a SIGPIPE, ignoring");
    }
}

async fn sweep(sessions: Arc<Sessions>, clock: Clock) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        sessions.sweep(clock.now());
    }
}

async fn report(desk: Arc<Desk>) {
    let reporter = |post: &Arc<Post>| {
        let reporter = Reporter::new(post.queue, FIFO_DIR.as_ref());
        reporter.reset();
        (reporter, Arc::clone(&post.counters))
    };
    let mut reporters: Vec<(Reporter, Arc<Counters>)> = desk.posts.iter().map(reporter).collect();
    let mut ticks = tokio::time::interval(desk.arguments.period);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        for (reporter, counters) in &mut reporters {
            reporter.report(counters.snapshot(), desk.sessions.len());
        }
    }
}
