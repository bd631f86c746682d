//! What the application reads before it opens anything, and why it cannot start.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use conf::{Application, Loaded};
use keys::StationKey;
use keys::path::Strictness;
use telemetry::process::Exit;
use telemetry::{log, metrics, output};

use crate::listener;
use crate::policy::{Policy, PolicyError};

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
    pub(crate) const fn exit(&self) -> Exit {
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

pub(crate) fn offset() -> u32 {
    std::env::var("OFFSET").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
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

pub(crate) fn listen_address(settings: &Application) -> Result<SocketAddr, StartError> {
    match &settings.tcp_listen {
        None => Ok(listener::default_address()),
        Some(text) => text.parse().map_err(|_| StartError::ListenAddress(text.clone())),
    }
}
