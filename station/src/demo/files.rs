//! Configuration of the demo's station, made from the shipped files.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use keys::KeyPair;
use lab::address;
use signalling::{
    ClientConf, DecoyList, DnsRegConf, DnsRegMethod, Message, PhantomSubnets, PhantomSubnetsList,
    PubKey, TlsDecoySpec,
};
use telemetry::log::Level;

const CONJURE_CONF: &str = include_str!("../../../conf/conjure.conf");
const APP_CONFIG: &str = include_str!("../../../conf/app_config.toml");
const REG_CONFIG: &str = include_str!("../../../conf/reg_config.toml");

/// Name in the certificate of decoy and covert.
pub(crate) const HOST: &str = "decoy.example";

/// Zone of the DNS channel in the shipped settings.
const ZONE: &str = "r.refraction.network";
/// Generation of the demo's ClientConf and phantoms.
const GENERATION: u32 = 1;

/// How the application tells the detector of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sessions {
    /// The stream over a Unix socket.
    Grpc,
    /// A Redis server that the demo starts.
    Redis,
    /// Both at once.
    Both,
}

/// How registrations reach the application from the registrar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Bus {
    /// ZeroMQ.
    Zmq,
    /// A NATS server that the demo starts, and nothing else.
    Nats,
}

/// Everything that daemons, web server and client read.
#[derive(Debug)]
pub(crate) struct Files {
    dir: PathBuf,
}

impl Files {
    /// Writes all files into `dir` for `workers` detector workers.
    pub(crate) fn write(
        dir: &Path,
        workers: usize,
        arguments: &super::Arguments,
    ) -> io::Result<Self> {
        let (sessions, bus) = (arguments.sessions, arguments.bus);
        let files = Self { dir: dir.to_owned() };
        let pair = KeyPair::generate(&mut rand::rng());
        crate::genkey::replace(&files.path("privkey"), &*pair.private_file(), 0o600)?;
        let write = |name: &str, content: &[u8]| std::fs::write(files.path(name), content);
        write("phantom_subnets.toml", PHANTOMS.as_bytes())?;
        write("ClientConf.4", &client_conf(&pair, address::DECOY_V4.into()).encode_to_vec())?;
        write("ClientConf.6", &client_conf(&pair, address::DECOY_V6.into()).encode_to_vec())?;
        // Somebody who keeps records wants to search all that daemons can say.
        let level = arguments.log_level.or(records::folder().map(|_| Level::Trace));
        write("app_config.toml", at_level(app_config(sessions, bus), level).as_bytes())?;
        write("reg_config.toml", at_level(files.reg_config(bus), level).as_bytes())?;
        let settings: String = arguments.set.iter().map(|line| format!("{line}\n")).collect();
        write("conjure.conf", (files.conjure_conf(workers) + &settings).as_bytes())?;
        std::fs::create_dir_all(files.ipc_dir())?;
        std::fs::create_dir_all(files.path("www/upload"))?;
        write("www/blob", &blob())?;
        // Decoy and covert by name, the registrar by address.
        let station = [address::STATION_V4.to_string(), address::STATION_V6.to_string()];
        let names: Vec<String> = std::iter::once(HOST.to_owned()).chain(station).collect();
        let certificate = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        write("cert.pem", certificate.cert.pem().as_bytes())?;
        write("key.pem", certificate.signing_key.serialize_pem().as_bytes())?;
        Ok(files)
    }

    /// Path of the file `name`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Folder of the daemons' sockets.
    pub(crate) fn ipc_dir(&self) -> PathBuf {
        self.path("ipc")
    }

    fn reg_config(&self, bus: Bus) -> String {
        let nats = match bus {
            Bus::Zmq => "",
            Bus::Nats => super::nats::URL,
        };
        let path = |name: &str| self.path(name).display().to_string();
        REG_CONFIG
            .replace("/var/lib/conjure/ClientConf", &path("ClientConf.4"))
            .replace("/var/lib/conjure/privkey", &path("privkey"))
            .replace("nats_url = \"\"", &format!("nats_url = \"{nats}\""))
            .replace("# grpc_", "grpc_")
            .replace("/var/lib/conjure/cert.pem", &path("cert.pem"))
            .replace("/var/lib/conjure/key.pem", &path("key.pem"))
    }

    fn conjure_conf(&self, workers: usize) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        format!(
            "{CONJURE_CONF}\n# What the demo sets.\nCJ_IFACE=afp:{}\nCJ_CORECOUNT={workers}\n\
             CJ_IPC_DIR={}\nCJ_PRIVKEY={}\nCJ_STATION_CONFIG={}\nCJ_REGISTRAR_CONFIG={}\n\
             PHANTOM_SUBNET_LOCATION={}\nIP4_ADDR={}\nIP6_ADDR=[{}]\n",
            address::TAP_INTERFACE,
            path("ipc"),
            path("privkey"),
            path("app_config.toml"),
            path("reg_config.toml"),
            path("phantom_subnets.toml"),
            address::STATION_V4,
            address::STATION_V6,
        )
    }
}

/// The settings with another level of the log, if one is wanted.
fn at_level(settings: String, level: Option<Level>) -> String {
    let Some(level) = level else { return settings };
    let lines = settings.lines().map(|line| match line.starts_with("log_level = ") {
        true => format!("log_level = \"{level}\"\n"),
        false => format!("{line}\n"),
    });
    lines.collect()
}

/// The shipped settings with both families on and the chosen session channel.
fn app_config(sessions: Sessions, bus: Bus) -> String {
    let registrar = match bus {
        Bus::Zmq => "tcp://127.0.0.1:5591",
        Bus::Nats => super::nats::URL,
    };
    let settings = APP_CONFIG
        .replace("enable_v6 = false", "enable_v6 = true")
        .replace("tcp://127.0.0.1:5591", registrar);
    let channel = match sessions {
        Sessions::Grpc => "redis_url = \"\"".to_owned(),
        Sessions::Redis => format!("redis_url = \"{}\"\nsession_socket = \"\"", super::redis::URL),
        Sessions::Both => format!("redis_url = \"{}\"", super::redis::URL),
    };
    format!("{channel}\n{settings}")
}

const PHANTOMS: &str = "\
[Networks]
    [Networks.1]
        Generation = 1
        [[Networks.1.WeightedSubnets]]
            Weight = 1
            RandomizeDstPort = true
            Subnets = [\"192.122.190.0/24\", \"2001:48a8:687f:1::/64\"]
";

fn client_conf(pair: &KeyPair, decoy: IpAddr) -> ClientConf {
    let mut spec = TlsDecoySpec { hostname: Some(HOST.to_owned()), ..Default::default() };
    match decoy {
        IpAddr::V4(v4) => spec.ipv4addr = Some(v4.into()),
        IpAddr::V6(v6) => spec.ipv6addr = Some(v6.octets().to_vec()),
    }
    let key = || PubKey {
        key: Some(pair.public_file().to_vec()),
        r#type: Some(signalling::KeyType::AesGcm128.into()),
    };
    ClientConf {
        decoy_list: Some(DecoyList { tls_decoys: vec![spec] }),
        generation: Some(GENERATION),
        default_pubkey: Some(key()),
        conjure_pubkey: Some(key()),
        phantom_subnets_list: Some(PhantomSubnetsList {
            weighted_subnets: vec![PhantomSubnets {
                weight: Some(1),
                subnets: vec![address::PHANTOMS_V4.to_owned(), address::PHANTOMS_V6.to_owned()],
                randomize_dst_port: Some(true),
            }],
        }),
        dns_reg_conf: Some(DnsRegConf {
            dns_reg_method: DnsRegMethod::Udp.into(),
            target: Some(format!("{}:53", address::STATION_V4)),
            domain: ZONE.to_owned(),
            pubkey: Some(pair.public_file().to_vec()),
            // Released clients read it even where there is no TLS.
            utls_distribution: Some("3*Firefox_65,1*iOS_12_1".to_owned()),
            stun_server: Some(format!("{}:3478", address::DECOY_V4)),
            mtu: None,
        }),
    }
}

/// Bytes of one transfer.
pub(crate) const TRANSFER: usize = 1 << 20;

/// What is downloaded: bytes that do not repeat.
pub(crate) fn blob() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(TRANSFER);
    while bytes.len() < TRANSFER {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}
