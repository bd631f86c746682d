//! From start to end: sources, queues, control socket, statistics, signals.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use packet::hash::SymmetricHash;
use sandbox::Sandbox;
use shm::{Event, Region, Server, ServerError, ServerOptions, Unread};
use telemetry::admin::{self, Identification};
use telemetry::output::{self, Format};
use telemetry::process::{self, Exit, Signal, Signals};
use tokio::runtime::Runtime;

use crate::arguments::Arguments;
use crate::balancer::{Balancer, all_move};
use crate::cpu::{check_cores, online, pin};
use crate::filters::FilterError;
use crate::format::{count, rate};
use crate::ingest::Ingest;
use crate::input::{Input, Plan};
use crate::live::Live;
use crate::log;
use crate::spread::{Distribution, Spread};
use crate::stages::{self, Stages};
use crate::succession::{self, Ending, Gathering, Predecessor, Wish};
use crate::terminal::{self, READY};

/// Sockets of all sources together for which the kernel sorts packets: fewer than a successor can be handed at once,
/// 253 descriptors, with what else there is.
const SOCKETS: u32 = 192;
/// Longest wait on the control socket.
const POLL: Duration = Duration::from_millis(50);
/// Time that consumers have to read what is queued at the end, and for each step of that.
const DRAIN: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(500);
/// The same when they go on with a successor.
const GIVEN: Duration = Duration::from_secs(2);
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
    /// The kernel makes no table of the fast path.
    #[error(
        "--fast-path: {0}; a table in the kernel takes CAP_BPF (setcap \
         cap_net_raw,cap_net_admin,cap_bpf,cap_ipc_lock+p PROGRAM)"
    )]
    Table(io::Error),
    /// A filter is wrong.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// There is nobody to take over from.
    #[error(transparent)]
    Handover(#[from] handover::HandoverError),
    /// The process cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
    /// The cluster of PF_RING cannot be made.
    #[cfg(feature = "pfring")]
    #[error(transparent)]
    Cluster(#[from] pfring::ClusterError),
    /// A cluster of PF_RING has one producer.
    #[cfg(feature = "pfring")]
    #[error(
        "--take-over: cluster {0} is one of PF_RING, which has a single balancer: stop that one, then start this one \
         without --take-over"
    )]
    OneProducer(u32),
    /// PF_RING has ended capture.
    #[cfg(feature = "pfring")]
    #[error(transparent)]
    Ended(#[from] pfring::ReceiveError),
    /// The operating system refuses something every process has.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    fn exit(&self) -> Exit {
        match self {
            Self::Source(
                capture::OpenError::Permission { .. } | capture::OpenError::XdpPermission { .. },
            ) => Exit::NoPerm,
            Self::Table(cause) if cause.kind() == io::ErrorKind::PermissionDenied => Exit::NoPerm,
            Self::Table(_) => Exit::OsErr,
            Self::Handover(_) => Exit::Unavailable,
            #[cfg(feature = "pfring")]
            Self::Cluster(error) if error.is_permission() => Exit::NoPerm,
            #[cfg(feature = "pfring")]
            Self::Cluster(_) | Self::Ended(_) | Self::OneProducer(_) => Exit::Unavailable,
            Self::Filter(_) => Exit::Config,
            Self::Sandbox(error) if error.is_configuration() => Exit::Config,
            Self::Sandbox(_) => Exit::NoPerm,
            Self::Source(capture::OpenError::Name(_)) => Exit::Usage,
            Self::Source(capture::OpenError::NoFastPath { .. }) => Exit::Config,
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
    log::set_cluster(arguments.cluster);
    match Format::of_environment() {
        Ok(format) => output::start("zbalance", format),
        Err(error) => {
            log::error(error);
            return Exit::Config;
        }
    }
    if !terminal::is_background() {
        for notice in arguments.foreign.notices() {
            log::notice(notice);
        }
        if arguments.daemon && !arguments.check_config {
            return terminal::start_background().unwrap_or_else(|error| {
                log::error(format_args!("cannot go into the background: {error}"));
                Exit::OsErr
            });
        }
    }
    if let Err(error) = telemetry::metrics::check_environment("zbalance") {
        log::error(error);
        return Exit::Config;
    }
    match run(&arguments) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            log::error(&error);
            error.exit()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), StartError> {
    raise();
    #[cfg(feature = "pfring")]
    if let Some(library) = crate::pfring::choose(arguments) {
        return crate::pfring::run(arguments, library);
    }
    let mut predecessor = match arguments.take_over && !arguments.check_config {
        true => Some(Predecessor::meet(arguments.cluster, &arguments.interfaces)?),
        false => None,
    };
    let mut options =
        ServerOptions::new(admin::ipc_dir(), arguments.cluster, arguments.queues.clone());
    options.slots = arguments.slots.next_power_of_two();
    options.producers = u32::try_from(arguments.interfaces.len()).unwrap_or(u32::MAX);
    let live = Live::new(arguments)?;
    let distribution = distribution(arguments, &live);
    let (mut sources, region) =
        open_sources(arguments, predecessor.as_ref(), &distribution, &mut options)?;
    let online = online();
    check_cores(arguments, online)?;
    if arguments.check_config {
        log::say(format_args!("{} source(s) open, configuration good", sources.len()));
        return Ok(());
    }
    confine(arguments)?;
    let mut handing = Handing::default();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let stop = Arc::new(AtomicBool::new(false));
    let signals = runtime.block_on(async { Signals::install() })?.user1_reloads();

    let claim = predecessor.as_mut().and_then(Predecessor::take_claim);
    let (mut server, producers) = Server::succeed(options, rand::random(), claim, Some(region))?;
    // Now the cluster is this process's, and so are its files.
    let log = own_files(arguments)?;
    let names = sources.iter().map(|(name, _)| name.clone()).collect();
    let balancer = Arc::new(Balancer::new(arguments, names, live, &stop));
    serve_operator(&runtime, signals, &balancer);
    let queues: u32 = arguments.queues.iter().sum();
    log::say(format_args!("Starting balancer with {queues} consumer queues.."));
    let go = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    if let Some(predecessor) = predecessor {
        let (mut handed, consumers) = predecessor.finish()?;
        for (name, source) in sources.iter_mut().filter(|(_, source)| source.is_none()) {
            let handed = handed.remove(name);
            stages::note_predecessor(arguments, name, handed.as_ref());
            *source = Some(Input::Copied(match handed {
                Some(handed) => {
                    let source = capture::take_over(name, handed)?;
                    log::say(format_args!("{name}: goes on where the predecessor was"));
                    source
                }
                None => capture::open(name)?,
            }));
        }
        handing.gathering = Some(Gathering::new(consumers));
    }
    let sources: Vec<(String, Input)> =
        sources.into_iter().filter_map(|(name, source)| Some((name, source?))).collect();
    // Without the option nobody enters flows into a table that a predecessor left, and those in it end by themselves.
    let table = sources.iter().find_map(|(_, source)| source.fast_path());
    if let Some(table) = table.filter(|_| arguments.fast_path) {
        server.offer_fast_path(table.as_fd().try_clone_to_owned()?);
    }
    let waiting = server.claim().and_then(|claim| {
        let mut offered = Vec::new();
        for (name, source) in &sources {
            let descriptors = source.descriptors().into_iter().map(|fd| fd.try_clone_to_owned());
            offered.push((name.clone(), descriptors.collect::<io::Result<Vec<_>>>()?));
        }
        succession::wait(arguments.cluster, claim, offered)
    });
    match waiting {
        Ok(wishes) => handing.wishes = Some(wishes),
        Err(error) => log::warn(format_args!("no upgrade without restart: {error}")),
    }
    for (index, ((name, source), producer)) in sources.into_iter().zip(producers).enumerate() {
        let mut ingest = Ingest {
            name,
            source,
            producer,
            spread: Spread::new(distribution.clone(), u16::try_from(index).unwrap_or(u16::MAX)),
            active: arguments.active,
        };
        ingest.supply();
        let core = arguments.core(index, online);
        let (balancer, stop, go) = (Arc::clone(&balancer), Arc::clone(&stop), Arc::clone(&go));
        let given = Arc::clone(&handing.given);
        let thread = std::thread::Builder::new().name(format!("ingest-{index}"));
        threads.push(thread.spawn(move || {
            if let Err(error) = pin(core) {
                // It was possible a moment ago: somebody has just taken the CPU away.
                log::warn(format_args!("{}: no longer bound: {error}", ingest.name));
            }
            let name = ingest.name.clone();
            while !go.load(Ordering::Acquire) && !stop.load(Ordering::Relaxed) {
                ingest.producer.tick();
                balancer.sources[index].1.beat();
                std::thread::sleep(Duration::from_millis(5));
            }
            let handed = ingest.run(&balancer.sources[index].1, &stop, &given);
            handed.map(|position| (name, position))
        })?);
    }
    announce(arguments, log.as_ref())?;
    let server = serve(server, arguments, &balancer, &go, &mut handing);
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        // A thread that panicked has said so; the others still have to end.
        if let (Ok(Some((name, position))), Some(ending)) = (thread.join(), &handing.ending) {
            ending.hand_over(name, position);
        }
    }
    let is_given = handing.ending.is_some();
    if let Some(ending) = handing.ending.take() {
        ending.finish();
    }
    finish(server, arguments, &balancer, is_given);
    Ok(())
}

/// Makes the log and the file with the process id.
pub(crate) fn own_files(arguments: &Arguments) -> Result<Option<File>, StartError> {
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
    Ok(log)
}

/// Follows signals, feeds the watchdog, and serves the admin socket.
pub(crate) fn serve_operator(runtime: &Runtime, signals: Signals, balancer: &Arc<Balancer>) {
    runtime.spawn(obey(signals, Arc::clone(balancer)));
    runtime.spawn(process::watchdog(all_move(Arc::clone(balancer))));
    let _runtime = runtime.enter();
    let path = admin::socket_path(&admin::ipc_dir(), "zbalance", 0);
    let command_line: Vec<String> = std::env::args().collect();
    let who = Identification::new(
        "zbalance",
        env!("CARGO_PKG_VERSION"),
        command_line.join(" ").as_bytes(),
    );
    if let Err(error) = admin::serve(&path, Arc::clone(balancer), who) {
        log::warn(format_args!("no admin service: {error}"));
    }
}

/// How frames are spread, keyed anew unless a key is given.
pub(crate) fn distribution(arguments: &Arguments, live: &Live) -> Distribution {
    Distribution {
        mode: arguments.mode,
        sets: arguments.queues.clone(),
        hash: SymmetricHash::new(arguments.hash_seed.unwrap_or_else(rand::random)),
        map: arguments.map(),
        decapsulate: arguments.decap,
        filters: Arc::clone(&live.filters),
    }
}

/// Tells whoever waits for it that frames are captured, and leaves the terminal where that is asked for.
pub(crate) fn announce(arguments: &Arguments, log: Option<&File>) -> Result<(), StartError> {
    process::ready("capturing");
    let ready = format!("{READY}, cluster {}, mode {}", arguments.cluster, arguments.mode);
    println!("{ready}");
    // What could go wrong with the start was said where it was started.
    if terminal::is_background() {
        terminal::leave(log)?;
    } else if let Some(log) = log {
        terminal::print_to(log)?;
    }
    if log.is_some() {
        println!("{ready}");
    }
    Ok(())
}

/// The sources of the command line; those of a predecessor come when it stops.
type Sources = Vec<(String, Option<Input>)>;

/// Puts the capabilities into effect that opening sources may take.
fn raise() {
    use sandbox::Capability::{Bpf, IpcLock, NetAdmin, NetRaw};
    [NetRaw, NetAdmin, Bpf, IpcLock].into_iter().for_each(sandbox::Capability::raise);
}

/// Opens the sources, some of them over the frames of the queues, which are made here therefore.
fn open_sources(
    arguments: &Arguments,
    predecessor: Option<&Predecessor>,
    distribution: &Distribution,
    options: &mut ServerOptions,
) -> Result<(Sources, Region), StartError> {
    let comes = |name: &str| predecessor.is_some_and(|predecessor| predecessor.has(name));
    let inputs = u32::try_from(arguments.interfaces.len()).unwrap_or(u32::MAX).max(1);
    let sorting = distribution.sorting(SOCKETS / inputs);
    let stages = Stages::of(arguments, predecessor.is_some(), sorting);
    let stages = stages.map_err(StartError::Table)?;
    let mut plans = Vec::new();
    for name in &arguments.interfaces {
        let plan = if comes(name) {
            None
        } else {
            let pace = arguments.playback.pace();
            Some(Plan::new(name, predecessor.is_some(), pace, &stages)?)
        };
        plans.push((name, plan));
    }
    // Every thread has the same share.
    let on_loan = plans.iter().filter_map(|(_, plan)| Some(plan.as_ref()?.frames())).max();
    options.working_set += on_loan.unwrap_or(0);
    let region = Region::new(options)?;
    let mut sources = Vec::new();
    for (thread, (name, plan)) in (0..).zip(plans) {
        let source = match plan {
            Some(plan) => {
                let input = plan.open(&region.memory(thread))?;
                stages::note_missing(arguments, name, &input);
                Some(input)
            }
            None => None,
        };
        sources.push((name.clone(), source));
    }
    Ok((sources, region))
}

/// A succession, as the main thread sees it.
#[derive(Debug, Default)]
struct Handing {
    /// What a successor wishes.
    wishes: Option<Receiver<Wish>>,
    /// Consumers of a predecessor that are on their way.
    gathering: Option<Gathering>,
    /// The ingest threads end for a successor.
    given: Arc<AtomicBool>,
    /// What it is told at the end.
    ending: Option<Ending>,
}

impl Handing {
    /// Does what a successor wishes; true when it is time to end for it.
    fn obey(&mut self, server: &mut Server) -> bool {
        let Some(wish) = self.wishes.as_ref().and_then(|wishes| wishes.try_recv().ok()) else {
            return false;
        };
        match wish {
            Wish::Leave(left) => server.leave(left),
            Wish::End(ending) => {
                ending.count(server.queues().iter().filter(|q| q.consumer.is_some()).count());
                self.given.store(true, Ordering::Relaxed);
                self.ending = Some(ending);
                return true;
            }
        }
        false
    }
}

/// Gives up what only opening the sources took. A packet socket is bound again without privilege when
/// its interface comes back, so nothing is kept.
fn confine(arguments: &Arguments) -> Result<(), StartError> {
    let dir = admin::ipc_dir();
    // Landlock knows only what exists. What cannot be made is an error with a name further on.
    let _ = std::fs::create_dir_all(&dir);
    for note in profile(arguments).enter()?.notes {
        log::warn(note);
    }
    Ok(())
}

/// The bounds of the balancer.
pub fn profile(arguments: &Arguments) -> Sandbox {
    let written = arguments.log.iter().chain(&arguments.pid_file);
    let recordings = arguments.interfaces.iter().filter_map(|name| {
        name.strip_prefix("zc:").unwrap_or(name).strip_prefix("pcap:").map(Path::new)
    });
    let mut profile = Sandbox::new("zbalance").user(arguments.user.clone()).write(admin::ipc_dir());
    for path in written {
        profile = profile.write(sandbox::parent_of(path));
    }
    let filters = arguments.filters.iter().map(|filter| filter.path.as_path());
    for path in recordings.chain(arguments.file.as_deref()).chain(filters) {
        profile = profile.read_beside(path);
    }
    profile
}

/// Turns signals into reloads and the end of the process.
async fn obey(mut signals: Signals, balancer: Arc<Balancer>) {
    while signals.next().await == Signal::Reload {
        for result in balancer.reload_file() {
            match (&result.error, result.applied) {
                (error, true) if error.is_empty() => {
                    log::say(format_args!("reloaded {}", result.file));
                }
                (error, true) => log::say(format_args!("reloaded {}; {error}", result.file)),
                (error, false) => log::notice(format_args!("kept the old options: {error}")),
            }
        }
    }
    balancer.stop.store(true, Ordering::Relaxed);
}

/// Serves the control socket until it is time to stop or all capture files have ended.
fn serve(
    mut server: Server,
    arguments: &Arguments,
    balancer: &Balancer,
    go: &AtomicBool,
    handing: &mut Handing,
) -> Server {
    let stop = &*balancer.stop;
    let files = arguments.has_recording();
    let earliest = Instant::now() + Duration::from_secs(arguments.wait.min(10));
    let latest = Instant::now() + if files { ATTACH } else { Duration::ZERO };
    let stats = admin::ipc_dir().join("stats").join(arguments.cluster.to_string());
    let mut tick = Instant::now();
    let mut before = (Instant::now(), 0);
    while !stop.load(Ordering::Relaxed) {
        balancer.beats.fetch_add(1, Ordering::Relaxed);
        for event in server.poll(POLL, &mut |queues| balancer.json(queues)) {
            report(&event);
        }
        if handing.obey(&mut server) {
            break;
        }
        let queues = server.queues();
        let attached = queues.iter().all(|queue| queue.consumer.is_some());
        let now = Instant::now();
        let consumers = queues.iter().filter(|queue| queue.consumer.is_some()).count();
        let gathered = handing.gathering.as_ref().is_none_or(|g| g.is_over(consumers));
        if now >= earliest && (now >= latest || attached) && gathered {
            go.store(true, Ordering::Release);
        }
        balancer.note(queues, server.mirrors());
        if balancer.sources.iter().all(|(_, c)| c.ended.load(Ordering::Acquire)) {
            break;
        }
        if tick.elapsed() >= Duration::from_secs(1) {
            tick = now;
            let snapshot = balancer.snapshot();
            write_statistics(&stats, &snapshot.text());
            if balancer.live.prints() {
                let seconds = (now - before.0).as_secs_f64();
                let pps = (snapshot.received - before.1) as f64 / seconds;
                let received = count(snapshot.received as f64);
                log::say(format_args!("{received} pkts, {} pps", rate(pps)));
                before = (now, snapshot.received);
            }
        }
    }
    server
}

fn report(event: &Event) {
    match event {
        Event::Attached { queue, pid, .. } => {
            log::say(format_args!("queue {queue}: consumer {pid} attached"));
        }
        Event::Detached { queue, pid, corrupt } => {
            let why = if *corrupt { " (it broke the ring)" } else { "" };
            log::say(format_args!("queue {queue}: consumer {pid} is gone{why}"));
        }
        Event::Mirrored { pid, queues } => {
            log::say(format_args!("queues {queues:?}: process {pid} sees their packets"));
        }
        Event::MirrorEnded { pid, corrupt } => {
            let why = if *corrupt { " (it broke the ring)" } else { "" };
            log::say(format_args!("process {pid} sees no more packets{why}"));
        }
        other => log::say(format_args!("{other:?}")),
    }
}

/// Replaces the statistics file at once, so that no reader sees half of it.
pub(crate) fn write_statistics(path: &Path, text: &str) {
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
fn finish(mut server: Server, arguments: &Arguments, balancer: &Balancer, is_given: bool) {
    if is_given {
        // Consumers come to the successor when they have read what is queued here.
        server.drain(GIVEN, GIVEN);
        print!("{}", balancer.snapshot().text());
        return;
    }
    process::stopping();
    for Unread { queue, pid, descriptors } in server.drain(DRAIN, PAUSE) {
        log::warn(format_args!("queue {queue}: consumer {pid} left {descriptors} buffers unread"));
    }
    balancer.note(server.queues(), server.mirrors());
    leave(arguments, balancer);
}

/// Writes the final statistics and removes the file with the process id.
pub(crate) fn leave(arguments: &Arguments, balancer: &Balancer) {
    let text = balancer.snapshot().text();
    let stats = admin::ipc_dir().join("stats").join(arguments.cluster.to_string());
    write_statistics(&stats, &text);
    print!("{text}");
    if let Some(path) = &arguments.pid_file {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(path);
    }
}
