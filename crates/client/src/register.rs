//! Making a registration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keys::{ClientVersion, SharedSecret};
use phantoms::{Family, Generation, Phantom, SelectError};
use signalling::params::unpack;
use signalling::{DtlsTransportParams, RegistrationResponse, RegistrationSource};
use transports::obfs4::ClientIdentity;
use transports::prefix::{FLUSH_DEFAULT, Prefix};
use transports::{DEFAULT_PORT, Params, PortError, destination_port};

use crate::amp::AmpError;
use crate::api::ApiError;
use crate::decoy::DecoyError;
use crate::dns::{DnsError, DnsRegistrar};
use crate::dtls::{Doors, DoorsError, Sources};
use crate::grpc::GrpcError;
use crate::message;
use crate::options::{Channel, ClientConf, Options, Transport};
use crate::stun::{self, ClientAddress, StunError};

/// Why a registration failed.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The station's public key is not one.
    #[error("the station key of the ClientConf is of low order; ask for a newer file")]
    StationKey,
    /// No phantom can be selected.
    #[error("phantom selection: {0}")]
    Phantom(#[from] SelectError),
    /// The transport has no port.
    #[error("phantom port: {0}")]
    Port(#[from] PortError),
    /// The prefix is not known.
    #[error("prefix {0} is not known; known are -1 (random), 0 to 9 and those of a prefix file")]
    Prefix(i32),
    /// The registrar's parameters cannot be used.
    #[error("the registrar's transport parameters: {0}")]
    Params(#[from] signalling::params::ParamsError),
    /// The registrar changed parameters that it was told not to change.
    #[error("registrar failed to respect disabled overrides")]
    Override,
    /// Registration over HTTP failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Registration by decoy failed.
    #[error(transparent)]
    Decoy(#[from] DecoyError),
    /// Registration through an AMP cache failed.
    #[error(transparent)]
    Amp(#[from] AmpError),
    /// Registration over gRPC failed.
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    /// Registration over DNS failed.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// The client's address cannot be learnt.
    #[error(transparent)]
    Address(#[from] StunError),
    /// No socket for DTLS.
    #[error(transparent)]
    Doors(#[from] DoorsError),
}

/// A client of one station.
#[derive(Debug, Clone)]
pub struct Client {
    /// What it knows about the station.
    pub conf: ClientConf,
    /// What it is to do.
    pub options: Options,
}

/// A registration that was made: where to connect, and how.
#[derive(Debug, Clone)]
pub struct Session {
    /// IPv4 phantom and its port.
    pub v4: Option<SocketAddr>,
    /// IPv6 phantom and its port.
    pub v6: Option<SocketAddr>,
    /// Time to wait before the first connection.
    pub delay: Duration,
    /// A newer ClientConf that came with the registration, to be kept for the next one.
    pub newer: Option<signalling::ClientConf>,
    pub(crate) secret: SharedSecret,
    pub(crate) opening: Opening,
    pub(crate) dial_timeout: Duration,
    pub(crate) dial_attempts: usize,
}

/// What a connection begins with.
#[derive(Debug, Clone)]
pub(crate) enum Opening {
    Min(SharedSecret),
    Prefix { secret: SharedSecret, station_key: [u8; 32], bytes: Vec<u8>, flush: i32 },
    Obfs4(Box<ClientIdentity>),
    Dtls(Arc<crate::dtls::Opening>),
}

impl Session {
    /// The secret that client and station share.
    pub const fn secret(&self) -> &SharedSecret {
        &self.secret
    }

    /// What an obfs4 client of others is given beside the address of a phantom, in the form of a
    /// bridge line: node id and public key in one, and the mode of released Conjure clients.
    pub fn obfs4_arguments(&self) -> Option<String> {
        let Opening::Obfs4(identity) = &self.opening else { return None };
        let cert = [&identity.node_id()[..], identity.public()].concat();
        let cert = data_encoding::BASE64_NOPAD.encode(&cert);
        Some(format!("cert={cert} iat-mode=1"))
    }
}

impl Client {
    /// Registers over the channel of the options.
    ///
    /// # Errors
    /// When no phantom can be selected or the channel fails.
    pub async fn register(&self) -> Result<Session, RegisterError> {
        let (options, conf) = (&self.options, &self.conf);
        let prefix = self.prefix()?;
        let prefix_id = prefix.as_ref().map_or(0, |p| p.id);
        let doors = match options.transport {
            Transport::Dtls { .. } => Some(Doors::open(self).await?),
            _ => None,
        };
        let sources = doors.as_ref().map_or_else(Sources::default, Doors::sources);
        let payload = message::payload(options, conf, prefix_id, &sources);
        let (secret, response) = match &options.channel {
            Channel::Decoy => (crate::decoy::register(conf, options, &payload).await?, None),
            Channel::Api(url) => {
                let secret = self.secret()?;
                let source = RegistrationSource::Api;
                let body = message::wrapper(secret.expose(), payload, source, None);
                crate::api::register(url, body, &options.roots).await?;
                (secret, None)
            }
            Channel::BidirectionalApi(url) => {
                let secret = self.secret()?;
                let source = RegistrationSource::BidirectionalApi;
                let body = message::wrapper(secret.expose(), payload, source, None);
                let response =
                    crate::api::register_bidirectional(url, body, &options.roots).await?;
                (secret, Some(response))
            }
            Channel::Dns(channel) => {
                let registrar = DnsRegistrar::new(channel, conf.dns.as_ref(), &conf.station_key)?;
                let (secret, address) = (self.secret()?, self.address().await?);
                let source = if channel.bidirectional {
                    RegistrationSource::BidirectionalDns
                } else {
                    RegistrationSource::Dns
                };
                let wrapper = message::wrapper(secret.expose(), payload, source, address);
                let roots = &options.roots;
                let response = if channel.bidirectional {
                    Some(registrar.register_bidirectional(&wrapper, roots).await?)
                } else {
                    registrar.register(&wrapper, roots).await?;
                    None
                };
                (secret, response)
            }
            Channel::Grpc(url) => {
                let secret = self.secret()?;
                let source = RegistrationSource::BidirectionalApi;
                let wrapper = message::wrapper(secret.expose(), payload, source, None);
                let response = crate::grpc::register(url, &wrapper, &options.roots).await?;
                (secret, Some(response))
            }
            Channel::Amp(channel) => {
                let (secret, address) = (self.secret()?, self.address().await?);
                let source = if channel.bidirectional {
                    RegistrationSource::BidirectionalAmp
                } else {
                    RegistrationSource::AmpCache
                };
                let wrapper = message::wrapper(secret.expose(), payload, source, address);
                let response = channel.register(&wrapper, &options.roots).await?;
                (secret, response)
            }
        };
        let dtls = doors.map(|doors| doors.behind(&secret));
        let mut session = match response {
            None => self.derived(secret, prefix),
            Some(response) => self.promised(secret, prefix, &response),
        }?;
        if let Some(dtls) = dtls {
            session.opening = Opening::Dtls(Arc::new(dtls));
            // The station dials as soon as it knows the registration.
            session.delay = Duration::ZERO;
        }
        Ok(session)
    }

    /// A new session secret: the agreement of a fresh key with the station's.
    fn secret(&self) -> Result<SharedSecret, RegisterError> {
        let ephemeral = keys::EphemeralKey::generate(&mut rand::rng());
        let agreed = ephemeral.agree(&self.conf.station_key).ok_or(RegisterError::StationKey)?;
        Ok(SharedSecret::new(&*agreed))
    }

    /// The address that stations are to expect, on channels where the registrar does not see it; `None`
    /// when the STUN server is silent, as in released clients.
    async fn address(&self) -> Result<Option<Vec<u8>>, StunError> {
        let configured = || self.conf.dns.as_ref().and_then(|dns| dns.stun_server.as_deref());
        match &self.options.address {
            ClientAddress::Known(IpAddr::V4(v4)) => Ok(Some(v4.octets().to_vec())),
            ClientAddress::Known(IpAddr::V6(v6)) => Ok(Some(v6.octets().to_vec())),
            ClientAddress::Stun(server) => {
                let server = server.as_deref().or_else(configured).unwrap_or(stun::DEFAULT_SERVER);
                let mapped = stun::mapped_address(server).await?;
                Ok(mapped.map(|v4| v4.octets().to_vec()))
            }
        }
    }

    fn prefix(&self) -> Result<Option<Prefix>, RegisterError> {
        let table = &self.options.prefixes;
        match self.options.transport {
            Transport::Min | Transport::Obfs4 | Transport::Dtls { .. } => Ok(None),
            Transport::Prefix(-1) => Ok(table.random(&mut rand::rng()).cloned()),
            Transport::Prefix(id) => {
                table.by_id(id).cloned().map(Some).ok_or(RegisterError::Prefix(id))
            }
        }
    }

    fn select(&self, seed: &[u8], family: Family) -> Result<Phantom, SelectError> {
        let version = ClientVersion(self.options.version);
        Generation::new(&self.conf.groups).pick(seed, version)?.phantom(family)
    }

    /// The session as both sides derive it from the secret.
    fn derived(
        &self,
        secret: SharedSecret,
        prefix: Option<Prefix>,
    ) -> Result<Session, RegisterError> {
        let version = ClientVersion(self.options.version);
        let seed = secret.session_keys(version).seed;
        let families = self.options.families;
        let pick =
            |wanted: bool, family| wanted.then(|| self.select(seed.expose(), family)).transpose();
        let (v4, v6) = (pick(families.v4, Family::V4)?, pick(families.v6, Family::V6)?);
        let random = [&v4, &v6].into_iter().flatten().all(|phantom| phantom.random_port);
        let randomize_dst_port = self.options.randomize_port;
        let transport = self.options.transport.into();
        let params = match &prefix {
            None if transport == transports::Transport::Dtls => {
                let randomize_dst_port = Some(randomize_dst_port);
                let params = DtlsTransportParams { randomize_dst_port, ..Default::default() };
                Params::Dtls(Box::new(params))
            }
            None => Params::Generic { randomize_dst_port },
            Some(p) => Params::Prefix { id: p.id, randomize_dst_port },
        };
        let port =
            destination_port(transport, version, random, &params, &seed, &self.options.prefixes)?;
        let at = |phantom: Option<Phantom>| phantom.map(|p| SocketAddr::new(p.address, port));
        Ok(self.session(secret, prefix.map(|p| (p.bytes, p.flush)), at(v4), at(v6)))
    }

    /// The session as the registrar promised it.
    fn promised(
        &self,
        secret: SharedSecret,
        prefix: Option<Prefix>,
        response: &RegistrationResponse,
    ) -> Result<Session, RegisterError> {
        let mut opening = prefix.map(|p| (p.bytes, p.flush));
        if let Some(params) = &response.transport_params {
            if self.options.disable_overrides {
                return Err(RegisterError::Override);
            }
            if opening.is_some() {
                let params: signalling::PrefixTransportParams = unpack(params)?;
                let flush = params.custom_flush_policy();
                opening = Some((params.prefix.unwrap_or_default(), flush));
            }
        }
        let port = match response.dst_port.map(|port| port as u16) {
            Some(port) if port != 0 => port,
            _ => DEFAULT_PORT,
        };
        let families = self.options.families;
        let v4 = families.v4.then(|| Ipv4Addr::from(response.ipv4addr()));
        let v6: Option<Ipv6Addr> = response
            .ipv6addr
            .as_deref()
            .filter(|_| families.v6)
            .and_then(|bytes| <[u8; 16]>::try_from(bytes).ok())
            .map(Ipv6Addr::from);
        let at = |address: Option<IpAddr>| {
            address.filter(|a| !a.is_unspecified()).map(|a| SocketAddr::new(a, port))
        };
        let mut session =
            self.session(secret, opening, at(v4.map(Into::into)), at(v6.map(Into::into)));
        let conf = response.client_conf.as_deref().cloned();
        session.newer = conf.filter(|conf| conf.generation() > self.conf.generation);
        Ok(session)
    }

    fn session(
        &self,
        secret: SharedSecret,
        prefix: Option<(Vec<u8>, i32)>,
        v4: Option<SocketAddr>,
        v6: Option<SocketAddr>,
    ) -> Session {
        let options = &self.options;
        Session {
            v4,
            v6,
            newer: None,
            delay: match options.channel {
                Channel::Decoy => options.decoy_delay,
                _ => options.api_delay,
            },
            opening: self.opening(secret.clone(), prefix),
            secret,
            dial_timeout: options.dial_timeout,
            dial_attempts: options.dial_attempts,
        }
    }

    /// The opening of the transport; `prefix` has the bytes and the flush policy of Prefix.
    fn opening(&self, secret: SharedSecret, prefix: Option<(Vec<u8>, i32)>) -> Opening {
        match prefix {
            Some((bytes, flush)) => Opening::Prefix {
                secret,
                station_key: self.conf.station_key,
                bytes,
                flush: match self.options.flush_policy {
                    FLUSH_DEFAULT => flush,
                    chosen => chosen,
                },
            },
            None if self.options.transport == Transport::Obfs4 => {
                let keys = secret.session_keys(ClientVersion(self.options.version)).obfs4();
                Opening::Obfs4(Box::new(ClientIdentity::from(&keys)))
            }
            None => Opening::Min(secret),
        }
    }
}
