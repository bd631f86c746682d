//! From start to end: configuration, sockets, signals, reload.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bus::{Publisher, PublisherOptions};
use conf::{Loaded, RegistrarLogLevel as Level};
use parking_lot::Mutex;
use signalling::station::{Count, FileResult, RegistrarStatus, status_reply::Detail};
use telemetry::admin::{self, DaemonStatus, Identification};
use telemetry::privacy;
use telemetry::process::{self, Exit, Signal, Signals};
use tokio::sync::Notify;

use crate::api::{self, Api};
use crate::arguments::Arguments;
use crate::auth::{Auth, KeyError};
use crate::log;
use crate::metrics::Metrics;
use crate::snapshot::{Files, Rules, Snapshot, SnapshotError};

/// Where the phantom subnets are when `PHANTOM_SUBNET_LOCATION` is not set.
const DEFAULT_PHANTOMS: &str = "/var/lib/conjure/phantom_subnets.toml";
/// Time given to subscribers to take what is queued when the registrar ends.
const LINGER: Duration = Duration::from_secs(1);

/// Why the registrar cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No configuration file is named.
    #[error("no configuration file: give -config PATH or set CJ_REGISTRAR_CONFIG")]
    NoPath,
    /// The configuration is wrong.
    #[error("error occurred while parsing config: {0}")]
    Configuration(#[from] conf::Problems),
    /// ClientConf or phantom subnets are wrong.
    #[error("error occurred while parsing config: {0}")]
    Snapshot(#[from] SnapshotError),
    /// The service that is asked for does not exist.
    #[error("{0} asks for a service this registrar does not have; it serves the HTTP API")]
    NothingToRun(&'static str),
    /// A key of CURVE mode cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The publishing socket cannot be opened.
    #[error("failed to create zmq socket: {0}")]
    Publisher(#[from] bus::BindError),
    /// The HTTP socket cannot be opened.
    #[error("cannot listen on port {port} (api_port): {source}")]
    Listen {
        /// Configured port.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// The operating system refuses something every process has.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
}

impl StartError {
    const fn exit(&self) -> Exit {
        match self {
            Self::NoPath | Self::NothingToRun(_) => Exit::Usage,
            Self::Configuration(_) | Self::Snapshot(_) | Self::Key(_) => Exit::Config,
            Self::Publisher(_) | Self::Listen { .. } => Exit::Unavailable,
            Self::System(_) => Exit::OsErr,
        }
    }
}

/// Runs the registrar until it is told to end.
pub fn main(arguments: Arguments) -> Exit {
    match run(&arguments) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            log::line(Level::Fatal, &error.to_string(), &[]);
            error.exit()
        }
    }
}

/// Configuration of a registrar, files included.
#[derive(Debug)]
pub struct Setup {
    /// Path of the configuration file.
    pub path: PathBuf,
    /// Its content.
    pub registrar: conf::Registrar,
    /// The files it names.
    pub files: Files,
    /// What requests are answered from.
    pub snapshot: Snapshot,
    /// Keys of CURVE mode; `None` in NULL mode.
    pub auth: Option<Auth>,
}

impl Setup {
    /// Reads the file at `path` and what it names; remarks are logged.
    ///
    /// # Errors
    /// [`StartError`] when anything is wrong.
    pub fn load(path: &Path, phantoms: &Path) -> Result<Self, StartError> {
        let Loaded { value: registrar, notices } = conf::Registrar::load(path)?;
        log::set_level(registrar.log_level);
        let files =
            Files { client_conf: registrar.clientconf_path.clone(), phantoms: phantoms.to_owned() };
        let (snapshot, remarks) = Snapshot::load(&files)?;
        for notice in notices {
            log::line(Level::Warning, &notice.to_string(), &[]);
        }
        let (auth, about_keys) = Auth::load(&registrar)?;
        for remark in remarks.into_iter().chain(about_keys) {
            log::line(Level::Warning, &remark, &[]);
        }
        Ok(Self { path: path.to_owned(), registrar, files, snapshot, auth })
    }

    fn of_process(arguments: &Arguments) -> Result<Self, StartError> {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let path = arguments.config.clone().or_else(|| variable("CJ_REGISTRAR_CONFIG"));
        let path = path.ok_or(StartError::NoPath)?;
        let phantoms = variable("PHANTOM_SUBNET_LOCATION");
        Self::load(&path, &phantoms.unwrap_or_else(|| DEFAULT_PHANTOMS.into()))
    }
}

fn run(arguments: &Arguments) -> Result<(), StartError> {
    for (given, flag) in
        [(arguments.dns_only, "-dns-only"), (arguments.ampcache_only, "-ampcache-only")]
    {
        if given {
            return Err(StartError::NothingToRun(flag));
        }
    }
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
    // Part of the identity only; a file that vanished just now gives an empty text.
    let text = std::fs::read(&registrar.setup.path).unwrap_or_default();
    let who = Identification::new("registrar", env!("CARGO_PKG_VERSION"), &text);
    if let Err(error) = admin::serve(&path, Arc::clone(registrar), who) {
        log::line(Level::Warning, &format!("no admin service: {error}"), &[]);
    }
}

/// What remains of a [`Setup`] after the start.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    files: Files,
}

/// A running registrar.
#[derive(Debug)]
pub struct Registrar {
    setup: Kept,
    api: Arc<Api>,
    address: SocketAddr,
    drained: Notify,
    linger: Mutex<Duration>,
}

impl Registrar {
    /// Opens the sockets and starts serving. `rules` replaces those of the configuration.
    ///
    /// # Errors
    /// [`StartError`] when a socket cannot be opened.
    pub async fn start(setup: Setup, rules: Option<Rules>) -> Result<Self, StartError> {
        let Setup { path, registrar, files, snapshot, auth } = setup;
        let endpoint = format!("tcp://{}:{}", registrar.zmq_bind_addr, registrar.zmq_port);
        let options = PublisherOptions {
            curve: auth.as_ref().map(|auth| Arc::clone(&auth.server)),
            ..PublisherOptions::default()
        };
        let publisher = Publisher::bind(&endpoint, options).await?;
        let mut rules = rules.unwrap_or_else(|| Rules::new(&registrar));
        rules.signer = auth.as_ref().map(|auth| Arc::clone(&auth.signer));
        let listener = api::listen(registrar.api_bind_addr, registrar.api_port)
            .map_err(|source| StartError::Listen { port: registrar.api_port, source })?;
        let address = listener.local_addr()?;
        let api = Arc::new(Api {
            snapshot: ArcSwap::from_pointee(snapshot),
            rules,
            publisher: Arc::new(publisher),
            metrics: Metrics::default(),
            trusted_proxies: registrar.trusted_proxies.clone(),
            max_body: registrar.max_body_bytes,
        });
        tokio::spawn(api::serve(Arc::clone(&api), listener));
        if !registrar.log_metrics_interval.is_zero() {
            tokio::spawn(print_metrics(Arc::clone(&api), registrar.log_metrics_interval));
        }
        let zmq = api.publisher.endpoint().to_string();
        log::line(
            Level::Info,
            "Started Conjure registration server",
            &[("api", &address), ("zmq", &zmq as &dyn Display)],
        );
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
            api,
            address,
            drained: Notify::new(),
            linger: Mutex::new(LINGER),
        })
    }

    /// Address of the HTTP API.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What answers and publishes.
    pub const fn api(&self) -> &Arc<Api> {
        &self.api
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
            let files = Files { client_conf: registrar.value.clientconf_path, ..files.clone() };
            Snapshot::load(&files).map_err(|e| {
                let file = match &e {
                    SnapshotError::Phantoms { path, .. }
                    | SnapshotError::ClientConf { path, .. }
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
                self.api.snapshot.store(Arc::new(snapshot));
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
        let waiting = || self.api.publisher.peers().iter().any(|peer| peer.queued > 0);
        let deadline = tokio::time::Instant::now() + *self.linger.lock();
        while waiting() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn print_metrics(api: Arc<Api>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        api.metrics.print();
    }
}

impl admin::Daemon for Registrar {
    fn status(&self) -> DaemonStatus {
        let publisher = &self.api.publisher;
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
        let counts = self.api.metrics.counts();
        let requests =
            counts.into_iter().map(|(name, value)| Count { name: name.to_owned(), value });
        DaemonStatus {
            state: "ready".to_owned(),
            notes,
            detail: Some(Detail::Registrar(RegistrarStatus {
                requests: requests.collect(),
                published: stats.published,
                subscribers: stats.subscribers as u64,
                dropped: stats.dropped,
                generation: self.api.snapshot.load().generation,
            })),
        }
    }

    async fn reload(&self) -> Vec<FileResult> {
        Self::reload(self)
    }

    fn drain(&self, deadline: Duration) {
        *self.linger.lock() = deadline;
        self.drained.notify_one();
    }
}
