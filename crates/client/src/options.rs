//! What a client is told: its ClientConf and its options.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use phantoms::Group;
use transports::prefix::{FLUSH_DEFAULT, PrefixTable};

use crate::amp::AmpChannel;
use crate::dns::{DnsChannel, DnsConf};
use crate::stun::ClientAddress;

/// How a registration reaches the station.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Channel {
    /// Hidden in TLS connections to decoys.
    Decoy,
    /// HTTP, unidirectional; the URL of `/register`.
    Api(String),
    /// HTTP, bidirectional; the URL of `/register-bidirectional`.
    BidirectionalApi(String),
    /// DNS queries through a resolver.
    Dns(DnsChannel),
    /// gRPC, bidirectional; the URL of the server, without a path.
    Grpc(String),
    /// A path that an AMP cache fetches.
    Amp(AmpChannel),
}

/// How a connection shows that it belongs to the registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// 32 bytes, then raw data.
    Min,
    /// A prefix and a hidden tag, then raw data; −1 draws a random prefix.
    Prefix(i32),
    /// A handshake and frames that look like random bytes.
    Obfs4,
    /// DTLS over UDP, dialled from both sides.
    Dtls {
        /// Let the station send without an order, for payloads that bear it.
        unordered: bool,
    },
}

impl From<Transport> for transports::Transport {
    fn from(transport: Transport) -> Self {
        match transport {
            Transport::Min => Self::Min,
            Transport::Prefix(_) => Self::Prefix,
            Transport::Obfs4 => Self::Obfs4,
            Transport::Dtls { .. } => Self::Dtls,
        }
    }
}

/// Families of phantoms that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// Options of a client.
#[derive(Debug, Clone)]
pub struct Options {
    /// Registration channel.
    pub channel: Channel,
    /// Transport.
    pub transport: Transport,
    /// `host:port` that the station shall connect to.
    pub covert: String,
    /// Library version to act as, 0 to 4.
    pub version: u32,
    /// Families of phantoms.
    pub families: Families,
    /// Ask for a port chosen by the seed.
    pub randomize_port: bool,
    /// How Prefix flushes: 0 as the prefix or the registrar says, 1 prefix and tag in one write, 2
    /// in a write each.
    pub flush_policy: i32,
    /// Prefixes that the client knows.
    pub prefixes: PrefixTable,
    /// Forbid the registrar to change transport parameters.
    pub disable_overrides: bool,
    /// Ask for a PROXY header towards the covert.
    pub proxy_header: bool,
    /// How the registration learns the client's address, on channels that hide it.
    pub address: ClientAddress,
    /// PEM file of trust anchors for decoys and HTTPS registrars.
    pub roots: PathBuf,
    /// Decoys that one registration contacts.
    pub decoy_width: usize,
    /// TCP port of the decoys.
    pub decoy_port: u16,
    /// Pause between a registration by decoy and the first connection.
    pub decoy_delay: Duration,
    /// Pause between any other registration and the first connection.
    pub api_delay: Duration,
    /// Limit of one connection attempt to a phantom.
    pub dial_timeout: Duration,
    /// Attempts to connect to a phantom.
    pub dial_attempts: usize,
}

impl Options {
    /// Options as released clients have them, for one covert.
    pub fn new(channel: Channel, transport: Transport, covert: String) -> Self {
        Self {
            channel,
            transport,
            covert,
            version: 4,
            families: Families { v4: true, v6: true },
            randomize_port: matches!(transport, Transport::Min | Transport::Obfs4),
            flush_policy: FLUSH_DEFAULT,
            prefixes: PrefixTable::default(),
            disable_overrides: false,
            proxy_header: false,
            address: ClientAddress::Stun(None),
            roots: PathBuf::from("/etc/ssl/certs/ca-certificates.crt"),
            decoy_width: keys::DECOY_WIDTH,
            decoy_port: 443,
            decoy_delay: Duration::from_millis(3750),
            api_delay: Duration::from_millis(750),
            dial_timeout: Duration::from_millis(2100),
            dial_attempts: 2,
        }
    }
}

/// A ClientConf that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// The file cannot be read.
    #[error("ClientConf {path}: {cause}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file cannot be written.
    #[error("ClientConf {path} cannot be replaced: {cause}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is no ClientConf.
    #[error("ClientConf {path}: {cause}", path = path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: signalling::client_conf::ClientConfError,
    },
    /// A part that is needed is missing.
    #[error("ClientConf: no {0}; ask the station's operator for a newer file")]
    Missing(&'static str),
}

/// One decoy of a ClientConf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decoy {
    pub(crate) hostname: String,
    pub(crate) address: IpAddr,
}

/// What a client knows about the station.
#[derive(Debug, Clone)]
pub struct ClientConf {
    pub(crate) generation: u32,
    pub(crate) station_key: [u8; 32],
    pub(crate) groups: Vec<Group>,
    pub(crate) decoys: Vec<Decoy>,
    pub(crate) dns: Option<DnsConf>,
}

impl ClientConf {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When the file cannot be read, decoded or used.
    pub fn load(path: &Path) -> Result<Self, ConfError> {
        let bytes = std::fs::read(path)
            .map_err(|cause| ConfError::Read { path: path.to_owned(), cause })?;
        let message = signalling::client_conf::decode(&bytes)
            .map_err(|cause| ConfError::Decode { path: path.to_owned(), cause })?;
        Self::from_message(&message)
    }

    /// Replaces the file at `path` by `message`, wholly or not at all.
    ///
    /// # Errors
    /// When a client could not use it, or it cannot be written.
    pub fn store(path: &Path, message: &signalling::ClientConf) -> Result<Self, ConfError> {
        let conf = Self::from_message(message)?;
        let mut next = path.as_os_str().to_owned();
        next.push(".new");
        std::fs::write(&next, signalling::Message::encode_to_vec(message))
            .and_then(|()| std::fs::rename(&next, path))
            .map_err(|cause| ConfError::Write { path: path.to_owned(), cause })?;
        Ok(conf)
    }

    /// Takes what a client needs from `message`.
    ///
    /// # Errors
    /// When the station key or the phantoms are missing.
    pub fn from_message(message: &signalling::ClientConf) -> Result<Self, ConfError> {
        let key = message.conjure_pubkey.as_ref().and_then(|key| key.key.as_deref());
        let station_key = key
            .and_then(|key| key.try_into().ok())
            .ok_or(ConfError::Missing("station key (conjure_pubkey)"))?;
        let list = message.phantom_subnets_list.as_ref();
        let group = |subnets: &signalling::PhantomSubnets| Group {
            weight: subnets.weight(),
            subnets: (!subnets.subnets.is_empty()).then(|| subnets.subnets.clone()),
            randomize_dst_port: subnets.randomize_dst_port(),
        };
        let groups: Vec<Group> =
            list.map(|list| list.weighted_subnets.iter().map(group).collect()).unwrap_or_default();
        if groups.is_empty() {
            return Err(ConfError::Missing("phantom subnets"));
        }
        let decoys = message.decoy_list.as_ref().map(|list| list.tls_decoys.as_slice());
        let decoys = decoys.unwrap_or_default().iter().filter_map(decoy).collect();
        let dns = message.dns_reg_conf.as_ref().map(DnsConf::new);
        Ok(Self { generation: message.generation(), station_key, groups, decoys, dns })
    }
}

/// IPv4 is preferred when a decoy has both.
fn decoy(spec: &signalling::TlsDecoySpec) -> Option<Decoy> {
    let address = match (spec.ipv4addr, spec.ipv6addr.as_deref()) {
        (Some(number), _) if number != 0 => Ipv4Addr::from(number).into(),
        (_, Some(bytes)) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(Decoy { hostname: spec.hostname().to_owned(), address })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(generation: u32, key: usize) -> signalling::ClientConf {
        signalling::ClientConf {
            generation: Some(generation),
            conjure_pubkey: Some(signalling::PubKey { key: Some(vec![9; key]), r#type: None }),
            phantom_subnets_list: Some(signalling::PhantomSubnetsList {
                weighted_subnets: vec![signalling::PhantomSubnets::default()],
            }),
            ..Default::default()
        }
    }

    #[test]
    fn a_newer_file_replaces_the_old_and_a_useless_one_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ClientConf");
        ClientConf::store(&path, &message(3, 32)).unwrap();
        assert_eq!(ClientConf::load(&path).unwrap().generation, 3);
        assert!(ClientConf::store(&path, &message(4, 31)).is_err());
        assert_eq!(ClientConf::load(&path).unwrap().generation, 3);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
