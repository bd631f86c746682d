//! From start to end: configuration, sockets, signals, reload.

use std::fmt::Display;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bus::{Publisher, PublisherOptions};
use conf::RegistrarLogLevel as Level;
use parking_lot::Mutex;
use signalling::station::{Count, FileResult, RegistrarStatus, status_reply::Detail};
use telemetry::admin::{self, DaemonStatus, Identification};
use telemetry::metrics::Exposition;
use telemetry::privacy;
use telemetry::process::{self, Exit, Signal, Signals};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::api::{self, Api};
use crate::arguments::Arguments;
use crate::buckets::{Buckets, Rate};
use crate::dns::{DnsService, Listeners};
use crate::grpc::GrpcService;
use crate::health::Health;
use crate::log;
use crate::metrics::Metrics;
use crate::processor::Processor;
pub use crate::setup::{Services, Setup, StartError};
use crate::snapshot::{Files, Rules, Snapshot, SnapshotError};

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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::install()?;
        let registrar = Registrar::start(setup, None).await?;
        let registrar = Arc::new(registrar);
        administrate(&registrar);
        process::notify("READY=1");
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Reload => {
                        registrar.reload();
                    }
                    Signal::Interrupt | Signal::Terminate => break,
                },
                () = registrar.drained.notified() => break,
            }
        }
        registrar.end().await;
        Ok(())
    })
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
struct Kept {
    path: PathBuf,
    files: Files,
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
    setup: Kept,
    processor: Arc<Processor>,
    dns: Option<Arc<DnsService>>,
    open: Open,
    drained: Notify,
    linger: Mutex<Duration>,
}

impl Registrar {
    /// Opens the sockets and starts serving. `rules` replaces those of the configuration.
    ///
    /// # Errors
    /// [`StartError`] when a socket cannot be opened.
    pub async fn start(setup: Setup, rules: Option<Rules>) -> Result<Self, StartError> {
        let Setup { path, registrar, files, snapshot, auth, responder, grpc_tls, services } = setup;
        let endpoint = format!("tcp://{}:{}", registrar.zmq_bind_addr, registrar.zmq_port);
        let options = PublisherOptions {
            curve: auth.as_ref().map(|auth| Arc::clone(&auth.server)),
            ..PublisherOptions::default()
        };
        let publisher = Publisher::bind(&endpoint, options).await?;
        let mut rules = rules.unwrap_or_else(|| Rules::new(&registrar));
        rules.signer = auth.as_ref().map(|auth| Arc::clone(&auth.signer));
        let processor = Arc::new(Processor {
            snapshot: ArcSwap::from_pointee(snapshot),
            rules,
            publisher: Arc::new(publisher),
            metrics: Metrics::default(),
        });
        let clients =
            (registrar.client_rate > 0).then(|| Arc::new(Buckets::new(client_rate(&registrar))));
        let mut open = Open::default();
        if services.api || services.amp {
            let listener = api::listen(registrar.api_bind_addr, registrar.api_port)
                .map_err(|source| StartError::Listen { port: registrar.api_port, source })?;
            open.api = Some(listener.local_addr()?);
            let api = Api::new(Arc::clone(&processor), &registrar, services, clients.clone());
            tokio::spawn(api::serve(Arc::new(api), listener));
        }
        if let Some(address) = registrar.grpc_listen_addr.filter(|_| services.api) {
            let listener = listen("grpc_listen_addr", address)?;
            open.grpc = Some(listener.local_addr()?);
            let service = GrpcService::new(Arc::clone(&processor), &registrar, clients, grpc_tls);
            tokio::spawn(service.serve(listener));
        }
        let mut dns = None;
        if let Some(responder) = responder {
            let listeners = Listeners::open(&registrar.dns_listen_addr)?;
            open.dns = listeners.address();
            let pending = registrar.dns_max_pending;
            let service = Arc::new(DnsService::new(Arc::clone(&processor), responder, pending));
            let workers = match registrar.dns_workers {
                0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
                workers => workers,
            };
            service.serve(listeners, workers);
            dns = Some(service);
        }
        if let Some(address) = registrar.admin_listen_addr {
            let listener = listen("admin_listen_addr", address)?;
            open.admin = Some(listener.local_addr()?);
            let (processor, dns) = (Arc::clone(&processor), dns.clone());
            let status = move || describe(&processor, dns.as_deref());
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
            setup: Kept { path, files },
            processor,
            dns,
            open,
            drained: Notify::new(),
            linger: Mutex::new(LINGER),
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

    /// Reads the configuration, ClientConf and phantom subnets again. All of it takes effect, or
    /// nothing does; one result per file.
    pub fn reload(&self) -> Vec<FileResult> {
        let result = |file: &Path, error: Option<String>| FileResult {
            file: file.display().to_string(),
            applied: error.is_none(),
            error: error.unwrap_or_default(),
        };
        let (path, files) = (&self.setup.path, &self.setup.files);
        let loaded = conf::Registrar::load(path).map_err(|e| (path.clone(), e.to_string()));
        let loaded = loaded.and_then(|registrar| {
            let files = Files::new(&registrar.value, &files.phantoms);
            Snapshot::load(&files).map_err(|e| {
                let file = match &e {
                    SnapshotError::Phantoms { path, .. }
                    | SnapshotError::ClientConf { path, .. }
                    | SnapshotError::Prefixes { path, .. }
                    | SnapshotError::Decode { path, .. } => path.clone(),
                };
                (file, e.to_string())
            })
        });
        match loaded {
            Ok((snapshot, remarks)) => {
                for remark in remarks {
                    log::line(Level::Warning, &remark, &[]);
                }
                log::line(
                    Level::Info,
                    "reloaded",
                    &[
                        ("generation", &snapshot.generation),
                        ("phantom_generations", &snapshot.generations()),
                    ],
                );
                self.processor.snapshot.store(Arc::new(snapshot));
                vec![
                    result(path, None),
                    result(&files.client_conf, None),
                    result(&files.phantoms, None),
                ]
            }
            Err((file, error)) => {
                let message = if file == files.phantoms {
                    format!("failed to reload phantom subnets - aborting reload: {error}")
                } else {
                    format!("error occurred while reloading config -- aborting reload: {error}")
                };
                log::line(Level::Error, &message, &[]);
                vec![result(&file, Some(error))]
            }
        }
    }

    /// Gives subscribers a moment to take what is queued.
    async fn end(&self) {
        let waiting = || self.processor.publisher.peers().iter().any(|peer| peer.queued > 0);
        let deadline = tokio::time::Instant::now() + *self.linger.lock();
        while waiting() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn listen(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    api::listen(Some(address.ip()), address.port()).map_err(|source| StartError::Address {
        key,
        address,
        source,
    })
}

/// Registrations of one client, which is an IPv4 address or an IPv6 network of 64 bits.
const fn client_rate(registrar: &conf::Registrar) -> Rate {
    let (per_second, burst) = (registrar.client_rate, registrar.client_burst);
    Rate { per_second, burst, v4: 32, v6: 64 }
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
fn describe(processor: &Processor, dns: Option<&DnsService>) -> DaemonStatus {
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
    if let Some(dns) = dns {
        let pending = dns.pending();
        notes.push(format!("dns: {pending} registrations in progress or kept for retries"));
    }
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
        describe(&self.processor, self.dns.as_deref())
    }

    async fn reload(&self) -> Vec<FileResult> {
        Self::reload(self)
    }

    fn drain(&self, deadline: Duration) {
        *self.linger.lock() = deadline;
        self.drained.notify_one();
    }
}
