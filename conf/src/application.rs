//! The TOML file of the application (`spec/application.md` 3).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use regex::Regex;

use crate::document::Table;
use crate::go;
use crate::keys;
use crate::problem::{Loaded, Problems};
use crate::responses::{self, Responses};

/// Level of the application's log; the order is the reference's (`spec/application.md` 17.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Everything.
    Trace,
    /// Details of single registrations and connections.
    Debug,
    /// Things that may need attention.
    Warn,
    /// Failures, and notices.
    #[default]
    Error,
    /// Notices only.
    Info,
}

/// Form of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people and the journal.
    Text,
    /// Every line of the reference, letter by letter.
    Reference,
}

/// How bytes are moved between client and covert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RelayMode {
    /// Copy first, `splice` later.
    #[default]
    Auto,
    /// Always copy.
    Copy,
    /// `splice` as soon as possible.
    Splice,
}

/// One source of registrations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectSocket {
    /// ZeroMQ endpoint, or a NATS server.
    pub address: String,
    /// CURVE key of the server; `None` for the NULL mechanism.
    pub server_key: Option<[u8; 32]>,
    /// Topic prefix; empty means everything.
    pub subscription: String,
    /// What becomes of registrar responses in its messages.
    pub responses: Responses,
    /// NATS: name under which the server keeps what this station did not hear; `None` for the name
    /// of this host.
    pub durable_name: Option<String>,
    /// NATS: file with `USER:PASSWORD`, where the server wants them.
    pub credentials_path: Option<PathBuf>,
}

impl ConnectSocket {
    /// Whether this is a NATS server.
    pub fn is_nats(&self) -> bool {
        nats_server(&self.address)
    }
}

/// Whether `url` names a NATS server.
pub(crate) fn nats_server(url: &str) -> bool {
    ["nats://", "tls://"].iter().any(|scheme| url.starts_with(scheme))
}

/// What is wrong with the URL of a NATS server, if anything is.
pub(crate) fn nats_problem(url: &str) -> Option<&'static str> {
    let wrong = url.split(',').any(|url| {
        let rest = url.trim().split_once("://").map(|(_, rest)| rest).unwrap_or_default();
        rest.is_empty() || !nats_server(url.trim())
    });
    match url.contains('@') {
        true => Some("a URL without user and password, which stand in a file of their own"),
        false if wrong => Some("nats://HOST:PORT or tls://HOST:PORT, several separated by commas"),
        false => None,
    }
}

/// Cache of liveness results of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LivenessCache {
    /// How long a result holds.
    pub expiration: Duration,
    /// Most results kept; 0 for the built-in bound.
    pub capacity: usize,
}

/// Settings of the application.
#[derive(Debug, Clone)]
pub struct Application {
    /// Station key; empty means `CJ_PRIVKEY`.
    pub privkey_path: Option<PathBuf>,
    /// CURVE client key; empty means `ZMQ_PRIVKEY`.
    pub zmq_privkey_path: Option<PathBuf>,
    /// Log level.
    pub log_level: LogLevel,
    /// Form of the log; `None` leaves it to `CJ_LOG_FORMAT`.
    pub log_format: Option<LogFormat>,
    /// Start without the built-in prefixes.
    pub disable_default_prefixes: bool,
    /// File of further prefixes.
    pub supplemental_prefix_path: Option<PathBuf>,
    /// Cache of phantoms found live; `None` for no cache.
    pub live_cache: Option<LivenessCache>,
    /// Cache of phantoms found dead; `None` for no cache.
    pub nonlive_cache: Option<LivenessCache>,
    /// Serve IPv4 phantoms.
    pub enable_v4: bool,
    /// Serve IPv6 phantoms.
    pub enable_v6: bool,
    /// Ingest workers.
    pub ingest_worker_count: usize,
    /// Patterns of covert hosts to refuse.
    pub covert_blocklist_domains: Vec<Regex>,
    /// Covert addresses to refuse.
    pub covert_blocklist_subnets: Vec<IpNet>,
    /// Also refuse the subnets of this host's interfaces.
    pub covert_blocklist_public_addrs: bool,
    /// If not empty, the only covert addresses to accept.
    pub covert_allowlist_subnets: Vec<IpNet>,
    /// Refuse special-purpose addresses in any case (`spec/application.md` 7.4).
    pub covert_reject_special: bool,
    /// Phantoms this station does not serve.
    pub phantom_blocklist: Vec<IpNet>,
    /// Country database.
    pub geoip_cc_db_path: Option<PathBuf>,
    /// Network database.
    pub geoip_asn_db_path: Option<PathBuf>,
    /// Publish registrations of the detector again.
    pub enable_share_over_api: bool,
    /// Where to: an `http` or `https` URL.
    pub preshare_endpoint: Option<String>,
    /// Believe `flags.prescanned` of every message, as the reference does.
    pub prescanned_from_any: bool,
    /// Name of the abstract socket that repeats every registration.
    pub socket_name: String,
    /// Heartbeat interval of the sources; zero for none.
    pub heartbeat_interval: Duration,
    /// Heartbeat timeout of the sources.
    pub heartbeat_timeout: Duration,
    /// Sources of registrations.
    pub connect_sockets: Vec<ConnectSocket>,
    /// Address of the metrics listener.
    pub metrics_listen: Option<SocketAddr>,
    /// How to relay.
    pub relay_mode: RelayMode,
    /// URL of the Redis server; `Some("")` switches the channel off.
    pub redis_url: Option<String>,
    /// Limit of a dial to a covert.
    pub covert_dial_timeout: Option<Duration>,
    /// Limit of a name resolution.
    pub covert_resolve_timeout: Option<Duration>,
    /// Liveness probes at one time.
    pub liveness_max_inflight: Option<usize>,
    /// Addresses of the phantom listener.
    pub tcp_listen: Option<String>,
    /// Threads that serve connections to phantoms.
    pub accept_threads: Option<usize>,
    /// Sessions at one time.
    pub max_sessions: Option<usize>,
    /// Time given to sessions at shutdown.
    pub shutdown_grace: Option<Duration>,
    /// Registrations at one time.
    pub max_registrations: Option<usize>,
    /// Time in which a phantom must stay silent to count as unused.
    pub liveness_window: Option<Duration>,
    /// Socket of the gRPC session channel; `Some("")` switches the channel off.
    pub session_socket: Option<String>,
    /// Send Clear on Redis at start (`spec/channels.md` 1).
    pub redis_clear_at_start: bool,
}

impl Application {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`Problems`] names every error with its line.
    pub fn load(path: &Path) -> Result<Loaded<Self>, Problems> {
        Self::read(Table::open(path)?)
    }

    /// Reads `text`, which stands in the file at `path`.
    ///
    /// # Errors
    /// As [`Application::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Loaded<Self>, Problems> {
        Self::read(Table::parse(text, path)?)
    }

    fn read(mut table: Table) -> Result<Loaded<Self>, Problems> {
        let t = &mut table;
        let milliseconds = |ms: Option<u64>| Duration::from_millis(ms.unwrap_or(0));
        let application = Self {
            privkey_path: path(t, "privkey_path"),
            zmq_privkey_path: path(t, "zmq_privkey_path"),
            log_level: log_level(t),
            log_format: log_format(t),
            disable_default_prefixes: t.boolean("disable_default_prefixes").unwrap_or(false),
            supplemental_prefix_path: path(t, "supplemental_prefix_path"),
            live_cache: cache(t, "cache_expiration_time", "cache_capacity"),
            nonlive_cache: cache(t, "cache_expiration_nonlive", "cache_capacity_nonlive"),
            enable_v4: t.boolean("enable_v4").unwrap_or(false),
            enable_v6: t.boolean("enable_v6").unwrap_or(false),
            ingest_worker_count: match t.integer("ingest_worker_count", 0..=100_000usize) {
                None | Some(0) => 300,
                Some(n) => n,
            },
            covert_blocklist_domains: t.list(
                "covert_blocklist_domains",
                "a regular expression",
                |text| regex(text).ok(),
            ),
            covert_blocklist_subnets: t.subnets("covert_blocklist_subnets"),
            covert_blocklist_public_addrs: t
                .boolean("covert_blocklist_public_addrs")
                .unwrap_or(false),
            covert_allowlist_subnets: t.subnets("covert_allowlist_subnets"),
            covert_reject_special: t.boolean("covert_reject_special").unwrap_or(true),
            phantom_blocklist: t.subnets("phantom_blocklist"),
            geoip_cc_db_path: path(t, "geoip_cc_db_path"),
            geoip_asn_db_path: path(t, "geoip_asn_db_path"),
            enable_share_over_api: t.boolean("enable_share_over_api").unwrap_or(false),
            preshare_endpoint: preshare_endpoint(t),
            prescanned_from_any: prescanned_from_any(t),
            socket_name: socket_name(t),
            heartbeat_interval: milliseconds(t.integer("heartbeat_interval", 0..=86_400_000)),
            heartbeat_timeout: milliseconds(t.integer("heartbeat_timeout", 0..=86_400_000)),
            connect_sockets: sockets(t),
            metrics_listen: metrics_listen(t),
            relay_mode: relay_mode(t),
            redis_url: t.string("redis_url"),
            covert_dial_timeout: duration(t, "covert_dial_timeout"),
            covert_resolve_timeout: duration(t, "covert_resolve_timeout"),
            liveness_max_inflight: t.integer("liveness_max_inflight", 1..=1_000_000),
            tcp_listen: t.string("tcp_listen").filter(|s| !s.is_empty()),
            accept_threads: t.integer("accept_threads", 1..=32),
            max_sessions: t.integer("max_sessions", 1..=100_000_000),
            shutdown_grace: duration(t, "shutdown_grace"),
            max_registrations: t.integer("max_registrations", 1..=100_000_000),
            liveness_window: t.integer("liveness_window_ms", 1..=10_000).map(Duration::from_millis),
            session_socket: t.string("session_socket"),
            redis_clear_at_start: t.boolean("redis_clear_at_start").unwrap_or(false),
        };
        if application.enable_share_over_api && application.preshare_endpoint.is_none() {
            let expected = "the URL of a registrar, because enable_share_over_api is on";
            t.problem("preshare_endpoint", "none", expected);
        }
        t.ignore(crate::detector::KEYS);
        table.finish(application)
    }
}

fn path(table: &mut Table, key: &'static str) -> Option<PathBuf> {
    table.string(key).filter(|s| !s.is_empty()).map(PathBuf::from)
}

fn duration(table: &mut Table, key: &'static str) -> Option<Duration> {
    let text = table.string(key).filter(|s| !s.is_empty())?;
    let duration = go::parse_duration(&text);
    if duration.is_none() {
        table.problem(key, format!("`{text}`"), "a duration such as 300ms, 5m or 2.0h");
    }
    duration
}

/// Go's expressions read here: `\Q...\E` is unfolded, classes are those of ASCII.
fn regex(text: &str) -> Result<Regex, regex::Error> {
    let mut pattern = String::new();
    let mut rest = text;
    while let Some((before, quoted)) = rest.split_once("\\Q") {
        let (literal, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
        pattern.push_str(before);
        pattern.push_str(&regex::escape(literal));
        rest = after;
    }
    pattern.push_str(rest);
    let ascii = [("\\d", "[0-9]"), ("\\w", "[0-9A-Za-z_]"), ("\\s", "[\\t\\n\\f\\r ]")];
    if !pattern.contains('[') && !pattern.contains("\\\\") {
        for (class, plain) in ascii {
            pattern = pattern.replace(class, plain);
        }
        pattern = pattern.replace("\\b", "(?-u:\\b)");
    }
    regex::RegexBuilder::new(&pattern).size_limit(1 << 20).build()
}

fn log_level(table: &mut Table) -> LogLevel {
    let text = table.string("log_level").unwrap_or_default();
    match text.to_ascii_lowercase().as_str() {
        "trace" => LogLevel::Trace,
        "debug" => LogLevel::Debug,
        "warn" => LogLevel::Warn,
        "error" | "" => LogLevel::Error,
        "info" => LogLevel::Info,
        _ => {
            table.problem("log_level", format!("`{text}`"), "trace, debug, warn, error or info");
            LogLevel::Error
        }
    }
}

/// `log_format`, which application and registrar have.
pub(crate) fn log_format(table: &mut Table) -> Option<LogFormat> {
    match table.string("log_format").as_deref() {
        None | Some("") => None,
        Some("text") => Some(LogFormat::Text),
        Some("reference") => Some(LogFormat::Reference),
        Some(other) => {
            table.problem("log_format", format!("`{other}`"), "text or reference");
            None
        }
    }
}

fn relay_mode(table: &mut Table) -> RelayMode {
    match table.string("relay_mode").as_deref() {
        None | Some("auto" | "") => RelayMode::Auto,
        Some("copy") => RelayMode::Copy,
        Some("splice") => RelayMode::Splice,
        Some(other) => {
            table.problem("relay_mode", format!("`{other}`"), "auto, copy or splice");
            RelayMode::Auto
        }
    }
}

fn metrics_listen(table: &mut Table) -> Option<SocketAddr> {
    let text = table.string("metrics_listen").filter(|s| !s.is_empty())?;
    let address = text.parse().ok();
    if address.is_none() {
        table.problem("metrics_listen", format!("`{text}`"), "ADDRESS:PORT");
    }
    address
}

fn cache(
    table: &mut Table,
    expiration: &'static str,
    capacity: &'static str,
) -> Option<LivenessCache> {
    let capacity = table.integer(capacity, 0..=100_000_000usize).unwrap_or(0);
    Some(LivenessCache { expiration: duration(table, expiration)?, capacity })
}

fn socket_name(table: &mut Table) -> String {
    let name = table.string("socket_name").unwrap_or_default();
    if name.is_empty() || name.len() > 106 || name.contains('\0') {
        table.problem("socket_name", format!("`{name}`"), "a name of 1 to 106 bytes");
    }
    name
}

fn preshare_endpoint(table: &mut Table) -> Option<String> {
    let url = table.string("preshare_endpoint").filter(|s| !s.is_empty())?;
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.starts_with('/') || rest.contains(' ')) {
        table.problem(
            "preshare_endpoint",
            format!("`{url}`"),
            "http://HOST[:PORT]/PATH or https://…",
        );
    }
    Some(url)
}

fn prescanned_from_any(table: &mut Table) -> bool {
    match table.string("prescanned_from").as_deref() {
        None | Some("authenticated" | "") => false,
        Some("any") => true,
        Some(other) => {
            table.problem("prescanned_from", format!("`{other}`"), "authenticated or any");
            false
        }
    }
}

fn sockets(table: &mut Table) -> Vec<ConnectSocket> {
    let common = responses::keys_of_all(table);
    let mut sockets = Vec::new();
    for mut inner in table.tables("connect_sockets") {
        let address = inner.string("address").unwrap_or_default();
        if nats_server(&address) {
            if let Some(expected) = nats_problem(&address) {
                inner.problem("address", "a URL of another form", expected);
            }
        } else if !(address.starts_with("tcp://") || address.starts_with("ipc://")) {
            let expected = "tcp://HOST:PORT, ipc://PATH or nats://HOST:PORT";
            inner.problem("address", format!("`{address}`"), expected);
        }
        let kind = inner.string("type").unwrap_or_default();
        let key = inner.string("pubkey").unwrap_or_default();
        let server_key = if kind == "CURVE" {
            let decoded = keys::z85(&key);
            if decoded.is_none() {
                let found = format!("{} characters that are no Z85 key", key.chars().count());
                inner.problem("pubkey", found, "the 40 characters of the server's Z85 key");
            }
            decoded
        } else {
            if kind != "NULL" && !kind.is_empty() {
                inner.notice("type", format!("`{kind}` is neither CURVE nor NULL and means NULL"));
            }
            None
        };
        let subscription = inner.string("subscription").unwrap_or_default();
        let responses = responses::of_source(&mut inner, server_key, &common);
        let durable_name = inner.string("durable_name").filter(|name| !name.is_empty());
        let credentials_path = path(&mut inner, "credentials_path");
        sockets.push(ConnectSocket {
            address,
            server_key,
            subscription,
            responses,
            durable_name,
            credentials_path,
        });
        table.absorb(inner);
    }
    sockets
}
