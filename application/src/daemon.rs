//! From start to end: configuration, sockets, signals, reload (`spec/application.md` 2).

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bus::{Publisher, PublisherOptions, Subscriber, SubscriberOptions};
use conf::Application;
use handover::Inherited;
use parking_lot::Mutex;
use telemetry::admin::{self, Identification};
use telemetry::log::{self, Logger};
use telemetry::process::{self, Exit, Reloads, Signal, Signals};
use telemetry::{metrics, output, privacy};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::acceptors::{Acceptors, default_threads};
use crate::arguments::Arguments;
use crate::change_over::handover_socket;
use crate::group::Group;
use crate::ingest::{self, IngestQueue};
use crate::opening::{self, Opened};
use crate::setup::{level, listen_address, offset, variable};
use crate::sources::{self, Sources};
use crate::succession::Successor;
use crate::{Station, chores, dtls};

pub use crate::change_over::Arrival;
pub use crate::listener::accept;
pub use crate::setup::{Setup, StartError};

/// How long readiness waits for the sources of registrations.
const FIRST_SOURCES: Duration = Duration::from_millis(500);
/// How long a successor waits for its sources before it takes over.
const ALL_SOURCES: Duration = Duration::from_secs(5);
/// How long a successor keeps messages for subscribers that come over.
const HELD: Duration = Duration::from_secs(10);

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
        Arrival::First(group) => {
            daemon.accept(group)?;
            daemon.sources_connected(FIRST_SOURCES).await;
        }
        Arrival::After(group, predecessor) => {
            daemon.sources_connected(ALL_SOURCES).await;
            daemon.follow(group, predecessor).await?;
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

/// A running application.
#[derive(Debug)]
pub struct Daemon {
    pub(crate) path: PathBuf,
    pub(crate) phantoms: PathBuf,
    /// The configuration of the start.
    pub(crate) started: Application,
    pub(crate) station: Arc<Station>,
    pub(crate) listening: SocketAddr,
    pub(crate) sources: Sources,
    pub(crate) ingest: (String, watch::Receiver<bus::State>),
    pub(crate) tasks: Mutex<Vec<JoinHandle<()>>>,
    pub(crate) grace: Mutex<Duration>,
    pub(crate) drained: Notify,
    pub(crate) reloads: Reloads,
    pub(crate) log: Logger,
    pub(crate) fan_in: Arc<Publisher>,
    pub(crate) acceptors: Acceptors,
    /// Where phantom connections come in, once they are accepted.
    pub(crate) group: OnceLock<Group>,
    /// Whether connections may still come to listeners that the successor does not know.
    pub(crate) stragglers: AtomicBool,
    pub(crate) draining: AtomicBool,
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
            Some(channel) => Some(Successor::begin(channel, opened.several)?),
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

        let acceptors = Acceptors::start(settings.accept_threads.unwrap_or_else(default_threads))?;
        let group = match Group::inherited(opened.tcp)? {
            Some(group) => Ok(group),
            None => Group::open(address),
        };
        let group = group.map_err(|cause| StartError::Listen { address, cause })?;
        let listening = group.address()?;
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
        tasks.push(tokio::spawn(chores::expire(Arc::clone(&pipeline))));
        tasks.push(tokio::spawn(chores::print_stats(pipeline, workers / 10)));
        let log = Logger::new("[REG] ");
        log.info(format_args!("[STARTUP] Listening on {listening}"));
        let arrival = match predecessor {
            None => Arrival::First(group),
            Some(predecessor) => Arrival::After(group, predecessor),
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
            acceptors,
            group: OnceLock::new(),
            stragglers: false.into(),
            draining: false.into(),
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

    pub(crate) fn all_sources(&self) -> Vec<(String, watch::Receiver<bus::State>)> {
        let mut all = self.sources.states();
        all.push(self.ingest.clone());
        all
    }

    /// Accepts phantom connections from now on, with a listener for each thread.
    pub(crate) fn accept(&self, mut group: Group) -> io::Result<()> {
        let threads = self.acceptors.threads();
        if let Err(error) = group.grow_to(threads) {
            let count = group.size();
            let text = format_args!("{threads} threads share {count} listeners: {error}");
            self.log.warn(text);
        }
        let group = self.group.get_or_init(|| group);
        self.acceptors.accept(group, &self.station)?;
        if let Some(dtls) = self.station.pipeline.dtls.get()
            && let Err(error) = dtls.succeed(None, &[])
        {
            self.log.error(format_args!("DTLS: {error}"));
        }
        Ok(())
    }

    /// Serves the gRPC session channel unless it is turned off.
    pub(crate) fn serve_sessions(&self) -> Result<(), StartError> {
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
}

/// Whether an inherited fan-in socket has the name that the configuration gives it.
fn is_named(socket: &OwnedFd, name: &str) -> bool {
    use std::os::linux::net::SocketAddrExt;
    let Ok(copy) = socket.try_clone() else { return false };
    let address = std::os::unix::net::UnixListener::from(copy).local_addr();
    address.is_ok_and(|address| address.as_abstract_name() == Some(name.as_bytes()))
}
