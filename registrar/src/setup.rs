//! What a registrar is made of: its configuration, and every file that it names.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus::BindError;
use conf::{Loaded, RegistrarLogLevel as Level};
use registration::dns::{NameError, Responder};
use rustls::ServerConfig;
use telemetry::output::{self, Format};
use telemetry::process::Exit;
use zeroize::Zeroizing;

use crate::arguments::Arguments;
use crate::auth::{self, Auth, KeyError};
use crate::dns::ListenError;
use crate::grpc::{self, TlsError};
use crate::log;
use crate::snapshot::{Files, Snapshot, SnapshotError};

/// Where the phantom subnets are when `PHANTOM_SUBNET_LOCATION` is not set.
const DEFAULT_PHANTOMS: &str = "/var/lib/conjure/phantom_subnets.toml";
/// Key that names the file with the key of the DNS registrar.
const DNS_KEY: &str = "dns_private_key_path";

/// Services that run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Services {
    /// The HTTP API, and gRPC where it is configured.
    pub api: bool,
    /// The endpoints for AMP caches.
    pub amp: bool,
    /// DNS.
    pub dns: bool,
}

impl Services {
    /// Every service.
    pub const ALL: Self = Self { api: true, amp: true, dns: true };

    /// What the arguments leave: each `-…-only` excludes the two others, so two leave nothing.
    pub const fn of(arguments: &Arguments) -> Self {
        let Arguments { api_only, ampcache_only, dns_only, .. } = *arguments;
        Self {
            api: !dns_only && !ampcache_only,
            amp: !dns_only && !api_only,
            dns: !api_only && !ampcache_only,
        }
    }

    /// True when nothing is left to run.
    pub const fn is_none(self) -> bool {
        !self.api && !self.amp && !self.dns
    }
}

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
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A setting of the DNS registrar is missing.
    #[error("{0}: no value, which the DNS registrar needs; set it, or start with -api-only")]
    DnsSetting(&'static str),
    /// The zone of the DNS registrar is no name.
    #[error("domain: `{zone}` is no zone: {source}")]
    Zone {
        /// As configured.
        zone: String,
        /// Why.
        source: NameError,
    },
    /// There is no such log format.
    #[error(transparent)]
    LogFormat(#[from] output::UnknownFormat),
    /// A variable about metrics is wrong.
    #[error(transparent)]
    Metrics(#[from] telemetry::metrics::BadSetting),
    /// The publishing socket cannot be opened.
    #[error("failed to create zmq socket: {0}")]
    Publisher(#[from] BindError),
    /// The NATS server cannot be used.
    #[error("nats_credentials_path: {0}")]
    Nats(#[from] bus::NatsError),
    /// The sockets of the DNS registrar cannot be opened.
    #[error("failed to create DNS responder: {0}")]
    Dns(#[from] ListenError),
    /// TLS of the gRPC service cannot be served.
    #[error(transparent)]
    GrpcTls(#[from] TlsError),
    /// A socket with an address of its own cannot be opened.
    #[error("{key}: cannot listen on {address}: {source}{}", remedy(.source))]
    Address {
        /// Configuration key.
        key: &'static str,
        /// Configured address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The HTTP socket cannot be opened.
    #[error("cannot listen on port {port} (api_port): {source}{}", remedy(.source))]
    Listen {
        /// Configured port.
        port: u16,
        /// Why.
        source: io::Error,
    },
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
    /// Exit code of a registrar that ends with this error.
    pub fn exit(&self) -> Exit {
        let denied = |source: &io::Error| source.kind() == io::ErrorKind::PermissionDenied;
        match self {
            Self::Address { source, .. } | Self::Listen { source, .. } if denied(source) => {
                Exit::NoPerm
            }
            Self::Dns(ListenError::Socket { source, .. }) if denied(source) => Exit::NoPerm,
            Self::Sandbox(error) if error.is_configuration() => Exit::Config,
            Self::Sandbox(_) => Exit::NoPerm,
            Self::Handover(_) => Exit::Unavailable,
            Self::NoPath => Exit::Usage,
            Self::Configuration(_)
            | Self::Snapshot(_)
            | Self::Key(_)
            | Self::Nats(_)
            | Self::DnsSetting(_)
            | Self::Zone { .. }
            | Self::Metrics(_)
            | Self::LogFormat(_)
            | Self::GrpcTls(_) => Exit::Config,
            Self::Publisher(_) | Self::Dns(_) | Self::Address { .. } | Self::Listen { .. } => {
                Exit::Unavailable
            }
            Self::System(_) => Exit::OsErr,
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; stop the other process that listens there",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE: AmbientCapabilities= of the unit, cap_add of \
             the container, or setcap cap_net_bind_service+ep on the program"
        }
        _ => "",
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
    /// Zone and key of the DNS registrar; `None` when it does not run.
    pub responder: Option<Responder>,
    /// Certificate and key of the gRPC service; `None` for plain HTTP/2.
    pub grpc_tls: Option<Arc<ServerConfig>>,
    /// What runs.
    pub services: Services,
}

impl Setup {
    /// Reads the file at `path` and what it names for every service; remarks are logged.
    ///
    /// # Errors
    /// [`StartError`] when anything is wrong.
    pub fn load(path: &Path, phantoms: &Path) -> Result<Self, StartError> {
        Self::load_for(path, phantoms, Services::ALL)
    }

    /// As [`Setup::load`], for some services.
    ///
    /// # Errors
    /// [`StartError`] when anything is wrong.
    pub fn load_for(path: &Path, phantoms: &Path, services: Services) -> Result<Self, StartError> {
        let Loaded { value: registrar, notices } = conf::Registrar::load(path)?;
        log::set_level(registrar.log_level);
        let configured = registrar.log_format.map(|format| match format {
            conf::LogFormat::Text => Format::Text,
            conf::LogFormat::Reference => Format::Reference,
        });
        output::start("registrar", Format::chosen(configured)?);
        let files = Files::new(&registrar, phantoms);
        let (snapshot, remarks) = Snapshot::load(&files)?;
        for notice in notices {
            log::line(Level::Warning, &notice.to_string(), &[]);
        }
        let (auth, about_keys) = Auth::load(&registrar)?;
        let (responder, about_dns) = responder(&registrar, services)?;
        for remark in remarks.into_iter().chain(about_keys).chain(about_dns) {
            log::line(Level::Warning, &remark, &[]);
        }
        let pair = registrar.grpc_tls_cert.as_ref().zip(registrar.grpc_tls_key.as_ref());
        let wanted = pair.filter(|_| services.api && registrar.grpc_listen_addr.is_some());
        let grpc_tls = wanted.map(|(cert, key)| grpc::tls(cert, key)).transpose()?;
        let path = path.to_owned();
        Ok(Self { path, registrar, files, snapshot, auth, responder, grpc_tls, services })
    }

    /// What the arguments and variables of this process name.
    ///
    /// # Errors
    /// [`StartError`] when anything is missing or wrong.
    pub fn of_process(arguments: &Arguments) -> Result<Self, StartError> {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let path = arguments.config.clone().or_else(|| variable("CJ_REGISTRAR_CONFIG"));
        let path = path.ok_or(StartError::NoPath)?;
        let phantoms = variable("PHANTOM_SUBNET_LOCATION");
        let phantoms = phantoms.unwrap_or_else(|| DEFAULT_PHANTOMS.into());
        Self::load_for(&path, &phantoms, Services::of(arguments))
    }
}

/// Zone and key of the DNS registrar, and remarks. A file that names neither zone nor address has no
/// DNS registrar; one that names only one of them is a mistake, and so is neither with `-dns-only`.
fn responder(
    registrar: &conf::Registrar,
    services: Services,
) -> Result<(Option<Responder>, Vec<String>), StartError> {
    let mut remarks = Vec::new();
    let (zone, address) = (&registrar.domain, &registrar.dns_listen_addr);
    let alone = !services.api && !services.amp;
    if !services.dns || (zone.is_empty() && address.is_empty() && !alone) {
        return Ok((None, remarks));
    }
    for (key, value) in [("dns_listen_addr", address), ("domain", zone)] {
        if value.is_empty() {
            return Err(StartError::DnsSetting(key));
        }
    }
    let path = registrar.dns_private_key_path.as_ref().ok_or(StartError::DnsSetting(DNS_KEY))?;
    let file: Zeroizing<[u8; 64]> = auth::read(DNS_KEY, path, &mut remarks)?;
    let mut private = Zeroizing::new([0; 32]);
    private.copy_from_slice(&file[..32]);
    let responder = Responder::new(zone, &private, registrar.dns_accept_unfragmented)
        .map_err(|source| StartError::Zone { zone: zone.clone(), source })?
        .with_nodata(registrar.dns_nodata);
    Ok((Some(responder), remarks))
}
