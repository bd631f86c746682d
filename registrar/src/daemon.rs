//! From start to end: configuration, sockets, signals, reload.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bus::{Admission, NatsOptions, NatsPublisher, Publisher, PublisherOptions};
use conf::RegistrarLogLevel as Level;
use handover::{Host, Inherited};
use parking_lot::Mutex;
use registration::signing::ResponseSigner;
use sandbox::Sandbox;
use signalling::station::{Count, FileResult, RegistrarStatus, status_reply::Detail};
use telemetry::admin::{self, DaemonStatus, Identification};
use telemetry::metrics::Exposition;
use telemetry::privacy;
use telemetry::process::{self, Exit, Reloads, Signal, Signals};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use crate::api::{self, Api};
use crate::arguments::Arguments;
use crate::dns::DnsService;
use crate::gate::Gate;
use crate::grpc::GrpcService;
use crate::health::Health;
use crate::log;
use crate::metrics::Metrics;
use crate::processor::Processor;
pub use crate::setup::{Services, Setup, StartError};
use crate::snapshot::{Files, Rules};
use crate::sockets::{Sockets, ZMQ};
use crate::stop::Stop;
use crate::succession;

/// Time given to subscribers to take what is queued when the registrar ends.
const LINGER: Duration = Duration::from_secs(1);

/// Runs the registrar until it is told to end.
pub fn main(arguments: Arguments) -> Exit {
    if let Err(error) = telemetry::metrics::check_environment("registrar") {
        log::line(Level::Fatal, &error.to_string(), &[]);
        return Exit::Config;
    }
    match run(&arguments) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            log::line(Level::Fatal, &error.to_string(), &[]);
            error.exit()
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), StartError> {
    client_addresses();
    let setup = Setup::of_process(arguments)?;
    if arguments.check_config {
        println!(
            "{}: good, generation {}, {} generations of phantoms",
            setup.path.display(),
            setup.snapshot.generation,
            setup.snapshot.generations()
        );
        if let Some(auth) = &setup.auth {
            println!("pubkey of this registrar for connect_sockets: {}", auth.public_z85());
            println!("responses are signed with Ed25519 key {}", auth.signing_public());
        }
        if let Some(responder) = &setup.responder {
            println!("DNS registrations are taken below {}", responder.zone());
        }
        return Ok(());
    }
    if setup.services.is_none() {
        log::line(Level::Info, "Started Conjure registration server", &[]);
        return Ok(());
    }
    process::raise_nofile_limit();
    let (mut inherited, predecessor) = match arguments.take_over {
        true => {
            let (inherited, channel) = handover::take_over("registrar", &handover_socket())?;
            (inherited, Some(channel))
        }
        false => (Inherited::of_manager(), None),
    };
    if let Some(channel) = &predecessor {
        handover::steps::begin(channel)?;
    }
    sandbox::Capability::NetBindService.raise();
    let mut sockets = Sockets::open(&setup, &mut inherited)?;
    sockets.succeeds = predecessor.is_some();
    inherited.dismiss();
    confine(&setup, arguments)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::install()?;
        let registrar = Registrar::start_on(setup, sockets, None).await?;
        let registrar = Arc::new(registrar);
        if let Some(channel) = predecessor {
            succession::follow(&registrar, channel)?;
        }
        administrate(&registrar);
        let mut superseded = registrar.wait_for_successor();
        process::ready("taking registrations");
        // Being polled is all that the runtime has to prove.
        tokio::spawn(process::watchdog(|| true));
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Reload => {
                        registrar.reload();
                    }
                    Signal::Interrupt | Signal::Terminate => break,
                },
                () = registrar.drained.notified() => break,
                Some(left) = superseded.recv() => {
                    process::status("draining");
                    *registrar.linger.lock() = left;
                    break;
                }
            }
        }
        process::stopping();
        registrar.end().await;
        Ok(())
    })
}

/// Where a successor asks for this process's sockets.
fn handover_socket() -> PathBuf {
    handover::socket_path(&admin::ipc_dir(), "registrar", 0)
}

/// Gives up what only opening the sockets took.
fn confine(setup: &Setup, arguments: &Arguments) -> Result<(), StartError> {
    // Landlock knows only what exists. What cannot be made is an error with a name further on.
    let _ = std::fs::create_dir_all(admin::ipc_dir());
    let Files { client_conf, phantoms, prefixes, .. } = &setup.files;
    let profile = profile(&setup.path, client_conf, phantoms, prefixes.as_deref())
        .user(arguments.user.clone());
    for note in profile.enter()?.notes {
        log::line(Level::Warning, &note, &[]);
    }
    Ok(())
}

/// The bounds of the registrar: no capability, the folders of its files to read, that of its sockets to
/// write.
pub fn profile(
    path: &Path,
    client_conf: &Path,
    phantoms: &Path,
    prefixes: Option<&Path>,
) -> Sandbox {
    let profile = Sandbox::new("registrar")
        .read_beside(path)
        .read_beside(client_conf)
        .read_beside(phantoms)
        .write(admin::ipc_dir());
    match prefixes {
        Some(prefixes) => profile.read_beside(prefixes),
        None => profile,
    }
}

/// Asks the running registrar for its state.
pub fn health() -> std::process::ExitCode {
    let path = admin::socket_path(&admin::ipc_dir(), "registrar", 0);
    Exit::of_health("registrar", process::health(&path))
}

/// Sets the switch for client addresses; a missing or strange value means no.
fn client_addresses() {
    let text = std::env::var("LOG_CLIENT_IP").unwrap_or_else(|_| "false".to_owned());
    match privacy::parse_log_client_ip(&text) {
        Ok(on) => privacy::set_log_client_ip(on),
        Err(error) => {
            let message = format!("failed parse client ip logging setting: {error}");
            log::line(Level::Error, &message, &[]);
        }
    }
}

fn administrate(registrar: &Arc<Registrar>) {
    let path = admin::socket_path(&admin::ipc_dir(), "registrar", 0);
    if let Err(error) = admin::serve(&path, Arc::clone(registrar), identity(&registrar.setup.path))
    {
        log::line(Level::Warning, &format!("no admin service: {error}"), &[]);
    }
}

/// Who answers; `configuration` is part of the identity only, and a file that vanished just now gives an
/// empty text.
fn identity(configuration: &Path) -> Identification {
    let text = std::fs::read(configuration).unwrap_or_default();
    Identification::new("registrar", env!("CARGO_PKG_VERSION"), &text)
}

/// What remains of a [`Setup`] after the start.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) path: PathBuf,
    pub(crate) phantoms: PathBuf,
    pub(crate) registrar: conf::Registrar,
    pub(crate) admission: Option<Admission>,
    pub(crate) signer: Option<Arc<ResponseSigner>>,
}

/// Where a registrar listens; `None` for a service that does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Open {
    /// HTTP: the API and the endpoints of AMP caches.
    pub api: Option<SocketAddr>,
    /// DNS, UDP and TCP.
    pub dns: Option<SocketAddr>,
    /// gRPC.
    pub grpc: Option<SocketAddr>,
    /// Health and metrics.
    pub admin: Option<SocketAddr>,
}

/// A running registrar.
#[derive(Debug)]
pub struct Registrar {
    pub(crate) setup: Kept,
    pub(crate) processor: Arc<Processor>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) api: Option<Arc<Api>>,
    dns: Option<Arc<DnsService>>,
    open: Open,
    pub(crate) stop: Stop,
    grpc: Mutex<Option<JoinHandle<()>>>,
    drained: Notify,
    linger: Mutex<Duration>,
    pub(crate) reloads: Reloads,
    /// Copies of the listening sockets, by name.
    descriptors: Mutex<Vec<(String, OwnedFd)>>,
}

impl Registrar {
    /// Opens the sockets and starts serving. `rules` replaces those of the configuration.
    ///
    /// # Errors
    /// [`StartError`] when a socket cannot be opened.
    pub async fn start(setup: Setup, rules: Option<Rules>) -> Result<Self, StartError> {
        let sockets = Sockets::open(&setup, &mut Inherited::default())?;
        Self::start_on(setup, sockets, rules).await
    }

    /// Starts serving on `sockets`. `rules` replaces those of the configuration.
    ///
    /// # Errors
    /// [`StartError`] when a socket cannot be used.
    pub async fn start_on(
        setup: Setup,
        sockets: Sockets,
        rules: Option<Rules>,
    ) -> Result<Self, StartError> {
        let Setup { path, registrar, files, snapshot, auth, responder, grpc_tls, services } = setup;
        let endpoint = format!("tcp://{}:{}", registrar.zmq_bind_addr, registrar.zmq_port);
        let options = PublisherOptions {
            curve: auth.as_ref().map(|auth| Arc::clone(&auth.server)),
            hold: if sockets.succeeds { succession::HELD } else { Duration::ZERO },
            ..PublisherOptions::default()
        };
        let mut descriptors = sockets.copies()?;
        let publisher = match sockets.zmq {
            Some(descriptor) => Publisher::adopt(descriptor, &endpoint, options)?,
            None => Publisher::bind(&endpoint, options).await?,
        };
        descriptors.push((ZMQ.to_owned(), publisher.listener().try_clone_to_owned()?));
        let mut rules = rules.unwrap_or_else(|| Rules::new(&registrar));
        rules.signer = auth.as_ref().map(|auth| Arc::clone(&auth.signer));
        let processor = Arc::new(Processor {
            snapshot: ArcSwap::from_pointee(snapshot),
            rules: ArcSwap::from_pointee(rules),
            publisher: Arc::new(publisher),
            nats: nats(&registrar)?,
            metrics: Metrics::default(),
        });
        let (gate, stop) = (Arc::new(Gate::new(&registrar)), Stop::default());
        let (mut open, mut api, mut grpc) = (Open::default(), None, None);
        if let Some(listener) = sockets.api {
            open.api = Some(listener.local_addr()?);
            let listener = TcpListener::from_std(listener)?;
            let serving = Api::new(Arc::clone(&processor), &registrar, services, Arc::clone(&gate));
            let serving = Arc::new(serving);
            tokio::spawn(api::serve(Arc::clone(&serving), listener, stop.watch()));
            api = Some(serving);
        }
        if let Some(listener) = sockets.grpc {
            open.grpc = Some(listener.local_addr()?);
            let listener = TcpListener::from_std(listener)?;
            let (processor, gate) = (Arc::clone(&processor), Arc::clone(&gate));
            let service = GrpcService::new(processor, &registrar, gate, grpc_tls);
            grpc = Some(tokio::spawn(service.serve(listener, stop.watch())));
        }
        let mut dns = None;
        if let Some((responder, listeners)) = responder.zip(sockets.dns) {
            open.dns = listeners.address();
            let pending = registrar.dns_max_pending;
            let service = Arc::new(DnsService::new(Arc::clone(&processor), responder, pending));
            let workers = match registrar.dns_workers {
                0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
                workers => workers,
            };
            service.serve(listeners, workers, &stop.watch())?;
            dns = Some(service);
        }
        if let Some(listener) = sockets.admin {
            open.admin = Some(listener.local_addr()?);
            let listener = TcpListener::from_std(listener)?;
            let (processor, dns) = (Arc::clone(&processor), dns.clone());
            let status = move || describe(&processor, dns.as_deref(), Vec::new());
            let exposition = Exposition::new(identity(&path), status)?;
            tokio::spawn(Health { exposition }.serve(listener));
        }
        if !registrar.log_metrics_interval.is_zero() {
            tokio::spawn(print_metrics(Arc::clone(&processor), registrar.log_metrics_interval));
        }
        let zmq = processor.publisher.endpoint().to_string();
        let mut fields: Vec<(&str, &dyn Display)> = vec![("zmq", &zmq)];
        fields.extend(open.api.as_ref().map(|address| ("api", address as &dyn Display)));
        fields.extend(open.dns.as_ref().map(|address| ("dns", address as &dyn Display)));
        fields.extend(open.grpc.as_ref().map(|address| ("grpc", address as &dyn Display)));
        fields.extend(open.admin.as_ref().map(|address| ("admin", address as &dyn Display)));
        log::line(Level::Info, "Started Conjure registration server", &fields);
        if services.amp {
            log::line(Level::Info, "AMP cache reg server started", &[]);
        }
        if let Some(auth) = &auth {
            let (pubkey, signing) = (auth.public_z85(), auth.signing_public());
            log::line(
                Level::Info,
                "CURVE: stations authenticate, responses are signed",
                &[("pubkey", &pubkey), ("signing_key", &signing)],
            );
            auth.announce();
        }
        Ok(Self {
            setup: Kept {
                path,
                phantoms: files.phantoms,
                admission: auth.as_ref().map(|auth| auth.server.admitted.clone()),
                signer: auth.map(|auth| auth.signer),
                registrar,
            },
            processor,
            gate,
            api,
            dns,
            open,
            stop,
            grpc: Mutex::new(grpc),
            drained: Notify::new(),
            linger: Mutex::new(LINGER),
            reloads: Reloads::default(),
            descriptors: Mutex::new(descriptors),
        })
    }

    /// Addresses that are listened on.
    pub const fn open(&self) -> &Open {
        &self.open
    }

    /// Address of the HTTP API; unspecified when it does not run.
    pub fn address(&self) -> SocketAddr {
        self.open.api.unwrap_or_else(|| SocketAddr::from(([0; 4], 0)))
    }

    /// What completes and publishes registrations.
    pub const fn processor(&self) -> &Arc<Processor> {
        &self.processor
    }

    /// Offers the sockets to a successor and to the service manager. What comes out is the time that a
    /// successor left to this process.
    fn wait_for_successor(self: &Arc<Self>) -> mpsc::Receiver<Duration> {
        let (tell, told) = mpsc::channel(1);
        let descriptors = std::mem::take(&mut *self.descriptors.lock());
        handover::store(&descriptors);
        let host = match Host::bind(&handover_socket(), descriptors) {
            Ok(host) => host,
            Err(error) => {
                let message = format!("no upgrade without restart: {error}");
                log::line(Level::Warning, &message, &[]);
                return told;
            }
        };
        let (registrar, runtime) = (Arc::clone(self), tokio::runtime::Handle::current());
        let wait = move || {
            let _context = runtime.enter();
            while let Ok((channel, pid)) = host.wait() {
                if let Ok(left) = succession::serve(&registrar, channel, pid) {
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

    /// Takes no more work, finishes what has begun, and gives subscribers a moment to take what is queued.
    async fn end(&self) {
        self.stop.stop();
        self.processor.publisher.stop_accepting();
        let deadline = tokio::time::Instant::now() + *self.linger.lock();
        let grpc = self.grpc.lock().take();
        if let Some(grpc) = grpc {
            // What a call leaves unfinished by then is cut with the process.
            let _ = tokio::time::timeout_at(deadline, grpc).await;
        }
        let working = || self.api.as_ref().is_some_and(|api| api.connections() > 0);
        let nats = || self.processor.nats.as_ref().is_some_and(|nats| nats.pending() > 0);
        let queued =
            || nats() || self.processor.publisher.peers().iter().any(|peer| peer.queued > 0);
        while (working() || queued()) && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The publisher over NATS, where a server is configured.
fn nats(registrar: &conf::Registrar) -> Result<Option<NatsPublisher>, StartError> {
    let Some(url) = &registrar.nats_url else { return Ok(None) };
    let credentials = registrar.nats_credentials_path.as_deref();
    let options = NatsOptions::new(url, &registrar.nats_subject, credentials)?;
    Ok(Some(NatsPublisher::start(options)))
}

async fn print_metrics(processor: Arc<Processor>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        processor.metrics.print();
    }
}

/// What the registrar tells of itself.
fn describe(processor: &Processor, dns: Option<&DnsService>, reloads: Vec<String>) -> DaemonStatus {
    let publisher = &processor.publisher;
    let stats = publisher.stats();
    let mut notes: Vec<String> = publisher
        .peers()
        .iter()
        .map(|peer| {
            let key = peer.key.map(|key| format!(" (key {})", keys::z85(&key)));
            format!(
                "subscriber {}{}: {} s, {} sent, {} queued, {} dropped",
                peer.address,
                key.unwrap_or_default(),
                peer.connected_for.as_secs(),
                peer.sent,
                peer.queued,
                peer.dropped
            )
        })
        .collect();
    if let Some(error) = stats.last_error {
        notes.push(format!("{} subscribers failed, last: {error}", stats.failed));
    }
    if let Some(nats) = &processor.nats {
        notes.push(format!(
            "nats: {}, {} confirmed, {} waiting, {} dropped",
            *nats.watch().borrow(),
            nats.published(),
            nats.pending(),
            nats.dropped()
        ));
    }
    if let Some(dns) = dns {
        let pending = dns.pending();
        notes.push(format!("dns: {pending} registrations in progress or kept for retries"));
    }
    notes.extend(reloads);
    let counts = processor.metrics.counts();
    let requests = counts.into_iter().map(|(name, value)| Count { name: name.to_owned(), value });
    DaemonStatus {
        state: "ready".to_owned(),
        notes,
        detail: Some(Detail::Registrar(RegistrarStatus {
            requests: requests.collect(),
            published: stats.published,
            subscribers: stats.subscribers as u64,
            dropped: stats.dropped,
            generation: processor.snapshot.load().generation,
            subscribers_failed: stats.failed,
            dns_pending: dns.map_or(0, |dns| dns.pending() as u64),
        })),
    }
}

impl admin::Daemon for Registrar {
    fn status(&self) -> DaemonStatus {
        describe(&self.processor, self.dns.as_deref(), self.reloads.notes())
    }

    async fn reload(&self) -> Vec<FileResult> {
        Self::reload(self)
    }

    fn drain(&self, deadline: Duration) {
        *self.linger.lock() = deadline;
        self.drained.notify_one();
    }
}
