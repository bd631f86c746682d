//! From start to end: configuration, sockets, signals, reload (`spec/application.md` 2).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bus::{Publisher, PublisherOptions, Subscriber, SubscriberOptions};
use conf::{Application, Loaded};
use handover::{Host, Inherited};
use keys::StationKey;
use keys::path::Strictness;
use parking_lot::Mutex;
use signalling::station::{ApplicationStatus, Count, FileResult, status_reply::Detail};
use telemetry::admin::{self, DaemonStatus, Identification};
use telemetry::log::{self, Logger};
use telemetry::process::{self, Exit, Reloads, Signal, Signals};
use telemetry::{metrics, output, privacy};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use crate::arguments::Arguments;
use crate::ingest::{self, IngestQueue};
use crate::opening::{self, Opened};
use crate::pipeline::Pipeline;
use crate::policy::{Policy, PolicyError};
use crate::sources::{self, Sources};
use crate::stats;
use crate::succession::{self, Successor};
use crate::{Station, connection, dtls, listener, share};

/// How often the time of registrations is looked at.
const EXPIRY_TICK: Duration = Duration::from_secs(1);
/// How long readiness waits for the sources of registrations.
const FIRST_SOURCES: Duration = Duration::from_millis(500);
/// How long a successor waits for its sources before it takes over.
const ALL_SOURCES: Duration = Duration::from_secs(5);
/// How long a successor keeps messages for subscribers that come over.
const HELD: Duration = Duration::from_secs(10);
/// How often is looked whether everything has ended.
const LOOK: Duration = Duration::from_millis(20);
/// Time to hand the last messages to Redis at the end.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why the application cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A variable that names a file is not set.
    #[error("{0} is not set; set it in conjure.conf to the path of {1}")]
    NoPath(&'static str, &'static str),
    /// The configuration is wrong.
    #[error("failed to parse app config: {0}")]
    Configuration(#[from] conf::Problems),
    /// Phantom subnets, covert lists or databases are wrong.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// The station key is missing or wrong.
    #[error("error parsing private key: {0}")]
    Key(#[from] keys::path::KeyPathError),
    /// The socket on which registrations are repeated cannot be bound.
    #[error("failed to bind zmq socket: {0}")]
    FanIn(#[from] bus::BindError),
    /// The ingest endpoint is no endpoint.
    #[error("-zmq-address: {0}")]
    Ingest(#[from] bus::EndpointError),
    /// The phantom listener cannot be bound.
    #[error("failed to listen on {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        cause: io::Error,
    },
    /// `tcp_listen` is no address.
    #[error("tcp_listen: found `{0}`, expected ADDRESS:PORT such as [::]:41245")]
    ListenAddress(String),
    /// The session socket cannot be made.
    #[error("session socket {path}: {cause} (set CJ_IPC_DIR to a folder that this user may write)")]
    SessionSocket {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A setting about metrics is wrong.
    #[error(transparent)]
    Metrics(#[from] metrics::BadSetting),
    /// There is no such log format.
    #[error(transparent)]
    LogFormat(#[from] output::UnknownFormat),
    /// There is nobody to take over from.
    #[error(transparent)]
    Handover(#[from] handover::HandoverError),
    /// The process cannot be confined.
    #[error(transparent)]
    Sandbox(#[from] sandbox::SandboxError),
    /// The operating system refuses something every process has.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    const fn exit(&self) -> Exit {
        match self {
            Self::NoPath(..) | Self::Configuration(_) | Self::Policy(_) | Self::Key(_) => {
                Exit::Config
            }
            Self::Ingest(_) | Self::ListenAddress(_) => Exit::Config,
            Self::Metrics(_) | Self::LogFormat(_) => Exit::Config,
            Self::FanIn(_) | Self::Listen { .. } => Exit::Unavailable,
            Self::SessionSocket { .. } => Exit::CantCreat,
            Self::Handover(_) => Exit::Unavailable,
            Self::Sandbox(error) if error.is_configuration() => Exit::Config,
            Self::Sandbox(_) => Exit::NoPerm,
            Self::System(_) => Exit::OsErr,
        }
    }
}

/// Runs the application until it is told to end.
pub fn main(arguments: Arguments) -> Exit {
    let log = Logger::new("[REG] ");
    match run(&arguments, &log) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            let mut text = error.to_string();
            if output::is_reference() {
                text = text.replace("error parsing private key", "error parseing private key");
            }
            log.print(text);
            error.exit()
        }
    }
}

/// Asks the running application for its state.
pub fn health() -> std::process::ExitCode {
    let path = admin::socket_path(&admin::ipc_dir(), "application", offset());
    Exit::of_health("application", process::health(&path))
}

/// Everything that is read before anything is opened.
#[derive(Debug)]
pub struct Setup {
    /// Path of the configuration file.
    pub path: PathBuf,
    /// Path of the phantom file.
    pub phantoms: PathBuf,
    /// The configuration.
    pub settings: Application,
    /// What a reload replaces.
    pub policy: Policy,
    /// Station keys.
    pub keys: Vec<StationKey>,
    /// What is worth saying about all this.
    pub notes: Vec<String>,
}

impl Setup {
    /// Reads the files that the environment names.
    ///
    /// # Errors
    /// [`StartError`] when anything is wrong.
    pub fn of_environment() -> Result<Self, StartError> {
        let path = variable("CJ_STATION_CONFIG")
            .ok_or(StartError::NoPath("CJ_STATION_CONFIG", "app_config.toml"))?;
        let phantoms = variable("PHANTOM_SUBNET_LOCATION")
            .ok_or(StartError::NoPath("PHANTOM_SUBNET_LOCATION", "phantom_subnets.toml"))?;
        Self::load(&path, &phantoms, variable("CJ_PRIVKEY"))
    }

    /// Reads the configuration at `path`, the phantom file, and the key that the configuration
    /// names, or `key`.
    ///
    /// # Errors
    /// [`StartError`] when anything is wrong.
    pub fn load(path: &Path, phantoms: &Path, key: Option<PathBuf>) -> Result<Self, StartError> {
        let Loaded { value: settings, notices } = Application::load(path)?;
        let (policy, remarks) = Policy::build(&settings, phantoms)?;
        let key = settings
            .privkey_path
            .clone()
            .or(key)
            .ok_or(StartError::NoPath("CJ_PRIVKEY", "the station's private key"))?;
        let loaded = keys::path::load(&key, Strictness::Refuse)?;
        let mut notes: Vec<String> = notices.iter().map(ToString::to_string).collect();
        notes.extend(remarks);
        notes.extend(loaded.warnings);
        Ok(Self {
            path: path.to_owned(),
            phantoms: phantoms.to_owned(),
            settings,
            policy,
            keys: loaded.keys,
            notes,
        })
    }
}

/// A variable that names a file; empty counts as unset.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn offset() -> u32 {
    std::env::var("OFFSET").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn run(arguments: &Arguments, reg: &Logger) -> Result<(), StartError> {
    let setup = Setup::of_environment()?;
    log::set_level(level(setup.settings.log_level));
    let configured = setup.settings.log_format.map(|format| match format {
        conf::LogFormat::Text => output::Format::Text,
        conf::LogFormat::Reference => output::Format::Reference,
    });
    output::start("application", output::Format::chosen(configured)?);
    if let Some(address) = setup.settings.metrics_listen {
        metrics::configure(address);
    }
    metrics::check_environment("application")?;
    if arguments.check_config {
        for note in &setup.notes {
            println!("{note}");
        }
        let zmq_key = variable("ZMQ_PRIVKEY");
        let prepared = sources::prepare(&setup.settings, zmq_key.as_deref(), &Arc::default());
        for text in prepared.remarks() {
            println!("{text}");
        }
        println!("{}: good", setup.path.display());
        return Ok(());
    }
    for note in &setup.notes {
        reg.warn(note);
    }
    match privacy::parse_log_client_ip(&std::env::var("LOG_CLIENT_IP").unwrap_or_default()) {
        Ok(on) => privacy::set_log_client_ip(on),
        Err(error) => reg.error(format_args!("failed parse client ip logging setting: {error}")),
    }
    process::raise_nofile_limit();
    let address = listen_address(&setup.settings)?;
    let (inherited, predecessor) = match arguments.take_over {
        true => {
            let (inherited, channel) = handover::take_over("application", &handover_socket())?;
            (inherited, Some(channel))
        }
        false => (Inherited::of_manager(), None),
    };
    let opened = Opened::open(inherited, predecessor, address);
    let user = arguments.user.clone();
    for note in opening::confine(&setup.settings, &setup.path, &setup.phantoms, user)? {
        reg.warn(note);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(setup, opened, arguments, reg));
    // Open tunnels end with the process; nothing here may hold it up.
    runtime.shutdown_background();
    result
}

async fn serve(
    setup: Setup,
    opened: Opened,
    arguments: &Arguments,
    reg: &Logger,
) -> Result<(), StartError> {
    let mut signals = Signals::install()?;
    let (daemon, phantoms) = Daemon::start(setup, opened, &arguments.zmq_address).await?;
    let daemon = Arc::new(daemon);
    let path = admin::socket_path(&admin::ipc_dir(), "application", offset());
    // Part of the identity only; a file that vanished just now gives an empty text.
    let text = std::fs::read(&daemon.path).unwrap_or_default();
    let who = Identification::new("application", env!("CARGO_PKG_VERSION"), &text);
    if let Err(error) = admin::serve(&path, Arc::clone(&daemon), who) {
        reg.warn(format_args!("no admin service: {error}"));
    }
    let path = handover_socket();
    match phantoms {
        Arrival::First(listener) => {
            daemon.accept(listener);
            daemon.sources_connected(FIRST_SOURCES).await;
        }
        Arrival::After(listener, predecessor) => {
            daemon.sources_connected(ALL_SOURCES).await;
            daemon.follow(listener, predecessor).await?;
        }
    }
    let mut superseded = daemon.wait_for_successor(&path);
    process::ready("serving");
    // Being polled is all that the runtime has to prove.
    tokio::spawn(process::watchdog(|| true));
    loop {
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => {
                    reg.info("received SIGHUP ... reloading configs");
                    daemon.reload();
                }
                Signal::Interrupt => {
                    reg.info("received interrupt ... exiting");
                    break;
                }
                Signal::Terminate => {
                    reg.info("received terminated ... exiting");
                    break;
                }
            },
            () = daemon.drained.notified() => break,
            Some(left) = superseded.recv() => {
                reg.info("another process serves, finishing what is open");
                daemon.finish(left, &mut signals).await;
                return Ok(());
            }
        }
    }
    process::stopping();
    daemon.end().await;
    reg.info("shutdown complete");
    Ok(())
}

pub(crate) const fn level(level: conf::LogLevel) -> log::Level {
    match level {
        conf::LogLevel::Trace => log::Level::Trace,
        conf::LogLevel::Debug => log::Level::Debug,
        conf::LogLevel::Warn => log::Level::Warn,
        conf::LogLevel::Error => log::Level::Error,
        conf::LogLevel::Info => log::Level::Info,
    }
}

/// A running application.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) path: PathBuf,
    pub(crate) phantoms: PathBuf,
    /// The configuration of the start.
    pub(crate) started: Application,
    pub(crate) station: Arc<Station>,
    listening: SocketAddr,
    pub(crate) sources: Sources,
    ingest: (String, watch::Receiver<bus::State>),
    tasks: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) grace: Mutex<Duration>,
    drained: Notify,
    pub(crate) reloads: Reloads,
    pub(crate) log: Logger,
    pub(crate) fan_in: Arc<Publisher>,
    accepting: Mutex<Option<AbortHandle>>,
    draining: AtomicBool,
    descriptors: Mutex<Vec<(String, OwnedFd)>>,
}

/// How the daemon came to its listener.
#[derive(Debug)]
pub enum Arrival {
    /// It is the only one.
    First(TcpListener),
    /// A predecessor still accepts.
    After(TcpListener, Successor),
}

impl Daemon {
    /// Opens all sockets and starts serving. Must be called within a multi-thread runtime.
    ///
    /// # Errors
    /// [`StartError`] when a socket cannot be opened.
    pub async fn start(
        setup: Setup,
        opened: Opened,
        zmq_address: &str,
    ) -> Result<(Self, Arrival), StartError> {
        let Setup { path, phantoms, settings, policy, keys, .. } = setup;
        let workers = settings.ingest_worker_count;
        let address = listen_address(&settings)?;
        let mut station = Station::new(&settings, policy, keys);
        let predecessor = match opened.predecessor {
            Some(channel) => Some(Successor::begin(channel)?),
            None => None,
        };
        let (sessions, udp) = (settings.max_sessions, opened.udp);
        let sockets = opened.entries.and_then(|entries| match udp {
            // Somebody else still reads it.
            Some(udp) => dtls::Sockets::inherited(udp, sessions, Box::new(entries)),
            None => dtls::Sockets::with_entries(address, sessions, Box::new(entries)),
        });
        let station = match sockets {
            Ok(sockets) => {
                station.take_dtls();
                let station = Arc::new(station);
                dtls::Service::start(sockets, &station);
                station
            }
            Err(error) => {
                let log = Logger::new("[REG] ");
                log.warn(format_args!("the DTLS transport is off: {error}"));
                Arc::new(station)
            }
        };
        let pipeline = Arc::clone(&station.pipeline);
        if settings.redis_clear_at_start {
            pipeline.announcer.redis().clear();
        }

        let phantom_listener = match opened.tcp {
            Some(tcp) => tcp.set_nonblocking(true).and_then(|()| TcpListener::from_std(tcp)),
            None => listener::listen(address),
        };
        let phantom_listener =
            phantom_listener.map_err(|cause| StartError::Listen { address, cause })?;
        let listening = phantom_listener.local_addr()?;
        let zmq = Logger::new("[ZMQ_PROXY] ");
        let fan_in = format!("ipc://@{}", settings.socket_name);
        let inherited = opened.fan_in.filter(|fan_in| is_named(fan_in, &settings.socket_name));
        // Subscribers of a predecessor come over one by one.
        let hold = if predecessor.is_some() { HELD } else { Duration::ZERO };
        let options = PublisherOptions { hold, ..PublisherOptions::default() };
        let fan_in = Arc::new(match inherited {
            Some(socket) => Publisher::adopt(socket, &fan_in, options)?,
            None => Publisher::bind(&fan_in, options).await?,
        });
        let (key, screened) = (variable("ZMQ_PRIVKEY"), &pipeline.stats.screened);
        let prepared = sources::prepare(&settings, key.as_deref(), screened);
        let sources = Sources::start(prepared, Arc::clone(&fan_in), zmq.clone());
        let mut tasks = Vec::new();

        let (queue, messages) = IngestQueue::new(Arc::clone(&pipeline.stats));
        let ingest = Subscriber::connect(zmq_address, SubscriberOptions::default())?;
        let heard = (zmq_address.to_owned(), ingest.watch());
        zmq.info(format_args!("ZMQ connected to {zmq_address}"));
        tasks.push(tokio::spawn(ingest::subscribe(ingest, queue, zmq)));
        tasks.push(tokio::spawn(ingest::distribute(
            messages,
            Arc::clone(&station.workers),
            Arc::clone(&pipeline),
        )));
        tasks.push(tokio::spawn(expire(Arc::clone(&pipeline))));
        tasks.push(tokio::spawn(print_stats(pipeline, workers / 10)));
        let log = Logger::new("[REG] ");
        log.info(format_args!("[STARTUP] Listening on {listening}"));
        let arrival = match predecessor {
            None => Arrival::First(phantom_listener),
            Some(predecessor) => Arrival::After(phantom_listener, predecessor),
        };
        let daemon = Self {
            path,
            phantoms,
            station,
            listening,
            sources,
            ingest: heard,
            tasks: Mutex::new(tasks),
            grace: Mutex::new(settings.shutdown_grace.unwrap_or(Duration::ZERO)),
            drained: Notify::new(),
            reloads: Reloads::default(),
            log,
            started: settings,
            fan_in,
            accepting: Mutex::default(),
            draining: false.into(),
            descriptors: Mutex::default(),
        };
        if let Arrival::First(_) = &arrival {
            daemon.serve_sessions()?;
        }
        Ok((daemon, arrival))
    }

    /// Waits until every source is connected, so that being ready means hearing registrations; a
    /// source that is not there yet holds the start up only for a moment.
    async fn sources_connected(&self, limit: Duration) {
        let all = async {
            for (_, mut state) in self.all_sources() {
                // The sender lives as long as the source's task.
                let _ = state.wait_for(|state| *state == bus::State::Connected).await;
            }
        };
        let _ = tokio::time::timeout(limit, all).await;
    }

    fn all_sources(&self) -> Vec<(String, watch::Receiver<bus::State>)> {
        let mut all = self.sources.states();
        all.push(self.ingest.clone());
        all
    }

    /// Accepts phantom connections from now on.
    fn accept(&self, listener: TcpListener) {
        if let Ok(copy) = listener.as_fd().try_clone_to_owned() {
            self.descriptors.lock().push(("tcp".to_owned(), copy));
        }
        let task = tokio::spawn(accept(listener, Arc::clone(&self.station)));
        *self.accepting.lock() = Some(task.abort_handle());
        if let Some(dtls) = self.station.pipeline.dtls.get()
            && let Err(error) = dtls.succeed(None, &[])
        {
            self.log.error(format_args!("DTLS: {error}"));
        }
    }

    /// Takes the registrations of a predecessor over, and then its connections.
    async fn follow(&self, listener: TcpListener, predecessor: Successor) -> io::Result<()> {
        let pipeline = Arc::clone(&self.station.pipeline);
        let records = predecessor.registrations()?;
        let count = records.len();
        for record in &records {
            if let Some(waiting) = pipeline.resume(record) {
                let pipeline = Arc::clone(&pipeline);
                tokio::spawn(async move { pipeline.finish(waiting).await });
            }
        }
        // Detectors come over as soon as the socket is there, and find every session.
        self.serve_sessions().map_err(io::Error::other)?;
        let rest = predecessor.finish()?;
        // Clients of these may be waiting to be accepted.
        for record in &rest.decided {
            pipeline.settle(record);
        }
        self.accept(listener);
        if let Some(dtls) = pipeline.dtls.get() {
            dtls.succeed(rest.datagrams, &rest.paths)?;
        }
        let late = rest.decided.len();
        self.log.info(format_args!(
            "[HANDOVER] {count} registrations taken over, {late} decided meanwhile"
        ));
        Ok(())
    }

    /// Offers the sockets to a successor and to the service manager. What comes out is the time that a
    /// successor left to this process.
    fn wait_for_successor(self: &Arc<Self>, path: &Path) -> mpsc::Receiver<Duration> {
        let (tell, told) = mpsc::channel(1);
        let offered = self.copies().and_then(|copies| {
            handover::store(&copies);
            Host::bind(path, copies)
        });
        let host = match offered {
            Ok(host) => host,
            Err(error) => {
                let path = path.display();
                self.log.warn(format_args!("no upgrade without restart: {path}: {error}"));
                return told;
            }
        };
        let (daemon, runtime) = (Arc::clone(self), tokio::runtime::Handle::current());
        let wait = move || {
            let _context = runtime.enter();
            while let Ok((channel, pid)) = host.wait() {
                if let Ok(left) = succession::serve(&daemon, &channel, pid) {
                    // The receiver is gone when this process leaves for another reason.
                    let _ = tell.blocking_send(left);
                    return;
                }
            }
        };
        // A process without threads left does not hand over.
        let _ = std::thread::Builder::new().name("handover".to_owned()).spawn(wait);
        told
    }

    /// Copies of everything that a successor goes on with.
    fn copies(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        let mut copies = std::mem::take(&mut *self.descriptors.lock());
        copies.push(("zmq".to_owned(), self.fan_in.listener().try_clone_to_owned()?));
        if let Some(dtls) = self.station.pipeline.dtls.get() {
            copies.extend(dtls.copies()?);
        }
        Ok(copies)
    }

    /// Leaves new connections and registrations to a successor.
    pub(crate) fn stop_accepting(&self) {
        if let Some(task) = self.accepting.lock().take() {
            task.abort();
        }
        self.sources.stop();
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    /// Serves the open tunnels for at most `left`, then leaves without a word to detectors: the sessions are
    /// the successor's.
    async fn finish(&self, left: Duration, signals: &mut Signals) {
        process::status("draining");
        self.draining.store(true, std::sync::atomic::Ordering::Relaxed);
        let deadline = tokio::time::Instant::now() + left;
        let open = || self.station.pipeline.stats.proxy.open.value() > 0;
        let closing = async {
            self.fan_in.dismiss(FAREWELL).await;
            while open() || self.station.pipeline.stats.connections.active.value() > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        let told = async { while signals.next().await == Signal::Reload {} };
        tokio::select! {
            () = closing => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = told => {}
        }
        self.log.info("shutdown complete");
    }

    /// Serves the gRPC session channel unless it is turned off.
    fn serve_sessions(&self) -> Result<(), StartError> {
        let named = self.started.session_socket.clone();
        let path = match std::env::var("CJ_SESSION_SOCKET").ok().or(named) {
            Some(path) if path.is_empty() => return Ok(()),
            Some(path) => PathBuf::from(path),
            None => admin::ipc_dir().join(session::socket_name(offset())),
        };
        let hub = self.station.pipeline.announcer.hub();
        hub.serve(&path).map(drop).map_err(|cause| StartError::SessionSocket { path, cause })
    }

    /// Address of the phantom listener.
    pub const fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// What serves connections.
    pub const fn station(&self) -> &Arc<Station> {
        &self.station
    }

    /// Stops taking work, gives open tunnels their grace, and tells detectors to forget.
    async fn end(&self) {
        self.log.info("closing all ingest threads");
        self.stop_accepting();
        let grace = *self.grace.lock();
        let deadline = tokio::time::Instant::now() + grace;
        let open = || self.station.pipeline.stats.proxy.open.value() > 0;
        while open() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let redis = self.station.pipeline.announcer.redis();
        redis.clear();
        redis.flush(FAREWELL).await;
    }
}

fn listen_address(settings: &Application) -> Result<SocketAddr, StartError> {
    match &settings.tcp_listen {
        None => Ok(listener::default_address()),
        Some(text) => text.parse().map_err(|_| StartError::ListenAddress(text.clone())),
    }
}

/// Where a successor asks for this process's sockets.
fn handover_socket() -> PathBuf {
    handover::socket_path(&admin::ipc_dir(), "application", offset())
}

/// Whether an inherited fan-in socket has the name that the configuration gives it.
fn is_named(socket: &OwnedFd, name: &str) -> bool {
    use std::os::linux::net::SocketAddrExt;
    let Ok(copy) = socket.try_clone() else { return false };
    let address = std::os::unix::net::UnixListener::from(copy).local_addr();
    address.is_ok_and(|address| address.as_abstract_name() == Some(name.as_bytes()))
}

async fn expire(pipeline: Arc<Pipeline>) {
    let mut ticks = tokio::time::interval(EXPIRY_TICK);
    loop {
        ticks.tick().await;
        pipeline.expire();
    }
}

async fn print_stats(pipeline: Arc<Pipeline>, workers_queue: usize) {
    let log = Logger::new("[STATS] ");
    let mut ticks = tokio::time::interval(Duration::from_secs(5));
    ticks.tick().await;
    for round in 1u64.. {
        ticks.tick().await;
        let (stats, store, liveness) = (&pipeline.stats, &pipeline.store, &pipeline.liveness);
        for line in stats::every_five_seconds(stats, store, liveness, workers_queue) {
            log.info(line);
        }
        if round % 12 == 0 {
            for line in stats::every_minute(stats) {
                log.info(line);
            }
        }
    }
}

/// Accepts for ever. Beyond the bound of sessions a connection waits in the kernel's queue, where
/// it looks like any other connection to a busy host.
pub async fn accept(listener: TcpListener, station: Arc<Station>) {
    let log = Logger::new("[REG] ");
    loop {
        let Ok(permit) = station.sessions.enter().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let station = Arc::clone(&station);
                tokio::spawn(async move {
                    connection::serve(stream, peer, station).await;
                    drop(permit);
                });
            }
            Err(error) => {
                let errors = &station.pipeline.stats.connections.accept_errors;
                errors.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                log.error(format_args!("[ERROR] failed to AcceptTCP: {error}"));
                tokio::time::sleep(listener::ACCEPT_PAUSE).await;
            }
        }
    }
}

impl admin::Daemon for Daemon {
    fn status(&self) -> DaemonStatus {
        let pipeline = &self.station.pipeline;
        let (stats, announcer) = (&pipeline.stats, &pipeline.announcer);
        let mut notes: Vec<String> = self
            .all_sources()
            .iter()
            .map(|(address, state)| format!("source {address}: {}", *state.borrow()))
            .collect();
        notes.extend(self.reloads.notes());
        let count = |(name, value): (String, u64)| Count { name, value };
        let counts = |list: &[(&str, u64)]| {
            list.iter().map(|(name, value)| Count { name: (*name).into(), value: *value }).collect()
        };
        let (ingest, liveness) = (&stats.ingest, pipeline.liveness.counters());
        let screened = &stats.screened;
        let shared = pipeline.sharer.as_ref().map(|sharer| &sharer.counters);
        let shared = |of: fn(&share::Counters) -> &stats::Window| {
            shared.map_or(0, |counters| of(counters).total())
        };
        DaemonStatus {
            state: match self.draining.load(std::sync::atomic::Ordering::Relaxed) {
                true => "draining".to_owned(),
                false => "ready".to_owned(),
            },
            notes,
            detail: Some(Detail::Application(ApplicationStatus {
                registrations: stats.registrations.active.value().max(0) as u64,
                registrations_by_channel: stats
                    .registrations
                    .by_source()
                    .into_iter()
                    .map(count)
                    .collect(),
                tunnels: stats.proxy.open.value().max(0) as u64,
                tunnels_by_transport: stats.proxy.by_transport().into_iter().map(count).collect(),
                ingest: counts(&[
                    ("received", ingest.received.total()),
                    ("dropped", ingest.dropped.total()),
                    ("busy", ingest.busy.total()),
                    ("errors", stats.registrations.errors.total()),
                    ("duplicates", stats.registrations.duplicates.total()),
                    ("store_full", stats.registrations.full.total()),
                    ("responses_verified", screened.verified.total()),
                    ("responses_refused", screened.refused.total()),
                    ("responses_stripped", screened.stripped.total()),
                    ("prescans_ignored", screened.prescans.total()),
                    ("malformed", screened.malformed.total()),
                    ("shared", shared(|counters| &counters.shared)),
                    ("share_failed", shared(|counters| &counters.failed)),
                    ("share_dropped", shared(|counters| &counters.dropped)),
                ]),
                liveness: counts(&[
                    ("quiet", liveness.quiet.total()),
                    ("live", liveness.live.total()),
                    ("unknown", liveness.unknown.total()),
                    ("cached_live", liveness.cached_live.total()),
                    ("cached_quiet", liveness.cached_quiet.total()),
                ]),
                connections: {
                    let dtls = stats.connecting.totals();
                    stats.connections.totals().into_iter().chain(dtls).map(count).collect()
                },
                session_watchers: announcer.hub().watchers() as u64,
                redis: announcer.redis().state().to_string(),
                funnel: stats.funnel.channels(),
                countries: stats.funnel.countries(),
                networks: stats.funnel.networks(),
                phantom_subnets: stats.funnel.phantom_subnets(),
                tunnels_completed: stats.proxy.completed.total(),
                up_bytes: stats.proxy.traffic.up(),
                down_bytes: stats.proxy.traffic.down(),
                registrations_stored: pipeline.store.len() as u64,
                ingest_waiting: ingest.waiting.value().max(0) as u64,
                ingest_capacity: stats::BUS_QUEUE as u64,
            })),
        }
    }

    async fn reload(&self) -> Vec<FileResult> {
        Self::reload(self)
    }

    fn drain(&self, deadline: Duration) {
        *self.grace.lock() = deadline;
        self.drained.notify_one();
    }
}
