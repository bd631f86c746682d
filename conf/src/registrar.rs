//! The TOML file of the registrar (`spec/registrar.md` 3).

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::document::Table;
use crate::keys;
use crate::problem::{Loaded, Problems};

/// Level of the registrar's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegistrarLogLevel {
    /// Nothing but the last words of a process that ends.
    Fatal,
    /// Failures.
    Error,
    /// Things that may need attention.
    Warning,
    /// Normal events.
    Info,
    /// Details of single requests.
    Debug,
    /// Everything.
    Trace,
}

/// How subscribers of the registrar prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZmqAuth {
    /// They do not.
    Null,
    /// CURVE keys.
    Curve,
}

/// Form of the signature over responses (`spec/registrar.md` 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningMode {
    /// Standard Ed25519.
    Ed25519,
    /// The reference's bytes, which no standard verifier accepts.
    Legacy,
}

/// Which clients an override is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverrideTransport {
    /// Clients of the Min transport.
    Min,
    /// Clients of the Prefix transport; they get this prefix (-1 for a random one) and port.
    Prefix {
        /// Prefix, -1 to 9.
        prefix_id: i8,
        /// Destination port.
        port: u16,
    },
}

/// A subnet registrations are moved to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OverrideSubnet {
    /// Where phantoms are drawn from.
    pub subnet: Ipv4Net,
    /// Weight among the entries for the same transport.
    pub weight: f64,
    /// Whose registrations are moved.
    pub transport: OverrideTransport,
    /// Destination port of the entry as written, 0 if absent.
    pub port: u16,
}

/// Overrides of the phantom subnet (`spec/registrar.md` 6.2).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Overrides {
    /// Off entirely when false.
    pub enforce: bool,
    /// Percentage of Min registrations to move.
    pub min_percent: f64,
    /// Percentage of Prefix registrations to move.
    pub prefix_percent: f64,
    /// Subnets to move to.
    pub subnets: Vec<OverrideSubnet>,
    /// Phantoms in these subnets are never moved.
    pub excluded: Vec<IpNet>,
    /// Clients that asked for no overrides keep their phantom also with Min.
    pub min_respects_optout: bool,
}

/// Settings of the registrar.
#[derive(Debug, Clone, PartialEq)]
pub struct Registrar {
    /// Address of the DNS registrar.
    pub dns_listen_addr: String,
    /// Zone of the DNS registrar.
    pub domain: String,
    /// Key of the DNS registrar.
    pub dns_private_key_path: Option<PathBuf>,
    /// Take whole registrations of older clients over DNS too.
    pub dns_accept_unfragmented: bool,
    /// Names in the zone exist, with an SOA record behind negative answers.
    pub dns_nodata: bool,
    /// Registrations over DNS that are in progress or kept for retries.
    pub dns_max_pending: usize,
    /// Tasks that answer UDP queries; 0 for one per core.
    pub dns_workers: usize,
    /// Log level.
    pub log_level: RegistrarLogLevel,
    /// Form of the log; `None` leaves it to `CJ_LOG_FORMAT`.
    pub log_format: Option<crate::LogFormat>,
    /// Period of the metrics line; zero for off.
    pub log_metrics_interval: Duration,
    /// HTTP port; 0 for a free one.
    pub api_port: u16,
    /// HTTP address; `None` for all.
    pub api_bind_addr: Option<std::net::IpAddr>,
    /// Proxies whose `X-Forwarded-For` is believed; `None` for the reference's rule.
    pub trusted_proxies: Option<Vec<IpNet>>,
    /// Who may say that a detector heard a registration or that its phantom was probed; `None` for
    /// anyone.
    pub sharing_stations: Option<Vec<IpNet>>,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// HTTP connections at one time.
    pub api_max_connections: usize,
    /// Registrations per second of one client over HTTP and gRPC; 0 for no limit.
    pub client_rate: u32,
    /// Registrations of one client at once.
    pub client_burst: u32,
    /// gRPC address; `None` for no such service.
    pub grpc_listen_addr: Option<SocketAddr>,
    /// PEM certificate chain of the gRPC service; `None` for plain HTTP/2.
    pub grpc_tls_cert: Option<PathBuf>,
    /// PEM key of the gRPC service.
    pub grpc_tls_key: Option<PathBuf>,
    /// gRPC clients may ask for the schema.
    pub grpc_reflection: bool,
    /// ZeroMQ port.
    pub zmq_port: u16,
    /// ZeroMQ interface or address.
    pub zmq_bind_addr: String,
    /// ZeroMQ and signing key.
    pub zmq_privkey_path: Option<PathBuf>,
    /// ZeroMQ mechanism.
    pub zmq_auth: ZmqAuth,
    /// Print each decision about a subscriber.
    pub zmq_auth_verbose: bool,
    /// Keys of the stations allowed to subscribe; empty in NULL mode.
    pub station_pubkeys: Vec<[u8; 32]>,
    /// Any station may subscribe.
    pub any_station: bool,
    /// Seed of the signatures; `None` for one derived from the ZeroMQ key.
    pub signing_key_path: Option<PathBuf>,
    /// Form of the signatures, in CURVE mode.
    pub signing_mode: SigningMode,
    /// NATS server with JetStream to which registrations go as well; `None` for none.
    pub nats_url: Option<String>,
    /// Their subject; empty for the usual one.
    pub nats_subject: String,
    /// File with `USER:PASSWORD`, where the server wants them.
    pub nats_credentials_path: Option<PathBuf>,
    /// Serialized `ClientConf`.
    pub clientconf_path: PathBuf,
    /// File of further prefixes of the Prefix transport, as the stations have it.
    pub supplemental_prefix_path: Option<PathBuf>,
    /// Leave out the built-in prefixes.
    pub disable_default_prefixes: bool,
    /// Overrides of the phantom subnet.
    pub overrides: Overrides,
    /// Override of the prefix by a random one; `None` for the rule of the mechanism.
    pub random_prefix_override: Option<bool>,
    /// Address of health and metrics.
    pub admin_listen_addr: Option<SocketAddr>,
}

impl Registrar {
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
    /// As [`Registrar::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Loaded<Self>, Problems> {
        Self::read(Table::parse(text, path)?)
    }

    fn read(mut table: Table) -> Result<Loaded<Self>, Problems> {
        let t = &mut table;
        let (station_pubkeys, any_station) = stations(t);
        let registrar = Self {
            dns_listen_addr: t.string("dns_listen_addr").unwrap_or_default(),
            domain: t.string("domain").unwrap_or_default(),
            dns_private_key_path: path(t, "dns_private_key_path"),
            dns_accept_unfragmented: t.boolean("dns_accept_unfragmented").unwrap_or(true),
            dns_nodata: t.boolean("dns_nodata").unwrap_or(false),
            dns_max_pending: t.integer("dns_max_pending", 1..=10_000_000).unwrap_or(100_000),
            dns_workers: t.integer("dns_workers", 0..=1024).unwrap_or(0),
            log_level: log_level(t),
            log_format: crate::application::log_format(t),
            log_metrics_interval: Duration::from_secs(
                t.integer("log_metrics_interval", 0..=u64::from(u16::MAX)).unwrap_or(0),
            ),
            api_port: t.integer("api_port", 0..=u16::MAX).unwrap_or(0),
            api_bind_addr: address(t, "api_bind_addr", "an IP address"),
            trusted_proxies: networks(t, "trusted_proxies"),
            sharing_stations: networks(t, "sharing_stations"),
            max_body_bytes: t.integer("max_body_bytes", 64..=64 << 20).unwrap_or(65_536),
            api_max_connections: t.integer("api_max_connections", 1..=1_000_000).unwrap_or(8192),
            client_rate: t.integer("client_rate", 0..=1_000_000).unwrap_or(20),
            client_burst: t.integer("client_burst", 1..=1_000_000).unwrap_or(200),
            grpc_listen_addr: address(t, "grpc_listen_addr", "ADDRESS:PORT"),
            grpc_tls_cert: path(t, "grpc_tls_cert"),
            grpc_tls_key: path(t, "grpc_tls_key"),
            grpc_reflection: t.boolean("grpc_reflection").unwrap_or(false),
            zmq_port: t.integer("zmq_port", 0..=u16::MAX).unwrap_or(0),
            zmq_bind_addr: required(t, "zmq_bind_addr", "*, an interface or an IPv4 address"),
            zmq_privkey_path: path(t, "zmq_privkey_path"),
            zmq_auth: zmq_auth(t),
            zmq_auth_verbose: t.boolean("zmq_auth_verbose").unwrap_or(false),
            station_pubkeys,
            any_station,
            signing_key_path: path(t, "signing_key_path"),
            signing_mode: signing_mode(t),
            nats_url: nats_url(t),
            nats_subject: t.string("nats_subject").unwrap_or_default(),
            nats_credentials_path: path(t, "nats_credentials_path"),
            clientconf_path: PathBuf::from(required(
                t,
                "clientconf_path",
                "the path of a serialized ClientConf",
            )),
            supplemental_prefix_path: path(t, "supplemental_prefix_path"),
            disable_default_prefixes: t.boolean("disable_default_prefixes").unwrap_or(false),
            overrides: overrides(t),
            random_prefix_override: t.boolean("random_prefix_override"),
            admin_listen_addr: address(t, "admin_listen_addr", "ADDRESS:PORT"),
        };
        if registrar.zmq_privkey_path.is_none() && registrar.zmq_auth == ZmqAuth::Curve {
            t.problem("zmq_privkey_path", "no path", "the path of a key file of 64 bytes");
        }
        if registrar.grpc_tls_cert.is_some() != registrar.grpc_tls_key.is_some() {
            let (missing, expected) = if registrar.grpc_tls_cert.is_none() {
                ("grpc_tls_cert", "the certificate that belongs to grpc_tls_key")
            } else {
                ("grpc_tls_key", "the key that belongs to grpc_tls_cert")
            };
            t.problem(missing, "no path", expected);
        }
        t.ignore(&["ampcache_url", "bidirectional_api_generation"]);
        table.finish(registrar)
    }
}

fn path(table: &mut Table, key: &'static str) -> Option<PathBuf> {
    table.string(key).filter(|s| !s.is_empty()).map(PathBuf::from)
}

fn required(table: &mut Table, key: &'static str, expected: &str) -> String {
    let text = table.string(key).unwrap_or_default();
    if text.is_empty() {
        table.problem(key, "no value", expected);
    }
    text
}

fn nats_url(table: &mut Table) -> Option<String> {
    let url = table.string("nats_url").filter(|url| !url.is_empty())?;
    if let Some(expected) = crate::application::nats_problem(&url) {
        table.problem("nats_url", "a URL of another form", expected);
    }
    Some(url)
}

fn address<T: std::str::FromStr>(
    table: &mut Table,
    key: &'static str,
    expected: &str,
) -> Option<T> {
    let text = table.string(key).filter(|s| !s.is_empty())?;
    let address = text.parse().ok();
    if address.is_none() {
        table.problem(key, format!("`{text}`"), expected);
    }
    address
}

/// Networks of `key`; an empty list is none.
fn networks(table: &mut Table, key: &'static str) -> Option<Vec<IpNet>> {
    let nets = table.subnets(key);
    (!nets.is_empty()).then_some(nets)
}

fn log_level(table: &mut Table) -> RegistrarLogLevel {
    let text = table.string("log_level").unwrap_or_default();
    match text.to_lowercase().as_str() {
        "panic" | "fatal" => RegistrarLogLevel::Fatal,
        "error" => RegistrarLogLevel::Error,
        "warning" | "warn" => RegistrarLogLevel::Warning,
        "info" => RegistrarLogLevel::Info,
        "debug" => RegistrarLogLevel::Debug,
        "trace" => RegistrarLogLevel::Trace,
        _ => {
            let expected = "fatal, error, warning, info, debug or trace";
            table.problem("log_level", format!("`{text}`"), expected);
            RegistrarLogLevel::Info
        }
    }
}

fn zmq_auth(table: &mut Table) -> ZmqAuth {
    match table.string("zmq_auth_type").as_deref() {
        Some("NULL") => ZmqAuth::Null,
        Some("CURVE") => ZmqAuth::Curve,
        other => {
            let found = other.map_or("no value".to_owned(), |text| format!("`{text}`"));
            table.problem("zmq_auth_type", found, "CURVE or NULL");
            ZmqAuth::Null
        }
    }
}

fn signing_mode(table: &mut Table) -> SigningMode {
    match table.string("signing_mode").as_deref() {
        None | Some("" | "ed25519") => SigningMode::Ed25519,
        Some("legacy") => SigningMode::Legacy,
        Some(other) => {
            table.problem("signing_mode", format!("`{other}`"), "ed25519 or legacy");
            SigningMode::Ed25519
        }
    }
}

/// Keys of stations, and whether `*` admits every one. A malformed entry never matched anyone in
/// the reference, so it is a remark and not an error.
fn stations(table: &mut Table) -> (Vec<[u8; 32]>, bool) {
    const KEY: &str = "station_pubkeys";
    let mut found = (Vec::new(), false);
    for text in table.strings(KEY) {
        match (text.as_str(), keys::z85(&text)) {
            ("*", _) => found.1 = true,
            (_, Some(key)) => found.0.push(key),
            ("", None) => table.notice(KEY, "an empty entry admits nobody"),
            (_, None) => {
                let text = format!("`{text}` is no Z85 key of 40 characters and admits nobody");
                table.notice(KEY, text);
            }
        }
    }
    found
}

fn percent(table: &mut Table, key: &'static str) -> f64 {
    let value = table.float(key).unwrap_or(0.0);
    if (0.0..=100.0).contains(&value) {
        return value;
    }
    table.notice(key, format!("{value} is not within 0 to 100 and counts as 50"));
    50.0
}

fn overrides(table: &mut Table) -> Overrides {
    let mut overrides = Overrides {
        enforce: table.boolean("enforce_subnet_overrides").unwrap_or(false),
        min_percent: percent(table, "prcnt_min_regs_to_override"),
        prefix_percent: percent(table, "prcnt_prefix_regs_to_override"),
        subnets: Vec::new(),
        excluded: Vec::new(),
        min_respects_optout: table.boolean("min_override_respects_optout").unwrap_or(true),
    };
    let mut placeholders = 0;
    for mut inner in table.tables("override_subnet") {
        match override_subnet(&mut inner) {
            Some(entry) => overrides.subnets.push(entry),
            None if is_placeholder(&mut inner) => placeholders += 1,
            None => {}
        }
        table.absorb(inner);
    }
    for mut inner in table.tables("excluded_subnet_from_overrides") {
        inner.ignore(&["weight", "port", "transport", "prefix_id"]);
        match inner.string("cidr").as_deref().map(|t| (t, crate::document::subnet(t.trim()))) {
            Some((_, Some(net))) => overrides.excluded.push(net),
            Some((text, None)) if text.contains('X') => {
                placeholders += 1;
                inner.notice("cidr", PLACEHOLDER);
            }
            Some((text, None)) => inner.problem("cidr", format!("`{text}`"), "a subnet"),
            None => inner.problem("cidr", "no value", "a subnet"),
        }
        table.absorb(inner);
    }
    let positive = |min: bool| {
        let group = overrides
            .subnets
            .iter()
            .filter(|s| matches!(s.transport, OverrideTransport::Min) == min);
        let weights: Vec<f64> = group.map(|s| s.weight).collect();
        weights.is_empty() || weights.iter().sum::<f64>() > 0.0
    };
    for (min, name) in [(true, "Min_Transport"), (false, "Prefix_Transport")] {
        if !positive(min) {
            let found = format!("only weights of 0 for {name}");
            table.problem("override_subnet", found, "at least one positive weight");
        }
    }
    if placeholders > 0 && overrides.subnets.is_empty() && overrides.enforce {
        table.notice("enforce_subnet_overrides", "no usable override_subnet: nothing is moved");
    }
    overrides
}

const PLACEHOLDER: &str = "a placeholder, not a subnet; the entry is ignored";

fn is_placeholder(table: &mut Table) -> bool {
    table.string("cidr").is_some_and(|text| text.contains('X'))
}

/// One `[[override_subnet]]`; `None` with a problem or a remark when it cannot be used.
fn override_subnet(table: &mut Table) -> Option<OverrideSubnet> {
    let weight = table.float("weight").unwrap_or(0.0);
    if weight < 0.0 {
        table.problem("weight", weight.to_string(), "a number that is not negative");
    }
    let port = table.integer("port", 0..=u16::MAX).unwrap_or(0);
    let prefix_id: i8 = table.integer("prefix_id", -1..=9).unwrap_or(0);
    let transport = match table.string("transport").as_deref() {
        Some("Min_Transport") => Some(OverrideTransport::Min),
        Some("Prefix_Transport") => Some(OverrideTransport::Prefix { prefix_id, port }),
        other => {
            let found = other.map_or("no transport".to_owned(), |text| format!("`{text}`"));
            let text = format!("{found}; only Min_Transport and Prefix_Transport can be moved");
            table.notice("transport", text);
            None
        }
    };
    let cidr = table.string("cidr").unwrap_or_default();
    let Some(net) = crate::document::subnet(cidr.trim()) else {
        if cidr.contains('X') {
            table.notice("cidr", PLACEHOLDER);
        } else {
            table.problem("cidr", format!("`{cidr}`"), "an IPv4 subnet such as 192.0.2.0/24");
        }
        return None;
    };
    let subnet = match net {
        IpNet::V4(v4) if v4.prefix_len() >= 1 => v4,
        IpNet::V4(_) => {
            table.problem("cidr", format!("`{cidr}`"), "a subnet of length 1 to 32");
            return None;
        }
        IpNet::V6(_) => {
            table.problem("cidr", format!("`{cidr}`"), "an IPv4 subnet");
            return None;
        }
    };
    let transport = transport?;
    if matches!(transport, OverrideTransport::Prefix { port: 0, .. }) {
        table.problem("port", "no port", "a port from 1 to 65535 for Prefix_Transport");
    }
    Some(OverrideSubnet { subnet, weight, transport, port })
}

impl Overrides {
    /// Entries for one transport.
    pub fn group(&self, min: bool) -> impl Iterator<Item = &OverrideSubnet> {
        self.subnets.iter().filter(move |s| matches!(s.transport, OverrideTransport::Min) == min)
    }

    /// True when `phantom` must keep its address.
    pub fn excludes(&self, phantom: Ipv4Addr) -> bool {
        self.excluded.iter().any(|net| net.contains(&std::net::IpAddr::from(phantom)))
    }
}
