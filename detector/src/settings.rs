//! What the detector reads at its start, and again on SIGHUP: keys, filter list, environment.

use crate::arguments::Arguments;
use crate::filter::Filter;
use crate::status::Fixed;
use ipnet::IpNet;
use keys::path::{KeyPathError, Strictness};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use tag::TagChecker;

/// Where the TOML file is when `CJ_STATION_CONFIG` is not set.
const DEFAULT_CONFIG: &str = "/var/lib/conjure/app_config.toml";
/// Address of the Redis channel when the TOML file says nothing, as in the reference.
const DEFAULT_REDIS: &str = "redis://127.0.0.1/";

/// Why the detector cannot start with this configuration; the exit code for it is 78.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// No `-K`.
    #[error("no station key: give its file or folder with -K (write one with genkey)")]
    NoKey,
    /// The keys cannot be used.
    #[error(transparent)]
    Key(#[from] KeyPathError),
    /// The TOML file cannot be used.
    #[error("{0}")]
    File(#[from] conf::Problems),
    /// `PARSE_GRE_OFFSET` is no number.
    #[error("PARSE_GRE_OFFSET: found {0:?}, expected the number of bytes to skip, e.g. 0 or 42")]
    TunnelOffset(String),
}

/// Environment of the process, as far as the detector looks at it.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `CJ_STATION_CONFIG`.
    pub config: Option<PathBuf>,
    /// `LOG_CLIENT_IP`.
    pub log_client_ip: Option<String>,
    /// `PARSE_GRE_OFFSET`.
    pub tunnel_offset: Option<String>,
    /// `CJ_SESSION_SOCKET`.
    pub session_socket: Option<String>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let text = |name| std::env::var(name).ok();
        Self {
            config: text("CJ_STATION_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from),
            log_client_ip: text("LOG_CLIENT_IP"),
            tunnel_offset: text("PARSE_GRE_OFFSET"),
            session_socket: text("CJ_SESSION_SOCKET"),
        }
    }
}

/// Everything that was read.
#[derive(Debug)]
pub struct Settings {
    /// The TOML file that was, or would have been, read.
    pub config: PathBuf,
    /// Checker for the station keys.
    pub checker: TagChecker,
    /// Sources that are not forwarded.
    pub filter: Filter,
    /// Bytes to skip at the start of every frame.
    pub tunnel_offset: usize,
    /// Whether client addresses may be logged.
    pub log_client_ip: bool,
    /// Redis channel; `None` when switched off.
    pub redis_url: Option<String>,
    /// Socket of the gRPC channel; `None` when switched off.
    pub session_socket: Option<PathBuf>,
    /// What of the file a reload leaves alone.
    pub fixed: Fixed,
    /// What an operator should hear.
    pub notices: Vec<String>,
}

impl Settings {
    /// Reads all of it.
    ///
    /// # Errors
    /// [`SettingsError`] names the file or variable and the remedy.
    pub fn load(arguments: &Arguments, environment: &Environment) -> Result<Self, SettingsError> {
        let (checker, mut notices) = load_keys(arguments)?;
        let config = environment.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into());
        let detector = load_config(&config, environment.config.is_some(), &mut notices)?;
        let fixed = Fixed::of(&detector);
        let tunnel_offset = match environment.tunnel_offset.as_deref().map(str::trim) {
            None | Some("") => 0,
            Some(text) => text.parse().map_err(|_| SettingsError::TunnelOffset(text.to_owned()))?,
        };
        let default_socket = || {
            let offset = u32::try_from(arguments.queue_offset).unwrap_or(u32::MAX);
            telemetry::admin::ipc_dir().join(session::socket_name(offset))
        };
        let named = environment.session_socket.clone().or(detector.session_socket);
        let session_socket = match named {
            None => Some(default_socket()),
            Some(path) if path.is_empty() => None,
            Some(path) => Some(path.into()),
        };
        let redis_url = detector.redis_url.unwrap_or_else(|| DEFAULT_REDIS.to_owned());
        Ok(Self {
            config,
            checker,
            filter: Filter::new(detector.filter, &detector.decoys),
            tunnel_offset,
            // The reference's detector takes this one spelling only.
            log_client_ip: environment.log_client_ip.as_deref() == Some("true"),
            redis_url: Some(redis_url).filter(|url| !url.is_empty()),
            session_socket,
            fixed,
            notices,
        })
    }
}

/// Reads the station keys; also what an operator should hear about them.
///
/// # Errors
/// When there is no usable key.
pub fn load_keys(arguments: &Arguments) -> Result<(TagChecker, Vec<String>), SettingsError> {
    let path = arguments.keys.as_ref().ok_or(SettingsError::NoKey)?;
    let loaded = keys::path::load(path, Strictness::Skip)?;
    Ok((TagChecker::new(loaded.keys), loaded.warnings))
}

/// Reads the TOML file. It must exist when the environment names it; the default place may be
/// empty, and the shipped filter list then holds.
///
/// # Errors
/// [`conf::Problems`] name file, line and key.
pub fn load_config(
    path: &Path,
    named: bool,
    notices: &mut Vec<String>,
) -> Result<conf::Detector, conf::Problems> {
    if !named && !path.exists() {
        notices.push(format!(
            "{} does not exist and CJ_STATION_CONFIG is not set; only the loopback addresses are \
             filtered",
            path.display()
        ));
        let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let filter = loopback.into_iter().map(IpNet::from).collect();
        return Ok(conf::Detector { filter, ..conf::Detector::default() });
    }
    let loaded = conf::Detector::load(path)?;
    notices.extend(loaded.notices.iter().map(ToString::to_string));
    Ok(loaded.value)
}
