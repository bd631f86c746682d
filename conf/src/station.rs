//! `conjure.conf` as typed values.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::go;
use crate::placement::{self, Placement};
use crate::problem::{Loaded, Notice, Problem, Problems};
use crate::variables::{Sources, Variables};
use packet::Mode;

/// A value as Go's ParseBool reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flag(bool);

impl FromStr for Flag {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        go::parse_bool(text.trim()).map(Self).ok_or(())
    }
}

/// How zbalance gets its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IngestBackend {
    /// The best that works for the interface.
    Auto,
    /// AF_XDP.
    Xdp,
    /// AF_PACKET.
    AfPacket,
    /// PF_RING ZC.
    PfRing,
    /// A capture file.
    Pcap,
}

/// The settings of `conjure.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Station {
    /// Two queue sets instead of one (`N_QUEUE_SETS`).
    pub two_queue_sets: bool,
    /// Label of the queues (`CJ_CLUSTER_ID`).
    pub cluster_id: u32,
    /// CPUs, queues and tun devices.
    pub placement: Placement,
    /// Capture sources as written, possibly none (`CJ_IFACE`).
    pub interfaces: Vec<String>,
    /// Capture back end (`CJ_INGEST_BACKEND`).
    pub backend: IngestBackend,
    /// CPUs of the ingest threads, as a list such as `0,2-3`, if set (`CJ_INGEST_CORES`).
    pub ingest_cores: Option<String>,
    /// Distribution mode of zbalance (`ZBALANCE_HASH_MODE`).
    pub hash_mode: Mode,
    /// zbalance takes tunnel headers off (`CJ_DECAP`).
    pub decap: bool,
    /// The kernel drops what no detector needs (`CJ_PREFILTER`).
    pub prefilter: bool,
    /// The kernel gives packets of live sessions to the host (`CJ_FAST_PATH`).
    pub fast_path: bool,
    /// The detector gives acknowledgements to the host together (`CJ_LIVE_FRAMES`).
    pub live_frames: bool,
    /// Statistics period of the detector (`CJ_LOG_INTERVAL`).
    pub log_interval: Duration,
    /// Station key: file or folder (`CJ_PRIVKEY`).
    pub privkey: PathBuf,
    /// Key of the ZeroMQ sources (`ZMQ_PRIVKEY`).
    pub zmq_privkey: Option<PathBuf>,
    /// TOML file of application and detector (`CJ_STATION_CONFIG`).
    pub station_config: PathBuf,
    /// TOML file of the registrar (`CJ_REGISTRAR_CONFIG`).
    pub registrar_config: PathBuf,
    /// File of phantom subnets (`PHANTOM_SUBNET_LOCATION`).
    pub phantom_subnets: PathBuf,
    /// Whether addresses of clients may be printed (`LOG_CLIENT_IP`).
    pub log_client_ip: bool,
    /// Bytes to skip before the Ethernet header (`PARSE_GRE_OFFSET`).
    pub gre_offset: usize,
    /// Installation root (`CJ_PATH`).
    pub path: PathBuf,
    /// IPv4 DNAT target (`IP4_ADDR`).
    pub ip4: Ipv4Addr,
    /// IPv6 DNAT target (`IP6_ADDR`).
    pub ip6: Ipv6Addr,
    /// Folder of control sockets (`CJ_IPC_DIR`).
    pub ipc_dir: Option<PathBuf>,
    /// Uid allowed to open the tun devices (`CJ_TUN_OWNER`).
    pub tun_owner: Option<u32>,
    /// Tun device of the application (`CJ_DNAT_TUN`, or the one after the detector's).
    pub dnat_tun: String,
    /// The variables all this was read from.
    pub variables: Variables,
}

impl Station {
    /// Evaluates `sources` and reads the settings.
    ///
    /// # Errors
    /// [`Problems`] names every bad value with its file and line.
    pub fn load(sources: &Sources) -> Result<Loaded<Self>, Problems> {
        let Loaded { value: variables, notices } = sources.evaluate()?;
        let mut reader = Reader { variables: &variables, problems: Vec::new(), notices };
        let station = reader.station();
        match (station, reader.problems) {
            (station, problems) if problems.is_empty() => {
                let notices = reader.notices;
                Ok(Loaded { value: Self { variables, ..station }, notices })
            }
            (_, problems) => Err(Problems(problems)),
        }
    }
}

struct Reader<'a> {
    variables: &'a Variables,
    problems: Vec<Problem>,
    notices: Vec<Notice>,
}

impl Reader<'_> {
    fn station(&mut self) -> Station {
        let placement = Placement {
            core_base: self.number("CJ_COREBASE", 0, 0..=255),
            core_count: self.number("CJ_CORECOUNT", 4, 1..=64),
            skip_core: self.skip_core(),
            queue_offset: self.number("CJ_QUEUE_OFFSET", 0, 0..=255),
            tun_offset: self.number("OFFSET", 0, 0..=255),
        };
        if !placement.offsets_agree() {
            let text = format!(
                "CJ_QUEUE_OFFSET={} and OFFSET={} differ: the detector will use tun devices that \
                 the host setup does not prepare; set both to the same number",
                placement.queue_offset, placement.tun_offset
            );
            self.notice("CJ_QUEUE_OFFSET", text);
        }
        if placement.core_count > 16 {
            self.notice(
                "CJ_CORECOUNT",
                "more than 16 workers: the reference's detector cannot attach".to_owned(),
            );
        }
        let dnat_tun =
            self.variables.filled("CJ_DNAT_TUN").map_or(placement.dnat_tun(), str::to_owned);
        let list = self.variables.filled("CJ_IFACE").unwrap_or_default();
        let interfaces = list.split(',').map(str::trim).filter(|i| !i.is_empty());
        let hash_mode = self.hash_mode();
        let decap = self.optional("CJ_DECAP", "true or false") == Some(Flag(true));
        let gre_offset = self.number("PARSE_GRE_OFFSET", 0, 0..=65_535);
        let tunnels = tunnels(hash_mode, decap, gre_offset);
        let prefilter = self.prefilter(tunnels.as_deref());
        let two_queue_sets = self.variables.value("N_QUEUE_SETS") != Some("1");
        let fast_path = self.fast_path(tunnels.as_deref(), two_queue_sets);
        Station {
            two_queue_sets,
            cluster_id: self.number("CJ_CLUSTER_ID", 98, 0..=u32::MAX),
            placement,
            interfaces: interfaces.map(str::to_owned).collect(),
            backend: self.backend(),
            ingest_cores: self.ingest_cores(),
            hash_mode,
            decap,
            prefilter,
            fast_path,
            live_frames: self.optional("CJ_LIVE_FRAMES", "true or false") == Some(Flag(true)),
            log_interval: Duration::from_secs(self.number("CJ_LOG_INTERVAL", 5, 0..=86_400)),
            privkey: self.path("CJ_PRIVKEY"),
            zmq_privkey: self.variables.filled("ZMQ_PRIVKEY").map(PathBuf::from),
            station_config: self.station_config(),
            registrar_config: self.toml_path(
                "CJ_REGISTRAR_CONFIG",
                ["/var/lib/conjure/reg_config.toml", "/var/lib/conjure/registration_config.toml"],
            ),
            phantom_subnets: self.path("PHANTOM_SUBNET_LOCATION"),
            log_client_ip: self.log_client_ip(),
            gre_offset,
            path: self.path("CJ_PATH"),
            ip4: self.address("IP4_ADDR", "CJ_IP4_ADDR", Ipv4Addr::LOCALHOST, "an IPv4 address"),
            ip6: self.address("IP6_ADDR", "CJ_IP6_ADDR", Ipv6Addr::LOCALHOST, "an IPv6 address"),
            ipc_dir: self.variables.filled("CJ_IPC_DIR").map(PathBuf::from),
            tun_owner: self.optional("CJ_TUN_OWNER", "a numeric user id"),
            dnat_tun,
            variables: self.variables.clone(),
        }
    }

    fn problem(&mut self, name: &str, value: &str, expected: String) {
        self.problems.push(Problem {
            origin: self.variables.origin(name),
            key: name.to_owned(),
            found: format!("`{value}`"),
            expected,
        });
    }

    fn notice(&mut self, name: &str, text: String) {
        self.notices.push(Notice { origin: self.variables.origin(name), text });
    }

    /// A number; empty means the default, as with an unset variable.
    fn number<T>(&mut self, name: &str, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + fmt::Display + Copy,
    {
        let Some(text) = self.variables.filled(name) else { return default };
        match text.trim().parse::<T>() {
            Ok(value) if range.contains(&value) => value,
            _ => {
                let expected = format!("a number from {} to {}", range.start(), range.end());
                self.problem(name, text, expected);
                default
            }
        }
    }

    fn optional<T: FromStr>(&mut self, name: &str, expected: &str) -> Option<T> {
        let text = self.variables.filled(name)?;
        let value = text.parse().ok();
        if value.is_none() {
            self.problem(name, text, expected.to_owned());
        }
        value
    }

    fn hash_mode(&mut self) -> Mode {
        const EXPECTED: &str = "one of rr (0), ip (1), all (2), all-rr (3), gtp (4), gre (5), iface (6), \
                                erspan (7), 5tuple, auto";
        // A map of VLANs has no variable that names them.
        let usable = |text: &str| text.trim().parse().ok().filter(|mode| *mode != Mode::VlanMap);
        let Some(text) = self.variables.filled("ZBALANCE_HASH_MODE") else { return Mode::Ip };
        match usable(text) {
            Some(mode) => mode,
            None => {
                self.problem("ZBALANCE_HASH_MODE", text, EXPECTED.to_owned());
                Mode::Ip
            }
        }
    }

    /// What a tunnel carries is neither TCP nor UDP to the kernel.
    fn prefilter(&mut self, tunnels: Option<&str>) -> bool {
        if self.optional("CJ_PREFILTER", "true or false") != Some(Flag(true)) {
            return false;
        }
        let Some(tunnels) = tunnels else { return true };
        let expected = format!("false with {tunnels}: what tunnels carry would be dropped");
        self.problem("CJ_PREFILTER", "true", expected);
        false
    }

    /// The host reads no tunnels, and a packet that it has got does not come to a second station.
    fn fast_path(&mut self, tunnels: Option<&str>, two_queue_sets: bool) -> bool {
        if self.optional("CJ_FAST_PATH", "true or false") != Some(Flag(true)) {
            return false;
        }
        let expected = match tunnels {
            Some(tunnels) => format!("false with {tunnels}: the host does not look into tunnels"),
            None if two_queue_sets => {
                "false without N_QUEUE_SETS=1: the second set would not get the packets of sessions"
                    .to_owned()
            }
            None => return true,
        };
        self.problem("CJ_FAST_PATH", "true", expected);
        false
    }

    fn ingest_cores(&mut self) -> Option<String> {
        let text = self.variables.filled("CJ_INGEST_CORES")?;
        if placement::cpu_list(text).is_none() {
            let expected = "a list of CPUs such as 0,2-3".to_owned();
            self.problem("CJ_INGEST_CORES", text, expected);
        }
        Some(text.to_owned())
    }

    fn skip_core(&mut self) -> Option<usize> {
        let core: i32 = self.number("CJ_SKIP_CORE", -1, -1..=255);
        usize::try_from(core).ok()
    }

    fn path(&self, name: &str) -> PathBuf {
        let default = crate::variables::DEFAULTS.iter().find(|(n, _)| *n == name);
        let default = default.map(|(_, value)| *value).unwrap_or_default();
        PathBuf::from(self.variables.filled(name).unwrap_or(default))
    }

    /// The file of a variable whose default has two spellings in the reference's documents.
    fn toml_path(&mut self, name: &str, spellings: [&str; 2]) -> PathBuf {
        let path = self.path(name);
        let other = spellings.into_iter().find(|s| Path::new(s) != path);
        match other {
            Some(other)
                if spellings.iter().any(|s| Path::new(s) == path)
                    && !path.exists()
                    && Path::new(other).exists() =>
            {
                let text = format!("{} does not exist, using {other}", path.display());
                self.notice(name, text);
                PathBuf::from(other)
            }
            _ => path,
        }
    }

    fn station_config(&mut self) -> PathBuf {
        use crate::problem::Origin;
        let stale = self.variables.filled("CJ_PROXY_CONFIG").map(PathBuf::from);
        let unset = matches!(self.variables.origin("CJ_STATION_CONFIG"), Origin::Default);
        match stale {
            Some(path) if unset => {
                let text = "CJ_PROXY_CONFIG is an old name; use CJ_STATION_CONFIG".to_owned();
                self.notice("CJ_PROXY_CONFIG", text);
                path
            }
            _ => self.toml_path(
                "CJ_STATION_CONFIG",
                ["/var/lib/conjure/app_config.toml", "/var/lib/conjure/application_config.toml"],
            ),
        }
    }

    fn log_client_ip(&mut self) -> bool {
        let text = self.variables.filled("LOG_CLIENT_IP").unwrap_or("false");
        go::parse_bool(text).unwrap_or_else(|| {
            let text = format!("LOG_CLIENT_IP is `{text}`, which is neither true nor false: false");
            self.notice("LOG_CLIENT_IP", text);
            false
        })
    }

    fn backend(&mut self) -> IngestBackend {
        match self.variables.filled("CJ_INGEST_BACKEND") {
            None | Some("auto") => IngestBackend::Auto,
            Some("xdp") => IngestBackend::Xdp,
            Some("afpacket") => IngestBackend::AfPacket,
            Some("pfring") => IngestBackend::PfRing,
            Some("pcap") => IngestBackend::Pcap,
            Some(other) => {
                let expected = "auto, xdp, afpacket, pfring or pcap".to_owned();
                self.problem("CJ_INGEST_BACKEND", other, expected);
                IngestBackend::Auto
            }
        }
    }

    /// The address under its two names, with or without brackets.
    fn address<T: FromStr>(&mut self, name: &str, alias: &str, default: T, expected: &str) -> T {
        use crate::problem::Origin;
        let own = self.variables.filled(name);
        let (name, text) = match (own, self.variables.filled(alias)) {
            (None, None) => return default,
            (Some(own), None) => (name, own),
            (own, Some(other)) => {
                let set = !matches!(self.variables.origin(name), Origin::Default);
                if set && own.is_some_and(|own| own != other) {
                    let text = format!("{name} and {alias} differ; {alias}={other} is used");
                    self.notice(alias, text);
                }
                (alias, other)
            }
        };
        let bare = text.trim().trim_start_matches('[').trim_end_matches(']');
        bare.parse().unwrap_or_else(|_| {
            self.problem(name, text, expected.to_owned());
            default
        })
    }
}

/// The setting by which tunnels are read, if one does.
fn tunnels(hash_mode: Mode, decap: bool, gre_offset: usize) -> Option<String> {
    match (decap, gre_offset, hash_mode.reads_tunnels()) {
        (true, ..) => Some("CJ_DECAP=true".to_owned()),
        (_, 1.., _) => Some(format!("PARSE_GRE_OFFSET={gre_offset}")),
        (.., true) => Some(format!("ZBALANCE_HASH_MODE={}", hash_mode.argument())),
        _ => None,
    }
}
